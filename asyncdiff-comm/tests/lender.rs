//! Processes that lend themselves to runs of others, who invites them, and who does not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use asyncdiff_comm::launch::Rendezvous;
use asyncdiff_comm::network::{
    ConnectError, Guests, Lender, NetworkPeer, Secret, Setup, connect, host,
};
use asyncdiff_comm::{CommError, Element, Form, PeerExchange};

const LONG: Duration = Duration::from_secs(30);

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text).unwrap())
}

fn lender() -> Lender {
    // A port that nobody listens at: the rendezvous cannot be any.
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let place = Rendezvous::loopback(port);
    Lender::listen(&place, secret("a secret of these tests").as_ref()).unwrap()
}

fn setup(rank: usize, world_size: usize) -> Setup {
    let mut setup = Setup::new(rank, world_size, Rendezvous::loopback(1));
    setup.secret = secret("a secret of these tests");
    setup.facts = vec![("plan".to_owned(), "f00d".to_owned())];
    setup.patience = Duration::from_secs(20);
    setup
}

fn place(address: SocketAddr) -> Rendezvous {
    Rendezvous::loopback(address.port())
}

/// A run of rank 0 and the lenders at these places.
fn lead(setup: &Setup, at: &[Rendezvous]) -> Result<NetworkPeer<u32>, ConnectError> {
    let job = "what is to be done";
    host(setup, None, &Guests { at, job })
}

fn number() -> Form {
    Form::new([], Element::U32)
}

/// Takes part in one run: answers one number with the next one.
fn help(lender: &mut Lender) -> Result<(), CommError> {
    let invitation = lender.wait().unwrap();
    assert_eq!(invitation.job(), "what is to be done");
    assert!(invitation.from().is_loopback());
    let setup = setup(invitation.rank(), invitation.world_size());
    let mut peer: NetworkPeer<u32> = invitation.accept(&setup).unwrap();
    let number = peer.recv(0, 0, &number(), LONG)?;
    peer.send(0, 0, number + 1)
}

#[test]
fn a_lender_takes_part_in_one_run_after_another() {
    let mut lender = lender();
    let at = [place(lender.address())];
    let helping = thread::spawn(move || {
        for _ in 0..3 {
            help(&mut lender).unwrap();
            // The leader has its answer, and comes again before it is waited for.
            thread::sleep(Duration::from_millis(100));
        }
    });
    for round in 0..3 {
        let mut peer = lead(&setup(0, 2), &at).unwrap();
        peer.send(1, 0, round).unwrap();
        assert_eq!(peer.recv(1, 0, &number(), LONG), Ok(round + 1));
    }
    helping.join().unwrap();
}

#[test]
fn those_who_are_invited_meet_each_other_and_those_who_come() {
    let lenders: Vec<_> = (0..2).map(|_| lender()).collect();
    let at: Vec<_> = lenders.iter().map(|one| place(one.address())).collect();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let rendezvous = place(listener.local_addr().unwrap());
    // Everybody sends to everybody.
    let meet = |mut peer: NetworkPeer<u32>| {
        let others = |own: usize| (0..4).filter(move |other| *other != own);
        for other in others(peer.rank()) {
            peer.send(other, 0, peer.rank() as u32).unwrap();
        }
        for other in others(peer.rank()) {
            assert_eq!(peer.recv(other, 0, &number(), LONG), Ok(other as u32));
        }
    };
    thread::scope(|scope| {
        for mut lender in lenders {
            scope.spawn(move || {
                let invitation = lender.wait().unwrap();
                let setup = setup(invitation.rank(), invitation.world_size());
                meet(invitation.accept(&setup).unwrap());
            });
        }
        scope.spawn(move || {
            let mut setup = setup(3, 4);
            setup.rendezvous = rendezvous;
            meet(connect(&setup).unwrap());
        });
        let guests = Guests { at: &at, job: "" };
        meet(host(&setup(0, 4), Some(listener), &guests).unwrap());
    });
}

#[test]
fn only_who_knows_the_secret_can_invite() {
    let mut lender = lender();
    let at = [place(lender.address())];
    // Somebody who does not even speak TLS.
    let mut stranger = TcpStream::connect(lender.address()).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    // Others who know another secret, or none.
    for other in [secret("another secret of these tests"), None] {
        let mut setup = setup(0, 2);
        setup.secret = other;
        let error = lead(&setup, &at).err().unwrap();
        assert!(
            matches!(error, ConnectError::Secret { rank: 1, .. }),
            "{error}"
        );
    }
    // It still waits for who does.
    let helping = thread::spawn(move || help(&mut lender));
    let mut peer = lead(&setup(0, 2), &at).unwrap();
    peer.send(1, 0, 7).unwrap();
    assert_eq!(peer.recv(1, 0, &number(), LONG), Ok(8));
    helping.join().unwrap().unwrap();
}

