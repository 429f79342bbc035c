//! Files that are either whole or absent, and errors that say which file and what to do.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An operation on a file or directory failed. The message names the path, the system's reason and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {cause}{}", path.display(), remedy(cause))]
pub struct FileError {
    /// What was attempted, as a verb: "write", "create the directory".
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's answer. (It is part of the message, so it is not repeated as the error's source.)
    pub cause: io::Error,
}

impl FileError {
    /// For `map_err`: wraps the system's answer with what was attempted on which path.
    pub fn because(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self { action, path, cause }
    }
}

/// What a person can do about a failed file operation.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull => "; free some space on that disk, or use a directory on another one",
        io::ErrorKind::QuotaExceeded => "; your disk quota is used up: free some space or use another disk",
        io::ErrorKind::FileTooLarge => "; the system's limit on file sizes was reached: raise it (see `ulimit -f`)",
        io::ErrorKind::PermissionDenied => "; give this user the right to it, or use another directory",
        io::ErrorKind::ReadOnlyFilesystem => "; that file system is read-only: use another directory",
        io::ErrorKind::NotADirectory => "; a part of that path is a file: use another directory",
        io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}

/// Writes a file so that `path` holds either what it held before or all of the new content, at any moment, even if the
/// process is killed or the machine loses power: a temporary sibling is written, brought to the disk, and renamed.
///
/// # Errors
/// [`FileError`] for the step that failed; the temporary file is then removed and `path` is untouched.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = temporary_sibling(path);
    let result = (|| {
        let mut file = File::create(&temporary).map_err(FileError::because("create", &temporary))?;
        file.write_all(content)
            .map_err(FileError::because("write", &temporary))?;
        file.sync_all()
            .map_err(FileError::because("bring to the disk", &temporary))?;
        fs::rename(&temporary, path).map_err(FileError::because("rename a temporary file to", path))?;
        sync_directory(parent(path))
    })();
    if result.is_err() {
        // The first error is the one to report; a leftover does no harm, because the next write replaces it.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Brings a directory's entries (creations, renames, removals) to the disk.
///
/// # Errors
/// [`FileError`] when the system refuses.
pub fn sync_directory(directory: &Path) -> Result<(), FileError> {
    // Only Unix lets a directory be opened and synchronised; elsewhere the file system orders renames itself.
    if cfg!(unix) {
        File::open(directory)
            .and_then(|opened| opened.sync_all())
            .map_err(FileError::because("bring to the disk", directory))?;
    }
    Ok(())
}

/// The directory that holds `path`.
pub fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Whether a file name is that of a temporary sibling that a killed process may have left behind.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".partial")
}

fn temporary_sibling(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!(".{name}.partial"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_everything_and_leaves_nothing_beside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        write_atomic(&path, b"a longer first content").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(is_temporary(
            &temporary_sibling(&path).file_name().unwrap().to_string_lossy()
        ));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_old_content_and_names_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        write_atomic(&path, b"old").unwrap();
        // Every write to /dev/full fails as on a full disk.
        std::os::unix::fs::symlink("/dev/full", temporary_sibling(&path)).unwrap();
        let message = write_atomic(&path, b"new").unwrap_err().to_string();
        assert!(
            message.contains("config.toml") && message.contains("free some space"),
            "{message}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_path_through_a_file_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        let message = write_atomic(&file.join("config.toml"), b"").unwrap_err().to_string();
        assert!(message.contains("a part of that path is a file"), "{message}");
    }
}
