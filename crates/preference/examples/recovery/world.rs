//! A world small enough to be known: sixteen responses to each of two prompts, a random reward for each, and a decoder with
//! enough parameters to give any of them any probability.

use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use exact::finite::FiniteProblem;
use exact::log_space::log_sum_exp;
use exact::ranking::sample::ranking;
use nn::decoder::parameters::{Initial, Parameter};
use nn::decoder::{Decoder, DecoderConfig};
use nn::hub::{Environment, Watch};
use nn::weights::{Precision, SHARD_BYTES, save};
use posterior_preference::dpo::{DpoConfig, Preferences, prepare};
use posterior_preference::model::LanguageModel;
use posterior_preference::reward::{RewardConfig, Rewards};
use posterior_preference::score::{Score, scores};
use posterior_preference::text::Ranked;
use posterior_preference::tuning::{Objective, Tuner, TuningConfig, reference};
use rand::{Rng, RngExt as _};
use serde_json::{Value, json};
use train::progress::Progress;
use train::random::{Purpose, stream};
use train::trainer::Task as _;

const WORDS: [&str; 8] = ["<unk>", "<end>", "first", "second", "a", "b", "c", "d"];
const PROMPTS: [&str; 2] = ["first", "second"];
const LETTERS: [&str; 4] = ["a", "b", "c", "d"];
/// Responses to a prompt: two letters.
const RESPONSES: usize = 16;
/// How much a nat of difference from the reference counts.
const BETA: f64 = 1.0;

/// What labels are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// How many.
    pub count: usize,
    /// Responses that each ranks; two are a pair.
    pub responses: usize,
}

