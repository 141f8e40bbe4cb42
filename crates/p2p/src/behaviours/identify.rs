//! Identify, recorded in the context before anybody hears of it.

use libp2p::{
    Multiaddr, PeerId, identify, identity::PublicKey, multiaddr::Protocol, swarm::FromSwarm,
};

use super::wrap::{Observe, Observed};
use crate::{
    addr::{is_dialable, is_relayed},
    p2p_context::{Identified, MAX_ADDRESSES, P2PContext, Writer},
};

/// Longest agent version that is kept; ours and Charon's have about thirty characters.
const MAX_AGENT: usize = 128;

/// libp2p's identify with a recorder in front.
pub type Behaviour = Observed<identify::Behaviour, Recorder>;

/// Writes what identify reports into the context.
pub struct Recorder {
    writer: Writer,
}

/// Identify that feeds the context. With `hide_listen_addrs` only external addresses are sent.
pub fn behaviour(
    context: &P2PContext,
    key: PublicKey,
    agent: String,
    hide_listen_addrs: bool,
) -> Behaviour {
    // The empty protocol version and what is sent are Charon's (p2p spec, section 2.2). No cache:
    // the dialer owns the addresses.
    let config = identify::Config::new(String::new(), key)
        .with_agent_version(agent)
        .with_push_listen_addr_updates(true)
        .with_hide_listen_addrs(hide_listen_addrs)
        .with_cache_size(0);
    let recorder = Recorder {
        writer: context.writer(),
    };
    Observed::new(identify::Behaviour::new(config), recorder)
}

impl Observe<identify::Behaviour> for Recorder {
    fn observe(
        &mut self,
        event: &identify::Event,
    ) -> Option<(PeerId, libp2p::swarm::ConnectionId)> {
        // A push replaces what was known just as an answer does.
        let (peer, connection, info) = match event {
            identify::Event::Received {
                peer_id,
                connection_id,
                info,
            }
            | identify::Event::Pushed {
                peer_id,
                connection_id,
                info,
            } => (*peer_id, *connection_id, info),
            _ => return None,
        };
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in &info.listen_addrs {
            let mut address = address.clone();
            // A push is not checked for whose addresses it tells.
            match address.iter().last() {
                Some(Protocol::P2p(other)) if other != peer => continue,
                Some(Protocol::P2p(_)) => drop(address.pop()),
                _ => {}
            }
            if is_dialable(&address) && !addresses.contains(&address) {
                addresses.push(address);
            }
            if addresses.len() == MAX_ADDRESSES {
                break;
            }
        }
        let who = Identified {
            agent: info.agent_version.chars().take(MAX_AGENT).collect(),
            protocols: info.protocols.clone(),
        };
        tracing::debug!(%peer, %connection, agent = %who.agent, addresses = addresses.len(), "identified");
        self.writer.identified(peer, addresses, who);
        None
    }

    /// Circuits are not told: who is in the cluster knows its relays, and a Charon that learned of
    /// one would dial it whichever side's turn it is (p2p spec, section 5.5). Charon tells none.
    fn lets_hear(&self, event: &FromSwarm<'_>) -> bool {
        match event {
            FromSwarm::NewListenAddr(event) => !is_relayed(event.addr),
            FromSwarm::ExpiredListenAddr(event) => !is_relayed(event.addr),
            _ => true,
        }
    }
}
