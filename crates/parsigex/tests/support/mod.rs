//! A cluster whose validator keys are split among real nodes.

#![allow(
    dead_code,
    reason = "each test binary uses the part of it that it needs"
)]

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use libp2p::{PeerId, identity::Keypair};
use pluto_core::{
    Duty, DutyType, ParSigEx, ParSignedData, ParSignedDataSet, PeerIdx, PubKey, ShareIdx,
    signed::{SignedData, SignedRandao},
    signing::Forks,
    threshold::Partial,
};
use pluto_crypto::bls;
use pluto_p2p::{NodeBuilder, exchange::Budget};
use pluto_parsigex::{
    AnyDuty, Behaviour, BlsVerifier, Event, Gate, Handle, Members, Outcome, Received, Verifier,
};
use pluto_testkit::{LIMIT, TestNode, config, ids, keys, within};
use tokio::{sync::mpsc, time::Instant};

/// Who they are and what they sign with.
pub(crate) struct Cluster {
    /// The operators' identities, in operator order.
    pub(crate) keys: Vec<Keypair>,
    /// How many shares make a signature.
    pub(crate) threshold: usize,
    /// The validators.
    pub(crate) validators: Vec<Validator>,
    /// The chain they sign for.
    pub(crate) forks: Forks,
}

/// One validator and all shares of its key.
pub(crate) struct Validator {
    pub(crate) pubkey: PubKey,
    pub(crate) group: bls::PublicKey,
    pub(crate) shares: BTreeMap<ShareIdx, bls::SecretKey>,
}

/// What a test holds of a node's exchange.
pub(crate) struct Parts {
    pub(crate) handle: Handle,
    pub(crate) received: mpsc::Receiver<Received>,
}

pub(crate) type Node = TestNode<Parts>;
pub(crate) type Events = mpsc::Receiver<Event>;

impl Cluster {
    pub(crate) fn new<const N: usize>(threshold: usize, validators: usize) -> Self {
        let validators = (0..validators).map(|_| {
            let secret = bls::SecretKey::generate();
            let group = secret.public_key();
            let shares = bls::split(&secret, threshold, N).unwrap();
            Validator {
                pubkey: PubKey::new(group.to_bytes()),
                group,
                shares: shares.into_iter().collect(),
            }
        });
        Self {
            keys: keys::<N>().into(),
            threshold,
            validators: validators.collect(),
            forks: forks(),
        }
    }

    pub(crate) fn ids(&self) -> Vec<PeerId> {
        ids(&self.keys)
    }

    pub(crate) fn members(&self) -> Members {
        Members::new(self.ids().into_iter().zip((1..).filter_map(ShareIdx::new)))
    }

    pub(crate) fn verifier(&self) -> BlsVerifier {
        let public = self.validators.iter().map(|validator| {
            let shares = validator.shares.iter();
            let shares = shares.map(|(idx, secret)| (*idx, secret.public_key()));
            (validator.pubkey, shares.collect())
        });
        BlsVerifier::new(self.forks.clone(), public)
    }

    /// What the operator sends for a slot.
    pub(crate) fn sign(&self, operator: usize, slot: u64) -> ParSigEx {
        self.sign_as(share_idx(operator), slot)
    }

    pub(crate) fn sign_as(&self, share_idx: ShareIdx, slot: u64) -> ParSigEx {
        let (epoch, root) = self.root_of(slot);
        let entries = self.validators.iter().map(|validator| {
            let signature = validator.shares[&share_idx].sign(&root);
            (validator.pubkey, randao(epoch, &signature, share_idx))
        });
        message(slot, entries)
    }

    /// What a receiver of [`sign_as`](Self::sign_as) reads in it.
    pub(crate) fn partials(&self, share_idx: ShareIdx, slot: u64) -> Vec<Partial> {
        let (_, root) = self.root_of(slot);
        let partials = self.validators.iter().map(|validator| Partial {
            pubkey: validator.pubkey,
            subcommittee: 0,
            root,
            signature: validator.shares[&share_idx].sign(&root),
        });
        let mut partials: Vec<_> = partials.collect();
        partials.sort_unstable_by_key(|partial| partial.pubkey);
        partials
    }

