//! Animated PNG: frames of equal size, one after another, endlessly.

use std::path::Path;

use train::files::write_atomic;

use super::{PictureError, Raster};

/// How long frames are shown, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Each frame but the last.
    pub frame: u16,
    /// The last one, on which the eye rests.
    pub last: u16,
}

impl Default for Timing {
    fn default() -> Self {
        Self { frame: 80, last: 2_000 }
    }
}

/// Writes the frames as an animated PNG that repeats endlessly. Programs that do not play it show the last frame. The
/// file appears under its name only when it is complete.
///
/// # Errors
/// [`PictureError::Empty`] without a frame, [`PictureError::Count`] if frames differ in size, [`PictureError::File`].
pub fn write_animation(path: &Path, frames: &[Raster], timing: Timing) -> Result<(), PictureError> {
    let last = frames.last().ok_or(PictureError::Empty)?;
    let size = |frame: &Raster| (frame.width(), frame.height(), frame.channels());
    if let Some(other) = frames.iter().find(|frame| size(frame) != size(last)) {
        return Err(PictureError::Count {
            values: other.pixels().len(),
            expected: format!("a frame of {} x {} pixels like the last", last.width(), last.height()),
        });
    }
    let mut content = Vec::new();
    let mut encoder = last.encoder(&mut content);
    encoder.set_animated(frames.len() as u32, 0)?;
    // The picture that stands first in the file is outside the animation: what a program shows that cannot play it.
    encoder.set_sep_def_img(true)?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(last.pixels())?;
    for (index, frame) in frames.iter().enumerate() {
        let delay = if index + 1 == frames.len() {
            timing.last
        } else {
            timing.frame
        };
        writer.set_frame_delay(delay, 1_000)?;
        writer.write_image_data(frame.pixels())?;
    }
    writer.finish()?;
    Ok(write_atomic(path, &content)?)
}
