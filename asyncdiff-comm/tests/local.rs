//! The contract of `PeerExchange`, on the in-process transport.

use std::thread;
use std::time::{Duration, Instant};

use asyncdiff_comm::local::{LocalPeer, world};
use asyncdiff_comm::{CommError, PeerExchange};

const LONG: Duration = Duration::from_secs(30);

fn pair(deadline: Duration) -> (LocalPeer<u32>, LocalPeer<u32>) {
    let mut peers = world(2, deadline).into_iter();
    (peers.next().unwrap(), peers.next().unwrap())
}

#[test]
fn messages_are_matched_by_sender_and_tag_and_keep_their_order() {
    let mut peers = world::<u32>(3, LONG);
    peers[0].send(2, 1, 10).unwrap();
    peers[0].send(2, 2, 20).unwrap();
    peers[1].send(2, 1, 30).unwrap();
    peers[0].send(2, 1, 11).unwrap();
    assert_eq!(peers[2].recv(1, 1), Ok(30));
    assert_eq!(peers[2].recv(0, 2), Ok(20));
    assert_eq!(peers[2].recv(0, 1), Ok(10));
    assert_eq!(peers[2].recv(0, 1), Ok(11));
}

#[test]
fn a_late_message_is_waited_for() {
    let (mut first, mut second) = pair(LONG);
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        first.send(1, 0, 5).unwrap();
    });
    assert_eq!(second.recv(0, 0), Ok(5));
    sender.join().unwrap();
}

#[test]
fn what_a_rank_sent_before_it_left_still_arrives() {
    let (mut first, mut second) = pair(LONG);
    first.send(1, 0, 5).unwrap();
    drop(first);
    assert_eq!(second.recv(0, 0), Ok(5));
    assert!(matches!(
        second.recv(0, 0),
        Err(CommError::PeerFailed { rank: 0, .. })
    ));
}

#[test]
fn a_failure_reaches_everybody_with_its_name_and_first_reason() {
    let mut peers = world::<u32>(3, LONG).into_iter();
    let mut failing = peers.next().unwrap();
    let waiting: Vec<_> = peers
        .map(|mut peer| thread::spawn(move || peer.recv((peer.rank() + 1) % 3, 0)))
        .collect();
    thread::sleep(Duration::from_millis(20));
    failing.fail("out of memory");
    failing.fail("and then something else");
    for waiter in waiting {
        assert_eq!(
            waiter.join().unwrap(),
            Err(CommError::PeerFailed {
                rank: 0,
                reason: "out of memory".to_owned()
            })
        );
    }
}

#[test]
fn a_panic_reaches_everybody() {
    let (first, mut second) = pair(LONG);
    let panicking = thread::spawn(move || {
        let _held = first;
        panic!("on purpose");
    });
    assert_eq!(
        second.recv(0, 0),
        Err(CommError::PeerFailed {
            rank: 0,
            reason: "it panicked".to_owned()
        })
    );
    assert!(panicking.join().is_err());
}

#[test]
fn a_silent_peer_is_an_error_after_the_deadline() {
    let deadline = Duration::from_millis(30);
    let (_first, mut second) = pair(deadline);
    let start = Instant::now();
    assert_eq!(
        second.recv(0, 0),
        Err(CommError::Deadline {
            rank: 0,
            after: deadline
        })
    );
    assert!(start.elapsed() >= deadline);
}

#[test]
fn a_barrier_waits_for_all_and_can_be_used_again() {
    let counter = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for mut peer in world::<()>(4, LONG) {
            let counter = &counter;
            scope.spawn(move || {
                for round in 1..=5 {
                    counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    peer.barrier().unwrap();
                    assert!(counter.load(std::sync::atomic::Ordering::SeqCst) >= 4 * round);
                    peer.barrier().unwrap();
                }
            });
        }
    });
}

#[test]
fn a_barrier_that_a_rank_left_is_an_error() {
    let (first, mut second) = pair(LONG);
    drop(first);
    assert!(matches!(
        second.barrier(),
        Err(CommError::PeerFailed { rank: 0, .. })
    ));
}

#[test]
fn a_rank_outside_the_world_is_an_error() {
    let (mut first, _second) = pair(LONG);
    let error = CommError::NoSuchRank {
        rank: 2,
        world_size: 2,
    };
    assert_eq!(first.send(2, 0, 1), Err(error.clone()));
    assert_eq!(first.recv(2, 0), Err(error));
}

#[test]
fn a_barrier_names_the_rank_that_does_not_come_and_can_be_tried_again() {
    let mut peers = world::<u32>(3, Duration::from_millis(30));
    for _ in 0..2 {
        assert!(matches!(
            peers[0].barrier(),
            Err(CommError::Deadline { rank: 1, .. })
        ));
    }
    let (mut third, mut second) = (peers.pop().unwrap(), peers.pop().unwrap());
    let waiting = thread::spawn(move || second.barrier());
    // Two of three are there, one of them twice: the third still has to come.
    assert!(matches!(
        waiting.join().unwrap(),
        Err(CommError::Deadline { rank: 2, .. })
    ));
    assert_eq!(third.barrier(), Ok(()));
}

#[test]
fn a_failed_rank_is_told_at_the_barrier_too() {
    let (mut first, mut second) = pair(LONG);
    first.fail("out of memory");
    assert!(matches!(
        second.barrier(),
        Err(CommError::PeerFailed { rank: 0, .. })
    ));
}
