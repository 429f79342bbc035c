//! A denoiser's output and gradients.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use nn::{Conditions, DenoiserConfig};
use serde::Deserialize;
use serde_json::json;
use train::random::{Purpose, stream};
use train::tensors::{HostTensor, TensorReader, write_tensors};

use crate::Answer;

/// A network, its weights and its input. Files are safetensors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    network: DenoiserConfig,
    /// The weights; fresh ones are written here where `input` is missing.
    weights: PathBuf,
    /// Holds `input` and `cotangent`, each [batch, values].
    input: Option<PathBuf>,
    /// Where `output`, `input_gradient` and the parameters' gradients go: those of `sum(output · cotangent)`.
    answer: Option<PathBuf>,
    #[serde(default)]
    noise: Vec<f64>,
    #[serde(default)]
    classes: Vec<Option<u32>>,
}

impl Evaluate {
    /// Files; the answer itself is empty.
    pub fn answer(self) -> Answer {
        let device = Device::flex().autodiff();
        let network = self
            .network
            .build(&mut stream(0, Purpose::INITIALIZATION, 0, 0), &device)?;
        let (Some(input), Some(answer)) = (&self.input, &self.answer) else {
            train::parameters::save(&network, &self.weights)?;
            return Ok(json!(null));
        };
        let network = train::parameters::load(network, &self.weights)?;
        let shape = [self.noise.len(), self.network.sample_size()];
        let mut reader = TensorReader::open(input)?;
        let mut read =
            |name: &str| Ok::<_, Box<dyn std::error::Error>>(TensorData::new(reader.take(name, &shape)?, shape));
        let input = Tensor::<2>::from_data(read("input")?, &device).require_grad();
        let cotangent = Tensor::<2>::from_data(read("cotangent")?, &device);
        reader.finish()?;
        let conditions = Conditions {
            noise: self.noise,
            classes: self.classes,
        };
        let output = network.forward(input.clone(), &conditions);
        let mut gradients = (output.clone() * cotangent).sum().backward();
        let mut found = Found {
            path: Vec::new(),
            gradients: &mut gradients,
            tensors: BTreeMap::new(),
        };
        network.visit(&mut found);
        let mut tensors = found.tensors;
        tensors.insert("output".to_owned(), host(output)?);
        let input = input.grad_remove(&mut gradients).ok_or("the input has no gradient")?;
        tensors.insert("input_gradient".to_owned(), host(input)?);
        write_tensors(answer, &tensors, &BTreeMap::new())?;
        Ok(json!(null))
    }
}

/// Gathers gradients under the parameters' names.
struct Found<'a> {
    path: Vec<String>,
    gradients: &'a mut Gradients,
    tensors: BTreeMap<String, HostTensor>,
}

impl ModuleVisitor for Found<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A parameter that is missing here is noticed on the other side, which expects all of them.
        if let Some(Ok(gradient)) = param.val().grad_remove(self.gradients).map(host) {
            self.tensors.insert(self.path.join("."), gradient);
        }
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Result<HostTensor, Box<dyn std::error::Error>> {
    let data = tensor.into_data().convert::<f32>();
    let shape = data.shape().to_vec();
    Ok(HostTensor {
        shape,
        data: data.try_into_vec().map_err(|error| format!("{error:?}"))?,
    })
}
