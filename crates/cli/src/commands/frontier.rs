//! `posterior frontier`: what policies earn, at what distance from their reference, and the most that can be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::train::files::write_atomic;
use exact::finite::FrontierPoint;
use exact::frontier::Standing;
use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use nn::hub::Environment;
use preference::data::{Dataset, Kind as DataKind, MEMORY};
use preference::model::LanguageModel;
use preference::ppo::{Measured, PpoConfig, measure};
use preference::world::{Effort, Method, Point, Study, responses};
use serde::Serialize;

use super::language::with_watch;
use super::ppo::open_judge;
use crate::output::{Context, number, table};
use crate::plot::{self, FrontierKind, PictureFormat, picture_path};

const EXAMPLES: &str = "\
Examples:
  Every method on the world that the program carries, exactly, over five seeds:
      posterior frontier --seeds 5 --plot frontier.png
  What tuned models earn by a lexicon, and how far they are from the model that they were:
      posterior frontier runs/dpo runs/ppo --data prompts.jsonl --reward-lexicon vader_lexicon.txt --plot frontier.svg";

/// Expected reward against divergence from the reference, for every method or for given runs.
///
/// Without runs, on a small language that the program carries: all of some fifty thousand remarks are listed, so every
/// policy's reward and divergence and the most that can be earned at that divergence are exact. DPO from rankings and from
/// their pairs, PPO to a learned and to the true reward, fine-tuning on the best and best-of-N are trained there.
///
/// With runs, by answers to prompts, with standard errors.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Runs of dpo, ppo or sft.
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// Prompts for the runs' models.
    #[arg(long, value_name = "DATA", help_heading = "Of runs", requires = "runs")]
    data: Option<PathBuf>,
    /// A reward model that judges.
    #[arg(long, value_name = "MODEL", help_heading = "Of runs", requires = "runs")]
    reward_model: Option<String>,
    /// Instead, a file of words and their valences.
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Of runs",
        requires = "runs",
        conflicts_with = "reward_model"
    )]
    reward_lexicon: Option<PathBuf>,
    /// Instead, a command that reads a line of JSON and writes a number for each answer.
    #[arg(long, value_name = "COMMAND", help_heading = "Of runs", requires = "runs",
          conflicts_with_all = ["reward_model", "reward_lexicon"])]
    reward_program: Option<String>,
    /// Answers to each prompt.
    #[arg(long, value_name = "N", help_heading = "Of runs", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", help_heading = "Of runs", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    max_new_tokens: u16,
    /// What an answer loses that did not come to its end.
    #[arg(long, value_name = "X", help_heading = "Of runs", default_value_t = 0.0)]
    missing_end_penalty: f64,

    /// Worlds, each with a reference, labels and a reward model of its own.
    #[arg(long, value_name = "N", help_heading = "Of the world", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..),
          conflicts_with = "runs")]
    seeds: u16,
    /// Rankings of four remarks that a world has.
    #[arg(long, value_name = "N", help_heading = "Of the world", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..),
          conflicts_with = "runs")]
    labels: u32,
    /// Steps of PPO, of 192 remarks each; DPO and the reward model have 300 steps.
    #[arg(long, value_name = "N", help_heading = "Of the world", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..),
          conflicts_with = "runs")]
    ppo_steps: u32,

    /// Draw rewards against divergence into a .png or .svg file.
    #[arg(long, value_name = "FILE", value_parser = picture_path)]
    plot: Option<(PathBuf, PictureFormat)>,
    /// Write the JSON answer into a file, too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the methods reached in one world or several.
#[derive(Debug, Serialize)]
pub struct World {
    /// Remarks that were listed, for each prompt.
    responses: usize,
    references: Vec<Standing>,
    /// The most that can be earned in the first world.
    frontier: Vec<FrontierPoint>,
    points: Vec<Point>,
}

/// A run's model.
#[derive(Debug, Serialize)]
struct Judged {
    run: PathBuf,
    reference: String,
    #[serde(flatten)]
    measured: Measured,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    if arguments.runs.is_empty() {
        return of_world(arguments, context);
    }
    of_runs(arguments, context)
}

fn of_world(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let effort = Effort {
        labels: arguments.labels as usize,
        ppo_steps: u64::from(arguments.ppo_steps),
        ..Effort::default()
    };
    let first = context.seed.unwrap_or(0);
    let seeds = first..first + u64::from(arguments.seeds);
    let document = worlds(seeds, effort, &Method::ALL, context)?;
    if let Some((path, format)) = &arguments.plot {
        let (curve, kinds) = document.drawn();
        plot::frontier(path, *format, TITLE, &curve, &kinds)?;
    }
    write(arguments.out.as_deref(), &document)?;
    context.emit(&document, World::text)
}

