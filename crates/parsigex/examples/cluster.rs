//! Three nodes in one process, one validator key split among them: each signs a duty with its
//! share, sends that to the others, and makes the validator's signature of any two.
//!
//!     cargo run -p pluto-parsigex --example cluster

use std::{error::Error, io::Write, num::NonZeroU64, time::Duration};

use libp2p::{Multiaddr, PeerId, identity::Keypair};
use pluto_core::{
    Duty, DutyType, ParSigEx, ParSignedData, ParSignedDataSet, PubKey, ShareIdx,
    signed::{SignedData, SignedRandao},
    signing::Forks,
};
use pluto_crypto::bls::{self, Signature};
use pluto_p2p::{Control, Node, NodeConfig, P2PContext, exchange::Budget};
use pluto_parsigex::{AnyDuty, BlsVerifier, Handle, Members, Received};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

const THRESHOLD: usize = 2;
const NODES: usize = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run(&mut std::io::stdout()).await
}

/// The whole story, told to `out`.
pub(crate) async fn run(out: &mut (impl Write + Send)) -> Result<(), Box<dyn Error>> {
    // What a key-generation ceremony leaves behind: identities, and shares of one key.
    let secret = bls::SecretKey::generate();
    let (validator, group) = (
        PubKey::new(secret.public_key().to_bytes()),
        secret.public_key(),
    );
    let shares = bls::split(&secret, THRESHOLD, NODES)?;
    let public = shares.iter().map(|(idx, share)| (*idx, share.public_key()));
    let verifier = BlsVerifier::new(forks(), [(validator, public.collect())]);
    let keys: Vec<_> = shares
        .iter()
        .map(|_| Keypair::generate_secp256k1())
        .collect();
    let peers: Vec<PeerId> = keys.iter().map(|key| key.public().to_peer_id()).collect();
    let members = Members::new(
        peers
            .iter()
            .copied()
            .zip(shares.iter().map(|(idx, _)| *idx)),
    );

    let mut nodes = Vec::new();
    for key in keys {
        nodes.push(start(key, &peers, members.clone(), verifier.clone()).await?);
    }
    for node in &nodes {
        for (peer, other) in peers.iter().zip(&nodes) {
            node.control.book().set(*peer, other.addresses.clone());
        }
    }

    // Each signs and sends. A message waits for peers that are not connected yet.
    let duty = Duty::new(100, DutyType::Randao);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut own = Vec::new();
    for (node, (idx, share)) in nodes.iter().zip(&shares) {
        let (message, signature) = sign(duty, validator, *idx, share)?;
        for (peer, result) in node.handle.broadcast(&message, deadline).await.peers {
            let took = result?.elapsed;
            writeln!(out, "share {idx} of {duty} sent to {peer} in {took:.1?}")?;
        }
        own.push((*idx, signature));
    }

    // Each puts together the first that come, its own among them.
    let (root, _) = root_of(duty)?;
    for (node, own) in nodes.iter_mut().zip(own) {
        let mut partials = vec![own];
        while partials.len() < THRESHOLD {
            let received = node.received.recv().await.ok_or("the node has ended")?;
            let of_validator = received.partials.iter().filter(|it| it.pubkey == validator);
            partials.extend(of_validator.map(|it| (received.share_idx, it.signature)));
        }
        let [one, two] = [0, 1].map(|place: usize| partials[place].0);
        let signature = bls::threshold_aggregate(&partials)?;
        bls::verify(&group, &root, &signature)?;
        writeln!(
            out,
            "shares {one} and {two} make a signature of {}",
            validator.short()
        )?;
    }
    for node in &nodes {
        node.control.shutdown();
    }
    Ok(())
}

/// What the application holds of a running node.
struct Running {
    control: Control,
    addresses: Vec<Multiaddr>,
    handle: Handle,
    received: mpsc::Receiver<Received>,
}

async fn start(
    key: Keypair,
    peers: &[PeerId],
    members: Members,
    verifier: BlsVerifier,
) -> Result<Running, Box<dyn Error>> {
    let context = P2PContext::new(peers.iter().copied());
    let config = NodeConfig::new(key).with_listen("/ip4/127.0.0.1/tcp/0".parse()?);
    let (node, (handle, received)) = Node::new(config, context, |builder| {
        let (context, local) = (builder.p2p_context(), builder.local_peer_id());
        let (behaviour, handle, received) = pluto_parsigex::new(
            context,
            local,
            members,
            AnyDuty,
            verifier,
            Budget::default(),
        );
        Ok::<_, std::convert::Infallible>((behaviour, (handle, received)))
    })?;
    let control = node.control();
    tokio::spawn(node.run(CancellationToken::new()));
    let addresses = control.listening().await?;
    Ok(Running {
        control,
        addresses,
        handle,
        received,
    })
}

/// The message of one node: one duty, one validator, one share; and its signature.
fn sign(
    duty: Duty,
    validator: PubKey,
    share_idx: ShareIdx,
    share: &bls::SecretKey,
) -> Result<(ParSigEx, Signature), Box<dyn Error>> {
    let (root, epoch) = root_of(duty)?;
    let signature = share.sign(&root);
    let bytes = signature.to_bytes();
    let data = ParSignedData {
        data: SignedRandao::new(epoch, bytes).to_json(),
        signature: bytes.to_vec().into(),
        share_idx,
    };
    let set = ParSignedDataSet::one(validator, data);
    Ok((ParSigEx { duty, set }, signature))
}

/// What is signed for a duty, and its epoch.
fn root_of(duty: Duty) -> Result<([u8; 32], u64), Box<dyn Error>> {
    let forks = forks();
    let epoch = duty.slot.0 / forks.slots_per_epoch;
    let unsigned = SignedData::Randao(SignedRandao::new(epoch, [0; 96]));
    let root = forks.signing_root(&unsigned).ok_or("a reveal has a root")?;
    Ok((root, epoch))
}

/// A chain of one's own, without forks.
fn forks() -> Forks {
    Forks {
        genesis_version: *b"demo",
        genesis_validators_root: [0; 32],
        schedule: Vec::new(),
        exit_version: None,
        slots_per_epoch: NonZeroU64::MIN.saturating_add(31),
    }
}
