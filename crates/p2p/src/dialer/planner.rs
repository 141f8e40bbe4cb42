//! When to dial whom. A pure core: events and a time go in, dials come out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// First wait after a failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait after a failure. A cluster has few peers, so that trying often is cheap, and a peer
/// that comes back is found within five seconds with the jitter.
pub const BACKOFF_MAX: Duration = Duration::from_secs(4);
/// How long the peer with the larger id leaves the first dial to the other, so that one connection
/// comes of it and not two. Longer than a handshake, shorter than anybody waits.
pub const GRACE: Duration = Duration::from_millis(200);
/// Dials to one peer are at least this far apart, however often it is wanted.
pub const MIN_SPACING: Duration = Duration::from_millis(100);
/// Dials under way at once.
pub const MAX_DIALING: usize = 32;
/// Dials to one peer under way at once: a second one goes to addresses that were learned while the
/// first, perhaps to a dead address that only a time-out ends, is under way.
pub const MAX_DIALING_PER_PEER: usize = 2;

/// A connection that lasted shorter than this counts as a failed attempt: a peer whose gate is
/// closed to us ends it right after the handshake, and would be dialled without a pause. Chosen
/// freely; a good connection that is lost as early costs a wait of [`BACKOFF_MIN`].
pub const STABLE: Duration = Duration::from_secs(5);

const _: () = assert!(BACKOFF_MAX.as_millis() * 6 / 5 < 5000);

/// A dial to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// Whom.
    pub peer: PeerId,
    /// Where, all at once; the transport staggers them.
    pub addresses: Vec<Multiaddr>,
}

/// What the plan for one peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Connected.
    Connected,
    /// There is nowhere to dial.
    NoAddress,
    /// A dial is under way.
    Dialing {
        /// How many addresses the peer has.
        addresses: usize,
    },
    /// The next dial.
    At {
        /// When.
        at: Instant,
        /// Failures since the last success.
        attempts: u32,
    },
}

/// Plans dials to the peers of a cluster, for ever.
#[derive(Debug)]
pub struct Planner {
    local: PeerId,
    jitter: SmallRng,
    targets: BTreeMap<PeerId, Target>,
}

#[derive(Debug)]
struct Target {
    addresses: Vec<Multiaddr>,
    connections: usize,
    /// When the first of them was made.
    since: Instant,
    dialing: usize,
    /// Learned while a dial was under way.
    fresh: Vec<Multiaddr>,
    attempts: u32,
    last: Option<Instant>,
    /// Until then the dial is the other side's to make.
    grace_until: Instant,
    next: Instant,
}

impl Planner {
    /// A plan for `peers`, begun at `now`. The seed is for the jitter.
    pub fn new(
        local: PeerId,
        peers: impl IntoIterator<Item = PeerId>,
        now: Instant,
        seed: u64,
    ) -> Self {
        let targets = peers
            .into_iter()
            .filter(|peer| *peer != local)
            .map(|peer| {
                let target = Target {
                    addresses: Vec::new(),
                    connections: 0,
                    since: now,
                    dialing: 0,
                    fresh: Vec::new(),
                    attempts: 0,
                    last: None,
                    grace_until: now,
                    next: now,
                };
                (peer, target)
            })
            .collect();
        Self {
            local,
            jitter: SmallRng::seed_from_u64(seed),
            targets,
        }
    }

    /// The peer is to be found there. New addresses clear the wait.
    pub fn handle_addresses(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        let grace = self.grace(peer);
        let Some(target) = self.targets.get_mut(&peer) else {
            return;
        };
        let news: Vec<_> = addresses
            .iter()
            .filter(|address| !target.addresses.contains(address))
            .cloned()
            .collect();
        target.addresses = addresses;
        if !news.is_empty() && target.connections == 0 {
            if target.dialing > 0 {
                target.fresh = news;
            }
            target.attempts = 0;
            target.grace_until = now + grace;
            target.next = target.grace_until;
        }
    }

    /// A connection is open, whoever made it.
    pub fn handle_connected(&mut self, peer: PeerId, now: Instant) {
        if let Some(target) = self.targets.get_mut(&peer) {
            if target.connections == 0 {
                target.since = now;
            }
            target.connections += 1;
        }
    }

    /// A connection is closed. The last one is followed by a dial, at once if it was a good one.
    pub fn handle_disconnected(&mut self, peer: PeerId, now: Instant) {
        let grace = self.grace(peer);
        let Some(target) = self.targets.get_mut(&peer) else {
            return;
        };
        target.connections = target.connections.saturating_sub(1);
        if target.connections > 0 {
            return;
        }
        if now.saturating_duration_since(target.since) >= STABLE {
            target.attempts = 0;
            target.grace_until = now + grace;
            target.next = target.grace_until;
        } else {
            target.back_off(now, &mut self.jitter);
        }
    }

