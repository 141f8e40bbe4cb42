//! `pluto create dkg` and `pluto create cluster`.
//!
//! Spec: cluster, section 11. Everything is checked before anything is written.
//!
//! - **Restart:** a node's directory appears whole or not at all; when it fails, no directory stays.
//!   A crash leaves at most a `.cluster.<random>.tmp`.
//! - **Overwriting:** nothing that is there is ever replaced.

use std::{
    error::Error,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use pluto_cluster::{
    Creator, Definition, Deposit, FileMode, LockFile, NewDefinition, OperatorEntry, Registration,
    ValidatorAddresses, ValidatorEntry, Verifier, Version, verify,
};
use pluto_crypto::{bls, enr::Enr, k1, keyfile};
use pluto_eth::{
    address::{self, Address},
    deposit::{self, CredentialsKind, Gwei, WithdrawalCredentials},
    keystore::{Cost, directory, encrypt_all},
    network::Network,
    registration, threads,
};

use crate::args::{CharonVersion, CreateCluster, CreateDkg, Shape};

/// Fewest operators and smallest threshold of new clusters (cluster spec, section 11.4).
const MIN_OPERATORS: usize = 3;
const MIN_THRESHOLD: u32 = 2;

#[derive(Debug, thiserror::Error)]
enum CreateError {
    #[error("{count} operators are fewer than {MIN_OPERATORS}")]
    FewOperators { count: usize },
    #[error(
        "a threshold of {threshold} is not from {MIN_THRESHOLD} to {operators}, the number of operators"
    )]
    Threshold { threshold: u32, operators: usize },
    #[error("the network `{name}` is not known")]
    Network { name: String },
    #[error("the consensus protocol `{name}` is not supported; only qbft is")]
    Protocol { name: String },
    #[error("{flag} has {count} addresses for {validators} validators; give one, or one for each")]
    Addresses {
        flag: &'static str,
        count: usize,
        validators: usize,
    },
    #[error("the withdrawal address `{text}` cannot be used")]
    Withdrawal {
        text: String,
        #[source]
        source: address::Error,
    },
    #[error("the withdrawal address is zero: on {network} the stake would be lost")]
    ZeroWithdrawal { network: String },
    #[error("--insecure-keys are refused on {network}, where they protect real money")]
    Insecure { network: String },
    #[error("a deposit of {eth} ETH is too large")]
    Amount { eth: u64 },
    #[error("{} exists and is never overwritten; move it away", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the new lock is wrong at {path}; nothing was written")]
    Wrong {
        path: String,
        #[source]
        source: Box<verify::Problem>,
    },
}

pub(crate) fn dkg(args: &CreateDkg) -> Result<ExitCode, Box<dyn Error>> {
    let path = args.output_dir.join("cluster-definition.json");
    if path.exists() {
        return Err(CreateError::Exists { path }.into());
    }
    let withdrawal = args.shape.withdrawal_addresses.iter().map(|text| {
        Address::from_checksummed(text).map_err(|source| CreateError::Withdrawal {
            text: text.clone(),
            source,
        })
    });
    let withdrawal = withdrawal.collect::<Result<Vec<_>, _>>()?;
    let (definition, network) = define(
        &args.shape,
        args.operator_enrs.clone(),
        args.num_validators as usize,
        &withdrawal,
        &args.dkg_algorithm,
    )?;
    fs::create_dir_all(&args.output_dir).map_err(cannot_write(&args.output_dir))?;
    definition.create_file(&path)?;
    println!("Created {}", path.display());
    println!(
        "{} operators, threshold {}, {} validators on {}",
        definition.operators.len(),
        definition.threshold,
        definition.num_validators,
        network.name()
    );
    println!("Give the file to all operators: the ceremony of each needs the same.");
    Ok(ExitCode::SUCCESS)
}

