//! The contract of `PeerExchange`, on the in-process transport.

use std::thread;
use std::time::{Duration, Instant};

use asyncdiff_comm::local::{LocalPeer, world};
use asyncdiff_comm::{CommError, Element, Form, PeerExchange};

const LONG: Duration = Duration::from_secs(30);

fn number() -> Form {
    Form::new([], Element::U32)
}

fn pair() -> (LocalPeer<u32>, LocalPeer<u32>) {
    let mut peers = world(2).into_iter();
    (peers.next().unwrap(), peers.next().unwrap())
}

#[test]
fn messages_are_matched_by_sender_and_tag_and_keep_their_order() {
    let mut peers = world::<u32>(3);
    peers[0].send(2, 1, 10).unwrap();
    peers[0].send(2, 2, 20).unwrap();
    peers[1].send(2, 1, 30).unwrap();
    peers[0].send(2, 1, 11).unwrap();
    assert_eq!(peers[2].recv(1, 1, &number(), LONG), Ok(30));
    assert_eq!(peers[2].recv(0, 2, &number(), LONG), Ok(20));
    assert_eq!(peers[2].recv(0, 1, &number(), LONG), Ok(10));
    assert_eq!(peers[2].recv(0, 1, &number(), LONG), Ok(11));
}

#[test]
fn a_late_message_is_waited_for() {
    let (mut first, mut second) = pair();
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        first.send(1, 0, 5).unwrap();
    });
    assert_eq!(second.recv(0, 0, &number(), LONG), Ok(5));
    sender.join().unwrap();
}

#[test]
fn what_a_rank_sent_before_it_left_still_arrives() {
    let (mut first, mut second) = pair();
    first.send(1, 0, 5).unwrap();
    drop(first);
    assert_eq!(second.recv(0, 0, &number(), LONG), Ok(5));
    assert!(matches!(
        second.recv(0, 0, &number(), LONG),
        Err(CommError::PeerFailed { rank: 0, .. })
    ));
}

#[test]
fn a_message_of_another_form_is_an_error_that_names_both() {
    let mut peers = world::<Vec<f32>>(2);
    peers[0].send(1, 0, vec![0.0; 3]).unwrap();
    let expected = Form::new([4], Element::F32);
    let error = peers[1].recv(0, 0, &expected, LONG).unwrap_err();
    assert_eq!(
        error,
        CommError::Form {
            rank: 0,
            expected,
            found: Form::new([3], Element::F32)
        }
    );
    assert_eq!(
        error.to_string(),
        "rank 0 sent 3 of f32 where 4 of f32 was expected: its plan or its program differs"
    );
}

#[test]
fn a_failure_reaches_everybody_with_its_name_and_first_reason() {
    let mut peers = world::<u32>(3).into_iter();
    let mut failing = peers.next().unwrap();
    let waiting: Vec<_> = peers
        .map(|mut peer| {
            thread::spawn(move || {
                let result = peer.recv((peer.rank() + 1) % 3, 0, &number(), LONG);
                // What follows from the failure does not hide it.
                peer.fail("I was told so");
                result
            })
        })
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
    let (first, mut second) = pair();
    let panicking = thread::spawn(move || {
        let _held = first;
        panic!("on purpose");
    });
    assert_eq!(
        second.recv(0, 0, &number(), LONG),
        Err(CommError::PeerFailed {
            rank: 0,
            reason: "it panicked".to_owned()
        })
    );
    assert!(panicking.join().is_err());
}

#[test]
fn a_silent_peer_is_an_error_after_the_callers_deadline() {
    let (_first, mut second) = pair();
    for deadline in [30, 60].map(Duration::from_millis) {
        let start = Instant::now();
        assert_eq!(
            second.recv(0, 0, &number(), deadline),
            Err(CommError::Deadline {
                rank: 0,
                after: deadline
            })
        );
        assert!(start.elapsed() >= deadline);
    }
}

#[test]
fn a_rank_outside_the_world_is_an_error() {
    let (mut first, _second) = pair();
    let nobody = CommError::NoSuchRank {
        rank: 2,
        world_size: 2,
    };
    assert_eq!(first.send(2, 0, 1), Err(nobody.clone()));
    assert_eq!(first.recv(2, 0, &number(), LONG), Err(nobody));
}
