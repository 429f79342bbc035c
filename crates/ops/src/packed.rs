//! Weights laid out for decoding: read from front to back, in single precision or less.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use rayon::prelude::*;

use crate::cpu::buffer::{self, all_f32, contiguous};
use crate::cpu::matrix::{Interleaved, Matrix};
use crate::cpu::panel::{self, Panel, SCALED, widened};
use crate::cpu::tile::Line;
use crate::cpu::vector::LANES;

/// How the numbers of a [`PackedWeight`] are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are: results are those of [`crate::linear`], bit for bit on the CPU.
    #[default]
    Single,
    /// Rounded to bfloat16: within 2^-8 of each number.
    Bfloat16,
    /// In 8 bits with a scale for each 32 inputs of an output: within 1/253 of the largest number among those 32.
    EightBit,
}

/// Added and taken away again, this rounds a small number to a whole one, ties to even, without a call into the library:
/// 1.5 * 2^23.
const TO_WHOLE: f32 = 12_582_912.0;

/// A weight of a network that is only used, not trained, laid out for products with few rows.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    inputs: usize,
    outputs: usize,
    numbers: Numbers,
}

/// Panels of [`LANES`] outputs, one after another, each input after input; the last one is filled up with zeros.
#[derive(Clone, Debug)]
enum Numbers {
    Single(Vec<Line>),
    Bfloat16(Vec<[u16; LANES]>),
    EightBit {
        values: Vec<[i8; LANES]>,
        /// Upper halves of f32, [`PackedWeight::scales`] for each panel.
        scales: Vec<[u16; LANES]>,
    },
}

impl PackedWeight {
    /// Packs `[inputs, outputs]`.
    ///
    /// # Panics
    ///
    /// When the weight is on a device with gradients.
    #[must_use]
    pub fn new(weight: Tensor<2>, precision: Precision) -> Self {
        let [inputs, outputs] = weight.dims();
        let values = numbers(weight);
        Self::pack([inputs, outputs], precision, |input, output| {
            values[input * outputs + output]
        })
    }

    /// Packs the transpose of `[outputs, inputs]`, as embeddings and heads are kept.
    ///
    /// # Panics
    ///
    /// As [`PackedWeight::new`].
    #[must_use]
    pub fn transposed(weight: Tensor<2>, precision: Precision) -> Self {
        let [outputs, inputs] = weight.dims();
        let values = numbers(weight);
        Self::pack([inputs, outputs], precision, |input, output| {
            values[output * inputs + input]
        })
    }

    fn pack([inputs, outputs]: [usize; 2], precision: Precision, at: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let row = |panel: usize, input: usize| -> [f32; LANES] {
            std::array::from_fn(|lane| {
                let output = panel * LANES + lane;
                if output < outputs { at(input, output) } else { 0.0 }
            })
        };
        let panels = outputs.div_ceil(LANES);
        let numbers = match precision {
            Precision::Single => Numbers::Single(in_panels(panels, inputs, |panel, input| Line(row(panel, input)))),
            Precision::Bfloat16 => {
                Numbers::Bfloat16(in_panels(panels, inputs, |panel, input| row(panel, input).map(rounded)))
            }
            Precision::EightBit => {
                let scales = in_panels(panels, inputs.div_ceil(SCALED), |panel, block| {
                    let inputs = block * SCALED..inputs.min((block + 1) * SCALED);
                    let mut largest = [0.0_f32; LANES];
                    for input in inputs {
                        for (largest, number) in largest.iter_mut().zip(row(panel, input)) {
                            // A NaN stays once it is there.
                            if number.is_nan() || number.abs() > *largest {
                                *largest = number.abs();
                            }
                        }
                    }
                    largest.map(|largest| rounded(largest / 127.0))
                });
                let blocks = inputs.div_ceil(SCALED);
                let values = in_panels(panels, inputs, |panel, input| {
                    let scales = scales[panel * blocks + input / SCALED];
                    let numbers = row(panel, input);
                    std::array::from_fn(|lane| {
                        let scale = widened(scales[lane]);
                        let steps = if scale == 0.0 { 0.0 } else { numbers[lane] / scale };
                        // What is no number is so by its scale.
                        (steps.clamp(-127.0, 127.0) + TO_WHOLE - TO_WHOLE) as i8
                    })
                });
                Numbers::EightBit { values, scales }
            }
        };
        Self {
            inputs,
            outputs,
            numbers,
        }
    }

    /// Length of the rows that it maps.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of the rows that it maps to.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How its numbers are held.
    #[must_use]
    pub fn precision(&self) -> Precision {
        match self.numbers {
            Numbers::Single(_) => Precision::Single,
            Numbers::Bfloat16(_) => Precision::Bfloat16,
            Numbers::EightBit { .. } => Precision::EightBit,
        }
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.numbers {
            Numbers::Single(values) => size_of_val(values.as_slice()),
            Numbers::Bfloat16(values) => size_of_val(values.as_slice()),
            Numbers::EightBit { values, scales } => size_of_val(values.as_slice()) + size_of_val(scales.as_slice()),
        }
    }

