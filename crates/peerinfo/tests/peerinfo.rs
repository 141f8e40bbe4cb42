//! Nodes that ask and answer, and peers that do it badly.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

#[path = "../examples/plain_swarm.rs"]
mod plain_swarm;

use std::time::{Duration, SystemTime};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, swarm::SwarmEvent};
use pluto_p2p::{Node, P2PContext, behaviours::pluto::PlutoBehaviourEvent, exchange, proto::Frame};
use pluto_peerinfo::{
    AskError, Behaviour, Config, Event, Finding, InfoError, Local, Metrics, PROTOCOL,
};
use pluto_testkit::{QUIC, RawPeer, TCP, TRANSPORTS, config, ids, keys, within};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{sync::mpsc, task::JoinHandle};

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_tell_each_other_at_once_over_tcp_and_over_quic() {
    for listen in TRANSPORTS {
        let [ka, kb] = keys();
        let known = ids(&[ka.clone(), kb.clone()]);
        let mut a = Asker::start(&ka, &known, listen, local("ann")).await;
        let mut b = Asker::start(&kb, &known, listen, local("bob")).await;
        a.control.book().set(known[1], b.addresses.clone());

        for (asker, peer, nickname) in [(&mut a, known[1], "bob"), (&mut b, known[0], "ann")] {
            let Event::Received {
                peer: from,
                info,
                clock_offset,
                findings,
                ..
            } = asker.event().await
            else {
                panic!("not received")
            };
            assert_eq!((from, &info.nickname[..]), (peer, nickname));
            assert_eq!(info.dv_client, "pluto");
            assert!(clock_offset.millis.abs() < 500, "{clock_offset}");
            assert_eq!(findings, []);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_asked_again_and_again() {
    let [ka, kb] = keys();
    let known = ids(&[ka.clone(), kb.clone()]);
    let mut often = local("ann");
    // As often as it may be.
    often.interval = Duration::ZERO;
    let mut a = Asker::start(&ka, &known, TCP, often).await;
    let b = Asker::start(&kb, &known, TCP, local("bob")).await;
    a.control.book().set(known[1], b.addresses.clone());
    for _ in 0..5 {
        assert!(matches!(a.event().await, Event::Received { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_said() {
    let [ka, kb] = keys();
    let known = ids(&[ka.clone(), kb.clone()]);
    let mut a = Asker::start(&ka, &known, QUIC, local("ann")).await;
    let mut other = local("bob");
    other.local.lock_hash = vec![9; 32].into();
    other.local.builder_api = true;
    let b = Asker::start(&kb, &known, QUIC, other).await;
    a.control.book().set(known[1], b.addresses.clone());
    let Event::Received { findings, .. } = a.event().await else {
        panic!("not received")
    };
    assert_eq!(
        findings,
        [
            Finding::OtherLock,
            Finding::OtherBuilderApi { theirs: true }
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_name_the_peer_and_are_asked_for_again() {
    let [ka, kb] = keys();
    let known = ids(&[ka.clone(), kb.clone()]);
    let mut often = local("ann");
    // As often as it may be.
    often.interval = Duration::ZERO;
    let mut a = Asker::start(&ka, &known, TCP, often).await;
    let mut raw = RawPeer::start(kb).await;
    let mut streams = raw.serve(PROTOCOL_ID);
    assert!(raw.dial(known[0], &a.addresses[0]).await);

    let long = vec![0; pluto_peerinfo::MAX_FRAME + 1];
    let good = Local::new(vec![7; 32]).answer(SystemTime::now());
    for answer in [
        Frame::from_body(b""),
        Frame::from_body(b"\xff\xff"),
        Frame::from_body(&long),
        good,
    ] {
        let (peer, mut stream) = within(streams.next()).await.unwrap();
        assert_eq!(peer, known[0]);
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.close().await.unwrap();
        // The long answer resets the stream.
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    let mut errors = Vec::new();
    loop {
        match a.event().await {
            Event::Failed { peer, error } => {
                assert_eq!(peer, known[1]);
                errors.push(error);
            }
            Event::Received { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        matches!(
            &errors[..],
            [
                AskError::Info {
                    source: InfoError::NoTime { started: false },
                    ..
                },
                AskError::Info {
                    source: InfoError::Decode(_),
                    ..
                },
                AskError::Exchange(exchange::Error::TooLong { .. }),
            ]
        ),
        "{errors:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_is_answered() {
    let [ka, kb] = keys();
    let known = ids(&[ka.clone(), kb.clone()]);
    let a = Asker::start(&ka, &known, TCP, local("ann")).await;
    let mut raw = RawPeer::start(kb).await;
    assert!(raw.dial(known[0], &a.addresses[0]).await);
    for question in [&b""[..], b"\xff\xffnonsense"] {
        let mut stream = raw.open(known[0], PROTOCOL_ID).await.unwrap();
        let frame = Frame::from_body(question);
        stream.write_all(frame.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains("ann") && text.contains("pluto"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_speak_it_is_told_apart() {
    let [ka, kb] = keys();
    let known = ids(&[ka.clone(), kb.clone()]);
    let mut a = Asker::start(&ka, &known, TCP, local("ann")).await;
    let mut raw = RawPeer::start(kb).await;
    assert!(raw.dial(known[0], &a.addresses[0]).await);
    let Event::Failed { error, .. } = a.event().await else {
        panic!("received")
    };
    assert!(
        matches!(
            error,
            AskError::Exchange(exchange::Error::Unsupported { peer, .. }) if peer == known[1]
        ),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_learned_is_in_the_metrics_and_what_is_old_is_not() {
    let [ka, kb] = keys();
    let known = ids(&[ka.clone(), kb.clone()]);
    let mut registry = Registry::default();
    let mut counted = local("ann");
    counted.metrics = Some(Metrics::register(&mut registry));
    let mut a = Asker::start(&ka, &known, TCP, counted).await;

    for nickname in ["bob", "robert"] {
        let b = Asker::start(&kb, &known, TCP, local(nickname)).await;
        a.control.book().set(known[1], b.addresses.clone());
        while !matches!(a.event().await, Event::Received { .. }) {}
        b.stop().await;
    }
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let of = |name: &str, id: PeerId| format!("app_peerinfo_{name}{{peer=\"{id}\"");
    for expected in [
        format!("{}}} 1", of("index", known[1])),
        format!("{}}} 1", of("version_support", known[1])),
        format!("{}}} 0", of("builder_api_enabled", known[1])),
        format!("{},peer_nickname=\"robert\"}} 1", of("nickname", known[1])),
        format!("{},peer_nickname=\"ann\"}} 1", of("nickname", known[0])),
        format!("{},dv_client=\"pluto\"}} 1", of("dv_client", known[1])),
        format!("{},git_hash=\"unknown\"}} 1", of("git_commit", known[1])),
        of("clock_offset_seconds", known[1]),
        of("start_time_secs", known[1]),
    ] {
        assert!(text.contains(&expected), "no {expected} in\n{text}");
    }
    assert!(!text.contains("\"bob\""), "{text}");
}

#[test]
fn the_example_works() {
    plain_swarm::main().unwrap();
}

const PROTOCOL_ID: &str = "/charon/peerinfo/2.0.0";

#[test]
fn the_protocol_is_charons() {
    assert_eq!(PROTOCOL.as_ref(), PROTOCOL_ID);
}

fn local(nickname: &str) -> Config {
    let mut local = Local::new(vec![7; 32]);
    nickname.clone_into(&mut local.nickname);
    Config::new(local)
}

/// A node whose events of this protocol are seen.
struct Asker {
    addresses: Vec<libp2p::Multiaddr>,
    control: pluto_p2p::Control,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Asker {
    async fn start(
        key: &libp2p::identity::Keypair,
        known: &[PeerId],
        listen: &str,
        peerinfo: Config,
    ) -> Self {
        let context = P2PContext::new(known.iter().copied());
        let (mut node, ()) = Node::new(config(key, &[listen]), context, |builder| {
            let behaviour: Behaviour = pluto_peerinfo::new(builder.p2p_context(), peerinfo);
            Ok::<_, std::convert::Infallible>((behaviour, ()))
        })
        .unwrap();
        let control = node.control();
        let (sender, events) = mpsc::channel(1024);
        let task = tokio::spawn(async move {
            while let Some(event) = node.next().await {
                if let SwarmEvent::Behaviour(PlutoBehaviourEvent::Inner(event)) = event
                    && sender.send(event).await.is_err()
                {
                    return;
                }
            }
        });
        let addresses = within(control.listening()).await.unwrap();
        Self {
            addresses,
            control,
            events,
            task,
        }
    }

    async fn event(&mut self) -> Event {
        within(self.events.recv()).await.unwrap()
    }

    async fn stop(self) {
        self.task.abort();
        let _ = within(self.task).await;
    }
}
