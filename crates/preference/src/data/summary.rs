//! A look at data: how many rows of which shape, how long, and the first one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::DataError;
use super::message::Text;
use super::row::Row;
use super::rows::Rows;

/// What rows have in common and in what they differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The number of rows.
    pub rows: u64,
    /// The number of rows of each shape.
    pub shapes: BTreeMap<&'static str, u64>,
    /// Rows whose text is messages, to be written out by a chat template.
    pub conversational: u64,
    /// Rows that offer tools to the model.
    pub with_tools: u64,
    /// The number of rows with so many responses.
    pub responses: BTreeMap<usize, u64>,
    /// Lengths of the prompts in characters.
    pub prompt_length: Option<Lengths>,
    /// Lengths of the responses in characters.
    pub response_length: Option<Lengths>,
    /// Lengths in characters of texts and conversations without a prompt.
    pub text_length: Option<Lengths>,
    /// Pairs of responses to one prompt that are ranked alike.
    pub ties: u64,
    /// Pairs of a chosen and a rejected response that are the same.
    pub same: u64,
    /// Pairs with a margin.
    pub margins: u64,
    /// Names of the columns besides those of the shapes.
    pub other_columns: Vec<String>,
    /// The first row.
    pub first: Option<Row>,
}

/// The spread of lengths: of characters (Unicode scalar values) in a [`Summary`], of tokens where a caller counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// The middle one; the lower of the two middle ones if their number is even.
    pub median: usize,
    /// The longest.
    pub max: usize,
    /// Of how many.
    pub count: u64,
}

impl Summary {
    /// Reads all rows once. Memory grows with the number of different lengths only.
    ///
    /// # Errors
    /// That of the first row that is not in order.
    pub fn of(rows: &mut Rows) -> Result<Self, DataError> {
        let mut summary = Self::default();
        let [mut prompts, mut responses, mut texts] = [(); 3].map(|()| Histogram::default());
        for row in rows.by_ref() {
            let (_, row) = row?;
            summary.add(&row);
            if let Some(prompt) = row.prompt() {
                prompts.add(prompt.chars());
            }
            let all = row.responses();
            all.iter().for_each(|response| responses.add(response.chars()));
            match &row {
                Row::Text { text } => texts.add(text.chars().count()),
                Row::Conversation(conversation) => texts.add(Text::Messages(conversation.clone()).chars()),
                _ => {}
            }
            if summary.first.is_none() {
                summary.first = Some(row);
            }
        }
        summary.prompt_length = prompts.lengths();
        summary.response_length = responses.lengths();
        summary.text_length = texts.lengths();
        summary.other_columns = rows.other_columns().iter().cloned().collect();
        Ok(summary)
    }

    fn add(&mut self, row: &Row) {
        self.rows += 1;
        *self.shapes.entry(row.shape()).or_default() += 1;
        let responses = row.responses().len();
        if responses > 0 {
            *self.responses.entry(responses).or_default() += 1;
        }
        let conversation = match row {
            Row::Conversation(conversation) => Some(conversation),
            row => match row.prompt() {
                Some(Text::Messages(conversation)) => Some(conversation),
                _ => None,
            },
        };
        self.conversational += u64::from(conversation.is_some());
        self.with_tools += u64::from(conversation.is_some_and(|conversation| !conversation.tools.is_empty()));
        match row {
            Row::Pair {
                chosen,
                rejected,
                margin,
                ..
            } => {
                self.same += u64::from(chosen == rejected);
                self.margins += u64::from(margin.is_some());
            }
            Row::Ranking { responses, .. } => {
                let mut ranks: Vec<f64> = responses.iter().map(|response| response.rank).collect();
                ranks.sort_by(f64::total_cmp);
                for alike in ranks.chunk_by(|one, other| one == other) {
                    self.ties += (alike.len() * (alike.len() - 1) / 2) as u64;
                }
            }
            _ => {}
        }
    }
}

impl Lengths {
    /// The spread of these lengths; `None` if there are none.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut histogram = Histogram::default();
        lengths.into_iter().for_each(|length| histogram.add(length));
        histogram.lengths()
    }
}

/// How often each length occurs.
#[derive(Default)]
struct Histogram(BTreeMap<usize, u64>);

impl Histogram {
    fn add(&mut self, length: usize) {
        *self.0.entry(length).or_default() += 1;
    }

    fn lengths(&self) -> Option<Lengths> {
        let count: u64 = self.0.values().sum();
        let (min, max) = (*self.0.keys().next()?, *self.0.keys().next_back()?);
        let mut before = 0;
        let middle = self.0.iter().find(|(_, count_of)| {
            before += **count_of;
            before >= count.div_ceil(2)
        });
        Some(Lengths {
            min,
            median: middle.map_or(max, |(length, _)| *length),
            max,
            count,
        })
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