    /// Blocks of inputs that share a scale.
    fn scales(&self) -> usize {
        self.inputs.div_ceil(SCALED)
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    fn panel(&self, panel: usize) -> Panel<'_> {
        let rows = panel * self.inputs..(panel + 1) * self.inputs;
        match &self.numbers {
            Numbers::Single(values) => Panel::Single(&values[rows]),
            Numbers::Bfloat16(values) => Panel::Bfloat16(&values[rows]),
            Numbers::EightBit { values, scales } => {
                let blocks = panel * self.scales()..(panel + 1) * self.scales();
                Panel::EightBit(&values[rows], &scales[blocks])
            }
        }
    }

    fn at(&self, input: usize, output: usize) -> f32 {
        let (panel, lane) = (output / LANES, output % LANES);
        let row = panel * self.inputs + input;
        match &self.numbers {
            Numbers::Single(values) => values[row].0[lane],
            Numbers::Bfloat16(values) => widened(values[row][lane]),
            Numbers::EightBit { values, scales } => {
                let scale = scales[panel * self.scales() + input / SCALED][lane];
                f32::from(values[row][lane]) * widened(scale)
            }
        }
    }

    /// What goes to these outputs, `[outputs, inputs]`: the rows of an embedding that was packed with
    /// [`PackedWeight::transposed`].
    ///
    /// # Panics
    ///
    /// When there is no such output.
    #[must_use]
    pub fn rows(&self, outputs: &[usize], device: &Device) -> Tensor<2> {
        let mut values = Vec::with_capacity(outputs.len() * self.inputs);
        for &output in outputs {
            assert!(output < self.outputs, "there are {} outputs", self.outputs);
            values.extend((0..self.inputs).map(|input| self.at(input, output)));
        }
        Tensor::from_data(TensorData::new(values, [outputs.len(), self.inputs]), device)
    }

    /// The weight as it is held, `[inputs, outputs]`.
    fn unpacked(&self) -> TensorData {
        let values: Vec<f32> = (0..self.inputs)
            .flat_map(|input| (0..self.outputs).map(move |output| self.at(input, output)))
            .collect();
        TensorData::new(values, [self.inputs, self.outputs])
    }
}

fn numbers(weight: Tensor<2>) -> Vec<f32> {
    assert!(!weight.is_autodiff(), "packed weights are not trained");
    let data = weight.into_data().convert::<f32>();
    data.try_into_vec()
        .unwrap_or_else(|error| unreachable!("f32 values: {error}"))
}

/// `rows` rows of each panel.
fn in_panels<T: Copy + Default + Send>(panels: usize, rows: usize, row: impl Fn(usize, usize) -> T + Sync) -> Vec<T> {
    let mut values = vec![T::default(); panels * rows];
    values
        .par_chunks_mut(rows.max(1))
        .enumerate()
        .for_each(|(panel, values)| {
            for (index, value) in values.iter_mut().enumerate() {
                *value = row(panel, index);
            }
        });
    values
}

/// The nearest bfloat16, ties to even.
fn rounded(number: f32) -> u16 {
    let bits = number.to_bits();
    if number.is_nan() {
        // Rounding must not make an infinity of it.
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
}

/// `y = x W + b` with a packed weight, row by row. Not differentiable.
///
/// A row of the result depends on that row of `x` alone, bit for bit.
///
/// # Shapes
///
/// - `x`: `[rows, inputs]`
/// - `bias`: `[outputs]`
/// - result: `[rows, outputs]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn packed_linear(x: Tensor<2>, weight: &Arc<PackedWeight>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let [y] = packed_linears(x, [weight]);
    match bias {
        None => y,
        Some(bias) => {
            assert_eq!(
                bias.dims(),
                [weight.outputs],
                "packed_linear: the bias must have one value for each of {} outputs",
                weight.outputs
            );
            y + bias.unsqueeze()
        }
    }
}

/// The products of the same rows with several weights, worked out together: in decoding each by itself is so small that
/// waking the threads would take as long.
///
/// # Panics
///
/// When the shapes do not fit.
pub fn packed_linears<const N: usize>(x: Tensor<2>, weights: [&Arc<PackedWeight>; N]) -> [Tensor<2>; N] {
    let [_, inputs] = x.dims();
    for weight in weights {
        assert_eq!(
            inputs, weight.inputs,
            "packed_linear: rows of {inputs} values meet a weight for {}",
            weight.inputs
        );
    }
    let together = Tensor::<2>::from_dispatch(<Dispatch as PackedLinearOps>::packed_linears(
        x.into_dispatch(),
        weights.into_iter().cloned().collect(),
    ));
    let mut start = 0;
    weights.map(|weight| {
        start += weight.outputs;
        together.clone().narrow(1, start - weight.outputs, weight.outputs)
    })
}

