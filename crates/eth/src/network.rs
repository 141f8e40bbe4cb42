//! The chains that a cluster can be on.
//!
//! Spec: cluster, section 7.5. A file names its chain by the genesis fork version alone; the chain id
//! (for wallet signatures) and the genesis time (for registrations) come from the table here, or for
//! a custom network from flags, each time anew.
//!
//! Charon ignores custom flags unless all four are there, and then goes on with the default network.
//! Here a part of them is an error, and so is a custom network that contradicts a known one.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

/// Four bytes that name a fork of a chain; the one at genesis names the chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForkVersion(pub [u8; 4]);

impl FromStr for ForkVersion {
    type Err = ForkVersionError;

    /// Eight hex digits of any case, with or without `0x`.
    fn from_str(text: &str) -> Result<Self, ForkVersionError> {
        let mut bytes = [0; 4];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes)
            .map_err(|_| ForkVersionError)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ForkVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for ForkVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForkVersion({self})")
    }
}

/// A text that is no fork version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a fork version, which is 0x and eight hex digits")]
pub struct ForkVersionError;

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    name: Cow<'static, str>,
    genesis_version: ForkVersion,
    capella_version: Option<ForkVersion>,
    chain_id: u64,
    genesis_time: u64,
    slot: Option<Duration>,
}

impl Network {
    /// Ethereum.
    pub const MAINNET: Self = Self::built_in(
        "mainnet",
        [0x00, 0x00, 0x00, 0x00],
        1,
        1_606_824_023,
        [0x03, 0x00, 0x00, 0x00],
        12,
    );
    /// Goerli, shut down; for reading old files.
    pub const GOERLI: Self = Self::built_in(
        "goerli",
        [0x00, 0x00, 0x10, 0x20],
        5,
        1_616_508_000,
        [0x03, 0x00, 0x10, 0x20],
        12,
    );
    /// Gnosis Chain.
    pub const GNOSIS: Self = Self::built_in(
        "gnosis",
        [0x00, 0x00, 0x00, 0x64],
        100,
        1_638_993_340,
        [0x03, 0x00, 0x00, 0x64],
        5,
    );
    /// Gnosis Chain's test network.
    pub const CHIADO: Self = Self::built_in(
        "chiado",
        [0x00, 0x00, 0x00, 0x6f],
        10_200,
        1_665_396_300,
        [0x03, 0x00, 0x00, 0x6f],
        5,
    );
    /// Sepolia.
    pub const SEPOLIA: Self = Self::built_in(
        "sepolia",
        [0x90, 0x00, 0x00, 0x69],
        11_155_111,
        1_655_733_600,
        [0x90, 0x00, 0x00, 0x72],
        12,
    );
    /// Hoodi.
    pub const HOODI: Self = Self::built_in(
        "hoodi",
        [0x10, 0x00, 0x09, 0x10],
        560_048,
        1_742_213_400,
        [0x40, 0x00, 0x09, 0x10],
        12,
    );

    /// The networks that need no flags.
    pub const BUILT_IN: [Self; 6] = [
        Self::MAINNET,
        Self::GOERLI,
        Self::GNOSIS,
        Self::CHIADO,
        Self::SEPOLIA,
        Self::HOODI,
    ];

    const fn built_in(
        name: &'static str,
        genesis_version: [u8; 4],
        chain_id: u64,
        genesis_time: u64,
        capella_version: [u8; 4],
        slot_secs: u64,
    ) -> Self {
        Self {
            name: Cow::Borrowed(name),
            genesis_version: ForkVersion(genesis_version),
            capella_version: Some(ForkVersion(capella_version)),
            chain_id,
            genesis_time,
            slot: Some(Duration::from_secs(slot_secs)),
        }
    }

    /// As flags and deposit files spell it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What files call the network by.
    #[must_use]
    pub fn genesis_version(&self) -> ForkVersion {
        self.genesis_version
    }

    /// For voluntary exits (EIP-7044). A custom network may leave it open.
    #[must_use]
    pub fn capella_version(&self) -> Option<ForkVersion> {
        self.capella_version
    }

    /// For wallet signatures (EIP-712).
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// In seconds since 1970; also the timestamp of a new builder registration.
    #[must_use]
    pub fn genesis_time_secs(&self) -> u64 {
        self.genesis_time
    }

    /// How long a slot is. No flag says it for a custom network; ask a beacon node.
    #[must_use]
    pub fn slot_duration(&self) -> Option<Duration> {
        self.slot
    }

    /// Whether deposits cost real money here: keystores must be secure, and addresses not zero.
    #[must_use]
    pub fn is_valuable(&self) -> bool {
        [Self::MAINNET.genesis_version, Self::GNOSIS.genesis_version]
            .contains(&self.genesis_version)
    }
}

