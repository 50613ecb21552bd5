//! Runs whose ranks are processes: the same picture as with threads; and what happens when one of them does not go on.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::sandbox::Sandbox;

const PROMPT: [&str; 4] = ["generate", "red apple", "--quiet", "--steps"];

fn picture(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> Vec<u8> {
    // As many steps as make four devices worth having.
    let mut all = [&PROMPT[..], &["10", "-o", name]].concat();
    all.extend(arguments);
    let output = sandbox.run(&all);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    fs::read(sandbox.path(name)).unwrap()
}

#[test]
fn processes_make_the_picture_that_threads_make() {
    // Every way to spread a run. All cores' worth of threads is the same for both.
    for (ranks, ways) in [
        ("2", "--segments 2"),
        ("2", "--guidance-split"),
        ("2", "--look-ahead ring"),
        ("2", "--look-ahead 2 --scheduler dpmpp-2m-sde"),
        ("3", "--segments 2 --stride 2"),
        ("3", "--guidance-split --look-ahead ring"),
        ("3", "--segments 3 --look-ahead 3"),
        ("4", "--guidance-split --look-ahead 2"),
        ("4", ""),
    ] {
        let sandbox = Sandbox::new();
        let ways: Vec<_> = ways.split_whitespace().collect();
        let devices = format!("cpu:{ranks}");
        let threads = picture(
            &sandbox,
            "a.png",
            &[&["--devices", &devices], &ways[..]].concat(),
        );
        let processes = picture(
            &sandbox,
            "b.png",
            &[&["--processes", ranks], &ways[..]].concat(),
        );
        assert!(
            threads == processes,
            "{ranks} processes, {ways:?}: another picture"
        );
        assert_eq!(fs::read_dir(sandbox.path("")).unwrap().count(), 2);
    }
}

#[test]
fn processes_make_several_pictures_after_one_another() {
    let sandbox = Sandbox::new();
    let seeds = ["--segments", "2", "--seed", "1-2"];
    let run = |name, more: &[&str]| {
        let start = [&PROMPT[..], &["9", "-o", name], &seeds].concat();
        assert!(sandbox.run(&[&start[..], more].concat()).status.success());
    };
    run("a.png", &["--devices", "cpu:2"]);
    run("b.png", &["--processes", "2"]);
    for index in 0..2 {
        let read = |name| fs::read(sandbox.path(&format!("{name}-{index}.png"))).unwrap();
        assert!(read("a") == read("b"));
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Two ranks that somebody else starts, each with arguments of its own; how each ends, and what it says.
fn by_hand(sandbox: &Sandbox, arguments: [&[&str]; 2]) -> [(bool, String); 2] {
    let rendezvous = format!("127.0.0.1:{}", free_port());
    let ranks = [0, 1].map(|rank: usize| {
        let mut command = sandbox.command(&[&PROMPT[..], arguments[rank]].concat());
        command
            .env("ASYNCDIFF_RANK", rank.to_string())
            .env("ASYNCDIFF_WORLD_SIZE", "2")
            .env("ASYNCDIFF_RENDEZVOUS", &rendezvous)
            .env("ASYNCDIFF_SECRET", "what both ranks know")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    ranks.map(|rank| {
        let output = rank.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    })
}

#[test]
fn ranks_that_are_started_by_hand_make_the_same_picture_and_only_the_first_writes() {
    let sandbox = Sandbox::new();
    let expected = picture(
        &sandbox,
        "threads.png",
        &["--devices", "cpu:2", "--threads", "2"],
    );
    let one = ["10", "--threads", "1", "-o"];
    let ended = by_hand(
        &sandbox,
        [
            &[&one[..], &["first.png"]].concat(),
            &[&one[..], &["second.png"]].concat(),
        ],
    );
    assert!(ended.iter().all(|(success, _)| *success), "{ended:?}");
    assert!(fs::read(sandbox.path("first.png")).unwrap() == expected);
    assert!(!sandbox.path("second.png").exists());
}

#[test]
fn ranks_with_different_plans_do_not_start() {
    let sandbox = Sandbox::new();
    for (success, said) in by_hand(&sandbox, [&["9"], &["10"]]) {
        assert!(!success);
        assert!(
            said.contains("rank 1 does not belong to this run: its plan is "),
            "{said}"
        );
    }
    assert_eq!(fs::read_dir(sandbox.path("")).unwrap().count(), 0);
}

#[test]
fn a_plan_for_more_ranks_than_processes_is_an_error() {
    let sandbox = Sandbox::new();
    let output =
        sandbox.run(&[&PROMPT[..], &["9", "--processes", "2", "--segments", "3"]].concat());
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        said,
        "error: the plan is for 3 ranks, and there are 2 processes: use as many\n"
    );
}

#[test]
fn processes_that_the_plan_has_no_rank_for_rest() {
    let sandbox = Sandbox::new();
    for (more, rest) in [
        (
            &["--segments", "2"][..],
            "1 process rests: the plan is for 2",
        ),
        // One that is chosen: too few steps for a look-ahead, and no guidance to split.
        (
            &["--guidance-scale", "1"],
            "2 processes rest: the plan is for 1",
        ),
    ] {
        let start = ["generate", "red apple", "--steps", "5", "--threads"];
        let all = [&start[..], &["3", "--processes", "3", "-o", "a.png"], more].concat();
        let text = sandbox.ok(&all);
        assert!(text.lines().any(|line| line == rest), "{text}");
        let ranks = if more[0] == "--segments" { "2" } else { "1" };
        let all = [&start[..], &[ranks, "-o", "b.png"], more].concat();
        sandbox.ok(&all);
        let read = |name| fs::read(sandbox.path(name)).unwrap();
        assert!(read("a.png") == read("b.png"), "{more:?}");
    }
}

#[test]
fn a_short_secret_is_an_error() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&[&PROMPT[..], &["9"]].concat());
    command
        .env("ASYNCDIFF_RANK", "0")
        .env("ASYNCDIFF_WORLD_SIZE", "2")
        .env("ASYNCDIFF_RENDEZVOUS", "127.0.0.1:1")
        .env("ASYNCDIFF_SECRET", "short");
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ASYNCDIFF_SECRET is too short"), "{said}");
}

/// A run of four processes, in the middle of denoising.
#[cfg(target_os = "linux")]
struct Running {
    sandbox: Sandbox,
    first: Child,
    /// Of all ranks.
    ids: Vec<u32>,
}

#[cfg(target_os = "linux")]
impl Running {
    fn start() -> Self {
        let sandbox = Sandbox::new();
        let arguments = [
            &PROMPT[..],
            &[
                "900",
                "--processes",
                "4",
                "--segments",
                "3",
                "--stride",
                "2",
            ],
        ];
        let mut first = sandbox
            .command(&arguments.concat())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        loop {
            assert!(first.try_wait().unwrap().is_none(), "it has ended");
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "it does not start"
            );
            thread::sleep(Duration::from_millis(10));
            let mut ids = vec![first.id()];
            ids.extend(children(first.id()));
            if ids.len() == 4 && ids.iter().all(|id| is_connected(*id)) {
                ids.sort_by_key(|id| if *id == first.id() { 0 } else { rank(*id) });
                return Self {
                    sandbox,
                    first,
                    ids,
                };
            }
        }
    }

    /// Sends a signal to one rank: all others must end within 5 seconds, and say which rank it was and why; nothing is left
    /// behind.
    fn harm(mut self, victim: usize, signal: &str, reason: &str) {
        let id = self.ids[victim].to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
        let start = Instant::now();
        let mut status = None;
        while (0..4).any(|rank| rank != victim && lives(self.ids[rank])) {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{signal} to rank {victim}: others still run"
            );
            thread::sleep(Duration::from_millis(10));
            status = status.or(self.first.try_wait().unwrap());
        }
        // A rank that was stopped and has started the others is nobody's to end.
        let _ = self.first.kill();
        let output = self.first.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        let named = format!("rank {victim} failed: {reason}");
        assert!(said.contains(&named), "{signal} to rank {victim}: {said}");
        if victim > 0 {
            assert_eq!(output.status.code(), Some(1), "{said}");
        } else {
            for rank in 1..4 {
                let ends = format!("rank {rank} ends: rank 0 failed: ");
                assert!(said.contains(&ends), "{signal} to rank 0: {said}");
            }
        }
        assert!(!self.ids.iter().any(|id| lives(*id)), "an orphan");
        assert_eq!(fs::read_dir(self.sandbox.path("")).unwrap().count(), 0);
    }
}

