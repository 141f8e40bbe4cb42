//! Deposit files and registrations: not only validly signed, but for what the definition says.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::Read,
    path::Path,
};

use pluto_cluster::{LockFile, ParseProblem, Version};
use pluto_eth::{
    address::Address,
    deposit::{CredentialsKind, Gwei, WithdrawalCredentials, file},
    network::ForkVersion,
    registration,
};

use super::{Check, fork_version, keys::json_place, problem::Problem};

/// What deposits of the cluster have to say.
struct Expected<'a> {
    lock: &'a LockFile,
    /// The place of each validator in the lock.
    validators: HashMap<&'a [u8], usize>,
    kind: CredentialsKind,
    /// `None` if nothing says which.
    amounts: Option<Vec<Gwei>>,
    fork_version: Option<ForkVersion>,
}

impl<'a> Expected<'a> {
    fn new(lock: &'a LockFile) -> Self {
        let validators = lock.validators.iter().enumerate();
        let kind = CredentialsKind::new(lock.definition.compounding);
        Self {
            lock,
            validators: validators
                .map(|(at, it)| (it.pubkey.as_slice(), at))
                .collect(),
            kind,
            amounts: amounts(lock, kind),
            fork_version: fork_version(lock),
        }
    }
}

/// The amounts that are signed: the chosen ones, or else those in the lock.
fn amounts(lock: &LockFile, kind: CredentialsKind) -> Option<Vec<Gwei>> {
    let chosen = &lock.definition.deposit_amounts;
    if !chosen.is_empty() {
        let chosen: Vec<_> = chosen.iter().map(|it| Gwei(*it)).collect();
        return Some(kind.signed_amounts(&chosen));
    }
    let signed: BTreeSet<_> = lock
        .validators
        .iter()
        .flat_map(|validator| &validator.deposits)
        .filter(|deposit| !deposit.signature.is_empty())
        .filter_map(|deposit| u64::try_from(deposit.amount).ok().map(Gwei))
        .collect();
    if !signed.is_empty() {
        return Some(signed.into_iter().collect());
    }
    // Before v1.8 the defaults were others.
    (lock.definition.version >= Version::V1_8).then(|| kind.default_amounts().to_vec())
}

