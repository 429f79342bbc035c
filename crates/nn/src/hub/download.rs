//! Downloading a model into the cache, as huggingface_hub does it.
//!
//! 1. `GET /api/models/org/name/revision/REVISION` gives the commit and the names of the files.
//! 2. `HEAD /org/name/resolve/COMMIT/FILE` gives each file's etag and size, so that the total is known.
//! 3. `GET` of the same addresses, which redirect large files to other hosts, gives the content.
//!
//! A branch's reference is written last: an interrupted download leaves it where it was.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::blob::{Blob, lock};
use super::cache::{INDEX, Snapshot, shards, snapshot};
use super::checksum::Etag;
use super::client::{Ask, Client, Reply};
use super::name::is_commit;
use super::pointer;
use super::retry::{Patience, Retries};
use super::selection::{Weights, select};
use super::url::escape;
use super::{Environment, HubError, ModelName, NO_NETWORK, Progress, Watch};

/// The longest description of a repository that is read, in bytes.
const LONGEST_DESCRIPTION: usize = 64 * 1024 * 1024;

/// Brings the files that a model needs into the cache, those that are not there yet, at the commit at which its
/// revision stands on the Hub now.
///
/// # Errors
/// [`HubError`]; what has arrived is kept, and the next call goes on from there.
pub fn download(name: &ModelName, environment: &Environment, watch: &mut Watch<'_>) -> Result<Snapshot, HubError> {
    download_patiently(name, environment, Patience::default(), watch)
}

pub(super) fn download_patiently(
    name: &ModelName,
    environment: &Environment,
    patience: Patience,
    watch: &mut Watch<'_>,
) -> Result<Snapshot, HubError> {
    let cache = environment.cache()?;
    if environment.is_offline() {
        return Err(HubError::NotCached {
            name: name.to_string(),
            repository: name.repository(),
            cache,
            reason: NO_NETWORK,
        });
    }
    let client = Client::new(environment, patience)?;
    let (commit, listing) = describe(&client, name, watch.cancelled)?;
    let repository = cache.join(name.folder());
    let download = Download {
        client: &client,
        name,
        snapshot: snapshot(&repository, &commit, name),
        locks: cache.join(".locks").join(name.folder()),
        repository,
    };
    let (files, weights) = select(name, &listing)?;
    let mut blobs = Vec::with_capacity(files.len());
    for file in &files {
        blobs.push(download.head(file, watch.cancelled)?);
    }
    for file in download.weights(weights, &listing, &blobs, watch.cancelled)? {
        blobs.push(download.head(&file, watch.cancelled)?);
    }
    let mut tally = Tally {
        done: 0,
        total: blobs.iter().fold(0, |total: u64, blob| total.saturating_add(blob.size)),
    };
    for blob in &blobs {
        let done = tally.done;
        let total = tally.total;
        let progress = &mut *watch.progress;
        let mut arrived = |file_done: u64| {
            progress(Progress {
                file: &blob.file,
                file_done,
                file_total: blob.size,
                done: done.saturating_add(file_done),
                total,
            });
        };
        download.bring(blob, &mut arrived, watch.cancelled)?;
        tally.done = done.saturating_add(blob.size);
    }
    if name.revision() != commit {
        let reference = download.repository.join("refs").join(name.revision());
        pointer::write(&reference, &commit)?;
    }
    let missing = download.snapshot.missing()?;
    if missing.is_empty() {
        Ok(download.snapshot)
    } else {
        Err(HubError::Unusable {
            name: name.to_string(),
            missing,
            remedy: "another program removed it from the cache: try again".to_owned(),
        })
    }
}

/// Bytes that are here, of all.
struct Tally {
    done: u64,
    total: u64,
}

/// The commit of a revision, and the names of its files.
fn describe(
    client: &Client,
    name: &ModelName,
    cancelled: &dyn Fn() -> bool,
) -> Result<(String, BTreeSet<String>), HubError> {
    let (endpoint, repository) = (&client.endpoint, name.repository());
    let revision = escape(name.revision(), false);
    let url = format!("{endpoint}/api/models/{repository}/revision/{revision}");
    let mut reply = client.text(&url, LONGEST_DESCRIPTION, cancelled)?;
    if reply.status != 200 {
        return Err(refusal(client, name, &mut reply, None, cancelled));
    }
    let description: serde_json::Value =
        serde_json::from_slice(&reply.content).map_err(|error| reply.nonsense(format!("no JSON: {error}")))?;
    let commit = description
        .get("sha")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    if !is_commit(commit) {
        return Err(reply.nonsense("no commit in `sha`".to_owned()));
    }
    let Some(siblings) = description.get("siblings").and_then(serde_json::Value::as_array) else {
        return Err(reply.nonsense("no list of files in `siblings`".to_owned()));
    };
    let files = siblings.iter().filter_map(|sibling| sibling.get("rfilename")?.as_str());
    Ok((commit.to_owned(), files.map(str::to_owned).collect()))
}

