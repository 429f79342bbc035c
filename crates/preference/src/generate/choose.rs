//! From logits to a token.

use std::cmp::Ordering;

/// How tokens are drawn. The order of the steps and their definitions are those of transformers: penalty, temperature,
/// then top-k, top-p and min-p, each on what the one before left.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Keep this many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens until their probabilities add up to this.
    pub top_p: Option<f64>,
    /// Keep tokens at least this share as likely as the likeliest.
    pub min_p: Option<f64>,
    /// Logits of tokens that the text already has are divided by this if positive and multiplied if negative (Keskar
    /// et al. 2019, "CTRL", section 4.1); 1 for none.
    pub repetition_penalty: f64,
}

impl Default for Choice {
    /// Plain sampling from the model.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
        }
    }
}

/// Settings that describe no way of drawing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}; it must be {expected}")]
pub struct ChoiceError {
    /// The setting.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

/// A token that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// The logarithm of its probability under the model itself: temperature 1, nothing left out, no penalty.
    pub log_prob: f64,
}

impl Choice {
    /// Checks the settings' ranges.
    ///
    /// # Errors
    ///
    /// [`ChoiceError`] names the setting.
    pub fn check(&self) -> Result<(), ChoiceError> {
        let wrong = |name, value: String, expected| Err(ChoiceError { name, value, expected });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong("temperature", self.temperature.to_string(), "at least 0");
        }
        if self.top_k == Some(0) {
            return wrong("top-k", "0".to_owned(), "at least 1");
        }
        if let Some(share) = self.top_p.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return wrong("top-p", share.to_string(), "above 0 and at most 1");
        }
        if let Some(share) = self.min_p.filter(|share| !(0.0..=1.0).contains(share)) {
            return wrong("min-p", share.to_string(), "from 0 to 1");
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return wrong("repetition-penalty", self.repetition_penalty.to_string(), "above 0");
        }
        Ok(())
    }

    /// Draws from `logits`. `text` is what the text has so far, `forbidden` are tokens that may not come now, `uniform` a
    /// number from [0, 1).
    ///
    /// # Panics
    ///
    /// When there are no logits.
    #[must_use]
    pub fn draw(&self, logits: &[f32], text: &[u32], forbidden: &[u32], uniform: f64) -> Drawn {
        let (top, mut weights) = exponentials(logits);
        let log_total = top + weights.iter().sum::<f64>().ln();
        let drawn = |token: usize| Drawn {
            token: token as u32,
            log_prob: f64::from(logits[token]) - log_total,
        };
        if self.takes_all() {
            for &token in forbidden {
                if let Some(weight) = weights.get_mut(token as usize) {
                    *weight = 0.0;
                }
            }
            let total: f64 = weights.iter().sum();
            // Else what is forbidden is so much likelier than the rest that the rest is lost beside it.
            if total.is_normal() {
                let last = weights.iter().rposition(|weight| *weight > 0.0);
                return drawn(find(&weights, uniform * total).or(last).unwrap_or(0));
            }
        }
        let mut scores = logits.to_vec();
        if self.repetition_penalty != 1.0 {
            let penalty = self.repetition_penalty as f32;
            let mut seen: Vec<u32> = text.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for score in seen
                .into_iter()
                .filter_map(|token| Some((token, logits.get(token as usize)?)))
            {
                let (token, &logit) = score;
                scores[token as usize] = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
        }
        for &token in forbidden {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
        if self.temperature == 0.0 {
            return drawn(largest(&scores));
        }
        let mut candidates: Vec<(f64, usize)> = scores
            .iter()
            .enumerate()
            .filter(|(_, score)| score.is_finite())
            .map(|(token, &score)| (f64::from(score) / self.temperature, token))
            .collect();
        self.narrow(&mut candidates);
        let top = candidates
            .iter()
            .map(|(score, _)| *score)
            .fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = candidates.iter().map(|(score, _)| (score - top).exp()).collect();
        let found = find(&weights, uniform * weights.iter().sum::<f64>());
        // Rounding may leave a crumb; it belongs to the last.
        let candidate = found.map_or_else(|| candidates.last(), |place| candidates.get(place));
        drawn(candidate.map_or_else(|| largest(&scores), |(_, token)| *token))
    }

    /// Whether tokens are drawn as likely as the model has them.
    fn takes_all(&self) -> bool {
        self.temperature == 1.0 && self.repetition_penalty == 1.0 && !self.narrows()
    }

    /// Whether some tokens are left out.
    fn narrows(&self) -> bool {
        self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some()
    }

    /// Leaves the candidates that top-k, top-p and min-p allow.
    fn narrow(&self, candidates: &mut Vec<(f64, usize)>) {
        if !self.narrows() {
            return;
        }
        // The likeliest first; among equals the lower token.
        let order = |a: &(f64, usize), b: &(f64, usize)| match b.0.total_cmp(&a.0) {
            Ordering::Equal => a.1.cmp(&b.1),
            order => order,
        };
        if let Some(count) = self.top_k.filter(|&count| count < candidates.len()) {
            candidates.select_nth_unstable_by(count - 1, order);
            candidates.truncate(count);
        }
        candidates.sort_unstable_by(order);
        if let Some(share) = self.top_p {
            let log_total = log_sum_exp(candidates.iter().map(|(score, _)| *score as f32));
            let mut sum = 0.0;
            let needed = candidates.iter().position(|(score, _)| {
                sum += (score - log_total).exp();
                sum >= share
            });
            candidates.truncate(needed.map_or(candidates.len(), |last| last + 1));
        }
        if let (Some(share), Some(&(top, _))) = (self.min_p, candidates.first()) {
            candidates.retain(|(score, _)| (score - top).exp() >= share);
        }
    }
}

/// The first of the largest.
fn largest(scores: &[f32]) -> usize {
    let mut best = 0;
    for (token, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = token;
        }
    }
    best
}

