//! The one shared picture of peers and connections.
//!
//! Design §3: connectivity and nothing else. Readers get an immutable [`View`]; waiting is a
//! predicate on it.
//!
//! - **Owner:** `Writer`, which only this crate can make, writes. `conn_logger` holds one for
//!   connections, the identify and ping wrappers for what they learn, the dialer for its plans.
//! - **Wake-ups:** every write replaces the `Arc<View>` in a `watch` channel, which wakes whoever
//!   waits. The round-trip time of a path lives in an atomic beside it and wakes nobody.
//! - **Bounds:** known peers are given at construction, relays by the node, at most [`MAX_RELAYS`];
//!   at most [`MAX_STRANGERS`] others are remembered, and only while connected. Per peer at most [`MAX_ADDRESSES`] addresses,
//!   [`MAX_FAILURES`] failures and [`MAX_PROTOCOLS`] protocol ids.
//! - **Disconnect:** a path leaves the view in the same call that tells the swarm's behaviours.
//! - **Cancellation:** every wait may be dropped at any await; nothing is lost.
//! - **End:** when the node goes away the view says so and every wait ends with [`NodeGone`]. A node
//!   that could not be built leaves the context as it was, for the next attempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol, core::Endpoint, multiaddr::Protocol, swarm::ConnectionId,
};
use tokio::sync::watch;

use crate::{
    addr::Transport,
    metrics::Metrics,
    relay::{Limit, Refusal, ReserveError},
};

/// Peers outside the cluster that are remembered while connected; chosen freely, a node has a
/// few relays. Connections beyond it work, they are only not shown.
pub const MAX_STRANGERS: usize = 256;
/// Addresses kept per peer that identify reported; an honest node has a handful.
pub const MAX_ADDRESSES: usize = 16;
/// Failures kept per peer, one per address, newest last.
pub const MAX_FAILURES: usize = 8;
/// Protocol ids kept per peer; Charon lists about twenty.
pub const MAX_PROTOCOLS: usize = 128;
/// Relays that a node uses; an operator configures two or three.
pub const MAX_RELAYS: usize = 16;

/// The node that feeds a context is gone; nothing will change any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node has shut down")]
pub struct NodeGone;

/// Why something that is waited for will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The node is gone.
    #[error(transparent)]
    NodeGone(#[from] NodeGone),
    /// Nobody dials the peer: it is neither one of the cluster nor a relay that is in use now.
    #[error("peer {peer} is not part of this cluster")]
    Unknown {
        /// The peer.
        peer: PeerId,
    },
    /// It is this node.
    #[error("peer {peer} is this node")]
    Itself {
        /// The peer.
        peer: PeerId,
    },
    /// The cluster has not so many others.
    #[error("{count} other peers are waited for, and the cluster has {others}")]
    TooMany {
        /// How many are waited for.
        count: usize,
        /// How many there are.
        others: usize,
    },
}

/// The context was bound to another local peer id before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this context belongs to peer {bound}, not to {node}: give each node a context of its own")]
pub struct LocalPeerIdMismatch {
    /// The id that the context was bound to.
    pub bound: PeerId,
    /// The id of the node that tried to take it.
    pub node: PeerId,
}

/// Why a node cannot have a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InUse {
    /// A node has it.
    #[error("a node of peer {node} has this context already: give each node a context of its own")]
    Taken {
        /// Whose node was to take it.
        node: PeerId,
    },
    /// The node that had it is gone, and has told everybody so.
    #[error(
        "the node of peer {node} that had this context is gone: give the next one a new context"
    )]
    Gone {
        /// Whose node it was.
        node: PeerId,
    },
}

/// The one shared picture of peers and connections. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct P2PContext {
    shared: Arc<Shared>,
}

struct Shared {
    local: OnceLock<PeerId>,
    /// Whether a node has it, or is being built on it.
    taken: AtomicBool,
    metrics: OnceLock<Metrics>,
    view: watch::Sender<Arc<View>>,
    /// Bumped by whoever wants a peer; the dialer watches it.
    wanted: watch::Sender<Arc<BTreeMap<PeerId, u64>>>,
}

/// One immutable state of the context.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The cluster's peers in cluster order, without or with the local one, as given.
    pub order: Arc<[PeerId]>,
    /// The relays in the order of the configuration.
    pub relays: Vec<Arc<RelayView>>,
    peers: BTreeMap<PeerId, Arc<PeerView>>,
    strangers: usize,
    gone: bool,
}

/// What is known of one peer.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// The peer.
    pub id: PeerId,
    /// Whether it is one of the cluster.
    pub known: bool,
    /// Whether it is one of the relays that are in use now.
    pub relay: bool,
    /// Its open connections, oldest first.
    pub paths: Vec<Arc<Path>>,
    /// Addresses learned from identify, filtered and capped.
    pub addresses: Vec<Multiaddr>,
    /// What identify said, newest.
    pub identified: Option<Arc<Identified>>,
    /// The last failure per address, newest last.
    pub failures: Vec<Failure>,
    /// What the dialer is doing about it.
    pub dialing: DialState,
}

