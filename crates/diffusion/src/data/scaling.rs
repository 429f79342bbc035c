//! The map between the data's own units and the units a network works in.

use serde::{Deserialize, Serialize};

use super::{DataError, ValueRange};

/// An affine map of each value: `scaled = (raw - shift) / scale`, and back `raw = scaled * scale + shift`.
///
/// Images map their range to [-1, 1] with one pair for all values (bytes: `x / 127.5 - 1`); points map to zero mean
/// and unit standard deviation with one pair per axis. It is stored with a trained network, because its samples mean
/// something only together with the way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Coefficients")]
pub struct Scaling {
    shift: Vec<f32>,
    scale: Vec<f32>,
}

/// How point data are brought to the units of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointScaling {
    /// Each axis to zero mean and unit standard deviation.
    Standardize,
    /// As they are.
    Raw,
}

/// A [`Scaling`] before it is checked.
#[derive(Deserialize)]
struct Coefficients {
    shift: Vec<f32>,
    scale: Vec<f32>,
}

impl TryFrom<Coefficients> for Scaling {
    type Error = DataError;

    fn try_from(Coefficients { shift, scale }: Coefficients) -> Result<Self, DataError> {
        Self::new(shift, scale)
    }
}

impl Scaling {
    /// The map with these coefficients: one pair for every value alike, or one pair per axis.
    ///
    /// # Errors
    /// [`DataError::InvalidOption`] unless there are as many scales as shifts, at least one, all of them finite and
    /// every scale positive.
    pub fn new(shift: Vec<f32>, scale: Vec<f32>) -> Result<Self, DataError> {
        let sound = !shift.is_empty()
            && shift.len() == scale.len()
            && shift.iter().all(|shift| shift.is_finite())
            && scale.iter().all(|scale| scale.is_finite() && *scale > 0.0);
        if sound {
            Ok(Self { shift, scale })
        } else {
            Err(DataError::InvalidOption {
                option: "scaling",
                value: format!("{} shifts, {} scales", shift.len(), scale.len()),
                problem: "as many scales as shifts are needed, all finite and every scale positive".to_owned(),
            })
        }
    }

    /// No change.
    #[must_use]
    pub fn identity() -> Self {
        Self {
            shift: vec![0.0],
            scale: vec![1.0],
        }
    }

    /// The range onto [-1, 1].
    #[must_use]
    pub fn from_range(range: ValueRange) -> Self {
        Self {
            shift: vec![0.5 * range.low() + 0.5 * range.high()],
            scale: vec![0.5 * range.high() - 0.5 * range.low()],
        }
    }

    /// Each axis of the row-major `values` (`[samples, dimensions]`) to zero mean and unit standard deviation (of
    /// these very samples: divided by their number). An axis without variation is only shifted.
    #[must_use]
    pub fn standardizing(values: &[f32], dimensions: usize) -> Self {
        let rows = (values.len() / dimensions.max(1)).max(1) as f64;
        let mut mean = vec![0.0f64; dimensions];
        for row in values.chunks_exact(dimensions.max(1)) {
            for (mean, value) in mean.iter_mut().zip(row) {
                *mean += f64::from(*value) / rows;
            }
        }
        let mut variance = vec![0.0f64; dimensions];
        for row in values.chunks_exact(dimensions.max(1)) {
            for ((variance, mean), value) in variance.iter_mut().zip(&mean).zip(row) {
                *variance += (f64::from(*value) - mean).powi(2) / rows;
            }
        }
        let scale = variance.iter().zip(&mean).map(|(variance, mean)| {
            let std = variance.sqrt();
            // What rounding alone makes of a constant column is no variation.
            if std > 1e-6 * mean.abs() && std as f32 > f32::MIN_POSITIVE {
                std as f32
            } else {
                1.0
            }
        });
        Self {
            scale: scale.collect(),
            shift: mean.iter().map(|mean| *mean as f32).collect(),
        }
    }

    /// What is subtracted: one number for every value alike, or one per axis.
    #[must_use]
    pub fn shift(&self) -> &[f32] {
        &self.shift
    }

    /// What the difference is divided by, in the data's units: one number for every value alike, or one per axis.
    #[must_use]
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Maps samples, one after another, from the data's units to the network's, in place.
    pub fn apply(&self, values: &mut [f32]) {
        self.each(values, |value, shift, scale| (value - shift) / scale);
    }

    /// Maps samples, one after another, from the network's units back to the data's, in place.
    pub fn restore(&self, values: &mut [f32]) {
        self.each(values, |value, shift, scale| value * scale + shift);
    }

    fn each(&self, values: &mut [f32], map: impl Fn(f32, f32, f32) -> f32) {
        if let (&[shift], &[scale]) = (self.shift.as_slice(), self.scale.as_slice()) {
            for value in values {
                *value = map(*value, shift, scale);
            }
            return;
        }
        for sample in values.chunks_mut(self.shift.len()) {
            for ((value, &shift), &scale) in sample.iter_mut().zip(&self.shift).zip(&self.scale) {
                *value = map(*value, shift, scale);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_map_as_x_over_127_5_minus_1() {
        let scaling = Scaling::from_range(ValueRange::BYTE);
        let mut values: Vec<f32> = (0..=255u8).map(f32::from).collect();
        scaling.apply(&mut values);
        for (byte, value) in values.iter().enumerate() {
            assert!((value - (byte as f32 / 127.5 - 1.0)).abs() < 1e-7);
        }
        assert_eq!((values[0], values[255]), (-1.0, 1.0));
        scaling.restore(&mut values);
        assert!(
            values
                .iter()
                .enumerate()
                .all(|(byte, value)| value.round() as usize == byte)
        );
    }

    #[test]
    fn standardizing_gives_zero_mean_and_unit_std_on_each_axis() {
        let rows: Vec<f32> = (0..200)
            .flat_map(|i| [i as f32, 5.0 - 0.01 * (i % 7) as f32, 0.1])
            .collect();
        let scaling = Scaling::standardizing(&rows, 3);
        let mut scaled = rows.clone();
        scaling.apply(&mut scaled);
        for axis in 0..2 {
            let column: Vec<f64> = scaled.iter().skip(axis).step_by(3).map(|v| f64::from(*v)).collect();
            let mean = column.iter().sum::<f64>() / 200.0;
            let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 200.0;
            assert!(
                mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-4,
                "{axis}: {mean} {variance}"
            );
        }
        // The constant axis moves to 0 and is not blown up.
        assert!(scaled.iter().skip(2).step_by(3).all(|v| v.abs() < 1e-6) && scaling.scale()[2] == 1.0);
        scaling.restore(&mut scaled);
        assert!(scaled.iter().zip(&rows).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn coefficients_are_checked_when_read_back() {
        let scaling = Scaling::new(vec![1.0, 2.0], vec![0.5, 4.0]).unwrap();
        let text = serde_json::to_string(&scaling).unwrap();
        assert_eq!(serde_json::from_str::<Scaling>(&text).unwrap(), scaling);
        for wrong in [
            r#"{"shift":[],"scale":[]}"#,
            r#"{"shift":[0],"scale":[0]}"#,
            r#"{"shift":[0,1],"scale":[1]}"#,
        ] {
            assert!(serde_json::from_str::<Scaling>(wrong).is_err(), "{wrong}");
        }
    }
}
