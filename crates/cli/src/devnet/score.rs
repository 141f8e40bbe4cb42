//! Who signed what, and whether that is all. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use libp2p::PeerId;

use super::{
    LATE,
    node::{Failure, Report},
};
use crate::args;

/// Failures that are kept for the summary; further ones are only counted.
const MAX_FAILURES: usize = 32;

/// The result so far.
pub(crate) struct Score {
    /// Who the nodes are.
    peers: Vec<PeerId>,
    slots: u64,
    /// Slots that begin while a message of an earlier one may still be on its way.
    late_slots: u64,
    begun: u64,
    /// Per slot the nodes that have completed it.
    signed: BTreeMap<u64, BTreeMap<usize, Duration>>,
    /// Per node the slots from the one in which it is stopped to the first whole one after its return.
    down: BTreeMap<usize, Vec<(u64, Option<u64>)>>,
    completed: u64,
    oldest: u64,
    times: Vec<Vec<Duration>>,
    pub(crate) failures: Vec<String>,
    pub(crate) failed: u64,
    missed: u64,
    pub(crate) returns: BTreeMap<usize, Duration>,
    /// Restarts, and how many of them ended with the node back among the others.
    restarts: usize,
    backs: usize,
}

/// Slots whose results are still awaited; older ones are settled.
const OPEN_SLOTS: u64 = 64;
/// Times kept per node for the percentiles: the newest.
const MAX_TIMES: usize = 4096;

