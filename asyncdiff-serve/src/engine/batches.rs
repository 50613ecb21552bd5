//! Whether requests are made together, as one batch.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_models::{Content, Error, Run, Session, Shape, Strategy};

use crate::job::Task;
use crate::plans::Planner;

/// How long batches take, of as many requests as a power of two.
#[derive(Debug)]
pub(super) struct Batches {
    /// The most pictures of one.
    most: usize,
    known: Vec<Known>,
}

/// Of requests that agree.
#[derive(Debug)]
struct Known {
    model: usize,
    /// Of one request.
    shape: Shape,
    strategy: Strategy,
    /// Of 1, 2, 4, … requests.
    sizes: Vec<Size>,
}

#[derive(Debug, Default)]
struct Size {
    /// None for one request, whose run is its own.
    run: Option<Arc<Run>>,
    /// Whether it cannot be made.
    refused: bool,
    runs: usize,
    /// The least that one has taken, without the first, which compiles kernels and fills caches.
    least: Option<Duration>,
}

/// How many kinds of requests are remembered.
const KEPT: usize = 64;

/// How much sooner everybody is to have a picture: what is less is noise.
const GAIN: f64 = 0.95;

impl Known {
    fn is_of(&self, task: &Task) -> bool {
        let run = &task.rounds[0];
        self.model == task.model.index && self.shape == run.shape && self.strategy == run.strategy
    }

    fn size(&self, requests: usize) -> Option<&Size> {
        self.sizes.get(requests.ilog2() as usize)
    }
}

impl Batches {
    /// Never of more than `most` pictures.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            known: Vec::new(),
        }
    }

    /// How many of the `agreeing` requests at the head of a line of `waiting` are to be made together.
    ///
    /// Twice as many as another number are if that is sooner for all that wait, on the whole: made in two batches, half of them
    /// wait for one batch, the other half and all behind them for two. What is not known yet is tried.
    pub fn size(&self, task: &Task, agreeing: usize, waiting: usize) -> usize {
        let Some(known) = self.known.iter().find(|known| known.is_of(task)) else {
            return 1;
        };
        let each = task.rounds[0].shape.num_images;
        let least = |size: Option<&Size>| size.and_then(|size| size.least);
        let mut size = 1;
        loop {
            let double = 2 * size;
            let next = known.size(double);
            let refused = next.is_some_and(|next| next.refused);
            if double > agreeing || double * each > self.most || refused {
                return size;
            }
            let Some(now) = least(known.size(size)) else {
                return size;
            };
            let Some(then) = least(next) else {
                return double;
            };
            if !is_sooner(
                now.as_secs_f64(),
                then.as_secs_f64(),
                double,
                waiting - double,
            ) {
                return size;
            }
            size = double;
        }
    }

    /// The run of as many requests as `task` has agreed with.
    ///
    /// # Errors
    ///
    /// Whatever speaks against it: then it is not tried again.
    pub fn run(
        &mut self,
        task: &Task,
        contents: &[Content],
        (planner, session): (&Planner, &Session),
    ) -> Result<Arc<Run>, Error> {
        let size = self.entry(task, contents.len());
        if let Some(run) = &size.run {
            return Ok(Arc::clone(run));
        }
        // Until it is here.
        size.refused = true;
        let pipeline = session.pipeline();
        let run = planner.together(pipeline, &task.rounds[0], contents.len())?;
        pipeline.check_memory(&run, &contents[0], session.workers())?;
        let size = self.entry(task, contents.len());
        size.refused = false;
        Ok(Arc::clone(size.run.insert(Arc::new(run))))
    }

    /// Notes how long it took to make requests together.
    pub fn note(&mut self, task: &Task, requests: usize, took: Duration) {
        let size = self.entry(task, requests);
        size.runs += 1;
        if size.runs > 1 {
            size.least = Some(size.least.map_or(took, |least| least.min(took)));
        }
    }

    /// Notes that requests like this one cannot be made together.
    pub fn refuse(&mut self, task: &Task, requests: usize) {
        self.entry(task, requests).refused = true;
    }

    fn entry(&mut self, task: &Task, requests: usize) -> &mut Size {
        let place = self.known.iter().position(|known| known.is_of(task));
        let known = match place {
            Some(place) => &mut self.known[place],
            None => {
                if self.known.len() >= KEPT {
                    self.known.remove(0);
                }
                let run = &task.rounds[0];
                self.known.push(Known {
                    model: task.model.index,
                    shape: run.shape.clone(),
                    strategy: run.strategy.clone(),
                    sizes: Vec::new(),
                });
                self.known.last_mut().expect("one was pushed just now")
            }
        };
        let place = requests.ilog2() as usize;
        while known.sizes.len() <= place {
            known.sizes.push(Size::default());
        }
        &mut known.sizes[place]
    }
}

/// Whether one batch of `size` that takes `then` seconds is sooner, for its own and those `behind` it on the whole, than two of half
/// the size that take `now` each.
fn is_sooner(now: f64, then: f64, size: usize, behind: usize) -> bool {
    let (size, behind) = (size as f64, behind as f64);
    then * (size + behind) < GAIN * now * (1.5 * size + 2.0 * behind)
}

#[cfg(test)]
mod tests {
    use super::is_sooner;

    #[test]
    fn a_batch_is_to_be_sooner_for_all_that_wait() {
        // Two that wait 1 and 2 seconds alone wait 1.5 on the whole.
        assert!(is_sooner(1.0, 1.4, 2, 0));
        assert!(!is_sooner(1.0, 1.5, 2, 0));
        // With many behind them, only the time of each counts.
        assert!(is_sooner(1.0, 1.8, 2, 100));
        assert!(!is_sooner(1.0, 1.95, 2, 100));
        // Four as two batches of two: as two requests are.
        assert!(is_sooner(1.4, 1.9, 4, 0));
        assert!(!is_sooner(1.4, 2.1, 4, 0));
    }
}
