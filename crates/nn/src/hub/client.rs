//! Requests to the Hub: who asks, where redirects lead, and which answers are failures.
//!
//! Redirects are followed here rather than by the HTTP library, because the token may go to the Hub's own origin only,
//! and because the headers of the Hub's redirect say what the file behind it is. Each request runs on a thread of its
//! own, so that the caller can stop at any moment, a name look-up or a handshake included; the thread ends by itself, at
//! the next piece or at the latest after its timeout.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ureq::http::HeaderMap;

use super::retry::{POLL, Patience, Retries, Trouble};
use super::url::{join, origin, shown};
use super::{Environment, HubError};

/// The Hub, where HF_ENDPOINT names no other.
const ENDPOINT: &str = "https://huggingface.co";

/// Redirects in a row after which something is wrong.
const MOST_REDIRECTS: usize = 10;

/// The longest error page that is read for its message, in bytes.
const LONGEST_MESSAGE: usize = 4096;

/// Bytes that are read at once.
const PIECE: usize = 128 * 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The headers of the Hub's own answer; a redirect to another host is that answer.
    Head,
    /// The content, from this byte on.
    From(u64),
}

/// A connection to the Hub, as one user.
pub(super) struct Client {
    agent: ureq::Agent,
    /// Without a slash at its end.
    pub(super) endpoint: String,
    origin: String,
    token: Option<String>,
    pub(super) patience: Patience,
}

impl Client {
    pub(super) fn new(environment: &Environment, patience: Patience) -> Result<Self, HubError> {
        let endpoint = environment.text("HF_ENDPOINT").unwrap_or(ENDPOINT);
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let origin = origin(&endpoint)
            .filter(|_| !endpoint.contains(['?', '#']))
            .ok_or_else(|| HubError::Setting {
                origin: "HF_ENDPOINT".to_owned(),
                problem: format!("{:?} is not an address; give one as in {ENDPOINT}", shown(&endpoint)),
            })?;
        let proxy = environment.is_of_process().then(ureq::Proxy::try_from_env).flatten();
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("posterior/", env!("CARGO_PKG_VERSION")))
            // Packed content would make a mockery of ranges and sizes.
            .accept_encoding("identity")
            .proxy(proxy)
            .timeout_resolve(Some(patience.answer))
            .timeout_connect(Some(patience.answer))
            .timeout_send_request(Some(patience.answer))
            .timeout_recv_response(Some(patience.answer))
            .timeout_per_read(Some(patience.stall))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            endpoint,
            origin,
            token: token(environment)?,
            patience,
        })
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// One attempt. An answer whose status calls for another attempt is an error; any other status is an answer.
    pub(super) fn ask(&self, url: &str, ask: Ask, cancelled: &dyn Fn() -> bool) -> Result<Reply, Trouble> {
        let mut url = url.to_owned();
        let mut linked = HeaderMap::new();
        for _ in 0..=MOST_REDIRECTS {
            let mut reply = self.exchange(&url, ask, cancelled)?;
            if ask == Ask::Head {
                // The Hub describes a file in its first answer; one of its own redirects may come after it.
                for (name, value) in &reply.headers {
                    if name.as_str().starts_with("x-") && !linked.contains_key(name) {
                        linked.insert(name, value.clone());
                    }
                }
                reply.headers.extend(linked.clone());
            }
            if !matches!(reply.status, 301 | 302 | 303 | 307 | 308) {
                return self.judged(reply, cancelled);
            }
            let Some(target) = reply.header("location").and_then(|location| join(&url, location)) else {
                return Err(reply.nonsense("a redirect to nowhere".to_owned()).into());
            };
            if url.starts_with("https:") && !target.starts_with("https:") {
                let problem = format!("a redirect from https to {}, which is not encrypted", shown(&target));
                return Err(reply.nonsense(problem).into());
            }
            if ask == Ask::Head && origin(&target) != Some(self.origin.clone()) {
                return Ok(reply);
            }
            url = target;
        }
        Err(HubError::Reply {
            url: shown(&url),
            problem: format!("more than {MOST_REDIRECTS} redirects in a row"),
        }
        .into())
    }

    /// The content of a small answer, with its status.
    pub(super) fn text(&self, url: &str, most: usize, cancelled: &dyn Fn() -> bool) -> Result<Reply, HubError> {
        Retries::new(self.patience, cancelled).run(|| {
            let mut reply = self.ask(url, Ask::From(0), cancelled)?;
            while let Some(piece) = reply.next(cancelled)? {
                reply.content.extend_from_slice(&piece);
                if reply.content.len() > most {
                    return Err(reply.nonsense(format!("more than {most} bytes")).into());
                }
            }
            Ok(reply)
        })
    }

    /// Sorts out the statuses that may pass.
    fn judged(&self, mut reply: Reply, cancelled: &dyn Fn() -> bool) -> Result<Reply, Trouble> {
        if !matches!(reply.status, 408 | 429 | 500 | 502..=504) {
            return Ok(reply);
        }
        let after = reply
            .header("retry-after")
            .and_then(|seconds| seconds.trim().parse().ok());
        Err(Trouble::Passing {
            error: HubError::Status {
                url: shown(&reply.url),
                status: reply.status,
                message: reply.message(cancelled),
            },
            after: after.map(Duration::from_secs),
        })
    }

    /// One request and the beginning of its answer.
    fn exchange(&self, url: &str, ask: Ask, cancelled: &dyn Fn() -> bool) -> Result<Reply, Trouble> {
        let mut request = match ask {
            Ask::Head => self.agent.head(url),
            Ask::From(_) => self.agent.get(url),
        };
        if let Ask::From(start @ 1..) = ask {
            request = request.header("Range", format!("bytes={start}-"));
        }
        if let Some(token) = self
            .token
            .as_ref()
            .filter(|_| origin(url).as_ref() == Some(&self.origin))
        {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let (sender, events) = sync_channel(4);
        std::thread::Builder::new()
            .name("hub".to_owned())
            .spawn(move || send(request, &sender))
            .map_err(|error| unreachable_host(url, error.to_string()))?;
        let mut reply = Reply {
            url: url.to_owned(),
            status: 0,
            headers: HeaderMap::new(),
            content: Vec::new(),
            events,
        };
        match reply.event(cancelled)? {
            Event::Head(status, headers) => {
                reply.status = status;
                reply.headers = *headers;
                Ok(reply)
            }
            Event::Failed(error) => Err(trouble(url, &error)),
            Event::Piece(_) | Event::End => Err(reply.nonsense("content without a status".to_owned()).into()),
        }
    }
}

