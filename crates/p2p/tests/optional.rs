//! An optional behaviour is switched on and off between two real swarms whose one connection stays.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    collections::VecDeque,
    future::Future,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    identify, noise,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, SwarmEvent,
        ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
    tcp, yamux,
};
use pluto_p2p::{behaviours::optional::OptionalBehaviour, p2p_context::NodeGone};

const ECHO: StreamProtocol = StreamProtocol::new("/optional-test/echo/1");

/// How long any one step may take, far above what a loopback exchange needs on a busy machine.
const STEP: Duration = Duration::from_secs(20);

/// Longer than the test: the connection must not depend on the optional protocol.
const IDLE: Duration = Duration::from_secs(600);

#[tokio::test]
async fn connection_stays_while_its_protocol_is_enabled_and_disabled_twice() {
    let mut pair = Pair::connect(OptionalBehaviour::disabled()).await;
    let switch = pair.server.behaviour().optional.switch();
    assert!(!pair.ask_server().await.is_served());

    for _round in 0..2 {
        pair.during(switch.enable(Echo::default())).await;

        pair.until_identify_shows(true).await;
        let Answer::Served(mut stream) = pair.ask_server().await else {
            panic!("an enabled behaviour serves");
        };
        pair.assert_echoes(&mut stream).await;
        // The late handler can also open streams.
        let Answer::Served(mut outbound) = pair.ask_client().await else {
            panic!("an enabled behaviour can ask");
        };

        pair.during_disable(switch.disable()).await;

        pair.until_identify_shows(false).await;
        assert!(!pair.ask_server().await.is_served());
        pair.assert_ends(&mut stream).await;
        // This end is ours, not the handler's: it outlives the handler.
        pair.assert_echoes(&mut outbound).await;
    }
}

#[tokio::test]
async fn behaviour_that_is_switched_directly_comes_back_to_the_open_connection() {
    let mut pair = Pair::connect(OptionalBehaviour::enabled(Echo::default())).await;
    assert!(pair.ask_server().await.is_served());

    let echo = pair.server.behaviour_mut().optional.disable();
    pair.until_identify_shows(false).await;
    assert!(!pair.ask_server().await.is_served());

    pair.server
        .behaviour_mut()
        .optional
        .enable(echo.expect("was enabled"));
    pair.until_identify_shows(true).await;
    assert!(pair.ask_server().await.is_served());
}

#[derive(NetworkBehaviour)]
struct Server {
    optional: OptionalBehaviour<Echo>,
    identify: identify::Behaviour,
}

#[derive(NetworkBehaviour)]
struct Client {
    echo: Echo,
    identify: identify::Behaviour,
}

/// Two connected swarms in one task. Any end of their connection fails the test.
struct Pair {
    server: Swarm<Server>,
    client: Swarm<Client>,
    /// The one connection, as each side calls it.
    connection: (ConnectionId, ConnectionId),
    /// What the client learned and no step has asked for yet.
    client_saw: VecDeque<ClientEvent>,
    server_answers: VecDeque<Answer>,
}

