//! Whose turn it is, and on which connection.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep},
};

use super::{
    Budget, Error, MAX_HANDED, MAX_OUTSTANDING, Protocol, Rejection, Repeat, Request, Slot, choose,
    ended::{Ended, Note},
    handler::{FromBehaviour, Handler, Shared, Start},
    job::{Command, Job},
};
use crate::p2p_context::P2PContext;

/// First wait before a request is repeated; Charon's value, doubled each time.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// Longest wait before a request is repeated.
const REPEAT_AFTER_MAX: Duration = Duration::from_secs(2);

/// A stream of a peer came to nothing.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rejected {
    /// The peer.
    pub peer: PeerId,
    /// Its connection.
    pub connection: ConnectionId,
    /// The protocol.
    pub id: StreamProtocol,
    /// Why.
    pub cause: Rejection,
}

/// The shared exchange as a behaviour. It never dials: it says that a peer is wanted, once for each
/// request that finds it not connected.
pub struct Behaviour {
    context: P2PContext,
    shared: Shared,
    /// Ids served and offered now, per protocol.
    offered: Vec<Vec<StreamProtocol>>,
    commands: mpsc::Receiver<Command>,
    jobs: HashMap<u64, Entry>,
    /// Waiting for a connection or a place on it, in order. At most [`MAX_OUTSTANDING`] of a peer, and as
    /// many again in each queue that were cancelled.
    queues: BTreeMap<(PeerId, Slot), VecDeque<u64>>,
    connections: BTreeMap<PeerId, Vec<Connection>>,
    /// The connection that each peer's last request took.
    chosen: BTreeMap<PeerId, ConnectionId>,
    /// Deadlines and repetitions.
    alarms: BTreeSet<(Instant, u64)>,
    timer: Option<Pin<Box<Sleep>>>,
    pending_events: VecDeque<ToSwarm<Rejected, FromBehaviour>>,
}

struct Entry {
    job: Arc<Job>,
    place: Place,
    attempts: u32,
    /// What broke the last attempt of which something was sent. From then on the peer may have
    /// acted, whatever becomes of the next.
    broken: Option<io::Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Queued,
    Handed(ConnectionId),
    Resting,
}

struct Connection {
    id: ConnectionId,
    handed: usize,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour")
            .field("offered", &self.offered)
            .field("requests", &self.jobs.len())
            .finish_non_exhaustive()
    }
}

impl Behaviour {
    pub(super) fn new(
        context: P2PContext,
        budget: Budget,
        protocols: Arc<[Protocol]>,
        commands: mpsc::Receiver<Command>,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        Self {
            context: context.clone(),
            offered: protocols
                .iter()
                .map(|protocol| protocol.ids.clone())
                .collect(),
            shared: Shared {
                context,
                protocols,
                budget,
                requests,
                ended: Ended::default(),
            },
            commands,
            jobs: HashMap::new(),
            queues: BTreeMap::new(),
            connections: BTreeMap::new(),
            chosen: BTreeMap::new(),
            alarms: BTreeSet::new(),
            timer: None,
            pending_events: VecDeque::new(),
        }
    }

