//! The name of a model on the Hub: `org/name`, `org/name@revision`, `org/name/file.gguf`.
//!
//! A name becomes part of paths and addresses, so it is checked once, here, strictly: nothing that passes can leave the
//! directory it is put into. The rules for repositories are the Hub's (huggingface_hub 2.4, `_validators.py`).

use std::fmt;

use super::HubError;

/// A checked name.
///
/// ```
/// # use posterior_nn::hub::ModelName;
/// let name = ModelName::parse("HuggingFaceTB/SmolLM2-135M-Instruct@main")?;
/// assert_eq!(name.repository(), "HuggingFaceTB/SmolLM2-135M-Instruct");
/// # Ok::<(), posterior_nn::hub::HubError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    organisation: String,
    name: String,
    file: Option<String>,
    revision: Option<String>,
}

impl ModelName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`HubError::Name`], which says what `--model` takes, for anything that is not such a name: `..`, an absolute
    /// path, characters other than ASCII letters, digits, `-`, `_` and `.`, too few or too many parts.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        Self::checked(text).map_err(|problem| HubError::Name {
            // Long or unprintable text does not belong on a terminal.
            given: text.chars().take(200).flat_map(char::escape_debug).collect(),
            problem,
        })
    }

    fn checked(text: &str) -> Result<Self, String> {
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (organisation, name, file) = match parts.as_slice() {
            [] | [""] => return Err("it is empty".to_owned()),
            [_] => return Err("the organisation is missing: org/name".to_owned()),
            ["", ..] => return Err("it is an absolute path".to_owned()),
            [organisation, name] => (*organisation, *name, None),
            [organisation, name, file @ ..] => (*organisation, *name, Some(file)),
        };
        check_repository_part(organisation)?;
        check_repository_part(name)?;
        if is_gguf(name) && file.is_none() {
            return Err("a .gguf file of a repository is org/name/file.gguf".to_owned());
        }
        if let Some(parts) = file {
            parts.iter().try_for_each(|part| check_part(part))?;
            if !parts.last().is_some_and(|last| is_gguf(last)) {
                return Err("only a .gguf file may follow org/name".to_owned());
            }
        }
        if let Some(revision) = revision {
            check_revision(revision)?;
        }
        Ok(Self {
            organisation: organisation.to_owned(),
            name: name.to_owned(),
            file: file.map(|parts| parts.join("/")),
            revision: revision.map(str::to_owned),
        })
    }

    /// The repository, `org/name`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.organisation, self.name)
    }

    /// The branch, tag or commit; `main` where none was given.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The one file that was named, with `/` between its parts.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The repository's directory in the cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}--{}", self.organisation, self.name)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.organisation, self.name)?;
        if let Some(file) = &self.file {
            write!(formatter, "/{file}")?;
        }
        if let Some(revision) = &self.revision {
            write!(formatter, "@{revision}")?;
        }
        Ok(())
    }
}

/// Whether text is the full hash of a commit: 40 lower-case hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks one part of a path that others wrote: it must be a plain name.
pub(super) fn check_part(part: &str) -> Result<(), String> {
    if part.is_empty() {
        return Err("a part between slashes is empty".to_owned());
    }
    if let Some(odd) = part
        .chars()
        .find(|character| !(character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | '+')))
    {
        return Err(format!("the character {odd:?} does not belong in a name"));
    }
    if part.len() > 200 {
        return Err("it is longer than any name".to_owned());
    }
    if part.starts_with(['.', '-']) || part.ends_with('.') || part.contains("..") {
        return Err("no part may start with `.` or `-`, end with `.`, or hold `..`".to_owned());
    }
    Ok(())
}

fn check_repository_part(part: &str) -> Result<(), String> {
    check_part(part)?;
    if part.len() > 96 {
        return Err("organisation and name have at most 96 characters".to_owned());
    }
    // The cache separates organisation and name by two hyphens.
    if part.contains('+') || part.contains("--") || part.ends_with('-') || part.ends_with(".git") {
        return Err("the Hub has no names with `+` or `--`, ending in `-` or `.git`".to_owned());
    }
    Ok(())
}

/// As git's rules for references, less what they allow beyond plain names.
fn check_revision(revision: &str) -> Result<(), String> {
    if revision.is_empty() {
        return Err("no revision after `@`".to_owned());
    }
    revision.split('/').try_for_each(|part| {
        check_part(part).map_err(|problem| format!("the revision: {problem}"))?;
        if part.ends_with(".lock") {
            return Err("no revision ends in .lock".to_owned());
        }
        Ok(())
    })
}

fn is_gguf(file: &str) -> bool {
    file.len() > 5 && file.to_ascii_lowercase().ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, repository, file, revision) in [
            ("org/name", "org/name", None, "main"),
            ("0rg/Na_me-1.5", "0rg/Na_me-1.5", None, "main"),
            ("org/name@v1.0", "org/name", None, "v1.0"),
            ("org/name@refs/pr/3", "org/name", None, "refs/pr/3"),
            ("org/name/file-Q4_1.gguf", "org/name", Some("file-Q4_1.gguf"), "main"),
            ("org/name/a/b.GGUF@v1", "org/name", Some("a/b.GGUF"), "v1"),
        ] {
            let name = ModelName::parse(text).unwrap();
            assert_eq!(
                (name.repository().as_str(), name.file(), name.revision()),
                (repository, file, revision)
            );
            assert_eq!(name.to_string(), text);
        }
        assert_eq!(ModelName::parse("org/name@v1").unwrap().folder(), "models--org--name");
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_is() {
        let long = format!("org/{}", "a".repeat(97));
        for (text, words) in [
            ("", "empty"),
            ("gpt2", "org/name"),
            ("/etc/passwd", "absolute"),
            ("../name", "`..`"),
            ("org/..", "`..`"),
            ("org/../../x.gguf", "`..`"),
            ("./model", "start with `.`"),
            ("org//x.gguf", "empty"),
            ("org/name/", "empty"),
            ("org/name/model.safetensors", ".gguf"),
            ("org/name/.gguf", "start with"),
            ("org/file.gguf", "org/name/file.gguf"),
            ("org\\name", "org/name"),
            ("a/b\\c", "'\\\\'"),
            ("C:/model", "':'"),
            ("org/na me", "' '"),
            ("org/na%2fme", "'%'"),
            ("org/name?x", "'?'"),
            ("org/näme", "'ä'"),
            ("org/na--me", "`--`"),
            ("org/name.git", ".git"),
            ("org/name@", "no revision"),
            ("org/name@../../x", "`..`"),
            ("org/name@/x", "empty"),
            ("org/name@v1@v2", "'@'"),
            ("org/name@x.lock", ".lock"),
            ("org/name\n", "'\\n'"),
            (long.as_str(), "96"),
        ] {
            let message = ModelName::parse(text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message} lacks {words}");
            assert!(message.contains("a directory, a .gguf file, or the name of a model as org/name"));
            assert!(!message.contains('\n'), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_directory(text in "[a-c./@~:\\-\\\\+ ]{0,14}(\\.gguf)?") {
            if let Ok(name) = ModelName::parse(&text) {
                prop_assert_eq!(&name.to_string(), &text);
                for path in [name.folder().as_str(), name.revision(), name.file().unwrap_or("x")] {
                    let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
                    prop_assert!(Path::new(path).components().all(plain));
                }
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = ModelName::parse(&text);
        }
    }
}
