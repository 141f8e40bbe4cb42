//! The long-lived stream of a ceremony: steps, barriers, the end.
//!
//! Spec: dkg, section 2; p2p, section 4.2. Each operator keeps one stream to each other one and says on it
//! where it is; the other answers. [`Client`] is what this node says, [`Server`] what it waits for,
//! [`Behaviour`] what carries both.
//!
//! Between two nodes of ours a step goes out at once; the message each [`HEARTBEAT`] is what Charon expects and
//! what tells the living from the dead.
//!
//! - **Owner:** the rules (`core`), one per node; handlers own streams, the behaviour their choice.
//! - **Wake-ups:** a step wakes every stream of ours; every change of [`Progress`] wakes who waits. Nothing polls.
//! - **Bounds:** one stream of ours to each operator, four of theirs per connection, frames of
//!   16 KiB. Who is no operator is not served.
//! - **Disconnect:** before step 1 operators come and go. From then on a lost one has
//!   [`Config::peer_grace`] to take a dial, and [`Config::silence`] to say something; both are shown as
//!   [`News::Missing`] at once, and the end is a [`Reason`] with the peer and the step.
//! - **End:** who ends waits, 0.7 s at most, until all who are there know why: a node of ours says one more
//!   message when it is told, or its stream ends; of a Charon it is enough that the reason was sent.
//! - **Cancellation:** waits may be dropped at any await. Dropping the behaviour ends them all.

mod behaviour;
mod core;
mod handler;
mod handles;
mod reason;
mod shared;
#[cfg(test)]
mod vectors;
mod version;
mod wire;

use std::time::Duration;

use libp2p::{PeerId, StreamProtocol, identity::Keypair};
use pluto_p2p::P2PContext;

pub use self::{
    behaviour::{Behaviour, Event},
    core::{News, PeerProgress, Progress},
    handler::{FromBehaviour, Handler, Opening, Rejected, Rejection},
    handles::{Client, Server},
    reason::{MAX_TEXT, Reason, SignatureFault, Step, WaitError},
    version::{Agreement, CharonVersion, UnknownVersion},
};
use self::{
    core::{Core, Rules},
    shared::Shared,
    wire::Fixed,
};

/// The protocol id; the slash at its end is part of it (dkg spec §2.1).
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/charon/dkg/sync/1.0.0/");
/// How often something is said at least; Charon's value.
pub const HEARTBEAT: Duration = Duration::from_millis(100);
/// Default of [`Config::peer_grace`].
pub const PEER_GRACE: Duration = Duration::from_secs(4);
/// Default of [`Config::silence`]: TCP may stay silent for 6 s after a partition of 3 s.
pub const SILENCE: Duration = Duration::from_secs(10);
/// The longest nickname, in bytes (dkg spec §1.1).
pub const MAX_NICKNAME: usize = 32;

/// Without an answer for so long, a stream moves to another connection if there is one.
const STALL: Duration = Duration::from_secs(3);
/// A stream that is silent for so long is dead; so is its peer, if that is all it has.
const IDLE: Duration = SILENCE;

/// What a ceremony is configured with.
#[derive(Debug, Clone)]
pub struct Config {
    /// All operators in the order of the definition, this node among them.
    pub operators: Vec<PeerId>,
    /// What all must have: the definition hash, for edits that of the existing lock's definition.
    pub definition_hash: [u8; 32],
    /// Shown to the others.
    pub nickname: String,
    /// Which Charon to be. By default whichever the Charons among the others are.
    pub charon_version: Option<CharonVersion>,
    /// How long a peer whose last connection closed may refuse to be dialled.
    pub peer_grace: Duration,
    /// How long a peer may be silent on every path.
    pub silence: Duration,
}

impl Config {
    /// A ceremony of these operators, in the order of the definition, this node among them.
    pub fn new(operators: impl IntoIterator<Item = PeerId>, definition_hash: [u8; 32]) -> Self {
        Self {
            operators: operators.into_iter().collect(),
            definition_hash,
            nickname: String::new(),
            charon_version: None,
            peer_grace: PEER_GRACE,
            silence: SILENCE,
        }
    }

    /// Is shown to the others under this name.
    #[must_use]
    pub fn with_nickname(mut self, nickname: impl Into<String>) -> Self {
        self.nickname = nickname.into();
        self
    }

    /// Is this Charon, whatever the others are.
    #[must_use]
    pub fn with_charon_version(mut self, version: CharonVersion) -> Self {
        self.charon_version = Some(version);
        self
    }

    /// Gives a lost peer that long to take a dial.
    #[must_use]
    pub fn with_peer_grace(mut self, grace: Duration) -> Self {
        self.peer_grace = grace;
        self
    }

    /// Gives a silent peer that long to say something.
    #[must_use]
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }
}

/// What a ceremony cannot be configured with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The key is not that of an operator.
    #[error("peer {local} is not an operator of this cluster definition (is this the right key?)")]
    NotAnOperator {
        /// The peer id of the key.
        local: PeerId,
    },
    /// An operator is there twice.
    #[error("the cluster definition contains operator {peer} twice")]
    Twice {
        /// The operator.
        peer: PeerId,
    },
    /// The nickname is too long.
    #[error("a nickname has at most {MAX_NICKNAME} bytes, not {len}")]
    Nickname {
        /// How long it is.
        len: usize,
    },
    /// The key signs nothing.
    #[error("the identity key cannot sign the definition hash")]
    Key(#[from] libp2p::identity::SigningError),
}

/// Makes the parts of one node: the behaviour for its swarm, and the two handles of the ceremony.
///
/// The key is the node's identity; it signs the definition hash, once.
pub fn new(
    context: P2PContext,
    key: &Keypair,
    config: Config,
) -> Result<(Behaviour, Client, Server), ConfigError> {
    let Config {
        operators,
        definition_hash,
        nickname,
        charon_version,
        peer_grace,
        silence,
    } = config;
    let local = key.public().to_peer_id();
    if !operators.contains(&local) {
        return Err(ConfigError::NotAnOperator { local });
    }
    for (at, peer) in operators.iter().enumerate() {
        if operators[..at].contains(peer) {
            return Err(ConfigError::Twice { peer: *peer });
        }
    }
    if nickname.len() > MAX_NICKNAME {
        return Err(ConfigError::Nickname {
            len: nickname.len(),
        });
    }
    let others: Vec<_> = operators
        .into_iter()
        .filter(|peer| *peer != local)
        .collect();
    let rules = Rules {
        version: charon_version,
        peer_grace,
        silence,
    };
    let fixed = Fixed {
        signature: key.sign(&definition_hash)?.into(),
        nickname,
    };
    let core = Core::new(rules, others.iter().copied());
    let shared = Shared::new(core, definition_hash, fixed);
    let behaviour = Behaviour::new(context, shared.clone(), others);
    Ok((behaviour, Client::new(shared.clone()), Server::new(shared)))
}
