use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn checkpoints() -> (tempfile::TempDir, Checkpoints) {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(directory.path().join("checkpoints"));
    (directory, checkpoints)
}

fn save(checkpoints: &Checkpoints, step: u64, score: Option<f64>) -> Checkpoint {
    let write = |directory: &Path| -> Result<(), std::io::Error> {
        fs::write(directory.join("weights"), format!("weights of step {step}"))?;
        fs::create_dir(directory.join("model"))?;
        fs::write(directory.join("model").join("config"), "config")
    };
    checkpoints.save(step, score, write).unwrap()
}

const KEEP_ALL: usize = usize::MAX;

#[test]
fn what_was_saved_is_read_back() {
    let (_directory, checkpoints) = checkpoints();
    assert!(checkpoints.latest().unwrap().is_none());
    save(&checkpoints, 9, None);
    save(&checkpoints, 10, Some(0.25));
    let latest = checkpoints.latest().unwrap().unwrap();
    assert_eq!((latest.step(), latest.score()), (10, Some(0.25)));
    assert_eq!(latest.files().collect::<Vec<_>>(), ["model/config", "weights"]);
    assert_eq!(latest.read("weights").unwrap(), b"weights of step 10");
    assert_eq!(fs::read(latest.file("model/config").unwrap()).unwrap(), b"config");
    assert!(matches!(latest.read("other"), Err(CheckpointError::NoSuchFile { .. })));
    assert_eq!(checkpoints.open(9).unwrap().step(), 9);
    let message = checkpoints.open(8).unwrap_err().to_string();
    assert!(message.contains("for the steps 9, 10"), "{message}");
}

#[test]
fn every_damage_is_named_with_the_way_out() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 7] = [
        ("weights has 5 bytes, but 18 were written", |path| {
            fs::write(path.join("weights"), "short").unwrap()
        }),
        ("content of weights changed", |path| {
            fs::write(path.join("weights"), "weights of step 22").unwrap()
        }),
        ("the file weights is missing", |path| {
            fs::remove_file(path.join("weights")).unwrap()
        }),
        ("checkpoint.json, is missing", |path| {
            fs::remove_file(path.join(manifest::NAME)).unwrap()
        }),
        ("checkpoint.json is not readable", |path| {
            fs::write(path.join(manifest::NAME), "{").unwrap()
        }),
        ("says that it is of step 7", |path| {
            rewrite(path, "\"step\": 20", "\"step\": 7")
        }),
        ("outside the checkpoint: \"../weights\"", |path| {
            rewrite(path, "\"weights\"", "\"../weights\"")
        }),
    ];
    for (words, damage) in damages {
        let (_directory, checkpoints) = checkpoints();
        save(&checkpoints, 10, None);
        let newest = save(&checkpoints, 20, None);
        damage(newest.directory());
        let message = checkpoints.latest().unwrap_err().to_string();
        assert!(message.contains(words) && message.contains("step-20"), "{message}");
        assert!(message.contains("to continue from step 10 instead"), "{message}");
        // The person follows the advice.
        fs::remove_dir_all(newest.directory()).unwrap();
        assert_eq!(checkpoints.latest().unwrap().unwrap().step(), 10);
    }
}

fn rewrite(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path.join(manifest::NAME)).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path.join(manifest::NAME), text.replace(from, to)).unwrap();
}

#[test]
fn a_newer_format_is_not_called_damage() {
    let (_directory, checkpoints) = checkpoints();
    rewrite(
        save(&checkpoints, 1, None).directory(),
        "\"version\": 1",
        "\"version\": 2",
    );
    let message = checkpoints.latest().unwrap_err().to_string();
    assert!(message.contains("use the newer program"), "{message}");
}

