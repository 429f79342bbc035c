use proptest::prelude::*;

use super::*;

/// Points 0, 1, 2, ... on a line, with the classes 0, 1, 2, 0, 1, 2, ...
fn line(count: usize) -> Dataset {
    let values = (0..count).map(|value| value as f32).collect();
    let labels = Labels::from_numbers("line", (0..count).map(|i| (i % 3) as i64)).unwrap();
    Dataset::points("line", 1, values, None, PointScaling::Raw)
        .unwrap()
        .with_labels(labels)
        .unwrap()
}

fn all(dataset: &Dataset) -> Vec<usize> {
    dataset
        .batch(&(0..dataset.len()).collect::<Vec<_>>())
        .iter()
        .map(|value| *value as usize)
        .collect()
}

#[test]
fn pixels_stay_bytes_and_read_as_minus_one_to_one() {
    let shape = Shape::Image {
        channels: 1,
        height: 1,
        width: 2,
    };
    let dataset = Dataset::images(
        "test",
        shape,
        Values::Bytes(vec![0, 255, 51, 204]),
        Some(ValueRange::BYTE),
    )
    .unwrap();
    let mut sample = [0.0; 2];
    dataset.sample_into(1, &mut sample);
    assert_eq!((dataset.len(), sample), (2, [-0.6, 0.6]));
    assert!(dataset.label(0).is_none() && dataset.class_indices().is_empty());
}

#[test]
fn faulty_values_name_their_row() {
    let shape = Shape::Points { dimensions: 2 };
    let floats = |values: &[f32]| Dataset::new("test", shape, Values::Floats(values.to_vec()), Scaling::identity());
    assert!(matches!(
        floats(&[0.0, 1.0, f32::NAN, 0.0]).unwrap_err(),
        DataError::NotFinite { row: 1, .. }
    ));
    assert!(matches!(floats(&[0.0; 3]).unwrap_err(), DataError::Length { .. }));
    assert!(matches!(floats(&[]).unwrap_err(), DataError::Empty { .. }));
    let image = Shape::Image {
        channels: 1,
        height: 1,
        width: 1,
    };
    let range = ValueRange::new(0.0, 16.0).unwrap();
    let error = Dataset::images("test", image, Values::Bytes(vec![0, 16, 17]), Some(range)).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::OutOfRange {
                row: 2,
                value: 17.0,
                ..
            }
        ),
        "{error}"
    );
    let error = Dataset::images("test", image, Values::Bytes(vec![3, 3]), None).unwrap_err();
    assert!(matches!(error, DataError::Constant { value: 3.0, .. }), "{error}");
}

#[test]
fn labels_must_fit() {
    let points = Dataset::points("test", 1, vec![0.0, 1.0], None, PointScaling::Raw).unwrap();
    let labels = Labels::from_numbers("test", [0]).unwrap();
    assert!(matches!(
        points.clone().with_labels(labels).unwrap_err(),
        DataError::LabelCount { labels: 1, .. }
    ));
    let nameless = Labels {
        classes: vec![0, 1],
        names: vec!["only".to_owned()],
    };
    assert!(matches!(
        points.with_labels(nameless).unwrap_err(),
        DataError::Label { row: 1, .. }
    ));
    for wrong in [-1, 256, i64::MAX, i64::MIN] {
        let error = Labels::from_numbers("test", [0, wrong]).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::Label {
                    row: 1,
                    greatest: 255,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_limit_is_spread_evenly() {
    assert_eq!(all(&line(10).limit(4)), [0, 2, 5, 7]);
    assert_eq!(all(&line(3).limit(10)), [0, 1, 2]);
    assert!(line(3).limit(0).is_empty());
    assert_eq!(all(&line(10).select(&[7, 3, 9]).limit(2)), [7, 3]);
}

#[test]
fn labels_and_classes_follow_a_selection() {
    let chosen = line(9).select(&[8, 1, 3]);
    assert_eq!(
        (0..3).map(|i| chosen.label(i)).collect::<Vec<_>>(),
        [Some(2), Some(1), Some(0)]
    );
    assert_eq!(chosen.class_indices(), [vec![2], vec![1], vec![0]]);
    assert_eq!(chosen.class_names(), ["0", "1", "2"]);
}

#[test]
fn the_split_is_fixed_by_its_seed() {
    let (train, held_out) = line(100).split(10, 1).unwrap();
    assert_eq!((train.len(), held_out.len()), (90, 10));
    assert_eq!(all(&line(100).split(10, 1).unwrap().1), all(&held_out));
    assert_ne!(all(&line(100).split(10, 2).unwrap().1), all(&held_out));
    assert!(matches!(
        line(3).split(3, 0).unwrap_err(),
        DataError::TooFew {
            wanted: 4,
            available: 3,
            ..
        }
    ));
    assert!(line(3).split(usize::MAX, 0).is_err());
    assert!(line(3).split(0, 0).unwrap().1.is_empty());
}

proptest! {
    #[test]
    fn a_split_keeps_every_sample_once(count in 2usize..60, held_out in 0usize..60, seed: u64) {
        prop_assume!(held_out < count);
        let (train, held_out) = line(count).split(held_out, seed).unwrap();
        let (train, held_out) = (all(&train), all(&held_out));
        prop_assert!(train.is_sorted() && held_out.is_sorted());
        let mut together = [train, held_out].concat();
        together.sort_unstable();
        prop_assert_eq!(together, (0..count).collect::<Vec<_>>());
    }
}
