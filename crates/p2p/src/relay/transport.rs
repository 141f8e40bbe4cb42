//! The half of the relay client that is a transport: `/p2p-circuit` addresses.
//!
//! It says to the behaviour what is dialled and listened on, and gives the swarm what comes of it.
//!
//! - **Owner:** the swarm polls it. The behaviour decides; each listener follows what the behaviour
//!   tells it.
//! - **Wake-ups:** channels, and [`remove_listener`](libp2p::Transport::remove_listener) through the
//!   stored waker.
//! - **Bounds:** [`REQUESTS`] requests that the behaviour has not taken; [`INCOMING`] circuits per
//!   listener that the swarm has not taken.
//! - **Disconnect:** a listener outlives the connection to its relay; its addresses expire with the
//!   reservation and come back with the next.
//! - **Cancellation:** a dial that is dropped drops its circuit.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Stream, TransportError,
    core::transport::{DialOpts, ListenerId, TransportEvent},
    multiaddr::Protocol,
    swarm::ConnectionId,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Error, wire::Limit};
use crate::p2p_context::Changes;

/// Requests that the behaviour has not taken; dials beyond it wait, listeners are refused. The
/// behaviour takes them at once, so that it bounds a burst.
pub(super) const REQUESTS: usize = 64;
/// Circuits that the swarm has not taken; the relay is told of the bound beyond it. The swarm takes
/// them at once, so that it bounds a burst.
pub(super) const INCOMING: usize = 32;

/// A stream of bytes through a relay. Dropping it ends the circuit.
#[derive(Debug)]
pub struct Circuit {
    pub(super) stream: Stream,
    /// The relay.
    pub relay: PeerId,
    /// The connection to it.
    pub connection: ConnectionId,
    /// What the relay allows it.
    pub limit: Option<Limit>,
}

impl AsyncRead for Circuit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for Circuit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// What the transport asks of the behaviour.
pub(super) enum Request {
    Listen(Listen),
    Dial(Dial),
}

/// A listener is there.
pub(super) struct Listen {
    pub(super) id: ListenerId,
    pub(super) relay: PeerId,
    /// The relay's transport address, as it was given.
    pub(super) address: Multiaddr,
    pub(super) told: watch::Sender<Told>,
    pub(super) incoming: mpsc::Sender<Incoming>,
}

/// A circuit is wanted.
pub(super) struct Dial {
    pub(super) relay: PeerId,
    pub(super) to: PeerId,
    pub(super) answer: oneshot::Sender<Result<Circuit, Error>>,
}

/// What the behaviour tells a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The circuit addresses under which the reservation makes us reachable.
    pub(super) addresses: Vec<Multiaddr>,
    /// Another listener listens there already.
    pub(super) taken: bool,
}

/// A circuit that somebody else has opened.
pub(super) struct Incoming {
    pub(super) circuit: Circuit,
    pub(super) from: PeerId,
    /// The relay's part of the address, with the circuit.
    pub(super) through: Multiaddr,
}

/// See the module's documentation.
pub struct Transport {
    requests: mpsc::Sender<Request>,
    listeners: Vec<Listener>,
    waker: Option<Waker>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}

impl Transport {
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, taken) = mpsc::channel(REQUESTS);
        let transport = Self {
            requests,
            listeners: Vec::new(),
            waker: None,
        };
        (transport, taken)
    }
}

type Event = TransportEvent<Ready<Result<Circuit, Error>>, Error>;

