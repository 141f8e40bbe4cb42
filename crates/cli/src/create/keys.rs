//! The validators' whole keys: new ones, or those that exist.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use pluto_crypto::bls::SecretKey;
use pluto_eth::{
    keystore::{DecryptError, decrypt_all, directory},
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
}

pub(super) fn generate(count: usize) -> Vec<SecretKey> {
    (0..count).map(|_| SecretKey::generate()).collect()
}

/// The keys of all keystores in a directory.
pub(super) fn existing(dir: &Path, order: Order) -> Result<Vec<SecretKey>, Box<dyn Error>> {
    const WHAT: &str = "keystores decrypted";
    let (paths, opened): (Vec<_>, Vec<_>) = match order {
        Order::Numbered => {
            let entries = directory::list_sequential(dir)?;
            let sealed = entries.iter().map(directory::Entry::load);
            let sealed = sealed.collect::<Result<Vec<_>, _>>()?;
            let progress = Progress::new(WHAT, sealed.len());
            let opened = decrypt_all(&sealed, threads(), |done| progress.show(done));
            (entries.into_iter().map(|it| it.path).collect(), opened)
        }
        Order::Any => {
            let found = directory::find(dir)?;
            let progress = Progress::new(WHAT, found.keystores.len());
            let opened = found.decrypt_all(threads(), |done| progress.show(done));
            let paths = found.keystores.into_iter().map(|it| it.path);
            (paths.collect(), opened)
        }
    };
    if paths.is_empty() {
        let path = dir.to_owned();
        return Err(SplitError::Empty { path }.into());
    }
    let opened = paths.into_iter().zip(opened);
    let keys = opened.map(|(path, key)| key.map_err(|source| SplitError::Decrypt { path, source }));
    Ok(keys.collect::<Result<_, _>>()?)
}
