//! Losses of a pair of responses beside the likelihood, as functions of what training moves: the log-ratios
//! `a = ln(pi / pi_ref)` of the better response and `b` of the worse one.
//!
//! With `d = a - b` and `s` the sigmoid. Each is of a paper that is named with it; the forms are those that TRL trains
//! with, so that its users find their losses.

use std::fmt;
use std::str::FromStr;

use crate::log_space::{log_sigmoid, sigmoid};

/// Which loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PairLoss {
    /// `-ln s(beta d - margin)`: the Bradley-Terry likelihood. Smoothed by `e` it is
    /// `-(1 - e) ln s(beta d - margin) - e ln s(margin - beta d)`, for labels of which a share e is wrong.
    ///
    /// Rafailov et al. 2023, "Direct Preference Optimization", equation 7; smoothing: Mitchell 2023, "A note on DPO with
    /// noisy preferences"; margins: Touvron et al. 2023, "Llama 2", equation 2.
    #[default]
    Sigmoid,
    /// `-ln s(beta d)` of log-ratios averaged over each response's tokens.
    ///
    /// Meng et al. 2024, "SimPO", has that average; with a reference it is DPO's length-normalised form.
    SigmoidNorm,
    /// `(-(1 - e) ln s(beta d) + e ln s(-beta d)) / (1 - 2 e)`: without bias where a share e of the labels is wrong.
    ///
    /// Chowdhury et al. 2024, "Provably Robust DPO", equation 8.
    Robust,
    /// `max(0, 1 - beta d)`.
    ///
    /// Zhao et al. 2023, "SLiC-HF", with DPO's reward as in Liu et al. 2024, "Statistical Rejection Sampling".
    Hinge,
    /// `(d - 1 / (2 beta))²` of log-ratios averaged over each response's tokens.
    ///
    /// Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences", equation 17; the
    /// average is as its authors ran it.
    Ipo,
    /// The divergence of `[s(beta d), s(-beta d)]` from `[1 - e, e]`.
    ///
    /// Ji et al. 2024, "Towards Efficient Exact Optimization of Language Model Alignment", equation 16.
    ExoPair,
    /// `-ln s(beta a) - ln s(-beta a) / 2 - ln s(-beta b) / 2`.
    ///
    /// Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards", for pairs.
    NcaPair,
    /// `(a - 1 / (2 beta))² + (b + 1 / (2 beta))²`.
    ///
    /// Wu et al. 2024, "Self-Play Preference Optimization", equation 4.7, with certain preferences.
    SppoHard,
    /// `1 - s(beta a) + s(beta b)`: for chosen responses that are better than the model's own.
    ///
    /// D'Oosterlinck et al. 2024, "Anchored Preference Optimization", equation 7.
    ApoZero,
    /// `s(beta a) + 1 - s(beta d)`: for chosen responses that are worse than the model's own.
    ///
    /// D'Oosterlinck et al. 2024, equation 8.
    ApoDown,
    /// `-ln s(beta d) (1 - m) + exp(-beta d) m` with `m = s(beta d / 0.05)`.
    ///
    /// Lu et al. 2024, "Discovering Preference Optimization Algorithms with and for Large Language Models", equation 5.
    Discopop,
}

/// What a pair loses, and the derivatives by its log-ratios.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairTerm {
    /// The loss.
    pub loss: f64,
    /// Its derivatives by `a` and `b`.
    pub gradient: [f64; 2],
}

/// A name that is no loss.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no loss \"{name}\"; there are {}", PairLoss::ALL.map(PairLoss::name).join(", "))]
pub struct UnknownPairLoss {
    name: String,
}

/// DiscoPOP's temperature.
const DISCOPOP_TEMPERATURE: f64 = 0.05;

