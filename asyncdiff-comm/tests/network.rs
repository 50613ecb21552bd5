//! The contract of `PeerExchange`, and who may take part, on the transport between processes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use asyncdiff_comm::launch::Rendezvous;
use asyncdiff_comm::network::{ConnectError, NetworkPeer, Secret, Setup, connect};
use asyncdiff_comm::{CommError, Element, Form, Message, PeerExchange};

const LONG: Duration = Duration::from_secs(30);

/// A port that nobody listens at.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn setups(size: usize) -> Vec<Setup> {
    let port = free_port();
    (0..size)
        .map(|rank| {
            let mut setup = Setup::new(rank, size, Rendezvous::loopback(port));
            setup.secret = Secret::new("a secret of these tests");
            setup.facts = vec![("plan".to_owned(), "f00d".to_owned())];
            setup.patience = Duration::from_secs(20);
            setup
        })
        .collect()
}

type Joined<M> = JoinHandle<Result<NetworkPeer<M>, ConnectError>>;

fn start<M: Message>(setup: Setup) -> Joined<M> {
    thread::spawn(move || connect(&setup))
}

fn world<M: Message>(size: usize) -> Vec<NetworkPeer<M>> {
    let joining: Vec<_> = setups(size).into_iter().map(start).collect();
    joining
        .into_iter()
        .map(|rank| rank.join().unwrap().unwrap())
        .collect()
}

fn number() -> Form {
    Form::new([], Element::U32)
}

#[test]
fn messages_are_matched_by_sender_and_tag_and_keep_their_order() {
    let mut peers = world::<u32>(4);
    peers[0].send(2, 1, 10).unwrap();
    peers[0].send(2, 2, 20).unwrap();
    peers[1].send(2, 1, 30).unwrap();
    peers[3].send(2, 1, 40).unwrap();
    peers[0].send(2, 1, 11).unwrap();
    peers[2].send(2, 1, 50).unwrap();
    for (from, tag, message) in [
        (1, 1, 30),
        (0, 2, 20),
        (0, 1, 10),
        (0, 1, 11),
        (3, 1, 40),
        (2, 1, 50),
    ] {
        assert_eq!(peers[2].recv(from, tag, &number(), LONG), Ok(message));
    }
}

#[test]
fn large_messages_arrive_whole_and_in_both_directions_at_once() {
    let peers = world::<Vec<f32>>(2);
    let elements = 5_000_001;
    let ranks: Vec<_> = peers
        .into_iter()
        .map(|mut peer| {
            thread::spawn(move || {
                let (rank, other) = (peer.rank(), 1 - peer.rank());
                let made = |rank: usize| (0..elements).map(move |index| (index * 7 + rank) as f32);
                for tag in 0..3 {
                    let before = Instant::now();
                    peer.send(other, tag, made(rank).collect()).unwrap();
                    assert!(before.elapsed() < Duration::from_secs(1));
                }
                for tag in [2, 0, 1] {
                    let form = Form::new([elements], Element::F32);
                    let message = peer.recv(other, tag, &form, LONG).unwrap();
                    assert!(message.into_iter().eq(made(other)));
                }
            })
        })
        .collect();
    for rank in ranks {
        rank.join().unwrap();
    }
}

#[test]
fn sending_waits_neither_for_the_network_nor_for_the_copy() {
    /// A message that takes its time to become bytes, as one that is on a device does.
    struct Slow;

    impl Message for Slow {
        fn form(&self) -> Form {
            Form::new([1], Element::U8)
        }

        fn into_bytes(self) -> impl AsRef<[u8]> {
            thread::sleep(Duration::from_millis(300));
            [1]
        }

        fn from_bytes(_: &Form, _: Vec<u8>) -> Self {
            Self
        }
    }

    let mut peers = world::<Slow>(2);
    let start = Instant::now();
    peers[0].send(1, 0, Slow).unwrap();
    assert!(start.elapsed() < Duration::from_millis(100));
    peers[1].recv(0, 0, &Slow.form(), LONG).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn what_a_rank_sent_before_it_left_still_arrives() {
    let mut peers = world::<Vec<f32>>(2).into_iter();
    let (mut first, mut second) = (peers.next().unwrap(), peers.next().unwrap());
    let form = Form::new([3_000_000], Element::F32);
    first.send(1, 0, vec![0.5; 3_000_000]).unwrap();
    drop(first);
    assert_eq!(second.recv(0, 0, &form, LONG), Ok(vec![0.5; 3_000_000]));
    assert!(matches!(
        second.recv(0, 0, &form, LONG),
        Err(CommError::PeerFailed { rank: 0, .. })
    ));
}

#[test]
fn a_message_of_another_form_is_an_error_that_names_both() {
    let mut peers = world::<Vec<f32>>(2);
    let expected = Form::new([4], Element::F32);
    peers[0].send(1, 0, vec![0.0; 3]).unwrap();
    let error = peers[1].recv(0, 0, &expected, LONG).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("rank 0 "), "{text}");
    assert!(
        text.contains("sent 3 of f32 where 4 of f32 was expected"),
        "{text}"
    );
}

