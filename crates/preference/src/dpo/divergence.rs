//! How far the policy is from its reference, by texts drawn from it.

use nn::decoder::Decoder;
use ops::Precision;
use serde::Serialize;

use crate::generate::{Choice, Request, generate};
use crate::score::log_probs_of;
use crate::text::Ranked;
use crate::tuning::TuningError;
use crate::tuning::objective::Snapshot;

/// Texts that are drawn together.
const BATCH: usize = 16;

/// An estimate with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// Of independent values.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            error: (squares / (count - 1.0).max(1.0) / count).sqrt(),
        }
    }
}

/// KL(policy || reference) in nats a response, from a response of at most `longest` tokens to each prompt: the mean of
/// `ln pi(y|x) - ln pi_ref(y|x)` over y drawn from pi. What comes after `longest` tokens is not counted.
///
/// # Errors
///
/// [`TuningError::Generate`] for prompts that the model cannot go on from.
pub fn sampled_kl(
    policy: &Snapshot<'_>,
    reference: &Decoder,
    prompts: &[Vec<u32>],
    longest: usize,
    seed: u64,
) -> Result<Estimate, TuningError> {
    let request = Request {
        choice: Choice::default(),
        samples: 1,
        max_new_tokens: longest,
        min_new_tokens: 0,
        end: policy.tokenizer.end_ids().iter().copied().collect(),
        batch_size: BATCH,
        seed,
        first: 0,
    };
    let packed = policy.decoder.clone().packed(Precision::Single);
    let texts = generate(&packed, prompts, &request, &mut |_, _| {
        crate::generate::Verdict::Continue
    })?;
    drop(packed);
    let mut differences = Vec::with_capacity(texts.len());
    for texts in texts.chunks(BATCH) {
        let drawn: Vec<Ranked> = texts
            .iter()
            .map(|text| Ranked {
                prompt: prompts[text.prompt].clone(),
                responses: vec![text.tokens.clone()],
            })
            .collect();
        for (text, before) in texts.iter().zip(log_probs_of(reference, &drawn)) {
            differences.push(text.log_probs.iter().sum::<f64>() - before.iter().sum::<f64>());
        }
    }
    Ok(Estimate::of(&differences))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_the_mean_with_its_error() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(estimate.mean, 3.0);
        assert!((estimate.error - (14.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(Estimate::of(&[2.0]).error, 0.0);
    }
}