impl PairLoss {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Sigmoid,
        Self::SigmoidNorm,
        Self::Robust,
        Self::Hinge,
        Self::Ipo,
        Self::ExoPair,
        Self::NcaPair,
        Self::SppoHard,
        Self::ApoZero,
        Self::ApoDown,
        Self::Discopop,
    ];

    /// Its name in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::SigmoidNorm => "sigmoid-norm",
            Self::Robust => "robust",
            Self::Hinge => "hinge",
            Self::Ipo => "ipo",
            Self::ExoPair => "exo-pair",
            Self::NcaPair => "nca-pair",
            Self::SppoHard => "sppo-hard",
            Self::ApoZero => "apo-zero",
            Self::ApoDown => "apo-down",
            Self::Discopop => "discopop",
        }
    }

    /// Whether its log-ratios are averages over the tokens of a response rather than sums.
    #[must_use]
    pub fn per_token(self) -> bool {
        matches!(self, Self::SigmoidNorm | Self::Ipo)
    }

    /// Whether label smoothing means anything to it.
    #[must_use]
    pub fn smooths(self) -> bool {
        matches!(self, Self::Sigmoid | Self::Robust | Self::ExoPair)
    }

    /// Whether a margin does.
    #[must_use]
    pub fn has_margin(self) -> bool {
        self == Self::Sigmoid
    }

    /// The loss of the log-ratios `[a, b]`, in nats. `smoothing` and `margin` count where [`PairLoss::smooths`] and
    /// [`PairLoss::has_margin`] say so.
    #[must_use]
    pub fn term(self, beta: f64, smoothing: f64, margin: f64, [a, b]: [f64; 2]) -> PairTerm {
        // Most are functions of x = beta d: their value and their derivative by x.
        let of_difference = |loss: f64, slope: f64| PairTerm {
            loss,
            gradient: [beta * slope, -beta * slope],
        };
        let x = beta * (a - b);
        let (right, wrong) = (1.0 - smoothing, smoothing);
        match self {
            Self::Sigmoid => {
                let x = x - margin;
                of_difference(
                    -right * log_sigmoid(x) - wrong * log_sigmoid(-x),
                    wrong * sigmoid(x) - right * sigmoid(-x),
                )
            }
            Self::SigmoidNorm => of_difference(-log_sigmoid(x), -sigmoid(-x)),
            Self::Robust => {
                let scale = 1.0 - 2.0 * smoothing;
                of_difference(
                    (wrong * log_sigmoid(-x) - right * log_sigmoid(x)) / scale,
                    (-wrong * sigmoid(x) - right * sigmoid(-x)) / scale,
                )
            }
            Self::Hinge => of_difference((1.0 - x).max(0.0), if x < 1.0 { -1.0 } else { 0.0 }),
            Self::Ipo => {
                let off = a - b - 0.5 / beta;
                PairTerm {
                    loss: off * off,
                    gradient: [2.0 * off, -2.0 * off],
                }
            }
            Self::ExoPair => {
                let (win, lose) = (sigmoid(x), sigmoid(-x));
                // ln of the shares over those that are wanted.
                let (over, under) = (log_sigmoid(x) - right.ln(), log_sigmoid(-x) - wrong.ln());
                of_difference(win * over + lose * under, win * lose * (over - under))
            }
            Self::NcaPair => {
                let (chosen, rejected) = (beta * a, beta * b);
                PairTerm {
                    loss: -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected),
                    gradient: [
                        beta * (0.5 * sigmoid(chosen) - sigmoid(-chosen)),
                        beta * 0.5 * sigmoid(rejected),
                    ],
                }
            }
            Self::SppoHard => {
                let (chosen, rejected) = (a - 0.5 / beta, b + 0.5 / beta);
                PairTerm {
                    loss: chosen * chosen + rejected * rejected,
                    gradient: [2.0 * chosen, 2.0 * rejected],
                }
            }
            Self::ApoZero => {
                let [chosen, rejected] = [beta * a, beta * b];
                PairTerm {
                    loss: sigmoid(-chosen) + sigmoid(rejected),
                    gradient: [-beta * bell(chosen), beta * bell(rejected)],
                }
            }
            Self::ApoDown => PairTerm {
                loss: sigmoid(beta * a) + sigmoid(-x),
                gradient: [beta * (bell(beta * a) - bell(x)), beta * bell(x)],
            },
            Self::Discopop => {
                let mixed = sigmoid(x / DISCOPOP_TEMPERATURE);
                let change = bell(x / DISCOPOP_TEMPERATURE) / DISCOPOP_TEMPERATURE;
                let (logistic, exponential) = (-log_sigmoid(x), (-x).exp());
                of_difference(
                    // Where the exponential is beyond all numbers its share is none.
                    logistic * (1.0 - mixed) + if mixed == 0.0 { 0.0 } else { exponential * mixed },
                    if mixed == 0.0 {
                        -sigmoid(-x)
                    } else {
                        -sigmoid(-x) * (1.0 - mixed) - exponential * mixed + (exponential - logistic) * change
                    },
                )
            }
        }
    }
}

