//! A peer that speaks by hand.

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle, dial_opts::DialOpts},
    tcp, yamux,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{addr, within};

/// A libp2p peer without rules: its streams are opened and served by the test. Dropping it drops
/// its connections.
pub struct RawPeer {
    /// Its identity.
    pub key: Keypair,
    /// Where it listens: TCP, then QUIC.
    pub addresses: Vec<Multiaddr>,
    streams: libp2p_stream::Control,
    dials: mpsc::Sender<(PeerId, Multiaddr)>,
    happened: mpsc::Receiver<Happened>,
    _stop: DropGuard,
}

enum Happened {
    Listening(Multiaddr),
    Connected(PeerId),
    Failed,
    Closed(PeerId),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: libp2p_stream::Behaviour,
    ping: ping::Behaviour,
    identify: Toggle<identify::Behaviour>,
}

impl RawPeer {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If it cannot listen on loopback.
    pub async fn start(key: Keypair) -> Self {
        Self::start_with(key, None).await
    }

    /// As [`start`](Self::start); it tells others what it serves.
    ///
    /// # Panics
    ///
    /// If it cannot listen on loopback.
    pub async fn start_identified(key: Keypair) -> Self {
        let config = identify::Config::new("/raw/1".to_owned(), key.public());
        Self::start_with(key, Some(identify::Behaviour::new(config))).await
    }

    async fn start_with(key: Keypair, identify: Option<identify::Behaviour>) -> Self {
        let mut yamux = yamux::Config::default();
        yamux.set_max_num_streams(4096);
        let swarm = SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                || yamux,
            )
            .unwrap()
            .with_quic()
            .with_behaviour(|_| Behaviour {
                streams: libp2p_stream::Behaviour::new(),
                ping: ping::Behaviour::default(),
                identify: identify.into(),
            })
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(std::time::Duration::from_secs(600))
            })
            .build();
        let streams = swarm.behaviour().streams.new_control();
        let (dials, commands) = mpsc::channel(16);
        let (happens, mut happened) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(run(swarm, commands, happens)),
        );
        let mut addresses = Vec::new();
        while addresses.len() < 2 {
            if let Some(Happened::Listening(address)) = within(happened.recv()).await {
                addresses.push(address);
            }
        }
        addresses.sort_by_key(|address| address.to_string().contains("quic"));
        Self {
            key,
            addresses,
            streams,
            dials,
            happened,
            _stop: stop.drop_guard(),
        }
    }

    /// Its peer id.
    pub fn id(&self) -> PeerId {
        self.key.public().to_peer_id()
    }

    /// Dials, and tells whether the handshake came through. The other side may still close at once.
    pub async fn dial(&mut self, peer: PeerId, address: &Multiaddr) -> bool {
        self.dials.send((peer, address.clone())).await.unwrap();
        loop {
            match within(self.happened.recv()).await {
                Some(Happened::Connected(other)) if other == peer => return true,
                Some(Happened::Failed) | None => return false,
                Some(_) => {}
            }
        }
    }

    /// Waits until a connection with the peer was closed.
    pub async fn closed(&mut self, peer: PeerId) {
        loop {
            match within(self.happened.recv()).await {
                Some(Happened::Closed(other)) if other == peer => return,
                None => panic!("the raw peer has ended"),
                Some(_) => {}
            }
        }
    }

    /// Opens a stream and negotiates one id.
    pub async fn open(
        &mut self,
        peer: PeerId,
        id: &'static str,
    ) -> Result<Stream, libp2p_stream::OpenStreamError> {
        within(self.streams.open_stream(peer, StreamProtocol::new(id))).await
    }

    /// Serves an id: the streams that others open.
    ///
    /// # Panics
    ///
    /// If it is served already.
    pub fn serve(&mut self, id: &'static str) -> libp2p_stream::IncomingStreams {
        self.streams.accept(StreamProtocol::new(id)).unwrap()
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut dials: mpsc::Receiver<(PeerId, Multiaddr)>,
    happens: mpsc::Sender<Happened>,
) {
    for listen in crate::TRANSPORTS {
        swarm.listen_on(addr(listen)).unwrap();
    }
    loop {
        let happened = tokio::select! {
            dial = dials.recv() => match dial {
                None => return,
                Some((peer, address)) => {
                    let opts = DialOpts::peer_id(peer)
                        .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
                        .addresses(vec![address])
                        .build();
                    match swarm.dial(opts) {
                        Ok(()) => continue,
                        Err(_) => Happened::Failed,
                    }
                }
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => Happened::Listening(address),
                SwarmEvent::ConnectionEstablished { peer_id, .. } => Happened::Connected(peer_id),
                SwarmEvent::OutgoingConnectionError { .. } => Happened::Failed,
                SwarmEvent::ConnectionClosed { peer_id, .. } => Happened::Closed(peer_id),
                _ => continue,
            },
        };
        // A test that does not look loses the news, not the peer.
        let _ = happens.try_send(happened);
    }
}
