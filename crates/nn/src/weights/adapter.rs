//! Low-rank adapters from and to PEFT's directories: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A directory holds, for each adapted layer, `base_model.model.{layer}.lora_A.weight`, [rank, inputs], and
//! `...lora_B.weight`, [outputs, rank], and for layers that were trained whole `base_model.model.{layer}.weight`
//! (PEFT 0.21, `get_peft_model_state_dict`).
//!
//! GPT-2 keeps queries, keys and values in one matrix, which here are three layers. An adapter of that matrix is read as
//! three that share their `A`; three of rank r are written as one of rank 3 r, whose `B` is zero outside its diagonal
//! blocks, and read back as they were.

mod saving;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::load::{check, read};
use super::{HostTensor, SafetensorsDirectory, WeightSource, WeightsError, transposed};
use crate::decoder::parameters;
use crate::decoder::{Adapter, Decoder, LoraConfig, Targets};

pub use saving::save_adapter;

/// The adapter's configuration.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The adapter's weights.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of the model's layers.
const PREFIX: &str = "base_model.model.";
/// A configuration of adapters is a list of names.
const LONGEST_CONFIG: u64 = 16 << 20;

/// The task of adapters that give scores.
const SCORER: &str = "SEQ_CLS";

/// Keys that change what an adapter computes in ways that are not built here.
const UNSUPPORTED: &[&str] = &[
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "arrow_config",
    "alora_invocation_tokens",
];

/// What `adapter_config.json` says; keys that change nothing here are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FileConfig {
    peft_type: String,
    #[serde(default)]
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    revision: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default = "none")]
    bias: String,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    ensure_weight_tying: bool,
    target_modules: Value,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    #[serde(default)]
    layers_to_transform: Value,
    #[serde(default)]
    inference_mode: bool,
    #[serde(default = "yes")]
    init_lora_weights: Value,
}

fn none() -> String {
    "none".to_owned()
}

fn yes() -> Value {
    Value::Bool(true)
}

/// An adapter's directory, opened.
#[derive(Debug)]
pub struct AdapterDirectory {
    directory: PathBuf,
    config: FileConfig,
}

impl AdapterDirectory {
    /// Whether `directory` holds an adapter rather than a model.
    #[must_use]
    pub fn is_one(directory: &Path) -> bool {
        directory.join(ADAPTER_CONFIG).is_file() && !directory.join("config.json").is_file()
    }

