//! The files of a tokenizer: read with care, carried along unchanged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::error::TextError;

/// The tokenizer itself.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// What surrounds it: special tokens, an older place of the chat template.
pub(super) const CONFIG: &str = "tokenizer_config.json";
/// An older list of special tokens.
pub(super) const SPECIAL: &str = "special_tokens_map.json";
/// The default chat template.
pub(super) const TEMPLATE: &str = "chat_template.jinja";
/// The directory of further chat templates.
pub(super) const TEMPLATES: &str = "additional_chat_templates";
/// The model's settings for generation.
pub(super) const GENERATION: &str = "generation_config.json";
/// The model's own settings.
pub(super) const MODEL: &str = "config.json";

/// The largest sizes that are read, in bytes: many times what the largest known files of the kind have.
const LARGEST_TOKENIZER: u64 = 512 << 20;
const LARGEST_OTHER: u64 = 16 << 20;
/// The most templates that are read from [`TEMPLATES`].
const MOST_TEMPLATES: usize = 256;

/// The files found in a model directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    directory: PathBuf,
    /// Content by path below the directory, of the files that make up the tokenizer.
    pub(super) carried: BTreeMap<String, Vec<u8>>,
}

impl Files {
    /// Reads the tokenizer's files.
    pub(super) fn read(directory: &Path) -> Result<Self, TextError> {
        let mut files = Self {
            directory: directory.to_owned(),
            carried: BTreeMap::new(),
        };
        for name in [TOKENIZER, CONFIG, SPECIAL, "added_tokens.json", TEMPLATE] {
            let limit = if name == TOKENIZER {
                LARGEST_TOKENIZER
            } else {
                LARGEST_OTHER
            };
            if let Some(bytes) = read(&directory.join(name), limit)? {
                files.carried.insert(name.to_owned(), bytes);
            }
        }
        if !files.carried.contains_key(TOKENIZER) {
            return Err(TextError::Missing {
                path: directory.join(TOKENIZER),
                remedy: "give a model directory with a fast tokenizer; transformers writes one with \
                         AutoTokenizer.from_pretrained(...).save_pretrained(...)"
                    .to_owned(),
            });
        }
        files.read_templates()?;
        Ok(files)
    }

    fn read_templates(&mut self) -> Result<(), TextError> {
        let directory = self.directory.join(TEMPLATES);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(source) => {
                return Err(TextError::Unreadable {
                    path: directory,
                    source,
                });
            }
        };
        for entry in entries.take(MOST_TEMPLATES) {
            let path = entry
                .map_err(|source| TextError::Unreadable {
                    path: directory.clone(),
                    source,
                })?
                .path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.ends_with(".jinja") {
                let name = format!("{TEMPLATES}/{name}");
                if let Some(bytes) = read(&path, LARGEST_OTHER)? {
                    self.carried.insert(name, bytes);
                }
            }
        }
        Ok(())
    }

    /// Where a file lies, for messages.
    pub(super) fn origin(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// An error about a file.
    pub(super) fn malformed(&self, name: &str, problem: impl Into<String>, remedy: impl Into<String>) -> TextError {
        TextError::Malformed {
            origin: self.origin(name),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// A carried file's object, or that of another file of the directory; `None` if there is no such file.
    pub(super) fn object(&self, name: &str) -> Result<Option<Map<String, Json>>, TextError> {
        let read_now;
        let bytes = match self.carried.get(name) {
            Some(bytes) => bytes,
            None => match read(&self.directory.join(name), LARGEST_OTHER)? {
                Some(bytes) => {
                    read_now = bytes;
                    &read_now
                }
                None => return Ok(None),
            },
        };
        match serde_json::from_slice(bytes) {
            Ok(Json::Object(fields)) => Ok(Some(fields)),
            Ok(_) => Err(self.malformed(name, "not a JSON object", "copy the file again from its model")),
            Err(error) => Err(self.malformed(name, error.to_string(), "copy the file again from its model")),
        }
    }

    /// A carried file's text.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, TextError> {
        self.carried
            .get(name)
            .map(|bytes| {
                String::from_utf8(bytes.clone())
                    .map_err(|_| self.malformed(name, "not UTF-8 text", "save the file as UTF-8"))
            })
            .transpose()
    }
}

/// A file's content; `None` if there is no such file.
fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TextError> {
    let unreadable = |source| TextError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes > limit {
        return Err(TextError::TooLarge {
            path: path.to_owned(),
            bytes,
            limit,
        });
    }
    // The file may be a pipe, or grow while it is read.
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > limit {
        return Err(TextError::TooLarge {
            path: path.to_owned(),
            bytes: content.len() as u64,
            limit,
        });
    }
    Ok(Some(content))
}

/// Writes files below a directory, which is made if need be.
pub(super) fn write(directory: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<(), TextError> {
    for (name, bytes) in files {
        let path = directory.join(name);
        let parent = path.parent().unwrap_or(directory);
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, bytes));
        written.map_err(|source| TextError::Unreadable { path, source })?;
    }
    Ok(())
}
