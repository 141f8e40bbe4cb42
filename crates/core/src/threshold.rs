//! Collects partial signatures until there are enough.
//!
//! A pure core: no clock, no crypto. Duties, section 5.2 in its simplest form: signatures count
//! together when they sign the same root.
//!
//! - **Bounds:** at most [`MAX_DUTIES`] (duty, validator) pairs, one signature per share in each.
//!   At the bound the lowest slot gives way. [`ThresholdStore::forget_before`] drops what is old.

use std::collections::{BTreeMap, btree_map::Entry};

use pluto_crypto::bls::Signature;

use crate::{Duty, PubKey, ShareIdx};

/// Pairs of duty and validator that are remembered: eight slots of a thousand validators.
pub const MAX_DUTIES: usize = 8192;

/// One partial signature, verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// The validator.
    pub pubkey: PubKey,
    /// The sync subcommittee, or 0: see [`SignedData::subcommittee`].
    ///
    /// [`SignedData::subcommittee`]: crate::signed::SignedData::subcommittee
    pub subcommittee: u64,
    /// What is signed, domain included.
    pub root: [u8; 32],
    /// The signature of the share over it.
    pub signature: Signature,
}

/// Two different signatures under one share for one duty: a fault of that share's operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("share {share_idx} signed {duty} of validator {pubkey} twice, differently")]
pub struct Equivocation {
    /// The share.
    pub share_idx: ShareIdx,
    /// The duty.
    pub duty: Duty,
    /// The validator.
    pub pubkey: PubKey,
}

/// Enough partial signatures over one root.
pub type Quorum = Vec<(ShareIdx, Signature)>;

/// By share, with the root that is signed.
type Signatures = BTreeMap<ShareIdx, ([u8; 32], Signature)>;

/// Partial signatures by duty and validator.
#[derive(Debug)]
pub struct ThresholdStore {
    threshold: usize,
    /// In the order of slots.
    sets: BTreeMap<(Duty, PubKey), Signatures>,
}

impl ThresholdStore {
    /// A store that wants `threshold` signatures, at least one.
    pub fn new(threshold: usize) -> Self {
        Self {
            threshold: threshold.max(1),
            sets: BTreeMap::new(),
        }
    }

    /// Adds a verified signature over `root`. Returns the signatures over that root exactly once,
    /// when their number reaches the threshold. A repetition changes nothing.
    pub fn add(
        &mut self,
        duty: Duty,
        pubkey: PubKey,
        share_idx: ShareIdx,
        root: [u8; 32],
        signature: Signature,
    ) -> Result<Option<Quorum>, Equivocation> {
        let set = self.sets.entry((duty, pubkey)).or_default();
        match set.entry(share_idx) {
            Entry::Occupied(known) if known.get().1.to_bytes() == signature.to_bytes() => {
                return Ok(None);
            }
            Entry::Occupied(_) => {
                return Err(Equivocation {
                    share_idx,
                    duty,
                    pubkey,
                });
            }
            Entry::Vacant(place) => {
                place.insert((root, signature));
            }
        }
        let same: Quorum = set
            .iter()
            .filter(|(_, (other, _))| *other == root)
            .map(|(share_idx, (_, signature))| (*share_idx, *signature))
            .collect();
        while self.sets.len() > MAX_DUTIES {
            self.sets.pop_first();
        }
        Ok((same.len() == self.threshold).then_some(same))
    }

    /// Drops duties of earlier slots.
    pub fn forget_before(&mut self, slot: u64) {
        self.sets.retain(|(duty, _), _| duty.slot.0 >= slot);
    }

    /// Pairs of duty and validator that are remembered.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use pluto_crypto::bls::SecretKey;

    use super::*;
    use crate::DutyType;

    #[test]
    fn a_quorum_is_reported_once_and_only_over_one_root() {
        let mut store = ThresholdStore::new(2);
        let duty = Duty::new(5, DutyType::Randao);
        let key = PubKey::new([1; 48]);
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| ShareIdx::new(n).unwrap());
        let [right, wrong] = [[1; 32], [2; 32]];

        assert_eq!(store.add(duty, key, a, right, sign(1)), Ok(None));
        assert_eq!(
            store.add(duty, key, a, right, sign(1)),
            Ok(None),
            "repeated"
        );
        assert_eq!(store.add(duty, key, b, wrong, sign(2)), Ok(None));
        let quorum = store.add(duty, key, c, right, sign(3)).unwrap().unwrap();
        assert_eq!(
            quorum.iter().map(|(idx, _)| *idx).collect::<Vec<_>>(),
            [a, c]
        );
        assert_eq!(
            store.add(duty, key, d, right, sign(4)),
            Ok(None),
            "only once"
        );
    }

    #[test]
    fn two_signatures_of_one_share_are_a_fault() {
        let mut store = ThresholdStore::new(2);
        let duty = Duty::new(5, DutyType::Randao);
        let key = PubKey::new([1; 48]);
        let share_idx = ShareIdx::new(1).unwrap();
        store.add(duty, key, share_idx, [1; 32], sign(1)).unwrap();
        assert!(store.add(duty, key, share_idx, [1; 32], sign(2)).is_err());
    }

    #[test]
    fn old_slots_give_way() {
        let mut store = ThresholdStore::new(2);
        let (key, idx) = (PubKey::new([1; 48]), ShareIdx::new(1).unwrap());
        let signature = sign(1);
        for slot in 0..=MAX_DUTIES as u64 {
            let duty = Duty::new(slot, DutyType::Randao);
            store.add(duty, key, idx, [1; 32], signature).unwrap();
        }
        assert_eq!(store.len(), MAX_DUTIES);
        store.forget_before(MAX_DUTIES as u64);
        assert_eq!(store.len(), 1);
    }

    fn sign(n: u8) -> Signature {
        let mut key = [0; 32];
        key[31] = n;
        SecretKey::from_bytes(&key).unwrap().sign(b"x")
    }
}
