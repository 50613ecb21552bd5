//! The transport between GPUs, on a fake with NCCL's rules.

mod fake;
mod meeting;

use std::ffi::c_void;
use std::thread;
use std::time::{Duration, Instant};

use asyncdiff_comm::local;
#[cfg(feature = "nccl")]
use asyncdiff_comm::nccl::Library;
use asyncdiff_comm::nccl::{DeviceBuffer, NcclPeer};
use asyncdiff_comm::{CommError, Element, Form, PeerExchange, Transfer};

use fake::{Fake, fakes};

const LONG: Duration = Duration::from_secs(60);

/// Memory of a device.
struct Buffer(Box<[u8]>);

// SAFETY: the bytes are the box's own, and as many as the form says.
unsafe impl DeviceBuffer for Buffer {
    fn form(&self) -> Form {
        Form::new([self.0.len()], Element::U8)
    }

    fn pointer(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }
}

type Peer = NcclPeer<Fake, local::LocalPeer<Vec<u8>>, Buffer, Vec<u8>>;

fn peers(size: usize, order: impl Fn(usize) -> Vec<Transfer>) -> Vec<Peer> {
    let control = local::world::<Vec<u8>>(size);
    fakes(size)
        .into_iter()
        .zip(control)
        .enumerate()
        .map(|(rank, (fake, control))| {
            let empty = |form: &Form| Buffer(vec![0; form.bytes().unwrap()].into());
            NcclPeer::new(fake, control, &order(rank), Box::new(empty))
        })
        .collect()
}

/// Random numbers that are the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// What a rank does, in its order: an index into the transfers, to be sent or to be received.
type Program = Vec<(bool, usize)>;

/// A random run that works where sending waits for nobody: messages in the order in which they are sent, and what each rank
/// does. A receive follows its send, sooner or later.
fn random_run(seed: u64) -> (Vec<Transfer>, Vec<Program>) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let ranks = 2 + random.below(4);
    let mut transfers: Vec<Transfer> = Vec::new();
    let mut programs = vec![Program::new(); ranks];
    let mut open: Vec<usize> = Vec::new();
    let messages = 20 + random.below(100);
    while transfers.len() < messages || !open.is_empty() {
        let receive = !open.is_empty() && (transfers.len() == messages || random.below(2) == 0);
        if receive {
            // Not always in the order in which they were sent.
            let index = open.swap_remove(random.below(open.len()));
            programs[transfers[index].to].push((false, index));
        } else {
            let from = random.below(ranks);
            let to = (from + 1 + random.below(ranks - 1)) % ranks;
            let index = transfers.len();
            transfers.push(Transfer {
                from,
                to,
                tag: index as u64,
                form: Form::new([1 + random.below(1000)], Element::U8),
            });
            programs[from].push((true, index));
            open.push(index);
        }
    }
    (transfers, programs)
}

fn content(transfer: &Transfer) -> Vec<u8> {
    let bytes = transfer.form.bytes().unwrap();
    (0..bytes)
        .map(|at| (at as u64 * 31 + transfer.tag) as u8)
        .collect()
}

