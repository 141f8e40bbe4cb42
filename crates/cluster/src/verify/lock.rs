//! A lock: its hash, its keys, and what the cluster signed with them.

use std::collections::BTreeMap;

use pluto_crypto::{
    bls::{self, ShareIdx},
    k1,
};
use pluto_eth::{
    address::Address,
    deposit::{self, CredentialsKind, Gwei, WithdrawalCredentials},
    network::ForkVersion,
    registration,
};

use super::{Findings, Problem, definition};
use crate::{
    Definition, Deposit, HashError, LockFile, Registration, ValidatorEntry, Version,
    parallel::in_parallel,
};

const OPERATORS: &str = "cluster_definition.operators";
const THRESHOLD: &str = "cluster_definition.threshold";

pub(super) fn check(lock: &LockFile, findings: &mut Findings) {
    let computed = check_hash(lock, findings);
    let identities = definition::identities(&lock.definition, OPERATORS, findings);
    check_threshold(&lock.definition, findings);

    let version = lock.definition.version;
    if !version.has_registrations() {
        findings.add("cluster_definition.version", Problem::TooOldToRun);
    }
    if lock.signature_aggregate.is_empty() && version <= Version::V1_1 {
        // Charon stops here as well.
        return findings.add("signature_aggregate", Problem::UnsignedLock);
    }
    if lock.validators.is_empty() {
        findings.add("distributed_validators", Problem::NoValidators);
    }
    let keys = check_keys(lock, findings);
    check_aggregate(lock, computed, &keys, findings);
    check_signed_messages(lock, &keys, findings);
    check_node_signatures(lock, &identities, findings);
}

fn check_hash(lock: &LockFile, findings: &mut Findings) -> Option<[u8; 32]> {
    let entries = lock.validators.len();
    let num_validators = lock.definition.num_validators;
    if usize::try_from(num_validators) != Ok(entries) {
        let problem = Problem::ValidatorCount {
            entries,
            num_validators,
        };
        findings.add("distributed_validators", problem);
    }
    match lock.compute_lock_hash() {
        Ok(computed) => {
            if lock.lock_hash != computed {
                let stored = lock.lock_hash.clone();
                findings.add("lock_hash", Problem::LockHash { stored, computed });
            }
            Some(computed)
        }
        Err(errors) => {
            // Those of the definition were found before.
            let own = |it: &HashError| !it.path.starts_with("cluster_definition.");
            findings.add_hash_errors(errors.errors.into_iter().filter(own));
            None
        }
    }
}

fn check_threshold(definition: &Definition, findings: &mut Findings) {
    if definition.usable_threshold().is_ok() {
        definition::check_usual_threshold(definition, THRESHOLD, findings);
        return;
    }
    let problem = Problem::Threshold {
        threshold: definition.threshold,
        operators: definition.operators.len(),
    };
    findings.add(THRESHOLD, problem);
}

/// The keys of one validator, as far as they are usable.
#[derive(Default)]
struct Keys {
    group: Option<bls::PublicKey>,
    /// All of them, or none.
    shares: Option<Vec<bls::PublicKey>>,
}

impl Keys {
    fn shared(&self) -> Option<bls::SharedKey<'_>> {
        Some(bls::SharedKey {
            public_key: self.group?,
            shares: self.shares.as_deref()?,
        })
    }
}

fn check_keys(lock: &LockFile, findings: &mut Findings) -> Vec<Keys> {
    let mut first_with = BTreeMap::new();
    for (index, validator) in lock.validators.iter().enumerate() {
        let first = *first_with.entry(&validator.pubkey).or_insert(index);
        if first != index {
            findings.add(
                format!("distributed_validators[{index}].distributed_public_key"),
                Problem::DuplicateValidator { first },
            );
        }
    }
    let operators = lock.definition.operators.len();
    let threshold = lock.definition.usable_threshold().ok();
    let checked = in_parallel(&lock.validators, |offset, validators| {
        let path = |index| format!("distributed_validators[{}]", offset + index);
        let checked = validators.iter().enumerate().map(|(index, validator)| {
            let mut findings = Findings::new("");
            let keys = check_validator(validator, operators, &path(index), &mut findings);
            (keys, findings)
        });
        let mut checked: Vec<_> = checked.collect();
        let Some(threshold) = threshold else {
            return checked;
        };
        let shared: Vec<_> = checked
            .iter()
            .filter_map(|(keys, _)| keys.shared())
            .collect();
        if !bls::shares_belong(&shared, threshold as usize) {
            for (index, (keys, findings)) in checked.iter_mut().enumerate() {
                if let Some(key) = keys.shared() {
                    check_polynomial(key, threshold as usize, &path(index), findings);
                }
            }
        }
        checked
    });
    let keys = checked.into_iter().map(|(keys, of_validator)| {
        findings.list.extend(of_validator.list);
        keys
    });
    keys.collect()
}