/// A network as Charon's `--testnet-*` flags describe it. Empty or zero: not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CustomFlags {
    /// `--testnet-name`
    pub name: String,
    /// `--testnet-fork-version`
    pub fork_version: String,
    /// `--testnet-chain-id`
    pub chain_id: u64,
    /// `--testnet-genesis-timestamp`, in seconds since 1970
    pub genesis_time: u64,
    /// `--testnet-capella-hard-fork`, the only one that may stay open
    pub capella_version: String,
}

impl CustomFlags {
    /// The network, or `None` when no flag was given.
    pub fn network(&self) -> Result<Option<Network>, CustomError> {
        if *self == Self::default() {
            return Ok(None);
        }
        let missing: Vec<_> = [
            ("--testnet-name", self.name.is_empty()),
            ("--testnet-fork-version", self.fork_version.is_empty()),
            ("--testnet-chain-id", self.chain_id == 0),
            ("--testnet-genesis-timestamp", self.genesis_time == 0),
        ]
        .into_iter()
        .filter_map(|(flag, missing)| missing.then_some(flag))
        .collect();
        if !missing.is_empty() {
            return Err(CustomError::Incomplete { missing });
        }
        let version = |flag, text: &str| {
            text.parse()
                .map_err(|source| CustomError::ForkVersion { flag, source })
        };
        let capella_version = match self.capella_version.as_str() {
            "" => None,
            text => Some(version("--testnet-capella-hard-fork", text)?),
        };
        Ok(Some(Network {
            name: self.name.clone().into(),
            genesis_version: version("--testnet-fork-version", &self.fork_version)?,
            capella_version,
            chain_id: self.chain_id,
            genesis_time: self.genesis_time,
            slot: None,
        }))
    }
}

/// Why flags make no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CustomError {
    /// A custom network needs a name, a fork version, a chain id and a genesis time.
    #[error("a custom network also needs {}", missing.join(", "))]
    Incomplete {
        /// The flags that were not given.
        missing: Vec<&'static str>,
    },
    /// Not a fork version.
    #[error("{flag} is wrong")]
    ForkVersion {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        #[source]
        source: ForkVersionError,
    },
    /// The fork version or the name is that of a known network, and something else is not.
    #[error("{field} differs from that of the known network {known}")]
    Contradicts {
        /// The known network's name.
        known: String,
        /// What differs.
        field: &'static str,
    },
}

/// The networks that can be looked up: the built-in ones and those added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// The built-in ones.
    #[must_use]
    pub fn new() -> Self {
        Self(Network::BUILT_IN.to_vec())
    }

    /// The built-in ones and the one that the flags describe, if they do.
    pub fn with_flags(flags: &CustomFlags) -> Result<Self, CustomError> {
        let mut networks = Self::new();
        if let Some(network) = flags.network()? {
            networks.add(network)?;
        }
        Ok(networks)
    }

    /// Adds a network, or nothing if it says again what is known.
    fn add(&mut self, network: Network) -> Result<(), CustomError> {
        let known = self.0.iter().find(|known| {
            known.genesis_version == network.genesis_version || known.name == network.name
        });
        let Some(known) = known else {
            self.0.push(network);
            return Ok(());
        };
        let differing = [
            (
                "fork version",
                known.genesis_version != network.genesis_version,
            ),
            ("name", known.name != network.name),
            ("chain id", known.chain_id != network.chain_id),
            ("genesis time", known.genesis_time != network.genesis_time),
            (
                "Capella fork version",
                network.capella_version.is_some()
                    && known.capella_version != network.capella_version,
            ),
        ]
        .into_iter()
        .find_map(|(field, differs)| differs.then_some(field));
        match differing {
            Some(field) => Err(CustomError::Contradicts {
                known: known.name.to_string(),
                field,
            }),
            None => Ok(()),
        }
    }

    /// All of them, built-in ones first.
    #[must_use]
    pub fn all(&self) -> &[Network] {
        &self.0
    }

    /// The network that a file's fork version stands for.
    #[must_use]
    pub fn by_fork_version(&self, version: ForkVersion) -> Option<&Network> {
        self.0
            .iter()
            .find(|network| network.genesis_version == version)
    }

    /// The network that `--network` stands for. `prater` is goerli, as for Charon.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Network> {
        let name = if name == "prater" { "goerli" } else { name };
        self.0.iter().find(|network| network.name == name)
    }
}

impl Default for Networks {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holesky() -> CustomFlags {
        CustomFlags {
            name: "holesky".into(),
            fork_version: "0x01017000".into(),
            chain_id: 17_000,
            genesis_time: 1_696_000_704,
            capella_version: String::new(),
        }
    }

