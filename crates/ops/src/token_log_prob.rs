//! From hidden rows and the head's weights to log-probabilities of tokens, without the logits.

#![expect(
    clippy::type_complexity,
    reason = "a backend's operation returns its tensors as a tuple, here of five"
)]

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use crate::cpu::buffer::{self, all_f32, contiguous};
use crate::cpu::matrix::Matrix;
use crate::cpu::vocabulary::{Summary, Vocabulary};

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
    check(&hidden, &head, &targets);
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

/// `sum_i weights_i log_prob_i` of [`token_log_prob`], a scalar, and what that finds of each row.
///
/// Where a loss is such a sum, what each row contributes to the gradients is known as soon as its logits are: the
/// forward pass works the gradients out while it has them, a quarter of the head's work less than working the logits out
/// again. Only the sum is differentiable, by `hidden` and `head`.
///
/// # Shapes
///
/// - `weights`: `[rows]`
/// - the others as for [`token_log_prob`]
///
/// # Panics
///
/// As [`token_log_prob`], or when there are not as many weights as rows.
pub fn token_log_prob_sum(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Arc<[u32]>,
    weights: Arc<[f32]>,
    temperature: f64,
) -> (Tensor<1>, TokenLogProb) {
    check(&hidden, &head, &targets);
    let rows = targets.len();
    assert_eq!(
        weights.len(),
        rows,
        "token_log_prob_sum: {} weights for {rows} rows",
        weights.len()
    );
    let (sum, log_prob, entropy, correct) = <Dispatch as TokenLogProbOps>::token_log_prob_sum(
        hidden.into_dispatch(),
        head.into_dispatch(),
        targets,
        weights,
        temperature,
    );
    let rows = TokenLogProb {
        log_prob: Tensor::from_dispatch(log_prob),
        entropy: Tensor::from_dispatch(entropy),
        correct: Tensor::from_dispatch(correct),
    };
    (Tensor::from_dispatch(sum), rows)
}

/// Panics when the arguments of [`token_log_prob`] do not fit.
fn check(hidden: &Tensor<2>, head: &Tensor<2>, targets: &[u32]) {
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
}

/// [`token_log_prob`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait TokenLogProbOps: Backend {
    /// Log-probabilities, entropies, and whether the target is the likeliest.
    fn token_log_prob(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (log_prob, entropy, correct, _) = Self::token_log_prob_with_sums(hidden, head, targets, temperature);
        (log_prob, entropy, correct)
    }

    /// The same with the logarithm of each row's sum of exponentials, for the backward pass.
    fn token_log_prob_with_sums(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        portable::forward::<Self>(hidden, head, &targets, temperature)
    }

    /// The gradient of `hidden`: with the probabilities `P` and `E` one at the targets, `diag(g) (E - P) head / T`.
    fn token_log_prob_hidden_gradient(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> FloatTensor<Self> {
        portable::gradients::<Self>(hidden, head, log_sums, gradient, &targets, temperature, false).0
    }

    /// The gradients of `hidden` and of `head`, `(diag(g) (E - P))^T hidden / T`.
    fn token_log_prob_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::gradients::<Self>(hidden, head, log_sums, gradient, &targets, temperature, true)
    }

    /// The sum of the log-probabilities times their weights, and what [`TokenLogProbOps::token_log_prob`] finds.
    fn token_log_prob_sum(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        weights: Arc<[f32]>,
        temperature: f64,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let (log_prob, entropy, correct) = Self::token_log_prob(hidden, head, targets, temperature);
        let sum = weighted_sum::<Self>(log_prob.clone(), &weights);
        (sum, log_prob, entropy, correct)
    }

    /// What [`TokenLogProbOps::token_log_prob`] finds, and the gradients of `hidden` and, if `with_head`, of `head` by
    /// the sum of the log-probabilities times their weights.
    fn token_log_prob_with_gradients(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        weights: Arc<[f32]>,
        temperature: f64,
        with_head: bool,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        portable::with_gradients::<Self>(hidden, head, &targets, &weights, temperature, with_head)
    }
}

fn weighted_sum<B: Backend>(log_prob: FloatTensor<B>, weights: &[f32]) -> FloatTensor<B> {
    let weights = portable::like::<B>(&log_prob, weights);
    B::float_sum(B::float_mul(log_prob, weights))
}