    fn handler(&self, peer: PeerId, connection: ConnectionId, path: &Multiaddr) -> Handler {
        let (shared, offered) = (self.shared.clone(), self.offered.clone());
        Handler::new(shared, offered, peer, connection, path)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Rejected;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        path: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection, path))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        path: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, connection, path))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            }) => {
                self.connections
                    .entry(peer_id)
                    .or_default()
                    .push(Connection {
                        id: connection_id,
                        handed: 0,
                    });
                self.pump_peer(peer_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => self.on_closed(peer_id, connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        rejected: THandlerOutEvent<Self>,
    ) {
        let Rejected {
            peer,
            connection,
            id,
            cause,
        } = &rejected;
        tracing::debug!(%peer, %connection, protocol = %id, %cause, "inbound stream rejected");
        self.pending_events
            .push_back(ToSwarm::GenerateEvent(rejected));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Rejected, THandlerInEvent<Self>>> {
        loop {
            // 1. What is decided.
            if let Some(event) = self.pending_events.pop_front() {
                return Poll::Ready(event);
            }
            // 2. What has ended; somebody may wait for its place.
            let ended = self.shared.ended.take(cx, !self.queues.is_empty());
            if !ended.is_empty() {
                for note in ended {
                    self.on_ended(note);
                }
                continue;
            }
            // 3. What is overdue.
            if let Some((at, id)) = self.alarms.first().copied() {
                let now = Instant::now();
                if at <= now {
                    self.alarms.remove(&(at, id));
                    self.on_alarm(id, now);
                    continue;
                }
            }
            // 4. What is asked for. A closed channel means that no handle is left; requests under
            //    way still end.
            if let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
                self.on_command(command);
                continue;
            }
            // 5. Nothing: be woken for the next alarm.
            let Some((at, _)) = self.alarms.first().copied() else {
                return Poll::Pending;
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            // One that ends too early costs a look; most calls end long before their alarm, and
            // setting it anew for each would cost all of them.
            if timer.deadline() > at || timer.is_elapsed() {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Behaviour {
    fn on_command(&mut self, command: Command) {
        match command {
            Command::Call(job) => {
                let (id, peer, slot) = (job.id, job.peer, job.slot);
                if slot.0 >= self.offered.len() {
                    return; // Dropping the job closes the call.
                }
                self.alarms.insert((job.by, id));
                self.jobs.insert(
                    id,
                    Entry {
                        job,
                        place: Place::Queued,
                        attempts: 0,
                        broken: None,
                    },
                );
                let queue = self.queues.entry((peer, slot)).or_default();
                queue.push_back(id);
                // Cancelled ones behind one that waits; their places are free already.
                if queue.len() > 2 * MAX_OUTSTANDING {
                    self.sweep(peer, slot);
                }
                // Once: a request that waits must not end the dialler's wait again and again.
                if !self.connections.contains_key(&peer) {
                    self.context.want(peer);
                }
                self.pump(peer, slot);
            }
            Command::Offer(slot, ids) => {
                let Some(offered) = self.offered.get_mut(slot.0) else {
                    return;
                };
                offered.clone_from(&ids);
                if ids.is_empty() {
                    let queues = self.queues.keys().filter(|(_, it)| *it == slot);
                    let waiting: Vec<_> = queues.map(|(peer, _)| *peer).collect();
                    for peer in waiting {
                        self.pump(peer, slot);
                    }
                }
                for (peer, connections) in &self.connections {
                    for connection in connections {
                        self.pending_events.push_back(ToSwarm::NotifyHandler {
                            peer_id: *peer,
                            handler: NotifyHandler::One(connection.id),
                            event: FromBehaviour::Offer(slot, ids.clone()),
                        });
                    }
                }
            }
        }
    }

    /// A deadline, or the end of a rest.
    fn on_alarm(&mut self, id: u64, now: Instant) {
        let Some(entry) = self.jobs.get_mut(&id) else {
            return;
        };
        let (peer, slot) = (entry.job.peer, entry.job.slot);
        if entry.job.by <= now {
            let step = entry.job.step();
            let error = match (entry.place, entry.broken.take()) {
                (Place::Handed(_), _) if entry.job.has_started() => Error::TimedOut { peer, step },
                (_, Some(source)) => Error::Interrupted { peer, source },
                (Place::Handed(_), None) => Error::TimedOut { peer, step },
                (Place::Queued | Place::Resting, None) => {
                    match self.context.why_not_connected(peer) {
                        None if self.connections.contains_key(&peer) => {
                            Error::TimedOut { peer, step }
                        }
                        why => Error::NoPath {
                            peer,
                            why: why.map(Box::new),
                        },
                    }
                }
            };
            entry.job.finish(Err(error));
            // A handler still holds its place until it has seen that nobody waits.
            if !matches!(entry.place, Place::Handed(_)) {
                self.jobs.remove(&id);
            }
        } else if entry.place == Place::Resting {
            entry.place = Place::Queued;
            self.queues.entry((peer, slot)).or_default().push_back(id);
            self.pump(peer, slot);
        }
    }

    /// A request has left its connection.
    fn on_ended(&mut self, note: Note) {
        match note.outcome {
            Ok(()) => self.forget(note.job),
            Err(error) => {
                // The end of the connection may have been noticed first.
                let place = self.jobs.get(&note.job).map(|entry| entry.place);
                if place == Some(Place::Handed(note.connection)) {
                    self.on_broken(note.job, note.connection, error);
                }
            }
        }
        self.freed(note.peer, note.connection);
    }

    /// The handler could not open or finish a stream.
    fn on_broken(&mut self, id: u64, connection: ConnectionId, error: io::Error) {
        let Some(entry) = self.jobs.get_mut(&id) else {
            return;
        };
        let peer = entry.job.peer;
        let repeatable = match self.shared.protocols.get(entry.job.slot.0) {
            Some(protocol) => protocol.repeat == Repeat::Safe,
            None => false,
        };
        if entry.job.has_started() && !repeatable {
            entry.job.finish(Err(Error::Interrupted {
                peer,
                source: error,
            }));
            self.forget(id);
            return;
        }
        if entry.job.is_finished() {
            self.forget(id);
            return;
        }
        tracing::debug!(%peer, %connection, %error, attempt = entry.attempts + 1, "request will be repeated");
        if entry.job.has_started() {
            entry.broken = Some(error);
        }
        let wait = REPEAT_AFTER * 2u32.saturating_pow(entry.attempts.min(8));
        entry.attempts += 1;
        entry.place = Place::Resting;
        entry.job.set_step(super::Step::Opening);
        let at = Instant::now() + wait.min(REPEAT_AFTER_MAX);
        self.alarms.insert((at, id));
    }

    /// What was handed to the connection goes back to the peer's queue, or ends.
    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(connections) = self.connections.get_mut(&peer) {
            connections.retain(|open| open.id != connection);
            if connections.is_empty() {
                self.connections.remove(&peer);
                self.chosen.remove(&peer);
            }
        }
        let mut handed: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, entry)| entry.place == Place::Handed(connection))
            .map(|(id, _)| *id)
            .collect();
        // Newest first, so that pushing to the front restores their order.
        handed.sort_unstable_by(|a, b| b.cmp(a));
        for id in handed {
            let Some(entry) = self.jobs.get_mut(&id) else {
                continue;
            };
            if entry.job.is_finished() {
                self.forget(id);
            } else if entry.job.has_started() {
                self.on_broken(id, connection, io::ErrorKind::ConnectionAborted.into());
            } else {
                entry.place = Place::Queued;
                let queue = (peer, entry.job.slot);
                self.queues.entry(queue).or_default().push_front(id);
            }
        }
        self.pump_peer(peer);
    }

    fn freed(&mut self, peer: PeerId, connection: ConnectionId) {
        let connections = self.connections.get_mut(&peer).into_iter().flatten();
        for open in connections.filter(|open| open.id == connection) {
            open.handed = open.handed.saturating_sub(1);
        }
        self.pump_peer(peer);
    }

    fn forget(&mut self, id: u64) {
        if let Some(entry) = self.jobs.remove(&id) {
            self.alarms.remove(&(entry.job.by, id));
        }
    }

    fn pump_peer(&mut self, peer: PeerId) {
        for slot in 0..self.offered.len() {
            self.pump(peer, Slot(slot));
        }
    }

    /// Hands over what can be handed over, in order.
    fn pump(&mut self, peer: PeerId, slot: Slot) {
        while let Some(id) = self
            .queues
            .get(&(peer, slot))
            .and_then(|queue| queue.front())
            .copied()
        {
            let live = self
                .jobs
                .get(&id)
                .is_some_and(|entry| entry.place == Place::Queued && !entry.job.is_finished());
            if !live {
                self.pop(peer, slot);
                self.forget(id);
                continue;
            }
            if self.offered[slot.0].is_empty() {
                // Switched off here: nothing to blame the peer for.
                if let Some(entry) = self.jobs.get(&id) {
                    entry.job.finish(Err(Error::Closed));
                }
                continue;
            }
            let Some(connection) = self.path(peer) else {
                return;
            };
            let Some(open) = self
                .connections
                .get_mut(&peer)
                .and_then(|all| all.iter_mut().find(|open| open.id == connection))
                .filter(|open| open.handed < MAX_HANDED)
            else {
                return;
            };
            open.handed += 1;
            self.chosen.insert(peer, connection);
            self.pop(peer, slot);
            let ids = self.offer_to(peer, slot);
            if let Some(entry) = self.jobs.get_mut(&id) {
                entry.place = Place::Handed(connection);
                self.pending_events.push_back(ToSwarm::NotifyHandler {
                    peer_id: peer,
                    handler: NotifyHandler::One(connection),
                    event: FromBehaviour::Start(Start {
                        job: entry.job.clone(),
                        ids,
                    }),
                });
            }
        }
    }

    /// Forgets what nobody waits for any more. At least half of a queue that is swept is of that kind.
    fn sweep(&mut self, peer: PeerId, slot: Slot) {
        let Some(queue) = self.queues.get_mut(&(peer, slot)) else {
            return;
        };
        let (jobs, alarms) = (&mut self.jobs, &mut self.alarms);
        queue.retain(|id| match jobs.get(id) {
            Some(entry) if !entry.job.is_finished() => true,
            Some(entry) => {
                alarms.remove(&(entry.job.by, *id));
                jobs.remove(id);
                false
            }
            None => false,
        });
    }

    fn pop(&mut self, peer: PeerId, slot: Slot) {
        if let Some(queue) = self.queues.get_mut(&(peer, slot)) {
            queue.pop_front();
            if queue.is_empty() {
                self.queues.remove(&(peer, slot));
            }
        }
    }

    /// The best connection that has a handler of ours.
    fn path(&self, peer: PeerId) -> Option<ConnectionId> {
        let ours = self.connections.get(&peer)?;
        let view = self.context.view();
        let paths: Vec<_> = view
            .peer(&peer)
            .into_iter()
            .flat_map(|state| &state.paths)
            .filter(|path| ours.iter().any(|open| open.id == path.connection))
            .cloned()
            .collect();
        // In a swarm that feeds no context any connection is as good as another.
        choose(&paths, self.chosen.get(&peer).copied()).or(Some(ours.first()?.id))
    }

    /// The newest id that the peer is known to serve, or all of them. A handler that was installed
    /// late never hears of the peer's protocols, so the context is asked.
    fn offer_to(&self, peer: PeerId, slot: Slot) -> Vec<StreamProtocol> {
        let ids = &self.offered[slot.0];
        let view = self.context.view();
        let served = view.peer(&peer).and_then(|state| state.identified.clone());
        match served.and_then(|served| ids.iter().find(|id| served.protocols.contains(id)).cloned())
        {
            Some(newest) => vec![newest],
            None => ids.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;
    use crate::{exchange::exchange, proto::Frame};

    #[test]
    fn what_is_cancelled_while_the_peer_is_absent_neither_counts_nor_gathers() {
        let absent = PeerId::random();
        let protocol = Protocol {
            ids: vec![StreamProtocol::new("/test/1")],
            shape: super::super::Shape::OneWay,
            repeat: Repeat::Safe,
            max_frame: 16,
            read_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(1),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let (mut behaviour, calls, _inbound) =
            exchange(P2PContext::new([absent]), Budget::default(), vec![protocol]);
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let by = Instant::now() + Duration::from_secs(3600);
        let begin = || calls.call(absent, Slot(0), Frame::from_body(b"x"), by);

        let _first = begin().unwrap();
        for _ in 0..8 * MAX_OUTSTANDING {
            drop(begin().unwrap());
            assert!(behaviour.poll(&mut cx).is_pending());
            assert!(behaviour.jobs.len() <= 2 * MAX_OUTSTANDING + 1);
        }
        assert_eq!(behaviour.alarms.len(), behaviour.jobs.len());
        let mut waiting: Vec<_> = (1..MAX_OUTSTANDING).map(|_| begin().unwrap()).collect();
        assert!(behaviour.poll(&mut cx).is_pending());
        let full = begin().unwrap_err();
        assert_eq!((full.peer, full.limit), (absent, MAX_OUTSTANDING));

        waiting.pop();
        let _last = begin().unwrap();
    }
}
