//! When to dial whom, and which way. A pure core: events and a time go in, dials come out.
//!
//! There are three ways to a member of the cluster, each with its own pace: its addresses, a circuit
//! through a relay ([`RelayRouter`]), and QUIC in place of TCP ([`QuicUpgrade`]). Its addresses are
//! tried while there is no direct connection, more patiently while there is a relayed one
//! ([`ForceDirect`]); circuits while there is none at all. A relay is dialled at its addresses.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use rand::{SeedableRng, rngs::SmallRng};

use super::lane::{Lane, Pace};
use crate::{
    addr::Transport,
    exchange::is_worse,
    force_direct::ForceDirect,
    p2p_context::Path,
    quic_upgrade::QuicUpgrade,
    relay::{RelayRouter, Routes, Via},
};

/// First wait after a failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait after a failure. A cluster has few peers, so that trying often is cheap, and a peer
/// that comes back is found within five seconds with the jitter.
pub const BACKOFF_MAX: Duration = Duration::from_secs(4);
/// How long the peer with the larger id leaves the first dial to the other, so that one connection
/// comes of it and not two. Longer than a handshake, shorter than anybody waits.
pub const GRACE: Duration = Duration::from_millis(200);
/// That a peer is wanted, or has a new address, brings the next dial on a way to it no closer to the last
/// one than this. Only addresses that are learned while a dial is under way are tried beside it at once.
pub const MIN_SPACING: Duration = Duration::from_millis(100);
/// Dials under way at once.
pub const MAX_DIALING: usize = 32;
/// Dials to the addresses of one peer under way at once: a second one goes to addresses that were
/// learned while the first, perhaps to a dead address that only a time-out ends, is under way.
pub const MAX_DIALING_PER_PEER: usize = 2;
/// A dial that has taken so long, to a peer that there is no connection to, gets a second one beside
/// it. What answered nothing while it was away may have lost the first one's bytes for ever, and a
/// dial is given up only after [`DIAL_TIMEOUT`](crate::p2p::DIAL_TIMEOUT): with half of that one
/// begins as often as this. Longer than a handshake over any line that validators can work with.
pub const STALLED: Duration = Duration::from_millis(2500);
/// Longest wait after a failed dial to a relay, before its jitter. Everybody depends on relays, of
/// which there are few; and after the relay the peers behind it are still to be found.
pub const RELAY_BACKOFF_MAX: Duration = Duration::from_secs(3);

/// A connection that lasted shorter than this counts as a failed attempt: a peer whose gate is
/// closed to us ends it right after the handshake, and would be dialled without a pause; so would
/// one that cannot be held beside another, over QUIC or past the relay. Chosen freely; a good connection
/// that is lost as early costs the first wait of its pace.
pub const STABLE: Duration = Duration::from_secs(5);

const _: () = assert!(BACKOFF_MAX.as_millis() * 6 / 5 < 5000);
const _: () = assert!(
    STALLED.as_millis() * MAX_DIALING_PER_PEER as u128 >= crate::p2p::DIAL_TIMEOUT.as_millis()
);

const PACE: Pace = Pace {
    min: BACKOFF_MIN,
    max: BACKOFF_MAX,
};
const RELAY_PACE: Pace = Pace {
    min: BACKOFF_MIN,
    max: RELAY_BACKOFF_MAX,
};

/// One dial, from [`Planner::next_action`] until its end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(u64);

/// What a dial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the peer's addresses; there is no connection.
    Direct,
    /// Through a relay; there is no connection.
    Relayed {
        /// The relay.
        relay: PeerId,
    },
    /// To the peer's addresses; it is connected through relays only.
    ForceDirect,
    /// To the peer's QUIC addresses; it is connected over TCP.
    QuicUpgrade,
}

/// A dial to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// For telling its end.
    pub attempt: Attempt,
    /// Whom.
    pub peer: PeerId,
    /// What for.
    pub way: Way,
    /// Where, all at once; the transport staggers them.
    pub addresses: Vec<Multiaddr>,
}

/// Why a dial came to nothing, as far as the plan depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The peer has no reservation on the relay yet.
    NotYet,
    /// Anything else.
    Other,
}

/// What came of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A peer that was connected through relays only answers on a direct connection.
    Direct {
        /// The connection.
        connection: ConnectionId,
    },
    /// It answers over QUIC, and new streams go there.
    Quic {
        /// The connection.
        connection: ConnectionId,
    },
    /// It answers over QUIC, but slower than over TCP.
    QuicIsWorse {
        /// The connection, which is not used.
        connection: ConnectionId,
        /// The round-trip time over QUIC.
        quic: Duration,
        /// That over TCP.
        tcp: Duration,
    },
}

/// What the plan for one peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Connected.
    Connected,
    /// There is nowhere to dial, and no relay is connected.
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

/// An open connection, as far as the plan depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// The connection.
    pub connection: ConnectionId,
    /// Whether it goes through a relay.
    pub relayed: bool,
    /// Its transport.
    pub transport: Transport,
    /// When it was made.
    pub since: Instant,
    /// The round-trip time once a ping has come back.
    pub rtt: Option<Duration>,
}

impl From<&Path> for Open {
    fn from(path: &Path) -> Self {
        Self {
            connection: path.connection,
            relayed: path.is_relayed(),
            transport: path.transport,
            since: path.since,
            rtt: path.rtt(),
        }
    }
}

