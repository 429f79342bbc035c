//! Training on preferences, policies and reward models, through the real program: what must not change a result, what comes out, and what bad input is
//! told.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::training::{assert_same_bits, bytes, good, kill_until_done, metrics, said, strings};
use support::{WORDS, message, model, model_of, run};

mod support;

const LORA: &[&str] = &["--lora-rank", "3"];

/// A directory with the tiny model and a file of pairs and rankings.
struct Place {
    directory: tempfile::TempDir,
    model: PathBuf,
    data: PathBuf,
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected })
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let model = model(directory.path());
        let data = directory.path().join("data.jsonl");
        let words = ["the", "cat", "dog", "tree", "mat", "ran", "slept"];
        let said = |i: usize, count: usize| -> String {
            (0..count).map(|j| format!(" {}", words[(i * 3 + j * 5) % 7])).collect()
        };
        let mut rows = vec![
            json!({ "prompt": [{ "role": "user", "content": "hello" }],
                    "chosen": [{ "role": "assistant", "content": "the cat slept" }],
                    "rejected": [{ "role": "assistant", "content": "it ran" }] }),
            json!({ "chosen": "the cat sat on the mat", "rejected": "the cat ran" }),
            json!({ "prompt": "a dog", "chosen": " sat", "rejected": " ran then", "margin": 0.5 }),
        ];
        rows.extend((0..20).map(|i| {
            let prompt = format!("it{} then", said(i, 1 + i % 4));
            if i % 2 == 0 {
                return pair(&prompt, &said(i + 1, 2), &said(i + 2, 1 + i % 3));
            }
            let completions: Vec<Value> = (0..2 + i % 4)
                .map(|k| json!({ "rank": (k + 1) / (1 + i % 3 / 2), "completion": said(i + k, 1 + k) }))
                .collect();
            json!({ "prompt": prompt, "completions": completions })
        }));
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs::write(&data, text).unwrap();
        Self { directory, model, data }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, rows: &[Value]) -> String {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    fn arguments(&self, command: &str, name: &str, more: &[&str]) -> Vec<String> {
        let out = self.path(name);
        let [model, data, out] = [&self.model, &self.data, &out].map(|path| path.to_str().unwrap().to_owned());
        let mut all = vec!["-q", command, "--out", &out];
        for (flag, value) in [
            ("--model", model.as_str()),
            ("--data", &data),
            ("--learning-rate", "0.003"),
            ("--log-every", "1"),
        ] {
            if !more.contains(&flag) {
                all.extend([flag, value]);
            }
        }
        all.extend(more);
        all.into_iter().map(str::to_owned).collect()
    }

    fn train(&self, command: &str, name: &str, more: &[&str]) -> PathBuf {
        good(&self.arguments(command, name, more));
        self.path(name)
    }
}

/// Both trainers with all weights and with adapters, and the file of what comes out.
fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static [&'static str], &'static str)> {
    let of = |command| {
        [
            (command, "full", &[][..], "model/model.safetensors"),
            (command, "lora", LORA, "model/adapter_model.safetensors"),
        ]
    };
    ["dpo", "reward"].into_iter().flat_map(of)
}

/// The same metrics up to rounding.
fn assert_alike(one: &std::path::Path, other: &std::path::Path, tolerance: f64) {
    let (one, other) = (metrics(one), metrics(other));
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(&other) {
        // Of a policy, or of a reward model.
        let keys = [
            "loss",
            "grad_norm",
            "rewards/margins",
            "logps/chosen",
            "entropy",
            "margin",
            "mean_reward",
        ];
        let known: Vec<&str> = keys.into_iter().filter(|key| one.contains_key(*key)).collect();
        assert!(known.len() >= 4, "{one:?}");
        for key in known {
            let (a, b) = (one[key].as_f64().unwrap(), other[key].as_f64().unwrap());
            assert!((a - b).abs() <= tolerance * b.abs().max(0.1), "{key}: {a} against {b}");
        }
    }
}

