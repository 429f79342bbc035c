//! What methods reach in worlds that can be listed.

use std::collections::BTreeMap;
use std::ops::Range;

use ::train::interrupt::Interrupt;
use ::train::metrics::Metrics;
use ::train::progress::Progress;
use exact::finite::FrontierPoint;
use exact::frontier::{Standing, gap_at};
use miette::{IntoDiagnostic as _, WrapErr as _};
use preference::world::{Effort, Method, Point, Study, responses};
use serde::Serialize;

use super::{Arguments, write};
use crate::commands::training::progress;
use crate::output::{Context, number, table};
use crate::plot::{self, FrontierKind};

const HEADS: [&str; 8] = [
    "method",
    "setting",
    "KL",
    "reward",
    "the most",
    "gap",
    "from optimum",
    "seconds",
];
const TITLE: &str = "what methods earn, exactly";
/// The distances, in nats, at which methods are compared,
const DISTANCES: [f64; 3] = [0.25, 0.5, 1.0];
/// and the head of their table.
const GAP_HEADS: [&str; 4] = ["gap at", "0.25 nats", "0.5 nats", "1 nat"];

/// What the methods reached in one world or several.
#[derive(Debug, Serialize)]
pub struct World {
    /// Remarks that were listed, for each prompt.
    responses: usize,
    effort: Effort,
    references: Vec<Standing>,
    /// The most that can be earned in the first world.
    frontier: Vec<FrontierPoint>,
    points: Vec<Point>,
    gaps: Vec<Gap>,
}

/// What a method's policies fall short of at a distance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Gap {
    method: Method,
    /// The distance in nats.
    kl: f64,
    /// Over the worlds whose policies reach so far; nothing where none does.
    mean: Option<f64>,
    /// The standard deviation over them; nothing of fewer than two.
    deviation: Option<f64>,
    /// How many they are.
    seeds: usize,
}

/// Studies worlds as the arguments say.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let first = context.seed.unwrap_or(0);
    let seeds = first..first + u64::from(arguments.seeds);
    let document = worlds(seeds, arguments.effort(), &arguments.methods(), context)?;
    if let Some((path, format)) = &arguments.plot {
        let (curve, kinds) = document.drawn();
        plot::frontier(path, *format, TITLE, &curve, &kinds)?;
    }
    write(arguments.out.as_deref(), &document)?;
    context.emit(&document, World::text)
}

/// Studies the worlds of these seeds, until Ctrl-C.
///
/// # Errors
/// When a study fails or is interrupted; nothing is left of it then.
pub fn worlds(seeds: Range<u64>, effort: Effort, methods: &[Method], context: &Context) -> miette::Result<World> {
    let settings: usize = methods.iter().map(|method| method.settings().len()).sum();
    let mut work = Work {
        effort,
        methods,
        interrupt: Interrupt::on_signals().into_diagnostic()?,
        progress: progress(context).showing(&[]).counting("point"),
        points: settings as u64 * (seeds.end - seeds.start),
    };
    let mut document = World {
        responses: responses().count(),
        effort,
        references: Vec::new(),
        frontier: Vec::new(),
        points: Vec::new(),
        gaps: Vec::new(),
    };
    work.progress.start(0, work.points);
    let studied = seeds.into_iter().try_for_each(|seed| work.study(seed, &mut document));
    work.progress.finish();
    studied.wrap_err_with(|| {
        let points = work.points;
        format!("the study stopped after {} of {points} points", document.points.len())
    })?;
    document.gaps = gaps(&document.points, methods);
    Ok(document)
}

/// What is to be done in each world.
struct Work<'a> {
    effort: Effort,
    methods: &'a [Method],
    interrupt: Interrupt,
    progress: Progress,
    /// Of all worlds.
    points: u64,
}

