//! How long each operation takes, against the same formula in burn's own operations.
//!
//! `cargo run --release -p posterior-ops --example speed` on an otherwise idle machine. Sizes are those of a small
//! DiT: batch 64, 49 tokens, width 256, 4 heads, MLP width 1024; and those of a small language model: 1024 tokens,
//! width 576, 9 heads, inner width 1536, vocabulary 8192, and 16 rows where it decodes. Times are the fastest of many runs, forward and
//! forward with backward, rates those of the fused operation, forward.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::{Bool, Device, Distribution, Int, Tensor, TensorData};
use posterior_ops::{
    AdamwStep, Forest, Heads, Layout, PackedWeight, Precision, Rotation, adamw, ema, packed_linear, sum_of_squares,
};

const BATCH: usize = 64;
const TOKENS: usize = 49;
const ROWS: usize = BATCH * TOKENS;
const WIDTH: usize = 256;
const HEADS: usize = 4;
const MLP: usize = 1024;
const EPSILON: f64 = 1e-6;

/// Sizes of the language model.
mod language {
    pub(super) const ROWS: usize = 1024;
    pub(super) const HEADS: usize = 9;
    pub(super) const HEAD_SIZE: usize = 64;
    pub(super) const WIDTH: usize = HEADS * HEAD_SIZE;
    pub(super) const INNER: usize = 1536;
    pub(super) const VOCABULARY: usize = 8192;
    /// Tokens of each of the sequences that attention sees.
    pub(super) const LENGTH: usize = 256;
    pub(super) const SEQUENCES: usize = ROWS / LENGTH;
    /// Texts that are decoded together.
    pub(super) const DECODED: usize = 16;
}

/// The operations of a DiT and of a language model, by one implementation or the other.
struct Operations {
    linear: fn(Tensor<2>, Tensor<2>, Option<Tensor<1>>) -> Tensor<2>,
    layer_norm_modulated: fn(Tensor<3>, Tensor<2>, Tensor<2>, f64) -> Tensor<3>,
    gelu: fn(Tensor<2>) -> Tensor<2>,
    silu: fn(Tensor<2>) -> Tensor<2>,
    self_attention: fn(Tensor<3>, usize) -> Tensor<3>,
    gated_residual: fn(Tensor<3>, Tensor<2>, Tensor<3>) -> Tensor<3>,
    rms_norm: fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>,
    layer_norm: fn(Tensor<2>, Tensor<1>, Tensor<1>, f64) -> Tensor<2>,
    swiglu: fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
    rotary: fn(Tensor<2>, &Turn) -> Tensor<2>,
    /// Of queries, keys and values.
    causal_attention: fn([Tensor<2>; 3], &Arc<Layout>) -> Tensor<2>,
    /// Of hidden rows and the head.
    token_log_prob: fn([Tensor<2>; 2], &Arc<[u32]>) -> Tensor<1>,
    /// Their mean, as a loss has it.
    token_log_prob_sum: fn([Tensor<2>; 2], &Arc<[u32]>) -> Tensor<1>,
}

/// The rotation of a batch's positions, for each implementation as it takes it.
#[derive(Clone)]
struct Turn {
    rotation: Rotation,
    cosine: Tensor<3>,
    sine: Tensor<3>,
}

const FUSED: Operations = Operations {
    linear: posterior_ops::linear,
    layer_norm_modulated: posterior_ops::layer_norm_modulated,
    gelu: posterior_ops::gelu,
    silu: posterior_ops::silu,
    self_attention: posterior_ops::self_attention,
    gated_residual: posterior_ops::gated_residual,
    rms_norm: posterior_ops::rms_norm,
    layer_norm: posterior_ops::layer_norm,
    swiglu: posterior_ops::swiglu,
    rotary: |x, turn| posterior_ops::rotary(x, &turn.rotation),
    causal_attention: |[q, k, v], layout| {
        let heads = Heads {
            queries: language::HEADS,
            keys: language::HEADS,
            size: language::HEAD_SIZE,
            scale: (language::HEAD_SIZE as f64).powf(-0.5),
            window: None,
        };
        posterior_ops::tree_attention(q, k, v, layout, heads)
    },
    token_log_prob: |[hidden, head], targets| {
        posterior_ops::token_log_prob(hidden, head, Arc::clone(targets), 1.0).log_prob
    },
    token_log_prob_sum: |[hidden, head], targets| {
        let weights = vec![1.0 / targets.len() as f32; targets.len()];
        posterior_ops::token_log_prob_sum(hidden, head, Arc::clone(targets), weights.into(), 1.0).0
    },
};

