//! The relays through which the nodes of a devnet find each other.

use std::{error::Error, net::SocketAddr};

use libp2p::PeerId;
use pluto_crypto::k1::SecretKey;
use pluto_p2p::RelaySource;
use pluto_relay_server::{Config, Control, Outcome, RelayServer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::Net;

/// Running relays.
pub(crate) struct Relays(Vec<Relay>);

struct Relay {
    control: Control,
    cancel: CancellationToken,
    task: JoinHandle<Outcome>,
}

impl Relays {
    /// Starts so many on free ports of loopback, and waits until they serve.
    pub(crate) async fn start(count: u32, net: Net) -> Result<Self, Box<dyn Error>> {
        let mut relays = Vec::new();
        for _ in 0..count {
            let mut config = Config::new(SecretKey::generate())
                .with_private_addresses()
                .with_http(SocketAddr::from(([127, 0, 0, 1], 0)));
            for address in net.listen() {
                config = config.with_listen(address);
            }
            let relay = RelayServer::new(config)?;
            let (control, cancel) = (relay.control(), CancellationToken::new());
            let task = tokio::spawn(relay.run(cancel.clone()));
            control.ready().await?;
            relays.push(Relay {
                control,
                cancel,
                task,
            });
        }
        Ok(Self(relays))
    }

    /// What a node is given to find them.
    pub(crate) fn sources(&self) -> Result<Vec<RelaySource>, Box<dyn Error>> {
        let urls = self.urls().map(|(_, url)| Ok(url.parse()?));
        urls.collect()
    }

    /// Who they are, and where their pages are.
    pub(crate) fn urls(&self) -> impl Iterator<Item = (PeerId, String)> {
        let relays = self.0.iter().map(|relay| &relay.control);
        relays.filter_map(|control| {
            let url = format!("http://{}", control.http_address()?);
            Some((control.peer_id(), url))
        })
    }

    /// Ends them, and returns once they have.
    pub(crate) async fn stop(self) {
        for relay in self.0 {
            // The nodes are gone: there is no circuit to wait for.
            relay.control.stop();
            relay.cancel.cancel();
            if let Err(error) = relay.task.await {
                tracing::error!(%error, "a relay failed");
            }
        }
    }
}