/// Plans dials to the peers of a cluster and to its relays, for ever.
#[derive(Debug)]
pub struct Planner {
    local: PeerId,
    jitter: SmallRng,
    targets: BTreeMap<PeerId, Target>,
    router: RelayRouter,
    rules: Rules,
    attempts: BTreeMap<Attempt, Dialing>,
    next_attempt: u64,
    outcomes: Vec<(PeerId, Outcome)>,
}

/// Which ways are allowed.
#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    /// TCP is replaced by QUIC.
    upgrades: bool,
    /// Members are reached through relays only.
    relayed_only: bool,
}

/// A dial under way.
#[derive(Debug, Clone, Copy)]
struct Dialing {
    peer: PeerId,
    way: Way,
    since: Instant,
}

/// How long the oldest of the connections that were lost had lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Shorter than [`STABLE`]: a failed attempt.
    Early,
    Stable,
}

#[derive(Debug)]
struct Target {
    member: bool,
    addresses: Vec<Multiaddr>,
    open: Vec<Open>,
    /// When the first of them was made.
    since: Instant,
    direct: Lane,
    /// Learned while a dial was under way.
    fresh: Vec<Multiaddr>,
    /// Until then the dial is the other side's to make.
    grace_until: Instant,
    routes: Routes,
    quic: Lane,
}

impl Planner {
    /// A plan for `peers`, begun at `now`. The seed is for the jitter.
    pub fn new(
        local: PeerId,
        peers: impl IntoIterator<Item = PeerId>,
        now: Instant,
        seed: u64,
    ) -> Self {
        let others = peers.into_iter().filter(|peer| *peer != local);
        Self {
            local,
            jitter: SmallRng::seed_from_u64(seed),
            targets: others.map(|peer| (peer, Target::new(true, now))).collect(),
            router: RelayRouter::default(),
            rules: Rules::default(),
            attempts: BTreeMap::new(),
            next_attempt: 0,
            outcomes: Vec::new(),
        }
    }

    /// The relays to be connected are these, and those that are connected now are routes.
    pub fn handle_relays(
        &mut self,
        relays: impl IntoIterator<Item = PeerId>,
        connected: Vec<Via>,
        now: Instant,
    ) {
        let relays: Vec<_> = relays.into_iter().collect();
        self.targets
            .retain(|peer, target| target.member || relays.contains(peer));
        for relay in relays {
            if relay != self.local {
                self.targets
                    .entry(relay)
                    .or_insert_with(|| Target::new(false, now));
            }
        }
        let reserved = self.router.update(connected);
        let local = self.local;
        let targets = self.targets.iter_mut().filter(|(_, target)| target.member);
        for (peer, target) in targets {
            let grace = route_grace(local, *peer);
            target.routes.follow(&self.router, grace, now);
            for relay in &reserved {
                target.routes.reserved(*relay, now);
            }
        }
    }

    /// Whether TCP is to be replaced by QUIC.
    pub fn handle_upgrades(&mut self, wanted: bool) {
        self.rules.upgrades = wanted;
    }

    /// Dials members through relays only.
    pub fn relayed_only(&mut self) {
        self.rules.relayed_only = true;
    }

    /// The peer is to be found there. New addresses clear the wait.
    pub fn handle_addresses(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        let grace = grace(self.local, peer);
        let Some(target) = self.targets.get_mut(&peer) else {
            return;
        };
        let news: Vec<_> = addresses
            .iter()
            .filter(|address| !target.addresses.contains(address))
            .cloned()
            .collect();
        target.addresses = addresses;
        if !news.is_empty() && !target.is_direct() {
            if target.direct.dialing > 0 {
                target.fresh = news;
            }
            target.expect_direct(grace, now);
        }
    }

    /// The open connections to a peer are these. The last one lost is followed by a dial, at once if
    /// it was a good one; so is the last direct one, and the last one over QUIC.
    pub fn handle_open(&mut self, peer: PeerId, open: Vec<Open>, now: Instant) {
        let (local, upgrades) = (self.local, self.rules.upgrades);
        let Some(target) = self.targets.get_mut(&peer) else {
            return;
        };
        let before = std::mem::replace(&mut target.open, open);
        if before.is_empty() && !target.open.is_empty() {
            target.since = now;
        }
        if target.open.is_empty() && !before.is_empty() {
            if now.saturating_duration_since(target.since) >= STABLE {
                target.expect_direct(grace(local, peer), now);
                target.routes.reset(route_grace(local, peer), now);
            } else {
                target.direct.back_off(now, target.pace(), &mut self.jitter);
                target.routes.back_off(now, &mut self.jitter);
            }
        } else if !target.open.is_empty() && !target.is_direct() {
            // Only relayed ones are left, or there.
            match target.lost(&before, now, |open| !open.relayed) {
                Some(Lost::Early) => {
                    target
                        .direct
                        .back_off(now, ForceDirect::PACE, &mut self.jitter);
                }
                None if !before.is_empty() => {}
                Some(Lost::Stable) | None => target.expect_direct(grace(local, peer), now),
            }
        }
        let over_quic = |open: &Open| !open.relayed && open.transport == Transport::Quic;
        if !target.open.is_empty()
            && let Some(lost) = target.lost(&before, now, over_quic)
        {
            // One that was worse is not tried again earlier.
            let not_before = target.quic.next;
            match lost {
                Lost::Early => target
                    .quic
                    .back_off(now, QuicUpgrade::PACE, &mut self.jitter),
                Lost::Stable => target.quic.reset(now),
            }
            target.quic.next = target.quic.next.max(not_before);
        }
        target.prove(peer, &before, upgrades, &mut self.outcomes, now, local);
    }