    /// The dial that was planned succeeded.
    pub fn handle_dialed(&mut self, peer: PeerId) {
        if let Some(target) = self.targets.get_mut(&peer) {
            target.dialing = target.dialing.saturating_sub(1);
        }
    }

    /// The dial that was planned failed.
    pub fn handle_failed(&mut self, peer: PeerId, now: Instant) {
        if let Some(target) = self.targets.get_mut(&peer) {
            target.dialing = target.dialing.saturating_sub(1);
            target.back_off(now, &mut self.jitter);
        }
    }

    /// Somebody waits for the peer: the back-off ends, the spacing stays, and so does the grace, or
    /// two nodes that want each other at once would both dial.
    pub fn handle_wanted(&mut self, peer: PeerId, now: Instant) {
        if let Some(target) = self.targets.get_mut(&peer) {
            let spaced = target.last.map_or(now, |last| last + MIN_SPACING);
            let earliest = now.max(spaced).max(target.grace_until);
            target.next = target.next.min(earliest);
        }
    }

    /// The next dial that is due.
    pub fn next_action(&mut self, now: Instant) -> Option<Dial> {
        if self.dialing() >= MAX_DIALING {
            return None;
        }
        let (peer, target) = self
            .targets
            .iter_mut()
            .find(|(_, target)| target.is_waiting() && target.next <= now)?;
        let addresses = match target.dialing {
            0 => target.addresses.clone(),
            _ => target.fresh.clone(),
        };
        target.fresh.clear();
        target.dialing += 1;
        target.last = Some(now);
        Some(Dial {
            peer: *peer,
            addresses,
        })
    }

    /// When to ask again if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.dialing() >= MAX_DIALING {
            return None;
        }
        let waiting = self.targets.values().filter(|target| target.is_waiting());
        waiting.map(|target| target.next).min()
    }

    /// What is planned for a peer; `None` for one that is no target.
    pub fn plan(&self, peer: &PeerId) -> Option<Plan> {
        let target = self.targets.get(peer)?;
        Some(if target.connections > 0 {
            Plan::Connected
        } else if target.dialing > 0 {
            Plan::Dialing {
                addresses: target.addresses.len(),
            }
        } else if target.addresses.is_empty() {
            Plan::NoAddress
        } else {
            Plan::At {
                at: target.next,
                attempts: target.attempts,
            }
        })
    }

    fn dialing(&self) -> usize {
        self.targets.values().map(|target| target.dialing).sum()
    }

    fn grace(&self, peer: PeerId) -> Duration {
        if self.local.to_bytes() < peer.to_bytes() {
            Duration::ZERO
        } else {
            GRACE
        }
    }
}

impl Target {
    fn back_off(&mut self, now: Instant, jitter: &mut SmallRng) {
        let spread: u32 = jitter.random_range(80..=120);
        let backoff = BACKOFF_MIN * 2u32.pow(self.attempts.min(8));
        self.attempts = self.attempts.saturating_add(1);
        self.next = now + backoff.min(BACKOFF_MAX) * spread / 100;
    }

