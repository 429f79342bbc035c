//! Ways from labels, or from the reward itself, to a policy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A way to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// DPO on rankings of four; the setting is beta.
    DpoRankings,
    /// DPO on all pairs of the same rankings; the setting is beta.
    DpoPairs,
    /// PPO to a reward model of the same rankings; the setting is the price of a nat.
    PpoLearned,
    /// PPO to the true reward; the setting is the price of a nat.
    PpoTrue,
    /// Fine-tuning on the best remark of each ranking; the setting is the number of steps.
    Preferred,
    /// The best of so many remarks of the reference, by the true reward; worked out, not trained.
    BestOf,
}

/// No method has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no method is called {name:?}; there are {}", Method::ALL.map(Method::name).join(", "))]
pub struct UnknownMethod {
    /// The name.
    name: String,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DpoRankings,
        Self::DpoPairs,
        Self::PpoLearned,
        Self::PpoTrue,
        Self::Preferred,
        Self::BestOf,
    ];

    /// The name in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DpoRankings => "dpo-rankings",
            Self::DpoPairs => "dpo-pairs",
            Self::PpoLearned => "ppo-learned",
            Self::PpoTrue => "ppo-true",
            Self::Preferred => "preferred",
            Self::BestOf => "best-of",
        }
    }

    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::DpoRankings => "DPO, rankings of 4",
            Self::DpoPairs => "DPO, their pairs",
            Self::PpoLearned => "PPO, learned reward",
            Self::PpoTrue => "PPO, true reward",
            Self::Preferred => "fine-tuning on the best",
            Self::BestOf => "best of N",
        }
    }

    /// Settings that span the distances of interest.
    #[must_use]
    pub fn settings(self) -> &'static [f64] {
        match self {
            Self::DpoRankings | Self::DpoPairs | Self::PpoLearned | Self::PpoTrue => &[0.5, 1.0, 2.0, 4.0],
            Self::Preferred => &[25.0, 100.0, 400.0],
            Self::BestOf => &[2.0, 4.0, 16.0, 64.0],
        }
    }

    /// Whether the setting is a price of divergence, in units of the reward a nat, so that there is a best policy to aim at.
    #[must_use]
    pub fn has_price(self) -> bool {
        match self {
            Self::DpoRankings | Self::DpoPairs | Self::PpoLearned | Self::PpoTrue => true,
            Self::Preferred | Self::BestOf => false,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| UnknownMethod { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
        let error = "dpo".parse::<Method>().unwrap_err().to_string();
        assert!(error.contains("\"dpo\"") && error.contains("dpo-pairs"), "{error}");
    }
}
