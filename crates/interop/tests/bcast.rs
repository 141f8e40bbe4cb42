//! A Pluto node as the fourth operator of a ceremony of three Charons, as far as the broadcasts of the
//! first FROST round go.
//!
//! What ours says is what a Charon in its place said in a recorded ceremony: FROST binds nothing of
//! round 1 to the ceremony (dkg spec, section 4.5), so that the others take it and go on.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::future::join_all;
use libp2p::{PeerId, StreamProtocol, swarm::NetworkBehaviour};
use pluto_crypto::bls;
use pluto_dkg::{
    bcast::{self, Component, Delivered},
    sync::{self, Client, Server, Step},
};
use pluto_interop::binaries;
use pluto_p2p::{
    Control, Node, P2PContext,
    exchange::{self, Budget, Protocol, Repeat, Shape, Slot, exchange},
    proto::Frame,
};
use pluto_testkit::logs;
use prost::{Message, Name};
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use self::support::{CHARONS, LIMIT, Setup};

mod support;

/// What is broadcast in round 1.
const CASTS: &str = "/charon/dkg/frost/2.0.0/round1/cast";
/// The shares of round 1, which every Charon sends next to each operator and would not go on without.
const SHARES: StreamProtocol = StreamProtocol::new("/charon/dkg/frost/2.0.0/round1/p2p");
/// As many as in the recorded ceremony.
const VALIDATORS: usize = 2;
const RECORDED: &str = "n=4 t=3, 2 validators";
/// Far above what a round takes, below what a peer that is waited for may take.
const ROUND: Duration = Duration::from_secs(30);

/// The messages of the wire (dkg spec, section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
struct FrostMsgKey {
    #[prost(uint32, tag = "1")]
    val_idx: u32,
    #[prost(uint32, tag = "2")]
    source_id: u32,
    #[prost(uint32, tag = "3")]
    target_id: u32,
}

