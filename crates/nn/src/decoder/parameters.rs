//! A decoder's parameters, and where files keep them.
//!
//! One table serves building, loading and saving, so that the three cannot disagree.

use std::ops::Range;

use super::config::{DecoderConfig, Family, Norm, Positions};

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its path in the module: `blocks.3.query.weight`.
    pub path: String,
    /// Its shape there; matrices of layers are [inputs, outputs].
    pub shape: Vec<usize>,
    /// Where Hugging Face's files keep it.
    pub place: Place,
    /// How it starts when there is no file.
    pub initial: Initial,
}

/// Where a file keeps a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The tensor's name.
    pub name: String,
    /// Whether the file has the matrix as [outputs, inputs].
    pub transposed: bool,
    /// The parameter's columns, where several parameters share the tensor.
    pub columns: Option<Range<usize>>,
}

impl Parameter {
    /// The module that the parameter belongs to, as Hugging Face names it: `model.layers.3.self_attn.q_proj`.
    #[must_use]
    pub fn module(&self) -> &str {
        let name = &self.place.name;
        name.rsplit_once('.').map_or(name, |(module, _)| module)
    }

    /// The path of the layer that the parameter belongs to: `blocks.3.query`.
    #[must_use]
    pub fn layer_path(&self) -> &str {
        self.path.rsplit_once('.').map_or(&self.path, |(layer, _)| layer)
    }
}

/// A fresh parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Drawn from N(0, 0.02²).
    Normal,
    /// All ones.
    Ones,
    /// All zeros.
    Zeros,
}

/// All parameters of a decoder, in the order of its fields.
#[must_use]
pub fn of(config: &DecoderConfig) -> Vec<Parameter> {
    let mut table = Table {
        config,
        parameters: Vec::new(),
    };
    table.all();
    table.parameters
}

struct Table<'a> {
    config: &'a DecoderConfig,
    parameters: Vec<Parameter>,
}

