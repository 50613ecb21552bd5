//! Who waits for a device, first come, first served.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::job::{Job, Outcome, Task};
use crate::refusal::Refusal;

/// The line.
#[derive(Debug)]
pub(crate) struct Queue {
    most: usize,
    line: Mutex<Line>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Arc<Job>>,
    /// Engines that have nothing to do.
    idle: usize,
    closed: bool,
}

impl Queue {
    /// One in which so many may wait.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            line: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Puts a job at the end, and says which place it has.
    pub fn push(&self, job: &Arc<Job>) -> Result<usize, Refusal> {
        let mut line = self.line();
        if line.closed {
            return Err(Refusal::closing());
        }
        // Those that an idle engine is about to take do not wait.
        if line.waiting.len() >= self.most + line.idle {
            return Err(Refusal::busy(line.waiting.len()));
        }
        line.waiting.push_back(Arc::clone(job));
        let place = line.waiting.len();
        job.set_place(place);
        self.changed.notify_one();
        Ok(place)
    }

    /// The next job, as soon as there is one, with those behind it that are to be made together with it; `None` when the line is
    /// closed. `size` says how many, of how many at the head of the line agree, and how many wait in all. Nobody is overtaken.
    pub fn take(&self, size: impl Fn(&Task, usize, usize) -> usize) -> Option<Vec<Arc<Job>>> {
        let mut line = self.line();
        line.idle += 1;
        while !line.closed && line.waiting.is_empty() {
            line = self
                .changed
                .wait(line)
                .unwrap_or_else(PoisonError::into_inner);
        }
        line.idle -= 1;
        let first = &line.waiting.front()?.task;
        let agrees = |job: &&Arc<Job>| first.agrees_with(&job.task);
        let agreeing = line.waiting.iter().take_while(agrees).count();
        let count = match agreeing {
            0 | 1 => 1,
            agreeing => size(first, agreeing, line.waiting.len()),
        };
        let jobs: Vec<_> = line.waiting.drain(..count).collect();
        for job in &jobs {
            job.set_place(0);
        }
        line.tell_places();
        Some(jobs)
    }

    /// Takes a job out; whether it was still in the line.
    pub fn remove(&self, job: &Arc<Job>) -> bool {
        let mut line = self.line();
        let place = line
            .waiting
            .iter()
            .position(|waiting| Arc::ptr_eq(waiting, job));
        let removed = place.and_then(|place| line.waiting.remove(place));
        line.tell_places();
        removed.is_some()
    }

    /// Lets nobody wait any more.
    pub fn close(&self) {
        let mut line = self.line();
        line.closed = true;
        for job in line.waiting.drain(..) {
            job.finish(Outcome::Failed(Refusal::closing()));
        }
        self.changed.notify_all();
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.line().waiting.len()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn tell_places(&self) {
        for (index, job) in self.waiting.iter().enumerate() {
            job.set_place(index + 1);
        }
    }
}
