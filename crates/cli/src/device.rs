//! Where tensors live: `--device`.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use miette::miette;

/// The name of a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceName {
    /// This machine's processor.
    Cpu,
    /// An NVIDIA card, counted from 0.
    Cuda(u16),
}

impl FromStr for DeviceName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let card = |name: &str| {
            let number = name.strip_prefix("cuda:")?;
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse().ok().filter(|_| digits).map(Self::Cuda)
        };
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => card(name).ok_or("there are cpu, cuda and cuda:N, N the number of a card"),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(card) => write!(formatter, "cuda:{card}"),
        }
    }
}

impl DeviceName {
    /// The device, if this program was built for it and it works.
    pub fn open(self) -> miette::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(card) => cuda(card),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_card: u16) -> miette::Result<Device> {
    Err(miette!(
        help = "build it with `cargo build --release --features cuda`, or use --device cpu",
        "this program was built without CUDA"
    ))
}

#[cfg(feature = "cuda")]
fn cuda(card: u16) -> miette::Result<Device> {
    use burn::tensor::DeviceType;

    // A machine without the driver's library has no cards, too.
    let cards = Device::enumerate(DeviceType::Cuda).len();
    if cards == 0 {
        return Err(miette!(
            help = "install NVIDIA's driver, which brings the library libcuda, or use --device cpu",
            "CUDA finds no card: the driver is not there, or it has none to offer"
        ));
    }
    if usize::from(card) >= cards {
        return Err(miette!(
            help = "cards are numbered from 0, as nvidia-smi lists them if CUDA_VISIBLE_DEVICES hides none",
            "there is no card {card}: CUDA finds {cards}"
        ));
    }
    let device = Device::cuda(usize::from(card));
    let double = || {
        let three = burn::tensor::Tensor::<1>::from_floats([3.0], &device);
        (three * 2.0).into_scalar::<f32>()
    };
    match six(double) {
        Ok(()) => Ok(device),
        Err(cause) => Err(miette!(
            help = "the driver may be too old or the card in use; --device cpu does without",
            "card {card} does not work: {cause}"
        )),
    }
}

/// Tries the device out with a computation that gives 6.
///
/// burn panics where a device cannot be opened or runs no program, often on a thread of its own, so that the panic that
/// arrives here only says that the thread is gone. This is the one place where the device is opened; what is said first
/// is taken down by the hook, instead of being printed, and becomes the error's cause.
#[cfg(any(test, feature = "cuda"))]
fn six(compute: impl FnOnce() -> f32) -> Result<(), String> {
    use std::panic::{self, AssertUnwindSafe};
    use std::sync::{Arc, Mutex, PoisonError};

    let said = Arc::new(Mutex::new(None));
    let usual = panic::take_hook();
    panic::set_hook({
        let said = Arc::clone(&said);
        Box::new(move |panic| {
            let words = panic.payload_as_str().unwrap_or("no reason is given").to_owned();
            said.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(words);
        })
    });
    let found = panic::catch_unwind(AssertUnwindSafe(compute));
    panic::set_hook(usual);
    let said = said.lock().unwrap_or_else(PoisonError::into_inner).take();
    match found {
        Ok(6.0) => Ok(()),
        Ok(other) => Err(format!("twice 3 is {other} there")),
        Err(_) => Err(said.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, device) in [
            ("cpu", DeviceName::Cpu),
            ("cuda", DeviceName::Cuda(0)),
            ("cuda:0", DeviceName::Cuda(0)),
            ("cuda:1", DeviceName::Cuda(1)),
            ("cuda:12", DeviceName::Cuda(12)),
        ] {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for name in [
            "",
            "gpu",
            "CPU",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "cuda:+1",
            "cuda:70000",
            "cuda 1",
            "cpu:0",
        ] {
            assert!(name.parse::<DeviceName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_first_panic_is_the_reason() {
        let on_another_thread = || {
            let thread = std::thread::spawn(|| -> f32 { panic!("the driver is of {}", 2009) });
            thread.join().expect("the thread is gone")
        };
        assert_eq!(six(on_another_thread), Err("the driver is of 2009".to_owned()));
        assert_eq!(six(|| 6.0), Ok(()));
        assert!(six(|| 0.0).is_err());
    }
}
