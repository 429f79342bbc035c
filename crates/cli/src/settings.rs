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
pub fn resolve<T: Serialize + DeserializeOwned>(
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
        read::<T>(own.clone()).map_err(|error| miette!("{}: {error}", path.display()))?;
        settings.extend(own);
    }
    settings.extend(toml::Table::try_from(flags).into_diagnostic()?);
    read(settings).map_err(|error| miette!("the settings make no run: {error}"))
}

/// The settings of a table, all of whose keys they must know.
///
/// Where settings are made of several structures, serde neither refuses unknown keys nor names the key of a wrong value.
fn read<T: Serialize + DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    let settings: T = table.clone().try_into().map_err(|error: toml::de::Error| {
        let alone = |(key, value): (&String, &toml::Value)| {
            let one: Result<T, toml::de::Error> = toml::Table::from_iter([(key.clone(), value.clone())]).try_into();
            one.err().map(|error| (key.clone(), error.to_string()))
        };
        match table.iter().find_map(alone) {
            Some((key, error)) if !error.contains(&key) => format!("{key}: {}", error.trim_end()),
            _ => error.to_string(),
        }
    })?;
    let known = toml::Table::try_from(&settings).map_err(|error| error.to_string())?;
    match table.keys().find(|key| !known.contains_key(*key)) {
        Some(key) => Err(format!(
            "unknown setting `{key}`; --help lists the flags, whose names the settings share"
        )),
        None => Ok(settings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    #[serde(default, rename_all = "kebab-case")]
    struct Settings {
        kind: String,
        #[serde(flatten)]
        shared: Shared,
    }

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    #[serde(default, rename_all = "kebab-case")]
    struct Shared {
        batch_size: u64,
        rate: f64,
        least: Option<u64>,
    }

    impl Default for Shared {
        fn default() -> Self {
            Self {
                batch_size: 1,
                rate: 0.5,
                least: None,
            }
        }
    }

    impl Default for Settings {
        fn default() -> Self {
            Self {
                kind: "a".to_owned(),
                shared: Shared::default(),
            }
        }
    }

    #[derive(Default, Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Flags {
        kind: Option<&'static str>,
        #[serde(flatten)]
        shared: SharedFlags,
    }

    #[derive(Default, Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct SharedFlags {
        batch_size: Option<u64>,
    }

    #[test]
    fn later_settings_win_and_absent_flags_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        std::fs::write(&path, "batch_size = 8\nkind = 'b'\nrate = 1\nleast = 3").unwrap();
        let flags = Flags {
            kind: Some("c"),
            ..Flags::default()
        };
        let settings: Settings = resolve([Some(&path)], &flags).unwrap();
        let shared = Shared {
            batch_size: 8,
            rate: 1.0,
            least: Some(3),
        };
        let kind = "c".to_owned();
        assert_eq!(settings, Settings { kind, shared });
    }

    #[test]
    fn a_wrong_key_is_named_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        for (text, expected) in [
            ("batch-sice = 8", "batch-sice"),
            ("kind = 'b'\nrate = 'fast'", "rate: "),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = resolve::<Settings>([Some(&path)], &Flags::default());
            let error = error.unwrap_err().to_string();
            assert!(error.contains("a.toml") && error.contains(expected), "{error}");
        }
    }
}
