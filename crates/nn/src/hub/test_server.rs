//! A small server on this machine that speaks as much of the Hub's interface as a download needs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The commit at which `main` stands.
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client asked for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    /// By names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    /// How many requests of this method and path there were before.
    pub(super) earlier: usize,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(super) fn is_for(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

/// What the server answers.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Ends the connection after so many bytes of the body.
    pub(super) cut: Option<usize>,
    /// Waits in the middle of the body.
    pub(super) pause: Duration,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            pause: Duration::ZERO,
        }
    }

    pub(super) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A running server; its thread ends with the process.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// A server of the repository `org/name`. `special` is asked first; where it gives nothing, the answer is the Hub's.
    pub(super) fn start(
        files: &[(&str, Vec<u8>)],
        special: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let files: BTreeMap<String, Vec<u8>> = files
            .iter()
            .map(|(name, content)| ((*name).to_owned(), content.clone()))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        let answer = Arc::new(move |request: &Request| special(request).unwrap_or_else(|| hub(&files, request)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                // A client that goes away in the middle is part of the tests.
                std::thread::spawn(move || serve(stream, &log, answer.as_ref()));
            }
        });
        Self { address, requests }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests there were of a method, for addresses with this part.
    pub(super) fn count(&self, method: &str, part: &str) -> usize {
        let requests = self.requests();
        requests.iter().filter(|request| request.is_for(method, part)).count()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (
        words.next().unwrap_or("").to_owned(),
        words.next().unwrap_or("").to_owned(),
    );
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = {
        let mut log = log.lock().unwrap();
        let same = |other: &&Request| (&other.method, &other.path) == (&method, &path);
        let request = Request {
            earlier: log.iter().filter(same).count(),
            method,
            path,
            headers,
        };
        log.push(request.clone());
        request
    };
    let answer = answer(&request);
    let mut stream = stream;
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", answer.status);
    let stated = |name: &str| answer.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    if !stated("Content-Length") && !stated("Transfer-Encoding") {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    let (first, second) = body.split_at(body.len() / 2);
    stream.write_all(first)?;
    stream.flush()?;
    if !answer.pause.is_zero() {
        std::thread::sleep(answer.pause);
    }
    stream.write_all(second)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Closing before the client has read would discard what is on its way.
    let _ = stream.read(&mut [0]);
    Ok(())
}

/// The answers of the Hub: small files after a redirect on the same host, large ones after one to another.
fn hub(files: &BTreeMap<String, Vec<u8>>, request: &Request) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default();
    if path.starts_with("/api/models/org/name/revision/") {
        let siblings: Vec<_> = files
            .keys()
            .map(|file| serde_json::json!({ "rfilename": file }))
            .collect();
        let description = serde_json::json!({ "id": "org/name", "sha": COMMIT, "siblings": siblings });
        return Answer::new(200, description.to_string());
    }
    let resolve = format!("/org/name/resolve/{COMMIT}/");
    for (start, is_redirect) in [(resolve.as_str(), true), ("/cache/", false), ("/cdn/", false)] {
        let Some(file) = path.strip_prefix(start) else { continue };
        let Some(content) = files.get(file) else { break };
        return if is_redirect {
            redirect(file, content, request)
        } else {
            range(content, request)
        };
    }
    Answer::new(404, "").with("X-Error-Code", "EntryNotFound")
}

fn redirect(file: &str, content: &[u8], request: &Request) -> Answer {
    let is_large = file.ends_with(".safetensors") || file.ends_with(".gguf");
    let answer = if is_large {
        let port = request.header("host").rsplit(':').next().unwrap_or_default();
        Answer::new(302, "").with(
            "Location",
            format!("http://localhost:{port}/cdn/{file}?Signature=secret"),
        )
    } else {
        Answer::new(307, "").with("Location", format!("/cache/{file}"))
    };
    answer
        .with("X-Repo-Commit", COMMIT)
        .with("X-Linked-Size", content.len())
        .with("X-Linked-Etag", format!("\"{}\"", etag(file, content)))
        .with("ETag", "\"of-the-redirect\"")
}

/// The part of a content that was asked for.
pub(super) fn range(content: &[u8], request: &Request) -> Answer {
    let start = request
        .header("range")
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-'));
    let Some(start) = start.and_then(|start| start.parse::<usize>().ok()) else {
        return Answer::new(200, content);
    };
    if start >= content.len() {
        return Answer::new(416, "").with("Content-Range", format!("bytes */{}", content.len()));
    }
    let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
    Answer::new(206, &content[start..]).with("Content-Range", range)
}

/// The etag of a file: SHA-256 for large ones, git's blob for the others.
pub(super) fn etag(file: &str, content: &[u8]) -> String {
    let digest = if file.ends_with(".safetensors") || file.ends_with(".gguf") {
        Sha256::digest(content).to_vec()
    } else {
        Sha1::digest([format!("blob {}\0", content.len()).as_bytes(), content].concat()).to_vec()
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