#[test]
fn the_first_loss_is_known_and_falls() {
    let place = Place::new();
    let rows: Vec<Value> = (0..8)
        .map(|i| pair("the cat", [" sat on", " ran then"][i % 2], " slept"))
        .collect();
    let pairs = place.file("pairs.jsonl", &rows);
    let run = place.train("dpo", "pairs", &["--data", &pairs, "--max-steps", "30"]);
    let lines = metrics(&run);
    let number = |line: usize, key: &str| lines[line][key].as_f64().unwrap();
    assert!((number(0, "loss") - 2.0_f64.ln()).abs() < 1e-6);
    assert!((number(0, "gradient_weight") - 0.5).abs() < 1e-6);
    assert_eq!(number(0, "rewards/margins"), 0.0);
    assert!(number(29, "loss") < 0.6 && number(29, "rewards/accuracies") == 1.0);
    assert!(run.join("model/model.safetensors").exists());
    let rankings: Vec<Value> = (0..8)
        .map(|_| {
            let completions: Vec<Value> = [" sat", " ran", " slept", " on the mat"]
                .iter()
                .enumerate()
                .map(|(rank, completion)| json!({ "rank": rank, "completion": completion }))
                .collect();
            json!({ "prompt": "the cat", "completions": completions })
        })
        .collect();
    let rankings = place.file("rankings.jsonl", &rankings);
    let run = place.train("dpo", "rankings", &["--data", &rankings, "--max-steps", "80"]);
    let lines = metrics(&run);
    assert!((lines[0]["loss"].as_f64().unwrap() - 24.0_f64.ln()).abs() < 1e-5);
    assert_eq!(lines[79]["rewards/accuracies"].as_f64().unwrap(), 1.0);
}

#[test]
fn threads_and_recomputation_do_not_change_a_bit() {
    let place = Place::new();
    for (command, name, lora, weights) in kinds() {
        let train = |kind: &str, more: &[&str]| {
            let steps = ["--max-steps", "6", "--batch-size", "5"];
            place.train(
                command,
                &format!("{command}-{name}-{kind}"),
                &[lora, &steps, more].concat(),
            )
        };
        let one = train("one", &["--threads", "1"]);
        for other in [
            train("three", &["--threads", "3"]),
            train("recomputed", &["--recompute", "true"]),
        ] {
            let optimizer = "checkpoints/step-6/optimizer.safetensors";
            assert_same_bits(&one, &other, &[weights, optimizer]);
            if command == "dpo" {
                assert_same_bits(&one, &other, &["reference.jsonl"]);
            }
        }
    }
}

/// A prompt shared or repeated, a step whole or in parts, a reference of its own or named: the same up to rounding.
#[test]
fn sharing_and_accumulation_change_rounding_only() {
    let place = Place::new();
    for (command, name, lora, _) in kinds() {
        let train = |kind: &str, more: &[&str]| {
            let steps = ["--max-steps", "6", "--batch-size", "8"];
            place.train(
                command,
                &format!("{command}-{name}-{kind}"),
                &[lora, &steps, more].concat(),
            )
        };
        let whole = train("whole", &[]);
        let reference = place.model.to_str().unwrap().to_owned();
        let mut others = vec![
            train("single", &["--accumulate", "8"]),
            train("tokens", &["--micro-batch-tokens", "20"]),
        ];
        if command == "dpo" {
            others.push(train("apart", &["--share-prompts", "false"]));
            others.push(train("each-step", &["--precompute", "false"]));
            others.push(train("named", &["--reference", &reference]));
        }
        for other in others {
            assert_alike(&whole, &other, 2e-4);
        }
    }
}