/// One configured relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayView {
    /// How it was configured: its URL, or its address.
    pub name: Arc<str>,
    /// Who it is now; `None` until its URL was resolved. It may change.
    pub peer: Option<PeerId>,
    /// Where it is, without a trailing peer id.
    pub addresses: Vec<Multiaddr>,
    /// Why it could not be resolved the last time; what was known before stays.
    pub problem: Option<Arc<crate::bootnode::ResolveError>>,
    /// The reservation on it.
    pub reservation: ReservationState,
}

impl RelayView {
    /// Whether others can reach us through it now.
    pub fn is_reserved(&self) -> bool {
        matches!(self.reservation, ReservationState::Reserved { .. })
    }
}

impl RelayView {
    /// Where it stands, for people.
    fn trouble(&self) -> String {
        match (&self.problem, &self.reservation) {
            (Some(problem), _) => problem.to_string(),
            (None, ReservationState::Waiting { cause, .. }) => cause.to_string(),
            (None, ReservationState::Resolving) => "not resolved yet".to_owned(),
            (None, ReservationState::Dialing) => "being dialled".to_owned(),
            (None, ReservationState::Lost) => "lost, being dialled".to_owned(),
            (None, ReservationState::Connected | ReservationState::Reserving) => {
                "being asked for a reservation".to_owned()
            }
            (None, ReservationState::Reserved { .. }) => "reserved".to_owned(),
        }
    }
}

/// Where the reservation on a relay stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReservationState {
    /// It is not known yet who the relay is.
    #[default]
    Resolving,
    /// There is no connection to it; it is being dialled.
    Dialing,
    /// Connected; the reservation is about to be asked for.
    Connected,
    /// It was asked for.
    Reserving,
    /// It is held.
    Reserved {
        /// Since when, without a gap.
        since: Instant,
        /// Until when, unless it is renewed.
        until: Instant,
        /// What the relay allows each circuit.
        limit: Option<Limit>,
        /// Why the last attempt to renew it failed.
        trouble: Option<ReserveError>,
    },
    /// It was held, and the connection that it hung on is gone.
    Lost,
    /// The relay refused or did not answer; it is asked again at `until`.
    Waiting {
        /// When.
        until: Instant,
        /// Failures since the last success.
        attempts: u32,
        /// What the relay said.
        cause: ReserveError,
    },
}

/// What identify reported of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// Its agent version.
    pub agent: String,
    /// The protocol ids it serves.
    pub protocols: Vec<StreamProtocol>,
}

/// One open connection.
pub struct Path {
    /// The connection.
    pub connection: ConnectionId,
    /// Which side opened it: [`Endpoint::Dialer`] is us.
    pub direction: Endpoint,
    /// The relay it goes through, if any.
    pub relay: Option<PeerId>,
    /// The transport, for a circuit that of the leg to the relay.
    pub transport: Transport,
    /// The remote address.
    pub address: Multiaddr,
    /// When it was established.
    pub since: Instant,
    /// Whether no new stream should be opened on it.
    pub draining: bool,
    /// Nanoseconds, 0 before the first ping came back; shared by all copies of the path.
    rtt: Arc<AtomicU64>,
}

impl Path {
    /// A path whose round-trip time is not known yet.
    pub fn new(
        connection: ConnectionId,
        direction: Endpoint,
        relay: Option<PeerId>,
        transport: Transport,
        address: Multiaddr,
    ) -> Self {
        Self {
            connection,
            direction,
            relay,
            transport,
            address,
            since: Instant::now(),
            draining: false,
            rtt: Arc::default(),
        }
    }

    /// The last round-trip time; `None` until a ping came back, that is until it is proven.
    pub fn rtt(&self) -> Option<Duration> {
        match self.rtt.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Whether it goes through a relay.
    pub fn is_relayed(&self) -> bool {
        self.relay.is_some()
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.rtt.store(nanos, Ordering::Relaxed);
    }

    fn drained(&self, draining: bool) -> Self {
        Self {
            connection: self.connection,
            direction: self.direction,
            relay: self.relay,
            transport: self.transport,
            address: self.address.clone(),
            since: self.since,
            draining,
            rtt: self.rtt.clone(),
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Path")
            .field("connection", &self.connection)
            .field("direction", &self.direction)
            .field("relay", &self.relay)
            .field("transport", &self.transport)
            .field("address", &self.address)
            .field("draining", &self.draining)
            .field("rtt", &self.rtt())
            .finish_non_exhaustive()
    }
}

/// What the dialer is doing about a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DialState {
    /// Nothing: connected, or nobody asked.
    #[default]
    Idle,
    /// No address is known.
    NoAddress,
    /// A dial is under way.
    Dialing {
        /// How many addresses it tries.
        addresses: usize,
    },
    /// The next attempt is at `until`.
    Waiting {
        /// When the next dial starts.
        until: Instant,
        /// How many attempts failed since the last success.
        attempts: u32,
    },
}

/// Why an attempt to connect failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The address that was tried; `None` where the swarm does not say.
    pub address: Option<Multiaddr>,
    /// When.
    pub at: Instant,
    /// The cause.
    pub cause: FailureCause,
}

