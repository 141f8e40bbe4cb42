//! A cluster that is made here and signed with keys that are known here, in any version.

use pluto_cluster::{
    Addresses, Creator, Definition, Deposit, LockFile, OperatorEntry, Registration,
    ValidatorAddresses, ValidatorEntry, Version, eip712,
};
use pluto_core::signing::{DomainKind, Forks, signing_root};
use pluto_crypto::{bls, enr::Enr, k1};
use sha2::{Digest, Sha256};

pub(crate) const HOODI: [u8; 4] = [0x10, 0, 9, 0x10];
pub(crate) const HOODI_CHAIN: u64 = 560_048;

/// The identity, and the wallet, of an operator.
pub(crate) fn operator_key(index: usize) -> k1::SecretKey {
    k1::SecretKey::from_bytes(&[u8::try_from(index).unwrap() + 1; 32]).unwrap()
}

pub(crate) fn address(key: &k1::SecretKey) -> String {
    format!("0x{}", hex::encode(key.public_key().address()))
}

/// Signed by all operators and the creator, where the version has such signatures.
pub(crate) fn definition(version: Version, operators: usize, validators: usize) -> Definition {
    let addresses = |index: usize| ValidatorAddresses {
        fee_recipient: format!("0x{}", format!("{:02x}", 0xa0 + index).repeat(20)),
        withdrawal: format!("0x{}", format!("{:02x}", 0xb0 + index).repeat(20)),
    };
    let operators = (0..operators).map(|index| {
        let key = operator_key(index);
        OperatorEntry {
            address: address(&key),
            enr: Enr::for_key(&key).text().to_owned(),
            ..OperatorEntry::default()
        }
    });
    let since = |first: Version| version >= first;
    let mut definition = Definition {
        version,
        name: "nämé <1>".into(),
        uuid: "0194FDC2-FA2F-4CC0-81D3-FF12045B73C8".into(),
        timestamp: "2026-11-25T12:00:00Z".into(),
        num_validators: validators as i64,
        threshold: 0,
        dkg_algorithm: "default".into(),
        fork_version: HOODI.to_vec(),
        operators: operators.collect(),
        creator: Creator::default(),
        addresses: if since(Version::V1_5) {
            Addresses::Each((0..validators).map(addresses).collect())
        } else {
            Addresses::Shared(addresses(0))
        },
        deposit_amounts: Vec::new(),
        consensus_protocol: String::new(),
        target_gas_limit: 0,
        compounding: false,
        config_hash: Vec::new(),
        definition_hash: Vec::new(),
    };
    definition.threshold = (2 * definition.operators.len()).div_ceil(3) as i64;
    if since(Version::V1_8) {
        definition.deposit_amounts = vec![32_000_000_000, 8_000_000_000, 8_000_000_000];
    }
    if since(Version::V1_9) {
        definition.consensus_protocol = "qbft".into();
    }
    if since(Version::V1_10) {
        definition.target_gas_limit = 36_000_000;
        definition.compounding = true;
    }
    let creator = operator_key(99);
    if since(Version::V1_4) {
        definition.creator.address = address(&creator);
    }
    definition.config_hash = definition.compute_config_hash().unwrap().to_vec();
    if since(Version::V1_3) {
        let hash = &definition.config_hash;
        for (index, operator) in definition.operators.iter_mut().enumerate() {
            let key = operator_key(index);
            let config = eip712::operator_config_digest(version, hash, HOODI_CHAIN);
            operator.config_signature = key.sign(&config).to_vec();
            // As wallets write the recovery id.
            operator.config_signature[64] += 27;
            let enr = eip712::enr_digest(&operator.enr, HOODI_CHAIN);
            operator.enr_signature = key.sign(&enr).to_vec();
        }
    }
    if since(Version::V1_4) {
        let digest = eip712::creator_config_digest(&definition.config_hash, HOODI_CHAIN);
        definition.creator.config_signature = creator.sign(&digest).to_vec();
    }
    definition.update_hashes().unwrap();
    definition
}

/// A lock of such a definition, and the shares of each validator.
pub(crate) fn lock(
    version: Version,
    operators: usize,
    validators: usize,
) -> (LockFile, Vec<Vec<bls::SecretKey>>) {
    let definition = definition(version, operators, validators);
    let threshold = usize::try_from(definition.threshold).unwrap();
    let mut all_shares = Vec::new();
    let validators = (0..validators).map(|index| {
        let group = bls::SecretKey::generate();
        let shares = bls::split(&group, threshold, operators).unwrap();
        let shares: Vec<_> = shares.into_iter().map(|(_, share)| share).collect();
        let public = shares.iter().map(|it| it.public_key().to_bytes().to_vec());
        let entry = ValidatorEntry {
            pubkey: group.public_key().to_bytes().to_vec(),
            public_shares: public.collect(),
            deposits: deposits(&definition, index, &group),
            registration: if version >= Version::V1_7 {
                registration(&definition, index, &group)
            } else {
                Registration::default()
            },
        };
        all_shares.push(shares);
        entry
    });
    let validators = validators.collect();
    let mut lock = LockFile {
        definition,
        validators,
        signature_aggregate: Vec::new(),
        lock_hash: Vec::new(),
        node_signatures: Vec::new(),
    };
    sign(&mut lock, &all_shares);
    (lock, all_shares)
}