impl Score {
    pub(crate) fn new(args: &args::Devnet, peers: Vec<PeerId>) -> Self {
        let late = LATE
            .as_millis()
            .div_ceil(args.slot_duration.as_millis().max(1));
        let nodes = peers.len();
        Self {
            peers,
            slots: args.slots,
            late_slots: u64::try_from(late).unwrap_or(u64::MAX),
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
            backs: 0,
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
        self.down.entry(node).or_default().push((slot, None));
    }

    pub(crate) fn up(&mut self, node: usize, slot: u64) {
        self.restarts += 1;
        if let Some((_, until)) = self.down.get_mut(&node).and_then(|down| down.last_mut()) {
            *until = Some(slot);
        }
    }

    pub(crate) fn back(&mut self, node: usize, after: Duration) {
        self.backs += 1;
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
                if let Failure::Send { peer, .. } = what
                    && self.is_cut_off(*node, peer, *slot)
                {
                    return;
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

    /// Whether one of the two was down by order while a message of this slot was on its way.
    fn is_cut_off(&self, node: usize, peer: &PeerId, slot: u64) -> bool {
        let other = self.peers.iter().position(|it| it == peer);
        let ends = [Some(node), other].into_iter().flatten();
        ends.into_iter()
            .any(|it| self.is_down(it, slot, self.late_slots))
    }

    /// Whether a node is down in a slot, or so many after it.
    fn is_down(&self, node: usize, slot: u64, after: u64) -> bool {
        let last = slot.saturating_add(after);
        let spans = self.down.get(&node).into_iter().flatten();
        let mut spans = spans.copied();
        spans.any(|(from, until)| last >= from && until.is_none_or(|until| slot < until))
    }

    fn expected(&self, slot: u64) -> BTreeSet<usize> {
        // What it had not finished when it was stopped is not held against it either.
        let is_up = |node: &usize| !self.is_down(*node, slot, 1);
        (0..self.peers.len()).filter(is_up).collect()
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
            let mut earlier = self.signed.keys().filter(|slot| **slot + 2 < self.begun);
            let is_complete = earlier.all(|slot| self.missing(*slot).is_empty());
            self.missed == 0 && self.begun > 0 && is_complete
        } else {
            self.begun == self.slots && self.is_complete()
        };
        far_enough && self.failed == 0 && self.backs == self.restarts
    }

    /// The median and the largest of a node's times.
    pub(crate) fn times(&self, node: usize) -> Option<(Duration, Duration)> {
        let mut times = self.times[node].clone();
        times.sort_unstable();
        Some((*times.get(times.len() / 2)?, *times.last()?))
    }
}

#[cfg(test)]
mod tests {
    use pluto_crypto::bls;
    use pluto_p2p::exchange;

    use super::*;

    const NODES: usize = 4;
    const SLOTS: u64 = 6;

    /// What happens in a run.
    #[derive(Clone, Copy)]
    enum Event {
        Begin(u64),
        Kill(usize, u64),
        Restart(usize, u64),
        Back(usize),
        Sign(usize, u64),
        /// A message of the slot, from one node to another.
        NotSent(usize, usize, u64),
        BadSignature(usize, u64),
    }
    use Event::*;

    fn peers() -> Vec<PeerId> {
        (0..NODES).map(|_| PeerId::random()).collect()
    }

    fn args(slots: u64, slot_duration: Duration) -> args::Devnet {
        use clap::Parser;
        let words = ["pluto", "devnet"];
        let args::Command::Devnet(args) = args::Args::parse_from(words).command else {
            panic!("another command");
        };
        args::Devnet {
            slots,
            slot_duration,
            ..args
        }
    }

    fn score(slots: u64, events: &[Event]) -> Score {
        let peers = peers();
        let mut score = Score::new(&args(slots, LATE), peers.clone());
        for event in events {
            let elapsed = Duration::from_millis(1);
            match *event {
                Begin(slot) => score.begin(slot),
                Kill(node, slot) => score.down(node, slot),
                Restart(node, slot) => score.up(node, slot + 1),
                Back(node) => score.back(node, elapsed),
                Sign(node, slot) => score.add(&Report::Signed {
                    node,
                    slot,
                    elapsed,
                }),
                NotSent(node, to, slot) => {
                    let peer = peers[to];
                    let cause = exchange::Error::Refused { peer }.into();
                    let what = Failure::Send { peer, cause };
                    score.add(&Report::Failed { node, slot, what });
                }
                BadSignature(node, slot) => {
                    let error = bls::SecretKey::from_bytes(&[0xff; 32]).unwrap_err();
                    let what = error.into();
                    score.add(&Report::Failed { node, slot, what });
                }
            }
        }
        score
    }

    /// All slots, in which all nodes sign but those that are left out.
    fn run(absent: &[(usize, u64)], more: &[Event]) -> Vec<Event> {
        let mut events = Vec::new();
        for slot in 0..SLOTS {
            let now = |event: &&Event| matches!(event, Kill(_, at) | Restart(_, at) if *at == slot);
            events.extend(more.iter().filter(now));
            events.push(Begin(slot));
            let present = (0..NODES).filter(|node| !absent.contains(&(*node, slot)));
            events.extend(present.map(|node| Sign(node, slot)));
        }
        let after = |event: &&Event| !matches!(event, Kill(..) | Restart(..));
        events.extend(more.iter().filter(after));
        events
    }

    #[test]
    fn a_run_is_ok_only_if_all_that_was_ordered_has_happened() {
        let down = |node: usize, slots: std::ops::RangeInclusive<u64>| {
            slots.map(|slot| (node, slot)).collect::<Vec<_>>()
        };
        let one_down = down(2, 1..=3);
        let two_down: Vec<_> = one_down.iter().copied().chain(down(3, 2..=4)).collect();
        let both = [Kill(2, 1), Restart(2, 3), Kill(3, 2), Restart(3, 4)];
        let with = |more: &[Event]| [&both[..], more].concat();
        let killed = [Kill(2, 1), Restart(2, 3), Back(2)];
        let killed_and = |more| [&killed[..], &[more]].concat();
        for (what, ok, events) in [
            ("all sign", true, run(&[], &[])),
            ("nothing", false, vec![]),
            ("too few slots", false, vec![Begin(0)]),
            ("a signature is missing", false, run(&[(1, 4)], &[])),
            ("the last one is missing", false, run(&[(1, 5)], &[])),
            ("a bad signature", false, run(&[], &[BadSignature(0, 2)])),
            ("a message is lost", false, run(&[], &[NotSent(0, 1, 2)])),
            ("down and back", true, run(&one_down, &killed)),
            ("down and not back", false, run(&one_down, &killed[..2])),
            ("down for ever", true, run(&down(2, 1..=5), &killed[..1])),
            ("two back", true, run(&two_down, &with(&[Back(2), Back(3)]))),
            ("one of two back", false, run(&two_down, &with(&[Back(2)]))),
            (
                "nothing reaches who is down",
                true,
                run(&one_down, &killed_and(NotSent(0, 2, 2))),
            ),
            (
                "what was on its way when it was stopped",
                true,
                run(&one_down, &killed_and(NotSent(0, 2, 0))),
            ),
            (
                "nor does it send",
                true,
                run(&one_down, &killed_and(NotSent(2, 0, 1))),
            ),
            (
                "another is not reached meanwhile",
                false,
                run(&one_down, &killed_and(NotSent(0, 1, 2))),
            ),
            (
                "it is not reached when it is up again",
                false,
                run(&one_down, &killed_and(NotSent(0, 2, 4))),
            ),
        ] {
            assert_eq!(score(SLOTS, &events).ok(), ok, "{what}");
        }
    }

    #[test]
    fn a_run_without_an_end_may_be_cut_in_its_last_two_slots_and_not_earlier() {
        for (missing, ok) in [(5, true), (4, true), (3, false), (0, false)] {
            let events = run(&[(0, missing)], &[]);
            assert_eq!(score(0, &events).ok(), ok, "{missing}");
        }
        assert!(!score(0, &[]).ok());
    }

    #[test]
    fn only_slots_of_nodes_that_were_up_count_and_late_ones_do_not() {
        let down = [(2, 0), (2, 1), (2, 2), (2, 3)];
        let score = score(SLOTS, &run(&down, &[Kill(2, 1), Restart(2, 3), Back(2)]));
        assert_eq!((score.begun(), score.completed()), (SLOTS, SLOTS));
        assert!(score.is_complete());
        assert_eq!(score.slot(2).unwrap().len(), NODES - 1);
        assert!(score.times(2).is_some());
    }
}
