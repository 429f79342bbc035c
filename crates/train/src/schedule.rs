//! Learning rates over a run.
//!
//! The formulas are those of transformers (`optimization.py`, 5.23): with w warm-up steps and T steps in all, step s
//! (counted from 0) uses the peak rate times
//!
//! ```text
//! s < w      s / w
//! constant   1
//! linear     (T - s) / (T - w)
//! cosine     (1 + cos(pi (s - w) / (T - w))) / 2       (Loshchilov & Hutter 2016, one half period, down to 0)
//! ```
//!
//! so with warm-up the very first step has rate 0, as there. Beyond T the rate is that of T (transformers' cosine would
//! rise again).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The shape of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Stays at the peak.
    Constant,
    /// Falls to 0 along a straight line.
    Linear,
    /// Falls to 0 along half a period of a cosine.
    Cosine,
}

/// The settings do not describe a schedule.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The learning rate is not a number that can be used.
    #[error("the learning rate is {0}; it must be a finite number of at least 0")]
    Rate(f64),
    /// The warm-up never ends.
    #[error("the warm-up takes {warmup} steps, but the run has only {steps}; shorten the warm-up or train for longer")]
    Warmup {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps of the run.
        steps: u64,
    },
}

/// A checked learning-rate schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup: u64,
    steps: u64,
    decay: Decay,
}

impl Schedule {
    /// A schedule over `steps` steps that rises to `peak` over `warmup` steps and then follows `decay`.
    ///
    /// # Errors
    /// [`ScheduleError`] when the peak is negative or not finite, or the warm-up is longer than the run.
    pub fn new(peak: f64, warmup: u64, steps: u64, decay: Decay) -> Result<Self, ScheduleError> {
        if !(peak.is_finite() && peak >= 0.0) {
            return Err(ScheduleError::Rate(peak));
        }
        if warmup > steps {
            return Err(ScheduleError::Warmup { warmup, steps });
        }
        Ok(Self {
            peak,
            warmup,
            steps,
            decay,
        })
    }

    /// The learning rate of the optimiser step with this number, from 0.
    ///
    /// ```
    /// use posterior_train::schedule::{Decay, Schedule};
    ///
    /// let schedule = Schedule::new(1e-3, 10, 110, Decay::Cosine)?;
    /// assert_eq!([schedule.rate(0), schedule.rate(10)], [0.0, 1e-3]);
    /// assert!((schedule.rate(60) - 0.5e-3).abs() < 1e-15);
    /// # Ok::<(), posterior_train::schedule::ScheduleError>(())
    /// ```
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step.min(self.steps))
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let falling = (self.steps - self.warmup).max(1) as f64;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => (self.steps - step) as f64 / falling,
            Decay::Cosine => (0.5 * (1.0 + (PI * ((step - self.warmup) as f64 / falling)).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(peak: f64, warmup: u64, steps: u64, decay: Decay) -> Vec<f64> {
        let schedule = Schedule::new(peak, warmup, steps, decay).unwrap();
        (0..=10).map(|step| schedule.rate(step)).collect()
    }

    fn assert_close(ours: &[f64], theirs: &[f64]) {
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((ours - theirs).abs() <= 1e-16, "{ours} {theirs}");
        }
    }

    /// transformers 5.23.0, torch 2.15.0:
    ///
    /// ```python
    /// def rates(make):
    ///     optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    ///     scheduler = make(optimizer)
    ///     for _ in range(11):
    ///         print(scheduler.get_last_lr()[0]); optimizer.step(); scheduler.step()
    /// rates(lambda o: get_constant_schedule_with_warmup(o, 3))
    /// rates(lambda o: get_linear_schedule_with_warmup(o, 3, 10))
    /// rates(lambda o: get_cosine_schedule_with_warmup(o, 3, 10))
    /// rates(lambda o: get_linear_schedule_with_warmup(o, 0, 10))
    /// rates(lambda o: get_cosine_schedule_with_warmup(o, 0, 10))
    /// ```
    #[test]
    fn rates_are_those_of_transformers() {
        let rise = [0.0, 0.09999999999999999, 0.19999999999999998, 0.3];
        assert_close(&rates(0.3, 3, 10, Decay::Constant), &[&rise[..], &[0.3; 7]].concat());
        let fall = [
            0.2571428571428571,
            0.21428571428571427,
            0.1714285714285714,
            0.12857142857142856,
            0.0857142857142857,
            0.04285714285714285,
            0.0,
        ];
        assert_close(&rates(0.3, 3, 10, Decay::Linear), &[&rise[..], &fall].concat());
        let fall = [
            0.28514533018536287,
            0.24352347027881002,
            0.18337814009344713,
            0.11662185990655284,
            0.05647652972118997,
            0.014854669814637143,
            0.0,
        ];
        assert_close(&rates(0.3, 3, 10, Decay::Cosine), &[&rise[..], &fall].concat());
        let linear = [0.3, 0.27, 0.24, 0.21, 0.18, 0.15, 0.12, 0.09, 0.06, 0.03, 0.0];
        assert_close(&rates(0.3, 0, 10, Decay::Linear), &linear);
        let cosine = [
            0.3,
            0.29265847744427304,
            0.27135254915624213,
            0.23816778784387097,
            0.19635254915624212,
            0.15,
            0.1036474508437579,
            0.061832212156129045,
            0.0286474508437579,
            0.00734152255572697,
            0.0,
        ];
        assert_close(&rates(0.3, 0, 10, Decay::Cosine), &cosine);
    }

    #[test]
    fn beyond_the_end_the_rate_stays() {
        for (decay, rate) in [(Decay::Constant, 0.5), (Decay::Linear, 0.0), (Decay::Cosine, 0.0)] {
            let schedule = Schedule::new(0.5, 2, 10, decay).unwrap();
            assert_eq!(
                [schedule.rate(10), schedule.rate(15), schedule.rate(u64::MAX)],
                [rate; 3]
            );
        }
    }

    #[test]
    fn a_run_of_nothing_but_warmup_reaches_the_peak_at_its_end() {
        let schedule = Schedule::new(1.0, 4, 4, Decay::Linear).unwrap();
        assert_eq!([schedule.rate(0), schedule.rate(3)], [0.0, 0.75]);
    }

    #[test]
    fn impossible_settings_are_refused() {
        let message = Schedule::new(0.1, 11, 10, Decay::Cosine).unwrap_err().to_string();
        assert!(message.contains("11 steps") && message.contains("only 10"), "{message}");
        for peak in [-1e-3, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                Schedule::new(peak, 0, 10, Decay::Linear),
                Err(ScheduleError::Rate(_))
            ));
        }
    }
}
