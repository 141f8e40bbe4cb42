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

#[cfg(test)]
mod tests {
    use libp2p::{
        core::{Endpoint, transport::ListenerId},
        identity::Keypair,
        swarm::{ConnectionId, ExpiredListenAddr, NewListenAddr},
    };

    use super::*;
    use crate::{addr::Transport, p2p_context::Path};

    #[test]
    fn what_a_push_tells_of_others_and_what_cannot_be_dialled_is_left_out() {
        let key = Keypair::generate_ed25519().public();
        let (peer, other) = (key.to_peer_id(), PeerId::random());
        let context = P2PContext::new([peer]);
        let connection_id = ConnectionId::new_unchecked(1);
        let mut recorder = Recorder {
            writer: context.writer(),
        };
        let path = Path::new(
            connection_id,
            Endpoint::Dialer,
            None,
            Transport::Tcp,
            Multiaddr::empty(),
        );
        context.writer().connected(peer, path);
        let told = [
            "/ip4/10.0.0.1/tcp/1".to_owned(),
            format!("/ip4/10.0.0.1/tcp/1/p2p/{peer}"),
            format!("/ip4/10.0.0.2/tcp/1/p2p/{peer}"),
            format!("/ip4/10.0.0.3/tcp/1/p2p/{other}"),
            format!("/ip4/10.0.0.4/tcp/1/p2p/{other}/p2p-circuit/p2p/{peer}"),
            "/ip4/10.0.0.5".to_owned(),
        ];
        let info = identify::Info {
            public_key: key,
            protocol_version: String::new(),
            agent_version: "x".repeat(MAX_AGENT + 1),
            listen_addrs: told.iter().map(|text| text.parse().unwrap()).collect(),
            protocols: Vec::new(),
            observed_addr: Multiaddr::empty(),
            signed_peer_record: None,
        };

        recorder.observe(&identify::Event::Pushed {
            connection_id,
            peer_id: peer,
            info,
        });

        let view = context.view();
        let state = view.peer(&peer).unwrap();
        let kept: Vec<_> = state.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/1"]);
        let agent = &state.identified.as_ref().unwrap().agent;
        assert_eq!(agent.len(), MAX_AGENT);
    }

    #[test]
    fn circuits_that_are_listened_on_are_not_told() {
        let recorder = Recorder {
            writer: P2PContext::default().writer(),
        };
        let relay = PeerId::random();
        let listener_id = ListenerId::next();
        for (text, told) in [
            ("/ip4/10.0.0.1/tcp/1".to_owned(), true),
            (
                format!("/ip4/10.0.0.1/tcp/1/p2p/{relay}/p2p-circuit"),
                false,
            ),
        ] {
            let addr = &text.parse().unwrap();
            let new = FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr });
            assert_eq!(recorder.lets_hear(&new), told, "{text}");
            let expired = FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, addr });
            assert_eq!(recorder.lets_hear(&expired), told, "{text}");
        }
    }
}
