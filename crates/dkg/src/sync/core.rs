//! The rules: who is where, who is lost, when it is over.
//!
//! A pure state machine: what happened and a time go in, [`Action`]s, a [`Tell`] and a [`Progress`] come
//! out. Spec: dkg, sections 1.9, 2.5 and 2.6.
//!
//! - **Steps.** What a peer says is remembered by peer, not by stream. First 0 or 1, then never less and
//!   at most two more; whoever breaks that was restarted, and ends the ceremony.
//! - **Barriers.** Barrier `k` is open when all others have said `k` or more. Whoever is two ahead passed a
//!   barrier without this node.
//! - **Liveness.** From step 1 on. A peer without a connection is lost when its dials are refused
//!   after [`Rules::peer_grace`]; a peer that says nothing on any path after [`Rules::silence`]. Before
//!   that it is shown, and shown again when it is back. At step 0 anybody may come and go. A relay that
//!   does not have a peer refuses in its place; but one that was away itself knows nobody at first, so
//!   that the grace begins when it is back, and while it is away nothing is known. What refuses direct
//!   dials to a peer that was only connected through relays is its router.
//! - **The claim.** To each peer leads at most one stream of ours. It is [claimed](Claim) for one
//!   connection, and every ending gives it back; who may have it next is decided here.
//! - **Streams of theirs.** The newest that has brought a valid message is the one that counts. What an
//!   older one still brings is too late to be believed.
//! - **The end.** The first reason stays. A peer that has said that it is done is not missed.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use libp2p::{PeerId, swarm::ConnectionId};
use pluto_p2p::p2p_context::FailureCause;

use super::{
    reason::{MAX_TEXT, Reason, SignatureFault, Step, tame},
    version::{Agreement, CharonVersion, Kind, Minor, Who},
};
use crate::bcast::Generation;

/// The most by which a step may grow from one message to the next (dkg spec §2.6).
const MAX_JUMP: i64 = 2;
/// First wait before a stream is opened again; Charon's, as are the factor and the cap.
const REOPEN_MIN: Duration = Duration::from_millis(100);
/// Longest wait before a stream is opened again.
const REOPEN_MAX: Duration = Duration::from_secs(1);
/// How often a lost peer is asked for; it clears the wait of the dialler, not its spacing.
const WANT_EVERY: Duration = Duration::from_millis(500);
/// From when on silence is shown: ten heartbeats.
const QUIET: Duration = Duration::from_secs(1);
/// News that nobody has taken. Beyond it they are dropped, [`Progress`] has the truth.
const MAX_NEWS: usize = 1024;

/// What is configured.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) version: Option<CharonVersion>,
    pub(crate) peer_grace: Duration,
    pub(crate) silence: Duration,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Choose a connection for the stream to this peer, not this one if there is another, and
    /// [take](Core::take) it.
    Claim {
        peer: PeerId,
        avoid: Option<ConnectionId>,
    },
    /// End the stream once it is answered.
    Release {
        peer: PeerId,
        connection: ConnectionId,
        ticket: u64,
    },
    /// A connection to this peer is wanted.
    Want(PeerId),
    /// Somebody may want to know.
    News(News),
}

/// What happened in a ceremony, for whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// It is known which Charon this ceremony speaks.
    Agreed(CharonVersion),
    /// A peer is connected both ways, for the first time.
    Connected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer is not heard. It may come back.
    Missing {
        /// The peer.
        peer: PeerId,
        /// Whether a connection is still open.
        connected: bool,
    },
    /// A peer is heard again.
    Healed {
        /// The peer.
        peer: PeerId,
        /// For how long it was not.
        after: Duration,
    },
    /// A peer went on.
    Step {
        /// The peer.
        peer: PeerId,
        /// Where it is.
        step: i64,
    },
    /// A peer has everything it needs.
    Shutdown {
        /// The peer.
        peer: PeerId,
    },
    /// The ceremony has ended.
    Ended(Reason),
}