/// What the thread of a request reports.
enum Event {
    Head(u16, Box<HeaderMap>),
    Piece(Vec<u8>),
    End,
    Failed(ureq::Error),
}

/// An answer; its content comes piece by piece.
pub(super) struct Reply {
    /// The address that gave it.
    pub(super) url: String,
    pub(super) status: u16,
    headers: HeaderMap,
    /// What [`Client::text`] collected.
    pub(super) content: Vec<u8>,
    events: Receiver<Event>,
}

impl Reply {
    /// A header that is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// The next piece of the content; `None` at its end.
    pub(super) fn next(&mut self, cancelled: &dyn Fn() -> bool) -> Result<Option<Vec<u8>>, Trouble> {
        match self.event(cancelled)? {
            Event::Piece(piece) => Ok(Some(piece)),
            Event::End => Ok(None),
            Event::Failed(error) => Err(trouble(&self.url, &error)),
            Event::Head(..) => Err(self.nonsense("two beginnings".to_owned()).into()),
        }
    }

    /// The server's own words on a failure, fit to be shown.
    pub(super) fn message(&mut self, cancelled: &dyn Fn() -> bool) -> String {
        let stated = self.header("x-error-message").map(str::to_owned);
        let text = stated.unwrap_or_else(|| {
            while self.content.len() < LONGEST_MESSAGE
                && let Ok(Some(piece)) = self.next(cancelled)
            {
                self.content.extend_from_slice(&piece);
            }
            let json = serde_json::from_slice::<serde_json::Value>(&self.content).unwrap_or_default();
            let error = json.get("error").and_then(serde_json::Value::as_str);
            error.unwrap_or_default().to_owned()
        });
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(300)
            .collect();
        text.trim().trim_end_matches('.').to_owned()
    }

    /// The error that this answer makes no sense.
    pub(super) fn nonsense(&self, problem: String) -> HubError {
        HubError::Reply {
            url: shown(&self.url),
            problem,
        }
    }

    fn event(&self, cancelled: &dyn Fn() -> bool) -> Result<Event, Trouble> {
        loop {
            if cancelled() {
                return Err(HubError::Cancelled.into());
            }
            match self.events.recv_timeout(POLL) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) => {}
                // The thread is gone without a last word.
                Err(RecvTimeoutError::Disconnected) => {
                    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Ok(Event::Failed(ureq::Error::Io(error)));
                }
            }
        }
    }
}