/// Studies the worlds of these seeds.
///
/// # Errors
/// When a study fails.
pub fn worlds(
    seeds: std::ops::Range<u64>,
    effort: Effort,
    methods: &[Method],
    context: &Context,
) -> miette::Result<World> {
    let mut document = World {
        responses: responses().count(),
        references: Vec::new(),
        frontier: Vec::new(),
        points: Vec::new(),
    };
    let count = seeds.end - seeds.start;
    for (at, seed) in (1..).zip(seeds) {
        let directory = std::env::temp_dir().join(format!("posterior-world-{}-{seed}", std::process::id()));
        let made = study(&directory, seed, effort, methods, &mut document, |words| {
            context.say(format_args!("world {at} of {count}: {words}"));
        });
        // What is left of it is of no use to anybody; an error of the study comes first.
        let removed = std::fs::remove_dir_all(&directory);
        made?;
        removed.into_diagnostic()?;
    }
    Ok(document)
}

fn study(
    directory: &Path,
    seed: u64,
    effort: Effort,
    methods: &[Method],
    document: &mut World,
    say: impl Fn(&str),
) -> miette::Result<()> {
    say("a reference, labels and a reward model");
    let study = Study::new(directory, seed, effort).into_diagnostic()?;
    document
        .references
        .push(study.standing_of_reference().into_diagnostic()?);
    if document.frontier.is_empty() {
        let prices = (0..60).map(|step| 10.0_f64.powf(1.5 - f64::from(step) * 0.05));
        let points = prices.map(|price| study.frontier().at_price(price));
        document.frontier = points.collect::<Result<_, _>>().into_diagnostic()?;
    }
    for &method in methods {
        for &setting in method.settings() {
            let point = study.point(method, setting).into_diagnostic()?;
            say(&format!(
                "{} at {setting}: reward {:.3} of {:.3} at {:.3} nats",
                method.name(),
                point.standing.expected_reward,
                point.standing.best_reward,
                point.standing.kl
            ));
            document.points.push(point);
        }
    }
    Ok(())
}

