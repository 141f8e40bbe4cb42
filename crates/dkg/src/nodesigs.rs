//! The nodes' signatures over the lock hash, the last thing that a ceremony broadcasts.
//!
//! Spec: dkg, section 6. Each operator signs the lock hash with its identity key; who leaves the
//! cluster says instead that it has no signature.
//!
//! - **Owner:** [`NodeSignatures`], from registration on, so that what comes early is kept.
//! - **Bounds:** one signature of each other operator.
//! - **Disconnect:** see [`bcast`].
//! - **Cancellation:** dropping [`NodeSignatures::exchange`] drops what was received.
//!
//! Charon drops a signature that comes more than 60 s before it knows the lock hash, and waits for
//! ever for one that does not come; ours are kept, and the wait has a deadline that names who is
//! missing. It lets every operator leave its signature out; here only
//! [who is known to leave](NodeSignatures::with_leaving) may. A message for somebody else's place is refused before it is signed.

#[cfg(test)]
mod tests;

use std::pin::pin;

use bytes::Bytes;
use futures::future::{Either, select};
use libp2p::PeerId;
use pluto_core::PeerIdx;
use pluto_crypto::k1;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    bcast::{
        self, BroadcastError, Component, Delivered, MessageId, RegisterError, Signature,
        SignatureError,
    },
    pb,
};

/// Under what node signatures are broadcast.
pub const MESSAGE_ID: MessageId = "/charon/dkg/node_sig";
/// In the place of a signature: there is none.
pub const NO_SIGNATURE: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

/// What this node has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It signs this lock hash, and checks the others' signatures over it.
    Sign([u8; 32]),
    /// It leaves the cluster: it has no lock, signs nothing and cannot check anything.
    Leave,
}

/// Why a peer's message is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// It is for another operator's place.
    #[error("operator {sender} sends a signature for operator {claimed}")]
    OtherPlace {
        /// Whose message it is.
        sender: PeerIdx,
        /// Whose place it names.
        claimed: u32,
    },
    /// Neither 65 bytes nor the mark that there is none.
    #[error("a node signature has {len} bytes instead of 65")]
    Length {
        /// What it has.
        len: usize,
    },
}

/// Why there are no signatures of all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeSignaturesError {
    /// Ours did not reach all.
    #[error("the node signature was not broadcast")]
    Broadcast(#[from] BroadcastError),
    /// A signature is not of its sender over our lock hash: that node made another lock.
    #[error("the node signature of peer {peer} is not over this lock")]
    Bad {
        /// The sender.
        peer: PeerId,
        /// What is wrong with it.
        #[source]
        source: SignatureError,
    },
    /// A peer says that it leaves, and nobody said that it does: the lock would lack its signature.
    #[error("peer {peer} did not sign the lock, as if it left the cluster")]
    NotSigned {
        /// The peer.
        peer: PeerId,
    },
    /// Not all came in time.
    #[error("no node signature came from {}", missing.iter().map(|it| format!("peer {it}")).collect::<Vec<_>>().join(", "))]
    Missing {
        /// Who is missing, in operator order.
        missing: Vec<PeerId>,
    },
    /// Ours was not confirmed by all in time, while theirs all came.
    #[error("the node signature was not confirmed by all in time")]
    Unconfirmed,
    /// The node is gone.
    #[error("the node has shut down or the protocol was switched off")]
    Closed,
}

/// The exchange of node signatures, registered and waiting for the lock hash.
#[derive(Debug)]
pub struct NodeSignatures {
    component: Component,
    received: mpsc::Receiver<Delivered<pb::MsgNodeSig>>,
    leaving: Vec<PeerId>,
}

impl NodeSignatures {
    /// Registers the message, before any peer can send it.
    pub fn register(component: Component) -> Result<Self, RegisterError> {
        let received = component.register(MESSAGE_ID, |_, sender, message| {
            check(sender, message).map_err(Into::into)
        })?;
        Ok(Self {
            component,
            received,
            leaving: Vec::new(),
        })
    }

    /// Names who leaves the cluster in this ceremony. Only they may go without a signature; nobody
    /// may where nobody is named, as in a ceremony that makes a cluster.
    #[must_use]
    pub fn with_leaving(mut self, peers: impl IntoIterator<Item = PeerId>) -> Self {
        self.leaving.extend(peers);
        self
    }