#[test]
fn a_ranking_of_two_is_a_pair() {
    let place = Place::new();
    let ranked = |rows: &[Value]| -> Vec<Value> {
        rows.iter()
            .map(|row| {
                // The worse one first, so that ranks count and not places.
                let completions = [(2, &row["rejected"]), (1, &row["chosen"])]
                    .map(|(rank, completion)| json!({ "rank": rank, "completion": completion }));
                json!({ "prompt": row["prompt"], "completions": completions })
            })
            .collect()
    };
    let rows: Vec<Value> = (0..8)
        .map(|i| {
            pair(
                "the dog then",
                [" sat on", " ran"][i % 2],
                [" slept", " the mat", " and it"][i % 3],
            )
        })
        .collect();
    let (pairs, rankings) = (
        place.file("pairs.jsonl", &rows),
        place.file("rankings.jsonl", &ranked(&rows)),
    );
    let one = place.train("dpo", "pairs", &["--data", &pairs, "--max-steps", "6"]);
    let other = place.train("dpo", "rankings", &["--data", &rankings, "--max-steps", "6"]);
    assert_same_bits(&one, &other, &["model/model.safetensors"]);
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let place = Place::new();
    let settings = [
        "--max-steps",
        "40",
        "--batch-size",
        "4",
        "--save-every",
        "3",
        "--held-out",
        "5",
        "--eval-every",
        "6",
    ];
    for (command, name, lora, weights) in kinds() {
        let settings = [lora, &settings].concat();
        let whole = place.train(command, &format!("{command}-{name}-whole"), &settings);
        let killed = place.path(&format!("{command}-{name}-killed"));
        let start = place.arguments(command, &format!("{command}-{name}-killed"), &settings);
        let resume: Vec<String> = ["-q", command, "--resume", "--out", killed.to_str().unwrap()]
            .map(str::to_owned)
            .to_vec();
        let kills = kill_until_done(&killed, &start, &resume);
        assert!(kills > 2, "killed {kills} times only");
        let files = [
            weights,
            "checkpoints/step-40/weights.safetensors",
            "checkpoints/step-40/optimizer.safetensors",
        ];
        assert_same_bits(&whole, &killed, &files);
        let evaluated = metrics(&whole)
            .into_iter()
            .filter(|line| line.contains_key("eval_loss"));
        assert!(evaluated.count() >= 6);
        if command == "reward" {
            assert_same_bits(&whole, &killed, &["model/reward.json"]);
            continue;
        }
        assert_same_bits(&whole, &killed, &["reference.jsonl"]);
        // Nothing of the reference is worked out again.
        let before = bytes(killed.join("reference.jsonl"));
        let output = run(&[
            "dpo",
            "--resume",
            "--out",
            killed.to_str().unwrap(),
            "--max-steps",
            "41",
        ]);
        let words = message(&output);
        assert!(words.contains("0 examples worked out"), "{words}");
        assert_eq!(before, bytes(killed.join("reference.jsonl")));
    }
}

/// At an evaluation the model answers held-out prompts; without an update it is its reference.
#[test]
fn the_distance_from_the_reference_is_measured() {
    let place = Place::new();
    let kl = |name: &str, more: &[&str]| -> f64 {
        let settings = [
            "--max-steps",
            "20",
            "--held-out",
            "6",
            "--eval-every",
            "20",
            "--kl-prompts",
            "6",
        ];
        let run = place.train("dpo", name, &[&settings[..], more].concat());
        let lines = metrics(&run);
        lines.iter().find_map(|line| line.get("kl")).unwrap().as_f64().unwrap()
    };
    assert!(kl("still", &["--learning-rate", "0"]).abs() < 1e-4);
    assert!(kl("still-lora", &["--learning-rate", "0", "--lora-rank", "2"]).abs() < 1e-4);
    assert!(kl("far", &["--learning-rate", "0.02"]) > 0.1);
    assert!(kl("far-lora", &["--learning-rate", "0.1", "--lora-rank", "2"]) > 0.1);
}

/// A reference reads the model's tokens, so they must be its own: as many, of the same meaning, with the same end.
#[test]
fn a_reference_of_another_vocabulary_is_refused() {
    let place = Place::new();
    let directories = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let more = [WORDS, &["bird"]].concat();
    let mut permuted = WORDS.to_vec();
    permuted.swap(3, 4);
    let mut others = directories
        .iter()
        .zip([&more[..], &permuted, WORDS, WORDS])
        .map(|(directory, words)| model_of(directory.path(), words));
    let mut next = || others.next().unwrap();
    let (larger, permuted, ended, fits) = (next(), next(), next(), next());
    let settings = ended.join("tokenizer_config.json");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(
        &settings,
        text.replace("\"eos_token\":\"<end>\"", "\"eos_token\":\"hello\""),
    )
    .unwrap();
    let prompts = place.file("prompts.jsonl", &[json!({ "prompt": "the cat" })]);
    let lexicon = place.path("lexicon.txt");
    fs::write(&lexicon, "sat\t1.0\n").unwrap();
    let ppo = [
        "--data",
        &prompts,
        "--reward-lexicon",
        lexicon.to_str().unwrap(),
        "--max-new-tokens",
        "4",
    ];
    let scores = place.train("reward", "reward", &["--max-steps", "1"]).join("model");
    for (command, more) in [("dpo", &[][..]), ("ppo", &ppo)] {
        for (reference, expected) in [
            (
                &larger,
                "has 21 tokens, but the model has 20; give a reference with the same tokenizer",
            ),
            (
                &permuted,
                "2 of the model's tokens are something else there, the first of them token 3, \"cat\" for the model and \
                 \"dog\" for the reference; give a reference with the same tokenizer",
            ),
            (&ended, "ends an answer with \"hello\", but the model with \"<end>\""),
            (&scores, "is a reward model"),
        ] {
            let reference = reference.to_str().unwrap();
            let given = ["--max-steps", "2", "--reference", reference];
            let output = run(&strings(&place.arguments(command, "refused", &[more, &given].concat())));
            let words = message(&output);
            assert_eq!(output.status.code(), Some(1), "{command}: {words}");
            // The name of the reference is broken over lines as the terminal likes.
            assert!(words.contains(expected), "{command}: {words}");
            assert!(words.replace(' ', "").contains(reference), "{command}: {words}");
            assert!(!place.path("refused").exists());
        }
        // Other weights under the same tokens are a reference.
        let weights = fits.join("model.safetensors");
        let mut content = bytes(&weights);
        let end = content.len();
        content[end - 4..].copy_from_slice(&0.25_f32.to_le_bytes());
        fs::write(&weights, content).unwrap();
        let given = ["--max-steps", "2", "--reference", fits.to_str().unwrap()];
        let other = place.train(command, &format!("{command}-other"), &[more, &given].concat());
        assert_eq!(metrics(&other).len(), 2);
    }
}

