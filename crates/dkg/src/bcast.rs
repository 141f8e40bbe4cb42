//! Reliable broadcast: nobody can say two things to two peers.
//!
//! Spec: dkg, sections 3 and 10; p2p, sections 3 and 4. Whoever broadcasts has its message signed by
//! every peer, each of which signs one message per sender and [`MessageId`], and then delivers it
//! with all signatures. Both phases run in parallel over the peers: with a round trip of `r`, all
//! have the message after 1½ `r` and have confirmed it after 2 `r`.
//!
//! [`new`] makes the two parts: a [`Behaviour`] for the swarm, and a [`Component`] that registers
//! message ids and broadcasts. The rules are in [`core`], pure.
//!
//! - **Owner:** a broadcast of ours belongs to the caller's future; what others broadcast to the
//!   behaviour until it is answered.
//! - **Wake-ups:** the exchange's, and finished work; nothing polls.
//! - **Bounds:** [`MAX_IDS`] message ids, [`MAX_SERVED`] requests of one peer at once, a
//!   subscriber's stream of one message for each other peer, one ledger entry for each peer and id.
//! - **Disconnect:** what broke is repeated, on another connection if there is one, until the peer's
//!   time-out; a repetition is signed, or confirmed, again and delivered once.
//! - **Cancellation:** dropping a broadcast's future cancels it. Dropping the behaviour ends every
//!   broadcast with an error, and every subscriber's stream.
//!
//! Where we differ from Charon, within its wire: it takes a delivery from anybody, as often as it
//! comes; we only from the peer that collected our signature, once. It delivers one after another and
//! gives up at the first failure; we to all at once. It neither repeats nor reads the confirmation.
//! It looks at a type URL from its last slash on; we at all of it.

pub mod agree;
mod behaviour;
mod component;
pub mod core;
mod error;
mod registry;
#[cfg(test)]
pub(crate) mod vectors;
mod wire;

use std::time::Duration;

use libp2p::PeerId;
use pluto_crypto::k1;
use pluto_p2p::{
    P2PContext,
    exchange::{Budget, Feature, Protocol, Repeat, Shape, Slot, exchange},
};

use self::component::{Limits, Shared};
pub(crate) use self::wire::verify;
pub use self::{
    agree::Serves,
    behaviour::{Behaviour, Event, MAX_SERVED, Rules, TURNS},
    component::Component,
    core::{Contradiction, Equivocation, NotCollected, Phase, Statement},
    error::{AgreeError, BroadcastError, Cause, ConfigError, Failure, Refusal},
    registry::{Delivered, MAX_IDS, RegisterError},
    wire::{Digest, Generation, Signature, SignatureError},
};

/// Under what something is broadcast, such as `/charon/dkg/node_sig`. It looks like a protocol id
/// and is none.
pub type MessageId = &'static str;
/// Why an application does not want a message to be signed.
pub type CheckError = Box<dyn std::error::Error + Send + Sync>;

/// The longest message, as Charon. Memory grows with what arrives.
pub const MAX_FRAME: usize = 128 << 20;
/// How long reading and answering one request may take; Charon's value.
pub const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one peer has to sign. Charon gives 7 s, which many validators over a slow relay exceed
/// (dkg spec, section 10, row 10); its own receiver allows 60 s.
pub const SIGN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one peer has to take a delivery; Charon's value.
pub const DELIVER_TIMEOUT: Duration = Duration::from_secs(62);
/// How long peers have to be connected and to tell what they serve. Chosen freely: a ceremony
/// broadcasts only once all have met.
pub const AGREE_TIMEOUT: Duration = Duration::from_secs(30);

/// The place of the protocol that collects signatures.
const SIG: Slot = Slot(0);
/// The place of the protocol that delivers.
const MSG: Slot = Slot(1);

/// Who broadcasts to whom.
#[derive(Debug, Clone)]
pub struct Config {
    /// The operators, in the order of the definition; the local one among them.
    pub peers: Vec<PeerId>,
    /// The local one's identity key.
    pub key: k1::SecretKey,
    /// The definition hash of a ceremony, the lock hash of an edit (dkg spec, section 3.2).
    pub session: [u8; 32],
    /// The only generation to use; otherwise the newest that all have.
    pub generation: Option<Generation>,
    /// How long peers have to tell what they serve.
    pub agree_timeout: Duration,
    /// How long each peer has to sign.
    pub sign_timeout: Duration,
    /// How long each peer has to take a delivery.
    pub deliver_timeout: Duration,
    /// How long reading one request of a peer may take.
    pub read_timeout: Duration,
}

impl Config {
    /// With the default time-outs, and the generation left open.
    #[must_use]
    pub fn new(peers: Vec<PeerId>, key: k1::SecretKey, session: [u8; 32]) -> Self {
        Self {
            peers,
            key,
            session,
            generation: None,
            agree_timeout: AGREE_TIMEOUT,
            sign_timeout: SIGN_TIMEOUT,
            deliver_timeout: DELIVER_TIMEOUT,
            read_timeout: READ_TIMEOUT,
        }
    }

    /// Uses this generation only.
    #[must_use]
    pub fn with_generation(mut self, generation: Generation) -> Self {
        self.generation = Some(generation);
        self
    }
}

/// Makes the parts of the broadcast.
pub fn new(
    context: P2PContext,
    config: Config,
    budget: Budget,
) -> Result<(Behaviour, Component), ConfigError> {
    let Config {
        peers,
        key,
        session,
        generation,
        agree_timeout,
        sign_timeout,
        deliver_timeout,
        read_timeout,
    } = config;
    let shared = Shared::new(&peers, key, session)?;
    let ours = generation.map_or_else(|| Generation::ALL.to_vec(), |pinned| vec![pinned]);

    let protocol = |ids: Vec<_>, write_timeout| Protocol {
        ids,
        // The confirmation of a delivery is a frame without content; a refusal is none.
        shape: Shape::RequestResponse,
        repeat: Repeat::Safe,
        max_frame: MAX_FRAME,
        read_timeout,
        write_timeout,
    };
    let sig = ours.iter().map(|generation| generation.sig()).collect();
    let msg = ours.iter().map(|generation| generation.msg()).collect();
    let protocols = vec![protocol(sig, sign_timeout), protocol(msg, deliver_timeout)];
    let (behaviour, handle, inbound) = exchange(context.clone(), budget, protocols);

    let limits = Limits {
        agree: agree_timeout,
        sign: sign_timeout,
        deliver: deliver_timeout,
    };
    let component = Component::new(shared.clone(), context, handle, ours, limits);
    Ok((
        Feature::new(behaviour, Rules::new(shared, inbound)),
        component,
    ))
}
