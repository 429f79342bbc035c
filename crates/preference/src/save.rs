//! Models to directories that transformers and PEFT open.

use std::fs;
use std::path::{Path, PathBuf};

use nn::weights::{Precision, WeightsError, save, save_adapter};
use serde_json::{Map, Value, json};
use train::files::{FileError, parent, sync_directory};

use crate::model::LanguageModel;
use crate::reward::REWARD;
use crate::text::TextError;

/// A model could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The directory is in use.
    #[error("{} is not empty; give another directory with --out", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// How a model is written.
#[derive(Clone, Debug)]
pub struct Saving<'a> {
    /// The type of its numbers; adapters are always f32.
    pub precision: Precision,
    /// Most bytes of a file of weights.
    pub shard_bytes: u64,
    /// What the model card says besides what the model is.
    pub card: Card<'a>,
}

/// A model card's own part.
#[derive(Clone, Debug, Default)]
pub struct Card<'a> {
    /// Tags, as the Hub lists them.
    pub tags: &'a [&'a str],
    /// What was done, in Markdown.
    pub text: String,
}

impl LanguageModel {
    /// Writes the model into a new or empty directory: its adapter if it has one, else the whole model. The directory
    /// is either complete or not there.
    ///
    /// # Errors
    ///
    /// [`SaveError`]; nothing half-written is left.
    pub fn save(&self, directory: &Path, saving: &Saving<'_>) -> Result<(), SaveError> {
        if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(SaveError::NotEmpty {
                path: directory.to_owned(),
            });
        }
        self.replace(directory, saving)
    }

    /// The same in the place of whatever is there.
    ///
    /// # Errors
    ///
    /// As [`Self::save`]; what was there stays then.
    pub fn replace(&self, directory: &Path, saving: &Saving<'_>) -> Result<(), SaveError> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let beside = |suffix: &str| parent(directory).join(format!(".{name}.{suffix}"));
        let (unfinished, old) = (beside("unfinished"), beside("old"));
        for leftover in [&unfinished, &old] {
            if leftover.exists() {
                fs::remove_dir_all(leftover).map_err(FileError::because("remove", leftover))?;
            }
        }
        fs::create_dir_all(&unfinished).map_err(FileError::because("create the directory", &unfinished))?;
        if let Err(error) = self.write(&unfinished, saving) {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error);
        }
        if directory.exists() {
            fs::rename(directory, &old).map_err(FileError::because("rename", directory))?;
        }
        fs::rename(&unfinished, directory).map_err(FileError::because("rename", &unfinished))?;
        sync_directory(parent(directory))?;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(FileError::because("remove", old))?;
        }
        Ok(())
    }

    fn write(&self, directory: &Path, saving: &Saving<'_>) -> Result<(), SaveError> {
        let put = |name: &str, content: &[u8]| {
            let path = directory.join(name);
            fs::write(&path, content).map_err(FileError::because("write", path))
        };
        let json = |value: Value| format!("{value:#}\n").into_bytes();
        if self.decoder.lora().is_some() {
            save_adapter(&self.decoder, directory, &self.base)?;
        } else {
            save(&self.decoder, directory, saving.precision, saving.shard_bytes)?;
            put("config.json", &json(self.config(saving.precision).into()))?;
            if !self.decoder.config().scores {
                put("generation_config.json", &self.generation_config())?;
            }
        }
        if self.decoder.config().scores {
            let text = serde_json::to_vec_pretty(&self.reward).unwrap_or_default();
            put(REWARD, &[&text[..], b"\n"].concat())?;
        }
        self.tokenizer.write_to(directory)?;
        put("README.md", self.card(&saving.card).as_bytes())?;
        Ok(())
    }

    /// The content of `config.json`: as it was read, with the types and sizes of what is written.
    fn config(&self, precision: Precision) -> Map<String, Value> {
        let config = self.decoder.config();
        let mut map = config.source.clone();
        map.entry("architectures").or_insert_with(|| json!([config.class()]));
        if config.scores {
            // transformers takes the last token that is not this one for a text's end. Where texts end with the token that
            // they are padded with it would read the score one token early, so it is given none, and asks for one.
            let ends = self.tokenizer.end_ids();
            let pad = self.tokenizer.special_id("pad_token").filter(|id| !ends.contains(id));
            map.insert("pad_token_id".to_owned(), pad.into());
        }
        // transformers opens a model in the type that is stated here, and the older key would contradict it.
        let dtype = match precision {
            Precision::F32 => "float32",
            Precision::Bf16 => "bfloat16",
        };
        map.insert("dtype".to_owned(), dtype.into());
        for gone in ["torch_dtype", "quantization_config"] {
            map.remove(gone);
        }
        map
    }

    /// The content of `generation_config.json`: as it was, or what the tokenizer knows.
    fn generation_config(&self) -> Vec<u8> {
        const NAME: &str = "generation_config.json";
        if let Ok(content) = fs::read(self.path.join(NAME)) {
            return content;
        }
        let mut map = Map::new();
        for (key, token) in [("bos_token_id", "bos_token"), ("pad_token_id", "pad_token")] {
            if let Some(id) = self.tokenizer.special_id(token) {
                map.insert(key.to_owned(), id.into());
            }
        }
        let ends: Vec<u32> = self.tokenizer.end_ids().iter().copied().collect();
        match &ends[..] {
            [] => {}
            [one] => drop(map.insert("eos_token_id".to_owned(), (*one).into())),
            several => drop(map.insert("eos_token_id".to_owned(), several.into())),
        }
        format!("{:#}\n", Value::from(map)).into_bytes()
    }

    fn card(&self, card: &Card<'_>) -> String {
        let library = if self.decoder.lora().is_some() {
            "peft"
        } else {
            "transformers"
        };
        let task = if self.decoder.config().scores {
            "text-classification"
        } else {
            "text-generation"
        };
        let tags: String = card.tags.iter().map(|tag| format!("- {tag}\n")).collect();
        // A JSON text is a YAML text, whatever is in the name.
        let base = Value::from(self.base.as_str());
        format!(
            "---\nbase_model: {base}\nlibrary_name: {library}\npipeline_tag: {task}\ntags:\n- posterior\n{tags}---\n\n{}\n",
            card.text
        )
    }
}
