//! Image folders: PNG and JPEG files, flat or sorted into one sub-folder per class.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};
use rayon::prelude::*;

use super::open::{Options, Part};
use super::{DataError, Dataset, Labels, Place, Shape, ValueRange, Values};

/// What one image may decode to, against files that announce more than they hold.
const GREATEST_SIDE: u32 = 16_384;
const GREATEST_IMAGE: u64 = 256 << 20;
/// What all images together may come to.
const GREATEST_SET: u64 = 8 << 30;
/// Images decoded before their pixels are gathered.
const BATCH: usize = 256;

/// The files of a folder, in the order of their names, class by class.
#[derive(Default)]
struct Listing {
    files: Vec<PathBuf>,
    classes: Vec<u32>,
    class_names: Vec<String>,
    passed_over: usize,
}

/// What a file says about its image before it is decoded.
struct Header {
    /// Width and height as it is to be shown.
    size: (u32, u32),
    gray: bool,
    alpha: bool,
    deep: bool,
    orientation: Orientation,
}

/// Reads a folder of images.
pub(super) fn read(path: &Path, options: &Options) -> Result<Dataset, DataError> {
    if options.image_size.is_some_and(|size| !(1..=4096).contains(&size)) {
        return Err(DataError::InvalidOption {
            option: "--image-size",
            value: options.image_size.unwrap_or(0).to_string(),
            problem: "give a number of pixels from 1 to 4096".to_owned(),
        });
    }
    let listing = list(&part_folder(path, options)?)?;
    let headers = in_order(&listing.files, |file| {
        open(file).and_then(|mut decoder| header(file, &mut decoder))
    })?;
    let (width, height) = match options.image_size {
        Some(size) => (size, size),
        None => common_size(&listing.files, &headers)?,
    };
    let gray = headers.iter().all(|header| header.gray);
    let channels = if gray { 1 } else { 3 };
    let total = u64::from(width) * u64::from(height) * channels * listing.files.len() as u64;
    if total > GREATEST_SET {
        return Err(DataError::Unsupported {
            path: path.to_owned(),
            found: format!("images that take {} GiB in memory", total >> 30),
            remedy: "pass --image-size N for smaller ones".to_owned(),
        });
    }
    let mut pixels = Vec::new();
    for (files, headers) in listing.files.chunks(BATCH).zip(headers.chunks(BATCH)) {
        let jobs: Vec<_> = files.iter().zip(headers).collect();
        for image in in_order(&jobs, |(file, header)| decode(file, header, options.image_size, gray))? {
            pixels.extend_from_slice(&image);
        }
    }
    let shape = Shape::Image {
        channels: channels as usize,
        height: height as usize,
        width: width as usize,
    };
    let range = options.range.unwrap_or(ValueRange::BYTE);
    let dataset = Dataset::images(path.display().to_string(), shape, Values::Bytes(pixels), Some(range))?
        .with_notes(notes(&listing, &headers, options.image_size));
    if listing.class_names.is_empty() {
        return Ok(dataset);
    }
    dataset.with_labels(Labels {
        classes: listing.classes,
        names: listing.class_names,
    })
}

/// The folder of the part asked for, where all sub-folders are parts (`train` and `test`, `val` or `validation`), else
/// the folder itself.
fn part_folder(path: &Path, options: &Options) -> Result<PathBuf, DataError> {
    const TEST: [&str; 3] = ["test", "val", "validation"];
    let (folders, _) = entries(path)?;
    let name = |folder: &PathBuf| {
        folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let names: Vec<String> = folders.iter().map(name).collect();
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let test = TEST.into_iter().find(|test| has(test));
    let only_parts = names
        .iter()
        .all(|name| name == "train" || TEST.contains(&name.as_str()));
    match (options.part, test) {
        (part, Some(test)) if only_parts && has("train") => {
            let (train, test) = (path.join("train"), path.join(test));
            // The number of a class is its place among the sub-folders, so both parts need the same.
            let classes = |part: &Path| Ok(entries(part)?.0.iter().map(name).collect::<Vec<_>>());
            if classes(&train)? != classes(&test)? {
                return Err(DataError::Unsupported {
                    path: test,
                    found: "other sub-folders (classes) than in train".to_owned(),
                    remedy: "give both parts the same sub-folders".to_owned(),
                });
            }
            Ok(if part == Some(Part::Test) { test } else { train })
        }
        (Some(_), _) => Err(DataError::UnusedOption {
            option: "--part",
            origin: path.display().to_string(),
            kind: "an image folder without sub-folders train and test",
        }),
        (None, _) => Ok(path.to_owned()),
    }
}

/// The sub-folders and the files of a folder, each by name; what is hidden is left out.
fn entries(path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let entry = entry.path();
        let metadata = fs::metadata(&entry).map_err(|source| DataError::Unreadable {
            path: entry.clone(),
            source,
        })?;
        if metadata.is_dir() {
            folders.push(entry)
        } else {
            files.push(entry)
        }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| extension == "png" || extension == "jpg" || extension == "jpeg")
}

