//! Asks and answers.
//!
//! - **Owner:** [`Rules`] has one question per peer under way at most, and what was said of each
//!   connected peer last.
//! - **Wake-ups:** connections, the exchange's inbound channel, answers, one interval.
//! - **Bounds:** one question per peer, which ends [`TIMEOUT`] after it began at the latest; what is
//!   kept of a peer besides goes with its last connection.
//! - **Second connection:** changes nothing; a peer is asked, not a connection.
//! - **Disconnect:** a question under way is repeated on another connection or ends at its time-out;
//!   a peer that comes and goes is not asked again meanwhile.
//! - **Cancellation:** dropping the behaviour drops all questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{PeerId, swarm::FromSwarm};
use pluto_p2p::{
    P2PContext,
    exchange::{self, Core, Done, Feature, Handle, Inbound, QueueFull, Rejected, Slot},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{ClockOffset, Finding, Info, InfoError, Local, MIN_INTERVAL, Metrics, TIMEOUT};

/// The behaviour.
pub type Behaviour = Feature<Rules>;

/// What the swarm's owner is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A peer told of itself.
    Received {
        /// The peer.
        peer: PeerId,
        /// What it said.
        info: Info,
        /// How far its clock is ahead.
        clock_offset: ClockOffset,
        /// How long it took to answer.
        round_trip: Duration,
        /// What does not fit.
        findings: Vec<Finding>,
    },
    /// A peer could not be asked; it will be again.
    Failed {
        /// The peer.
        peer: PeerId,
        /// Why.
        error: AskError,
    },
    /// A question of a peer came to nothing.
    Rejected(Rejected),
}

impl From<Rejected> for Event {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

/// Why nothing was learned of a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The exchange failed.
    #[error("peer information could not be asked for")]
    Exchange(#[from] exchange::Error),
    /// Too much is being sent to the peer.
    #[error("peer information could not be asked for")]
    QueueFull(#[from] QueueFull),
    /// The answer is none.
    #[error("peer {peer} sent no usable peer information")]
    Info {
        /// The peer.
        peer: PeerId,
        /// What is wrong with it.
        #[source]
        source: InfoError,
    },
}

type Answer = (PeerId, Result<Done, AskError>);

/// The rules: see the module's documentation.
pub struct Rules {
    context: P2PContext,
    local: Local,
    interval: Duration,
    metrics: Option<Metrics>,
    exchange: Handle,
    inbound: Inbound,
    tick: Option<Interval>,
    questions: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Who is being asked, connected or not: a question outlives connections.
    asking: BTreeSet<PeerId>,
    connected: BTreeMap<PeerId, Peer>,
}

#[derive(Default)]
struct Peer {
    /// What was logged last, so that it is not said each minute.
    said: Option<(String, String, Vec<Finding>)>,
}

impl Rules {
    pub(crate) fn new(
        context: P2PContext,
        config: crate::Config,
        exchange: Handle,
        inbound: Inbound,
    ) -> Self {
        if let Some(metrics) = &config.metrics {
            metrics.set_local(&context, &config.local);
        }
        Self {
            context,
            local: config.local,
            interval: config.interval.max(MIN_INTERVAL),
            metrics: config.metrics,
            exchange,
            inbound,
            tick: None,
            questions: FuturesUnordered::new(),
            asking: BTreeSet::new(),
            connected: BTreeMap::new(),
        }
    }

    /// The members of the cluster; in a swarm without one, everybody.
    fn is_asked(&self, peer: &PeerId) -> bool {
        let view = self.context.view();
        view.order.is_empty() || view.order.contains(peer)
    }

    fn ask(&mut self, peer: PeerId) {
        if !self.is_asked(&peer) || !self.asking.insert(peer) {
            return;
        }
        let frame = self.local.question(SystemTime::now());
        let call = self
            .exchange
            .call(peer, Slot(0), frame, Instant::now() + TIMEOUT);
        self.questions.push(Box::pin(async move {
            let result = match call {
                Ok(call) => call.await.map_err(AskError::from),
                Err(full) => Err(full.into()),
            };
            (peer, result)
        }));
    }

    fn on_answer(&mut self, peer: PeerId, result: Result<Done, AskError>) -> Event {
        self.asking.remove(&peer);
        let heard = result.and_then(|done| {
            let info =
                Info::decode(&done.body).map_err(|source| AskError::Info { peer, source })?;
            Ok((info, done.elapsed))
        });
        let (info, round_trip) = match heard {
            Ok(heard) => heard,
            Err(error) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "no peer information");
                return Event::Failed { peer, error };
            }
        };
        let clock_offset = info.clock_offset(SystemTime::now(), round_trip);
        let findings = Finding::all(&self.local, &info, clock_offset);
        // Labels are bounded by the size of the cluster.
        let is_member = self.context.view().order.contains(&peer);
        if let Some(metrics) = self.metrics.as_ref().filter(|_| is_member) {
            metrics.set_peer(&self.context, peer, &info, clock_offset, &findings);
        }
        self.say(peer, &info, &findings);
        Event::Received {
            peer,
            info,
            clock_offset,
            round_trip,
            findings,
        }
    }