/// [`packed_linears`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait PackedLinearOps: Backend {
    /// `x W` for each weight, side by side.
    fn packed_linears(x: FloatTensor<Self>, weights: Vec<Arc<PackedWeight>>) -> FloatTensor<Self> {
        portable::<Self>(x, &weights)
    }
}

/// The default body that an override falls back to.
fn portable<B: Backend>(x: FloatTensor<B>, weights: &[Arc<PackedWeight>]) -> FloatTensor<B> {
    let device = x.device();
    let products = weights.iter().map(|weight| {
        let data = weight.unpacked().convert_dtype(x.dtype());
        B::float_matmul(x.clone(), B::float_from_data(data, &device))
    });
    B::float_cat(products.collect(), 1)
}

/// Rows that are worked on together: with a panel they fit the cache.
const ROWS: usize = 96;

/// Numbers of a panel from which a task is worth a thread.
const TASK: usize = 32 * 1024;

impl PackedLinearOps for Flex {
    fn packed_linears(x: FlexTensor, weights: Vec<Arc<PackedWeight>>) -> FlexTensor {
        if !all_f32(&[&x]) {
            return portable::<Self>(x, &weights);
        }
        let (rows, inputs) = (x.shape()[0], x.shape()[1]);
        let x = contiguous(x);
        let x = buffer::values(&x);
        // Where each weight's panels and columns begin, those of the one after the last included.
        let (mut panels, mut columns) = (vec![0], vec![0]);
        for (index, weight) in weights.iter().enumerate() {
            panels.push(panels[index] + weight.panels());
            columns.push(columns[index] + weight.outputs);
        }
        let (all_panels, width) = (panels[weights.len()], columns[weights.len()]);
        // Two panels may be worked on side by side.
        let panels_of_task = (TASK / (inputs * LANES).max(1)).max(1).next_multiple_of(2);
        let groups = all_panels.div_ceil(panels_of_task);
        let blocks = rows.div_ceil(ROWS);
        // SAFETY: the tasks write every column of every row.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let values = unsafe {
            buffer::written(rows * width, |y| {
                let y = Interleaved::new(y);
                let work = |unpacked: &mut Vec<Line>, task: usize| {
                    let (block, group) = (task / groups, task % groups);
                    let rows = block * ROWS..rows.min((block + 1) * ROWS);
                    let x = Matrix::new(&x[rows.start * inputs..], [rows.len(), inputs], [inputs, 1]);
                    let end = all_panels.min((group + 1) * panels_of_task);
                    let mut number = group * panels_of_task;
                    while number < end {
                        let at = panels.partition_point(|&start| start <= number) - 1;
                        let (weight, panel) = (&weights[at], number - panels[at]);
                        let next = (number + 1 < end.min(panels[at + 1])).then(|| weight.panel(panel + 1));
                        let pair = next.and_then(|next| panel::pair([weight.panel(panel), next]));
                        let count = if pair.is_some() { 2 } else { 1 };
                        let start = rows.start * width + columns[at] + panel * LANES;
                        let shape = [rows.len(), (count * LANES).min(weight.outputs - panel * LANES)];
                        // SAFETY: this task alone has these columns of these rows.
                        let y = y.matrix(start, shape, width);
                        match pair {
                            Some(pair) => panel::multiply_pair(x, pair, y),
                            None => panel::multiply(x, weight.panel(panel), y, unpacked),
                        }
                        number += count;
                    }
                };
                let tasks = groups * blocks;
                if tasks == 1 {
                    work(&mut Vec::new(), 0);
                } else {
                    (0..tasks).into_par_iter().for_each_init(Vec::new, work);
                }
            })
        };
        buffer::tensor(values, Shape::new([rows, width]))
    }
}

