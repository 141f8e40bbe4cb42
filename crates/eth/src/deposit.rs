//! Deposits: what a validator key signs to start a validator, or to add to its stake.
//!
//! Spec: cluster, section 7. Files of deposits: [`mod@file`].
//!
//! Keys and signatures are kept as bytes, as files hold them, and become points when a signature is
//! checked: a file with a bad one can still be read and described.

pub mod file;

use std::fmt;

use pluto_crypto::bls::{self, PublicKey, SecretKey, Signature};

use crate::{
    address::Address,
    network::ForkVersion,
    signing::{self, DomainKind},
    ssz,
};

/// An amount in billionths of an ether.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gwei(pub u64);

impl Gwei {
    /// One ether.
    pub const ETH: Self = Self(1_000_000_000);

    /// Whole ethers, as `--deposit-amounts` takes them; `None` when that is too much for a file.
    #[must_use]
    pub fn from_eth(eth: u64) -> Option<Self> {
        eth.checked_mul(Self::ETH.0).map(Self)
    }

    const fn eth(eth: u64) -> Self {
        Self(eth * Self::ETH.0)
    }

    /// Ethers in the shortest decimal form, such as `31.999999999`.
    fn decimal(self) -> String {
        let (whole, rest) = (self.0 / Self::ETH.0, self.0 % Self::ETH.0);
        if rest == 0 {
            return whole.to_string();
        }
        let fraction = format!("{rest:09}");
        format!("{whole}.{}", fraction.trim_end_matches('0'))
    }
}

impl fmt::Display for Gwei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ETH", self.decimal())
    }
}

/// What may happen to a validator's balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialsKind {
    /// `0x01`: beyond 32 ETH it is paid out.
    Execution,
    /// `0x02`: it earns up to 2048 ETH (EIP-7251).
    Compounding,
}

impl CredentialsKind {
    /// Smallest deposit (spec cluster, section 7.2).
    pub const MIN_AMOUNT: Gwei = Gwei::ETH;

    /// Smallest sum of deposits when they are chosen: what a validator needs to start.
    pub const MIN_SUM: Gwei = Gwei::eth(32);

    /// For a definition's `compounding`.
    #[must_use]
    pub const fn new(compounding: bool) -> Self {
        if compounding {
            Self::Compounding
        } else {
            Self::Execution
        }
    }

    const fn prefix(self) -> u8 {
        match self {
            Self::Execution => 1,
            Self::Compounding => 2,
        }
    }

    /// Largest single deposit.
    #[must_use]
    pub const fn max_amount(self) -> Gwei {
        match self {
            Self::Execution => Gwei::eth(32),
            Self::Compounding => Gwei::eth(2048),
        }
    }

    /// What is signed when nothing is chosen, ascending.
    #[must_use]
    pub const fn default_amounts(self) -> &'static [Gwei] {
        const EXECUTION: [Gwei; 2] = [Gwei::eth(1), Gwei::eth(32)];
        const COMPOUNDING: [Gwei; 4] = [Gwei::eth(1), Gwei::eth(8), Gwei::eth(32), Gwei::eth(256)];
        match self {
            Self::Execution => &EXECUTION,
            Self::Compounding => &COMPOUNDING,
        }
    }

    /// Checks chosen amounts. None at all stand for the default; repeated ones count each time.
    pub fn check_amounts(self, amounts: &[Gwei]) -> Result<(), AmountError> {
        if amounts.is_empty() {
            return Ok(());
        }
        for &amount in amounts {
            if amount < Self::MIN_AMOUNT {
                return Err(AmountError::TooSmall { amount });
            }
            if amount > self.max_amount() {
                return Err(match self {
                    Self::Execution => AmountError::NeedsCompounding { amount },
                    Self::Compounding => AmountError::TooLarge { amount },
                });
            }
        }
        let sum = amounts
            .iter()
            .fold(0_u64, |sum, amount| sum.saturating_add(amount.0));
        if sum < Self::MIN_SUM.0 {
            return Err(AmountError::SumTooSmall { sum: Gwei(sum) });
        }
        Ok(())
    }

    /// The amounts that are signed: the chosen ones, or the default; ascending, each once.
    #[must_use]
    pub fn signed_amounts(self, chosen: &[Gwei]) -> Vec<Gwei> {
        let mut amounts = if chosen.is_empty() {
            self.default_amounts().to_vec()
        } else {
            chosen.to_vec()
        };
        amounts.sort_unstable();
        amounts.dedup();
        amounts
    }
}

