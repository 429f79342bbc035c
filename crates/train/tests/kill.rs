//! The promise of a run, tested on a real process: killed at any moment and resumed, it has the same bits as one that
//! was never killed. The process is the example `quadratic`.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic, as tests may")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use posterior_train::metrics_log::read_metrics;
use posterior_train::random::{fill_uniform_f64, stream};
use posterior_train::run::Run;

#[path = "../examples/quadratic.rs"]
#[allow(dead_code, reason = "the example's own main is not called from here")]
mod quadratic;

/// Holds the arguments of a process that is to be the example.
const ARGUMENTS: &str = "QUADRATIC_ARGUMENTS";

/// Not a test but the process that the tests kill: this executable, started once more. (The example's own executable
/// is only rebuilt by some of cargo's commands, so tests that start it may see an old one.)
#[test]
#[ignore = "it is the process that the other tests start"]
fn the_example() {
    let arguments = std::env::var(ARGUMENTS).expect("the other tests start this one with arguments");
    let arguments: Vec<String> = arguments.split('\n').map(str::to_owned).collect();
    std::process::exit(i32::from(quadratic::start(&arguments)));
}

fn quadratic(run: &Path, steps: u64, pause: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_example", "--ignored", "--nocapture"]);
    command.env(ARGUMENTS, format!("{}\n{steps}\n{pause}", run.display()));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn finish(run: &Path, steps: u64) -> Output {
    let output = quadratic(run, steps, 0).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Everything that a run's directory holds, except times: file contents by name, and the metrics without times.
fn content(run: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    fn collect(root: &Path, directory: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            match path.is_dir() {
                true if name == "tensorboard" => {}
                true => collect(root, &path, files),
                false if [".lock", "metrics.jsonl"].contains(&name.as_str()) => {}
                false => drop(files.insert(name, fs::read(&path).unwrap())),
            }
        }
    }
    let mut files = BTreeMap::new();
    collect(run, run, &mut files);
    let lines = read_metrics(&run.join("metrics.jsonl")).unwrap();
    let untimed = lines.into_iter().map(|mut line| {
        line.values.remove("step_seconds");
        format!("{line:?}")
    });
    (files, untimed.collect())
}

fn assert_same(run: &Path, whole: &Path) {
    let ((files, metrics), (whole_files, whole_metrics)) = (content(run), content(whole));
    assert_eq!(files.keys().collect::<Vec<_>>(), whole_files.keys().collect::<Vec<_>>());
    for (name, bytes) in &files {
        assert!(*bytes == whole_files[name], "{name} differs");
    }
    assert_eq!(metrics, whole_metrics);
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(status.success());
}

/// The step of the last line of metrics; 0 before there is one.
fn last_step(run: &Path) -> u64 {
    let lines = read_metrics(&run.join("metrics.jsonl")).unwrap_or_default();
    lines.last().map_or(0, |line| line.step)
}

/// Waits until the run has done (at least) `steps` steps.
fn wait_for_line(run: &Path, steps: u64) {
    let begun = Instant::now();
    let done =
        || read_metrics(&run.join("metrics.jsonl")).is_ok_and(|lines| lines.iter().any(|line| line.step >= steps));
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the example does not get to step {steps}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_at_random_moments_it_ends_with_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, killed) = (directory.path().join("whole"), directory.path().join("killed"));
    let begun = Instant::now();
    finish(&whole, 140);
    let whole_time = begun.elapsed();
    let mut moments = [0.0; 60];
    fill_uniform_f64(&mut stream(1, 1, 0, 0), &mut moments);
    let mut kills = 0;
    for moment in moments {
        let mut child = quadratic(&killed, 140, 0).spawn().unwrap();
        // Up to a quarter of the run: most processes get on by a few checkpoints, some die while starting.
        std::thread::sleep(whole_time.mul_f64(0.25 * moment * moment));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.signal().is_none() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            break;
        }
        kills += 1;
    }
    println!("killed {kills} times");
    assert!(kills >= 5, "only {kills} kills");
    finish(&killed, 140);
    assert_same(&killed, &whole);
}

#[test]
fn asked_to_stop_it_saves_and_resumes() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, stopped) = (directory.path().join("whole"), directory.path().join("stopped"));
    finish(&whole, 70);
    for name in ["TERM", "INT"] {
        let before = last_step(&stopped);
        let child = quadratic(&stopped, 70, 20).spawn().unwrap();
        // A new line is written only by a process that trains, and so listens to signals.
        wait_for_line(&stopped, before + 5);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && text.contains("interrupted after step"),
            "{text}"
        );
        let step: u64 = text
            .split("interrupted after step ")
            .nth(1)
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..70).contains(&step), "{step}");
        let latest = Run::checkpoints_of(&stopped).latest().unwrap().unwrap();
        assert_eq!(latest.step(), step);
    }
    finish(&stopped, 70);
    let ((files, metrics), (whole_files, whole_metrics)) = (content(&stopped), content(&whole));
    assert_eq!(metrics, whole_metrics);
    for name in ["position", "optimizer.safetensors", "loop.json", "checkpoint.json"] {
        let name = format!("checkpoints/step-70/{name}");
        assert!(files[&name] == whole_files[&name], "{name} differs");
    }
}

#[test]
fn asked_twice_it_exits_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    finish(&run, 35);
    // A step now takes a minute.
    let mut child = quadratic(&run, 70, 60_000).spawn().unwrap();
    // It is in the step once it has opened its event file.
    let begun = Instant::now();
    while fs::read_dir(run.join("tensorboard")).unwrap().count() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        child.try_wait().unwrap().is_none(),
        "the first request ended the process"
    );
    signal(&child, "INT");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(40));
    assert_eq!(Run::checkpoints_of(&run).latest().unwrap().unwrap().step(), 35);
}

#[test]
fn two_processes_do_not_share_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let mut first = quadratic(&run, 10_000, 1).spawn().unwrap();
    wait_for_line(&run, 5);
    let second = quadratic(&run, 10_000, 1).output().unwrap();
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && text.contains(&format!("another process (process {})", first.id())),
        "{text}"
    );
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock of the dead process does not hold.
    let done = last_step(&run);
    let third = quadratic(&run, 10_000, 1).spawn().unwrap();
    wait_for_line(&run, done + 5);
    signal(&third, "TERM");
    assert!(third.wait_with_output().unwrap().status.success());
}

#[test]
fn a_write_that_does_not_fit_leaves_the_previous_checkpoint_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, limited) = (directory.path().join("whole"), directory.path().join("limited"));
    finish(&whole, 35);
    finish(&whole, 70);
    finish(&limited, 35);
    // Files may have 32 blocks of 512 bytes (1,024 in some shells): enough for metrics, too little for a position.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let unlimited = quadratic(&limited, 70, 0);
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(script)
        .arg(unlimited.get_program())
        .args(unlimited.get_args());
    command.envs(unlimited.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("cannot write") && text.contains("position"),
        "{text}"
    );
    assert!(text.contains("ulimit -f"), "{text}");
    let names: Vec<_> = fs::read_dir(limited.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names.iter().all(|name| name.to_str().unwrap().starts_with("step-")),
        "{names:?}"
    );
    assert_eq!(Run::checkpoints_of(&limited).latest().unwrap().unwrap().step(), 35);
    finish(&limited, 70);
    assert_same(&limited, &whole);
}
