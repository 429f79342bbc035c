//! `posterior solve`: the exact optimum of finite KL-regularised problems.

use std::fmt::Write as _;
use std::path::PathBuf;

use exact::finite::{FiniteProblem, Optimum};
use miette::{Context as _, IntoDiagnostic as _, miette};
use serde::{Deserialize, Serialize};

use crate::input;
use crate::output::{Context, number, table};

const EXAMPLES: &str = r#"The problem, one JSON object or a list of them:
  {"reference": [0.5, 0.3, 0.2], "reward": [0, 1, 2], "beta": 0.5}

  reference  probability of each response; a sum within 1e-6 of 1 is divided out, with a note
  reward     reward of each response
  beta       weight of KL(policy || reference), in units of the reward per nat

Examples:
  posterior solve problem.json
  echo '{"reference":[0.5,0.5],"reward":[0,1],"beta":1}' | posterior solve - --format json

The JSON answer, an object or a list as the problem was:
  {"policy": [..], "log_partition": x, "objective": x, "kl": x, "expected_reward": x, "recovered_reward": [..]}
recovered_reward is null where the reference is 0: there the policy is 0 whatever the reward."#;

/// Solve a finite KL-regularised problem exactly.
///
/// Finds the policy that maximises E[reward] - beta KL(policy || reference) over responses that are listed one by
/// one: policy = reference exp(reward / beta) / Z. The maximum is beta log Z, and the reward can be read back from
/// the policy as beta log(policy / reference) + beta log Z.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// JSON file with the problem or problems; `-` reads standard input.
    file: PathBuf,
}

/// One prompt, as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    reference: Vec<f64>,
    reward: Vec<f64>,
    beta: f64,
}

/// What the file holds; the answer has the same shape.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Batch<T> {
    One(T),
    Many(Vec<T>),
}

/// A prompt with its solution.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Solved {
    #[serde(skip)]
    prompt: Prompt,
    optimum: Optimum,
}

/// Reads, solves and reports.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let name = input::name(&arguments.file);
    let text = input::read(&arguments.file)?;
    let one = |prompt, place: &str| solve(prompt, place).inspect(|solved| remark(solved, place, context));
    let solved = match parse(&text).wrap_err_with(|| format!("{name} is no problem to solve"))? {
        Batch::One(prompt) => Batch::One(one(prompt, &name)?),
        Batch::Many(prompts) => {
            let numbered = |(index, prompt)| one(prompt, &format!("{name}, prompt {}", index + 1));
            Batch::Many(
                prompts
                    .into_iter()
                    .enumerate()
                    .map(numbered)
                    .collect::<miette::Result<_>>()?,
            )
        }
    };
    context.emit(&solved, |solved| match solved {
        Batch::One(one) => describe(one),
        Batch::Many(many) => {
            let numbered = |(index, one)| format!("prompt {} of {}\n\n{}", index + 1, many.len(), describe(one));
            many.iter().enumerate().map(numbered).collect::<Vec<_>>().join("\n")
        }
    })
}

fn parse(text: &[u8]) -> miette::Result<Batch<Prompt>> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let batch = match text.trim_ascii_start().first() {
        Some(b'[') => serde_path_to_error::deserialize(&mut json).map(Batch::Many),
        _ => serde_path_to_error::deserialize(&mut json).map(Batch::One),
    };
    let batch = batch.map_err(|error| match error.path().to_string().as_str() {
        "." => miette!("{}", error.inner()),
        path => miette!("at `{path}`: {}", error.inner()),
    })?;
    json.end().into_diagnostic()?;
    match &batch {
        Batch::Many(prompts) if prompts.is_empty() => Err(miette!("the list is empty; give at least one problem")),
        _ => Ok(batch),
    }
}

/// Solves one problem; errors name its `place`.
fn solve(prompt: Prompt, place: &str) -> miette::Result<Solved> {
    let problem = FiniteProblem::new(&prompt.reference, prompt.reward.clone(), prompt.beta)
        .into_diagnostic()
        .wrap_err_with(|| format!("{place} cannot be solved"))?;
    Ok(Solved {
        optimum: problem.optimum(),
        prompt,
    })
}

/// Says what was divided out of a reference that does not sum to one exactly.
fn remark(solved: &Solved, place: &str, context: &Context) {
    let sum: f64 = solved.prompt.reference.iter().sum();
    if (sum - 1.0).abs() > 1e-12 {
        context.say(format_args!(
            "{place}: `reference` sums to {sum}; it was divided by that"
        ));
    }
}

fn describe(Solved { prompt, optimum }: &Solved) -> String {
    let mut rows = table(["response", "reference", "reward", "policy", "recovered reward"]);
    for (index, policy) in optimum.policy.iter().enumerate() {
        rows.add_row([
            index.to_string(),
            number(prompt.reference[index]),
            number(prompt.reward[index]),
            number(*policy),
            optimum.recovered_reward[index].map_or_else(|| "-".to_owned(), number),
        ]);
    }
    let mut text = format!("{rows}\n\n");
    for (label, value) in [
        ("beta", prompt.beta),
        ("log Z", optimum.log_partition),
        ("objective", optimum.objective),
        ("expected reward", optimum.expected_reward),
        ("KL (nats)", optimum.kl),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<16}{}", number(value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_problem_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_json_like_text_is_a_problem_or_an_error(text in r#"[\[{]{0,3}("reference"|"reward"|"beta"|:|,|[0-9.e-]{0,5}|\[|\]|\}|null){0,30}"#) {
            if let Ok(Batch::One(prompt)) = parse(text.as_bytes()) {
                let _ = solve(prompt, "it");
            }
        }
    }
}
