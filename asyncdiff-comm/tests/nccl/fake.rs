//! NCCL's rules without NCCL: a communicator's stream does one thing after another; a send and a receive are done when both are at
//! the front of their streams; between two ranks nothing overtakes; sizes must agree.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use asyncdiff_comm::nccl::{NcclApi, NcclError};

/// What is in a stream.
#[derive(Clone, Copy)]
enum Op {
    Send {
        to: usize,
        at: usize,
        bytes: usize,
    },
    Recv {
        from: usize,
        at: usize,
        bytes: usize,
    },
}

#[derive(Default)]
struct Streams {
    waiting: Vec<VecDeque<Op>>,
    done: Vec<usize>,
    /// Grows with everything that happens; and what it was when each rank last saw that nothing had.
    changes: usize,
    idle_since: Vec<Option<usize>>,
    ended: Vec<bool>,
    aborted: bool,
}

impl Streams {
    /// Does what can be done.
    fn run(&mut self) -> Result<(), NcclError> {
        loop {
            let pair = (0..self.waiting.len()).find_map(|rank| {
                let Some(Op::Send { to, at, bytes }) = self.waiting[rank].front().copied() else {
                    return None;
                };
                match self.waiting[to].front().copied() {
                    Some(Op::Recv {
                        from,
                        at: into,
                        bytes: room,
                    }) if from == rank => Some((rank, to, at, into, bytes, room)),
                    _ => None,
                }
            });
            let Some((rank, to, at, into, bytes, room)) = pair else {
                return Ok(());
            };
            if bytes != room {
                return Err(failure("the two sides do not agree on the size"));
            }
            // SAFETY: both buffers are kept by their ranks until their streams have passed; that is what is tested.
            unsafe { std::ptr::copy_nonoverlapping(at as *const u8, into as *mut u8, bytes) };
            for rank in [rank, to] {
                self.waiting[rank].pop_front();
                self.done[rank] += 1;
            }
            self.changes += 1;
        }
    }
}

/// What NCCL says.
pub fn failure(reason: &str) -> NcclError {
    NcclError::Call {
        function: "fake",
        code: 3,
        reason: reason.to_owned(),
    }
}

/// A communicator of one rank.
pub struct Fake {
    rank: usize,
    streams: Arc<Mutex<Streams>>,
}

/// Those of all ranks.
pub fn fakes(size: usize) -> Vec<Fake> {
    let streams = Arc::new(Mutex::new(Streams {
        waiting: vec![VecDeque::new(); size],
        done: vec![0; size],
        idle_since: vec![None; size],
        ended: vec![false; size],
        ..Streams::default()
    }));
    (0..size)
        .map(|rank| Fake {
            rank,
            streams: Arc::clone(&streams),
        })
        .collect()
}

impl Fake {
    fn append(&self, op: Op) -> Result<(), NcclError> {
        let mut streams = self.streams.lock().unwrap();
        streams.waiting[self.rank].push_back(op);
        streams.changes += 1;
        streams.run()
    }
}

impl NcclApi for Fake {
    type Mark = usize;

    unsafe fn send(
        &mut self,
        to: usize,
        pointer: *const c_void,
        bytes: usize,
    ) -> Result<(), NcclError> {
        let at = pointer as usize;
        self.append(Op::Send { to, at, bytes })
    }

    unsafe fn recv(
        &mut self,
        from: usize,
        pointer: *mut c_void,
        bytes: usize,
    ) -> Result<(), NcclError> {
        let at = pointer as usize;
        self.append(Op::Recv { from, at, bytes })
    }

    fn mark(&mut self) -> Result<usize, NcclError> {
        let streams = self.streams.lock().unwrap();
        Ok(streams.done[self.rank] + streams.waiting[self.rank].len())
    }

    fn passed(&mut self, mark: &usize) -> Result<bool, NcclError> {
        let mut streams = self.streams.lock().unwrap();
        if streams.aborted {
            return Err(failure("aborted"));
        }
        if streams.done[self.rank] >= *mark {
            streams.idle_since[self.rank] = None;
            return Ok(true);
        }
        let changes = streams.changes;
        streams.idle_since[self.rank] = Some(changes);
        let stuck = |rank: usize| streams.ended[rank] || streams.idle_since[rank] == Some(changes);
        if (0..streams.done.len()).all(stuck) {
            return Err(failure("deadlock"));
        }
        Ok(false)
    }

    fn abort(&mut self) {
        self.streams.lock().unwrap().aborted = true;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let mut streams = self.streams.lock().unwrap();
        streams.ended[self.rank] = true;
        streams.idle_since[self.rank] = None;
    }
}
