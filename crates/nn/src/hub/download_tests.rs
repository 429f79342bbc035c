use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use self::test_server::{Answer, COMMIT, Request, Server, etag, range};
use super::super::{cached, locate};
use super::*;

#[path = "test_server.rs"]
mod test_server;

const WEIGHTS: &str = "model.safetensors";

/// Bytes without a period that could hide a shift.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (".gitattributes", b"*".to_vec()),
        ("config.json", b"{}".to_vec()),
        ("empty.txt", Vec::new()),
        ("merges.txt", Vec::new()),
        (WEIGHTS, bytes(300_000)),
        ("pytorch_model.bin", bytes(100)),
        ("tokenizer.json", bytes(5_000)),
    ]
}

/// A cache, a server, and a user with a token.
struct Setup {
    directory: tempfile::TempDir,
    server: Server,
}

impl Setup {
    fn new(special: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self::of(&files(), special)
    }

    fn of(files: &[(&str, Vec<u8>)], special: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            server: Server::start(files, special),
        }
    }

    fn environment(&self, more: &[(&str, &str)]) -> Environment {
        let (endpoint, home) = (self.server.endpoint(), self.directory.path().to_str().unwrap());
        let own = [
            ("HF_ENDPOINT", endpoint.as_str()),
            ("HF_HOME", home),
            ("HF_TOKEN", "hf_secret"),
        ];
        Environment::new(own.into_iter().chain(more.iter().copied()), None)
    }

    fn download(&self, name: &str) -> Result<Snapshot, HubError> {
        self.watched(name, &mut |_| (), &|| false)
    }

    fn watched(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Snapshot, HubError> {
        let name = ModelName::parse(name).unwrap();
        let mut watch = Watch { progress, cancelled };
        download_patiently(&name, &self.environment(&[]), patience(), &mut watch)
    }

    fn message(&self, name: &str) -> String {
        self.download(name).unwrap_err().to_string()
    }

    fn repository(&self) -> PathBuf {
        self.directory.path().join("hub/models--org--name")
    }

    /// Where the weights are to be, whole and not.
    fn blobs(&self) -> (PathBuf, PathBuf) {
        let etag = etag(WEIGHTS, &bytes(300_000));
        let blobs = self.repository().join("blobs");
        (blobs.join(&etag), blobs.join(format!("{etag}.incomplete")))
    }

    /// Leaves a part of the weights, as an earlier run would have.
    fn leave(&self, part: &[u8]) {
        let (_, incomplete) = self.blobs();
        fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
        fs::write(incomplete, part).unwrap();
    }

    fn assert_whole(&self, snapshot: &Snapshot) {
        assert_eq!(fs::read(snapshot.directory().join(WEIGHTS)).unwrap(), bytes(300_000));
        let (blob, incomplete) = self.blobs();
        assert!(blob.is_file() && !incomplete.exists());
    }

    /// The starts of the ranges that were asked for of the weights.
    fn ranges(&self) -> Vec<String> {
        let requests = self.server.requests();
        let contents = requests
            .iter()
            .filter(|request| request.is_for("GET", "/cdn/model.safetensors"));
        contents.map(|request| request.header("range").to_owned()).collect()
    }
}

fn patience() -> Patience {
    Patience {
        attempts: 3,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(20),
        longest_asked: Duration::from_secs(2),
        answer: Duration::from_secs(20),
        stall: Duration::from_secs(20),
    }
}

fn is_weights(request: &Request) -> bool {
    request.is_for("GET", "/cdn/model.safetensors")
}

#[test]
fn a_model_is_downloaded_in_the_cache_layout_and_found_again_without_a_request() {
    let setup = Setup::new(|_| None);
    let mut seen = Vec::new();
    let mut progress = |progress: Progress<'_>| seen.push((progress.file.to_owned(), progress.done, progress.total));
    let snapshot = setup.watched("org/name", &mut progress, &|| false).unwrap();
    setup.assert_whole(&snapshot);
    assert_eq!(snapshot.directory(), setup.repository().join("snapshots").join(COMMIT));
    assert_eq!(
        fs::read_to_string(setup.repository().join("refs/main")).unwrap(),
        COMMIT
    );
    let mut names: Vec<_> = fs::read_dir(snapshot.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "merges.txt", WEIGHTS, "tokenizer.json"]);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(snapshot.directory().join("config.json")).unwrap(),
        // printf '{}' | git hash-object --stdin
        Path::new("../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b")
    );

    // The total was known from the first piece on, and was reached.
    assert!(seen.iter().all(|(_, done, total)| *total == 305_002 && done <= total));
    assert!(seen.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    assert_eq!(seen.last().unwrap().1, 305_002);

    let before = setup.server.requests().len();
    let environment = setup.environment(&[]);
    assert_eq!(
        cached(&ModelName::parse("org/name").unwrap(), &environment),
        Some(snapshot.clone())
    );
    let mut watch = Watch {
        progress: &mut |_| (),
        cancelled: &|| false,
    };
    assert_eq!(locate("org/name", &environment, &mut watch).unwrap(), snapshot.path());
    let by_commit = format!("org/name@{COMMIT}");
    assert_eq!(locate(&by_commit, &environment, &mut watch).unwrap(), snapshot.path());
    assert_eq!(setup.server.requests().len(), before);
    // Asked to download, it looks for what is new, and fetches nothing twice.
    setup.download("org/name").unwrap();
    assert_eq!(setup.ranges().len(), 1);
}

