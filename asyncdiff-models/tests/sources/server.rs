//! A small server that speaks as the Hub does about one model.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use super::files::every_file;

/// What the server does, changeable while it runs.
#[derive(Clone, Default)]
pub struct Model {
    pub commit: String,
    /// By path below the model.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Where set, whoever asks for a file must have it.
    pub token: Option<String>,
    /// Answers for this file break off after so many bytes.
    pub cut: Option<(String, usize)>,
    /// Whether ranges are ignored, as a bad proxy does.
    pub ignores_ranges: bool,
}

pub struct Server {
    pub address: String,
    model: Arc<Mutex<Model>>,
    /// The files that were asked for, with the first byte that was wanted; not the questions about them.
    log: Arc<Mutex<Vec<(String, usize)>>>,
}

pub const ID: &str = "someone/some-model";

impl Server {
    /// Serves the files of a folder.
    pub fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let model = Arc::new(Mutex::new(Model {
            commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            files: every_file(folder),
            ..Model::default()
        }));
        let log = Arc::default();
        let server = Self {
            address,
            model,
            log,
        };
        let (model, log) = (Arc::clone(&server.model), Arc::clone(&server.log));
        // It ends with the test program.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (model, log) = (model.lock().unwrap().clone(), Arc::clone(&log));
                thread::spawn(move || answer(stream.unwrap(), &model, &log));
            }
        });
        server
    }

    pub fn change(&self, change: impl FnOnce(&mut Model)) {
        change(&mut self.model.lock().unwrap());
    }

    /// The files that were asked for since the last call.
    pub fn downloads(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

/// A name for a content, as the Hub's etags are.
pub fn etag(bytes: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn answer(mut stream: TcpStream, model: &Model, log: &Mutex<Vec<(String, usize)>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else {
        return;
    };
    let header = |name: &str| {
        lines.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let mut send = |status: &str, headers: &[(&str, String)], body: &[u8], cut: usize| {
        let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        // Whoever has heard enough hangs up.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&body[..cut.min(body.len())]);
    };
    let uncut = usize::MAX;
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        if revision != "main" && revision != model.commit {
            return send("404 Not Found", &[], b"", uncut);
        }
        let siblings: Vec<_> = model
            .files
            .keys()
            .map(|name| json!({"rfilename": name}))
            .collect();
        let body = json!({"id": ID, "sha": model.commit, "siblings": siblings}).to_string();
        return send("200 OK", &[], body.as_bytes(), uncut);
    }
    let from_hub = path.strip_prefix(&format!("/{ID}/resolve/{}/", model.commit));
    let (name, large) = match (from_hub, path.strip_prefix("/storage/")) {
        (Some(name), _) => (name, false),
        (_, Some(name)) => (name, true),
        _ => return send("404 Not Found", &[], b"", uncut),
    };
    let Some(bytes) = model.files.get(name) else {
        return send("404 Not Found", &[], b"", uncut);
    };
    if !large && let Some(token) = &model.token {
        match header("authorization") {
            Some(given) if given == format!("Bearer {token}") => {}
            Some(_) => return send("403 Forbidden", &[], b"", uncut),
            None => return send("401 Unauthorized", &[], b"", uncut),
        }
    }
    let mut headers = vec![("x-repo-commit", model.commit.clone())];
    // Large files are elsewhere, as on the Hub.
    if !large && name.ends_with(".safetensors") {
        let host = header("host").unwrap();
        headers.push(("x-linked-etag", format!("\"{}\"", etag(bytes))));
        headers.push(("etag", "\"of the redirection\"".to_owned()));
        headers.push(("location", format!("http://{host}/storage/{name}")));
        return send("302 Found", &headers, b"", uncut);
    }
    headers.push(("etag", format!("\"{}\"", etag(bytes))));
    let range = header("range").unwrap_or_default();
    let (start, end) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
    let is_download = end == bytes.len();
    if is_download {
        log.lock().unwrap().push((name.to_owned(), start));
    }
    if start >= bytes.len() {
        return send("416 Range Not Satisfiable", &[], b"", uncut);
    }
    let cut = match &model.cut {
        Some((file, length)) if file == name && is_download => *length,
        _ => uncut,
    };
    if model.ignores_ranges && is_download {
        return send("200 OK", &headers, bytes, cut);
    }
    let content_range = format!("bytes {start}-{}/{}", end - 1, bytes.len());
    headers.push(("content-range", content_range));
    send("206 Partial Content", &headers, &bytes[start..end], cut);
}
