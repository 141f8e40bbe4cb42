//! Hash tree roots (SHA-256 Merkle trees) of what is signed here.
//!
//! - **Bounds:** a [`Tree`] takes leaves one by one and keeps one node for each level, whatever the
//!   number of leaves.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// Bytes of one leaf.
pub(crate) const CHUNK: usize = 32;

/// Levels of the deepest tree: over the leaves of a transaction, which has at most 2^30 bytes.
const MAX_DEPTH: usize = 25;

/// The roots of trees of zero leaves, by depth.
static ZEROS: LazyLock<[[u8; CHUNK]; MAX_DEPTH + 1]> = LazyLock::new(|| {
    let mut zeros = [[0; CHUNK]; MAX_DEPTH + 1];
    for depth in 1..zeros.len() {
        zeros[depth] = pair(&zeros[depth - 1], &zeros[depth - 1]);
    }
    zeros
});

/// A tree whose leaves come one by one; missing ones are zero.
pub(crate) struct Tree {
    depth: usize,
    count: usize,
    /// The left sibling that waits on each level for its right one, where `count` has a bit.
    nodes: [[u8; CHUNK]; MAX_DEPTH + 1],
}

impl Tree {
    /// A tree for up to `max_leaves`, a number that comes from the layout and never from a peer.
    pub(crate) fn new(max_leaves: usize) -> Self {
        let depth = max_leaves.next_power_of_two().trailing_zeros() as usize;
        assert!(depth <= MAX_DEPTH, "{max_leaves} leaves are too many");
        Self {
            depth,
            count: 0,
            nodes: [[0; CHUNK]; MAX_DEPTH + 1],
        }
    }

    /// Adds a leaf. The caller has checked that there is room.
    pub(crate) fn push(&mut self, leaf: [u8; CHUNK]) {
        debug_assert!(self.count < 1 << self.depth, "no room for a leaf");
        let level = self.count.trailing_ones() as usize;
        let node = self.nodes[..level]
            .iter()
            .fold(leaf, |right, left| pair(left, &right));
        self.nodes[level] = node;
        self.count += 1;
    }

    pub(crate) fn root(&self) -> [u8; CHUNK] {
        let mut right = None;
        for (level, left) in self.nodes[..self.depth].iter().enumerate() {
            right = match (self.count >> level & 1, right) {
                (0, None) => None,
                (0, Some(only)) => Some(pair(&only, &ZEROS[level])),
                (_, right) => Some(pair(left, &right.unwrap_or(ZEROS[level]))),
            };
        }
        match (right, self.count) {
            (Some(root), _) => root,
            (None, 0) => ZEROS[self.depth],
            (None, _) => self.nodes[self.depth],
        }
    }

    /// The root of a list: over its leaves and its length.
    pub(crate) fn list_root(&self, len: usize) -> [u8; CHUNK] {
        pair(&self.root(), &u64(len as u64))
    }
}

/// A number as a leaf: little-endian, zero-padded.
pub(crate) fn u64(value: u64) -> [u8; CHUNK] {
    short(&value.to_le_bytes())
}

/// Up to 32 bytes as a leaf, zero-padded.
pub(crate) fn short<const N: usize>(bytes: &[u8; N]) -> [u8; CHUNK] {
    const { assert!(N <= CHUNK) };
    leaf(bytes)
}

/// The root of a byte vector: a hash, a key, a signature, a bit vector.
pub(crate) fn vector(bytes: &[u8]) -> [u8; CHUNK] {
    bytes_tree(bytes, bytes.len().div_ceil(CHUNK)).root()
}

/// The root of a list of bytes, or of numbers in their little-endian bytes, that has `len` of them
/// and could have `max_bytes` bytes.
pub(crate) fn byte_list(bytes: &[u8], len: usize, max_bytes: usize) -> [u8; CHUNK] {
    bytes_tree(bytes, max_bytes.div_ceil(CHUNK)).list_root(len)
}

/// The root of a checked bit list, as it is encoded with its end marker.
pub(crate) fn bit_list(bits: &[u8], max_bits: usize) -> [u8; CHUNK] {
    let (last, full) = bits.split_last().unwrap_or((&1, &[]));
    let marker = last.checked_ilog2().unwrap_or(0);
    let len = full.len() * 8 + marker as usize;
    // Without its marker the last byte may be none.
    let last = last & !(1 << marker);
    let mut tree = Tree::new(max_bits.div_ceil(CHUNK * 8));
    let mut chunks = full.chunks_exact(CHUNK);
    for chunk in &mut chunks {
        tree.push(leaf(chunk));
    }
    let rest = chunks.remainder();
    if !rest.is_empty() || marker > 0 {
        let mut chunk = leaf(rest);
        chunk[rest.len()] = last;
        tree.push(chunk);
    }
    tree.list_root(len)
}

/// The root over the roots of a container's fields: padded with zero leaves to a power of two.
pub(crate) fn container(fields: &[[u8; CHUNK]]) -> [u8; CHUNK] {
    let mut tree = Tree::new(fields.len());
    for field in fields {
        tree.push(*field);
    }
    tree.root()
}

/// At most 32 bytes, zero-padded; more are left out.
pub(crate) fn leaf(bytes: &[u8]) -> [u8; CHUNK] {
    let mut leaf = [0; CHUNK];
    for (to, from) in leaf.iter_mut().zip(bytes) {
        *to = *from;
    }
    leaf
}

fn bytes_tree(bytes: &[u8], max_leaves: usize) -> Tree {
    let mut tree = Tree::new(max_leaves);
    for chunk in bytes.chunks(CHUNK) {
        tree.push(leaf(chunk));
    }
    tree
}

fn pair(left: &[u8; CHUNK], right: &[u8; CHUNK]) -> [u8; CHUNK] {
    Sha256::new()
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: pad to the limit, then halve level by level.
    fn by_definition(leaves: &[[u8; CHUNK]], max_leaves: usize) -> [u8; CHUNK] {
        let mut level = leaves.to_vec();
        level.resize(max_leaves.next_power_of_two(), [0; CHUNK]);
        while level.len() > 1 {
            level = level
                .chunks_exact(2)
                .map(|both| Sha256::digest(both.concat()).into())
                .collect();
        }
        level[0]
    }

    #[test]
    fn trees_of_every_count_have_the_root_by_definition() {
        for max_leaves in [1, 2, 3, 8, 33, 64] {
            let mut tree = Tree::new(max_leaves);
            let mut leaves = Vec::new();
            for count in 0..=max_leaves {
                let expected = by_definition(&leaves, max_leaves);
                assert_eq!(tree.root(), expected, "{count} of {max_leaves}");
                if count < max_leaves {
                    leaves.push([count as u8 + 1; CHUNK]);
                    tree.push([count as u8 + 1; CHUNK]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn bit_lists_have_the_root_of_their_bits_without_marker(
            bits in prop::collection::vec(any::<bool>(), 0..=2_048),
        ) {
            let mut packed = vec![0; bits.len().div_ceil(8)];
            for (at, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                packed[at / 8] |= 1 << (at % 8);
            }
            let mut encoded = packed.clone();
            encoded.resize(bits.len() / 8 + 1, 0);
            encoded[bits.len() / 8] |= 1 << (bits.len() % 8);

            let leaves: Vec<_> = packed.chunks(CHUNK).map(leaf).collect();
            let root = by_definition(&leaves, 8);
            prop_assert_eq!(bit_list(&encoded, 2_048), pair(&root, &u64(bits.len() as u64)));
        }
    }
}
