//! A service for a test, and a client that does what it is told, wrong or right.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use asyncdiff_models::image::Image;
use asyncdiff_models::{Checkpoint, MotionAdapter, StableDiffusion};
use asyncdiff_serve::{Devices, LoraSource, ModelSource, Server, Settings};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub const PROMPT: &str = "red apple, fluent style";

/// A service that ends with the test.
pub struct Service {
    server: Option<Server>,
    pub address: SocketAddr,
}

/// The embedded model with its motion adapter.
pub fn pipeline() -> Result<StableDiffusion, asyncdiff_models::Error> {
    let motion = MotionAdapter::open(Checkpoint::embedded_motion_adapter())?;
    StableDiffusion::open(Checkpoint::embedded())?.with_motion(motion)
}

pub fn source(name: &str) -> ModelSource {
    ModelSource {
        name: name.to_owned(),
        open: Arc::new(|| Ok(pipeline()?)),
    }
}

/// The settings of most tests.
pub fn settings() -> Settings {
    let mut settings = Settings::new(vec![source("embedded")]);
    settings.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.devices = vec![Devices {
        names: "cpu".to_owned(),
        threads: Some(1),
    }];
    // Pictures to the last bit, whatever other tests ask for.
    settings.limits.together = 1;
    settings
}

/// A LoRA for the embedded model: that of its motion adapter.
pub fn lora() -> LoraSource {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../asyncdiff-models/embedded/motion_adapter/pytorch_lora_weights.safetensors"
    );
    LoraSource {
        name: "motion".to_owned(),
        path: path.into(),
    }
}

impl Service {
    pub fn start(settings: Settings) -> Self {
        let server = Server::start(settings).unwrap();
        Self {
            address: server.address(),
            server: Some(server),
        }
    }

    /// One for all tests that change nothing of it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Service> = OnceLock::new();
        SHARED.get_or_init(|| {
            let mut settings = settings();
            settings.loras = vec![lora()];
            settings.aliases = vec!["dall-e-3".to_owned()];
            settings.devices[0].names = "cpu:2".to_owned();
            settings.devices[0].threads = Some(2);
            settings.models.push(source("second"));
            Self::start(settings)
        })
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Waits until it has ended.
    pub fn wait(mut self) {
        self.server.take().unwrap().wait().unwrap();
    }

    pub fn request(&self, method: &str, path: &str) -> Request<'_> {
        Request {
            service: self,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            host: self.address.to_string(),
            body: Vec::new(),
        }
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path).send()
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path).json(body).send()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stopper().stop();
            server.wait().unwrap();
        }
    }
}

/// Part of a form: its name, the name of the file if it is one, its bytes.
pub type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

pub struct Request<'a> {
    service: &'a Service,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    host: String,
    body: Vec<u8>,
}

impl Request<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json")
            .body(body.to_string().into_bytes())
    }

    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// `multipart/form-data`.
    pub fn form(self, parts: &[Part<'_>]) -> Self {
        let mut body = Vec::new();
        for (name, file, bytes) in parts {
            let file = file
                .map(|file| format!("; filename=\"{file}\""))
                .unwrap_or_default();
            let head = format!(
                "--border\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n"
            );
            body.extend(head.into_bytes());
            body.extend_from_slice(bytes);
            body.extend(b"\r\n");
        }
        body.extend(b"--border--\r\n");
        self.header("Content-Type", "multipart/form-data; boundary=border")
            .body(body)
    }

    /// Sends it, and reads nothing yet.
    pub fn open(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.service.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.method,
            self.path,
            self.host,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        // Whoever refuses a request may not have read all of it.
        let _ = stream.write_all(&self.body);
        stream
    }

    pub fn send(&self) -> Response {
        Response::read(self.open())
    }

    /// Sends it, and reads the events of the answer one by one.
    pub fn events(&self) -> Events {
        let mut lines = BufReader::new(self.open());
        let status = status(&mut lines);
        assert_eq!(status.0, 200);
        Events { lines }
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

fn status(lines: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let code = line
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no answer: {line:?}"));
    let code = code.parse().unwrap();
    let mut headers = Vec::new();
    loop {
        line.clear();
        lines.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => return (code, headers),
        }
    }
}

impl Response {
    pub fn read(stream: TcpStream) -> Self {
        let mut lines = BufReader::new(stream);
        let (status, headers) = status(&mut lines);
        let mut body = Vec::new();
        lines.read_to_end(&mut body).unwrap();
        let mut response = Self {
            status,
            headers,
            body,
        };
        if response.header("transfer-encoding") == Some("chunked") {
            response.body = unchunked(&response.body);
        }
        response
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of an answer of that status.
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

/// Server-sent events.
pub struct Events {
    lines: BufReader<TcpStream>,
}

impl Iterator for Events {
    type Item = Value;

    /// The data of the next event.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // Between them are the sizes of chunks.
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }
}

/// The bytes in base64.
pub fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    let coded = text.split_once(";base64,").map_or(text, |(_, coded)| coded);
    STANDARD.decode(coded).unwrap()
}

pub fn picture(bytes: &[u8]) -> Image {
    asyncdiff_media::picture::from_bytes(bytes, 1 << 24).unwrap()
}

pub fn png(image: &Image) -> Vec<u8> {
    asyncdiff_media::picture::to_bytes(asyncdiff_media::picture::Format::Png, image, "", None)
        .unwrap()
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A picture of slanting colours.
pub fn slants(width: usize, height: usize) -> Image {
    let pixel = |index: usize| {
        let (x, y) = (index % width, index / width);
        [(x * 3) as u8, (y * 3) as u8, ((x + y) * 2) as u8]
    };
    Image {
        width,
        height,
        rgb: (0..width * height).flat_map(pixel).collect(),
    }
}

/// A PNG file with an alpha channel: transparent on the right.
pub fn transparent_right(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width as u32, image.height as u32);
    encoder.set_color(png::ColorType::Rgba);
    let pixels = image.rgb.as_chunks::<3>().0.iter().enumerate();
    let pixels: Vec<u8> = pixels
        .flat_map(|(index, [r, g, b])| {
            let right = index % image.width >= image.width / 2;
            [*r, *g, *b, if right { 0 } else { 255 }]
        })
        .collect();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
    bytes
}
