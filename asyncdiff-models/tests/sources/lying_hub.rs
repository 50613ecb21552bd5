//! A Hub that lies: what it cannot make of whoever believes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_models::hub::{Hub, HubError};

use super::files::{checkpoint, every_file};
use super::hub::{Setting, WEIGHTS};
use super::server::{Answer, Asked, Body, ID, Server};

const CONFIG: &str = "unet/config.json";

/// The requests that a lie may be told at: for what the model is, for a small file, for a large one, for its bytes.
const REQUESTS: [fn(&Asked) -> bool; 4] = [
    |asked| asked.path.starts_with("/api/"),
    |asked| asked.path.starts_with(&format!("/{ID}/")) && asked.path.ends_with(CONFIG),
    |asked| asked.path.starts_with(&format!("/{ID}/")) && asked.path.ends_with(WEIGHTS),
    |asked| asked.path.starts_with("/storage/") && asked.path.ends_with(WEIGHTS),
];

/// A Hub that lies wherever `at` says so.
fn lying(
    at: fn(&Asked) -> bool,
    lie: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
) -> Setting {
    let mut setting = Setting::new(|_| {});
    setting.hub.timeout = Duration::from_secs(1);
    setting.server.change(|model| {
        model.lie = Some(Arc::new(move |asked: &Asked, honest| match at(asked) {
            true => lie(asked, honest),
            false => honest,
        }));
    });
    setting
}

/// Where files are, below a folder, that links are not followed from.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files
}

