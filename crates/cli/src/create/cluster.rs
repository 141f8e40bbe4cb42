//! `pluto create cluster`.
//!
//! - **Restart:** a node's directory appears whole or not at all; when it fails, no directory stays.
//!   Who is killed leaves at most a `.cluster.<random>.tmp`, which the next run names.
//! - **Cancellation:** Ctrl-C and SIGTERM are noticed between keystores; then nothing stays.
//! - **Cost:** the derivation of each keystore's key, about 30 ms; on all cores.

use std::{
    collections::BTreeSet,
    error::Error,
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use pluto_cluster::{Addresses, Definition, LockFile, NewCluster, Severity, http, verify};
use pluto_crypto::{enr::Enr, k1};
use pluto_eth::{
    address::{self, Address},
    keystore::{Cost, Derivations, directory},
    network::{ForkVersion, Network},
    threads,
};

use super::{
    CreateError, MIN_OPERATORS, by_enr, check_size, check_withdrawal, define,
    keys::{Keys, Order},
};
use pluto_p2p::identity;

use crate::{
    args::{self, CreateCluster},
    nodes::{self, StoreError},
    progress::Progress,
    say::say,
    signals::Stop,
};

#[derive(Debug, thiserror::Error)]
enum DefinitionError {
    #[error(
        "{operators} operators of the definition have joined with their own wallets; run a ceremony instead"
    )]
    Joined { operators: usize },
    #[error(
        "the definition is for the network 0x{}, which is not known",
        hex::encode(fork_version)
    )]
    Network { fork_version: Vec<u8> },
    #[error("{keys} keys for the {validators} validators of the definition")]
    Keys { keys: usize, validators: i64 },
}

pub(crate) fn cluster(args: &CreateCluster) -> Result<ExitCode, Box<dyn Error>> {
    supported(args)?;
    let found = match &args.definition_file {
        Some(place) => Some(given(place, args)?),
        None => None,
    };
    let count = match (&found, args.nodes) {
        (Some((definition, _)), _) => definition.operators.len(),
        (None, nodes) => nodes.map_or(MIN_OPERATORS, |it| it as usize),
    };
    let dirs: Vec<_> = (0..count)
        .map(|node| nodes::dir(&args.cluster_dir, node))
        .collect();
    if let Some(path) = dirs.iter().find(|it| it.exists()) {
        let path = path.clone();
        return Err(CreateError::Exists { path }.into());
    }
    let identities: Vec<_> = (0..count).map(|_| k1::SecretKey::generate()).collect();
    let (definition, network, keys) = match found {
        Some((definition, network)) => with_definition(args, definition, network, &identities)?,
        None => with_flags(args, &identities)?,
    };
    let cost = match args.insecure_keys {
        true if network.is_valuable() => {
            let network = network.name().to_owned();
            return Err(CreateError::Insecure { network }.into());
        }
        true => Cost::Insecure,
        false => Cost::Secure,
    };
    // The last of what may fail by what was given, because it takes long.
    let keys = keys.open()?;
    // They take nearly all of the time, and need nothing of what is made meanwhile.
    let keystores = count * keys.len();
    let derivations = Derivations::start(keystores, cost, threads());
    let dealt = NewCluster {
        definition,
        network: &network,
        identities: &identities,
        keys: &keys,
        // Keys that exist may be registered with builders already; the later one counts.
        registered_at: match args.split_existing_keys {
            true => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            false => network.genesis_time_secs(),
        },
    }
    .deal()?;
    // From here on there is something to remove.
    let stop = Stop::listen()?;
    let progress = Progress::new("keystores encrypted", keystores);
    let written = nodes::write(
        &args.cluster_dir,
        &network,
        &identities,
        &dealt,
        derivations,
        |done| {
            progress.show(done);
            stop.check()
        },
    );
    match (written, stop.stopped()) {
        (Err(StoreError::Keystores(directory::Error::Stopped)), Some(stopped)) => {
            return Err(stopped.into());
        }
        (written, _) => written?,
    }
    tell(args, &dealt.lock, &dirs, &identities);
    Ok(ExitCode::SUCCESS)
}

fn tell(args: &CreateCluster, lock: &LockFile, dirs: &[PathBuf], identities: &[k1::SecretKey]) {
    let name = match lock.definition.name.as_str() {
        "" => "a cluster without a name",
        name => name,
    };
    say!(
        "Created the nodes of {name} in {}",
        args.cluster_dir.display()
    );
    for (node, (dir, key)) in dirs.iter().zip(identities).enumerate() {
        let peer = identity::peer_id(&key.public_key());
        say!(
            "  node {node}  {}  {peer}  {}",
            dir.display(),
            identity::name(&peer)
        );
        say!("    {}", Enr::for_key(key).text());
    }
    if args.split_existing_keys {
        say!("Never use the keys that were split again: a validator that signs twice is slashed.");
    }
    say!("Move each directory to its node, and keep no other copy of its keys.");
}

