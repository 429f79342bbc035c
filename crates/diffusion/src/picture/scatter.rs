//! Points in the plane, drawn so that their density shows.

use super::{PictureError, Raster};

/// Points that are drawn alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer<'a> {
    /// `[count, 2]`, one point after another.
    pub points: &'a [f32],
    /// Red, green, blue.
    pub color: [u8; 3],
}

impl Layer<'_> {
    /// The colour of data.
    pub const DATA: [u8; 3] = [150, 150, 150];
    /// The colour of samples.
    pub const SAMPLES: [u8; 3] = [31, 90, 180];
}

/// Covers all layers with some room around them, on a square of `side` pixels, the second coordinate upwards, both
/// axes to the same scale. Later layers lie over earlier ones.
///
/// A pixel on which `k` of the `n` points of a layer fall takes the share `1 - exp(-k / m)` of its colour, with `m` so
/// that a layer spread evenly over a fifth of the square would colour a pixel to 1 - 1/e; single points stay visible.
///
/// # Errors
/// [`PictureError`] if there are no points, a coordinate is missing or not finite, or the picture too large.
pub fn scatter(layers: &[Layer<'_>], side: usize) -> Result<Raster, PictureError> {
    let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
    for layer in layers {
        if !layer.points.len().is_multiple_of(2) {
            return Err(PictureError::Count {
                values: layer.points.len(),
                expected: "points of two coordinates".to_owned(),
            });
        }
        for (index, point) in layer.points.chunks_exact(2).enumerate() {
            for (axis, &value) in point.iter().enumerate() {
                if !value.is_finite() {
                    return Err(PictureError::NotFinite { sample: index, value });
                }
                low[axis] = low[axis].min(value);
                high[axis] = high[axis].max(value);
            }
        }
    }
    if low[0] > high[0] {
        return Err(PictureError::Empty);
    }
    let mut raster = Raster::white(side, side, 3)?;
    let centre = [0, 1].map(|axis| 0.5 * (f64::from(low[axis]) + f64::from(high[axis])));
    let extent = [0, 1].map(|axis| f64::from(high[axis]) - f64::from(low[axis]));
    // One point alone, or all in one place, have no extent.
    let width = 1.1 * extent[0].max(extent[1]).max(f64::MIN_POSITIVE.sqrt());
    // A point is a disc, so that it can be seen in a large picture.
    let radius = (side as f64 / 400.0).max(0.5);
    for layer in layers {
        let shares = coverage(layer.points, side, radius, |axis, value| {
            (f64::from(value) - centre[axis]) / width * side as f64 + 0.5 * side as f64
        });
        for (place, share) in shares.into_iter().enumerate().filter(|(_, share)| *share > 0.0) {
            let pixel = raster.pixel_mut(place % side, place / side);
            for (out, color) in pixel.iter_mut().zip(layer.color) {
                *out = (f64::from(*out) * (1.0 - share) + f64::from(color) * share).round() as u8;
            }
        }
    }
    Ok(raster)
}

/// The share of its colour that each pixel takes, row by row from the top.
fn coverage(points: &[f32], side: usize, radius: f64, place: impl Fn(usize, f32) -> f64) -> Vec<f64> {
    let mut counts = vec![0u32; side * side];
    for point in points.chunks_exact(2) {
        let (x, y) = (place(0, point[0]), side as f64 - place(1, point[1]));
        let range = |center: f64| {
            let first = (center - radius - 0.5).ceil().max(0.0) as usize;
            let last = (center + radius - 0.5).floor().min(side as f64 - 1.0) as usize;
            first..=last
        };
        for row in range(y) {
            for column in range(x) {
                let distance = (column as f64 + 0.5 - x).hypot(row as f64 + 0.5 - y);
                // The pixel that holds the point counts even if its centre is just outside the disc.
                if distance <= radius || (column == x as usize && row == y as usize) {
                    counts[row * side + column] += 1;
                }
            }
        }
    }
    let covered = points.len() as f64 / 2.0 * std::f64::consts::PI * radius * radius;
    let typical = (covered / (0.2 * (side * side) as f64)).clamp(1.0 / 3.0, f64::INFINITY);
    counts
        .into_iter()
        .map(|count| 1.0 - (-f64::from(count) / typical).exp())
        .collect()
}
