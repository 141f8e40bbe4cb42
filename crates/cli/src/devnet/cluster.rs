//! What the nodes share: identities on disk, and validator keys split among them.

use std::{collections::BTreeMap, num::NonZeroU64};

use libp2p::{PeerId, identity::Keypair};
use pluto_core::{PeerIdx, PubKey, ShareIdx, signing::Forks};
use pluto_crypto::{
    bls,
    enr::Enr,
    k1,
    keyfile::{self, Error as KeyFileError},
};
use pluto_p2p::identity::{keypair, peer_id};

use crate::{
    args::{self, Net},
    enr::KEY_FILE,
};

/// Why a cluster could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[error("the validator keys cannot be split")]
    Split(#[from] bls::Error),
}

type SetupResult<T> = Result<T, SetupError>;

/// A cluster that exists only for this run, but for the nodes' identities.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) validators: Vec<Validator>,
    pub(crate) threshold: usize,
    /// What tells this cluster from others, in place of a lock's hash.
    pub(crate) hash: [u8; 32],
    pub(crate) forks: Forks,
    pub(crate) slot_duration: std::time::Duration,
    pub(crate) slots: u64,
    pub(crate) net: Net,
}

/// One operator.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) peer: PeerId,
    pub(crate) enr: String,
    pub(crate) share_idx: ShareIdx,
    key: k1::SecretKey,
}

/// One validator and its shares, by share index.
#[derive(Debug)]
pub(crate) struct Validator {
    pub(crate) pubkey: PubKey,
    pub(crate) group: bls::PublicKey,
    shares: BTreeMap<ShareIdx, bls::SecretKey>,
}

impl Cluster {
    pub(crate) fn create(args: &args::Devnet) -> SetupResult<Self> {
        let mut members = Vec::new();
        for index in 0..args.nodes {
            let path = args.data_dir.join(format!("node{index}")).join(KEY_FILE);
            let key = match keyfile::load(&path) {
                Err(KeyFileError::Missing { .. }) => keyfile::create(&path)?,
                other => other?,
            };
            let peer = peer_id(&key.public_key());
            members.push(Member {
                peer,
                enr: Enr::for_key(&key).text().to_owned(),
                share_idx: PeerIdx::new(index).expect("at most 32 nodes").share_idx(),
                key,
            });
        }
        let threshold = args.threshold.unwrap_or((2 * args.nodes).div_ceil(3));
        let validators = (0..args.validators)
            .map(|_| {
                let secret = bls::SecretKey::generate();
                let group = secret.public_key();
                Ok(Validator {
                    pubkey: PubKey::new(group.to_bytes()),
                    group,
                    shares: bls::split(&secret, threshold as usize, args.nodes as usize)?
                        .into_iter()
                        .collect(),
                })
            })
            .collect::<SetupResult<Vec<Validator>>>()?;
        Ok(Self {
            hash: rand::random(),
            members,
            validators,
            threshold: threshold as usize,
            forks: Forks {
                // Nothing is signed for a real chain.
                genesis_version: *b"dev\0",
                genesis_validators_root: [0; 32],
                schedule: Vec::new(),
                exit_version: None,
                slots_per_epoch: NonZeroU64::new(32).expect("not zero"),
            },
            slot_duration: args.slot_duration,
            slots: args.slots,
            net: args.transport,
        })
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn keypair(&self, index: usize) -> Keypair {
        keypair(&self.members[index].key)
    }

    /// The public shares of all validators.
    pub(crate) fn public_shares(
        &self,
    ) -> impl Iterator<Item = (PubKey, BTreeMap<ShareIdx, bls::PublicKey>)> {
        self.validators.iter().map(|validator| {
            let shares = validator.shares.iter();
            let public = shares.map(|(idx, secret)| (*idx, secret.public_key()));
            (validator.pubkey, public.collect())
        })
    }
}

impl Validator {
    pub(crate) fn share(&self, idx: ShareIdx) -> &bls::SecretKey {
        &self.shares[&idx]
    }
}
