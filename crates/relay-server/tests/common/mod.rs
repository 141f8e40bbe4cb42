//! Relays, and peers that talk to them by hand or with libp2p's own client.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test that cannot go on shall end here; each test takes what it needs"
)]

use std::{net::SocketAddr, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use pluto_crypto::k1::SecretKey;
use pluto_p2p::{
    proto::{read_protobuf_with_max_size, write_protobuf},
    relay::{
        MAX_FRAME,
        wire::pb::{HopMessage, StopMessage},
    },
};
use pluto_relay_server::{Config, Control, Outcome, RelayServer};
use pluto_testkit::{LIMIT, QUIC, RawPeer, TCP, addr, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const HOP: &str = "/libp2p/circuit/relay/0.2.0/hop";
pub(crate) const STOP: &str = "/libp2p/circuit/relay/0.2.0/stop";
pub(crate) const OK: Option<i32> = Some(100);
pub(crate) const RESERVATION_REFUSED: Option<i32> = Some(200);
pub(crate) const RESOURCE_LIMIT_EXCEEDED: Option<i32> = Some(201);
pub(crate) const CONNECTION_FAILED: Option<i32> = Some(203);
pub(crate) const NO_RESERVATION: Option<i32> = Some(204);

/// A relay on loopback, any ports.
pub(crate) fn config() -> Config {
    Config::new(SecretKey::generate())
        .with_listen(addr(TCP))
        .with_listen(addr(QUIC))
}

/// A running relay.
pub(crate) struct Relay {
    pub(crate) id: PeerId,
    /// TCP, then QUIC, each with the peer id.
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) control: Control,
    pub(crate) cancel: CancellationToken,
    pub(crate) task: JoinHandle<Outcome>,
}

impl Relay {
    pub(crate) async fn start(config: Config) -> Self {
        pluto_testkit::logs();
        let relay = RelayServer::new(config).unwrap();
        let control = relay.control();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(relay.run(cancel.clone()));
        let addresses = within(control.ready()).await.unwrap();
        Self {
            id: control.peer_id(),
            addresses,
            control,
            cancel,
            task,
        }
    }

    /// Without the peer id.
    pub(crate) fn at(&self, transport: &str) -> Multiaddr {
        let mut address = self
            .addresses
            .iter()
            .find(|address| address.to_string().contains(transport))
            .unwrap()
            .clone();
        address.pop();
        address
    }

    /// Waits until so many places and circuits are given.
    pub(crate) async fn gives(&self, reservations: usize, circuits: usize) {
        let given = self.control.wait_for(|state| {
            (state.reservations == reservations && state.circuits == circuits).then_some(())
        });
        if tokio::time::timeout(LIMIT, given).await.is_err() {
            panic!(
                "not {reservations} places and {circuits} circuits: {:?}",
                self.control.state()
            );
        }
    }

    /// A sample of its page.
    pub(crate) async fn sample(&self, series: &str) -> Option<f64> {
        let (_, page) = get(self.control.monitoring_address().unwrap(), "/metrics").await;
        let line = page.lines().find(|line| {
            line.strip_prefix(series)
                .is_some_and(|rest| rest.starts_with(' '))
        })?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    pub(crate) async fn stop(self) -> Outcome {
        self.control.stop();
        within(self.task).await.unwrap()
    }
}

/// A peer that is connected to the relay and knows its protocols by heart.
pub(crate) async fn connected(relay: &Relay) -> RawPeer {
    let mut peer = RawPeer::start(pluto_testkit::key()).await;
    assert!(peer.dial(relay.id, &relay.at("tcp")).await);
    peer
}

/// One question on HOP; the stream is a circuit if the answer says so.
pub(crate) async fn ask(
    peer: &mut RawPeer,
    relay: PeerId,
    question: HopMessage,
) -> (HopMessage, Stream) {
    let mut stream = peer.open(relay, HOP).await.unwrap();
    write_protobuf(&mut stream, &question, LIMIT).await.unwrap();
    let answer = read_protobuf_with_max_size(&mut stream, MAX_FRAME, LIMIT).await;
    (answer.unwrap(), stream)
}

/// Asks for a place.
pub(crate) async fn reserve(peer: &mut RawPeer, relay: &Relay) -> HopMessage {
    ask(peer, relay.id, HopMessage::reserve()).await.0
}

/// Asks for a circuit.
pub(crate) async fn connect(peer: &mut RawPeer, relay: &Relay, to: PeerId) -> (HopMessage, Stream) {
    ask(peer, relay.id, HopMessage::connect(to)).await
}

/// Takes the next circuit, or refuses it.
pub(crate) async fn take(
    streams: &mut libp2p_stream::IncomingStreams,
    status: i32,
) -> (StopMessage, Stream) {
    let (_, mut stream) = within(streams.next()).await.unwrap();
    let asked: StopMessage = read_protobuf_with_max_size(&mut stream, MAX_FRAME, LIMIT)
        .await
        .unwrap();
    let answer = StopMessage::answer(status);
    write_protobuf(&mut stream, &answer, LIMIT).await.unwrap();
    (asked, stream)
}

/// Opens a circuit between two peers that talk by hand.
pub(crate) async fn circuit(
    relay: &Relay,
    from: &mut RawPeer,
    to: PeerId,
    streams: &mut libp2p_stream::IncomingStreams,
) -> (Stream, Stream) {
    let (near, far) = futures::join!(connect(from, relay, to), take(streams, 100));
    assert_eq!(near.0.status, OK);
    (near.1, far.1)
}

/// A page, and the status line with its headers.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (String, String) {
    request(address, "GET", path).await
}

pub(crate) async fn request(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: relay\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = within(exchange).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// A peer that uses libp2p's own relay client.
pub(crate) struct Stock {
    pub(crate) id: PeerId,
    listen: mpsc::Sender<Order>,
    pub(crate) happened: mpsc::Receiver<Happened>,
    pub(crate) streams: libp2p_stream::Control,
    _stop: DropGuard,
}

enum Order {
    Listen(Multiaddr),
    Dial(Multiaddr),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Reserved { renewal: bool },
    ListenerClosed(String),
    Connected { peer: PeerId, relayed: bool },
    Closed { peer: PeerId },
    Pinged { peer: PeerId },
    DialFailed(String),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

impl Stock {
    pub(crate) fn start(key: Keypair) -> Self {
        let mut swarm = SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_quic()
            .with_relay_client(noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key, relay| Behaviour {
                relay,
                identify: identify::Behaviour::new(identify::Config::new(
                    String::new(),
                    key.public(),
                )),
                ping: ping::Behaviour::default(),
                streams: libp2p_stream::Behaviour::new(),
            })
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(60))
            })
            .build();
        let streams = swarm.behaviour().streams.new_control();
        let (listen, mut orders) = mpsc::channel(16);
        let (happens, happened) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    Some(order) = orders.recv() => match order {
                        Order::Listen(address) => drop(swarm.listen_on(address).unwrap()),
                        Order::Dial(address) => swarm.dial(address).unwrap(),
                    },
                    happened = next(&mut swarm) => {
                        // A test that does not look loses the news, not the peer.
                        let _ = happens.try_send(happened);
                    }
                }
            }
        });
        Self {
            id: key.public().to_peer_id(),
            listen,
            happened,
            streams,
            _stop: stop.drop_guard(),
        }
    }

    /// Asks for a place on the relay at an address with its peer id.
    pub(crate) async fn reserve(&self, relay: &Multiaddr) {
        let circuit = relay.clone().with(Protocol::P2pCircuit);
        self.listen.send(Order::Listen(circuit)).await.unwrap();
    }

    /// Dials a peer through the relay.
    pub(crate) async fn reach(&self, relay: &Multiaddr, peer: PeerId) {
        let address = relay
            .clone()
            .with(Protocol::P2pCircuit)
            .with(Protocol::P2p(peer));
        self.listen.send(Order::Dial(address)).await.unwrap();
    }

    pub(crate) async fn dial(&self, address: &Multiaddr) {
        self.listen
            .send(Order::Dial(address.clone()))
            .await
            .unwrap();
    }

    /// Waits until this has happened.
    pub(crate) async fn until(&mut self, what: Happened) {
        self.find(|happened| (*happened == what).then_some(()))
            .await;
    }

    /// Waits until something has happened.
    pub(crate) async fn find<T>(&mut self, mut is_it: impl FnMut(&Happened) -> Option<T>) -> T {
        let find = async {
            loop {
                let happened = self.happened.recv().await.unwrap();
                if let Some(found) = is_it(&happened) {
                    return found;
                }
            }
        };
        within(find).await
    }

    pub(crate) fn serve(&mut self, id: &'static str) -> libp2p_stream::IncomingStreams {
        self.streams.accept(StreamProtocol::new(id)).unwrap()
    }
}

async fn next(swarm: &mut Swarm<Behaviour>) -> Happened {
    loop {
        return match swarm.select_next_some().await {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { renewal, .. },
            )) => Happened::Reserved { renewal },
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                peer,
                result: Ok(_),
                ..
            })) => Happened::Pinged { peer },
            SwarmEvent::ListenerClosed { reason, .. } => {
                Happened::ListenerClosed(format!("{reason:?}"))
            }
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } => Happened::Connected {
                peer: peer_id,
                relayed: endpoint.is_relayed(),
            },
            SwarmEvent::ConnectionClosed { peer_id, .. } => Happened::Closed { peer: peer_id },
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                Happened::DialFailed(format!("{error:?}"))
            }
            _ => continue,
        };
    }
}