    fn is_waiting(&self) -> bool {
        self.connections == 0
            && match self.dialing {
                0 => !self.addresses.is_empty(),
                dialing => dialing < MAX_DIALING_PER_PEER && !self.fresh.is_empty(),
            }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smaller_id_dials_at_once_and_the_larger_after_a_grace() {
        let (small, large) = pair();
        let t0 = Instant::now();

        let mut eager = planner(small, large, t0);
        assert!(eager.next_action(t0).is_some());

        let mut patient = planner(large, small, t0);
        assert_eq!(patient.next_action(t0 + GRACE - NANO), None);
        assert_eq!(patient.next_deadline(), Some(t0 + GRACE));
        assert!(patient.next_action(t0 + GRACE).is_some());
    }

    #[test]
    fn failures_wait_longer_and_a_success_forgets_them() {
        let (small, large) = pair();
        let mut now = Instant::now();
        let mut planner = planner(small, large, now);

        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(planner.next_action(now).is_some());
            assert_eq!(planner.next_action(now), None, "one dial at a time");
            planner.handle_failed(large, now);
            let next = planner.next_deadline().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] >= BACKOFF_MIN * 4 / 5 && waits[0] <= BACKOFF_MIN * 6 / 5);
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX * 6 / 5));
        assert!(waits[11] >= BACKOFF_MAX * 4 / 5);

        assert!(planner.next_action(now).is_some());
        planner.handle_dialed(large);
        planner.handle_connected(large, now);
        assert_eq!(planner.plan(&large), Some(Plan::Connected));
        assert_eq!(planner.next_deadline(), None);
        now += STABLE;
        planner.handle_disconnected(large, now);
        assert!(planner.next_action(now).is_some(), "lost: dialled at once");
    }

    #[test]
    fn a_connection_that_does_not_last_is_a_failed_attempt() {
        let (small, large) = pair();
        let mut now = Instant::now();
        let mut planner = planner(small, large, now);

        for attempt in 0..4 {
            assert!(planner.next_action(now).is_some());
            planner.handle_dialed(large);
            planner.handle_connected(large, now);
            now += STABLE - NANO;
            planner.handle_disconnected(large, now);
            let wait = BACKOFF_MIN * 2u32.pow(attempt);
            let next = planner.next_deadline().unwrap();
            assert!(next >= now + wait * 4 / 5 && next <= now + wait * 6 / 5);
            now = next;
        }
    }

    #[test]
    fn being_wanted_does_not_end_the_grace_of_the_side_that_waits() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = planner(large, small, t0);
        planner.handle_wanted(small, t0);
        assert_eq!(planner.next_action(t0 + GRACE - NANO), None);
        assert!(planner.next_action(t0 + GRACE).is_some());
    }

    #[test]
    fn being_wanted_ends_the_wait_but_not_the_spacing() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = planner(small, large, t0);
        planner.next_action(t0).unwrap();
        planner.handle_failed(large, t0);

        planner.handle_wanted(large, t0);

        assert_eq!(planner.next_deadline(), Some(t0 + MIN_SPACING));
    }

    #[test]
    fn a_new_address_does_not_wait_for_a_dial_to_a_dead_one() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = planner(small, large, t0);
        planner.next_action(t0).unwrap();
        let fresh: Multiaddr = "/ip4/127.0.0.1/tcp/2".parse().unwrap();

        planner.handle_addresses(large, vec![fresh.clone()], t0);
        let dial = planner.next_action(t0).unwrap();
        assert_eq!(dial.addresses, std::slice::from_ref(&fresh));

        let third: Multiaddr = "/ip4/127.0.0.1/tcp/3".parse().unwrap();
        planner.handle_addresses(large, vec![third], t0);
        assert_eq!(planner.next_action(t0), None, "two at once, not more");
    }

    #[test]
    fn one_of_two_connections_lost_is_no_reason_to_dial() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = planner(small, large, t0);
        planner.handle_connected(large, t0);
        planner.handle_connected(large, t0);

        planner.handle_disconnected(large, t0);

        assert_eq!(planner.next_action(t0 + GRACE), None);
    }

    #[test]
    fn a_peer_without_an_address_is_said_to_have_none() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = Planner::new(small, [small, large], t0, 1);
        assert_eq!(planner.plan(&large), Some(Plan::NoAddress));
        assert_eq!(planner.plan(&small), None, "not itself");
        assert_eq!(planner.next_action(t0), None);
    }

    proptest! {
        /// Whatever happens, a peer that is not connected and has an address is dialled again.
        #[test]
        fn no_state_is_without_a_way_out(events in proptest::collection::vec(0u8..6, 0..60)) {
            let (small, large) = pair();
            let mut now = Instant::now();
            let mut planner = planner(small, large, now);
            let mut open = 0;
            for event in events {
                now += Duration::from_millis(70);
                match event {
                    0 => { planner.handle_connected(large, now); open += 1 }
                    1 if open > 0 => { planner.handle_disconnected(large, now); open -= 1 }
                    2 => planner.handle_failed(large, now),
                    3 => planner.handle_wanted(large, now),
                    4 => planner.handle_dialed(large),
                    _ => drop(planner.next_action(now)),
                }
            }
            for _ in 0..open { planner.handle_disconnected(large, now) }
            planner.handle_failed(large, now);
            planner.handle_failed(large, now);
            prop_assert!(planner.next_action(now + BACKOFF_MAX * 2).is_some());
        }
    }

    const NANO: Duration = Duration::from_nanos(1);

    fn pair() -> (PeerId, PeerId) {
        let (a, b) = (PeerId::random(), PeerId::random());
        if a.to_bytes() < b.to_bytes() {
            (a, b)
        } else {
            (b, a)
        }
    }

    fn planner(local: PeerId, peer: PeerId, now: Instant) -> Planner {
        let mut planner = Planner::new(local, [peer], now, 7);
        planner.handle_addresses(peer, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()], now);
        planner
    }
}
