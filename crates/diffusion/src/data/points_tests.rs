use proptest::prelude::*;

use super::*;

fn draw(spec: &str) -> Dataset {
    spec.parse::<Points>().unwrap().dataset(7, PointScaling::Raw).unwrap()
}

fn rows(dataset: &Dataset) -> Vec<Vec<f64>> {
    (0..dataset.len())
        .map(|i| dataset.batch(&[i]).into_iter().map(f64::from).collect())
        .collect()
}

/// Standard errors for 20,000 points: 1 / sqrt(2 · 20,000) = 0.5 % of a std, 0.7 % of a std of a mean; four of them.
#[test]
fn a_gaussian_has_its_moments() {
    let dataset = draw("gaussian?std=0.5,2");
    let spectrum = dataset.spectrum();
    assert_eq!((dataset.len(), dataset.shape().values()), (20_000, 2));
    for (variance, std) in spectrum.variances.iter().zip([2.0, 0.5]) {
        assert!((variance.sqrt() / std - 1.0).abs() < 0.02, "{variance} {std}");
    }
    assert!(spectrum.mean[0].abs() < 0.5 * 0.028 && spectrum.mean[1].abs() < 2.0 * 0.028);
    assert_eq!(draw("gaussian?dimensions=1&count=5").shape().values(), 1);
    assert_eq!(draw("gaussian?std=0.1&dimensions=3&count=5").shape().values(), 3);
}

#[test]
fn a_mixture_stays_around_its_modes() {
    let dataset = draw("mixture?modes=5&radius=2&std=0.01&count=2000");
    assert_eq!(dataset.class_names().len(), 5);
    for (index, row) in rows(&dataset).iter().enumerate() {
        let angle = TAU * f64::from(dataset.label(index).unwrap()) / 5.0;
        let distance = (row[0] - 2.0 * angle.cos()).hypot(row[1] - 2.0 * angle.sin());
        assert!(distance < 0.06, "{distance}");
    }
    // 400 each, standard deviation 18.
    assert!(
        dataset
            .class_indices()
            .iter()
            .all(|members| members.len().abs_diff(400) < 90)
    );
}

#[test]
fn shapes_without_noise_are_their_formulas() {
    let moons = draw("moons?noise=0&count=500");
    for (index, row) in rows(&moons).iter().enumerate() {
        let (x, y) = if moons.label(index) == Some(0) {
            (row[0], row[1])
        } else {
            (1.0 - row[0], 0.5 - row[1])
        };
        assert!((x.hypot(y) - 1.0).abs() < 1e-6 && y > -1e-6);
    }
    for row in rows(&draw("swiss-roll?noise=0&count=500")) {
        let turn = 10.0 * row[0].hypot(row[1]);
        assert!((1.5 * PI - 1e-4..4.5 * PI + 1e-4).contains(&turn));
        assert!((row[0] - 0.1 * turn * turn.cos()).abs() < 1e-5);
    }
    let mut cells = std::collections::BTreeMap::new();
    for row in rows(&draw("checkerboard?count=8000")) {
        let cell = |value: f64| ((value + 2.0) as u32).min(3);
        *cells.entry((cell(row[0]), cell(row[1]))).or_insert(0u32) += 1;
    }
    // Eight dark cells of 1,000 points each, standard deviation 30.
    assert!(
        cells.len() == 8 && cells.values().all(|count| count.abs_diff(1_000) < 130),
        "{cells:?}"
    );
    assert!(cells.keys().all(|(column, row)| (column + row) % 2 == 0));
}

#[test]
fn a_point_depends_on_its_place_alone() {
    let (few, many) = (draw("moons?count=10"), draw("moons?count=1000"));
    let first: Vec<usize> = (0..10).collect();
    assert_eq!(few.batch(&first), many.batch(&first));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(
        pool.install(|| draw("moons?count=1000")).batch(&first),
        many.batch(&first)
    );
    let other = "moons?count=10"
        .parse::<Points>()
        .unwrap()
        .dataset(8, PointScaling::Raw)
        .unwrap();
    assert_ne!(few.batch(&first), other.batch(&first));
}

#[test]
fn a_wrong_key_is_named() {
    for (spec, words) in [
        ("sun", "the names are gaussian"),
        ("moons?std=1", "no key std"),
        ("moons?noise=-1", "noise is a number"),
        ("moons?noise=nan", "noise is a number"),
        ("moons?noise=1,2", "noise is one number"),
        ("moons?noise", "key=value"),
        ("moons?noise=1&noise=2", "twice"),
        ("moons?count=0", "count is a whole number"),
        ("moons?count=99999999999", "count is a whole number"),
        ("checkerboard?cells=3", "even"),
        ("gaussian?std=1,2&dimensions=3", "as many as stds"),
        ("gaussian?dimensions=0", "from 1 to"),
    ] {
        let error = spec.parse::<Points>().unwrap_err().to_string();
        assert!(error.contains(words), "{spec}: {error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(gaussian|mixture|moons|checkerboard|swiss-roll)?[?&=,.0-9a-z-]{0,24}") {
        if let Ok(points) = text.parse::<Points>() {
            prop_assert!(points.count * points.distribution.dimensions() <= GREATEST_COUNT);
        }
    }
}