impl libp2p::Transport for Transport {
    type Output = Circuit;
    type Error = Error;
    type ListenerUpgrade = Ready<Result<Circuit, Error>>;
    type Dial = BoxFuture<'static, Result<Circuit, Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Error>> {
        let Parts {
            relay,
            address: relay_address,
            ..
        } = Parts::of(address)?;
        let (told, follows) = watch::channel(Told::default());
        let (incoming, taken) = mpsc::channel(INCOMING);
        let listen = Listen {
            id,
            relay,
            address: relay_address,
            told,
            incoming,
        };
        self.requests
            .try_send(Request::Listen(listen))
            .map_err(|error| {
                TransportError::Other(match error {
                    mpsc::error::TrySendError::Full(_) => Error::Busy {
                        relay,
                        limit: REQUESTS,
                    },
                    mpsc::error::TrySendError::Closed(_) => Error::Gone,
                })
            })?;
        self.listeners.push(Listener {
            id,
            relay,
            changes: Changes::new(follows.clone()),
            told: follows,
            addresses: Vec::new(),
            incoming: taken,
            pending_events: VecDeque::new(),
            closed: false,
        });
        self.wake();
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let mut listeners = self.listeners.iter_mut();
        let Some(listener) = listeners.find(|listener| listener.id == id && !listener.closed)
        else {
            return false;
        };
        listener.close(Ok(()));
        self.wake();
        true
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Error>> {
        // Roles are reversed to punch a hole, which is not done through a relay.
        if opts.role.is_listener() {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        let Parts { relay, to, .. } = Parts::of(address.clone())?;
        let to = to.ok_or(TransportError::Other(Error::NoDestination { address }))?;
        let requests = self.requests.clone();
        Ok(Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let dial = Request::Dial(Dial { relay, to, answer });
            requests.send(dial).await.map_err(|_| Error::Gone)?;
            // The connection's handler holds the other end, and goes with the connection.
            answered.await.unwrap_or(Err(Error::Lost { relay }))
        }))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let this = &mut *self;
        for index in 0..this.listeners.len() {
            if let Poll::Ready(event) = this.listeners[index].poll(cx) {
                if matches!(event, TransportEvent::ListenerClosed { .. }) {
                    this.listeners.remove(index);
                }
                return Poll::Ready(event);
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Transport {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

struct Listener {
    id: ListenerId,
    relay: PeerId,
    told: watch::Receiver<Told>,
    changes: Changes<Told>,
    /// What the swarm was told.
    addresses: Vec<Multiaddr>,
    incoming: mpsc::Receiver<Incoming>,
    /// At most the addresses that went and came, and the end.
    pending_events: VecDeque<Event>,
    closed: bool,
}

impl Listener {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(event) = self.pending_events.pop_front() {
                return Poll::Ready(event);
            }
            if self.closed {
                return Poll::Pending;
            }
            if self.changes.poll_changed(cx).is_ready() {
                self.follow();
                continue;
            }
            return match self.incoming.poll_recv(cx) {
                Poll::Ready(Some(incoming)) => Poll::Ready(TransportEvent::Incoming {
                    listener_id: self.id,
                    upgrade: ready(Ok(incoming.circuit)),
                    local_addr: incoming.through,
                    send_back_addr: Protocol::P2p(incoming.from).into(),
                }),
                // The behaviour has dropped it: it goes away with its node, or will close this.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            };
        }
    }

    fn follow(&mut self) {
        let told = self.told.borrow().clone();
        let listener_id = self.id;
        for gone in &self.addresses {
            if !told.addresses.contains(gone) {
                self.pending_events
                    .push_back(TransportEvent::AddressExpired {
                        listener_id,
                        listen_addr: gone.clone(),
                    });
            }
        }
        for new in &told.addresses {
            if !self.addresses.contains(new) {
                self.pending_events.push_back(TransportEvent::NewAddress {
                    listener_id,
                    listen_addr: new.clone(),
                });
            }
        }
        self.addresses = told.addresses;
        if told.taken {
            self.close(Err(Error::Taken { relay: self.relay }));
        }
    }

    fn close(&mut self, reason: Result<(), Error>) {
        self.closed = true;
        self.incoming.close();
        self.pending_events
            .push_back(TransportEvent::ListenerClosed {
                listener_id: self.id,
                reason,
            });
    }
}

/// The parts of a circuit address.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    relay: PeerId,
    /// Where the relay is; may be empty.
    address: Multiaddr,
    to: Option<PeerId>,
}

impl Parts {
    fn of(address: Multiaddr) -> Result<Self, TransportError<Error>> {
        let mut circuits = 0;
        let (mut relay, mut to, mut transport) = (None, None, Multiaddr::empty());
        for part in &address {
            match (part, circuits) {
                (Protocol::P2pCircuit, _) => circuits += 1,
                (Protocol::P2p(peer), 0) => relay = Some(peer),
                (Protocol::P2p(peer), _) => to = Some(peer),
                (part, 0) => transport.push(part),
                // What follows a circuit is its destination's affair.
                _ => {}
            }
        }
        match (circuits, relay) {
            (0, _) => Err(TransportError::MultiaddrNotSupported(address)),
            (1, Some(relay)) => Ok(Self {
                relay,
                address: transport,
                to,
            }),
            (1, None) => Err(TransportError::Other(Error::NoRelay { address })),
            _ => Err(TransportError::Other(Error::Nested { address })),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt, future::poll_fn, stream};
    use libp2p::{
        Transport as _,
        core::{Endpoint, transport::PortUse},
    };

    use super::*;

    #[test]
    fn each_wrong_circuit_address_is_told_apart() {
        let (relay, to) = (PeerId::random(), PeerId::random());
        let of = |text: String| Parts::of(text.parse().unwrap());
        let direct = of(format!("/ip4/1.2.3.4/tcp/9/p2p/{relay}"));
        assert!(matches!(
            direct,
            Err(TransportError::MultiaddrNotSupported(_))
        ));
        let anonymous = of(format!("/ip4/1.2.3.4/tcp/9/p2p-circuit/p2p/{to}"));
        assert!(matches!(
            anonymous,
            Err(TransportError::Other(Error::NoRelay { .. }))
        ));
        let nested = of(format!("/p2p/{relay}/p2p-circuit/p2p/{to}/p2p-circuit"));
        assert!(matches!(
            nested,
            Err(TransportError::Other(Error::Nested { .. }))
        ));
        let right = of(format!(
            "/ip4/1.2.3.4/tcp/9/p2p/{relay}/p2p-circuit/p2p/{to}"
        ));
        assert_eq!(
            right.unwrap(),
            Parts {
                relay,
                address: "/ip4/1.2.3.4/tcp/9".parse().unwrap(),
                to: Some(to)
            }
        );
    }

    #[tokio::test]
    async fn a_dial_without_a_destination_or_a_behaviour_fails() {
        let relay = PeerId::random();
        let (mut transport, requests) = Transport::new();
        let circuit: Multiaddr = format!("/p2p/{relay}/p2p-circuit").parse().unwrap();
        let nowhere = transport.dial(circuit.clone(), opts());
        assert!(matches!(
            nowhere,
            Err(TransportError::Other(Error::NoDestination { .. }))
        ));

        drop(requests);
        let full = circuit.with(Protocol::P2p(PeerId::random()));
        let error = transport.dial(full, opts()).unwrap().await.unwrap_err();
        assert!(matches!(error, Error::Gone), "{error}");
    }

    #[tokio::test]
    async fn a_listener_follows_the_reservation_and_closes_when_told() {
        let relay = PeerId::random();
        let (mut transport, mut requests) = Transport::new();
        let id = ListenerId::next();
        let at: Multiaddr = format!("/ip4/1.2.3.4/tcp/9/p2p/{relay}/p2p-circuit")
            .parse()
            .unwrap();
        transport.listen_on(id, at.clone()).unwrap();
        let Some(Request::Listen(listen)) = requests.recv().await else {
            panic!("no request")
        };
        assert_eq!((listen.id, listen.relay), (id, relay));
        let mut events = stream::poll_fn(|cx| Pin::new(&mut transport).poll(cx).map(Some));

        listen
            .told
            .send_modify(|told| told.addresses = vec![at.clone()]);
        let event = events.next().await.unwrap();
        assert!(
            matches!(event, TransportEvent::NewAddress { listen_addr, .. } if listen_addr == at)
        );
        listen.told.send_modify(|told| told.addresses.clear());
        let event = events.next().await.unwrap();
        assert!(
            matches!(event, TransportEvent::AddressExpired { listen_addr, .. } if listen_addr == at)
        );
        listen.told.send_modify(|told| told.taken = true);
        let event = events.next().await.unwrap();
        assert!(matches!(
            event,
            TransportEvent::ListenerClosed { listener_id, reason: Err(Error::Taken { .. }) }
                if listener_id == id
        ));
        drop(events);
        assert!(listen.incoming.is_closed());
        assert!(!transport.remove_listener(id), "it is gone");
    }

    #[tokio::test]
    async fn removing_a_listener_wakes_the_transport() {
        let relay = PeerId::random();
        let (mut transport, _requests) = Transport::new();
        let id = ListenerId::next();
        let at = format!("/p2p/{relay}/p2p-circuit").parse().unwrap();
        transport.listen_on(id, at).unwrap();
        assert!(
            poll_fn(|cx| Pin::new(&mut transport).poll(cx))
                .now_or_never()
                .is_none()
        );

        assert!(transport.remove_listener(id));
        assert!(!transport.remove_listener(id), "once");
        let event = poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await;
        assert!(matches!(
            event,
            TransportEvent::ListenerClosed { reason: Ok(()), .. }
        ));
    }

    fn opts() -> DialOpts {
        DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        }
    }
}
