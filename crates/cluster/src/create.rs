//! New definitions.
//!
//! Spec: cluster, section 1.5. What Charon can read is wider than what is made here: one file of
//! its format that all members can read, with nothing in it that a later step would refuse.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pluto_crypto::enr::{self, Enr};
use pluto_eth::{deposit::AmountError, keystore::uuid_text};
use rand::Rng;

use crate::{
    Addresses, Creator, Definition, MAX_OPERATORS, MAX_VALIDATORS, OperatorEntry,
    ValidatorAddresses, Version, definition::check_deposit_amounts, error::HashErrors,
};

const SECS_PER_DAY: u64 = 86_400;

/// What a new definition says. Hashes, UUID and timestamp are made by [`NewDefinition::build`].
#[derive(Debug, Clone)]
pub struct NewDefinition {
    /// [`Version::LATEST`], or [`Version::V1_10`] for a cluster with a member that runs Charon v1.10,
    /// which refuses the newer one.
    pub version: Version,
    /// What people call the cluster; may be empty.
    pub name: String,
    /// The operators, in order.
    pub operators: Vec<OperatorEntry>,
    /// Who makes the definition; may be empty.
    pub creator: Creator,
    /// How many partial signatures make one; `None` for two thirds of the operators, rounded up.
    pub threshold: Option<u32>,
    /// The genesis fork version of the network.
    pub fork_version: [u8; 4],
    /// The addresses of each validator.
    pub validators: Vec<ValidatorAddresses>,
    /// Partial deposits in gwei, in the order given; empty for the defaults.
    pub deposit_amounts: Vec<u64>,
    /// `default` or what the ceremony is to use instead.
    pub dkg_algorithm: String,
    /// The consensus protocol that is preferred; may be empty.
    pub consensus_protocol: String,
    /// The gas limit that builders are asked for; not 0.
    pub target_gas_limit: u64,
    /// Whether withdrawal credentials are of the compounding kind.
    pub compounding: bool,
    /// When it is made; whole seconds are kept.
    pub created_at: SystemTime,
}

/// Why no definition was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewDefinitionError {
    /// A format that nobody needs in a new file.
    #[error(
        "new definitions are {} or {}, not {version}",
        Version::V1_10,
        Version::LATEST
    )]
    Version {
        /// The one asked for.
        version: Version,
    },
    /// None, or more than [`MAX_OPERATORS`].
    #[error("{count} operators; 1 to {MAX_OPERATORS} are possible")]
    Operators {
        /// How many.
        count: usize,
    },
    /// None, or more than [`MAX_VALIDATORS`].
    #[error("{count} validators; 1 to {MAX_VALIDATORS} are possible")]
    Validators {
        /// How many.
        count: usize,
    },
    /// None, or more than there are operators.
    #[error("threshold {threshold} with {operators} operators")]
    Threshold {
        /// The one asked for.
        threshold: u32,
        /// How many operators.
        operators: usize,
    },
    /// An operator that cannot be a peer.
    #[error("the ENR of operator {operator} is not valid")]
    Enr {
        /// Which, from 0.
        operator: usize,
        /// What is wrong.
        source: enr::Error,
    },
    /// Two operators with one identity.
    #[error("operators {first} and {second} have the same identity")]
    DuplicateOperator {
        /// The earlier one, from 0.
        first: usize,
        /// The later one, from 0.
        second: usize,
    },
    /// Deposits that make no validator.
    #[error("the deposit amounts are impossible")]
    DepositAmounts(#[from] AmountError),
    /// Builders would be asked for empty blocks.
    #[error("the target gas limit is 0")]
    GasLimit,
    /// Something is too long, or no address.
    #[error("the definition cannot be hashed")]
    Hash(#[from] HashErrors),
}

impl NewDefinition {
    /// Makes the definition, with a random UUID.
    pub fn build(self) -> Result<Definition, NewDefinitionError> {
        if self.version < Version::V1_10 {
            return Err(NewDefinitionError::Version {
                version: self.version,
            });
        }
        let operators = self.operators.len();
        if !(1..=MAX_OPERATORS).contains(&operators) {
            return Err(NewDefinitionError::Operators { count: operators });
        }
        let validators = self.validators.len();
        if !(1..=MAX_VALIDATORS).contains(&validators) {
            return Err(NewDefinitionError::Validators { count: validators });
        }
        check_identities(&self.operators)?;
        check_deposit_amounts(&self.deposit_amounts, self.compounding)?;
        if self.target_gas_limit == 0 {
            return Err(NewDefinitionError::GasLimit);
        }
        let threshold = match self.threshold {
            None => (2 * operators).div_ceil(3) as i64,
            Some(threshold) if (1..=operators).contains(&(threshold as usize)) => threshold.into(),
            Some(threshold) => {
                return Err(NewDefinitionError::Threshold {
                    threshold,
                    operators,
                });
            }
        };
        let mut definition = Definition {
            version: self.version,
            name: self.name,
            uuid: uuid(),
            timestamp: rfc3339(self.created_at),
            num_validators: validators as i64,
            threshold,
            dkg_algorithm: self.dkg_algorithm,
            fork_version: self.fork_version.to_vec(),
            operators: self.operators,
            creator: self.creator,
            addresses: Addresses::Each(self.validators),
            deposit_amounts: self.deposit_amounts,
            consensus_protocol: self.consensus_protocol,
            target_gas_limit: self.target_gas_limit,
            compounding: self.compounding,
            config_hash: Vec::new(),
            definition_hash: Vec::new(),
        };
        definition.update_hashes()?;
        Ok(definition)
    }
}

/// Operators may join later, with an empty ENR until then. Those that are there are all different.
fn check_identities(operators: &[OperatorEntry]) -> Result<(), NewDefinitionError> {
    let mut known = Vec::with_capacity(operators.len());
    for (operator, entry) in operators.iter().enumerate() {
        if entry.enr.is_empty() {
            continue;
        }
        let enr = Enr::parse(&entry.enr)
            .map_err(|source| NewDefinitionError::Enr { operator, source })?;
        let key = *enr.public_key();
        if let Some((first, _)) = known.iter().find(|(_, it)| *it == key) {
            return Err(NewDefinitionError::DuplicateOperator {
                first: *first,
                second: operator,
            });
        }
        known.push((operator, key));
    }
    Ok(())
}

/// A random UUID (version 4), in upper case as everywhere in cluster files.
fn uuid() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    uuid_text(bytes)
}

/// In UTC, whole seconds. A time before 1970 is 1970.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, secs) = (
        since.as_secs() / SECS_PER_DAY,
        since.as_secs() % SECS_PER_DAY,
    );
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        secs / 3600,
        secs / 60 % 60,
        secs % 60
    )
}

/// The Gregorian date of a day since 1970, by years that start in March: the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_MARCH_YEAR_0: u64 = 719_468;
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let days = days + DAYS_TO_MARCH_YEAR_0;
    let (era, day) = (days / DAYS_PER_400_YEARS, days % DAYS_PER_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_742_213_400, "2025-03-17T12:10:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_millis(secs * 1000 + 999);
            assert_eq!(rfc3339(time), text);
        }
    }

    #[test]
    fn uuids_are_random_of_version_4_and_in_upper_case() {
        let first = uuid();
        assert_ne!(first, uuid());
        let bytes = first.as_bytes();
        assert_eq!(bytes.len(), 36);
        assert_eq!(bytes[14], b'4');
        assert!(b"89AB".contains(&bytes[19]));
        assert!(bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'A'..=b'F'),
        }));
    }
}
