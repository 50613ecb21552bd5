//! What a hostile file or server, or an unlucky terminal, can do to the real program: nothing.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::sandbox::{Sandbox, edit_json, pixels, quick};

impl Sandbox {
    /// The error message of a run that fails, and soon.
    fn fails_soon(&self, args: &[&str]) -> String {
        let start = Instant::now();
        let mut child = self
            .command(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("{args:?} hangs");
            }
            thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{args:?}: {output:?}"
        );
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("error: "), "{args:?}: {error}");
        error
    }
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// A shell runs the program with its streams as `redirections` say.
fn redirected(sandbox: &Sandbox, args: &[&str], redirections: &str) -> Option<i32> {
    let program = env!("CARGO_BIN_EXE_asyncdiff");
    let script = format!("exec {program} \"$@\" {redirections}");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).args(args);
    let status = command.current_dir(sandbox.path("")).status().unwrap();
    status.code()
}

#[test]
fn a_full_or_closed_standard_error_or_output_is_no_panic() {
    let sandbox = Sandbox::new();
    let long = "apple ".repeat(500);
    let steps = ["--steps", "2", "-o", "x.png"];
    let args = [&["generate", long.as_str()], &steps[..]].concat();
    for redirections in ["2>/dev/full", "2>&-"] {
        // The prompt is too long for the model, which nobody can be told.
        let code = redirected(&sandbox, &args, &format!(">/dev/null {redirections}"));
        assert_eq!(code, Some(0), "{redirections}");
    }
    // That standard output is full is an error, which the exit code tells.
    for redirections in [
        ">/dev/full 2>/dev/null",
        ">/dev/full 2>/dev/full",
        "2>/dev/full >&2",
    ] {
        assert_eq!(
            redirected(&sandbox, &args, redirections),
            Some(1),
            "{redirections}"
        );
    }
    let wrong = ["generate", "a", "--model", "missing.safetensors"];
    assert_eq!(redirected(&sandbox, &wrong, "2>/dev/full >&2"), Some(1));
    assert_eq!(
        redirected(&sandbox, &["generate", "--what"], "2>/dev/full >&2"),
        Some(2)
    );
    for listing in [
        &["--help"][..],
        &["man"],
        &["completions", "bash"],
        &["plan"],
    ] {
        let code = redirected(&sandbox, listing, ">/dev/full 2>/dev/full");
        assert_ne!(code, Some(101), "{listing:?}");
    }
}