/// Runs all programs; the first error of each rank.
fn run(
    transfers: &[Transfer],
    programs: &[Program],
    order: impl Fn(usize) -> Vec<Transfer>,
) -> Vec<Result<(), CommError>> {
    thread::scope(|scope| {
        let ranks: Vec<_> = peers(programs.len(), order)
            .into_iter()
            .zip(programs)
            .map(|(mut peer, program)| {
                scope.spawn(move || {
                    let result = program.iter().try_for_each(|(send, index)| {
                        let transfer = &transfers[*index];
                        if *send {
                            let message = Buffer(content(transfer).into());
                            peer.send(transfer.to, transfer.tag, message)
                        } else {
                            let Transfer {
                                from, tag, form, ..
                            } = transfer;
                            let message = peer.recv(*from, *tag, form, LONG)?;
                            assert_eq!(*message.0, content(transfer));
                            Ok(())
                        }
                    });
                    if let Err(error) = &result {
                        peer.fail(&error.to_string());
                    }
                    result
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn random_runs_finish_in_one_global_order() {
    for seed in 0..200 {
        let (transfers, programs) = random_run(seed);
        let results = run(&transfers, &programs, |_| transfers.clone());
        assert!(results.iter().all(Result::is_ok), "{seed}: {results:?}");
    }
}

/// What a transport would do that hands every message to NCCL as its rank comes to it.
fn as_it_comes(transfers: &[Transfer], program: &Program) -> Vec<Transfer> {
    program
        .iter()
        .map(|(_, index)| transfers[*index].clone())
        .collect()
}

#[test]
fn without_the_global_order_the_fake_finds_a_deadlock() {
    // Both send before they receive, as a guidance split does.
    let form = Form::new([4], Element::U8);
    let transfers = [(0, 1, 0), (1, 0, 1)].map(|(from, to, tag)| Transfer {
        from,
        to,
        tag,
        form: form.clone(),
    });
    let programs = vec![vec![(true, 0), (false, 1)], vec![(true, 1), (false, 0)]];
    let results = run(&transfers, &programs, |_| transfers.to_vec());
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let start = Instant::now();
    let results = run(&transfers, &programs, |rank| {
        as_it_comes(&transfers, &programs[rank])
    });
    assert!(
        results.iter().any(
            |result| matches!(result, Err(CommError::Transport(text)) if text.contains("deadlock"))
        ),
        "{results:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// Whether a run ends right if every rank's stream does what the rank asks for, in its order: worked out by hand, one pair of
/// fronts after another.
fn ends_as_it_comes(transfers: &[Transfer], programs: &[Program]) -> bool {
    let mut next = vec![0; programs.len()];
    let front = |next: &[usize], rank: usize| programs[rank].get(next[rank]).copied();
    loop {
        let pair = (0..programs.len()).find_map(|rank| match front(&next, rank) {
            Some((true, index)) => {
                let to = transfers[index].to;
                match front(&next, to) {
                    Some((false, other)) if transfers[other].from == rank => {
                        Some((rank, to, index == other))
                    }
                    _ => None,
                }
            }
            _ => None,
        });
        match pair {
            Some((from, to, true)) => {
                next[from] += 1;
                next[to] += 1;
            }
            // One message is taken for another.
            Some((_, _, false)) => return false,
            None => return (0..programs.len()).all(|rank| front(&next, rank).is_none()),
        }
    }
}

#[test]
fn wrong_orders_are_found_out_and_never_hang() {
    let start = Instant::now();
    let mut wrong = 0;
    for seed in 0..50 {
        let (transfers, programs) = random_run(seed);
        let results = run(&transfers, &programs, |rank| {
            let mut random = Random(seed * 64 + rank as u64 + 1);
            let mut shuffled = transfers.clone();
            for last in (1..shuffled.len()).rev() {
                shuffled.swap(last, random.below(last + 1));
            }
            shuffled
        });
        assert!(results.iter().any(Result::is_err), "{seed}");
        // Every rank's own order is right for that rank; together they are right only by chance.
        let results = run(&transfers, &programs, |rank| {
            as_it_comes(&transfers, &programs[rank])
        });
        let ends = ends_as_it_comes(&transfers, &programs);
        assert_eq!(
            results.iter().all(Result::is_ok),
            ends,
            "{seed}: {results:?}"
        );
        wrong += usize::from(!ends);
    }
    assert!(wrong > 0);
    assert!(start.elapsed() < LONG);
}

/// The form of the only message of a run, and that.
fn one_message() -> (Form, Vec<Transfer>) {
    let form = Form::new([4], Element::U8);
    let message = Transfer {
        from: 0,
        to: 1,
        tag: 0,
        form: form.clone(),
    };
    (form, vec![message])
}

#[test]
fn a_failure_of_another_rank_ends_a_receive_and_aborts() {
    let (form, transfers) = one_message();
    let mut ranks = peers(2, |_| transfers.clone());
    let (mut second, mut first) = (ranks.pop().unwrap(), ranks.pop().unwrap());
    let waiting = thread::spawn(move || second.recv(0, 0, &form, LONG).err());
    thread::sleep(Duration::from_millis(20));
    first.fail("out of memory");
    assert_eq!(
        waiting.join().unwrap(),
        Some(CommError::PeerFailed {
            rank: 0,
            reason: "out of memory".to_owned()
        })
    );
}

#[test]
fn a_message_that_does_not_come_is_an_error_after_the_callers_deadline() {
    let (form, transfers) = one_message();
    let mut ranks = peers(2, |_| transfers.clone());
    let after = Duration::from_millis(50);
    assert_eq!(
        ranks[1].recv(0, 0, &form, after).err(),
        Some(CommError::Deadline { rank: 0, after })
    );
}

#[test]
fn messages_of_another_form_or_no_run_are_errors() {
    let (_, transfers) = one_message();
    let mut ranks = peers(2, |_| transfers.clone());
    let other = Form::new([5], Element::U8);
    assert!(matches!(
        ranks[1].recv(0, 0, &other, LONG),
        Err(CommError::Form { rank: 0, .. })
    ));
    assert!(matches!(
        ranks[0].send(1, 0, Buffer(vec![0; 5].into())),
        Err(CommError::Form { rank: 0, .. })
    ));
    assert!(matches!(
        ranks[0].send(1, 9, Buffer(vec![0; 4].into())),
        Err(CommError::Transport(_))
    ));
}

#[cfg(feature = "nccl")]
#[test]
fn without_a_driver_one_sentence_says_so() {
    // On a machine that has both, there is nothing to say.
    if let Err(error) = Library::load() {
        let text = error.to_string();
        assert!(
            text.contains("cannot be loaded") || text.contains("no GPU"),
            "{text}"
        );
    }
}