/// The definition that the flags describe, with everything checked.
fn define(
    shape: &Shape,
    enrs: Vec<String>,
    validators: usize,
    withdrawal: &[Address],
    dkg_algorithm: &str,
) -> Result<(Definition, Network), Box<dyn Error>> {
    let operators = enrs.len();
    if operators < MIN_OPERATORS {
        return Err(CreateError::FewOperators { count: operators }.into());
    }
    // Zero stands for the default, as for Charon.
    let threshold = shape.threshold.filter(|it| *it != 0);
    if let Some(threshold) = threshold
        && (threshold < MIN_THRESHOLD || threshold as usize > operators)
    {
        return Err(CreateError::Threshold {
            threshold,
            operators,
        }
        .into());
    }
    let network = network(shape)?;
    if !shape.consensus_protocol.is_empty()
        && !shape.consensus_protocol.eq_ignore_ascii_case("qbft")
    {
        let name = shape.consensus_protocol.clone();
        return Err(CreateError::Protocol { name }.into());
    }
    let fees = repeated(
        "--fee-recipient-addresses",
        &shape.fee_recipient_addresses,
        validators,
    )?;
    let withdrawal = repeated("--withdrawal-addresses", withdrawal, validators)?;
    if network.is_valuable() && withdrawal.contains(&Address::ZERO) {
        let network = network.name().to_owned();
        return Err(CreateError::ZeroWithdrawal { network }.into());
    }
    let amounts = shape.deposit_amounts.iter().map(|eth| {
        let amount = Gwei::from_eth(*eth).ok_or(CreateError::Amount { eth: *eth })?;
        Ok(amount.0)
    });
    let definition = NewDefinition {
        version: match shape.charon_version {
            CharonVersion::V1_10 => Version::V1_10,
            CharonVersion::V1_11 => Version::LATEST,
        },
        name: shape.name.clone(),
        operators: enrs
            .into_iter()
            .map(|enr| OperatorEntry {
                enr,
                ..OperatorEntry::default()
            })
            .collect(),
        creator: Creator::default(),
        threshold,
        fork_version: network.genesis_version().0,
        validators: fees
            .iter()
            .zip(&withdrawal)
            .map(|(fee_recipient, withdrawal)| ValidatorAddresses {
                fee_recipient: fee_recipient.to_string(),
                withdrawal: withdrawal.to_string(),
            })
            .collect(),
        deposit_amounts: amounts.collect::<Result<_, CreateError>>()?,
        dkg_algorithm: dkg_algorithm.to_owned(),
        consensus_protocol: shape.consensus_protocol.clone(),
        target_gas_limit: shape.target_gas_limit,
        compounding: shape.compounding,
        created_at: SystemTime::now(),
    };
    Ok((definition.build()?, network))
}

fn network(shape: &Shape) -> Result<Network, Box<dyn Error>> {
    let networks = shape.testnet.networks()?;
    // A network of one's own counts more than --network.
    let name = match shape.testnet.testnet_name.as_str() {
        "" => &shape.network,
        name => name,
    };
    let network = networks.by_name(name).cloned();
    Ok(network.ok_or_else(|| CreateError::Network {
        name: name.to_owned(),
    })?)
}

fn repeated(
    flag: &'static str,
    addresses: &[Address],
    validators: usize,
) -> Result<Vec<Address>, CreateError> {
    match addresses {
        [one] => Ok(vec![*one; validators]),
        each if each.len() == validators => Ok(each.to_vec()),
        other => Err(CreateError::Addresses {
            flag,
            count: other.len(),
            validators,
        }),
    }
}