/// What all our streams say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tell {
    pub(crate) version: Option<CharonVersion>,
    pub(crate) step: Step,
    pub(crate) shutdown: bool,
}

/// How a ceremony stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Where this node is.
    pub step: Step,
    /// What is claimed, once it is known.
    pub version: Option<CharonVersion>,
    /// The other operators, in cluster order.
    pub peers: Vec<PeerProgress>,
    /// Why it ended, if it has.
    pub ended: Option<Reason>,
    pub(crate) broadcast: Option<Generation>,
}

/// How one operator stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerProgress {
    /// The operator.
    pub peer: PeerId,
    /// Whether identify has told who it is.
    pub identified: bool,
    /// Whether it answers what we say.
    pub answers: bool,
    /// Whether it has said something valid on a stream that is open.
    pub speaks: bool,
    /// The step it said last.
    pub step: Option<i64>,
    /// Whether it is not heard at present.
    pub missing: bool,
    /// Whether it has said that it is done.
    pub shutdown: bool,
    /// Whether it may go: it is done and knows that we are.
    pub finished: bool,
    /// Whether it knows why the ceremony ended.
    pub(crate) knows_end: bool,
}

impl Progress {
    pub(crate) fn agreement(&self) -> Option<Agreement> {
        Some(Agreement {
            version: self.version?,
            broadcast: self.broadcast,
        })
    }

    pub(crate) fn all_connected(&self) -> bool {
        let mut peers = self.peers.iter();
        // A peer may speak before its identify has come, which alone tells how it broadcasts.
        let here = |peer: &PeerProgress| peer.identified && peer.answers && peer.speaks;
        self.version.is_some() && peers.all(here)
    }

    pub(crate) fn all_at(&self, step: Step) -> bool {
        let at = |peer: &PeerProgress| peer.step.is_some_and(|at| at >= i64::from(step.0));
        self.peers.iter().all(at)
    }

    pub(crate) fn all_shut(&self) -> bool {
        let mut peers = self.peers.iter();
        peers.all(|peer| peer.finished)
    }

    pub(crate) fn all_know_end(&self) -> bool {
        let mut peers = self.peers.iter();
        peers.all(|peer| peer.knows_end || !peer.speaks)
    }
}

/// One message of a peer, its signature checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard<'a> {
    pub(crate) version: &'a str,
    pub(crate) signature: Result<(), SignatureFault>,
    pub(crate) step: i64,
    pub(crate) shutdown: bool,
}

/// What to do with the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer, with this text if it is not empty, and then end the stream or not.
    Answer { error: String, close: bool },
    /// A newer stream of the peer has taken over.
    Superseded,
}

/// A relay does not have a peer.
#[derive(Debug, Clone)]
pub(crate) struct Absent {
    /// When it said so.
    pub(crate) at: Instant,
    /// Since when it is connected.
    pub(crate) since: Instant,
    pub(crate) cause: FailureCause,
}

/// How a stream of ours ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It broke, was given up or was dropped.
    Broken,
    /// The peer knows that we are done.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// To be had.
    Free,
    /// To be had from then on.
    Resting { until: Instant },
    /// The shell was asked to choose a connection.
    Asked,
    /// A stream is being opened or open there.
    Held {
        connection: ConnectionId,
        ticket: u64,
        since: Instant,
        /// An answer has come.
        proven: bool,
        released: bool,
    },
    /// Never again.
    Done,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    who: Option<Who>,
    connections: Vec<ConnectionId>,
    /// Whether one of its connections, or of the last that it had, is or was not through a relay.
    direct: bool,
    claim: Claim,
    failures: u32,
    avoid: Option<ConnectionId>,
    streams: u64,
    /// The newest stream of theirs that brought something valid.
    newest: u64,
    speaks: bool,
    step: Option<i64>,
    shutdown: bool,
    knows_shutdown: bool,
    knows_end: bool,
    /// It has said that it is done, and has not been seen since.
    gone: bool,
    was_connected: bool,
    heard: Option<Instant>,
    missing: Option<Instant>,
    lost: Option<Instant>,
    refused: Option<FailureCause>,
    /// A relay does not have it, and could be asked since then.
    absent: Option<(FailureCause, Instant)>,
    last_failure: Option<FailureCause>,
    next_want: Option<Instant>,
}

