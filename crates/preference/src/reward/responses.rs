//! Given responses over which rewards are normalised.

use nn::decoder::Decoder;
use rayon::prelude::*;

use super::rewards::{RewardTraining, scores_of};
use crate::data::{Dataset, Kind, MEMORY, Row, Text};
use crate::encode::RowEncoder;
use crate::text::{Outcome, Ranked, TextError, truncate_example};
use crate::tuning::TuningError;
use crate::tuning::config::TrainerConfig as _;
use crate::tuning::examples::{Counts, LeftOut, Made, Room, Sample as _};

/// Tokens that go through the network together.
const BATCH_TOKENS: usize = 4096;

/// Prompts with responses in tokens, all of a file that fit.
#[derive(Clone, Debug)]
pub struct Responses {
    prompts: Vec<Ranked>,
    notes: Vec<String>,
}

impl Responses {
    /// Reads a file or a folder of responses in any of the shapes of [`Kind::Score`], in the tokens and the room of the
    /// training's own examples.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for a row that cannot be read or encoded, or if no row fits.
    pub fn open(training: &RewardTraining, path: &str) -> Result<Self, TuningError> {
        let data = Dataset::open(&[path.into()], Kind::Score, MEMORY)?;
        let rule = training.rule();
        let encoder = rule.encoder()?;
        let made = |row| rule.made(&data, row, |row, room| of_row(&encoder, row, room));
        let rows: Vec<Made<Ranked>> = (0..data.len()).into_par_iter().map(made).collect::<Result<_, _>>()?;
        let mut counts = Counts {
            rows: rows.len(),
            ..Counts::default()
        };
        let mut prompts = Vec::new();
        for made in rows {
            counts.add(&made);
            if let Made::Example(ranked, _) = made {
                prompts.push(ranked);
            }
        }
        let max_length = training.config().tuning().max_length;
        if prompts.is_empty() {
            return Err(TuningError::NothingLeft {
                origin: data.origin().to_owned(),
                rows: counts.rows,
                max_length,
            });
        }
        let mut responses = Self {
            prompts,
            notes: data.notes(),
        };
        responses.notes.extend(counts.notes(max_length));
        responses.notes.push(format!(
            "rewards are normalised over its {} responses to {} prompts",
            responses.count(),
            responses.prompts.len()
        ));
        for note in &mut responses.notes {
            *note = format!("{}: {note}", data.origin());
        }
        Ok(responses)
    }

    /// The number of responses.
    #[must_use]
    pub fn count(&self) -> usize {
        self.prompts.iter().map(|ranked| ranked.responses.len()).sum()
    }

    /// What the user should know, in sentences: how many there are, and what did not fit.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Their scores, in the order of the file.
    pub(super) fn scores(&self, decoder: &Decoder) -> Vec<f64> {
        let mut scores = Vec::with_capacity(self.count());
        let mut rest = &self.prompts[..];
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |ranked: &&Ranked| {
                let fits = tokens < BATCH_TOKENS;
                tokens += ranked.tokens();
                fits
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count());
            scores.extend(scores_of(decoder, now));
            rest = later;
        }
        scores
    }
}

/// The prompt of a row and its responses, each with its end token.
fn of_row(encoder: &RowEncoder<'_>, row: &Row, room: Room) -> Result<Made<Ranked>, TextError> {
    let none = Text::Plain(String::new());
    let mut ranked = encoder.responses(row.prompt().unwrap_or(&none), &row.responses())?;
    Ok(
        match truncate_example(&mut ranked, room.length, room.keep, room.begin)? {
            Outcome::LeftOut => Made::LeftOut(LeftOut::TooLong),
            outcome => Made::Example(ranked, outcome),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Keep, test_tokenizer};

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    #[test]
    fn every_response_of_a_row_counts_and_long_rows_do_not() {
        let tokenizer = test_tokenizer();
        let encoder = RowEncoder::new(&tokenizer).unwrap();
        let row = Row::Responses {
            prompt: text("a"),
            responses: vec![text("b"), text("b"), text("")],
        };
        let made = |length| {
            let room = Room {
                length,
                keep: Keep::Whole,
                begin: None,
            };
            of_row(&encoder, &row, room).unwrap()
        };
        let end = tokenizer.end_id().unwrap();
        let b = vec![u32::from(b'b'), end];
        let expected = Ranked {
            prompt: vec![u32::from(b'a')],
            responses: vec![b.clone(), b, vec![end]],
        };
        assert_eq!(made(3), Made::Example(expected, Outcome::Whole));
        assert_eq!(made(2), Made::LeftOut(LeftOut::TooLong));
    }
}