/// The logarithms of all probabilities, and of these the targets'.
fn burn_log_prob([hidden, head]: [Tensor<2>; 2], targets: &Arc<[u32]>) -> Tensor<1> {
    let targets: Vec<i64> = targets.iter().map(|&target| i64::from(target)).collect();
    let targets = TensorData::new(targets, [hidden.dims()[0], 1]);
    let targets = Tensor::<2, Int>::from_data(targets, &hidden.device());
    let logits = hidden.matmul(head.transpose());
    burn::tensor::activation::log_softmax(logits, 1)
        .gather(1, targets)
        .squeeze_dim(1)
}

const BURN: Operations = Operations {
    linear: |x, weight, bias| {
        let product = x.matmul(weight);
        match bias {
            None => product,
            Some(bias) => product + bias.unsqueeze(),
        }
    },
    layer_norm_modulated: |x, shift, scale, epsilon| {
        let centered = x.clone() - x.mean_dim(2);
        let variance = (centered.clone() * centered.clone()).mean_dim(2);
        centered / (variance + epsilon).sqrt() * (scale.unsqueeze_dim(1) + 1.0) + shift.unsqueeze_dim(1)
    },
    gelu: burn::tensor::activation::gelu_approximate,
    silu: burn::tensor::activation::silu,
    self_attention: |qkv, heads| {
        let [batch, tokens, packed] = qkv.dims();
        let head_width = packed / 3 / heads;
        let split = qkv
            .reshape([batch, tokens, 3, heads, head_width])
            .permute([2, 0, 3, 1, 4]);
        let part = |index| split.clone().narrow(0, index, 1).squeeze_dim::<4>(0);
        let scores = part(0).matmul(part(1).swap_dims(2, 3)) * (head_width as f64).powf(-0.5);
        let mixed = burn::tensor::activation::softmax(scores, 3).matmul(part(2));
        mixed.swap_dims(1, 2).reshape([batch, tokens, packed / 3])
    },
    gated_residual: |x, gate, y| x + gate.unsqueeze_dim(1) * y,
    rms_norm: |x, weight, epsilon| {
        let mean_square = (x.clone() * x.clone()).mean_dim(1);
        x / (mean_square + epsilon).sqrt() * weight.unsqueeze()
    },
    layer_norm: |x, weight, bias, epsilon| {
        let centered = x.clone() - x.mean_dim(1);
        let variance = (centered.clone() * centered.clone()).mean_dim(1);
        centered / (variance + epsilon).sqrt() * weight.unsqueeze() + bias.unsqueeze()
    },
    swiglu: |gate, up| burn::tensor::activation::silu(gate) * up,
    rotary: |x, turn| {
        let [rows, _, half] = turn.cosine.dims();
        let width = x.dims()[1];
        let x = x.reshape([rows, width / (2 * half), 2 * half]);
        let (a, b) = (x.clone().narrow(2, 0, half), x.narrow(2, half, half));
        let (cosine, sine) = (turn.cosine.clone(), turn.sine.clone());
        let first = a.clone() * cosine.clone() - b.clone() * sine.clone();
        Tensor::cat(vec![first, b * cosine + a * sine], 2).reshape([rows, width])
    },
    causal_attention: |parts, _| {
        use language::{HEAD_SIZE, HEADS, LENGTH, ROWS, SEQUENCES, WIDTH};

        let device = parts[0].device();
        let [q, k, v] = parts.map(|part| part.reshape([SEQUENCES, LENGTH, HEADS, HEAD_SIZE]).swap_dims(1, 2));
        let later = Tensor::<2, Bool>::tril_mask([LENGTH, LENGTH], 0, &device);
        let scores = q.matmul(k.swap_dims(2, 3)) * (HEAD_SIZE as f64).powf(-0.5);
        let scores = scores.mask_fill(later.unsqueeze(), f32::NEG_INFINITY);
        let mixed = burn::tensor::activation::softmax(scores, 3).matmul(v);
        mixed.swap_dims(1, 2).reshape([ROWS, WIDTH])
    },
    token_log_prob: burn_log_prob,
    token_log_prob_sum: |parts, targets| burn_log_prob(parts, targets).mean(),
};

