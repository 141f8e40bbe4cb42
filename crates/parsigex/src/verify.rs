//! Whether partial signatures are what they claim to be.

use std::{collections::BTreeMap, sync::Arc};

use pluto_core::{
    Duty, ParSignedData, ParSignedDataSet, PubKey, ShareIdx,
    signed::{SignedData, SignedDataError},
    signing::Forks,
};
use pluto_crypto::bls::{self, BatchItem, PublicKey, Signature};
use pluto_p2p::cores::Cores;

/// Signatures that one core checks in one go. Small enough that a big set is spread over all cores,
/// large enough that a batch is worth its final exponentiation.
const CHUNK: usize = 64;

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
    /// The check itself ended early: the node is shutting down.
    #[error("the check was interrupted")]
    Interrupted,
}

/// Checks partial signatures. Called on worker threads, with parts of a set.
pub trait Verifier: Send + Sync + 'static {
    /// Checks that each entry is signed by the share it claims.
    fn verify(&self, duty: Duty, entries: &[(PubKey, ParSignedData)]) -> Result<(), VerifyError>;
}

/// Accepts every well-formed message. For tools that only look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unverified;

impl Verifier for Unverified {
    fn verify(&self, _: Duty, _: &[(PubKey, ParSignedData)]) -> Result<(), VerifyError> {
        Ok(())
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
    fn verify(&self, duty: Duty, entries: &[(PubKey, ParSignedData)]) -> Result<(), VerifyError> {
        let mut checks = Vec::with_capacity(entries.len());
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
            let root = self
                .forks
                .signing_root(&signed)
                .ok_or(VerifyError::NoRoot { duty, pubkey })?;
            // The signature inside the data counts; the copy beside it is ignored, as Charon does.
            let signature = Signature::from_bytes(&signed.signature())
                .map_err(|source| VerifyError::Malformed { pubkey, source })?;
            checks.push((*key, root, signature));
        }
        let items: Vec<_> = checks
            .iter()
            .map(|(public_key, root, signature)| BatchItem {
                public_key: *public_key,
                message: root,
                signature: *signature,
            })
            .collect();
        bls::verify_batch(&items).map_err(|bad| VerifyError::Bad {
            pubkeys: bad
                .indices
                .iter()
                .filter_map(|index| entries.get(*index))
                .map(|(pubkey, _)| *pubkey)
                .collect(),
        })
    }
}

/// Checks a set, spread over the cores. All its bad signatures are named, whichever parts they
/// are in; a fault of another kind comes before them.
pub(crate) async fn verify(
    cores: &Cores,
    verifier: Arc<dyn Verifier>,
    duty: Duty,
    set: &ParSignedDataSet,
) -> Result<(), VerifyError> {
    let entries: Vec<_> = set.iter().map(|(key, data)| (*key, data.clone())).collect();
    let size = entries.len().div_ceil(cores.count()).clamp(1, CHUNK);
    let parts = entries.chunks(size).map(|part| {
        let (verifier, part) = (verifier.clone(), part.to_vec());
        cores.run(move || verifier.verify(duty, &part))
    });
    let mut bad = Vec::new();
    for result in futures::future::join_all(parts).await {
        match result.ok_or(VerifyError::Interrupted)? {
            Err(VerifyError::Bad { pubkeys }) => bad.extend(pubkeys),
            other => other?,
        }
    }
    if bad.is_empty() {
        Ok(())
    } else {
        Err(VerifyError::Bad { pubkeys: bad })
    }
}
