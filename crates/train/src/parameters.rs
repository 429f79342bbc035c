//! A module's parameters by name: out to the host, back in, and one after another through an update.
//!
//! A name is the path of fields to the parameter, joined by dots (`Dit.blocks.3.qkv.weight`), so it is the same in
//! every process, unlike burn's parameter ids. Checkpoints, optimiser state and averages are all keyed by it.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use crate::tensors::{HostTensor, TensorError, TensorReader, write_tensors};

/// All float parameters of `module`, copied to the host as f32.
pub fn collect<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    struct Collect(Path, BTreeMap<String, HostTensor>);
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.name(), to_host(param.val()));
        }
    }
    let mut visitor = Collect(Path::default(), BTreeMap::new());
    module.visit(&mut visitor);
    visitor.1
}

/// `module` with each parameter replaced by what `take` returns for its name and shape, row-major.
///
/// # Errors
///
/// The first error of `take`; the module is lost then.
///
/// # Panics
///
/// If `take` returns another number of values than the shape asks for.
pub fn apply<M: Module, E>(module: M, take: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>) -> Result<M, E> {
    struct Apply<F, E>(Path, F, Option<E>);
    impl<E, F: FnMut(&str, &[usize]) -> Result<Vec<f32>, E>> ModuleMapper for Apply<F, E> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.2.is_some() {
                return param;
            }
            let shape = param.lazy_shape().to_vec();
            match (self.1)(&self.0.name(), &shape) {
                Ok(values) => replace(param, |old| {
                    Tensor::from_data(TensorData::new(values, shape), &old.device())
                }),
                Err(error) => {
                    self.2 = Some(error);
                    param
                }
            }
        }
    }
    let mut mapper = Apply(Path::default(), take, None);
    let module = module.map(&mut mapper);
    mapper.2.map_or(Ok(module), Err)
}

/// Gives each parameter's name and flattened value, outside any gradient graph, to `update`, and puts what it
/// returns in the parameter's place. `update` holds the only copy, so an operation that can work in place does.
pub fn update<M: Module>(module: &mut M, update: impl FnMut(&str, Tensor<1>) -> Tensor<1>) {
    /// Empty parameters, to hold the place of those that are being updated.
    struct Hollow;
    impl ModuleMapper for Hollow {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, old, mapper) = param.consume();
            Param::from_mapped_value(id, Tensor::empty([0; D], &old.device()), mapper)
        }
    }
    struct Update<F>(Path, F);
    impl<F: FnMut(&str, Tensor<1>) -> Tensor<1>> ModuleMapper for Update<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.0.name();
            replace(param, |old| {
                let shape = old.shape();
                (self.1)(&name, old.flatten::<1>(0, D - 1)).reshape(shape)
            })
        }
    }
    let hollow = module.clone().map(&mut Hollow);
    *module = std::mem::replace(module, hollow).map(&mut Update(Path::default(), update));
}

/// Writes a module's parameters to one file.
///
/// # Errors
///
/// What the file system says.
pub fn save<M: Module>(module: &M, file: &std::path::Path) -> Result<(), TensorError> {
    write_tensors(file, &collect(module), &BTreeMap::new())
}

/// Reads a module's parameters from a file that holds exactly them.
///
/// # Errors
///
/// A damaged file; a tensor that is missing, too much, or of another shape.
pub fn load<M: Module>(module: M, file: &std::path::Path) -> Result<M, TensorError> {
    let mut reader = TensorReader::open(file)?;
    let module = apply(module, |name, shape| reader.take(name, shape))?;
    reader.finish()?;
    Ok(module)
}

/// Visits each parameter's name and value.
pub(crate) fn visit<M: Module>(module: &M, visit: impl FnMut(String, Tensor<1>)) {
    struct Visit<F>(Path, F);
    impl<F: FnMut(String, Tensor<1>)> ModuleVisitor for Visit<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            (self.1)(self.0.name(), untracked(param.val()).flatten(0, D - 1));
        }
    }
    module.visit(&mut Visit(Path::default(), visit));
}

/// Where a traversal is, as a dotted name.
#[derive(Debug, Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    pub(crate) fn name(&self) -> String {
        self.0.join(".")
    }
}

/// A tensor's values on the host, as f32.
pub(crate) fn to_host<const D: usize>(tensor: Tensor<D>) -> HostTensor {
    let data = tensor.into_data().convert::<f32>();
    let shape = data.shape().to_vec();
    // The conversion above makes the type right, so this cannot fail.
    HostTensor {
        shape,
        data: data.try_into_vec().unwrap_or_default(),
    }
}

/// The tensor without its gradient graph.
pub(crate) fn untracked<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}

/// The parameter with a new value, keeping its identity and whether it is trained.
fn replace<const D: usize>(param: Param<Tensor<D>>, new: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Param<Tensor<D>> {
    let (id, old, mapper) = param.consume();
    let (autodiff, tracked) = (old.is_autodiff(), old.is_require_grad());
    let mut value = new(untracked(old));
    if autodiff {
        value = Tensor::from_inner(value);
    }
    if tracked {
        value = value.require_grad();
    }
    Param::from_mapped_value(id, value, mapper)
}