impl Work<'_> {
    /// Studies a world in a directory that goes away in the end, however it ends.
    fn study(&mut self, seed: u64, document: &mut World) -> miette::Result<()> {
        let directory = tempfile::Builder::new().prefix("posterior-world-").tempdir();
        let directory = directory
            .into_diagnostic()
            .wrap_err("there is no place for the world's files")?;
        self.progress
            .note(&format!("world of seed {seed}: a reference and labels"));
        let study = Study::new(directory.path(), seed, self.effort, &self.interrupt).into_diagnostic()?;
        document
            .references
            .push(study.standing_of_reference().into_diagnostic()?);
        if document.frontier.is_empty() {
            let prices = (0..60).map(|step| 10.0_f64.powf(1.5 - f64::from(step) * 0.05));
            let points = prices.map(|price| study.frontier().at_price(price));
            document.frontier = points.collect::<Result<_, _>>().into_diagnostic()?;
        }
        for &method in self.methods {
            for &setting in method.settings() {
                let point = study.point(method, setting).into_diagnostic()?;
                self.progress.note(&format!(
                    "{} at {setting}: reward {:.3} of {:.3} at {:.3} nats",
                    method.words(),
                    point.standing.expected_reward,
                    point.standing.best_reward,
                    point.standing.kl
                ));
                document.points.push(point);
                self.progress.step(document.points.len() as u64, &Metrics::new());
            }
        }
        directory.close().into_diagnostic()
    }
}

