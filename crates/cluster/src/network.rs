//! Which chain a fork version belongs to.
//!
//! Spec: cluster, section 7.5. Only what the signatures of cluster files need.

/// Genesis fork version and chain id of the networks that are known.
const NETWORKS: [([u8; 4], u64); 6] = [
    ([0, 0, 0, 0], 1),                // mainnet
    ([0, 0, 0x10, 0x20], 5),          // goerli
    ([0, 0, 0, 0x64], 100),           // gnosis
    ([0, 0, 0, 0x6f], 10_200),        // chiado
    ([0x90, 0, 0, 0x69], 11_155_111), // sepolia
    ([0x10, 0, 9, 0x10], 560_048),    // hoodi
];

/// The chain id that EIP-712 domains of a network contain. `None` for one that is not known.
pub(crate) fn chain_id(fork_version: [u8; 4]) -> Option<u64> {
    let (_, chain_id) = NETWORKS.iter().find(|(it, _)| *it == fork_version)?;
    Some(*chain_id)
}