/// Why amounts were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// Below the deposit contract's minimum.
    #[error("deposit of {amount} is less than {}", CredentialsKind::MIN_AMOUNT)]
    TooSmall {
        /// The amount.
        amount: Gwei,
    },
    /// More than 32 ETH for a validator that does not compound.
    #[error("deposit of {amount} is more than {} and needs a compounding validator", CredentialsKind::Execution.max_amount())]
    NeedsCompounding {
        /// The amount.
        amount: Gwei,
    },
    /// More than a validator can have.
    #[error("deposit of {amount} is more than {}", CredentialsKind::Compounding.max_amount())]
    TooLarge {
        /// The amount.
        amount: Gwei,
    },
    /// All together do not start a validator.
    #[error(
        "deposits of {sum} in all are less than {}; an amount may be repeated",
        CredentialsKind::MIN_SUM
    )]
    SumTooSmall {
        /// Their sum.
        sum: Gwei,
    },
}

/// Who receives withdrawals, and of which kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WithdrawalCredentials(pub [u8; 32]);

impl WithdrawalCredentials {
    /// Credentials for an address.
    #[must_use]
    pub fn new(kind: CredentialsKind, address: Address) -> Self {
        let mut bytes = [0; 32];
        bytes[0] = kind.prefix();
        bytes[12..].copy_from_slice(&address.0);
        Self(bytes)
    }

    /// Kind and address; `None` for credentials that no cluster makes, such as those of a BLS key.
    #[must_use]
    pub fn parts(&self) -> Option<(CredentialsKind, Address)> {
        let (head, address) = self.0.split_last_chunk()?;
        let kind = match head {
            [1, zeros @ ..] if zeros.iter().all(|byte| *byte == 0) => CredentialsKind::Execution,
            [2, zeros @ ..] if zeros.iter().all(|byte| *byte == 0) => CredentialsKind::Compounding,
            _ => return None,
        };
        Some((kind, Address(*address)))
    }
}

impl fmt::Display for WithdrawalCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for WithdrawalCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WithdrawalCredentials({self})")
    }
}

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The validator's key.
    pub public_key: [u8; 48],
    /// Who receives withdrawals.
    pub withdrawal_credentials: WithdrawalCredentials,
    /// How much is deposited.
    pub amount: Gwei,
}

impl Message {
    /// The hash tree root.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        ssz::container(&self.fields())
    }

    /// What the validator's key signs on the network of this genesis fork version.
    #[must_use]
    pub fn signing_root(&self, genesis_version: ForkVersion) -> [u8; 32] {
        let domain = signing::domain(DomainKind::Deposit, genesis_version);
        signing::signing_root(self.root(), domain)
    }

    /// Signs with the whole key. That it is the one of `public_key` is the caller's to know.
    #[must_use]
    pub fn sign(self, secret: &SecretKey, genesis_version: ForkVersion) -> Deposit {
        Deposit {
            message: self,
            signature: secret.sign(&self.signing_root(genesis_version)).to_bytes(),
        }
    }

    fn fields(&self) -> [ssz::Chunk; 3] {
        [
            ssz::vector(&self.public_key),
            self.withdrawal_credentials.0,
            ssz::uint64(self.amount.0),
        ]
    }
}

/// A signed deposit. Whoever reads one from a file has to [`verify`](Self::verify) it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deposit {
    /// What is signed.
    pub message: Message,
    /// By the validator's key.
    pub signature: [u8; 96],
}

impl Deposit {
    /// The hash tree root with the signature, which the deposit contract checks.
    #[must_use]
    pub fn data_root(&self) -> [u8; 32] {
        let [public_key, withdrawal_credentials, amount] = self.message.fields();
        let signature = ssz::vector(&self.signature);
        ssz::container(&[public_key, withdrawal_credentials, amount, signature])
    }

