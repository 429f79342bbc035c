use std::io::Write as _;

use image::{ImageBuffer, ImageFormat, Luma, LumaA, Rgb, Rgba};
use proptest::prelude::*;

use super::*;

fn save<P>(path: &Path, width: u32, height: u32, pixel: impl Fn(u32, u32) -> P)
where
    P: image::PixelWithColorType,
    [P::Subpixel]: image::EncodableLayout,
{
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    ImageBuffer::from_fn(width, height, pixel).save(path).unwrap();
}

fn folder(path: &Path) -> Result<Dataset, DataError> {
    read(path, &Options::default())
}

fn bytes(dataset: &Dataset, index: usize) -> Vec<u8> {
    let mut values = dataset.batch(&[index]);
    dataset.scaling().restore(&mut values);
    values.iter().map(|value| value.round() as u8).collect()
}

#[test]
fn classes_are_sub_folders_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    save(&path.join("dog/1.png"), 3, 2, |x, y| Luma([(10 * y + x) as u8]));
    save(&path.join("cat/2.png"), 3, 2, |_, _| Luma([200u8]));
    save(&path.join("cat/1.PNG"), 3, 2, |_, _| Luma([100u8]));
    fs::write(path.join("cat/notes.txt"), "x").unwrap();
    fs::write(path.join(".hidden.png"), "x").unwrap();
    let dataset = folder(path).unwrap();
    assert_eq!((dataset.len(), dataset.shape().to_string().as_str()), (3, "1x2x3"));
    assert_eq!(dataset.class_names(), ["cat", "dog"]);
    assert_eq!((0..3).map(|i| dataset.label(i).unwrap()).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(bytes(&dataset, 0), [100; 6]);
    assert_eq!(bytes(&dataset, 2), [0, 1, 2, 10, 11, 12]);
    let notes = dataset.notes().join("; ");
    assert!(
        notes.contains("3 images in gray") && notes.contains("1 other files passed over"),
        "{notes}"
    );
}

#[test]
fn colour_gray_and_transparency_come_together_as_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    save(&path.join("a.png"), 2, 1, |x, _| Rgb([1u8, 2, 3 + x as u8]));
    save(&path.join("b.png"), 2, 1, |_, _| Rgba([0u8, 100, 255, 51]));
    save(&path.join("c.png"), 2, 1, |_, _| LumaA([7u8, 255]));
    save(&path.join("d.png"), 2, 1, |_, _| Luma([0x8080u16]));
    let dataset = folder(path).unwrap();
    assert_eq!(dataset.shape().to_string(), "3x1x2");
    // One channel after the other.
    assert_eq!(bytes(&dataset, 0), [1, 1, 2, 2, 3, 4]);
    // 0.2 of the colour and 0.8 of white.
    assert_eq!(bytes(&dataset, 1), [204, 204, 224, 224, 255, 255]);
    assert_eq!((bytes(&dataset, 2), bytes(&dataset, 3)), (vec![7; 6], vec![128; 6]));
    let notes = dataset.notes().join("; ");
    for words in [
        "2 of 4 images are gray",
        "2 with transparency, laid over white",
        "1 with 16 bits",
    ] {
        assert!(notes.contains(words), "{notes}");
    }
    assert!(dataset.class_names().is_empty() && dataset.label(0).is_none());
}

