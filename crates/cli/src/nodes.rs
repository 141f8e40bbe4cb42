//! The directories of a new cluster's nodes.
//!
//! Spec: cluster, section 11.3.
//!
//! - **Restart:** a node's directory appears whole or not at all; when it fails, no directory stays.
//!   A crash leaves at most a `.cluster.<random>.tmp`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use pluto_cluster::{Dealt, HashErrors};
use pluto_crypto::{disk, k1, keyfile};
use pluto_eth::{
    deposit::file::{self, Files},
    keystore::{Derivations, directory},
    network::Network,
};

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

/// Writes the directories of a cluster that is verified before they are [published](Written::publish).
///
/// `progress` is called with the number of keystores that are encrypted.
pub(crate) fn write(
    parent: &Path,
    network: &Network,
    identities: &[k1::SecretKey],
    dealt: &Dealt,
    derivations: Derivations,
    progress: impl FnMut(usize),
) -> Result<Written, StoreError> {
    // The lock has the same, and nothing is published before it is verified.
    let deposits = Files::of_verified(network, &dealt.deposits)?;
    // Hashed once, not once for each node.
    let lock = dealt.lock.to_json()?;

    fs::create_dir_all(parent).map_err(cannot_write(parent))?;
    let work = Work::create(parent)?;
    let mut key_dirs = Vec::with_capacity(identities.len());
    for (node, identity) in identities.iter().enumerate() {
        let dir = work.node(node);
        fs::create_dir(&dir).map_err(cannot_write(&dir))?;
        keyfile::store(dir.join(keyfile::FILE_NAME), identity)?;
        let path = dir.join("cluster-lock.json");
        disk::create(&path, &lock, LOCK_MODE).map_err(cannot_write(&path))?;
        deposits.store(&dir)?;
        key_dirs.push(dir.join("validator_keys"));
    }
    // All at once: at the end of each node a core would have nothing to do.
    let shares: Vec<_> = dealt.shares.iter().flatten().cloned().collect();
    directory::encrypt_and_store(&key_dirs, &shares, derivations, progress)?;
    Ok(Written {
        parent: parent.to_owned(),
        work,
    })
}

/// The directories of a cluster, where nobody looks for them. Dropped, they are removed.
pub(crate) struct Written {
    parent: PathBuf,
    work: Work,
}

impl Written {
    /// Moves the directories to their places in the parent, all or none.
    pub(crate) fn publish(self, dirs: &[PathBuf]) -> Result<(), StoreError> {
        self.work.publish(dirs)?;
        disk::sync_dir(&self.parent).map_err(cannot_write(&self.parent))
    }
}

/// Where the directories are made; removed when dropped.
struct Work(PathBuf);

impl Work {
    fn create(parent: &Path) -> Result<Self, StoreError> {
        let create = || {
            let path = disk::temp_name(&parent.join("cluster"))?;
            fs::create_dir(&path)?;
            Ok(Self(path))
        };
        create().map_err(cannot_write(parent))
    }

    fn node(&self, node: usize) -> PathBuf {
        self.0.join(format!("node{node}"))
    }

    /// Moves the directories to their places, all or none.
    fn publish(&self, dirs: &[PathBuf]) -> Result<(), StoreError> {
        for (node, dir) in dirs.iter().enumerate() {
            // A rename replaces an empty directory and no other.
            if let Err(source) = fs::rename(self.node(node), dir) {
                for (node, dir) in dirs[..node].iter().enumerate() {
                    let _ = fs::rename(dir, self.node(node));
                }
                let path = dir.clone();
                return Err(StoreError::Io { path, source });
            }
        }
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}
