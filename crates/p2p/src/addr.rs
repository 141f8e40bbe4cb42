//! Addresses: what is listened on, what is advertised, what a connection's address says.
//!
//! Spec: p2p, section 2.3.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, multiaddr::Protocol};

/// The transport of a connection, or of the leg to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP with noise and yamux.
    Tcp,
    /// QUIC version 1.
    Quic,
    /// Anything else, such as an in-memory transport.
    Other,
}

impl Transport {
    /// Reads it off an address.
    pub fn of(address: &Multiaddr) -> Self {
        let mut transport = Self::Other;
        for part in address {
            match part {
                Protocol::QuicV1 | Protocol::Quic => return Self::Quic,
                Protocol::Tcp(_) => transport = Self::Tcp,
                Protocol::P2pCircuit => break,
                _ => {}
            }
        }
        transport
    }

    /// Its name in logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Other => "unknown",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddrError {
    /// There is no host part, as in `:3610`.
    #[error("`{text}` has no IP address: write 0.0.0.0{text} to listen on all interfaces")]
    NoHost {
        /// What was given.
        text: String,
    },
    /// There is no port.
    #[error("`{text}` has no port: write it as IP:PORT, for example 0.0.0.0:3610")]
    NoPort {
        /// What was given.
        text: String,
    },
    /// It is not `IP:PORT`.
    #[error("`{text}` is not an address: write it as IP:PORT, for example 0.0.0.0:3610")]
    Malformed {
        /// What was given.
        text: String,
    },
}

/// Reads `IP:PORT` as an address to listen on.
pub fn parse_listen(text: &str, transport: Transport) -> Result<Multiaddr, AddrError> {
    let given = || text.to_owned();
    let socket = match text.parse::<SocketAddr>() {
        Ok(socket) => socket,
        Err(_) if text.starts_with(':') => return Err(AddrError::NoHost { text: given() }),
        Err(_) if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() => {
            return Err(AddrError::NoPort { text: given() });
        }
        Err(_) => return Err(AddrError::Malformed { text: given() }),
    };
    Ok(of_socket(socket, transport))
}

/// The address of a socket.
pub fn of_socket(socket: SocketAddr, transport: Transport) -> Multiaddr {
    let ip = Multiaddr::from(socket.ip());
    match transport {
        Transport::Quic => ip.with(Protocol::Udp(socket.port())).with(Protocol::QuicV1),
        Transport::Tcp | Transport::Other => ip.with(Protocol::Tcp(socket.port())),
    }
}

/// The address under which a bound one is reachable from outside: its port at another host.
/// `None` if the bound address has neither a TCP nor a UDP port.
pub fn external(bound: &Multiaddr, host: Protocol<'_>) -> Option<Multiaddr> {
    let port = bound
        .iter()
        .find(|part| matches!(part, Protocol::Tcp(_) | Protocol::Udp(_)))?;
    let address = Multiaddr::empty().with(host.acquire()).with(port.acquire());
    Some(match Transport::of(bound) {
        Transport::Quic => address.with(Protocol::QuicV1),
        Transport::Tcp | Transport::Other => address,
    })
}

/// Whether an address leads through a relay.
pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The address of a connection that says how it runs.
pub fn of_endpoint(endpoint: &ConnectedPoint) -> &Multiaddr {
    match endpoint {
        // An inbound circuit tells its relay in the local address.
        ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr,
        _ => endpoint.get_remote_address(),
    }
}

/// The relay that an address leads through.
pub fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut last = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => last = Some(peer),
            Protocol::P2pCircuit => return last,
            _ => {}
        }
    }
    None
}

/// The IP address that an address begins with.
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

/// As which address one counts where the connections of one host are bounded. Of IPv6 that is the
/// network of 64 bits: whoever has one address of it has all.
pub fn counted_as(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => IpAddr::V4(ip),
            None => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        },
    }
}

/// Whether an address is only reachable near by: loopback, private, carrier-grade and link-local
/// networks (p2p spec, section 2.3).
pub fn is_private(address: &Multiaddr) -> bool {
    match ip_of(address) {
        Some(IpAddr::V4(ip)) => is_private_v4(ip),
        Some(IpAddr::V6(ip)) => is_private_v6(ip),
        None => false,
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    ip.is_loopback() || ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64)
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
}