impl Peer {
    fn new(id: PeerId) -> Self {
        Self {
            id,
            who: None,
            connections: Vec::new(),
            direct: false,
            claim: Claim::Free,
            failures: 0,
            avoid: None,
            streams: 0,
            newest: 0,
            speaks: false,
            step: None,
            shutdown: false,
            knows_shutdown: false,
            knows_end: false,
            gone: false,
            was_connected: false,
            heard: None,
            missing: None,
            lost: None,
            refused: None,
            absent: None,
            last_failure: None,
            next_want: None,
        }
    }

    fn answers(&self) -> bool {
        matches!(self.claim, Claim::Held { proven: true, .. })
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Core {
    rules: Rules,
    peers: Vec<Peer>,
    version: Option<CharonVersion>,
    step: Step,
    /// When step 1 began.
    armed: Option<Instant>,
    shutdown: bool,
    ended: Option<Reason>,
    tickets: u64,
    actions: VecDeque<Action>,
    dirty: bool,
}

impl Core {
    /// A ceremony with these other operators, in cluster order.
    pub(crate) fn new(rules: Rules, others: impl IntoIterator<Item = PeerId>) -> Self {
        let mut core = Self {
            version: None,
            peers: others.into_iter().map(Peer::new).collect(),
            step: Step(0),
            armed: None,
            shutdown: false,
            ended: None,
            tickets: 0,
            actions: VecDeque::new(),
            dirty: true,
            rules,
        };
        if let Some(version) = core.rules.version {
            core.agree(version);
        }
        // Who is alone waits for nobody's identify.
        core.decide();
        for at in 0..core.peers.len() {
            core.actions.push_back(Action::Want(core.peers[at].id));
        }
        core
    }

    // What the user does.

    /// This node works towards barrier `step`. Earlier ones change nothing.
    pub(crate) fn set_step(&mut self, step: Step, now: Instant) {
        if step <= self.step || self.ended.is_some() {
            return;
        }
        self.step = step;
        self.armed.get_or_insert(now);
        self.dirty = true;
        let ahead = self.peers.iter().find_map(|peer| {
            let reported = peer.step?;
            self.is_too_far(reported).then_some((peer.id, reported))
        });
        if let Some((peer, reported)) = ahead {
            self.end(Reason::TooFarAhead {
                peer,
                step,
                reported,
            });
        }
    }

    /// This node has everything it needs.
    pub(crate) fn set_shutdown(&mut self) {
        if self.ended.is_none() && !self.shutdown {
            self.shutdown = true;
            self.dirty = true;
        }
    }

    /// The ceremony ends, unless it has.
    pub(crate) fn end(&mut self, reason: Reason) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(reason.clone());
        self.dirty = true;
        self.news(News::Ended(reason));
    }

    pub(crate) fn step(&self) -> Step {
        self.step
    }

    // What the swarm tells.

    pub(crate) fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, relayed: bool) {
        let Some(at) = self.at(peer) else { return };
        let peer = &mut self.peers[at];
        peer.direct = !relayed || (peer.direct && !peer.connections.is_empty());
        peer.connections.push(connection);
        peer.lost = None;
        peer.refused = None;
        peer.absent = None;
        peer.last_failure = None;
        peer.next_want = None;
        if let Claim::Resting { .. } = peer.claim {
            peer.claim = Claim::Free;
        }
        self.try_claim(at);
    }