fn main() {
    println!(
        "{:28} {:>10} {:>10} {:>6} {:>12} {:>10} {:>10} {:>6}",
        "", "fused", "burn", "ratio", "", "training", "burn", "ratio"
    );
    for [inputs, outputs] in [[WIDTH, 3 * WIDTH], [WIDTH, WIDTH], [WIDTH, MLP], [MLP, WIDTH]] {
        compare(
            &format!("linear {inputs} -> {outputs}"),
            Work::Flop(2 * ROWS * inputs * outputs),
            |device| {
                (
                    leaf([ROWS, inputs], 1.0, device),
                    leaf([inputs, outputs], 1.0, device),
                    leaf([outputs], 1.0, device),
                )
            },
            |by, (x, weight, bias)| (by.linear)(x, weight, Some(bias)),
        );
    }
    compare(
        "layer_norm_modulated",
        Work::Bytes(4 * 2 * ROWS * WIDTH),
        |device| (tokens(WIDTH, device), samples(device), samples(device)),
        |by, (x, shift, scale)| (by.layer_norm_modulated)(x, shift, scale, EPSILON),
    );
    compare(
        "gelu",
        Work::Bytes(4 * 2 * ROWS * MLP),
        |device| leaf([ROWS, MLP], 4.0, device),
        |by, x| (by.gelu)(x),
    );
    compare(
        "silu",
        Work::Bytes(4 * 2 * ROWS * MLP),
        |device| leaf([ROWS, MLP], 4.0, device),
        |by, x| (by.silu)(x),
    );
    compare(
        "self_attention",
        Work::Flop(4 * BATCH * TOKENS * TOKENS * WIDTH),
        |device| tokens(3 * WIDTH, device),
        |by, qkv| (by.self_attention)(qkv, HEADS),
    );
    compare(
        "gated_residual",
        Work::Bytes(4 * 3 * ROWS * WIDTH),
        |device| (tokens(WIDTH, device), samples(device), tokens(WIDTH, device)),
        |by, (x, gate, y)| (by.gated_residual)(x, gate, y),
    );
    let multiplications = BATCH * WIDTH * 6 * WIDTH + ROWS * WIDTH * (4 * WIDTH + 2 * MLP);
    let attention = 2 * BATCH * TOKENS * TOKENS * WIDTH;
    compare(
        "DiT block",
        Work::Flop(2 * (multiplications + attention)),
        Block::new,
        |by, block| block.forward(by),
    );
    language_model();
    optimiser();
    share_of_products();
}

fn language_model() {
    use language::{HEAD_SIZE, INNER, LENGTH, ROWS, SEQUENCES, VOCABULARY, WIDTH};

    compare(
        "rms_norm",
        Work::Bytes(4 * 2 * ROWS * WIDTH),
        |device| (leaf([ROWS, WIDTH], 1.0, device), leaf([WIDTH], 1.0, device)),
        |by, (x, weight)| (by.rms_norm)(x, weight, EPSILON),
    );
    compare(
        "layer_norm",
        Work::Bytes(4 * 2 * ROWS * WIDTH),
        |device| {
            (
                leaf([ROWS, WIDTH], 1.0, device),
                leaf([WIDTH], 1.0, device),
                leaf([WIDTH], 1.0, device),
            )
        },
        |by, (x, weight, bias)| (by.layer_norm)(x, weight, bias, EPSILON),
    );
    compare(
        "swiglu",
        Work::Bytes(4 * 3 * ROWS * INNER),
        |device| (leaf([ROWS, INNER], 4.0, device), leaf([ROWS, INNER], 1.0, device)),
        |by, (gate, up)| (by.swiglu)(gate, up),
    );
    let positions: Vec<usize> = (0..ROWS).collect();
    let frequencies: Vec<f64> = (0..HEAD_SIZE / 2)
        .map(|pair| 1e4_f64.powf(-2.0 * pair as f64 / HEAD_SIZE as f64))
        .collect();
    compare(
        "rotary",
        Work::Bytes(4 * 2 * ROWS * WIDTH),
        |device| {
            let constant = || leaf([ROWS, 1, HEAD_SIZE / 2], 1.0, device).detach();
            let turn = Turn {
                rotation: Rotation::new(&positions, &frequencies, 1.0, device),
                cosine: constant(),
                sine: constant(),
            };
            (leaf([ROWS, WIDTH], 1.0, device), turn)
        },
        |by, (x, turn)| (by.rotary)(x, &turn),
    );
    let layout = Arc::new(Forest::sequences([LENGTH; SEQUENCES]).layout());
    compare(
        "tree_attention",
        Work::Flop(2 * SEQUENCES * LENGTH * (LENGTH + 1) * WIDTH),
        |device| [1, 2, 3].map(|_| leaf([ROWS, WIDTH], 1.0, device)),
        |by, parts| (by.causal_attention)(parts, &layout),
    );
    let targets: Arc<[u32]> = (0..ROWS as u32).map(|row| row * 7 % VOCABULARY as u32).collect();
    let of_head = |device: &Device| [leaf([ROWS, WIDTH], 1.0, device), leaf([VOCABULARY, WIDTH], 0.1, device)];
    let work = || Work::Flop(2 * ROWS * VOCABULARY * WIDTH);
    compare("token_log_prob", work(), of_head, |by, parts| {
        (by.token_log_prob)(parts, &targets)
    });
    compare("token_log_prob_sum", work(), of_head, |by, parts| {
        (by.token_log_prob_sum)(parts, &targets)
    });
    decoding();
}