/// The world, with the reference in a directory.
#[derive(Debug)]
pub struct World {
    directory: PathBuf,
    /// Of each prompt's responses.
    reward: [Vec<f64>; 2],
    /// The reference's log-probabilities of them.
    log_reference: [Vec<f64>; 2],
    seed: u64,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn response(number: usize) -> String {
    format!(" {} {}", LETTERS[number / 4], LETTERS[number % 4])
}

/// A prompt with all responses in tokens, their end tokens included.
fn all(prompt: usize) -> Ranked {
    let id = |word: &str| WORDS.iter().position(|known| *known == word).unwrap_or(0) as u32;
    let tokens = |number: usize| vec![id(LETTERS[number / 4]), id(LETTERS[number % 4]), id("<end>")];
    Ranked {
        prompt: vec![id(PROMPTS[prompt])],
        responses: (0..RESPONSES).map(tokens).collect(),
    }
}

fn draw<R: Rng>(rng: &mut R) -> f64 {
    // The sum of twelve: near enough to a normal number for a reward.
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

impl World {
    /// Makes the world of this seed in `directory`.
    ///
    /// # Errors
    ///
    /// Files that cannot be written.
    pub fn new(directory: &Path, seed: u64) -> Result<Self> {
        let model = directory.join("model");
        fs::create_dir_all(&model)?;
        write_model(&model, seed)?;
        let mut rng = stream(seed, Purpose::named("reward"), 0, 0);
        let reward = [(); 2].map(|()| (0..RESPONSES).map(|_| draw(&mut rng)).collect());
        let opened = open(&model)?;
        let log_reference = [log_policy(&opened, 0)?, log_policy(&opened, 1)?];
        Ok(Self {
            directory: directory.to_owned(),
            reward,
            log_reference,
            seed,
        })
    }

    /// Draws rankings by the true reward, each of different responses to one prompt.
    fn write_labels(&self, Labels { count, responses }: Labels) -> Result<PathBuf> {
        let mut text = String::new();
        for number in 0..count {
            let mut rng = stream(self.seed, Purpose::named("label"), number as u64, 0);
            let prompt = number % 2;
            let mut left: Vec<usize> = (0..RESPONSES).collect();
            let chosen: Vec<usize> = (0..responses)
                .map(|_| left.swap_remove(rng.random_range(0..left.len())))
                .collect();
            let rewards: Vec<f64> = chosen.iter().map(|&response| self.reward[prompt][response]).collect();
            let uniforms: Vec<f64> = (0..responses).map(|_| rng.random()).collect();
            let order = ranking(&rewards, &uniforms)?;
            let completions: Vec<Value> = order
                .iter()
                .enumerate()
                .map(|(rank, &place)| json!({ "rank": rank, "completion": response(chosen[place]) }))
                .collect();
            let row = json!({ "prompt": PROMPTS[prompt], "completions": completions });
            text += &format!("{row}\n");
        }
        let path = self.directory.join(format!("{responses}-{count}.jsonl"));
        fs::write(&path, text)?;
        Ok(path)
    }

    fn tuning(&self, data: &Path, steps: u64, learning_rate: f64) -> TuningConfig {
        TuningConfig {
            seed: self.seed,
            model: self.directory.join("model").display().to_string(),
            data: data.display().to_string(),
            batch_size: Some(64),
            max_steps: Some(steps),
            learning_rate: Some(learning_rate),
            warmup_steps: 10,
            ..TuningConfig::default()
        }
    }

    /// Tunes the reference to the labels by DPO, and says how far the policy is from the best one, in total variation,
    /// averaged over the prompts.
    ///
    /// # Errors
    ///
    /// As training.
    pub fn tune_policy(&self, labels: Labels, steps: u64) -> Result<f64> {
        let data = self.write_labels(labels)?;
        let config = DpoConfig {
            beta: BETA,
            tuning: self.tuning(&data, steps, 3e-3),
            ..DpoConfig::default()
        };
        let environment = Environment::of_process();
        let mut dpo = begin(Preferences::new(config, environment.clone()))?;
        let decoder = reference(&dpo, None, &environment, &mut watch(&mut |_| {}))?;
        let kept = data.with_extension("run");
        fs::create_dir_all(&kept)?;
        prepare(&mut dpo, &decoder, &kept, &mut Progress::silent())?;
        run(&mut dpo)?;
        let mut distance = 0.0;
        for prompt in 0..PROMPTS.len() {
            let policy = log_policy(dpo.model(), prompt)?;
            let best =
                FiniteProblem::from_log_reference(&self.log_reference[prompt], self.reward[prompt].clone(), BETA)?;
            let pairs = policy.iter().zip(best.optimum().policy);
            distance += 0.5 * pairs.map(|(log, best)| (log.exp() - best).abs()).sum::<f64>();
        }
        Ok(distance / PROMPTS.len() as f64)
    }

    /// Trains a reward model on the labels, and gives the root mean square error of its rewards, each prompt's shifted to
    /// the true mean.
    ///
    /// # Errors
    ///
    /// As training.
    pub fn train_reward(&self, labels: Labels, steps: u64) -> Result<f64> {
        let data = self.write_labels(labels)?;
        let config = RewardConfig {
            tuning: self.tuning(&data, steps, 3e-3),
            ..RewardConfig::default()
        };
        let mut training = begin(Rewards::new(config))?;
        run(&mut training)?;
        let mut squares = 0.0;
        for prompt in 0..PROMPTS.len() {
            let found = values(training.model(), prompt)?;
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let shift = mean(&self.reward[prompt]) - mean(&found);
            let pairs = found.iter().zip(&self.reward[prompt]);
            squares += pairs
                .map(|(found, reward)| (found + shift - reward).powi(2))
                .sum::<f64>();
        }
        Ok((squares / (PROMPTS.len() * RESPONSES) as f64).sqrt())
    }
}

fn watch<'a>(progress: &'a mut dyn FnMut(nn::hub::Progress<'_>)) -> Watch<'a> {
    Watch {
        progress,
        cancelled: &|| false,
    }
}

fn open(path: &Path) -> Result<LanguageModel> {
    let name = path.display().to_string();
    let mut progress = |_: nn::hub::Progress<'_>| {};
    Ok(LanguageModel::open(
        &name,
        &Environment::of_process(),
        &mut watch(&mut progress),
        &Device::flex(),
    )?)
}

fn begin<O: Objective>(objective: O) -> Result<Tuner<O>> {
    let mut progress = |_: nn::hub::Progress<'_>| {};
    Ok(Tuner::new(
        objective,
        &Environment::of_process(),
        &mut watch(&mut progress),
        &Device::flex(),
    )?)
}

fn run<O: Objective>(tuner: &mut Tuner<O>) -> Result<()> {
    for step in 0..tuner.steps() {
        tuner.step(step)?;
    }
    Ok(())
}

/// What the model says of all responses to a prompt.
fn values(model: &LanguageModel, prompt: usize) -> Result<Vec<f64>> {
    let found = scores(model, &all(prompt))?;
    Ok(found
        .into_iter()
        .map(|(Score::LogProb(value) | Score::Reward(value))| value)
        .collect())
}

/// The log-probabilities of all responses to a prompt, given that it is one of them.
fn log_policy(model: &LanguageModel, prompt: usize) -> Result<Vec<f64>> {
    let found = values(model, prompt)?;
    let total = log_sum_exp(&found);
    Ok(found.into_iter().map(|log_prob| log_prob - total).collect())
}

/// A small Llama of random weights and a tokenizer of whole words.
fn write_model(directory: &Path, seed: u64) -> Result<()> {
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": WORDS.len(), "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 16,
        "eos_token_id": 1,
    });
    fs::write(directory.join("config.json"), config.to_string())?;
    let mut rng = stream(seed, Purpose::named("weights"), 0, 0);
    let mut make = |parameter: &Parameter| {
        let count = parameter.shape.iter().product::<usize>();
        let value = |_| match parameter.initial {
            Initial::Normal => 0.2 * draw(&mut rng) as f32,
            Initial::Ones => 1.0,
            Initial::Zeros => 0.0,
        };
        Ok::<_, Infallible>((0..count).map(value).collect())
    };
    let config = DecoderConfig::from_json(&config.to_string())?;
    let decoder = Decoder::build(&config, &Device::flex(), &mut make)?;
    save(&decoder, directory, Precision::F32, SHARD_BYTES)?;
    let vocabulary: serde_json::Map<String, Value> = WORDS
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [{ "id": 1, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string())?;
    let settings = json!({ "eos_token": "<end>", "unk_token": "<unk>" });
    Ok(fs::write(
        directory.join("tokenizer_config.json"),
        settings.to_string(),
    )?)
}