#[test]
fn mixed_sizes_name_two_files_and_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    save(&path.join("a.png"), 4, 4, |_, _| Luma([9u8]));
    save(&path.join("b.png"), 4, 4, |_, _| Luma([9u8]));
    // Left and right of the middle square is something else, which the crop removes.
    save(&path.join("c.png"), 12, 4, |x, _| {
        Luma([if (4..8).contains(&x) { 50u8 } else { 250 }])
    });
    let error = folder(path).unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, DataError::MixedSizes { .. }), "{words}");
    assert!(words.contains("a.png is 4x4") && words.contains("c.png is 12x4") && words.contains("--image-size N"));
    let options = Options {
        image_size: Some(4),
        ..Options::default()
    };
    let dataset = read(path, &options).unwrap();
    assert_eq!((dataset.len(), bytes(&dataset, 2)), (3, vec![50; 16]));
    assert!(
        dataset
            .notes()
            .iter()
            .any(|note| note.contains("1 resized and cropped")),
        "{:?}",
        dataset.notes()
    );
    let error = read(
        path,
        &Options {
            image_size: Some(0),
            ..options
        },
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            DataError::InvalidOption {
                option: "--image-size",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn training_and_test_folders_are_parts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    save(&path.join("train/a/1.png"), 1, 1, |_, _| Luma([1u8]));
    save(&path.join("test/a/1.png"), 1, 1, |_, _| Luma([2u8]));
    let part = |part| {
        read(
            path,
            &Options {
                part,
                ..Options::default()
            },
        )
        .unwrap()
    };
    assert_eq!(bytes(&part(None), 0), [1]);
    assert_eq!(bytes(&part(Some(Part::Train)), 0), [1]);
    assert_eq!(bytes(&part(Some(Part::Test)), 0), [2]);
    save(&path.join("test/b/1.png"), 1, 1, |_, _| Luma([2u8]));
    assert!(folder(path).unwrap_err().to_string().contains("other sub-folders"));
    // With a third sub-folder they are classes like any other.
    save(&path.join("plane/1.png"), 1, 1, |_, _| Luma([3u8]));
    let options = Options {
        part: Some(Part::Test),
        ..Options::default()
    };
    let error = read(path, &options).unwrap_err();
    assert!(
        matches!(error, DataError::UnusedOption { option: "--part", .. }),
        "{error}"
    );
}

#[test]
fn unclear_layouts_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let words = |path: &Path| folder(path).unwrap_err().to_string();
    assert!(words(path).contains("no PNG or JPEG images"));
    fs::create_dir(path.join("empty")).unwrap();
    save(&path.join("full/1.png"), 1, 1, |_, _| Luma([1u8]));
    assert!(words(path).contains("empty: no PNG or JPEG images in this sub-folder"));
    fs::create_dir(path.join("full/deeper")).unwrap();
    fs::remove_dir(path.join("empty")).unwrap();
    assert!(words(path).contains("folders within the folder of a class"));
    save(&path.join("1.png"), 1, 1, |_, _| Luma([1u8]));
    assert!(words(path).contains("images beside sub-folders"));
    assert!(words(&path.join("nowhere")).contains("cannot read"));
}

/// A PNG of `size` x `size` with the colour type RGB and no pixels.
fn png_bomb(size: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(size.to_be_bytes());
    chunk.extend(size.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(&chunk);
    let mut crc = flate2::Crc::new();
    crc.update(&chunk);
    file.extend(crc.sum().to_be_bytes());
    file.extend(b"\0\0\0\x04IDAT\0\0\0\0\0\0\0\0");
    file
}

#[test]
fn an_image_that_announces_too_much_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bomb.png");
    for size in [u32::MAX >> 1, 60_000, 16_000] {
        fs::write(&file, png_bomb(size)).unwrap();
        let error = folder(directory.path()).unwrap_err();
        assert!(matches!(error, DataError::Unsupported { .. }), "{size}: {error}");
        assert!(error.to_string().contains("bomb.png"), "{error}");
    }
}

#[test]
fn truncated_images_are_errors_not_gray_areas() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.png", "a.jpg"] {
        let file = directory.path().join(name);
        save(&file, 32, 32, |x, y| Rgb([(x * y) as u8, (x * 7) as u8, (y * 5) as u8]));
        let whole = fs::read(&file).unwrap();
        for cut in [whole.len() / 2, whole.len() - 20, 20] {
            fs::write(&file, &whole[..whole.len() - cut]).unwrap();
            let error = folder(directory.path()).unwrap_err();
            assert!(matches!(error, DataError::Malformed { .. }), "{name} -{cut}: {error}");
        }
        fs::remove_file(&file).unwrap();
    }
}

/// A JPEG file whose EXIF orientation is 6: to be turned by 90 degrees.
#[test]
fn photographs_are_turned_upright() {
    let directory = tempfile::tempdir().unwrap();
    let mut jpeg = Cursor::new(Vec::new());
    let picture = ImageBuffer::from_fn(16, 8, |x, _| Luma([if x < 8 { 0u8 } else { 255 }]));
    picture.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
    let mut segment = vec![0xff, 0xe1];
    segment.extend((exif.len() as u16 + 2).to_be_bytes());
    segment.append(&mut exif);
    let mut file = fs::File::create(directory.path().join("a.jpeg")).unwrap();
    for part in [&jpeg.get_ref()[..2], &segment, &jpeg.get_ref()[2..]] {
        file.write_all(part).unwrap();
    }
    let dataset = folder(directory.path()).unwrap();
    assert_eq!(dataset.shape().to_string(), "1x16x8");
    let values = bytes(&dataset, 0);
    assert!(values[0] < 10 && values[16 * 8 - 1] > 245, "{values:?}");
    assert!(dataset.notes().iter().any(|note| note.contains("turned upright")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_images_never_panic(jpeg: bool, changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..4)) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(if jpeg { "a.jpg" } else { "a.png" });
        save(&file, 8, 8, |x, y| Rgb([(x * 30) as u8, (y * 30) as u8, 9u8]));
        let mut content = fs::read(&file).unwrap();
        for (at, value) in changes {
            let at = usize::from(at) % content.len();
            content[at] = value;
        }
        fs::write(&file, content).unwrap();
        if let Ok(dataset) = folder(directory.path()) {
            prop_assert_eq!(dataset.len(), 1);
        }
    }
}