    pub(crate) fn on_closed(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        let Some(at) = self.at(peer) else { return };
        let peer = &mut self.peers[at];
        peer.connections.retain(|open| *open != connection);
        if let Claim::Held {
            connection: held, ..
        } = peer.claim
            && held == connection
        {
            peer.claim = Claim::Free;
            self.dirty = true;
        }
        if peer.connections.is_empty() {
            self.dirty = true;
            peer.lost = Some(now);
            peer.last_failure = None;
            peer.next_want = Some(now + WANT_EVERY);
            let id = peer.id;
            self.actions.push_back(Action::Want(id));
            self.show_missing(at, now);
        } else {
            self.try_claim(at);
        }
    }

    /// Identify told who a peer is.
    pub(crate) fn on_identified(&mut self, peer: PeerId, who: Who) {
        let Some(at) = self.at(peer) else { return };
        if self.peers[at].who.as_ref() == Some(&who) {
            return;
        }
        self.peers[at].who = Some(who);
        self.dirty = true;
        self.decide();
        self.try_claim_all();
    }

    /// A dial failed.
    pub(crate) fn on_dial_failed(
        &mut self,
        peer: PeerId,
        at_time: Instant,
        cause: &FailureCause,
        now: Instant,
    ) {
        let Some(at) = self.at(peer) else { return };
        let peer = &mut self.peers[at];
        if peer.lost.is_none_or(|lost| at_time < lost) {
            return;
        }
        match cause {
            // How the last connection ended, not what became of a dial.
            FailureCause::Lost | FailureCause::Silent => return,
            // Nothing that the other side has done.
            FailureCause::TimedOut
            | FailureCause::Unreachable
            | FailureCause::Denied
            | FailureCause::Unsupported
            | FailureCause::RelayNotConnected { .. }
            | FailureCause::RelayRefused { .. } => {}
            // See `on_absent`.
            FailureCause::NoReservation { .. } => {}
            // The router in front of a peer that could only be reached through a relay.
            _ if !peer.direct => {}
            _ => peer.refused = Some(cause.clone()),
        }
        peer.last_failure = Some(cause.clone());
        self.on_time(now);
    }

    /// The relays that have said that they do not have a peer, and are connected now.
    pub(crate) fn on_absent(
        &mut self,
        peer: PeerId,
        relays: impl IntoIterator<Item = Absent>,
        now: Instant,
    ) {
        let Some(at) = self.at(peer) else { return };
        let peer = &mut self.peers[at];
        let Some(lost) = peer.lost else { return };
        let said = relays.into_iter().filter(|it| it.at >= lost.max(it.since));
        let longest = said.min_by_key(|it| it.since);
        peer.absent = longest.map(|it| (it.cause, it.since));
        self.on_time(now);
    }

    // The claim.

    /// The shell takes a claim for a connection; the ticket names it from then on. `None` if it is no
    /// longer to be had there.
    pub(crate) fn take(
        &mut self,
        peer: PeerId,
        connection: Option<ConnectionId>,
        now: Instant,
    ) -> Option<u64> {
        let at = self.at(peer)?;
        let state = &mut self.peers[at];
        if state.claim != Claim::Asked {
            return None;
        }
        let Some(connection) = connection.filter(|open| state.connections.contains(open)) else {
            state.claim = Claim::Free;
            return None;
        };
        self.tickets += 1;
        state.claim = Claim::Held {
            connection,
            ticket: self.tickets,
            since: now,
            proven: false,
            released: false,
        };
        Some(self.tickets)
    }

    /// The stream of a claim has ended, however it did.
    pub(crate) fn on_claim_ended(&mut self, peer: PeerId, ticket: u64, end: End, now: Instant) {
        let Some(at) = self.at(peer) else { return };
        let peer = &mut self.peers[at];
        let Claim::Held {
            ticket: held,
            connection,
            since,
            proven,
            released,
        } = peer.claim
        else {
            return;
        };
        if held != ticket {
            return;
        }
        self.dirty = true;
        if end == End::Done {
            peer.claim = Claim::Done;
            peer.knows_shutdown = true;
            return;
        }
        peer.failures = if proven { 0 } else { peer.failures + 1 };
        peer.avoid = (!released).then_some(connection);
        let until = match (released, proven) {
            (true, _) => now,
            // A peer that ends every stream after its first answer shall not keep us busy.
            (false, true) => since + REOPEN_MIN,
            (false, false) => {
                let factor = 1.6f64.powi(peer.failures.saturating_sub(1).min(8) as i32);
                now + REOPEN_MIN.mul_f64(factor).min(REOPEN_MAX)
            }
        };
        if until <= now {
            peer.claim = Claim::Free;
            self.try_claim(at);
        } else {
            peer.claim = Claim::Resting { until };
        }
    }