fn check_validator(
    validator: &ValidatorEntry,
    operators: usize,
    at: &str,
    findings: &mut Findings,
) -> Keys {
    let group = match public_key(&validator.pubkey) {
        Ok(key) => Some(key),
        Err(problem) => {
            findings.add(format!("{at}.distributed_public_key"), problem);
            None
        }
    };
    let mut usable = validator.public_shares.len() == operators;
    if !usable {
        findings.add(
            format!("{at}.public_shares"),
            Problem::ShareCount {
                shares: validator.public_shares.len(),
                operators,
            },
        );
    }
    let mut shares = Vec::with_capacity(validator.public_shares.len());
    for (index, share) in validator.public_shares.iter().enumerate() {
        let at = || format!("{at}.public_shares[{index}]");
        match public_key(share) {
            Ok(key) => shares.push(key),
            Err(problem) => {
                usable = false;
                findings.add(at(), problem);
            }
        }
        let earlier = &validator.public_shares[..index];
        if let Some(first) = earlier.iter().position(|it| it == share) {
            usable = false;
            findings.add(at(), Problem::DuplicateShare { first });
        }
    }
    Keys {
        group,
        shares: usable.then_some(shares),
    }
}

/// Which shares are not points of the polynomial that the others make with the group's key.
fn check_polynomial(key: bls::SharedKey<'_>, threshold: usize, at: &str, findings: &mut Findings) {
    let indexed: Vec<_> = (1..)
        .filter_map(ShareIdx::new)
        .zip(key.shares.iter().copied())
        .collect();
    let makes_group = |shares: &[(ShareIdx, bls::PublicKey)]| {
        bls::recover_public_key(shares).is_ok_and(|group| group == key.public_key)
    };
    let (first, further) = indexed.split_at(threshold.min(indexed.len()));
    if !makes_group(first) {
        let problem = Problem::SharesOfOtherKey { threshold };
        return findings.add(format!("{at}.public_shares"), problem);
    }
    let mut with_one = first.to_vec();
    for (index, share) in further.iter().enumerate() {
        with_one[threshold - 1] = *share;
        if !makes_group(&with_one) {
            findings.add(
                format!("{at}.public_shares[{}]", threshold + index),
                Problem::ShareOfOtherKey,
            );
        }
    }
}

fn check_aggregate(
    lock: &LockFile,
    computed: Option<[u8; 32]>,
    keys: &[Keys],
    findings: &mut Findings,
) {
    const PATH: &str = "signature_aggregate";
    if lock.signature_aggregate.is_empty() {
        return findings.add(PATH, Problem::MissingAggregate);
    }
    let signature = match signature(&lock.signature_aggregate) {
        Ok(signature) => signature,
        Err(problem) => return findings.add(PATH, problem),
    };
    let shares: Option<Vec<_>> = keys.iter().map(|it| it.shares.as_deref()).collect();
    let (Some(shares), Some(computed)) = (shares, computed) else {
        return findings.add(PATH, Problem::AggregateUnchecked);
    };
    let shares = shares.concat();
    let verifies = |hash: &[u8]| bls::verify_aggregate(&shares, hash, &signature).is_ok();
    // When the content was changed after it was signed, the lock hash is to blame, not this.
    let of_stored = || lock.lock_hash != computed && verifies(&lock.lock_hash);
    if !lock.validators.is_empty() && !verifies(&computed) && !of_stored() {
        findings.add(PATH, Problem::Aggregate);
    }
}

/// One signature by a validator's key, to be checked with the others.
struct Signed {
    path: String,
    problem: Problem,
    public_key: bls::PublicKey,
    message: [u8; 32],
    signature: bls::Signature,
}

