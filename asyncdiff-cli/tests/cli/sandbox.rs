//! A folder of its own for every test, and what tests do in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub struct Sandbox(TempDir);

impl Sandbox {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program, with arguments and this folder, still to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_asyncdiff"));
        command.args(args).current_dir(self.0.path());
        // What the machine's own environment says of the Hub is none of a test's business.
        for name in [
            "HF_HUB_CACHE",
            "HF_HOME",
            "XDG_CACHE_HOME",
            "HF_TOKEN",
            "HF_ENDPOINT",
            "HF_HUB_OFFLINE",
            "HF_HUB_DOWNLOAD_TIMEOUT",
        ] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a run that succeeds.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The error message of a run that fails; it must be one line and leave nothing behind.
    pub fn fails(&self, args: &[&str]) -> String {
        let before = self.files();
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{args:?} should fail");
        let lines: Vec<_> = error
            .lines()
            .filter(|line| !line.starts_with("note: "))
            .collect();
        assert_eq!(lines.len(), 1, "{args:?}: {error}");
        assert!(lines[0].starts_with("error: "), "{error}");
        assert!(!error.contains("panicked"), "{error}");
        assert_eq!(self.files(), before, "{args:?} left something behind");
        lines[0].to_owned()
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = walk(self.0.path());
        files.sort();
        files
    }

    /// A copy of a fixture's checkpoint, to be damaged.
    pub fn model(&self, fixture: &str) -> PathBuf {
        let target = self.path("model");
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let source = fixtures.join(fixture).join("checkpoint");
        for file in walk(&source) {
            let to = target.join(file.strip_prefix(&source).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(file, to).unwrap();
        }
        target
    }
}

/// Where a file of the fixtures is.
pub fn fixture(path: &str) -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    fixtures.join(path).to_str().unwrap().to_owned()
}

pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

pub fn edit_json(path: &Path, edit: impl Fn(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Reads a safetensors file, changes its tensors' names or shapes, and writes it back.
pub fn edit_weights(path: &Path, edit: impl Fn(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + length..]);
    fs::write(path, out).unwrap();
}

pub fn png(path: &Path) -> (u32, u32, String) {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    let reader = decoder.read_info().unwrap();
    let info = reader.info();
    let latin = info
        .uncompressed_latin1_text
        .iter()
        .find(|chunk| chunk.keyword == "parameters");
    let text = match latin {
        Some(chunk) => chunk.text.clone(),
        None => info.utf8_text[0].get_text().unwrap(),
    };
    (info.width, info.height, text)
}

/// The pixels of a PNG file, whatever its texts say.
pub fn pixels(path: &Path) -> Vec<u8> {
    let file = std::io::BufReader::new(fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

const QUICK: [&str; 3] = ["generate", "red apple, fluent style", "--quiet"];

pub fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let steps: &[&str] = if more.contains(&"--steps") {
        &[]
    } else {
        &["--steps", "3"]
    };
    [&QUICK, steps, more].concat()
}
