//! Nodes that are reached through relays, and relays that misbehave.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::time::Duration;

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping, relay as server,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use pluto_p2p::{
    Node, NodeConfig, P2PContext,
    behaviours::pluto::PlutoBehaviourEvent,
    exchange::{Budget, exchange},
    relay,
};
use pluto_testkit::{TCP, addr, config, ids, keys, within};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::common::{Answers, answers, protocols};

/// Events of a node that a test has not looked at yet.
const EVENTS: usize = 256;

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_meet_through_a_relay_that_names_no_address() {
    let [relay, a, b]: [Keypair; 3] = keys();
    let relay = Relay::start(relay, generous(), TCP).await;
    let known = ids(&[a.clone(), b.clone()]);
    let mut a = Client::start(&a, &known, &relay).await;
    let mut b = Client::start(&b, &known, &relay).await;

    for client in [&mut a, &mut b] {
        let event = client
            .event(|event| matches!(event, relay::Event::Reserved { .. }))
            .await;
        let relay::Event::Reserved {
            relay: by,
            renewal,
            term,
            ..
        } = event
        else {
            unreachable!()
        };
        assert_eq!((by, renewal), (relay.id, false));
        assert!(term > Duration::from_secs(3500) && term <= Duration::from_secs(3600));
    }
    a.control
        .dial(b.id, vec![relay.circuit(b.id)])
        .await
        .unwrap();
    let peer = within(a.context.connected(b.id)).await.unwrap();

    assert_eq!(peer.paths[0].relay, Some(relay.id));
    let answer = within(a.answers.ask(b.id, b"through?")).await.unwrap();
    assert_eq!(&answer.body[..], b"through?");
    let answer = within(b.answers.ask(a.id, b"and back?")).await.unwrap();
    assert_eq!(&answer.body[..], b"and back?");
    let path = &b.context.view().peer(&a.id).unwrap().paths[0].clone();
    assert_eq!(path.relay, Some(relay.id), "{path:?}");
}

fn generous() -> server::Config {
    server::Config {
        max_circuit_duration: Duration::from_secs(3600),
        max_circuit_bytes: 64 << 20,
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..server::Config::default()
    }
}

/// A relay of libp2p without a public address.
struct Relay {
    id: PeerId,
    address: Multiaddr,
    events: mpsc::Receiver<server::Event>,
    _stop: DropGuard,
}

#[derive(NetworkBehaviour)]
struct RelayBehaviour {
    relay: server::Behaviour,
    ping: ping::Behaviour,
}

impl Relay {
    async fn start(key: Keypair, config: server::Config, listen: &str) -> Self {
        let id = key.public().to_peer_id();
        let mut swarm = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_quic()
            .with_behaviour(|_| RelayBehaviour {
                relay: server::Behaviour::new(id, config),
                ping: ping::Behaviour::default(),
            })
            .unwrap()
            .build();
        // Without an external address it would not serve; and it has none to tell.
        swarm
            .behaviour_mut()
            .relay
            .set_status(Some(server::Status::Enable));
        swarm.listen_on(addr(listen)).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } =
                within(swarm.select_next_some()).await
            {
                break address;
            }
        };
        let (happens, events) = mpsc::channel(EVENTS);
        let stop = CancellationToken::new();
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(serve(swarm, happens)),
        );
        Self {
            id,
            address,
            events,
            _stop: stop.drop_guard(),
        }
    }

    fn listener(&self) -> Multiaddr {
        self.address
            .clone()
            .with(Protocol::P2p(self.id))
            .with(Protocol::P2pCircuit)
    }

    fn circuit(&self, to: PeerId) -> Multiaddr {
        self.listener().with(Protocol::P2p(to))
    }
}

async fn serve(mut swarm: Swarm<RelayBehaviour>, happens: mpsc::Sender<server::Event>) {
    loop {
        if let SwarmEvent::Behaviour(RelayBehaviourEvent::Relay(event)) =
            swarm.select_next_some().await
        {
            // A test that does not look loses the news, not the relay.
            let _ = happens.try_send(event);
        }
    }
}

/// A node that answers questions and is reached through relays.
struct Client {
    id: PeerId,
    context: P2PContext,
    control: pluto_p2p::Control,
    answers: Answers,
    events: mpsc::Receiver<relay::Event>,
    _stop: DropGuard,
}

impl Client {
    async fn start(key: &Keypair, known: &[PeerId], relay: &Relay) -> Self {
        let config = config(key, &[]).with_listen(relay.listener());
        Self::with(config, known, relay).await
    }

    async fn with(config: NodeConfig, known: &[PeerId], relay: &Relay) -> Self {
        let id = config.key.public().to_peer_id();
        let context = P2PContext::new(known.iter().copied().chain([relay.id]));
        let (mut node, answers) = Node::new(config, context.clone(), |builder| {
            let (behaviour, calls, inbound) =
                exchange(builder.p2p_context(), Budget::default(), protocols());
            Ok::<_, std::convert::Infallible>((behaviour, answers(calls, inbound)))
        })
        .unwrap();
        let control = node.control();
        control.book().set(relay.id, vec![relay.address.clone()]);
        let (happens, events) = mpsc::channel(EVENTS);
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Some(event) = node.next().await {
                if let SwarmEvent::Behaviour(PlutoBehaviourEvent::Relay(event)) = event {
                    let _ = happens.try_send(event);
                }
            }
        }));
        Self {
            id,
            context,
            control,
            answers,
            events,
            _stop: stop.drop_guard(),
        }
    }

    /// Waits for an event.
    async fn event(&mut self, wanted: impl Fn(&relay::Event) -> bool) -> relay::Event {
        loop {
            let event = within(self.events.recv()).await.unwrap();
            if wanted(&event) {
                return event;
            }
        }
    }
}