    /// The dial made its connection, or somebody else had the same idea: not a failure.
    pub fn handle_dialed(&mut self, attempt: Attempt) {
        let Some(Dialing { peer, way, .. }) = self.attempts.remove(&attempt) else {
            return;
        };
        if let Some(target) = self.targets.get_mut(&peer) {
            match way {
                Way::Direct | Way::ForceDirect => target.direct.end(),
                Way::Relayed { relay } => target.routes.dialed(relay),
                Way::QuicUpgrade => target.quic.end(),
            }
        }
    }

    /// The dial failed.
    pub fn handle_failed(&mut self, attempt: Attempt, cause: Cause, now: Instant) {
        let Some(Dialing { peer, way, since }) = self.attempts.remove(&attempt) else {
            return;
        };
        let Some(target) = self.targets.get_mut(&peer) else {
            return;
        };
        let jitter = &mut self.jitter;
        match way {
            Way::Direct | Way::ForceDirect => {
                target.direct.end();
                match target.open.is_empty() {
                    // The time that it took was a wait already.
                    true => {
                        target.direct.back_off(since, target.pace(), jitter);
                        target.direct.next = target.direct.next.max(now);
                    }
                    false => target.direct.back_off(now, ForceDirect::PACE, jitter),
                }
            }
            Way::Relayed { relay } => {
                let not_yet = cause == Cause::NotYet;
                target.routes.failed(relay, not_yet, now, jitter);
            }
            Way::QuicUpgrade => {
                target.quic.end();
                target.quic.back_off(now, QuicUpgrade::PACE, jitter);
            }
        }
    }

    /// Somebody waits for the peer: the back-off ends, the spacing stays, and so does the grace, or
    /// two nodes that want each other at once would both dial.
    pub fn handle_wanted(&mut self, peer: PeerId, now: Instant) {
        if let Some(target) = self.targets.get_mut(&peer)
            && target.open.is_empty()
        {
            target
                .direct
                .hasten(now.max(target.grace_until), MIN_SPACING);
            target.routes.hasten(now);
        }
    }

    /// What came of the policies since the last call.
    pub fn outcomes(&mut self) -> std::vec::Drain<'_, (PeerId, Outcome)> {
        self.outcomes.drain(..)
    }

    /// The next dial that is due: of the peer that has been due for longest, so that where all places are
    /// taken each gets its turn.
    pub fn next_action(&mut self, now: Instant) -> Option<Dial> {
        if self.attempts.len() >= MAX_DIALING {
            return None;
        }
        let (router, rules) = (&self.router, self.rules);
        let due = self.targets.iter_mut().filter_map(|(peer, target)| {
            let at = target.deadlines(router, rules).min()?;
            (at <= now).then_some((at, *peer, target))
        });
        let (_, peer, target) = due.min_by_key(|(at, ..)| *at)?;
        let (way, addresses) = target.begin(peer, router, rules, now)?;
        let attempt = Attempt(self.next_attempt);
        self.next_attempt += 1;
        let dialing = Dialing {
            peer,
            way,
            since: now,
        };
        self.attempts.insert(attempt, dialing);
        Some(Dial {
            attempt,
            peer,
            way,
            addresses,
        })
    }

    /// When to ask again if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.attempts.len() >= MAX_DIALING {
            return None;
        }
        let targets = self.targets.values();
        let deadlines = targets.flat_map(|target| target.deadlines(&self.router, self.rules));
        deadlines.min()
    }

    /// What is planned for a peer; `None` for one that is no target.
    pub fn plan(&self, peer: &PeerId) -> Option<Plan> {
        let target = self.targets.get(peer)?;
        let addresses = target.addresses.len();
        Some(if !target.open.is_empty() {
            Plan::Connected
        } else if target.direct.dialing + target.routes.dialing() > 0 {
            Plan::Dialing { addresses }
        } else {
            let deadlines = target.deadlines(&self.router, self.rules);
            match deadlines.min() {
                None => Plan::NoAddress,
                Some(at) => Plan::At {
                    at,
                    attempts: match addresses {
                        0 => target.routes.attempts(),
                        _ => target.direct.attempts,
                    },
                },
            }
        })
    }
}

/// How long a dial to the peer's addresses is left to the other side. A relay never dials.
fn grace(local: PeerId, peer: PeerId) -> Duration {
    match dials_first(local, peer) {
        true => Duration::ZERO,
        false => GRACE,
    }
}

/// The same for a circuit.
fn route_grace(local: PeerId, peer: PeerId) -> Duration {
    match dials_first(local, peer) {
        true => Duration::ZERO,
        false => RelayRouter::GRACE,
    }
}

/// Raw bytes, as Charon compares them (p2p spec, section 1.3).
fn dials_first(local: PeerId, peer: PeerId) -> bool {
    local.to_bytes() < peer.to_bytes()
}

