//! Where a rank's messages wait until it asks for them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{CommError, Form};

/// One rank's mail, and what it knows of the others.
pub(crate) struct Mailbox<T> {
    rank: usize,
    world_size: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// Messages by sender and tag.
    mail: HashMap<(usize, u64), VecDeque<(Form, T)>>,
    /// What this rank is waiting for.
    awaited: Option<(usize, u64, Form)>,
    left: Vec<bool>,
    failure: Option<Failure>,
}

/// The first rank that failed, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub rank: usize,
    pub reason: String,
}

impl From<Failure> for CommError {
    fn from(Failure { rank, reason }: Failure) -> Self {
        CommError::PeerFailed { rank, reason }
    }
}

impl<T> Mailbox<T> {
    pub fn new(rank: usize, world_size: usize) -> Self {
        Self {
            rank,
            world_size,
            state: Mutex::new(State {
                mail: HashMap::new(),
                awaited: None,
                left: vec![false; world_size],
                failure: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// A panic while the lock was held leaves nothing half-changed: every critical section makes one change.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, from: usize, tag: u64, form: Form, message: T) {
        let mut state = self.lock();
        let queue = state.mail.entry((from, tag)).or_default();
        queue.push_back((form, message));
        drop(state);
        self.changed.notify_all();
    }

    /// `rank` sends nothing any more.
    pub fn leave(&self, rank: usize) {
        self.lock().left[rank] = true;
        self.changed.notify_all();
    }

    /// Takes note of a failure, and answers with the first: that is the cause, what follows are its consequences.
    pub fn fail(&self, failure: Failure) -> Failure {
        let mut state = self.lock();
        let first = state.failure.get_or_insert(failure).clone();
        drop(state);
        self.changed.notify_all();
        first
    }

    /// An error if another rank has failed, or `other` does not exist.
    pub fn check(&self, other: usize) -> Result<(), CommError> {
        if other >= self.world_size {
            return Err(CommError::NoSuchRank {
                rank: other,
                world_size: self.world_size,
            });
        }
        check(&self.lock(), self.rank)
    }

    /// Waits for a message, a failure, that the sender leaves, or that the time is over.
    pub fn take(
        &self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<T, CommError> {
        if from >= self.world_size {
            return Err(CommError::NoSuchRank {
                rank: from,
                world_size: self.world_size,
            });
        }
        let start = Instant::now();
        let mut state = self.lock();
        state.awaited = Some((from, tag, expected.clone()));
        let result = loop {
            if let Some((form, message)) = pop(&mut state, (from, tag)) {
                break fits(from, expected, &form).map(|()| message);
            }
            if let Err(error) = check(&state, self.rank) {
                break Err(error);
            }
            if state.left[from] {
                break Err(CommError::PeerFailed {
                    rank: from,
                    reason: "it ended while others still waited for it".to_owned(),
                });
            }
            let left = within.saturating_sub(start.elapsed());
            if left.is_zero() {
                break Err(CommError::Deadline {
                    rank: from,
                    after: within,
                });
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.awaited = None;
        result
    }
}

#[cfg(feature = "network")]
impl<T> Mailbox<T> {
    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Whether a message of this form may come: it is not the next of those that somebody waits for in another form.
    pub fn allows(&self, from: usize, tag: u64, form: &Form) -> Result<(), CommError> {
        let state = self.lock();
        match &state.awaited {
            // What came before it under the same tag is what is waited for.
            _ if state.mail.contains_key(&(from, tag)) => Ok(()),
            Some((awaited, at, expected)) if (*awaited, *at) == (from, tag) => {
                fits(from, expected, form)
            }
            _ => Ok(()),
        }
    }

    pub fn has_left(&self, rank: usize) -> bool {
        self.lock().left[rank]
    }

    /// The first failure of any rank.
    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// Waits until a rank has failed, or `enough` says so after a change.
    pub fn watch(&self, mut enough: impl FnMut() -> bool) -> Option<Failure> {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() || enough() {
                return state.failure.clone();
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes whoever waits, to look again.
    pub fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }
}

fn check<T>(state: &State<T>, rank: usize) -> Result<(), CommError> {
    match &state.failure {
        Some(failure) if failure.rank != rank => Err(failure.clone().into()),
        _ => Ok(()),
    }
}

fn pop<T>(state: &mut State<T>, key: (usize, u64)) -> Option<(Form, T)> {
    let queue = state.mail.get_mut(&key)?;
    let message = queue.pop_front();
    if queue.is_empty() {
        state.mail.remove(&key);
    }
    message
}

fn fits(from: usize, expected: &Form, found: &Form) -> Result<(), CommError> {
    if expected == found {
        Ok(())
    } else {
        Err(CommError::Form {
            rank: from,
            expected: expected.clone(),
            found: found.clone(),
        })
    }
}
