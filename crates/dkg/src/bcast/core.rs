//! The rules of a broadcast: pure, no sockets, clocks or tasks.
//!
//! Spec: dkg, section 3; stricter than Charon where the wire allows it (section 10, rows 7, 16).
//!
//! - [`Ledger`] remembers what each peer said under each message id: who said two things is not
//!   signed for, and only what was signed for is delivered, once, from the peer who collected.
//! - [`Round`] is one broadcast of our own: signatures of all in any order, then confirmations.
//!
//! **Bounds:** the ledger has an entry for each pair of a member and a registered message id, the
//! callers admit no others; of each statement it keeps at most [`MAX_KEPT`] bytes.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use pluto_core::PeerIdx;

use super::{
    MessageId,
    wire::{Digest, Signature},
};

/// Bytes of a statement that are kept as evidence; of a longer one only its digest and length are.
/// Chosen freely: holds the round-1 message of a ceremony for a hundred validators.
pub const MAX_KEPT: usize = 64 << 10;

/// One thing that a peer said under a message id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Known by this; it binds session, message id, type and value whatever the generation.
    pub digest: Digest,
    /// Length of the value in bytes.
    pub len: usize,
    /// The value, if it has at most [`MAX_KEPT`] bytes.
    pub value: Option<Bytes>,
}

impl Statement {
    fn new(digest: Digest, value: &[u8]) -> Self {
        Self {
            digest,
            len: value.len(),
            value: (value.len() <= MAX_KEPT).then(|| Bytes::copy_from_slice(value)),
        }
    }
}

/// Two things that a peer said under one message id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equivocation {
    /// Who.
    pub peer: PeerIdx,
    /// Under which id.
    pub id: MessageId,
    /// What was said first, and signed.
    pub first: Statement,
    /// What was said next, and not signed.
    pub second: Statement,
}

/// The peer said something else under this message id before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer said something else under this message id before")]
pub struct Contradiction {
    /// Whether this is the first time, so that there is new evidence.
    pub is_new: bool,
}

/// The peer did not collect our signature for this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer did not ask us to sign this message")]
pub struct NotCollected;

/// Whether a delivery is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It goes to the subscriber.
    First,
    /// A repetition: confirmed, and otherwise ignored.
    Again,
}

#[derive(Debug, Clone)]
struct Said {
    first: Statement,
    /// What we signed for it, and with what.
    signed: Option<(Digest, Signature)>,
    delivered: bool,
    second: Option<Statement>,
}

/// What each peer said, the local one included.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    said: BTreeMap<(PeerIdx, MessageId), Said>,
}

impl Ledger {
    /// The peer wants something to be signed. The same may be signed again and again.
    pub fn on_request(
        &mut self,
        peer: PeerIdx,
        id: MessageId,
        digest: Digest,
        value: &[u8],
    ) -> Result<(), Contradiction> {
        let said = self.first(peer, id, digest, value);
        if said.first.digest == digest {
            return Ok(());
        }
        let is_new = said.second.is_none();
        if is_new {
            said.second = Some(Statement::new(digest, value));
        }
        Err(Contradiction { is_new })
    }

    /// We want to broadcast something ourselves. Something else than before is refused and not
    /// remembered: it was told to nobody, so that nobody has evidence against us.
    pub fn on_own(
        &mut self,
        local: PeerIdx,
        id: MessageId,
        digest: Digest,
        value: &[u8],
    ) -> Result<(), Contradiction> {
        if self.first(local, id, digest, value).first.digest == digest {
            Ok(())
        } else {
            Err(Contradiction { is_new: false })
        }
    }

    /// What was said first, which is this if nothing was.
    fn first(&mut self, peer: PeerIdx, id: MessageId, digest: Digest, value: &[u8]) -> &mut Said {
        self.said.entry((peer, id)).or_insert_with(|| Said {
            first: Statement::new(digest, value),
            signed: None,
            delivered: false,
            second: None,
        })
    }

    /// We signed a hash for what the peer said.
    pub fn on_signed(&mut self, peer: PeerIdx, id: MessageId, hash: Digest, signature: Signature) {
        if let Some(said) = self.said.get_mut(&(peer, id)) {
            said.signed = Some((hash, signature));
        }
    }

    /// Our signature over this hash, if it is the last that we made for what the peer said. It is
    /// given out again, and recognised without a check.
    #[must_use]
    pub fn signature(&self, peer: PeerIdx, id: MessageId, hash: &Digest) -> Option<Signature> {
        let (signed, signature) = self.said.get(&(peer, id))?.signed?;
        (signed == *hash).then_some(signature)
    }