/// Builder registrations and deposits.
fn check_signed_messages(lock: &LockFile, keys: &[Keys], findings: &mut Findings) {
    // Without a fork version, which was found missing before, there is nothing to check against.
    let Ok(fork_version) = <[u8; 4]>::try_from(lock.definition.fork_version.as_slice()) else {
        return;
    };
    let mut checks = SignedMessages {
        definition: &lock.definition,
        fork_version: ForkVersion(fork_version),
        signed: Vec::new(),
    };
    for (index, (validator, keys)) in lock.validators.iter().zip(keys).enumerate() {
        if lock.definition.version.has_registrations() {
            checks.registration(index, &validator.registration, keys, findings);
        }
        checks.deposits(index, validator, keys, findings);
    }

    let signed = checks.signed;
    let bad = in_parallel(&signed, |offset, signed| {
        let items: Vec<_> = signed
            .iter()
            .map(|it| bls::BatchItem {
                public_key: it.public_key,
                message: &it.message,
                signature: it.signature,
            })
            .collect();
        match bls::verify_batch(&items) {
            Ok(()) => Vec::new(),
            Err(bad) => bad.indices.iter().map(|index| offset + index).collect(),
        }
    });
    let mut signed: Vec<_> = signed.into_iter().map(Some).collect();
    for index in bad {
        if let Some(it) = signed[index].take() {
            findings.add(it.path, it.problem);
        }
    }
}

struct SignedMessages<'a> {
    definition: &'a Definition,
    fork_version: ForkVersion,
    signed: Vec<Signed>,
}

impl SignedMessages<'_> {
    fn registration(
        &mut self,
        index: usize,
        it: &Registration,
        keys: &Keys,
        findings: &mut Findings,
    ) {
        let at = format!("distributed_validators[{index}].builder_registration");
        if it.signature.is_empty() || it.fee_recipient.is_empty() || it.pubkey.is_empty() {
            return findings.add(at, Problem::MissingRegistration);
        }
        if it.gas_limit == 0 {
            findings.add(
                format!("{at}.message.gas_limit"),
                Problem::RegistrationGasLimit,
            );
        }
        let signature = match signature(&it.signature) {
            Ok(signature) => signature,
            Err(problem) => return findings.add(format!("{at}.signature"), problem),
        };
        // A validator without addresses is one of another number of validators, found before.
        let Some(addresses) = self.definition.addresses_of(index) else {
            return;
        };
        let Ok(fee_recipient) = addresses.fee_recipient.parse::<Address>() else {
            let text = addresses.fee_recipient.chars().take(64).collect();
            return findings.add(
                format!("cluster_definition.validators[{index}].fee_recipient_address"),
                Problem::ValidatorAddress { text },
            );
        };
        let Some(public_key) = keys.group else {
            return;
        };
        let pubkey = public_key.to_bytes();
        for (key, shown, signed) in [
            ("fee_recipient", &it.fee_recipient, &fee_recipient.0[..]),
            ("pubkey", &it.pubkey, &pubkey[..]),
        ] {
            if shown != signed {
                findings.add(format!("{at}.message.{key}"), Problem::RegistrationShows);
            }
        }
        // What was signed is built from the definition, as Charon does it.
        let message = registration::Message {
            fee_recipient,
            gas_limit: it.gas_limit.cast_unsigned(),
            timestamp: it.timestamp.cast_unsigned(),
            public_key: pubkey,
        };
        self.signed.push(Signed {
            path: format!("{at}.signature"),
            problem: Problem::RegistrationSignature,
            public_key,
            message: message.signing_root(self.fork_version),
            signature,
        });
    }

    fn deposits(
        &mut self,
        index: usize,
        validator: &ValidatorEntry,
        keys: &Keys,
        findings: &mut Findings,
    ) {
        let version = self.definition.version;
        let at = format!("distributed_validators[{index}]");
        if !version.has_deposit_amounts() {
            // Always there, and blank if nothing was signed.
            for deposit in validator.deposits.iter().filter(|it| !it.is_blank()) {
                self.deposit(
                    index,
                    deposit,
                    keys,
                    &format!("{at}.deposit_data"),
                    findings,
                );
            }
            return;
        }
        for (number, deposit) in validator.deposits.iter().enumerate() {
            let at = format!("{at}.partial_deposit_data[{number}]");
            self.deposit(index, deposit, keys, &at, findings);
        }
        // Nothing asked for: the defaults, which changed over time.
        let wanted = &self.definition.deposit_amounts;
        let mut wanted: Vec<_> = wanted.iter().map(|it| i64::try_from(*it).ok()).collect();
        let signed = validator.deposits.iter().map(|it| Some(it.amount));
        let mut signed: Vec<_> = signed.collect();
        for amounts in [&mut wanted, &mut signed] {
            amounts.sort_unstable();
            amounts.dedup();
        }
        if !wanted.is_empty() && !signed.is_empty() && wanted != signed {
            findings.add(
                format!("{at}.partial_deposit_data"),
                Problem::DepositAmounts,
            );
        }
    }

    fn deposit(
        &mut self,
        index: usize,
        it: &Deposit,
        keys: &Keys,
        at: &str,
        findings: &mut Findings,
    ) {
        let Some(public_key) = keys.group else {
            return;
        };
        let pubkey = public_key.to_bytes();
        if it.pubkey != pubkey {
            return findings.add(format!("{at}.pubkey"), Problem::DepositPublicKey);
        }
        let Some(addresses) = self.definition.addresses_of(index) else {
            return;
        };
        let Ok(withdrawal) = addresses.withdrawal.parse::<Address>() else {
            let text = addresses.withdrawal.chars().take(64).collect();
            return findings.add(
                format!("cluster_definition.validators[{index}].withdrawal_address"),
                Problem::ValidatorAddress { text },
            );
        };
        let kind = CredentialsKind::new(self.definition.compounding);
        let expected = WithdrawalCredentials::new(kind, withdrawal);
        if it.withdrawal_credentials != expected.0 {
            let stored = it.withdrawal_credentials.clone();
            return findings.add(
                format!("{at}.withdrawal_credentials"),
                Problem::DepositCredentials { stored, expected },
            );
        }
        let signature = match signature(&it.signature) {
            Ok(signature) => signature,
            Err(problem) => return findings.add(format!("{at}.signature"), problem),
        };
        let message = deposit::Message {
            public_key: pubkey,
            withdrawal_credentials: expected,
            amount: Gwei(it.amount.cast_unsigned()),
        };
        self.signed.push(Signed {
            path: format!("{at}.signature"),
            problem: Problem::DepositSignature,
            public_key,
            message: message.signing_root(self.fork_version),
            signature,
        });
    }
}

