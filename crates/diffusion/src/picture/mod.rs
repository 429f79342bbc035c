//! Pictures of samples: grids of images, the path of denoising, animations and scatter plots, all of them PNG.
//!
//! Values are those of a network (images in [-1, 1]); [`Raster`] is what they become, and its `write` puts a file in
//! place only once it is complete. An animation is an animated PNG, which browsers play and every other program shows
//! as its last frame.

mod animation;
mod grid;
mod raster;
mod scatter;

pub use animation::{Timing, write_animation};
pub use grid::{Layout, grid, path};
pub use raster::Raster;
pub use scatter::{Layer, scatter};

use train::files::FileError;

use crate::data::Shape;

/// Why a picture could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The samples are not images of one or three channels.
    #[error("samples of shape {shape} are no gray or colour images; write them as .npy instead")]
    NotImages {
        /// Their shape.
        shape: Shape,
    },
    /// The values do not divide into the samples that the picture shows.
    #[error("{values} values are not {expected}")]
    Count {
        /// How many values there are.
        values: usize,
        /// What they should be.
        expected: String,
    },
    /// A sample holds a value that is infinite or not a number.
    #[error(
        "sample {sample} holds {value}: the network or the sampler diverged; \
         lower the learning rate, or take more steps"
    )]
    NotFinite {
        /// The first such sample, counted from 0.
        sample: usize,
        /// The value.
        value: f32,
    },
    /// The picture would be larger than PNG readers take.
    #[error("a picture of {width} x {height} pixels is too large; show fewer samples or enlarge them less")]
    TooLarge {
        /// Columns of pixels.
        width: usize,
        /// Rows of pixels.
        height: usize,
    },
    /// There is nothing to show.
    #[error("there are no samples to show")]
    Empty,
    /// The PNG encoder failed.
    #[error("the picture cannot be encoded: {0}")]
    Encode(#[from] png::EncodingError),
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

#[cfg(test)]
mod tests;
