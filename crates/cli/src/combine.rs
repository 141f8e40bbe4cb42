//! `pluto combine`: puts the validators' keys together from the shares of several nodes.
//!
//! Spec: cluster, section 11.6. Unlike Charon it refuses to recover fewer validators than the lock
//! has, and names a node that is given twice. Everything is checked before anything is written.
//!
//! - **Cancellation:** Ctrl-C and SIGTERM are noticed between keystores; then nothing is written.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use pluto_cluster::{LockFile, Severity, verify};
use pluto_core::{PeerIdx, ShareIdx};
use pluto_crypto::{
    bls::{self, SecretKey},
    disk,
};
use pluto_eth::{
    keystore::{Cost, Derivations, Sealed, directory},
    threads,
};

use crate::{
    args,
    nodes::{KEYSTORES_DIR, LOCK_FILE, tell_leftovers},
    progress::Progress,
    say::{causes, note, say},
    signals::Stop,
};

#[derive(Debug, thiserror::Error)]
enum CombineError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not empty; give another --output-dir, or --force to rename it first", path.display())]
    Taken { path: PathBuf },
    #[error("no directory in {} has validator_keys", path.display())]
    NoNodes { path: PathBuf },
    #[error("{} is wrong at {place} (`pluto verify` says all; --no-verify goes on)", path.display())]
    Wrong {
        path: PathBuf,
        place: String,
        #[source]
        source: Box<verify::Problem>,
    },
    #[error("{} is of another cluster than {}", path.display(), first.display())]
    OtherCluster { path: PathBuf, first: PathBuf },
    #[error("{} has {keystores} keystores for {validators} validators", path.display())]
    Keystores {
        path: PathBuf,
        keystores: usize,
        validators: usize,
    },
    #[error("{} holds no share of validator {validator}", path.display())]
    NoShare { path: PathBuf, validator: usize },
    #[error("{} and {} are of one node", first.display(), second.display())]
    NodeTwice { first: PathBuf, second: PathBuf },
    #[error("{nodes} nodes are fewer than the threshold of {threshold}")]
    FewNodes { nodes: usize, threshold: u32 },
    #[error("the shares do not make the key of validator {validator}")]
    OtherKey { validator: usize },
}

/// Most directories that were moved away before.
const MAX_OLD: u32 = 1000;

/// A keystore's share: who has it, and the file.
type Share = (ShareIdx, SecretKey, PathBuf);

pub(crate) fn run(args: &args::Combine) -> Result<ExitCode, Box<dyn Error>> {
    let target = Target::check(&args.output_dir, args.force)?;
    let dirs = nodes(&args.cluster_dir)?;
    let (lock, first) = lock(&dirs, args)?;
    let threshold = lock.definition.usable_threshold()?;
    let mut shares: Vec<Vec<Share>> = lock.validators.iter().map(|_| Vec::new()).collect();
    for dir in &dirs {
        for (validator, share) in node(dir, &lock)?.into_iter().enumerate() {
            let known = shares[validator].iter().find(|it| it.0 == share.0);
            if let Some((_, _, first)) = known {
                let (first, second) = (first.clone(), share.2);
                return Err(CombineError::NodeTwice { first, second }.into());
            }
            shares[validator].push(share);
        }
    }
    if dirs.len() < threshold as usize {
        let nodes = dirs.len();
        return Err(CombineError::FewNodes { nodes, threshold }.into());
    }
    let mut keys = Vec::with_capacity(shares.len());
    for (validator, shares) in shares.into_iter().enumerate() {
        let shares: Vec<_> = shares.into_iter().map(|(idx, key, _)| (idx, key)).collect();
        let key = bls::recover(&shares)?;
        if lock.validators[validator].pubkey != key.public_key().to_bytes() {
            return Err(CombineError::OtherKey { validator }.into());
        }
        keys.push(key);
    }
    let sealed = encrypt(&keys)?;
    if let Some(away) = target.store(&sealed)? {
        say!(
            "What was in {} is in {}",
            args.output_dir.display(),
            away.display()
        );
    }
    say!(
        "Combined {} validator keys of {} nodes ({}) into {}",
        keys.len(),
        dirs.len(),
        first.display(),
        args.output_dir.display()
    );
    say!("Stop the cluster before you use them: a validator that signs twice is slashed.");
    Ok(ExitCode::SUCCESS)
}

/// Encrypts the keys, unless a signal comes before all are; nothing is written yet.
fn encrypt(keys: &[SecretKey]) -> Result<Vec<Sealed>, Box<dyn Error>> {
    // While they are written later, nothing is left half done either.
    let stop = Stop::listen()?;
    let progress = Progress::new("keystores encrypted", keys.len());
    let mut derivations = Derivations::start(keys.len(), Cost::Secure, threads());
    let mut sealed = Vec::with_capacity(keys.len());
    for key in keys {
        sealed.push(derivations.seal(key));
        progress.show(sealed.len());
        if let Some(stopped) = stop.stopped() {
            return Err(stopped.into());
        }
    }
    Ok(sealed)
}

/// Where the keystores go.
struct Target {
    /// Ends with the directory's own name.
    path: PathBuf,
    /// Whether something is there that has to give way.
    taken: bool,
}

