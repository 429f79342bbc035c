//! The cache of models that Hugging Face's programs share.
//!
//! Layout (huggingface_hub's documentation, "Understand caching"), below the cache's directory:
//!
//! ```text
//! models--org--name/refs/main                        the commit that the branch stood at
//! models--org--name/snapshots/<commit>/config.json   -> ../../blobs/<etag>
//! models--org--name/blobs/<etag>                     the content
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::name::{check_part, is_commit};
use super::{Environment, HubError, ModelName};

/// The file that names the shards of a model whose weights are in several.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The longest index that is read, in bytes. Models of a trillion parameters have some ten million.
const LONGEST_INDEX: u64 = 256 * 1024 * 1024;

/// The files of a model at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    directory: PathBuf,
    commit: String,
    file: Option<String>,
}

impl Snapshot {
    /// The directory of the commit.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The commit, 40 hexadecimal digits.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// What to load: the .gguf file if the name held one, else the directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.file {
            Some(file) => self.directory.join(file),
            None => self.directory.clone(),
        }
    }

    /// Which of the files that the model needs are not there: the one that was named; or `config.json`,
    /// `tokenizer.json`, and `model.safetensors` or every shard that `model.safetensors.index.json` names; or, for an
    /// adapter, `adapter_model.safetensors` beside `adapter_config.json`.
    ///
    /// # Errors
    /// [`HubError::Malformed`] for an index that is none, [`HubError::File`] if it cannot be read.
    pub fn missing(&self) -> Result<Vec<String>, HubError> {
        let is_there = |file: &str| self.directory.join(file).is_file();
        let mut needed = BTreeSet::new();
        let names: Vec<&str> = if let Some(file) = &self.file {
            vec![file]
        } else if is_there("adapter_config.json") && !is_there("config.json") {
            vec!["adapter_model.safetensors"]
        } else if !is_there("model.safetensors") && is_there(INDEX) {
            needed = shards(&self.directory.join(INDEX))?;
            vec!["config.json", "tokenizer.json"]
        } else {
            vec!["config.json", "tokenizer.json", "model.safetensors"]
        };
        let names = names.into_iter().chain(needed.iter().map(String::as_str));
        Ok(names.filter(|file| !is_there(file)).map(str::to_owned).collect())
    }
}

/// The snapshot of a model in the cache, whole or not (see [`Snapshot::missing`]), if there is one.
#[must_use]
pub fn cached(name: &ModelName, environment: &Environment) -> Option<Snapshot> {
    let repository = environment.cache().ok()?.join(name.folder());
    let commit = if is_commit(name.revision()) {
        name.revision().to_owned()
    } else {
        // Only as much is read as could be a commit.
        let mut commit = String::new();
        let reference = File::open(repository.join("refs").join(name.revision())).ok()?;
        reference.take(100).read_to_string(&mut commit).ok()?;
        commit.truncate(commit.trim_end().len());
        commit
    };
    if !is_commit(&commit) {
        return None;
    }
    let snapshot = snapshot(&repository, &commit, name);
    snapshot.directory.is_dir().then_some(snapshot)
}

/// Where the snapshot of a commit is or is to be.
pub(super) fn snapshot(repository: &Path, commit: &str, name: &ModelName) -> Snapshot {
    Snapshot {
        directory: repository.join("snapshots").join(commit),
        commit: commit.to_owned(),
        file: name.file().map(str::to_owned),
    }
}

/// The files that an index names.
pub(super) fn shards(path: &Path) -> Result<BTreeSet<String>, HubError> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_INDEX + 1).read_to_end(&mut content))
        .map_err(HubError::file("read", path))?;
    let too_long = content.len() as u64 > LONGEST_INDEX;
    let shards = if too_long {
        Err("it is longer than any index".to_owned())
    } else {
        parse_shards(&content)
    };
    shards.map_err(|problem| HubError::Malformed {
        path: path.to_owned(),
        problem,
    })
}