    #[test]
    fn built_in_networks_are_found_by_name_and_by_fork_version() {
        let networks = Networks::new();

        for network in Network::BUILT_IN {
            assert_eq!(networks.by_name(network.name()), Some(&network));
            let version = network.genesis_version();
            assert_eq!(networks.by_fork_version(version), Some(&network));
        }
        assert_eq!(networks.by_name("prater"), Some(&Network::GOERLI));
        assert_eq!(networks.by_name("holesky"), None);
        assert_eq!(networks.by_name("Mainnet"), None);
        assert_eq!(networks.by_fork_version(ForkVersion([1, 1, 0x70, 0])), None);
    }

    #[test]
    fn custom_network_is_found_beside_the_built_in_ones() {
        let networks = Networks::with_flags(&holesky()).unwrap();

        let network = networks
            .by_fork_version(ForkVersion([1, 1, 0x70, 0]))
            .unwrap();
        assert_eq!(network.name(), "holesky");
        assert_eq!(network.chain_id(), 17_000);
        assert_eq!(network.capella_version(), None);
        assert_eq!(networks.by_name("hoodi"), Some(&Network::HOODI));
    }

    #[test]
    fn no_flags_add_nothing_and_a_part_of_them_is_told() {
        assert_eq!(
            Networks::with_flags(&CustomFlags::default()),
            Ok(Networks::new())
        );
        let parts = [
            CustomFlags {
                name: String::new(),
                ..holesky()
            },
            CustomFlags {
                fork_version: String::new(),
                ..holesky()
            },
            CustomFlags {
                chain_id: 0,
                ..holesky()
            },
            CustomFlags {
                genesis_time: 0,
                ..holesky()
            },
        ];
        let flags = [
            "--testnet-name",
            "--testnet-fork-version",
            "--testnet-chain-id",
            "--testnet-genesis-timestamp",
        ];
        for (part, flag) in parts.iter().zip(flags) {
            let missing = vec![flag];
            assert_eq!(part.network(), Err(CustomError::Incomplete { missing }));
        }
        let only_capella = CustomFlags {
            capella_version: "0x04017000".into(),
            ..CustomFlags::default()
        };
        let missing = flags.to_vec();
        assert_eq!(
            only_capella.network(),
            Err(CustomError::Incomplete { missing })
        );
    }

    #[test]
    fn fork_versions_are_eight_hex_digits() {
        for text in [
            "",
            "0x",
            "0x0101700",
            "0x010170000",
            "0x0101700g",
            "0X01017000",
        ] {
            assert_eq!(text.parse::<ForkVersion>(), Err(ForkVersionError), "{text}");
        }
        let flags = CustomFlags {
            capella_version: "4".into(),
            ..holesky()
        };
        assert_eq!(
            flags.network(),
            Err(CustomError::ForkVersion {
                flag: "--testnet-capella-hard-fork",
                source: ForkVersionError,
            })
        );
    }

    #[test]
    fn custom_network_may_repeat_a_known_one_but_not_contradict_it() {
        let hoodi = CustomFlags {
            name: "hoodi".into(),
            fork_version: "0x10000910".into(),
            chain_id: 560_048,
            genesis_time: 1_742_213_400,
            capella_version: String::new(),
        };
        assert_eq!(Networks::with_flags(&hoodi), Ok(Networks::new()));

        let cases = [
            (
                CustomFlags {
                    name: "mine".into(),
                    ..hoodi.clone()
                },
                "name",
            ),
            (
                CustomFlags {
                    fork_version: "0x10000911".into(),
                    ..hoodi.clone()
                },
                "fork version",
            ),
            (
                CustomFlags {
                    chain_id: 1,
                    ..hoodi.clone()
                },
                "chain id",
            ),
            (
                CustomFlags {
                    genesis_time: 1,
                    ..hoodi.clone()
                },
                "genesis time",
            ),
            (
                CustomFlags {
                    capella_version: "0x10000910".into(),
                    ..hoodi
                },
                "Capella fork version",
            ),
        ];
        for (flags, field) in cases {
            let known = "hoodi".to_owned();
            assert_eq!(
                Networks::with_flags(&flags),
                Err(CustomError::Contradicts { known, field })
            );
        }
    }

    #[test]
    fn money_is_real_on_mainnet_and_gnosis() {
        let valuable: Vec<_> = Network::BUILT_IN
            .into_iter()
            .filter(Network::is_valuable)
            .collect();

        assert_eq!(valuable, [Network::MAINNET, Network::GNOSIS]);
    }
}
