//! A trained network as a denoiser: scaled on the way in, preconditioned on the way out, guided if asked.

use burn::module::Module as _;
use burn::tensor::{Device, Tensor, TensorData};
use exact::prediction::PredictionError;
use nn::Conditions;

use crate::objective::Parameterization;
use crate::sample::Denoise;

/// A network with what is needed to read its output.
#[derive(Clone, Debug)]
pub struct NetworkDenoiser {
    network: nn::Denoiser,
    parameterization: Parameterization,
    data_std: f64,
    sample_size: usize,
    guidance: f64,
    device: Device,
}

impl NetworkDenoiser {
    /// The denoiser of `network`, which puts out samples of `sample_size` values in the sense of `parameterization`.
    pub fn new(
        network: &nn::Denoiser,
        parameterization: Parameterization,
        data_std: f64,
        sample_size: usize,
        device: &Device,
    ) -> Self {
        Self {
            network: network.valid(),
            parameterization,
            data_std,
            sample_size,
            guidance: 1.0,
            device: device.clone().inner(),
        }
    }

    /// The same under classifier-free guidance (Ho & Salimans 2022): `none + guidance · (class - none)`, so 1 is the
    /// plain conditional estimate and 0 the unconditional one.
    #[must_use]
    pub fn guided(self, guidance: f64) -> Self {
        Self { guidance, ..self }
    }

    /// The raw estimate, one network evaluation.
    fn evaluate(&self, states: &[f64], sigma: f64, classes: &[Option<u32>]) -> Result<Vec<f64>, PredictionError> {
        let c = self.parameterization.coefficients(sigma, self.data_std)?;
        let input: Vec<f32> = states.iter().map(|state| (c.input * state) as f32).collect();
        let batch = classes.len();
        let input = Tensor::<2>::from_data(TensorData::new(input, [batch, self.sample_size]), &self.device);
        let conditions = Conditions {
            noise: vec![c.noise; batch],
            classes: classes.to_vec(),
        };
        let output = self.network.forward(input, &conditions).into_data().convert::<f32>();
        let output = output.try_into_vec::<f32>().unwrap_or_default();
        Ok(states
            .iter()
            .zip(output)
            .map(|(state, output)| c.skip * state + c.output * f64::from(output))
            .collect())
    }
}

impl Denoise for NetworkDenoiser {
    type Error = PredictionError;

    fn sample_size(&self) -> usize {
        self.sample_size
    }

    fn evaluations(&self) -> usize {
        if self.guidance == 1.0 { 1 } else { 2 }
    }

    fn estimate(&self, states: &[f64], sigma: f64, classes: &[Option<u32>]) -> Result<Vec<f64>, PredictionError> {
        let conditional = self.evaluate(states, sigma, classes)?;
        if self.guidance == 1.0 {
            return Ok(conditional);
        }
        let unconditional = self.evaluate(states, sigma, &vec![None; classes.len()])?;
        Ok(conditional
            .iter()
            .zip(unconditional)
            .map(|(with, without)| without + self.guidance * (with - without))
            .collect())
    }
}
