//! Procedural points: distributions simple enough to know, drawn one by one.
//!
//! Point `i` depends on the seed and on `i` alone, so a set does not change with the number of threads, and a larger
//! set starts with the smaller one.

use std::f64::consts::{PI, TAU};
use std::str::FromStr;

use rand::{Rng, RngExt as _};
use rand_distr::StandardNormal;
use rayon::prelude::*;
use train::random::{Purpose, stream};

use super::{DataError, Dataset, Labels, PointScaling};

/// The names that `points:NAME` understands.
pub const NAMES: [&str; 5] = ["gaussian", "mixture", "moons", "checkerboard", "swiss-roll"];

/// The draw of a point.
const POINT: Purpose = Purpose::named("procedural point");

const DEFAULT_COUNT: usize = 20_000;
const GREATEST_COUNT: usize = 100_000_000;

/// A distribution of points.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// Independent normal axes with zero mean and these standard deviations, one per axis.
    Gaussian {
        /// Standard deviation of each axis.
        std: Vec<f64>,
    },
    /// `modes` round Gaussians evenly spaced on a circle; the label is the mode.
    Mixture {
        /// The number of Gaussians.
        modes: u32,
        /// The radius of the circle.
        radius: f64,
        /// Their common standard deviation.
        std: f64,
    },
    /// Two interleaved half circles of radius 1, `(cos a, sin a)` and `(1 - cos a, 1/2 - sin a)` with `a` uniform on
    /// [0, pi]; the label says which.
    Moons {
        /// Standard deviation of the normal noise added to each axis.
        noise: f64,
    },
    /// Uniform on the dark cells of a checkerboard that covers [-2, 2] x [-2, 2].
    Checkerboard {
        /// Cells along each side, an even number.
        cells: u32,
    },
    /// The spiral `a (cos a, sin a) / 10` with `a` uniform on [3 pi / 2, 9 pi / 2].
    SwissRoll {
        /// Standard deviation of the normal noise added to each axis.
        noise: f64,
    },
}

/// A distribution and how many points to draw from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// What to draw from.
    pub distribution: Distribution,
    /// How many points.
    pub count: usize,
}

impl Distribution {
    /// The number of coordinates.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        match self {
            Self::Gaussian { std } => std.len(),
            _ => 2,
        }
    }

    /// The number of classes; none if points have no labels.
    #[must_use]
    pub fn classes(&self) -> Option<u32> {
        match self {
            Self::Mixture { modes, .. } => Some(*modes),
            Self::Moons { .. } => Some(2),
            _ => None,
        }
    }

    /// Draws one point into `out`, which has [`Distribution::dimensions`] places, and gives its class (0 without
    /// labels).
    pub fn draw(&self, rng: &mut impl Rng, out: &mut [f32]) -> u32 {
        let (point, noise, class) = match self {
            Self::Gaussian { std } => {
                for (out, std) in out.iter_mut().zip(std) {
                    *out = (std * rng.sample::<f64, _>(StandardNormal)) as f32;
                }
                return 0;
            }
            Self::Mixture { modes, radius, std } => {
                let mode = rng.random_range(0..*modes);
                let angle = TAU * f64::from(mode) / f64::from(*modes);
                ([radius * angle.cos(), radius * angle.sin()], *std, mode)
            }
            Self::Moons { noise } => {
                let moon = rng.random_range(0..2);
                let (sin, cos) = rng.random_range(0.0..PI).sin_cos();
                let point = if moon == 0 { [cos, sin] } else { [1.0 - cos, 0.5 - sin] };
                (point, *noise, moon)
            }
            Self::Checkerboard { cells } => {
                let (column, half_row) = (rng.random_range(0..*cells), rng.random_range(0..cells / 2));
                let row = 2 * half_row + column % 2;
                let mut place = |cell: u32| -2.0 + 4.0 * (f64::from(cell) + rng.random::<f64>()) / f64::from(*cells);
                ([place(column), place(row)], 0.0, 0)
            }
            Self::SwissRoll { noise } => {
                let angle = rng.random_range(1.5 * PI..4.5 * PI);
                ([0.1 * angle * angle.cos(), 0.1 * angle * angle.sin()], *noise, 0)
            }
        };
        for (out, coordinate) in out.iter_mut().zip(point) {
            *out = (coordinate + noise * rng.sample::<f64, _>(StandardNormal)) as f32;
        }
        class
    }
}

impl Points {
    /// Draws the points with `seed`.
    ///
    /// # Errors
    /// Those of [`Dataset::points`].
    pub fn dataset(&self, seed: u64, scaling: PointScaling) -> Result<Dataset, DataError> {
        let (distribution, dimensions) = (&self.distribution, self.distribution.dimensions());
        let mut values = vec![0.0; self.count * dimensions];
        let mut classes = vec![0; self.count];
        values
            .par_chunks_mut(dimensions)
            .zip(&mut classes)
            .enumerate()
            .for_each(|(index, (out, class))| {
                *class = distribution.draw(&mut stream(seed, POINT, index as u64, 0), out);
            });
        let dataset = Dataset::points(self.name(), dimensions, values, None, scaling)?;
        match distribution.classes() {
            Some(count) => dataset.with_labels(Labels {
                classes,
                names: (0..count).map(|class| class.to_string()).collect(),
            }),
            None => Ok(dataset),
        }
    }