/// Hashes a lock and signs the hash with all shares and, where the version has it, as all nodes.
pub(crate) fn sign(lock: &mut LockFile, shares: &[Vec<bls::SecretKey>]) {
    lock.update_hashes().unwrap();
    let signatures = shares.iter().flatten().map(|it| it.sign(&lock.lock_hash));
    let signatures: Vec<_> = signatures.collect();
    lock.signature_aggregate = bls::aggregate(&signatures).unwrap().to_bytes().to_vec();
    if lock.definition.version >= Version::V1_7 {
        let hash = lock.lock_hash.as_slice().try_into().unwrap();
        let nodes = 0..lock.definition.operators.len();
        let signatures = nodes.map(|index| operator_key(index).sign(&hash).to_vec());
        lock.node_signatures = signatures.collect();
    }
}

pub(crate) fn deposit(
    group: &bls::SecretKey,
    credentials: [u8; 32],
    amount: i64,
    fork_version: [u8; 4],
) -> Deposit {
    let pubkey = group.public_key().to_bytes();
    let root = root(&[key_root(&pubkey), credentials, number(amount)]);
    Deposit {
        pubkey: pubkey.to_vec(),
        withdrawal_credentials: credentials.to_vec(),
        amount,
        signature: sign_root(group, root, DomainKind::Deposit, fork_version),
    }
}

pub(crate) fn credentials(definition: &Definition, index: usize) -> [u8; 32] {
    let text = &definition.addresses_of(index).unwrap().withdrawal;
    let mut credentials = [0; 32];
    credentials[0] = if definition.compounding { 2 } else { 1 };
    hex::decode_to_slice(&text[2..], &mut credentials[12..]).unwrap();
    credentials
}

pub(crate) fn register(
    group: &bls::SecretKey,
    fee_recipient: &str,
    fork_version: [u8; 4],
) -> Registration {
    let pubkey = group.public_key().to_bytes();
    let fee_recipient = hex::decode(&fee_recipient[2..]).unwrap();
    let mut address = [0; 32];
    address[..20].copy_from_slice(&fee_recipient);
    let (gas_limit, timestamp) = (36_000_000, 1_742_213_400);
    let root = root(&[
        address,
        number(gas_limit),
        number(timestamp),
        key_root(&pubkey),
    ]);
    Registration {
        fee_recipient,
        gas_limit,
        timestamp,
        pubkey: pubkey.to_vec(),
        signature: sign_root(group, root, DomainKind::ApplicationBuilder, fork_version),
    }
}

fn deposits(definition: &Definition, index: usize, group: &bls::SecretKey) -> Vec<Deposit> {
    let credentials = credentials(definition, index);
    let amounts: &[i64] = match definition.version {
        version if version < Version::V1_6 => &[],
        version if version < Version::V1_8 => &[32_000_000_000],
        _ => &[8_000_000_000, 32_000_000_000],
    };
    let deposits = amounts
        .iter()
        .map(|amount| deposit(group, credentials, *amount, HOODI));
    deposits.collect()
}

fn registration(definition: &Definition, index: usize, group: &bls::SecretKey) -> Registration {
    let fee_recipient = &definition.addresses_of(index).unwrap().fee_recipient;
    register(group, fee_recipient, HOODI)
}

fn sign_root(
    key: &bls::SecretKey,
    root: [u8; 32],
    kind: DomainKind,
    fork_version: [u8; 4],
) -> Vec<u8> {
    let forks = Forks {
        genesis_version: fork_version,
        genesis_validators_root: [0; 32],
        schedule: Vec::new(),
        exit_version: None,
        slots_per_epoch: std::num::NonZeroU64::MIN,
    };
    let message = signing_root(root, forks.domain(kind, 0));
    key.sign(&message).to_bytes().to_vec()
}

fn number(value: i64) -> [u8; 32] {
    let mut leaf = [0; 32];
    leaf[..8].copy_from_slice(&value.to_le_bytes());
    leaf
}

fn key_root(key: &[u8; 48]) -> [u8; 32] {
    let mut leaves = [0; 64];
    leaves[..48].copy_from_slice(key);
    Sha256::digest(leaves).into()
}

/// Of three or four leaves.
fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    let mut padded = leaves.to_vec();
    padded.resize(4, [0; 32]);
    let pair = |pair: &[[u8; 32]]| -> [u8; 32] { Sha256::digest(pair.concat()).into() };
    pair(&[pair(&padded[..2]), pair(&padded[2..])])
}
