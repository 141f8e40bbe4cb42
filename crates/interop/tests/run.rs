//! A Pluto node as the fourth member of a running Charon cluster.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    num::NonZeroU64,
    path::Path,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    PeerId,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use pluto_cluster::Lock;
use pluto_core::{Duty, ParSignedData, PubKey, ShareIdx, signing::Forks};
use pluto_crypto::{bls, keyfile};
use pluto_interop::{Cluster, Running, binaries};
use pluto_p2p::{
    Node, NodeConfig, P2PContext, behaviours::pluto::PlutoBehaviourEvent, dialer::Book,
    exchange::Budget, identity,
};
use pluto_parsigex::{BlsVerifier, Members, Received, Verifier, VerifyError};
use pluto_peerinfo::Local;
use pluto_testkit::{TCP, addr, logs};
use tokio::{sync::mpsc, time::timeout};

/// How long a live cluster may take for anything, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);
/// The operators that Charon runs; the last one is ours.
const CHARONS: usize = 3;
const SLOTS: u64 = 10;

#[derive(NetworkBehaviour)]
struct Protocols {
    peerinfo: pluto_peerinfo::Behaviour,
    parsigex: pluto_parsigex::Behaviour,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pluto_node_is_a_member_of_a_charon_cluster() {
    logs();
    for binary in binaries("a_pluto_node_is_a_member_of_a_charon_cluster") {
        println!("{}", binary.display());
        member(&binary).await;
    }
}

async fn member(binary: &Path) {
    let cluster = Cluster::create(binary, CHARONS + 1, 2).await.unwrap();
    let relay = cluster.relay().await.unwrap();
    let mut charons = Vec::new();
    for index in 0..CHARONS {
        charons.push(cluster.run(index, &relay).await.unwrap());
    }

    let mut ours = Ours::start(&cluster, &charons);
    let others = ours.peers[..CHARONS].to_vec();

    // 1. Their gate lets us in and ours lets them in; identify comes through.
    let identified = ours.context.wait_for(|view| {
        let all = others.iter().all(|id| {
            view.peer(id)
                .is_some_and(|peer| peer.is_connected() && peer.identified.is_some())
        });
        all.then_some(())
    });
    timeout(LIMIT, identified).await.unwrap().unwrap();
    for id in &others {
        let peer = ours.context.view().peer(id).unwrap().clone();
        assert!(peer.is_charon(), "{:?}", peer.identified);
    }

    // 2. We hear who they are.
    let mut heard = BTreeMap::new();
    while heard.len() < CHARONS {
        match timeout(LIMIT, ours.peerinfo.recv()).await.unwrap().unwrap() {
            pluto_peerinfo::Event::Received {
                peer,
                info,
                findings,
                ..
            } => {
                assert_eq!(findings, [], "{info:?}");
                assert_eq!(info.dv_client, "charon");
                heard.insert(peer, info.version);
            }
            other => println!("peerinfo: {other:?}"),
        }
    }
    println!("peer information: {heard:?}");

    // 3. Their partial signatures arrive, verified, slot after slot.
    let mut slots: BTreeMap<u64, BTreeSet<ShareIdx>> = BTreeMap::new();
    let expected: BTreeSet<_> = (1..=CHARONS as u32)
        .map(|idx| ShareIdx::new(idx).unwrap())
        .collect();
    let all = async {
        while !in_a_row(&slots, &expected) {
            let received = ours.received.recv().await.unwrap();
            let place = ours.peers.iter().position(|id| *id == received.peer);
            assert_eq!(
                place.map(|place| place as u32 + 1),
                Some(received.share_idx.get())
            );
            let duty = received.message.duty;
            for (pubkey, _) in received.message.set.iter() {
                println!("{duty} of {pubkey}, share {}", received.share_idx);
                assert!(ours.validators.contains(&pubkey.to_string()));
            }
            slots
                .entry(duty.slot.0)
                .or_default()
                .insert(received.share_idx);
        }
    };
    timeout(LIMIT, all).await.expect("ten slots in a row");

    // 4. We have measured them, and they us.
    for id in &others {
        let peer = ours.context.view().peer(id).unwrap().clone();
        assert!(peer.paths.iter().any(|path| path.rtt().is_some()));
    }
    for charon in &charons {
        let seen = charon
            .until(LIMIT, |page| {
                let index = CHARONS as f64;
                let us = page.label("app_peerinfo_index", &[], index, "peer")?;
                let of_us = [("peer", &us[..])];
                (page.sum("p2p_ping_success", &of_us)? >= 1.0
                    && page.sum("p2p_ping_latency_secs_count", &of_us)? >= 1.0
                    && page.sum("p2p_peer_connection_total", &of_us)? >= 1.0)
                    .then_some(())?;
                let name = page.label("app_peerinfo_nickname", &of_us, 1.0, "peer_nickname")?;
                let version = page.label("app_peerinfo_version", &of_us, 1.0, "version")?;
                page.sum("app_peerinfo_version_support", &of_us)
                    .filter(|supported| *supported >= 1.0)?;
                Some(format!("{us} is '{name}', {version}"))
            })
            .await;
        match seen {
            Ok(seen) => println!("a Charon says: {seen}"),
            Err(page) => panic!("Charon does not see us: {page:?}\n{}", charon.tail()),
        }
    }
    for charon in charons {
        charon.stop().await;
    }
    ours.cancel.cancel();
    timeout(LIMIT, ours.task).await.unwrap().unwrap();
}

/// Whether all expected shares were seen in that many consecutive slots.
fn in_a_row(slots: &BTreeMap<u64, BTreeSet<ShareIdx>>, expected: &BTreeSet<ShareIdx>) -> bool {
    let complete: Vec<u64> = slots
        .iter()
        .filter(|(_, shares)| shares.is_superset(expected))
        .map(|(slot, _)| *slot)
        .collect();
    complete
        .windows(SLOTS as usize)
        .any(|window| window[SLOTS as usize - 1] - window[0] == SLOTS - 1)
}

struct Ours {
    peers: Vec<PeerId>,
    validators: BTreeSet<String>,
    context: P2PContext,
    peerinfo: mpsc::Receiver<pluto_peerinfo::Event>,
    received: mpsc::Receiver<Received>,
    cancel: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Ours {
    fn start(cluster: &Cluster, charons: &[Running]) -> Self {
        let lock = Lock::read(cluster.lock(CHARONS)).unwrap();
        let key = identity::keypair(&keyfile::load(cluster.key(CHARONS)).unwrap());
        let peers: Vec<PeerId> = lock
            .operators()
            .iter()
            .map(|operator| PeerId::from_bytes(&operator.peer_id).unwrap())
            .collect();
        assert_eq!(peers[CHARONS], key.public().to_peer_id());

        let book = Book::new([]);
        for (peer, charon) in peers.iter().zip(charons) {
            book.set(*peer, vec![charon.address.clone()]);
        }
        let context = P2PContext::new(peers.iter().copied());
        let config = NodeConfig::new(key).with_listen(addr(TCP)).with_book(book);
        let members = lock
            .operators()
            .iter()
            .map(|operator| (peers[operator.idx.as_usize()], operator.idx.share_idx()));
        let members = Members::new(members);
        let verifier = AnyChain::new(&lock);
        let (mut node, received) = Node::new(config, context.clone(), |builder| {
            let mut local = Local::new(lock.lock_hash().to_vec());
            local.nickname = "ours".to_owned();
            let peerinfo =
                pluto_peerinfo::new(builder.p2p_context(), pluto_peerinfo::Config::new(local));
            let (parsigex, _, received) = pluto_parsigex::new(
                builder.p2p_context(),
                builder.local_peer_id(),
                members,
                verifier,
                Budget::default(),
            );
            Ok::<_, Infallible>((Protocols { peerinfo, parsigex }, received))
        })
        .unwrap();

        let (sender, peerinfo) = mpsc::channel(64);
        let cancel = tokio_util::sync::CancellationToken::new();
        let stop = cancel.clone();
        let task = tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = node.next() => event.unwrap(),
                };
                match event {
                    SwarmEvent::Behaviour(PlutoBehaviourEvent::Inner(
                        ProtocolsEvent::Peerinfo(event),
                    )) => {
                        // Only the first minute is looked at.
                        let _ = sender.try_send(event);
                    }
                    SwarmEvent::Behaviour(PlutoBehaviourEvent::Inner(
                        ProtocolsEvent::Parsigex(event),
                    )) => println!("parsigex: {event:?}"),
                    _ => {}
                }
            }
        });
        Self {
            peers,
            validators: lock
                .validators()
                .iter()
                .map(|validator| validator.pubkey.to_string())
                .collect(),
            context,
            peerinfo,
            received,
            cancel,
            task,
        }
    }
}