    /// Reads the configuration of the adapter in `directory`.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] for a file that cannot be read, or an adapter of a kind that is not understood here.
    pub fn open(directory: &Path) -> Result<Self, WeightsError> {
        let path = directory.join(ADAPTER_CONFIG);
        let wrong = |problem: String, remedy: &str| WeightsError::Adapter {
            path: path.clone(),
            problem,
            remedy: remedy.to_owned(),
        };
        let length = path.metadata().map_err(WeightsError::file("read", &path))?.len();
        if length > LONGEST_CONFIG {
            return Err(wrong(
                format!("{length} bytes are no adapter's configuration"),
                "check that it is the file you meant",
            ));
        }
        let text = std::fs::read_to_string(&path).map_err(WeightsError::file("read", &path))?;
        // The kind first: the configuration of another kind has other keys.
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| wrong(format!("it is not JSON ({error})"), "copy it again from its adapter"))?;
        let kind = value.get("peft_type").and_then(Value::as_str).unwrap_or("nothing");
        if kind != "LORA" {
            return Err(wrong(
                format!("its \"peft_type\" is {kind}"),
                "adapters of type LORA are read; merge another kind with PEFT's merge_and_unload",
            ));
        }
        let is_set = |key: &&&str| match value.get(**key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::String(text)) => text != "none",
            Some(_) => true,
        };
        if let Some(key) = UNSUPPORTED.iter().find(is_set) {
            return Err(wrong(
                format!("\"{key}\" is {}, which is not supported", value[*key]),
                "merge the adapter into its model with PEFT's merge_and_unload",
            ));
        }
        let config: FileConfig = serde_json::from_value(value).map_err(|error| {
            wrong(
                format!("it is no LoRA configuration ({error})"),
                "write it anew with PEFT",
            )
        })?;
        if config.r == 0 || !config.lora_alpha.is_finite() || !(0.0..1.0).contains(&config.lora_dropout) {
            return Err(wrong(
                "\"r\" must be at least 1, \"lora_alpha\" a number and \"lora_dropout\" from 0 to below 1".to_owned(),
                "correct them",
            ));
        }
        let keys = config.rank_pattern.keys().chain(config.alpha_pattern.keys());
        if let Some(key) = keys
            .into_iter()
            .find(|key| key.contains(|c: char| "[](){}*+?|\\$".contains(c)))
        {
            return Err(wrong(
                format!("the pattern \"{key}\" is a regular expression, which is not supported"),
                "name the layers, or the ends of their names",
            ));
        }
        Ok(Self {
            directory: directory.to_owned(),
            config,
        })
    }

    /// The name or path of the model that the adapter belongs to.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.config.base_model_name_or_path.as_deref()
    }

    fn wrong(&self, problem: String, remedy: &str) -> WeightsError {
        WeightsError::Adapter {
            path: self.directory.clone(),
            problem,
            remedy: remedy.to_owned(),
        }
    }

    /// Puts the adapter on `decoder` and freezes everything else, so that training goes on with the adapter.
    ///
    /// A layer that the adapter brings whole replaces the model's. Where head and embedding are one and the adapter
    /// brings one of them, or two that differ, they are two from then on, as in PEFT.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] for weights that are missing, of other shapes than the model's, or of layers that it does not
    /// have.
    pub fn put_on(&self, decoder: &mut Decoder) -> Result<(), WeightsError> {
        const HEAD: &str = "lm_head.weight";
        const SCORE: &str = "score.weight";
        let source = Unprefixed(SafetensorsDirectory::open_named(&self.directory, ADAPTER_WEIGHTS)?);
        let mut left: BTreeSet<String> = source.names().into_iter().collect();
        if self.config.task_type.as_deref() == Some(SCORER) && !decoder.config().scores {
            if source.shape(SCORE).is_none() {
                return Err(WeightsError::Missing {
                    path: source.origin(),
                    name: SCORE.to_owned(),
                });
            }
            // What it starts with gives way to the file's below.
            decoder.set_score(vec![0.0; decoder.config().hidden_size]);
        }
        let adapters = self.adapters(decoder, &source, &mut left)?;
        if adapters.is_empty() {
            return Err(self.wrong(
                format!("{ADAPTER_WEIGHTS} has no adapter of any layer of the model"),
                "check that the adapter belongs to this model",
            ));
        }
        let own_head = decoder.config().tied && left.remove(HEAD);
        let (mut whole, mut modules) = (BTreeMap::new(), BTreeSet::new());
        for parameter in parameters::of(decoder.config()) {
            let name = &parameter.place.name;
            if source.shape(name).is_some() {
                check(&source, name, &parameter)?;
                whole.insert(parameter.path.clone(), read(&source, &parameter)?);
                modules.insert(parameter.module().to_owned());
                left.remove(name);
            }
        }
        if let Some(name) = left.first() {
            return Err(self.wrong(
                format!("{ADAPTER_WEIGHTS} has \"{name}\", which the model has no place for"),
                "check that the adapter belongs to this model",
            ));
        }
        let embedding = whole.get("embedding");
        let head = if own_head {
            let shape = [decoder.config().vocabulary_size, decoder.config().hidden_size];
            let tensor = source.read(HEAD)?;
            if tensor.shape != shape {
                return Err(WeightsError::Shape {
                    path: source.origin(),
                    name: HEAD.to_owned(),
                    found: tensor.shape,
                    expected: shape.to_vec(),
                });
            }
            let data = TensorData::new(tensor.values, shape);
            let is_embedding = embedding.is_some_and(|values| data.as_slice::<f32>().is_ok_and(|head| head == values));
            (!is_embedding).then(|| Param::from_data(data, &decoder.device()))
        } else if decoder.config().tied && embedding.is_some() {
            Some(decoder.embedding())
        } else {
            None
        };
        if head.is_some() && own_head {
            modules.insert("lm_head".to_owned());
        }
        let config = self.lora_config(&modules);
        decoder.set_adapters(adapters, config);
        decoder.set_values(whole);
        if let Some(head) = head {
            decoder.untie(head);
        }
        decoder.train_adapters_only(&modules);
        Ok(())
    }

    /// The adapters by the paths of their layers; their names are taken out of `left`.
    fn adapters(
        &self,
        decoder: &Decoder,
        source: &Unprefixed,
        left: &mut BTreeSet<String>,
    ) -> Result<BTreeMap<String, Adapter>, WeightsError> {
        let device = decoder.device();
        let mut adapters = BTreeMap::new();
        for parameter in decoder.adaptable() {
            let module = parameter.module();
            let names = ["A", "B"].map(|which| format!("{module}.lora_{which}.weight"));
            let &[inputs, outputs] = &parameter.shape[..] else {
                continue;
            };
            let total = if parameter.place.columns.is_some() {
                3 * outputs
            } else {
                outputs
            };
            match names.each_ref().map(|name| source.shape(name).is_some()) {
                [false, false] => continue,
                [true, true] => {}
                [has_a, _] => {
                    let name = &names[usize::from(has_a)];
                    return Err(WeightsError::Missing {
                        path: source.origin(),
                        name: name.clone(),
                    });
                }
            }
            let [a, b] = [source.read(&names[0])?, source.read(&names[1])?];
            let rank = a.shape.first().copied().unwrap_or(0);
            for (tensor, name, expected) in [(&a, &names[0], [rank, inputs]), (&b, &names[1], [total, rank])] {
                if tensor.shape != expected || rank == 0 {
                    return Err(WeightsError::Shape {
                        path: source.origin(),
                        name: name.clone(),
                        found: tensor.shape.clone(),
                        expected: expected.to_vec(),
                    });
                }
            }
            let (stated, alpha) = (
                pattern(&self.config.rank_pattern, module).unwrap_or(self.config.r),
                pattern(&self.config.alpha_pattern, module).unwrap_or(self.config.lora_alpha),
            );
            if stated != rank {
                return Err(self.wrong(
                    format!("{ADAPTER_CONFIG} gives \"{module}\" rank {stated}, but its weights have rank {rank}"),
                    "the two files do not belong together: copy the directory again",
                ));
            }
            let scale = LoraConfig::scale(alpha, rank, self.config.use_rslora);
            let (mut a, mut b) = (
                transposed(&a.values, [rank, inputs]),
                transposed(&b.values, [total, rank]),
            );
            let mut own_rank = rank;
            // Three of ours side by side: each has its own part of the ranks.
            let are_three = rank == 3 * self.config.r && is_block_diagonal(&b, [rank, total]);
            if let Some(columns) = &parameter.place.columns {
                b = b
                    .chunks_exact(total)
                    .flat_map(|row| &row[columns.clone()])
                    .copied()
                    .collect();
                if are_three {
                    let part = columns.start / outputs * self.config.r..(columns.start / outputs + 1) * self.config.r;
                    a = a
                        .chunks_exact(rank)
                        .flat_map(|row| &row[part.clone()])
                        .copied()
                        .collect();
                    b = b[part.start * outputs..part.end * outputs].to_vec();
                    own_rank = self.config.r;
                }
            }
            let adapter = Adapter {
                a: Param::from_data(TensorData::new(a, [inputs, own_rank]), &device),
                b: Param::from_data(TensorData::new(b, [own_rank, outputs]), &device),
                scale,
                dropout: self.config.lora_dropout,
            };
            adapters.insert(parameter.layer_path().to_owned(), adapter);
            for name in names {
                left.remove(&name);
            }
        }
        Ok(adapters)
    }

    /// The configuration; `modules` are the layers that the adapter brings whole.
    fn lora_config(&self, modules: &BTreeSet<String>) -> LoraConfig {
        let config = &self.config;
        let targets = match &config.target_modules {
            Value::Array(names) => {
                let names = names.iter().filter_map(Value::as_str).map(str::to_owned);
                Targets::Named(names.collect())
            }
            // "all-linear", or a pattern: which layers that means, the weights say.
            _ => Targets::AllLinear,
        };
        LoraConfig {
            rank: config.r,
            alpha: config.lora_alpha,
            dropout: config.lora_dropout,
            rank_stabilized: config.use_rslora,
            targets,
            modules_to_save: modules.iter().cloned().collect(),
        }
    }
}

