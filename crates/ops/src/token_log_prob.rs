//! From hidden rows and the head's weights to log-probabilities of tokens, without the logits.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

/// Logits that exist at a time.
const LOGITS: usize = 1 << 23;

/// What [`token_log_prob`] finds of each row; all `[rows]`.
#[derive(Clone, Debug)]
pub struct TokenLogProb {
    /// The natural logarithm of the target's probability; differentiable.
    pub log_prob: Tensor<1>,
    /// The entropy of the row's distribution in nats; not differentiable.
    pub entropy: Tensor<1>,
    /// 1 where the target has the greatest logit, else 0; not differentiable.
    pub correct: Tensor<1>,
}

/// Log-probabilities of `targets` under `softmax(hidden head^T / temperature)`.
///
/// The logits of all rows would be the largest tensor of a training step by far. Here a few rows' logits exist at a
/// time, and the backward pass works them out again.
///
/// # Shapes
///
/// - `hidden`: `[rows, width]`
/// - `head`: `[vocabulary, width]`, as Hugging Face keeps it
/// - `targets`: `[rows]`, below the vocabulary's size
///
/// # Panics
///
/// When the shapes do not fit, or a target lies outside the vocabulary.
pub fn token_log_prob(hidden: Tensor<2>, head: Tensor<2>, targets: Arc<[u32]>, temperature: f64) -> TokenLogProb {
    let [rows, width] = hidden.dims();
    let [vocabulary, head_width] = head.dims();
    assert_eq!(
        width, head_width,
        "token_log_prob: rows of {width} values meet a head for {head_width}"
    );
    assert_eq!(
        targets.len(),
        rows,
        "token_log_prob: {} targets for {rows} rows",
        targets.len()
    );
    assert!(
        targets.iter().all(|&target| (target as usize) < vocabulary),
        "token_log_prob: every target is below {vocabulary}"
    );
    let (log_prob, entropy, correct) = <Dispatch as TokenLogProbOps>::token_log_prob(
        hidden.into_dispatch(),
        head.into_dispatch(),
        targets,
        temperature,
    );
    TokenLogProb {
        log_prob: Tensor::from_dispatch(log_prob),
        entropy: Tensor::from_dispatch(entropy),
        correct: Tensor::from_dispatch(correct),
    }
}

/// [`token_log_prob`] as a backend provides it.
#[backend_extension(Flex, Autodiff)]
pub trait TokenLogProbOps: Backend {
    /// Log-probabilities, entropies, and whether the target is the likeliest.
    fn token_log_prob(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::forward::<Self>(hidden, head, &targets, temperature)
    }

    /// The gradient of `hidden`: with the probabilities `P` and `E` one at the targets, `diag(g) (E - P) head / T`.
    fn token_log_prob_hidden_gradient(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> FloatTensor<Self> {
        portable::gradients::<Self>(hidden, head, gradient, &targets, temperature, false).0
    }

    /// The gradients of `hidden` and of `head`, `(diag(g) (E - P))^T hidden / T`.
    fn token_log_prob_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::gradients::<Self>(hidden, head, gradient, &targets, temperature, true)
    }
}

impl TokenLogProbOps for Flex {}

/// The default bodies: rows in chunks.
mod portable {
    use std::ops::Range;

    use burn::tensor::{IndexingUpdateOp, Shape, Slice, TensorData};

    use super::*;

    pub(super) fn forward<B: Backend>(
        hidden: FloatTensor<B>,
        head: FloatTensor<B>,
        targets: &[u32],
        temperature: f64,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let (mut log_probs, mut entropies, mut correct) = (Vec::new(), Vec::new(), Vec::new());
        for rows in chunks(targets.len(), head.shape()[0]) {
            let log_p = log_probabilities::<B>(&hidden, &head, rows.clone(), temperature);
            let chosen = B::float_gather(1, log_p.clone(), indices::<B>(&log_p, &targets[rows.clone()]));
            let largest = B::float_max_dim(log_p.clone(), 1);
            // 1 where nothing is larger, else 0.
            let above = B::float_sign(B::float_sub(largest, chosen.clone()));
            let hit = B::float_add_scalar(B::float_neg(above), 1.0.into());
            let p = B::float_exp(log_p.clone());
            entropies.push(flat::<B>(B::float_neg(B::float_sum_dim(B::float_mul(p, log_p), 1))));
            log_probs.push(flat::<B>(chosen));
            correct.push(flat::<B>(hit));
        }
        let joined = |parts: Vec<FloatTensor<B>>| {
            if parts.is_empty() {
                flat::<B>(B::float_sum_dim(hidden.clone(), 1))
            } else {
                B::float_cat(parts, 0)
            }
        };
        (joined(log_probs), joined(entropies), joined(correct))
    }