/// Mean and standard deviation.
fn spread(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

impl World {
    /// Points of the same method and setting together, in order.
    fn groups(&self) -> BTreeMap<(Method, u64), Vec<&Point>> {
        let mut groups: BTreeMap<(Method, u64), Vec<&Point>> = BTreeMap::new();
        for point in &self.points {
            // Settings are positive, so their bits are in order.
            groups
                .entry((point.method, point.setting.to_bits()))
                .or_default()
                .push(point);
        }
        groups
    }

    /// The methods' table, and the words of its head.
    pub fn rows(&self) -> ([&'static str; 7], Vec<Vec<String>>) {
        let several = self.references.len() > 1;
        let cell = |(mean, deviation): (f64, f64)| {
            if several {
                format!("{mean:.3} ± {deviation:.3}")
            } else {
                format!("{mean:.3}")
            }
        };
        let (reward, _) = spread(self.references.iter().map(|standing| standing.expected_reward));
        let reference = ["reference", "", "0", &format!("{reward:.3}"), "", "", ""];
        let mut rows = vec![reference.map(str::to_owned).to_vec()];
        for ((method, _), points) in self.groups() {
            let of = |value: fn(&Point) -> f64| spread(points.iter().map(|point| value(point)));
            rows.push(vec![
                method.name().to_owned(),
                number(points[0].setting)
                    .trim_end_matches('0')
                    .trim_end_matches('.')
                    .to_owned(),
                cell(of(|point| point.standing.kl)),
                cell(of(|point| point.standing.expected_reward)),
                format!("{:.3}", of(|point| point.standing.best_reward).0),
                cell(of(|point| point.standing.gap)),
                format!("{:.1}", of(|point| point.seconds).0),
            ]);
        }
        (HEADS, rows)
    }

    /// The table for a terminal.
    pub fn text(&self) -> String {
        let (heads, rows) = self.rows();
        let mut table = table(heads);
        for row in rows {
            table.add_row(row);
        }
        format!(
            "{table}\n\nExact, over all {} remarks on each of three things; \"the most\" is what the best policy earns at the same \
             KL.\nSettings: beta of DPO, the price of a nat of PPO, steps of fine-tuning, N. {}",
            self.responses,
            if self.references.len() > 1 {
                "± is the deviation over worlds."
            } else {
                ""
            }
        )
    }
}

const HEADS: [&str; 7] = ["method", "setting", "KL", "reward", "the most", "gap", "seconds"];
const TITLE: &str = "what methods earn, exactly";

impl World {
    /// The picture of it, as the text of an SVG file.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> miette::Result<String> {
        let (curve, kinds) = self.drawn();
        plot::frontier_svg(TITLE, &curve, &kinds)
    }

    /// The most that can be earned, and the policies by method.
    fn drawn(&self) -> (Vec<(f64, f64)>, Vec<FrontierKind>) {
        let curve = self
            .frontier
            .iter()
            .map(|point| (point.kl, point.expected_reward))
            .collect();
        (curve, kinds_of(self))
    }
}

fn kinds_of(document: &World) -> Vec<FrontierKind> {
    let mut kinds: BTreeMap<Method, FrontierKind> = BTreeMap::new();
    for ((method, _), points) in document.groups() {
        let (kl, kl_spread) = spread(points.iter().map(|point| point.standing.kl));
        let (reward, reward_spread) = spread(points.iter().map(|point| point.standing.expected_reward));
        let kind = kinds.entry(method).or_insert_with(|| FrontierKind {
            label: method.name().to_owned(),
            points: Vec::new(),
        });
        kind.points.push(([kl, reward], [kl_spread, reward_spread]));
    }
    kinds.into_values().collect()
}

fn of_runs(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let Some(data) = &arguments.data else {
        return Err(miette!(
            "there is nothing for the models to answer; give --data with prompts"
        ));
    };
    let config = PpoConfig {
        reward_model: arguments.reward_model.clone(),
        reward_lexicon: arguments.reward_lexicon.clone(),
        reward_program: arguments.reward_program.clone(),
        samples: usize::from(arguments.samples),
        max_new_tokens: usize::from(arguments.max_new_tokens),
        missing_end_penalty: arguments.missing_end_penalty,
        ..PpoConfig::default()
    };
    let data = Dataset::open(std::slice::from_ref(data), DataKind::Prompts, MEMORY).into_diagnostic()?;
    let rows = (0..data.len()).map(|number| data.get(number).map(|row| row.into_owned()));
    let rows: Vec<_> = rows.collect::<Result<_, _>>().into_diagnostic()?;
    let mut judge = open_judge(&config, context)?;
    let environment = Environment::of_process();
    let open = |name: &str| {
        with_watch(context, |watch| {
            LanguageModel::open(name, &environment, watch, &context.device)
        })
        .into_diagnostic()
    };
    let mut judged = Vec::new();
    for run in &arguments.runs {
        let name = reference_of(run)?;
        let reference = open(&name)?;
        let path = run.join("model");
        let model = open(&path.display().to_string())
            .wrap_err_with(|| format!("{} has no model; has the run come to its end?", run.display()))?;
        if model.decoder.config().scores {
            return Err(miette!(
                "{} is a reward model's run, which answers nothing",
                run.display()
            ));
        }
        if judged.is_empty() {
            context.say(format_args!("{name} itself"));
            let own = measure(&reference, &reference.decoder, &rows, &mut judge, &config).into_diagnostic()?;
            judged.push(Judged {
                run: PathBuf::from(&name),
                reference: name.clone(),
                measured: own,
            });
        }
        context.say(format_args!("{}", run.display()));
        let measured = measure(&model, &reference.decoder, &rows, &mut judge, &config).into_diagnostic()?;
        judged.push(Judged {
            run: run.clone(),
            reference: name,
            measured,
        });
    }
    if let Some((path, format)) = &arguments.plot {
        let kinds: Vec<FrontierKind> = judged
            .iter()
            .map(|Judged { run, measured, .. }| FrontierKind {
                label: run.display().to_string(),
                points: vec![(
                    [measured.kl.mean, measured.reward.mean],
                    [measured.kl.error, measured.reward.error],
                )],
            })
            .collect();
        plot::frontier(path, *format, "what models earn, with standard errors", &[], &kinds)?;
    }
    write(arguments.out.as_deref(), &judged)?;
    context.emit(&judged, |judged| {
        let mut rows = table(["run", "KL", "reward", "ended"]);
        for Judged { run, measured, .. } in judged {
            rows.add_row([
                run.display().to_string(),
                format!("{:.2} ± {:.2}", measured.kl.mean, measured.kl.error),
                format!("{:.3} ± {:.3}", measured.reward.mean, measured.reward.error),
                format!("{:.0} %", 100.0 * measured.ended),
            ]);
        }
        let prompts = judged.first().map_or(0, |judged| judged.measured.prompts);
        format!(
            "{rows}\n\nAnswers to {prompts} prompts, {} each; ± is a standard error.",
            config.samples
        )
    })
}

/// The model that a run's own is compared with, as its settings name it.
fn reference_of(run: &Path) -> miette::Result<String> {
    let path = run.join("config.toml");
    let text = std::fs::read_to_string(&path)
        .into_diagnostic()
        .wrap_err_with(|| format!("{} is no run: its config.toml cannot be read", run.display()))?;
    let config: toml::Table = text
        .parse()
        .into_diagnostic()
        .wrap_err_with(|| path.display().to_string())?;
    let named = |key: &str| config.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    named("reference")
        .or_else(|| named("model"))
        .ok_or_else(|| miette!("{} names no model; give the run of sft, dpo or ppo", path.display()))
}

fn write(path: Option<&Path>, document: &impl Serialize) -> miette::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_vec_pretty(document).into_diagnostic()?;
    write_atomic(path, &text).into_diagnostic()
}