impl Target {
    fn new(member: bool, now: Instant) -> Self {
        Self {
            member,
            addresses: Vec::new(),
            open: Vec::new(),
            since: now,
            direct: Lane::new(now),
            fresh: Vec::new(),
            grace_until: now,
            routes: Routes::new(now),
            quic: Lane::new(now),
        }
    }

    fn is_direct(&self) -> bool {
        self.open.iter().any(|open| !open.relayed)
    }

    /// The connections of a kind that were open before, all of which are gone.
    fn lost(&self, before: &[Open], now: Instant, kind: impl Fn(&Open) -> bool) -> Option<Lost> {
        if self.open.iter().any(&kind) {
            return None;
        }
        let since = before
            .iter()
            .filter(|open| kind(open))
            .map(|open| open.since);
        let age = now.saturating_duration_since(since.min()?);
        Some(match age >= STABLE {
            true => Lost::Stable,
            false => Lost::Early,
        })
    }

    /// Its addresses are tried anew.
    fn expect_direct(&mut self, grace: Duration, now: Instant) {
        let grace = match self.member {
            true => grace,
            false => Duration::ZERO,
        };
        self.grace_until = now + grace;
        let beside = self.direct.dialing > 0;
        let spaced = self.direct.last.filter(|_| !beside);
        let spaced = spaced.map_or(now, |last| last + MIN_SPACING);
        self.direct.reset(self.grace_until.max(spaced));
    }

    fn quic_addresses(&self) -> impl Iterator<Item = &Multiaddr> {
        let addresses = self.addresses.iter();
        addresses.filter(|address| Transport::of(address) == Transport::Quic)
    }

    /// The proven direct connection over a transport that is the fastest.
    fn proven(&self, transport: Transport) -> Option<(ConnectionId, Duration)> {
        let open = self.open.iter();
        let proven = open.filter(|open| !open.relayed && open.transport == transport);
        proven
            .filter_map(|open| Some((open.connection, open.rtt?)))
            .min_by_key(|(_, rtt)| *rtt)
    }

    fn pace(&self) -> Pace {
        match self.member {
            true => PACE,
            false => RELAY_PACE,
        }
    }

    /// When its addresses are to be dialled.
    fn direct_at(&self, rules: Rules) -> Option<Instant> {
        let forbidden = rules.relayed_only && self.member;
        if forbidden || self.is_direct() || self.addresses.is_empty() {
            return None;
        }
        match self.direct.dialing {
            0 => Some(self.direct.next),
            MAX_DIALING_PER_PEER.. => None,
            _ if !self.fresh.is_empty() => Some(self.direct.next),
            _ if self.open.is_empty() => Some(self.direct.last? + STALLED),
            _ => None,
        }
    }

    fn wants_route(&self) -> bool {
        self.member && self.open.is_empty()
    }

    fn wants_quic(&self, rules: Rules) -> bool {
        let direct = |open: &&Open| !open.relayed && open.transport == Transport::Quic;
        rules.upgrades
            && self.member
            && self.quic.dialing == 0
            && self.proven(Transport::Tcp).is_some()
            && !self.open.iter().any(|open| direct(&open))
            && self.quic_addresses().next().is_some()
    }

    fn deadlines(&self, router: &RelayRouter, rules: Rules) -> impl Iterator<Item = Instant> {
        let direct = self.direct_at(rules);
        let route = self.wants_route().then(|| self.routes.deadline(router));
        let quic = self.wants_quic(rules).then_some(self.quic.next);
        [direct, route.flatten(), quic].into_iter().flatten()
    }

    fn begin(
        &mut self,
        peer: PeerId,
        router: &RelayRouter,
        rules: Rules,
        now: Instant,
    ) -> Option<(Way, Vec<Multiaddr>)> {
        if self.direct_at(rules).is_some_and(|at| at <= now) {
            let fresh = std::mem::take(&mut self.fresh);
            let addresses = match self.direct.dialing {
                0 => self.addresses.clone(),
                _ if fresh.is_empty() => self.addresses.clone(),
                _ => fresh,
            };
            self.direct.begin(now);
            let way = match self.open.is_empty() {
                true => Way::Direct,
                false => Way::ForceDirect,
            };
            return Some((way, addresses));
        }
        if self.wants_route()
            && let Some((relay, address)) = self.routes.begin(router, peer, now)
        {
            return Some((Way::Relayed { relay }, vec![address]));
        }
        if self.wants_quic(rules) && self.quic.next <= now {
            self.quic.begin(now);
            return Some((Way::QuicUpgrade, self.quic_addresses().cloned().collect()));
        }
        None
    }