/// The largest logit, and e to the power of what each is above it.
fn exponentials(logits: &[f32]) -> (f64, Vec<f64>) {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    (
        top,
        logits.iter().map(|&logit| (f64::from(logit) - top).exp()).collect(),
    )
}

/// The weight in which `place` lies when they stand one after another; none where rounding leaves it behind the last.
fn find(weights: &[f64], place: f64) -> Option<usize> {
    let mut left = place;
    weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    })
}

/// ln Σ exp.
fn log_sum_exp(values: impl Iterator<Item = f32> + Clone) -> f64 {
    let top = f64::from(values.clone().fold(f32::NEG_INFINITY, f32::max));
    top + values.map(|value| (f64::from(value) - top).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.5, 0.25, 0.15, 0.1.
    fn logits() -> Vec<f32> {
        [0.5_f32, 0.25, 0.15, 0.1].map(f32::ln).to_vec()
    }

    /// The share of 1,000 evenly spaced draws that each token gets.
    fn shares(choice: &Choice, forbidden: &[u32]) -> [f64; 4] {
        let mut counts = [0.0; 4];
        for i in 0..1000 {
            let drawn = choice.draw(&logits(), &[], forbidden, (f64::from(i) + 0.5) / 1000.0);
            counts[drawn.token as usize] += 0.001;
        }
        counts
    }

    #[track_caller]
    fn close(found: [f64; 4], expected: [f64; 4]) {
        let near = found
            .iter()
            .zip(expected)
            .all(|(found, expected)| (found - expected).abs() < 0.0015);
        assert!(near, "{found:?} instead of {expected:?}");
    }

    #[test]
    fn tokens_come_as_often_as_they_should() {
        let plain = Choice::default();
        close(shares(&plain, &[]), [0.5, 0.25, 0.15, 0.1]);
        // At half the temperature probabilities go with their squares.
        let cold = Choice {
            temperature: 0.5,
            ..plain.clone()
        };
        let total = 0.25 + 0.0625 + 0.0225 + 0.01;
        close(
            shares(&cold, &[]),
            [0.25 / total, 0.0625 / total, 0.0225 / total, 0.01 / total],
        );
        let top_k = Choice {
            top_k: Some(2),
            ..plain.clone()
        };
        close(shares(&top_k, &[]), [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        // 0.5 + 0.25 do not reach 0.8; the third is needed.
        let top_p = Choice {
            top_p: Some(0.8),
            ..plain.clone()
        };
        close(shares(&top_p, &[]), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0.0]);
        let min_p = Choice {
            min_p: Some(0.4),
            ..plain.clone()
        };
        close(shares(&min_p, &[]), [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(shares(&plain, &[0]), [0.0, 0.5, 0.3, 0.2]);
    }

    #[test]
    fn what_is_forbidden_may_be_ever_so_much_likelier() {
        let plain = Choice::default();
        for gap in [50.0, 700.0, 800.0, 1e30] {
            let counts = (0..100).fold([0; 3], |mut counts, i| {
                let drawn = plain.draw(&[gap, 0.0, 0.0], &[], &[0], (f64::from(i) + 0.5) / 100.0);
                counts[drawn.token as usize] += 1;
                counts
            });
            assert_eq!(counts, [0, 50, 50], "{gap}");
        }
        // Nothing is as good as nothing to choose from.
        assert_eq!(plain.draw(&[f32::NEG_INFINITY, 1.0], &[], &[1], 0.5).token, 0);
    }

    #[test]
    fn each_narrowing_works_on_what_the_one_before_left() {
        // Of the first three, renormalised to 0.5556, 0.2778, 0.1667, two reach 0.8.
        let both = Choice {
            top_k: Some(3),
            top_p: Some(0.8),
            ..Choice::default()
        };
        close(shares(&both, &[]), [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
    }

    #[test]
    fn cold_zero_takes_the_likeliest_and_its_own_probability() {
        let greedy = Choice {
            temperature: 0.0,
            ..Choice::default()
        };
        for uniform in [0.0, 0.999] {
            let drawn = greedy.draw(&logits(), &[], &[], uniform);
            assert_eq!(drawn.token, 0);
            assert!((drawn.log_prob - 0.5_f64.ln()).abs() < 1e-7);
        }
        // The probability is the model's own, whatever was forbidden.
        let second = greedy.draw(&logits(), &[], &[0], 0.0);
        assert_eq!(second.token, 1);
        assert!((second.log_prob - 0.25_f64.ln()).abs() < 1e-7);
    }

    #[test]
    fn repeated_tokens_are_penalised_once_and_in_the_right_direction() {
        let greedy = Choice {
            temperature: 0.0,
            repetition_penalty: 2.0,
            ..Choice::default()
        };
        // Positive logits are halved, negative ones doubled, and twice in the text counts once.
        assert_eq!(greedy.draw(&[2.0, 1.5, -1.0], &[0, 0], &[], 0.0).token, 1);
        assert_eq!(greedy.draw(&[-1.0, -1.5, -9.0], &[0], &[], 0.0).token, 1);
        assert_eq!(greedy.draw(&[2.0, 0.9, -1.0], &[0, 0, 77], &[], 0.0).token, 0);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let check = |choice: Choice| choice.check().unwrap_err().name;
        let plain = Choice::default;
        assert_eq!(
            check(Choice {
                temperature: -1.0,
                ..plain()
            }),
            "temperature"
        );
        assert_eq!(
            check(Choice {
                top_k: Some(0),
                ..plain()
            }),
            "top-k"
        );
        assert_eq!(
            check(Choice {
                top_p: Some(0.0),
                ..plain()
            }),
            "top-p"
        );
        assert_eq!(
            check(Choice {
                min_p: Some(1.1),
                ..plain()
            }),
            "min-p"
        );
        assert_eq!(
            check(Choice {
                repetition_penalty: 0.0,
                ..plain()
            }),
            "repetition-penalty"
        );
        assert_eq!(plain().check(), Ok(()));
    }
}