    pub(super) fn gradients<B: Backend>(
        hidden: FloatTensor<B>,
        head: FloatTensor<B>,
        gradient: FloatTensor<B>,
        targets: &[u32],
        temperature: f64,
        with_head: bool,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let mut hidden_gradients = Vec::new();
        let mut head_gradient: Option<FloatTensor<B>> = None;
        for rows in chunks(targets.len(), head.shape()[0]) {
            let log_p = log_probabilities::<B>(&hidden, &head, rows.clone(), temperature);
            let g = B::float_slice(gradient.clone(), &[Slice::from(rows.clone())]);
            let g = B::float_mul_scalar(
                B::float_reshape(g, Shape::new([rows.len(), 1])),
                (1.0 / temperature).into(),
            );
            let at_targets = indices::<B>(&log_p, &targets[rows.clone()]);
            let logits = B::float_neg(B::float_mul(B::float_exp(log_p), g.clone()));
            let logits = B::float_scatter(1, logits, at_targets, g, IndexingUpdateOp::Add);
            hidden_gradients.push(B::float_matmul(logits.clone(), head.clone()));
            if with_head {
                let part = B::float_matmul(B::float_transpose(logits), slice::<B>(&hidden, rows));
                head_gradient = Some(match head_gradient {
                    None => part,
                    Some(sum) => B::float_add(sum, part),
                });
            }
        }
        let zeros = |like: FloatTensor<B>| B::float_mul_scalar(like, 0.0.into());
        let hidden_gradient = if hidden_gradients.is_empty() {
            hidden
        } else {
            B::float_cat(hidden_gradients, 0)
        };
        (hidden_gradient, head_gradient.unwrap_or_else(|| zeros(head)))
    }

    fn chunks(rows: usize, vocabulary: usize) -> impl Iterator<Item = Range<usize>> {
        let size = (LOGITS / vocabulary.max(1)).max(1);
        (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
    }

    fn slice<B: Backend>(from: &FloatTensor<B>, rows: Range<usize>) -> FloatTensor<B> {
        B::float_slice(from.clone(), &[Slice::from(rows), Slice::full()])
    }

    /// `[rows, vocabulary]`.
    fn log_probabilities<B: Backend>(
        hidden: &FloatTensor<B>,
        head: &FloatTensor<B>,
        rows: Range<usize>,
        temperature: f64,
    ) -> FloatTensor<B> {
        let logits = B::float_matmul(slice::<B>(hidden, rows), B::float_transpose(head.clone()));
        let logits = if temperature == 1.0 {
            logits
        } else {
            B::float_mul_scalar(logits, (1.0 / temperature).into())
        };
        let shifted = B::float_sub(logits.clone(), B::float_max_dim(logits, 1));
        let total = B::float_sum_dim(B::float_exp(shifted.clone()), 1);
        B::float_sub(shifted, B::float_log(total))
    }

    fn indices<B: Backend>(like: &FloatTensor<B>, targets: &[u32]) -> burn::backend::tensor::IntTensor<B> {
        let targets: Vec<i64> = targets.iter().map(|&target| i64::from(target)).collect();
        let shape = [targets.len(), 1];
        B::int_from_data(TensorData::new(targets, shape), &like.device())
    }

    fn flat<B: Backend>(column: FloatTensor<B>) -> FloatTensor<B> {
        let rows = column.shape()[0];
        B::float_reshape(column, Shape::new([rows]))
    }
}

impl<B: TokenLogProbOps, C: CheckpointStrategy> TokenLogProbOps for Autodiff<B, C> {
    fn token_log_prob(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let parents = [hidden.node(), head.node()];
        let (hidden, head) = (hidden.into_primitive(), head.into_primitive());
        let (log_prob, entropy, correct) =
            B::token_log_prob(hidden.clone(), head.clone(), Arc::clone(&targets), temperature);
        let log_prob = match TokenLogProbBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((hidden, head, targets, temperature), log_prob),
            OpsKind::UnTracked(prepared) => prepared.finish(log_prob),
        };
        (log_prob, Self::from_inner(entropy), Self::from_inner(correct))
    }
}