/// The causes that a person can tell apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FailureCause {
    /// Nobody listens there.
    #[error("connection refused (is the node running, and is this its port?)")]
    Refused,
    /// No answer in time.
    #[error("no answer in time (is a firewall in between?)")]
    TimedOut,
    /// No route to that address.
    #[error("unreachable (is the address right?)")]
    Unreachable,
    /// Somebody else answered.
    #[error("peer {found} answered there (is the address stale?)")]
    WrongPeer {
        /// Who answered.
        found: PeerId,
    },
    /// This node answered.
    #[error("this node itself answered there (is the address stale?)")]
    Itself,
    /// The connection broke while it was being set up, mostly because the other side's gate
    /// closed it.
    #[error("closed during the handshake (is this node in the peer's cluster file?)")]
    Handshake,
    /// It holds no reservation on that relay, so that the relay cannot reach it.
    #[error("not on relay {relay} (is the node running, and does it use this relay?)")]
    NoReservation {
        /// The relay.
        relay: PeerId,
    },
    /// The relay did not connect us to it.
    #[error("relay {relay} refused: {refusal}")]
    RelayRefused {
        /// The relay.
        relay: PeerId,
        /// What it said.
        refusal: Refusal,
    },
    /// The relay was not connected, or its connection was lost meanwhile.
    #[error("relay {relay} is not connected")]
    RelayNotConnected {
        /// The relay.
        relay: PeerId,
    },
    /// Our own gate or limits refused.
    #[error("refused by this node's own limits")]
    Denied,
    /// The address has no transport here.
    #[error("no transport for this address")]
    Unsupported,
    /// Anything else that the operating system said.
    #[error("{kind}")]
    Io {
        /// Its kind.
        kind: std::io::ErrorKind,
    },
    /// The connection was closed after it had been established.
    #[error("the connection was lost")]
    Lost,
    /// The path stopped answering pings.
    #[error("the path stopped answering")]
    Silent,
}

/// Why there is no connection to a peer, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WhyNotConnected {
    /// It is not one of the cluster.
    #[error("peer {peer} is not part of this cluster")]
    Unknown {
        /// The peer asked for.
        peer: PeerId,
    },
    /// It is this node.
    #[error("peer {peer} is this node")]
    Itself {
        /// The peer asked for.
        peer: PeerId,
    },
    /// No address is known, and it has not connected to us.
    #[error("peer {peer} has no known address and has not connected to us")]
    NoAddress {
        /// The peer asked for.
        peer: PeerId,
    },
    /// No address is known, and no relay is connected through which it could be reached.
    #[error(
        "peer {peer} has no known address, and no relay is connected{}",
        told(relays)
    )]
    NoRelay {
        /// The peer asked for.
        peer: PeerId,
        /// The relays as they are.
        relays: Vec<Arc<RelayView>>,
    },
    /// A dial is under way.
    #[error("peer {peer} is being dialled{}", said(last))]
    Dialing {
        /// The peer asked for.
        peer: PeerId,
        /// What went wrong before.
        last: Option<Failure>,
    },
    /// The last attempt failed; the next follows.
    #[error("peer {peer} was not reached in {attempts} attempts{}", said(last))]
    Waiting {
        /// The peer asked for.
        peer: PeerId,
        /// Failed attempts since the last success.
        attempts: u32,
        /// When the next dial starts.
        until: Instant,
        /// What went wrong last.
        last: Option<Failure>,
    },
    /// Nothing has been tried yet.
    #[error(
        "peer {peer} is not connected and nothing has been tried yet{}",
        said(last)
    )]
    Untried {
        /// The peer asked for.
        peer: PeerId,
        /// What went wrong before.
        last: Option<Failure>,
    },
    /// This node has shut down.
    #[error("this node has shut down")]
    NodeGone,
}

fn said(last: &Option<Failure>) -> String {
    match last {
        None => String::new(),
        Some(Failure {
            address: Some(address),
            cause,
            ..
        }) => format!("; last at {address}: {cause}"),
        Some(Failure { cause, .. }) => format!("; last: {cause}"),
    }
}

fn told(relays: &[Arc<RelayView>]) -> String {
    let relay = |relay: &Arc<RelayView>| format!("; {}: {}", relay.name, relay.trouble());
    relays.iter().map(relay).collect()
}

impl PeerView {
    fn new(id: PeerId, known: bool) -> Self {
        Self {
            id,
            known,
            relay: false,
            paths: Vec::new(),
            addresses: Vec::new(),
            identified: None,
            failures: Vec::new(),
            dialing: DialState::Idle,
        }
    }