    /// The stream would do better on another connection.
    pub(crate) fn on_better_path(&mut self, peer: PeerId) {
        let Some(at) = self.at(peer) else { return };
        let peer = &mut self.peers[at];
        if let Claim::Held {
            connection,
            ticket,
            released,
            ..
        } = &mut peer.claim
            && !*released
        {
            *released = true;
            let (connection, ticket) = (*connection, *ticket);
            self.actions.push_back(Action::Release {
                peer: peer.id,
                connection,
                ticket,
            });
        }
    }

    /// Which connection the claim is on.
    pub(crate) fn claimed(&self, peer: PeerId) -> Option<ConnectionId> {
        match self.peers[self.at(peer)?].claim {
            Claim::Held { connection, .. } => Some(connection),
            _ => None,
        }
    }

    /// Whether a stream that is not answered could be opened elsewhere.
    pub(crate) fn has_other_path(&self, peer: PeerId, than: ConnectionId) -> bool {
        self.at(peer)
            .is_some_and(|at| self.peers[at].connections.iter().any(|open| *open != than))
    }

    /// Whether the peer answers however many messages are under way.
    pub(crate) fn is_pluto(&self, peer: PeerId) -> bool {
        let who = self.at(peer).and_then(|at| self.peers[at].who.as_ref());
        who.is_some_and(|who| who.kind == Kind::Pluto)
    }

    // What streams bring.

    /// The answer to a message of ours.
    pub(crate) fn on_reply(
        &mut self,
        peer: PeerId,
        ticket: u64,
        was_shutdown: bool,
        error: &str,
        now: Instant,
    ) {
        let Some(at) = self.at(peer) else { return };
        let state = &mut self.peers[at];
        match &mut state.claim {
            Claim::Held {
                ticket: held,
                proven,
                ..
            } if *held == ticket => {
                if !*proven {
                    *proven = true;
                    state.failures = 0;
                    state.avoid = None;
                    self.dirty = true;
                }
            }
            _ => return,
        }
        self.hear(at, now);
        // Whatever it says, it knows that we are done.
        if !was_shutdown && !error.is_empty() {
            let step = self.step;
            self.end(Reason::Told {
                peer,
                step,
                text: tame(error, MAX_TEXT),
            });
        }
    }

    /// A stream of a peer begins. Its number names it; `None` for who is no operator.
    pub(crate) fn on_stream(&mut self, peer: PeerId) -> Option<u64> {
        let at = self.at(peer)?;
        self.peers[at].streams += 1;
        Some(self.peers[at].streams)
    }

    /// A stream of a peer has ended.
    pub(crate) fn on_stream_ended(&mut self, peer: PeerId, stream: u64) {
        let Some(at) = self.at(peer) else { return };
        let peer = &mut self.peers[at];
        if peer.newest == stream && peer.speaks {
            peer.speaks = false;
            self.dirty = true;
        }
    }

