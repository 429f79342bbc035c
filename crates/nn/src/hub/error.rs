//! What can go wrong between a model's name and its files, said so that its user can put it right.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be found or fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The text is neither a path that exists nor a model's name.
    #[error(
        "`{given}`: no such file or directory, and not a model's name ({problem}); --model takes a directory, a .gguf \
         file, or the name of a model as org/name, org/name@revision or org/name/file.gguf"
    )]
    Name {
        /// What was given.
        given: String,
        /// Why it is no name.
        problem: String,
    },
    /// There is no telling where the cache is.
    #[error("no home directory, so no place for the cache of models; set HF_HOME to a directory")]
    NoHome,
    /// The model is not in the cache, and may not or cannot be downloaded.
    #[error(
        "the model {name} is not in the cache {}, and {reason}; or run `hf download {repository}` (from the Python \
         package huggingface_hub), or give the directory or .gguf file of a model", cache.display()
    )]
    NotCached {
        /// The model.
        name: String,
        /// Its repository.
        repository: String,
        /// The cache.
        cache: PathBuf,
        /// Why it is not downloaded, and how to change that.
        reason: &'static str,
    },
    /// The model is in the cache, but not all of it, and may not or cannot be downloaded.
    #[error(
        "the model {name} is not complete in {}: {} missing; {reason}, or copy what is missing to that directory",
        directory.display(), listed(missing)
    )]
    Incomplete {
        /// The model.
        name: String,
        /// Its directory in the cache.
        directory: PathBuf,
        /// What is missing.
        missing: Vec<String>,
        /// Why it is not downloaded, and how to change that.
        reason: &'static str,
    },
    /// A file of the model contradicts its format.
    #[error("{}: {problem}; remove it and download the model again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}{}", path.display(), remedy(cause))]
    File {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer. (It is part of the message, so it is not repeated as the error's source.)
        cause: io::Error,
    },
    /// A variable of the environment, or a file that it names, holds something that makes no sense.
    #[error("{origin}: {problem}")]
    Setting {
        /// The variable or file.
        origin: String,
        /// What is wrong, and what would be right. Never the value of a token.
        problem: String,
    },
    /// The server did not answer, or ceased to.
    #[error("cannot reach {host}: {reason}; check the network (a download goes on from where it stopped)")]
    Unreachable {
        /// The server.
        host: String,
        /// What happened.
        reason: String,
    },
    /// The Hub wants to know who asks, and whether they may.
    #[error("{host} refuses {repository} ({status}{}): {remedy}", in_words(message))]
    Denied {
        /// The server.
        host: String,
        /// The repository.
        repository: String,
        /// The HTTP status, 401 or 403.
        status: u16,
        /// The server's words.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// The Hub has no such repository, revision or file.
    #[error("{host} has no {what}{}; {remedy}", in_words(message))]
    NotFound {
        /// The server.
        host: String,
        /// What there is not.
        what: String,
        /// The server's words.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// The server answered with an error that was still there after the last attempt.
    #[error("{url} answers with the status {status}{}; try again later", in_words(message))]
    Status {
        /// The address, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// The server's answer makes no sense.
    #[error("{url} answers with something unexpected: {problem}; check HF_ENDPOINT and any proxy between")]
    Reply {
        /// The address, without its query.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A file on the Hub is not as long as the Hub said.
    #[error(
        "{file}: {expected} bytes were announced, the server sends {found}; try again later, or report it to the repository's owner"
    )]
    Size {
        /// The file.
        file: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came, or that the reply announced.
        found: u64,
    },
    /// A file that arrived is not the one that was asked for.
    #[error(
        "{file}: the content's checksum is {found}, not {expected}, so it was discarded; try again, and check any proxy between"
    )]
    Checksum {
        /// The file.
        file: String,
        /// The checksum that the Hub states.
        expected: String,
        /// That of what came.
        found: String,
    },
    /// The repository has nothing that could be used here.
    #[error("{name} has no {}; {remedy}", listed(missing))]
    Unusable {
        /// The model.
        name: String,
        /// Files it lacks.
        missing: Vec<String>,
        /// What to do about it.
        remedy: String,
    },
    /// The caller ended the download.
    #[error("the download was ended before it was complete; the next one goes on from there")]
    Cancelled,
}

impl HubError {
    /// For `map_err`: wraps the system's answer with what was attempted on which path.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::File { action, path, cause }
    }
}

/// What a person can do about a failed file operation.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull => {
            "; the disk is full: free some space, or set HF_HOME to a directory on another disk (what has arrived is kept)"
        }
        io::ErrorKind::QuotaExceeded => {
            "; your disk quota is used up: free some space, or set HF_HOME to a directory on another disk"
        }
        io::ErrorKind::FileTooLarge => "; the system's limit on file sizes was reached: raise it (see `ulimit -f`)",
        io::ErrorKind::PermissionDenied => "; give this user the right to it, or set HF_HOME to another directory",
        io::ErrorKind::ReadOnlyFilesystem => "; that file system is read-only: set HF_HOME to another directory",
        io::ErrorKind::NotADirectory => "; a part of that path is a file: set HF_HOME to another directory",
        _ => "",
    }
}

/// The first few of a list of files.
fn listed(files: &[String]) -> String {
    let mut text = files.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    if files.len() > 5 {
        text.push_str(&format!(" and {} more", files.len() - 5));
    }
    text
}

/// The server's words, where it has any.
fn in_words(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_missing_right_are_told_with_the_remedy() {
        for (kind, words) in [
            (io::ErrorKind::StorageFull, "another disk"),
            (io::ErrorKind::PermissionDenied, "HF_HOME"),
        ] {
            let message = HubError::file("write", Path::new("some/blob"))(kind.into()).to_string();
            assert!(message.contains(words) && message.contains("some/blob"), "{message}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let files: Vec<String> = (0..7).map(|i| format!("f{i}")).collect();
        assert_eq!(listed(&files), "f0, f1, f2, f3, f4 and 2 more");
        assert_eq!(listed(&files[..1]), "f0");
    }
}