/// Runs a request and reports until it is over or nobody listens.
fn send(request: ureq::RequestBuilder<ureq::typestate::WithoutBody>, events: &SyncSender<Event>) {
    let response = match request.call() {
        Ok(response) => response,
        Err(error) => {
            let _ = events.send(Event::Failed(error));
            return;
        }
    };
    let (parts, body) = response.into_parts();
    let head = Event::Head(parts.status.as_u16(), Box::new(parts.headers));
    if events.send(head).is_err() {
        return;
    }
    let mut reader = body.into_reader();
    let mut buffer = vec![0; PIECE];
    loop {
        let event = match reader.read(&mut buffer) {
            Ok(0) => Event::End,
            Ok(count) => Event::Piece(buffer[..count].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Event::Failed(error.into()),
        };
        let over = !matches!(event, Event::Piece(_));
        if events.send(event).is_err() || over {
            return;
        }
    }
}

/// The network's failures: most pass; a certificate that does not fit stays.
fn trouble(url: &str, error: &ureq::Error) -> Trouble {
    let lasting = match error {
        ureq::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied
        ),
        ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_)
        | ureq::Error::BodyStalled => false,
        _ => true,
    };
    let error = unreachable_host(url, error.to_string());
    if lasting {
        Trouble::Final(error)
    } else {
        Trouble::Passing { error, after: None }
    }
}

fn unreachable_host(url: &str, reason: String) -> HubError {
    HubError::Unreachable {
        host: origin(url).unwrap_or_else(|| shown(url)),
        reason,
    }
}

/// The token of the user: HF_TOKEN, else the file that HF_TOKEN_PATH names, else `token` in HF_HOME.
fn token(environment: &Environment) -> Result<Option<String>, HubError> {
    if environment.is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    let variables = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
    let set = variables.iter().find_map(|name| Some((*name, environment.text(name)?)));
    let (origin, token) = match set {
        Some((name, token)) => (name.to_owned(), token.to_owned()),
        None => {
            let path = match environment.path("HF_TOKEN_PATH") {
                Some(path) => path,
                None => environment.hf_home()?.join("token"),
            };
            let mut token = String::new();
            match File::open(&path).and_then(|file| file.take(10_000).read_to_string(&mut token)) {
                Ok(_) => (path.display().to_string(), token),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(None);
                }
                Err(error) => return Err(HubError::file("read", &path)(error)),
            }
        }
    };
    let token = token.trim();
    if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let problem =
            "not a token (it has blanks or special characters); copy it again from the settings of your account";
        return Err(HubError::Setting {
            origin,
            problem: problem.to_owned(),
        });
    }
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let variables = variables.iter().copied();
        token(&Environment::new(variables, None)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_token_is_found_where_pythons_client_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_str().unwrap();
        let file = directory.path().join("other");
        assert_eq!(token_of(&[("HF_HOME", home)]).unwrap(), None);
        std::fs::write(directory.path().join("token"), "hf_home\n").unwrap();
        std::fs::write(&file, " hf_other ").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(token_of(&[("HF_HOME", home)]).unwrap().as_deref(), Some("hf_home"));
        let both = [("HF_HOME", home), ("HF_TOKEN_PATH", file)];
        assert_eq!(token_of(&both).unwrap().as_deref(), Some("hf_other"));
        let variable = [("HF_HOME", home), ("HF_TOKEN", "hf_variable\n")];
        assert_eq!(token_of(&variable).unwrap().as_deref(), Some("hf_variable"));
        let without = [("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(token_of(&without).unwrap(), None);
    }

    #[test]
    fn a_token_that_is_none_is_refused_without_being_shown() {
        let message = token_of(&[("HF_TOKEN", "hf_sec\r\nret: x")]).unwrap_err();
        assert!(message.contains("HF_TOKEN") && !message.contains("sec"), "{message}");
    }

    #[test]
    fn an_endpoint_that_is_none_is_refused() {
        for endpoint in ["huggingface.co", "ftp://x", "https://u@x", "https://x?y"] {
            let environment = Environment::new([("HF_ENDPOINT", endpoint)], Some("/nowhere".into()));
            let message = Client::new(&environment, Patience::default())
                .err()
                .unwrap()
                .to_string();
            assert!(message.contains("HF_ENDPOINT"), "{message}");
        }
    }
}