/// The derivative of the sigmoid.
fn bell(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

impl fmt::Display for PairLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PairLoss {
    type Err = UnknownPairLoss;

    fn from_str(name: &str) -> Result<Self, UnknownPairLoss> {
        Self::ALL
            .into_iter()
            .find(|loss| loss.name() == name)
            .ok_or_else(|| UnknownPairLoss { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_back() {
        for loss in PairLoss::ALL {
            assert_eq!(loss.name().parse(), Ok(loss));
        }
        let error = "sigmoids".parse::<PairLoss>().unwrap_err().to_string();
        assert!(error.contains("sigmoids") && error.contains("exo-pair"), "{error}");
    }

    #[test]
    fn before_the_first_update_they_are_what_they_are_by_hand() {
        let at_zero = |loss: PairLoss, smoothing| loss.term(0.1, smoothing, 0.0, [0.0; 2]).loss;
        let ln_2 = std::f64::consts::LN_2;
        for (loss, smoothing, expected) in [
            (PairLoss::Sigmoid, 0.0, ln_2),
            (PairLoss::Sigmoid, 0.3, ln_2),
            (PairLoss::SigmoidNorm, 0.0, ln_2),
            (PairLoss::Robust, 0.3, ln_2),
            (PairLoss::Hinge, 0.0, 1.0),
            (PairLoss::Ipo, 0.0, 25.0),
            (
                PairLoss::ExoPair,
                0.2,
                0.5 * (0.5_f64 / 0.8).ln() + 0.5 * (0.5_f64 / 0.2).ln(),
            ),
            (PairLoss::NcaPair, 0.0, 2.0 * ln_2),
            (PairLoss::SppoHard, 0.0, 50.0),
            (PairLoss::ApoZero, 0.0, 1.0),
            (PairLoss::ApoDown, 0.0, 1.0),
            (PairLoss::Discopop, 0.0, 0.5 * ln_2 + 0.5),
        ] {
            assert!((at_zero(loss, smoothing) - expected).abs() < 1e-13, "{loss}");
        }
    }

    #[test]
    fn hopeless_pairs_stay_finite() {
        for loss in PairLoss::ALL {
            for d in [-1e4, 1e4] {
                let smoothing = if loss.smooths() { 0.1 } else { 0.0 };
                let term = loss.term(1.0, smoothing, 0.0, [d, -d]);
                assert!(
                    term.loss.is_finite() && term.gradient.iter().all(|value| value.is_finite()),
                    "{loss} {d}: {term:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn gradients_are_the_derivatives(
            log_ratios in prop::array::uniform2(-4.0..4.0f64),
            beta in 0.05..2.0f64,
            smoothing in 0.01..0.4f64,
            margin in -1.0..1.0f64,
        ) {
            for loss in PairLoss::ALL {
                // Nothing has a derivative at the hinge's corner.
                if loss == PairLoss::Hinge && (1.0 - beta * (log_ratios[0] - log_ratios[1])).abs() < 1e-3 {
                    continue;
                }
                let term = loss.term(beta, smoothing, margin, log_ratios);
                for at in 0..2 {
                    let moved = |by: f64| {
                        let mut log_ratios = log_ratios;
                        log_ratios[at] += by;
                        loss.term(beta, smoothing, margin, log_ratios).loss
                    };
                    let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                    let scale = 1.0 + term.gradient[at].abs();
                    prop_assert!((difference - term.gradient[at]).abs() < 1e-5 * scale, "{loss} {at}: {difference} {term:?}");
                }
            }
        }
    }
}
