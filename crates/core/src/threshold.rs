//! Collects partial signatures until there are enough.
//!
//! A pure core: no clock, no crypto. Duties, section 5.2 in its simplest form: signatures count
//! together when they sign the same root.
//!
//! - **Bounds:** [`MAX_PER_SHARE`] signatures of each share; at the bound its own one of the lowest
//!   slot gives way, so that whoever floods loses nobody's signatures but its own. Of what never
//!   expires, [`MAX_LASTING`] of each share, validator and type. The caller bounds shares and
//!   validators: it adds what was verified against keys that it knows.
//!   [`ThresholdStore::forget_before`] drops what is old.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use pluto_crypto::bls::Signature;

use crate::{Duty, DutyType, PubKey, ShareIdx};

/// Signatures of one share that are remembered, beside those that never expire: eight slots of a
/// thousand validators.
pub const MAX_PER_SHARE: usize = 8192;
/// Signatures of one share that are remembered for one validator and a type of duty that never
/// expires, as in Charon (duties spec, section 5.3).
pub const MAX_LASTING: usize = 10;

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

/// Two different objects signed under one share for one duty, of a kind for which a validator is
/// slashed: a fault of that share's operator.
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

/// What one group signature is for, in the order of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    duty: Duty,
    pubkey: PubKey,
    subcommittee: u64,
}

type Root = [u8; 32];

/// The signatures over one root.
#[derive(Debug, Default)]
struct Signatures {
    by_share: BTreeMap<ShareIdx, Signature>,
    /// Whether there were enough once.
    reported: bool,
}

/// Where the signatures of one share are, in the order of slots.
#[derive(Debug, Default)]
struct Places {
    passing: BTreeSet<(Key, Root)>,
    lasting: BTreeMap<(DutyType, PubKey), BTreeSet<(Key, Root)>>,
}

/// Partial signatures by duty, validator and sync subcommittee.
#[derive(Debug)]
pub struct ThresholdStore {
    threshold: usize,
    sets: BTreeMap<Key, BTreeMap<Root, Signatures>>,
    shares: BTreeMap<ShareIdx, Places>,
}

impl ThresholdStore {
    /// A store that wants `threshold` signatures, at least one.
    pub fn new(threshold: usize) -> Self {
        Self {
            threshold: threshold.max(1),
            sets: BTreeMap::new(),
            shares: BTreeMap::new(),
        }
    }

    /// Adds a verified signature of a share. Returns the signatures over its root exactly once,
    /// when their number reaches the threshold. A repetition changes nothing.
    ///
    /// A share may sign several roots for one duty, as a validator client does with its sync
    /// messages when the head of the chain changes; of a block or an attestation the first counts.
    pub fn add(
        &mut self,
        duty: Duty,
        share_idx: ShareIdx,
        partial: &Partial,
    ) -> Result<Option<Quorum>, Equivocation> {
        let Partial {
            pubkey,
            subcommittee,
            root,
            signature,
        } = *partial;
        let key = Key {
            duty,
            pubkey,
            subcommittee,
        };
        let roots = self.sets.entry(key).or_default();
        let signed = |it: &Signatures| it.by_share.contains_key(&share_idx);
        if roots.get(&root).is_some_and(signed) {
            return Ok(None);
        }
        if duty.kind.is_slashable() && roots.values().any(signed) {
            return Err(Equivocation {
                share_idx,
                duty,
                pubkey,
            });
        }
        let same = roots.entry(root).or_default();
        same.by_share.insert(share_idx, signature);
        let quorum = (!same.reported && same.by_share.len() >= self.threshold).then(|| {
            same.reported = true;
            let shares = same.by_share.iter();
            shares.map(|(share, it)| (*share, *it)).collect()
        });
        if let Some((key, root)) = self.shares.entry(share_idx).or_default().take(key, root) {
            self.remove(key, root, share_idx);
        }
        Ok(quorum)
    }

    fn remove(&mut self, key: Key, root: Root, share_idx: ShareIdx) {
        let Entry::Occupied(mut roots) = self.sets.entry(key) else {
            return;
        };
        if let Entry::Occupied(mut same) = roots.get_mut().entry(root) {
            same.get_mut().by_share.remove(&share_idx);
            if same.get().by_share.is_empty() {
                same.remove();
            }
        }
        if roots.get().is_empty() {
            roots.remove();
        }
    }

    /// Drops duties of earlier slots, but for those that never expire.
    pub fn forget_before(&mut self, slot: u64) {
        let stays = |duty: Duty| !duty.kind.expires() || duty.slot.0 >= slot;
        self.sets.retain(|key, _| stays(key.duty));
        for places in self.shares.values_mut() {
            places.passing.retain(|(key, _)| stays(key.duty));
        }
    }

