//! Progress for people: a bar on a terminal, a line now and then elsewhere, nothing where nothing is wanted.
//!
//! Everything goes to standard error; standard output belongs to results. The rate is that of the last steps, so the
//! time left follows changes of pace, and a resumed run counts only its own steps.

use std::collections::VecDeque;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::metrics::Metrics;

/// Steps over which the rate is measured.
const MEMORY: usize = 50;
/// The shortest and the longest time between two plain lines, and the share of the time so far that lies between.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
const SHARE: u32 = 20;

/// Shows how far a run is.
pub struct Progress {
    output: Output,
    shown: Vec<String>,
    unit: &'static str,
    total: u64,
    seen: VecDeque<(Instant, u64)>,
    started: Option<Instant>,
    last_line: Option<Instant>,
}

enum Output {
    Silent,
    Lines(Box<dyn Write + Send>),
    Bar(ProgressBar),
}

impl Progress {
    /// Shows nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::with(Output::Silent)
    }

    /// A bar if standard error is a terminal, lines on it otherwise.
    #[must_use]
    pub fn on_standard_error() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::lines(std::io::stderr());
        }
        let bar = ProgressBar::new(0);
        // The template is a constant; without it the bar keeps its plain style.
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {msg}") {
            bar.set_style(style);
        }
        Self::with(Output::Bar(bar))
    }

    /// Lines: the first step, the last, and in between one every 10 seconds at first, up to one every 10 minutes.
    #[must_use]
    pub fn lines(output: impl Write + Send + 'static) -> Self {
        Self::with(Output::Lines(Box::new(output)))
    }

    /// Also shows these metrics; without a call, `loss`.
    #[must_use]
    pub fn showing(mut self, names: &[&str]) -> Self {
        self.shown = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// What is counted, in the singular; without a call, `step`.
    #[must_use]
    pub fn counting(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    fn with(output: Output) -> Self {
        let shown = vec!["loss".to_owned()];
        Self {
            output,
            shown,
            unit: "step",
            total: 0,
            seen: VecDeque::new(),
            started: None,
            last_line: None,
        }
    }

    /// Starts the clock: `step` of `total` steps are done.
    pub fn start(&mut self, step: u64, total: u64) {
        self.start_at(step, total, Instant::now());
    }

    /// `step` steps are done, the last with these metrics.
    pub fn step(&mut self, step: u64, metrics: &Metrics) {
        self.step_at(step, metrics, Instant::now());
    }

    /// Says something in between: an evaluation's result, a saved checkpoint.
    pub fn note(&mut self, text: &str) {
        match &mut self.output {
            Output::Silent => {}
            // Progress is a courtesy: a closed standard error must not stop the training.
            Output::Lines(output) => drop(writeln!(output, "{text}")),
            Output::Bar(bar) => bar.println(text),
        }
    }

    /// Ends the display; the last state stays visible.
    pub fn finish(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.abandon();
        }
    }

    fn start_at(&mut self, step: u64, total: u64, now: Instant) {
        (self.total, self.started, self.last_line) = (total, Some(now), None);
        self.seen = VecDeque::from([(now, step)]);
        if let Output::Bar(bar) = &self.output {
            bar.set_length(total);
            bar.set_position(step);
        }
    }

    fn step_at(&mut self, step: u64, metrics: &Metrics, now: Instant) {
        self.seen.push_back((now, step));
        if self.seen.len() > MEMORY + 1 {
            self.seen.pop_front();
        }
        match &self.output {
            Output::Silent => {}
            Output::Bar(bar) => {
                bar.set_message(self.text(step, metrics));
                bar.set_position(step);
            }
            Output::Lines(_) => {
                let elapsed = now.saturating_duration_since(self.started.unwrap_or(now));
                let pause = (elapsed / SHARE).clamp(SHORTEST, LONGEST);
                let due = self
                    .last_line
                    .is_none_or(|last| now.saturating_duration_since(last) >= pause);
                if due || step == self.total {
                    self.last_line = Some(now);
                    let text = self.text(step, metrics);
                    self.note(&text);
                }
            }
        }
    }

    fn text(&self, step: u64, metrics: &Metrics) -> String {
        let unit = self.unit;
        let mut text = format!("{unit} {step}/{}", self.total);
        if let (Some((from, first)), Some((to, last))) = (self.seen.front(), self.seen.back()) {
            let (seconds, steps) = ((*to - *from).as_secs_f64(), (last - first) as f64);
            if seconds > 0.0 && steps > 0.0 {
                let rate = steps / seconds;
                let left = self.total.saturating_sub(step) as f64 / rate;
                match rate >= 1.0 {
                    true => text += &format!(", {} {unit}s/s", Short(rate)),
                    false => text += &format!(", {} s/{unit}", Short(1.0 / rate)),
                }
                text += &format!(", {} left", Duration::from_secs(left.min(1e9) as u64).short());
            }
        }
        for name in &self.shown {
            if let Some(value) = metrics.get(name) {
                text += &format!(", {name} {}", Short(value));
            }
        }
        text
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Progress")
            .field("total", &self.total)
            .field("shown", &self.shown)
            .finish_non_exhaustive()
    }
}