/// A layer that decodes, in each precision, against burn's product with the weight as it is.
fn decoding() {
    use language::{DECODED, INNER, WIDTH};

    let device = Device::flex();
    let weight: Tensor<2> = leaf([WIDTH, INNER], 1.0, &device);
    for rows in [1, DECODED] {
        let x: Tensor<2> = leaf([rows, WIDTH], 1.0, &device);
        for precision in [Precision::Single, Precision::Bfloat16, Precision::EightBit] {
            let packed = Arc::new(PackedWeight::new(weight.clone(), precision));
            let times = fastest([&|| drop(black_box(packed_linear(x.clone(), &packed, None))), &|| {
                drop(black_box(x.clone().matmul(weight.clone())));
            }]);
            let rate = Work::Flop(2 * rows * WIDTH * INNER).rate(times[0]);
            println!(
                "{:28} {} {rate:>12}",
                format!("packed, {rows} rows, {precision:?}"),
                columns(times)
            );
        }
    }
}

/// A tensor of random numbers up to `bound` whose gradient is wanted where gradients are taken.
fn leaf<const D: usize>(shape: [usize; D], bound: f64, device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-bound, bound), device).set_require_grad(device.is_autodiff())
}

fn tokens(width: usize, device: &Device) -> Tensor<3> {
    leaf([BATCH, TOKENS, width], 1.0, device)
}

fn samples(device: &Device) -> Tensor<2> {
    leaf([BATCH, WIDTH], 1.0, device)
}

/// Weights and inputs of one block of a DiT: adaLN-zero, attention and an MLP.
#[derive(Clone)]
struct Block {
    weights: [(Tensor<2>, Tensor<1>); 5],
    x: Tensor<3>,
    condition: Tensor<2>,
}

impl Block {
    const SHAPES: [[usize; 2]; 5] = [
        [WIDTH, 6 * WIDTH],
        [WIDTH, 3 * WIDTH],
        [WIDTH, WIDTH],
        [WIDTH, MLP],
        [MLP, WIDTH],
    ];

    fn new(device: &Device) -> Self {
        Self {
            weights: Self::SHAPES.map(|shape| (leaf(shape, 0.1, device), leaf([shape[1]], 0.1, device))),
            x: tokens(WIDTH, device),
            condition: samples(device),
        }
    }

    fn forward(self, by: &Operations) -> Tensor<3> {
        let [modulation, qkv, projection, up, down] = self
            .weights
            .map(|(weight, bias)| move |x: Tensor<2>| (by.linear)(x, weight, Some(bias)));
        let modulation = modulation((by.silu)(self.condition));
        let part = |index: usize| modulation.clone().narrow(1, index * WIDTH, WIDTH);
        let rows = |x: Tensor<3>| x.reshape([ROWS as i32, -1]);
        let batch = |x: Tensor<2>| x.reshape([BATCH as i32, TOKENS as i32, -1]);

        let y = (by.layer_norm_modulated)(self.x.clone(), part(0), part(1), EPSILON);
        let y = (by.self_attention)(batch(qkv(rows(y))), HEADS);
        let x = (by.gated_residual)(self.x, part(2), batch(projection(rows(y))));
        let y = (by.layer_norm_modulated)(x.clone(), part(3), part(4), EPSILON);
        let y = down((by.gelu)(up(rows(y))));
        (by.gated_residual)(x, part(5), batch(y))
    }
}

/// The fastest of many runs, the candidates taking turns so that both meet the same disturbances.
fn fastest<const N: usize>(candidates: [&dyn Fn(); N]) -> [Duration; N] {
    let mut best = [Duration::MAX; N];
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < 10 || (start.elapsed() < Duration::from_secs(2) && rounds < 200) {
        for (best, candidate) in best.iter_mut().zip(candidates) {
            let start = Instant::now();
            candidate();
            *best = start.elapsed().min(*best);
        }
        rounds += 1;
    }
    best
}

/// What a row of the table computes or moves.
enum Work {
    Flop(usize),
    Bytes(usize),
}