#[test]
fn messages_under_one_tag_may_differ_in_form() {
    let mut peers = world::<Vec<u8>>(2).into_iter();
    let (mut first, mut second) = (peers.next().unwrap(), peers.next().unwrap());
    let lengths = || (0..3000).map(|index| 1 + index % 7);
    let receiving = thread::spawn(move || {
        for length in lengths() {
            let form = Form::new([length], Element::U8);
            assert_eq!(second.recv(0, 0, &form, LONG), Ok(vec![1; length]));
        }
    });
    for length in lengths() {
        first.send(1, 0, vec![1; length]).unwrap();
    }
    receiving.join().unwrap();
}

#[test]
fn a_message_above_the_runs_largest_is_refused() {
    let mut setups = setups(2);
    setups[1].largest = 1000;
    let mut peers: Vec<_> = setups.into_iter().map(start::<Vec<f32>>).collect();
    let mut second = peers.pop().unwrap().join().unwrap().unwrap();
    let mut first = peers.pop().unwrap().join().unwrap().unwrap();
    first.send(1, 0, vec![0.0; 250]).unwrap();
    let form = |length: usize| Form::new([length], Element::F32);
    assert!(second.recv(0, 0, &form(250), LONG).is_ok());
    first.send(1, 0, vec![0.0; 251]).unwrap();
    let error = second.recv(0, 0, &form(251), LONG).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("more than the 1000 bytes of this run's largest message"),
        "{error}"
    );
}

