//! Whole clusters made in one place: keys split, everything signed, a lock that proves it.
//!
//! Spec: cluster, sections 4.6 and 11.2. A ceremony does the same without any place that sees all
//! keys; this is for test networks, and for keys that exist already.
//!
//! - **Cost:** a few signatures for each validator and a public key for each share, on all cores; the
//!   calling thread blocks.
//! - **Secrets:** whole keys and shares are wiped when dropped.

use std::num::TryFromIntError;

use pluto_crypto::{
    bls::{self, SecretKey},
    k1,
};
use pluto_eth::{
    address::{self, Address},
    deposit::{self, CredentialsKind, Gwei, WithdrawalCredentials},
    network::{ForkVersion, Network},
    registration,
};

use crate::{
    Definition, Deposit, HashErrors, LockFile, MembersError, Registration, ValidatorEntry, Version,
    parallel::in_parallel,
};

/// What a cluster is made of.
#[derive(Debug)]
pub struct NewCluster<'a> {
    /// What it is to be. Its operators are the identities, in their order.
    pub definition: Definition,
    /// Where it is to be: the network of the definition's fork version.
    pub network: &'a Network,
    /// The nodes' identity keys.
    pub identities: &'a [k1::SecretKey],
    /// The validators' whole keys.
    pub keys: &'a [SecretKey],
    /// The time of the builder registrations, in seconds since 1970; the network's genesis time,
    /// unless a registration with that may exist.
    pub registered_at: u64,
}

/// A cluster as its nodes need it.
#[derive(Debug)]
pub struct Dealt {
    /// The lock, the same for all nodes.
    pub lock: LockFile,
    /// The deposits of all validators, amounts ascending within each.
    pub deposits: Vec<deposit::Deposit>,
    /// The shares of each node, by validator.
    pub shares: Vec<Vec<SecretKey>>,
}