    /// Logs what is new.
    fn say(&mut self, peer: PeerId, info: &Info, findings: &[Finding]) {
        let Some(state) = self.connected.get_mut(&peer) else {
            return;
        };
        let (version, nickname, before) = state.said.take().unwrap_or_default();
        if version != info.version || nickname != info.nickname {
            tracing::info!(
                %peer, version = %info.version, nickname = %info.nickname,
                dv_client = %info.dv_client, "peer information"
            );
        }
        let is_new = |finding: &&Finding| {
            let kind = std::mem::discriminant(*finding);
            !before
                .iter()
                .any(|said| std::mem::discriminant(said) == kind)
        };
        for finding in findings.iter().filter(is_new) {
            tracing::warn!(%peer, nickname = %info.nickname, "{finding}");
        }
        state.said = Some((
            info.version.clone(),
            info.nickname.clone(),
            findings.to_vec(),
        ));
    }
}

impl Core for Rules {
    type Event = Event;

    fn on_swarm_event(&mut self, event: &FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.connected.entry(established.peer_id).or_default();
                if established.other_established == 0 {
                    self.ask(established.peer_id);
                }
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.connected.remove(&closed.peer_id);
            }
            _ => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // 1. Answer, whoever asks and whatever it says: the question's content is not needed.
        while let Poll::Ready(Some(request)) = self.inbound.poll_recv(cx) {
            request.respond(self.local.answer(SystemTime::now()));
        }
        // 2. Ask all, from time to time.
        let every = self.interval;
        let mut is_due = false;
        let tick = self.tick.get_or_insert_with(|| {
            let mut tick = interval_at(Instant::now() + every, every);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tick
        });
        while tick.poll_tick(cx).is_ready() {
            is_due = true;
        }
        if is_due {
            let peers: Vec<_> = self.connected.keys().copied().collect();
            for peer in peers {
                self.ask(peer);
            }
        }
        // 3. Hear.
        match self.questions.poll_next_unpin(cx) {
            Poll::Ready(Some((peer, result))) => Poll::Ready(self.on_answer(peer, result)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{
        Multiaddr,
        core::{ConnectedPoint, Endpoint, transport::PortUse},
        swarm::{ConnectionClosed, ConnectionId, behaviour::ConnectionEstablished},
    };
    use pluto_p2p::exchange::{Budget, exchange};

    use super::*;

    #[test]
    fn a_peer_that_comes_and_goes_is_asked_once() {
        let context = P2PContext::default();
        let (_exchange, handle, inbound) =
            exchange(context.clone(), Budget::default(), vec![crate::protocol()]);
        let config = crate::Config::new(Local::new(vec![7; 32]));
        let mut rules = Rules::new(context, config, handle, inbound);
        let peer_id = PeerId::random();
        let endpoint = ConnectedPoint::Dialer {
            address: Multiaddr::empty(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let comes = |rules: &mut Rules, number| {
            rules.on_swarm_event(&FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id: ConnectionId::new_unchecked(number),
                endpoint: &endpoint,
                failed_addresses: &[],
                other_established: 0,
            }));
        };

        for number in 0..3 {
            comes(&mut rules, number);
            assert_eq!(rules.questions.len(), 1);
            rules.on_swarm_event(&FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id: ConnectionId::new_unchecked(number),
                endpoint: &endpoint,
                cause: None,
                remaining_established: 0,
            }));
        }
        let closed = Err(exchange::Error::Closed.into());
        assert!(matches!(
            rules.on_answer(peer_id, closed),
            Event::Failed { .. }
        ));

        comes(&mut rules, 3);
        assert_eq!(rules.questions.len(), 2, "asked again once it is over");
    }
}