    /// A message of a peer.
    pub(crate) fn on_message(
        &mut self,
        peer: PeerId,
        stream: u64,
        message: Heard<'_>,
        now: Instant,
    ) -> Verdict {
        let Some(at) = self.at(peer) else {
            return Verdict::Superseded;
        };
        if stream < self.peers[at].newest {
            return Verdict::Superseded;
        }
        if let Some(reason) = &self.ended {
            return Verdict::Answer {
                error: reason.to_peer(peer),
                close: false,
            };
        }
        if let Err(reason) = self.check(at, &message) {
            let error = reason.to_peer(peer);
            self.end(reason);
            return Verdict::Answer {
                error,
                close: message.shutdown,
            };
        }
        let state = &mut self.peers[at];
        state.newest = stream;
        if !state.speaks {
            state.speaks = true;
            self.dirty = true;
        }
        self.hear(at, now);
        if let Err(reason) = self.advance(at, message.step) {
            let error = reason.to_peer(peer);
            self.end(reason);
            return Verdict::Answer { error, close: true };
        }
        let state = &mut self.peers[at];
        if message.shutdown && !state.shutdown {
            state.shutdown = true;
            self.dirty = true;
            self.news(News::Shutdown { peer });
        }
        Verdict::Answer {
            error: String::new(),
            close: message.shutdown,
        }
    }

    /// The peer has been sent why the ceremony ended. A Charon says nothing after it, for seconds.
    pub(crate) fn on_end_sent(&mut self, peer: PeerId) {
        if !self.is_pluto(peer) {
            self.on_end_known(peer);
        }
    }

    /// It has spoken again since then.
    pub(crate) fn on_end_known(&mut self, peer: PeerId) {
        if let Some(at) = self.at(peer)
            && !self.peers[at].knows_end
        {
            self.peers[at].knows_end = true;
            self.dirty = true;
        }
    }

    // Time.

    /// What has become due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        for at in 0..self.peers.len() {
            if let Claim::Resting { until } = self.peers[at].claim
                && until <= now
            {
                self.peers[at].claim = Claim::Free;
                self.try_claim(at);
            }
            if self.peers[at].next_want.is_some_and(|at| at <= now) {
                self.peers[at].next_want = Some(now + WANT_EVERY);
                let id = self.peers[at].id;
                self.actions.push_back(Action::Want(id));
            }
            if self.is_quiet_at(at).is_some_and(|at| at <= now) {
                self.show_missing(at, now);
            }
            if self.lost_at(at).is_some_and(|at| at <= now) {
                let peer = &self.peers[at];
                let absent = peer.absent.as_ref().map(|(cause, _)| cause);
                let cause = peer.refused.as_ref().or(absent);
                let reason = Reason::Lost {
                    peer: peer.id,
                    step: self.step,
                    after: peer.lost.map(|lost| now - lost).unwrap_or_default(),
                    cause: cause.cloned().unwrap_or(FailureCause::Lost),
                };
                self.miss(at, reason);
            }
            if self.silent_at(at).is_some_and(|at| at <= now) {
                let peer = &self.peers[at];
                let reason = Reason::Silent {
                    peer: peer.id,
                    step: self.step,
                    after: peer.heard.map(|heard| now - heard).unwrap_or_default(),
                    cause: peer.last_failure.clone(),
                };
                self.miss(at, reason);
            }
        }
    }

    /// When to be called again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        (0..self.peers.len())
            .flat_map(|at| {
                let resting = match self.peers[at].claim {
                    Claim::Resting { until } => Some(until),
                    _ => None,
                };
                [
                    resting,
                    self.peers[at].next_want,
                    self.is_quiet_at(at),
                    self.lost_at(at),
                    self.silent_at(at),
                ]
            })
            .flatten()
            .min()
    }

    // What comes out.

    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    pub(crate) fn tell(&self) -> Tell {
        Tell {
            version: self.version,
            step: self.step,
            shutdown: self.shutdown,
        }
    }

    /// How it stands, if that has changed since it was asked last.
    pub(crate) fn take_progress(&mut self) -> Option<Progress> {
        std::mem::take(&mut self.dirty).then(|| self.progress())
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            step: self.step,
            version: self.version,
            broadcast: self.broadcast(),
            ended: self.ended.clone(),
            peers: self
                .peers
                .iter()
                .enumerate()
                .map(|(at, peer)| PeerProgress {
                    peer: peer.id,
                    identified: peer.who.is_some(),
                    answers: peer.answers(),
                    speaks: peer.speaks,
                    step: peer.step,
                    missing: peer.missing.is_some(),
                    shutdown: peer.shutdown,
                    finished: self.has_finished(at),
                    knows_end: peer.knows_end,
                })
                .collect(),
        }
    }
}

