//! As much of addresses as a download needs: whose they are, what a redirect means, what must be escaped.

/// Scheme and host with port, in lower case: to whom a request goes. A token is sent to one origin only.
pub(super) fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "http" => "80",
        "https" => "443",
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    // What stands before an `@` is a user's name; such addresses only ever serve to deceive. A backslash is read as
    // a slash by some.
    let odd = |character: char| matches!(character, '@' | '\\') || character.is_whitespace() || character.is_control();
    if authority.is_empty() || authority.contains(odd) {
        return None;
    }
    // A colon within brackets is an IPv6 address's.
    let port_at = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
    let (host, port) = match port_at {
        Some(at) => (&authority[..at], &authority[at + 1..]),
        None => (authority, default_port),
    };
    let port = if port.is_empty() { default_port } else { port };
    if host.is_empty() || port.parse::<u16>().is_err() {
        return None;
    }
    Some(format!("{scheme}://{}:{port}", host.to_ascii_lowercase()))
}

/// The address that a `Location` header means, seen from `base` (RFC 3986, section 5, for the forms that servers send).
pub(super) fn join(base: &str, location: &str) -> Option<String> {
    if location
        .chars()
        .any(|character| character.is_whitespace() || character.is_control())
    {
        return None;
    }
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, rest) = base.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let path = rest[authority.len()..].split(['?', '#']).next().unwrap_or_default();
    let joined = if location.contains("://") && !location.starts_with(['/', '?']) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{path}{location}")
    } else if location.is_empty() {
        return None;
    } else {
        let directory = path.rfind('/').map_or("", |at| &path[..at]);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    origin(&joined).map(|_| joined)
}

/// Text as one part of a path: everything but letters, digits and `-._~` is escaped; with `keep_slash`, `/` is kept too.
pub(super) fn escape(text: &str, keep_slash: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            b'/' if keep_slash => escaped.push('/'),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// An address for a message: without its query, which may hold a signature that is as good as a password.
pub(super) fn shown(url: &str) -> String {
    url.split(['?', '#'])
        .next()
        .unwrap_or_default()
        .chars()
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        for (url, expected) in [
            ("https://huggingface.co/x", Some("https://huggingface.co:443")),
            ("HTTPS://HuggingFace.co:443?x", Some("https://huggingface.co:443")),
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("http://[::1]/x", Some("http://[::1]:80")),
            ("http://[::1]:81/x", Some("http://[::1]:81")),
            ("https://huggingface.co@evil.com/", None),
            ("https://huggingface.co\\@evil.com/", None),
            ("ftp://huggingface.co/", None),
            ("file:///etc/passwd", None),
            ("https://:80/", None),
            ("https://a:b/", None),
            ("huggingface.co", None),
        ] {
            assert_eq!(origin(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn redirects_are_read_as_rfc_3986_says() {
        let base = "https://h.co/a/b/c?q=1";
        for (location, expected) in [
            ("https://cdn.co/x?s=%20", Some("https://cdn.co/x?s=%20")),
            ("//cdn.co/x", Some("https://cdn.co/x")),
            ("/x/y?z", Some("https://h.co/x/y?z")),
            ("d", Some("https://h.co/a/b/d")),
            ("?q=2", Some("https://h.co/a/b/c?q=2")),
            ("/x?to=https://evil.com", Some("https://h.co/x?to=https://evil.com")),
            ("/x#y", Some("https://h.co/x")),
            ("file:///etc/passwd", None),
            ("/x\r\nHost: evil", None),
            ("", None),
        ] {
            assert_eq!(join(base, location).as_deref(), expected, "{location}");
        }
        assert_eq!(join("https://h.co", "x").as_deref(), Some("https://h.co/x"));
    }

    #[test]
    fn parts_are_escaped() {
        assert_eq!(escape("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(escape("a/b c+é.gguf", true), "a/b%20c%2B%C3%A9.gguf");
        assert_eq!(shown("https://cdn.co/x?Signature=secret"), "https://cdn.co/x");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(base in "(https?://)?[a-z:/@?#\\[\\]é]{0,12}", location in any::<String>()) {
            let _ = (origin(&base), origin(&location), join(&base, &location), shown(&location));
        }
    }
}
