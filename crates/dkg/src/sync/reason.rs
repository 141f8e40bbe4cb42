//! Why a ceremony ends.

use std::{fmt, time::Duration};

use libp2p::PeerId;
use pluto_p2p::p2p_context::FailureCause;

use super::version::CharonVersion;

/// The longest text of a peer that is kept, in bytes; Charon's longest own is about 250.
pub const MAX_TEXT: usize = 512;

/// How far a node is: 0 before everybody is connected, `k` while it works towards barrier `k`
/// (dkg spec §1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Step(pub u32);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}", self.0)
    }
}

/// What is wrong with the signature of a definition hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureFault {
    /// Too few bytes for any signature.
    #[error("too short: {len} < 8")]
    TooShort {
        /// How many there are.
        len: usize,
    },
    /// The length inside does not fit the one outside.
    #[error("bad length: {inside} != {outside}")]
    Length {
        /// The length that the bytes tell.
        inside: usize,
        /// The length that is there.
        outside: usize,
    },
    /// Not the strict DER of two integers.
    #[error("not DER")]
    NotDer,
    /// A signature of something else, or with another key.
    #[error("it is of another definition or with another key")]
    Mismatch,
}

/// Why a ceremony ended, for all who wait. The first reason stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A peer runs another minor version.
    #[error("peer {peer} speaks Charon {theirs}, this ceremony {ours}")]
    Version {
        /// The peer.
        peer: PeerId,
        /// What this node speaks in this ceremony.
        ours: CharonVersion,
        /// What the peer said, at most [`MAX_TEXT`] bytes of it.
        theirs: String,
    },
    /// A peer's version is none.
    #[error("peer {peer} sent a version that cannot be read")]
    BadVersion {
        /// The peer.
        peer: PeerId,
    },
    /// A peer has another definition, or it is not the operator that it claims to be.
    #[error("peer {peer} does not have the same cluster definition")]
    Definition {
        /// The peer.
        peer: PeerId,
        /// What is wrong with its signature.
        #[source]
        fault: SignatureFault,
    },
    /// A peer came back with a step that it had left behind.
    #[error(
        "peer {peer} was restarted in the middle of the ceremony: it was at step {known} and says {reported} (this node is at {step})"
    )]
    Restarted {
        /// The peer.
        peer: PeerId,
        /// Where this node is.
        step: Step,
        /// What the peer said before.
        known: i64,
        /// What it says now.
        reported: i64,
    },
    /// The first thing heard of a peer is a step in the middle: it is this node that was restarted.
    #[error(
        "peer {peer} is in the middle of a ceremony, at step {reported}; was this node restarted?"
    )]
    Late {
        /// The peer.
        peer: PeerId,
        /// Where this node is.
        step: Step,
        /// What the peer said.
        reported: i64,
    },
    /// A peer left steps out.
    #[error("peer {peer} went from step {known} to step {reported} (this node is at {step})")]
    Jumped {
        /// The peer.
        peer: PeerId,
        /// Where this node is.
        step: Step,
        /// What the peer said before.
        known: i64,
        /// What it says now.
        reported: i64,
    },
    /// A peer passed a barrier that this node has not reached.
    #[error("peer {peer} is at step {reported} already, this node at {step}")]
    TooFarAhead {
        /// The peer.
        peer: PeerId,
        /// Where this node is.
        step: Step,
        /// What the peer said.
        reported: i64,
    },
    /// A peer ended the ceremony.
    #[error("peer {peer} ended the ceremony (this node is at {step}): {text}")]
    Told {
        /// The peer.
        peer: PeerId,
        /// Where this node is.
        step: Step,
        /// Its words, at most [`MAX_TEXT`] bytes of them.
        text: String,
    },
    /// A peer's last connection closed and it does not take another.
    #[error("peer {peer} was lost at {step}: not reachable for {after:?} (is it still running?)")]
    Lost {
        /// The peer.
        peer: PeerId,
        /// Where this node is.
        step: Step,
        /// Since the last connection closed.
        after: Duration,
        /// What became of the last attempt to reach it.
        #[source]
        cause: FailureCause,
    },
    /// Nothing was heard of a peer on any path.
    #[error("peer {peer} was lost at {step}: silent for {after:?}")]
    Silent {
        /// The peer.
        peer: PeerId,
        /// Where this node is.
        step: Step,
        /// Since it was heard last.
        after: Duration,
        /// What became of the last attempt to reach it, if one was needed.
        #[source]
        cause: Option<FailureCause>,
    },
    /// This node ended the ceremony; see [`Client::fail`](super::Client::fail).
    #[error("{text}")]
    Ours {
        /// The words given.
        text: String,
    },
    /// The node is gone.
    #[error("the node has shut down (at {step})")]
    NodeGone {
        /// Where it was.
        step: Step,
    },
}

impl Reason {
    /// The peer that it is about.
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Version { peer, .. }
            | Self::BadVersion { peer }
            | Self::Definition { peer, .. }
            | Self::Restarted { peer, .. }
            | Self::Late { peer, .. }
            | Self::Jumped { peer, .. }
            | Self::TooFarAhead { peer, .. }
            | Self::Told { peer, .. }
            | Self::Lost { peer, .. }
            | Self::Silent { peer, .. } => Some(*peer),
            Self::Ours { .. } | Self::NodeGone { .. } => None,
        }
    }

    /// What a reply says of it: to the peer that it is about in the words that Charon knows
    /// (dkg spec §2.7), to all others as this node's user reads it.
    pub(crate) fn to_peer(&self, to: PeerId) -> String {
        if self.peer() != Some(to) {
            return self.to_string();
        }
        let inconsistent = |what: &str| {
            format!(
                "detected inconsistent peer sync state (node restarted mid-ceremony), ceremony \
                 aborted: all operators must stop charon and restart the ceremony together: {what}"
            )
        };
        match self {
            Self::Version { ours, theirs, .. } => {
                format!("mismatching charon version; expect={ours}, got={theirs}")
            }
            Self::BadVersion { .. } => "parse peer version: invalid version string".to_owned(),
            Self::Definition {
                fault: SignatureFault::Mismatch,
                ..
            } => "invalid definition hash signature".to_owned(),
            Self::Definition { fault, .. } => {
                format!("error verifying definition hash signature: malformed signature: {fault}")
            }
            Self::Late { .. } => {
                inconsistent("peer reported abnormal initial step, expected 0 or 1")
            }
            Self::Restarted { .. } => {
                inconsistent("peer reported step is behind the last known step")
            }
            Self::Jumped { .. } => inconsistent("peer reported step is ahead the last known step"),
            _ => self.to_string(),
        }
    }
}

/// Why waiting ended without what was waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The caller's token was cancelled. The ceremony goes on.
    #[error("cancelled at {step}")]
    Cancelled {
        /// Where this node was.
        step: Step,
    },
    /// The ceremony has ended.
    #[error(transparent)]
    Ended(#[from] Reason),
}

/// At most `max` bytes of a text of others, fit for a terminal: without control characters.
pub(crate) fn tame(text: &str, max: usize) -> String {
    let mut tamed = String::new();
    for char in text.chars() {
        if tamed.len() + char.len_utf8() > max {
            break;
        }
        tamed.push(if char.is_control() { ' ' } else { char });
    }
    tamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_bounded_and_moves_no_cursor() {
        assert_eq!(tame("disk\u{1b}[2J full\r\n", 99), "disk [2J full  ");
        assert_eq!(tame("äöü", 5), "äö");
        assert_eq!(tame("äöü", 6), "äöü");
        assert_eq!(tame("", 0), "");
    }
}