/// What a run says whose standard output is full.
fn said_when_full(sandbox: &Sandbox, args: &[&str]) -> String {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = sandbox.command(args).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_full_standard_output_is_named_and_no_byte_is_lost_without_a_word() {
    let sandbox = Sandbox::new();
    let picture = ["generate", "a", "--steps", "1", "--quiet", "-o", "-"];
    for args in [&["info"][..], &["man"], &["plan", "--json"], &picture] {
        let said = said_when_full(&sandbox, args);
        let expected = "error: cannot write to standard output: No space left on device (os error 28); send it elsewhere\n";
        assert_eq!(said, expected, "{args:?}");
    }
}

#[test]
fn a_reader_that_goes_away_takes_no_picture_with_it() {
    let sandbox = Sandbox::new();
    let mut child = sandbox
        .command(&["generate", "a", "--steps", "1", "-o", "x.png"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(sandbox.path("x.png").exists());
}

#[test]
fn a_file_that_is_not_there_is_named_with_what_to_do() {
    let sandbox = Sandbox::new();
    for args in [
        &["generate", "a", "--lora", "nope"][..],
        &["generate", "a", "--latents", "nope"],
        &["generate", "a", "--init-image", "nope"],
        &["generate", "a", "--machine", "nope"],
        &["generate", "a", "--partition", "nope"],
        &["generate", "--prompt-file", "nope"],
        &["worker", "--secret-file", "nope"],
        &["serve", "--api-key-file", "nope"],
    ] {
        let error = sandbox.fails_soon(args);
        let said = "nope: there is no such file, check its name";
        assert!(error.contains(said), "{args:?}: {error}");
    }
    for flag in ["--models-dir", "--loras-dir"] {
        let error = sandbox.fails_soon(&["serve", flag, "nope"]);
        assert!(
            error.contains("the folder nope: ") && error.contains("give one that"),
            "{error}"
        );
    }
}

#[test]
fn a_fifo_a_device_or_a_folder_is_refused_as_any_input_by_its_kind() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sd15");
    let model = model.to_str().unwrap();
    fs::create_dir(sandbox.path("folder")).unwrap();
    pipe(&sandbox.path("pipe"));
    symlink("pipe", sandbox.path("link")).unwrap();
    fs::write(sandbox.path("picture.png"), "x").unwrap();
    let inputs = [
        ("pipe", "a named pipe"),
        ("link", "a named pipe"),
        ("/dev/zero", "a device"),
        ("folder", "a folder"),
    ];
    for (input, kind) in inputs {
        let mut uses = vec![
            vec!["generate", "a", "--lora", input],
            vec!["generate", "a", "--latents", input],
            vec!["generate", "--prompt-file", input],
            vec!["generate", "a", "--init-image", input],
            vec!["generate", "a", "--partition", input],
            vec!["plan", "--partition", input],
        ];
        if input != "folder" {
            uses.push(vec!["generate", "a", "--model", input]);
            uses.push(vec!["info", input]);
        }
        for args in uses {
            let error = sandbox.fails_soon(&args);
            assert!(error.contains(kind), "{args:?}: {error}");
        }
    }
    // In place of a model's own files.
    for file in [
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "vae/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ] {
        let path = sandbox.path("model").join(file);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        pipe(&path);
        let error = sandbox.fails_soon(&["generate", "a", "--model", model]);
        assert!(error.contains("a named pipe"), "{file}: {error}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, kept).unwrap();
    }
    assert!(!sandbox.path("asyncdiff.png").exists());
}

#[test]
fn a_symlink_as_output_is_written_through() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    symlink("elsewhere/real.png", sandbox.path("link.png")).unwrap();
    sandbox.ok(&quick(&["-o", "link.png"]));
    assert!(
        fs::symlink_metadata(sandbox.path("link.png"))
            .unwrap()
            .is_symlink()
    );
    sandbox.ok(&quick(&["-o", "plain.png"]));
    assert_eq!(
        pixels(&sandbox.path("elsewhere/real.png")),
        pixels(&sandbox.path("plain.png"))
    );
}

#[test]
fn a_run_that_was_killed_while_writing_leaves_nothing_for_long() {
    let sandbox = Sandbox::new();
    let mut child = Command::new("true").spawn().unwrap();
    let gone = child.id();
    child.wait().unwrap();
    let ours = format!(".asyncdiff-{gone}-0.tmp");
    let running = format!(".asyncdiff-{}-0.tmp", std::process::id());
    for name in [&ours, &running] {
        fs::write(sandbox.path(name), "half a picture").unwrap();
    }
    sandbox.ok(&quick(&["-o", "x.png"]));
    assert!(!sandbox.path(&ours).exists());
    assert!(sandbox.path(&running).exists());
}

#[test]
fn json_with_a_byte_order_mark_is_read() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sd15");
    let args = |file| {
        [
            "generate", "a", "--model", "model", "--steps", "2", "--quiet", "-o", file,
        ]
    };
    sandbox.ok(&args("plain.png"));
    for file in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/tokenizer_config.json",
    ] {
        let path = model.join(file);
        let text = fs::read(&path).unwrap();
        fs::write(&path, [b"\xef\xbb\xbf", &text[..]].concat()).unwrap();
    }
    let map = r#"{"conv_in": 0, "down_blocks": 0, "mid_block": 0, "up_blocks": 0, "conv_out": 0}"#;
    fs::write(sandbox.path("map.json"), format!("\u{feff}{map}")).unwrap();
    sandbox.ok(&args("marked.png"));
    assert_eq!(
        pixels(&sandbox.path("plain.png")),
        pixels(&sandbox.path("marked.png"))
    );
    sandbox.ok(&["plan", "--model", "model", "--partition", "map.json"]);
}

#[test]
fn a_value_of_30_kb_is_not_quoted_whole() {
    let sandbox = Sandbox::new();
    let solid = "x".repeat(30_000);
    let loose = "a b ".repeat(7_500);
    for value in [solid.as_str(), loose.as_str()] {
        for args in [
            vec!["generate", "a", "--steps", value],
            vec!["generate", "a", "--seed", value],
            vec!["generate", "a", "--scheduler", value],
            vec!["generate", "a", "--devices", value],
            vec!["generate", "a", "--model", value],
            vec!["generate", "a", "--partition", value],
            vec!["generate", "a", "--dtype", value],
            vec!["generate", "a", "--lora", value],
            vec!["generate", "a", value],
            vec!["generate", "a", "-o", value],
        ] {
            let error = sandbox.fails_soon(&args);
            assert!(error.len() < 1500, "{} {}: {error}", args[0], args[2]);
        }
        // And in files.
        let model = sandbox.model("sd15");
        for (file, key) in [
            ("model_index.json", "_class_name"),
            ("scheduler/scheduler_config.json", "_class_name"),
            ("scheduler/scheduler_config.json", "beta_schedule"),
            ("scheduler/scheduler_config.json", "num_train_timesteps"),
            ("unet/config.json", "mid_block_type"),
            ("unet/config.json", "in_channels"),
            ("unet/config.json", "act_fn"),
            ("vae/config.json", "act_fn"),
            ("text_encoder/config.json", "hidden_act"),
        ] {
            let path = model.join(file);
            let kept = fs::read(&path).unwrap();
            edit_json(&path, |config| config[key] = value.into());
            let error = sandbox.fails_soon(&["generate", "a", "--model", "model"]);
            assert!(error.len() < 1500, "{file} {key}: {error}");
            fs::write(&path, kept).unwrap();
        }
    }
    // A prompt that is cut off is not shown whole.
    let output = sandbox.run(&["generate", &loose, "--steps", "1", "-o", "x.png"]);
    assert!(output.status.success());
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        warning.contains("cut off") && warning.len() < 600,
        "{warning}"
    );
}