    /// Group signatures in the making, or made: triples of duty, validator and subcommittee.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

impl Places {
    /// Takes a place; gives the one that has to be left for it.
    fn take(&mut self, key: Key, root: Root) -> Option<(Key, Root)> {
        let kind = key.duty.kind;
        let (places, max) = if kind.expires() {
            (&mut self.passing, MAX_PER_SHARE)
        } else {
            let lasting = self.lasting.entry((kind, key.pubkey)).or_default();
            (lasting, MAX_LASTING)
        };
        places.insert((key, root));
        (places.len() > max).then(|| places.pop_first()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use pluto_crypto::bls::SecretKey;

    use super::*;

    const RANDAO: Duty = Duty::new(5, DutyType::Randao);

    #[test]
    fn a_quorum_is_reported_once_and_only_over_one_root() {
        let mut store = ThresholdStore::new(2);
        let [a, b, c, d] = [1, 2, 3, 4].map(share);
        let [right, wrong] = [1, 2].map(over);

        assert_eq!(store.add(RANDAO, a, &right), Ok(None));
        assert_eq!(store.add(RANDAO, a, &right), Ok(None), "repeated");
        assert_eq!(store.add(RANDAO, b, &wrong), Ok(None));
        let quorum = store.add(RANDAO, c, &right).unwrap().unwrap();
        assert_eq!(
            quorum.iter().map(|(idx, _)| *idx).collect::<Vec<_>>(),
            [a, c]
        );
        assert_eq!(store.add(RANDAO, d, &right), Ok(None), "only once");
    }

    #[test]
    fn only_two_blocks_or_two_attestations_of_one_share_are_a_fault() {
        for kind in DutyType::ALL {
            let mut store = ThresholdStore::new(2);
            let duty = Duty::new(5, kind);
            let slashable = matches!(kind, DutyType::Proposer | DutyType::Attester);
            assert_eq!(store.add(duty, share(1), &over(1)), Ok(None));

            let second = store.add(duty, share(1), &over(2));
            let fault = Equivocation {
                share_idx: share(1),
                duty,
                pubkey: PubKey::new([1; 48]),
            };
            assert_eq!(second, if slashable { Err(fault) } else { Ok(None) });
            assert_eq!(store.add(duty, share(1), &over(1)), Ok(None), "repeated");

            // What came later counts where it is no fault.
            let quorum = store.add(duty, share(2), &over(2)).unwrap();
            assert_eq!(quorum.is_some(), !slashable, "{kind}");
            assert!(store.add(duty, share(2), &over(2)).unwrap().is_none());
        }
    }

    #[test]
    fn each_subcommittee_has_a_quorum_of_its_own() {
        let duty = Duty::new(5, DutyType::PrepareSyncContribution);
        let mut store = ThresholdStore::new(2);
        for subcommittee in 0..4 {
            let mut partial = over(u8::try_from(subcommittee).unwrap());
            partial.subcommittee = subcommittee;
            assert_eq!(store.add(duty, share(1), &partial), Ok(None));
            assert!(store.add(duty, share(2), &partial).unwrap().is_some());
        }
        assert_eq!(store.len(), 4);
    }

    #[test]
    fn a_share_that_floods_loses_only_its_own() {
        let mut store = ThresholdStore::new(2);
        let [honest, other, flooding] = [1, 2, 3].map(share);
        store.add(RANDAO, honest, &over(1)).unwrap();
        store.add(RANDAO, flooding, &over(2)).unwrap();

        let flood = over(1);
        for n in 0..=MAX_PER_SHARE as u64 {
            let duty = Duty::new(u64::MAX - n, DutyType::Randao);
            store.add(duty, flooding, &flood).unwrap();
        }

        assert_eq!(store.len(), MAX_PER_SHARE + 1);
        assert!(store.add(RANDAO, other, &over(2)).unwrap().is_none());
        let quorum = store.add(RANDAO, other, &over(1)).unwrap();
        assert!(quorum.is_some(), "honest signatures stay");
    }

    #[test]
    fn what_was_evicted_and_comes_again_is_not_reported_again() {
        let mut store = ThresholdStore::new(2);
        let [a, b] = [1, 2].map(share);
        store.add(RANDAO, a, &over(1)).unwrap();
        assert!(store.add(RANDAO, b, &over(1)).unwrap().is_some());
        let flood = over(1);
        for slot in 0..MAX_PER_SHARE as u64 {
            let duty = Duty::new(10 + slot, DutyType::Randao);
            store.add(duty, b, &flood).unwrap();
        }
        assert_eq!(store.sets[&key(RANDAO)][&[1; 32]].by_share.len(), 1);

        assert_eq!(store.add(RANDAO, b, &over(1)), Ok(None));
    }

    #[test]
    fn exits_and_registrations_stay_while_old_slots_go() {
        let mut store = ThresholdStore::new(2);
        for kind in DutyType::ALL {
            store.add(Duty::new(5, kind), share(1), &over(1)).unwrap();
        }

        store.forget_before(5);
        assert_eq!(store.len(), DutyType::ALL.len());
        store.forget_before(6);
        assert_eq!(store.len(), 2);
        for kind in [DutyType::Exit, DutyType::BuilderRegistration] {
            let quorum = store.add(Duty::new(5, kind), share(2), &over(1)).unwrap();
            assert!(quorum.is_some(), "{kind}");
        }
        assert!(store.shares[&share(1)].passing.is_empty());
    }

    #[test]
    fn of_a_validators_exits_the_newest_stay() {
        let mut store = ThresholdStore::new(2);
        let exit = |slot| Duty::new(slot, DutyType::Exit);
        for slot in 0..=MAX_LASTING as u64 {
            store.add(exit(slot), share(1), &over(1)).unwrap();
        }

        assert_eq!(store.len(), MAX_LASTING);
        assert!(store.add(exit(0), share(2), &over(1)).unwrap().is_none());
        assert!(store.add(exit(1), share(2), &over(1)).unwrap().is_some());
    }

    fn share(n: u32) -> ShareIdx {
        ShareIdx::new(n).unwrap()
    }

    fn key(duty: Duty) -> Key {
        Key {
            duty,
            pubkey: PubKey::new([1; 48]),
            subcommittee: 0,
        }
    }

    fn over(root: u8) -> Partial {
        let mut key = [0; 32];
        key[31] = 1;
        Partial {
            pubkey: PubKey::new([1; 48]),
            subcommittee: 0,
            root: [root; 32],
            signature: SecretKey::from_bytes(&key).unwrap().sign(b"x"),
        }
    }
}
