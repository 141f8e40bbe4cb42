//! Nodes that are reached through relays, and relays that misbehave.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, Transport as _, TransportError,
    core::upgrade::Version,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping, relay as server,
    swarm::{DialError, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use libp2p_stream::IncomingStreams;
use pluto_p2p::{
    Metrics, Node, NodeConfig, P2PContext, RelaySource,
    addr::is_relayed,
    behaviours::pluto::PlutoBehaviourEvent,
    bootnode::RelayPeer,
    conn_logger,
    exchange::{Budget, exchange},
    p2p_context::{FailureCause, ReservationState},
    proto::{NoMeter, write_protobuf},
    relay::{
        self, Refusal, ReserveError,
        wire::pb::{HopMessage, Reservation, StopMessage},
    },
};
use pluto_testkit::{LIMIT, Link, RawPeer, TCP, TRANSPORTS, addr, config, ids, keys, within};
use prometheus_client::registry::Registry;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::common::{Answers, answers, protocols};

const HOP_ID: &str = "/libp2p/circuit/relay/0.2.0/hop";
const STOP_ID: &str = "/libp2p/circuit/relay/0.2.0/stop";
/// Events of a node that a test has not looked at yet.
const EVENTS: usize = 256;

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_meet_through_a_relay_that_names_no_address() {
    for listen in TRANSPORTS {
        let [relay, a, b]: [Keypair; 3] = keys();
        let relay = Relay::start(relay, generous(), listen).await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn the_circuits_address_is_what_the_relay_names_or_how_it_was_reached() {
    let [relay, a]: [Keypair; 2] = keys();
    let quiet = Relay::start(relay, generous(), TCP).await;
    let link = Link::to(&quiet.address).await;
    let a_id = a.public().to_peer_id();
    let mut client = Client::at(&a, &[], quiet.id, &link.address()).await;
    let reached = circuit(&link.address(), quiet.id).with(Protocol::P2p(a_id));
    assert_eq!(within(client.circuits.recv()).await, Some(reached));

    let [relay, b]: [Keypair; 2] = keys();
    let named = addr("/ip4/93.184.215.14/tcp/3610");
    let loud = Relay::with(relay, generous(), TCP, std::slice::from_ref(&named)).await;
    let b_id = b.public().to_peer_id();
    let mut client = Client::start(&b, &[], &loud).await;
    let told = circuit(&named, loud.id).with(Protocol::P2p(b_id));
    assert_eq!(within(client.circuits.recv()).await, Some(told));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_relay_says_so_and_is_used_once_there_is_room() {
    let [relay, a, b]: [Keypair; 3] = keys();
    let one = server::Config {
        max_reservations: 1,
        ..generous()
    };
    let mut relay = Relay::start(relay, one, TCP).await;
    let mut a = Client::start(&a, &[], &relay).await;
    a.reserved().await;
    let mut b = Client::start(&b, &[], &relay).await;

    let event = b
        .event(|event| matches!(event, relay::Event::NotReserved { .. }))
        .await;
    let full = ReserveError::Refused(Refusal::ResourceLimitExceeded);
    let refused = relay::Event::NotReserved {
        relay: relay.id,
        trouble: full,
        held: false,
    };
    assert_eq!(event, refused);
    assert!(full.to_string().contains("limit exceeded"), "{full}");

    let gone = Instant::now();
    drop(a);
    relay
        .event(|event| matches!(event, server::Event::ReservationClosed { .. }))
        .await;
    b.reserved().await;
    assert!(
        gone.elapsed() < Duration::from_secs(5),
        "{:?}",
        gone.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_reservation_is_renewed_before_it_ends() {
    let [relay, a]: [Keypair; 2] = keys();
    let short = server::Config {
        reservation_duration: Duration::from_secs(3),
        ..generous()
    };
    let relay = Relay::start(relay, short, TCP).await;
    let mut a = Client::start(&a, &[], &relay).await;

    for renewal in [false, true, true] {
        let event = within(a.events.recv()).await.unwrap();
        assert!(
            matches!(event, relay::Event::Reserved { renewal: was, .. } if was == renewal),
            "{event:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_is_not_renewed_ends_with_its_time() {
    let (_relay, mut asked, mut a) = by_hand().await;

    let until = unix_secs() + 3;
    grant(&mut asked, until).await;
    a.reserved().await;
    // It does not answer any more.
    let held = a.event(|event| matches!(event, relay::Event::NotReserved { .. }));
    tokio::select! {
        event = held => assert!(
            matches!(event, relay::Event::NotReserved { trouble, held: true, .. }
                if trouble == ReserveError::Refused(Refusal::ReservationRefused)),
            "{event:?}"
        ),
        () = refuse(&mut asked) => unreachable!("the relay stays"),
    }
    tokio::select! {
        _ = a.event(|event| matches!(event, relay::Event::Expired { .. })) => {}
        () = refuse(&mut asked) => unreachable!("the relay stays"),
    }
    assert!(unix_secs() >= until && unix_secs() <= until + 1);
    within(async {
        while !a.control.addresses().listen.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    grant(&mut asked, unix_secs() + 3600).await;
    a.reserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_connection_is_reset_is_reserved_again() {
    let [relay, a, b]: [Keypair; 3] = keys();
    let relay = Relay::start(relay, generous(), TCP).await;
    let link = Link::to(&relay.address).await;
    let known = ids(&[a.clone(), b.clone()]);
    let mut a = Client::at(&a, &known, relay.id, &link.address()).await;
    let b = Client::start(&b, &known, &relay).await;
    a.reserved().await;

    link.cut();
    let cut = Instant::now();
    a.event(|event| matches!(event, relay::Event::Lost { .. }))
        .await;
    a.reserved().await;

    println!("reserved again {:?} after the reset", cut.elapsed());
    assert!(cut.elapsed() < Duration::from_secs(5));
    b.control
        .dial(a.id, vec![relay.circuit(a.id)])
        .await
        .unwrap();
    within(a.context.connected(b.id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_comes_back_is_reserved_within_five_seconds() {
    let [relay, a]: [Keypair; 2] = keys();
    let first = Relay::start(relay.clone(), generous(), TCP).await;
    let address = first.address.to_string();
    let mut a = Client::start(&a, &[], &first).await;
    a.reserved().await;

    first.stop().await;
    a.event(|event| matches!(event, relay::Event::Lost { .. }))
        .await;
    // Until the dialler waits as long as it ever does.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let back = Instant::now();
    let _second = Relay::start(relay, generous(), &address).await;
    a.reserved().await;

    println!(
        "reserved again {:?} after the relay was back",
        back.elapsed()
    );
    assert!(back.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_closed_takes_the_reservation_with_it() {
    let [relay, a, b]: [Keypair; 3] = keys();
    let relay = Relay::start(relay, generous(), TCP).await;
    let (a_id, mut a) = plain(&a, &[relay.id]);
    let (_, mut b) = plain(&b, &[relay.id]);
    for swarm in [&mut a, &mut b] {
        connect(swarm, &relay).await;
    }
    let listener = a.listen_on(relay.listener()).unwrap();
    let at = until(&mut a, |event| match event {
        SwarmEvent::NewListenAddr {
            listener_id,
            address,
        } if listener_id == listener => Some(address),
        _ => None,
    })
    .await;
    assert_eq!(at, relay.circuit(a_id));

    let second = a.listen_on(relay.listener()).unwrap();
    let error = until(&mut a, |event| match event {
        SwarmEvent::ListenerClosed {
            listener_id,
            reason,
            ..
        } if listener_id == second => Some(reason),
        _ => None,
    })
    .await
    .unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");

    assert!(a.remove_listener(listener));
    until(&mut a, |event| match event {
        SwarmEvent::ListenerClosed {
            listener_id,
            reason,
            ..
        } if listener_id == listener => {
            assert!(reason.is_ok());
            Some(())
        }
        _ => None,
    })
    .await;
    assert_eq!(a.behaviour().relay.reservation(&relay.id), None);

    // The relay still believes that there is one; the circuit is refused with a status, for which
    // libp2p's relay has this word only.
    b.dial(relay.circuit(a_id)).unwrap();
    let refused = async {
        loop {
            tokio::select! {
                _ = a.next() => {}
                error = failure(&mut b, a_id) => break error,
            }
        }
    };
    let error = within(refused).await;
    assert_eq!(
        relay::refusal_of(&error),
        Some(Refusal::UnexpectedMessage),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_through_a_relay_says_in_words_why_it_failed() {
    let [relay, a, b]: [Keypair; 3] = keys();
    let relay = Relay::start(relay, generous(), TCP).await;
    let [other] = keys();
    let other = RawPeer::start(other).await;
    let b = b.public().to_peer_id();
    let known = [b, other.id()];
    let mut a = Client::with(
        config(&a, &[]),
        &known,
        relay.id,
        &addr("/ip4/127.0.0.1/tcp/1"),
    )
    .await;

    let began = Instant::now();
    let error = a.refused(b, relay.circuit(b)).await;
    assert!(began.elapsed() < Duration::from_secs(1), "at once");
    assert!(
        matches!(relay::error_of(&error), Some(relay::Error::NotConnected { relay: by }) if *by == relay.id),
        "{error}"
    );

    assert_eq!(
        a.failure(b, &relay),
        FailureCause::RelayNotConnected { relay: relay.id }
    );

    a.control.book().set(relay.id, vec![relay.address.clone()]);
    within(a.context.connected(relay.id)).await.unwrap();
    let error = a.refused(b, relay.circuit(b)).await;
    assert_eq!(
        relay::refusal_of(&error),
        Some(Refusal::NoReservation),
        "{error}"
    );
    assert!(
        Refusal::NoReservation
            .to_string()
            .contains("no reservation")
    );

    assert_eq!(
        a.failure(b, &relay),
        FailureCause::NoReservation { relay: relay.id }
    );

    // Somebody who is no relay.
    a.control.book().set(other.id(), other.addresses.clone());
    within(a.context.connected(other.id())).await.unwrap();
    let through = circuit(&other.addresses[0], other.id()).with(Protocol::P2p(b));
    let error = a.refused(b, through).await;
    let Some(relay::Error::Connect { source, .. }) = relay::error_of(&error) else {
        panic!("{error}")
    };
    assert!(matches!(source, relay::hop::Error::Unsupported), "{source}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_from_a_peer_that_is_no_relay_is_refused() {
    let [relay, a, b]: [Keypair; 3] = keys();
    let relay = Relay::start(relay, generous(), TCP).await;
    let mut other = RawPeer::start(b).await;
    let config = config(&a, &[TCP]);
    let mut a = Client::with(config, &[other.id()], relay.id, &relay.address).await;
    a.reserved().await;
    let listening = within(a.control.listening()).await.unwrap();
    assert!(other.dial(a.id, &listening[0]).await);

    let mut stream = other.open(a.id, STOP_ID).await.unwrap();
    let request = StopMessage::connect(PeerId::random());
    write_protobuf(&mut stream, &request, LIMIT).await.unwrap();

    // STATUS, NO_RESERVATION.
    assert_eq!(&frame(&mut stream).await[..], [8, 1, 0x20, 0xcc, 1]);
    assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_answer_is_told_and_the_relay_is_asked_again() {
    let (_relay, mut asked, mut a) = by_hand().await;

    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    let grant_without_data = [5, 8, 2, 0x28, 100, 0];
    for (said, trouble) in [
        (&huge[..], ReserveError::Malformed),
        (&[3, 0xff, 0xff, 0xff], ReserveError::Malformed),
        (&[2, 8, 0], ReserveError::Malformed),
        (&grant_without_data, ReserveError::Malformed),
        (&[], ReserveError::Broken),
    ] {
        let (_, mut stream) = within(asked.next()).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream.close().await.unwrap();
        let event = a
            .event(|event| matches!(event, relay::Event::NotReserved { .. }))
            .await;
        let relay::Event::NotReserved {
            trouble: told,
            held: false,
            ..
        } = event
        else {
            panic!("{event:?}")
        };
        assert_eq!(told, trouble, "{said:?}");
    }

    grant(&mut asked, unix_secs() + 3600).await;
    a.reserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_opens_more_than_it_says_costs_a_bounded_number_of_streams() {
    let (mut relay, mut asked, mut a) = by_hand().await;
    grant(&mut asked, unix_secs() + 3600).await;
    a.reserved().await;

    let mut silent = Vec::new();
    for _ in 0..relay::MAX_STOP {
        silent.push(relay.open(a.id, STOP_ID).await.unwrap());
    }
    let mut one_more = relay.open(a.id, STOP_ID).await.unwrap();
    let ended = within(one_more.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "it is reset");
    // A place is free again once one has ended.
    let mut said = silent.pop().unwrap();
    said.write_all(&[1, 0xff]).await.unwrap();
    said.flush().await.unwrap();
    // STATUS, MALFORMED_MESSAGE.
    assert_eq!(&frame(&mut said).await[..], [8, 1, 0x20, 0x90, 3]);
    assert_eq!(within(said.read(&mut [0])).await.unwrap(), 0);
    let mut next = relay.open(a.id, STOP_ID).await.unwrap();
    next.write_all(&[1, 0xff]).await.unwrap();
    next.flush().await.unwrap();
    assert_eq!(&frame(&mut next).await[..], [8, 1, 0x20, 0x90, 3]);
}

/// A relay that answers by hand what it is asked on HOP, and a node that uses it.
async fn by_hand() -> (RawPeer, IncomingStreams, Client) {
    let [relay, a] = keys();
    let mut relay = RawPeer::start(relay).await;
    let asked = relay.serve(HOP_ID);
    let a = Client::at(&a, &[], relay.id(), &relay.addresses[0]).await;
    (relay, asked, a)
}

/// Grants what is asked for next.
async fn grant(asked: &mut IncomingStreams, until: u64) {
    let (_, mut stream) = within(asked.next()).await.unwrap();
    assert_eq!(
        &frame(&mut stream).await[..],
        [8, 0],
        "a request to reserve"
    );
    let granted = HopMessage {
        reservation: Some(Reservation {
            expire: Some(until),
            ..Reservation::default()
        }),
        ..HopMessage::answer(100)
    };
    write_protobuf(&mut stream, &granted, LIMIT).await.unwrap();
    stream.close().await.unwrap();
}

/// Refuses whatever is asked for from now on.
async fn refuse(asked: &mut IncomingStreams) {
    while let Some((_, mut stream)) = asked.next().await {
        let refused = HopMessage::answer(200);
        write_protobuf(&mut stream, &refused, LIMIT).await.unwrap();
        stream.close().await.unwrap();
    }
}

async fn frame(stream: &mut libp2p::Stream) -> bytes::Bytes {
    pluto_p2p::proto::read_body(stream, relay::MAX_FRAME, LIMIT, &mut NoMeter)
        .await
        .unwrap()
}

fn unix_secs() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn circuit(relay: &Multiaddr, id: PeerId) -> Multiaddr {
    relay
        .clone()
        .with(Protocol::P2p(id))
        .with(Protocol::P2pCircuit)
}

/// The relay client in a swarm that is no node.
#[derive(NetworkBehaviour)]
struct Plain {
    conn_logger: conn_logger::Behaviour,
    relay: relay::Behaviour,
    ping: ping::Behaviour,
}

fn plain(key: &Keypair, known: &[PeerId]) -> (PeerId, Swarm<Plain>) {
    let id = key.public().to_peer_id();
    let context = P2PContext::new(known.iter().copied());
    context.bind(id).unwrap();
    let (transport, relay) = relay::new(id, context.clone(), 1);
    let swarm = SwarmBuilder::with_existing_identity(key.clone())
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_other_transport(|key| {
            transport
                .upgrade(Version::V1Lazy)
                .authenticate(noise::Config::new(key).unwrap())
                .multiplex(yamux::Config::default())
        })
        .unwrap()
        .with_behaviour(|_| Plain {
            conn_logger: conn_logger::Behaviour::new(context),
            relay,
            ping: ping::Behaviour::default(),
        })
        .unwrap()
        .with_swarm_config(|config| {
            config
                .with_idle_connection_timeout(Duration::from_secs(60))
                .with_substream_upgrade_protocol_override(Version::V1Lazy)
        })
        .build();
    (id, swarm)
}

async fn connect(swarm: &mut Swarm<Plain>, relay: &Relay) {
    let opts = DialOpts::peer_id(relay.id)
        .addresses(vec![relay.address.clone()])
        .build();
    swarm.dial(opts).unwrap();
    until(swarm, |event| match event {
        SwarmEvent::ConnectionEstablished { peer_id, .. } => (peer_id == relay.id).then_some(()),
        _ => None,
    })
    .await;
}

/// Why a dial to the peer failed.
async fn failure(swarm: &mut Swarm<Plain>, peer: PeerId) -> std::io::Error {
    let error = until(swarm, |event| match event {
        SwarmEvent::OutgoingConnectionError { peer_id, error, .. } if peer_id == Some(peer) => {
            Some(error)
        }
        _ => None,
    })
    .await;
    reason(error)
}

fn reason(error: DialError) -> std::io::Error {
    match error {
        DialError::Transport(mut errors) => match errors.pop().unwrap().1 {
            TransportError::Other(error) => error,
            error => panic!("{error}"),
        },
        error => panic!("{error}"),
    }
}

async fn until<T>(
    swarm: &mut Swarm<Plain>,
    mut wanted: impl FnMut(SwarmEvent<PlainEvent>) -> Option<T>,
) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted(swarm.select_next_some().await) {
                return found;
            }
        }
    };
    within(wait).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_and_the_metrics_tell_how_it_stands() {
    let [relay, a, b]: [Keypair; 3] = keys();
    let one = server::Config {
        max_reservations: 1,
        ..generous()
    };
    let relay = Relay::start(relay, one, TCP).await;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let a_config = config(&a, &[]).with_metrics(metrics);
    let mut a = Client::with(a_config, &[], relay.id, &relay.address).await;
    let id = relay.id;
    let told = |registry: &Registry| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        let name = format!("p2p_relay_connections{{peer=\"{id}\"}} ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&name));
        lines.next().map(str::to_owned)
    };

    a.reserved().await;
    let state = a
        .standing(|state| matches!(state, ReservationState::Reserved { .. }))
        .await;
    let ReservationState::Reserved {
        limit: Some(limit), ..
    } = state
    else {
        panic!("{state:?}")
    };
    assert_eq!(limit.duration, Some(Duration::from_secs(3600)));
    assert_eq!(told(&registry).as_deref(), Some("1"));

    let b = Client::start(&b, &[], &relay).await;
    let state = b
        .standing(|state| matches!(state, ReservationState::Waiting { .. }))
        .await;
    let ReservationState::Waiting { cause, .. } = state else {
        unreachable!()
    };
    assert!(cause.to_string().contains("limit exceeded"), "{cause}");

    relay.stop().await;
    a.event(|event| matches!(event, relay::Event::Lost { .. }))
        .await;
    a.standing(|state| matches!(state, ReservationState::Lost))
        .await;
    assert_eq!(told(&registry).as_deref(), Some("0"));
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
    task: JoinHandle<Option<()>>,
    stop: DropGuard,
}

#[derive(NetworkBehaviour)]
struct RelayBehaviour {
    relay: server::Behaviour,
    ping: ping::Behaviour,
}

impl Relay {
    async fn start(key: Keypair, config: server::Config, listen: &str) -> Self {
        Self::with(key, config, listen, &[]).await
    }

    /// One that tells these addresses to its clients.
    async fn with(
        key: Keypair,
        config: server::Config,
        listen: &str,
        external: &[Multiaddr],
    ) -> Self {
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
        for address in external {
            swarm.add_external_address(address.clone());
        }
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
        let task = tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(serve(swarm, happens)),
        );
        Self {
            id,
            address,
            events,
            task,
            stop: stop.drop_guard(),
        }
    }

    /// Ends it, and returns once its port is free.
    async fn stop(self) {
        drop(self.stop);
        within(self.task).await.unwrap();
    }

    fn listener(&self) -> Multiaddr {
        circuit(&self.address, self.id)
    }

    /// Waits for an event.
    async fn event(&mut self, wanted: impl Fn(&server::Event) -> bool) {
        while !wanted(&within(self.events.recv()).await.unwrap()) {}
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
    failures: mpsc::Receiver<(Option<PeerId>, DialError)>,
    circuits: mpsc::Receiver<Multiaddr>,
    _stop: DropGuard,
}

impl Client {
    async fn start(key: &Keypair, known: &[PeerId], relay: &Relay) -> Self {
        Self::at(key, known, relay.id, &relay.address).await
    }

    /// With a relay that is found there.
    async fn at(key: &Keypair, known: &[PeerId], relay: PeerId, address: &Multiaddr) -> Self {
        Self::with(config(key, &[]), known, relay, address).await
    }

    async fn with(
        config: NodeConfig,
        known: &[PeerId],
        relay: PeerId,
        address: &Multiaddr,
    ) -> Self {
        let config = config.with_relays([RelaySource::Peer(RelayPeer {
            id: relay,
            addresses: vec![address.clone()],
        })]);
        let id = config.key.public().to_peer_id();
        let context = P2PContext::new(known.iter().copied());
        let (mut node, answers) = Node::new(config, context.clone(), |builder| {
            let (behaviour, calls, inbound) =
                exchange(builder.p2p_context(), Budget::default(), protocols());
            Ok::<_, std::convert::Infallible>((behaviour, answers(calls, inbound)))
        })
        .unwrap();
        let control = node.control();
        let (happens, events) = mpsc::channel(EVENTS);
        let (fails, failures) = mpsc::channel(EVENTS);
        let (listens, circuits) = mpsc::channel(EVENTS);
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Some(event) = node.next().await {
                match event {
                    SwarmEvent::Behaviour(PlutoBehaviourEvent::Relay(event)) => {
                        let _ = happens.try_send(event);
                    }
                    SwarmEvent::NewListenAddr { address, .. } if is_relayed(&address) => {
                        let _ = listens.try_send(address);
                    }
                    SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                        let _ = fails.try_send((peer_id, error));
                    }
                    _ => {}
                }
            }
        }));
        Self {
            id,
            context,
            control,
            answers,
            events,
            failures,
            circuits,
            _stop: stop.drop_guard(),
        }
    }

    /// Waits until it stands so with the reservation on its relay.
    async fn standing(&self, so: impl Fn(&ReservationState) -> bool) -> ReservationState {
        let state = self.context.wait_for(|view| {
            let state = &view.relays.first()?.reservation;
            so(state).then(|| state.clone())
        });
        within(state).await.unwrap()
    }

    /// Dials, and tells why that failed. The node itself may be dialling elsewhere.
    async fn refused(&mut self, peer: PeerId, at: Multiaddr) -> std::io::Error {
        let dial = self.control.dial(peer, vec![at.clone()]);
        within(dial).await.unwrap_err();
        loop {
            let (failed, error) = within(self.failures.recv()).await.unwrap();
            if failed == Some(peer)
                && let DialError::Transport(mut errors) = error
                && let Some((address, TransportError::Other(error))) = errors.pop()
                && address == at
            {
                return error;
            }
        }
    }

    /// What the context knows of the circuits to the peer.
    fn failure(&self, peer: PeerId, relay: &Relay) -> FailureCause {
        let view = self.context.view();
        let mut failures = view.peer(&peer).unwrap().failures.iter();
        let failure = failures.find(|failure| failure.address == Some(relay.listener()));
        failure.unwrap().cause.clone()
    }

    async fn reserved(&mut self) {
        self.event(|event| matches!(event, relay::Event::Reserved { .. }))
            .await;
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
