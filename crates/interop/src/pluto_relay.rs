//! A relay of ours, in this process.

use std::time::Duration;

use pluto_crypto::k1::SecretKey;
use pluto_relay_server::{Config, Control, Outcome, RelayServer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::within;

/// A running relay of ours, on loopback, over TCP and QUIC, with its pages.
pub struct PlutoRelay {
    /// Where its HTTP page is, as flags take it.
    pub url: String,
    /// What it does.
    pub control: Control,
    cancel: CancellationToken,
    task: JoinHandle<Outcome>,
}

impl PlutoRelay {
    /// Starts one.
    pub async fn start() -> Self {
        let any = ([127, 0, 0, 1], 0).into();
        let config = Config::new(SecretKey::generate())
            .with_listen("/ip4/127.0.0.1/tcp/0".parse().unwrap())
            .with_listen("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap())
            .with_http(any)
            .with_monitoring(any)
            .with_drain(Duration::ZERO);
        let relay = RelayServer::new(config).unwrap();
        let control = relay.control();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(relay.run(cancel.clone()));
        within("a relay of ours", control.ready(), String::new)
            .await
            .unwrap();
        let url = format!("http://{}", control.http_address().unwrap());
        Self {
            url,
            control,
            cancel,
            task,
        }
    }

    /// Ends it.
    pub async fn stop(self) -> Outcome {
        self.cancel.cancel();
        within("the end of the relay", self.task, String::new)
            .await
            .unwrap()
    }
}