    /// Whether connections to it are wanted: a member of the cluster or a relay.
    pub fn is_wanted(&self) -> bool {
        self.known || self.relay
    }

    /// Whether any connection is open, relayed ones included.
    pub fn is_connected(&self) -> bool {
        !self.paths.is_empty()
    }

    /// The path that new streams should use; see [`crate::exchange::choose`].
    pub fn best(&self) -> Option<&Arc<Path>> {
        let chosen = crate::exchange::choose(&self.paths, None)?;
        self.paths.iter().find(|path| path.connection == chosen)
    }

    /// Whether it calls itself a Charon.
    pub fn is_charon(&self) -> bool {
        self.identified
            .as_ref()
            .is_some_and(|who| who.agent.contains("charon"))
    }
}

impl View {
    /// What is known of a peer.
    pub fn peer(&self, id: &PeerId) -> Option<&Arc<PeerView>> {
        self.peers.get(id)
    }

    /// The cluster's peers in cluster order.
    pub fn known(&self) -> impl Iterator<Item = &Arc<PeerView>> {
        self.order.iter().filter_map(|id| self.peers.get(id))
    }

    /// Every remembered peer, known or not.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<PeerView>> {
        self.peers.values()
    }

    /// The relays that are in use and whose identity is known.
    pub fn relay_peers(&self) -> impl Iterator<Item = &Arc<PeerView>> {
        self.peers.values().filter(|peer| peer.relay)
    }

    /// Whether a connection to the peer is open.
    pub fn is_connected(&self, id: &PeerId) -> bool {
        self.peer(id).is_some_and(|peer| peer.is_connected())
    }

    /// How many of the cluster's peers are connected.
    pub fn connected_known(&self) -> usize {
        self.known().filter(|peer| peer.is_connected()).count()
    }

    /// Remembers a peer as long as it is wanted or connected.
    fn put(&mut self, state: PeerView) {
        let is_stranger = |state: &PeerView| !state.is_wanted();
        let peer = state.id;
        let (remembered, stranger) = (
            state.is_wanted() || state.is_connected(),
            is_stranger(&state),
        );
        let before = match remembered {
            true => self.peers.insert(peer, Arc::new(state)),
            false => self.peers.remove(&peer),
        };
        self.strangers -= usize::from(before.is_some_and(|before| is_stranger(&before)));
        self.strangers += usize::from(remembered && stranger);
    }

    /// Whether the node is gone.
    pub fn is_gone(&self) -> bool {
        self.gone
    }
}

impl Default for P2PContext {
    /// For a stand-alone node that knows no peers.
    fn default() -> Self {
        Self::new([])
    }
}

impl fmt::Debug for P2PContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("P2PContext")
            .field("local", &self.local_peer_id())
            .field("view", &self.view())
            .finish()
    }
}

impl P2PContext {
    /// A context that knows the cluster's peers, in cluster order. The local peer may be among
    /// them. One that is given twice is there once.
    pub fn new(known: impl IntoIterator<Item = PeerId>) -> Self {
        let mut seen = BTreeSet::new();
        let known = known.into_iter().filter(|peer| seen.insert(*peer));
        let order: Arc<[PeerId]> = known.collect();
        let peers = order
            .iter()
            .map(|id| (*id, Arc::new(PeerView::new(*id, true))))
            .collect();
        let view = View {
            order,
            peers,
            ..View::default()
        };
        Self {
            shared: Arc::new(Shared {
                local: OnceLock::new(),
                taken: AtomicBool::new(false),
                metrics: OnceLock::new(),
                view: watch::Sender::new(Arc::new(view)),
                wanted: watch::Sender::new(Arc::default()),
            }),
        }
    }

    /// The local peer id, once a node has taken the context.
    pub fn local_peer_id(&self) -> Option<PeerId> {
        self.shared.local.get().copied()
    }

    /// Binds the local peer id; a second node with another id is refused.
    pub fn bind(&self, local: PeerId) -> Result<(), LocalPeerIdMismatch> {
        let bound = *self.shared.local.get_or_init(|| local);
        if bound == local {
            Ok(())
        } else {
            Err(LocalPeerIdMismatch { bound, node: local })
        }
    }

    /// Takes the context for a node, which is of the peer that it is bound to.
    pub(crate) fn take(&self, node: PeerId) -> Result<Hold, InUse> {
        if self.view().gone {
            return Err(InUse::Gone { node });
        }
        if self.shared.taken.swap(true, Ordering::AcqRel) {
            return Err(InUse::Taken { node });
        }
        Ok(Hold {
            writer: self.writer(),
            runs: false,
        })
    }