impl TokenLogProbOps for Flex {
    fn token_log_prob_with_sums(
        hidden: FlexTensor,
        head: FlexTensor,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        if !all_f32(&[&hidden, &head]) {
            return portable::forward::<Self>(hidden, head, &targets, temperature);
        }
        let (hidden, head) = (contiguous(hidden), contiguous(head));
        let vocabulary = Vocabulary {
            hidden: Matrix::of(&hidden),
            head: Matrix::of(&head),
            targets: &targets,
            temperature,
        };
        found(&vocabulary.summaries())
    }

    fn token_log_prob_hidden_gradient(
        hidden: FlexTensor,
        head: FlexTensor,
        log_sums: FlexTensor,
        gradient: FlexTensor,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> FlexTensor {
        gradients(hidden, head, log_sums, gradient, &targets, temperature, false).0
    }

    fn token_log_prob_gradients(
        hidden: FlexTensor,
        head: FlexTensor,
        log_sums: FlexTensor,
        gradient: FlexTensor,
        targets: Arc<[u32]>,
        temperature: f64,
    ) -> (FlexTensor, FlexTensor) {
        gradients(hidden, head, log_sums, gradient, &targets, temperature, true)
    }

    fn token_log_prob_with_gradients(
        hidden: FlexTensor,
        head: FlexTensor,
        targets: Arc<[u32]>,
        weights: Arc<[f32]>,
        temperature: f64,
        with_head: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        if !all_f32(&[&hidden, &head]) {
            return portable::with_gradients::<Self>(hidden, head, &targets, &weights, temperature, with_head);
        }
        let (hidden, head) = (contiguous(hidden), contiguous(head));
        let vocabulary = Vocabulary {
            hidden: Matrix::of(&hidden),
            head: Matrix::of(&head),
            targets: &targets,
            temperature,
        };
        let (summaries, of_hidden, of_head) = vocabulary.summaries_and_gradients(&weights, with_head);
        let (log_prob, entropy, correct, _) = found(&summaries);
        let head_shape = if with_head { head.shape() } else { Shape::new([0, 0]) };
        (
            log_prob,
            entropy,
            correct,
            buffer::tensor(of_hidden, hidden.shape()),
            buffer::tensor(of_head, head_shape),
        )
    }
}

/// Log-probabilities, entropies, hits and the logarithms of the sums.
fn found(summaries: &[Summary]) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
    let of_each = |value: fn(&Summary) -> f32| {
        buffer::tensor(summaries.iter().map(value).collect(), Shape::new([summaries.len()]))
    };
    (
        of_each(|row| row.target - row.log_sum()),
        of_each(|row| row.entropy()),
        of_each(|row| if row.target >= row.maximum { 1.0 } else { 0.0 }),
        of_each(|row| row.log_sum()),
    )
}

/// The second one is empty if not asked for.
fn gradients(
    hidden: FlexTensor,
    head: FlexTensor,
    log_sums: FlexTensor,
    gradient: FlexTensor,
    targets: &[u32],
    temperature: f64,
    with_head: bool,
) -> (FlexTensor, FlexTensor) {
    if !all_f32(&[&hidden, &head, &gradient]) {
        return portable::gradients::<Flex>(hidden, head, log_sums, gradient, targets, temperature, with_head);
    }
    let [hidden, head, log_sums, gradient] = [hidden, head, log_sums, gradient].map(contiguous);
    let vocabulary = Vocabulary {
        hidden: Matrix::of(&hidden),
        head: Matrix::of(&head),
        targets,
        temperature,
    };
    let (of_hidden, of_head) = vocabulary.gradients(buffer::values(&gradient), buffer::values(&log_sums), with_head);
    let head_shape = if with_head { head.shape() } else { Shape::new([0, 0]) };
    (
        buffer::tensor(of_hidden, hidden.shape()),
        buffer::tensor(of_head, head_shape),
    )
}

/// The default bodies: rows in chunks.
mod portable {
    use std::ops::Range;

    use burn::tensor::{IndexingUpdateOp, Slice, TensorData};

    use super::*;