#[test]
fn one_file_that_is_named_comes_alone() {
    let gguf = bytes(2_000);
    let all = [
        ("a.gguf", bytes(10)),
        ("sub/b.gguf", gguf.clone()),
        ("config.json", Vec::new()),
    ];
    let setup = Setup::of(&all, |_| None);
    let environment = setup.environment(&[]);
    let mut watch = Watch {
        progress: &mut |_| (),
        cancelled: &|| false,
    };
    let path = locate("org/name/sub/b.gguf@v1", &environment, &mut watch).unwrap();
    assert_eq!(fs::read(path).unwrap(), gguf);
    assert_eq!(setup.server.count("GET", "/revision/v1"), 1);
    assert_eq!(
        (
            setup.server.count("HEAD", "resolve"),
            setup.server.count("GET", "/cdn/")
        ),
        (1, 1)
    );
    assert!(setup.repository().join("refs/v1").is_file());
}

#[test]
fn shards_are_those_that_the_index_names() {
    let index = r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#
        .as_bytes()
        .to_vec();
    let mut all = vec![
        ("config.json", b"{}".to_vec()),
        ("consolidated.safetensors", bytes(7)),
        ("m-1.safetensors", bytes(1_000)),
        ("m-2.safetensors", bytes(3_000)),
        (INDEX, index),
        ("tokenizer.json", b"{}".to_vec()),
    ];
    let setup = Setup::of(&all, |_| None);
    let mut totals = BTreeSet::new();
    let mut progress = |progress: Progress<'_>| totals.extend([progress.total]);
    let snapshot = setup.watched("org/name", &mut progress, &|| false).unwrap();
    assert_eq!(fs::read(snapshot.path().join("m-2.safetensors")).unwrap(), bytes(3_000));
    assert!(!snapshot.path().join("consolidated.safetensors").exists());
    assert_eq!(totals.into_iter().collect::<Vec<_>>(), [4_068]);

    all.remove(2);
    let message = Setup::of(&all, |_| None).message("org/name");
    assert!(message.contains("has no m-1.safetensors"), "{message}");
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let setup = Setup::new(|_| None);
    setup.download("org/name").unwrap();
    for request in setup.server.requests() {
        let is_hub = request.header("host").starts_with("127.0.0.1");
        let expected = if is_hub { "Bearer hf_secret" } else { "" };
        assert_eq!(request.header("authorization"), expected, "{request:?}");
        assert_eq!(request.header("accept-encoding"), "identity");
    }
    assert_eq!(setup.ranges().len(), 1);
}

#[test]
fn a_cut_connection_is_resumed_where_it_ended() {
    let setup = Setup::new(|request| {
        (is_weights(request) && request.earlier < 2).then(|| Answer {
            cut: Some(100_000),
            ..range(&bytes(300_000), request)
        })
    });
    let snapshot = setup.download("org/name").unwrap();
    setup.assert_whole(&snapshot);
    assert_eq!(setup.ranges(), ["", "bytes=100000-", "bytes=200000-"]);
}

