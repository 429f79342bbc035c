//! Input that lies, disks that are full, directories that refuse: what the program says, and what it leaves behind.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const TINY: &[&str] = &[
    "--hidden-size",
    "16",
    "--depth",
    "1",
    "--batch-size",
    "8",
    "--warmup-steps",
    "1",
    "--max-steps",
    "2",
];

fn posterior() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posterior"));
    command.stdin(Stdio::null());
    command
}

/// What the program said on standard error, in one line: the report breaks lines where it likes.
fn message(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).replace(['\n', '│'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs and expects a clear failure: status 1, all of `words` in the message, and no panic.
fn fails(command: &mut Command, words: &[&str]) -> String {
    let output = command.output().unwrap();
    let message = message(&output);
    assert_eq!(output.status.code(), Some(1), "{command:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{command:?}: no {word:?} in {message}");
    }
    assert!(!message.contains("panicked"), "{command:?}: {message}");
    assert!(output.stdout.is_empty(), "{command:?} wrote a result");
    message
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", message(&output));
}

fn train(data: &str, out: &Path) -> Command {
    let mut command = posterior();
    command.args(["-q", "diffusion", "train", "--data", data, "--out"]);
    command.arg(out).args(TINY);
    command
}

fn sample(run: &Path, out: &Path, count: &str) -> Command {
    let mut command = posterior();
    command.args(["-q", "diffusion", "sample", "--count", count, "--run"]);
    command.arg(run).arg("--out").arg(out);
    command
}

/// The same program with at most so many bytes in each file that it writes: a disk that fills up, for everybody.
fn with_small_disk(kilobytes: u32, command: &Command) -> Command {
    let mut shell = Command::new("bash");
    // The signal that comes with the limit is ignored, so that the program sees the error of the write.
    let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" \"$@\"");
    shell.arg("-c").arg(script).arg(command.get_program());
    shell.args(command.get_args()).stdin(Stdio::null());
    shell
}

/// Names below `directory`, without the lock that a run keeps.
fn names(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

/// An IDX file of 28 x 28 images: `claimed` in the header, `present` in the body.
fn idx(claimed: u32, present: usize) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 3];
    for size in [claimed, 28, 28] {
        bytes.extend(size.to_be_bytes());
    }
    bytes.extend((0..present * 784).map(|i| (i % 251) as u8));
    bytes
}

fn npy(shape: &str, values: usize) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let padded = header.len() + 1 + (64 - (10 + header.len() + 1) % 64) % 64;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded as u16).to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = padded - 1).bytes());
    bytes.extend((0..values).flat_map(|i| (i as f32).to_le_bytes()));
    bytes
}

/// A PNG of one grey level.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![90; (width * height) as usize]).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn data_files_that_lie_are_named_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let whole = png(8, 8);
    let mut huge = whole.clone();
    // Width and height of the header, with its checksum put right: 60,000 x 60,000.
    huge[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    huge[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let checksum = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&checksum.to_be_bytes());
    /// A name, the files under it (one without a name is the thing itself), and what the message says.
    type Case<'a> = (&'a str, &'a [(&'a str, Vec<u8>)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        ("cut.idx3-ubyte", &[("", idx(20, 19))], &["cut.idx3-ubyte", "20"]),
        (
            "lying.idx3-ubyte",
            &[("", idx(u32::MAX, 2))],
            &["lying.idx3-ubyte", "4294967295"],
        ),
        ("cut.npy", &[("", npy("(9, 1, 8, 8)", 500))], &["cut.npy"]),
        ("lying.npy", &[("", npy("(99999999999, 1, 8, 8)", 64))], &["lying.npy"]),
        (
            "cut",
            &[("a.png", whole.clone()), ("b.png", whole[..whole.len() / 2].to_vec())],
            &["b.png"],
        ),
        ("lying", &[("a.png", huge)], &["a.png"]),
        (
            "mixed",
            &[("a.png", png(8, 8)), ("b.png", png(9, 8))],
            &["a.png is 8x8", "b.png is 9x8", "--image-size"],
        ),
        (
            "table.csv",
            &[("", b"a,b\n1,2\n3\n".to_vec())],
            &["table.csv", "line 3"],
        ),
        (
            "words.csv",
            &[("", b"a,b\n1,2\n3,x\n".to_vec())],
            &["words.csv", "line 3", "x"],
        ),
        ("empty", &[("notes.txt", b"nothing here".to_vec())], &["empty"]),
    ];
    for (name, files, words) in cases {
        let data = directory.path().join(name);
        for (file, bytes) in *files {
            let path = if file.is_empty() {
                data.clone()
            } else {
                fs::create_dir_all(&data).unwrap();
                data.join(file)
            };
            fs::write(path, bytes).unwrap();
        }
        let out = directory.path().join("run");
        fails(&mut train(data.to_str().unwrap(), &out), words);
        assert!(!out.exists(), "{name} left a run behind");
    }
    let data = directory.path().join("range.csv");
    fs::write(&data, "a,b\n0.5,0.1\n0.2,7\n").unwrap();
    let out = directory.path().join("run");
    let mut command = train(data.to_str().unwrap(), &out);
    fails(
        command.args(["--range", "0,1"]),
        &["range.csv", "row 1", "7", "--range"],
    );
    assert!(!out.exists());
}

/// CRC-32 as PNG has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn directories_that_cannot_be_written_are_named_before_the_work() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    succeeds(&mut train("digits", &run));
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let before = names(directory.path());
    fails(&mut train("digits", &file.join("run")), &["file/run"]);
    fails(&mut train("digits", &file), &["file"]);
    // Counted in steps this would take hours.
    let mut endless = sample(&run, &file.join("samples"), "1000000");
    fails(endless.args(["--steps", "1000"]), &["file/samples"]);
    let mut audit = posterior();
    audit.args(["audit", "--data-std", "1", "--steps", "2", "--plot"]);
    fails(audit.arg(file.join("plot.svg")), &["plot.svg"]);
    assert_eq!(names(directory.path()), before);
}