impl Core {
    fn at(&self, peer: PeerId) -> Option<usize> {
        self.peers.iter().position(|state| state.id == peer)
    }

    fn news(&mut self, news: News) {
        if self.actions.len() < MAX_NEWS || matches!(news, News::Ended(_)) {
            self.actions.push_back(Action::News(news));
        }
    }

    fn agree(&mut self, version: CharonVersion) {
        if self.version.is_none() {
            self.version = Some(version);
            self.dirty = true;
            self.news(News::Agreed(version));
        }
    }

    /// The version follows from what the Charons are; without any it is the newest. A peer that
    /// another one contradicts ends the ceremony before anything is said.
    fn decide(&mut self) {
        if self.rules.version.is_some() {
            return;
        }
        for at in 0..self.peers.len() {
            let Some(who) = &self.peers[at].who else {
                continue;
            };
            let (theirs, text) = match &who.kind {
                Kind::Pluto => continue,
                Kind::Charon(version) => (Some(*version), version.to_string()),
                Kind::Stranger(text) => (None, text.clone()),
            };
            match (self.version, theirs) {
                (None, Some(version)) => self.agree(version),
                (Some(ours), Some(theirs)) if ours == theirs => {}
                (ours, _) => {
                    let peer = self.peers[at].id;
                    self.end(Reason::Version {
                        peer,
                        ours: ours.unwrap_or(CharonVersion::NEWEST),
                        theirs: text,
                    });
                }
            }
        }
        if self.peers.iter().all(|peer| peer.who.is_some()) {
            self.agree(CharonVersion::NEWEST);
        }
    }

    fn broadcast(&self) -> Option<Generation> {
        let lists = |generation| {
            let mut peers = self.peers.iter();
            peers.all(|peer| {
                let who = peer.who.as_ref();
                who.is_some_and(|who| who.broadcasts.contains(&generation))
            })
        };
        [Generation::V2, Generation::V1]
            .into_iter()
            .find(|generation| lists(*generation))
    }

    fn try_claim_all(&mut self) {
        for at in 0..self.peers.len() {
            self.try_claim(at);
        }
    }

    fn try_claim(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if self.version.is_none() || peer.claim != Claim::Free || peer.connections.is_empty() {
            return;
        }
        peer.claim = Claim::Asked;
        let (peer, avoid) = (peer.id, peer.avoid);
        self.actions.push_back(Action::Claim { peer, avoid });
    }

    /// Version, then signature, as Charon does.
    fn check(&mut self, at: usize, message: &Heard<'_>) -> Result<(), Reason> {
        let peer = self.peers[at].id;
        let Some(theirs) = Minor::parse(message.version) else {
            return Err(Reason::BadVersion { peer });
        };
        let ours = match (self.version, theirs.known()) {
            (Some(ours), _) => ours,
            // Who speaks first tells as much as identify does. But only one who has signed.
            (None, Some(version)) if message.signature.is_ok() => {
                self.agree(version);
                self.try_claim_all();
                version
            }
            (None, version) => version.unwrap_or(CharonVersion::NEWEST),
        };
        if !theirs.is(ours) {
            return Err(Reason::Version {
                peer,
                ours,
                theirs: tame(message.version, MAX_TEXT),
            });
        }
        message
            .signature
            .map_err(|fault| Reason::Definition { peer, fault })
    }

    fn advance(&mut self, at: usize, reported: i64) -> Result<(), Reason> {
        let (peer, step) = (self.peers[at].id, self.step);
        match self.peers[at].step {
            None if !(0..=1).contains(&reported) => {
                return Err(Reason::Late {
                    peer,
                    step,
                    reported,
                });
            }
            Some(known) if reported < known => {
                return Err(Reason::Restarted {
                    peer,
                    step,
                    known,
                    reported,
                });
            }
            Some(known) if reported - known > MAX_JUMP => {
                return Err(Reason::Jumped {
                    peer,
                    step,
                    known,
                    reported,
                });
            }
            _ => {}
        }
        if self.is_too_far(reported) {
            return Err(Reason::TooFarAhead {
                peer,
                step,
                reported,
            });
        }
        if self.peers[at].step != Some(reported) {
            self.peers[at].step = Some(reported);
            self.dirty = true;
            self.news(News::Step {
                peer,
                step: reported,
            });
        }
        Ok(())
    }

