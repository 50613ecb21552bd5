//! Ctrl-C, on a real process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::sandbox::{Sandbox, png};

fn spawn(sandbox: &Sandbox, arguments: &[&str]) -> Child {
    sandbox
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What is said as soon as a signal is heard.
const HEARD: &str = "interrupted: ending after this block; once more to end at once\n";

fn interrupt(child: &Child) {
    signal(child, "INT");
}

fn signal(child: &Child, name: &str) {
    // A handler that has just been seen may still be in the making.
    thread::sleep(Duration::from_millis(50));
    let command = format!("kill -{name} {}", child.id());
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success());
}

fn wait_until(child: &mut Child, what: &str, condition: impl Fn(&Child) -> bool) {
    let start = Instant::now();
    while !condition(child) {
        assert!(child.try_wait().unwrap().is_none(), "ended before {what}");
        assert!(start.elapsed() < Duration::from_secs(120), "no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the process has a handler of its own for SIGINT (signal 2).
fn catches_interrupts(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 2 != 0)
}

fn message(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn the_first_ends_a_list_at_the_next_step_and_leaves_whole_pictures() {
    let sandbox = Sandbox::new();
    let base = [
        "generate",
        "red apple",
        "--seed",
        "0-999",
        "--steps",
        "9",
        "--quiet",
    ];
    // Sequentially, and with ranks that wait for each other.
    for more in [&[] as &[&str], &["--segments", "2"]] {
        let mut child = spawn(&sandbox, &[&base, more, &["-o", "a.png"]].concat());
        wait_until(&mut child, "a picture", |_| {
            sandbox.path("a-1.png").exists()
        });
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        let message = message(&output).strip_prefix(HEARD).unwrap();
        let numbers: Vec<usize> = message
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let &[done, calls, run, runs] = &numbers[..] else {
            panic!("{message}");
        };
        assert_eq!(
            message,
            format!("cancelled after {done} of {calls} steps of run {run} of {runs}\n")
        );
        assert!(done <= 9 && (calls, runs) == (9, 1000), "{message}");
        // The pictures of all runs before that one, and nothing else.
        let files = sandbox.files();
        assert_eq!(files.len(), run - 1, "{message} {files:?}");
        for file in files {
            assert_eq!(png(&file).0, 64);
            fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn the_first_ends_a_comparison_too() {
    let sandbox = Sandbox::new();
    let mut child = spawn(
        &sandbox,
        &["compare", "red apple", "--steps", "999", "--quiet"],
    );
    wait_until(&mut child, "handler", catches_interrupts);
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(message(&output).contains("of 999 steps\n"), "{output:?}");
    assert!(sandbox.files().is_empty());
}

#[test]
fn a_second_one_ends_the_program_at_once() {
    let sandbox = Sandbox::new();
    // Large enough that a single block takes far longer than what follows.
    let size = ["--width", "1024", "--height", "1024", "--quiet"];
    let mut child = spawn(&sandbox, &[&["generate", "red apple"], &size[..]].concat());
    wait_until(&mut child, "handler", catches_interrupts);
    // The first blocks are quick; then comes attention over 65,536 tokens.
    thread::sleep(Duration::from_secs(3));
    interrupt(&child);
    thread::sleep(Duration::from_millis(100));
    assert!(
        child.try_wait().unwrap().is_none(),
        "the first one waits for the block"
    );
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    // The end of the block was not waited for, so nobody counted.
    assert!(message(&output).starts_with(HEARD), "{output:?}");
    assert!(!message(&output).contains("cancelled"), "{output:?}");
    assert!(sandbox.files().is_empty());
}

/// The request to terminate, which is what a service manager or `timeout` sends.
#[test]
fn a_request_to_terminate_is_heard_at_once_and_heeded_inside_a_step() {
    let sandbox = Sandbox::new();
    // A single step takes far longer than a block of it.
    let size = [
        "--num-images",
        "16",
        "--width",
        "256",
        "--height",
        "256",
        "--steps",
        "1",
    ];
    let mut child = spawn(
        &sandbox,
        &[&["generate", "red apple", "--quiet"], &size[..]].concat(),
    );
    wait_until(&mut child, "handler", catches_interrupts);
    signal(&child, "TERM");
    let start = Instant::now();
    let mut error = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    error.read_line(&mut line).unwrap();
    assert!(line.starts_with("asked to terminate: "), "{line}");
    assert!(start.elapsed() < Duration::from_secs(2));
    line.clear();
    error.read_line(&mut line).unwrap();
    assert_eq!(line, "cancelled after 0 of 1 steps\n");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(sandbox.files().is_empty());
}
