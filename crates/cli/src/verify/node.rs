//! One node's directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pluto_cluster::LockFile;
use pluto_crypto::{bls, keyfile};
use pluto_eth::{deposit::file as deposit_file, registration};
use pluto_p2p::identity::peer_id;

use super::{Check, Checked, problem::Problem};
use crate::nodes::{DEFINITION_FILE, KEYSTORES_DIR, LOCK_FILE};

/// Foreign names that are told of; more of them say nothing new.
const MAX_FOREIGN: usize = 20;

/// What Charon leaves in a directory besides the files that are checked.
const HARMLESS: [&str; 2] = ["charon-enr-private-key.lock", "dkg.tar.gz"];

/// What a node's directory turned out to hold.
pub(super) struct Node {
    pub(super) dir: PathBuf,
    /// Which operator's it is, by its identity key or else by its keystores.
    pub(super) operator: Option<usize>,
    /// Keystores that opened.
    pub(super) keystores: usize,
    /// Deposits in files.
    pub(super) deposits: usize,
    /// The shares that are the right ones, by validator.
    pub(super) shares: Vec<Option<bls::SecretKey>>,
}

impl Check<'_> {
    /// `own` is the lock in the directory, and `lock` the one to compare with.
    pub(super) fn node(
        &mut self,
        dir: &Path,
        own: Option<&Checked>,
        lock: Option<&LockFile>,
    ) -> Node {
        let path = dir.join(DEFINITION_FILE);
        let definition = path.is_file().then(|| self.definition(&path)).flatten();
        self.compare_definition(&path, definition.as_ref(), lock);

        if own.is_none() && !dir.join(LOCK_FILE).exists() {
            self.add(dir.join(LOCK_FILE), "", Problem::NoLock);
        }
        if lock.is_none() && dir.join(LOCK_FILE).exists() {
            self.add(dir.join(LOCK_FILE), "", Problem::NotCompared);
        }
        let members = match (lock, &definition) {
            (Some(lock), _) => lock.definition.members().ok(),
            // Before the ceremony the definition says who the operators are.
            (None, Some(definition)) if own.is_none() => definition.members().ok(),
            (None, _) => None,
        };
        let identity = self.identity(dir, members.as_deref());
        let (operator, keystores, shares) =
            self.keystores(&dir.join(KEYSTORES_DIR), lock, identity);
        let deposits = self.deposits(dir, lock);
        self.overrides(&dir.join(registration::OVERRIDES_FILE_NAME), lock);
        self.foreign(dir);
        Node {
            dir: dir.to_owned(),
            operator,
            keystores,
            deposits,
            shares,
        }
    }

    /// Which operator the identity key belongs to.
    fn identity(
        &mut self,
        dir: &Path,
        members: Option<&[pluto_cluster::Operator]>,
    ) -> Option<usize> {
        let path = dir.join(keyfile::FILE_NAME);
        let key = match keyfile::load(&path) {
            Ok(key) => key.public_key(),
            Err(keyfile::Error::Missing { .. }) => {
                self.add(path, "", Problem::NoIdentity);
                return None;
            }
            Err(error) => {
                self.add(path, "", Problem::Identity(error));
                return None;
            }
        };
        if let Some(mode) = mode(&path).filter(|mode| mode & 0o077 != 0) {
            let usual = 0o600;
            self.add(&path, "", Problem::Mode { mode, usual });
        }
        let operator = members?.iter().position(|it| it.public_key == key);
        if operator.is_none() {
            let peer = peer_id(&key);
            self.add(path, "", Problem::IdentityOfNobody { peer });
        }
        operator
    }

    fn foreign(&mut self, dir: &Path) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !is_known(name))
            .take(MAX_FOREIGN)
            .collect();
        names.sort_unstable();
        for name in names {
            self.add(dir.join(name), "", Problem::Foreign);
        }
    }
}

fn is_known(name: &str) -> bool {
    let known = [
        LOCK_FILE,
        DEFINITION_FILE,
        KEYSTORES_DIR,
        keyfile::FILE_NAME,
        registration::OVERRIDES_FILE_NAME,
    ];
    name.starts_with('.')
        || known.contains(&name)
        || HARMLESS.contains(&name)
        || (name.starts_with(deposit_file::PREFIX) && name.ends_with(".json"))
}

/// The mode of a file, where there are such.
pub(super) fn mode(path: &Path) -> Option<u32> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        Some(fs::metadata(path).ok()?.permissions().mode() & 0o7777)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