    /// Looks at what has been proven since.
    fn prove(
        &mut self,
        peer: PeerId,
        before: &[Open],
        upgrades: bool,
        outcomes: &mut Vec<(PeerId, Outcome)>,
        now: Instant,
        local: PeerId,
    ) {
        let was_proven = |connection| {
            let mut before = before.iter();
            before.any(|open| open.connection == connection && open.rtt.is_some())
        };
        let direct = |open: &&Open| !open.relayed && open.rtt.is_some();
        let fresh: Vec<_> = self.open.iter().filter(direct).copied().collect();
        let relayed = before.iter().any(|open| open.relayed);
        let had_direct = before.iter().any(|open| direct(&open));
        for open in fresh.iter().filter(|open| !was_proven(open.connection)) {
            let connection = open.connection;
            if relayed && !had_direct {
                outcomes.push((peer, Outcome::Direct { connection }));
            }
            match (open.transport, self.proven(Transport::Tcp)) {
                (Transport::Quic, Some((_, tcp))) if upgrades => {
                    let quic = open.rtt.unwrap_or_default();
                    outcomes.push(if is_worse(quic, tcp) {
                        self.quic.next = now + QuicUpgrade::BACKOFF_MAX;
                        let worse = Outcome::QuicIsWorse {
                            connection,
                            quic,
                            tcp,
                        };
                        (peer, worse)
                    } else {
                        (peer, Outcome::Quic { connection })
                    });
                }
                // The other side may have the same idea.
                (Transport::Tcp, _) => {
                    let soon = now + grace(local, peer);
                    self.quic.next = self.quic.next.max(soon);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

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
            let dial = planner.next_action(now).unwrap();
            assert_eq!(planner.next_action(now), None, "one dial at a time");
            planner.handle_failed(dial.attempt, Cause::Other, now);
            let next = planner.next_deadline().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] >= BACKOFF_MIN * 4 / 5 && waits[0] <= BACKOFF_MIN * 6 / 5);
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX * 6 / 5));
        assert!(waits[11] >= BACKOFF_MAX * 4 / 5);

