//! Which relay a peer is dialled through, and when.
//!
//! Spec: p2p, section 5.5. A policy of the dial planner, for known peers that are not connected. One
//! relay after the other is tried, the one with the smallest round-trip time first, the next after
//! [`RelayRouter::STAGGER`] or a failure. The peer with the smaller id dials, so that the one with
//! the larger accepts and can punch a hole; the larger waits for [`RelayRouter::GRACE`] and then
//! dials too. A node that has just reserved dials everybody after [`RelayRouter::RESERVED_GRACE`]:
//! nobody could reach it before.
//!
//! - **Owner:** the relays are shared, [`Routes`] is the state of one peer, both in the planner.
//! - **Bounds:** [`MAX_RELAYS`](crate::p2p_context::MAX_RELAYS) routes per peer, one dial under way on
//!   each.
//! - **Disconnect:** a relay that is not connected is no route.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use rand::rngs::SmallRng;

use super::wire::through;
use crate::dialer::{
    lane::{Lane, Pace},
    planner::{BACKOFF_MAX, BACKOFF_MIN, MIN_SPACING},
};

/// A relay that we are connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// The relay.
    pub relay: PeerId,
    /// Where we are connected to it.
    pub address: Multiaddr,
    /// Its measured round-trip time.
    pub rtt: Option<Duration>,
    /// Since when others can reach us through it.
    pub reserved: Option<Instant>,
}

/// The relays that peers are dialled through.
#[derive(Debug, Clone, Default)]
pub struct RelayRouter {
    /// The nearest first.
    relays: Vec<Via>,
}

impl RelayRouter {
    /// How long one relay is tried before the next is tried beside it.
    pub const STAGGER: Duration = Duration::from_millis(250);
    /// How long the peer with the larger id waits for the other to dial.
    pub const GRACE: Duration = Duration::from_secs(1);
    /// How long after its reservation a node dials everybody, whatever its id.
    pub const RESERVED_GRACE: Duration = Duration::from_millis(200);
    /// The first wait for a peer that has no reservation yet.
    pub const NOT_YET_MIN: Duration = Duration::from_millis(100);
    /// The longest wait for one, before its jitter.
    pub const NOT_YET_MAX: Duration = Duration::from_secs(2);

    const PACE: Pace = Pace {
        min: BACKOFF_MIN,
        max: BACKOFF_MAX,
    };
    const NOT_YET: Pace = Pace {
        min: Self::NOT_YET_MIN,
        max: Self::NOT_YET_MAX,
    };

    /// The relays are these now. Says which have been reserved since.
    pub(crate) fn update(&mut self, mut relays: Vec<Via>) -> Vec<PeerId> {
        relays.sort_by_key(|via| (via.rtt.unwrap_or(Duration::MAX), via.relay));
        let fresh = |via: &&Via| {
            let before = self.relays.iter().find(|old| old.relay == via.relay);
            via.reserved.is_some() && before.and_then(|old| old.reserved) != via.reserved
        };
        let reserved = relays.iter().filter(fresh).map(|via| via.relay).collect();
        self.relays = relays;
        reserved
    }

    fn address(via: &Via, peer: PeerId) -> Multiaddr {
        through(via.address.clone(), via.relay).with(Protocol::P2p(peer))
    }
}

/// The routes to one peer.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    lanes: BTreeMap<PeerId, Lane>,
    /// Until then the dial is the other side's to make.
    grace_until: Instant,
    /// Until then the relay that was tried last has the peer to itself.
    stagger_until: Instant,
}

impl Routes {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            lanes: BTreeMap::new(),
            grace_until: now,
            stagger_until: now,
        }
    }

    /// Follows the relays that there are; a new one is tried when the grace is over.
    pub(crate) fn follow(&mut self, router: &RelayRouter, grace: Duration, now: Instant) {
        let there = |relay: &PeerId| router.relays.iter().any(|via| via.relay == *relay);
        // One with a dial under way is kept until that has ended.
        self.lanes
            .retain(|relay, lane| there(relay) || lane.dialing > 0);
        for via in &router.relays {
            if !self.lanes.contains_key(&via.relay) {
                if self.lanes.is_empty() {
                    self.grace_until = now + grace;
                }
                self.lanes.insert(via.relay, Lane::new(now));
            }
        }
    }

    /// The connection is lost: everything is tried anew.
    pub(crate) fn reset(&mut self, grace: Duration, now: Instant) {
        self.grace_until = now + grace;
        self.stagger_until = now;
        for lane in self.lanes.values_mut() {
            lane.reset(now);
        }
    }

    /// We can be reached through the relay, and so can others that reserved at the same time.
    pub(crate) fn reserved(&mut self, relay: PeerId, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(&relay) {
            let soon = now + RelayRouter::RESERVED_GRACE;
            lane.reset(lane.next.min(soon));
            self.grace_until = self.grace_until.min(soon);
        }
    }

    pub(crate) fn hasten(&mut self, now: Instant) {
        for lane in self.lanes.values_mut() {
            lane.hasten(now, MIN_SPACING);
        }
    }

    /// When a route is to be tried.
    pub(crate) fn deadline(&self, router: &RelayRouter) -> Option<Instant> {
        let lanes = router.relays.iter().filter_map(|via| {
            let lane = self.lanes.get(&via.relay)?;
            (lane.dialing == 0).then_some(lane.next)
        });
        let next = lanes.min()?;
        Some(next.max(self.grace_until).max(self.stagger_until))
    }

    /// The route to be tried now.
    pub(crate) fn begin(
        &mut self,
        router: &RelayRouter,
        peer: PeerId,
        now: Instant,
    ) -> Option<(PeerId, Multiaddr)> {
        if self.deadline(router)? > now {
            return None;
        }
        let via = router.relays.iter().find(|via| {
            let lane = self.lanes.get(&via.relay);
            lane.is_some_and(|lane| lane.dialing == 0 && lane.next <= now)
        })?;
        self.lanes.get_mut(&via.relay)?.begin(now);
        self.stagger_until = now + RelayRouter::STAGGER;
        Some((via.relay, RelayRouter::address(via, peer)))
    }

    pub(crate) fn dialed(&mut self, relay: PeerId) {
        if let Some(lane) = self.lanes.get_mut(&relay) {
            lane.end();
        }
    }

    /// The route did not lead there; `not_yet` if only because the peer has no reservation.
    pub(crate) fn failed(
        &mut self,
        relay: PeerId,
        not_yet: bool,
        now: Instant,
        jitter: &mut SmallRng,
    ) {
        if let Some(lane) = self.lanes.get_mut(&relay) {
            let pace = match not_yet {
                true => RelayRouter::NOT_YET,
                false => RelayRouter::PACE,
            };
            lane.end();
            lane.back_off(now, pace, jitter);
            self.stagger_until = now;
        }
    }

    /// A connection that did not last is a failure of every route, or it would be made for ever.
    pub(crate) fn back_off(&mut self, now: Instant, jitter: &mut SmallRng) {
        for lane in self.lanes.values_mut() {
            lane.back_off(now, RelayRouter::PACE, jitter);
        }
    }

    pub(crate) fn dialing(&self) -> usize {
        self.lanes.values().map(|lane| lane.dialing).sum()
    }

    /// Failures on the route that was tried least often.
    pub(crate) fn attempts(&self) -> u32 {
        let attempts = self.lanes.values().map(|lane| lane.attempts);
        attempts.min().unwrap_or_default()
    }
}
