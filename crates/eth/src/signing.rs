//! From a message root to the 32 bytes that a validator key signs.
//!
//! Spec: cluster, sections 7.1 and 8. Deposits and builder registrations are bound to the network by
//! its genesis fork version and to nothing else, so that a signature holds for ever.

use crate::{network::ForkVersion, ssz};

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DomainKind {
    /// A deposit.
    Deposit,
    /// A registration of a validator with block builders.
    ApplicationBuilder,
}

impl DomainKind {
    /// The first four bytes of a domain.
    #[must_use]
    pub const fn type_bytes(self) -> [u8; 4] {
        match self {
            Self::Deposit => [3, 0, 0, 0],
            Self::ApplicationBuilder => [0, 0, 0, 1],
        }
    }
}

/// The domain of `kind` on the network whose genesis fork version this is.
#[must_use]
pub fn domain(kind: DomainKind, genesis_version: ForkVersion) -> [u8; 32] {
    let fork_data_root = ssz::container(&[ssz::vector(&genesis_version.0), [0; 32]]);
    let mut domain = [0; 32];
    domain[..4].copy_from_slice(&kind.type_bytes());
    domain[4..].copy_from_slice(&fork_data_root[..28]);
    domain
}

/// Binds a message root to its domain: the bytes that are signed.
#[must_use]
pub fn signing_root(message_root: [u8; 32], domain: [u8; 32]) -> [u8; 32] {
    ssz::container(&[message_root, domain])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    #[test]
    fn domains_are_those_of_the_specification() {
        // Spec cluster, appendix A.5.
        let expected = [
            (
                Network::MAINNET,
                "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a9",
            ),
            (
                Network::GOERLI,
                "e4be9393b074ca1f3e4aabd585ca4bea101170ccfaf71b89ce5c5c38",
            ),
            (
                Network::GNOSIS,
                "f925ddc5e2ae63752ccc93b8e3ecbc14259c1b3447464e8d4940230c",
            ),
            (
                Network::CHIADO,
                "0dcd4496472eed03785d00b1d8b52a3bc8a2818ba3929b39ba033c61",
            ),
            (
                Network::SEPOLIA,
                "d3010778cd08ee514b08fe67b6c503b510987a4ce43f42306d97c67c",
            ),
            (
                Network::HOODI,
                "719103511efa4f1362ff2a50996cccf329cc84cb410c5e5c7d351d03",
            ),
        ];
        assert_eq!(expected.len(), Network::BUILT_IN.len());

        for (network, tail) in expected {
            let version = network.genesis_version();
            assert_eq!(
                hex::encode(domain(DomainKind::Deposit, version)),
                format!("03000000{tail}")
            );
            assert_eq!(
                hex::encode(domain(DomainKind::ApplicationBuilder, version)),
                format!("00000001{tail}")
            );
        }
    }
}
