//! One node of the cluster: its network, and its duties.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use libp2p::{PeerId, swarm::NetworkBehaviour};
use pluto_core::{
    Duty, DutyType, ParSigEx, ParSignedData, ParSignedDataSet, PubKey, ShareIdx,
    signed::SignedRandao,
    signing::{DomainKind, signing_root},
    threshold::{Partial, Quorum, ThresholdStore},
};
use pluto_crypto::bls;
use pluto_p2p::{Control, Node as P2PNode, NodeConfig, P2PContext, RelaySource, exchange::Budget};
use pluto_parsigex::{BlsVerifier, Epochs, Gate, GateError, Handle, Members, Received};
use pluto_peerinfo::Local;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{LATE, cluster::Cluster};

/// Group signatures in the making at once; each takes a thread for about a millisecond.
const MAX_AGGREGATING: usize = 16;

/// The protocols of a node.
#[derive(NetworkBehaviour)]
struct Protocols {
    peerinfo: pluto_peerinfo::Behaviour,
    parsigex: pluto_parsigex::Behaviour,
}

/// What a node has to say.
#[derive(Debug)]
pub(crate) enum Report {
    /// All validators' signatures of a slot are put together and verify.
    Signed {
        node: usize,
        slot: u64,
        elapsed: Duration,
    },
    /// Something went wrong.
    Failed {
        node: usize,
        slot: u64,
        what: Failure,
    },
    /// A restarted node has met all others again.
    Back { node: usize, after: Duration },
}

/// What can go wrong in a duty.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("could not send to peer {peer}: {cause}")]
    Send {
        peer: PeerId,
        cause: pluto_parsigex::SendError,
    },
    #[error("the group signature does not verify: {0}")]
    Aggregate(#[from] bls::Error),
    #[error(transparent)]
    Equivocation(#[from] pluto_core::threshold::Equivocation),
}

/// How nodes find each other.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The relays; without any they are told.
    pub(crate) relays: Vec<RelaySource>,
    /// Whether they stay on them.
    pub(crate) relayed_only: bool,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) peer: PeerId,
    pub(crate) context: P2PContext,
    pub(crate) listen: Vec<libp2p::Multiaddr>,
    control: Control,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    began: Instant,
}

impl Node {
    /// Starts a node and waits until it listens.
    pub(crate) async fn start(
        cluster: Arc<Cluster>,
        index: usize,
        entry: &Entry,
        begun: watch::Receiver<Option<Instant>>,
        reports: mpsc::Sender<Report>,
    ) -> Result<Self, Box<dyn Error>> {
        let began = Instant::now();
        let context = P2PContext::new(cluster.members.iter().map(|member| member.peer));
        let mut config = NodeConfig::new(cluster.keypair(index));
        for address in cluster.net.listen() {
            config = config.with_listen(address);
        }
        config = config.with_relays(entry.relays.iter().cloned());
        config.relayed_only = entry.relayed_only;
        let members = Members::new(cluster.members.iter().map(|m| (m.peer, m.share_idx)));
        let verifier = BlsVerifier::new(cluster.forks.clone(), cluster.public_shares());
        let gate = gate(&cluster, begun.clone());
        let (node, (handle, received)) = P2PNode::new(config, context.clone(), |builder| {
            let budget = Budget::default();
            let mut local = Local::new(cluster.hash.to_vec());
            local.nickname = format!("node{index}");
            let mut peerinfo = pluto_peerinfo::Config::new(local);
            peerinfo.budget = budget.clone();
            let (parsigex, handle, received) = pluto_parsigex::new(
                builder.p2p_context(),
                builder.local_peer_id(),
                members,
                gate,
                verifier,
                budget,
            );
            let peerinfo = pluto_peerinfo::new(builder.p2p_context(), peerinfo);
            let protocols = Protocols { peerinfo, parsigex };
            Ok::<_, Infallible>((protocols, (handle, received)))
        })?;
        let (control, peer) = (node.control(), node.local_peer_id());
        let cancel = CancellationToken::new();
        let network = tokio::spawn(node.run(cancel.child_token()));
        let listen = control.listening().await?;
        let duties = Duties {
            cluster,
            index,
            handle,
            reports,
        };
        let stop = cancel.child_token();
        let duties = tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = duties.run(begun, received) => {}
            }
        });
        Ok(Self {
            index,
            peer,
            context,
            listen,
            control,
            cancel,
            tasks: vec![network, duties],
            began,
        })
    }

    /// Tells it where another is.
    pub(crate) fn meets(&self, other: &Self) {
        self.control.book().set(other.peer, other.listen.clone());
    }

    /// Reports once it has met that many others.
    pub(crate) fn report_back(&self, others: usize, reports: mpsc::Sender<Report>) {
        let (context, began, node) = (self.context.clone(), self.began, self.index);
        tokio::spawn(async move {
            // Ends with the node, met or not.
            if context.quorum(others).await.is_ok() {
                let after = began.elapsed();
                let _ = reports.send(Report::Back { node, after }).await;
            }
        });
    }

    /// Stops it and waits for its tasks.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(node = self.index, %error, "a task of the node failed");
            }
        }
    }
}