    /// The present state.
    pub fn view(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// Whether the peer is one of the cluster.
    pub fn is_known(&self, id: &PeerId) -> bool {
        self.view().peer(id).is_some_and(|peer| peer.known)
    }

    /// Whether the peer is one of the relays that are in use now.
    pub fn is_relay(&self, id: &PeerId) -> bool {
        self.view().peer(id).is_some_and(|peer| peer.relay)
    }

    /// Whether connections to the peer are wanted: a member of the cluster or a relay.
    pub fn is_wanted(&self, id: &PeerId) -> bool {
        self.view().peer(id).is_some_and(|peer| peer.is_wanted())
    }

    /// Waits until the predicate gives something, now or after a change.
    pub async fn wait_for<T>(
        &self,
        mut predicate: impl FnMut(&View) -> Option<T>,
    ) -> Result<T, NodeGone> {
        let mut changes = self.shared.view.subscribe();
        loop {
            let view = changes.borrow_and_update().clone();
            if let Some(found) = predicate(&view) {
                return Ok(found);
            }
            if view.gone || changes.changed().await.is_err() {
                return Err(NodeGone);
            }
        }
    }

    /// Waits until a connection to the peer is open. Once there is a node, one that it would never dial is
    /// an error; for a stranger that may come in, [`wait_for`](Self::wait_for) it.
    pub async fn connected(&self, peer: PeerId) -> Result<Arc<PeerView>, WaitError> {
        self.want(peer);
        self.wait_for(|view| {
            let state = view.peer(&peer);
            if let Some(state) = state.filter(|state| state.is_connected()) {
                return Some(Ok(state.clone()));
            }
            match self.local_peer_id()? {
                local if local == peer => Some(Err(WaitError::Itself { peer })),
                _ if state.is_some_and(|state| state.is_wanted()) => None,
                _ => Some(Err(WaitError::Unknown { peer })),
            }
        })
        .await?
    }

    /// Waits until at least `count` other cluster peers are connected.
    pub async fn quorum(&self, count: usize) -> Result<(), WaitError> {
        self.wait_for(|view| {
            let local = self.local_peer_id();
            let others = view.order.iter().filter(|peer| Some(**peer) != local);
            let others = others.count();
            if count > others {
                return Some(Err(WaitError::TooMany { count, others }));
            }
            (view.connected_known() >= count).then_some(Ok(()))
        })
        .await?
    }

    /// A stream of states: the present one, then one after each change.
    pub fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    /// Says that a connection to the peer is wanted now: clears the dialer's wait, not its bound.
    pub fn want(&self, peer: PeerId) {
        if !self.is_wanted(&peer) {
            return;
        }
        self.shared.wanted.send_modify(|wanted| {
            *Arc::make_mut(wanted).entry(peer).or_default() += 1;
        });
    }

    /// Why there is no connection to the peer; `None` while there is one.
    pub fn why_not_connected(&self, peer: PeerId) -> Option<WhyNotConnected> {
        let view = self.view();
        if view.gone {
            return Some(WhyNotConnected::NodeGone);
        }
        if self.local_peer_id() == Some(peer) {
            return Some(WhyNotConnected::Itself { peer });
        }
        let Some(state) = view.peer(&peer) else {
            return Some(WhyNotConnected::Unknown { peer });
        };
        if state.is_connected() {
            return None;
        }
        let last = state.failures.last().cloned();
        Some(match state.dialing {
            _ if !state.is_wanted() => WhyNotConnected::Unknown { peer },
            DialState::NoAddress if state.known && !view.relays.is_empty() => {
                WhyNotConnected::NoRelay {
                    peer,
                    relays: view.relays.clone(),
                }
            }
            DialState::NoAddress if last.is_none() => WhyNotConnected::NoAddress { peer },
            DialState::Idle | DialState::NoAddress => WhyNotConnected::Untried { peer, last },
            DialState::Dialing { .. } => WhyNotConnected::Dialing { peer, last },
            DialState::Waiting { until, attempts } => WhyNotConnected::Waiting {
                peer,
                attempts,
                until,
                last,
            },
        })
    }

    /// Measures from now on; the first metrics stay.
    pub(crate) fn measure(&self, metrics: Metrics) {
        let metrics = self.shared.metrics.get_or_init(|| metrics);
        for peer in self.view().known() {
            if self.local_peer_id() != Some(peer.id) {
                metrics.begin(peer);
            }
        }
    }

    /// The metrics, if the peer is one of those that have series of their own: the members of the
    /// cluster other than this node.
    pub(crate) fn metrics_of(&self, peer: &PeerId) -> Option<&Metrics> {
        let metrics = self.shared.metrics.get()?;
        (self.is_known(peer) && self.local_peer_id() != Some(*peer)).then_some(metrics)
    }

    /// The peers that were asked for, with how often.
    pub(crate) fn wanted(&self) -> watch::Receiver<Arc<BTreeMap<PeerId, u64>>> {
        self.shared.wanted.subscribe()
    }

    pub(crate) fn writer(&self) -> Writer {
        Writer {
            context: self.clone(),
        }
    }
}

/// The only way to change a context. Not public, so that nobody else writes.
pub(crate) struct Writer {
    context: P2PContext,
}

impl Writer {
    fn modify(&self, peer: PeerId, change: impl FnOnce(&mut PeerView) -> bool) {
        self.context.shared.view.send_if_modified(|view| {
            if !view.peers.contains_key(&peer) && view.strangers >= MAX_STRANGERS {
                return false;
            }
            let mut state = match view.peers.get(&peer) {
                Some(state) => (**state).clone(),
                None => PeerView::new(peer, false),
            };
            if !change(&mut state) {
                return false;
            }
            Arc::make_mut(view).put(state);
            true
        });
    }

