//! Language models: logits, log-probabilities, greedy texts, and models written back.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use nn::decoder::{Decoder, DecoderConfig};
use nn::weights::{AdapterDirectory, Precision, SafetensorsDirectory, load, save};
use ops::Forest;
use preference::generate::{Choice, Request, Verdict, generate};
use preference::model::LanguageModel;
use serde::Deserialize;
use serde_json::json;

use crate::Answer;

/// Logits of every token of a forest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logits {
    model: PathBuf,
    /// A PEFT adapter to put on it.
    #[serde(default)]
    adapter: Option<PathBuf>,
    tokens: Vec<u32>,
    /// Length and parent of each segment.
    segments: Vec<(usize, Option<usize>)>,
}

/// The likeliest tokens after each prompt.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Greedy {
    model: PathBuf,
    prompts: Vec<Vec<u32>>,
    new_tokens: usize,
    batch_size: usize,
}

/// Reads a model and writes it again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    model: PathBuf,
    to: PathBuf,
    shard_bytes: u64,
    bf16: bool,
}

/// The network of a directory or of a `.gguf` file.
fn open(model: &std::path::Path) -> Result<Decoder, Box<dyn std::error::Error>> {
    if !model.is_dir() {
        return Ok(LanguageModel::from_gguf(model, &Device::flex())?.decoder);
    }
    let config = DecoderConfig::from_json(&std::fs::read_to_string(model.join("config.json"))?)?;
    let source = SafetensorsDirectory::open(model)?;
    let loaded = load(&config, &source, &Device::flex())?;
    if loaded.unused.is_empty() {
        Ok(loaded.decoder)
    } else {
        Err(format!("unused tensors: {:?}", loaded.unused).into())
    }
}

impl Logits {
    pub fn answer(&self) -> Answer {
        let mut decoder = open(&self.model)?;
        if let Some(adapter) = &self.adapter {
            AdapterDirectory::open(adapter)?.put_on(&mut decoder)?;
        }
        let mut forest = Forest::default();
        for (length, parent) in &self.segments {
            forest.push(*length, *parent);
        }
        let hidden = decoder.hidden(&self.tokens, &forest);
        let size = decoder.config().vocabulary_size;
        let log_probs = {
            let rows: Vec<usize> = (0..self.tokens.len() - 1).collect();
            let targets: Arc<[u32]> = self.tokens[1..].into();
            decoder.token_log_prob(hidden.clone(), &rows, targets, 1.0)
        };
        let log_probs: Vec<f32> = log_probs.log_prob.into_data().try_into_vec().map_err(|_| "not f32")?;
        let logits: Vec<f32> = decoder
            .logits(hidden)
            .into_data()
            .try_into_vec()
            .map_err(|_| "not f32")?;
        let rows: Vec<&[f32]> = logits.chunks(size).collect();
        Ok(json!({ "logits": rows, "log_probs": log_probs, "parameters": decoder.config().parameters() }))
    }
}

impl Greedy {
    pub fn answer(&self) -> Answer {
        let request = Request {
            choice: Choice {
                temperature: 0.0,
                ..Choice::default()
            },
            samples: 1,
            max_new_tokens: self.new_tokens,
            min_new_tokens: 0,
            end: Vec::new(),
            batch_size: self.batch_size,
            seed: 0,
            first: 0,
        };
        let decoder = open(&self.model)?.packed(ops::Precision::Single);
        let texts = generate(&decoder, &self.prompts, &request, &mut |_, _| Verdict::Continue)?;
        let tokens: Vec<&[u32]> = texts.iter().map(|text| &text.tokens[..]).collect();
        Ok(json!(tokens))
    }
}

impl Rewrite {
    pub fn answer(&self) -> Answer {
        let precision = if self.bf16 { Precision::Bf16 } else { Precision::F32 };
        save(&open(&self.model)?, &self.to, precision, self.shard_bytes)?;
        Ok(json!(null))
    }
}