impl Check<'_> {
    /// Checks the deposit files and says how many deposits there are.
    pub(super) fn deposits(&mut self, dir: &Path, lock: Option<&LockFile>) -> usize {
        let paths = match file::list(dir) {
            Ok(paths) => paths,
            Err(error) => {
                self.add(dir, "", Problem::DepositFile(error));
                return 0;
            }
        };
        if paths.is_empty() {
            self.add(dir, "", Problem::NoDeposits);
            return 0;
        }
        let expected = lock.map(Expected::new);
        let mut count = 0;
        let mut names = BTreeSet::new();
        for path in paths {
            names.extend(
                path.file_name()
                    .and_then(|name| name.to_str())
                    .map(str::to_owned),
            );
            let entries = match file::read(&path) {
                Ok(entries) => entries,
                Err(error) => {
                    let place = match &error {
                        file::Error::Malformed { source, .. } => json_place(source),
                        _ => String::new(),
                    };
                    self.add(path, place, Problem::DepositFile(error));
                    continue;
                }
            };
            count += entries.len();
            for (at, error) in file::check(&entries) {
                self.add(&path, format!("[{at}].{}", error.field()), error);
            }
            if let Some(expected) = &expected {
                self.compare_deposits(&path, &entries, expected);
            }
        }
        let amounts = expected.and_then(|it| it.amounts).unwrap_or_default();
        for amount in amounts {
            let name = file::name(amount);
            if !names.contains(&name) {
                self.add(dir.join(name), "", Problem::NoDepositFile { amount });
            }
        }
        count
    }

    fn compare_deposits(&mut self, path: &Path, entries: &[file::Entry], expected: &Expected<'_>) {
        let name = path.file_name().unwrap_or_default();
        let mut seen: HashMap<usize, usize> = HashMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let place = |field: &str| format!("[{at}].{field}");
            let message = &entry.deposit.message;
            if let Some(fork_version) = expected.fork_version {
                if entry.fork_version != fork_version {
                    let problem = Problem::DepositForkVersion {
                        actual: entry.fork_version.0,
                        expected: fork_version.0,
                    };
                    self.add(path, place("fork_version"), problem);
                }
                let network = self.networks.by_fork_version(fork_version);
                if let Some(network) = network.filter(|it| it.name() != entry.network_name) {
                    let problem = Problem::DepositNetwork {
                        actual: entry.network_name.chars().take(32).collect(),
                        expected: network.name().to_owned(),
                    };
                    self.add(path, place("network_name"), problem);
                }
            }
            let actual = message.amount;
            if file::name(actual) != name.to_string_lossy() {
                self.add(
                    path,
                    place("amount"),
                    Problem::DepositInOtherFile { actual },
                );
            }
            if let Some(amounts) = expected.amounts.as_ref().filter(|it| !it.contains(&actual)) {
                let expected = amounts.clone();
                self.add(
                    path,
                    place("amount"),
                    Problem::DepositAmount { actual, expected },
                );
            }
            let Some(validator) = expected.validators.get(&message.public_key[..]).copied() else {
                self.add(path, place("pubkey"), Problem::DepositOfStranger);
                continue;
            };
            if let Some(first) = seen.insert(validator, at) {
                self.add(path, place("pubkey"), Problem::DepositTwice { first });
            }
            let Some(addresses) = expected.lock.definition.addresses_of(validator) else {
                continue;
            };
            let text = &addresses.withdrawal;
            match text.parse::<Address>() {
                Ok(address) => {
                    let expected = WithdrawalCredentials::new(expected.kind, address);
                    let actual = message.withdrawal_credentials;
                    if actual != expected {
                        let problem = Problem::DepositCredentials { actual, expected };
                        self.add(path, place("withdrawal_credentials"), problem);
                    }
                }
                Err(source) => self.add_address(path, text, source),
            }
        }
        for validator in 0..expected.lock.validators.len() {
            if !seen.contains_key(&validator) {
                self.add(path, "", Problem::DepositMissing { validator });
            }
        }
    }

    /// Checks the registrations that count instead of the lock's.
    pub(super) fn overrides(&mut self, path: &Path, lock: Option<&LockFile>) {
        let Some(text) = self.text(path, registration::MAX_OVERRIDES_BYTES) else {
            return;
        };
        let overrides = match registration::parse_overrides(&text) {
            Ok(overrides) => overrides,
            Err(error) => {
                let place = json_place(&error);
                return self.add(path, place, Problem::OverridesJson(error));
            }
        };
        let Some((lock, fork_version)) = lock.and_then(|it| Some((it, fork_version(it)?))) else {
            return;
        };
        for (at, it) in overrides.iter().enumerate() {
            let place = |field: &str| format!("[{at}].v1.{field}");
            let message = &it.message;
            if let Err(error) = it.verify(fork_version) {
                self.add(path, place("signature"), Problem::OverrideSignature(error));
            }
            let validator = lock
                .validators
                .iter()
                .position(|it| it.pubkey == message.public_key);
            let Some(validator) = validator else {
                self.add(path, place("message.pubkey"), Problem::OverrideOfStranger);
                continue;
            };
            let registered = lock.validators[validator].registration.timestamp;
            if i64::try_from(message.timestamp).is_ok_and(|it| it <= registered) {
                self.add(path, place("message.timestamp"), Problem::OverrideTooOld);
                continue;
            }
            let Some(addresses) = lock.definition.addresses_of(validator) else {
                continue;
            };
            let text = &addresses.fee_recipient;
            match text.parse::<Address>() {
                Ok(expected) if expected != message.fee_recipient => {
                    let actual = message.fee_recipient;
                    let problem = Problem::OverrideFeeRecipient { actual, expected };
                    self.add(path, place("message.fee_recipient"), problem);
                }
                Ok(_) => {}
                Err(source) => self.add_address(path, text, source),
            }
        }
    }

    fn add_address(&mut self, path: &Path, text: &str, source: pluto_eth::address::Error) {
        let text = text.chars().take(64).collect();
        self.add(path, "", Problem::Address { text, source });
    }

    /// A file of at most `max` bytes; `None` if there is none, or it was said what is wrong with it.
    fn text(&mut self, path: &Path, max: usize) -> Option<Vec<u8>> {
        let metadata = fs::metadata(path).ok()?;
        if !metadata.is_file() {
            self.add(path, "", Problem::NotAFile);
            return None;
        }
        let mut text = Vec::new();
        let read =
            fs::File::open(path).and_then(|file| file.take(max as u64 + 1).read_to_end(&mut text));
        if let Err(source) = read {
            self.add(path, "", Problem::Unreadable(source));
            return None;
        }
        if text.len() > max {
            let max = max as u64;
            self.add(path, "", ParseProblem::TooLarge { max });
            return None;
        }
        Some(text)
    }
}
