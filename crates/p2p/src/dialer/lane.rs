//! The pace of one way to a peer: one back-off for each peer and path.

use std::time::{Duration, Instant};

use rand::{RngExt, rngs::SmallRng};

/// How the wait after failures grows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The first wait.
    pub(crate) min: Duration,
    /// The longest, before its jitter of a fifth.
    pub(crate) max: Duration,
}

/// One way to a peer: when it is tried next, and what is under way.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    /// Failures since the last success.
    pub(crate) attempts: u32,
    /// When it is tried next.
    pub(crate) next: Instant,
    /// When it was tried last.
    pub(crate) last: Option<Instant>,
    /// Dials under way.
    pub(crate) dialing: usize,
}

impl Lane {
    pub(crate) fn new(next: Instant) -> Self {
        Self {
            attempts: 0,
            next,
            last: None,
            dialing: 0,
        }
    }

    pub(crate) fn begin(&mut self, now: Instant) {
        self.dialing += 1;
        self.last = Some(now);
    }

    pub(crate) fn end(&mut self) {
        self.dialing = self.dialing.saturating_sub(1);
    }

    /// Starts anew.
    pub(crate) fn reset(&mut self, next: Instant) {
        self.attempts = 0;
        self.next = next;
    }

    /// It is tried at `at` at the latest, but not too soon after the last time.
    pub(crate) fn hasten(&mut self, at: Instant, spacing: Duration) {
        let earliest = self.last.map_or(at, |last| at.max(last + spacing));
        self.next = self.next.min(earliest);
    }

    pub(crate) fn back_off(&mut self, now: Instant, pace: Pace, jitter: &mut SmallRng) {
        let spread: u32 = jitter.random_range(80..=120);
        let wait = pace.min.saturating_mul(1 << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        self.next = now + wait.min(pace.max) * spread / 100;
    }
}