#[test]
fn a_failed_save_leaves_the_earlier_checkpoint_and_nothing_else() {
    let (_directory, checkpoints) = checkpoints();
    save(&checkpoints, 1, None);
    let failed = checkpoints.save(2, None, |directory| {
        fs::write(directory.join("weights"), "half")?;
        Err(std::io::Error::other("the device is lost"))
    });
    assert!(matches!(failed, Err(SaveError::Content(_))));
    assert_eq!(checkpoints.names().unwrap(), ["step-1"]);
    assert_eq!(checkpoints.latest().unwrap().unwrap().step(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_kept_is_refused() {
    let (_directory, checkpoints) = checkpoints();
    let link = checkpoints.save(1, None, |directory| {
        std::os::unix::fs::symlink("/dev/full", directory.join("weights"))
    });
    assert!(matches!(
        link,
        Err(SaveError::Checkpoint(CheckpointError::Unsuitable { .. }))
    ));
    let taken = checkpoints.save(1, None, |directory| fs::write(directory.join(manifest::NAME), "{}"));
    assert!(matches!(
        taken,
        Err(SaveError::Checkpoint(CheckpointError::Unsuitable { .. }))
    ));
    assert!(checkpoints.names().unwrap().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_place_is_explained() {
    // Even the superuser cannot create directories here.
    let checkpoints = Checkpoints::new("/sys/posterior-checkpoints");
    let message = checkpoints
        .save(1, None, |_| Ok::<(), Infallible>(()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("/sys/posterior-checkpoints") && message.contains("another directory"),
        "{message}"
    );
}

#[test]
fn saving_a_step_twice_is_refused() {
    let (_directory, checkpoints) = checkpoints();
    save(&checkpoints, 1, None);
    let again = checkpoints.save(1, None, |_| Ok::<(), Infallible>(()));
    assert!(matches!(
        again,
        Err(SaveError::Checkpoint(CheckpointError::Exists { .. }))
    ));
}

#[test]
fn leftovers_of_a_killed_process_do_not_count_and_are_removed() {
    let (_directory, checkpoints) = checkpoints();
    save(&checkpoints, 1, None);
    for name in [".unfinished-step-2", ".unfinished-removal-0", "notes"] {
        fs::create_dir(checkpoints.directory.join(name)).unwrap();
    }
    fs::write(checkpoints.directory.join(".unfinished-step-2").join("weights"), "half").unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [1]);
    save(&checkpoints, 2, None);
    checkpoints.remove_unfinished().unwrap();
    let mut names = checkpoints.names().unwrap();
    names.sort();
    assert_eq!(names, ["notes", "step-1", "step-2"]);
}

#[test]
fn retention_keeps_the_last_and_the_best() {
    let kept_with = |last, best| {
        let (_directory, checkpoints) = checkpoints();
        for (step, score) in [
            (1, Some(3.0)),
            (2, Some(1.0)),
            (3, Some(f64::NAN)),
            (4, Some(1.0)),
            (5, None),
            (10, Some(2.0)),
        ] {
            save(&checkpoints, step, score);
        }
        let removed = checkpoints.prune(Retention { last, best }).unwrap();
        let kept = checkpoints.steps().unwrap();
        assert_eq!(removed.len() + kept.len(), 6);
        kept
    };
    assert_eq!(kept_with(2, None), [5, 10]);
    assert_eq!(kept_with(1, Some(Better::Lower)), [2, 10]);
    assert_eq!(kept_with(2, Some(Better::Higher)), [1, 5, 10]);
    assert_eq!(kept_with(0, None), [10]);
    assert_eq!(kept_with(KEEP_ALL, None), [1, 2, 3, 4, 5, 10]);
}

#[test]
fn only_plain_names_are_steps() {
    assert_eq!(step_of("step-70"), Some(70));
    for name in [
        "step-",
        "step-07",
        "step-+7",
        "step--1",
        "step-7.tmp",
        "step-99999999999999999999",
    ] {
        assert_eq!(step_of(name), None, "{name}");
    }
}

proptest! {
    // Each case brings several files to the disk.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_anywhere_is_found(at in 0usize..10_000, flip in 1u8..=255, in_weights in any::<bool>()) {
        let (_directory, checkpoints) = checkpoints();
        let saved = save(&checkpoints, 20, None);
        let path = saved.directory().join(if in_weights { "weights" } else { manifest::NAME });
        let mut bytes = fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        fs::write(&path, bytes).unwrap();
        match checkpoints.latest() {
            Err(_) => {}
            // The manifest's own white space and its score may change unnoticed, but never what it says of the files.
            Ok(read) => prop_assert!(!in_weights && read.unwrap().manifest.files == saved.manifest.files),
        }
    }
}
