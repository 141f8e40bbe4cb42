//! The life of our reservation on one configured relay. A pure core: events and a time go in,
//! actions come out.
//!
//! ```text
//!                     relay known            connection            listener open
//!   Resolving ──────────────────▶ Dialling ─────────────▶ Connected ──────────────▶ Reserving
//!                                    ▲                                               │   │
//!                                    │ (Lost, if there was a reservation)    refused │   │ granted
//!                                    └──────────── connection lost ◀───── Waiting ◀──┘   ▼
//!                                                        ▲                  ▲        Reserved
//!                                                        └──────────────────┴────────────┘
//!                                                             lost, expired, listener closed
//! ```
//!
//! - **Renewal:** at three quarters of the term, at the latest after [`MAX_RENEW`]. A renewal that
//!   fails is repeated with the same back-off while the reservation still holds.
//! - **Back-off:** [`BACKOFF_MIN`], doubling to [`BACKOFF_MAX`], with jitter; only a grant ends it.
//!   A lost connection is not waited for: the next one is used at once.
//! - **No dead end:** each state without a deadline of its own waits for an event that must come:
//!   the relay's resolution, the connection that the dialler tries for ever, the listener.
//! - **Identity:** a relay that becomes another one is a new life: the old listener is closed.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use libp2p::{PeerId, core::transport::ListenerId, swarm::ConnectionId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    handler::RESERVE_TIMEOUT,
    hop,
    wire::{Limit, Refusal},
};

/// First wait after a failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait after a failure: with the round trip a relay that is back is used within 5 s.
pub const BACKOFF_MAX: Duration = Duration::from_secs(4);
/// A renewal follows at the latest after this, however long the reservation is said to hold. Half of
/// the hour that relays of Charon and libp2p grant, so that clocks may differ by as much.
pub const MAX_RENEW: Duration = Duration::from_secs(30 * 60);
/// A renewal does not follow sooner, however short the reservation is.
pub const MIN_RENEW: Duration = Duration::from_secs(1);
/// The longest term that is believed.
pub const MAX_TERM: Duration = Duration::from_secs(24 * 60 * 60);
/// The term that is taken for granted when the relay says that it has just granted something that
/// is over: our clocks disagree. Renewed every three minutes, which the rate limits of relays bear
/// (libp2p's: thirty at once, then one in two minutes, per peer).
pub const ASSUMED_TERM: Duration = Duration::from_secs(4 * 60);
/// When an attempt counts as failed although nothing was heard of it: its command met a connection
/// that had just closed. Later than the handler's own time-outs.
const ATTEMPT: Duration = Duration::from_secs(RESERVE_TIMEOUT.as_secs() + 15);

const _: () = assert!(MIN_RENEW.as_millis() < MAX_RENEW.as_millis());

/// How long a reservation holds from now on, by our clock. Both are times since 1970.
pub fn term(expires_unix_secs: u64, now: Duration) -> Duration {
    match Duration::from_secs(expires_unix_secs).checked_sub(now) {
        Some(term) if !term.is_zero() => term.min(MAX_TERM),
        _ => ASSUMED_TERM,
    }
}

fn renew_after(term: Duration) -> Duration {
    (term * 3 / 4).clamp(MIN_RENEW, MAX_RENEW)
}

/// Why there is no reservation, or will not be for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// The relay says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It does not speak HOP.
    #[error("it is no relay, or does not know its public address")]
    Unsupported,
    /// It does not answer.
    #[error("it did not answer in time")]
    TimedOut,
    /// The stream broke.
    #[error("the stream broke")]
    Broken,
    /// The answer is none.
    #[error("it broke the protocol")]
    Malformed,
    /// The listener on it was closed.
    #[error("the listener on it was closed")]
    ListenerClosed,
}

impl From<&hop::Error> for Trouble {
    fn from(error: &hop::Error) -> Self {
        use crate::proto;
        match error {
            hop::Error::Refused(refusal) => Self::Refused(*refusal),
            hop::Error::Unsupported => Self::Unsupported,
            hop::Error::TimedOut { .. } => Self::TimedOut,
            hop::Error::Frame(
                proto::Error::Io(_)
                | proto::Error::Empty
                | proto::Error::Truncated { .. }
                | proto::Error::TruncatedLength,
            ) => Self::Broken,
            hop::Error::Frame(_) | hop::Error::Malformed(_) => Self::Malformed,
        }
    }
}

