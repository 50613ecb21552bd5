//! The transport between threads of one process: a mailbox per rank.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{CommError, PeerExchange};

/// One rank of a [`world`]. Dropping it tells the others that it has left; dropping it in a panic, that it has failed.
pub struct LocalPeer<M> {
    rank: usize,
    deadline: Duration,
    world: Arc<World<M>>,
}

struct World<M> {
    state: Mutex<State<M>>,
    changed: Condvar,
}

struct State<M> {
    /// Messages by `(from, to, tag)`.
    mail: HashMap<(usize, usize, u64), VecDeque<M>>,
    /// Ranks that were dropped.
    left: Vec<bool>,
    failure: Option<(usize, String)>,
    /// Which ranks are at the current barrier, and how many barriers are done.
    arrived: Vec<bool>,
    barriers: usize,
}

/// `size` connected ranks, to be moved to one thread each. A wait that lasts longer than `deadline` is an error.
#[must_use]
pub fn world<M>(size: usize, deadline: Duration) -> Vec<LocalPeer<M>> {
    let world = Arc::new(World {
        state: Mutex::new(State {
            mail: HashMap::new(),
            left: vec![false; size],
            failure: None,
            arrived: vec![false; size],
            barriers: 0,
        }),
        changed: Condvar::new(),
    });
    (0..size)
        .map(|rank| LocalPeer {
            rank,
            deadline,
            world: Arc::clone(&world),
        })
        .collect()
}

impl<M> World<M> {
    /// A panic while the lock was held leaves nothing half-changed: every critical section makes one change.
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> State<M> {
    fn check(&self, rank: usize) -> Result<(), CommError> {
        match &self.failure {
            Some((failed, reason)) if *failed != rank => Err(CommError::PeerFailed {
                rank: *failed,
                reason: reason.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl<M> LocalPeer<M> {
    fn in_world(&self, rank: usize, state: &State<M>) -> Result<(), CommError> {
        let world_size = state.left.len();
        if rank < world_size {
            Ok(())
        } else {
            Err(CommError::NoSuchRank { rank, world_size })
        }
    }

    /// Waits until `ready` gives something, a rank fails, `awaited` has left, or the deadline passes.
    fn wait<R>(
        &self,
        mut state: MutexGuard<'_, State<M>>,
        mut ready: impl FnMut(&mut State<M>) -> Option<R>,
        awaited: impl Fn(&State<M>) -> Option<usize>,
    ) -> Result<R, CommError> {
        let start = Instant::now();
        loop {
            if let Some(result) = ready(&mut state) {
                return Ok(result);
            }
            state.check(self.rank)?;
            let rank = awaited(&state);
            if let Some(rank) = rank.filter(|rank| state.left[*rank]) {
                return Err(CommError::PeerFailed {
                    rank,
                    reason: "it ended while others still waited for it".to_owned(),
                });
            }
            let left = self.deadline.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(CommError::Deadline {
                    rank: rank.unwrap_or(self.rank),
                    after: self.deadline,
                });
            }
            state = self
                .world
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl<M> PeerExchange<M> for LocalPeer<M> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world.lock().left.len()
    }

    fn send(&mut self, to: usize, tag: u64, message: M) -> Result<(), CommError> {
        let mut state = self.world.lock();
        self.in_world(to, &state)?;
        state.check(self.rank)?;
        state
            .mail
            .entry((self.rank, to, tag))
            .or_default()
            .push_back(message);
        drop(state);
        self.world.changed.notify_all();
        Ok(())
    }

    fn recv(&mut self, from: usize, tag: u64) -> Result<M, CommError> {
        let state = self.world.lock();
        self.in_world(from, &state)?;
        let key = (from, self.rank, tag);
        self.wait(
            state,
            |state| {
                let queue = state.mail.get_mut(&key)?;
                let message = queue.pop_front();
                if queue.is_empty() {
                    state.mail.remove(&key);
                }
                message
            },
            |_| Some(from),
        )
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        let mut state = self.world.lock();
        state.check(self.rank)?;
        let mine = state.barriers;
        // Whoever comes again after a deadline counts once.
        state.arrived[self.rank] = true;
        if state.arrived.iter().all(|arrived| *arrived) {
            state.arrived.fill(false);
            state.barriers += 1;
            drop(state);
            self.world.changed.notify_all();
            return Ok(());
        }
        self.wait(
            state,
            |state| (state.barriers > mine).then_some(()),
            |state| {
                let missing = |rank: &usize| !state.arrived[*rank];
                let gone = |rank: &usize| state.left[*rank];
                let ranks = || 0..state.left.len();
                ranks().find(gone).or_else(|| ranks().find(missing))
            },
        )
    }

    fn fail(&mut self, reason: &str) {
        let mut state = self.world.lock();
        // The first failure is the cause; what follows are its consequences.
        if state.failure.is_none() {
            state.failure = Some((self.rank, reason.to_owned()));
        }
        drop(state);
        self.world.changed.notify_all();
    }
}

impl<M> Drop for LocalPeer<M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail("it panicked");
        }
        self.world.lock().left[self.rank] = true;
        self.world.changed.notify_all();
    }
}
