//! Vector code without a vector library: plain loops, compiled once for each instruction set and chosen at run time.
//!
//! A [`Kernel`] is a loop over slices. [`run`] compiles it for AVX-512, for AVX2 with FMA and for the baseline, and
//! calls the best one that the processor has, so one program serves them all. Sums run over [`LANES`] partial sums
//! whatever the register width: AVX-512 and AVX2 give the same bits, and so does any processor with fused
//! multiply-add.

/// The number of partial sums of a reduction, one AVX-512 register or two of AVX2.
pub(crate) const LANES: usize = 16;

const BASELINE_IS_FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// A loop that is worth compiling for wide registers.
///
/// Implementations mark `run` `#[inline(always)]`, and so every function it calls: code that stays a call of its own
/// is compiled for the baseline.
pub(crate) trait Kernel {
    /// What the loop returns.
    type Output;

    /// The loop. `FUSED` says that the processor has fused multiply-add.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum InstructionSet {
    /// AVX-512 (F, BW, CD, DQ, VL) with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the target guarantees.
    Baseline,
}

impl InstructionSet {
    /// The sets that this processor has, the best first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            [avx512.then_some(Self::Avx512), avx2.then_some(Self::Avx2)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let wide: [Option<Self>; 0] = [];
        wide.into_iter().flatten().chain([Self::Baseline])
    }

    /// Whether it has fused multiply-add.
    #[cfg(test)]
    pub(crate) fn is_fused(self) -> bool {
        self != Self::Baseline || BASELINE_IS_FUSED
    }

    /// The best set that this processor has.
    pub(crate) fn best() -> Self {
        Self::available().next().unwrap_or(Self::Baseline)
    }
}

/// Runs `kernel` as compiled for the best instruction set at hand.
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    run_on(InstructionSet::best(), kernel)
}

/// Runs `kernel` as compiled for `set`, which must come from [`InstructionSet::available`].
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls into code for detected instruction sets")
)]
pub(crate) fn run_on<K: Kernel>(set: InstructionSet, kernel: K) -> K::Output {
    match set {
        // SAFETY: the variant exists only where the processor was asked for these features.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { run_avx2(kernel) },
        InstructionSet::Baseline => kernel.run::<BASELINE_IS_FUSED>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

/// Asks for what lies at `place` ahead of its use, where the processor takes such hints.
#[inline(always)]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "hints are given through pointers")
)]
pub(crate) fn prefetch<T>(place: *const T) {
    // SAFETY: a hint reads nothing; any address will do.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// `a b + c`, with one rounding where the processor can do that as fast as with two.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` to within 0.88 ulp of the true value (1.16 ulp without fused multiply-add), subnormal results included; 0 below
/// -103.98, infinity above 88.73, NaN for NaN. Free of branches, so that loops over it become vector code.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, `e^x = 2^n e^r`, and `e^r = 1 + r + r^2 q(r)` with `q` of degree 5 fitted
/// to a relative error of 7e-10. `ln 2` is subtracted in two parts of which the first has 15 bits, so that its
/// product with `n` is exact, and `2^n` is multiplied in two halves, since `n` itself may be out of range where the
/// result is not.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// Adding this leaves no bits for a fraction: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_145_75;
    const LN_2_LOW: f32 = 1.428_606_8e-6;
    const COEFFICIENTS: [f32; 7] = [0.001_393_365, 0.008_333_31, 0.041_666_467, 0.166_666_67, 0.5, 1.0, 1.0];

    // Comparisons instead of `clamp`, because they leave a NaN where it is.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let rounded = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = multiply_add::<FUSED>(n, -LN_2_HIGH, x);
    let r = multiply_add::<FUSED>(n, -LN_2_LOW, r);
    let mut mantissa = 0.000_198_909_91;
    for coefficient in COEFFICIENTS {
        mantissa = multiply_add::<FUSED>(mantissa, r, coefficient);
    }
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = exponent >> 1;
    mantissa * power_of_two(half) * power_of_two(exponent.wrapping_sub(half))
}

/// `2^n` for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned())
}