fn public_shares(lock: &Lock) -> Vec<(PubKey, BTreeMap<ShareIdx, bls::PublicKey>)> {
    lock.validators()
        .iter()
        .map(|validator| {
            let shares = lock.operators().iter().zip(&validator.public_shares);
            let shares = shares.map(|(operator, share)| (operator.idx.share_idx(), *share));
            (validator.pubkey, shares.collect())
        })
        .collect()
}

/// Which chain a Charon simulates depends on its release, so that a signature may be for any.
struct AnyChain(Vec<BlsVerifier>);

impl AnyChain {
    fn new(lock: &Lock) -> Self {
        let hoodi = chain(
            "212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f",
            [0x00, 0x09, 0x10],
            &[(0, 0x50), (2_048, 0x60), (50_688, 0x70)],
        );
        // As old as the recording that v1.10 plays: it knows no Electra.
        let holesky = chain(
            "9143aa7c615a7f7115e2b6aac319c03529df8242ae705fba9df39b79c59fa8b1",
            [0x01, 0x70, 0x00],
            &[(0, 3), (256, 4), (29_696, 5)],
        );
        let chains = [hoodi, holesky].into_iter();
        Self(
            chains
                .map(|forks| BlsVerifier::new(forks, public_shares(lock)))
                .collect(),
        )
    }
}

impl Verifier for AnyChain {
    fn verify(&self, duty: Duty, entries: &[(PubKey, ParSignedData)]) -> Result<(), VerifyError> {
        let mut results = self.0.iter().map(|chain| chain.verify(duty, entries));
        let first = results.next().unwrap();
        if first.is_ok() || results.any(|result| result.is_ok()) {
            return Ok(());
        }
        first
    }
}

fn chain(root: &str, network: [u8; 3], schedule: &[(u64, u8)]) -> Forks {
    let mut genesis_validators_root = [0; 32];
    for (byte, digits) in genesis_validators_root
        .iter_mut()
        .zip(root.as_bytes().chunks(2))
    {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    let version = |first| [first, network[0], network[1], network[2]];
    Forks {
        genesis_version: version(schedule[0].1),
        genesis_validators_root,
        schedule: schedule
            .iter()
            .map(|(epoch, first)| (*epoch, version(*first)))
            .collect(),
        exit_version: None,
        // Of the simulation.
        slots_per_epoch: NonZeroU64::new(16).unwrap(),
    }
}