/// What an answer that is no success means.
fn refusal(
    client: &Client,
    name: &ModelName,
    reply: &mut Reply,
    file: Option<&str>,
    cancelled: &dyn Fn() -> bool,
) -> HubError {
    let (host, repository, status) = (client.endpoint.clone(), name.repository(), reply.status);
    let code = reply.header("x-error-code").unwrap_or_default().to_owned();
    let message = reply.message(cancelled);
    let page = format!("{host}/{repository}");
    match status {
        401 | 403 => {
            let remedy = match (code.as_str(), client.has_token()) {
                ("GatedRepo", true) => {
                    format!("accept its conditions at {page} with the account that your token belongs to")
                }
                ("GatedRepo", false) => format!(
                    "accept its conditions at {page}, then set HF_TOKEN to a token of your account \
                     ({host}/settings/tokens), or run `hf auth login`"
                ),
                // The Hub does not tell strangers which names are private and which do not exist.
                (_, false) => format!(
                    "check the spelling at {page}; if it is private or gated, set HF_TOKEN to a token of an account \
                     that may read it ({host}/settings/tokens), or run `hf auth login`"
                ),
                (_, true) => format!(
                    "check the spelling at {page}, and that your token (HF_TOKEN or the file `token` in HF_HOME) is \
                     valid and may read it ({host}/settings/tokens)"
                ),
            };
            HubError::Denied {
                host,
                repository,
                status,
                message,
                remedy,
            }
        }
        404 => {
            let (what, remedy) = match (code.as_str(), file) {
                (_, Some(file)) => (
                    format!("file {file} in {repository}"),
                    format!("its files are listed at {page}/tree/{}", name.revision()),
                ),
                ("RevisionNotFound", None) => (
                    format!("revision {} of {repository}", name.revision()),
                    format!("its branches and tags are listed at {page}/tree/main"),
                ),
                _ => (
                    format!("model {name}"),
                    format!("check the spelling (upper and lower case count) at {host}/models"),
                ),
            };
            HubError::NotFound {
                host,
                what,
                message,
                remedy,
            }
        }
        status => HubError::Status {
            url: super::url::shown(&reply.url),
            status,
            message,
        },
    }
}

/// What stays the same from file to file.
struct Download<'a> {
    client: &'a Client,
    name: &'a ModelName,
    repository: PathBuf,
    locks: PathBuf,
    snapshot: Snapshot,
}

impl Download<'_> {
    /// Etag and size of a file.
    fn head(&self, file: &str, cancelled: &dyn Fn() -> bool) -> Result<Blob, HubError> {
        let (endpoint, repository, commit) = (&self.client.endpoint, self.name.repository(), self.snapshot.commit());
        let url = format!("{endpoint}/{repository}/resolve/{commit}/{}", escape(file, true));
        let ask = || self.client.ask(&url, Ask::Head, cancelled);
        let mut reply = Retries::new(self.client.patience, cancelled).run(ask)?;
        let redirects = matches!(reply.status, 301 | 302 | 303 | 307 | 308);
        if reply.status != 200 && !redirects {
            return Err(refusal(self.client, self.name, &mut reply, Some(file), cancelled));
        }
        if let Some(other) = reply.header("x-repo-commit").filter(|other| *other != commit) {
            return Err(reply.nonsense(format!("{other:?} where the commit {commit} was asked for")));
        }
        let etag = reply.header("x-linked-etag").or_else(|| reply.header("etag"));
        let Some(etag) = etag.and_then(Etag::parse) else {
            return Err(reply.nonsense(format!("no etag for {file}")));
        };
        // The length of a redirect is not the file's.
        let length = || reply.number("content-length").filter(|_| !redirects);
        let Some(size) = reply.number("x-linked-size").or_else(length) else {
            return Err(reply.nonsense(format!("no size for {file}")));
        };
        Ok(Blob {
            file: file.to_owned(),
            url,
            etag,
            size,
        })
    }

    /// The names of the files of the weights. For shards the index is fetched here, before the rest.
    fn weights(
        &self,
        weights: Option<Weights>,
        listing: &BTreeSet<String>,
        blobs: &[Blob],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<String>, HubError> {
        match weights {
            None => Ok(Vec::new()),
            Some(Weights::One(file)) => Ok(vec![file.to_owned()]),
            Some(Weights::Sharded) => {
                if let Some(index) = blobs.iter().find(|blob| blob.file == INDEX) {
                    self.bring(index, &mut |_| (), cancelled)?;
                }
                let shards = shards(&self.snapshot.directory().join(INDEX))?;
                let missing: Vec<String> = shards.difference(listing).cloned().collect();
                if !missing.is_empty() {
                    return Err(HubError::Unusable {
                        name: self.name.to_string(),
                        missing,
                        remedy: format!("{INDEX} names what is not there: tell the repository's owner"),
                    });
                }
                Ok(shards.into_iter().collect())
            }
        }
    }

    /// Brings a file into the snapshot, unless it is there.
    fn bring(&self, blob: &Blob, arrived: &mut dyn FnMut(u64), cancelled: &dyn Fn() -> bool) -> Result<(), HubError> {
        if cancelled() {
            return Err(HubError::Cancelled);
        }
        let pointer = self.snapshot.directory().join(&blob.file);
        if !blob.is_at(&pointer) {
            let etag = blob.etag.as_str();
            let path = self.repository.join("blobs").join(etag);
            let _lock = lock(&self.locks.join(format!("{etag}.lock")), cancelled)?;
            // Another process may have fetched it while this one waited.
            if !blob.is_at(&path) {
                blob.fetch(self.client, &path, arrived, cancelled)?;
            }
            pointer::point(&pointer, &path, blob.file.split('/').count())?;
        }
        arrived(blob.size);
        Ok(())
    }
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
