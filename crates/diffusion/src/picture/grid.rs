//! Many small images as one.

use super::{PictureError, Raster};
use crate::data::Shape;

/// How samples are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Images beside each other; 0 counts as 1.
    pub columns: usize,
    /// Each pixel of a sample becomes this many pixels a side, so that small images can be seen; 0 counts as 1.
    pub enlarge: usize,
    /// White pixels between images.
    pub gap: usize,
}

impl Layout {
    /// A square arrangement of `count` images, each enlarged to 56 pixels or more.
    #[must_use]
    pub fn square(shape: Shape, count: usize) -> Self {
        let side = match shape {
            Shape::Image { height, width, .. } => height.max(width).max(1),
            Shape::Points { .. } => 1,
        };
        Self {
            columns: (count as f64).sqrt().ceil() as usize,
            enlarge: 56usize.div_ceil(side),
            gap: 2,
        }
    }

    /// The same with so many columns.
    #[must_use]
    pub fn with_columns(self, columns: usize) -> Self {
        Self { columns, ..self }
    }
}

/// The samples (`[count, values]`, one after another, in [-1, 1]; what lies outside is cut off) as a grid, row by row.
///
/// # Errors
/// [`PictureError`] if they are no gray or colour images, hold a value that is not finite, or make too large a picture.
pub fn grid(samples: &[f32], shape: Shape, layout: &Layout) -> Result<Raster, PictureError> {
    let Shape::Image {
        channels: channels @ (1 | 3),
        height,
        width,
    } = shape
    else {
        return Err(PictureError::NotImages { shape });
    };
    let size = shape.values();
    if samples.is_empty() || size == 0 {
        return Err(PictureError::Empty);
    }
    if !samples.len().is_multiple_of(size) {
        return Err(PictureError::Count {
            values: samples.len(),
            expected: format!("samples of shape {shape}"),
        });
    }
    if let Some(at) = samples.iter().position(|value| !value.is_finite()) {
        return Err(PictureError::NotFinite {
            sample: at / size,
            value: samples[at],
        });
    }
    let count = samples.len() / size;
    let (columns, enlarge) = (layout.columns.clamp(1, count), layout.enlarge.max(1));
    // Saturating, because a layout may ask for anything; `Raster::white` refuses what is too large.
    let side = |cells: usize, pixels: usize| {
        let images = cells.saturating_mul(pixels.saturating_mul(enlarge));
        images.saturating_add((cells - 1).saturating_mul(layout.gap))
    };
    let rows = count.div_ceil(columns);
    let mut raster = Raster::white(side(columns, width), side(rows, height), channels)?;
    for (index, sample) in samples.chunks_exact(size).enumerate() {
        let left = (index % columns) * (width * enlarge + layout.gap);
        let top = (index / columns) * (height * enlarge + layout.gap);
        for y in 0..height * enlarge {
            for x in 0..width * enlarge {
                let place = (y / enlarge) * width + x / enlarge;
                for (channel, out) in raster.pixel_mut(left + x, top + y).iter_mut().enumerate() {
                    *out = byte(sample[channel * height * width + place]);
                }
            }
        }
    }
    Ok(raster)
}

/// The path of denoising: a row for each sample, a column for each of `levels` (the whole batch at that level,
/// `[count, values]`, noisiest first).
///
/// # Errors
/// Those of [`grid`]; [`PictureError::Count`] if the levels differ in length.
pub fn path(levels: &[Vec<f32>], shape: Shape, layout: &Layout) -> Result<Raster, PictureError> {
    let (size, length) = (shape.values(), levels.first().map_or(0, Vec::len));
    if size == 0 || length == 0 {
        return Err(PictureError::Empty);
    }
    if let Some(other) = levels
        .iter()
        .find(|level| level.len() != length || !length.is_multiple_of(size))
    {
        return Err(PictureError::Count {
            values: other.len(),
            expected: format!("{} samples of shape {shape}, as at the first level", length / size),
        });
    }
    let samples: Vec<f32> = (0..length)
        .step_by(size)
        .flat_map(|start| levels.iter().flat_map(move |level| &level[start..start + size]))
        .copied()
        .collect();
    grid(&samples, shape, &layout.with_columns(levels.len()))
}

/// The byte of a value in [-1, 1].
fn byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}
