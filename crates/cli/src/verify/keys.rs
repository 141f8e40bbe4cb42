//! Keystores: do they open, and are they this operator's shares in the right order.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use pluto_cluster::{LockFile, ValidatorEntry};
use pluto_core::{PeerIdx, ShareIdx};
use pluto_crypto::bls::{self, SecretKey};
use pluto_eth::{
    files, json,
    keystore::{DecryptError, ParseError, decrypt_all, directory},
    threads,
};

use super::{
    Check,
    node::{Node, mode},
    problem::Problem,
    public_key,
};
use crate::progress::Progress;

/// Which operator's they are, how many opened, and the right shares by validator.
type Keystores = (Option<usize>, usize, Vec<Option<SecretKey>>);

/// A share that came out of a keystore.
struct Opened {
    path: PathBuf,
    index: usize,
    secret: SecretKey,
    public_key: [u8; 48],
}

impl Check<'_> {
    pub(super) fn keystores(
        &mut self,
        dir: &Path,
        lock: Option<&LockFile>,
        identity: Option<usize>,
    ) -> Keystores {
        let nothing = (identity, 0, Vec::new());
        let listed = match directory::list(dir) {
            Ok(listed) => listed,
            Err(directory::Error::File(files::Error::Missing { .. })) => Vec::new(),
            Err(error) => {
                self.add(place(&error, dir), "", Problem::Keystores(error));
                return nothing;
            }
        };
        if listed.is_empty() {
            self.add(dir, "", Problem::NoKeystores);
            return nothing;
        }
        let numbered = self.numbered(dir, listed, lock);
        let opened = self.open(numbered);
        let count = opened.len();
        let Some(lock) = lock else {
            return (identity, count, Vec::new());
        };
        let (operator, shares) = self.compare(dir, opened, lock, identity);
        (operator, count, shares)
    }

    /// One keystore for each validator; says which are missing and which too many.
    fn numbered(
        &mut self,
        dir: &Path,
        listed: Vec<directory::Entry>,
        lock: Option<&LockFile>,
    ) -> BTreeMap<usize, directory::Entry> {
        let validators = lock.map(|it| it.validators.len());
        let mut numbered: BTreeMap<usize, directory::Entry> = BTreeMap::new();
        for entry in listed {
            let Some(validator) = entry.index else {
                self.add(entry.path, "", Problem::UnnumberedKeystore);
                continue;
            };
            if let Some(first) = numbered.get(&validator) {
                let first = first.path.clone();
                self.add(entry.path, "", Problem::SecondKeystore { validator, first });
            } else if let Some(validators) = validators.filter(|it| validator >= *it) {
                let problem = Problem::SurplusKeystore {
                    validator,
                    validators,
                };
                self.add(entry.path, "", problem);
            } else {
                numbered.insert(validator, entry);
            }
        }
        // Without a lock, the last one that is there is the last one there should be.
        let last = numbered.last_key_value().map_or(0, |(last, _)| last + 1);
        for validator in 0..validators.unwrap_or(last) {
            if !numbered.contains_key(&validator) {
                let path = dir.join(format!("keystore-{validator}.json"));
                self.add(path, "", Problem::NoKeystore { validator });
            }
        }
        let open_to_others = |entry: &&directory::Entry| {
            mode(&entry.password_path()).is_some_and(|mode| mode & 0o077 != 0)
        };
        let count = numbered.values().filter(open_to_others).count();
        if count > 0 {
            self.add(dir, "", Problem::PasswordModes { count });
        }
        numbered
    }

    fn open(&mut self, numbered: BTreeMap<usize, directory::Entry>) -> Vec<Opened> {
        let mut loaded = Vec::with_capacity(numbered.len());
        let mut sealed = Vec::with_capacity(numbered.len());
        for (index, entry) in numbered {
            match entry.load() {
                Ok(it) => {
                    loaded.push((index, entry.path));
                    sealed.push(it);
                }
                Err(error) => {
                    let place_in_file = place_in_file(&error);
                    self.add(
                        place(&error, &entry.path),
                        place_in_file,
                        Problem::Keystores(error),
                    );
                }
            }
        }
        let total = sealed.len();
        // Not the end of it: what was found is told instead.
        let progress = Progress::passing("keystores opened", total);
        let secrets = decrypt_all(&sealed, threads(), |done| progress.show(done));
        let mut opened = Vec::with_capacity(total);
        for ((index, path), secret) in loaded.into_iter().zip(secrets) {
            match secret {
                Ok(secret) => opened.push(Opened {
                    public_key: secret.public_key().to_bytes(),
                    path,
                    index,
                    secret,
                }),
                // Either file may be the wrong one; the password's is named in the message's advice.
                Err(error) => {
                    let place = match error {
                        DecryptError::OtherKey { .. } => "pubkey",
                        _ => "crypto",
                    };
                    self.add(path, place, Problem::Decrypt(error));
                }
            }
        }
        opened
    }

    fn compare(
        &mut self,
        dir: &Path,
        opened: Vec<Opened>,
        lock: &LockFile,
        identity: Option<usize>,
    ) -> (Option<usize>, Vec<Option<SecretKey>>) {
        let mut owners = HashMap::new();
        for (validator, entry) in lock.validators.iter().enumerate() {
            for (operator, share) in entry.public_shares.iter().enumerate() {
                owners.insert(share.as_slice(), (operator, validator));
            }
        }
        let owner = |it: &Opened| owners.get(it.public_key.as_slice()).copied();

        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for (operator, _) in opened.iter().filter_map(owner) {
            *counts.entry(operator).or_default() += 1;
        }
        let most = counts.iter().rev().max_by_key(|(_, count)| **count);
        let most = most.map(|(operator, count)| (*operator, *count));
        let operator = match (identity, most) {
            // Several keystores that agree are not all in the wrong place; perhaps the key is.
            (Some(identity), Some((keystores, count)))
                if keystores != identity && count > 1 && count == opened.len() =>
            {
                let problem = Problem::KeystoresOfOtherNode {
                    keystores,
                    identity,
                };
                self.add(dir, "", problem);
                keystores
            }
            (Some(identity), _) => identity,
            (None, Some((keystores, _))) => keystores,
            (None, None) => {
                for it in opened {
                    self.add(it.path, "pubkey", Problem::ShareOfNobody);
                }
                return (None, Vec::new());
            }
        };

        let mut shares: Vec<Option<SecretKey>> = lock.validators.iter().map(|_| None).collect();
        for it in opened {
            let problem = match owner(&it) {
                Some((of, validator)) if of == operator && validator == it.index => {
                    shares[validator] = Some(it.secret);
                    continue;
                }
                Some((of, actual)) if of == operator => Problem::ShareOfOtherValidator {
                    named: it.index,
                    actual,
                },
                Some((actual, validator)) => Problem::ShareOfOtherOperator {
                    operator,
                    actual,
                    validator,
                },
                None => Problem::ShareOfNobody,
            };
            self.add(it.path, "pubkey", problem);
        }
        match identity {
            // Whose node it is, is not known: nothing is put together of this.
            Some(identity) if identity != operator => (Some(identity), Vec::new()),
            _ => (Some(operator), shares),
        }
    }
}