impl<B: PackedLinearOps, C: CheckpointStrategy> PackedLinearOps for Autodiff<B, C> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LinearOps;
    use crate::testing::{assert_close, numbers, random, strided, values, with_threads};

    fn packed(weight: &FlexTensor, precision: Precision) -> Arc<PackedWeight> {
        let data = weight.clone().into_data();
        Arc::new(PackedWeight::new(Tensor::from_data(data, &Device::flex()), precision))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn single_precision_is_linear_to_the_bit(
            rows in 0..130_usize, inputs in 0..1200_usize, outputs in 0..70_usize, plain: bool,
        ) {
            let x = random(1, [rows, inputs]);
            let x = if plain { x } else { strided(&x) };
            let weight = random(2, [inputs, outputs]);
            let found = Flex::packed_linears(x.clone(), vec![packed(&weight, Precision::Single)]);
            prop_assert_eq!(values(&found), values(&Flex::linear_without_bias(x, weight)));
        }

        #[test]
        fn lower_precision_is_the_portable_body(
            rows in 0..40_usize, inputs in 0..600_usize, outputs in 0..70_usize, eight: bool,
        ) {
            let precision = if eight { Precision::EightBit } else { Precision::Bfloat16 };
            let weight = packed(&random(2, [inputs, outputs]), precision);
            let x = random(1, [rows, inputs]);
            let weights = vec![weight, packed(&random(3, [inputs, 21]), precision)];
            let found = Flex::packed_linears(x.clone(), weights.clone());
            assert_close(&found, &portable::<Flex>(x, &weights), 1e-5);
        }

        #[test]
        fn numbers_are_as_close_as_promised(inputs in 1..100_usize, outputs in 1..40_usize, spread in 0..8_i32) {
            let scaled = |(index, x): (usize, f32)| x * 10_f32.powi(index as i32 % 7 * spread - 20);
            let original: Vec<f32> = numbers(3, inputs * outputs).into_iter().enumerate().map(scaled).collect();
            let tensor = FlexTensor::from_data(TensorData::new(original.clone(), [inputs, outputs]));
            for precision in [Precision::Single, Precision::Bfloat16, Precision::EightBit] {
                let held: Vec<f32> = packed(&tensor, precision).unpacked().try_into_vec().unwrap();
                for (index, (held, &number)) in held.into_iter().zip(&original).enumerate() {
                    let (input, output) = (index / outputs, index % outputs);
                    let block = input / SCALED * SCALED..inputs.min((input / SCALED + 1) * SCALED);
                    let largest = block.map(|input| original[input * outputs + output].abs()).fold(0.0, f32::max);
                    let bound = match precision {
                        Precision::Single => 0.0,
                        Precision::Bfloat16 => number.abs() / 256.0,
                        Precision::EightBit => largest / 253.0,
                    };
                    prop_assert!((held - number).abs() <= bound, "{:?}: {} for {}", precision, held, number);
                }
            }
        }
    }

    #[test]
    fn neither_threads_nor_other_rows_change_anything() {
        for precision in [Precision::Single, Precision::Bfloat16, Precision::EightBit] {
            let weight = packed(&random(2, [700, 400]), precision);
            let x = random(1, [200, 700]);
            let run = |rows: std::ops::Range<usize>| {
                values(&Flex::packed_linears(
                    x.narrow(0, rows.start, rows.len()),
                    vec![weight.clone()],
                ))
            };
            let expected = with_threads(1, || run(0..200));
            for threads in 2..=4 {
                assert_eq!(with_threads(threads, || run(0..200)), expected, "{threads} threads");
            }
            for (start, length) in [(0, 1), (7, 1), (31, 2), (99, 5), (101, 16), (180, 20)] {
                assert_eq!(run(start..start + length), expected[start * 400..][..length * 400]);
            }
        }
    }

    #[test]
    fn several_weights_together_are_each_alone() {
        let device = Device::flex();
        let tensor = |seed, shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(numbers(seed, shape[0] * shape[1]), shape), &device)
        };
        let weights = [[600, 40], [600, 3], [600, 16]]
            .map(|shape| Arc::new(PackedWeight::new(tensor(shape[1] as u64, shape), Precision::Single)));
        let x = tensor(1, [5, 600]);
        let together = packed_linears(x.clone(), weights.each_ref());
        for (found, weight) in together.into_iter().zip(&weights) {
            assert_eq!(found.into_data(), packed_linear(x.clone(), weight, None).into_data());
        }
    }

    #[test]
    fn an_embeddings_rows_come_back() {
        let device = Device::flex();
        let table = Tensor::<2>::from_data(TensorData::new(numbers(1, 50 * 9), [50, 9]), &device);
        let packed = PackedWeight::transposed(table.clone(), Precision::Single);
        let rows = packed.rows(&[49, 0, 17, 17], &device);
        let expected = Tensor::cat([49, 0, 17, 17].map(|row| table.clone().narrow(0, row, 1)).to_vec(), 0);
        assert_eq!(rows.into_data(), expected.into_data());
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut weight = vec![1.0_f32; 40];
        weight[3] = f32::NAN;
        let weight = FlexTensor::from_data(TensorData::new(weight, [40, 1]));
        for precision in [Precision::Single, Precision::Bfloat16, Precision::EightBit] {
            let found = Flex::packed_linears(random(1, [1, 40]), vec![packed(&weight, precision)]);
            assert!(values(&found)[0].is_nan(), "{precision:?}");
        }
    }
}
