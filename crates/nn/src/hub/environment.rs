//! The variables and the home directory that say where models are kept and who asks for them.
//!
//! Names and precedence are those of huggingface_hub 2.4 (`constants.py`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::HubError;

/// The variables that are read.
const VARIABLES: [&str; 11] = [
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HUGGINGFACE_HUB_CACHE",
    "HUGGING_FACE_HUB_TOKEN",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
];

/// Variables and home directory, of the process or made up.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    home: Option<PathBuf>,
    /// Whether it is the process's own; only then are the process's proxy settings used.
    #[cfg(feature = "hub")]
    of_process: bool,
}

impl fmt::Debug for Environment {
    /// Names only: a value may be a token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

impl Environment {
    /// The environment of this process. Downloads then also use the proxy that ALL_PROXY, HTTPS_PROXY or HTTP_PROXY
    /// name, except for the hosts in NO_PROXY.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
        Self {
            variables: variables.collect(),
            home: std::env::home_dir(),
            #[cfg(feature = "hub")]
            of_process: true,
        }
    }

    /// An environment of these variables only.
    pub fn new<Name: Into<String>, Value: Into<OsString>>(
        variables: impl IntoIterator<Item = (Name, Value)>,
        home: Option<PathBuf>,
    ) -> Self {
        Self {
            variables: variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            home,
            #[cfg(feature = "hub")]
            of_process: false,
        }
    }

    /// The directory of the cache: HF_HUB_CACHE, else `hub` in HF_HOME, else `huggingface/hub` in XDG_CACHE_HOME, else
    /// `~/.cache/huggingface/hub`.
    ///
    /// # Errors
    /// [`HubError::NoHome`] where none of the variables is set and there is no home directory.
    pub fn cache(&self) -> Result<PathBuf, HubError> {
        match self.path("HF_HUB_CACHE").or_else(|| self.path("HUGGINGFACE_HUB_CACHE")) {
            Some(path) => Ok(path),
            None => Ok(self.hf_home()?.join("hub")),
        }
    }

    /// Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.is_true(if self.value("HF_HUB_OFFLINE").is_some() {
            "HF_HUB_OFFLINE"
        } else {
            "TRANSFORMERS_OFFLINE"
        })
    }

    /// The directory in which Hugging Face's programs keep everything.
    pub(super) fn hf_home(&self) -> Result<PathBuf, HubError> {
        if let Some(path) = self.path("HF_HOME") {
            return Ok(path);
        }
        match (self.path("XDG_CACHE_HOME"), &self.home) {
            (Some(cache), _) => Ok(cache.join("huggingface")),
            (None, Some(home)) => Ok(home.join(".cache").join("huggingface")),
            (None, None) => Err(HubError::NoHome),
        }
    }

    /// A variable as text, where it is set, not empty, and text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value(name)?.to_str()
    }

    /// A variable as a path; `~` at its start is the home directory.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let path = Path::new(self.value(name)?);
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path.to_owned()),
        }
    }

    /// Whether a variable says yes.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.text(name)
            .is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
    }

    /// Whether the process's proxy settings apply.
    #[cfg(feature = "hub")]
    pub(super) fn is_of_process(&self) -> bool {
        self.of_process
    }

    fn value(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(variables: &[(&str, &str)]) -> PathBuf {
        Environment::new(variables.iter().copied(), Some("/home/ada".into()))
            .cache()
            .unwrap()
    }

    #[test]
    fn the_cache_is_where_the_first_variable_that_is_set_says() {
        assert_eq!(cache(&[]), Path::new("/home/ada/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(
            cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")]),
            Path::new("/h/hub")
        );
        assert_eq!(
            cache(&[("HF_HUB_CACHE", "~/c"), ("HF_HOME", "/h")]),
            Path::new("/home/ada/c")
        );
        // Set to nothing is not set.
        assert_eq!(
            cache(&[("HF_HUB_CACHE", ""), ("HF_HOME", "~")]),
            Path::new("/home/ada/hub")
        );
        assert!(matches!(
            Environment::new([("", ""); 0], None).cache(),
            Err(HubError::NoHome)
        ));
    }

    #[test]
    fn offline_is_what_says_yes() {
        let offline = |variables: &[(&str, &str)]| Environment::new(variables.iter().copied(), None).is_offline();
        assert!(!offline(&[]));
        assert!(offline(&[("HF_HUB_OFFLINE", "1")]));
        assert!(offline(&[("HF_HUB_OFFLINE", "true")]));
        assert!(offline(&[("TRANSFORMERS_OFFLINE", "yes")]));
        assert!(!offline(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]));
    }

    #[test]
    fn a_token_is_not_printed() {
        let environment = Environment::new([("HF_TOKEN", "hf_secret")], None);
        assert!(!format!("{environment:?}").contains("secret"));
        assert_eq!(environment.text("HF_TOKEN"), Some("hf_secret"));
    }
}
