//! Who holds a place on the relay, and which circuits run.
//!
//! A pure core: it is told what is asked for and when, and says what is given. A place belongs to a
//! *peer*, whatever connections it has, so that a renewal takes no second one and is never refused
//! for want of room. A peer whose last connection is lost keeps its place for [`GRACE`]: it comes
//! back at once, and a full relay must not have given its place away meanwhile.
//!
//! - **Bounds:** [`Limits`]; everything that is kept is a place or a circuit.
//! - **Disconnect:** [`Ledger::disconnected`] ends the connection's circuits in the same call.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{PeerId, swarm::ConnectionId};
use pluto_p2p::relay::wire::pb::Status;

use crate::config::Limits;

/// How long the place of a peer is kept that has no connection. Long enough for a few attempts to
/// dial again; short beside the hour that a place lasts.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// One circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CircuitId(u64);

/// Why something was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the relay is shutting down")]
    Draining,
    #[error("all {limit} places are taken")]
    Full { limit: usize },
    #[error("all {limit} places for {ip} are taken")]
    FullFor { ip: IpAddr, limit: usize },
    #[error("peer {peer} holds no place here")]
    NoReservation { peer: PeerId },
    #[error("all {limit} circuits are taken")]
    Circuits { limit: usize },
    #[error("peer {peer} has {limit} circuits, which is all it may have")]
    CircuitsOf { peer: PeerId, limit: usize },
    #[error("peer {peer} asks for a circuit to itself")]
    Itself { peer: PeerId },
}

impl Refused {
    /// What the asker is told; where Go's relay has the case, as it does.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Full { .. } | Self::FullFor { .. } | Self::Draining => Status::ReservationRefused,
            Self::Itself { .. } => Status::PermissionDenied,
            Self::NoReservation { .. } => Status::NoReservation,
            Self::Circuits { .. } | Self::CircuitsOf { .. } => Status::ResourceLimitExceeded,
        }
    }

    /// A word for labels.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Full { .. } => "full",
            Self::FullFor { .. } => "ip",
            Self::NoReservation { .. } => "no reservation",
            Self::Circuits { .. } => "circuits",
            Self::CircuitsOf { .. } => "peer",
            Self::Itself { .. } => "self",
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    limits: Limits,
    draining: bool,
    places: HashMap<PeerId, Place>,
    per_ip: HashMap<IpAddr, usize>,
    expiries: BTreeSet<(Instant, PeerId)>,
    /// Places of peers that are connected.
    held: usize,
    circuits: HashMap<CircuitId, Circuit>,
    circuits_of: HashMap<PeerId, usize>,
    circuits_on: HashMap<ConnectionId, BTreeSet<CircuitId>>,
    next: u64,
}

#[derive(Debug)]
struct Place {
    ip: Option<IpAddr>,
    expires: Instant,
    /// Those that it was asked for on, newest last.
    connections: Vec<ConnectionId>,
}

/// The two ends of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Circuit {
    pub(crate) src: PeerId,
    pub(crate) src_connection: ConnectionId,
    pub(crate) dst: PeerId,
    pub(crate) dst_connection: ConnectionId,
    /// When both ends had agreed.
    pub(crate) opened: Option<Instant>,
}

/// What a given place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) until: Instant,
    pub(crate) renewal: bool,
}