fn list(path: &Path) -> Result<Listing, DataError> {
    let unsupported = |path: &Path, found: &str, remedy: &str| DataError::Unsupported {
        path: path.to_owned(),
        found: found.to_owned(),
        remedy: remedy.to_owned(),
    };
    let mut listing = Listing::default();
    let (folders, files) = entries(path)?;
    let add = |listing: &mut Listing, files: Vec<PathBuf>| {
        let before = listing.files.len();
        listing.passed_over += files.iter().filter(|file| !is_image(file)).count();
        listing.files.extend(files.into_iter().filter(|file| is_image(file)));
        listing.files.len() - before
    };
    let flat = add(&mut listing, files);
    if flat > 0 && !folders.is_empty() {
        let remedy = "move the images into one sub-folder per class, or the sub-folders away";
        return Err(unsupported(path, "images beside sub-folders", remedy));
    }
    for folder in folders {
        let (deeper, files) = entries(&folder)?;
        if !deeper.is_empty() {
            return Err(unsupported(
                &folder,
                "folders within the folder of a class",
                "give one level of sub-folders",
            ));
        }
        let count = add(&mut listing, files);
        if count == 0 {
            let remedy = "remove the folder, or put the images of that class into it";
            return Err(unsupported(&folder, "no PNG or JPEG images in this sub-folder", remedy));
        }
        let class = listing.class_names.len() as u32;
        listing.classes.extend(std::iter::repeat_n(class, count));
        let name = folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        listing.class_names.push(name);
    }
    if listing.files.is_empty() {
        let remedy = "give a folder of .png, .jpg or .jpeg files, or of sub-folders of them";
        return Err(unsupported(path, "no PNG or JPEG images", remedy));
    }
    Ok(listing)
}

/// Works on all items at once, and gives the results, or the first error, in their order.
fn in_order<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T, DataError> + Send + Sync,
) -> Result<Vec<T>, DataError> {
    let results: Vec<Result<T, DataError>> = items.par_iter().map(work).collect();
    results.into_iter().collect()
}

fn damaged(path: &Path, error: &ImageError) -> DataError {
    if let ImageError::Limits(_) = error {
        return too_large(path);
    }
    DataError::Malformed {
        path: path.to_owned(),
        place: Place::Whole,
        problem: format!("the image cannot be decoded ({error})"),
        remedy: "replace or remove the file".to_owned(),
    }
}

fn too_large(path: &Path) -> DataError {
    DataError::Unsupported {
        path: path.to_owned(),
        found: format!(
            "an image of more than {GREATEST_SIDE} pixels a side, or {} MiB",
            GREATEST_IMAGE >> 20
        ),
        remedy: "make it smaller, or remove it".to_owned(),
    }
}