fn parse_shards(content: &[u8]) -> Result<BTreeSet<String>, String> {
    let index: serde_json::Value = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    let Some(map) = index.get("weight_map").and_then(serde_json::Value::as_object) else {
        return Err("no object `weight_map`".to_owned());
    };
    let mut shards = BTreeSet::new();
    for (tensor, shard) in map {
        let Some(shard) = shard.as_str() else {
            return Err(format!("`weight_map` names no file for {tensor:?}"));
        };
        if shards.contains(shard) {
            continue;
        }
        check_part(shard).map_err(|problem| format!("`weight_map` names the file {shard:?}: {problem}"))?;
        if !shard.ends_with(".safetensors") {
            return Err(format!("`weight_map` names {shard:?}, which is not a safetensors file"));
        }
        shards.insert(shard.to_owned());
    }
    if shards.is_empty() {
        return Err("`weight_map` is empty".to_owned());
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with one snapshot of `org/name`, at which `main` and `refs/pr/1` stand.
    struct Cache(tempfile::TempDir);

    impl Cache {
        fn new(files: &[(&str, &str)]) -> Self {
            let cache = Self(tempfile::tempdir().unwrap());
            cache.write("refs/main", COMMIT);
            cache.write("refs/refs/pr/1", &format!("{COMMIT}\n"));
            for (file, content) in files {
                cache.write(&format!("snapshots/{COMMIT}/{file}"), content);
            }
            cache
        }

        fn write(&self, file: &str, content: &str) {
            let path = self.0.path().join("models--org--name").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn find(&self, name: &str) -> Option<Snapshot> {
            let environment = Environment::new([("HF_HUB_CACHE", self.0.path())], None);
            cached(&ModelName::parse(name).unwrap(), &environment)
        }
    }

    #[test]
    fn a_branch_a_nested_reference_and_a_commit_are_found() {
        let cache = Cache::new(&[("config.json", "{}")]);
        for name in [
            "org/name",
            "org/name@main",
            "org/name@refs/pr/1",
            &format!("org/name@{COMMIT}"),
        ] {
            let found = cache.find(name).unwrap();
            assert_eq!(found.commit(), COMMIT);
            assert!(found.path().join("config.json").is_file());
        }
        for name in [
            "org/other",
            "org/name@v1",
            "org/name@ffffffffffffffffffffffffffffffffffffffff",
        ] {
            assert_eq!(cache.find(name), None);
        }
    }

    #[test]
    fn a_reference_that_is_no_commit_leads_nowhere() {
        let cache = Cache::new(&[("config.json", "{}")]);
        for content in ["", "../../..", "main", &COMMIT[1..], &COMMIT.repeat(100), "\u{0}"] {
            cache.write("refs/main", content);
            assert_eq!(cache.find("org/name"), None, "{content:?}");
        }
    }

    #[test]
    fn what_a_model_needs_is_named_where_it_is_missing() {
        let index = r#"{"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#;
        let missing = |name: &str, files: &[(&str, &str)]| Cache::new(files).find(name).unwrap().missing().unwrap();
        let whole = [("config.json", ""), ("tokenizer.json", ""), ("model.safetensors", "")];
        assert!(missing("org/name", &whole).is_empty());
        assert_eq!(missing("org/name", &whole[1..2]), ["config.json", "model.safetensors"]);
        let sharded = [
            ("config.json", ""),
            (INDEX, index),
            ("tokenizer.json", ""),
            ("m-2.safetensors", ""),
        ];
        assert_eq!(missing("org/name", &sharded), ["m-1.safetensors"]);
        assert_eq!(missing("org/name/a.gguf", &whole), ["a.gguf"]);
        assert!(missing("org/name/b/a.gguf", &[("b/a.gguf", "")]).is_empty());
        assert_eq!(
            missing("org/name", &[("adapter_config.json", "")]),
            ["adapter_model.safetensors"]
        );
    }

    #[test]
    fn the_path_is_the_directory_or_the_file() {
        let cache = Cache::new(&[("a.gguf", "")]);
        let directory = cache.find("org/name").unwrap().path();
        assert!(directory.ends_with(COMMIT));
        assert_eq!(cache.find("org/name/a.gguf").unwrap().path(), directory.join("a.gguf"));
    }

    #[test]
    fn an_index_that_makes_no_sense_is_refused() {
        for (content, words) in [
            ("", "EOF"),
            ("[]", "no object"),
            (r#"{"weight_map": {}}"#, "empty"),
            (r#"{"weight_map": {"a": 1}}"#, "no file for \"a\""),
            (r#"{"weight_map": {"a": "../x.safetensors"}}"#, "../x"),
            (r#"{"weight_map": {"a": "/x.safetensors"}}"#, "'/'"),
            (r#"{"weight_map": {"a": "pytorch_model.bin"}}"#, "not a safetensors"),
        ] {
            let cache = Cache::new(&[(INDEX, content)]);
            let message = cache.find("org/name").unwrap().missing().unwrap_err().to_string();
            assert!(
                message.contains(words) && message.contains(INDEX),
                "{message} lacks {words}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_and_changed_indices_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            at in 0usize..60,
            value: u8,
        ) {
            let _ = parse_shards(&bytes);
            let mut index = br#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#.to_vec();
            index[at] = value;
            for shard in parse_shards(&index).unwrap_or_default() {
                prop_assert!(!shard.contains('/') && shard.ends_with(".safetensors"));
            }
        }
    }
}