    /// Logits that exist at a time.
    const LOGITS: usize = 1 << 23;

    pub(super) fn forward<B: Backend>(
        hidden: FloatTensor<B>,
        head: FloatTensor<B>,
        targets: &[u32],
        temperature: f64,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let mut found: [Vec<FloatTensor<B>>; 4] = [const { Vec::new() }; 4];
        for rows in chunks(targets.len(), head.shape()[0]) {
            let logits = logits::<B>(&hidden, &head, rows.clone(), temperature);
            let chosen = B::float_gather(1, logits.clone(), indices::<B>(&logits, &targets[rows.clone()]));
            let largest = B::float_max_dim(logits.clone(), 1);
            // 1 where nothing is larger, else 0.
            let above = B::float_sign(B::float_sub(largest.clone(), chosen.clone()));
            let hit = B::float_add_scalar(B::float_neg(above), 1.0.into());
            let total = B::float_sum_dim(B::float_exp(B::float_sub(logits.clone(), largest.clone())), 1);
            let log_sum = B::float_add(B::float_log(total), largest);
            let log_p = B::float_sub(logits, log_sum.clone());
            let p = B::float_exp(log_p.clone());
            let entropy = B::float_neg(B::float_sum_dim(B::float_mul(p, log_p), 1));
            let log_prob = B::float_sub(chosen, log_sum.clone());
            for (parts, part) in found.iter_mut().zip([log_prob, entropy, hit, log_sum]) {
                parts.push(flat::<B>(part));
            }
        }
        let [log_prob, entropy, hit, log_sum] = found.map(|parts| {
            if parts.is_empty() {
                flat::<B>(B::float_sum_dim(hidden.clone(), 1))
            } else {
                B::float_cat(parts, 0)
            }
        });
        (log_prob, entropy, hit, log_sum)
    }

