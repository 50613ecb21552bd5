//! One thread for each rank of a run.

use std::any::Any;
use std::borrow::Borrow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::device::Worker;

/// What went wrong on a rank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankError<E: std::error::Error> {
    /// The rank's job returned an error.
    #[error("rank {rank} on {worker}: {source}")]
    Failed {
        /// The rank.
        rank: usize,
        /// Its worker's name.
        worker: String,
        /// The error.
        source: E,
    },
    /// The rank's job panicked.
    #[error("rank {rank} on {worker} panicked: {message}")]
    Panicked {
        /// The rank.
        rank: usize,
        /// Its worker's name.
        worker: String,
        /// The panic's message.
        message: String,
    },
}

/// Runs `job(rank, state)` on every worker, or what owns one, at once, each on a thread of its own inside the worker's pool, and waits for
/// all. `states` holds what each rank owns, one for each worker.
pub fn on_each<W, S, T, E>(
    workers: &[W],
    states: Vec<S>,
    job: impl Fn(usize, S) -> Result<T, E> + Sync,
) -> Vec<Result<T, RankError<E>>>
where
    W: Borrow<Worker> + Sync,
    S: Send,
    T: Send,
    E: std::error::Error + Send,
{
    let job = &job;
    thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter()
            .zip(states)
            .enumerate()
            .map(|(rank, (worker, state))| {
                scope.spawn(move || {
                    // What a panic leaves behind is dropped here: the state was moved into the job.
                    catch_unwind(AssertUnwindSafe(|| {
                        worker.borrow().install(|| job(rank, state))
                    }))
                })
            })
            .collect();
        threads
            .into_iter()
            .enumerate()
            .map(|(rank, thread)| {
                let worker = || workers[rank].borrow().name().to_owned();
                match thread.join().and_then(|caught| caught) {
                    Ok(Ok(value)) => Ok(value),
                    Ok(Err(source)) => Err(RankError::Failed {
                        rank,
                        worker: worker(),
                        source,
                    }),
                    Err(panic) => Err(RankError::Panicked {
                        rank,
                        worker: worker(),
                        message: message(panic.as_ref()),
                    }),
                }
            })
            .collect()
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
