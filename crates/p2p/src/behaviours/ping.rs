//! Ping, recorded in the context, and the end of connections that stop answering.
//!
//! libp2p's ping closes nothing, hides the first miss, and waits an interval and a time-out for
//! each. With the defaults the third miss, which is the second that is reported, comes 29 s after a
//! path has fallen silent at the latest.

use std::{collections::HashMap, time::Duration};

use libp2p::{PeerId, ping, swarm::ConnectionId};
use tracing::field::display;

use super::wrap::{Observe, Observed};
use crate::p2p_context::{P2PContext, Writer};

/// Go ends a ping stream after 10 s without a ping (p2p spec, section 8.1).
pub const INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// Reported failures in a row after which a connection is closed.
pub const MAX_FAILURES: u32 = 2;

const _: () = assert!(INTERVAL.as_secs() < 10);
// One interval may pass before the first ping that is missed, and one miss is never reported.
const _: () = assert!(
    INTERVAL.as_secs() + (INTERVAL.as_secs() + TIMEOUT.as_secs()) * (MAX_FAILURES as u64 + 1) <= 30
);

/// libp2p's ping with a recorder in front.
pub type Behaviour = Observed<ping::Behaviour, Recorder>;

/// Writes round-trip times into the context and names connections that are to be closed.
pub struct Recorder {
    writer: Writer,
    failures: HashMap<ConnectionId, u32>,
}

/// Ping that feeds the context.
pub fn behaviour(context: &P2PContext, interval: Duration, timeout: Duration) -> Behaviour {
    let config = ping::Config::new()
        .with_interval(interval)
        .with_timeout(timeout);
    let recorder = Recorder {
        writer: context.writer(),
        failures: HashMap::new(),
    };
    Observed::new(ping::Behaviour::new(config), recorder)
}

impl Observe<ping::Behaviour> for Recorder {
    fn observe(&mut self, event: &ping::Event) -> Option<(PeerId, ConnectionId)> {
        let (peer, connection) = (event.peer, event.connection);
        match &event.result {
            Ok(rtt) => {
                self.failures.remove(&connection);
                self.writer.pinged(peer, connection, *rtt);
                None
            }
            // It answers other things; that is not ours to judge.
            Err(ping::Failure::Unsupported) => None,
            Err(failure) => {
                let count = self.failures.entry(connection).or_default();
                *count += 1;
                let count = *count;
                let path = self.writer.path(peer, connection);
                let path = path.as_ref().map(|path| display(&path.address));
                tracing::debug!(%peer, %connection, path, %failure, count, "ping failed");
                self.writer
                    .ping_failed(peer, |other| self.failures.contains_key(&other));
                if count < MAX_FAILURES {
                    return None;
                }
                self.failures.remove(&connection);
                tracing::warn!(%peer, %connection, path, "closing a connection that stopped answering");
                self.writer.silent(peer, connection);
                Some((peer, connection))
            }
        }
    }

    fn closed(&mut self, connection: ConnectionId) {
        self.failures.remove(&connection);
    }
}
