//! Pixels, and the PNG file they become.

use std::path::Path;

use train::files::write_atomic;

use super::PictureError;

/// The greatest side of a picture, in pixels.
const GREATEST_SIDE: usize = 32_768;

/// A picture of 8-bit pixels, gray or in colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raster {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Raster {
    /// A white picture; `channels` is 1 (gray) or 3 (red, green, blue).
    pub(super) fn white(width: usize, height: usize, channels: usize) -> Result<Self, PictureError> {
        if width == 0 || height == 0 {
            return Err(PictureError::Empty);
        }
        if width > GREATEST_SIDE || height > GREATEST_SIDE {
            return Err(PictureError::TooLarge { width, height });
        }
        Ok(Self {
            width,
            height,
            channels,
            pixels: vec![255; width * height * channels],
        })
    }

    /// Columns of pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 (gray) or 3 (red, green, blue).
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The values of the pixels, row by row, the channels of a pixel together.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The channels of one pixel.
    pub(super) fn pixel_mut(&mut self, x: usize, y: usize) -> &mut [u8] {
        let start = (y * self.width + x) * self.channels;
        &mut self.pixels[start..start + self.channels]
    }

    /// The content of a PNG file.
    ///
    /// # Errors
    /// [`PictureError::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, PictureError> {
        let mut content = Vec::new();
        let mut writer = self.encoder(&mut content).write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(content)
    }

    /// Writes a PNG file. It appears under its name only when it is complete.
    ///
    /// # Errors
    /// [`PictureError::File`], naming the path.
    pub fn write(&self, path: &Path) -> Result<(), PictureError> {
        Ok(write_atomic(path, &self.encode()?)?)
    }

    /// An encoder for pictures like this one.
    pub(super) fn encoder<'a>(&self, content: &'a mut Vec<u8>) -> png::Encoder<'static, &'a mut Vec<u8>> {
        let mut encoder = png::Encoder::new(content, self.width as u32, self.height as u32);
        encoder.set_color(if self.channels == 1 {
            png::ColorType::Grayscale
        } else {
            png::ColorType::Rgb
        });
        encoder.set_depth(png::BitDepth::Eight);
        encoder
    }
}