    /// Whoever is at a step has passed the barrier before, for which it needed us.
    fn is_too_far(&self, reported: i64) -> bool {
        self.step > Step(0) && reported >= i64::from(self.step.0) + 2
    }

    fn hear(&mut self, at: usize, now: Instant) {
        let peer = &mut self.peers[at];
        peer.heard = Some(peer.heard.map_or(now, |heard| heard.max(now)));
        let healed = peer.missing.take();
        let id = peer.id;
        if let Some(since) = healed {
            self.dirty = true;
            self.news(News::Healed {
                peer: id,
                after: now - since,
            });
        }
        let peer = &mut self.peers[at];
        if !peer.was_connected && peer.speaks && peer.answers() {
            peer.was_connected = true;
            self.news(News::Connected { peer: id });
        }
    }

    fn show_missing(&mut self, at: usize, now: Instant) {
        if self.has_finished(at) || self.peers[at].heard.is_none() {
            return;
        }
        let peer = &mut self.peers[at];
        if peer.missing.is_none() {
            peer.missing = Some(peer.heard.unwrap_or(now));
            let news = News::Missing {
                peer: peer.id,
                connected: !peer.connections.is_empty(),
            };
            self.dirty = true;
            self.news(news);
        }
    }

    /// Whether it may go without being missed: it is done and knows that we are, or has gone since it
    /// said so.
    fn has_finished(&self, at: usize) -> bool {
        let peer = &self.peers[at];
        self.has_said_goodbye(at) && (peer.knows_shutdown || peer.gone)
    }

    fn has_said_goodbye(&self, at: usize) -> bool {
        self.shutdown && self.peers[at].shutdown
    }

    /// Somebody is lost. Whoever has said that it is done did not wait for us or did not hear us; either
    /// way all is well.
    fn miss(&mut self, at: usize, reason: Reason) {
        if self.has_said_goodbye(at) {
            self.peers[at].gone = true;
            self.dirty = true;
        } else {
            self.end(reason);
        }
    }

    fn is_watched(&self, at: usize) -> bool {
        self.ended.is_none() && !self.has_finished(at)
    }

    fn is_quiet_at(&self, at: usize) -> Option<Instant> {
        let peer = &self.peers[at];
        let heard = peer.heard.filter(|_| peer.missing.is_none())?;
        self.is_watched(at).then_some(heard + QUIET)
    }

    fn lost_at(&self, at: usize) -> Option<Instant> {
        let peer = &self.peers[at];
        let (armed, lost) = (self.armed?, peer.lost?);
        let refused_from = match (&peer.refused, &peer.absent) {
            (Some(_), _) => Some(lost),
            (None, absent) => absent.as_ref().map(|(_, since)| lost.max(*since)),
        };
        if !self.is_watched(at) || peer.heard.is_none() {
            return None;
        }
        match (refused_from, self.has_said_goodbye(at)) {
            // Nobody is there, as was to be expected.
            (Some(_), true) => Some(lost),
            (Some(from), false) => Some(from.max(armed) + self.rules.peer_grace),
            (None, true) => Some(lost.max(armed) + self.rules.peer_grace),
            // A dial may be under way into a network that heals.
            (None, false) => None,
        }
    }

    fn silent_at(&self, at: usize) -> Option<Instant> {
        let (armed, heard) = (self.armed?, self.peers[at].heard?);
        self.is_watched(at)
            .then(|| heard.max(armed) + self.rules.silence)
    }
}

#[cfg(test)]
mod tests;
