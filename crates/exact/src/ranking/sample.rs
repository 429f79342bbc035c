//! Rankings drawn from Plackett-Luce.

/// Why a ranking cannot be drawn.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// Not one uniform number per score.
    #[error("{scores} scores need {scores} uniform numbers, not {uniforms}")]
    Length {
        /// Number of scores.
        scores: usize,
        /// Number of uniform numbers.
        uniforms: usize,
    },
    /// A number that is not from (0, 1).
    #[error("uniform number {index} is {value}; it must lie strictly between 0 and 1")]
    Uniform {
        /// Which number.
        index: usize,
        /// What it is.
        value: f64,
    },
    /// A score that is infinite or not a number.
    #[error("score {index} is {value}; scores must be finite")]
    Score {
        /// Which score.
        index: usize,
        /// What it is.
        value: f64,
    },
}

/// Draws one ranking: the indices of the items, best first.
///
/// Adding an independent Gumbel draw `-ln(-ln u)` to every score and sorting gives exactly a Plackett-Luce ranking
/// (Yellott 1977, "The relationship between Luce's choice axiom, Thurstone's theory of comparative judgment, and the
/// double exponential distribution"). The first m indices are a draw of the first m places, so also m items drawn
/// without replacement. `uniforms` are independent draws from (0, 1), one per score: the randomness is the caller's.
pub fn ranking(scores: &[f64], uniforms: &[f64]) -> Result<Vec<usize>, SampleError> {
    if scores.len() != uniforms.len() {
        return Err(SampleError::Length {
            scores: scores.len(),
            uniforms: uniforms.len(),
        });
    }
    let mut keys = Vec::with_capacity(scores.len());
    for (index, (&score, &uniform)) in scores.iter().zip(uniforms).enumerate() {
        if !score.is_finite() {
            return Err(SampleError::Score { index, value: score });
        }
        if !(uniform > 0.0 && uniform < 1.0) {
            return Err(SampleError::Uniform { index, value: uniform });
        }
        keys.push(score - (-uniform.ln()).ln());
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| keys[b].total_cmp(&keys[a]));
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::super::plackett_luce;
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};
    use std::collections::HashMap;

    #[test]
    fn frequencies_are_the_likelihood() {
        let scores = [0.9, -0.4, 0.1];
        let draws = 40_000;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut counts: HashMap<Vec<usize>, f64> = HashMap::new();
        for _ in 0..draws {
            let uniforms: [f64; 3] = std::array::from_fn(|_| random.sample(rand::distr::Open01));
            *counts.entry(ranking(&scores, &uniforms).unwrap()).or_default() += 1.0;
        }
        assert_eq!(counts.len(), 6);
        for (order, count) in counts {
            let ranked: Vec<f64> = order.iter().map(|&item| scores[item]).collect();
            let expected = plackett_luce::log_likelihood(&ranked, 3).exp() * f64::from(draws);
            // Four standard deviations of a Poisson count.
            assert!(
                (count - expected).abs() < 4.0 * expected.sqrt(),
                "{order:?}: {count} against {expected}"
            );
        }
    }

    #[test]
    fn bad_arguments_are_named() {
        assert_eq!(
            ranking(&[0.0], &[]),
            Err(SampleError::Length { scores: 1, uniforms: 0 })
        );
        assert_eq!(
            ranking(&[0.0], &[0.0]),
            Err(SampleError::Uniform { index: 0, value: 0.0 })
        );
        assert_eq!(
            ranking(&[0.0], &[1.0]),
            Err(SampleError::Uniform { index: 0, value: 1.0 })
        );
        assert!(matches!(
            ranking(&[f64::NAN], &[0.5]),
            Err(SampleError::Score { index: 0, .. })
        ));
        assert_eq!(ranking(&[0.0, 500.0, -500.0], &[0.999, 0.001, 0.5]), Ok(vec![1, 0, 2]));
    }
}