    pub(crate) fn connected(&self, peer: PeerId, path: Path) {
        self.modify(peer, |state| {
            state.paths.push(Arc::new(path));
            state.dialing = DialState::Idle;
            true
        });
        self.measure_connections(peer);
        if let Some(metrics) = self.context.metrics_of(&peer) {
            metrics.connected(peer);
        }
    }

    pub(crate) fn disconnected(
        &self,
        peer: PeerId,
        connection: ConnectionId,
        cause: Option<FailureCause>,
    ) {
        self.modify(peer, |state| {
            let before = state.paths.len();
            let mut address = None;
            state.paths.retain(|path| {
                let keep = path.connection != connection;
                if !keep {
                    address = Some(path.address.clone());
                }
                keep
            });
            if let (Some(cause), true) = (cause, state.paths.is_empty()) {
                state.remember(Failure {
                    address,
                    at: Instant::now(),
                    cause,
                });
            }
            state.paths.len() != before
        });
        self.measure_connections(peer);
        if let Some(metrics) = self.context.metrics_of(&peer)
            && !self.context.view().is_connected(&peer)
        {
            metrics.lost(peer);
        }
    }

    fn measure_connections(&self, peer: PeerId) {
        if let Some(metrics) = self.context.shared.metrics.get() {
            metrics.set_connections(peer, self.context.view().peer(&peer).map(Arc::as_ref));
        }
    }

    /// A ping came back. Only the first on a path is a change that wakes anybody.
    pub(crate) fn pinged(&self, peer: PeerId, connection: ConnectionId, rtt: Duration) {
        self.modify(peer, |state| {
            let path = state
                .paths
                .iter()
                .find(|path| path.connection == connection);
            let first = path.is_some_and(|path| path.rtt().is_none());
            if let Some(path) = path {
                path.set_rtt(rtt);
            }
            first
        });
        // A ping may be told after the end of its connection; then nothing answers any more.
        if let Some(metrics) = self.context.metrics_of(&peer)
            && self.path(peer, connection).is_some()
        {
            metrics.pinged(peer, rtt);
        }
    }

    pub(crate) fn path(&self, peer: PeerId, connection: ConnectionId) -> Option<Arc<Path>> {
        let view = self.context.view();
        let mut paths = view.peer(&peer)?.paths.iter();
        paths.find(|path| path.connection == connection).cloned()
    }

    /// A ping was missed; `silent` are the connections whose last ping was.
    pub(crate) fn ping_failed(&self, peer: PeerId, silent: impl Fn(ConnectionId) -> bool) {
        if let Some(metrics) = self.context.metrics_of(&peer) {
            let view = self.context.view();
            let mut paths = view.peer(&peer).into_iter().flat_map(|state| &state.paths);
            let answers = paths.any(|path| path.rtt().is_some() && !silent(path.connection));
            metrics.ping_failed(peer, answers);
        }
    }

    pub(crate) fn draining(&self, peer: PeerId, connection: ConnectionId, draining: bool) {
        self.modify(peer, |state| {
            let mut changed = false;
            for path in &mut state.paths {
                if path.connection == connection && path.draining != draining {
                    *path = Arc::new(path.drained(draining));
                    changed = true;
                }
            }
            changed
        });
    }

    pub(crate) fn failed(&self, peer: PeerId, failure: Failure) {
        self.modify(peer, |state| {
            if !state.is_wanted() {
                return false;
            }
            state.remember(failure);
            true
        });
    }

    /// The path no longer answers and is about to be closed.
    pub(crate) fn silent(&self, peer: PeerId, connection: ConnectionId) {
        self.modify(peer, |state| {
            let mut paths = state.paths.iter();
            let path = paths.find(|path| path.connection == connection);
            let Some(address) = path.map(|path| path.address.clone()) else {
                return false;
            };
            state.remember(Failure {
                address: Some(address),
                at: Instant::now(),
                cause: FailureCause::Silent,
            });
            true
        });
    }

    pub(crate) fn identified(&self, peer: PeerId, addresses: Vec<Multiaddr>, who: Identified) {
        self.modify(peer, |state| {
            if !state.is_connected() {
                return false;
            }
            if state.is_wanted() {
                state.addresses = addresses;
                state.addresses.truncate(MAX_ADDRESSES);
            }
            let mut who = who;
            who.protocols.truncate(MAX_PROTOCOLS);
            state.identified = Some(Arc::new(who));
            true
        });
    }

