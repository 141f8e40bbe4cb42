//! How a relay is set up.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libp2p::Multiaddr;
use pluto_crypto::k1::SecretKey;

/// What one relay gives to all, to one address and to one peer.
///
/// The defaults are Charon's (p2p spec, section 9.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Peers that hold a place at the same time. Renewals are never refused for it.
    pub max_reservations: usize,
    /// The same from one IPv4 address or one IPv6 network of 64 bits.
    pub max_reservations_per_ip: usize,
    /// Circuits that run at the same time. Charon has no such bound; the default is four for each
    /// place.
    pub max_circuits: usize,
    /// Circuits of one peer, those from it and those to it together.
    pub max_circuits_per_peer: usize,
    /// How long a place lasts unless it is renewed.
    pub reservation_duration: Duration,
    /// How long a circuit may run.
    pub circuit_duration: Duration,
    /// Bytes that one circuit may carry in each direction.
    pub circuit_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_reservations: 16_384,
            max_reservations_per_ip: 512,
            max_circuits: 4 * 16_384,
            max_circuits_per_peer: 512,
            reservation_duration: Duration::from_secs(3600),
            circuit_duration: Duration::from_secs(3600),
            circuit_bytes: 32 << 20,
        }
    }
}

/// How a relay is set up. [`Config::new`] is one that is embedded in a program or a test: it has no
/// HTTP, and listens nowhere until [`with_listen`](Self::with_listen) says where.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) key: SecretKey,
    pub(crate) listen: Vec<Multiaddr>,
    pub(crate) external_ip: Option<IpAddr>,
    pub(crate) external_host: Option<String>,
    pub(crate) advertise_private: bool,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) monitoring: Option<SocketAddr>,
    pub(crate) limits: Limits,
    pub(crate) drain: Duration,
}

impl Config {
    /// How long running circuits get at the end.
    pub const DRAIN: Duration = Duration::from_secs(30);

    /// A relay of this identity with Charon's limits.
    #[must_use]
    pub fn new(key: SecretKey) -> Self {
        Self {
            key,
            listen: Vec::new(),
            external_ip: None,
            external_host: None,
            advertise_private: false,
            http: None,
            monitoring: None,
            limits: Limits::default(),
            drain: Self::DRAIN,
        }
    }

    /// Listens there as well; port 0 takes any free one.
    #[must_use]
    pub fn with_listen(mut self, address: Multiaddr) -> Self {
        self.listen.push(address);
        self
    }

    /// The IP address under which the relay is reached from outside, at the ports it listens on.
    #[must_use]
    pub fn with_external_ip(mut self, ip: IpAddr) -> Self {
        self.external_ip = Some(ip);
        self
    }

    /// The host name under which it is.
    #[must_use]
    pub fn with_external_host(mut self, host: impl Into<String>) -> Self {
        self.external_host = Some(host.into());
        self
    }

    /// Tells clients private addresses too. Without that they are told only if there are no others.
    #[must_use]
    pub fn with_private_addresses(mut self) -> Self {
        self.advertise_private = true;
        self
    }

    /// Serves `/` and `/enr` there; port 0 takes any free one.
    #[must_use]
    pub fn with_http(mut self, address: SocketAddr) -> Self {
        self.http = Some(address);
        self
    }

    /// Serves `/metrics` there.
    #[must_use]
    pub fn with_monitoring(mut self, address: SocketAddr) -> Self {
        self.monitoring = Some(address);
        self
    }

    /// Other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long running circuits get at the end, instead of [`Config::DRAIN`].
    #[must_use]
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }
}