/// Why no cluster was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DealError {
    /// Older locks have no place for all that nodes need.
    #[error(
        "clusters are made of definitions from {} on, and this is {version}",
        Version::V1_8
    )]
    Version {
        /// The definition's.
        version: Version,
    },
    /// The definition is of another network.
    #[error(
        "the definition is for 0x{}, and {network} is {expected}",
        hex::encode(actual)
    )]
    Network {
        /// What the definition says.
        actual: Vec<u8>,
        /// The network.
        network: String,
        /// Its fork version.
        expected: ForkVersion,
    },
    /// One identity for each operator, no fewer and no more.
    #[error("{identities} identities for {operators} operators")]
    Identities {
        /// How many identities.
        identities: usize,
        /// How many operators.
        operators: usize,
    },
    /// The operators are no peers, or not those of the identities.
    #[error("the operators of the definition are wrong")]
    Members(#[from] MembersError),
    /// An operator is somebody else.
    #[error("operator {operator} is not who the identity key says")]
    Identity {
        /// Which, from 0.
        operator: usize,
    },
    /// One key for each validator, no fewer and no more.
    #[error("{keys} keys for {validators} validators")]
    Keys {
        /// How many keys.
        keys: usize,
        /// How many validators the definition has.
        validators: i64,
    },
    /// Two validators with one key would sign twice.
    #[error("validators {first} and {second} have the same key")]
    SameKey {
        /// The earlier one, from 0.
        first: usize,
        /// The later one, from 0.
        second: usize,
    },
    /// No address.
    #[error("the {what} address `{text}` of validator {validator} cannot be used")]
    Address {
        /// Which, from 0.
        validator: usize,
        /// `fee recipient` or `withdrawal`.
        what: &'static str,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        source: address::Error,
    },
    /// A key cannot be split, or signatures cannot be put together.
    #[error("the keys cannot be dealt")]
    Bls(#[from] bls::Error),
    /// More than a file can say.
    #[error("an amount, a gas limit or a time is too large for a lock")]
    TooLarge(#[from] TryFromIntError),
    /// The lock cannot be hashed.
    #[error("the lock cannot be hashed")]
    Hash(#[from] HashErrors),
}

impl NewCluster<'_> {
    /// Splits the keys and signs everything.
    pub fn deal(mut self) -> Result<Dealt, DealError> {
        self.check()?;
        // The config hash of what is signed here is that of what is written.
        self.definition.update_hashes()?;
        let nodes = self.identities.len();
        let threshold = self.definition.usable_threshold()? as usize;
        let made = in_parallel(self.keys, |start, keys| {
            let each = keys.iter().enumerate();
            each.map(|(at, key)| self.validator(start + at, key, threshold))
                .collect()
        });
        let mut shares = vec![Vec::with_capacity(self.keys.len()); nodes];
        let mut validators = Vec::with_capacity(self.keys.len());
        let mut deposits = Vec::new();
        for made in made {
            let (entry, signed, dealt) = made?;
            validators.push(entry);
            deposits.extend(signed);
            for (own, share) in shares.iter_mut().zip(dealt) {
                own.push(share);
            }
        }
        let mut lock = LockFile {
            definition: self.definition,
            validators,
            signature_aggregate: Vec::new(),
            lock_hash: Vec::new(),
            node_signatures: Vec::new(),
        };
        let hash = lock.compute_lock_hash()?;
        lock.lock_hash = hash.to_vec();
        let all: Vec<_> = shares.iter().flatten().collect();
        // Here all keys are in one place, so that they need not sign one by one.
        lock.signature_aggregate = bls::sum(&all)?.sign(&hash).to_bytes().to_vec();
        let signed = self.identities.iter().map(|it| it.sign(&hash).to_vec());
        lock.node_signatures = signed.collect();
        Ok(Dealt {
            lock,
            deposits,
            shares,
        })
    }

    /// One validator: what the lock says of it, its deposits, and each node's share.
    fn validator(
        &self,
        validator: usize,
        key: &SecretKey,
        threshold: usize,
    ) -> Result<Made, DealError> {
        let public_key = key.public_key().to_bytes();
        let shares = bls::split(key, threshold, self.identities.len())?;
        let shares: Vec<_> = shares.into_iter().map(|(_, share)| share).collect();
        let public_shares = shares.iter().map(|it| it.public_key().to_bytes().to_vec());
        let signed = self.deposits_of(validator, key, public_key)?;
        let entry = ValidatorEntry {
            pubkey: public_key.to_vec(),
            public_shares: public_shares.collect(),
            deposits: signed.iter().map(entry).collect::<Result<_, _>>()?,
            registration: self.registration_of(validator, key, public_key)?,
        };
        Ok((entry, signed, shares))
    }

    fn check(&self) -> Result<(), DealError> {
        let Self {
            definition,
            network,
            identities,
            keys,
            ..
        } = self;
        if definition.version < Version::V1_8 {
            let version = definition.version;
            return Err(DealError::Version { version });
        }
        if definition.fork_version != network.genesis_version().0 {
            return Err(DealError::Network {
                actual: definition.fork_version.clone(),
                network: network.name().to_owned(),
                expected: network.genesis_version(),
            });
        }
        if identities.len() != definition.operators.len() {
            return Err(DealError::Identities {
                identities: identities.len(),
                operators: definition.operators.len(),
            });
        }
        for (operator, (member, key)) in definition.members()?.iter().zip(*identities).enumerate() {
            if member.public_key != key.public_key() {
                return Err(DealError::Identity { operator });
            }
        }
        if i64::try_from(keys.len()) != Ok(definition.num_validators) {
            return Err(DealError::Keys {
                keys: keys.len(),
                validators: definition.num_validators,
            });
        }
        let mut known = std::collections::BTreeMap::new();
        for (second, key) in keys.iter().enumerate() {
            if let Some(first) = known.insert(key.public_key().to_bytes(), second) {
                return Err(DealError::SameKey { first, second });
            }
        }
        Ok(())
    }

    fn deposits_of(
        &self,
        validator: usize,
        key: &SecretKey,
        public_key: [u8; 48],
    ) -> Result<Vec<deposit::Deposit>, DealError> {
        let kind = CredentialsKind::new(self.definition.compounding);
        let chosen = self.definition.deposit_amounts.iter().map(|it| Gwei(*it));
        let amounts = kind.signed_amounts(&chosen.collect::<Vec<_>>());
        let (_, withdrawal) = self.addresses_of(validator)?;
        let sign = |amount| {
            deposit::Message {
                public_key,
                withdrawal_credentials: WithdrawalCredentials::new(kind, withdrawal),
                amount,
            }
            .sign(key, self.network.genesis_version())
        };
        Ok(amounts.into_iter().map(sign).collect())
    }

    fn registration_of(
        &self,
        validator: usize,
        key: &SecretKey,
        public_key: [u8; 48],
    ) -> Result<Registration, DealError> {
        let (fee_recipient, _) = self.addresses_of(validator)?;
        let gas_limit = match self.definition.target_gas_limit {
            0 => registration::FALLBACK_GAS_LIMIT,
            limit => limit,
        };
        let signed = registration::Message {
            fee_recipient,
            gas_limit,
            timestamp: self.registered_at,
            public_key,
        }
        .sign(key, self.network.genesis_version());
        Ok(Registration {
            fee_recipient: fee_recipient.0.to_vec(),
            gas_limit: gas_limit.try_into()?,
            timestamp: self.registered_at.try_into()?,
            pubkey: signed.message.public_key.to_vec(),
            signature: signed.signature.to_vec(),
        })
    }

    /// Fee recipient and withdrawal address.
    fn addresses_of(&self, validator: usize) -> Result<(Address, Address), DealError> {
        let addresses = self.definition.addresses_of(validator).cloned();
        let addresses = addresses.unwrap_or_default();
        let parse = |what, text: String| {
            text.parse().map_err(|source| DealError::Address {
                validator,
                what,
                text,
                source,
            })
        };
        Ok((
            parse("fee recipient", addresses.fee_recipient)?,
            parse("withdrawal", addresses.withdrawal)?,
        ))
    }
}

/// Entry, deposits, and the nodes' shares.
type Made = (ValidatorEntry, Vec<deposit::Deposit>, Vec<SecretKey>);

fn entry(it: &deposit::Deposit) -> Result<Deposit, TryFromIntError> {
    Ok(Deposit {
        pubkey: it.message.public_key.to_vec(),
        withdrawal_credentials: it.message.withdrawal_credentials.0.to_vec(),
        amount: it.message.amount.0.try_into()?,
        signature: it.signature.to_vec(),
    })
}
