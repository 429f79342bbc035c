//! Reading a file or standard input whole.

use std::io::Read as _;
use std::path::Path;

use miette::{Context as _, IntoDiagnostic as _};

/// How messages call the input: the file's name, or standard input for `-`.
pub fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

/// All bytes of a file, or of standard input for `-`.
pub fn read(path: &Path) -> miette::Result<Vec<u8>> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    bytes
        .into_diagnostic()
        .wrap_err_with(|| format!("{} cannot be read", name(path)))
}
