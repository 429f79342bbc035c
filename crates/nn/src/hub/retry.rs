//! What to do when the network fails: wait a little longer each time, and give up in the end.

use std::time::{Duration, Instant};

use super::HubError;

/// How often to look whether the caller wants to go on.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Failures in a row after which to give up.
    pub(super) attempts: u32,
    /// Wait after the first failure; it doubles with each.
    pub(super) first_wait: Duration,
    /// The longest wait of our own choice.
    pub(super) longest_wait: Duration,
    /// The longest wait that a server may ask for.
    pub(super) longest_asked: Duration,
    /// For a connection, and for the first bytes of an answer.
    pub(super) answer: Duration,
    /// For the next bytes.
    pub(super) stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(8),
            // The Hub counts requests in windows of five minutes.
            longest_asked: Duration::from_secs(300),
            answer: Duration::from_secs(20),
            stall: Duration::from_secs(30),
        }
    }
}

/// A failed attempt.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Another attempt would fail alike.
    Final(HubError),
    /// Another attempt may succeed, after the time that the server asked for if it did.
    Passing {
        /// What to say if it does not.
        error: HubError,
        /// What the server asked for.
        after: Option<Duration>,
    },
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// The failures in a row so far.
pub(super) struct Retries<'a> {
    patience: Patience,
    failures: u32,
    cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Retries<'a> {
    pub(super) fn new(patience: Patience, cancelled: &'a dyn Fn() -> bool) -> Self {
        Self {
            patience,
            failures: 0,
            cancelled,
        }
    }

    /// Something arrived: the failures so far do not count any more.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt, or gives up.
    pub(super) fn wait(&mut self, trouble: Trouble) -> Result<(), HubError> {
        let (error, after) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Passing { error, after } => (error, after),
        };
        self.failures += 1;
        let asked_too_much = after.is_some_and(|after| after > self.patience.longest_asked);
        if self.failures >= self.patience.attempts || asked_too_much {
            return Err(error);
        }
        let doubled = self
            .patience
            .first_wait
            .saturating_mul(1u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX));
        let wait = doubled.min(self.patience.longest_wait).max(after.unwrap_or_default());
        let start = Instant::now();
        loop {
            if (self.cancelled)() {
                return Err(HubError::Cancelled);
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    /// Repeats what may succeed the next time.
    pub(super) fn run<T>(&mut self, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, HubError> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(trouble) => self.wait(trouble)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(after: Option<Duration>) -> Trouble {
        Trouble::Passing {
            error: HubError::NoHome,
            after,
        }
    }

    fn patience() -> Patience {
        Patience {
            attempts: 3,
            first_wait: Duration::from_millis(1),
            ..Patience::default()
        }
    }

    #[test]
    fn it_gives_up_after_the_last_attempt_and_at_once_where_nothing_helps() {
        for (after, expected) in [(None, 3), (Some(Duration::from_secs(301)), 1)] {
            let mut attempts = 0;
            let result = Retries::new(patience(), &|| false).run(|| {
                attempts += 1;
                Err::<(), _>(passing(after))
            });
            assert!(matches!(result, Err(HubError::NoHome)));
            assert_eq!(attempts, expected);
        }
        let mut attempts = 0;
        let result = Retries::new(patience(), &|| false).run(|| {
            attempts += 1;
            Err::<(), _>(Trouble::Final(HubError::NoHome))
        });
        assert!(result.is_err() && attempts == 1);
    }

    #[test]
    fn a_wait_ends_when_the_caller_does_not_want_to_go_on() {
        let start = Instant::now();
        let result = Retries::new(patience(), &|| true).wait(passing(Some(Duration::from_secs(60))));
        assert!(matches!(result, Err(HubError::Cancelled)));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn the_server_is_given_the_time_it_asks_for() {
        let start = Instant::now();
        let asked = Duration::from_millis(120);
        Retries::new(patience(), &|| false).wait(passing(Some(asked))).unwrap();
        assert!(start.elapsed() >= asked);
    }
}
