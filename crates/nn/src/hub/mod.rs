//! Where a model named `org/name` is: in the Hugging Face cache of this machine, or, with the cargo feature `hub`, on
//! the Hub.
//!
//! The cache is the one that Python's `huggingface_hub` keeps, in its layout (its documentation, "Understand caching"):
//! what one of the two has downloaded, the other finds. A model that is complete in the cache is used as it is, without
//! a request; so a branch that has moved on since is not noticed, and [`download`] is how to ask for it.
//!
//! Nothing here reads the process's environment by itself: variables and home directory come in an [`Environment`].

mod cache;
mod environment;
mod error;
mod name;

#[cfg(feature = "hub")]
mod blob;
#[cfg(feature = "hub")]
mod checksum;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod pointer;
#[cfg(feature = "hub")]
mod retry;
#[cfg(feature = "hub")]
mod selection;
#[cfg(feature = "hub")]
mod url;

use std::path::{Path, PathBuf};

pub use cache::{Snapshot, cached};
#[cfg(feature = "hub")]
pub use download::download;
pub use environment::Environment;
pub use error::HubError;
pub use name::ModelName;

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is being fetched, as the repository names it.
    pub file: &'a str,
    /// Bytes of that file that are here.
    pub file_done: u64,
    /// Its size in bytes.
    pub file_total: u64,
    /// Bytes of all files that are here, those from earlier runs included.
    pub done: u64,
    /// Size of all files in bytes.
    pub total: u64,
}

/// How the caller follows a download, and ends it.
pub struct Watch<'a> {
    /// Called with every piece that has arrived (and once for each file that was here already).
    pub progress: &'a mut dyn FnMut(Progress<'_>),
    /// Polled at least twenty times a second; `true` ends the download with [`HubError::Cancelled`]. What has arrived
    /// by then is kept, and the next download goes on from there.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// The file or directory of the model that `--model` names: an existing path as it is, a name from the cache, or, where
/// it is not there whole, from the Hub.
///
/// # Errors
/// [`HubError`]: neither a path nor a name; not in the cache, and downloading is switched off, not built in, or failed.
///
/// ```
/// # use posterior_nn::hub::{Environment, Watch, locate};
/// let environment = Environment::new([("HF_HUB_OFFLINE", "1")], Some("/home/ada".into()));
/// let mut watch = Watch { progress: &mut |_| (), cancelled: &|| false };
/// let error = locate("../secrets", &environment, &mut watch).unwrap_err();
/// assert!(error.to_string().contains("--model takes a directory, a .gguf file, or the name of a model"));
/// ```
pub fn locate(model: &str, environment: &Environment, watch: &mut Watch<'_>) -> Result<PathBuf, HubError> {
    let path = Path::new(model);
    if !model.is_empty() && path.exists() {
        return Ok(path.to_owned());
    }
    let name = ModelName::parse(model)?;
    let found = cached(&name, environment);
    let missing = match &found {
        Some(snapshot) => {
            let missing = snapshot.missing()?;
            if missing.is_empty() {
                return Ok(snapshot.path());
            }
            missing
        }
        None => Vec::new(),
    };
    let why_not = if environment.is_offline() {
        Some(NO_NETWORK)
    } else if cfg!(feature = "hub") {
        None
    } else {
        Some(NOT_BUILT)
    };
    match (why_not, found) {
        (None, _) => Ok(download(&name, environment, watch)?.path()),
        (Some(reason), Some(snapshot)) => Err(HubError::Incomplete {
            name: name.to_string(),
            directory: snapshot.directory().to_owned(),
            missing,
            reason,
        }),
        (Some(reason), None) => Err(HubError::NotCached {
            name: name.to_string(),
            repository: name.repository(),
            cache: environment.cache()?,
            reason,
        }),
    }
}

/// Why nothing is downloaded: the user's wish.
const NO_NETWORK: &str = "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids the network: unset it";

/// Why nothing is downloaded: the build.
const NOT_BUILT: &str =
    "this program was built without downloading: build it with `cargo build --release --features hub`";

/// Downloads what is not in the cache yet; this build cannot.
///
/// # Errors
/// Always [`HubError::NotCached`], which says how to build the program with downloading, and what else to do.
#[cfg(not(feature = "hub"))]
pub fn download(name: &ModelName, environment: &Environment, _watch: &mut Watch<'_>) -> Result<Snapshot, HubError> {
    Err(HubError::NotCached {
        name: name.to_string(),
        repository: name.repository(),
        cache: environment.cache()?,
        reason: NOT_BUILT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate_quietly(model: &str, environment: &Environment) -> Result<PathBuf, HubError> {
        let mut watch = Watch {
            progress: &mut |_| (),
            cancelled: &|| false,
        };
        locate(model, environment, &mut watch)
    }

    #[test]
    fn a_path_that_exists_is_taken_before_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().to_str().unwrap();
        let environment = Environment::new([("HF_HUB_OFFLINE", "1")], None);
        assert_eq!(locate_quietly(text, &environment).unwrap(), directory.path());
        let error = locate_quietly(&format!("{text}/absent.gguf"), &environment).unwrap_err();
        assert!(matches!(error, HubError::Name { .. }), "{error}");
    }

    #[test]
    fn offline_the_message_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_owned();
        let environment = Environment::new([("HF_HUB_OFFLINE", "1")], Some(home.clone()));
        let message = locate_quietly("org/name@v1", &environment).unwrap_err().to_string();
        for words in ["org/name@v1", "HF_HUB_OFFLINE", "hf download org/name"] {
            assert!(message.contains(words), "{message} lacks {words}");
        }
        // With a snapshot that lacks files, they are named.
        let commit = "0123456789012345678901234567890123456789";
        let repository = home.join(".cache/huggingface/hub/models--org--name");
        let snapshot = repository.join("snapshots").join(commit);
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(repository.join("refs/v1"), commit).unwrap();
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        let message = locate_quietly("org/name@v1", &environment).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json, model.safetensors"), "{message}");
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_the_message_says_how_to_get_it() {
        let environment = Environment::new([("", ""); 0], Some("/nowhere".into()));
        for error in [
            locate_quietly("org/name", &environment).unwrap_err(),
            download(
                &ModelName::parse("org/name").unwrap(),
                &environment,
                &mut Watch {
                    progress: &mut |_| (),
                    cancelled: &|| false,
                },
            )
            .unwrap_err(),
        ] {
            let message = error.to_string();
            for words in ["--features hub", "hf download org/name", "directory"] {
                assert!(message.contains(words), "{message} lacks {words}");
            }
        }
    }
}
