//! How many responses there are, and the refusal to list too many.

/// `|V|^L`, the number of responses of `L` tokens over a vocabulary `V`, as a decimal logarithm.
///
/// The partition sum has one term per response, which is why Z is out of reach for language models: 50,257 tokens
/// and 2,048 positions make about 1.1e9628 terms.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct ResponseCount {
    /// `log10` of the count; minus infinity when there is none.
    pub log10: f64,
}

impl ResponseCount {
    /// Counts the responses of exactly `length` tokens; one (the empty response) at length 0.
    pub fn new(vocabulary: u64, length: u64) -> Self {
        if length == 0 {
            return Self { log10: 0.0 };
        }
        Self {
            log10: length as f64 * (vocabulary as f64).log10(),
        }
    }
}

impl std::fmt::Display for ResponseCount {
    /// Whole below a million, two digits above, the exponent alone where not even they are certain.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.log10 < 6.0 {
            return write!(f, "{:.0}", 10f64.powf(self.log10));
        }
        let mut exponent = self.log10.floor();
        if exponent >= 1e10 {
            return write!(f, "10^({exponent:.7e})");
        }
        let mut mantissa = (10f64.powf(self.log10 - exponent) * 10.0).round() / 10.0;
        if mantissa >= 10.0 {
            (mantissa, exponent) = (1.0, exponent + 1.0);
        }
        write!(f, "{mantissa:.1}e{exponent:.0}")
    }
}

/// The responses are more than anyone can list.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "{vocabulary} tokens and length {length} make about {count} responses, more than the limit of {limit}: the \
     partition sum cannot be listed, only estimated; shorten the responses or the vocabulary"
)]
pub struct TooManyResponses {
    /// Number of tokens.
    pub vocabulary: u64,
    /// Number of positions.
    pub length: u64,
    /// `vocabulary^length`.
    pub count: ResponseCount,
    /// The largest number that was allowed.
    pub limit: u64,
}

/// The number of responses of exactly `length` tokens if it is at most `limit`, else a refusal with the number.
pub fn enumerable_responses(vocabulary: u64, length: u64, limit: u64) -> Result<u64, TooManyResponses> {
    let exact = u32::try_from(length)
        .ok()
        .and_then(|length| vocabulary.checked_pow(length));
    // One token, or none, makes one response, or none, at any length; `checked_pow` needs the length to be small.
    let exact = if length > 0 && vocabulary <= 1 {
        Some(vocabulary)
    } else {
        exact
    };
    exact.filter(|&count| count <= limit).ok_or(TooManyResponses {
        vocabulary,
        length,
        count: ResponseCount::new(vocabulary, length),
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_responses_is_said() {
        // Python: s = str(50257**2048); s[:3], len(s) - 1 is ("112", 9628).
        let count = ResponseCount::new(50257, 2048);
        assert_eq!(count.to_string(), "1.1e9628");
        let refused = enumerable_responses(50257, 2048, 1_000_000).unwrap_err();
        assert!(refused.to_string().contains("1.1e9628"));
        assert_eq!(ResponseCount::new(2, 10).to_string(), "1024");
        assert_eq!(ResponseCount::new(10, 7).to_string(), "1.0e7");
        assert_eq!(ResponseCount::new(0, 3).to_string(), "0");
        assert_eq!(ResponseCount::new(u64::MAX, u64::MAX).to_string(), "10^(3.5539349e20)");
    }

    #[test]
    fn small_problems_are_counted_exactly() {
        assert_eq!(enumerable_responses(3, 4, 81), Ok(81));
        assert!(enumerable_responses(3, 4, 80).is_err());
        assert_eq!(enumerable_responses(7, 0, 1), Ok(1));
        assert_eq!(enumerable_responses(1, u64::MAX, 1), Ok(1));
        assert_eq!(enumerable_responses(0, 5, 1), Ok(0));
        assert!(enumerable_responses(2, 64, u64::MAX).is_err());
    }
}
