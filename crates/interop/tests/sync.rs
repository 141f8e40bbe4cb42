//! A Pluto node as the fourth operator of a ceremony of three Charons, as far as sync goes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use libp2p::{PeerId, StreamProtocol, swarm::NetworkBehaviour};
use pluto_dkg::sync::{self, CharonVersion, Client, Config, ConfigError, Reason, Server, Step};
use pluto_interop::binaries;
use pluto_p2p::{
    Control, Node, P2PContext,
    exchange::{self, Budget, Protocol, Repeat, Shape, exchange},
};
use pluto_testkit::logs;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use self::support::{CHARONS, LIMIT, Setup};

mod support;

/// What Charons ask once barrier 1 is open, and would not go on without.
const HELD: [&str; 5] = [
    "/charon/dkg/bcast/1.0.0/sig",
    "/charon/dkg/bcast/1.0.0/msg",
    "/charon/dkg/bcast/2.0.0/sig",
    "/charon/dkg/bcast/2.0.0/msg",
    "/charon/dkg/frost/2.0.0/round1/p2p",
];

#[derive(NetworkBehaviour)]
struct Protocols {
    sync: sync::Behaviour,
    held: exchange::Behaviour,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_of_ours_is_read_by_every_charon() {
    logs();
    for binary in binaries("a_reason_of_ours_is_read_by_every_charon") {
        let begun = Begun::new(&binary).await;
        let client = &begun.ours.client;
        timeout(LIMIT, client.fail("the disk of operator four is full"))
            .await
            .unwrap();
        for charon in &begun.setup.charons {
            // One that waits for an answer to something else looks up when that ends, after 7 s.
            let line = charon
                .until_logged("the disk of operator four is full", Duration::from_secs(20))
                .await;
            match line {
                Ok(line) => println!("a Charon says: {line}"),
                Err(tail) => panic!("no Charon says why:\n{tail}"),
            }
        }
        begun.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charon_that_is_killed_ends_our_ceremony_with_its_name() {
    logs();
    for binary in binaries("a_charon_that_is_killed_ends_our_ceremony_with_its_name") {
        let mut begun = Begun::new(&binary).await;
        let killed = begun.ours.peers[1];
        let at = Instant::now();
        begun.setup.charons.remove(1).kill().await;
        let reason = timeout(LIMIT, begun.ours.server.ended()).await.unwrap();
        let took = at.elapsed();
        println!("after {took:?}: {reason}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(reason.peer(), Some(killed));
        assert!(
            matches!(reason, Reason::Lost { step: Step(1), .. }),
            "{reason:?}"
        );
        begun.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_charon_reaches_us_with_its_name() {
    logs();
    for binary in binaries("the_reason_of_a_charon_reaches_us_with_its_name") {
        let setup = Setup::new(&binary, 1).await;
        // The one that runs is not the one that they expect.
        let other = match setup.version {
            CharonVersion::V1_10 => CharonVersion::V1_11,
            _ => CharonVersion::V1_10,
        };
        let ours = Ours::start(&setup, Some(other));
        let reason = timeout(LIMIT, ours.server.ended()).await.unwrap();
        println!("{reason}");
        assert!(ours.peers[..CHARONS].contains(&reason.peer().unwrap()));
        assert!(
            matches!(reason, Reason::Told { .. } | Reason::Version { .. }),
            "{reason:?}"
        );
    }
}

/// A ceremony whose first barrier is open for all: each Charon has asked us for something and waits. One
/// that came later would end with the others, before it has heard why.
struct Begun {
    setup: Setup,
    ours: Ours,
}

impl Begun {
    async fn new(binary: &Path) -> Self {
        let setup = Setup::new(binary, 1).await;
        let mut ours = Ours::start(&setup, None);
        let token = CancellationToken::new();
        let began = Instant::now();
        let connected = timeout(LIMIT, ours.server.wait_connected(&token)).await;
        let agreed = match connected {
            Ok(agreed) => agreed.unwrap(),
            Err(_) => panic!("{:#?}\n{}", ours.server.progress(), setup.charons[0].tail()),
        };
        println!("connected after {:?}: {agreed:?}", began.elapsed());
        assert_eq!(agreed.version, setup.version);
        assert!(agreed.broadcast.is_some());

        let began = Instant::now();
        ours.client.set_step(Step(1));
        let open = timeout(LIMIT, ours.server.wait_step(Step(1), &token)).await;
        open.unwrap().unwrap();
        println!("barrier 1 open after {:?}", began.elapsed());
        let mut asking = BTreeSet::new();
        while asking.len() < CHARONS {
            let peer = timeout(LIMIT, ours.asked.recv()).await.unwrap();
            asking.extend(peer);
        }
        Self { setup, ours }
    }

    async fn stop(self) {
        for charon in self.setup.charons {
            charon.kill().await;
        }
        self.ours.control.shutdown();
    }
}

struct Ours {
    peers: Vec<PeerId>,
    control: Control,
    client: Client,
    server: Server,
    /// Who has asked for something, which is held.
    asked: mpsc::Receiver<PeerId>,
}

impl Ours {
    fn start(setup: &Setup, version: Option<CharonVersion>) -> Self {
        let peers = setup.peers.clone();
        let context = P2PContext::new(peers.iter().copied());
        let mut config = Config::new(peers.iter().copied(), setup.hash()).with_nickname("ours");
        config.charon_version = version;
        let (node, (client, server, mut inbound)) = Node::new(setup.node(), context, |builder| {
            let (sync, client, server) = sync::new(builder.p2p_context(), builder.key(), config)?;
            let held = HELD.map(|id| Protocol {
                ids: vec![StreamProtocol::new(id)],
                shape: Shape::RequestResponse,
                repeat: Repeat::Never,
                max_frame: 1 << 20,
                read_timeout: LIMIT,
                write_timeout: LIMIT,
            });
            let context = builder.p2p_context();
            let (held, _, inbound) = exchange(context, Budget::default(), held.to_vec());
            Ok::<_, ConfigError>((Protocols { sync, held }, (client, server, inbound)))
        })
        .unwrap();
        let (asks, asked) = mpsc::channel(HELD.len() * CHARONS);
        tokio::spawn(async move {
            // Neither answered nor refused.
            let mut held = Vec::new();
            while let Some(request) = inbound.recv().await {
                let _ = asks.try_send(request.peer);
                held.push(request);
            }
        });
        let control = node.control();
        tokio::spawn(node.run(CancellationToken::new()));
        Self {
            peers,
            control,
            client,
            server,
            asked,
        }
    }
}
