//! One file's content: fetched, resumed, checked, and only then given its name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::HubError;
use super::checksum::{Checksum, Etag};
use super::client::{Ask, Client, Reply};
use super::pointer::create_parent;
use super::retry::{POLL, Retries, Trouble};

/// A file of a repository, as the Hub describes it.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    /// Its path in the repository.
    pub(super) file: String,
    /// Where it is to be had.
    pub(super) url: String,
    pub(super) etag: Etag,
    /// In bytes.
    pub(super) size: u64,
}

impl Blob {
    /// Whether a path is a file of this size. The name of a blob says what is in it.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.size)
    }

    /// Brings the content to `path`, from where an earlier attempt stopped. `arrived` is told how many bytes of the
    /// file are there. The caller holds the blob's lock.
    pub(super) fn fetch(
        &self,
        client: &Client,
        path: &Path,
        arrived: &mut dyn FnMut(u64),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), HubError> {
        let mut partial = Partial::open(self, path, cancelled)?;
        let mut retries = Retries::new(client.patience, cancelled);
        let mut furthest = partial.have;
        arrived(partial.have);
        loop {
            let attempt = self.attempt(client, &mut partial, arrived, cancelled);
            // Only what was never there before is progress; a server that starts anew each time must not keep us.
            if partial.have > furthest {
                furthest = partial.have;
                retries.reset();
            }
            match attempt {
                Ok(()) => {}
                Err(trouble) => {
                    retries.wait(trouble)?;
                    continue;
                }
            }
            let found = partial.checksum.clone().finish();
            if self.etag.agrees(&found) {
                return partial.finish(path);
            }
            let only_ours = partial.from_earlier == 0;
            partial.restart(self)?;
            if only_ours {
                partial.discard();
                return Err(HubError::Checksum {
                    file: self.file.clone(),
                    expected: self.etag.as_str().to_owned(),
                    found,
                });
            }
            // What an earlier run had left may have been another content.
        }
    }

    /// One request for what is missing, and its content.
    fn attempt(
        &self,
        client: &Client,
        partial: &mut Partial,
        arrived: &mut dyn FnMut(u64),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Trouble> {
        // An empty file needs no request.
        if partial.have == self.size {
            return Ok(());
        }
        let mut reply = client.ask(&self.url, Ask::From(partial.have), cancelled)?;
        match reply.status {
            206 if self.continues(&reply, partial.have) => {}
            200 => {
                if partial.have > 0 {
                    partial.restart(self)?;
                }
            }
            // The server does not see the range as we do: anew, from the start.
            206 | 416 if partial.have > 0 => {
                partial.restart(self)?;
                let error = reply.nonsense(format!("status {} to a request for a range", reply.status));
                return Err(Trouble::Passing { error, after: None });
            }
            status => {
                return Err(HubError::Status {
                    url: super::url::shown(&reply.url),
                    status,
                    message: reply.message(cancelled),
                }
                .into());
            }
        }
        let encoding = reply.header("content-encoding").unwrap_or("identity");
        if !encoding.eq_ignore_ascii_case("identity") {
            return Err(reply
                .nonsense(format!("content packed by {encoding:?}, which was not asked for"))
                .into());
        }
        let expected = self.size - partial.have;
        if let Some(announced) = reply
            .number("content-length")
            .filter(|announced| *announced != expected)
        {
            return Err(self.wrong_size(partial.have.saturating_add(announced)).into());
        }
        while let Some(piece) = reply.next(cancelled)? {
            if piece.len() as u64 > self.size - partial.have {
                let found = partial.have + piece.len() as u64;
                partial.discard();
                return Err(self.wrong_size(found).into());
            }
            partial.add(&piece)?;
            arrived(partial.have);
        }
        if partial.have < self.size {
            let error = HubError::Unreachable {
                host: super::url::shown(&reply.url),
                reason: format!("{} ends after {} of {} bytes", self.file, partial.have, self.size),
            };
            return Err(Trouble::Passing { error, after: None });
        }
        Ok(())
    }

    /// Whether an answer of status 206 starts where the file ends: `Content-Range: bytes start-end/size`.
    fn continues(&self, reply: &Reply, have: u64) -> bool {
        let range = reply
            .header("content-range")
            .and_then(|range| range.strip_prefix("bytes "));
        let Some((range, size)) = range.and_then(|range| range.split_once('/')) else {
            return false;
        };
        let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
        start == Some(have) && (size == "*" || size.trim().parse() == Ok(self.size))
    }

    fn wrong_size(&self, found: u64) -> HubError {
        HubError::Size {
            file: self.file.clone(),
            expected: self.size,
            found,
        }
    }
}

/// A blob that is not whole yet: `<etag>.incomplete`.
struct Partial {
    path: PathBuf,
    file: File,
    have: u64,
    /// How many of these bytes were there before this run.
    from_earlier: u64,
    /// Of what is there.
    checksum: Checksum,
}

impl Partial {
    fn open(blob: &Blob, target: &Path, cancelled: &dyn Fn() -> bool) -> Result<Self, HubError> {
        let mut path = target.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        create_parent(&path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(HubError::file("create", &path))?;
        let mut partial = Self {
            path,
            file,
            have: 0,
            from_earlier: 0,
            checksum: blob.etag.checksum(blob.size),
        };
        let size = partial
            .file
            .metadata()
            .map_err(HubError::file("read", &partial.path))?
            .len();
        if size > blob.size {
            partial.restart(blob)?;
        }
        // No more than it has: not every path leads to a file with an end.
        let mut left = (&partial.file).take(if size > blob.size { 0 } else { size });
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            if cancelled() {
                return Err(HubError::Cancelled);
            }
            match left.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    partial.checksum.update(&buffer[..count]);
                    partial.have += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(HubError::file("read", &partial.path)(error)),
            }
        }
        partial.from_earlier = partial.have;
        Ok(partial)
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), HubError> {
        // If only a part can be written, the error ends this run, and the next one reads what is there.
        self.file
            .write_all(piece)
            .map_err(HubError::file("write", &self.path))?;
        self.checksum.update(piece);
        self.have += piece.len() as u64;
        Ok(())
    }

    /// Forgets what is there.
    fn restart(&mut self, blob: &Blob) -> Result<(), HubError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(HubError::file("write", &self.path))?;
        self.have = 0;
        self.from_earlier = 0;
        self.checksum = blob.etag.checksum(blob.size);
        Ok(())
    }

    /// Leaves nothing that a later run could build on.
    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Brings the content to the disk and gives it its name.
    fn finish(self, target: &Path) -> Result<(), HubError> {
        self.file
            .sync_all()
            .map_err(HubError::file("bring to the disk", &self.path))?;
        // An open file cannot be renamed everywhere.
        drop(self.file);
        fs::rename(&self.path, target).map_err(HubError::file("rename a temporary file to", target))
    }
}

/// Waits for the lock that keeps two processes from fetching the same blob at once (Python's client uses the same files
/// and, on Unix, the same `flock`). It is held until the file is dropped; file systems without locks do without.
pub(super) fn lock(path: &Path, cancelled: &dyn Fn() -> bool) -> Result<Option<File>, HubError> {
    create_parent(path)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(HubError::file("create", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                if cancelled() {
                    return Err(HubError::Cancelled);
                }
                std::thread::sleep(POLL);
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(HubError::file("lock", path)(error)),
        }
    }
}
