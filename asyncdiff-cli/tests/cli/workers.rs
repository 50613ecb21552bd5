//! Devices that other processes lend.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::sandbox::{Sandbox, fixture};

pub const SECRET: &str = "what both sides know";

/// `asyncdiff worker`, waiting.
pub struct Lending {
    child: Child,
    port: u16,
}

impl Lending {
    pub fn start(sandbox: &Sandbox, more: &[&str]) -> Self {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        fs::write(sandbox.path("secret"), format!("{SECRET}\n")).unwrap();
        let listen = format!("127.0.0.1:{port}");
        let start = ["worker", "--listen", &listen, "--secret-file", "secret"];
        let mut child = sandbox
            .command(&[&start[..], &["--threads", "1"], more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(line, format!("cpu:0 waits at {listen}\n"));
        // Nobody reads what follows, and nobody has to.
        thread::spawn(move || said.read_to_string(&mut String::new()));
        Self { child, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn devices(&self, own: &str) -> String {
        format!("{own}+tcp://127.0.0.1:{}", self.port)
    }

    /// What it has complained about, once it has ended.
    fn complaints(mut self) -> String {
        assert!(self.child.try_wait().unwrap().is_none(), "it has ended");
        self.child.kill().unwrap();
        let mut said = String::new();
        let mut error = self.child.stderr.take().unwrap();
        error.read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn led(sandbox: &Sandbox, devices: &str, more: &[&str]) -> Command {
    let start = ["generate", "red apple", "--quiet", "--devices", devices];
    let mut command = sandbox.command(&[&start[..], more].concat());
    command.env("ASYNCDIFF_SECRET", SECRET);
    command
}

/// The file that a run writes.
fn made(sandbox: &Sandbox, name: &str, devices: &str, more: &[&str]) -> Vec<u8> {
    let all = [&["-o", name], more].concat();
    let output = led(sandbox, devices, &all).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{devices} {more:?}: {said}");
    fs::read(sandbox.path(name)).unwrap()
}

/// What a run says that fails.
fn failed(sandbox: &Sandbox, devices: &str, more: &[&str]) -> String {
    let output = led(sandbox, devices, more).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("error: "), "{said}");
    said
}

#[test]
fn a_device_that_is_lent_makes_the_picture_that_threads_make() {
    let sandbox = Sandbox::new();
    let checkpoint = fixture("sd15/checkpoint");
    let lending = Lending::start(&sandbox, &["--model", &checkpoint]);
    let model = ["--model", &checkpoint, "--width", "64", "--height", "64"];
    for (more, own, threads) in [
        (&["--steps", "9", "--guidance-split"][..], "cpu:1", "2"),
        (&["--steps", "9", "--look-ahead", "ring"], "cpu:1", "2"),
        (&["--steps", "9"], "cpu:1", "2"),
        (
            &["--steps", "5", "--seed", "1-2", "--segments", "2"],
            "cpu:1",
            "2",
        ),
        (
            &["--steps", "5", "--frames", "4", "--guidance-split"],
            "cpu:1",
            "2",
        ),
        (&["--steps", "9", "--segments", "3"], "cpu:2", "3"),
        // A plan with fewer ranks than there are devices.
        (&["--steps", "9", "--guidance-split"], "cpu:2", "3"),
        (
            &[&model[..], &["--steps", "3", "--guidance-split"]].concat(),
            "cpu:1",
            "2",
        ),
    ] {
        let video = more.contains(&"--frames");
        let extension = if video { "gif" } else { "png" };
        let several = more.contains(&"--seed");
        let name = |stem: &str| format!("{stem}.{extension}");
        let ranks = format!("cpu:{threads}");
        let with = |threads| [more, &["--threads", threads]].concat();
        if several {
            for (stem, devices, threads) in [
                ("a.png", ranks.clone(), threads),
                ("b.png", lending.devices(own), "1"),
            ] {
                let all = [&["-o", stem], &with(threads)[..]].concat();
                assert!(led(&sandbox, &devices, &all).status().unwrap().success());
            }
            for index in 0..2 {
                let read = |stem| fs::read(sandbox.path(&format!("{stem}-{index}.png"))).unwrap();
                assert!(read("a") == read("b"), "{more:?}");
            }
            continue;
        }
        let expected = made(&sandbox, &name("a"), &ranks, &with(threads));
        let own_threads = if own == "cpu:2" { "2" } else { "1" };
        let found = made(
            &sandbox,
            &name("b"),
            &lending.devices(own),
            &with(own_threads),
        );
        assert!(found == expected, "{more:?}: another picture");
    }
    assert_eq!(lending.complaints(), "");
}

#[test]
fn what_a_worker_does_not_take_part_in_is_one_sentence_on_both_sides() {
    let sandbox = Sandbox::new();
    let lending = Lending::start(&sandbox, &[]);
    let at = lending.port;
    let devices = lending.devices("cpu:1");
    let split = ["--steps", "9", "--guidance-split"];
    // A model that it was not given.
    let checkpoint = fixture("sd15/checkpoint");
    let error = failed(
        &sandbox,
        &devices,
        &[&split[..], &["--model", &checkpoint]].concat(),
    );
    let start = format!(
        "error: the worker at 127.0.0.1:{at} does not take part: the model of the run (denoiser "
    );
    assert!(error.starts_with(&start), "{error}");
    // Only whoever leads is asked for its devices.
    let error = failed(&sandbox, &format!("tcp://127.0.0.1:{at}"), &split);
    assert!(
        error.contains("it needs a device of this machine, too"),
        "{error}"
    );
    let error = failed(
        &sandbox,
        &devices,
        &[&split[..], &["--processes", "2"]].concat(),
    );
    assert!(error.contains("leave out --processes"), "{error}");
    let nobody = failed(&sandbox, "cpu+tcp://127.0.0.1:1", &split);
    assert!(
        nobody.starts_with("error: the worker at 127.0.0.1:1 cannot be reached: "),
        "{nobody}"
    );
    // Another secret: nobody says anything of the run.
    let mut other = led(&sandbox, &devices, &split);
    other.env("ASYNCDIFF_SECRET", "what nobody else knows");
    let output = other.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("does not know this rank's secret"), "{said}");
    // It is still there.
    made(&sandbox, "a.png", &devices, &split);
    let said = lending.complaints();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.starts_with("error: the run of 127.0.0.1 has ended: the model of the run "),
        "{said}"
    );
}

#[test]
fn a_worker_is_refused_what_it_cannot_lend() {
    let sandbox = Sandbox::new();
    let error = sandbox.fails(&["worker", "--devices", "cpu:2"]);
    assert!(error.contains("a worker lends one device"), "{error}");
    let error = sandbox.fails(&["worker", "--listen", "0.0.0.0:29500"]);
    assert!(error.contains("so the ranks need a secret"), "{error}");
    let error = sandbox.fails(&["worker", "--secret-file", "nowhere"]);
    assert!(error.contains("cannot read the secret nowhere"), "{error}");
    let error = sandbox.fails(&["compare", "a", "--devices", "cpu+tcp://127.0.0.1:1"]);
    assert!(error.contains("only generate and plan use"), "{error}");
}

#[test]
fn plan_counts_devices_that_are_lent() {
    let sandbox = Sandbox::new();
    let text = sandbox.ok(&["plan", "--devices", "cpu+tcp://127.0.0.1:1"]);
    assert!(text.contains("is chosen for 2 devices"), "{text}");
}

/// A run that a worker takes part in, in the middle of denoising.
#[cfg(target_os = "linux")]
fn in_the_middle(sandbox: &Sandbox, lending: &Lending) -> Child {
    let long = ["--steps", "900", "--guidance-split"];
    let mut leader = led(sandbox, &lending.devices("cpu:1"), &long)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !names_of_threads(leader.id()).contains(&"from rank 1".to_owned()) {
        assert!(leader.try_wait().unwrap().is_none(), "it has ended");
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(500));
    leader
}

#[cfg(target_os = "linux")]
fn names_of_threads(id: u32) -> Vec<String> {
    let threads = fs::read_dir(Path::new("/proc").join(id.to_string()).join("task"));
    let threads = threads.into_iter().flatten();
    let name = |thread: std::io::Result<fs::DirEntry>| {
        let name = fs::read_to_string(thread.ok()?.path().join("comm")).ok()?;
        Some(name.trim().to_owned())
    };
    threads.filter_map(name).collect()
}

#[cfg(target_os = "linux")]
fn signal(id: u32, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &id.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
#[cfg(target_os = "linux")]
fn a_worker_survives_leaders_that_die() {
    let sandbox = Sandbox::new();
    let lending = Lending::start(&sandbox, &[]);
    for harm in ["-KILL", "-STOP"] {
        let mut leader = in_the_middle(&sandbox, &lending);
        signal(leader.id(), harm);
        let start = Instant::now();
        while names_of_threads(lending.child.id()).contains(&"from rank 0".to_owned()) {
            assert!(start.elapsed() < Duration::from_secs(5), "{harm}");
            thread::sleep(Duration::from_millis(10));
        }
        leader.kill().unwrap();
        leader.wait().unwrap();
    }
    made(
        &sandbox,
        "a.png",
        &lending.devices("cpu:1"),
        &["--steps", "5"],
    );
    let said = lending.complaints();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for line in lines {
        let named = "error: the run of 127.0.0.1 has ended: rank 0 failed: ";
        assert!(line.starts_with(named), "{said}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_worker_that_does_not_go_on_is_named() {
    let sandbox = Sandbox::new();
    for (harm, reason) in [
        ("-KILL", ""),
        ("-STOP", "it has not been heard for 3.5s"),
        ("-TERM", "it was told to end by SIGTERM"),
    ] {
        let lending = Lending::start(&sandbox, &[]);
        let leader = in_the_middle(&sandbox, &lending);
        signal(lending.child.id(), harm);
        let start = Instant::now();
        let output = leader.wait_with_output().unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "{harm}");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        let named = format!("rank 1 failed: {reason}");
        assert!(said.contains(&named), "{harm}: {said}");
    }
    // Only the secret is there: no picture, and nothing of one.
    assert_eq!(fs::read_dir(sandbox.path("")).unwrap().count(), 1);
}
