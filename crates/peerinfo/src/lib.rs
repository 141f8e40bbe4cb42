//! Who the peers of a cluster are: their version, their clock, their nickname.
//!
//! Spec: p2p, section 10. Every node asks every other member once it is connected and then each
//! [`INTERVAL`], and answers whoever asks. What it learns is for people: nothing here disconnects
//! a peer or changes a duty. It tells what does not fit, such as an unsupported version, another
//! cluster's lock, or a clock that is off.
//!
//! [`new`] makes a behaviour that works in any swarm; the gate of a node decides who can ask.

mod behaviour;
mod finding;
mod info;
mod metrics;
mod version;

use std::time::Duration;

use libp2p::StreamProtocol;
use pluto_p2p::{
    P2PContext,
    exchange::{Budget, Feature, Protocol, Repeat, Shape, exchange},
};

pub use self::{
    behaviour::{AskError, Behaviour, Event, Rules},
    finding::Finding,
    info::{ClockOffset, Info, InfoError, Local, MAX_TEXT},
    metrics::Metrics,
    version::{SUPPORTED, Version, VersionError},
};

/// The only id (p2p spec, section 3.1).
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/charon/peerinfo/2.0.0");
/// How often each peer is asked; Charon's value.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// The shortest interval: what is shorter, nothing at all among it, counts as this. Chosen freely.
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The longest message that is read. An honest one has about 150 bytes.
pub const MAX_FRAME: usize = 4 << 10;
/// How long reading a message may take; Charon's value.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long writing a message may take; Charon's value.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(7);
/// How long one question may take in all.
pub const TIMEOUT: Duration = Duration::from_secs(12);

/// How peer information is asked for and given.
#[derive(Debug, Clone)]
pub struct Config {
    /// What others are told.
    pub local: Local,
    /// How often each peer is asked, beside at once; [`MIN_INTERVAL`] at least.
    pub interval: Duration,
    /// Where what is learned is counted.
    pub metrics: Option<Metrics>,
    /// The bytes that all features of a node may be receiving.
    pub budget: Budget,
}

impl Config {
    /// Asks each [`INTERVAL`], without metrics and with a budget of its own.
    pub fn new(local: Local) -> Self {
        Self {
            local,
            interval: INTERVAL,
            metrics: None,
            budget: Budget::default(),
        }
    }
}

/// Makes the behaviour. In a swarm that feeds no context, `P2PContext::default()` will do: then
/// every connected peer is asked, not only the members of a cluster.
pub fn new(context: P2PContext, config: Config) -> Behaviour {
    let (exchange, handle, inbound) =
        exchange(context.clone(), config.budget.clone(), vec![protocol()]);
    Feature::new(exchange, Rules::new(context, config, handle, inbound))
}

fn protocol() -> Protocol {
    Protocol {
        ids: vec![PROTOCOL],
        shape: Shape::RequestResponse,
        repeat: Repeat::Safe,
        max_frame: MAX_FRAME,
        read_timeout: READ_TIMEOUT,
        write_timeout: WRITE_TIMEOUT,
    }
}

/// The messages on the wire.
#[allow(missing_docs, unreachable_pub, reason = "generated")]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/app.peerinfo.peerinfopb.v1.rs"));
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
