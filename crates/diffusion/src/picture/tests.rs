use std::io::Cursor;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const GRAY: Shape = Shape::Image {
    channels: 1,
    height: 1,
    width: 2,
};

fn layout(columns: usize, enlarge: usize, gap: usize) -> Layout {
    Layout { columns, enlarge, gap }
}

fn decoded(raster: &Raster) -> (u32, u32, Vec<u8>) {
    let image = image::load_from_memory(&raster.encode().unwrap()).unwrap();
    (image.width(), image.height(), image.into_bytes())
}

#[test]
fn a_grid_runs_row_by_row_with_gaps_between() {
    let samples = [-1.0, 1.0, 0.0, 0.2, 5.0, -5.0];
    let raster = grid(&samples, GRAY, &layout(2, 1, 1)).unwrap();
    #[rustfmt::skip]
    let expected = vec![
        0, 255, 255, 128, 153,
        255, 255, 255, 255, 255,
        255, 0, 255, 255, 255,
    ];
    assert_eq!(decoded(&raster), (5, 3, expected));
}

#[test]
fn an_enlarged_pixel_is_a_square() {
    let raster = grid(&[-1.0, 1.0], GRAY, &layout(9, 2, 3)).unwrap();
    assert_eq!(decoded(&raster), (4, 2, vec![0, 0, 255, 255, 0, 0, 255, 255]));
}

#[test]
fn channels_stand_one_after_another_in_a_sample() {
    let shape = Shape::Image {
        channels: 3,
        height: 1,
        width: 2,
    };
    let raster = grid(&[-1.0, 1.0, 1.0, 1.0, 0.2, -1.0], shape, &layout(1, 1, 0)).unwrap();
    assert_eq!(decoded(&raster), (2, 1, vec![0, 255, 153, 255, 255, 0]));
}

#[test]
fn a_path_has_a_row_for_each_sample() {
    let shape = Shape::Image {
        channels: 1,
        height: 1,
        width: 1,
    };
    let levels = [vec![-1.0, 1.0], vec![0.2, -0.2], vec![1.0, -1.0]];
    let raster = path(&levels, shape, &layout(1, 1, 0)).unwrap();
    assert_eq!(decoded(&raster), (3, 2, vec![0, 153, 255, 255, 102, 0]));
    let uneven = [vec![0.0, 0.0], vec![0.0]];
    assert!(matches!(
        path(&uneven, shape, &layout(1, 1, 0)).unwrap_err(),
        PictureError::Count { values: 1, .. }
    ));
    assert!(matches!(
        path(&[], shape, &layout(1, 1, 0)).unwrap_err(),
        PictureError::Empty
    ));
}

#[test]
fn what_cannot_be_shown_is_explained() {
    let any = layout(1, 1, 0);
    assert!(matches!(grid(&[], GRAY, &any).unwrap_err(), PictureError::Empty));
    assert!(matches!(
        grid(&[0.0; 3], GRAY, &any).unwrap_err(),
        PictureError::Count { .. }
    ));
    let latents = Shape::Image {
        channels: 4,
        height: 1,
        width: 1,
    };
    assert!(grid(&[0.0; 4], latents, &any).unwrap_err().to_string().contains(".npy"));
    let diverged = grid(&[0.0, 0.0, 0.0, f32::NAN], GRAY, &any).unwrap_err();
    assert!(
        matches!(diverged, PictureError::NotFinite { sample: 1, .. }),
        "{diverged}"
    );
    for large in [
        layout(1, usize::MAX, 0),
        layout(1, 20_000, usize::MAX),
        layout(1, 1, 1 << 40),
    ] {
        assert!(matches!(
            grid(&[0.0; 4], GRAY, &large).unwrap_err(),
            PictureError::TooLarge { .. }
        ));
    }
}

#[test]
fn a_square_layout_makes_small_images_visible() {
    let digits: Shape = "1x8x8".parse().unwrap();
    assert_eq!(Layout::square(digits, 64), layout(8, 7, 2));
    assert_eq!(Layout::square("3x256x256".parse().unwrap(), 10), layout(4, 1, 2));
}

#[test]
fn an_animation_holds_every_frame_and_shows_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.png");
    let frames: Vec<Raster> = [-1.0, 0.2, 1.0]
        .iter()
        .map(|value| grid(&[*value; 2], GRAY, &layout(1, 1, 0)).unwrap())
        .collect();
    write_animation(&file, &frames, Timing { frame: 50, last: 900 }).unwrap();
    let mut reader = png::Decoder::new(Cursor::new(std::fs::read(&file).unwrap()))
        .read_info()
        .unwrap();
    assert_eq!(reader.info().animation_control.unwrap().num_frames, 3);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        seen.push((
            pixels[0],
            reader.info().frame_control.map_or(0, |control| control.delay_num),
        ));
    }
    assert_eq!(seen, [(255, 0), (0, 50), (153, 50), (255, 900)]);
    let other = grid(&[0.0; 4], GRAY, &layout(1, 1, 0)).unwrap();
    let uneven = write_animation(&file, &[frames[0].clone(), other], Timing::default()).unwrap_err();
    assert!(matches!(uneven, PictureError::Count { .. }), "{uneven}");
    assert!(matches!(
        write_animation(&file, &[], Timing::default()).unwrap_err(),
        PictureError::Empty
    ));
}