/// Every method's gaps at the distances of interest.
fn gaps(points: &[Point], methods: &[Method]) -> Vec<Gap> {
    let of = |(method, kl): (Method, f64)| {
        let mut worlds: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
        for point in points.iter().filter(|point| point.method == method) {
            let policies = worlds.entry(point.seed).or_default();
            policies.push((point.standing.kl, point.standing.gap));
        }
        let reached: Vec<f64> = worlds.values().filter_map(|policies| gap_at(policies, kl)).collect();
        let (mean, deviation) = spread(reached.iter().copied());
        Gap {
            method,
            kl,
            mean: (!reached.is_empty()).then_some(mean),
            deviation: (reached.len() > 1).then_some(deviation),
            seeds: reached.len(),
        }
    };
    let at_distances = |&method: &Method| DISTANCES.map(|kl| (method, kl));
    methods.iter().flat_map(at_distances).map(of).collect()
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
    pub fn rows(&self) -> ([&'static str; 8], Vec<Vec<String>>) {
        let several = self.references.len() > 1;
        let cell = |(mean, deviation): (f64, f64)| {
            if several {
                format!("{mean:.3} ± {deviation:.3}")
            } else {
                format!("{mean:.3}")
            }
        };
        let (reward, _) = spread(self.references.iter().map(|standing| standing.expected_reward));
        let reference = ["reference", "", "0", &format!("{reward:.3}"), "", "", "", ""];
        let mut rows = vec![reference.map(str::to_owned).to_vec()];
        for ((method, _), points) in self.groups() {
            let of = |value: fn(&Point) -> f64| spread(points.iter().map(|point| value(point)));
            let from_optimum: Vec<f64> = points.iter().filter_map(|point| point.from_optimum).collect();
            rows.push(vec![
                method.words().to_owned(),
                number(points[0].setting)
                    .trim_end_matches('0')
                    .trim_end_matches('.')
                    .to_owned(),
                cell(of(|point| point.standing.kl)),
                cell(of(|point| point.standing.expected_reward)),
                format!("{:.3}", of(|point| point.standing.best_reward).0),
                cell(of(|point| point.standing.gap)),
                if from_optimum.is_empty() {
                    String::new()
                } else {
                    cell(spread(from_optimum.iter().copied()))
                },
                format!("{:.1}", of(|point| point.seconds).0),
            ]);
        }
        (HEADS, rows)
    }

    /// The table of gaps at the same distances: a dash where no world's policies reach so far, and where not all do, how many.
    fn gap_rows(&self) -> Vec<Vec<String>> {
        let cell = |gap: &Gap| {
            let some = if gap.seeds < self.references.len() {
                format!(" ({})", gap.seeds)
            } else {
                String::new()
            };
            match (gap.mean, gap.deviation) {
                (None, _) => "-".to_owned(),
                (Some(mean), None) => format!("{mean:.3}{some}"),
                (Some(mean), Some(deviation)) => format!("{mean:.3} ± {deviation:.3}{some}"),
            }
        };
        let row = |gaps: &[Gap]| {
            let method = gaps.iter().take(1).map(|gap| gap.method.words().to_owned());
            method.chain(gaps.iter().map(cell)).collect()
        };
        self.gaps.chunks(DISTANCES.len()).map(row).collect()
    }

    /// The tables for a terminal.
    pub fn text(&self) -> String {
        let (heads, rows) = self.rows();
        let (mut methods, mut gaps) = (table(heads), table(GAP_HEADS));
        for row in rows {
            methods.add_row(row);
        }
        for row in self.gap_rows() {
            gaps.add_row(row);
        }
        let several = if self.references.len() > 1 {
            " ± is the deviation over worlds, in brackets how many of them reach so far, where not all do."
        } else {
            ""
        };
        format!(
            "{methods}\n\n{gaps}\n\nExact, over all {} remarks on each of three things; \"the most\" is what the best policy earns \
             at the same KL,\n\"from optimum\" KL(policy || the best one at this beta or price) in nats; gaps in between lie on \
             lines.\nSettings: beta of DPO, the price of a nat of PPO, steps of fine-tuning, N.{several}",
            self.responses,
        )
    }

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
        let curve = self.frontier.iter();
        (
            curve.map(|point| (point.kl, point.expected_reward)).collect(),
            self.kinds(),
        )
    }

    fn kinds(&self) -> Vec<FrontierKind> {
        let mut kinds: BTreeMap<Method, FrontierKind> = BTreeMap::new();
        for ((method, _), points) in self.groups() {
            let (kl, kl_spread) = spread(points.iter().map(|point| point.standing.kl));
            let (reward, reward_spread) = spread(points.iter().map(|point| point.standing.expected_reward));
            let kind = kinds.entry(method).or_insert_with(|| FrontierKind {
                label: method.words().to_owned(),
                points: Vec::new(),
            });
            kind.points.push(([kl, reward], [kl_spread, reward_spread]));
        }
        kinds.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(seed: u64, method: Method, kl: f64, gap: f64) -> Point {
        Point {
            method,
            setting: 1.0,
            seed,
            seconds: 0.0,
            standing: Standing {
                expected_reward: 1.0,
                kl,
                best_reward: 1.0 + gap,
                gap,
            },
            from_optimum: None,
        }
    }

    #[test]
    fn gaps_are_compared_at_equal_distances_in_the_worlds_that_reach_them() {
        let points = [
            point(1, Method::DpoPairs, 0.5, 0.1),
            point(1, Method::DpoPairs, 2.0, 0.4),
            point(2, Method::DpoPairs, 0.5, 0.3),
            point(2, Method::BestOf, 0.2, 0.1),
        ];
        let gaps = gaps(&points, &[Method::DpoPairs, Method::BestOf]);
        let found: Vec<_> = gaps
            .iter()
            .map(|gap| (gap.kl, gap.mean, gap.deviation, gap.seeds))
            .collect();
        // Lines from the reference: (0.05 + 0.15) / 2 at 0.25 nats.
        for (gap, (mean, deviation)) in gaps
            .iter()
            .zip([(0.1, 0.1 / 2.0_f64.sqrt()), (0.2, 0.2 / 2.0_f64.sqrt())])
        {
            assert!((gap.mean.unwrap() - mean).abs() < 1e-12 && (gap.deviation.unwrap() - deviation).abs() < 1e-12);
        }
        assert_eq!(found[2], (1.0, Some(0.1 + 0.5 / 1.5 * 0.3), None, 1));
        assert_eq!(found[3..], DISTANCES.map(|kl| (kl, None, None, 0)));
        let standing = points[0].standing;
        let world = World {
            responses: 1,
            effort: Effort::default(),
            references: vec![standing; 2],
            frontier: Vec::new(),
            points: points.to_vec(),
            gaps,
        };
        let rows = world.gap_rows();
        assert_eq!(rows[0][1..], ["0.100 ± 0.071", "0.200 ± 0.141", "0.200 (1)"]);
        assert_eq!(rows[1], ["best of N", "-", "-", "-"]);
    }
}
