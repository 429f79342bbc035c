//! Ctrl-C and SIGTERM: the first asks, the second insists.
//!
//! The first signal sets a flag; the training loop finishes the step it is in, saves a checkpoint and returns. The
//! second ends the process at once with status 130, which loses nothing that is in a checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// The exit status after a second signal: 128 + SIGINT, as shells report it.
const STATUS: i32 = 130;

/// A request to stop, shared between who asks and who looks.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    requested: Arc<AtomicBool>,
}

/// The system does not let this process handle signals.
#[derive(Debug, thiserror::Error)]
#[error("cannot handle Ctrl-C ({cause}); the run can still be killed and resumed from its last checkpoint")]
pub struct InterruptError {
    cause: std::io::Error,
}

impl Interrupt {
    /// An interrupt that only [`request`](Self::request) sets: for programs that handle signals themselves, and tests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An interrupt that Ctrl-C and SIGTERM set from now on, for the life of the process. A second signal exits.
    ///
    /// # Errors
    /// [`InterruptError`] when the system refuses the handlers.
    pub fn on_signals() -> Result<Self, InterruptError> {
        let interrupt = Self::new();
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in the order of registration: the first looks at the flag before the second sets it.
            signal_hook::flag::register_conditional_shutdown(signal, STATUS, Arc::clone(&interrupt.requested))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupt.requested)))
                .map_err(|cause| InterruptError { cause })?;
        }
        Ok(interrupt)
    }

    /// Asks the loop to stop after the step it is in.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_sets_the_flag() {
        let interrupt = Interrupt::on_signals().unwrap();
        assert!(!interrupt.is_requested());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(interrupt.is_requested());
    }

    #[test]
    fn clones_share_the_request() {
        let interrupt = Interrupt::new();
        interrupt.clone().request();
        assert!(interrupt.is_requested());
    }
}
