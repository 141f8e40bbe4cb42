//! How many bytes may be in the making: per peer, and per node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::proto::Meter;

/// The shared bound on bytes that were received and not yet dropped by their consumer.
///
/// At the bound reading pauses, so that the sender is held back by its stream's window; a frame
/// that then does not complete in its read time-out is dropped and gives its bytes back.
#[derive(Debug, Clone)]
pub struct Budget {
    node: Arc<Semaphore>,
    peers: Arc<Mutex<BTreeMap<PeerId, Weak<Semaphore>>>>,
    per_peer: usize,
}

impl Default for Budget {
    /// 128 MiB per peer, so that the longest frame of Charon (p2p spec, section 4) fits, and
    /// 512 MiB per node.
    fn default() -> Self {
        Self::new(128 << 20, 512 << 20)
    }
}

impl Budget {
    /// A budget in bytes. A frame longer than `per_peer` can never be read.
    pub fn new(per_peer: usize, per_node: usize) -> Self {
        Self {
            node: Arc::new(Semaphore::new(per_node)),
            peers: Arc::default(),
            per_peer,
        }
    }

    /// Bytes that are free now.
    pub fn available(&self) -> usize {
        self.node.available_permits()
    }

    pub(super) fn hold(&self, peer: PeerId) -> Hold {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = match peers.get(&peer).and_then(Weak::upgrade) {
            Some(semaphore) => semaphore,
            None => {
                let semaphore = Arc::new(Semaphore::new(self.per_peer));
                peers.insert(peer, Arc::downgrade(&semaphore));
                semaphore
            }
        };
        Hold {
            node: self.node.clone(),
            peer: semaphore,
            held: Vec::new(),
        }
    }
}

/// The bytes of one frame; dropping it gives them back.
#[derive(Debug)]
pub(super) struct Hold {
    node: Arc<Semaphore>,
    peer: Arc<Semaphore>,
    held: Vec<OwnedSemaphorePermit>,
}

impl Meter for Hold {
    async fn take(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        for semaphore in [&self.peer, &self.node] {
            let Ok(permit) = semaphore.clone().acquire_many_owned(bytes).await else {
                return; // Never closed.
            };
            let same = |held: &&mut OwnedSemaphorePermit| Arc::ptr_eq(held.semaphore(), semaphore);
            match self.held.iter_mut().find(same) {
                Some(held) => held.merge(permit),
                None => self.held.push(permit),
            }
        }
    }
}
