//! Text data: from files as they are published to checked rows.
//!
//! [`Rows`] reads JSON Lines (gzipped too), JSON arrays, Parquet and plain text, one row at a time, whatever the size of
//! the file. A [`Row`] is one of the shapes that TRL's trainers take, plus rankings of K responses. What a row must have
//! depends on what it is wanted for, its [`Kind`]. [`Dataset`] gives rows by number for training: from memory if they
//! are few, from an [`Index`] of the files if they are many. [`Summary`] is for a look at a file.
//!
//! The shapes are those of TRL 1.16 ("Dataset formats and types" in its documentation). Where TRL finds out from the
//! first row what a data set is, every row is checked here, and an error names file, line and key.
//!
//! Nothing in a file is trusted: a record has a longest length, JSON a deepest nesting, and what a Parquet file
//! announces is compared with what is there before anything is allocated for it.

mod assemble;
mod dataset;
mod error;
mod files;
mod index;
mod json;
mod lines;
mod message;
mod parse;
mod prompt;
mod row;
mod rows;
mod summary;
mod table;
mod thrift;

pub use dataset::{Dataset, MEMORY};
pub use error::{DataError, Place, Position};
pub use index::Index;
pub use message::{Conversation, Message, Text};
pub use row::{Kind, Ranked, Row};
pub use rows::Rows;
pub use summary::{Lengths, Summary};

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