/// The signing half of a node.
struct Duties {
    cluster: Arc<Cluster>,
    index: usize,
    handle: Handle,
    reports: mpsc::Sender<Report>,
}

/// The result of putting one group signature together.
type Aggregated = (u64, PubKey, Result<(), bls::Error>);

impl Duties {
    async fn run(
        self,
        mut begun: watch::Receiver<Option<Instant>>,
        mut received: mpsc::Receiver<Received>,
    ) {
        let Ok(genesis) = begun.wait_for(Option::is_some).await.map(|begun| *begun) else {
            return;
        };
        let Some(genesis) = genesis else { return };
        let mut store = ThresholdStore::new(self.cluster.threshold);
        let mut aggregating: JoinSet<Aggregated> = JoinSet::new();
        let mut sending: JoinSet<()> = JoinSet::new();
        let mut missing: BTreeMap<u64, BTreeSet<PubKey>> = BTreeMap::new();
        let mut slot = self.first_slot(genesis);
        loop {
            let more = self.cluster.slots == 0 || slot < self.cluster.slots;
            tokio::select! {
                () = sleep_until(self.starts(genesis, slot)), if more => {
                    store.forget_before(slot.saturating_sub(8));
                    missing.retain(|old, _| *old + 8 >= slot);
                    let (message, own) = self.sign(slot).await;
                    let by = Instant::now() + LATE;
                    self.collect(message.duty, self.share_idx(), &own, &mut store, &mut missing, &mut aggregating).await;
                    let (broadcast, reports, node) =
                        (self.handle.broadcast(&message, by), self.reports.clone(), self.index);
                    sending.spawn(async move {
                        for (peer, result) in broadcast.await.peers {
                            if let Err(cause) = result {
                                let what = Failure::Send { peer, cause };
                                let _ = reports.send(Report::Failed { node, slot, what }).await;
                            }
                        }
                    });
                    slot += 1;
                }
                Some(received) = received.recv(), if aggregating.len() < MAX_AGGREGATING => {
                    let Received { message, share_idx, partials, .. } = &received;
                    self.collect(message.duty, *share_idx, partials, &mut store, &mut missing, &mut aggregating).await;
                }
                Some(Ok((slot, pubkey, result))) = aggregating.join_next() => {
                    self.aggregated(slot, pubkey, result, genesis, &mut missing).await;
                }
                Some(_) = sending.join_next() => {}
                else => return,
            }
        }
    }

    fn share_idx(&self) -> ShareIdx {
        self.cluster.members[self.index].share_idx
    }

    fn starts(&self, genesis: Instant, slot: u64) -> Instant {
        genesis + self.cluster.slot_duration * u32::try_from(slot).unwrap_or(u32::MAX)
    }

    /// The slot that begins next; not 0 for a node that starts late.
    fn first_slot(&self, genesis: Instant) -> u64 {
        let passed = Instant::now().saturating_duration_since(genesis);
        let slots = passed
            .as_millis()
            .div_ceil(self.cluster.slot_duration.as_millis());
        u64::try_from(slots).unwrap_or(u64::MAX)
    }

