//! Settings from files and flags, one over the other.

use std::path::Path;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The settings of `files`, each over the ones before, and `flags` (those that are given) over all of them.
///
/// Keys are the flags' names; an underscore counts as a hyphen.
///
/// # Errors
/// A file that cannot be read, is not TOML, or holds a key or value that the settings do not know; the message names
/// file and key.
pub fn resolve<T: DeserializeOwned>(
    files: impl IntoIterator<Item = Option<impl AsRef<Path>>>,
    flags: &impl Serialize,
) -> miette::Result<T> {
    let mut settings = toml::Table::new();
    for path in files.into_iter().flatten() {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .into_diagnostic()
            .wrap_err_with(|| format!("the settings in {} cannot be read", path.display()))?;
        let table: toml::Table = text
            .parse()
            .map_err(|error| miette!("{} is not valid TOML: {error}", path.display()))?;
        let mut own = toml::Table::new();
        for (key, value) in table {
            own.insert(key.replace('_', "-"), value);
        }
        // Each file is checked by itself, so that the message can name it.
        own.clone()
            .try_into::<T>()
            .map_err(|error| miette!("{}: {error}", path.display()))?;
        settings.extend(own);
    }
    settings.extend(toml::Table::try_from(flags).into_diagnostic()?);
    settings
        .try_into()
        .map_err(|error| miette!("the settings make no run: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
    struct Settings {
        batch_size: u64,
        rate: f64,
        kind: String,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self {
                batch_size: 1,
                rate: 0.5,
                kind: "a".to_owned(),
            }
        }
    }

    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Flags {
        batch_size: Option<u64>,
        kind: Option<&'static str>,
    }

    #[test]
    fn later_settings_win_and_absent_flags_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        std::fs::write(&path, "batch_size = 8\nkind = 'b'").unwrap();
        let flags = Flags {
            batch_size: None,
            kind: Some("c"),
        };
        let settings: Settings = resolve([Some(&path)], &flags).unwrap();
        assert_eq!(
            settings,
            Settings {
                batch_size: 8,
                rate: 0.5,
                kind: "c".to_owned()
            }
        );
    }

    #[test]
    fn a_wrong_key_is_named_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        std::fs::write(&path, "batch-sice = 8").unwrap();
        let flags = Flags {
            batch_size: None,
            kind: None,
        };
        let error = resolve::<Settings>([Some(&path)], &flags).unwrap_err().to_string();
        assert!(error.contains("a.toml") && error.contains("batch-sice"), "{error}");
    }
}
