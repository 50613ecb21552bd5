//! A device that is lent over a link as between two rooms: 100 Mbit/s, 5 ms each way. The picture is the same; the times are
//! printed, beside those without the link and what a plan expects:
//!
//! ```sh
//! ASYNCDIFF_LINK_PIXELS=256 cargo test --release -p asyncdiff-cli --test cli links -- --nocapture
//! ```
//!
//! They say something on an idle machine with two cores or more, and pictures large enough that a step takes a while.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sandbox::Sandbox;
use super::workers::{Lending, SECRET};

const BYTES_PER_SECOND: f64 = 100e6 / 8.0;
const LATENCY: Duration = Duration::from_millis(5);

/// Passes on everything between whoever connects to the port that it answers with, and `to`, no faster than the link.
fn link(to: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            for socket in [&near, &far] {
                socket.set_nodelay(true).unwrap();
            }
            one_way(near.try_clone().unwrap(), far.try_clone().unwrap());
            one_way(far, near);
        }
    });
    port
}

fn one_way(mut from: TcpStream, mut to: TcpStream) {
    // As much as is under way on such a link, and not more: a sender that is too fast waits.
    let (sent, received) = mpsc::sync_channel::<(Instant, Vec<u8>)>(64);
    thread::spawn(move || {
        let mut free = Instant::now();
        let mut packet = [0; 1500];
        while let Ok(count @ 1..) = from.read(&mut packet) {
            let takes = Duration::from_secs_f64(count as f64 / BYTES_PER_SECOND);
            free = free.max(Instant::now()) + takes;
            if sent
                .send((free + LATENCY, packet[..count].to_vec()))
                .is_err()
            {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, packet) in received {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&packet).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[test]
fn a_slow_link_changes_no_bit() {
    let sandbox = Sandbox::new();
    let lending = Lending::start(&sandbox, &[]);
    let far = link(lending.port());
    let pixels = std::env::var("ASYNCDIFF_LINK_PIXELS").unwrap_or_else(|_| "64".to_owned());
    // Of the smallest, only the pictures are of interest.
    let repeats = if pixels == "64" { 1 } else { 3 };
    let size = ["--steps", "10", "--width", &pixels, "--height", &pixels];
    let measure = [
        "measure",
        "--devices",
        "cpu:2",
        "--threads",
        "2",
        "-o",
        "near.json",
    ];
    let size_only = &size[2..];
    let often = ["--repeat", &repeats.to_string()];
    sandbox.ok(&[&measure[..], &often, size_only].concat());
    let written = fs::read(sandbox.path("near.json")).unwrap();
    let mut machine: Value = serde_json::from_slice(&written).unwrap();
    machine["machine"]["latency"] = LATENCY.as_secs_f64().into();
    machine["machine"]["bandwidth"] = BYTES_PER_SECOND.into();
    fs::write(sandbox.path("far.json"), machine.to_string()).unwrap();

    for way in [
        &["--guidance-split"][..],
        &["--look-ahead", "2"],
        &["--look-ahead", "ring"],
    ] {
        let seconds = |port: u16, file: &str| {
            let devices = format!("cpu+tcp://127.0.0.1:{port}");
            let start = ["generate", "red apple", "--json", "--devices", &devices];
            let more = ["--threads", "1", "--force", "-o", file];
            let mut command = sandbox.command(&[&start[..], &size, way, &more].concat());
            command.env("ASYNCDIFF_SECRET", SECRET);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{way:?}: {said}");
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            report["seconds"]["denoise"].as_f64().unwrap()
        };
        // In turn, because a machine's pace changes; the medians count.
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..repeats {
            times[0].push(seconds(lending.port(), "near.png"));
            times[1].push(seconds(far, "far.png"));
        }
        let [near, slow] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[repeats / 2]
        });
        let read = |name| fs::read(sandbox.path(name)).unwrap();
        assert!(
            read("near.png") == read("far.png"),
            "{way:?}: another picture"
        );
        let plan = [&["plan", "--machine", "far.json", "--json"], &size[..], way].concat();
        let report: Value = serde_json::from_str(&sandbox.ok(&plan)).unwrap();
        let expected = report["seconds"].as_f64().unwrap();
        println!(
            "{way:?}, {pixels}x{pixels}: {near:.3} s on loopback, {slow:.3} s over the link ({:.0} % of the speed), {expected:.3} s expected",
            100.0 * near / slow
        );
    }
}