/// Puts each validator's key together from the nodes' shares: from each run of as many neighbours as
/// are needed, so that every share has its part in one.
pub(super) fn recombine(
    nodes: &[Node],
    validators: &[ValidatorEntry],
    threshold: usize,
) -> Vec<(String, Problem)> {
    let mut problems = Vec::new();
    let mut told = false;
    for (validator, entry) in validators.iter().enumerate() {
        let shares: BTreeMap<usize, &SecretKey> = nodes
            .iter()
            .filter_map(|node| Some((node.operator?, node.shares.get(validator)?.as_ref()?)))
            .collect();
        let shares: Vec<_> = shares.into_iter().collect();
        if shares.len() < threshold {
            // The same is so for most of the others.
            if !std::mem::replace(&mut told, true) {
                let problem = Problem::TooFewShares {
                    validator,
                    shares: shares.len(),
                    threshold,
                };
                problems.push((String::new(), problem));
            }
            continue;
        }
        let group = public_key(&entry.pubkey);
        let runs = if shares.len() == threshold {
            1
        } else {
            shares.len()
        };
        for start in 0..runs {
            let run = shares.iter().cycle().skip(start).take(threshold);
            let (operators, run): (Vec<_>, Vec<_>) = run
                .filter_map(|(operator, secret)| {
                    let idx = share_idx(*operator)?;
                    Some((*operator, (idx, (*secret).clone())))
                })
                .unzip();
            let whole = bls::recover(&run).ok().map(|it| it.public_key());
            if whole.is_none() || whole != group {
                let problem = Problem::NotRecombined {
                    validator,
                    operators,
                };
                problems.push((
                    format!("distributed_validators[{validator}].distributed_public_key"),
                    problem,
                ));
                break;
            }
        }
    }
    problems
}

fn share_idx(operator: usize) -> Option<ShareIdx> {
    Some(PeerIdx::new(u32::try_from(operator).ok()?)?.share_idx())
}

/// The file that an error is about.
fn place(error: &directory::Error, otherwise: &Path) -> PathBuf {
    use files::Error as File;
    match error {
        directory::Error::Keystore { path, .. }
        | directory::Error::Password { path, .. }
        | directory::Error::File(
            File::Missing { path }
            | File::Unreadable { path, .. }
            | File::NotAFile { path }
            | File::TooLong { path, .. }
            | File::Outside { path },
        ) => path.clone(),
        _ => otherwise.to_owned(),
    }
}

fn place_in_file(error: &directory::Error) -> String {
    match error {
        directory::Error::Keystore {
            source: ParseError::Field(error),
            ..
        } => json_place(error),
        _ => String::new(),
    }
}

/// The field that an error is about.
pub(super) fn json_place(error: &json::Error) -> String {
    match error {
        json::Error::Missing { path }
        | json::Error::WrongType { path, .. }
        | json::Error::NotHex { path }
        | json::Error::WrongLength { path, .. }
        | json::Error::Unsupported { path, .. }
        | json::Error::OutOfRange { path, .. } => path.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_share_has_its_part_in_a_key_that_is_put_together() {
        let group = SecretKey::generate();
        let shares = bls::split(&group, 2, 4).unwrap();
        let mut nodes: Vec<_> = shares
            .into_iter()
            .enumerate()
            .map(|(operator, (_, share))| Node {
                dir: PathBuf::new(),
                operator: Some(operator),
                keystores: 1,
                deposits: 0,
                shares: vec![Some(share)],
            })
            .collect();
        let validators = [ValidatorEntry {
            pubkey: group.public_key().to_bytes().to_vec(),
            ..ValidatorEntry::default()
        }];
        assert!(recombine(&nodes, &validators, 2).is_empty());

        nodes[3].shares = vec![Some(SecretKey::generate())];

        let problems = recombine(&nodes, &validators, 2);
        assert!(
            matches!(&problems[..], [(path, Problem::NotRecombined { validator: 0, operators })]
                if path == "distributed_validators[0].distributed_public_key"
                    && *operators == [2, 3]),
            "{problems:?}"
        );
    }
}
