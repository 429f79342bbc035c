//! The frequencies of rotary positions.

use std::f64::consts::TAU;

/// Rotary positions: a base and how it was stretched for longer texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// The base of the geometric sequence of wavelengths (`rope_theta`).
    pub base: f64,
    /// How frequencies differ from the plain sequence.
    pub scaling: RopeScaling,
}

/// How the frequencies were changed for texts longer than those of the first training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided, high ones kept, with a ramp between.
    Llama3 {
        /// The factor for low frequencies.
        factor: f64,
        /// Wavelengths above the original length over this are divided.
        low: f64,
        /// Wavelengths below the original length over this are kept.
        high: f64,
        /// The length of the first training's texts.
        original: f64,
    },
    /// YaRN (Peng et al. 2023): a ramp over the dimensions, and scores sharpened.
    Yarn {
        /// The factor for low frequencies.
        factor: f64,
        /// Turns within the original length above which a frequency is kept.
        fast: f64,
        /// Turns below which it is divided.
        slow: f64,
        /// The length of the first training's texts.
        original: f64,
        /// Factor on the rotated queries and keys.
        attention: f64,
    },
}

impl Rope {
    /// The frequency of each pair of a head of `size` values, in radians per position.
    #[must_use]
    pub fn frequencies(&self, size: usize) -> Vec<f64> {
        let half = size / 2;
        let plain = |i: usize| self.base.powf(-((2 * i) as f64) / size as f64);
        (0..half)
            .map(|i| match self.scaling {
                RopeScaling::None => plain(i),
                RopeScaling::Linear { factor } => plain(i) / factor,
                RopeScaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    // How many turns fit into the original length: below `low` stretched, above `high` kept.
                    let turns = original * plain(i) / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    plain(i) * (kept + (1.0 - kept) / factor)
                }
                RopeScaling::Yarn {
                    factor,
                    fast,
                    slow,
                    original,
                    ..
                } => {
                    // The dimension whose frequency turns so often within the original length.
                    let dimension = |turns: f64| size as f64 * (original / (turns * TAU)).ln() / (2.0 * self.base.ln());
                    let first = dimension(fast).floor().max(0.0);
                    let mut last = dimension(slow).ceil().min(size as f64 - 1.0);
                    if first == last {
                        last += 0.001;
                    }
                    let stretched = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                    plain(i) * (1.0 - stretched + stretched / factor)
                }
            })
            .collect()
    }

    /// The factor on rotated queries and keys.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention, .. } => attention,
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
        }
    }

    #[test]
    fn plain_frequencies_are_a_geometric_sequence() {
        let rope = Rope {
            base: 10_000.0,
            scaling: RopeScaling::None,
        };
        close(&rope.frequencies(8), &[1.0, 0.1, 0.01, 0.001]);
        let half = Rope {
            scaling: RopeScaling::Linear { factor: 2.0 },
            ..rope
        };
        close(&half.frequencies(8), &[0.5, 0.05, 0.005, 0.0005]);
    }

    #[test]
    fn llama3_keeps_the_fast_and_stretches_the_slow() {
        let rope = Rope {
            base: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low: 1.0,
                high: 4.0,
                original: 8192.0,
            },
        };
        let plain = Rope {
            scaling: RopeScaling::None,
            ..rope
        };
        let (scaled, plain) = (rope.frequencies(128), plain.frequencies(128));
        assert_eq!(scaled[0], plain[0]);
        close(&[scaled[63]], &[plain[63] / 8.0]);
        // Between: 8192 / (2 pi / f) = 2.5 turns are half kept.
        let at = plain.iter().position(|f| 8192.0 * f / TAU < 4.0).unwrap();
        let turns = 8192.0 * plain[at] / TAU;
        let smooth = (turns - 1.0) / 3.0;
        close(&[scaled[at]], &[(1.0 - smooth) * plain[at] / 8.0 + smooth * plain[at]]);
    }
}