    pub(crate) fn dialing(&self, peer: PeerId, dialing: DialState) {
        self.modify(peer, |state| {
            let changed = state.is_wanted() && state.dialing != dialing;
            if changed {
                state.dialing = dialing;
            }
            changed
        });
    }

    /// The relays as they are configured, before anything is known of them.
    pub(crate) fn relays(&self, names: impl IntoIterator<Item = Arc<str>>) {
        let relays = names.into_iter().take(MAX_RELAYS).map(|name| {
            Arc::new(RelayView {
                name,
                peer: None,
                addresses: Vec::new(),
                problem: None,
                reservation: ReservationState::Resolving,
            })
        });
        let relays = relays.collect();
        self.context.shared.view.send_modify(|view| {
            Arc::make_mut(view).relays = relays;
        });
    }

    /// Changes one configured relay, and keeps the list of peers that are relays true.
    pub(crate) fn relay(&self, index: usize, change: impl FnOnce(&mut RelayView)) {
        let mut concerned = [None; 2];
        self.context.shared.view.send_if_modified(|view| {
            let Some(before) = view.relays.get(index) else {
                return false;
            };
            let mut relay = (**before).clone();
            change(&mut relay);
            if relay == **before {
                return false;
            }
            let peers = [before.peer, relay.peer];
            concerned = peers;
            let view = Arc::make_mut(view);
            view.relays[index] = Arc::new(relay);
            for peer in peers.into_iter().flatten() {
                let in_use = view.relays.iter().any(|relay| relay.peer == Some(peer));
                let mut state = match view.peers.get(&peer) {
                    Some(state) if state.relay == in_use => continue,
                    Some(state) => (**state).clone(),
                    None => PeerView::new(peer, false),
                };
                state.relay = in_use;
                view.put(state);
            }
            true
        });
        for peer in concerned.into_iter().flatten() {
            self.measure_reservation(peer);
        }
    }

    /// Where the reservation on a configured relay stands.
    pub(crate) fn reservation(&self, index: usize, reservation: ReservationState) {
        self.relay(index, |relay| relay.reservation = reservation);
    }

    /// A peer is a relay that is in use, or is none any more.
    fn measure_reservation(&self, peer: PeerId) {
        if let Some(metrics) = self.context.shared.metrics.get() {
            let view = self.context.view();
            let mut relays = view.relays.iter().filter(|relay| relay.peer == Some(peer));
            let in_use = relays.clone().next().is_some();
            let reserved = !view.is_gone() && relays.any(|relay| relay.is_reserved());
            metrics.set_reserved(peer, in_use.then_some(reserved));
        }
    }

    pub(crate) fn gone(&self) {
        let before = self.context.view();
        self.context.shared.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            view.gone = true;
            view.peers.retain(|_, state| state.is_wanted());
            view.strangers = 0;
            for state in view.peers.values_mut() {
                let state = Arc::make_mut(state);
                state.paths.clear();
                state.dialing = DialState::Idle;
            }
        });
        for relay in before.relays.iter().filter_map(|relay| relay.peer) {
            self.measure_reservation(relay);
        }
        for peer in before.peers() {
            self.measure_connections(peer.id);
            if let Some(metrics) = self.context.metrics_of(&peer.id) {
                metrics.lost(peer.id);
            }
        }
    }
}

/// What a node has of its context. Dropped, it ends every wait if the node was there, and gives the
/// context back if it never was.
pub(crate) struct Hold {
    writer: Writer,
    runs: bool,
}

impl Hold {
    /// For a swarm that somebody else builds, from the start.
    pub(crate) fn running(context: &P2PContext) -> Self {
        context.shared.taken.store(true, Ordering::Release);
        Self {
            writer: context.writer(),
            runs: true,
        }
    }

    /// The node is built.
    pub(crate) fn runs(&mut self) {
        self.runs = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        match self.runs {
            true => self.writer.gone(),
            false => {
                let shared = &self.writer.context.shared;
                shared.taken.store(false, Ordering::Release);
            }
        }
    }
}

impl PeerView {
    fn remember(&mut self, mut failure: Failure) {
        // Whom it concerns is known; libp2p says it again in each address.
        failure.address = failure.address.map(|mut address| {
            if address.iter().last() == Some(Protocol::P2p(self.id)) {
                address.pop();
            }
            address
        });
        self.failures.retain(|old| old.address != failure.address);
        if self.failures.len() >= MAX_FAILURES {
            self.failures.remove(0);
        }
        self.failures.push(failure);
    }
}

