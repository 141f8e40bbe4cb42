//! The directories of a new cluster's nodes.
//!
//! Spec: cluster, section 11.3.
//!
//! - **Restart:** a node's directory appears whole or not at all; when it fails, no directory stays.
//!   Who is killed leaves at most a `.cluster.<random>.tmp`, which the next run names.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use pluto_cluster::{Dealt, HashErrors};
use pluto_crypto::{disk, k1, keyfile};
use pluto_eth::{
    deposit::file::{self, Files},
    keystore::{Derivations, directory},
    network::Network,
};

use crate::say::note;

/// What the hidden directory is called in which all is made.
const WORK: &str = "cluster";

/// The files of a node (cluster spec, sections 6.3 and 11); its identity key is
/// [`keyfile::FILE_NAME`].
pub(crate) const LOCK_FILE: &str = "cluster-lock.json";
pub(crate) const DEFINITION_FILE: &str = "cluster-definition.json";
pub(crate) const KEYSTORES_DIR: &str = "validator_keys";

/// Nobody but the owner reads it, as of Charon's `create cluster`.
const LOCK_MODE: u32 = 0o400;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot write {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Keystores(#[from] directory::Error),
    #[error(transparent)]
    Identity(#[from] keyfile::Error),
    #[error("the lock cannot be hashed")]
    Lock(#[from] HashErrors),
    #[error(transparent)]
    Deposits(#[from] file::Error),
}

/// Where a node's directory is, below that of the cluster.
pub(crate) fn dir(parent: &Path, node: usize) -> PathBuf {
    parent.join(format!("node{node}"))
}

/// Writes the directories of a cluster, all or none.
///
/// `progress` is called with the number of keystores that are encrypted, and says whether to go on.
pub(crate) fn write(
    parent: &Path,
    network: &Network,
    identities: &[k1::SecretKey],
    dealt: &Dealt,
    derivations: Derivations,
    progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    // Signed a moment ago, by the keys themselves.
    let deposits = Files::of_verified(network, &dealt.deposits)?;
    // Hashed once, not once for each node.
    let lock = dealt.lock.to_json()?;

    fs::create_dir_all(parent).map_err(cannot_write(parent))?;
    tell_leftovers(parent, WORK);
    let work = Work::create(parent)?;
    let mut key_dirs = Vec::with_capacity(identities.len());
    for (node, identity) in identities.iter().enumerate() {
        let dir = dir(&work.0, node);
        fs::create_dir(&dir).map_err(cannot_write(&dir))?;
        keyfile::store(dir.join(keyfile::FILE_NAME), identity)?;
        let path = dir.join(LOCK_FILE);
        disk::create(&path, &lock, LOCK_MODE).map_err(cannot_write(&path))?;
        deposits.store(&dir)?;
        key_dirs.push(dir.join(KEYSTORES_DIR));
    }
    // All at once: at the end of each node a core would have nothing to do.
    let shares: Vec<_> = dealt.shares.iter().flatten().cloned().collect();
    directory::encrypt_and_store(&key_dirs, &shares, derivations, progress)?;
    work.publish(identities.len(), parent)
}

/// Where the directories are made; removed when dropped.
struct Work(PathBuf);

impl Work {
    fn create(parent: &Path) -> Result<Self, StoreError> {
        let create = || {
            let path = disk::temp_name(&parent.join(WORK))?;
            fs::create_dir(&path)?;
            Ok(Self(path))
        };
        create().map_err(cannot_write(parent))
    }

    /// Moves the directories of so many nodes to their places, all or none.
    fn publish(&self, nodes: usize, parent: &Path) -> Result<(), StoreError> {
        for node in 0..nodes {
            let path = dir(parent, node);
            // A rename replaces an empty directory and no other.
            if let Err(source) = fs::rename(dir(&self.0, node), &path) {
                for node in 0..node {
                    let _ = fs::rename(dir(parent, node), dir(&self.0, node));
                }
                return Err(StoreError::Io { path, source });
            }
        }
        disk::sync_dir(parent).map_err(cannot_write(parent))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Says what runs that were killed have left in a directory, beside `name` that they were to make.
pub(crate) fn tell_leftovers(parent: &Path, name: &str) {
    let start = format!(".{name}.");
    let is_left = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(&start) && name.ends_with(".tmp")
    };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if is_left(&entry) {
            note!(
                "warning: {} is of a run that was killed, unless one is running: it may hold secret \
                 keys; delete it",
                entry.path().display()
            );
        }
    }
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}
