use super::*;
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Config {
    seed: u64,
    steps: u64,
    warmup: Option<u64>,
    network: Network,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Network {
    widths: Vec<u64>,
    rate: f64,
}

fn config() -> Config {
    Config {
        seed: 1,
        steps: 10,
        warmup: None,
        network: Network {
            widths: vec![4, 2],
            rate: 0.1,
        },
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("runs").join("first");
    (directory, path)
}

#[test]
fn a_run_is_created_and_resumed() {
    let (_directory, path) = place();
    assert!(!Run::exists(&path));
    drop(Run::create(&path, &config()).unwrap());
    assert_eq!(Run::read_config::<Config>(&path).unwrap(), config());
    let (run, changed) = Run::resume(&path, &config(), &[]).unwrap();
    assert!(changed.is_empty());
    assert_eq!(run.metrics_path(), path.join("metrics.jsonl"));
}

#[test]
fn a_directory_with_content_is_refused() {
    let (_directory, path) = place();
    drop(Run::create(&path, &config()).unwrap());
    let message = Run::create(&path, &config()).unwrap_err().to_string();
    assert!(
        message.contains("first holds a run already") && message.contains("--resume"),
        "{message}"
    );
    let other = path.parent().unwrap();
    let message = Run::create(other, &config()).unwrap_err().to_string();
    assert!(
        message.contains("is not empty and holds no run") && message.contains("--out"),
        "{message}"
    );
    assert_eq!(names(other).unwrap(), ["first"]);
    let message = Run::resume(other, &config(), &[]).unwrap_err().to_string();
    assert!(
        message.contains("holds no run") && message.contains("leaving out --resume"),
        "{message}"
    );
}

#[test]
fn what_a_kill_during_creation_leaves_is_no_obstacle() {
    let (_directory, path) = place();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(LOCK), "12345").unwrap();
    fs::write(path.join(".config.toml.partial"), "see").unwrap();
    drop(Run::create(&path, &config()).unwrap());
    fs::write(path.join(".config.toml.partial"), "see").unwrap();
    let (run, _) = Run::resume(&path, &config(), &[]).unwrap();
    let mut names = names(run.directory()).unwrap();
    names.sort();
    assert_eq!(names, [".lock", "config.toml"]);
}

#[test]
fn one_process_at_a_time() {
    let (_directory, path) = place();
    let run = Run::create(&path, &config()).unwrap();
    let message = Run::resume(&path, &config(), &[]).unwrap_err().to_string();
    assert!(
        message.contains(&format!("(process {})", std::process::id())),
        "{message}"
    );
    drop(run);
    // A dead process's id in the file does not matter.
    fs::write(path.join(LOCK), "1").unwrap();
    Run::resume(&path, &config(), &[]).unwrap();
}

#[test]
fn changed_settings_are_named() {
    let (_directory, path) = place();
    drop(Run::create(&path, &config()).unwrap());
    let mut changed = config();
    (
        changed.steps,
        changed.warmup,
        changed.network.rate,
        changed.network.widths,
    ) = (20, Some(3), 0.2, vec![4]);
    let Err(RunError::Differs { differences, .. }) = Run::resume(&path, &changed, &["steps", "net"]) else {
        panic!("a changed setting was accepted");
    };
    let keys: Vec<&str> = differences.iter().map(|it| it.key.as_str()).collect();
    assert_eq!(keys, ["network.rate", "network.widths", "warmup"]);
    let message = Run::resume(&path, &changed, &["steps", "network"])
        .unwrap_err()
        .to_string();
    assert!(message.contains("warmup was not set and is now 3;"), "{message}");
    // A refused resume changes nothing, an accepted one records the new settings.
    assert_eq!(Run::read_config::<Config>(&path).unwrap(), config());
    let (_run, differences) = Run::resume(&path, &changed, &["steps", "network", "warmup"]).unwrap();
    assert_eq!(differences.len(), 4);
    assert_eq!(Run::read_config::<Config>(&path).unwrap(), changed);
}

#[test]
fn a_damaged_or_impossible_configuration_is_explained() {
    let (_directory, path) = place();
    let mut large = config();
    large.seed = u64::MAX;
    let message = Run::create(&path, &large).unwrap_err().to_string();
    assert!(message.contains("below 2^63") && !path.exists(), "{message}");
    drop(Run::create(&path, &config()).unwrap());
    fs::write(path.join(CONFIG), "seed = \n").unwrap();
    for error in [
        Run::resume(&path, &config(), &[]).unwrap_err(),
        Run::read_config::<Config>(&path).unwrap_err(),
    ] {
        assert!(
            error
                .to_string()
                .contains("config.toml cannot be read: TOML parse error at line 1"),
            "{error}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_place_is_explained() {
    // Even the superuser cannot create directories here.
    let message = Run::create(Path::new("/sys/posterior-run"), &config())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("cannot create the directory /sys/posterior-run"),
        "{message}"
    );
}