pub(crate) fn cluster(args: &CreateCluster) -> Result<ExitCode, Box<dyn Error>> {
    let nodes = args.nodes as usize;
    let dirs: Vec<_> = (0..nodes)
        .map(|node| args.cluster_dir.join(format!("node{node}")))
        .collect();
    if let Some(path) = dirs.iter().find(|it| it.exists()) {
        let path = path.clone();
        return Err(CreateError::Exists { path }.into());
    }
    let withdrawal = args.shape.withdrawal_addresses.iter().map(|text| {
        text.parse().map_err(|source| CreateError::Withdrawal {
            text: text.clone(),
            source,
        })
    });
    let withdrawal = withdrawal.collect::<Result<Vec<Address>, _>>()?;
    let identities: Vec<_> = (0..nodes).map(|_| k1::SecretKey::generate()).collect();
    let enrs = identities
        .iter()
        .map(|it| Enr::for_key(it).text().to_owned());
    let validators = args.num_validators as usize;
    let (definition, network) = define(
        &args.shape,
        enrs.collect(),
        validators,
        &withdrawal,
        "default",
    )?;
    let cost = if args.insecure_keys {
        if network.is_valuable() {
            let network = network.name().to_owned();
            return Err(CreateError::Insecure { network }.into());
        }
        Cost::Insecure
    } else {
        Cost::Secure
    };

    let keys: Vec<_> = (0..validators)
        .map(|_| bls::SecretKey::generate())
        .collect();
    let threshold = definition.usable_threshold()? as usize;
    let mut shares = vec![Vec::with_capacity(validators); nodes];
    for key in &keys {
        for (node, (_, share)) in bls::split(key, threshold, nodes)?.into_iter().enumerate() {
            shares[node].push(share);
        }
    }
    let deposits = deposits(&definition, &network, &keys, &withdrawal);
    let lock = lock(
        definition,
        &network,
        &keys,
        &shares,
        &deposits,
        &args.shape,
        &identities,
    )?;
    let networks = args.shape.testnet.networks()?;
    let verifier = Verifier::new().with_networks(&networks);
    let wrong = verifier.lock(&lock).into_iter();
    let mut wrong = wrong.filter(|it| it.severity() == pluto_cluster::Severity::Error);
    if let Some(it) = wrong.next() {
        let source = Box::new(it.problem);
        return Err(CreateError::Wrong {
            path: it.path,
            source,
        }
        .into());
    }

    fs::create_dir_all(&args.cluster_dir).map_err(cannot_write(&args.cluster_dir))?;
    let work = Work::create(&args.cluster_dir)?;
    let total = nodes * validators;
    for (node, (identity, shares)) in identities.iter().zip(&shares).enumerate() {
        let dir = work.0.join(format!("node{node}"));
        fs::create_dir(&dir).map_err(cannot_write(&dir))?;
        let sealed = encrypt_all(shares, cost, threads(), |done| {
            eprint!(
                "\r{} of {total} keystores encrypted",
                node * validators + done
            );
            let _ = io::stderr().flush();
        });
        directory::store(dir.join("validator_keys"), &sealed, cost)?;
        keyfile::store(dir.join(keyfile::FILE_NAME), identity)?;
        lock.create_file(dir.join("cluster-lock.json"), FileMode::Owner)?;
        deposit::file::store(&dir, &network, &deposits)?;
    }
    eprintln!();
    publish(&work, &dirs)?;

    println!(
        "Created the nodes of {} in {}",
        shown_name(&lock),
        args.cluster_dir.display()
    );
    for (node, (dir, identity)) in dirs.iter().zip(&identities).enumerate() {
        println!(
            "  node {node}  {}  {}",
            dir.display(),
            Enr::for_key(identity).text()
        );
    }
    println!("Move each directory to its node, and keep no other copy of its keys.");
    Ok(ExitCode::SUCCESS)
}

fn shown_name(lock: &LockFile) -> &str {
    match lock.definition.name.as_str() {
        "" => "a cluster without a name",
        name => name,
    }
}

/// All deposits of all validators.
fn deposits(
    definition: &Definition,
    network: &Network,
    keys: &[bls::SecretKey],
    withdrawal: &[Address],
) -> Vec<deposit::Deposit> {
    let kind = CredentialsKind::new(definition.compounding);
    let chosen: Vec<_> = definition
        .deposit_amounts
        .iter()
        .map(|it| Gwei(*it))
        .collect();
    let amounts = kind.signed_amounts(&chosen);
    // One address stands for all.
    let addresses = keys.iter().zip(withdrawal.iter().cycle());
    addresses
        .flat_map(|(key, address)| {
            let public_key = key.public_key().to_bytes();
            amounts.iter().map(move |amount| {
                deposit::Message {
                    public_key,
                    withdrawal_credentials: WithdrawalCredentials::new(kind, *address),
                    amount: *amount,
                }
                .sign(key, network.genesis_version())
            })
        })
        .collect()
}