        let dial = planner.next_action(now).unwrap();
        planner.handle_dialed(dial.attempt);
        planner.handle_open(large, vec![direct(1)], now);
        assert_eq!(planner.plan(&large), Some(Plan::Connected));
        assert_eq!(planner.next_deadline(), None);
        now += STABLE;
        planner.handle_open(large, vec![], now);
        assert!(planner.next_action(now).is_some(), "lost: dialled at once");
    }

    #[test]
    fn a_connection_that_does_not_last_is_a_failed_attempt() {
        let (small, large) = pair();
        let mut now = Instant::now();
        let mut planner = planner(small, large, now);

        for attempt in 0..4 {
            let dial = planner.next_action(now).unwrap();
            planner.handle_dialed(dial.attempt);
            planner.handle_open(large, vec![direct(1)], now);
            now += STABLE - NANO;
            planner.handle_open(large, vec![], now);
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
        let dial = planner.next_action(t0).unwrap();
        planner.handle_failed(dial.attempt, Cause::Other, t0);

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
    fn a_dial_that_stalls_gets_a_second_one_beside_it_and_its_time_is_a_wait() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = planner(small, large, t0);
        let first = planner.next_action(t0).unwrap();
        assert_eq!(planner.next_deadline(), Some(t0 + STALLED));
        assert_eq!(planner.next_action(t0 + STALLED - MS), None);
        let second = planner.next_action(t0 + STALLED).unwrap();
        assert_eq!(second.addresses, first.addresses);
        // Not a third.
        assert_eq!(planner.next_deadline(), None);

        let t1 = t0 + 2 * STALLED;
        planner.handle_failed(first.attempt, Cause::Other, t1);
        assert_eq!(planner.next_deadline(), Some(t1));
        let third = planner.next_action(t1).unwrap();
        planner.handle_failed(second.attempt, Cause::Other, t1);
        planner.handle_failed(third.attempt, Cause::Other, t1);
        let next = planner.next_deadline().unwrap();
        assert!(
            next > t1 + BACKOFF_MIN,
            "one that failed at once is waited after"
        );
    }

    #[test]
    fn one_of_two_connections_lost_is_no_reason_to_dial() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = planner(small, large, t0);
        planner.handle_open(large, vec![direct(1), direct(2)], t0);
        planner.handle_open(large, vec![direct(2)], t0);
        assert_eq!(planner.next_action(t0 + GRACE), None);
    }

    #[test]
    fn a_direct_connection_that_does_not_last_beside_a_relayed_one_is_a_failed_attempt() {
        let (small, large) = pair();
        let mut now = Instant::now();
        let mut planner = planner(small, large, now);
        planner.handle_open(large, vec![relayed(1)], now);
        for attempt in 0..4 {
            let dial = planner.next_action(now).unwrap();
            assert_eq!(dial.way, Way::ForceDirect);
            planner.handle_dialed(dial.attempt);
            let direct = since(direct(2), now);
            planner.handle_open(large, vec![relayed(1), direct], now);
            now += STABLE - NANO;
            planner.handle_open(large, vec![relayed(1)], now);
            let wait = ForceDirect::BACKOFF_MIN * 2u32.pow(attempt);
            let next = planner.next_deadline().unwrap();
            assert!(next >= now + wait * 4 / 5 && next <= now + wait * 6 / 5);
            now = next;
        }

        // A good one is not, and forgets the others.
        let open = [relayed(1), since(direct(3), now)];
        planner.handle_open(large, open.to_vec(), now);
        now += STABLE;
        planner.handle_open(large, vec![relayed(1)], now);
        let dial = planner.next_action(now).unwrap();
        planner.handle_failed(dial.attempt, Cause::Other, now);
        let next = planner.next_deadline().unwrap();
        assert!(next <= now + ForceDirect::BACKOFF_MIN * 6 / 5);
    }

    #[test]
    fn quic_that_does_not_last_is_a_failed_attempt_even_when_it_was_proven() {
        let (small, large) = pair();
        let mut now = Instant::now();
        let quic: Multiaddr = "/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap();
        let mut planner = Planner::new(small, [large], now, 1);
        planner.handle_upgrades(true);
        planner.handle_addresses(large, vec![quic], now);
        let tcp = proven(1, Transport::Tcp, 10);
        planner.handle_open(large, vec![tcp], now);
        for attempt in 0..4 {
            let dial = planner.next_action(now).unwrap();
            assert_eq!(dial.way, Way::QuicUpgrade);
            planner.handle_dialed(dial.attempt);
            let quic = since(proven(2, Transport::Quic, 10), now);
            let unproven = Open { rtt: None, ..quic };
            planner.handle_open(large, vec![tcp, unproven], now);
            if attempt % 2 == 0 {
                planner.handle_open(large, vec![tcp, quic], now);
            }
            now += STABLE - NANO;
            planner.handle_open(large, vec![tcp], now);
            let wait = QuicUpgrade::BACKOFF_MIN * 2u32.pow(attempt);
            let next = planner.next_deadline().unwrap();
            assert!(next >= now + wait * 4 / 5 && next <= now + wait * 6 / 5);
            now = next;
        }

        // A good one is not, and forgets the others.
        let quic = since(proven(3, Transport::Quic, 10), now);
        planner.handle_open(large, vec![tcp, quic], now);
        now += STABLE;
        planner.handle_open(large, vec![tcp], now);
        let dial = planner.next_action(now).unwrap();
        planner.handle_failed(dial.attempt, Cause::Other, now);
        let next = planner.next_deadline().unwrap();
        assert!(next <= now + QuicUpgrade::BACKOFF_MIN * 6 / 5);
    }

    #[test]
    fn the_end_of_quic_that_was_slower_does_not_bring_it_back_early() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let quic: Multiaddr = "/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap();
        for lasted in [STABLE - NANO, STABLE] {
            let mut planner = Planner::new(small, [large], t0, 1);
            planner.handle_upgrades(true);
            planner.handle_addresses(large, vec![quic.clone()], t0);
            let tcp = proven(1, Transport::Tcp, 10);
            let slow = since(proven(2, Transport::Quic, 121), t0);
            planner.handle_open(large, vec![tcp, slow], t0);
            planner.handle_open(large, vec![tcp], t0 + lasted);
            let next = planner.next_deadline();
            assert_eq!(next, Some(t0 + QuicUpgrade::BACKOFF_MAX));
        }
    }

    #[test]
    fn addresses_that_change_all_the_time_are_not_dialled_all_the_time() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = planner(small, large, t0);
        let dial = planner.next_action(t0).unwrap();
        planner.handle_failed(dial.attempt, Cause::Other, t0);

        planner.handle_addresses(large, vec![address(2)], t0);

        assert_eq!(planner.next_deadline(), Some(t0 + MIN_SPACING));
    }

    #[test]
    fn peers_that_never_answer_do_not_take_all_places_for_ever() {
        let mut now = Instant::now();
        let local = PeerId::random();
        let peers: Vec<_> = (0..40).map(|_| PeerId::random()).collect();
        let mut planner = Planner::new(local, peers.clone(), now, 7);
        for peer in &peers {
            planner.handle_addresses(*peer, vec![address(1)], now);
        }
        now += GRACE;
        let mut under_way = std::collections::VecDeque::new();
        let mut tried = std::collections::BTreeSet::new();
        // Twice as long as each place takes to be free again.
        for _ in 0..16 {
            while let Some(dial) = planner.next_action(now) {
                tried.insert(dial.peer);
                under_way.push_back((now, dial.attempt));
            }
            now += STALLED / 4;
            while let Some((begun, attempt)) = under_way.front().copied()
                && now >= begun + crate::p2p::DIAL_TIMEOUT
            {
                under_way.pop_front();
                planner.handle_failed(attempt, Cause::Other, now);
            }
        }
        assert_eq!(tried.len(), peers.len());
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

    #[test]
    fn a_relay_is_dialled_like_a_peer_and_by_whichever_side_we_are() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut planner = Planner::new(large, [], t0, 1);
        planner.handle_relays([small], vec![], t0);
        planner.handle_addresses(small, vec![address(1)], t0);
        assert_eq!(planner.next_action(t0).unwrap().way, Way::Direct);

        planner.handle_relays([], vec![], t0);
        assert_eq!(planner.plan(&small), None, "one that is no longer a relay");
    }

    #[test]
    fn the_nearest_relay_is_tried_first_and_the_next_beside_it_or_after_a_failure() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let (near, far) = (via(5), via(50));
        let mut planner = Planner::new(small, [large], t0, 1);
        planner.handle_relays([near.relay, far.relay], vec![far.clone(), near.clone()], t0);

        let first = planner.next_action(t0).unwrap();
        assert_eq!(first.way, Way::Relayed { relay: near.relay });
        let circuit = format!(
            "/ip4/127.0.0.1/tcp/9/p2p/{}/p2p-circuit/p2p/{large}",
            near.relay
        );
        assert_eq!(first.addresses, [circuit.parse::<Multiaddr>().unwrap()]);
        assert_eq!(planner.next_action(t0), None);
        let second = planner.next_action(t0 + RelayRouter::STAGGER).unwrap();
        assert_eq!(second.way, Way::Relayed { relay: far.relay });

        let mut planner = Planner::new(small, [large], t0, 1);
        planner.handle_relays([near.relay, far.relay], vec![near, far.clone()], t0);
        let first = planner.next_action(t0).unwrap();
        planner.handle_failed(first.attempt, Cause::Other, t0);
        let second = planner.next_action(t0).unwrap();
        assert_eq!(second.way, Way::Relayed { relay: far.relay });
    }

    #[test]
    fn a_peer_without_a_reservation_is_asked_for_again_soon_and_then_less_often() {
        let (small, large) = pair();
        let mut now = Instant::now();
        let via = via(5);
        let mut planner = Planner::new(small, [large], now, 1);
        planner.handle_relays([via.relay], vec![via], now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let dial = planner.next_action(now).unwrap();
            planner.handle_failed(dial.attempt, Cause::NotYet, now);
            let next = planner.next_deadline().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] <= RelayRouter::NOT_YET_MIN * 6 / 5);
        assert!(waits[9] >= RelayRouter::NOT_YET_MAX * 4 / 5);
        assert!(
            waits
                .iter()
                .all(|wait| *wait <= RelayRouter::NOT_YET_MAX * 6 / 5)
        );
    }

    #[test]
    fn the_larger_id_waits_for_a_circuit_unless_it_has_just_reserved() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let mut via = via(5);
        let mut planner = Planner::new(large, [small], t0, 1);
        planner.handle_relays([via.relay], vec![via.clone()], t0);
        assert_eq!(planner.next_deadline(), Some(t0 + RelayRouter::GRACE));

        via.reserved = Some(t0);
        planner.handle_relays([via.relay], vec![via.clone()], t0);
        assert_eq!(
            planner.next_deadline(),
            Some(t0 + RelayRouter::RESERVED_GRACE)
        );
        let dial = planner
            .next_action(t0 + RelayRouter::RESERVED_GRACE)
            .unwrap();
        assert_eq!(dial.way, Way::Relayed { relay: via.relay });
    }

    #[test]
    fn a_reservation_clears_the_wait_for_everybody() {
        let (small, large) = pair();
        let mut now = Instant::now();
        let mut via = via(5);
        let mut planner = Planner::new(small, [large], now, 1);
        planner.handle_relays([via.relay], vec![via.clone()], now);
        for _ in 0..10 {
            let dial = planner.next_action(now).unwrap();
            planner.handle_failed(dial.attempt, Cause::NotYet, now);
            now = planner.next_deadline().unwrap();
        }
        let dial = planner.next_action(now).unwrap();
        planner.handle_failed(dial.attempt, Cause::NotYet, now);
        via.reserved = Some(now);
        planner.handle_relays([via.relay], vec![via], now);
        assert_eq!(
            planner.next_deadline(),
            Some(now + RelayRouter::RESERVED_GRACE)
        );
    }

    #[test]
    fn a_relayed_peer_is_dialled_directly_as_soon_as_its_address_is_known() {
        let (small, large) = pair();
        let mut now = Instant::now();
        let mut planner = Planner::new(small, [large], now, 1);
        planner.handle_open(large, vec![relayed(1)], now);
        assert_eq!(planner.next_action(now), None);

        planner.handle_addresses(large, vec![address(1)], now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let dial = planner.next_action(now).unwrap();
            assert_eq!(dial.way, Way::ForceDirect);
            planner.handle_failed(dial.attempt, Cause::Other, now);
            let next = planner.next_deadline().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] <= ForceDirect::BACKOFF_MIN * 6 / 5);
        assert!(waits[9] >= ForceDirect::BACKOFF_MAX * 4 / 5);

        planner.handle_open(large, vec![relayed(1), direct(2)], now);
        assert_eq!(
            planner.next_action(now + ForceDirect::BACKOFF_MAX * 2),
            None
        );
        assert_eq!(planner.outcomes().count(), 0, "not proven");
        planner.handle_open(large, vec![relayed(1), proven(2, Transport::Tcp, 5)], now);
        let connection = direct(2).connection;
        let outcomes: Vec<_> = planner.outcomes().collect();
        assert_eq!(outcomes, [(large, Outcome::Direct { connection })]);
    }

    #[test]
    fn a_node_that_is_to_use_relays_only_dials_relays_and_no_member() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let via = via(5);
        let mut planner = planner(small, large, t0);
        planner.relayed_only();
        planner.handle_relays([via.relay], vec![], t0);
        planner.handle_addresses(via.relay, vec![address(9)], t0);
        assert_eq!(planner.next_action(t0).unwrap().peer, via.relay);
        assert_eq!(planner.next_action(t0), None);
        assert_eq!(planner.plan(&large), Some(Plan::NoAddress));
        planner.handle_relays([via.relay], vec![via.clone()], t0);
        let dial = planner.next_action(t0).unwrap();
        assert_eq!(dial.way, Way::Relayed { relay: via.relay });
    }

    #[test]
    fn tcp_is_replaced_by_quic_once_it_is_proven_and_only_when_it_is_wanted() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let quic: Multiaddr = "/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap();
        let mut planner = Planner::new(small, [large], t0, 1);
        planner.handle_addresses(large, vec![address(1), quic.clone()], t0);
        planner.handle_open(large, vec![direct(1)], t0);
        planner.handle_upgrades(true);
        assert_eq!(planner.next_action(t0), None, "TCP is not proven");
        planner.handle_upgrades(false);
        planner.handle_open(large, vec![proven(1, Transport::Tcp, 10)], t0);
        assert_eq!(planner.next_action(t0), None, "not wanted");

        planner.handle_upgrades(true);
        let dial = planner.next_action(t0).unwrap();
        assert_eq!((dial.way, dial.addresses), (Way::QuicUpgrade, vec![quic]));
        planner.handle_failed(dial.attempt, Cause::Other, t0);
        let wait = planner.next_deadline().unwrap() - t0;
        assert!(wait >= QuicUpgrade::BACKOFF_MIN * 4 / 5);
    }

    #[test]
    fn quic_that_is_slower_is_given_up_for_long() {
        let (small, large) = pair();
        let t0 = Instant::now();
        let quic: Multiaddr = "/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap();
        for (rtt, better) in [(12, true), (121, false)] {
            let mut planner = Planner::new(small, [large], t0, 1);
            planner.handle_upgrades(true);
            planner.handle_addresses(large, vec![quic.clone()], t0);
            let tcp = proven(1, Transport::Tcp, 10);
            planner.handle_open(large, vec![tcp], t0);
            let dial = planner.next_action(t0).unwrap();
            planner.handle_dialed(dial.attempt);
            planner.handle_open(large, vec![tcp, proven(2, Transport::Quic, rtt)], t0);
            let outcomes: Vec<_> = planner.outcomes().map(|(_, outcome)| outcome).collect();
            let is_better = matches!(outcomes[..], [Outcome::Quic { .. }]);
            assert_eq!(is_better, better, "{outcomes:?}");
            planner.handle_open(large, vec![tcp], t0);
            let soon = planner.next_action(t0 + QuicUpgrade::BACKOFF_MAX - NANO);
            assert_eq!(soon.is_some(), better);
        }
    }

    proptest! {
        /// Whatever happens, a peer that is not connected and can be found is dialled again.
        #[test]
        fn no_state_is_without_a_way_out(
            events in proptest::collection::vec((0u8..10, any::<bool>()), 0..80),
            has_address in any::<bool>(),
        ) {
            let (small, large) = pair();
            let mut now = Instant::now();
            let via = via(5);
            let mut planner = Planner::new(small, [large], now, 7);
            planner.handle_upgrades(true);
            let mut under_way = Vec::new();
            for (event, flag) in events {
                now += Duration::from_millis(70);
                match event {
                    0 => planner.handle_open(large, vec![direct(1)], now),
                    1 => planner.handle_open(large, vec![relayed(1)], now),
                    2 => planner.handle_open(large, vec![proven(1, Transport::Tcp, 1)], now),
                    3 => planner.handle_open(large, vec![], now),
                    4 => planner.handle_wanted(large, now),
                    5 => if let Some(attempt) = under_way.pop() { planner.handle_dialed(attempt) },
                    6 => if let Some(attempt) = under_way.pop() {
                        let cause = if flag { Cause::NotYet } else { Cause::Other };
                        planner.handle_failed(attempt, cause, now);
                    },
                    7 => {
                        let connected = if flag { vec![via.clone()] } else { vec![] };
                        planner.handle_relays([via.relay], connected, now);
                    }
                    8 => planner.handle_addresses(large, vec![address(u16::from(flag) + 1)], now),
                    _ => {
                        let dial = planner.next_action(now);
                        let ours = dial.filter(|dial| dial.peer == large);
                        under_way.extend(ours.map(|dial| dial.attempt));
                    }
                }
            }
            planner.handle_open(large, vec![], now);
            for attempt in under_way { planner.handle_failed(attempt, Cause::Other, now) }
            match has_address {
                true => planner.handle_addresses(large, vec![address(1)], now),
                false => {
                    planner.handle_addresses(large, vec![], now);
                    planner.handle_relays([via.relay], vec![via], now);
                }
            }
            prop_assert!(planner.next_action(now + BACKOFF_MAX * 2).is_some());
            let dialing = matches!(planner.plan(&large), Some(Plan::Dialing { .. }));
            prop_assert!(dialing);
        }
    }

    const NANO: Duration = Duration::from_nanos(1);

    fn pair() -> (PeerId, PeerId) {
        let (a, b) = (PeerId::random(), PeerId::random());
        match a.to_bytes() < b.to_bytes() {
            true => (a, b),
            false => (b, a),
        }
    }

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    fn via(ms: u64) -> Via {
        Via {
            relay: PeerId::random(),
            address: address(9),
            rtt: Some(Duration::from_millis(ms)),
            reserved: None,
        }
    }

    fn direct(n: usize) -> Open {
        Open {
            connection: ConnectionId::new_unchecked(n),
            relayed: false,
            transport: Transport::Tcp,
            since: Instant::now(),
            rtt: None,
        }
    }

    fn since(open: Open, since: Instant) -> Open {
        Open { since, ..open }
    }

    fn relayed(n: usize) -> Open {
        Open {
            relayed: true,
            ..proven(n, Transport::Tcp, 1)
        }
    }

    fn proven(n: usize, transport: Transport, ms: u64) -> Open {
        Open {
            transport,
            rtt: Some(Duration::from_millis(ms)),
            ..direct(n)
        }
    }

    fn planner(local: PeerId, peer: PeerId, now: Instant) -> Planner {
        let mut planner = Planner::new(local, [peer], now, 7);
        planner.handle_addresses(peer, vec![address(1)], now);
        planner
    }
}
