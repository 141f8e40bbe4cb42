//! The chains that Charon simulates.

use std::{collections::BTreeMap, num::NonZeroU64};

use pluto_cluster::Lock;
use pluto_core::{Duty, ParSignedData, PubKey, ShareIdx, signing::Forks, threshold::Partial};
use pluto_crypto::bls;
use pluto_parsigex::{BlsVerifier, Verifier, VerifyError};

/// Which chain a Charon simulates depends on its release, so that a signature may be for any.
#[derive(Debug)]
pub struct AnyChain(Vec<BlsVerifier>);

impl AnyChain {
    /// Verifies what the members of a cluster sign.
    pub fn new(lock: &Lock) -> Self {
        let hoodi = chain(
            "212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f",
            [0x00, 0x09, 0x10],
            &[(0, 0x50), (2_048, 0x60), (50_688, 0x70)],
        );
        // As old as the recording that v1.10 plays: it knows no Electra.
        let holesky = chain(
            "9143aa7c615a7f7115e2b6aac319c03529df8242ae705fba9df39b79c59fa8b1",
            [0x01, 0x70, 0x00],
            &[(0, 3), (256, 4), (29_696, 5)],
        );
        let chains = [hoodi, holesky].into_iter();
        Self(
            chains
                .map(|forks| BlsVerifier::new(forks, public_shares(lock)))
                .collect(),
        )
    }
}

impl Verifier for AnyChain {
    fn verify(
        &self,
        duty: Duty,
        entries: &[(PubKey, ParSignedData)],
    ) -> Result<Vec<Partial>, VerifyError> {
        let mut results = self.0.iter().map(|chain| chain.verify(duty, entries));
        let first = results.next().unwrap();
        if first.is_ok() {
            return first;
        }
        results.find(Result::is_ok).unwrap_or(first)
    }
}

fn public_shares(lock: &Lock) -> Vec<(PubKey, BTreeMap<ShareIdx, bls::PublicKey>)> {
    lock.validators()
        .iter()
        .map(|validator| {
            let shares = lock.operators().iter().zip(&validator.public_shares);
            let shares = shares.map(|(operator, share)| (operator.idx.share_idx(), *share));
            (validator.pubkey, shares.collect())
        })
        .collect()
}

fn chain(root: &str, network: [u8; 3], schedule: &[(u64, u8)]) -> Forks {
    let mut genesis_validators_root = [0; 32];
    for (byte, digits) in genesis_validators_root
        .iter_mut()
        .zip(root.as_bytes().chunks(2))
    {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    let version = |first| [first, network[0], network[1], network[2]];
    Forks {
        genesis_version: version(schedule[0].1),
        genesis_validators_root,
        schedule: schedule
            .iter()
            .map(|(epoch, first)| (*epoch, version(*first)))
            .collect(),
        exit_version: None,
        // Of the simulation.
        slots_per_epoch: NonZeroU64::new(16).unwrap(),
    }
}
