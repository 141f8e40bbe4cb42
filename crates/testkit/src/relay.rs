//! A relay that can be killed and started again where it was.

use std::net::{IpAddr, SocketAddr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use pluto_crypto::k1::SecretKey;
use pluto_p2p::{
    RelaySource,
    addr::{Transport, external},
};
use pluto_relay_server::{Config, Control, Limits, Outcome, RelayServer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{TCP, addr, within};

/// A relay, unless otherwise said on loopback and over TCP, with a page that names it.
pub struct TestRelay {
    key: SecretKey,
    limits: Limits,
    /// Where clients are told that it is, instead of where it listens.
    front: Option<IpAddr>,
    /// Where it listens; once it has started, at which ports.
    listen: Vec<Multiaddr>,
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
        Self::configured(&[TCP], limits, None).await
    }

    /// Starts one that listens there, its page on the host of the first.
    pub async fn on(listen: &[&str]) -> Self {
        Self::configured(listen, Limits::default(), None).await
    }

    /// Starts one whose clients are told that it is at its port of another host of loopback; what is
    /// there is a [`Link`](crate::Link::before).
    pub async fn behind(front: IpAddr, limits: Limits) -> Self {
        Self::configured(&[TCP], limits, Some(front)).await
    }

    async fn configured(listen: &[&str], limits: Limits, front: Option<IpAddr>) -> Self {
        let listen: Vec<_> = listen.iter().map(|listen| addr(listen)).collect();
        let host = listen[0].iter().find_map(|part| match part {
            Protocol::Ip4(ip) => Some(ip),
            _ => None,
        });
        let mut relay = Self {
            key: SecretKey::generate(),
            limits,
            front,
            listen,
            http: SocketAddr::from((host.unwrap(), 0)),
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
        &self.listen[0]
    }

    /// Starts it again, at the same place and with the same identity.
    ///
    /// # Panics
    ///
    /// If its ports are taken.
    pub async fn restart(&mut self) {
        self.stop().await;
        let listen = self.listen.iter().cloned();
        let config = listen.fold(Config::new(self.key.clone()), Config::with_listen);
        let config = config.with_limits(self.limits.clone()).with_http(self.http);
        let config = match self.front {
            Some(front) => config.with_external_ip(front),
            None => config.with_private_addresses(),
        };
        let relay = RelayServer::new(config).unwrap();
        let (control, stop) = (relay.control(), CancellationToken::new());
        let task = tokio::spawn(relay.run(stop.clone()));
        let told = within(control.ready()).await.unwrap();
        for listen in &mut self.listen {
            let same = |told: &&Multiaddr| Transport::of(told) == Transport::of(listen);
            let host = listen.iter().next().unwrap().acquire();
            *listen = external(told.iter().find(same).unwrap(), host).unwrap();
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
