//! The service, as a real process.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::sandbox::{Sandbox, pixels};

const PROMPT: &str = "red apple, fluent style";

struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(sandbox: &Sandbox, more: &[&str]) -> Self {
        let args = [&["serve", "--listen", "127.0.0.1:0", "--log", "warn"], more].concat();
        let mut child = sandbox
            .command(&args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening at http://");
        let address = address
            .unwrap_or_else(|| panic!("it said {line:?}"))
            .to_owned();
        Self { child, address }
    }

    /// The status and the body of an answer.
    fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let status = std::str::from_utf8(&answer[9..12])
            .unwrap()
            .parse()
            .unwrap();
        (status, answer[end + 4..].to_vec())
    }

    /// Asks it to end, and waits for that; whether it has ended well.
    fn end(mut self) -> bool {
        let command = format!("kill -TERM {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &command])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap().success()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn pictures_are_those_of_generate() {
    let sandbox = Sandbox::new();
    sandbox.ok(&[
        "generate",
        PROMPT,
        "--quiet",
        "--steps",
        "4",
        "--seed",
        "9",
        "--guidance-scale",
        "2.5",
        "--scheduler",
        "euler",
        "--negative-prompt",
        "flat style",
        "-o",
        "here.png",
    ]);
    fs::write(sandbox.path("key"), "sesame\n").unwrap();
    let service = Service::start(&sandbox, &["--api-key-file", "key"]);
    let body = json!({
        "prompt": PROMPT, "num_inference_steps": 4, "seed": 9, "guidance_scale": 2.5, "scheduler": "euler",
        "negative_prompt": "flat style", "response_format": "url",
    });
    let generations = "/v1/images/generations";
    assert_eq!(
        service
            .ask("POST", generations, "wrong", &body.to_string())
            .0,
        401
    );
    let (status, answer) = service.ask("POST", generations, "sesame", &body.to_string());
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let url = answer["data"][0]["url"].as_str().unwrap();
    let path = url.strip_prefix("http://localhost").unwrap();
    let (status, file) = service.ask("GET", path, "", "");
    assert_eq!(status, 200);
    fs::write(sandbox.path("there.png"), file).unwrap();
    assert_eq!(
        pixels(&sandbox.path("there.png")),
        pixels(&sandbox.path("here.png"))
    );
    assert!(service.end());
}

#[test]
fn models_of_a_folder_have_names() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sd15");
    fs::create_dir(sandbox.path("models")).unwrap();
    fs::rename(model, sandbox.path("models/small")).unwrap();
    // Two without weights: the first model is loaded when the service starts, another one when it is asked for.
    for name in ["broken", "without"] {
        let model = sandbox.model("sd15");
        let weights = "unet/diffusion_pytorch_model.safetensors";
        fs::remove_file(model.join(weights)).unwrap();
        fs::rename(model, sandbox.path(&format!("models/{name}"))).unwrap();
    }
    fs::create_dir(sandbox.path("loras")).unwrap();
    fs::write(sandbox.path("loras/ink.safetensors"), "").unwrap();
    let service = Service::start(
        &sandbox,
        &["--models-dir", "models", "--loras-dir", "loras"],
    );
    let (status, models) = service.ask("GET", "/v1/models", "", "");
    assert_eq!(status, 200);
    let models: Value = serde_json::from_slice(&models).unwrap();
    let names = models["data"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["small", "without"]);
    let taken = r#"{"sd_model_checkpoint": "without"}"#;
    let (status, answer) = service.ask("POST", "/sdapi/v1/options", "", taken);
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        status == 400 && answer.contains("without"),
        "{status} {answer}"
    );
    assert!(!answer.contains("models/"), "{answer}");
    let (_, options) = service.ask("GET", "/sdapi/v1/options", "", "");
    let options: Value = serde_json::from_slice(&options).unwrap();
    assert_eq!(options["sd_model_checkpoint"], "small");
    let (_, loras) = service.ask("GET", "/sdapi/v1/loras", "", "");
    let loras: Value = serde_json::from_slice(&loras).unwrap();
    assert_eq!(loras[0]["name"], "ink");
}

#[test]
fn what_is_not_safe_or_not_possible_is_an_error() {
    let sandbox = Sandbox::new();
    let fails = |more: &[&str]| sandbox.fails(&[&["serve"], more].concat());
    assert!(fails(&["--listen", "0.0.0.0:0"]).contains("--no-auth"));
    assert!(fails(&["--api-key-file", "nothing"]).contains("nothing"));
    let named = &["--listen", "localhost:0", "--api-key-file", "nothing"];
    assert!(fails(named).contains("nothing"));
    fs::write(sandbox.path("empty"), "\n").unwrap();
    assert!(fails(&["--api-key-file", "empty"]).contains("the key is empty"));
    assert!(fails(&["--models-dir", "nowhere"]).contains("nowhere"));
    fs::create_dir(sandbox.path("nothing-in-it")).unwrap();
    assert!(
        fails(&["--models-dir", "nothing-in-it"]).contains("there is no model in nothing-in-it")
    );
    assert!(fails(&["--devices", "abacus"]).contains("abacus"));
    assert!(fails(&["--allow-origin", "chat.local"]).contains("http://chat.local:3000"));
}
