//! Sends partial signatures to all peers.

use std::sync::Arc;

use libp2p::PeerId;
use pluto_core::ParSigEx;
use pluto_p2p::{
    exchange::{self, Done, QueueFull, Slot},
    proto::Frame,
};
use tokio::time::Instant;

use crate::members::Members;

/// Sends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    exchange: exchange::Handle,
    members: Arc<Members>,
    local: PeerId,
}

/// Why one peer did not get a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Too many messages to it are under way.
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    /// It was not delivered in time, or refused.
    #[error(transparent)]
    Exchange(#[from] exchange::Error),
}

/// What became of one broadcast, peer by peer.
#[derive(Debug)]
pub struct Outcome {
    /// One result for each other member. `Ok` means that the peer has read the message to its end;
    /// what it thinks of it is not told on the wire.
    pub peers: Vec<(PeerId, Result<Done, SendError>)>,
}

impl Outcome {
    /// The peers that did not get it, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&PeerId, &SendError)> {
        self.peers
            .iter()
            .filter_map(|(peer, result)| result.as_ref().err().map(|error| (peer, error)))
    }
}

impl Handle {
    pub(crate) fn new(exchange: exchange::Handle, members: Arc<Members>, local: PeerId) -> Self {
        Self {
            exchange,
            members,
            local,
        }
    }

    /// Sends to all other members at once and waits for each until `by`; a peer that is not
    /// connected yet is waited for. Encoded once. Everything is queued before the first await.
    pub fn broadcast(
        &self,
        message: &ParSigEx,
        by: Instant,
    ) -> impl Future<Output = Outcome> + use<> {
        let frame = Frame::from_body(&message.encode());
        let calls: Vec<_> = self
            .members
            .peers()
            .filter(|peer| *peer != self.local)
            .map(|peer| {
                let call = self.exchange.call(peer, Slot(0), frame.clone(), by);
                async move {
                    let result = match call {
                        Ok(call) => call.await.map_err(SendError::from),
                        Err(full) => Err(full.into()),
                    };
                    (peer, result)
                }
            })
            .collect();
        async {
            Outcome {
                peers: futures::future::join_all(calls).await,
            }
        }
    }
}