#[test]
fn what_an_earlier_run_left_is_continued() {
    let setup = Setup::new(|_| None);
    setup.leave(&bytes(300_000)[..123_456]);
    let mut first = None;
    let mut progress = |progress: Progress<'_>| {
        if progress.file == WEIGHTS {
            first.get_or_insert(progress.file_done);
        }
    };
    let snapshot = setup.watched("org/name", &mut progress, &|| false).unwrap();
    setup.assert_whole(&snapshot);
    assert_eq!(
        (first, setup.ranges()),
        (Some(123_456), vec!["bytes=123456-".to_owned()])
    );

    // All of it: no request. Too much, or another content: anew.
    let setup = Setup::new(|_| None);
    setup.leave(&bytes(300_000));
    setup.assert_whole(&setup.download("org/name").unwrap());
    assert!(setup.ranges().is_empty());
    let setup = Setup::new(|_| None);
    setup.leave(&bytes(300_001));
    setup.assert_whole(&setup.download("org/name").unwrap());
    assert_eq!(setup.ranges(), [""]);
    let setup = Setup::new(|_| None);
    setup.leave(&[7; 1_000]);
    setup.assert_whole(&setup.download("org/name").unwrap());
    assert_eq!(setup.ranges(), ["bytes=1000-", ""]);
}

#[test]
fn a_server_without_ranges_starts_anew() {
    // 200 with everything, 416, and 206 with another range than was asked for.
    for odd in [
        |_: &Request| Answer::new(200, bytes(300_000)),
        |request: &Request| match request.header("range") {
            "" => Answer::new(200, bytes(300_000)),
            _ => Answer::new(416, "").with("Content-Range", "bytes */5"),
        },
        |request: &Request| match request.header("range") {
            "" => Answer::new(200, bytes(300_000)),
            _ => Answer::new(206, bytes(300_000)).with("Content-Range", "bytes 0-299999/300000"),
        },
    ] {
        let setup = Setup::new(move |request| is_weights(request).then(|| odd(request)));
        setup.leave(&bytes(300_000)[..50_000]);
        let snapshot = setup.download("org/name").unwrap();
        setup.assert_whole(&snapshot);
    }
}

#[test]
fn a_server_that_always_cuts_and_never_resumes_does_not_keep_us() {
    let setup = Setup::new(|request| {
        is_weights(request).then(|| Answer {
            cut: Some(100_000),
            ..Answer::new(200, bytes(300_000))
        })
    });
    let message = setup.message("org/name");
    assert!(message.contains("cannot reach"), "{message}");
    assert!(setup.ranges().len() < 10);
    // Without a length that was announced, an early end is noticed as well.
    let setup = Setup::new(|request| {
        is_weights(request).then(|| Answer::new(200, "3\r\nabc\r\n0\r\n\r\n").with("Transfer-Encoding", "chunked"))
    });
    let message = setup.message("org/name");
    assert!(message.contains("ends after 3 of 300000 bytes"), "{message}");
}

#[test]
fn a_server_that_lies_about_sizes_is_caught_and_nothing_is_allocated_for_it() {
    let linked = |size: u64| {
        move |request: &Request| {
            (request.method == "HEAD" && request.path.ends_with(WEIGHTS)).then(|| {
                let etag = etag(WEIGHTS, &bytes(300_000));
                let answer = Answer::new(302, "").with("Location", "http://localhost:1/x");
                answer.with("X-Linked-Size", size).with("X-Linked-Etag", etag)
            })
        }
    };
    for size in [10, 300_001, u64::MAX] {
        let setup = Setup::new(linked(size));
        let message = setup.message("org/name");
        let words = format!("{size} bytes were announced, the server sends 300000");
        assert!(message.contains(&words), "{message}");
    }
    // More than was announced, without a length.
    let setup = Setup::new(|request| {
        let long = || format!("{:x}\r\n{}\r\n0\r\n\r\n", 400_000, "x".repeat(400_000));
        is_weights(request).then(|| Answer::new(200, long()).with("Transfer-Encoding", "chunked"))
    });
    let message = setup.message("org/name");
    assert!(message.contains("300000 bytes were announced"), "{message}");
    assert!(!setup.blobs().1.exists());
    // A range that is announced longer than what is missing.
    let setup = Setup::new(|request| {
        is_weights(request).then(|| {
            let answer = Answer::new(206, bytes(300_000)).with("Content-Range", "bytes 1000-299999/300000");
            answer.with("Content-Length", u64::MAX)
        })
    });
    setup.leave(&bytes(1_000));
    assert!(setup.download("org/name").is_err());
}

