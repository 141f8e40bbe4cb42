//! Files of deposits, one for each amount, as the deposit tools take them.
//!
//! Spec: cluster, sections 7.3 and 7.4.
//!
//! Charon looks at hex and lengths when it reads one, nothing more. [`parse`] does the same and
//! [`check`] tells everything that is wrong. What the deposits should be, the reader has to compare
//! with the lock: a deposit that is validly signed for another address is a theft.
//!
//! - **Bounds:** [`MAX_FILE_BYTES`] per file, [`MAX_FILES`] per directory.
//! - **Restart:** each file appears whole or not at all; when [`store`] fails, none stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use pluto_crypto::bls::{self, BatchItem, PublicKey, Signature};
use serde::Serialize;

use super::{Deposit, Gwei, Message, WithdrawalCredentials};
use crate::{
    files::{self, Directory, NewFiles},
    json::{self, Field},
    network::{ForkVersion, Network},
};

/// Longest file that is read: 65,536 validators with 0.7 KiB each, and room.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// Most files of a directory: a definition holds at most 256 amounts.
pub const MAX_FILES: usize = 256;

/// Most entries of a directory that are looked at. Chosen freely, larger is safe.
const MAX_ENTRIES: usize = 65_536;

/// What Charon claims to be, as the tools that read the file look for a known version.
const CLI_VERSION: &str = "2.7.0";

const MODE: u32 = 0o444;

/// How the names of the files start.
pub const PREFIX: &str = "deposit-data";

/// The result of the operations here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why deposit files were not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or the directory itself.
    #[error(transparent)]
    File(#[from] files::Error),
    /// A file is not one of deposits.
    #[error("{} is not a deposit file that can be read", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: json::Error,
    },
    /// There is no deposit file.
    #[error("no {PREFIX}*.json in {}", path.display())]
    NoFile {
        /// The directory.
        path: PathBuf,
    },
    /// More files than amounts can be.
    #[error("more than {MAX_FILES} deposit files in {}", path.display())]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
    },
    /// More amounts than files can be.
    #[error("more than {MAX_FILES} different amounts")]
    TooManyAmounts,
    /// Nothing to write.
    #[error("no deposits to write")]
    Empty,
    /// The entries of one file have one amount.
    #[error("deposits of {first} and {second} cannot be in one file")]
    MixedAmounts {
        /// One amount.
        first: Gwei,
        /// Another.
        second: Gwei,
    },
    /// A file for use must not make somebody deposit twice.
    #[error("validator 0x{} has two deposits of {amount}", hex::encode(public_key))]
    Duplicate {
        /// The validator.
        public_key: [u8; 48],
        /// The amount.
        amount: Gwei,
    },
    /// A deposit that the contract would take and the chain would ignore: the money would be lost.
    #[error(
        "the deposit of {amount} for validator 0x{} is not signed by it",
        hex::encode(public_key)
    )]
    BadSignature {
        /// The validator.
        public_key: [u8; 48],
        /// The amount.
        amount: Gwei,
        /// What is wrong.
        #[source]
        source: bls::Error,
    },
}

/// One deposit as a file states it; nothing of it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The deposit.
    pub deposit: Deposit,
    /// `deposit_message_root`
    pub message_root: [u8; 32],
    /// `deposit_data_root`
    pub data_root: [u8; 32],
    /// `fork_version`, the genesis one
    pub fork_version: ForkVersion,
    /// `network_name`
    pub network_name: String,
    /// `deposit_cli_version`
    pub cli_version: String,
}

impl Entry {
    /// The entry of a deposit on a network, with its roots.
    #[must_use]
    pub fn new(deposit: Deposit, network: &Network) -> Self {
        Self {
            deposit,
            message_root: deposit.message.root(),
            data_root: deposit.data_root(),
            fork_version: network.genesis_version(),
            network_name: network.name().to_owned(),
            cli_version: CLI_VERSION.to_owned(),
        }
    }
}

/// What is wrong with an entry by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// `deposit_message_root` is not the root of the entry's fields.
    #[error("deposit_message_root is not the root of pubkey, withdrawal_credentials and amount")]
    MessageRoot,
    /// `deposit_data_root` is not the root of the entry's fields.
    #[error("deposit_data_root is not the root of the deposit")]
    DataRoot,
    /// `pubkey` is nobody's key.
    #[error("pubkey is not a BLS public key")]
    PublicKey(#[source] bls::Error),
    /// `signature` is not by `pubkey` for `fork_version`, or not a signature.
    #[error("signature does not sign this deposit with pubkey on the network of fork_version")]
    Signature(#[source] bls::Error),
}

impl EntryError {
    /// The field that is wrong.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::MessageRoot => "deposit_message_root",
            Self::DataRoot => "deposit_data_root",
            Self::PublicKey(_) => "pubkey",
            Self::Signature(_) => "signature",
        }
    }
}