impl Setting {
    /// Whatever came of it, nothing is outside the cache, and nothing in it that is not what it should be.
    fn nothing_astray(&self) {
        let outside = fs::read_dir(self.folder.path()).unwrap();
        let mut outside: Vec<_> = outside.map(|entry| entry.unwrap().file_name()).collect();
        outside.sort();
        outside.retain(|name| name != "cache");
        assert_eq!(outside, ["served"]);
        let honest = every_file(&checkpoint());
        for path in files(&self.hub.cache) {
            let inside = path.strip_prefix(&self.hub.cache).unwrap();
            let text = inside.to_str().unwrap();
            assert!(!text.contains("escaped"), "{text}");
            if text.ends_with(".lock") || text.ends_with(".incomplete") || text.contains("/refs/") {
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            assert!(honest.values().any(|known| *known == bytes), "{text}");
        }
    }

    /// The refusal, within some seconds.
    fn soon(&self) -> String {
        let start = Instant::now();
        let error = match self.fetch() {
            Err(error) => error.to_string(),
            Ok(_) => panic!("this should have failed"),
        };
        assert!(start.elapsed() < Duration::from_secs(20), "{error}");
        assert!(error.len() < 600, "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
        self.nothing_astray();
        error
    }
}

#[test]
fn the_token_goes_to_no_other_host_and_to_no_other_port() {
    let folder = checkpoint();
    for (index, at) in REQUESTS.into_iter().enumerate() {
        // Another port; another name of the same host with the same port.
        for other_name in [false, true] {
            let other = Server::start(&folder);
            let address = other.address.clone();
            let setting = lying(at, move |asked, honest| {
                let address = match (other_name, asked.header("host")) {
                    (true, Some(host)) => {
                        if host.starts_with("localhost") {
                            return honest;
                        }
                        format!("http://{}", host.replace("127.0.0.1", "localhost"))
                    }
                    _ => address.clone(),
                };
                Answer {
                    status: "302 Found".to_owned(),
                    ..honest
                }
                .with("location", &format!("{address}{}", asked.path))
            });
            let with_token = Hub {
                token: Some("secret".to_owned()),
                ..setting.hub.clone()
            };
            let model = with_token.fetch(&ID.parse().unwrap(), None, &mut ());
            model.unwrap_or_else(|error| panic!("{index}: {error}"));
            let own = setting.server.requests();
            let (localhost, own): (Vec<_>, Vec<_>) = own
                .into_iter()
                .partition(|asked| asked.header("host").unwrap().starts_with("localhost"));
            let elsewhere = [localhost, other.requests()].concat();
            assert!(!elsewhere.is_empty(), "{index}");
            for asked in elsewhere {
                assert_eq!(asked.header("authorization"), None, "{index}: {asked:?}");
            }
            let known = own
                .iter()
                .filter(|asked| asked.header("authorization").is_some());
            assert!(known.count() > 3);
            setting.nothing_astray();
        }
    }
}

#[test]
fn redirections_that_lead_nowhere_are_not_followed() {
    for at in REQUESTS {
        for (location, expected) in [
            ("ftp://127.0.0.1/x", "no address of a server"),
            ("file:///etc/passwd", "no address"),
            ("http://user:password@127.0.0.1/x", "no address of a server"),
            ("http://127.0.0.1:99999/x", "no address"),
            ("x", "no address"),
            ("", "no address"),
            ("http://", "no address"),
        ] {
            let setting = lying(at, move |_, _| {
                Answer::new("302 Found", b"").with("location", location)
            });
            let error = setting.soon();
            assert!(error.contains(expected), "{location}: {error}");
        }
        let setting = lying(at, |_, _| Answer::new("302 Found", b""));
        assert!(setting.soon().contains("to nowhere"));
        // In circles.
        let setting = lying(at, |asked, _| {
            Answer::new("302 Found", b"").with("location", &asked.path)
        });
        assert!(setting.soon().contains("more than 10 redirections"));
        assert_eq!(
            setting
                .server
                .requests()
                .iter()
                .filter(|asked| at(asked))
                .count(),
            11
        );
    }
}

#[test]
fn headers_and_fields_that_hold_paths_lead_nowhere() {
    let absolute = std::env::temp_dir().join("escaped");
    let absolute = absolute.to_str().unwrap().to_owned();
    for path in [
        "../../../../escaped",
        "..",
        "escaped/../..",
        &absolute,
        "..\\escaped",
        "",
        "\u{1}",
        "%2e%2e",
    ] {
        for (at, header) in [
            (1, "etag"),
            (1, "x-linked-etag"),
            (2, "x-linked-etag"),
            (1, "x-repo-commit"),
            (2, "x-repo-commit"),
        ] {
            let value = path.to_owned();
            let setting = lying(REQUESTS[at], move |_, honest| honest.with(header, &value));
            let error = setting.soon();
            assert!(error.contains("answers"), "{header}: {path}: {error}");
            assert!(!Path::new(&absolute).exists());
        }
        // The commit that the model is said to be at.
        let setting = Setting::new(|_| {});
        setting
            .server
            .change(|model| model.commit = path.to_owned());
        let error = setting.soon();
        assert!(error.contains("with the commit"), "{error}");
    }
    // Names of files in the index of shards.
    let setting = Setting::new(|model| {
        fs::remove_file(model.join(WEIGHTS)).unwrap();
        let index = format!("{WEIGHTS}.index.json");
        let map = r#"{"weight_map": {"a": "../../../../escaped.safetensors"}}"#;
        fs::write(model.join(index), map).unwrap();
    });
    let error = setting.fetch().unwrap_err().to_string();
    assert!(error.contains("no safetensors file beside it"), "{error}");
    // Names of parts in model_index.json.
    let setting = Setting::new(|model| {
        let index = model.join("model_index.json");
        let text = fs::read_to_string(&index).unwrap();
        let parts = r#"{"../escaped": ["diffusers", "X"], "/escaped": ["diffusers", "X"],"#;
        fs::write(&index, text.replacen('{', parts, 1)).unwrap();
    });
    setting.fetch().unwrap();
    assert!(
        !setting
            .server
            .downloads()
            .iter()
            .any(|(name, _)| name.contains("escaped"))
    );
}

#[test]
fn bodies_without_end_are_not_read_to_it() {
    for (index, at) in REQUESTS.into_iter().enumerate() {
        let setting = lying(at, |_, honest| Answer {
            body: Body::Endless,
            ..honest
        });
        // No more is read than was announced, and that is another file.
        if index != 2 {
            let error = setting.soon();
            let expected = ["something else than expected", "is no JSON", "", "SHA-256"][index];
            assert!(error.contains(expected), "{error}");
        }
        // Nothing was announced.
        let setting = lying(at, |_, honest| {
            Answer {
                body: Body::Endless,
                ..honest
            }
            .without("content-length")
        });
        let error = match index {
            // Its body is not read.
            2 => continue,
            _ => setting.soon(),
        };
        let expected = [
            "more than 33554432 bytes",
            "without a size",
            "",
            "with more than",
        ][index];
        assert!(error.contains(expected), "{error}");
        let size: u64 = files(&setting.hub.cache)
            .iter()
            .map(|file| fs::symlink_metadata(file).unwrap().len())
            .sum();
        assert!(size < 16 << 20);
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_before_a_byte_is_read() {
    for size in ["18446744073709551615", "1000000000000000"] {
        let setting = lying(REQUESTS[2], move |_, honest| {
            honest.with("x-linked-size", size)
        });
        assert!(setting.soon().contains("has room for"));
        let setting = lying(REQUESTS[1], move |_, honest| {
            honest.with("content-length", size)
        });
        let error = setting.soon();
        assert!(error.contains(&format!("with {size} bytes")), "{error}");
    }
    for size in ["-1", "x", "99999999999999999999999", ""] {
        let setting = lying(REQUESTS[2], move |_, honest| {
            honest.with("x-linked-size", size)
        });
        let error = setting.soon();
        assert!(error.contains("a header x-linked-size"), "{error}");
    }
    // Two sizes of one file.
    let setting = lying(REQUESTS[2], |_, honest| {
        honest.with("x-linked-size", "12345")
    });
    assert!(setting.soon().contains("instead of 12345"));
}

#[test]
fn servers_that_are_silent_or_slow_are_given_up() {
    for (index, at) in REQUESTS.into_iter().enumerate() {
        for body in [Body::Silence, Body::Drops] {
            // Of the redirection, nobody waits for the body.
            if index == 2 {
                continue;
            }
            let setting = lying(at, move |_, honest| Answer {
                body: body.clone(),
                ..honest
            });
            let error = setting.soon();
            assert!(error.contains("takes too long"), "{index}: {error}");
        }
        // Not even a whole header.
        let setting = lying(at, |_, _| {
            Answer {
                status: "200 OK\r\nx-long: ".to_owned() + &"x".repeat(1000),
                headers: Vec::new(),
                body: Body::Silence,
            }
            .with("x", "y\r\nz")
        });
        setting.fetch().unwrap_err();
        setting.nothing_astray();
    }
    // One that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setting = Setting::new(|_| {});
    let hub = Hub {
        endpoint: format!("http://{}", silent.local_addr().unwrap()),
        timeout: Duration::from_secs(1),
        ..setting.hub.clone()
    };
    let start = Instant::now();
    let error = hub.fetch(&ID.parse().unwrap(), None, &mut ()).unwrap_err();
    assert!(matches!(error, HubError::NoNetwork { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn short_bodies_are_continued_later_and_wrong_ones_thrown_away() {
    // One that ends early, without having said so.
    for at in [REQUESTS[1], REQUESTS[3]] {
        let setting = lying(at, |_, mut honest| {
            if let Body::Bytes(bytes) = &mut honest.body {
                bytes.truncate(bytes.len() / 2);
            }
            honest
        });
        let error = setting.soon();
        assert!(error.contains("broke off"), "{error}");
        setting.server.change(|model| model.lie = None);
        setting.fetch().unwrap();
        setting.nothing_astray();
    }
    // Bytes of the right number that are others.
    let setting = lying(REQUESTS[3], |_, mut honest| {
        if let Body::Bytes(bytes) = &mut honest.body {
            bytes[1000] ^= 1;
        }
        honest
    });
    let error = setting.soon();
    assert!(error.contains("SHA-256"), "{error}");
    let remains = files(&setting.hub.cache);
    assert!(
        !remains
            .iter()
            .any(|file| file.to_str().unwrap().ends_with(".incomplete"))
    );
    setting.server.change(|model| model.lie = None);
    setting.fetch().unwrap();
    setting.nothing_astray();
}

#[test]
fn a_range_that_was_not_asked_for_is_refused() {
    for range in [
        "bytes 0-9/10",
        "bytes 5-/",
        "x",
        "",
        "bytes 99999999999999999999-1/2",
    ] {
        let setting = lying(REQUESTS[3], move |_, honest| {
            Answer {
                status: "206 Partial Content".to_owned(),
                ..honest
            }
            .with("content-range", range)
        });
        let error = setting.soon();
        assert!(error.contains("with the range"), "{error}");
    }
}

#[test]
fn web_pages_and_errors_are_not_kept_as_files() {
    let page = b"<!DOCTYPE html><html><body>Log in to the hotel</body></html>";
    for (index, at) in REQUESTS.into_iter().enumerate() {
        for kind in ["text/html; charset=utf-8", "application/json"] {
            let setting = lying(at, move |_, honest| {
                let size = page.len().to_string();
                Answer {
                    body: Body::Bytes(page.to_vec()),
                    status: "200 OK".to_owned(),
                    ..honest
                }
                .with("content-type", kind)
                .with("content-length", &size)
                .without("location")
            });
            setting.soon();
            setting.server.change(|model| model.lie = None);
            setting
                .fetch()
                .unwrap_or_else(|error| panic!("{index}: {error}"));
            setting.nothing_astray();
        }
        for status in [
            "500 Internal Server Error",
            "503 Service Unavailable",
            "429 Too Many Requests",
            "418 I'm a teapot",
            "204 No Content",
            "304 Not Modified",
            "101 Switching Protocols",
        ] {
            let setting = lying(at, move |_, _| Answer::new(status, b"oops"));
            setting.soon();
        }
        let setting = lying(at, |_, honest| honest.with("content-encoding", "gzip"));
        assert!(setting.soon().contains("packed"));
    }
}

#[test]
fn facts_that_are_no_facts_are_refused() {
    let deep = "[".repeat(1 << 20);
    let many = format!(r#"{{"sha": "{}", "siblings": []}}"#, "a".repeat(1 << 20));
    for body in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"sha": 5, "siblings": []}"#,
        r#"{"sha": "a", "siblings": {}}"#,
        &deep,
        &many,
        "\u{feff}{",
    ] {
        let body = body.to_owned();
        let setting = lying(REQUESTS[0], move |_, _| {
            Answer::new("200 OK", body.as_bytes())
        });
        setting.soon();
    }
    // Nothing that could be HTTP.
    for at in REQUESTS {
        let setting = lying(at, |_, honest| Answer {
            status: "what?".to_owned(),
            ..honest
        });
        setting.soon();
        let huge = |_: &Asked, honest: Answer| honest.with("x-huge", &"x".repeat(1 << 20));
        lying(at, huge).soon();
    }
}

#[test]
fn addresses_and_tokens_that_cannot_be_are_refused() {
    let setting = Setting::new(|_| {});
    let refused = |hub: Hub, expected: &str| {
        let error = hub
            .fetch(&ID.parse().unwrap(), None, &mut ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("secret"), "{error}");
    };
    for endpoint in [
        "",
        "x",
        "ftp://example.org",
        "http://",
        "https://user:secret@example.org",
        "http://a b",
    ] {
        let hub = Hub {
            endpoint: endpoint.to_owned(),
            ..setting.hub.clone()
        };
        if !endpoint.contains("secret") {
            refused(hub, "no address");
        }
    }
    refused(
        Hub {
            token: Some("secret\n".to_owned()),
            ..setting.hub.clone()
        },
        "HF_TOKEN",
    );
    assert_eq!(setting.server.requests().len(), 0);
}