impl Table<'_> {
    fn all(&mut self) {
        let config = self.config;
        let (width, gpt2) = (config.hidden_size, config.family == Family::Gpt2);
        let embedding = if gpt2 {
            "transformer.wte.weight"
        } else {
            "model.embed_tokens.weight"
        };
        self.plain("embedding", [config.vocabulary_size, width], embedding);
        if config.positions == Positions::Learned {
            self.plain("positions", [config.max_positions, width], "transformer.wpe.weight");
        }
        for layer in 0..config.layers {
            if gpt2 {
                self.gpt2_block(layer);
            } else {
                self.llama_block(layer);
            }
        }
        self.norm("norm", if gpt2 { "transformer.ln_f" } else { "model.norm" }, width);
        if config.scores {
            self.plain("score", [1, width], "score.weight");
        } else if !config.tied {
            self.plain("head", [config.vocabulary_size, width], "lm_head.weight");
        }
    }

    fn llama_block(&mut self, layer: usize) {
        let config = self.config;
        let (width, inner) = (config.hidden_size, config.inner_size);
        let (ours, theirs) = (format!("blocks.{layer}"), format!("model.layers.{layer}"));
        self.norm(
            &format!("{ours}.attention_norm"),
            &format!("{theirs}.input_layernorm"),
            width,
        );
        let (queries, keys) = (config.query_size(), config.key_size());
        for (path, name, outputs) in [
            ("query", "q_proj", queries),
            ("key", "k_proj", keys),
            ("value", "v_proj", keys),
        ] {
            let place = (format!("{ours}.{path}"), format!("{theirs}.self_attn.{name}"));
            self.linear(&place, [width, outputs], config.query_key_value_bias);
        }
        let place = (format!("{ours}.output"), format!("{theirs}.self_attn.o_proj"));
        self.linear(&place, [queries, width], config.output_bias);
        if config.query_key_norm {
            for (path, name) in [("query_norm", "q_norm"), ("key_norm", "k_norm")] {
                self.norm(
                    &format!("{ours}.{path}"),
                    &format!("{theirs}.self_attn.{name}"),
                    config.head_size,
                );
            }
        }
        self.norm(
            &format!("{ours}.feed_forward_norm"),
            &format!("{theirs}.post_attention_layernorm"),
            width,
        );
        for (path, name, shape) in [
            ("gate", "gate_proj", [width, inner]),
            ("up", "up_proj", [width, inner]),
            ("down", "down_proj", [inner, width]),
        ] {
            let place = (format!("{ours}.{path}"), format!("{theirs}.mlp.{name}"));
            self.linear(&place, shape, config.feed_forward_bias);
        }
    }

    fn gpt2_block(&mut self, layer: usize) {
        let config = self.config;
        let (width, inner) = (config.hidden_size, config.inner_size);
        let (ours, theirs) = (format!("blocks.{layer}"), format!("transformer.h.{layer}"));
        self.norm(&format!("{ours}.attention_norm"), &format!("{theirs}.ln_1"), width);
        for (index, path) in ["query", "key", "value"].into_iter().enumerate() {
            let columns = Some(index * width..(index + 1) * width);
            self.conv(
                &format!("{ours}.{path}"),
                &format!("{theirs}.attn.c_attn"),
                [width, width],
                columns,
            );
        }
        self.conv(
            &format!("{ours}.output"),
            &format!("{theirs}.attn.c_proj"),
            [width, width],
            None,
        );
        self.norm(&format!("{ours}.feed_forward_norm"), &format!("{theirs}.ln_2"), width);
        self.conv(
            &format!("{ours}.up"),
            &format!("{theirs}.mlp.c_fc"),
            [width, inner],
            None,
        );
        self.conv(
            &format!("{ours}.down"),
            &format!("{theirs}.mlp.c_proj"),
            [inner, width],
            None,
        );
    }

    /// A matrix that files keep as it is.
    fn plain(&mut self, path: &str, shape: [usize; 2], name: &str) {
        self.push(
            path.to_owned(),
            shape.to_vec(),
            name.to_owned(),
            false,
            None,
            Initial::Normal,
        );
    }

    /// A normalisation's weight, and its bias where it has one.
    fn norm(&mut self, path: &str, name: &str, width: usize) {
        let initial = match self.config.norm {
            Norm::OffsetRootMeanSquare => Initial::Zeros,
            Norm::RootMeanSquare | Norm::Layer => Initial::Ones,
        };
        self.push(
            format!("{path}.weight"),
            vec![width],
            format!("{name}.weight"),
            false,
            None,
            initial,
        );
        if self.config.norm == Norm::Layer {
            let (path, name) = (format!("{path}.bias"), format!("{name}.bias"));
            self.push(path, vec![width], name, false, None, Initial::Zeros);
        }
    }

    /// PyTorch's linear layer.
    fn linear(&mut self, (path, name): &(String, String), shape: [usize; 2], bias: bool) {
        let weight = (format!("{path}.weight"), format!("{name}.weight"));
        self.push(weight.0, shape.to_vec(), weight.1, true, None, Initial::Normal);
        if bias {
            let bias = (format!("{path}.bias"), format!("{name}.bias"));
            self.push(bias.0, vec![shape[1]], bias.1, false, None, Initial::Zeros);
        }
    }

    /// GPT-2's linear layer, which keeps its matrix as [inputs, outputs].
    fn conv(&mut self, path: &str, name: &str, shape: [usize; 2], columns: Option<Range<usize>>) {
        let weight = (format!("{path}.weight"), format!("{name}.weight"));
        self.push(
            weight.0,
            shape.to_vec(),
            weight.1,
            false,
            columns.clone(),
            Initial::Normal,
        );
        let bias = (format!("{path}.bias"), format!("{name}.bias"));
        self.push(bias.0, vec![shape[1]], bias.1, false, columns, Initial::Zeros);
    }

    fn push(
        &mut self,
        path: String,
        shape: Vec<usize>,
        name: String,
        transposed: bool,
        columns: Option<Range<usize>>,
        initial: Initial,
    ) {
        let place = Place {
            name,
            transposed,
            columns,
        };
        self.parameters.push(Parameter {
            path,
            shape,
            place,
            initial,
        });
    }
}