    /// Signs the slot's duty with the shares of all validators: what the others get, and what this
    /// node has to add to what it gets.
    async fn sign(&self, slot: u64) -> (ParSigEx, Vec<Partial>) {
        let (cluster, share_idx) = (self.cluster.clone(), self.share_idx());
        let signed = spawn_blocking(move || {
            let (epoch, root) = root_of(&cluster, slot);
            let own: Vec<_> = cluster
                .validators
                .iter()
                .map(|validator| Partial {
                    pubkey: validator.pubkey,
                    subcommittee: 0,
                    root,
                    signature: validator.share(share_idx).sign(&root),
                })
                .collect();
            let entries = own.iter().map(|partial| {
                let signature = partial.signature.to_bytes();
                let data = ParSignedData {
                    data: SignedRandao::new(epoch, signature).to_json(),
                    signature: signature.to_vec().into(),
                    share_idx,
                };
                (partial.pubkey, data)
            });
            let message = ParSigEx {
                duty: Duty::new(slot, DutyType::Randao),
                set: ParSignedDataSet::from_entries(entries).expect("distinct validators"),
            };
            (message, own)
        });
        signed.await.expect("signing does not panic")
    }

    /// Adds verified partial signatures; each validator that has enough is put together.
    async fn collect(
        &self,
        duty: Duty,
        share_idx: ShareIdx,
        partials: &[Partial],
        store: &mut ThresholdStore,
        missing: &mut BTreeMap<u64, BTreeSet<PubKey>>,
        aggregating: &mut JoinSet<Aggregated>,
    ) {
        let slot = duty.slot.0;
        missing
            .entry(slot)
            .or_insert_with(|| self.cluster.validators.iter().map(|v| v.pubkey).collect());
        for partial in partials {
            let Partial { pubkey, root, .. } = *partial;
            match store.add(duty, share_idx, partial) {
                Ok(Some(quorum)) => {
                    let cluster = self.cluster.clone();
                    aggregating.spawn_blocking(move || {
                        (slot, pubkey, aggregate(&cluster, pubkey, &root, &quorum))
                    });
                }
                Ok(None) => {}
                Err(equivocation) => self.failed(slot, equivocation.into()).await,
            }
        }
    }

    async fn aggregated(
        &self,
        slot: u64,
        pubkey: PubKey,
        result: Result<(), bls::Error>,
        genesis: Instant,
        missing: &mut BTreeMap<u64, BTreeSet<PubKey>>,
    ) {
        if let Err(error) = result {
            self.failed(slot, error.into()).await;
            return;
        }
        let Some(left) = missing.get_mut(&slot) else {
            return;
        };
        if left.remove(&pubkey) && left.is_empty() {
            let elapsed = Instant::now().saturating_duration_since(self.starts(genesis, slot));
            let node = self.index;
            let _ = self
                .reports
                .send(Report::Signed {
                    node,
                    slot,
                    elapsed,
                })
                .await;
        }
    }

    async fn failed(&self, slot: u64, what: Failure) {
        let node = self.index;
        let _ = self.reports.send(Report::Failed { node, slot, what }).await;
    }
}

/// Lets through what the cluster signs, no further ahead than on a real chain.
fn gate(cluster: &Cluster, begun: watch::Receiver<Option<Instant>>) -> impl Gate + use<> {
    let (slot_duration, per_epoch) = (cluster.slot_duration, cluster.forks.slots_per_epoch);
    move |duty: Duty| {
        if duty.kind != DutyType::Randao {
            return Err(GateError::NotOurs { duty });
        }
        let passed = begun
            .borrow()
            .map_or(Duration::ZERO, |genesis| genesis.elapsed());
        // Genesis is anywhere on this clock.
        let now = SystemTime::now();
        let epochs = Epochs {
            genesis: now - passed,
            slot_duration,
            slots_per_epoch: per_epoch,
        };
        epochs.check(duty)
    }
}

/// The epoch of a slot and what is signed for it.
fn root_of(cluster: &Cluster, slot: u64) -> (u64, [u8; 32]) {
    let epoch = slot / cluster.forks.slots_per_epoch.get();
    let mut root = [0; 32];
    root[..8].copy_from_slice(&epoch.to_le_bytes());
    let domain = cluster.forks.domain(DomainKind::Randao, epoch);
    (epoch, signing_root(root, domain))
}

fn aggregate(
    cluster: &Cluster,
    pubkey: PubKey,
    root: &[u8; 32],
    quorum: &Quorum,
) -> Result<(), bls::Error> {
    let signature = bls::threshold_aggregate(quorum)?;
    match cluster.validators.iter().find(|v| v.pubkey == pubkey) {
        Some(validator) => bls::verify(&validator.group, root, &signature),
        None => Ok(()),
    }
}