#[test]
fn without_a_secret_nobody_lends_beyond_this_host() {
    let everywhere = Rendezvous {
        host: "0.0.0.0".to_owned(),
        port: 29_500,
    };
    let error = Lender::listen(&everywhere, None).err().unwrap();
    assert!(matches!(error, ConnectError::NoSecret { .. }), "{error}");
}

#[test]
fn a_lender_that_refuses_or_is_busy_says_why() {
    let mut lender = lender();
    let at = [place(lender.address())];
    let leading = thread::spawn({
        let at = at.clone();
        move || lead(&setup(0, 2), &at).err().unwrap()
    });
    let invitation = lender.wait().unwrap();
    let busy = lead(&setup(0, 2), &at).err().unwrap();
    assert_eq!(
        busy.to_string(),
        "rank 1 cannot start: it works for another run: wait until that has ended"
    );
    invitation.refuse("it has no such model");
    let refused = leading.join().unwrap();
    assert_eq!(
        refused.to_string(),
        "rank 1 cannot start: it has no such model"
    );
}

#[test]
fn a_lender_that_is_named_twice_is_no_two_ranks() {
    for host in ["127.0.0.1", "localhost"] {
        let mut lender = lender();
        let first = place(lender.address());
        let second = Rendezvous {
            host: host.to_owned(),
            ..first.clone()
        };
        let error = lead(&setup(0, 3), &[first, second.clone()]).err().unwrap();
        let expected = format!(
            "rank 2 does not belong to this run: whoever waits at {second} is rank 1 already, and lends one device: name it once"
        );
        assert_eq!(error.to_string(), expected);
        // It was invited, and learns why nothing comes of it.
        let told = lender.wait().unwrap().accept::<u32>(&setup(1, 3));
        let told = told.err().unwrap().to_string();
        assert_eq!(told, format!("rank 0 cannot start: {expected}"));
    }
}

#[test]
fn facts_that_differ_are_an_error_on_both_sides() {
    let mut lender = lender();
    let at = [place(lender.address())];
    let helping = thread::spawn(move || {
        let invitation = lender.wait().unwrap();
        let mut setup = setup(1, 2);
        setup.facts[0].1 = "beef".to_owned();
        invitation.accept::<u32>(&setup).err().unwrap().to_string()
    });
    let said = lead(&setup(0, 2), &at).err().unwrap().to_string();
    let expected = "rank 1 does not belong to this run: its plan is beef, that of rank 0 is f00d";
    assert_eq!(said, expected);
    let told = helping.join().unwrap();
    assert_eq!(told, format!("rank 0 cannot start: {expected}"));
}

#[test]
fn a_leader_that_dies_is_an_error_and_the_next_one_is_helped() {
    let mut lender = lender();
    let at = [place(lender.address())];
    let helping = thread::spawn(move || [help(&mut lender), help(&mut lender)]);
    // One that says what has happened, in place of a process that is killed.
    let mut first = lead(&setup(0, 2), &at).unwrap();
    first.fail("it was killed");
    drop(first);
    let mut second = loop {
        match lead(&setup(0, 2), &at) {
            Ok(peer) => break peer,
            // It may not have noticed yet.
            Err(ConnectError::Refused { .. }) => thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    };
    second.send(1, 0, 1).unwrap();
    assert_eq!(second.recv(1, 0, &number(), LONG), Ok(2));
    let [first, second] = helping.join().unwrap();
    assert!(matches!(first, Err(CommError::PeerFailed { rank: 0, .. })));
    second.unwrap();
}

#[test]
fn nobody_at_the_place_is_an_error_at_once() {
    let lender = lender();
    let at = [place(lender.address())];
    // Its thread listens for as long as the process lives.
    let nowhere = [Rendezvous::loopback(1)];
    for at in [&nowhere[..], &[at[0].clone(), nowhere[0].clone()]] {
        let start = std::time::Instant::now();
        let error = lead(&setup(0, at.len() + 1), at).err().unwrap();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
