//! What can go wrong: among the operators' list, with a broadcast of ours, with one of a peer.

use std::sync::Arc;

use libp2p::PeerId;
use pluto_crypto::k1;
use pluto_p2p::{
    exchange::{self, QueueFull},
    p2p_context::WhyNotConnected,
};

use super::{
    CheckError, MAX_SERVED, MessageId,
    agree::Serves,
    core::{Contradiction, NotCollected, Phase},
    wire::{Generation, SignatureError},
};

/// Why there can be no broadcast among these peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The local key belongs to none of them.
    #[error("this node's key belongs to none of the operators")]
    NotAMember,
    /// A peer is listed twice.
    #[error("peer {peer} is listed twice")]
    Twice {
        /// The peer.
        peer: PeerId,
    },
    /// A peer id is not of a secp256k1 key.
    #[error("peer {peer} has no usable key")]
    Key {
        /// The peer.
        peer: PeerId,
        /// What is wrong with it.
        #[source]
        source: k1::Error,
    },
}

/// Why something was not signed, or not delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The sender is none of the operators.
    #[error("the sender is none of the operators")]
    NotAMember,
    /// [`MAX_SERVED`] requests of this peer are being served.
    #[error("{MAX_SERVED} requests of this peer are being served already")]
    Busy,
    /// Another generation of the protocol was chosen.
    #[error("another generation of the protocol was chosen")]
    OtherGeneration,
    /// It cannot be read.
    #[error("the request cannot be read")]
    Decode(#[from] prost::DecodeError),
    /// It carries no message.
    #[error("the request carries no message")]
    NoMessage,
    /// Nobody registered the message id.
    #[error("the message id is not registered")]
    UnknownId,
    /// The type URL is not exactly that of the registered type.
    #[error("the message is of another type than the id's")]
    OtherType,
    /// The message is none of that type.
    #[error("the message cannot be read as the id's type")]
    Value(#[source] prost::DecodeError),
    /// The application does not want it.
    #[error("the application refuses the message")]
    Check(#[source] CheckError),
    /// The peer said something else before.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// Delivered by somebody to whom we did not give our signature for it.
    #[error(transparent)]
    NotCollected(#[from] NotCollected),
    /// Not one signature of each operator.
    #[error("it carries {got} signatures instead of {expected}")]
    SignatureCount {
        /// How many it has.
        got: usize,
        /// How many operators there are.
        expected: usize,
    },
    /// A signature is not what it should be.
    #[error("the signature in the place of peer {peer} is not good")]
    Signature {
        /// Whose it should be.
        peer: PeerId,
        /// What is wrong with it.
        #[source]
        source: SignatureError,
    },
    /// The check panicked, or the runtime is shutting down.
    #[error("the check was interrupted")]
    Interrupted,
}

/// Why there is no generation to broadcast in. Nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgreeError {
    /// No generation of the protocol is served by all.
    #[error(
        "the nodes have no version of the broadcast protocol in common: this node has {}; {}",
        list(ours, " and "),
        list(peers, "; ")
    )]
    NoneInCommon {
        /// What this node serves.
        ours: Vec<Generation>,
        /// What each other serves.
        peers: Vec<Serves>,
    },
    /// Some did not tell in time what they serve, or serve none.
    #[error(
        "not all nodes have told in time which broadcast protocol they serve: {}",
        list(peers, "; ")
    )]
    Unknown {
        /// What each other serves.
        peers: Vec<Serves>,
        /// Why the first of them is not connected, if it is not.
        #[source]
        why: Option<Box<WhyNotConnected>>,
    },
    /// The node is gone.
    #[error("the node has shut down or the protocol was switched off")]
    Closed,
}

fn list<T: std::fmt::Display>(items: &[T], sep: &str) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    items.join(sep)
}

/// Why one peer failed a broadcast.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The exchange failed. [`exchange::Error::Refused`] means that the peer would not sign or
    /// accept: its own log says why.
    #[error(transparent)]
    Exchange(#[from] exchange::Error),
    /// Too much is being sent to it.
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    /// Its answer cannot be read.
    #[error("its answer cannot be read")]
    Decode(#[from] prost::DecodeError),
    /// Its signature is not one of its own over this message, in this session.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The runtime is shutting down.
    #[error("the check was interrupted")]
    Interrupted,
}

/// One peer failed a broadcast.
#[derive(Debug, thiserror::Error)]
#[error("peer {peer} failed while {phase}")]
pub struct Failure {
    /// The peer.
    pub peer: PeerId,
    /// When.
    pub phase: Phase,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why a broadcast failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// Nobody registered the id.
    #[error("the message id {id} is not registered")]
    NotRegistered {
        /// The id.
        id: MessageId,
    },
    /// The id is that of another type.
    #[error("the message id {id} carries {expected}")]
    OtherType {
        /// The id.
        id: MessageId,
        /// The type URL it was registered with.
        expected: Arc<str>,
    },
    /// Another message was broadcast under this id before; the others would not sign this one.
    #[error("another message was broadcast as {id} before")]
    AlreadySaid {
        /// The id.
        id: MessageId,
    },
    /// There is no generation to do it in.
    #[error(transparent)]
    Agree(#[from] AgreeError),
    /// Peers failed. While collecting one failure ends the broadcast, and nobody got the message;
    /// while delivering all others got it. The same message may be broadcast again.
    #[error("the broadcast of {id} failed{}", named(failures))]
    Failed {
        /// The id.
        id: MessageId,
        /// Who, when and why; not empty.
        failures: Vec<Failure>,
    },
    /// The node is gone.
    #[error("the node has shut down or the protocol was switched off")]
    Closed,
}

/// The printer of errors walks along one source; here there are several.
fn named(failures: &[Failure]) -> String {
    let mut text = String::new();
    for failure in failures {
        text.push_str(if text.is_empty() { ": " } else { "; " });
        text.push_str(&failure.to_string());
        let mut source = std::error::Error::source(failure);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
    }
    text
}
