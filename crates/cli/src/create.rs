//! `pluto create dkg`, and what it shares with `pluto create cluster`.
//!
//! Spec: cluster, section 11. Everything is checked before anything is written, and nothing that is
//! there is ever replaced.

mod cluster;
mod keys;

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use pluto_cluster::{
    Creator, Definition, NewDefinition, OperatorEntry, ValidatorAddresses, Version, verify,
};
use pluto_eth::{
    address::{self, Address},
    deposit::Gwei,
    network::Network,
};
use pluto_p2p::identity;

pub(crate) use self::cluster::cluster;
use crate::{
    args::{CharonVersion, CreateDkg, Shape},
    nodes::DEFINITION_FILE,
    say::say,
};

/// Fewest operators and smallest threshold of new clusters (cluster spec, section 11.4).
const MIN_OPERATORS: usize = 3;
const MIN_THRESHOLD: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
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
    #[error("the {what} is wrong at {path}; nothing was written")]
    Wrong {
        what: &'static str,
        path: String,
        #[source]
        source: Box<verify::Problem>,
    },
    #[error("{flag} is not supported; {instead}")]
    NotSupported {
        flag: &'static str,
        instead: &'static str,
    },
}

impl CreateError {
    /// Whether the flags are to blame, whatever is on disk.
    pub(crate) fn is_wrong_usage(&self) -> bool {
        match self {
            Self::FewOperators { .. }
            | Self::Threshold { .. }
            | Self::Network { .. }
            | Self::Protocol { .. }
            | Self::Addresses { .. }
            | Self::Withdrawal { .. }
            | Self::ZeroWithdrawal { .. }
            | Self::Insecure { .. }
            | Self::Amount { .. }
            | Self::NotSupported { .. } => true,
            Self::Exists { .. } | Self::Io { .. } | Self::Wrong { .. } => false,
        }
    }
}

pub(crate) fn dkg(args: &CreateDkg) -> Result<ExitCode, Box<dyn Error>> {
    let path = args.output_dir.join(DEFINITION_FILE);
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
    if args.publish {
        return Err(CreateError::NotSupported {
            flag: "--publish",
            instead: "leave it out and send the file to the operators",
        }
        .into());
    }
    let operators = if args.operator_enrs.is_empty() {
        let addresses = args.operator_addresses.iter();
        let named = addresses.map(|it| OperatorEntry {
            address: it.to_string(),
            ..OperatorEntry::default()
        });
        named.collect()
    } else {
        by_enr(args.operator_enrs.iter().cloned())
    };
    let (definition, network) = define(
        &args.shape,
        operators,
        args.num_validators as usize,
        &withdrawal,
        &args.dkg_algorithm,
    )?;
    fs::create_dir_all(&args.output_dir).map_err(cannot_write(&args.output_dir))?;
    definition.create_file(&path)?;
    say!("Created {}", path.display());
    say!(
        "{} operators, threshold {}, {} validators on {}",
        definition.operators.len(),
        definition.threshold,
        definition.num_validators,
        network.name()
    );
    if let Ok(members) = definition.members() {
        for it in members {
            let peer = identity::peer_id(&it.public_key);
            say!(
                "  operator {}  {peer}  {}",
                it.idx.get(),
                identity::name(&peer)
            );
        }
    }
    if args.operator_enrs.is_empty() {
        say!("No operator has joined: each adds its ENR and signs with its wallet.");
        say!("`pluto verify` says who has not.");
    } else {
        say!("Give the file to all operators: the ceremony of each needs the same.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Operators of whom only the node is known.
fn by_enr(enrs: impl Iterator<Item = String>) -> Vec<OperatorEntry> {
    enrs.map(|enr| OperatorEntry {
        enr,
        ..OperatorEntry::default()
    })
    .collect()
}

/// What `create` commands make no cluster with.
fn check_size(operators: usize, threshold: Option<u32>) -> Result<(), CreateError> {
    if operators < MIN_OPERATORS {
        return Err(CreateError::FewOperators { count: operators });
    }
    match threshold {
        Some(threshold) if threshold < MIN_THRESHOLD || threshold as usize > operators => {
            Err(CreateError::Threshold {
                threshold,
                operators,
            })
        }
        _ => Ok(()),
    }
}

/// Where the stake of nobody would go is not where it is to go.
fn check_withdrawal(network: &Network, withdrawal: &[Address]) -> Result<(), CreateError> {
    if network.is_valuable() && withdrawal.contains(&Address::ZERO) {
        let network = network.name().to_owned();
        return Err(CreateError::ZeroWithdrawal { network });
    }
    Ok(())
}

/// The definition that the flags describe, with everything checked.
fn define(
    shape: &Shape,
    operators: Vec<OperatorEntry>,
    validators: usize,
    withdrawal: &[Address],
    dkg_algorithm: &str,
) -> Result<(Definition, Network), Box<dyn Error>> {
    // Zero stands for the default, as for Charon.
    let threshold = shape.threshold.filter(|it| *it != 0);
    check_size(operators.len(), threshold)?;
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
    check_withdrawal(&network, &withdrawal)?;
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
        operators,
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

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> CreateError {
    let path = path.to_owned();
    move |source| CreateError::Io { path, source }
}