#[test]
fn a_full_disk_costs_the_step_and_not_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("run");
    // Room for the configuration and not for the weights.
    let message = fails(
        &mut with_small_disk(8, &train("digits", &out)),
        &["step-2", "safetensors"],
    );
    assert!(
        message.contains("too large") || message.contains("No space"),
        "{message}"
    );
    let left = names(&out);
    assert!(
        !left
            .iter()
            .any(|name| name.contains("step-2") || name.contains("model")),
        "{left:?}"
    );
    // With room again, the run goes on.
    let mut resume = posterior();
    resume.args(["-q", "diffusion", "train", "--resume", "--out"]).arg(&out);
    succeeds(&mut resume);
    assert!(out.join("model/model.safetensors").exists());

    let samples = directory.path().join("samples");
    let mut many = sample(&out, &samples, "64");
    many.args(["--steps", "2"]);
    fails(&mut with_small_disk(4, &many), &["samples.npy"]);
    assert!(!samples.exists() || names(&samples).is_empty(), "{:?}", names(&samples));

    // Where there is no room for anything, nothing is begun.
    let nothing = directory.path().join("nothing");
    fails(&mut with_small_disk(0, &train("digits", &nothing)), &["nothing"]);
    assert!(!nothing.exists());
}

/// A run, trained with these further arguments.
fn trained(directory: &Path, name: &str, more: &[&str]) -> PathBuf {
    let out = directory.join(name);
    succeeds(train("digits", &out).args(more));
    out
}

#[test]
fn damaged_checkpoints_are_named_with_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let run = trained(directory.path(), "run", &["--save-every", "1"]);
    let weights = run.join("checkpoints/step-2/weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    let resume = || {
        let mut command = posterior();
        command
            .args(["-q", "diffusion", "train", "--resume", "--max-steps", "3", "--out"])
            .arg(&run);
        command
    };
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() / 2], &lying, &other] {
        fs::write(&weights, damaged).unwrap();
        fails(&mut resume(), &["step-2", "damaged", "weights.safetensors", "step 1"]);
    }
    // A list of files that was changed to agree with a lying header still allocates nothing.
    fs::write(&weights, &lying).unwrap();
    let list = run.join("checkpoints/step-2/checkpoint.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    for entry in manifest["files"].as_array_mut().unwrap() {
        if entry["path"] == "weights.safetensors" {
            entry["crc32"] = format!("{:08x}", crc32(&lying)).into();
        }
    }
    fs::write(&list, manifest.to_string()).unwrap();
    fails(&mut resume(), &["weights.safetensors"]);
    // The advice of the message works.
    fs::remove_dir_all(run.join("checkpoints/step-2")).unwrap();
    succeeds(&mut resume());
}

#[test]
fn data_that_changed_under_a_run_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("points.csv");
    let rows: String = (0..40).map(|i| format!("{i},{}\n", i * i)).collect();
    fs::write(&data, format!("a,b\n{rows}")).unwrap();
    let out = directory.path().join("run");
    succeeds(&mut train(data.to_str().unwrap(), &out));
    let resume = || {
        let mut command = posterior();
        command
            .args(["-q", "diffusion", "train", "--resume", "--max-steps", "3", "--out"])
            .arg(&out);
        command
    };
    fs::write(&data, format!("a,b\n{}", rows.replace("\n7,49\n", "\n7,48\n"))).unwrap();
    fails(&mut resume(), &["points.csv", "changed since the run was started"]);
    fs::write(&data, format!("a,b\n{rows}")).unwrap();
    succeeds(&mut resume());
}

#[test]
fn plans_that_cannot_be_run_say_what_can() {
    let directory = tempfile::tempdir().unwrap();
    let run = trained(directory.path(), "run", &[]);
    let out = directory.path().join("samples");
    for spacing in ["leading", "trailing", "linspace"] {
        let mut command = sample(&run, &out, "2");
        fails(
            command.args(["--sampler", "ddim", "--spacing", spacing, "--steps", "1001"]),
            &["1001 steps", "at most 1000"],
        );
    }
    let mut command = sample(&run, &out, "2");
    fails(
        command.args(["--spacing", "uniform"]),
        &["leading, trailing or linspace"],
    );
    assert!(!out.exists());

    // Pure noise at the end of the schedule: the first step starts at infinity.
    let zero = trained(
        directory.path(),
        "zero",
        &["--zero-terminal-snr", "true", "--prediction", "v"],
    );
    for sampler in ["ddim", "ancestral", "dpmpp-2m"] {
        let out = directory.path().join(sampler);
        succeeds(sample(&zero, &out, "2").args(["--sampler", sampler, "--spacing", "trailing", "--steps", "5"]));
        let bytes = fs::read(out.join("samples.npy")).unwrap();
        let values = bytes[bytes.len() - 2 * 64 * 4..].chunks_exact(4);
        assert!(
            values
                .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
                .all(f32::is_finite)
        );
    }
    let mut command = sample(&zero, &out, "2");
    fails(
        command.args(["--sampler", "heun", "--spacing", "trailing"]),
        &["infinite"],
    );
    let mut command = sample(&zero, &out, "2");
    fails(command.args(["--spacing", "karras"]), &["trailing"]);
    // What is not asked for is chosen so that it works.
    succeeds(&mut sample(&zero, &out, "2"));
}