    fn name(&self) -> String {
        let name = match self.distribution {
            Distribution::Gaussian { .. } => "gaussian",
            Distribution::Mixture { .. } => "mixture",
            Distribution::Moons { .. } => "moons",
            Distribution::Checkerboard { .. } => "checkerboard",
            Distribution::SwissRoll { .. } => "swiss-roll",
        };
        format!("points:{name}")
    }
}

impl FromStr for Points {
    type Err = DataError;

    /// `NAME` or `NAME?key=value&key=value`, the part after `points:`. Every name takes `count`; further
    ///
    /// | name | keys, with their defaults |
    /// | --- | --- |
    /// | `gaussian` | `std=1` (or one per axis, `std=0.5,2`), `dimensions=2` |
    /// | `mixture` | `modes=8`, `radius=1`, `std=0.05` |
    /// | `moons` | `noise=0.05` |
    /// | `checkerboard` | `cells=4` |
    /// | `swiss-roll` | `noise=0.03` |
    fn from_str(text: &str) -> Result<Self, DataError> {
        let mut keys = Keys::parse(text)?;
        let distribution = match keys.name {
            "gaussian" => {
                let mut std = keys.numbers("std", 1.0)?;
                let dimensions = match (keys.raw("dimensions"), std.len()) {
                    (None, 1) => 2,
                    (None, axes) => axes,
                    (Some(text), axes) => match text.parse() {
                        Ok(dimensions @ 1..=65_536) if axes == 1 || axes == dimensions => dimensions,
                        _ => return Err(keys.problem("dimensions is a number from 1 to 65536, as many as stds")),
                    },
                };
                std.resize(dimensions, std[0]);
                Distribution::Gaussian { std }
            }
            "mixture" => Distribution::Mixture {
                modes: keys.count("modes", 8, 1..=100_000)? as u32,
                radius: keys.number("radius", 1.0)?,
                std: keys.number("std", 0.05)?,
            },
            "moons" => Distribution::Moons {
                noise: keys.number("noise", 0.05)?,
            },
            "checkerboard" => {
                let cells = keys.count("cells", 4, 2..=1_000)?;
                if cells % 2 == 1 {
                    return Err(keys.problem("cells is an even number"));
                }
                Distribution::Checkerboard { cells: cells as u32 }
            }
            "swiss-roll" => Distribution::SwissRoll {
                noise: keys.number("noise", 0.03)?,
            },
            _ => return Err(keys.problem(&format!("the names are {}", NAMES.join(", ")))),
        };
        let most = GREATEST_COUNT / distribution.dimensions();
        let count = keys.count("count", DEFAULT_COUNT.min(most), 1..=most)?;
        keys.finish()?;
        Ok(Self { distribution, count })
    }
}

/// A name and its keys; each key is taken once, and none may be left over.
struct Keys<'a> {
    text: &'a str,
    name: &'a str,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Keys<'a> {
    fn parse(text: &'a str) -> Result<Self, DataError> {
        let (name, rest) = text.split_once('?').unwrap_or((text, ""));
        let mut keys = Self {
            text,
            name,
            pairs: Vec::new(),
        };
        for pair in rest.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, _)) if keys.pairs.iter().any(|(other, _)| *other == key) => {
                    return Err(keys.problem(&format!("{key} is given twice")));
                }
                Some(pair) => keys.pairs.push(pair),
                None => return Err(keys.problem("keys are written key=value, with & between them")),
            }
        }
        Ok(keys)
    }

    fn problem(&self, problem: &str) -> DataError {
        DataError::InvalidOption {
            option: "points",
            value: self.text.to_owned(),
            problem: problem.to_owned(),
        }
    }

    fn raw(&mut self, key: &str) -> Option<&'a str> {
        let at = self.pairs.iter().position(|(other, _)| *other == key)?;
        Some(self.pairs.swap_remove(at).1)
    }

    fn numbers(&mut self, key: &str, default: f64) -> Result<Vec<f64>, DataError> {
        let Some(text) = self.raw(key) else {
            return Ok(vec![default]);
        };
        let sound = |number: &f64| (0.0..=1e6).contains(number);
        let numbers: Option<Vec<f64>> = text
            .split(',')
            .map(|number| number.parse().ok().filter(sound))
            .collect();
        numbers.ok_or_else(|| self.problem(&format!("{key} is a number from 0 to 1000000")))
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64, DataError> {
        match self.numbers(key, default)?[..] {
            [number] => Ok(number),
            _ => Err(self.problem(&format!("{key} is one number"))),
        }
    }

    fn count(
        &mut self,
        key: &str,
        default: usize,
        allowed: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, DataError> {
        let Some(text) = self.raw(key) else { return Ok(default) };
        text.parse()
            .ok()
            .filter(|count| allowed.contains(count))
            .ok_or_else(|| {
                self.problem(&format!(
                    "{key} is a whole number from {} to {}",
                    allowed.start(),
                    allowed.end()
                ))
            })
    }

    fn finish(self) -> Result<(), DataError> {
        match self.pairs.first() {
            Some((key, _)) => Err(self.problem(&format!("{} has no key {key}", self.name))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "points_tests.rs"]
mod tests;
