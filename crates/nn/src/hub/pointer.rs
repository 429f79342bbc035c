//! The entries of a snapshot: relative symbolic links to blobs, and small files that appear whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::HubError;

/// Makes `pointer` (a path of `depth` parts below the snapshot's directory) stand for a blob: by a relative symbolic
/// link, or, where there are none (Windows without developer mode, some network disks), by a hard link or a copy.
pub(super) fn point(pointer: &Path, blob: &Path, depth: usize) -> Result<(), HubError> {
    // From the file's directory up to the repository's, past `snapshots/<commit>`.
    let mut target: PathBuf = std::iter::repeat_n("..", depth + 1).collect();
    target.push("blobs");
    target.push(blob.file_name().unwrap_or_default());
    point_by(pointer, blob, |link| symlink(&target, link))
}

fn point_by(pointer: &Path, blob: &Path, symlink: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), HubError> {
    create_parent(pointer)?;
    let temporary = temporary_sibling(pointer);
    symlink(&temporary)
        .or_else(|_| fs::hard_link(blob, &temporary))
        .or_else(|_| fs::copy(blob, &temporary).map(drop))
        .map_err(HubError::file("copy a file to", &temporary))?;
    rename(&temporary, pointer)
}

/// Writes a small file so that it holds all of its old or all of its new content at any moment.
pub(super) fn write(path: &Path, content: &str) -> Result<(), HubError> {
    if fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    create_parent(path)?;
    let temporary = temporary_sibling(path);
    fs::write(&temporary, content).map_err(HubError::file("write", &temporary))?;
    rename(&temporary, path)
}

/// Creates the directory that is to hold `path`.
pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(HubError::file("create the directory", parent))
}

fn rename(temporary: &Path, path: &Path) -> Result<(), HubError> {
    fs::rename(temporary, path).map_err(|error| {
        let _ = fs::remove_file(temporary);
        HubError::file("rename a temporary file to", path)(error)
    })
}

/// A name beside `path` that no other process or thread uses.
fn temporary_sibling(path: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(
        ".{}-{}.tmp",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    path.with_file_name(name)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(directory: &Path) -> PathBuf {
        let blob = directory.join("blobs").join("etag");
        create_parent(&blob).unwrap();
        fs::write(&blob, "content").unwrap();
        blob
    }

    #[cfg(unix)]
    #[test]
    fn links_are_relative_at_any_depth_and_replace_dead_ones() {
        let directory = tempfile::tempdir().unwrap();
        let blob = blob(directory.path());
        for (file, depth, target) in [("a", 1, "../../blobs/etag"), ("b/c", 2, "../../../blobs/etag")] {
            let pointer = directory.path().join("snapshots/commit").join(file);
            create_parent(&pointer).unwrap();
            std::os::unix::fs::symlink("nowhere", &pointer).unwrap();
            point(&pointer, &blob, depth).unwrap();
            assert_eq!(fs::read_link(&pointer).unwrap(), Path::new(target));
            assert_eq!(fs::read(&pointer).unwrap(), b"content");
        }
        let entries = fs::read_dir(directory.path().join("snapshots/commit")).unwrap();
        assert_eq!(entries.count(), 2);
    }

    #[test]
    fn without_symbolic_links_the_content_is_there_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let blob = blob(directory.path());
        let pointer = directory.path().join("snapshots/commit/a");
        point_by(&pointer, &blob, |_| Err(io::ErrorKind::PermissionDenied.into())).unwrap();
        assert!(!pointer.is_symlink());
        assert_eq!(fs::read(&pointer).unwrap(), b"content");
    }

    #[test]
    fn a_small_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("refs/refs/pr/1");
        write(&path, "a longer first").unwrap();
        write(&path, "second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
