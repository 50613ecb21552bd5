//! A small server that speaks as the Hub does about one model.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::files::every_file;

/// What the server does, changeable while it runs.
#[derive(Clone, Default)]
pub struct Model {
    /// What becomes of its honest answers.
    pub lie: Option<Lie>,
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

/// Makes another answer of an honest one.
pub type Lie = Arc<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: String,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Bytes(Vec<u8>),
    /// Zeros until nobody listens.
    Endless,
    /// A zero now and then.
    Drops,
    /// Nothing more is ever sent.
    Silence,
}

impl Answer {
    pub fn new(status: &str, body: &[u8]) -> Self {
        Self {
            status: status.to_owned(),
            headers: vec![("content-length".to_owned(), body.len().to_string())],
            body: Body::Bytes(body.to_vec()),
        }
    }

    /// The same with a header, in place of one of that name.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut headers = headers.iter();
    headers.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value.as_str()))
}

#[derive(Default)]
struct Log {
    /// The files that were asked for, with the first byte that was wanted; not the questions about them.
    downloads: Vec<(String, usize)>,
    requests: Vec<Asked>,
}

pub struct Server {
    pub address: String,
    model: Arc<Mutex<Model>>,
    log: Arc<Mutex<Log>>,
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
        std::mem::take(&mut self.log.lock().unwrap().downloads)
    }

    /// All requests since the last call.
    pub fn requests(&self) -> Vec<Asked> {
        std::mem::take(&mut self.log.lock().unwrap().requests)
    }
}

/// The name of a content, as large files of the Hub have it.
pub fn etag(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(stream: TcpStream, model: &Model, log: &Mutex<Log>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut asked = Asked::default();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => asked.headers.push((name.to_owned(), value.to_owned())),
            None => asked.path = line.split(' ').nth(1).unwrap().to_owned(),
        }
    }
    log.lock().unwrap().requests.push(asked.clone());
    let mut answer = honest(&asked, model, log);
    if let Some(lie) = &model.lie {
        answer = lie(&asked, answer);
    }
    // Whoever has heard enough hangs up.
    let _ = send(stream, &answer);
}

fn send(mut stream: TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    match &answer.body {
        Body::Bytes(bytes) => stream.write_all(bytes),
        Body::Endless => loop {
            stream.write_all(&[0; 1 << 16])?;
        },
        Body::Drops => loop {
            stream.write_all(&[0])?;
            thread::sleep(Duration::from_millis(50));
        },
        Body::Silence => loop {
            thread::park();
        },
    }
}

/// What an honest Hub says.
fn honest(asked: &Asked, model: &Model, log: &Mutex<Log>) -> Answer {
    let path = asked.path.as_str();
    let not_found = || Answer::new("404 Not Found", b"");
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        if revision != "main" && revision != model.commit {
            return not_found();
        }
        let siblings: Vec<_> = model
            .files
            .keys()
            .map(|name| json!({"rfilename": name}))
            .collect();
        let body = json!({"id": ID, "sha": model.commit, "siblings": siblings}).to_string();
        return Answer::new("200 OK", body.as_bytes());
    }
    let from_hub = path.strip_prefix(&format!("/{ID}/resolve/{}/", model.commit));
    let (name, large) = match (from_hub, path.strip_prefix("/storage/")) {
        (Some(name), _) => (name, false),
        (_, Some(name)) => (name, true),
        _ => return not_found(),
    };
    let Some(bytes) = model.files.get(name) else {
        return not_found();
    };
    if !large && let Some(token) = &model.token {
        match asked.header("authorization") {
            Some(given) if given == format!("Bearer {token}") => {}
            Some(_) => return Answer::new("403 Forbidden", b""),
            None => return Answer::new("401 Unauthorized", b""),
        }
    }
    // Large files are elsewhere, as on the Hub.
    if !large && name.ends_with(".safetensors") {
        let host = asked.header("host").unwrap();
        return Answer::new("302 Found", b"")
            .with("x-repo-commit", &model.commit)
            .with("x-linked-etag", &format!("\"{}\"", etag(bytes)))
            .with("x-linked-size", &bytes.len().to_string())
            .with("etag", "\"of the redirection\"")
            .with("location", &format!("http://{host}/storage/{name}"));
    }
    let range = asked.header("range").map(|range| {
        let range = range.strip_prefix("bytes=").unwrap();
        range.strip_suffix('-').unwrap().parse().unwrap()
    });
    let start = range.unwrap_or(0);
    let mut log = log.lock().unwrap();
    log.downloads.push((name.to_owned(), start));
    let mut answer = match range {
        Some(start) if start >= bytes.len() => {
            return Answer::new("416 Range Not Satisfiable", b"");
        }
        Some(start) if !model.ignores_ranges => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::new("206 Partial Content", &bytes[start..]).with("content-range", &range)
        }
        _ => Answer::new("200 OK", bytes),
    };
    if let Some((_, length)) = model.cut.as_ref().filter(|(file, _)| file == name)
        && let Body::Bytes(bytes) = &mut answer.body
    {
        bytes.truncate(*length);
    }
    answer
        .with("x-repo-commit", &model.commit)
        .with("etag", &format!("\"{}\"", git_blob(bytes)))
}

/// As the etags of small files: 40 digits.
fn git_blob(bytes: &[u8]) -> String {
    etag(bytes)[..40].to_owned()
}