impl Ledger {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            draining: false,
            places: HashMap::new(),
            per_ip: HashMap::new(),
            expiries: BTreeSet::new(),
            held: 0,
            circuits: HashMap::new(),
            circuits_of: HashMap::new(),
            circuits_on: HashMap::new(),
            next: 0,
        }
    }

    /// Gives nothing new from now on.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Places of peers that are connected.
    pub(crate) fn reservations(&self) -> usize {
        self.held
    }

    /// Circuits that run.
    pub(crate) fn circuits(&self) -> usize {
        self.circuits.len()
    }

    /// Whether a circuit runs on the connection.
    pub(crate) fn carries(&self, connection: ConnectionId) -> bool {
        self.circuits_on.contains_key(&connection)
    }

    /// Gives or renews a place. Those whose time is over count until they are
    /// [expired](Self::expire).
    pub(crate) fn reserve(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        ip: Option<IpAddr>,
        now: Instant,
    ) -> Result<Given, Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        let ip = ip.map(pluto_p2p::addr::counted_as);
        let renewal = match self.places.get(&peer) {
            Some(place) => !place.connections.is_empty(),
            None => {
                self.has_room(ip)?;
                false
            }
        };
        let mut connections = match self.take(&peer) {
            Some(place) => place.connections,
            None => Vec::new(),
        };
        connections.retain(|known| *known != connection);
        connections.push(connection);
        let until = now + self.limits.reservation_duration;
        self.put(
            peer,
            Place {
                ip,
                expires: until,
                connections,
            },
        );
        Ok(Given { until, renewal })
    }

    fn has_room(&self, ip: Option<IpAddr>) -> Result<(), Refused> {
        let limit = self.limits.max_reservations;
        if self.places.len() >= limit {
            return Err(Refused::Full { limit });
        }
        let limit = self.limits.max_reservations_per_ip;
        match ip {
            Some(ip) if self.per_ip.get(&ip).copied().unwrap_or_default() >= limit => {
                Err(Refused::FullFor { ip, limit })
            }
            _ => Ok(()),
        }
    }

    /// Begins a circuit; where its far end is reached stands in it.
    pub(crate) fn connect(
        &mut self,
        src: PeerId,
        src_connection: ConnectionId,
        dst: PeerId,
        now: Instant,
    ) -> Result<(CircuitId, Circuit), Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        if src == dst {
            return Err(Refused::Itself { peer: src });
        }
        let place = self.places.get(&dst).filter(|place| place.expires > now);
        let Some(dst_connection) = place.and_then(|place| place.connections.last().copied()) else {
            return Err(Refused::NoReservation { peer: dst });
        };
        let limit = self.limits.max_circuits;
        if self.circuits.len() >= limit {
            return Err(Refused::Circuits { limit });
        }
        let limit = self.limits.max_circuits_per_peer;
        for peer in [src, dst] {
            if self.circuits_of.get(&peer).copied().unwrap_or_default() >= limit {
                return Err(Refused::CircuitsOf { peer, limit });
            }
        }
        let id = CircuitId(self.next);
        self.next += 1;
        let circuit = Circuit {
            src,
            src_connection,
            dst,
            dst_connection,
            opened: None,
        };
        self.circuits.insert(id, circuit);
        for peer in [src, dst] {
            *self.circuits_of.entry(peer).or_default() += 1;
        }
        for connection in [src_connection, dst_connection] {
            self.circuits_on.entry(connection).or_default().insert(id);
        }
        Ok((id, circuit))
    }

    /// Both ends have agreed. `None` if it ended meanwhile.
    pub(crate) fn opened(&mut self, id: CircuitId, now: Instant) -> Option<Circuit> {
        let circuit = self.circuits.get_mut(&id)?;
        circuit.opened = Some(now);
        Some(*circuit)
    }

    /// A circuit ended. `None` if that is known.
    pub(crate) fn ended(&mut self, id: CircuitId) -> Option<Circuit> {
        let circuit = self.circuits.remove(&id)?;
        for peer in [circuit.src, circuit.dst] {
            if let Some(count) = self.circuits_of.get_mut(&peer) {
                *count -= 1;
                if *count == 0 {
                    self.circuits_of.remove(&peer);
                }
            }
        }
        for connection in [circuit.src_connection, circuit.dst_connection] {
            if let Some(on) = self.circuits_on.get_mut(&connection) {
                on.remove(&id);
                if on.is_empty() {
                    self.circuits_on.remove(&connection);
                }
            }
        }
        Some(circuit)
    }

    /// A connection is gone. Gives the circuits that ended with it, and whether the peer's place is
    /// no longer held.
    pub(crate) fn disconnected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        now: Instant,
    ) -> (Vec<Circuit>, bool) {
        let ids: Vec<_> = self
            .circuits_on
            .get(&connection)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let circuits = ids.into_iter().filter_map(|id| self.ended(id)).collect();

        let holds = self
            .places
            .get(&peer)
            .is_some_and(|place| place.connections.contains(&connection));
        if !holds {
            return (circuits, false);
        }
        let Some(mut place) = self.take(&peer) else {
            return (circuits, false);
        };
        place.connections.retain(|known| *known != connection);
        let lost = place.connections.is_empty();
        if lost {
            place.expires = place.expires.min(now + GRACE);
        }
        self.put(peer, place);
        (circuits, lost)
    }

    /// Forgets the places whose time is over, and gives those that were held until now.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<PeerId> {
        let mut expired = Vec::new();
        while let Some((at, peer)) = self.expiries.first().copied() {
            if at > now {
                break;
            }
            if let Some(place) = self.take(&peer)
                && !place.connections.is_empty()
            {
                expired.push(peer);
            }
        }
        expired
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    fn take(&mut self, peer: &PeerId) -> Option<Place> {
        let place = self.places.remove(peer)?;
        self.expiries.remove(&(place.expires, *peer));
        if !place.connections.is_empty() {
            self.held -= 1;
        }
        if let Some(ip) = place.ip
            && let Some(count) = self.per_ip.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                self.per_ip.remove(&ip);
            }
        }
        Some(place)
    }

    fn put(&mut self, peer: PeerId, place: Place) {
        self.expiries.insert((place.expires, peer));
        if !place.connections.is_empty() {
            self.held += 1;
        }
        if let Some(ip) = place.ip {
            *self.per_ip.entry(ip).or_default() += 1;
        }
        self.places.insert(peer, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_full_relay_renews_and_refuses_newcomers() {
        let (mut ledger, now) = (ledger(2, 2, 9), Instant::now());
        let [ann, bob, cat] = peers();
        assert!(!ledger.reserve(ann, id(1), ip(1), now).unwrap().renewal);
        assert!(!ledger.reserve(bob, id(2), ip(2), now).unwrap().renewal);

        let full = Err(Refused::Full { limit: 2 });
        assert_eq!(ledger.reserve(cat, id(3), ip(3), now), full);
        let later = now + Duration::from_secs(2700);
        let renewed = ledger.reserve(ann, id(1), ip(1), later).unwrap();
        assert!(renewed.renewal);
        assert_eq!(renewed.until, later + HOUR);
        // On a second connection it is the same place.
        assert!(ledger.reserve(ann, id(4), ip(4), later).unwrap().renewal);
        assert_eq!(ledger.reservations(), 2);
    }

    #[test]
    fn a_place_is_kept_for_a_peer_that_comes_back() {
        let (mut ledger, now) = (ledger(1, 1, 9), Instant::now());
        let [ann, bob, _] = peers();
        ledger.reserve(ann, id(1), ip(1), now).unwrap();

        assert_eq!(ledger.disconnected(ann, id(1), now), (vec![], true));
        assert_eq!(ledger.reservations(), 0);
        assert!(ledger.reserve(bob, id(2), ip(2), now).is_err());
        assert!(!ledger.reserve(ann, id(3), ip(1), now).unwrap().renewal);

        ledger.disconnected(ann, id(3), now);
        assert_eq!(ledger.next_expiry(), Some(now + GRACE));
        assert_eq!(ledger.expire(now + GRACE), [], "it was not held any more");
        assert!(ledger.reserve(bob, id(2), ip(2), now + GRACE).is_ok());
        assert_eq!(ledger.expire(now + GRACE + HOUR), [bob]);
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let (mut ledger, now) = (ledger(9, 1, 9), Instant::now());
        let [ann, bob, _] = peers();
        ledger.reserve(ann, id(1), ip(1), now).unwrap();

        let full = Refused::FullFor {
            ip: ip(1).unwrap(),
            limit: 1,
        };
        assert_eq!(ledger.reserve(bob, id(2), ip(1), now), Err(full));
        assert!(ledger.reserve(ann, id(1), ip(1), now).unwrap().renewal);
        assert!(ledger.reserve(bob, id(2), ip(2), now).is_ok());
    }

    #[test]
    fn circuits_count_for_both_ends() {
        let (mut ledger, now) = (ledger(9, 9, 1), Instant::now());
        let [ann, bob, cat] = peers();
        for (n, peer) in [(1, ann), (2, bob), (3, cat)] {
            ledger.reserve(peer, id(n), ip(1), now).unwrap();
        }
        let (first, circuit) = ledger.connect(ann, id(1), bob, now).unwrap();
        assert_eq!(circuit.dst_connection, id(2));

        let of = |peer| Refused::CircuitsOf { peer, limit: 1 };
        assert_eq!(ledger.connect(cat, id(3), bob, now), Err(of(bob)));
        assert_eq!(ledger.connect(cat, id(3), ann, now), Err(of(ann)));
        assert_eq!(ledger.opened(first, now).unwrap().opened, Some(now));
        assert!(ledger.carries(id(1)) && ledger.carries(id(2)) && !ledger.carries(id(3)));
        assert!(ledger.ended(first).is_some());
        assert!(ledger.ended(first).is_none(), "once");
        assert!(!ledger.carries(id(1)));
        assert!(ledger.connect(cat, id(3), bob, now).is_ok());
    }

    #[test]
    fn a_lost_connection_ends_its_circuits_and_no_others() {
        let (mut ledger, now) = (ledger(9, 9, 9), Instant::now());
        let [ann, bob, cat] = peers();
        ledger.reserve(bob, id(2), ip(1), now).unwrap();
        ledger.connect(ann, id(1), bob, now).unwrap();
        let (second, _) = ledger.connect(cat, id(3), bob, now).unwrap();

        let (ended, lost) = ledger.disconnected(ann, id(1), now);
        assert_eq!((ended.len(), lost), (1, false));
        assert_eq!(ledger.circuits(), 1);
        assert!(ledger.opened(second, now).is_some());
        assert_eq!(ledger.disconnected(bob, id(2), now).0.len(), 1);
        assert_eq!(ledger.circuits(), 0);
    }

    #[test]
    fn nobody_is_reached_without_a_place() {
        let (mut ledger, now) = (ledger(9, 9, 9), Instant::now());
        let [ann, bob, _] = peers();
        let none = Err(Refused::NoReservation { peer: bob });
        assert_eq!(ledger.connect(ann, id(1), bob, now), none);
        ledger.reserve(bob, id(2), ip(1), now).unwrap();
        assert_eq!(ledger.connect(ann, id(1), bob, now + HOUR), none, "expired");
        let itself = Err(Refused::Itself { peer: bob });
        assert_eq!(ledger.connect(bob, id(2), bob, now), itself);
    }

    #[test]
    fn a_draining_relay_gives_nothing() {
        let (mut ledger, now) = (ledger(9, 9, 9), Instant::now());
        let [ann, bob, _] = peers();
        ledger.reserve(bob, id(2), ip(1), now).unwrap();
        ledger.drain();
        assert_eq!(
            ledger.reserve(bob, id(2), ip(1), now),
            Err(Refused::Draining)
        );
        assert_eq!(ledger.connect(ann, id(1), bob, now), Err(Refused::Draining));
    }

    fn ledger(all: usize, per_ip: usize, circuits: usize) -> Ledger {
        Ledger::new(Limits {
            max_reservations: all,
            max_reservations_per_ip: per_ip,
            max_circuits_per_peer: circuits,
            ..Limits::default()
        })
    }

    fn peers() -> [PeerId; 3] {
        [(); 3].map(|()| PeerId::random())
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn ip(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, n]))
    }
}