#[test]
fn points_are_drawn_where_they_are() {
    // Left below, right above, and one in the middle: the square reaches 0.1 beyond 0 to 2 altogether.
    let points = [0.0, 0.0, 2.0, 2.0, 1.0, 1.0];
    let raster = scatter(
        &[Layer {
            points: &points,
            color: [0, 0, 0],
        }],
        110,
    )
    .unwrap();
    let dark = |x: usize, y: usize| raster.pixels()[3 * (y * 110 + x)] < 30;
    assert!(dark(5, 105) && dark(105, 5) && dark(55, 55), "points are missing");
    assert!(!dark(5, 5) && !dark(104, 104) && !dark(30, 54));
    let coloured = raster.pixels().iter().filter(|value| **value < 255).count() / 3;
    assert!((3..30).contains(&coloured), "{coloured}");
}

#[test]
fn density_shows_and_layers_lie_over_each_other() {
    let mut points: Vec<f32> = (0..20_000)
        .flat_map(|i| [(i % 200) as f32, (i / 200) as f32 * 2.0])
        .collect();
    points.extend([100.0, 100.0].repeat(500));
    let raster = scatter(
        &[Layer {
            points: &points,
            color: Layer::DATA,
        }],
        100,
    )
    .unwrap();
    let place = |value: f32| (value - 99.5) / (1.1 * 199.0) * 100.0 + 50.0;
    let value = |x: f32, y: f32| raster.pixels()[3 * ((100.0 - place(y)) as usize * 100 + place(x) as usize)];
    assert!(value(100.0, 100.0) <= 151 && value(20.0, 20.0) > 151 && value(20.0, 20.0) < 255);
    let layers = [
        Layer {
            points: &[0.0, 0.0],
            color: [255, 0, 0],
        },
        Layer {
            points: &[0.0, 0.0],
            color: [0, 0, 255],
        },
    ];
    let both = scatter(&layers, 20).unwrap();
    let pixel = &both.pixels()[3 * (10 * 20 + 10)..][..3];
    assert!(pixel[2] > 200 && pixel[0] < 30, "{pixel:?}");
}

#[test]
fn points_that_cannot_be_drawn_are_explained() {
    let layer = |points| {
        [Layer {
            points,
            color: Layer::SAMPLES,
        }]
    };
    assert!(matches!(scatter(&layer(&[]), 10).unwrap_err(), PictureError::Empty));
    assert!(matches!(
        scatter(&layer(&[1.0]), 10).unwrap_err(),
        PictureError::Count { .. }
    ));
    let diverged = scatter(&layer(&[1.0, 1.0, 1.0, f32::INFINITY]), 10).unwrap_err();
    assert!(
        matches!(diverged, PictureError::NotFinite { sample: 1, .. }),
        "{diverged}"
    );
    assert!(matches!(
        scatter(&layer(&[1.0, 1.0]), 1 << 20).unwrap_err(),
        PictureError::TooLarge { .. }
    ));
    assert!(scatter(&layer(&[f32::MAX, -f32::MAX, -f32::MAX, f32::MAX]), 10).is_ok());
}

#[test]
fn a_picture_that_cannot_be_written_names_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let raster = grid(&[0.0; 2], GRAY, &layout(1, 1, 0)).unwrap();
    let error = raster.write(&directory.path().join("missing/a.png")).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(raster.write(Path::new("/dev/null/a.png")).is_err());
    raster.write(&directory.path().join("a.png")).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// Every write to /dev/full fails as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_files() {
    let directory = tempfile::tempdir().unwrap();
    let raster = grid(&[0.0; 2], GRAY, &layout(1, 1, 0)).unwrap();
    let fill = |name: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink("/dev/full", directory.path().join(format!(".{name}.partial"))).unwrap();
        path
    };
    let (picture, animation, array) = (fill("a.png"), fill("b.png"), fill("c.npy"));
    for (path, words) in [
        (&picture, raster.write(&picture).unwrap_err().to_string()),
        (
            &animation,
            write_animation(&animation, std::slice::from_ref(&raster), Timing::default())
                .unwrap_err()
                .to_string(),
        ),
        (
            &array,
            crate::data::npy::write_f32(&array, &[1], &[0.0])
                .unwrap_err()
                .to_string(),
        ),
    ] {
        assert!(words.contains("free some space"), "{words}");
        assert_eq!(std::fs::read(path).unwrap(), b"old");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
}

proptest! {
    #[test]
    fn any_finite_points_can_be_drawn(
        points in proptest::collection::vec(prop_oneof![-1e3f32..1e3, -1e-30f32..1e-30, Just(f32::MAX), Just(-f32::MAX)], 1..20),
        side in 1usize..60,
    ) {
        let points: Vec<f32> = points.iter().flat_map(|value| [*value, -*value]).collect();
        let raster = scatter(&[Layer { points: &points, color: [0, 0, 0] }], side).unwrap();
        prop_assert!(raster.pixels().iter().any(|value| *value < 255));
    }
}