impl Pair {
    async fn connect(optional: OptionalBehaviour<Echo>) -> Self {
        let mut server = swarm(|identify| Server { optional, identify });
        let mut client = swarm(|identify| Client {
            echo: Echo::default(),
            identify,
        });

        let address = within(async {
            server
                .listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("valid address"))
                .expect("loopback can be listened on");
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
                    return address;
                }
            }
        })
        .await;
        client.dial(address).expect("address can be dialled");

        let connection = within(async {
            let (mut server_id, mut client_id) = (None, None);
            let (mut server_knows, mut client_knows) = (false, false);
            loop {
                tokio::select! {
                    event = server.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                            server_id = Some(connection_id);
                        }
                        // Identify pushes nothing before its first exchange.
                        SwarmEvent::Behaviour(ServerEvent::Identify(
                            identify::Event::Received { .. },
                        )) => server_knows = true,
                        _ => {}
                    },
                    event = client.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                            client_id = Some(connection_id);
                        }
                        SwarmEvent::Behaviour(ClientEvent::Identify(
                            identify::Event::Received { .. },
                        )) => client_knows = true,
                        _ => {}
                    },
                }
                if let (Some(server), Some(client), true, true) =
                    (server_id, client_id, server_knows, client_knows)
                {
                    return (server, client);
                }
            }
        })
        .await;

        Self {
            server,
            client,
            connection,
            client_saw: VecDeque::new(),
            server_answers: VecDeque::new(),
        }
    }

    /// Lets both swarms take one step.
    async fn step(&mut self) {
        tokio::select! {
            event = self.server.select_next_some() => match event {
                SwarmEvent::Behaviour(ServerEvent::Optional((connection, answer))) => {
                    assert_eq!(connection, self.connection.0);
                    self.server_answers.push_back(answer);
                }
                SwarmEvent::ConnectionClosed { cause, .. } => panic!("server lost it: {cause:?}"),
                _ => {}
            },
            event = self.client.select_next_some() => match event {
                SwarmEvent::Behaviour(event) => self.client_saw.push_back(event),
                SwarmEvent::ConnectionClosed { cause, .. } => panic!("client lost it: {cause:?}"),
                _ => {}
            },
        }
    }

    /// Drives both swarms until `future` resolves.
    async fn during_any<T>(&mut self, future: impl Future<Output = T>) -> T {
        within(async {
            tokio::pin!(future);
            loop {
                tokio::select! {
                    output = &mut future => return output,
                    () = self.step() => {}
                }
            }
        })
        .await
    }

    async fn during(&mut self, change: impl Future<Output = Result<(), NodeGone>>) {
        self.during_any(change).await.expect("the node is there");
        assert!(self.server.behaviour().optional.is_enabled());
    }

    async fn during_disable(&mut self, change: impl Future<Output = Result<(), NodeGone>>) {
        self.during_any(change).await.expect("the node is there");
        assert!(!self.server.behaviour().optional.is_enabled());
    }

    async fn ask_server(&mut self) -> Answer {
        let server = *self.server.local_peer_id();
        self.client.behaviour_mut().echo.ask(server);
        within(async {
            loop {
                let answer = self
                    .client_saw
                    .iter()
                    .position(|e| matches!(e, ClientEvent::Echo(_)))
                    .and_then(|index| self.client_saw.remove(index));
                if let Some(ClientEvent::Echo((connection, answer))) = answer {
                    assert_eq!(connection, self.connection.1);
                    return answer;
                }
                self.step().await;
            }
        })
        .await
    }

    async fn ask_client(&mut self) -> Answer {
        let client = *self.client.local_peer_id();
        let optional = &mut self.server.behaviour_mut().optional;
        optional.as_mut().expect("is enabled").ask(client);
        within(async {
            loop {
                if let Some(answer) = self.server_answers.pop_front() {
                    return answer;
                }
                self.step().await;
            }
        })
        .await
    }

    /// Waits for the push that says so, and drops what came before.
    async fn until_identify_shows(&mut self, served: bool) {
        within(async {
            loop {
                while let Some(event) = self.client_saw.pop_front() {
                    if let ClientEvent::Identify(identify::Event::Received {
                        connection_id,
                        info,
                        ..
                    }) = event
                    {
                        assert_eq!(connection_id, self.connection.1);
                        if info.protocols.contains(&ECHO) == served {
                            return;
                        }
                    }
                }
                self.step().await;
            }
        })
        .await;
    }

    async fn assert_echoes(&mut self, stream: &mut Stream) {
        let echoed = self.during_any(async {
            stream.write_all(b"x").await?;
            stream.flush().await?;
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            std::io::Result::Ok(byte)
        });
        assert_eq!(echoed.await.expect("the stream is open"), *b"x");
    }

    async fn assert_ends(&mut self, stream: &mut Stream) {
        let end = self.during_any(async {
            let mut byte = [0];
            stream.read(&mut byte).await
        });
        assert!(matches!(end.await, Ok(0) | Err(_)));
    }
}

async fn within<T>(step: impl Future<Output = T>) -> T {
    tokio::time::timeout(STEP, step)
        .await
        .expect("the step takes less than STEP")
}

fn swarm<B: NetworkBehaviour>(behaviour: impl FnOnce(identify::Behaviour) -> B) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .expect("noise can be configured")
        .with_behaviour(|key| {
            behaviour(identify::Behaviour::new(identify::Config::new(
                "/optional-test/1".to_owned(),
                key.public(),
            )))
        })
        .expect("behaviour is infallible")
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build()
}

/// What became of a request for a stream.
#[derive(Debug)]
enum Answer {
    Served(Stream),
    Refused,
}

impl Answer {
    fn is_served(&self) -> bool {
        matches!(self, Self::Served(_))
    }
}

/// Echoes bytes on inbound streams; opens an outbound one for each `ask`.
#[derive(Default)]
struct Echo {
    asks: VecDeque<PeerId>,
    answers: VecDeque<(ConnectionId, Answer)>,
}

impl Echo {
    fn ask(&mut self, peer: PeerId) {
        self.asks.push_back(peer);
    }
}

impl NetworkBehaviour for Echo {
    type ConnectionHandler = EchoHandler;
    type ToSwarm = (ConnectionId, Answer);

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<EchoHandler, ConnectionDenied> {
        Ok(EchoHandler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<EchoHandler, ConnectionDenied> {
        Ok(EchoHandler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, id: ConnectionId, answer: Answer) {
        self.answers.push_back((id, answer));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, Open>> {
        if let Some(answer) = self.answers.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(answer));
        }
        if let Some(peer_id) = self.asks.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::Any,
                event: Open,
            });
        }
        Poll::Pending
    }
}

#[derive(Debug)]
struct Open;

#[derive(Default)]
struct EchoHandler {
    opens: usize,
    answers: VecDeque<Answer>,
    /// The inbound streams; they end with the handler.
    echoing: futures::stream::FuturesUnordered<futures::future::BoxFuture<'static, ()>>,
}

impl ConnectionHandler for EchoHandler {
    type FromBehaviour = Open;
    type ToBehaviour = Answer;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(ECHO), ())
    }

    fn on_behaviour_event(&mut self, Open: Open) {
        self.opens += 1;
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => self.echoing.push(Box::pin(async move {
                let (mut read, mut write) = protocol.split();
                let _ = futures::io::copy(&mut read, &mut write).await;
            })),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => self.answers.push_back(Answer::Served(protocol)),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                assert!(matches!(error, StreamUpgradeError::NegotiationFailed));
                self.answers.push_back(Answer::Refused);
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Answer>> {
        while let Poll::Ready(Some(())) = self.echoing.poll_next_unpin(cx) {}
        if let Some(answer) = self.answers.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(answer));
        }
        if self.opens > 0 {
            self.opens -= 1;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(ECHO), ()),
            });
        }
        Poll::Pending
    }
}