    /// The epoch of a slot, and what is signed as its randao reveal.
    pub(crate) fn root_of(&self, slot: u64) -> (u64, [u8; 32]) {
        let epoch = slot / self.forks.slots_per_epoch;
        let unsigned = SignedData::Randao(SignedRandao::new(epoch, [0; 96]));
        (epoch, self.forks.signing_root(&unsigned).unwrap())
    }

    /// Starts one node on each of the addresses; all have met all others.
    pub(crate) async fn start(&self, listen: &str) -> Vec<Node> {
        let mut nodes = Vec::new();
        for operator in 0..self.keys.len() {
            nodes.push(self.start_one(operator, listen).await.0);
        }
        pluto_testkit::introduce(&nodes);
        pluto_testkit::met(&nodes).await;
        nodes
    }

    /// As [`start`](Self::start), with the events of each node.
    pub(crate) async fn start_observed(&self, listen: &str) -> (Vec<Node>, Vec<Events>) {
        let (mut nodes, mut events) = (Vec::new(), Vec::new());
        for operator in 0..self.keys.len() {
            let (node, observed) = self.start_one(operator, listen).await;
            nodes.push(node);
            events.push(observed);
        }
        pluto_testkit::introduce(&nodes);
        pluto_testkit::met(&nodes).await;
        (nodes, events)
    }

    pub(crate) async fn start_one(&self, operator: usize, listen: &str) -> (Node, Events) {
        let config = config(&self.keys[operator], &[listen]);
        let build = parts(self.members(), self.verifier());
        TestNode::start_observed(config, &self.ids(), build).await
    }
}

/// Builds the exchange of a node.
pub(crate) fn parts(
    members: Members,
    verifier: impl Verifier,
) -> impl FnOnce(&NodeBuilder<'_>) -> (Behaviour, Parts) {
    gated(members, AnyDuty, verifier)
}

/// Builds the exchange of a node that does not take every duty.
pub(crate) fn gated(
    members: Members,
    gate: impl Gate,
    verifier: impl Verifier,
) -> impl FnOnce(&NodeBuilder<'_>) -> (Behaviour, Parts) {
    |builder| {
        let (behaviour, handle, received) = pluto_parsigex::new(
            builder.p2p_context(),
            builder.local_peer_id(),
            members,
            gate,
            verifier,
            Budget::default(),
        );
        (behaviour, Parts { handle, received })
    }
}

/// Sends, and gives the outcome; a message has [`LIMIT`] to arrive.
pub(crate) async fn broadcast(node: &Node, message: &ParSigEx) -> Outcome {
    let by = Instant::now() + LIMIT;
    within(node.handle.handle.broadcast(message, by)).await
}

/// Sends, and everybody got it.
pub(crate) async fn broadcast_to_all(node: &Node, message: &ParSigEx) {
    let outcome = broadcast(node, message).await;
    let failed: Vec<_> = outcome.failures().collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// The next message.
pub(crate) async fn receive(node: &mut Node) -> Received {
    within(node.handle.received.recv()).await.unwrap()
}

/// The operator's share index.
pub(crate) fn share_idx(operator: usize) -> ShareIdx {
    let operator = u32::try_from(operator).unwrap();
    PeerIdx::new(operator).unwrap().share_idx()
}

/// A chain that nobody signs for.
fn forks() -> Forks {
    Forks {
        genesis_version: *b"test",
        genesis_validators_root: [0; 32],
        schedule: Vec::new(),
        exit_version: None,
        slots_per_epoch: NonZeroU64::new(32).unwrap(),
    }
}

/// One entry.
pub(crate) fn randao(epoch: u64, signature: &bls::Signature, share_idx: ShareIdx) -> ParSignedData {
    let signature = signature.to_bytes();
    ParSignedData {
        data: SignedRandao::new(epoch, signature).to_json(),
        signature: signature.to_vec().into(),
        share_idx,
    }
}

/// A message of these entries.
pub(crate) fn message(
    slot: u64,
    entries: impl IntoIterator<Item = (PubKey, ParSignedData)>,
) -> ParSigEx {
    ParSigEx {
        duty: Duty::new(slot, DutyType::Randao),
        set: ParSignedDataSet::from_entries(entries).unwrap(),
    }
}

/// Long enough for a message between connected nodes, short enough to wait for its end.
pub(crate) const SOON: Duration = Duration::from_millis(500);