/// Keeps what is worth telling the world. It decides what is advertised, never what is listened on.
pub fn filter_private_addrs(addresses: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    addresses
        .into_iter()
        .filter(|address| !is_private(address))
        .collect()
}

/// Whether an address that a peer reported can be dialled at all: a host, a port, no circuit, no
/// unspecified IP.
pub fn is_dialable(address: &Multiaddr) -> bool {
    let host = match address.iter().next() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified(),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => true,
        _ => false,
    };
    host && !is_relayed(address)
        && address
            .iter()
            .any(|part| matches!(part, Protocol::Tcp(port) | Protocol::Udp(port) if port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let of = |text: &str| counted_as(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn listen_addresses_are_read_as_charon_writes_them() {
        let cases = [
            ("10.0.0.2:0", Transport::Tcp, "/ip4/10.0.0.2/tcp/0"),
            ("[ff02::1]:0", Transport::Tcp, "/ip6/ff02::1/tcp/0"),
            ("10.0.0.2:0", Transport::Quic, "/ip4/10.0.0.2/udp/0/quic-v1"),
            ("[ff02::1]:0", Transport::Quic, "/ip6/ff02::1/udp/0/quic-v1"),
        ];
        for (text, transport, expected) in cases {
            let read = parse_listen(text, transport).unwrap();
            assert_eq!(read.to_string(), expected);
        }
    }

    #[test]
    fn each_wrong_listen_address_is_told_apart() {
        let read = |text| parse_listen(text, Transport::Tcp).unwrap_err();
        assert!(matches!(read(":1234"), AddrError::NoHost { .. }));
        assert!(matches!(read("127.0.0.1"), AddrError::NoPort { .. }));
        assert!(matches!(read("[::1]"), AddrError::NoPort { .. }));
        assert!(matches!(read("127.0.0.1:x"), AddrError::Malformed { .. }));
        assert!(matches!(read(""), AddrError::Malformed { .. }));
    }

    #[test]
    fn private_networks_end_where_the_table_says() {
        for (ip, private) in [
            ("/ip4/127.0.0.1", true),
            ("/ip4/100.63.255.255", false),
            ("/ip4/100.64.0.0", true),
            ("/ip4/100.127.255.255", true),
            ("/ip4/100.128.0.0", false),
            ("/ip4/172.15.0.1", false),
            ("/ip4/172.16.0.1", true),
            ("/ip4/172.32.0.1", false),
            ("/ip4/169.254.1.1", true),
            ("/ip4/8.8.8.8", false),
            ("/ip6/::1", true),
            ("/ip6/fc00::1", true),
            ("/ip6/fe80::1", true),
            ("/ip6/2001:db8::1", false),
            ("/dns/example.org", false),
        ] {
            assert_eq!(is_private(&ip.parse().unwrap()), private, "{ip}");
        }
    }

    #[test]
    fn the_outside_address_has_the_bound_port() {
        let bound: Multiaddr = "/ip4/0.0.0.0/udp/4242/quic-v1".parse().unwrap();
        let outside = external(&bound, Protocol::Dns("node.example".into())).unwrap();
        assert_eq!(outside.to_string(), "/dns/node.example/udp/4242/quic-v1");
        assert_eq!(
            external(
                &"/memory/1".parse().unwrap(),
                Protocol::Ip4([1, 2, 3, 4].into())
            ),
            None
        );
    }

    #[test]
    fn a_circuit_names_its_relay_and_the_transport_to_it() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let text = format!("/ip4/1.2.3.4/tcp/9/p2p/{relay}/p2p-circuit/p2p/{peer}");
        let address: Multiaddr = text.parse().unwrap();
        assert_eq!(relay_of(&address), Some(relay));
        assert_eq!(Transport::of(&address), Transport::Tcp);
        assert!(!is_dialable(&address));
        let direct: Multiaddr = format!("/ip4/1.2.3.4/tcp/9/p2p/{peer}").parse().unwrap();
        assert_eq!(relay_of(&direct), None);
        assert!(is_dialable(&direct));
    }
}