    pub(super) fn gradients<B: Backend>(
        hidden: FloatTensor<B>,
        head: FloatTensor<B>,
        log_sums: FloatTensor<B>,
        gradient: FloatTensor<B>,
        targets: &[u32],
        temperature: f64,
        with_head: bool,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let mut hidden_gradients = Vec::new();
        let mut head_gradient: Option<FloatTensor<B>> = None;
        for rows in chunks(targets.len(), head.shape()[0]) {
            let column = |of: &FloatTensor<B>| {
                let part = B::float_slice(of.clone(), &[Slice::from(rows.clone())]);
                B::float_reshape(part, Shape::new([rows.len(), 1]))
            };
            let logits = logits::<B>(&hidden, &head, rows.clone(), temperature);
            let p = B::float_exp(B::float_sub(logits, column(&log_sums)));
            let g = B::float_mul_scalar(column(&gradient), (1.0 / temperature).into());
            let at_targets = indices::<B>(&p, &targets[rows.clone()]);
            let logits = B::float_neg(B::float_mul(p, g.clone()));
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

    pub(super) fn with_gradients<B: TokenLogProbOps>(
        hidden: FloatTensor<B>,
        head: FloatTensor<B>,
        targets: &Arc<[u32]>,
        weights: &[f32],
        temperature: f64,
        with_head: bool,
    ) -> (
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ) {
        let targets = Arc::clone(targets);
        let (log_prob, entropy, correct, log_sums) = forward::<B>(hidden.clone(), head.clone(), &targets, temperature);
        let weights = like::<B>(&log_prob, weights);
        let (of_hidden, of_head) = gradients::<B>(hidden, head, log_sums, weights, &targets, temperature, with_head);
        (log_prob, entropy, correct, of_hidden, of_head)
    }

    /// `values` where `tensor` is, in its precision.
    pub(super) fn like<B: Backend>(tensor: &FloatTensor<B>, values: &[f32]) -> FloatTensor<B> {
        let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(tensor.dtype());
        B::float_from_data(data, &tensor.device())
    }

    fn chunks(rows: usize, vocabulary: usize) -> impl Iterator<Item = Range<usize>> {
        let size = (LOGITS / vocabulary.max(1)).max(1);
        (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
    }

    fn slice<B: Backend>(from: &FloatTensor<B>, rows: Range<usize>) -> FloatTensor<B> {
        B::float_slice(from.clone(), &[Slice::from(rows), Slice::full()])
    }

    /// `[rows, vocabulary]`.
    fn logits<B: Backend>(
        hidden: &FloatTensor<B>,
        head: &FloatTensor<B>,
        rows: Range<usize>,
        temperature: f64,
    ) -> FloatTensor<B> {
        let logits = B::float_matmul(slice::<B>(hidden, rows), B::float_transpose(head.clone()));
        B::float_mul_scalar(logits, (1.0 / temperature).into())
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
        let (log_prob, entropy, correct, log_sums) =
            B::token_log_prob_with_sums(hidden.clone(), head.clone(), Arc::clone(&targets), temperature);
        let log_prob = match TokenLogProbBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(([hidden, head, log_sums], targets, temperature), log_prob),
            OpsKind::UnTracked(prepared) => prepared.finish(log_prob),
        };
        (log_prob, Self::from_inner(entropy), Self::from_inner(correct))
    }

    fn token_log_prob_sum(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[u32]>,
        weights: Arc<[f32]>,
        temperature: f64,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let parents = [hidden.node(), head.node()];
        let head_alone = Backward::<B, 1>::prepare::<C>(Tracking, [head.node()]);
        let with_head = matches!(head_alone.compute_bound().stateful(), OpsKind::Tracked(_));
        let (hidden, head) = (hidden.into_primitive(), head.into_primitive());
        let (sum, log_prob, entropy, correct) =
            match TokenLogProbSumBackward.prepare::<C>(parents).compute_bound().stateful() {
                OpsKind::Tracked(prepared) => {
                    let (log_prob, entropy, correct, of_hidden, of_head) = B::token_log_prob_with_gradients(
                        hidden,
                        head,
                        targets,
                        Arc::clone(&weights),
                        temperature,
                        with_head,
                    );
                    let sum = weighted_sum::<B>(log_prob.clone(), &weights);
                    (prepared.finish([of_hidden, of_head], sum), log_prob, entropy, correct)
                }
                OpsKind::UnTracked(prepared) => {
                    let (sum, log_prob, entropy, correct) =
                        B::token_log_prob_sum(hidden, head, targets, weights, temperature);
                    (prepared.finish(sum), log_prob, entropy, correct)
                }
            };
        let [log_prob, entropy, correct] = [log_prob, entropy, correct].map(Self::from_inner);
        (sum, log_prob, entropy, correct)
    }
}

/// Asks whether a tensor is tracked, and is never part of a graph.
#[derive(Debug)]
struct Tracking;

impl<B: Backend> Backward<B, 1> for Tracking {
    type State = ();

    fn backward(self, _ops: Ops<(), 1>, _gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {}
}

/// The gradients of the sum are there already; what is left is a factor.
#[derive(Debug)]
struct TokenLogProbSumBackward;

impl<B: TokenLogProbOps> Backward<B, 2> for TokenLogProbSumBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let factor = B::float_reshape(gradients.consume::<B>(&ops.node), Shape::new([1, 1]));
        for (parent, gradient) in ops.parents.into_iter().zip(ops.state) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, B::float_mul(gradient, factor.clone()));
            }
        }
    }
}

#[derive(Debug)]
struct TokenLogProbBackward;

impl<B: TokenLogProbOps> Backward<B, 2> for TokenLogProbBackward {
    type State = ([FloatTensor<B>; 3], Arc<[u32]>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let ([hidden, head, log_sums], targets, temperature) = ops.state;
        match ops.parents {
            [hidden_parent, Some(head_parent)] => {
                let (of_hidden, of_head) =
                    B::token_log_prob_gradients(hidden, head, log_sums, gradient, targets, temperature);
                gradients.register::<B>(head_parent.id, of_head);
                if let Some(parent) = hidden_parent {
                    gradients.register::<B>(parent.id, of_hidden);
                }
            }
            [Some(parent), None] => {
                let of_hidden =
                    B::token_log_prob_hidden_gradient(hidden, head, log_sums, gradient, targets, temperature);
                gradients.register::<B>(parent.id, of_hidden);
            }
            [None, None] => {}
        }
    }
}

#[cfg(test)]
#[path = "token_log_prob_tests.rs"]
mod tests;
