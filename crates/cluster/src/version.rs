//! The versions of the file format.
//!
//! Spec: cluster, section 0.

use std::fmt;

/// A version of the file format. The order is the order in which they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Version {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
    V1_4,
    V1_5,
    V1_6,
    V1_7,
    V1_8,
    V1_9,
    V1_10,
    V1_11,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 12] = [
        Self::V1_0,
        Self::V1_1,
        Self::V1_2,
        Self::V1_3,
        Self::V1_4,
        Self::V1_5,
        Self::V1_6,
        Self::V1_7,
        Self::V1_8,
        Self::V1_9,
        Self::V1_10,
        Self::V1_11,
    ];

    /// What new files are.
    pub const LATEST: Self = Self::V1_11;

    /// As in the files; no other spelling is accepted.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1_0 => "v1.0.0",
            Self::V1_1 => "v1.1.0",
            Self::V1_2 => "v1.2.0",
            Self::V1_3 => "v1.3.0",
            Self::V1_4 => "v1.4.0",
            Self::V1_5 => "v1.5.0",
            Self::V1_6 => "v1.6.0",
            Self::V1_7 => "v1.7.0",
            Self::V1_8 => "v1.8.0",
            Self::V1_9 => "v1.9.0",
            Self::V1_10 => "v1.10.0",
            Self::V1_11 => "v1.11.0",
        }
    }

    /// `None` for a version that is not known.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    /// Byte fields were base64 before they became hex.
    pub(crate) fn has_base64(self) -> bool {
        self <= Self::V1_1
    }

    /// One pair of addresses for all validators, before there was a list.
    pub(crate) fn has_shared_addresses(self) -> bool {
        self <= Self::V1_4
    }

    pub(crate) fn has_creator(self) -> bool {
        self >= Self::V1_4
    }

    pub(crate) fn has_deposit_amounts(self) -> bool {
        self >= Self::V1_8
    }

    pub(crate) fn has_consensus_protocol(self) -> bool {
        self >= Self::V1_9
    }

    pub(crate) fn has_gas_limit(self) -> bool {
        self >= Self::V1_10
    }

    /// Signatures before this were of a kind that is verified no more.
    pub(crate) fn has_eip712(self) -> bool {
        self >= Self::V1_3
    }

    /// A builder registration for each validator and a signature of each node.
    pub(crate) fn has_registrations(self) -> bool {
        self >= Self::V1_7
    }

    /// A signature may be several of 65 bytes, one after the other.
    pub(crate) fn has_signature_lists(self) -> bool {
        self >= Self::V1_11
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