#[test]
fn wrong_content_is_discarded() {
    let setup = Setup::new(|request| {
        let mut wrong = bytes(300_000);
        wrong[200_000] ^= 1;
        is_weights(request).then(|| range(&wrong, request))
    });
    let message = setup.message("org/name");
    assert!(message.contains("checksum") && message.contains(WEIGHTS), "{message}");
    let (blob, incomplete) = setup.blobs();
    assert!(!blob.exists() && !incomplete.exists());
    assert!(!setup.repository().join("refs/main").exists());
    // A small file, by git's checksum.
    let setup = Setup::new(|request| {
        request
            .path
            .ends_with("/cache/config.json")
            .then(|| Answer::new(200, "[]"))
    });
    let message = setup.message("org/name");
    assert!(
        message.contains("config.json") && message.contains("checksum"),
        "{message}"
    );
}

#[test]
fn packed_content_is_refused_rather_than_stored() {
    let setup = Setup::new(|request| {
        is_weights(request).then(|| range(&bytes(300_000), request).with("Content-Encoding", "gzip"))
    });
    let message = setup.message("org/name");
    assert!(message.contains("\"gzip\""), "{message}");
    assert_eq!(fs::metadata(setup.blobs().1).unwrap().len(), 0);
}

#[test]
fn refusals_are_told_with_the_remedy() {
    let refused = |status: u16, code: &'static str, part: &'static str, name: &str| {
        let setup = Setup::new(move |request| {
            let answer = || Answer::new(status, r#"{"error":"Some words."}"#).with("X-Error-Code", code);
            request.path.contains(part).then(answer)
        });
        setup.message(name)
    };
    for (message, words) in [
        (
            refused(404, "RepoNotFound", "/api/", "org/name"),
            "has no model org/name: Some words; check the spelling",
        ),
        (
            refused(404, "RevisionNotFound", "/api/", "org/name@v9"),
            "has no revision v9 of org/name",
        ),
        (
            refused(404, "EntryNotFound", "resolve", "org/name"),
            "has no file config.json in org/name",
        ),
        (
            refused(401, "RepoNotFound", "/api/", "org/name"),
            "(401: Some words): check the spelling",
        ),
        (
            refused(403, "GatedRepo", "resolve", "org/name"),
            "accept its conditions at http://127.0.0.1",
        ),
        (refused(418, "", "/api/", "org/name"), "status 418: Some words"),
    ] {
        assert!(message.contains(words), "{message} lacks {words}");
        assert!(!message.contains("hf_secret"), "{message}");
    }
    // Without a token, the remedy is one.
    let setup = Setup::new(|_| Some(Answer::new(401, r#"{"error":"\u001b[31mwho?"}"#)));
    let environment = setup.environment(&[("HF_TOKEN", "")]);
    let mut watch = Watch {
        progress: &mut |_| (),
        cancelled: &|| false,
    };
    let message = locate("org/name", &environment, &mut watch).unwrap_err().to_string();
    assert!(
        message.contains("set HF_TOKEN") && !message.contains('\u{1b}'),
        "{message}"
    );
}

#[test]
fn a_busy_server_is_given_its_time() {
    let setup = Setup::new(|request| {
        let busy = request.path.contains("/api/") && request.earlier == 0;
        busy.then(|| Answer::new(429, "").with("Retry-After", 1))
    });
    let start = Instant::now();
    setup.download("org/name").unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(setup.server.count("GET", "/api/"), 2);
    // Errors of the server's pass as well, in every phase, but not for ever.
    let setup =
        Setup::new(|request| (request.earlier < 1 && !request.path.contains("/cache/")).then(|| Answer::new(503, "")));
    setup.download("org/name").unwrap();
    let setup = Setup::new(|_| Some(Answer::new(500, "")));
    let message = setup.message("org/name");
    assert!(message.contains("status 500"), "{message}");
    assert_eq!(setup.server.requests().len(), 3);
}

#[test]
fn a_slow_server_does_not_hold_up_the_end() {
    let setup = Setup::new(|request| {
        is_weights(request).then(|| Answer {
            pause: Duration::from_secs(30),
            ..range(&bytes(300_000), request)
        })
    });
    let half_way = Cell::new(None);
    let mut progress = |progress: Progress<'_>| {
        if progress.file_done == 150_000 {
            half_way.set(Some(Instant::now()));
        }
    };
    let error = setup
        .watched("org/name", &mut progress, &|| half_way.get().is_some())
        .unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    assert!(half_way.get().unwrap().elapsed() < Duration::from_secs(10));
    // What had arrived is kept for the next time.
    assert_eq!(fs::metadata(setup.blobs().1).unwrap().len(), 150_000);
}

#[test]
fn a_server_that_falls_silent_is_asked_again() {
    let setup = Setup::new(|request| {
        (is_weights(request) && request.earlier == 0).then(|| Answer {
            pause: Duration::from_secs(30),
            ..range(&bytes(300_000), request)
        })
    });
    let name = ModelName::parse("org/name").unwrap();
    let mut watch = Watch {
        progress: &mut |_| (),
        cancelled: &|| false,
    };
    let patience = Patience {
        stall: Duration::from_millis(500),
        ..patience()
    };
    let start = Instant::now();
    let snapshot = download_patiently(&name, &setup.environment(&[]), patience, &mut watch).unwrap();
    setup.assert_whole(&snapshot);
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(setup.ranges(), ["", "bytes=150000-"]);
}

#[test]
fn two_downloads_at_once_fetch_each_file_once() {
    let setup = Setup::new(|request| {
        is_weights(request).then(|| Answer {
            pause: Duration::from_millis(300),
            ..range(&bytes(300_000), request)
        })
    });
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| setup.download("org/name").unwrap()));
        for one in both {
            setup.assert_whole(&one.join().unwrap());
        }
    });
    assert_eq!(setup.ranges().len(), 1);
    assert_eq!(setup.server.count("GET", "/cache/tokenizer.json"), 1);
}

