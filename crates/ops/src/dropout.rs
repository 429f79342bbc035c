//! Dropout whose mask has an address.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

/// Each value is 0 with probability `probability`, and otherwise `x / (1 - probability)`.
///
/// Srivastava et al., "Dropout" (2014), in the inverted form that leaves expectations as they are.
///
/// Whether a value is dropped depends on its row's key, on `site` and on its column, and on nothing else. So a row loses
/// the same values in any batch and on any number of threads, and a forward pass that is repeated drops them again.
/// Layers that must not drop the same values have different sites.
///
/// # Shapes
///
/// - `x`: `[rows, columns]`
/// - `keys`: one for each row
///
/// # Panics
///
/// When there are not as many keys as rows, or `probability` is not in `0..1`.
pub fn dropout(x: Tensor<2>, keys: &[u64], site: u64, probability: f64) -> Tensor<2> {
    let [rows, columns] = x.dims();
    assert_eq!(keys.len(), rows, "dropout: a key for each row");
    assert!(
        (0.0..1.0).contains(&probability),
        "dropout: a probability from 0 to below 1"
    );
    if probability == 0.0 || columns == 0 {
        return x;
    }
    let kept = (1.0 / (1.0 - probability)) as f32;
    let threshold = (probability * 2.0_f64.powi(64)) as u64;
    let mut mask = vec![0.0_f32; rows * columns];
    mask.par_chunks_mut(columns).zip(keys).for_each(|(row, key)| {
        let start = mixed(key ^ mixed(site));
        for (column, value) in row.iter_mut().enumerate() {
            let drawn = mixed(start.wrapping_add((column as u64).wrapping_mul(GOLDEN)));
            *value = if drawn < threshold { 0.0 } else { kept };
        }
    });
    let mask = Tensor::from_data(TensorData::new(mask, [rows, columns]), &x.device());
    x * mask
}

/// 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's step and mixing function (Steele, Lea & Flood 2014).
fn mixed(state: u64) -> u64 {
    let mut bits = state.wrapping_add(GOLDEN);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::testing::with_threads;

    fn dropped(keys: &[u64], site: u64, columns: usize, probability: f64) -> Vec<f32> {
        let x = Tensor::<2>::ones([keys.len(), columns], &Device::flex());
        dropout(x, keys, site, probability).into_data().try_into_vec().unwrap()
    }

    #[test]
    fn the_share_is_the_stated_one_and_the_mean_stays() {
        let keys: Vec<u64> = (0..500).collect();
        for probability in [0.1, 0.5, 0.75] {
            let values = dropped(&keys, 3, 400, probability);
            let count = values.len() as f64;
            let zeros = values.iter().filter(|value| **value == 0.0).count() as f64 / count;
            // Five standard errors of a share of 200,000.
            assert!((zeros - probability).abs() < 5.0 * (probability * (1.0 - probability) / count).sqrt());
            let kept = (1.0 / (1.0 - probability)) as f32;
            assert!(values.iter().all(|value| *value == 0.0 || *value == kept));
        }
    }

    #[test]
    fn a_row_loses_the_same_values_in_any_company_and_others_at_another_site() {
        let batch = with_threads(3, || dropped(&[7, 8, 9], 1, 64, 0.5));
        assert_eq!(with_threads(1, || dropped(&[8], 1, 64, 0.5)), batch[64..128]);
        assert_ne!(dropped(&[8], 2, 64, 0.5), batch[64..128]);
        assert_ne!(batch[..64], batch[64..128]);
        assert!(dropped(&[1, 2], 0, 4, 0.0).iter().all(|value| *value == 1.0));
    }

    #[test]
    fn the_gradient_is_the_mask() {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::ones([2, 16], &device).require_grad();
        let y = dropout(x.clone(), &[4, 5], 0, 0.5);
        let mask: Vec<f32> = y.clone().into_data().try_into_vec().unwrap();
        let gradient: Vec<f32> = x.grad(&y.sum().backward()).unwrap().into_data().try_into_vec().unwrap();
        assert_eq!(gradient, mask);
    }
}