/// The sum of the lanes, always in this order.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `term` over slices of one length, in [`LANES`] partial sums.
///
/// # Panics
///
/// When a slice is shorter than the first.
#[inline(always)]
pub(crate) fn sum<const N: usize>(slices: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let length = slices[0].len();
    let split = slices.map(|slice| slice[..length].as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for index in 0..length / LANES {
        let chunks = split.map(|(chunks, _)| &chunks[index]);
        for (lane, partial) in lanes.iter_mut().enumerate() {
            *partial += term(chunks.map(|chunk| chunk[lane]));
        }
    }
    for (lane, partial) in lanes.iter_mut().enumerate().take(length % LANES) {
        *partial += term(split.map(|(_, rest)| rest[lane]));
    }
    sum_lanes(lanes)
}

/// The sum of the products of two slices of one length, in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn dot<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane = multiply_add::<FUSED>(a, b, *lane);
        }
    }
    if !a_rest.is_empty() {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
            *lane = multiply_add::<FUSED>(a, b, *lane);
        }
    }
    // Else the compiler takes the partial sums apart in the loop already, two by two as they are added in the end.
    sum_lanes(std::hint::black_box(lanes))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exponentials<'a>(&'a mut [f32]);

    impl Kernel for Exponentials<'_> {
        type Output = ();

        #[inline(always)]
        fn run<const FUSED: bool>(self) {
            for x in self.0 {
                *x = exp::<FUSED>(*x);
            }
        }
    }

    /// How far `value` is from `truth`, in units of the last place of an f32 near `truth`.
    fn error_in_ulp(value: f32, truth: f64) -> f64 {
        let exponent = truth.abs().log2().floor().max(-126.0);
        (f64::from(value) - truth).abs() / (exponent - 23.0).exp2()
    }

    /// Over every `stride`-th f32 from `offset` on, as far as results are finite and not 0.
    fn largest_error(set: InstructionSet, offset: u32, stride: usize) -> f64 {
        let positive = (offset..88.722_84_f32.to_bits()).step_by(stride);
        let negative = ((-0.0_f32).to_bits() + offset..(-103.97_f32).to_bits()).step_by(stride);
        let arguments: Vec<f32> = positive.chain(negative).map(f32::from_bits).collect();
        let mut values = arguments.clone();
        run_on(set, Exponentials(&mut values));
        let errors = values
            .iter()
            .zip(&arguments)
            .map(|(&value, &x)| error_in_ulp(value, f64::from(x).exp()));
        errors.fold(0.0, f64::max)
    }

    /// The error that the documentation promises.
    fn bound(set: InstructionSet) -> f64 {
        if set.is_fused() { 0.88 } else { 1.16 }
    }

    #[test]
    fn the_exponential_is_within_one_ulp() {
        for set in InstructionSet::available() {
            let error = largest_error(set, 0, 1021);
            assert!(error < bound(set), "{set:?}: {error} ulp");
        }
    }

    #[test]
    #[ignore = "all 2.2 thousand million arguments take minutes"]
    fn the_exponential_is_within_one_ulp_everywhere() {
        for set in InstructionSet::available() {
            let error = (0..256)
                .map(|offset| largest_error(set, offset, 256))
                .fold(0.0, f64::max);
            println!("{set:?}: {error} ulp");
            assert!(error < bound(set), "{set:?}: {error} ulp");
        }
    }

    #[test]
    fn the_exponential_ends_as_it_should() {
        for set in InstructionSet::available() {
            let mut x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 88.73, -103.98, 0.0, -0.0];
            run_on(set, Exponentials(&mut x));
            assert!(x[0].is_nan());
            assert_eq!(x[1..], [f32::INFINITY, 0.0, f32::INFINITY, 0.0, 1.0, 1.0]);
        }
    }

    struct Sum<'a>(&'a [f32]);

    impl Kernel for Sum<'_> {
        type Output = f32;

        #[inline(always)]
        fn run<const FUSED: bool>(self) -> f32 {
            sum([self.0], |[x]| x)
        }
    }

    #[test]
    fn wide_instruction_sets_agree_to_the_bit() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
        for length in [0, 1, 15, 16, 17, 31, 255, 1000] {
            let sums: Vec<f32> = InstructionSet::available()
                .map(|set| run_on(set, Sum(&x[..length])))
                .collect();
            assert!(
                sums.iter().all(|sum| sum.to_bits() == sums[0].to_bits()),
                "{length}: {sums:?}"
            );
        }
        let mut wide: Vec<Vec<f32>> = Vec::new();
        for set in InstructionSet::available().filter(|set| set.is_fused()) {
            let mut values = x.clone();
            run_on(set, Exponentials(&mut values));
            wide.push(values);
        }
        assert!(wide.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
