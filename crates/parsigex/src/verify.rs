//! Whether partial signatures are what they claim to be.

use std::{collections::BTreeMap, sync::Arc};

use pluto_core::{
    Duty, ParSignedData, ParSignedDataSet, PubKey, ShareIdx,
    signed::{SignedData, SignedDataError, When},
    signing::Forks,
    threshold::Partial,
};
use pluto_crypto::bls::{self, BatchItem, PublicKey, Signature};
use pluto_p2p::cores::Cores;

/// Signatures that one core checks in one go, at most; a set is spread over all cores, and the larger a
/// batch is, the cheaper is each signature in it. A core is busy with so many for some 30 ms, after
/// which another set has its turn.
const CHUNK: usize = 1024;

/// Why a set is refused. One bad entry refuses the whole message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The validator is not one of the cluster.
    #[error("validator {pubkey} is not part of this cluster")]
    UnknownValidator {
        /// The validator.
        pubkey: PubKey,
    },
    /// The validator has no such share.
    #[error("validator {pubkey} has no share {share_idx}")]
    UnknownShare {
        /// The validator.
        pubkey: PubKey,
        /// The share.
        share_idx: ShareIdx,
    },
    /// The signed object cannot be read.
    #[error("what is signed for validator {pubkey} cannot be read")]
    Data {
        /// The validator.
        pubkey: PubKey,
        /// Why.
        #[source]
        source: SignedDataError,
    },
    /// What is signed is for another time than the duty, so that it would count for a duty that it
    /// was not made for. Charon takes it (duties spec, section 9.1): with it no group signature can
    /// be made.
    #[error("a signature sent for {duty} of validator {pubkey} is for {signed}")]
    OtherDuty {
        /// The duty of the message.
        duty: Duty,
        /// The validator.
        pubkey: PubKey,
        /// What the signed object is for.
        signed: When,
    },
    /// The duty has no signing root, so that nothing can be checked.
    #[error("a signature for {duty} of validator {pubkey} cannot be checked")]
    NoRoot {
        /// The duty.
        duty: Duty,
        /// The validator.
        pubkey: PubKey,
    },
    /// The signature is no point of the curve.
    #[error("the signature for validator {pubkey} is malformed")]
    Malformed {
        /// The validator.
        pubkey: PubKey,
        /// Why.
        #[source]
        source: bls::Error,
    },
    /// The signatures are not by the share they claim.
    #[error("{} signatures do not verify, the first for validator {}", .pubkeys.len(), .pubkeys[0])]
    Bad {
        /// The validators, at least one.
        pubkeys: Vec<PubKey>,
    },
}

/// Checks partial signatures. Called on worker threads, with parts of a set.
pub trait Verifier: Send + Sync + 'static {
    /// Checks that each entry is signed by the share it claims, for this duty. Gives what was read
    /// on the way, one for each entry and in their order, so that nobody has to read it again;
    /// nothing if it has read nothing.
    fn verify(
        &self,
        duty: Duty,
        entries: &[(PubKey, ParSignedData)],
    ) -> Result<Vec<Partial>, VerifyError>;
}

/// Accepts every well-formed message and reads nothing in it. For tools that only look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unverified;

impl Verifier for Unverified {
    fn verify(&self, _: Duty, _: &[(PubKey, ParSignedData)]) -> Result<Vec<Partial>, VerifyError> {
        Ok(Vec::new())
    }
}

/// Checks against the validators' public shares (duties spec, section 3.4).
#[derive(Debug, Clone)]
pub struct BlsVerifier {
    shares: BTreeMap<PubKey, BTreeMap<ShareIdx, PublicKey>>,
    forks: Forks,
}

impl BlsVerifier {
    /// A verifier for these validators on this chain.
    pub fn new(
        forks: Forks,
        validators: impl IntoIterator<Item = (PubKey, BTreeMap<ShareIdx, PublicKey>)>,
    ) -> Self {
        Self {
            shares: validators.into_iter().collect(),
            forks,
        }
    }
}

impl Verifier for BlsVerifier {
    fn verify(
        &self,
        duty: Duty,
        entries: &[(PubKey, ParSignedData)],
    ) -> Result<Vec<Partial>, VerifyError> {
        let mut keys = Vec::with_capacity(entries.len());
        let mut partials = Vec::with_capacity(entries.len());
        for (pubkey, data) in entries {
            let pubkey = *pubkey;
            let share_idx = data.share_idx;
            let key = self
                .shares
                .get(&pubkey)
                .ok_or(VerifyError::UnknownValidator { pubkey })?
                .get(&share_idx)
                .ok_or(VerifyError::UnknownShare { pubkey, share_idx })?;
            let signed = SignedData::decode(duty.kind, &data.data)
                .map_err(|source| VerifyError::Data { pubkey, source })?;
            self.check_time(duty, pubkey, &signed)?;
            let root = self
                .forks
                .signing_root(&signed)
                .ok_or(VerifyError::NoRoot { duty, pubkey })?;
            // The signature inside the data counts; the copy beside it is ignored, as Charon does.
            let signature = Signature::from_bytes(&signed.signature())
                .map_err(|source| VerifyError::Malformed { pubkey, source })?;
            keys.push(*key);
            partials.push(Partial {
                pubkey,
                subcommittee: signed.subcommittee(),
                root,
                signature,
            });
        }
        let items: Vec<_> = keys
            .iter()
            .zip(&partials)
            .map(|(public_key, partial)| BatchItem {
                public_key: *public_key,
                message: &partial.root,
                signature: partial.signature,
            })
            .collect();
        bls::verify_batch(&items).map_err(|bad| VerifyError::Bad {
            pubkeys: bad
                .indices
                .iter()
                .filter_map(|index| partials.get(*index))
                .map(|partial| partial.pubkey)
                .collect(),
        })?;
        Ok(partials)
    }
}

impl BlsVerifier {
    fn check_time(&self, duty: Duty, pubkey: PubKey, data: &SignedData) -> Result<(), VerifyError> {
        match data.when() {
            Some(signed) if !data.fits(duty.slot, self.forks.slots_per_epoch) => {
                Err(VerifyError::OtherDuty {
                    duty,
                    pubkey,
                    signed,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Checks a set, spread over the cores; gives what the verifier read, in the order of the set. All
/// its bad signatures are named, whichever parts they are in; a fault of another kind comes before
/// them. `None` if the verifier panicked or the runtime ends, which says nothing of the set.
pub(crate) async fn verify(
    cores: &Cores,
    verifier: Arc<dyn Verifier>,
    duty: Duty,
    set: &ParSignedDataSet,
) -> Option<Result<Vec<Partial>, VerifyError>> {
    let size = set.len().div_ceil(cores.count()).clamp(1, CHUNK);
    let mut entries = set.iter().map(|(key, data)| (*key, data.clone()));
    let parts = (0..set.len()).step_by(size).map(|_| {
        let part: Vec<_> = entries.by_ref().take(size).collect();
        let verifier = verifier.clone();
        cores.run(move || verifier.verify(duty, &part))
    });
    let (mut partials, mut bad) = (Vec::new(), Vec::new());
    let results = futures::future::join_all(parts).await;
    for result in results.into_iter().collect::<Option<Vec<_>>>()? {
        match result {
            Ok(of_part) if partials.is_empty() => partials = of_part,
            Ok(of_part) => partials.extend(of_part),
            Err(VerifyError::Bad { pubkeys }) => bad.extend(pubkeys),
            Err(other) => return Some(Err(other)),
        }
    }
    Some(if bad.is_empty() {
        Ok(partials)
    } else {
        Err(VerifyError::Bad { pubkeys: bad })
    })
}
