//! Words with valences, as a reward that is known to everybody.

use std::collections::HashMap;
use std::path::Path;

use super::JudgeError;

/// What the sum of valences is measured against: a text of that much is half way between 0 and its bound.
const NORMALIZATION: f64 = 15.0;

/// A text's reward is `s / sqrt(s² + 15)`, with s the sum of its words' valences, as Hutto & Gilbert 2014 (VADER) have it
/// before their rules.
///
/// A file has a word and its valence on each line, with a tab between them; what follows another tab is not read. So
/// VADER's own lexicon can be used as it is. Words are runs of letters and apostrophes, in lower case.
#[derive(Clone, Debug, PartialEq)]
pub struct Lexicon {
    valences: HashMap<String, f64>,
}

impl Lexicon {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`JudgeError::Lexicon`] names file and line.
    pub fn open(path: &Path) -> Result<Self, JudgeError> {
        let refused = |problem: String| JudgeError::Lexicon {
            path: path.to_owned(),
            problem,
        };
        let text = std::fs::read_to_string(path).map_err(|cause| refused(format!("cannot be read: {cause}")))?;
        Self::parse(&text).map_err(refused)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut valences = HashMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let mut columns = line.split('\t');
            let word = columns.next().unwrap_or_default().trim().to_lowercase();
            let valence = columns.next().and_then(|valence| valence.trim().parse::<f64>().ok());
            let Some(valence) = valence.filter(|valence| valence.is_finite() && !word.is_empty()) else {
                return Err(format!(
                    "line {number} is not a word and its valence with a tab between them, as in \"good\\t1.9\""
                ));
            };
            valences.insert(word, valence);
        }
        if valences.is_empty() {
            return Err("has no words".to_owned());
        }
        Ok(Self { valences })
    }

    /// The reward of a text, between -1 and 1.
    #[must_use]
    pub fn reward(&self, text: &str) -> f64 {
        let text = text.to_lowercase();
        let words = text.split(|letter: char| !letter.is_alphabetic() && letter != '\'');
        let sum: f64 = words.filter_map(|word| self.valences.get(word)).sum();
        // The sum of nothing is minus zero.
        sum / (sum * sum + NORMALIZATION).sqrt() + 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valences_add_up_and_saturate() {
        let lexicon = Lexicon::parse("good\t1.9\t0.94\t[2, 1]\nBad\t-2.5\ncan't\t-1\n\n").unwrap();
        let of = |sum: f64| sum / (sum * sum + 15.0).sqrt();
        assert_eq!(lexicon.reward("Good, good; BAD."), of(1.9 + 1.9 - 2.5));
        assert_eq!(lexicon.reward("I can't: goodness"), of(-1.0));
        assert_eq!(lexicon.reward(""), 0.0);
        let much = lexicon.reward(&"good ".repeat(1000));
        assert!(much < 1.0 && much > 0.99);
    }

    #[test]
    fn a_line_that_is_no_word_is_named() {
        for (text, expected) in [
            ("good\t1.9\nbad -2", "line 2"),
            ("good\tnan", "line 1"),
            ("\t1.0", "line 1"),
            ("\n \n", "no words"),
        ] {
            let error = Lexicon::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let error = Lexicon::open(Path::new("no/such/lexicon.txt")).unwrap_err().to_string();
        assert!(error.contains("no/such/lexicon.txt"), "{error}");
    }
}