    /// Checks the signature for the network of this genesis fork version.
    pub fn verify(&self, genesis_version: ForkVersion) -> Result<(), bls::Error> {
        let key = PublicKey::from_bytes(&self.message.public_key)?;
        let signature = Signature::from_bytes(&self.signature)?;
        bls::verify(
            &key,
            &self.message.signing_root(genesis_version),
            &signature,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth(amounts: &[u64]) -> Vec<Gwei> {
        amounts.iter().map(|eth| Gwei::eth(*eth)).collect()
    }

    #[test]
    fn amounts_are_accepted_where_charon_accepts_them() {
        use CredentialsKind::{Compounding, Execution};
        let (gwei, max) = (Gwei, Gwei::eth(2048));
        // Spec cluster, section 7.2 and appendix A.8.
        let cases = [
            (Execution, vec![], None),
            (
                Execution,
                vec![gwei(1)],
                Some(AmountError::TooSmall { amount: gwei(1) }),
            ),
            (
                Execution,
                vec![gwei(999_999_999), Gwei::eth(32)],
                Some(AmountError::TooSmall {
                    amount: gwei(999_999_999),
                }),
            ),
            (Execution, eth(&[1, 31]), None),
            (Execution, eth(&[16, 16]), None),
            (Execution, eth(&[8, 8, 8, 8]), None),
            (
                Execution,
                eth(&[31]),
                Some(AmountError::SumTooSmall { sum: Gwei::eth(31) }),
            ),
            (Execution, eth(&[32]), None),
            (
                Execution,
                vec![gwei(32_000_000_001)],
                Some(AmountError::NeedsCompounding {
                    amount: gwei(32_000_000_001),
                }),
            ),
            (
                Execution,
                eth(&[48]),
                Some(AmountError::NeedsCompounding {
                    amount: Gwei::eth(48),
                }),
            ),
            (Compounding, eth(&[48]), None),
            (Compounding, eth(&[2048]), None),
            (
                Compounding,
                vec![gwei(max.0 + 1)],
                Some(AmountError::TooLarge {
                    amount: gwei(max.0 + 1),
                }),
            ),
            (
                Compounding,
                eth(&[31]),
                Some(AmountError::SumTooSmall { sum: Gwei::eth(31) }),
            ),
            (Compounding, vec![max; 10_000], None),
        ];
        for (kind, amounts, error) in cases {
            let result = kind.check_amounts(&amounts);
            assert_eq!(result.err(), error, "{kind:?} {:?}", amounts.first());
        }
    }

    #[test]
    fn signed_amounts_are_ascending_and_each_once() {
        let kind = CredentialsKind::Execution;

        assert_eq!(kind.signed_amounts(&eth(&[8, 8, 16, 1])), eth(&[1, 8, 16]));
        assert_eq!(kind.signed_amounts(&[]), eth(&[1, 32]));
        assert_eq!(
            CredentialsKind::Compounding.signed_amounts(&[]),
            eth(&[1, 8, 32, 256])
        );
    }

    #[test]
    fn default_amounts_pass_their_own_check() {
        for kind in [CredentialsKind::Execution, CredentialsKind::Compounding] {
            assert_eq!(kind.check_amounts(kind.default_amounts()), Ok(()));
        }
    }

    #[test]
    fn credentials_hold_kind_and_address() {
        // Spec cluster, appendix A.9.
        let address = "0xc0404ed740a69d11201f5ed297c5732f562c6e4e"
            .parse()
            .unwrap();
        let cases = [
            (
                CredentialsKind::Execution,
                "0x010000000000000000000000c0404ed740a69d11201f5ed297c5732f562c6e4e",
            ),
            (
                CredentialsKind::Compounding,
                "0x020000000000000000000000c0404ed740a69d11201f5ed297c5732f562c6e4e",
            ),
        ];
        for (kind, text) in cases {
            let credentials = WithdrawalCredentials::new(kind, address);
            assert_eq!(credentials.to_string(), text);
            assert_eq!(credentials.parts(), Some((kind, address)));
        }
        for kind in [CredentialsKind::Execution, CredentialsKind::Compounding] {
            for at in [1, 11] {
                let mut odd = WithdrawalCredentials::new(kind, address);
                odd.0[at] = 1;
                assert_eq!(odd.parts(), None, "{kind:?} {at}");
            }
        }
        assert_eq!(WithdrawalCredentials([0; 32]).parts(), None);
    }

    #[test]
    fn amounts_print_as_ethers() {
        let cases = [
            (0, "0 ETH"),
            (1, "0.000000001 ETH"),
            (31_999_999_999, "31.999999999 ETH"),
            (1_500_000_000, "1.5 ETH"),
            (2_048_000_000_000, "2048 ETH"),
        ];
        for (gwei, text) in cases {
            assert_eq!(Gwei(gwei).to_string(), text);
        }
        assert_eq!(Gwei::from_eth(32), Some(Gwei(32_000_000_000)));
        assert_eq!(Gwei::from_eth(u64::MAX), None);
    }
}
