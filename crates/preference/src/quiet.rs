//! Calls that may panic on bad input, made into errors without a word on standard error.
//!
//! The `parquet` crate checks most of what it reads, but not all of it: mutated files make it index out of bounds,
//! overflow, or trip its own assertions (a page that names a dictionary where there is none, levels that contradict the
//! schema). The `tokenizers` crate does the same with some malformed tokenizers. Neither promises otherwise, so calls that
//! read files by them are guarded here, and only here.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// How many panics were caught; the long run of mutated files reports it.
#[cfg(test)]
pub(crate) static CAUGHT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Calls `function`; `None` if it panics. What `function` worked on must not be used after that.
pub(crate) fn catch<T>(function: impl FnOnce() -> T) -> Option<T> {
    // The message is printed by the process's hook before anything can be caught, so the hook has to know.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(function));
    QUIET.set(before);
    #[cfg(test)]
    CAUGHT.fetch_add(u32::from(result.is_err()), std::sync::atomic::Ordering::Relaxed);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_the_flag_is_taken_back() {
        assert_eq!(catch(|| 5), Some(5));
        assert_eq!(catch(|| -> u8 { panic!("never seen") }), None);
        assert!(!QUIET.get());
    }
}
