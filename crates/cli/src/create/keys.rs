//! The validators' whole keys: new ones, or those that exist.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use pluto_crypto::bls::SecretKey;
use pluto_eth::{
    keystore::{
        DecryptError,
        directory::{self, Found, Sequence},
    },
    threads,
};

use crate::progress::Progress;

/// Which keystore is which validator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Each has addresses of its own, so the names must say it.
    Numbered,
    /// All have the same addresses: any keystores below the directory, by their paths.
    Any,
}

#[derive(Debug, thiserror::Error)]
enum SplitError {
    #[error("no keystores in {}", path.display())]
    Empty { path: PathBuf },
    #[error("{} does not open", path.display())]
    Decrypt {
        path: PathBuf,
        #[source]
        source: DecryptError,
    },
    #[error(
        "{} does not open: its password file {} does not exist, and no other is for it",
        path.display(),
        password.display()
    )]
    NoPassword { path: PathBuf, password: PathBuf },
}

/// Keys whose number is known, and that are made or decrypted once everything else is right.
pub(super) enum Keys {
    New(usize),
    Numbered(Sequence),
    Found(Found),
}

impl Keys {
    /// All keystores in a directory.
    pub(super) fn existing(dir: &Path, order: Order) -> Result<Self, Box<dyn Error>> {
        let keys = match order {
            Order::Numbered => Self::Numbered(Sequence::load(dir)?),
            Order::Any => Self::Found(directory::find(dir)?),
        };
        if keys.count() == 0 {
            let path = dir.to_owned();
            return Err(SplitError::Empty { path }.into());
        }
        Ok(keys)
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::New(count) => *count,
            Self::Numbered(keystores) => keystores.count(),
            Self::Found(found) => found.keystores.len(),
        }
    }

    pub(super) fn open(self) -> Result<Vec<SecretKey>, Box<dyn Error>> {
        match self {
            Self::New(count) => Ok((0..count).map(|_| SecretKey::generate()).collect()),
            Self::Numbered(keystores) => {
                let progress = Progress::new(DECRYPTED, keystores.count());
                let opened = keystores.open(threads(), |done| progress.show(done))?;
                Ok(opened.into_iter().map(|(_, secret)| secret).collect())
            }
            Self::Found(found) => {
                let progress = Progress::new(DECRYPTED, found.keystores.len());
                let opened = found.decrypt_all(threads(), |done| progress.show(done));
                let opened = found.keystores.into_iter().zip(opened);
                let keys = opened.map(|(keystore, key)| Ok(key.map_err(failed(keystore.path))?));
                keys.collect()
            }
        }
    }
}

/// What is counted.
const DECRYPTED: &str = "keystores decrypted";

fn failed(path: PathBuf) -> impl FnOnce(DecryptError) -> SplitError {
    move |source| {
        let password = path.with_extension("txt");
        if source == DecryptError::WrongPassword && !password.exists() {
            SplitError::NoPassword { path, password }
        } else {
            SplitError::Decrypt { path, source }
        }
    }
}
