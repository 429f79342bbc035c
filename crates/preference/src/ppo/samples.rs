//! Answers that a run keeps, to be read: `samples.jsonl`.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use train::files::{FileError, write_atomic};

use super::episode::Episode;
use crate::tuning::TuningError;

/// The file's name in the run's directory.
pub const FILE: &str = "samples.jsonl";

/// An answer of a step.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sample {
    /// The step, from 1, as in the metrics.
    pub step: u64,
    /// The prompt as the data have it,
    pub prompt: serde_json::Value,
    /// and in tokens.
    pub prompt_token_ids: Vec<u32>,
    /// The answer,
    pub response: String,
    /// and in tokens.
    pub token_ids: Vec<u32>,
    /// What it is worth.
    pub score: f64,
    /// Its divergence from the reference in nats.
    pub kl: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.response.split_whitespace().collect();
        write!(
            formatter,
            "score {:.3}, kl {:.2}: {}",
            self.score,
            self.kl,
            words.join(" ")
        )
    }
}

/// Appends the answers to a step's first `prompts` prompts.
pub fn keep(run: &Path, step: u64, episodes: &[&mut Episode], prompts: usize) -> Result<Vec<Sample>, TuningError> {
    let path = run.join(FILE);
    let mut kept = Vec::new();
    for episode in episodes.iter().take(prompts) {
        kept.extend(episode.answers.iter().map(|answer| Sample {
            step,
            prompt: serde_json::to_value(&episode.prompt).unwrap_or_default(),
            prompt_token_ids: episode.tokens.prompt.clone(),
            response: answer.text.clone(),
            token_ids: answer.tokens.clone(),
            score: answer.score,
            kl: answer.divergence(),
        }));
    }
    let mut text = String::new();
    for sample in &kept {
        text += &serde_json::to_string(sample).map_err(|error| FileError::because("write", &path)(error.into()))?;
        text.push('\n');
    }
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(FileError::because("write", &path))?;
    Ok(kept)
}

/// Forgets answers of steps after `steps`, which a resumed run takes again, and a line that a killed process left
/// unfinished.
pub fn forget_after(run: &Path, steps: u64) -> Result<(), TuningError> {
    let path = run.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(FileError::because("read", &path)(cause).into()),
    };
    let lines = text.split_inclusive('\n').filter(|line| {
        let sample = serde_json::from_str::<Sample>(line);
        line.ends_with('\n') && sample.is_ok_and(|sample| sample.step <= steps)
    });
    let kept: String = lines.collect();
    if kept.len() < text.len() {
        write_atomic(&path, kept.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Text;
    use crate::ppo::Answer;
    use crate::text::Ranked;

    #[test]
    fn what_a_resumed_run_takes_again_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path();
        forget_after(run, 0).unwrap();
        let mut episode = Episode {
            prompt: Text::Plain("hello".to_owned()),
            tokens: Ranked::default(),
            answers: vec![Answer {
                text: "world".to_owned(),
                log_probs: vec![-1.0, -2.0],
                reference: vec![-1.5, -2.0],
                score: 0.25,
                ..Answer::default()
            }],
        };
        for step in 1..=3 {
            let kept = keep(run, step, &[&mut episode], 4).unwrap();
            assert_eq!((kept[0].kl, kept[0].score), (0.5, 0.25));
        }
        let path = run.join(FILE);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, whole.clone() + "{\"step\": 1, \"pro").unwrap();
        forget_after(run, 2).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n{}\n", lines[0], lines[1])
        );
        keep(run, 3, &[&mut episode], 4).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }
}
