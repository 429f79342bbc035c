//! Text for language models: tokens, chat templates, data sets, and what a GGUF file holds.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nn::gguf::Gguf;
use ops::MappedFile;
use preference::data::{Dataset, Kind, Row, Rows as Reader};
use preference::model::gguf_tokenizer;
use preference::text::{ChatTemplate, Conversation, Moment, TextError, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Answer;

/// The ids of texts, and texts of ids.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// A directory or a `.gguf` file.
    model: PathBuf,
    texts: Vec<String>,
    /// Ids to decode besides those of the texts.
    #[serde(default)]
    ids: Vec<Vec<u32>>,
}

/// Conversations as a chat template writes them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Render {
    template: String,
    conversations: Vec<Chat>,
    /// `bos_token` and so on.
    special_tokens: Map<String, Value>,
    /// Seconds since 1970 and microseconds: what the template's clock shows.
    clock: (i64, u32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chat {
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    #[serde(default)]
    add_generation_prompt: bool,
    #[serde(default)]
    variables: Map<String, Value>,
}

/// The rows of data files.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    paths: Vec<PathBuf>,
    kind: Purpose,
    /// Read by number, holding at most so many bytes in memory; one after the other if absent.
    memory: Option<u64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Purpose {
    LanguageModelling,
    Preference,
    Prompts,
    Score,
    Any,
}

/// The configuration that a GGUF file holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GgufConfig {
    path: PathBuf,
}

/// Tensors of a GGUF file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GgufTensor {
    path: PathBuf,
    names: Vec<String>,
    /// Whether the names and layouts are the file's own instead of Hugging Face's.
    own: bool,
    /// Where the values go, in the order of the names: f32, the lowest byte first. As JSON they would take minutes.
    to: PathBuf,
}

fn open_gguf(path: &Path) -> Result<Gguf, Box<dyn Error>> {
    Ok(Gguf::parse(path.to_owned(), Arc::new(MappedFile::open(path)?))?)
}

fn open_tokenizer(model: &Path) -> Result<Tokenizer, Box<dyn Error>> {
    if model.is_dir() {
        Ok(Tokenizer::from_directory(model)?)
    } else {
        let parts = open_gguf(model)?.tokenizer()?;
        Ok(gguf_tokenizer(parts, model.display().to_string())?)
    }
}

impl Tokenize {
    pub fn answer(&self) -> Answer {
        let tokenizer = open_tokenizer(&self.model)?;
        let encode = |with_special: bool| -> Result<Vec<Vec<u32>>, TextError> {
            self.texts
                .iter()
                .map(|text| tokenizer.encode(text, with_special))
                .collect()
        };
        let (with, without) = (encode(true)?, encode(false)?);
        let all: Vec<&Vec<u32>> = with.iter().chain(&self.ids).collect();
        let decode = |with_special: bool| -> Result<Vec<String>, TextError> {
            all.iter().map(|ids| tokenizer.decode(ids, with_special)).collect()
        };
        // As generation shows a text while it grows.
        let one_by_one = |ids: &&Vec<u32>| -> Result<String, TextError> {
            let mut stream = tokenizer.decode_stream(true);
            let mut text = String::new();
            for id in *ids {
                text += &stream.push(*id)?;
            }
            text += &stream.finish()?;
            Ok(text)
        };
        let streamed: Vec<String> = all.iter().map(one_by_one).collect::<Result<_, _>>()?;
        let special: Map<String, Value> = tokenizer
            .template_variables()
            .into_iter()
            .map(|(name, token)| (name.to_owned(), token.into()))
            .collect();
        let template = match tokenizer.chat_template(None, false) {
            Ok(template) => Some(template.source().to_owned()),
            Err(TextError::NoTemplate { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(json!({
            "with_special": with,
            "without_special": without,
            "decoded": decode(true)?,
            "decoded_without_special": decode(false)?,
            "streamed": streamed,
            "size": tokenizer.vocabulary_size(),
            "special_tokens": special,
            "chat_template": template,
        }))
    }
}

impl Render {
    pub fn answer(&self) -> Answer {
        let (seconds, microseconds) = self.clock;
        let template = ChatTemplate::with_clock(&self.template, "the request's template", move || Moment {
            seconds,
            microseconds,
        })?;
        let tokens: Vec<(&str, &str)> = self
            .special_tokens
            .iter()
            .filter_map(|(name, token)| Some((name.as_str(), token.as_str()?)))
            .collect();
        let render = |chat: &Chat| {
            let conversation = Conversation {
                messages: &chat.messages,
                tools: chat.tools.as_deref(),
                documents: chat.documents.as_deref(),
                add_generation_prompt: chat.add_generation_prompt,
                variables: Some(&chat.variables),
            };
            match template.render_with_spans(&conversation, &tokens) {
                Ok(rendered) => {
                    let spans: Vec<_> = rendered.generated.iter().map(|span| (span.start, span.end)).collect();
                    json!({ "text": rendered.text, "spans": spans })
                }
                Err(error) => json!({ "error": error.to_string() }),
            }
        };
        Ok(self.conversations.iter().map(render).collect())
    }
}

impl Rows {
    pub fn answer(&self) -> Answer {
        let kind = match self.kind {
            Purpose::LanguageModelling => Kind::LanguageModelling,
            Purpose::Preference => Kind::Preference,
            Purpose::Prompts => Kind::Prompts,
            Purpose::Score => Kind::Score,
            Purpose::Any => Kind::Any,
        };
        let rows: Vec<Row> = match self.memory {
            None => Reader::open_all(&self.paths, kind)?
                .map(|row| row.map(|(_, row)| row))
                .collect::<Result<_, _>>()?,
            Some(memory) => {
                let dataset = Dataset::open(&self.paths, kind, memory)?;
                (0..dataset.len())
                    .map(|row| dataset.get(row).map(|row| row.into_owned()))
                    .collect::<Result<_, _>>()?
            }
        };
        Ok(serde_json::to_value(rows)?)
    }
}

impl GgufConfig {
    pub fn answer(&self) -> Answer {
        Ok(Value::Object(open_gguf(&self.path)?.config()?))
    }
}

impl GgufTensor {
    pub fn answer(&self) -> Answer {
        let file = open_gguf(&self.path)?;
        let mut output = BufWriter::new(File::create(&self.to)?);
        let mut shapes = Vec::new();
        for name in &self.names {
            let (shape, values) = if self.own { file.read(name)? } else { file.weight(name)? };
            for value in values {
                output.write_all(&value.to_le_bytes())?;
            }
            shapes.push(shape);
        }
        output.flush()?;
        Ok(json!(shapes))
    }
}