/// Flags of Charon's that are known, so that it is not a riddle why they do nothing.
fn supported(args: &CreateCluster) -> Result<(), CreateError> {
    let keymanager = "leave it out and import validator_keys with the tools of the key manager";
    for (given, flag, instead) in [
        (
            !args.keymanager_addresses.is_empty(),
            "--keymanager-addresses",
            keymanager,
        ),
        (
            !args.keymanager_auth_tokens.is_empty(),
            "--keymanager-auth-tokens",
            keymanager,
        ),
        (
            args.publish,
            "--publish",
            "leave it out: nodes need only their own directories",
        ),
        (
            args.zipped,
            "--zipped",
            "leave it out and pack the nodes' directories, for example with tar",
        ),
    ] {
        if given {
            return Err(CreateError::NotSupported { flag, instead });
        }
    }
    Ok(())
}

fn right(what: &'static str, found: Vec<verify::Finding>) -> Result<(), CreateError> {
    let mut wrong = found.into_iter();
    match wrong.find(|it| it.severity() == Severity::Error) {
        Some(it) => Err(CreateError::Wrong {
            what,
            path: it.path,
            source: Box::new(it.problem),
        }),
        None => Ok(()),
    }
}

type Plan = (Definition, Network, Keys);

/// The cluster that the flags describe.
fn with_flags(args: &CreateCluster, identities: &[k1::SecretKey]) -> Result<Plan, Box<dyn Error>> {
    let shape = &args.shape;
    let withdrawal = shape.withdrawal_addresses.iter().map(String::as_str);
    // Charon looks at no checksum here; a wrong digit in one would lose the stake.
    let withdrawal = addresses(withdrawal, Address::from_typed)?;
    let keys = match (&args.split_keys_dir, args.num_validators) {
        (Some(dir), _) => {
            let several = withdrawal.len() > 1 || shape.fee_recipient_addresses.len() > 1;
            Keys::existing(dir, if several { Order::Numbered } else { Order::Any })?
        }
        (None, count) => Keys::New(count.unwrap_or_default() as usize),
    };
    let operators = by_enr(enrs(identities));
    let (definition, network) = define(shape, operators, keys.count(), &withdrawal, "default")?;
    Ok((definition, network, keys))
}

/// The definition at a place, checked, and its network.
fn given(place: &str, args: &CreateCluster) -> Result<(Definition, Network), Box<dyn Error>> {
    let is_url = place.starts_with("http://") || place.starts_with("https://");
    let definition = if is_url {
        http::fetch_definition(place)?
    } else {
        Definition::read(place)?
    };
    let networks = args.shape.testnet.networks()?;
    let client = args.wallets.client()?;
    let verifier = args::verifier(&networks, client.as_ref());
    right("definition", verifier.definition(&definition))?;
    let joined = definition
        .operators
        .iter()
        .filter(|it| !it.address.is_empty());
    let operators = joined.count();
    if operators > 0 {
        return Err(DefinitionError::Joined { operators }.into());
    }
    let version = <[u8; 4]>::try_from(definition.fork_version.as_slice()).map(ForkVersion);
    let network = version.ok().and_then(|it| networks.by_fork_version(it));
    let network = network.cloned().ok_or_else(|| DefinitionError::Network {
        fork_version: definition.fork_version.clone(),
    })?;
    let threshold = definition.usable_threshold()?;
    check_size(definition.operators.len(), Some(threshold))?;
    let all = each(&definition);
    let all = addresses(
        all.iter().map(|it| it.1.as_str()),
        Address::from_checksummed,
    )?;
    check_withdrawal(&network, &all)?;
    Ok((definition, network))
}

fn with_definition(
    args: &CreateCluster,
    mut definition: Definition,
    network: Network,
    identities: &[k1::SecretKey],
) -> Result<Plan, Box<dyn Error>> {
    let validators = definition.num_validators;
    let keys = match &args.split_keys_dir {
        Some(dir) => {
            let pairs = each(&definition).into_iter().map(|(fee, withdrawal)| {
                (fee.to_ascii_lowercase(), withdrawal.to_ascii_lowercase())
            });
            let several = pairs.collect::<BTreeSet<_>>().len() > 1;
            Keys::existing(dir, if several { Order::Numbered } else { Order::Any })?
        }
        None => Keys::New(usize::try_from(validators).unwrap_or_default()),
    };
    if i64::try_from(keys.count()) != Ok(validators) {
        let keys = keys.count();
        return Err(DefinitionError::Keys { keys, validators }.into());
    }
    // The config hash has no ENRs in it: what its creator signed stays true.
    definition.operators = by_enr(enrs(identities));
    Ok((definition, network, keys))
}

fn enrs(identities: &[k1::SecretKey]) -> impl Iterator<Item = String> {
    let enrs = identities.iter().map(Enr::for_key);
    enrs.map(|it| it.text().to_owned())
}

/// Fee recipient and withdrawal address of each validator.
fn each(definition: &Definition) -> Vec<(String, String)> {
    let pair =
        |it: &pluto_cluster::ValidatorAddresses| (it.fee_recipient.clone(), it.withdrawal.clone());
    match &definition.addresses {
        Addresses::Shared(shared) => vec![pair(shared)],
        Addresses::Each(list) => list.iter().map(pair).collect(),
    }
}

fn addresses<'a>(
    texts: impl Iterator<Item = &'a str>,
    read: fn(&str) -> Result<Address, address::Error>,
) -> Result<Vec<Address>, CreateError> {
    texts
        .map(|text| {
            read(text).map_err(|source| CreateError::Withdrawal {
                text: text.to_owned(),
                source,
            })
        })
        .collect()
}