#[derive(Clone, PartialEq, Message)]
struct FrostRound1Cast {
    #[prost(message, optional, tag = "1")]
    key: Option<FrostMsgKey>,
    #[prost(bytes = "vec", tag = "2")]
    wi: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    ci: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    commitments: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct FrostRound1Casts {
    #[prost(message, repeated, tag = "1")]
    casts: Vec<FrostRound1Cast>,
}

impl Name for FrostRound1Casts {
    const NAME: &'static str = "FrostRound1Casts";
    const PACKAGE: &'static str = "dkg.dkgpb.v1";
}

impl FrostRound1Casts {
    /// One for each validator, with a commitment for each coefficient, all of them points.
    fn is_complete(&self, peer: usize, threshold: usize) -> Result<(), String> {
        let keys: BTreeSet<_> = self.casts.iter().filter_map(|cast| cast.key).collect();
        let source_id = u32::try_from(peer + 1).unwrap();
        let expected = (0..VALIDATORS as u32).map(|val_idx| FrostMsgKey {
            val_idx,
            source_id,
            target_id: 0,
        });
        if self.casts.len() != VALIDATORS || keys != expected.collect() {
            return Err(format!("casts of {keys:?}"));
        }
        for cast in &self.casts {
            if cast.wi.len() != 32 || cast.ci.len() != 32 || cast.commitments.len() != threshold {
                return Err(format!("{} commitments", cast.commitments.len()));
            }
            for commitment in &cast.commitments {
                let point = commitment[..].try_into().map(bls::PublicKey::from_bytes);
                if !matches!(point, Ok(Ok(_))) {
                    return Err("a commitment is no point".to_owned());
                }
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_three_charons_broadcast_is_signed_by_us_and_delivered_complete() {
    logs();
    for binary in binaries("what_three_charons_broadcast_is_signed_by_us_and_delivered_complete") {
        let mut begun = Begun::new(&binary).await;
        let threshold = begun.threshold();
        let mut missing: BTreeSet<usize> = (0..CHARONS).collect();
        while !missing.is_empty() {
            let delivered = timeout(ROUND, begun.ours.casts.recv()).await;
            let Ok(delivered) = delivered else {
                panic!("nothing of {missing:?}:\n{}", begun.tails());
            };
            let Delivered { peer, idx, message } = delivered.unwrap();
            let idx = idx.as_usize();
            assert_eq!(peer, begun.setup.peers[idx]);
            message.is_complete(idx, threshold).unwrap();
            assert!(missing.remove(&idx), "the one of {idx} came twice");
            let commitments = message.casts.iter().map(|cast| cast.commitments.len());
            println!(
                "from operator {idx}: {} validators, {} commitments, {:?} after barrier 1",
                message.casts.len(),
                commitments.sum::<usize>(),
                begun.since.elapsed(),
            );
        }
        assert_eq!(begun.ours.component.equivocations(), []);
        begun.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_broadcast_is_signed_by_three_charons_and_reaches_them() {
    logs();
    for binary in binaries("what_we_broadcast_is_signed_by_three_charons_and_reaches_them") {
        let Some(recorded) = Recorded::read() else {
            return;
        };
        let begun = Begun::new(&binary).await;
        recorded
            .casts
            .is_complete(CHARONS, begun.threshold())
            .unwrap();

        // Every other operator has signed it, and confirmed that it got it with all signatures.
        let began = Instant::now();
        let broadcast = begun.ours.component.broadcast(CASTS, &recorded.casts);
        match timeout(ROUND, broadcast).await {
            Ok(confirmed) => confirmed.unwrap(),
            Err(_) => panic!("not confirmed:\n{}", begun.tails()),
        }
        println!("ours is confirmed by all after {:?}", began.elapsed());
        let generation = begun.ours.component.generation();
        assert_eq!(generation, Some(begun.setup.generation));

        // And no Charon finishes the round without it.
        let send = recorded.shares.iter().zip(&begun.setup.peers);
        let send = send.map(|(message, peer)| begun.ours.send_shares(*peer, message));
        join_all(send).await;
        for (idx, charon) in begun.setup.charons.iter().enumerate() {
            match charon.until_logged("Received round 1 results", ROUND).await {
                Ok(line) => println!("operator {idx} says: {line}"),
                Err(tail) => panic!("round 1 of operator {idx} does not end:\n{tail}"),
            }
            // It checks what we have proven first.
            match charon.until_logged("Sending round 2 messages", ROUND).await {
                Ok(line) => println!("operator {idx} says: {line}"),
                Err(tail) => panic!("operator {idx} does not take it:\n{tail}"),
            }
        }
        begun.stop().await;
    }
}

/// What a Charon in our place said in round 1 of a recorded ceremony.
struct Recorded {
    casts: FrostRound1Casts,
    /// A message for each of the others, in their order.
    shares: Vec<Vec<u8>>,
}

impl Recorded {
    /// `None`, and a printed reason, without the vectors.
    fn read() -> Option<Self> {
        let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
        let path = std::env::var_os("PLUTO_VECTORS").map_or_else(|| default.into(), PathBuf::from);
        let path = path.join("charon/frost.json");
        let Ok(text) = fs::read_to_string(&path) else {
            println!("skipped: no vectors at {}", path.display());
            return None;
        };
        let vectors: Value = serde_json::from_str(&text).unwrap();
        let find = |list: &Value, name: &str, wanted: Value| {
            let mut list = list.as_array().unwrap().iter();
            list.find(|it| it[name] == wanted).unwrap().clone()
        };
        let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
        let case = find(&vectors["cases"], "name", RECORDED.into());
        let ours = find(&case["participants"], "share_idx", (CHARONS + 1).into());
        let share = |at: usize| find(&ours["round1_shares"], "to_share_idx", at.into());
        Some(Self {
            casts: FrostRound1Casts::decode(&bytes(&ours["round1_casts"])[..]).unwrap(),
            shares: (1..=CHARONS)
                .map(|at| bytes(&share(at)["message"]))
                .collect(),
        })
    }
}

#[derive(NetworkBehaviour)]
struct Protocols {
    bcast: bcast::Behaviour,
    sync: sync::Behaviour,
    shares: exchange::Behaviour,
}

/// A ceremony whose first barrier is open.
struct Begun {
    setup: Setup,
    ours: Ours,
    since: Instant,
}

impl Begun {
    async fn new(binary: &Path) -> Self {
        let setup = Setup::new(binary, VALIDATORS).await;
        let ours = Ours::start(&setup);
        let token = CancellationToken::new();
        let agreed = match timeout(LIMIT, ours.server.wait_connected(&token)).await {
            Ok(agreed) => agreed.unwrap(),
            Err(_) => panic!("{:#?}\n{}", ours.server.progress(), setup.charons[0].tail()),
        };
        println!("connected: {agreed:?}");
        assert_eq!(agreed.version, setup.version);
        let chosen = timeout(ROUND, ours.component.agree()).await.unwrap();
        assert_eq!(chosen.unwrap(), setup.generation);

        ours.client.set_step(Step(1));
        let open = timeout(LIMIT, ours.server.wait_step(Step(1), &token)).await;
        open.unwrap().unwrap();
        Self {
            setup,
            ours,
            since: Instant::now(),
        }
    }

    fn threshold(&self) -> usize {
        self.setup.definition.threshold.try_into().unwrap()
    }

    fn tails(&self) -> String {
        let tails = self.setup.charons.iter().map(|charon| charon.tail());
        tails.collect::<Vec<_>>().join("\n")
    }

    async fn stop(self) {
        for charon in self.setup.charons {
            charon.kill().await;
        }
        self.ours.control.shutdown();
    }
}

struct Ours {
    control: Control,
    component: Component,
    casts: mpsc::Receiver<Delivered<FrostRound1Casts>>,
    client: Client,
    server: Server,
    shares: exchange::Handle,
}

impl Ours {
    fn start(setup: &Setup) -> Self {
        let peers = setup.peers.clone();
        let context = P2PContext::new(peers.iter().copied());
        let bcast = bcast::Config::new(peers.clone(), setup.secret.clone(), setup.hash());
        let sync = sync::Config::new(peers, setup.hash()).with_nickname("ours");
        let (node, (component, client, server, shares, mut received)) =
            Node::new(setup.node(), context, |builder| {
                let context = builder.p2p_context();
                let (bcast, component) =
                    bcast::new(context.clone(), bcast, Budget::default()).unwrap();
                let (sync, client, server) = sync::new(context, builder.key(), sync).unwrap();
                let protocol = Protocol {
                    ids: vec![SHARES],
                    shape: Shape::OneWay,
                    repeat: Repeat::Never,
                    max_frame: 1 << 20,
                    read_timeout: ROUND,
                    write_timeout: ROUND,
                };
                let (shares, handle, received) =
                    exchange(builder.p2p_context(), Budget::default(), vec![protocol]);
                let behaviour = Protocols {
                    bcast,
                    sync,
                    shares,
                };
                Ok::<_, Infallible>((behaviour, (component, client, server, handle, received)))
            })
            .unwrap();
        let threshold = usize::try_from(setup.definition.threshold).unwrap();
        let casts = component
            .register(CASTS, move |_, idx, casts: &FrostRound1Casts| {
                let complete = casts.is_complete(idx.as_usize(), threshold);
                complete.map_err(Into::into)
            })
            .unwrap();

        // Read to their end; no more is wanted of them.
        tokio::spawn(async move { while received.recv().await.is_some() {} });
        let control = node.control();
        tokio::spawn(node.run(CancellationToken::new()));
        Self {
            control,
            component,
            casts,
            client,
            server,
            shares,
        }
    }

    async fn send_shares(&self, to: PeerId, message: &[u8]) {
        let by = tokio::time::Instant::now() + ROUND;
        let call = self.shares.call(to, Slot(0), Frame::from_body(message), by);
        call.unwrap().await.unwrap();
    }
}