fn lock(
    definition: Definition,
    network: &Network,
    keys: &[bls::SecretKey],
    shares: &[Vec<bls::SecretKey>],
    deposits: &[deposit::Deposit],
    shape: &Shape,
    identities: &[k1::SecretKey],
) -> Result<LockFile, Box<dyn Error>> {
    let fees = shape.fee_recipient_addresses.iter().cycle();
    let per_validator = deposits.len() / keys.len();
    let validators = keys
        .iter()
        .zip(fees)
        .enumerate()
        .map(|(at, (key, fee_recipient))| {
            let signed = registration::Message {
                fee_recipient: *fee_recipient,
                gas_limit: shape.target_gas_limit,
                timestamp: network.genesis_time_secs(),
                public_key: key.public_key().to_bytes(),
            }
            .sign(key, network.genesis_version());
            let own = &deposits[at * per_validator..(at + 1) * per_validator];
            Ok(ValidatorEntry {
                pubkey: signed.message.public_key.to_vec(),
                public_shares: shares
                    .iter()
                    .map(|it| it[at].public_key().to_bytes().to_vec())
                    .collect(),
                deposits: own
                    .iter()
                    .map(|it| {
                        Ok(Deposit {
                            pubkey: it.message.public_key.to_vec(),
                            withdrawal_credentials: it.message.withdrawal_credentials.0.to_vec(),
                            amount: it.message.amount.0.try_into()?,
                            signature: it.signature.to_vec(),
                        })
                    })
                    .collect::<Result<_, std::num::TryFromIntError>>()?,
                registration: Registration {
                    fee_recipient: fee_recipient.0.to_vec(),
                    gas_limit: signed.message.gas_limit.try_into()?,
                    timestamp: signed.message.timestamp.try_into()?,
                    pubkey: signed.message.public_key.to_vec(),
                    signature: signed.signature.to_vec(),
                },
            })
        });
    let validators = validators.collect::<Result<_, std::num::TryFromIntError>>()?;
    let mut lock = LockFile {
        definition,
        validators,
        signature_aggregate: Vec::new(),
        lock_hash: Vec::new(),
        node_signatures: Vec::new(),
    };
    lock.update_hashes()?;
    let hash = lock.compute_lock_hash()?;
    let signatures = shares.iter().flatten().map(|it| it.sign(&hash));
    let signatures: Vec<_> = signatures.collect();
    lock.signature_aggregate = bls::aggregate(&signatures)?.to_bytes().to_vec();
    lock.node_signatures = identities
        .iter()
        .map(|it| it.sign(&hash).to_vec())
        .collect();
    Ok(lock)
}

/// Where the nodes' directories are made; removed when dropped.
struct Work(PathBuf);

impl Work {
    fn create(parent: &Path) -> Result<Self, CreateError> {
        let path = parent.join(format!(".cluster.{:016x}.tmp", rand::random::<u64>()));
        fs::create_dir(&path).map_err(cannot_write(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Moves the directories to their places, all or none.
fn publish(work: &Work, dirs: &[PathBuf]) -> Result<(), CreateError> {
    for (node, dir) in dirs.iter().enumerate() {
        let made = work.0.join(format!("node{node}"));
        // A rename replaces an empty directory and no other.
        if let Err(source) = fs::rename(&made, dir) {
            for (node, dir) in dirs[..node].iter().enumerate() {
                let _ = fs::rename(dir, work.0.join(format!("node{node}")));
            }
            let path = dir.clone();
            return Err(CreateError::Io { path, source });
        }
    }
    Ok(())
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> CreateError {
    let path = path.to_owned();
    move |source| CreateError::Io { path, source }
}