/// How it stands with the reservation on one relay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReservationState {
    /// It is not known yet who the relay is.
    #[default]
    Resolving,
    /// There is no connection to it yet.
    Dialling,
    /// There is one, and nothing was asked yet.
    Connected,
    /// The relay has been asked.
    Reserving,
    /// We can be reached through it.
    Reserved {
        /// Until when, unless it is renewed.
        until: Instant,
        /// What the relay allows each circuit.
        limit: Option<Limit>,
        /// Why the last attempt to renew it failed.
        trouble: Option<Trouble>,
    },
    /// There was one, and there is no connection to the relay.
    Lost {
        /// When it ended.
        since: Instant,
    },
    /// The next attempt is at `until`.
    Waiting {
        /// When.
        until: Instant,
        /// Failures since the last grant.
        attempts: u32,
        /// Why the last one failed.
        trouble: Option<Trouble>,
    },
}

impl ReservationState {
    /// Whether we can be reached through the relay.
    pub fn is_reserved(&self) -> bool {
        matches!(self, Self::Reserved { .. })
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Listen on a circuit of the relay; say at once which listener that is.
    Listen(PeerId),
    /// Close the listener.
    Unlisten(ListenerId),
    /// A connection to the relay is needed.
    Want(PeerId),
    /// Ask the relay on this connection.
    Reserve {
        /// The relay.
        relay: PeerId,
        /// The connection.
        connection: ConnectionId,
        /// Comes back with the outcome.
        attempt: u64,
    },
    /// Something that others want to know has happened.
    Tell(PeerId, Notice),
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The relay has granted it.
    Reserved {
        /// Whether it was held before.
        renewal: bool,
        /// For how long.
        term: Duration,
    },
    /// An attempt failed.
    Failed {
        /// Why.
        trouble: Trouble,
        /// Whether the reservation still holds.
        held: bool,
    },
    /// The connection that it was granted on, or its listener, is gone, and it with that.
    Lost,
    /// It was not renewed in time.
    Expired,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct MutableRelayReservation {
    relay: Option<PeerId>,
    listener: Listener,
    /// The connection that the relay is to be asked on.
    connection: Option<ConnectionId>,
    phase: Phase,
    /// The last attempt's number; outcomes of older ones are void.
    attempt: u64,
    /// Until then nothing is asked.
    not_before: Option<Instant>,
    failures: u32,
    trouble: Option<Trouble>,
    /// When a reservation was lost, until there is another one.
    lost: Option<Instant>,
    jitter: SmallRng,
    /// A few per event, taken after each.
    actions: VecDeque<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    Closed,
    Opening(ListenerId),
    Open(ListenerId),
}

impl Listener {
    fn id(self) -> Option<ListenerId> {
        match self {
            Self::Closed => None,
            Self::Opening(id) | Self::Open(id) => Some(id),
        }
    }
}

/// An attempt under way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    connection: ConnectionId,
    by: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Nothing is held and nothing asked; why is to be seen from what is missing.
    Idle,
    Reserving(Asked),
    Reserved {
        connection: ConnectionId,
        until: Instant,
        limit: Option<Limit>,
        renewal: Renewal,
    },
}

#[derive(Debug, Clone, Copy)]
enum Renewal {
    At(Instant),
    Asked(Asked),
}

impl MutableRelayReservation {
    /// The reservation on a relay that is not known yet. The seed is for the jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            relay: None,
            listener: Listener::Closed,
            connection: None,
            phase: Phase::Idle,
            attempt: 0,
            not_before: None,
            failures: 0,
            trouble: None,
            lost: None,
            jitter: SmallRng::seed_from_u64(seed),
            actions: VecDeque::new(),
        }
    }

    /// The reservation for a listener that somebody else has opened on a relay.
    pub fn of_listener(relay: PeerId, listener: ListenerId, seed: u64) -> Self {
        Self {
            relay: Some(relay),
            listener: Listener::Open(listener),
            ..Self::new(seed)
        }
    }

    /// The relay, if it is known.
    pub fn relay(&self) -> Option<PeerId> {
        self.relay
    }

    /// The listener, while there is one.
    pub fn listener(&self) -> Option<ListenerId> {
        self.listener.id()
    }

    /// The connection that the reservation was granted on.
    pub fn held_on(&self) -> Option<ConnectionId> {
        match self.phase {
            Phase::Reserved { connection, .. } => Some(connection),
            _ => None,
        }
    }

    /// The connection that the relay is to be asked on.
    pub fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    /// Whether the relay may bring circuits: it has granted a reservation, or is being asked.
    pub fn accepts(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// How it stands.
    pub fn state(&self) -> ReservationState {
        match self.phase {
            Phase::Reserving(_) => ReservationState::Reserving,
            Phase::Reserved { until, limit, .. } => ReservationState::Reserved {
                until,
                limit,
                trouble: self.trouble,
            },
            Phase::Idle => match (self.relay, self.connection, self.not_before, self.lost) {
                (None, ..) => ReservationState::Resolving,
                (Some(_), None, _, Some(since)) => ReservationState::Lost { since },
                (Some(_), None, _, None) => ReservationState::Dialling,
                (Some(_), Some(_), Some(until), _) => ReservationState::Waiting {
                    until,
                    attempts: self.failures,
                    trouble: self.trouble,
                },
                (Some(_), Some(_), None, _) => ReservationState::Connected,
            },
        }
    }

    /// The relay is this peer, or is not known.
    pub fn handle_relay(&mut self, relay: Option<PeerId>, now: Instant) {
        if self.relay == relay {
            return;
        }
        if let Some(listener) = self.listener.id() {
            self.actions.push_back(Action::Unlisten(listener));
        }
        if self.held_on().is_some() {
            self.lose(Notice::Lost, now);
        }
        *self = Self {
            relay,
            listener: Listener::Closed,
            connection: None,
            phase: Phase::Idle,
            attempt: self.attempt,
            not_before: None,
            failures: 0,
            trouble: None,
            lost: None,
            jitter: self.jitter.clone(),
            actions: std::mem::take(&mut self.actions),
        };
        if let Some(relay) = relay {
            self.actions.push_back(Action::Want(relay));
        }
        self.settle(now);
    }

    /// The listener that was asked for is being opened.
    pub fn handle_listening(&mut self, listener: ListenerId) {
        if self.listener == Listener::Closed {
            self.listener = Listener::Opening(listener);
        }
    }

    /// The listener is open.
    pub fn handle_listener_open(&mut self, listener: ListenerId, now: Instant) {
        if self.listener == Listener::Opening(listener) {
            self.listener = Listener::Open(listener);
            self.settle(now);
        }
    }

    /// The listener is closed, or could not be opened. Without it nobody takes circuits.
    pub fn handle_listener_closed(&mut self, listener: ListenerId, now: Instant) {
        if self.listener.id() != Some(listener) {
            return;
        }
        self.listener = Listener::Closed;
        let held = self.held_on().is_some();
        self.phase = Phase::Idle;
        if held {
            self.lose(Notice::Lost, now);
        }
        self.fail(Trouble::ListenerClosed, now);
        self.settle(now);
    }

    /// The best connection to the relay is this one now, or there is none.
    pub fn handle_connection(&mut self, best: Option<ConnectionId>, now: Instant) {
        let Some(relay) = self.relay else {
            return;
        };
        let had = self.connection.is_some();
        self.connection = best;
        if best.is_none() {
            // Whatever was asked or granted was on one that is no more.
            let held = self.held_on().is_some();
            self.phase = Phase::Idle;
            if held {
                self.lose(Notice::Lost, now);
            }
            if had {
                self.actions.push_back(Action::Want(relay));
            }
        }
        self.settle(now);
    }

    /// A connection to the relay is closed; the best one that is left comes with it.
    pub fn handle_closed(
        &mut self,
        closed: ConnectionId,
        best: Option<ConnectionId>,
        now: Instant,
    ) {
        match &mut self.phase {
            Phase::Reserving(asked) if asked.connection == closed => self.phase = Phase::Idle,
            // A relay of libp2p ties it to the connection, one of go-libp2p to the peer. Asking
            // again is right for both.
            Phase::Reserved { connection, .. } if *connection == closed => {
                self.phase = Phase::Idle;
                self.lose(Notice::Lost, now);
            }
            Phase::Reserved { renewal, .. } => {
                if let Renewal::Asked(asked) = *renewal
                    && asked.connection == closed
                {
                    *renewal = Renewal::At(now);
                }
            }
            Phase::Idle | Phase::Reserving(_) => {}
        }
        self.handle_connection(best, now);
    }

    /// The connection that it was granted on is being drained: it moves to the best one.
    pub fn handle_draining(&mut self, now: Instant) {
        if let Phase::Reserved {
            connection,
            renewal: Renewal::At(at),
            ..
        } = &mut self.phase
            && self.connection.is_some_and(|best| best != *connection)
            && self.not_before.is_none_or(|not_before| not_before <= now)
        {
            *at = now.min(*at);
            self.handle_timeout(now);
        }
    }

    /// The relay has granted it.
    pub fn handle_granted(
        &mut self,
        attempt: u64,
        term: Duration,
        limit: Option<Limit>,
        now: Instant,
    ) {
        let Some(asked) = self.asked(attempt) else {
            return;
        };
        let renewal = self.held_on().is_some();
        self.phase = Phase::Reserved {
            connection: asked.connection,
            until: now + term,
            limit,
            renewal: Renewal::At(now + renew_after(term)),
        };
        self.not_before = None;
        self.failures = 0;
        self.trouble = None;
        self.lost = None;
        self.tell(Notice::Reserved { renewal, term });
    }

    /// The attempt came to nothing.
    pub fn handle_failed(&mut self, attempt: u64, trouble: Trouble, now: Instant) {
        if self.asked(attempt).is_some() {
            self.on_failed(trouble, now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.not_before.is_some_and(|not_before| not_before <= now) {
            self.not_before = None;
        }
        match self.phase {
            Phase::Reserving(asked) if asked.by <= now => self.on_failed(Trouble::TimedOut, now),
            Phase::Reserved { until, renewal, .. } if until <= now => {
                self.phase = match renewal {
                    // What it ends with is still good.
                    Renewal::Asked(asked) if asked.by > now => Phase::Reserving(asked),
                    _ => Phase::Idle,
                };
                self.lose(Notice::Expired, now);
            }
            Phase::Reserved {
                renewal: Renewal::Asked(asked),
                ..
            } if asked.by <= now => self.on_failed(Trouble::TimedOut, now),
            Phase::Reserved {
                renewal: Renewal::At(at),
                ..
            } if at <= now => {
                if let Some(asked) = self.ask(now)
                    && let Phase::Reserved { renewal, .. } = &mut self.phase
                {
                    *renewal = Renewal::Asked(asked);
                }
            }
            Phase::Idle | Phase::Reserving(_) | Phase::Reserved { .. } => {}
        }
        self.settle(now);
    }

    /// When to say that time has passed, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle => self.not_before,
            Phase::Reserving(asked) => Some(asked.by),
            Phase::Reserved { until, renewal, .. } => Some(match renewal {
                Renewal::At(at) => until.min(at),
                Renewal::Asked(asked) => until.min(asked.by),
            }),
        }
    }

    /// What is to be done next. To be asked after each event until it is nothing.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The attempt under way, if it has this number.
    fn asked(&self, attempt: u64) -> Option<Asked> {
        match self.phase {
            Phase::Reserving(asked)
            | Phase::Reserved {
                renewal: Renewal::Asked(asked),
                ..
            } if attempt == self.attempt => Some(asked),
            _ => None,
        }
    }

    /// Goes on from wherever nothing is held: listens, and asks.
    fn settle(&mut self, now: Instant) {
        let Some(relay) = self.relay else {
            return;
        };
        if !matches!(self.phase, Phase::Idle)
            || self.not_before.is_some_and(|not_before| not_before > now)
        {
            return;
        }
        self.not_before = None;
        match self.listener {
            Listener::Closed if !self.actions.contains(&Action::Listen(relay)) => {
                self.actions.push_back(Action::Listen(relay));
            }
            Listener::Closed | Listener::Opening(_) => {}
            Listener::Open(_) => {
                if let Some(asked) = self.ask(now) {
                    self.phase = Phase::Reserving(asked);
                }
            }
        }
    }

    fn ask(&mut self, now: Instant) -> Option<Asked> {
        let (relay, connection) = (self.relay?, self.connection?);
        self.attempt += 1;
        self.actions.push_back(Action::Reserve {
            relay,
            connection,
            attempt: self.attempt,
        });
        Some(Asked {
            connection,
            by: now + ATTEMPT,
        })
    }

    fn on_failed(&mut self, trouble: Trouble, now: Instant) {
        self.fail(trouble, now);
        match (&mut self.phase, self.not_before) {
            (Phase::Reserved { renewal, .. }, Some(not_before)) => {
                *renewal = Renewal::At(not_before);
            }
            (phase, _) => *phase = Phase::Idle,
        }
    }

    /// Notes a failure and when to go on.
    fn fail(&mut self, trouble: Trouble, now: Instant) {
        let held = self.held_on().is_some();
        self.trouble = Some(trouble);
        // Down only, so that the longest wait is the bound.
        let spread: u32 = self.jitter.random_range(60..=100);
        let backoff = BACKOFF_MIN * 2u32.pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + backoff.min(BACKOFF_MAX) * spread / 100);
        self.tell(Notice::Failed { trouble, held });
    }

    fn lose(&mut self, notice: Notice, now: Instant) {
        self.lost = Some(now);
        self.tell(notice);
    }

    fn tell(&mut self, notice: Notice) {
        if let Some(relay) = self.relay {
            self.actions.push_back(Action::Tell(relay, notice));
        }
    }
}