#[test]
fn escape_sequences_of_a_file_do_not_reach_the_terminal() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sd15");
    edit_json(&model.join("model_index.json"), |index| {
        index["_class_name"] = "\u{1b}[2J\u{1b}]0;title\u{7}".into();
    });
    let error = sandbox.fails_soon(&["info", "model"]);
    assert!(!error.contains(['\u{1b}', '\u{7}']), "{error:?}");
    assert!(error.contains("u{1b}"), "{error}");
}

#[test]
fn nan_in_every_to_q_is_an_error_that_names_the_tensor() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sd15");
    let path = model.join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut spoiled = 0;
    for (name, tensor) in header.as_object().unwrap() {
        if name.ends_with("to_q.weight") {
            let size = match tensor["dtype"].as_str().unwrap() {
                "F32" => 4,
                _ => 2,
            };
            let start = 8 + length + tensor["data_offsets"][0].as_u64().unwrap() as usize;
            // All ones in the exponent and below.
            bytes[start..start + size].fill(0xff);
            spoiled += 1;
        }
    }
    assert!(spoiled > 3);
    fs::write(&path, bytes).unwrap();
    let error = sandbox.fails_soon(&["generate", "a", "--model", "model", "--steps", "2"]);
    assert!(
        error.contains("to_q.weight") && error.contains("no numbers"),
        "{error}"
    );
}

#[test]
fn a_configuration_of_more_weights_than_its_file_has_bytes_is_refused() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sd15");
    edit_json(&model.join("unet/config.json"), |config| {
        config["layers_per_block"] = 60.into();
        config["transformer_layers_per_block"] = 64.into();
    });
    let error = sandbox.fails_soon(&["generate", "a", "--model", "model", "--steps", "2"]);
    assert!(error.contains("network of"), "{error}");
    edit_json(&model.join("unet/config.json"), |config| {
        config["block_out_channels"] = vec![32; 100_000].into();
        config["down_block_types"] = vec!["DownBlock2D"; 100_000].into();
        config["up_block_types"] = vec!["UpBlock2D"; 100_000].into();
    });
    let error = sandbox.fails_soon(&["info", "model"]);
    assert!(error.contains("block_out_channels"), "{error}");
}

#[test]
fn more_memory_than_the_machine_has_is_refused_with_the_numbers() {
    let sandbox = Sandbox::new();
    let size = [
        "--num-images",
        "1024",
        "--width",
        "2048",
        "--height",
        "2048",
    ];
    let start = Instant::now();
    let error = sandbox.fails_soon(&[&["generate", "a"], &size[..]].concat());
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(
        error.contains("GiB of memory") && error.contains("this machine has"),
        "{error}"
    );
    assert!(sandbox.files().is_empty());
}

/// A Hub that says nothing, and one that says nothing that makes sense.
#[test]
fn a_hub_that_is_silent_or_mad_ends_in_one_sentence() {
    let sandbox = Sandbox::new();
    let serve = |answer: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
                if answer.is_empty() {
                    held.push(stream);
                }
            }
        });
        address
    };
    for (answer, expected) in [
        (&b""[..], "takes too long"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>",
            "else than expected",
        ),
        (
            b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
            "status 500",
        ),
        (b"hello", "something else"),
    ] {
        let mut command = sandbox.command(&["info", "someone/some-model"]);
        command
            .env("HF_ENDPOINT", serve(answer))
            .env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
        command.env("HF_HOME", sandbox.path("home"));
        let start = Instant::now();
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(expected), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    let mut command = sandbox.command(&["info", "someone/some-model"]);
    command.env("HF_HUB_DOWNLOAD_TIMEOUT", "soon");
    let output = command.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("HF_HUB_DOWNLOAD_TIMEOUT"));
    File::create(sandbox.path("done")).unwrap();
}