/// Everything that is wrong with entries by themselves, with their positions, ascending.
///
/// The signatures are checked together, for less than half of what each costs alone.
#[must_use]
pub fn check(entries: &[Entry]) -> Vec<(usize, EntryError)> {
    let mut errors = Vec::new();
    let mut points = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let deposit = &entry.deposit;
        if deposit.message.root() != entry.message_root {
            errors.push((at, EntryError::MessageRoot));
        }
        if deposit.data_root() != entry.data_root {
            errors.push((at, EntryError::DataRoot));
        }
        let key = PublicKey::from_bytes(&deposit.message.public_key)
            .map_err(|source| errors.push((at, EntryError::PublicKey(source))));
        let signature = Signature::from_bytes(&deposit.signature)
            .map_err(|source| errors.push((at, EntryError::Signature(source))));
        if let (Ok(key), Ok(signature)) = (key, signature) {
            let root = deposit.message.signing_root(entry.fork_version);
            points.push((at, key, root, signature));
        }
    }
    let batch: Vec<_> = points
        .iter()
        .map(|(_, public_key, root, signature)| BatchItem {
            public_key: *public_key,
            message: root,
            signature: *signature,
        })
        .collect();
    if let Err(bad) = bls::verify_batch(&batch) {
        let bad = bad.indices.into_iter().map(|item| {
            let (at, ..) = points[item];
            (at, EntryError::Signature(bls::Error::BadSignature))
        });
        errors.extend(bad);
    }
    errors.sort_by_key(|(at, _)| *at);
    errors
}

/// The name of the file for an amount.
#[must_use]
pub fn name(amount: Gwei) -> String {
    if amount == Gwei::eth(32) {
        format!("{PREFIX}.json")
    } else {
        format!("{PREFIX}-{}eth.json", amount.decimal())
    }
}

/// Reads the JSON form. Unknown fields are ignored, and nothing is compared.
pub fn parse(text: &[u8]) -> std::result::Result<Vec<Entry>, json::Error> {
    let value = json::parse(text)?;
    Field::root(&value)
        .elements()?
        .map(|entry| read_entry(&entry))
        .collect()
}

fn read_entry(entry: &Field<'_>) -> json::Result<Entry> {
    Ok(Entry {
        deposit: Deposit {
            message: Message {
                public_key: entry.get("pubkey")?.hex_array()?,
                withdrawal_credentials: WithdrawalCredentials(
                    entry.get("withdrawal_credentials")?.hex_array()?,
                ),
                amount: Gwei(entry.get("amount")?.u64()?),
            },
            signature: entry.get("signature")?.hex_array()?,
        },
        message_root: entry.get("deposit_message_root")?.hex_array()?,
        data_root: entry.get("deposit_data_root")?.hex_array()?,
        fork_version: ForkVersion(entry.get("fork_version")?.hex_array()?),
        network_name: entry.get("network_name")?.str()?.to_owned(),
        cli_version: entry.get("deposit_cli_version")?.str()?.to_owned(),
    })
}

/// The text that Charon would write: sorted by public key. Refuses what [`store`] refuses.
pub fn to_json(entries: &[Entry]) -> Result<Vec<u8>> {
    let sorted = sorted(entries)?;
    for (at, error) in check(entries) {
        if let EntryError::PublicKey(source) | EntryError::Signature(source) = error {
            return Err(Error::BadSignature {
                public_key: entries[at].deposit.message.public_key,
                amount: amount(&entries[at]),
                source,
            });
        }
    }
    Ok(text(&sorted))
}

fn text(sorted: &[&Entry]) -> Vec<u8> {
    let entries: Vec<_> = sorted.iter().map(|it| EntryJson::new(it)).collect();
    json::to_vec(&entries, " ")
}

/// Of one amount, each for another validator.
fn sorted(entries: &[Entry]) -> Result<Vec<&Entry>> {
    let amounts: BTreeSet<_> = entries.iter().map(amount).collect();
    let mut amounts = amounts.into_iter();
    let amount = amounts.next().ok_or(Error::Empty)?;
    if let Some(second) = amounts.next() {
        return Err(Error::MixedAmounts {
            first: amount,
            second,
        });
    }
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.deposit.message.public_key);
    let key = |entry: &Entry| entry.deposit.message.public_key;
    if let Some(pair) = sorted.windows(2).find(|pair| key(pair[0]) == key(pair[1])) {
        return Err(Error::Duplicate {
            public_key: key(pair[0]),
            amount,
        });
    }
    Ok(sorted)
}

/// Sorts entries into the files they belong to, keeping their order.
#[must_use]
pub fn by_amount(entries: impl IntoIterator<Item = Entry>) -> BTreeMap<Gwei, Vec<Entry>> {
    let mut files = BTreeMap::<_, Vec<_>>::new();
    for entry in entries {
        files.entry(amount(&entry)).or_default().push(entry);
    }
    files
}

