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
use crate::p2p_context::ReservationState;

/// First wait after a failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait after a failure. With the jitter and a round trip, a relay that is back is used
/// within 5 s.
pub const BACKOFF_MAX: Duration = Duration::from_secs(3);
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

/// Why a relay gave no reservation, or did not renew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
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

impl From<&hop::Error> for ReserveError {
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
        trouble: ReserveError,
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
    trouble: Option<ReserveError>,
    /// Whether one was lost since the last grant.
    lost: bool,
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
        since: Instant,
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
            lost: false,
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
            Phase::Reserved {
                since,
                until,
                limit,
                ..
            } => ReservationState::Reserved {
                since,
                until,
                limit,
                trouble: self.trouble,
            },
            Phase::Idle => match (self.relay, self.connection, self.waits()) {
                (None, ..) => ReservationState::Resolving,
                (Some(_), None, _) if self.lost => ReservationState::Lost,
                (Some(_), None, _) => ReservationState::Dialing,
                (Some(_), Some(_), Some((until, cause))) => ReservationState::Waiting {
                    until,
                    attempts: self.failures,
                    cause,
                },
                (Some(_), Some(_), None) => ReservationState::Connected,
            },
        }
    }

    /// Until when nothing is asked, and why.
    fn waits(&self) -> Option<(Instant, ReserveError)> {
        self.not_before.zip(self.trouble)
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
            self.lose(Notice::Lost);
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
            lost: false,
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
            self.lose(Notice::Lost);
        }
        self.fail(ReserveError::ListenerClosed, now);
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
                self.lose(Notice::Lost);
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
                self.lose(Notice::Lost);
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
        let (renewal, since) = match self.phase {
            Phase::Reserved { since, .. } => (true, since),
            _ => (false, now),
        };
        self.phase = Phase::Reserved {
            connection: asked.connection,
            since,
            until: now + term,
            limit,
            renewal: Renewal::At(now + renew_after(term)),
        };
        self.not_before = None;
        self.failures = 0;
        self.trouble = None;
        self.lost = false;
        self.tell(Notice::Reserved { renewal, term });
    }

    /// The attempt came to nothing.
    pub fn handle_failed(&mut self, attempt: u64, trouble: ReserveError, now: Instant) {
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
            Phase::Reserving(asked) if asked.by <= now => {
                self.on_failed(ReserveError::TimedOut, now)
            }
            Phase::Reserved { until, renewal, .. } if until <= now => {
                self.phase = match renewal {
                    // What it ends with is still good.
                    Renewal::Asked(asked) if asked.by > now => Phase::Reserving(asked),
                    _ => Phase::Idle,
                };
                self.lose(Notice::Expired);
            }
            Phase::Reserved {
                renewal: Renewal::Asked(asked),
                ..
            } if asked.by <= now => self.on_failed(ReserveError::TimedOut, now),
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

    fn on_failed(&mut self, trouble: ReserveError, now: Instant) {
        self.fail(trouble, now);
        match (&mut self.phase, self.not_before) {
            (Phase::Reserved { renewal, .. }, Some(not_before)) => {
                *renewal = Renewal::At(not_before);
            }
            (phase, _) => *phase = Phase::Idle,
        }
    }

    /// Notes a failure and when to go on.
    fn fail(&mut self, trouble: ReserveError, now: Instant) {
        let held = self.held_on().is_some();
        self.trouble = Some(trouble);
        // Down only, so that the longest wait is the bound.
        let spread: u32 = self.jitter.random_range(60..=100);
        let backoff = BACKOFF_MIN * 2u32.pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + backoff.min(BACKOFF_MAX) * spread / 100);
        self.tell(Notice::Failed { trouble, held });
    }

    fn lose(&mut self, notice: Notice) {
        self.lost = true;
        self.tell(notice);
    }

    fn tell(&mut self, notice: Notice) {
        if let Some(relay) = self.relay {
            self.actions.push_back(Action::Tell(relay, notice));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NANO: Duration = Duration::from_nanos(1);

    #[test]
    fn it_is_asked_for_once_there_is_a_connection_and_a_listener() {
        let (t0, relay) = (Instant::now(), PeerId::random());
        let mut life = MutableRelayReservation::new(1);
        assert_eq!(life.state(), ReservationState::Resolving);

        life.handle_relay(Some(relay), t0);
        assert_eq!(life.state(), ReservationState::Dialing);
        assert_eq!(
            actions(&mut life),
            [Action::Want(relay), Action::Listen(relay)]
        );
        let listener = ListenerId::next();
        life.handle_listening(listener);

        life.handle_connection(Some(conn(1)), t0);
        assert_eq!(life.state(), ReservationState::Connected);
        assert_eq!(actions(&mut life), []);

        life.handle_listener_open(listener, t0);
        assert_eq!(life.state(), ReservationState::Reserving);
        let asked = Action::Reserve {
            relay,
            connection: conn(1),
            attempt: 1,
        };
        assert_eq!(actions(&mut life), [asked]);
    }

    #[test]
    fn it_is_renewed_at_three_quarters_and_after_half_an_hour_at_the_latest() {
        for (term, after) in [
            (Duration::from_secs(4), Duration::from_secs(3)),
            (Duration::from_millis(1), MIN_RENEW),
            (Duration::from_secs(40 * 60), MAX_RENEW),
            (HOUR, MAX_RENEW),
            (MAX_TERM, MAX_RENEW),
        ] {
            assert_eq!(renew_after(term), after, "{term:?}");
        }
        let t0 = Instant::now();
        let (mut life, _) = reserved(HOUR, t0);

        life.handle_timeout(t0 + MAX_RENEW - NANO);
        assert_eq!(actions(&mut life), []);
        assert_eq!(life.next_deadline(), Some(t0 + MAX_RENEW));
        life.handle_timeout(t0 + MAX_RENEW);
        assert!(matches!(
            actions(&mut life)[..],
            [Action::Reserve { attempt: 2, .. }]
        ));
        life.handle_granted(2, HOUR, None, t0 + MAX_RENEW);
        let told = actions(&mut life);
        assert!(
            matches!(
                told[..],
                [Action::Tell(
                    _,
                    Notice::Reserved {
                        renewal: true,
                        term: HOUR
                    }
                )]
            ),
            "{told:?}"
        );
        assert!(matches!(
            life.state(),
            ReservationState::Reserved { until, .. } if until == t0 + MAX_RENEW + HOUR
        ));
    }

    #[test]
    fn a_refused_renewal_is_repeated_while_the_reservation_holds() {
        let t0 = Instant::now();
        let (mut life, _) = reserved(Duration::from_secs(40), t0);
        let full = ReserveError::Refused(Refusal::ResourceLimitExceeded);
        let mut now = t0 + Duration::from_secs(30);
        let (mut asked, mut expired) = (0, false);
        while now < t0 + Duration::from_secs(60) {
            life.handle_timeout(now);
            for action in actions(&mut life) {
                match action {
                    Action::Reserve { attempt, .. } => {
                        asked += 1;
                        life.handle_failed(attempt, full, now);
                        let held = now < t0 + Duration::from_secs(40);
                        assert_eq!(life.held_on().is_some(), held);
                    }
                    Action::Tell(_, Notice::Failed { trouble, held }) => {
                        assert_eq!((trouble, held), (full, !expired));
                    }
                    Action::Tell(_, Notice::Expired) => {
                        assert_eq!(
                            now,
                            t0 + Duration::from_secs(40),
                            "at the moment, not later"
                        );
                        expired = true;
                    }
                    action => panic!("{action:?}"),
                }
            }
            now = life.next_deadline().unwrap();
        }
        assert!(expired && asked >= 10, "{asked}");
        assert!(matches!(
            life.state(),
            ReservationState::Waiting { cause, .. } if cause == full
        ));
    }

    #[test]
    fn a_reservation_lost_with_its_connection_is_asked_for_on_the_next_at_once() {
        let t0 = Instant::now();
        let (mut life, relay) = reserved(HOUR, t0);
        let t1 = t0 + HOUR / 4;

        life.handle_closed(conn(1), None, t1);
        assert_eq!(life.state(), ReservationState::Lost);
        assert_eq!(
            actions(&mut life),
            [Action::Tell(relay, Notice::Lost), Action::Want(relay)]
        );
        assert!(!life.accepts());

        life.handle_connection(Some(conn(2)), t1 + HOUR / 4);
        assert!(
            matches!(actions(&mut life)[..], [Action::Reserve { connection, .. }] if connection == conn(2))
        );
    }

    #[test]
    fn one_that_is_lost_while_another_connection_is_open_moves_to_it() {
        let t0 = Instant::now();
        let (mut life, relay) = reserved(HOUR, t0);
        life.handle_connection(Some(conn(2)), t0);
        assert_eq!(actions(&mut life), [], "it holds where it is");
        // A foreign one.
        life.handle_closed(conn(3), Some(conn(2)), t0);
        assert_eq!(actions(&mut life), []);

        life.handle_closed(conn(1), Some(conn(2)), t0);
        let asked = Action::Reserve {
            relay,
            connection: conn(2),
            attempt: 2,
        };
        assert_eq!(
            actions(&mut life),
            [Action::Tell(relay, Notice::Lost), asked]
        );
    }

    #[test]
    fn one_whose_connection_is_drained_moves_before_it_is_lost() {
        let t0 = Instant::now();
        let (mut life, relay) = reserved(HOUR, t0);
        life.handle_draining(t0);
        assert_eq!(actions(&mut life), [], "there is no other connection");

        life.handle_connection(Some(conn(2)), t0);
        life.handle_draining(t0);
        life.handle_draining(t0);
        let asked = Action::Reserve {
            relay,
            connection: conn(2),
            attempt: 2,
        };
        assert_eq!(actions(&mut life), [asked], "once");
        life.handle_granted(2, HOUR, None, t0);
        actions(&mut life);
        life.handle_draining(t0);
        life.handle_closed(conn(1), Some(conn(2)), t0);
        assert_eq!(actions(&mut life), [], "nothing was lost");
        assert_eq!(life.held_on(), Some(conn(2)));
    }

    #[test]
    fn failures_wait_longer_up_to_four_seconds_and_a_grant_forgets_them() {
        let mut now = Instant::now();
        let (mut life, _) = reserving(now);
        let mut waits = Vec::new();
        for attempt in 1..=12 {
            life.handle_failed(attempt, ReserveError::TimedOut, now);
            assert!(matches!(
                life.state(),
                ReservationState::Waiting { attempts, .. } if u64::from(attempts) == attempt
            ));
            let next = life.next_deadline().unwrap();
            waits.push(next - now);
            now = next;
            life.handle_timeout(now);
        }
        assert!(waits[0] <= BACKOFF_MIN && waits[0] >= BACKOFF_MIN * 3 / 5);
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX), "{waits:?}");
        assert!(waits[11] >= BACKOFF_MAX * 3 / 5);

        life.handle_granted(13, HOUR, None, now);
        life.handle_closed(conn(1), Some(conn(2)), now);
        life.handle_failed(14, ReserveError::Broken, now);
        assert!(life.next_deadline().unwrap() - now <= BACKOFF_MIN);
    }

    #[test]
    fn a_new_connection_does_not_shorten_the_wait_after_a_refusal() {
        let t0 = Instant::now();
        let (mut life, _) = reserving(t0);
        life.handle_failed(1, ReserveError::Refused(Refusal::PermissionDenied), t0);
        let until = life.next_deadline().unwrap();

        life.handle_closed(conn(1), None, t0);
        life.handle_connection(Some(conn(2)), t0);
        assert!(
            !actions(&mut life)
                .iter()
                .any(|action| matches!(action, Action::Reserve { .. })),
            "or a relay that closes after each refusal is asked without a pause"
        );
        life.handle_timeout(until);
        assert_eq!(life.state(), ReservationState::Reserving);
    }

    #[test]
    fn a_relay_that_becomes_another_gets_another_listener() {
        let t0 = Instant::now();
        let (mut life, old) = reserved(HOUR, t0);
        let new = PeerId::random();
        let listener = life.listener().unwrap();

        life.handle_relay(Some(old), t0);
        assert_eq!(actions(&mut life), [], "the same one");
        life.handle_relay(Some(new), t0);
        assert_eq!(
            actions(&mut life),
            [
                Action::Unlisten(listener),
                Action::Tell(old, Notice::Lost),
                Action::Want(new),
                Action::Listen(new)
            ]
        );
        assert_eq!(life.state(), ReservationState::Dialing);
        // The old one's end is nothing to the new one.
        life.handle_listening(ListenerId::next());
        life.handle_listener_closed(listener, t0);
        life.handle_granted(1, HOUR, None, t0);
        assert_eq!(actions(&mut life), []);
        assert_eq!(life.state(), ReservationState::Dialing);

        life.handle_relay(None, t0);
        assert!(matches!(actions(&mut life)[..], [Action::Unlisten(_)]));
        assert_eq!(life.state(), ReservationState::Resolving);
    }

    #[test]
    fn a_closed_listener_is_opened_again_after_a_while() {
        let t0 = Instant::now();
        let (mut life, relay) = reserved(HOUR, t0);
        let listener = life.listener().unwrap();

        life.handle_listener_closed(listener, t0);
        let trouble = ReserveError::ListenerClosed;
        let failed = Notice::Failed {
            trouble,
            held: false,
        };
        assert_eq!(
            actions(&mut life),
            [
                Action::Tell(relay, Notice::Lost),
                Action::Tell(relay, failed)
            ]
        );
        let until = life.next_deadline().unwrap();
        life.handle_timeout(until);
        assert_eq!(actions(&mut life), [Action::Listen(relay)]);
        let again = ListenerId::next();
        life.handle_listening(again);
        life.handle_listener_open(again, until);
        assert_eq!(life.state(), ReservationState::Reserving);
    }

    #[test]
    fn an_attempt_of_which_nothing_is_heard_is_a_failed_one() {
        let t0 = Instant::now();
        let (mut life, _) = reserving(t0);
        let by = life.next_deadline().unwrap();
        assert!(by > t0 + RESERVE_TIMEOUT);
        life.handle_timeout(by - NANO);
        assert_eq!(life.state(), ReservationState::Reserving);
        life.handle_timeout(by);
        assert!(matches!(
            life.state(),
            ReservationState::Waiting {
                cause: ReserveError::TimedOut,
                ..
            }
        ));
        life.handle_granted(1, HOUR, None, by);
        assert!(life.held_on().is_none(), "it was given up");
    }

    #[test]
    fn a_term_that_cannot_be_is_taken_for_a_wrong_clock() {
        let now = Duration::from_millis(1_700_000_000_500);
        for (expires, expected) in [
            (1_700_003_600, HOUR - Duration::from_millis(500)),
            (1_700_000_001, Duration::from_millis(500)),
            (1_700_000_000, ASSUMED_TERM),
            (0, ASSUMED_TERM),
            (u64::MAX, MAX_TERM),
        ] {
            assert_eq!(term(expires, now), expected, "{expires}");
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Relay(Option<usize>),
        Connection(Option<usize>),
        Closed(usize, Option<usize>),
        Draining,
        Granted(u64, u64),
        Failed(u64, bool),
        ListenerOpen(bool),
        ListenerClosed(bool),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = || prop::option::of(0..3usize);
        prop_oneof![
            prop::option::weighted(0.9, 0..2usize).prop_map(Step::Relay),
            place().prop_map(Step::Connection),
            (0..3usize, place()).prop_map(|(closed, best)| Step::Closed(closed, best)),
            Just(Step::Draining),
            (0..2u64, 0..20_000u64).prop_map(|(old, term)| Step::Granted(old, term)),
            (0..2u64, any::<bool>()).prop_map(|(old, refused)| Step::Failed(old, refused)),
            any::<bool>().prop_map(Step::ListenerOpen),
            any::<bool>().prop_map(Step::ListenerClosed),
            (0..30_000u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever happens in whatever order: deadlines lie ahead, nothing is asked where it cannot
        /// be, listeners come and go one by one; and once the world is well, it is reserved within
        /// five seconds.
        #[test]
        fn there_is_a_way_out_of_every_state(steps in prop::collection::vec(step(), 0..60)) {
            let relays = [PeerId::random(), PeerId::random()];
            let mut world = World::new();
            for step in steps {
                let now = world.now;
                let listeners = [false, true].map(|ours| world.listener(ours));
                let life = &mut world.life;
                match step {
                    Step::Relay(relay) => life.handle_relay(relay.map(|n| relays[n]), now),
                    Step::Connection(best) => life.handle_connection(best.map(conn), now),
                    Step::Closed(closed, best) => {
                        let best = best.filter(|best| *best != closed);
                        life.handle_closed(conn(closed), best.map(conn), now);
                    }
                    Step::Draining => life.handle_draining(now),
                    Step::Granted(old, term) => {
                        let attempt = world.asked.saturating_sub(old);
                        life.handle_granted(attempt, Duration::from_millis(term), None, now);
                    }
                    Step::Failed(old, refused) => {
                        let trouble = match refused {
                            true => ReserveError::Refused(Refusal::PermissionDenied),
                            false => ReserveError::Broken,
                        };
                        life.handle_failed(world.asked.saturating_sub(old), trouble, now);
                    }
                    Step::ListenerOpen(ours) => life.handle_listener_open(listeners[usize::from(ours)], now),
                    Step::ListenerClosed(ours) => {
                        life.handle_listener_closed(listeners[usize::from(ours)], now);
                    }
                    Step::Wait(millis) => {
                        world.pass(Duration::from_millis(millis));
                        continue;
                    }
                }
                world.follow();
            }

            // The world is well from now on.
            world.life.handle_relay(Some(relays[0]), world.now);
            world.follow();
            world.life.handle_connection(Some(conn(9)), world.now);
            world.follow();
            world.well = true;
            let begun = world.now;
            if let Some(asked) = world.life.asked(world.asked) {
                // An attempt under way ends one way or another: its connection's, or in time.
                let closed = asked.connection;
                world.life.handle_closed(closed, Some(conn(9)), begun);
                world.follow();
            }
            world.pass(Duration::from_secs(5));
            let state = world.life.state();
            prop_assert!(world.life.held_on().is_some(), "{:?}", state);
        }
    }

    /// Does what the life asks for, as the shell would.
    struct World {
        life: MutableRelayReservation,
        now: Instant,
        /// The last attempt.
        asked: u64,
        listening: Option<ListenerId>,
        /// Listeners open, and relays grant.
        well: bool,
    }

    impl World {
        fn new() -> Self {
            Self {
                life: MutableRelayReservation::new(7),
                now: Instant::now(),
                asked: 0,
                listening: None,
                well: false,
            }
        }

        fn listener(&self, ours: bool) -> ListenerId {
            match (ours, self.life.listener()) {
                (true, Some(listener)) => listener,
                _ => ListenerId::next(),
            }
        }

        fn follow(&mut self) {
            loop {
                if self.life.listener().is_none() {
                    self.listening = None;
                }
                let Some(action) = self.life.next_action() else {
                    break;
                };
                match action {
                    Action::Listen(relay) => {
                        assert_eq!(self.life.relay(), Some(relay));
                        assert_eq!(self.listening, None, "one at a time");
                        let listener = ListenerId::next();
                        self.life.handle_listening(listener);
                        self.listening = Some(listener);
                    }
                    Action::Unlisten(listener) => {
                        assert_ne!(self.life.listener(), Some(listener));
                        self.listening = None;
                    }
                    Action::Want(_) => {}
                    Action::Reserve {
                        connection,
                        attempt,
                        ..
                    } => {
                        assert!(attempt > self.asked, "each has its number");
                        assert!(self.life.listener().is_some());
                        assert_eq!(self.life.connection(), Some(connection));
                        self.asked = attempt;
                        if self.well {
                            self.life.handle_granted(attempt, HOUR, None, self.now);
                        }
                    }
                    Action::Tell(_, Notice::Reserved { .. }) => {
                        assert!(self.life.accepts());
                    }
                    Action::Tell(..) => {}
                }
            }
            if self.well
                && let Some(listener) = self.listening
                && self.life.state() == ReservationState::Connected
            {
                self.life.handle_listener_open(listener, self.now);
                self.follow();
            }
            let held = !matches!(self.life.phase, Phase::Idle);
            assert!(!held || self.life.connection().is_some());
        }

        /// Time passes from deadline to deadline.
        fn pass(&mut self, time: Duration) {
            let until = self.now + time;
            self.life.handle_timeout(self.now);
            self.follow();
            let mut wakes = 0;
            while let Some(next) = self.life.next_deadline().filter(|next| *next <= until) {
                assert!(next >= self.now, "a deadline in the past would spin");
                wakes += 1;
                assert!(wakes < 1000, "and so would too many");
                self.now = next;
                self.life.handle_timeout(next);
                self.follow();
                assert!(self.life.next_deadline().is_none_or(|after| after > next));
            }
            self.now = until;
        }
    }

    fn reserving(now: Instant) -> (MutableRelayReservation, PeerId) {
        let relay = PeerId::random();
        let mut life = MutableRelayReservation::of_listener(relay, ListenerId::next(), 3);
        life.handle_connection(Some(conn(1)), now);
        actions(&mut life);
        (life, relay)
    }

    fn reserved(term: Duration, now: Instant) -> (MutableRelayReservation, PeerId) {
        let (mut life, relay) = reserving(now);
        life.handle_granted(1, term, None, now);
        let told = Notice::Reserved {
            renewal: false,
            term,
        };
        assert_eq!(actions(&mut life), [Action::Tell(relay, told)]);
        (life, relay)
    }

    fn actions(life: &mut MutableRelayReservation) -> Vec<Action> {
        std::iter::from_fn(|| life.next_action()).collect()
    }

    fn conn(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }
}
