//! The message ids that are broadcast, each with its type, a check and a subscriber.
//!
//! - **Bounds:** [`MAX_IDS`] ids. A subscriber's stream holds one message of each other peer, which
//!   is all that can ever come under one id: it is never full.
//! - **End:** [`Registry::close`] drops the sending ends, so that every stream ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::PeerId;
use pluto_core::PeerIdx;
use prost::{Message, Name};
use tokio::sync::mpsc;

use super::{CheckError, MessageId, Refusal, wire};

/// Message ids of one ceremony; Charon has four.
pub const MAX_IDS: usize = 16;

/// A message that all peers have signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivered<M> {
    /// Who broadcast it, authenticated.
    pub peer: PeerId,
    /// Its place among the operators.
    pub idx: PeerIdx,
    /// What it said.
    pub message: M,
}

/// Why a message id was not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// It is registered already.
    #[error("the message id {id} is registered already")]
    Twice {
        /// The id.
        id: MessageId,
    },
    /// There are too many.
    #[error("there are {MAX_IDS} message ids already")]
    TooMany,
    /// The behaviour is gone.
    #[error("the node has shut down or the protocol was switched off")]
    Closed,
}

/// The sender of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    pub(super) peer: PeerId,
    pub(super) idx: PeerIdx,
}

/// A decoded message on its way to the subscriber.
pub(super) type Parcel = Box<dyn FnOnce() + Send>;

/// A registered message id.
#[derive(Clone)]
pub(super) struct Registered {
    pub(super) id: MessageId,
    pub(super) type_url: Arc<str>,
    kind: Arc<dyn Kind>,
}

impl Registered {
    /// The application's check, before we sign.
    pub(super) fn check(&self, sender: Sender, value: &[u8]) -> Result<(), Refusal> {
        self.kind.check(sender, value)
    }

    /// Decodes what is to be delivered.
    pub(super) fn parcel(&self, sender: Sender, value: &[u8]) -> Result<Parcel, Refusal> {
        self.kind.parcel(sender, value)
    }
}

trait Kind: Send + Sync {
    fn check(&self, sender: Sender, value: &[u8]) -> Result<(), Refusal>;
    fn parcel(&self, sender: Sender, value: &[u8]) -> Result<Parcel, Refusal>;
}

struct Typed<M, C> {
    id: MessageId,
    check: C,
    out: mpsc::Sender<Delivered<M>>,
}

impl<M, C> Kind for Typed<M, C>
where
    M: Message + Default + 'static,
    C: Fn(PeerId, PeerIdx, &M) -> Result<(), CheckError> + Send + Sync,
{
    fn check(&self, sender: Sender, value: &[u8]) -> Result<(), Refusal> {
        let message = M::decode(value).map_err(Refusal::Value)?;
        (self.check)(sender.peer, sender.idx, &message).map_err(Refusal::Check)
    }

    fn parcel(&self, Sender { peer, idx }: Sender, value: &[u8]) -> Result<Parcel, Refusal> {
        let message = M::decode(value).map_err(Refusal::Value)?;
        let (id, out) = (self.id, self.out.clone());
        Ok(Box::new(move || {
            let delivered = Delivered { peer, idx, message };
            if out.try_send(delivered).is_err() {
                // Not full, see the module's documentation.
                tracing::debug!(%peer, id, "broadcast has no subscriber any more");
            }
        }))
    }
}

#[derive(Default)]
struct Entries {
    by_id: BTreeMap<MessageId, Registered>,
    closed: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Registry(Mutex<Entries>);

impl Registry {
    pub(super) fn register<M, C>(
        &self,
        id: MessageId,
        others: usize,
        check: C,
    ) -> Result<mpsc::Receiver<Delivered<M>>, RegisterError>
    where
        M: Message + Name + Default + 'static,
        C: Fn(PeerId, PeerIdx, &M) -> Result<(), CheckError> + Send + Sync + 'static,
    {
        let mut entries = self.entries();
        if entries.closed {
            return Err(RegisterError::Closed);
        }
        if entries.by_id.contains_key(id) {
            return Err(RegisterError::Twice { id });
        }
        if entries.by_id.len() >= MAX_IDS {
            return Err(RegisterError::TooMany);
        }
        let (out, delivered) = mpsc::channel(others.max(1));
        let registered = Registered {
            id,
            type_url: wire::type_url(&M::full_name()).into(),
            kind: Arc::new(Typed { id, check, out }),
        };
        entries.by_id.insert(id, registered);
        Ok(delivered)
    }

    pub(super) fn find(&self, id: &str) -> Option<Registered> {
        self.entries().by_id.get(id).cloned()
    }

    pub(super) fn close(&self) {
        let mut entries = self.entries();
        entries.closed = true;
        entries.by_id.clear();
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::MsgNodeSig;

    #[test]
    fn ids_are_registered_once_up_to_the_bound_and_until_it_is_closed() {
        const IDS: [MessageId; MAX_IDS + 1] = [
            "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15",
            "16",
        ];
        let registry = Registry::default();
        let register = |id| {
            let registered = registry.register(id, 3, |_, _, _: &MsgNodeSig| Ok(()));
            registered.map(drop)
        };
        let (last, ids) = IDS.split_last().unwrap();

        for id in ids {
            assert_eq!(register(id), Ok(()));
            assert_eq!(register(id), Err(RegisterError::Twice { id }));
        }
        assert_eq!(register(last), Err(RegisterError::TooMany));
        registry.close();
        assert_eq!(register(ids[0]), Err(RegisterError::Closed));
        assert!(registry.find(ids[0]).is_none());
    }
}