/// A decoder that has read the image's header.
fn open(path: &Path) -> Result<impl ImageDecoder, DataError> {
    let bytes = fs::read(path).map_err(|source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    if bytes.starts_with(&[0xff, 0xd8]) && !jpeg_ends(&bytes) {
        return Err(DataError::Malformed {
            path: path.to_owned(),
            place: Place::Byte(bytes.len()),
            problem: "the JPEG data end early".to_owned(),
            remedy: "replace or remove the file".to_owned(),
        });
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(GREATEST_SIDE);
    limits.max_image_height = Some(GREATEST_SIDE);
    limits.max_alloc = Some(GREATEST_IMAGE);
    let mut reader = ImageReader::new(Cursor::new(bytes));
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let decoder = reader.into_decoder().map_err(|error| damaged(path, &error))?;
    if decoder.total_bytes() > GREATEST_IMAGE {
        return Err(too_large(path));
    }
    Ok(decoder)
}

/// Whether a JPEG file's last scan is followed by the end marker. Decoders fill in what is missing with gray; training
/// data should not be made up. (Within a scan, 0xff stands only before 0 or a restart marker.)
fn jpeg_ends(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|window| window == marker);
    last([0xff, 0xd9]) > last([0xff, 0xda])
}

fn header(path: &Path, decoder: &mut impl ImageDecoder) -> Result<Header, DataError> {
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let orientation = decoder.orientation().map_err(|error| damaged(path, &error))?;
    let turned = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    Ok(Header {
        size: if turned { (height, width) } else { (width, height) },
        gray: !color.has_color(),
        alpha: color.has_alpha(),
        deep: color.bytes_per_pixel() > color.channel_count(),
        orientation,
    })
}

fn common_size(files: &[PathBuf], headers: &[Header]) -> Result<(u32, u32), DataError> {
    let size = headers[0].size;
    match headers.iter().position(|header| header.size != size) {
        None => Ok(size),
        Some(other) => Err(DataError::MixedSizes {
            first: files[0].clone(),
            first_size: size,
            second: files[other].clone(),
            second_size: headers[other].size,
        }),
    }
}

/// The pixels of an image, `[channels, height, width]`.
fn decode(path: &Path, header: &Header, size: Option<u32>, gray: bool) -> Result<Vec<u8>, DataError> {
    let mut image = DynamicImage::from_decoder(open(path)?).map_err(|error| damaged(path, &error))?;
    image.apply_orientation(header.orientation);
    if header.alpha {
        image = over_white(&image);
    }
    if let Some(size) = size
        && header.size != (size, size)
    {
        image = image.resize_to_fill(size, size, FilterType::Lanczos3);
    }
    if gray {
        return Ok(image.into_luma8().into_raw());
    }
    let interleaved = image.into_rgb8().into_raw();
    Ok((0..3)
        .flat_map(|channel| interleaved.iter().skip(channel).step_by(3))
        .copied()
        .collect())
}

/// The image as it looks on a white page.
fn over_white(image: &DynamicImage) -> DynamicImage {
    let mut pixels = image.to_rgba8();
    for pixel in pixels.pixels_mut() {
        let [.., alpha] = pixel.0.map(u32::from);
        for value in &mut pixel.0[..3] {
            *value = ((u32::from(*value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        }
        pixel.0[3] = 255;
    }
    DynamicImage::ImageRgba8(pixels)
}

fn notes(listing: &Listing, headers: &[Header], size: Option<u32>) -> Vec<String> {
    let total = headers.len();
    let count = |test: fn(&Header) -> bool| headers.iter().filter(|header| test(header)).count();
    let gray = count(|header| header.gray);
    let mut notes = vec![match gray {
        0 => format!("{total} images in colour"),
        _ if gray == total => format!("{total} images in gray"),
        _ => format!("{gray} of {total} images are gray, read as colour like the others"),
    }];
    let mut note = |count: usize, words: &str| {
        if count > 0 {
            notes.push(format!("{count} {words}"));
        }
    };
    note(count(|header| header.alpha), "with transparency, laid over white");
    note(count(|header| header.deep), "with 16 bits a value, reduced to 8");
    note(
        count(|header| header.orientation != Orientation::NoTransforms),
        "turned upright as their metadata say",
    );
    if let Some(size) = size {
        note(
            headers.iter().filter(|header| header.size != (size, size)).count(),
            "resized and cropped at the centre",
        );
        note(
            headers
                .iter()
                .filter(|header| header.size.0.min(header.size.1) < size)
                .count(),
            "of these enlarged",
        );
    }
    note(listing.passed_over, "other files passed over");
    notes
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