#[cfg(target_os = "linux")]
fn children(of: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    // Whichever thread has started them.
    let threads = fs::read_dir(format!("/proc/{of}/task"))
        .into_iter()
        .flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let mut all: Vec<u32> = lists
        .chain([list])
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(target_os = "linux")]
fn rank(id: u32) -> usize {
    let environment = fs::read_to_string(format!("/proc/{id}/environ")).unwrap_or_default();
    let rank = environment
        .split('\0')
        .find_map(|entry| entry.strip_prefix("ASYNCDIFF_RANK="));
    rank.map_or(0, |rank| rank.parse().unwrap())
}

/// Whether a process has the three threads that listen to its peers.
#[cfg(target_os = "linux")]
fn is_connected(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task"))
        .into_iter()
        .flatten();
    let names =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("from rank")).count() == 3
}

/// Whether a process runs: one that has ended and was not waited for does not.
#[cfg(target_os = "linux")]
fn lives(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = status
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Twenty runs, a random rank of each harmed at a random time; some at once.
#[cfg(target_os = "linux")]
fn harm_many(signal: &str, ranks: std::ops::Range<u64>, reason: &str) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= 20 {
                        return;
                    }
                    let mut random = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    random ^= random >> 29;
                    let victim = ranks.start + random % (ranks.end - ranks.start);
                    let running = Running::start();
                    thread::sleep(Duration::from_millis(random / 64 % 1000));
                    running.harm(victim as usize, signal, reason);
                }
            });
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_process_ends_all_others_and_is_named() {
    harm_many("-KILL", 0..4, "");
}

#[test]
#[cfg(target_os = "linux")]
fn a_stopped_process_ends_all_others_and_is_named() {
    harm_many("-STOP", 0..4, "it has not been heard for 3.5s");
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_that_cannot_go_on_ends_all_others_and_says_why() {
    // The first process ends the run at its next step: that is the interrupts' test.
    harm_many("-TERM", 1..4, "it was told to end by SIGTERM");
}