#[derive(Debug)]
struct TokenLogProbBackward;

impl<B: TokenLogProbOps> Backward<B, 2> for TokenLogProbBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, Arc<[u32]>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (hidden, head, targets, temperature) = ops.state;
        match ops.parents {
            [hidden_parent, Some(head_parent)] => {
                let (of_hidden, of_head) = B::token_log_prob_gradients(hidden, head, gradient, targets, temperature);
                gradients.register::<B>(head_parent.id, of_head);
                if let Some(parent) = hidden_parent {
                    gradients.register::<B>(parent.id, of_hidden);
                }
            }
            [Some(parent), None] => {
                let of_hidden = B::token_log_prob_hidden_gradient(hidden, head, gradient, targets, temperature);
                gradients.register::<B>(parent.id, of_hidden);
            }
            [None, None] => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::testing::{check_gradients, numbers};

    #[test]
    fn log_probabilities_are_their_formula_with_their_gradients() {
        let targets: Arc<[u32]> = Arc::from([4, 0, 6]);
        for temperature in [1.0, 0.7] {
            check_gradients(
                [numbers(1, 3 * 5), numbers(2, 7 * 5)],
                |[hidden, head]| {
                    let (hidden, head) = (hidden.reshape([3, 5]), head.reshape([7, 5]));
                    token_log_prob(hidden, head, Arc::clone(&targets), temperature).log_prob
                },
                |[hidden, head]| {
                    let row = |(row, &target): (&[f64], &u32)| {
                        let dot = |head: &[f64]| row.iter().zip(head).map(|(a, b)| a * b).sum::<f64>() / temperature;
                        let logits: Vec<f64> = head.chunks(5).map(dot).collect();
                        logits[target as usize] - logits.iter().map(|logit| logit.exp()).sum::<f64>().ln()
                    };
                    hidden.chunks(5).zip(&*targets).map(row).collect()
                },
            );
        }
    }

    #[test]
    fn entropy_and_hits_are_those_of_the_distribution() {
        let device = Device::flex();
        // Logits ln 1, ln 2, ln 5: probabilities 1/8, 1/4, 5/8.
        let logits = [1.0_f32, 2.0, 5.0].map(f32::ln);
        let hidden = Tensor::<2>::from_data([[1.0_f32], [1.0]], &device);
        let head = Tensor::<2>::from_data(TensorData::new(logits.to_vec(), [3, 1]), &device);
        let found = token_log_prob(hidden, head, Arc::from([2, 1]), 1.0);
        let values = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().expect("f32 values");
        assert_eq!(values(found.correct), [1.0, 0.0]);
        let entropy: f32 = [0.125_f32, 0.25, 0.625].iter().map(|p| -p * p.ln()).sum();
        assert!(values(found.entropy).iter().all(|found| (found - entropy).abs() < 1e-6));
        let log_prob = values(found.log_prob);
        assert!((log_prob[0] - 0.625_f32.ln()).abs() < 1e-6 && (log_prob[1] - 0.25_f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn chunks_do_not_show() {
        let device = Device::flex();
        // 3 rows of so many logits do not fit into one chunk, so this takes more than one.
        let vocabulary = LOGITS / 2 + 1;
        let head: Vec<f32> = (0..vocabulary).map(|i| if i < 4 { i as f32 } else { -100.0 }).collect();
        let head = Tensor::<2>::from_data(TensorData::new(head, [vocabulary, 1]), &device);
        let hidden = Tensor::<2>::from_data([[1.0_f32], [2.0], [-0.5]], &device);
        let together = token_log_prob(hidden.clone(), head.clone(), Arc::from([3, 2, 1]), 1.0).log_prob;
        let alone = (0..3).map(|i| {
            let target = [3, 2, 1][i];
            token_log_prob(hidden.clone().narrow(0, i, 1), head.clone(), Arc::from([target]), 1.0).log_prob
        });
        let alone = Tensor::cat(alone.collect(), 0);
        assert_eq!(together.into_data(), alone.into_data());
    }
}