/// The value for a layer in one of PEFT's patterns: keys are whole names or their ends.
fn pattern<T: Copy>(patterns: &BTreeMap<String, T>, module: &str) -> Option<T> {
    let found = patterns
        .iter()
        .find(|(key, _)| crate::decoder::ends_in(module, key.trim_start_matches('^')));
    found.map(|(_, value)| *value)
}

/// Whether `B`, [rank, outputs], is three adapters side by side: zero outside three blocks along its diagonal, and not
/// everywhere.
fn is_block_diagonal(b: &[f32], [rank, outputs]: [usize; 2]) -> bool {
    let inside = |row: usize, column: usize| row * 3 / rank == column * 3 / outputs;
    let rows = b.chunks_exact(outputs).enumerate();
    let mut values = rows.flat_map(|(row, values)| {
        values
            .iter()
            .enumerate()
            .map(move |(column, value)| (row, column, *value))
    });
    b.iter().any(|value| *value != 0.0) && values.all(|(row, column, value)| value == 0.0 || inside(row, column))
}

/// The tensors of an adapter's file under the model's own names.
struct Unprefixed(SafetensorsDirectory);

impl WeightSource for Unprefixed {
    fn names(&self) -> Vec<String> {
        let names = self.0.names().into_iter();
        names
            .map(|name| name.strip_prefix(PREFIX).map_or(name.clone(), str::to_owned))
            .collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(&format!("{PREFIX}{name}"))
    }

    fn read(&self, name: &str) -> Result<HostTensor, WeightsError> {
        self.0.read(&format!("{PREFIX}{name}"))
    }

    fn origin(&self) -> PathBuf {
        self.0.origin()
    }
}

impl Decoder {
    /// Replaces parameters, by path, with values of the same number.
    fn set_values(&mut self, values: BTreeMap<String, Vec<f32>>) {
        struct Set(Vec<String>, BTreeMap<String, Vec<f32>>);
        impl ModuleMapper for Set {
            fn enter_module(&mut self, name: &str, _container: &str) {
                self.0.push(name.to_owned());
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.0.pop();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                match self.1.remove(&self.0.join(".")) {
                    None => param,
                    Some(values) => {
                        let old = param.val();
                        Param::from_data(TensorData::new(values, old.shape()), &old.device())
                    }
                }
            }
        }
        if !values.is_empty() {
            *self = self.clone().map(&mut Set(Vec::new(), values));
        }
    }
}

#[cfg(test)]
#[path = "adapter_tests.rs"]
mod tests;
