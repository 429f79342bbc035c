//! The losses of proximal policy optimisation (Schulman et al. 2017), of one decision each.

/// What a decision loses, and the derivative by what training moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clipped {
    /// The loss.
    pub loss: f64,
    /// Its derivative by the decision's log-probability, or by its value.
    pub gradient: f64,
    /// Whether the bound holds the decision back: the clipped form is the larger.
    pub clipped: bool,
}

/// `max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε))` with `ρ = exp(ln π - ln π_old)` (equation 7, to be minimised).
///
/// The derivative by `ln π` is `-A ρ`, or 0 where the bound holds.
#[must_use]
pub fn policy(log_prob: f64, old_log_prob: f64, advantage: f64, range: f64) -> Clipped {
    let ratio = (log_prob - old_log_prob).exp();
    let plain = -advantage * ratio;
    let bounded = -advantage * ratio.clamp(1.0 - range, 1.0 + range);
    let clipped = bounded > plain;
    Clipped {
        loss: if clipped { bounded } else { plain },
        gradient: if clipped { 0.0 } else { plain },
        clipped,
    }
}

/// `max((V - R)², (clip(V, V_old - ε, V_old + ε) - R)²) / 2`: half the squared error of a value, from which steps away from
/// the old value take nothing (the code of Ziegler et al. 2019).
#[must_use]
pub fn value(value: f64, old_value: f64, of_return: f64, range: f64) -> Clipped {
    let near = value.clamp(old_value - range, old_value + range);
    let (plain, bounded) = ((value - of_return).powi(2), (near - of_return).powi(2));
    let clipped = bounded > plain;
    Clipped {
        loss: 0.5 * plain.max(bounded),
        // Where the bounded form is larger, the value lies outside the bounds, and the bounded one does not move.
        gradient: if clipped { 0.0 } else { value - of_return },
        clipped,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test::assert_close;

    #[test]
    fn the_bound_holds_back_what_would_gain_and_never_what_would_lose() {
        let at = |ratio: f64, advantage| policy(ratio.ln(), 0.0, advantage, 0.2);
        // More of what was good: only up to 1.2.
        assert_close(at(1.5, 2.0).loss, -2.4, 1e-14);
        assert_eq!((at(1.5, 2.0).gradient, at(1.5, 2.0).clipped), (0.0, true));
        // Less of what was good is felt in full.
        assert_close(at(0.5, 2.0).loss, -1.0, 1e-14);
        assert_close(at(0.5, 2.0).gradient, -1.0, 1e-14);
        // And the other way round for what was bad.
        assert_close(at(0.5, -2.0).loss, 1.6, 1e-14);
        assert_eq!(at(0.5, -2.0).gradient, 0.0);
        assert_close(at(1.5, -2.0).loss, 3.0, 1e-14);
        assert_close(at(1.5, -2.0).gradient, 3.0, 1e-14);
        // At the start: the gradient of plain policy gradient.
        assert_eq!(at(1.0, 2.0).gradient, -2.0);
    }

    #[test]
    fn a_value_is_held_near_the_old_one() {
        // On its way from 0 to 1: no more is asked for once it has gone 0.2.
        let there = value(0.5, 0.0, 1.0, 0.2);
        assert_close(there.loss, 0.5 * 0.64, 1e-14);
        assert_eq!((there.gradient, there.clipped), (0.0, true));
        // Gone past the aim, it is called back.
        let past = value(2.0, 0.0, 1.0, 0.2);
        assert_close(past.loss, 0.5, 1e-14);
        assert_close(past.gradient, 1.0, 1e-14);
        let within = value(0.1, 0.0, 1.0, 0.2);
        assert_close(within.loss, 0.5 * 0.81, 1e-14);
        assert_close(within.gradient, -0.9, 1e-14);
    }

    proptest! {
        #[test]
        fn derivatives_are_those_of_finite_differences(
            now in -1.5_f64..1.5,
            old in -1.5_f64..1.5,
            aim in -2.0_f64..2.0,
        ) {
            let step = 1e-6;
            for form in [policy, value] {
                let [below, at, above] = [now - step, now, now + step].map(|now| form(now, old, aim, 0.2));
                // Not across a corner.
                prop_assume!(below.clipped == at.clipped && at.clipped == above.clipped);
                let difference = (above.loss - below.loss) / (2.0 * step);
                prop_assert!((difference - at.gradient).abs() < 1e-6 * (1.0 + difference.abs()));
            }
        }
    }
}