fn amount(entry: &Entry) -> Gwei {
    entry.deposit.message.amount
}

/// The files of deposits, one for each amount, ready to be written into any number of directories.
#[derive(Debug, Clone)]
pub struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    /// Refuses to write nothing, two deposits of one amount for one validator, or a deposit that does
    /// not verify.
    pub fn new(network: &Network, deposits: &[Deposit]) -> Result<Self> {
        Self::with(network, deposits, to_json)
    }

    /// For deposits whose signatures the caller has verified, or made: that takes a millisecond for
    /// each. Everything else is refused as by [`new`](Self::new).
    pub fn of_verified(network: &Network, deposits: &[Deposit]) -> Result<Self> {
        Self::with(network, deposits, |entries| Ok(text(&sorted(entries)?)))
    }

    fn with(
        network: &Network,
        deposits: &[Deposit],
        to_json: impl Fn(&[Entry]) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let files = by_amount(deposits.iter().map(|deposit| Entry::new(*deposit, network)));
        if files.is_empty() {
            return Err(Error::Empty);
        }
        if files.len() > MAX_FILES {
            return Err(Error::TooManyAmounts);
        }
        files
            .into_iter()
            .map(|(amount, entries)| Ok((name(amount), to_json(&entries)?)))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Writes the files into a directory, and returns their paths. Nothing is overwritten and nothing
    /// is left behind on failure.
    pub fn store(&self, dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        let dir = dir.as_ref();
        let mut written = NewFiles::default();
        for (name, text) in &self.0 {
            let path = dir.join(name);
            files::write_new(&path, text, MODE)?;
            written.add(path);
        }
        Ok(written.keep(dir)?)
    }
}

/// [`Files`] for one directory.
pub fn store(
    dir: impl AsRef<Path>,
    network: &Network,
    deposits: &[Deposit],
) -> Result<Vec<PathBuf>> {
    Files::new(network, deposits)?.store(dir)
}

/// Lists the deposit files of a directory by name, which puts the one of 32 ETH last; reads none.
/// There may be none.
pub fn list(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let dir = dir.as_ref();
    let paths: Vec<_> = Directory::open(dir)?
        .names(MAX_ENTRIES)?
        .into_iter()
        .filter(|name| name.starts_with(PREFIX) && name.ends_with(".json"))
        .map(|name| dir.join(name))
        .collect();
    if paths.len() > MAX_FILES {
        return Err(Error::TooManyFiles {
            path: dir.to_owned(),
        });
    }
    Ok(paths)
}

/// Reads one file. A symlink must not leave its directory.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Entry>> {
    let path = path.as_ref();
    let name = path.file_name().map(Path::new).unwrap_or(path);
    let text = Directory::open(&files::parent(path))?.read(name, MAX_FILE_BYTES)?;
    parse(&text).map_err(|source| Error::Malformed {
        path: path.to_owned(),
        source,
    })
}

/// Reads all deposit files of a directory, by name. There must be one.
pub fn read_all(dir: impl AsRef<Path>) -> Result<Vec<(PathBuf, Vec<Entry>)>> {
    let dir = dir.as_ref();
    let paths = list(dir)?;
    if paths.is_empty() {
        return Err(Error::NoFile {
            path: dir.to_owned(),
        });
    }
    paths
        .into_iter()
        .map(|path| read(&path).map(|entries| (path, entries)))
        .collect()
}

#[derive(Serialize)]
struct EntryJson<'a> {
    pubkey: String,
    withdrawal_credentials: String,
    amount: u64,
    signature: String,
    deposit_message_root: String,
    deposit_data_root: String,
    fork_version: String,
    network_name: &'a str,
    deposit_cli_version: &'a str,
}

impl<'a> EntryJson<'a> {
    fn new(entry: &'a Entry) -> Self {
        let message = &entry.deposit.message;
        Self {
            pubkey: hex::encode(message.public_key),
            withdrawal_credentials: hex::encode(message.withdrawal_credentials.0),
            amount: message.amount.0,
            signature: hex::encode(entry.deposit.signature),
            deposit_message_root: hex::encode(entry.message_root),
            deposit_data_root: hex::encode(entry.data_root),
            fork_version: hex::encode(entry.fork_version.0),
            network_name: &entry.network_name,
            deposit_cli_version: &entry.cli_version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_charon() {
        let cases = [
            (32_000_000_000, "deposit-data.json"),
            (1_000_000_000, "deposit-data-1eth.json"),
            (256_000_000_000, "deposit-data-256eth.json"),
            (31_999_999_999, "deposit-data-31.999999999eth.json"),
            (1_500_000_000, "deposit-data-1.5eth.json"),
        ];
        for (amount, expected) in cases {
            assert_eq!(name(Gwei(amount)), expected);
        }
    }
}
