//! What the nodes share: a cluster on disk, as `pluto create cluster` makes them, with keystores that
//! protect nothing and open at once.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use libp2p::{PeerId, identity::Keypair};
use pluto_cluster::{
    Creator, DealError, Dealt, LockFile, MembersError, NewCluster, NewDefinition,
    NewDefinitionError, OperatorEntry, ReadError, ValidatorAddresses, Version,
};
use pluto_core::{PeerIdx, PubKey, ShareIdx, signing::Forks};
use pluto_crypto::{
    bls,
    enr::Enr,
    k1,
    keyfile::{self, Error as KeyFileError},
};
use pluto_eth::{
    keystore::{Cost, Derivations, directory},
    network::Network,
    registration::DEFAULT_GAS_LIMIT,
    threads,
};
use pluto_p2p::identity::{keypair, peer_id};

use crate::{
    args::{self, Net},
    nodes::{self, StoreError},
};

/// The network that the lock and the deposits are for. Duties are signed for no chain at all.
const NETWORK: Network = Network::HOODI;
/// Whose the stake would be: nobody's.
const NOBODY: &str = "0x000000000000000000000000000000000000dEaD";

/// Why a cluster could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[error("the cluster cannot be described")]
    Define(#[from] NewDefinitionError),
    #[error("the cluster cannot be made")]
    Deal(#[from] DealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lock(#[from] ReadError),
    #[error("the operators in {} are wrong", path.display())]
    Members {
        path: PathBuf,
        #[source]
        source: MembersError,
    },
    #[error(transparent)]
    Keystores(#[from] directory::Error),
    #[error(
        "the cluster in {} has {nodes} nodes, threshold {threshold} and {validators} validators; \
         give --nodes {nodes} --threshold {threshold} --validators {validators}, or another --data-dir",
        path.display()
    )]
    OtherShape {
        path: PathBuf,
        nodes: usize,
        threshold: u32,
        validators: usize,
    },
    #[error("{} does not belong to the others; see `pluto verify`, or give another --data-dir", path.display())]
    Stranger { path: PathBuf },
    #[error("the validator keys cannot be put together")]
    Bls(#[from] bls::Error),
}

impl SetupError {
    /// Whether it was told to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::Keystores(directory::Error::Stopped))
        )
    }
}

type SetupResult<T> = Result<T, SetupError>;

/// A cluster that runs here.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) validators: Vec<Validator>,
    pub(crate) threshold: usize,
    /// The lock's hash.
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

/// What is on disk.
struct Files {
    lock: LockFile,
    identities: Vec<k1::SecretKey>,
    /// By node, then by validator.
    shares: Vec<Vec<bls::SecretKey>>,
}