#[test]
fn a_failure_reaches_everybody_with_its_name_and_first_reason() {
    let mut peers = world::<u32>(4).into_iter();
    let mut failing = peers.next().unwrap();
    let waiting: Vec<_> = peers
        .map(|mut peer| {
            thread::spawn(move || {
                let from = peer.rank() % 3 + 1;
                let result = peer.recv(from, 0, &number(), LONG);
                peer.fail("I was told so");
                result
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(20));
    let start = Instant::now();
    failing.fail("out of memory");
    failing.fail("and then something else");
    drop(failing);
    for waiter in waiting {
        assert_eq!(
            waiter.join().unwrap(),
            Err(CommError::PeerFailed {
                rank: 0,
                reason: "out of memory".to_owned()
            })
        );
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_failure_is_seen_by_who_neither_sends_nor_receives() {
    let mut peers = world::<u32>(2).into_iter();
    let (mut first, second) = (peers.next().unwrap(), peers.next().unwrap());
    let watch = second.watch();
    let watching = thread::spawn(move || watch.wait());
    first.fail("out of memory");
    assert_eq!(
        watching.join().unwrap(),
        Some(CommError::PeerFailed {
            rank: 0,
            reason: "out of memory".to_owned()
        })
    );
    drop(first);

    let mut peers = world::<u32>(2).into_iter();
    let (first, second) = (peers.next().unwrap(), peers.next().unwrap());
    let watch = second.watch();
    let watching = thread::spawn(move || watch.wait());
    drop(first);
    drop(second);
    assert_eq!(watching.join().unwrap(), None);
}

#[test]
fn a_silent_peer_is_an_error_after_the_callers_deadline() {
    let mut peers = world::<u32>(2);
    let deadline = Duration::from_millis(50);
    assert_eq!(
        peers[1].recv(0, 0, &number(), deadline),
        Err(CommError::Deadline {
            rank: 0,
            after: deadline
        })
    );
}

#[test]
fn a_rank_that_only_computes_for_long_is_not_taken_for_dead() {
    let mut peers = world::<u32>(2);
    thread::sleep(Duration::from_secs(5));
    peers[0].send(1, 0, 1).unwrap();
    assert_eq!(peers[1].recv(0, 0, &number(), LONG), Ok(1));
}

#[test]
fn another_secret_is_refused_and_named() {
    let mut setups = setups(2);
    setups[0].patience = Duration::from_secs(1);
    setups[1].secret = Secret::new("another secret than theirs");
    let mut joining: Vec<_> = setups.into_iter().map(start::<u32>).collect();
    let second = joining.pop().unwrap().join().unwrap().err().unwrap();
    assert!(
        matches!(second, ConnectError::Secret { rank: 0, .. }),
        "{second}"
    );
    let first = joining.pop().unwrap().join().unwrap().err().unwrap();
    assert_eq!(
        first.to_string(),
        "rank 1 did not come within 1s; one connection was refused because its secret differs"
    );
}

#[test]
fn strangers_get_nothing_and_disturb_nobody() {
    let mut setups = setups(2);
    let port = setups[0].rendezvous.port;
    let second = setups.pop().unwrap();
    let first = start::<u32>(setups.pop().unwrap());
    thread::sleep(Duration::from_millis(100));
    let silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut loud = TcpStream::connect(("127.0.0.1", port)).unwrap();
    loud.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    // Whether it ends orderly does not matter.
    let _ = loud.read_to_end(&mut answer);
    // An alert of TLS: seven bytes that say nothing.
    assert!(answer.len() <= 7, "{answer:?}");
    let mut second = connect::<u32>(&second).unwrap();
    let mut first = first.join().unwrap().unwrap();
    first.send(1, 0, 1).unwrap();
    assert_eq!(second.recv(0, 0, &number(), LONG), Ok(1));
    drop(silent);
}

#[test]
fn without_a_secret_no_other_host_is_listened_to_or_connected_to() {
    for rank in [0, 1] {
        for host in ["0.0.0.0", "192.0.2.1", "::"] {
            let rendezvous = Rendezvous {
                host: host.to_owned(),
                port: free_port(),
            };
            let error = connect::<u32>(&Setup::new(rank, 2, rendezvous)).err();
            assert!(
                matches!(error, Some(ConnectError::NoSecret { .. })),
                "{error:?}"
            );
        }
    }
    let port = free_port();
    let joining: Vec<_> = (0..2)
        .map(|rank| start::<u32>(Setup::new(rank, 2, Rendezvous::loopback(port))))
        .collect();
    for rank in joining {
        assert!(rank.join().unwrap().is_ok());
    }
}

#[test]
fn ranks_of_different_runs_do_not_start_and_say_why() {
    let mut setups = setups(3);
    setups[2].facts[0].1 = "beef".to_owned();
    let joining: Vec<_> = setups.into_iter().map(start::<u32>).collect();
    let reason = "rank 2 does not belong to this run: its plan is beef, that of rank 0 is f00d";
    for (rank, joining) in joining.into_iter().enumerate() {
        let error = joining.join().unwrap().err().unwrap().to_string();
        // Rank 1 may come after rank 0 has given up.
        if rank != 1 {
            assert!(error.contains(reason), "{error}");
        }
    }
}

#[test]
fn who_does_not_come_is_named() {
    let mut setups = setups(4);
    setups[0].patience = Duration::from_secs(1);
    let joining: Vec<_> = setups.drain(..2).map(start::<u32>).collect();
    for joining in joining {
        let error = joining.join().unwrap().err().unwrap().to_string();
        assert!(
            error.ends_with("ranks 2 and 3 did not come within 1s"),
            "{error}"
        );
    }
}

#[test]
fn secrets_are_long_and_not_printed() {
    assert!(Secret::new("short").is_none());
    let secret = Secret::random().unwrap();
    assert_eq!(secret.reveal().len(), 64);
    assert_ne!(secret, Secret::random().unwrap());
    assert_eq!(format!("{secret:?}"), "Secret(…)");
}

/// Throughput and latency, on an idle machine: `cargo test --release -p asyncdiff-comm --features network --test network
/// speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    for elements in [16 * 1024, 640 * 1024, 16 * 1024 * 1024] {
        let mut peers = world::<Vec<u8>>(2);
        let bytes = 4 * elements;
        let form = Form::new([bytes], Element::U8);
        let rounds = (1 << 30) / bytes;
        let mut second = peers.pop().unwrap();
        let mut first = peers.pop().unwrap();
        let expected = form.clone();
        let other = thread::spawn(move || {
            for _ in 0..8 {
                let message = second.recv(0, 0, &expected, LONG).unwrap();
                second.send(0, 0, message).unwrap();
            }
            for _ in 0..rounds {
                second.recv(0, 1, &expected, LONG).unwrap();
            }
            second.send(0, 2, Vec::new()).unwrap();
        });
        let mut trips = Vec::new();
        for _ in 0..8 {
            let message = vec![1; bytes];
            let start = Instant::now();
            first.send(1, 0, message).unwrap();
            first.recv(1, 0, &form, LONG).unwrap();
            trips.push(start.elapsed());
        }
        trips.sort();
        // Made before the clock starts: it is the transport that is measured.
        let messages = vec![vec![1; bytes]; rounds];
        let start = Instant::now();
        for message in messages {
            first.send(1, 1, message).unwrap();
        }
        first
            .recv(1, 2, &Form::new([0], Element::U8), LONG)
            .unwrap();
        let speed = (rounds * bytes) as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!(
            "{bytes} bytes: round trip {:?}, {speed:.2} GB/s",
            trips[trips.len() / 2]
        );
        other.join().unwrap();
    }
}
