//! How long a rank waits for a message.

use std::time::{Duration, Instant};

/// Before a call has been seen, nobody knows how long one takes: the first may compile kernels.
const FIRST: Duration = Duration::from_secs(600);
/// However fast calls are, a machine may have something else to do for a while.
const LEAST: Duration = Duration::from_secs(30);
/// How many times as long as the slowest call so far.
const FACTOR: u32 = 20;

/// Watches how long denoiser calls take on a rank, waiting included.
pub(super) struct Patience {
    call: usize,
    since: Instant,
    slowest: Option<Duration>,
}

impl Patience {
    pub fn new() -> Self {
        Self {
            call: 0,
            since: Instant::now(),
            slowest: None,
        }
    }

    /// A value of `version` is there at `now`: with the first of a later call, the calls before are over.
    pub fn see(&mut self, version: usize, now: Instant) {
        if version > self.call {
            let took = now.duration_since(self.since);
            self.slowest = self.slowest.max(Some(took));
            self.call = version;
            self.since = now;
        }
    }

    /// How long to wait for the next message.
    pub fn deadline(&self) -> Duration {
        self.slowest
            .map_or(FIRST, |slowest| (slowest * FACTOR).max(LEAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_follows_the_slowest_call() {
        let mut patience = Patience::new();
        let mut now = patience.since;
        assert_eq!(patience.deadline(), FIRST);
        patience.see(0, now);
        assert_eq!(patience.deadline(), FIRST);
        for (call, seconds, deadline) in [(1, 1, 30), (2, 5, 100), (3, 1, 100), (5, 7, 140)] {
            now += Duration::from_secs(seconds);
            patience.see(call, now);
            assert_eq!(patience.deadline(), Duration::from_secs(deadline));
        }
    }
}
