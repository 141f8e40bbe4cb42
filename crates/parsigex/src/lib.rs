//! Exchange of partial signatures.
//!
//! Spec: duties, section 3. Each node sends its partial signatures of a duty to all others, once;
//! nobody answers. A node accepts from a peer only signatures for duties that its [`Gate`] lets
//! through, only under that peer's share index, only
//! over what is of the duty's slot or epoch, and only if each one verifies against the validator's
//! public share: checked off the network task, in batches, on all cores.
//!
//! [`new`] makes the three parts: a [`Behaviour`] for the swarm, a [`Handle`] that sends, and a
//! bounded queue of what was [`Received`].

mod behaviour;
mod gate;
mod handle;
mod members;
mod verify;

use std::{sync::Arc, time::Duration};

use libp2p::{PeerId, StreamProtocol};
use pluto_p2p::{
    P2PContext,
    exchange::{Budget, Feature, Protocol, Repeat, Shape, exchange},
};
use tokio::sync::mpsc;

pub use self::{
    behaviour::{Behaviour, Event, MAX_CHECKS, MAX_DELIVERED, Received, Refusal, Rules},
    gate::{AnyDuty, EPOCHS_AHEAD, Epochs, Gate, GateError},
    handle::{Handle, Outcome, SendError},
    members::{BindError, Members, MissingShareIdx},
    verify::{BlsVerifier, Unverified, Verifier, VerifyError},
};

/// The only id (p2p spec, section 3.1).
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/charon/parsigex/2.0.0");
/// The longest message, as Charon. Memory grows with what arrives.
pub const MAX_FRAME: usize = 128 << 20;
/// How long reading a message may take; Charon's value.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long writing a message may take; Charon's value.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(7);

/// Makes the parts of the exchange for the node `local`, which takes what `gate` lets through and
/// `verifier` finds good.
pub fn new(
    context: P2PContext,
    local: PeerId,
    members: Members,
    gate: impl Gate,
    verifier: impl Verifier,
    budget: Budget,
) -> (Behaviour, Handle, mpsc::Receiver<Received>) {
    let protocol = Protocol {
        ids: vec![PROTOCOL],
        shape: Shape::OneWay,
        // A partial signature is the same however often it arrives.
        repeat: Repeat::Safe,
        max_frame: MAX_FRAME,
        read_timeout: READ_TIMEOUT,
        write_timeout: WRITE_TIMEOUT,
    };
    let members = Arc::new(members);
    let (exchange, sender, inbound) = exchange(context, budget, vec![protocol]);
    let (rules, received) =
        Rules::new(members.clone(), Arc::new(gate), Arc::new(verifier), inbound);
    let handle = Handle::new(sender, members, local);
    (Feature::new(exchange, rules), handle, received)
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
