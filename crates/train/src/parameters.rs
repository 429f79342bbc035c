//! A module's parameters by name: out to the host, back in, and one after another through an update.
//!
//! A name is the path of fields to the parameter, joined by dots (`Dit.blocks.3.qkv.weight`), so it is the same in
//! every process, unlike burn's parameter ids. Checkpoints, optimiser state and averages are all keyed by it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use crate::fingerprint::Fingerprint;
use crate::tensors::{HostTensor, TensorError, TensorReader, WritableTensor, write_tensors};

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
    apply_where(module, |_| true, take)
}

/// The same for those parameters only of which `wanted`, told whether they are trained, says so.
fn apply_where<M: Module, E>(
    module: M,
    wanted: impl Fn(bool) -> bool,
    take: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
) -> Result<M, E> {
    struct Apply<W, F, E>(Path, W, F, Option<E>);
    impl<E, W: Fn(bool) -> bool, F: FnMut(&str, &[usize]) -> Result<Vec<f32>, E>> ModuleMapper for Apply<W, F, E> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.3.is_some() || !(self.1)(param.is_require_grad()) {
                return param;
            }
            let shape = param.lazy_shape().to_vec();
            match (self.2)(&self.0.name(), &shape) {
                Ok(values) => replace(param, |old| {
                    Tensor::from_data(TensorData::new(values, shape), &old.device())
                }),
                Err(error) => {
                    self.3 = Some(error);
                    param
                }
            }
        }
    }
    let mut mapper = Apply(Path::default(), wanted, take, None);
    let module = module.map(&mut mapper);
    mapper.3.map_or(Ok(module), Err)
}

/// Gives each parameter's name, number of dimensions and flattened value, outside any gradient graph, to `update`, and
/// puts what it returns in the parameter's place. `update` holds the only copy, so an operation that can work in place
/// does.
pub fn update<M: Module>(module: &mut M, update: impl FnMut(&str, usize, Tensor<1>) -> Tensor<1>) {
    /// Empty parameters, to hold the place of those that are being updated.
    struct Hollow;
    impl ModuleMapper for Hollow {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, old, mapper) = param.consume();
            Param::from_mapped_value(id, Tensor::empty([0; D], &old.device()), mapper)
        }
    }
    struct Update<F>(Path, F);
    impl<F: FnMut(&str, usize, Tensor<1>) -> Tensor<1>> ModuleMapper for Update<F> {
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
                (self.1)(&name, D, old.flatten::<1>(0, D - 1)).reshape(shape)
            })
        }
    }
    let hollow = module.clone().map(&mut Hollow);
    *module = std::mem::replace(module, hollow).map(&mut Update(Path::default(), update));
}

/// Writes a module's parameters to one file, copying one at a time.
///
/// # Errors
///
/// What the file system says.
pub fn save<M: Module>(module: &M, file: &std::path::Path) -> Result<(), TensorError> {
    save_those(module, file, |_| true)
}

/// The same with the parameters that are trained, and not those that are frozen.
///
/// # Errors
///
/// What the file system says.
pub fn save_trained<M: Module>(module: &M, file: &std::path::Path) -> Result<(), TensorError> {
    save_those(module, file, |is_trained| is_trained)
}

fn save_those<M: Module>(module: &M, file: &std::path::Path, wanted: impl Fn(bool) -> bool) -> Result<(), TensorError> {
    struct Gather<F>(Path, BTreeMap<String, Held>, F);
    impl<F: Fn(bool) -> bool> ModuleVisitor for Gather<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if (self.2)(value.is_require_grad()) {
                self.1.insert(self.0.name(), Held::new(value));
            }
        }
    }
    let mut gather = Gather(Path::default(), BTreeMap::new(), wanted);
    module.visit(&mut gather);
    write_tensors(file, &gather.1, &BTreeMap::new())
}

/// A tensor that is fetched to the host when it is written.
pub(crate) struct Held {
    shape: Vec<usize>,
    values: Tensor<1>,
}

impl Held {
    pub(crate) fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        Self {
            shape: tensor.dims().to_vec(),
            values: untracked(tensor).flatten(0, D - 1),
        }
    }
}

impl WritableTensor for Held {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn count(&self) -> usize {
        self.values.dims()[0]
    }

    fn values(&self) -> Cow<'_, [f32]> {
        to_host(self.values.clone()).data.into()
    }
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

/// Reads what [`save_trained`] wrote: exactly the parameters that are trained.
///
/// # Errors
///
/// As [`load`].
pub fn load_trained<M: Module>(module: M, file: &std::path::Path) -> Result<M, TensorError> {
    let mut reader = TensorReader::open(file)?;
    let module = apply_where(module, |is_trained| is_trained, |name, shape| reader.take(name, shape))?;
    reader.finish()?;
    Ok(module)
}

/// Number of trained parameters, and of all.
pub fn count<M: Module>(module: &M) -> (usize, usize) {
    struct Count(usize, usize);
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let count = param.val().dims().iter().product::<usize>();
            self.1 += count;
            if param.is_require_grad() {
                self.0 += count;
            }
        }
    }
    let mut visitor = Count(0, 0);
    module.visit(&mut visitor);
    (visitor.0, visitor.1)
}

/// The checksum of the parameters that are not trained, which checkpoints do not hold.
pub fn fingerprint_frozen<M: Module>(module: &M) -> String {
    struct Frozen(Fingerprint);
    impl ModuleVisitor for Frozen {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !param.is_require_grad() {
                self.0.numbers(&to_host(untracked(param.val())).data);
            }
        }
    }
    let mut visitor = Frozen(Fingerprint::default());
    module.visit(&mut visitor);
    visitor.0.finish()
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