    /// The peer delivers something, whose signatures are still to be checked.
    pub fn on_delivery(
        &self,
        peer: PeerIdx,
        id: MessageId,
        digest: &Digest,
    ) -> Result<Arrival, NotCollected> {
        match self.said.get(&(peer, id)) {
            Some(said) if said.first.digest == *digest => Ok(if said.delivered {
                Arrival::Again
            } else {
                Arrival::First
            }),
            _ => Err(NotCollected),
        }
    }

    /// The signatures of a delivery are good. Exactly one is told to be the first.
    pub fn on_verified(
        &mut self,
        peer: PeerIdx,
        id: MessageId,
        digest: &Digest,
    ) -> Result<Arrival, NotCollected> {
        let arrival = self.on_delivery(peer, id, digest)?;
        if let Some(said) = self.said.get_mut(&(peer, id)) {
            said.delivered = true;
        }
        Ok(arrival)
    }

    /// Who said two things, with both.
    pub fn equivocations(&self) -> impl Iterator<Item = Equivocation> {
        self.said.iter().filter_map(|((peer, id), said)| {
            Some(Equivocation {
                peer: *peer,
                id,
                first: said.first.clone(),
                second: said.second.clone()?,
            })
        })
    }

    /// The evidence against one peer.
    pub fn equivocation(&self, peer: PeerIdx, id: MessageId) -> Option<Equivocation> {
        self.equivocations()
            .find(|it| it.peer == peer && it.id == id)
    }
}

/// The two halves of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Everybody is asked to sign.
    Collecting,
    /// Everybody gets the message with all signatures.
    Delivering,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Collecting => "collecting signatures",
            Self::Delivering => "delivering",
        })
    }
}

/// What follows from an input of a [`Round`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing yet.
    Wait,
    /// All have signed: deliver to all others, with the signatures in operator order.
    Deliver(Vec<Signature>),
    /// All others have confirmed.
    Done,
    /// It cannot succeed any more, and there is nothing left to wait for.
    Failed,
}

/// One broadcast of our own, among `n` peers. `E` is why a peer failed.
#[derive(Debug, Clone)]
pub struct Round<E> {
    local: PeerIdx,
    signatures: Vec<Option<Signature>>,
    /// Confirmed or failed.
    settled: Vec<bool>,
    phase: Phase,
    failures: Vec<(PeerIdx, Phase, E)>,
    ended: bool,
}

impl<E> Round<E> {
    /// A round in which nobody has signed, not even we.
    #[must_use]
    pub fn new(n: usize, local: PeerIdx) -> Self {
        Self {
            local,
            signatures: vec![None; n],
            settled: vec![false; n],
            phase: Phase::Collecting,
            failures: Vec::new(),
            ended: false,
        }
    }

    /// A peer, or we, signed; the signature is checked. Or it did not.
    ///
    /// The first failure ends the round: nothing can be delivered without all signatures.
    pub fn on_signature(&mut self, peer: PeerIdx, result: Result<Signature, E>) -> Next {
        let at = peer.as_usize();
        if self.phase != Phase::Collecting || self.signatures.get(at).is_none_or(Option::is_some) {
            return Next::Wait;
        }
        match result {
            Err(error) => {
                self.failures.push((peer, Phase::Collecting, error));
                return self.end(Next::Failed);
            }
            Ok(_) if self.ended => return Next::Wait,
            Ok(signature) => self.signatures[at] = Some(signature),
        }
        let all: Option<Vec<Signature>> = self.signatures.iter().copied().collect();
        match all {
            None => Next::Wait,
            Some(signatures) => {
                self.phase = Phase::Delivering;
                self.settled[self.local.as_usize()] = true;
                if self.settled.iter().all(|settled| *settled) {
                    return self.end(Next::Done);
                }
                Next::Deliver(signatures)
            }
        }
    }

    /// A peer confirmed, or did not. The others still get the message: the round ends with the last.
    pub fn on_delivery(&mut self, peer: PeerIdx, result: Result<(), E>) -> Next {
        let at = peer.as_usize();
        if self.phase != Phase::Delivering || self.settled.get(at).is_none_or(|settled| *settled) {
            return Next::Wait;
        }
        self.settled[at] = true;
        if let Err(error) = result {
            self.failures.push((peer, Phase::Delivering, error));
        }
        if self.settled.iter().any(|settled| !settled) {
            return Next::Wait;
        }
        let next = if self.failures.is_empty() {
            Next::Done
        } else {
            Next::Failed
        };
        self.end(next)
    }

    /// Who failed, in which phase, and why.
    #[must_use]
    pub fn into_failures(self) -> Vec<(PeerIdx, Phase, E)> {
        self.failures
    }

    /// Tells the end once.
    fn end(&mut self, next: Next) -> Next {
        if self.ended {
            return Next::Wait;
        }
        self.ended = true;
        next
    }
}
