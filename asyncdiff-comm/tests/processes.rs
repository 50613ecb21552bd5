//! What the other ranks learn when the process of one is killed or stopped.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use asyncdiff_comm::launch::{Settings, place};
use asyncdiff_comm::network::{Setup, connect};
use asyncdiff_comm::{Element, Form, PeerExchange};

const RANKS: usize = 4;

/// One rank, in a process of its own: passes numbers on in a ring until something happens, and says what. As a test among the
/// others it does nothing.
#[test]
fn a_rank() {
    let environment = std::env::vars().collect();
    let Some(place) = place(&Settings::default(), &environment).unwrap() else {
        return;
    };
    let setup = Setup::new(place.rank, place.world_size, place.rendezvous);
    let mut peer = connect::<u32>(&setup).unwrap();
    let next = (place.rank + 1) % RANKS;
    let previous = (place.rank + RANKS - 1) % RANKS;
    let form = Form::new([], Element::U32);
    let mut pass = |round| {
        // Most of the time all but one wait.
        if place.rank == 0 {
            thread::sleep(Duration::from_millis(20));
            peer.send(next, round, 1)?;
        }
        let number = peer.recv(previous, round, &form, Duration::from_secs(60))?;
        if place.rank == 0 {
            assert_eq!(number, RANKS as u32);
            Ok(())
        } else {
            peer.send(next, round, number + 1)
        }
    };
    if let Err(error) = (0..).try_for_each(&mut pass) {
        eprintln!("{error}");
        peer.fail(&error.to_string());
        drop(peer);
        std::process::exit(3);
    }
}

fn start() -> Vec<Child> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    (0..RANKS)
        .map(|rank| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "a_rank", "--nocapture"])
                .env("ASYNCDIFF_RANK", rank.to_string())
                .env("ASYNCDIFF_WORLD_SIZE", RANKS.to_string())
                .env("ASYNCDIFF_RENDEZVOUS", format!("127.0.0.1:{port}"))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect()
}

/// Does `harm` to one rank after a while: all others must end soon, and name it.
fn check(victim: usize, after: Duration, harm: impl FnOnce(&mut Child)) {
    let mut ranks = start();
    thread::sleep(after);
    harm(&mut ranks[victim]);
    let start = Instant::now();
    let mut survivors: Vec<_> = (0..RANKS).filter(|rank| *rank != victim).collect();
    while !survivors.is_empty() {
        survivors.retain(|rank| ranks[*rank].try_wait().unwrap().is_none());
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "ranks {survivors:?} still run"
        );
        thread::sleep(Duration::from_millis(10));
    }
    ranks[victim].kill().unwrap();
    for (rank, mut process) in ranks.into_iter().enumerate() {
        let status = process.wait().unwrap();
        let mut said = String::new();
        process
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        if rank != victim {
            assert_eq!(status.code(), Some(3), "rank {rank}: {said}");
            let named = format!("rank {victim} failed: ");
            assert!(said.contains(&named), "rank {rank}: {said}");
        }
    }
}

#[test]
fn a_killed_rank_is_named_by_all_others() {
    for (victim, after) in [(0, 900), (3, 1000), (1, 1100)] {
        check(victim, Duration::from_millis(after), |process| {
            process.kill().unwrap();
        });
    }
}

#[test]
#[cfg(unix)]
fn a_stopped_rank_is_named_by_all_others() {
    for (victim, after) in [(0, 900), (2, 1000)] {
        check(victim, Duration::from_millis(after), |process| {
            let stopped = Command::new("kill")
                .args(["-STOP", &process.id().to_string()])
                .status();
            assert!(stopped.unwrap().success());
        });
    }
}