    /// Broadcasts ours and waits for those of all others, until `by` at the latest.
    ///
    /// What comes out is in operator order, as it was received; `None` is who leaves and has no
    /// signature. For a node that leaves nobody has one.
    pub async fn exchange(
        self,
        own: Own,
        by: Instant,
    ) -> Result<Vec<Option<Signature>>, NodeSignaturesError> {
        let Self {
            component,
            mut received,
            leaving,
        } = self;
        let peers: Vec<_> = component.peers().collect();
        let mut signatures = vec![None; peers.len()];
        let mut come = vec![false; peers.len()];
        let local = component.local();
        let own_signature = match own {
            Own::Sign(lock_hash) => Some(component.key().sign(&lock_hash)),
            Own::Leave => None,
        };
        signatures[local.as_usize()] = own_signature;
        come[local.as_usize()] = true;

        let message = message(local, own_signature);
        let broadcast = component.broadcast(MESSAGE_ID, &message);
        let collect = async {
            while come.contains(&false) {
                let delivered = received.recv().await.ok_or(NodeSignaturesError::Closed)?;
                let Delivered { peer, idx, message } = delivered;
                // Only members deliver.
                let Some(key) = component.key_of(idx) else {
                    continue;
                };
                let signature = read_from(key, own, &message)
                    .map_err(|source| NodeSignaturesError::Bad { peer, source })?;
                let may_lack = own == Own::Leave || leaving.contains(&peer);
                if signature.is_none() && !may_lack {
                    return Err(NodeSignaturesError::NotSigned { peer });
                }
                signatures[idx.as_usize()] = signature;
                come[idx.as_usize()] = true;
            }
            Ok(())
        };
        let sent = async { broadcast.await.map_err(NodeSignaturesError::from) };
        let both = async {
            match select(pin!(sent), pin!(collect)).await {
                Either::Left((sent, collect)) => {
                    sent?;
                    collect.await
                }
                Either::Right((collected, sent)) => {
                    // Ours goes to all even if one of theirs is bad: they have to see it too.
                    match (timeout_at(by, sent).await, collected) {
                        (_, Err(error)) | (Ok(Err(error)), Ok(())) => Err(error),
                        (Ok(Ok(())), Ok(())) => Ok(()),
                        (Err(_), Ok(())) => Err(NodeSignaturesError::Unconfirmed),
                    }
                }
            }
        };
        // The inner time-out is looked at first, so that what it found is not lost.
        match timeout_at(by, both).await {
            Ok(done) => done?,
            Err(_) => {
                let missing = peers.iter().zip(&come).filter(|(_, come)| !**come);
                let missing: Vec<_> = missing.map(|(peer, _)| *peer).collect();
                return Err(if missing.is_empty() {
                    NodeSignaturesError::Unconfirmed
                } else {
                    NodeSignaturesError::Missing { missing }
                });
            }
        }
        Ok(signatures)
    }
}

/// What is sent.
fn message(local: PeerIdx, signature: Option<Signature>) -> pb::MsgNodeSig {
    pb::MsgNodeSig {
        signature: match signature {
            Some(signature) => Bytes::copy_from_slice(&signature),
            None => Bytes::from_static(&NO_SIGNATURE),
        },
        peer_index: local.get(),
    }
}

/// What can be said before the lock hash is known.
fn check(sender: PeerIdx, message: &pb::MsgNodeSig) -> Result<(), Malformed> {
    if message.peer_index != sender.get() {
        return Err(Malformed::OtherPlace {
            sender,
            claimed: message.peer_index,
        });
    }
    match message.signature.len() {
        65 => Ok(()),
        _ if message.signature == NO_SIGNATURE[..] => Ok(()),
        len => Err(Malformed::Length { len }),
    }
}

/// What is stored for a sender.
fn read_from(
    key: &k1::PublicKey,
    own: Own,
    message: &pb::MsgNodeSig,
) -> Result<Option<Signature>, SignatureError> {
    match own {
        Own::Leave => Ok(None),
        Own::Sign(lock_hash) => verify(key, &lock_hash, message),
    }
}

fn verify(
    key: &k1::PublicKey,
    lock_hash: &[u8; 32],
    message: &pb::MsgNodeSig,
) -> Result<Option<Signature>, SignatureError> {
    if message.signature == NO_SIGNATURE[..] {
        return Ok(None);
    }
    bcast::verify(key, lock_hash, &message.signature).map(Some)
}