/// Rewards are normalised over given responses, whatever they were learned from.
#[test]
fn the_mean_over_given_responses_is_0() {
    let place = Place::new();
    let conversation = json!([
        { "role": "user", "content": "hello" },
        { "role": "assistant", "content": "the dog slept on a mat" },
    ]);
    let mut rows = vec![
        json!({ "prompt": "it then", "completion": " ran on" }),
        json!({ "messages": conversation }),
        json!({ "prompt": "the tree", "responses": [" sat", " slept", ""] }),
        pair("a cat", " and a dog", " ran"),
        json!({ "prompt": "the mat", "completions": [{ "rank": 1, "completion": " slept" },
                                                     { "rank": 1, "completion": " sat under a tree" }] }),
    ];
    let fitting = place.file("fitting.jsonl", &rows);
    rows.push(json!({ "prompt": "the cat", "completion": " the cat".repeat(12) }));
    let answers = place.file("answers.jsonl", &rows);
    let rewards = |run_directory: &std::path::Path| -> Vec<f64> {
        let model = run_directory.join("model");
        let arguments = [
            "-q",
            "--format",
            "json",
            "score",
            "--model",
            model.to_str().unwrap(),
            "--data",
            &fitting,
        ];
        let text = good(&arguments.map(str::to_owned));
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .flat_map(|line| line["responses"].as_array().unwrap().clone())
            .map(|response| response["reward"].as_f64().unwrap())
            .collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let variance = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
    let settings = ["--max-steps", "4", "--max-length", "20"];
    let given = [&settings[..], &["--normalize-data", &answers]].concat();
    let arguments = place.arguments("reward", "given", &given);
    let words = said(&arguments);
    for expected in [
        "rewards are normalised over its 9 responses to 5 prompts",
        "1 of 6 examples were left out: longer than 20 tokens",
    ] {
        assert!(words.contains(expected), "no {expected:?} in {words}");
    }
    let found = rewards(&place.path("given"));
    assert_eq!(found.len(), 9);
    assert!(mean(&found).abs() < 1e-4, "{found:?}");
    assert!((variance(&found) - 1.0).abs() > 1e-3, "{found:?}");
    // A run that goes on keeps them, and may give other ones.
    let out = place.path("given");
    let resume = |more: &[&str]| {
        let resume = ["-q", "reward", "--resume", "--out", out.to_str().unwrap()];
        let resume = [&resume[..], more].concat();
        good(&resume.into_iter().map(str::to_owned).collect::<Vec<_>>());
        rewards(&out)
    };
    let later = resume(&["--max-steps", "6"]);
    assert!(later != found && mean(&later).abs() < 1e-4, "{later:?}");
    let scaled = resume(&["--normalize", "variance"]);
    assert!(
        mean(&scaled).abs() < 1e-4 && (variance(&scaled) - 1.0).abs() < 1e-4,
        "{scaled:?}"
    );
    let own = resume(&[
        "--normalize",
        "mean",
        "--normalize-data",
        &place.data.display().to_string(),
    ]);
    let by_data = rewards(&place.train("reward", "by-data", &["--max-steps", "6", "--max-length", "20"]));
    assert!(
        mean(&own).abs() > 1e-3 && mean(&by_data).abs() > 1e-3,
        "{own:?} {by_data:?}"
    );
    // What cannot be read is known before training.
    let texts = place.file("texts.jsonl", &[json!({ "prompt": "the cat", "text": " ran" })]);
    let long = place.file("long.jsonl", &rows[5..]);
    for (more, expected) in [
        (&["--normalize-data", "nowhere.jsonl"][..], "nowhere.jsonl"),
        (&["--normalize-data", &texts], "rename \"text\" to \"completion\""),
        (&["--normalize-data", &long], "all 1 examples were left out"),
        (
            &["--normalize-data", &answers, "--normalize", "nothing"],
            "normalize-data has no effect with normalize nothing",
        ),
    ] {
        let output = run(&strings(&place.arguments(
            "reward",
            "refused",
            &[&settings[..], more].concat(),
        )));
        let words = message(&output);
        assert_eq!(output.status.code(), Some(1), "{more:?}: {words}");
        assert!(words.contains(expected), "{more:?}: {words}");
        assert!(!place.path("refused").exists());
    }
}

/// The reward is read at the end token, and its mean over the data is 0.
#[test]
fn a_reward_model_scores() {
    let place = Place::new();
    let rows: Vec<Value> = (0..8)
        .map(|i| pair("the cat", [" sat on", " ran then"][i % 2], " slept"))
        .collect();
    let data = place.file("pairs.jsonl", &rows);
    let score = |model: &std::path::Path| -> Vec<f64> {
        let output = run(&[
            "-q",
            "--format",
            "json",
            "score",
            "--model",
            model.to_str().unwrap(),
            "--data",
            &data,
        ]);
        assert!(output.status.success(), "{}", message(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .flat_map(|line| line["responses"].as_array().unwrap().clone())
            .map(|response| {
                assert!(response["log_prob"].is_null());
                response["reward"].as_f64().unwrap()
            })
            .collect()
    };
    let steps = ["--data", &data, "--max-steps", "30"];
    for (name, more) in [
        ("full", &[][..]),
        ("lora", &["--lora-rank", "2", "--learning-rate", "0.03"]),
    ] {
        let run = place.train("reward", name, &[&steps[..], more].concat());
        let rewards = score(&run.join("model"));
        assert!(rewards.chunks(2).all(|pair| pair[0] > pair[1]), "{rewards:?}");
        assert!(rewards.iter().sum::<f64>().abs() < 1e-4, "{rewards:?}");
    }
    let scaled = place.train("reward", "scaled", &[&steps[..], &["--normalize", "variance"]].concat());
    let rewards = score(&scaled.join("model"));
    let variance = rewards.iter().map(|reward| reward * reward).sum::<f64>() / rewards.len() as f64;
    assert!((variance - 1.0).abs() < 1e-4, "{rewards:?}");
    // It writes no texts, and is tuned as no language model.
    let model = scaled.join("model");
    let output = run(&[
        "-q",
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--prompt",
        "the cat",
    ]);
    assert!(message(&output).contains("reward model"), "{}", message(&output));
    let output = run(&strings(&place.arguments(
        "dpo",
        "refused",
        &["--model", model.to_str().unwrap()],
    )));
    assert!(message(&output).contains("reward model"), "{}", message(&output));
    assert!(!place.path("refused").exists());
}

/// Of a run of all weights a checkpoint holds the model, but the reference is what the model was.
#[test]
fn a_reference_that_changed_under_a_run_is_noticed() {
    let place = Place::new();
    for (name, more) in [("kept", &[][..]), ("each-step", &["--precompute", "false"])] {
        let run_directory = place.train("dpo", name, &[&["--max-steps", "2"][..], more].concat());
        let file = place.model.join("model.safetensors");
        let before = bytes(&file);
        let mut other = before.clone();
        let end = other.len();
        other[end - 4..].copy_from_slice(&0.25_f32.to_le_bytes());
        fs::write(&file, other).unwrap();
        let resume = [
            "-q",
            "dpo",
            "--resume",
            "--out",
            run_directory.to_str().unwrap(),
            "--max-steps",
            "3",
        ];
        let output = run(&resume);
        assert!(
            message(&output).contains("the reference changed"),
            "{}",
            message(&output)
        );
        fs::write(&file, before).unwrap();
        assert!(run(&resume).status.success());
    }
}

/// Weights that are no numbers.
#[test]
fn damaged_models_are_named() {
    let place = Place::new();
    let other = tempfile::tempdir().unwrap();
    let damaged = model(other.path());
    let file = damaged.join("model.safetensors");
    let mut content = bytes(&file);
    let end = content.len();
    content[end - 64..].copy_from_slice(&[0xff; 64]);
    fs::write(&file, content).unwrap();
    let damaged = damaged.to_str().unwrap();
    for (command, more) in [
        ("dpo", &["--model", damaged][..]),
        ("dpo", &["--reference", damaged]),
        ("reward", &["--model", damaged]),
    ] {
        let output = run(&strings(&place.arguments(command, "damaged", more)));
        let words = message(&output);
        assert_eq!(output.status.code(), Some(1), "{command} {more:?}: {words}");
        assert!(
            words.contains("number") || words.contains("NaN"),
            "{command} {more:?}: {words}"
        );
        drop(fs::remove_dir_all(place.path("damaged")));
    }
}

#[test]
fn what_does_not_count_is_counted_and_said() {
    let place = Place::new();
    let data = place.file(
        "some.jsonl",
        &[
            pair("the cat", " sat", " sat"),
            pair("the cat", " sat", " ran"),
            pair("the cat then ran under the tree and slept", " sat", " ran"),
            pair("the cat", "", " ran"),
        ],
    );
    let arguments = place.arguments(
        "dpo",
        "some",
        &[
            "--data",
            &data,
            "--max-steps",
            "1",
            "--max-length",
            "8",
            "--truncation",
            "leave-out",
        ],
    );
    let words = said(&arguments);
    for expected in [
        "1 of 4 examples were left out: longer than 8 tokens",
        "1 of 4 examples were left out: their responses are the same tokens",
        // The empty one is its end token.
        "2 examples of",
    ] {
        assert!(words.contains(expected), "no {expected:?} in {words}");
    }
}

#[test]
fn bad_input_is_told_what_to_do() {
    let place = Place::new();
    let completions = |ranks: &[f64]| -> Value {
        let completions = ranks.iter().zip([" cat", " dog", " tree"]);
        let completions = completions.map(|(rank, completion)| json!({ "rank": rank, "completion": completion }));
        json!({ "prompt": "a", "completions": completions.collect::<Vec<_>>() })
    };
    let good_pair = pair("a", " cat", " dog");
    let text = place.file("text.jsonl", &[good_pair.clone(), json!({ "text": "a cat" })]);
    let one = place.file("one.jsonl", &[good_pair.clone(), completions(&[1.0])]);
    let tied = place.file("tied.jsonl", &[completions(&[1.0, 1.0])]);
    let missing = place.file("missing.jsonl", &[json!({ "prompt": "a", "chosen": " cat" })]);
    let rankings = place.file("rankings.jsonl", &[good_pair.clone(), completions(&[1.0, 2.0, 3.0])]);
    let alike = place.file("alike.jsonl", &[pair("a", " cat", " cat")]);
    let margin = place.file(
        "margin.jsonl",
        &[json!({ "prompt": "a", "chosen": " cat", "rejected": " dog", "margin": 1.0 })],
    );
    let cases: &[(&[&str], &[&str])] = &[
        (&["--data", &text], &["text.jsonl", "line 2"]),
        (&["--data", &one], &["one.jsonl", "line 2"]),
        (&["--data", &tied], &["tied.jsonl", "line 1"]),
        (&["--data", &missing], &["missing.jsonl", "line 1", "rejected"]),
        (&["--data", &alike], &["alike.jsonl", "left out"]),
        (
            &["--data", &rankings, "--loss", "hinge"],
            &["rankings.jsonl", "example 2", "ranking of 3", "hinge"],
        ),
        (
            &["--data", &rankings, "--label-smoothing", "0.1"],
            &["example 2", "label smoothing"],
        ),
        (
            &["--data", &margin, "--loss", "ipo"],
            &["margin.jsonl", "example 1", "margin"],
        ),
        (&["--beta", "0"], &["beta is 0"]),
        (&["--loss", "sigmoids"], &["sigmoids", "exo-pair"]),
        (&["--loss", "robust"], &["label-smoothing"]),
        (
            &["--label-smoothing", "0.2", "--loss", "ipo"],
            &["label-smoothing has no effect"],
        ),
        (&["--places", "0"], &["places is 0"]),
        (&["--reference", "nowhere/at-all"], &["nowhere/at-all"]),
    ];
    for (number, (more, words)) in cases.iter().enumerate() {
        let name = format!("bad-{number}");
        let output = run(&strings(&place.arguments("dpo", &name, more)));
        let text = message(&output);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{more:?}: {text}");
        for word in *words {
            assert!(text.contains(word), "{more:?}: no {word:?} in {text}");
        }
        assert!(
            !text.contains("panicked") && output.stdout.is_empty(),
            "{more:?}: {text}"
        );
        assert!(!place.path(&name).exists(), "{more:?} left something behind");
    }
}
