//! Rotary position embedding.

use burn::tensor::{Device, Tensor, TensorData};

/// The cosines and sines of a batch's positions: worked out once and used by all layers.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[tokens, 1, head_size / 2]`.
    cosine: Tensor<3>,
    /// Likewise.
    sine: Tensor<3>,
}

impl Rotation {
    /// The rotation of each position by `position * frequency`, radians, and the factor on its result.
    #[must_use]
    pub fn new(positions: &[usize], frequencies: &[f64], factor: f64, device: &Device) -> Self {
        let tensor = |function: fn(f64) -> f64| {
            let values: Vec<f32> = positions
                .iter()
                .flat_map(|&position| frequencies.iter().map(move |frequency| position as f64 * frequency))
                .map(|angle| (function(angle) * factor) as f32)
                .collect();
            Tensor::from_data(TensorData::new(values, [positions.len(), 1, frequencies.len()]), device)
        };
        Self {
            cosine: tensor(f64::cos),
            sine: tensor(f64::sin),
        }
    }
}

/// Rotates the two halves of each head against each other: `(a cos - b sin, b cos + a sin)`.
///
/// Su et al., "RoFormer" (2021), equation 34, with the two coordinates of a pair half a head apart, as Llama's published
/// weights in Hugging Face's layout have them.
///
/// # Shapes
///
/// - `x` and result: `[tokens, heads * head_size]`
///
/// # Panics
///
/// When the width is not a multiple of twice the number of frequencies, or there are other tokens than positions.
pub fn rotary(x: Tensor<2>, rotation: &Rotation) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let [positions, _, half] = rotation.cosine.dims();
    assert_eq!(tokens, positions, "rotary: {tokens} tokens, {positions} positions");
    assert!(
        half > 0 && width.is_multiple_of(2 * half),
        "rotary: a width of {width} does not split into heads of {}",
        2 * half
    );
    let heads = width / (2 * half);
    let x = x.reshape([tokens, heads, 2 * half]);
    let (a, b) = (x.clone().narrow(2, 0, half), x.narrow(2, half, half));
    let (cosine, sine) = (rotation.cosine.clone(), rotation.sine.clone());
    let first = a.clone() * cosine.clone() - b.clone() * sine.clone();
    let second = b * cosine + a * sine;
    Tensor::cat(vec![first, second], 2).reshape([tokens, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, numbers};

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        let (positions, frequencies) = ([0_usize, 7, 3], [1.0, 0.1]);
        // Three tokens, two heads of four values.
        check_gradients(
            [numbers(1, 24)],
            |[x]| {
                let rotation = Rotation::new(&positions, &frequencies, 1.5, &x.device());
                rotary(x.reshape([3, 8]), &rotation).reshape([24])
            },
            |[x]| {
                let mut y = vec![0.0; 24];
                for (token, &position) in positions.iter().enumerate() {
                    for head in 0..2 {
                        for (pair, frequency) in frequencies.iter().enumerate() {
                            let at = token * 8 + head * 4 + pair;
                            let (sine, cosine) = (position as f64 * frequency).sin_cos();
                            y[at] = 1.5 * (x[at] * cosine - x[at + 2] * sine);
                            y[at + 2] = 1.5 * (x[at + 2] * cosine + x[at] * sine);
                        }
                    }
                }
                y
            },
        );
    }
}