/// Changes of a context for code that is polled.
pub(crate) struct Changes<T>(futures::future::BoxFuture<'static, Option<watch::Receiver<T>>>);

impl<T: Send + Sync + 'static> Changes<T> {
    pub(crate) fn new(mut receiver: watch::Receiver<T>) -> Self {
        Self(Box::pin(async move {
            receiver.changed().await.is_ok().then_some(receiver)
        }))
    }

    /// Ready after each change, once however many there were.
    pub(crate) fn poll_changed(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        match self.0.as_mut().poll(cx) {
            std::task::Poll::Ready(Some(receiver)) => {
                *self = Self::new(receiver);
                std::task::Poll::Ready(())
            }
            // The sender lives as long as the context.
            std::task::Poll::Ready(None) => {
                self.0 = Box::pin(std::future::pending());
                std::task::Poll::Pending
            }
            std::task::Poll::Pending => std::task::Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_waits_for_what_cannot_come_is_told() {
        let [local, member, stranger] = [(); 3].map(|()| PeerId::random());
        let context = P2PContext::new([local, member, member]);
        assert_eq!(context.view().known().count(), 2);
        let connected = |peer| context.connected(peer).now_or_never();
        let quorum = |count| context.quorum(count).now_or_never();
        // Its node may come to know the peer as a relay.
        assert!(connected(stranger).is_none());
        context.bind(local).unwrap();

        assert!(connected(member).is_none());
        let unknown = WaitError::Unknown { peer: stranger };
        assert_eq!(connected(stranger).unwrap().unwrap_err(), unknown);
        let itself = WaitError::Itself { peer: local };
        assert_eq!(connected(local).unwrap().unwrap_err(), itself);
        assert_eq!(quorum(1), None);
        let too_many = WaitError::TooMany {
            count: 2,
            others: 1,
        };
        assert_eq!(quorum(2), Some(Err(too_many)));

        let writer = context.writer();
        writer.connected(member, path(1));
        assert_eq!(quorum(1), Some(Ok(())), "one that was given twice is one");
        writer.connected(stranger, path(2));
        assert_eq!(connected(stranger).unwrap().unwrap().id, stranger);
    }

    #[test]
    fn strangers_are_remembered_up_to_a_bound_and_only_while_they_are_connected() {
        let member = PeerId::random();
        let context = P2PContext::new([member]);
        let writer = context.writer();
        let strangers: Vec<_> = (0..=MAX_STRANGERS).map(|_| PeerId::random()).collect();
        for (n, stranger) in strangers.iter().enumerate() {
            writer.connected(*stranger, path(n));
        }
        let (last, rest) = strangers.split_last().unwrap();
        let view = context.view();
        assert!(rest.iter().all(|stranger| view.is_connected(stranger)));
        assert!(view.peer(last).is_none());
        writer.connected(member, path(1000));
        assert!(context.view().is_connected(&member), "members always are");

        // What was never remembered frees no place; what was, does.
        let closed = |peer, n| writer.disconnected(peer, ConnectionId::new_unchecked(n), None);
        closed(*last, MAX_STRANGERS);
        writer.connected(*last, path(1001));
        assert!(context.view().peer(last).is_none());
        closed(rest[0], 0);
        assert!(context.view().peer(&rest[0]).is_none());
        writer.connected(*last, path(1002));
        assert!(context.view().is_connected(last));
    }

    #[test]
    fn what_is_kept_of_a_peer_is_bounded() {
        let member = PeerId::random();
        let context = P2PContext::new([member]);
        let writer = context.writer();
        writer.connected(member, path(1));
        let address = |n: usize| format!("/ip4/10.0.0.1/tcp/{n}").parse().unwrap();
        let who = Identified {
            agent: "x".to_owned(),
            protocols: (0..=MAX_PROTOCOLS)
                .map(|n| StreamProtocol::try_from_owned(format!("/p/{n}")).unwrap())
                .collect(),
        };
        let told = (1..=MAX_ADDRESSES + 1).map(address).collect();
        writer.identified(member, told, who);
        for n in (1..=MAX_FAILURES + 1).chain([MAX_FAILURES]) {
            let failure = Failure {
                address: Some(address(n)),
                at: Instant::now(),
                cause: FailureCause::Refused,
            };
            writer.failed(member, failure);
        }

        let view = context.view();
        let state = view.peer(&member).unwrap();
        assert_eq!(state.addresses.len(), MAX_ADDRESSES);
        let identified = state.identified.as_ref().unwrap();
        assert_eq!(identified.protocols.len(), MAX_PROTOCOLS);
        let failures = state.failures.iter().map(|it| it.address.clone().unwrap());
        let newest: Vec<_> = (2..MAX_FAILURES)
            .chain([MAX_FAILURES + 1, MAX_FAILURES])
            .map(address)
            .collect();
        assert_eq!(failures.collect::<Vec<_>>(), newest, "one of each address");

        writer.relays((0..=MAX_RELAYS).map(|n| n.to_string().into()));
        assert_eq!(context.view().relays.len(), MAX_RELAYS);
    }

    fn path(n: usize) -> Path {
        Path::new(
            ConnectionId::new_unchecked(n),
            Endpoint::Listener,
            None,
            Transport::Tcp,
            Multiaddr::empty(),
        )
    }
}