impl Target {
    /// Before the work, not after it. Nothing is written yet.
    fn check(path: &Path, force: bool) -> Result<Self, CombineError> {
        // Without a slash at its end, which would make the name of what gives way one in it.
        let mut path: PathBuf = path.components().collect();
        let unwritable = |source| CombineError::Unwritable {
            path: path.clone(),
            source,
        };
        let taken = match fs::read_dir(&path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(unwritable(source)),
        };
        if taken && !force {
            return Err(CombineError::Taken { path });
        }
        if taken && path.file_name().is_none() {
            // `.` and the like.
            path = fs::canonicalize(&path).map_err(unwritable)?;
        }
        Ok(Self { path, taken })
    }

    /// Writes the keystores, and says where what was there is now.
    fn store(&self, sealed: &[Sealed]) -> Result<Option<PathBuf>, Box<dyn Error>> {
        let parent = disk::parent(&self.path);
        if !parent.is_dir() {
            fs::create_dir_all(&parent).map_err(|source| CombineError::Unwritable {
                path: parent.clone(),
                source,
            })?;
        }
        if let Some(name) = self.path.file_name() {
            tell_leftovers(&parent, &name.to_string_lossy());
        }
        let away = self.taken.then(|| self.away()).transpose()?;
        let stored = directory::store(&self.path, sealed, Cost::Secure);
        if let (Err(_), Some(away)) = (&stored, &away) {
            let _ = fs::rename(away, &self.path);
        }
        stored?;
        Ok(away)
    }

    /// Moves what is there to a name that is free.
    fn away(&self) -> Result<PathBuf, CombineError> {
        let mut away = PathBuf::new();
        for number in 1..=MAX_OLD {
            let mut name = self.path.as_os_str().to_owned();
            name.push(if number == 1 {
                ".old".to_owned()
            } else {
                format!(".old{number}")
            });
            away = name.into();
            if fs::symlink_metadata(&away).is_err() {
                break;
            }
        }
        // Of a directory to a name that is taken meanwhile: refused, unless that is empty.
        match fs::rename(&self.path, &away) {
            Ok(()) => Ok(away),
            Err(source) => {
                let path = self.path.clone();
                Err(CombineError::Unwritable { path, source })
            }
        }
    }
}

fn nodes(dir: &Path) -> Result<Vec<PathBuf>, CombineError> {
    let unreadable = |source| CombineError::Unreadable {
        path: dir.to_owned(),
        source,
    };
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.join(KEYSTORES_DIR).is_dir() {
            dirs.push(path);
        }
    }
    dirs.sort();
    if dirs.is_empty() {
        return Err(CombineError::NoNodes {
            path: dir.to_owned(),
        });
    }
    Ok(dirs)
}

/// The lock that all nodes have, or with `--no-verify` that of the first, and where that is. Whatever it
/// says: what comes out has to be the keys of its validators.
fn lock(dirs: &[PathBuf], args: &args::Combine) -> Result<(LockFile, PathBuf), Box<dyn Error>> {
    let networks = args.testnet.networks()?;
    let client = args.wallets.client()?;
    let verifier = args::verifier(&networks, client.as_ref());
    let mut first: Option<(LockFile, PathBuf)> = None;
    for dir in dirs {
        let path = dir.join(LOCK_FILE);
        let lock = LockFile::read(&path)?;
        if let Some((known, first)) = &first {
            if *known == lock {
                continue;
            }
            if known.lock_hash != lock.lock_hash {
                let first = first.clone();
                passed(
                    CombineError::OtherCluster {
                        path: path.clone(),
                        first,
                    },
                    args,
                )?;
            }
        }
        for it in verifier.lock(&lock) {
            if it.severity() == Severity::Error {
                let (path, place, source) = (path.clone(), it.path, Box::new(it.problem));
                passed(
                    CombineError::Wrong {
                        path,
                        place,
                        source,
                    },
                    args,
                )?;
            }
        }
        first.get_or_insert((lock, path));
    }
    Ok(first.ok_or_else(|| CombineError::NoNodes {
        path: args.cluster_dir.clone(),
    })?)
}

/// What is only told if that is wanted.
fn passed(error: CombineError, args: &args::Combine) -> Result<(), CombineError> {
    if !args.no_verify {
        return Err(error);
    }
    note!("warning: {}", causes(&error));
    Ok(())
}

/// The shares of one node, by validator.
fn node(dir: &Path, lock: &LockFile) -> Result<Vec<Share>, Box<dyn Error>> {
    let path = dir.join(KEYSTORES_DIR);
    let keystores = directory::Sequence::load(&path)?;
    if keystores.count() != lock.validators.len() {
        return Err(CombineError::Keystores {
            path,
            keystores: keystores.count(),
            validators: lock.validators.len(),
        }
        .into());
    }
    let mut shares = Vec::with_capacity(keystores.count());
    let opened = keystores.open(threads(), |_| ())?;
    for (validator, (path, secret)) in opened.into_iter().enumerate() {
        let public_key = secret.public_key().to_bytes();
        let operator = lock.validators[validator]
            .public_shares
            .iter()
            .position(|it| *it == public_key);
        let idx = operator.and_then(|it| PeerIdx::new(u32::try_from(it).ok()?));
        let Some(idx) = idx else {
            return Err(CombineError::NoShare { path, validator }.into());
        };
        shares.push((idx.share_idx(), secret, path));
    }
    Ok(shares)
}
