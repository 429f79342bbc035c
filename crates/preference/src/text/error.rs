//! What can be wrong with a tokenizer, a template or an example, said so that its owner can put it right.

use std::io;
use std::path::PathBuf;

/// Why text could not be turned into ids, or ids into text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file that a model directory must have is not there.
    #[error("{}: no such file; {remedy}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        remedy: String,
    },
    /// The operating system refused to read or write.
    #[error("cannot access {}: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file is larger than any of its kind.
    #[error("{}: {bytes} bytes, more than the {limit} that such a file may have; check that it is the file you meant", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// A file's content contradicts its format, or another file.
    #[error("{origin}: {problem}; {remedy}")]
    Malformed {
        /// The file, or what stands in its place.
        origin: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("the tokenizer of {origin} cannot {action}: {problem}")]
    Tokenizer {
        /// Where the tokenizer comes from.
        origin: String,
        /// What was asked of it.
        action: &'static str,
        /// The tokenizer's own reason.
        problem: String,
    },
    /// There is no chat template to render messages with.
    #[error("{origin} has no chat template{}; {remedy}", .name.as_ref().map_or(String::new(), |name| format!(" named {name:?}")))]
    NoTemplate {
        /// Where the tokenizer comes from.
        origin: String,
        /// The name asked for, if any.
        name: Option<String>,
        /// What to do about it.
        remedy: String,
    },
    /// A template is not valid, refused the messages, or met a value it cannot handle.
    #[error("{origin}{}: {problem}", .line.map_or(String::new(), |line| format!(", line {line}")))]
    Template {
        /// Where the template comes from.
        origin: String,
        /// The line in the template, counted from 1.
        line: Option<usize>,
        /// What is wrong: the template's own words if it raised the error.
        problem: String,
    },
    /// The messages are not a conversation.
    #[error("messages: {problem}; {remedy}")]
    Messages {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The prompt, rendered to be answered, is not how the conversation with the answer begins.
    #[error(
        "{origin}: the conversation does not begin with its prompt as rendered for generation: the prompt goes on with \
         {prompt:?} where the conversation has {conversation:?}; use a template that renders both alike (TRL ships \
         training variants), {remedy}"
    )]
    Diverged {
        /// Where the template comes from.
        origin: String,
        /// The prompt's text from the first difference on, shortened.
        prompt: String,
        /// The conversation's text from there on, shortened.
        conversation: String,
        /// What else can be done.
        remedy: &'static str,
    },
    /// Nothing would be learned from an example.
    #[error("{problem}; {remedy}")]
    NothingToLearn {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// There is no end-of-text token, so no response could ever end.
    #[error("{origin} names no end-of-text token; set eos_token in tokenizer_config.json")]
    NoEnd {
        /// Where the tokenizer comes from.
        origin: String,
    },
    /// A maximal length that leaves room for nothing.
    #[error("a maximal length of {length} tokens leaves no room for {needed}; raise it")]
    Length {
        /// The length asked for, in tokens.
        length: usize,
        /// What would need room.
        needed: &'static str,
    },
}
