//! Data: from a file, a folder or a formula to samples that a network can take.
//!
//! [`open`] understands what a user writes after `--data`. Each format has its own strict parser. None of them
//! allocates what a header asks for: the size of the file has to bear a header out first, gzip may not unpack to more
//! than 256 times its size, and an image may not decode to more than a fixed limit. Errors name the file, the place
//! in it, and the remedy.
//!
//! A [`Dataset`] keeps values as the file has them and scales them when they are read: images to [-1, 1], points to
//! zero mean and unit standard deviation. Its [`Scaling`] leads back. [`Dataset::spectrum`] is the Gaussian that fits
//! the scaled data, for the exact audit of a sampler on them.

mod content;
mod csv;
mod dataset;
mod digits;
mod error;
mod folder;
mod idx;
mod labels;
pub mod npy;
mod open;
pub mod points;
mod scaling;
mod shape;
mod spectrum;

pub use dataset::{Dataset, Values};
pub use error::{DataError, Place};
pub use labels::Labels;
pub use open::{Options, Part, open};
pub use scaling::{PointScaling, Scaling};
pub use shape::{Shape, ValueRange};
pub use spectrum::Spectrum;
