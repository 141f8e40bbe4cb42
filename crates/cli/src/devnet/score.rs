//! Who signed what, and whether that is all. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::node::Report;
use crate::args;

/// Failures that are kept for the summary; further ones are only counted.
const MAX_FAILURES: usize = 32;

/// The result so far.
pub(crate) struct Score {
    nodes: usize,
    slots: u64,
    begun: u64,
    /// Per slot the nodes that have completed it.
    signed: BTreeMap<u64, BTreeMap<usize, Duration>>,
    /// Per node the slots in which it is down by order.
    down: BTreeMap<usize, Vec<(u64, Option<u64>)>>,
    completed: u64,
    oldest: u64,
    times: Vec<Vec<Duration>>,
    pub(crate) failures: Vec<String>,
    pub(crate) failed: u64,
    missed: u64,
    pub(crate) returns: BTreeMap<usize, Duration>,
    restarts: usize,
}

/// Slots whose results are still awaited; older ones are settled.
const OPEN_SLOTS: u64 = 64;
/// Times kept per node for the percentiles: the newest.
const MAX_TIMES: usize = 4096;

impl Score {
    pub(crate) fn new(args: &args::Devnet, nodes: usize) -> Self {
        Self {
            nodes,
            slots: args.slots,
            begun: 0,
            signed: BTreeMap::new(),
            down: BTreeMap::new(),
            completed: 0,
            oldest: 0,
            times: vec![Vec::new(); nodes],
            failures: Vec::new(),
            failed: 0,
            missed: 0,
            returns: BTreeMap::new(),
            restarts: 0,
        }
    }

    pub(crate) fn begin(&mut self, slot: u64) {
        self.begun = slot + 1;
        self.signed.entry(slot).or_default();
        while self.begun - self.oldest > OPEN_SLOTS {
            self.settle(self.oldest);
        }
    }

    pub(crate) fn down(&mut self, node: usize, slot: u64) {
        // What it had not finished when it was stopped is not held against it either.
        let from = slot.saturating_sub(1);
        self.down.entry(node).or_default().push((from, None));
    }

    pub(crate) fn up(&mut self, node: usize, slot: u64) {
        self.restarts += 1;
        if let Some((_, until)) = self.down.get_mut(&node).and_then(|down| down.last_mut()) {
            *until = Some(slot);
        }
    }

    pub(crate) fn back(&mut self, node: usize, after: Duration) {
        self.returns.insert(node, after);
    }

    pub(crate) fn add(&mut self, report: &Report) {
        match report {
            Report::Signed {
                node,
                slot,
                elapsed,
            } => {
                // A node that was down finishes what it missed late, which says nothing.
                let counts = self.expected(*slot).contains(node);
                if let Some(signed) = self.signed.get_mut(slot)
                    && counts
                {
                    signed.insert(*node, *elapsed);
                    let times = &mut self.times[*node];
                    if times.len() >= MAX_TIMES {
                        times.remove(0);
                    }
                    times.push(*elapsed);
                }
            }
            Report::Failed { node, slot, what } => {
                if self.is_down_anywhere() && matches!(what, super::node::Failure::Send { .. }) {
                    return; // Nobody can send to a node that is down by order.
                }
                self.failed += 1;
                if self.failures.len() < MAX_FAILURES {
                    self.failures
                        .push(format!("slot {slot}, node {node}: {what}"));
                }
            }
            Report::Back { .. } => {}
        }
    }

    fn is_down_anywhere(&self) -> bool {
        !self.down.is_empty()
    }

    fn expected(&self, slot: u64) -> BTreeSet<usize> {
        let is_down = |node: &usize| {
            self.down.get(node).is_some_and(|spans| {
                spans
                    .iter()
                    .any(|(from, until)| slot >= *from && until.is_none_or(|until| slot < until))
            })
        };
        (0..self.nodes).filter(|node| !is_down(node)).collect()
    }

    fn missing(&self, slot: u64) -> Vec<usize> {
        let signed = self.signed.get(&slot);
        self.expected(slot)
            .into_iter()
            .filter(|node| !signed.is_some_and(|signed| signed.contains_key(node)))
            .collect()
    }

    fn settle(&mut self, slot: u64) {
        let missing = self.missing(slot);
        self.missed += missing.len() as u64;
        if missing.is_empty() {
            self.completed += 1;
        }
        self.signed.remove(&slot);
        self.oldest = slot + 1;
    }

    /// The nodes that a slot still waits for.
    pub(crate) fn waiting(&self, slot: u64) -> usize {
        self.missing(slot).len()
    }

    /// The times of a slot's nodes.
    pub(crate) fn slot(&self, slot: u64) -> Option<&BTreeMap<usize, Duration>> {
        self.signed.get(&slot)
    }

    /// Slots that have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Slots that everybody who was up has completed.
    pub(crate) fn completed(&self) -> u64 {
        let open = self
            .signed
            .keys()
            .filter(|slot| self.missing(**slot).is_empty());
        self.completed + open.count() as u64
    }

    /// Whether everything that has begun is complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.missed == 0 && self.completed() == self.begun
    }

    /// Whether the run was a success as far as it went.
    pub(crate) fn ok(&self) -> bool {
        let far_enough = if self.slots == 0 {
            // The last slots may have been cut off by whoever ended it.
            self.missed == 0 && self.begun > 0 && self.completed() + 2 >= self.begun
        } else {
            self.begun == self.slots && self.is_complete()
        };
        far_enough && self.failed == 0 && self.returns.len() >= self.restarts.min(1)
    }

    /// The median and the largest of a node's times.
    pub(crate) fn times(&self, node: usize) -> Option<(Duration, Duration)> {
        let mut times = self.times[node].clone();
        times.sort_unstable();
        Some((*times.get(times.len() / 2)?, *times.last()?))
    }
}