impl Work {
    fn rate(&self, time: Duration) -> String {
        match self {
            Self::Flop(count) => format!("{:.0} GFLOP/s", *count as f64 / time.as_secs_f64() / 1e9),
            Self::Bytes(count) => format!("{:.1} GB/s", *count as f64 / time.as_secs_f64() / 1e9),
        }
    }
}

fn compare<I: Clone, const D: usize>(
    name: &str,
    work: Work,
    inputs: impl Fn(&Device) -> I,
    operation: impl Fn(&Operations, I) -> Tensor<D>,
) {
    let (plain, tracked) = (inputs(&Device::flex()), inputs(&Device::flex().autodiff()));
    let forward = |by: &Operations| drop(black_box(operation(by, plain.clone())));
    let training = |by: &Operations| drop(black_box(operation(by, tracked.clone()).sum().backward()));
    let forward = fastest([&|| forward(&FUSED), &|| forward(&BURN)]);
    let training = fastest([&|| training(&FUSED), &|| training(&BURN)]);
    println!(
        "{name:28} {} {:>12} {}",
        columns(forward),
        work.rate(forward[0]),
        columns(training)
    );
}

fn columns([fused, burn]: [Duration; 2]) -> String {
    let ratio = burn.as_secs_f64() / fused.as_secs_f64();
    format!(
        "{:>7.2} ms {:>7.2} ms {ratio:>6.2}",
        milliseconds(fused),
        milliseconds(burn)
    )
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// AdamW, the moving average and the norm over 10 million parameters in one tensor.
fn optimiser() {
    const LENGTH: usize = 10_000_000;
    type State = [Tensor<1>; 4];
    let new = || RefCell::new(Some([0.0; 4].map(|_| leaf([LENGTH], 1.0, &Device::flex()).abs())));
    // The state is taken out for each step, so that its storage has one owner.
    let update = |state: &RefCell<Option<State>>, step: fn(State) -> State| {
        let taken = state.take().map(step);
        state.replace(taken);
    };
    let row = |name: &str, times: [Duration; 2], bytes: usize| {
        println!("{name:28} {} {:>12}", columns(times), Work::Bytes(bytes).rate(times[0]));
    };
    let (fused, burn) = (new(), new());
    let times = fastest([
        &|| {
            update(&fused, |[p, g, m, v]| {
                let (p, m, v) = adamw(p, g.clone(), m, v, AdamwStep::default());
                [p, g, m, v]
            });
        },
        &|| {
            update(&burn, |[p, g, m, v]| {
                let m = m * 0.9 + g.clone() * 0.1;
                let v = v * 0.999 + g.clone() * g.clone() * 0.001;
                let direction = (m.clone() / 0.1) / ((v.clone() / 0.001).sqrt() + 1e-8);
                [p * (1.0 - 1e-5) - direction * 1e-3, g, m, v]
            });
        },
    ]);
    row("adamw, 10 M parameters", times, 4 * 7 * LENGTH);
    let times = fastest([
        &|| update(&fused, |[p, g, m, v]| [ema(p, g.clone(), 0.999), g, m, v]),
        &|| update(&burn, |[p, g, m, v]| [p * 0.999 + g.clone() * 0.001, g, m, v]),
    ]);
    row("ema, 10 M parameters", times, 4 * 3 * LENGTH);
    let x = leaf([LENGTH], 1.0, &Device::flex());
    let times = fastest([
        &|| {
            black_box(sum_of_squares(x.clone()));
        },
        &|| {
            black_box((x.clone() * x.clone()).sum().into_scalar::<f32>());
        },
    ]);
    row("sum_of_squares, 10 M values", times, 4 * LENGTH);
}

/// How much of a block's training its linear layers' products take: the three of each layer, by themselves.
fn share_of_products() {
    let device = Device::flex().autodiff();
    let block = Block::new(&device);
    let inputs = Block::SHAPES.map(|[inputs, outputs]| {
        let rows = if outputs == 6 * WIDTH { BATCH } else { ROWS };
        leaf([rows, inputs], 1.0, &device)
    });
    let products = || {
        for (x, (weight, _)) in inputs.iter().zip(&block.weights) {
            drop(black_box(
                (FUSED.linear)(x.clone(), weight.clone(), None).sum().backward(),
            ));
        }
    };
    let training = || drop(black_box(block.clone().forward(&FUSED).sum().backward()));
    let [training, products] = fastest([&training, &products]);
    let share = 100.0 * products.as_secs_f64() / training.as_secs_f64();
    println!(
        "products of the linear layers: {:.1} ms of the block's {:.1} ms, {share:.0} %",
        milliseconds(products),
        milliseconds(training)
    );
}
