//! A Pluto node as a member of a cluster whose other members Charon runs, and what it must see.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Instant,
};

use futures::StreamExt;
use libp2p::{
    PeerId,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use pluto_cluster::Lock;
use pluto_core::ShareIdx;
use pluto_crypto::keyfile;
use pluto_p2p::{
    Node, NodeConfig, P2PContext, Routing, behaviours::pluto::PlutoBehaviourEvent,
    exchange::Budget, identity, p2p_context::PeerView,
};
use pluto_parsigex::{AnyDuty, Members, Received};
use pluto_peerinfo::Local;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{Cluster, LIMIT, chain::AnyChain, within};

/// Events that a test has not looked at yet. Only those of the first minute are.
const EVENTS: usize = 64;

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
struct Protocols {
    peerinfo: pluto_peerinfo::Behaviour,
    parsigex: pluto_parsigex::Behaviour,
}

/// A running node of ours.
#[derive(Debug)]
pub struct Member {
    /// The members of the cluster in its order, this one among them.
    pub peers: Vec<PeerId>,
    /// What it knows of them.
    pub context: P2PContext,
    /// When it began to start.
    pub began: Instant,
    index: usize,
    validators: BTreeSet<String>,
    peerinfo: mpsc::Receiver<pluto_peerinfo::Event>,
    received: mpsc::Receiver<Received>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// What a relay is told of a running cluster (p2p spec, section 5.3).
pub fn routing(lock: &Lock) -> Routing {
    let digits: String = lock.lock_hash().iter().map(hex).collect();
    Routing {
        cluster: digits[..7].parse().ok(),
        uuid: lock.uuid().parse().ok(),
    }
}

fn hex(byte: &u8) -> String {
    format!("{byte:02x}")
}

impl Member {
    /// Starts a member, with what `configure` adds to its identity and [`routing`].
    pub fn start(
        cluster: &Cluster,
        index: usize,
        configure: impl FnOnce(NodeConfig) -> NodeConfig,
    ) -> Self {
        let began = Instant::now();
        let lock = Lock::read(cluster.lock(index)).unwrap();
        let key = identity::keypair(&keyfile::load(cluster.key(index)).unwrap());
        let peers: Vec<PeerId> = lock
            .operators()
            .iter()
            .map(|operator| PeerId::from_bytes(&operator.peer_id).unwrap())
            .collect();
        assert_eq!(peers[index], key.public().to_peer_id());

        let context = P2PContext::new(peers.iter().copied());
        let mut config = NodeConfig::new(key);
        config.routing = routing(&lock);
        let config = configure(config);
        let members = lock
            .operators()
            .iter()
            .map(|operator| (peers[operator.idx.as_usize()], operator.idx.share_idx()));
        let members = Members::new(members);
        let verifier = AnyChain::new(&lock);
        let (node, received) = Node::new(config, context.clone(), |builder| {
            let mut local = Local::new(lock.lock_hash().to_vec());
            local.nickname = "ours".to_owned();
            let peerinfo =
                pluto_peerinfo::new(builder.p2p_context(), pluto_peerinfo::Config::new(local));
            let (parsigex, _, received) = pluto_parsigex::new(
                builder.p2p_context(),
                builder.local_peer_id(),
                members,
                AnyDuty,
                verifier,
                Budget::default(),
            );
            Ok::<_, Infallible>((Protocols { peerinfo, parsigex }, received))
        })
        .unwrap();

        let (sender, peerinfo) = mpsc::channel(EVENTS);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(run(node, sender, began, cancel.clone()));
        Self {
            peers,
            context,
            began,
            index,
            validators: lock
                .validators()
                .iter()
                .map(|validator| validator.pubkey.to_string())
                .collect(),
            peerinfo,
            received,
            cancel,
            task,
        }
    }

    /// The other members.
    pub fn others(&self) -> Vec<PeerId> {
        let local = self.peers[self.index];
        let others = self.peers.iter().copied();
        others.filter(|peer| *peer != local).collect()
    }

    /// Waits until all others are so; shows them as they are if that takes too long.
    pub async fn all(&self, what: &str, is_so: impl Fn(&PeerView) -> bool) {
        let others = self.others();
        let all = self.context.wait_for(|view| {
            let mut all = others.iter();
            all.all(|id| view.peer(id).is_some_and(|peer| is_so(peer)))
                .then_some(())
        });
        within(what, all, || self.state()).await.unwrap();
    }

    /// Where each other member stands, for people.
    pub fn state(&self) -> String {
        let view = self.context.view();
        let mut lines = Vec::new();
        for relay in &view.relays {
            lines.push(format!("{relay:?}"));
        }
        for id in self.others() {
            let why = self.context.why_not_connected(id);
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            lines.push(format!("{:?}{why}", view.peer(&id)));
        }
        lines.join("\n")
    }

    /// Their gates let us in and ours lets them in; identify comes through.
    pub async fn identifies_all(&self) {
        self.all("identified", |peer| {
            peer.is_connected() && peer.identified.is_some()
        })
        .await;
        for id in self.others() {
            let peer = self.context.view().peer(&id).unwrap().clone();
            assert!(peer.is_charon(), "{:?}", peer.identified);
        }
    }

    /// Waits until all others have told who they are. Nothing of it may be wrong.
    pub async fn hears_all(&mut self) -> BTreeMap<PeerId, String> {
        let mut heard = BTreeMap::new();
        let all = async {
            while heard.len() < self.peers.len() - 1 {
                match self.peerinfo.recv().await.unwrap() {
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
        };
        within("peer information", all, String::new).await;
        heard
    }

    /// Waits until the partial signatures of all others have arrived, verified, for so many slots
    /// one after another, of those that have duties: the simulation's chains have some with none.
    ///
    /// # Panics
    ///
    /// With what has arrived, if that takes twice [`LIMIT`].
    pub async fn receives_slots(&mut self, count: usize) {
        let mut slots: BTreeMap<u64, BTreeSet<ShareIdx>> = BTreeMap::new();
        let expected: BTreeSet<_> = (0..self.peers.len())
            .filter(|index| *index != self.index)
            .map(|index| ShareIdx::new(index as u32 + 1).unwrap())
            .collect();
        let all = async {
            while !in_a_row(&slots, &expected, count) {
                let received = self.received.recv().await.unwrap();
                let place = self.peers.iter().position(|id| *id == received.peer);
                assert_eq!(
                    place.map(|place| place as u32 + 1),
                    Some(received.share_idx.get())
                );
                let duty = received.message.duty;
                for (pubkey, _) in received.message.set.iter() {
                    println!("{duty} of {pubkey}, share {}", received.share_idx);
                    assert!(self.validators.contains(&pubkey.to_string()));
                }
                slots
                    .entry(duty.slot.0)
                    .or_default()
                    .insert(received.share_idx);
            }
        };
        if timeout(2 * LIMIT, all).await.is_err() {
            panic!("no {count} complete slots in a row: {slots:?}");
        }
    }

    /// Whether a ping has come back from each.
    pub fn has_measured_all(&self) -> bool {
        let view = self.context.view();
        self.others().iter().all(|id| {
            let paths = view.peer(id).map(|peer| &peer.paths[..]);
            let mut paths = paths.unwrap_or_default().iter();
            paths.any(|path| path.rtt().is_some())
        })
    }

    /// Ends it.
    pub async fn stop(self) {
        self.cancel.cancel();
        within("the end", self.task, String::new).await.unwrap();
    }
}

async fn run(
    mut node: Node<Protocols>,
    peerinfo: mpsc::Sender<pluto_peerinfo::Event>,
    began: Instant,
    cancel: CancellationToken,
) {
    let observe = async {
        while let Some(event) = node.next().await {
            match event {
                SwarmEvent::Behaviour(PlutoBehaviourEvent::Inner(ProtocolsEvent::Peerinfo(
                    event,
                ))) => {
                    let _ = peerinfo.try_send(event);
                }
                SwarmEvent::Behaviour(PlutoBehaviourEvent::Inner(ProtocolsEvent::Parsigex(
                    event,
                ))) => println!("parsigex: {event:?}"),
                SwarmEvent::Behaviour(PlutoBehaviourEvent::Dialer(event)) => {
                    println!("{:.3} s: {event:?}", began.elapsed().as_secs_f64());
                }
                _ => {}
            }
        }
    };
    cancel.run_until_cancelled(observe).await;
    // Says goodbye and ends, as it was told to.
    node.run(cancel).await;
}

/// Whether all expected shares were seen in that many slots, one after another of those seen.
fn in_a_row(
    slots: &BTreeMap<u64, BTreeSet<ShareIdx>>,
    expected: &BTreeSet<ShareIdx>,
    count: usize,
) -> bool {
    let complete: Vec<bool> = slots
        .values()
        .map(|shares| shares.is_superset(expected))
        .collect();
    complete
        .windows(count)
        .any(|window| window.iter().all(|complete| *complete))
}
