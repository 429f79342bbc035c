//! An axis with ticks of our choice: logarithmic levels with a place for 0 and infinity, linear or logarithmic stds.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Maps numbers to places on a line, and has ticks there.
#[derive(Clone, Debug)]
pub struct Axis {
    scale: Scale,
    range: Range<f64>,
    /// Places and what stands there.
    ticks: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Linear,
    Logarithmic,
    /// Logarithmic from right to left, with 0 and infinity a little outside the ends.
    Levels {
        zero: f64,
        infinity: f64,
    },
}

impl Axis {
    /// An axis for noise levels, the highest on the left.
    pub fn of_levels(levels: impl Iterator<Item = f64> + Clone) -> Self {
        let regular = levels.clone().filter(|&sigma| sigma > 0.0 && sigma.is_finite());
        let (mut low, mut high) = bounds(regular.map(f64::log10)).unwrap_or((0.0, 0.0));
        if high - low < 0.5 {
            (low, high) = (low - 0.25, high + 0.25);
        }
        let gap = 0.08 * (high - low);
        let scale = Scale::Levels {
            zero: gap - low,
            infinity: -high - gap,
        };
        let mut axis = Self {
            scale,
            range: -high..-low,
            ticks: Vec::new(),
        };
        axis.ticks = log_ticks(low, high)
            .into_iter()
            .map(|value| (axis.place(value), word(value)))
            .collect();
        for (special, name) in [(0.0, "0"), (f64::INFINITY, "inf")] {
            if levels.clone().any(|sigma| sigma == special) {
                let place = axis.place(special);
                // A tick too close to it would be written over.
                axis.ticks.retain(|(tick, _)| (tick - place).abs() > 0.6 * gap);
                axis.ticks.push((place, name.to_owned()));
                axis.range = axis.range.start.min(place)..axis.range.end.max(place);
            }
        }
        axis
    }

    /// An axis for standard deviations: from 0 if they are alike in size, logarithmic if they span more than a
    /// factor of 30.
    pub fn of_stds(stds: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = stds.clone().filter(|&std| std > 0.0 && std.is_finite());
        let (low, high) = bounds(positive).unwrap_or((1.0, 1.0));
        if high / low > 30.0 {
            let (low, high) = (low.log10() - 0.05, high.log10() + 0.05);
            let ticks = log_ticks(low, high)
                .into_iter()
                .map(|value| (value.log10(), word(value)))
                .collect();
            return Self {
                scale: Scale::Logarithmic,
                range: low..high,
                ticks,
            };
        }
        let step = round_step(high / 6.0);
        let count = (1.05 * high / step).floor() as usize;
        let ticks = (0..=count)
            .map(|index| index as f64 * step)
            .map(|value| (value, word(value)))
            .collect();
        Self {
            scale: Scale::Linear,
            range: 0.0..1.05 * high,
            ticks,
        }
    }

    /// Where a number lies, kept within the axis.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.log10(),
            Scale::Levels { zero, .. } if value == 0.0 => return zero,
            Scale::Levels { infinity, .. } if value.is_infinite() => return infinity,
            Scale::Levels { .. } => -value.log10(),
        };
        place.clamp(self.range.start, self.range.end)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        let fraction = (place - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (fraction * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        self.ticks
            .iter()
            .find(|(tick, _)| tick == place)
            .map(|(_, word)| word.clone())
            .unwrap_or_default()
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| match bounds {
        None => Some((value, value)),
        Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
    })
}

/// Powers of ten between two logarithms, thinned where there are many, with 2 and 5 between them where there are few.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = high - low;
    let factors: &[f64] = if decades < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let stride = (decades / 8.0).ceil().max(1.0) as i32;
    let (first, last) = (low.floor() as i32, high.ceil() as i32);
    (first..=last)
        .filter(|exponent| exponent.rem_euclid(stride) == 0)
        .flat_map(|exponent| factors.iter().map(move |factor| factor * 10.0_f64.powi(exponent)))
        .filter(|value| (low..=high).contains(&value.log10()))
        .collect()
}

/// The nearest of 1, 2 and 5 times a power of ten at or above a step.
fn round_step(step: f64) -> f64 {
    let power = 10.0_f64.powf(step.log10().floor());
    let candidates = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    candidates
        .into_iter()
        .find(|&candidate| candidate >= step * (1.0 - 1e-9))
        .unwrap_or(step)
}

/// A tick's number without trailing noise.
fn word(value: f64) -> String {
    if value == 0.0 || (1e-4..1e5).contains(&value) {
        let text = format!("{value:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.0e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_run_down_with_zero_and_infinity_outside() {
        let axis = Axis::of_levels([f64::INFINITY, 100.0, 1.0, 0.01, 0.0].into_iter());
        let places: Vec<f64> = [f64::INFINITY, 100.0, 1.0, 0.01, 0.0]
            .map(|sigma| axis.place(sigma))
            .to_vec();
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
        assert_eq!((axis.range.start, axis.range.end), (places[0], places[4]));
        let words: Vec<&str> = axis.ticks.iter().map(|(_, word)| word.as_str()).collect();
        assert!(
            words.contains(&"0") && words.contains(&"inf") && words.contains(&"1"),
            "{words:?}"
        );
    }

    #[test]
    fn a_single_level_still_has_an_axis() {
        let axis = Axis::of_levels([3.0, 0.0].into_iter());
        assert!(axis.range.end > axis.range.start);
        let nothing = Axis::of_levels([0.0].into_iter());
        assert!(nothing.range.end > nothing.range.start);
    }

    #[test]
    fn stds_are_linear_until_they_spread() {
        let linear = Axis::of_stds([0.5, 1.0].into_iter());
        assert_eq!((linear.scale, linear.place(0.0)), (Scale::Linear, 0.0));
        assert!(linear.ticks.iter().any(|(_, word)| word == "0.2"), "{:?}", linear.ticks);
        let spread = Axis::of_stds([0.01, 15.0].into_iter());
        assert_eq!(spread.scale, Scale::Logarithmic);
        // A std of 0 has no logarithm: it is drawn at the lower edge.
        assert_eq!(spread.place(0.0), spread.range.start);
    }
}