#[test]
fn offline_nothing_is_asked() {
    let setup = Setup::new(|_| None);
    let environment = setup.environment(&[("HF_HUB_OFFLINE", "1")]);
    let mut watch = Watch {
        progress: &mut |_| (),
        cancelled: &|| false,
    };
    let name = ModelName::parse("org/name").unwrap();
    for message in [
        locate("org/name", &environment, &mut watch).unwrap_err().to_string(),
        download(&name, &environment, &mut watch).unwrap_err().to_string(),
    ] {
        assert!(message.contains("HF_HUB_OFFLINE"), "{message}");
    }
    assert!(setup.server.requests().is_empty());
}

#[test]
fn a_server_that_is_not_the_hub_is_told_apart() {
    for (answer, words) in [
        (Answer::new(200, "<html>log in</html>"), "no JSON"),
        (Answer::new(200, r#"{"sha": "../../x", "siblings": []}"#), "no commit"),
        (
            Answer::new(200, format!(r#"{{"sha": "{COMMIT}"}}"#)),
            "no list of files",
        ),
        (Answer::new(302, ""), "a redirect to nowhere"),
        (
            Answer::new(302, "").with("Location", "file:///etc/passwd"),
            "a redirect to nowhere",
        ),
        (Answer::new(302, "").with("Location", "?again"), "redirects in a row"),
    ] {
        let setup = Setup::new(move |_| Some(answer.clone()));
        let message = setup.message("org/name");
        assert!(
            message.contains(words) && message.contains("HF_ENDPOINT"),
            "{message} lacks {words}"
        );
    }
    for (name, value, words) in [
        ("X-Linked-Etag", "../../../evil", "no etag"),
        ("X-Linked-Size", "-1", "no size"),
        ("X-Repo-Commit", "ffff", "\"ffff\" where the commit"),
    ] {
        let setup = Setup::new(move |request| {
            let answer = || {
                Answer::new(302, "")
                    .with("Location", "http://localhost:1/")
                    .with(name, value)
            };
            (request.method == "HEAD").then(|| match name {
                "X-Linked-Size" => answer().with("X-Linked-Etag", "abc"),
                _ => answer(),
            })
        });
        let message = setup.message("org/name");
        assert!(message.contains(words), "{message} lacks {words}");
    }
    // No server at all.
    let setup = Setup::new(|_| None);
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let environment = setup.environment(&[("HF_ENDPOINT", &format!("http://{closed}"))]);
    let name = ModelName::parse("org/name").unwrap();
    let mut watch = Watch {
        progress: &mut |_| (),
        cancelled: &|| false,
    };
    let message = download_patiently(&name, &environment, patience(), &mut watch)
        .unwrap_err()
        .to_string();
    assert!(message.contains(&format!("cannot reach http://{closed}")), "{message}");
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let setup = Setup::new(|_| None);
    fs::create_dir_all(setup.directory.path().join("hub")).unwrap();
    fs::write(setup.directory.path().join("hub/.locks"), "a file").unwrap();
    let message = setup.message("org/name");
    assert!(message.contains(".locks") && message.contains("HF_HOME"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_the_remedy() {
    let setup = Setup::new(|_| None);
    let (_, incomplete) = setup.blobs();
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    // Every write to /dev/full fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", incomplete).unwrap();
    let message = setup.message("org/name");
    assert!(
        message.contains("the disk is full") && message.contains("HF_HOME"),
        "{message}"
    );
}
