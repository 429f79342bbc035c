//! Text as a model sees it: tokenizers, chat templates, and examples whose prompt and response never run together.
//!
//! A [`Tokenizer`] turns text into token ids and back as Python's transformers 5.23 does with the same files, and
//! carries those files along, so that a tuned model is saved with the tokenizer it came with. A [`ChatTemplate`] turns
//! messages into text, as jinja2 would. The functions of [`examples`](Encoder) build what training needs: ids, and
//! which of them are learned.
//!
//! The design rests on one rule: **the prompt that is trained on is the prompt that generation starts from.** Its ids
//! are those of the prompt encoded alone; the response's ids follow them. Where encoding prompt and response as one
//! text would merge a token across the boundary, the response is encoded by itself instead, and where a template
//! renders the prompt differently once an answer follows it, that is an error or a choice that the caller made, never
//! a silent shift.

mod chat;
mod clock;
mod continuation;
mod error;
mod example;
mod files;
mod python;
mod special;
mod stream;
mod template;
mod tokenizer;
mod truncate;

#[cfg(test)]
mod testing;
#[cfg(test)]
pub(crate) use testing::{chatml as test_tokenizer, ending as test_tokenizer_ending};

pub use chat::{Divergence, Encoder, Trained};
pub use clock::Moment;
pub use error::TextError;
pub use example::{Example, Ranked, Trace};
pub use special::{SpecialToken, SpecialTokens};
pub use stream::DecodeStream;
pub use template::{ChatTemplate, Conversation, Rendered};
pub use tokenizer::{Conflict, Parts, Tokenizer};
pub use truncate::{Keep, Outcome, truncate_example, truncate_trace};