impl Cluster {
    /// Opens the cluster in the data directory, or makes one there.
    /// Makes none if it is told to stop meanwhile.
    pub(crate) fn create(args: &args::Devnet, stop: &AtomicBool) -> SetupResult<Self> {
        let dirs: Vec<_> = (0..args.nodes)
            .map(|node| nodes::dir(&args.data_dir, node as usize))
            .collect();
        let files = if dirs.iter().any(|it| it.exists()) {
            open(args, &dirs)?
        } else {
            make(args, &dirs, stop)?
        };
        let Files {
            lock,
            identities,
            shares,
        } = files;
        let wrong = |source| SetupError::Members {
            path: args.data_dir.clone(),
            source,
        };
        let threshold = lock.definition.usable_threshold().map_err(wrong)? as usize;
        let share_idx = |node: usize| {
            let idx = u32::try_from(node).ok().and_then(PeerIdx::new);
            idx.expect("at most 32 nodes").share_idx()
        };
        let validators = lock.validators.iter().enumerate().map(|(validator, it)| {
            let of_node = shares.iter().enumerate();
            let of_node = of_node.map(|(node, own)| (share_idx(node), own[validator].clone()));
            let group = bls::PublicKey::from_bytes(&bytes(&it.pubkey))?;
            Ok(Validator {
                pubkey: PubKey::new(group.to_bytes()),
                group,
                shares: of_node.collect(),
            })
        });
        let validators = validators.collect::<SetupResult<_>>()?;
        let members = identities
            .into_iter()
            .enumerate()
            .map(|(node, key)| Member {
                peer: peer_id(&key.public_key()),
                enr: Enr::for_key(&key).text().to_owned(),
                share_idx: share_idx(node),
                key,
            });
        Ok(Self {
            members: members.collect(),
            validators,
            threshold,
            hash: bytes(&lock.lock_hash),
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

fn make(args: &args::Devnet, dirs: &[PathBuf], stop: &AtomicBool) -> SetupResult<Files> {
    let identities: Vec<_> = dirs.iter().map(|_| k1::SecretKey::generate()).collect();
    let keys: Vec<_> = (0..args.validators)
        .map(|_| bls::SecretKey::generate())
        .collect();
    let operators = identities.iter().map(|it| OperatorEntry {
        enr: Enr::for_key(it).text().to_owned(),
        ..OperatorEntry::default()
    });
    let addresses = ValidatorAddresses {
        fee_recipient: NOBODY.to_owned(),
        withdrawal: NOBODY.to_owned(),
    };
    let definition = NewDefinition {
        version: Version::LATEST,
        name: "devnet".to_owned(),
        operators: operators.collect(),
        creator: Creator::default(),
        threshold: args.threshold,
        fork_version: NETWORK.genesis_version().0,
        validators: vec![addresses; keys.len()],
        deposit_amounts: Vec::new(),
        dkg_algorithm: "default".to_owned(),
        consensus_protocol: String::new(),
        target_gas_limit: DEFAULT_GAS_LIMIT,
        compounding: false,
        created_at: SystemTime::now(),
    }
    .build()?;
    let dealt = NewCluster {
        definition,
        network: &NETWORK,
        identities: &identities,
        keys: &keys,
        registered_at: NETWORK.genesis_time_secs(),
    }
    .deal()?;
    let keystores = dealt.shares.iter().map(Vec::len).sum();
    let derivations = Derivations::start(keystores, Cost::Insecure, threads());
    nodes::write(
        &args.data_dir,
        &NETWORK,
        &identities,
        &dealt,
        derivations,
        |_| match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        },
    )?;
    let Dealt { lock, shares, .. } = dealt;
    Ok(Files {
        lock,
        identities,
        shares,
    })
}

fn open(args: &args::Devnet, dirs: &[PathBuf]) -> SetupResult<Files> {
    // Which cluster it is, before what may not belong to it.
    let lock = LockFile::read(dirs[0].join(nodes::LOCK_FILE))?;
    let wrong = |source| SetupError::Members {
        path: args.data_dir.clone(),
        source,
    };
    let members = lock.definition.members().map_err(wrong)?;
    let threshold = lock.definition.usable_threshold().map_err(wrong)?;
    let (nodes, validators) = (members.len(), lock.validators.len());
    if nodes != dirs.len()
        || validators != args.validators as usize
        || args.threshold.is_some_and(|it| it != threshold)
    {
        return Err(SetupError::OtherShape {
            path: args.data_dir.clone(),
            nodes,
            threshold,
            validators,
        });
    }
    let mut identities = Vec::with_capacity(nodes);
    let mut shares = Vec::with_capacity(nodes);
    for (node, (dir, member)) in dirs.iter().zip(members).enumerate() {
        let path = dir.join(keyfile::FILE_NAME);
        let key = keyfile::load(&path)?;
        if key.public_key() != member.public_key {
            return Err(SetupError::Stranger { path });
        }
        identities.push(key);
        shares.push(open_keys(&dir.join(nodes::KEYSTORES_DIR), &lock, node)?);
    }
    Ok(Files {
        lock,
        identities,
        shares,
    })
}

/// The shares of a node, which are those of the lock.
fn open_keys(dir: &Path, lock: &LockFile, node: usize) -> SetupResult<Vec<bls::SecretKey>> {
    let keystores = directory::Sequence::load(dir)?;
    if keystores.count() != lock.validators.len() {
        let path = dir.to_owned();
        return Err(SetupError::Stranger { path });
    }
    let opened = keystores.open(threads(), |_| ())?;
    let opened = opened.into_iter().zip(&lock.validators);
    opened
        .map(|((path, secret), validator)| {
            let public = validator.public_shares.get(node);
            if public.map(Vec::as_slice) != Some(&secret.public_key().to_bytes()) {
                return Err(SetupError::Stranger { path });
            }
            Ok(secret)
        })
        .collect()
}

/// Padded or cut where the file is wrong: then it is no valid key, or no cluster's hash.
fn bytes<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let len = from.len().min(N);
    bytes[..len].copy_from_slice(&from[..len]);
    bytes
}
