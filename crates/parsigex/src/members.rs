//! Who may sign under which share index.

use std::collections::BTreeMap;

use libp2p::PeerId;
use pluto_core::ShareIdx;

/// The share index of each peer.
///
/// It is looked up, never derived from a position: when an operator leaves, the others keep their
/// indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members(BTreeMap<PeerId, ShareIdx>);

/// A participant has no share index.
///
/// Nobody would accept its signatures, and the exchange would only time out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("peer {peer} has no share index: the cluster file does not list it as an operator")]
pub struct MissingShareIdx {
    /// The participant.
    pub peer: PeerId,
}

/// Why a sender may not contribute a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The sender is no member.
    #[error("peer {peer} is not a member of this cluster")]
    UnknownPeer {
        /// The sender.
        peer: PeerId,
    },
    /// The signature is under an index that is not the sender's.
    #[error("peer {peer} has share index {assigned} but signs as {claimed}")]
    ShareIdxMismatch {
        /// The sender.
        peer: PeerId,
        /// What it claims.
        claimed: i64,
        /// What the cluster gave it.
        assigned: ShareIdx,
    },
}

impl Members {
    /// Members with their share indices.
    pub fn new(members: impl IntoIterator<Item = (PeerId, ShareIdx)>) -> Self {
        Self(members.into_iter().collect())
    }

    /// Members from a list of participants and the indices that a file assigns, of which any number
    /// may be wrong.
    pub fn assigned(
        participants: impl IntoIterator<Item = PeerId>,
        index_of: impl Fn(&PeerId) -> Option<i64>,
    ) -> Result<Self, MissingShareIdx> {
        participants
            .into_iter()
            .map(|peer| {
                let index = index_of(&peer)
                    .and_then(|index| u32::try_from(index).ok())
                    .and_then(ShareIdx::new)
                    .ok_or(MissingShareIdx { peer })?;
                Ok((peer, index))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.0.keys().copied()
    }

    /// The share index of a peer.
    pub fn share_idx(&self, peer: &PeerId) -> Option<ShareIdx> {
        self.0.get(peer).copied()
    }

    /// Accepts exactly the index that the cluster gave the sender.
    pub fn bind(&self, sender: PeerId, claimed: i64) -> Result<ShareIdx, BindError> {
        let assigned = self
            .share_idx(&sender)
            .ok_or(BindError::UnknownPeer { peer: sender })?;
        if i64::from(assigned.get()) == claimed {
            Ok(assigned)
        } else {
            Err(BindError::ShareIdxMismatch {
                peer: sender,
                claimed,
                assigned,
            })
        }
    }
}
