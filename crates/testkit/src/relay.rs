//! A relay that can be killed and started again where it was.

use std::net::SocketAddr;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use pluto_crypto::k1::SecretKey;
use pluto_p2p::RelaySource;
use pluto_relay_server::{Config, Control, Limits, Outcome, RelayServer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{TCP, addr, within};

/// A relay on loopback, over TCP, with a page that names it.
pub struct TestRelay {
    key: SecretKey,
    limits: Limits,
    listen: Multiaddr,
    http: SocketAddr,
    running: Option<(Control, CancellationToken, JoinHandle<Outcome>)>,
}

impl TestRelay {
    /// Starts one on free ports.
    pub async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    /// Starts one that gives only so much.
    pub async fn with_limits(limits: Limits) -> Self {
        let mut relay = Self {
            key: SecretKey::generate(),
            limits,
            listen: addr(TCP),
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            running: None,
        };
        relay.restart().await;
        relay
    }

    /// Its peer id.
    ///
    /// # Panics
    ///
    /// While it is stopped.
    pub fn id(&self) -> PeerId {
        self.control().peer_id()
    }

    /// The URL that names it.
    ///
    /// # Panics
    ///
    /// Never: a socket address makes a URL.
    pub fn url(&self) -> RelaySource {
        format!("http://{}", self.http).parse().unwrap()
    }

    /// What it does.
    ///
    /// # Panics
    ///
    /// While it is stopped.
    pub fn control(&self) -> &Control {
        &self.running.as_ref().unwrap().0
    }

    /// Where it listens.
    pub fn address(&self) -> &Multiaddr {
        &self.listen
    }

    /// Starts it again, at the same place and with the same identity.
    ///
    /// # Panics
    ///
    /// If its ports are taken.
    pub async fn restart(&mut self) {
        self.stop().await;
        let config = Config::new(self.key.clone())
            .with_listen(self.listen.clone())
            .with_private_addresses()
            .with_limits(self.limits.clone())
            .with_http(self.http);
        let relay = RelayServer::new(config).unwrap();
        let (control, stop) = (relay.control(), CancellationToken::new());
        let task = tokio::spawn(relay.run(stop.clone()));
        let told = within(control.ready()).await.unwrap();
        self.listen = told[0].clone();
        if let Some(Protocol::P2p(_)) = self.listen.iter().last() {
            self.listen.pop();
        }
        self.http = control.http_address().unwrap();
        self.running = Some((control, stop, task));
    }

    /// Starts it again as somebody else.
    pub async fn replace(&mut self) {
        self.key = SecretKey::generate();
        self.restart().await;
    }

    /// Ends it at once, its circuits with it.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub async fn stop(&mut self) {
        if let Some((control, stop, task)) = self.running.take() {
            control.stop();
            stop.cancel();
            within(task).await.unwrap();
        }
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        if let Some((control, stop, _)) = &self.running {
            control.stop();
            stop.cancel();
        }
    }
}