/// A number in about four digits.
pub(crate) struct Short(pub(crate) f64);

impl fmt::Display for Short {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if size == 0.0 || !self.0.is_finite() {
            write!(formatter, "{}", self.0)
        } else if (1e-3..1e5).contains(&size) {
            let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
            write!(formatter, "{:.decimals$}", self.0)
        } else {
            write!(formatter, "{:.3e}", self.0)
        }
    }
}

trait ShortDuration {
    /// The two largest units.
    fn short(&self) -> String;
}

impl ShortDuration for Duration {
    fn short(&self) -> String {
        let seconds = self.as_secs();
        match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0, seconds) => format!("{seconds}s"),
            (0, 0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
            (0, hours, minutes, _) => format!("{hours}h {minutes:02}m"),
            (days, hours, _, _) => format!("{days}d {hours:02}h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone())
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect()
        }
    }

    #[test]
    fn lines_come_at_sensible_intervals() {
        let page = Page::default();
        let mut progress = Progress::lines(page.clone()).showing(&["loss", "absent", "kl"]);
        let begin = Instant::now();
        progress.start_at(100, 1_100, begin);
        for step in 101..=1_100u64 {
            let metrics = Metrics::new().mean("loss", 0.25).mean("kl", 1e-6);
            progress.step_at(step, &metrics, begin + Duration::from_millis(500) * (step - 100) as u32);
        }
        let lines = page.lines();
        assert_eq!(
            lines[0],
            "step 101/1100, 2.000 steps/s, 8m 19s left, loss 0.2500, kl 1.000e-6"
        );
        assert_eq!(
            lines[1],
            "step 121/1100, 2.000 steps/s, 8m 09s left, loss 0.2500, kl 1.000e-6"
        );
        assert_eq!(
            lines.last().unwrap(),
            "step 1100/1100, 2.000 steps/s, 0s left, loss 0.2500, kl 1.000e-6"
        );
        // 500 s: one line every 10 s up to 200 s, then growing to one every 25 s.
        assert!((36..=44).contains(&lines.len()), "{}", lines.len());
    }

    #[test]
    fn the_rate_follows_the_pace() {
        let page = Page::default();
        let mut progress = Progress::lines(page.clone());
        let begin = Instant::now();
        progress.start_at(0, 1_000, begin);
        for step in 1..=100u32 {
            progress.step_at(u64::from(step), &Metrics::new(), begin + Duration::from_secs(1) * step);
        }
        for step in 1..=60u32 {
            progress.step_at(
                100 + u64::from(step),
                &Metrics::new(),
                begin + Duration::from_secs(100 + u64::from(4 * step)),
            );
        }
        assert!(
            page.lines().last().unwrap().contains("4.000 s/step"),
            "{:?}",
            page.lines()
        );
    }

    #[test]
    fn silence_is_silent_and_notes_are_lines() {
        let page = Page::default();
        let mut progress = Progress::lines(page.clone());
        progress.note("saved");
        progress.finish();
        assert_eq!(page.lines(), ["saved"]);
        let mut silent = Progress::silent();
        silent.start(0, 1);
        silent.step(1, &Metrics::new());
        silent.note("unheard");
        silent.finish();
    }

    #[test]
    fn numbers_and_durations_are_short() {
        let short = |value: f64| Short(value).to_string();
        assert_eq!(
            [short(0.0), short(f64::NAN), short(12_345.6), short(-0.012_345)],
            ["0", "NaN", "12346", "-0.01235"]
        );
        assert_eq!([short(1e-9), short(123_456.0)], ["1.000e-9", "1.235e5"]);
        let text = |seconds| Duration::from_secs(seconds).short();
        assert_eq!(
            [text(59), text(61), text(7_260), text(90_000)],
            ["59s", "1m 01s", "2h 01m", "1d 01h"]
        );
    }
}