fn check_node_signatures(
    lock: &LockFile,
    identities: &[Option<k1::PublicKey>],
    findings: &mut Findings,
) {
    if !lock.definition.version.has_registrations() {
        return;
    }
    let operators = identities.len();
    let signatures = lock.node_signatures.len();
    if signatures != operators {
        findings.add(
            "node_signatures",
            Problem::NodeSignatureCount {
                signatures,
                operators,
            },
        );
    }
    // A hash of another length was found wrong before.
    let Ok(hash) = <[u8; 32]>::try_from(lock.lock_hash.as_slice()) else {
        return;
    };
    for (operator, (signature, key)) in lock.node_signatures.iter().zip(identities).enumerate() {
        let at = format!("node_signatures[{operator}]");
        let Ok(signature) = <[u8; 65]>::try_from(signature.as_slice()) else {
            let len = signature.len();
            findings.add(at, Problem::NodeSignatureLength { len });
            continue;
        };
        if let Some(Err(source)) = key.map(|key| key.verify65(&hash, &signature)) {
            findings.add(at, Problem::NodeSignature { operator, source });
        }
    }
}

impl Deposit {
    fn is_blank(&self) -> bool {
        *self == Self::default()
    }
}

fn public_key(bytes: &[u8]) -> Result<bls::PublicKey, Problem> {
    let len = bytes.len();
    let bytes = bytes
        .try_into()
        .map_err(|_| Problem::PublicKeyLength { len })?;
    bls::PublicKey::from_bytes(bytes).map_err(Problem::PublicKey)
}

fn signature(bytes: &[u8]) -> Result<bls::Signature, Problem> {
    let len = bytes.len();
    let bytes = bytes
        .try_into()
        .map_err(|_| Problem::BlsSignatureLength { len })?;
    bls::Signature::from_bytes(bytes).map_err(Problem::BlsSignature)
}
