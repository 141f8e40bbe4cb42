//! Which Charon a ceremony speaks, learned from what peers are.
//!
//! Spec: dkg, sections 0.1 and 2.4. All nodes of a ceremony must claim one minor version. Charons
//! tell theirs in identify; between nodes of ours there is nothing to go by, and they take the
//! newest.

use std::fmt;

use pluto_p2p::p2p_context::Identified;

use crate::bcast::Generation;

/// A minor version of Charon that this crate speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CharonVersion {
    /// v1.10, the stable line.
    V1_10,
    /// v1.11.
    V1_11,
}

impl CharonVersion {
    /// The newest.
    pub const NEWEST: Self = Self::V1_11;

    /// As it is sent: major and minor.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_10 => "v1.10",
            Self::V1_11 => "v1.11",
        }
    }

    fn of(minor: Minor) -> Option<Self> {
        match minor {
            Minor(1, 10) => Some(Self::V1_10),
            Minor(1, 11) => Some(Self::V1_11),
            Minor(..) => None,
        }
    }
}

impl fmt::Display for CharonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no version of Charon that this crate speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ceremony speaks Charon v1.10 or v1.11")]
pub struct UnknownVersion;

impl std::str::FromStr for CharonVersion {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        Minor::parse(text).and_then(Self::of).ok_or(UnknownVersion)
    }
}

/// What the peers of a ceremony have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The version that all claim.
    pub version: CharonVersion,
    /// The newest generation of broadcast that all other peers list; `None` without one in common.
    pub broadcast: Option<Generation>,
}

/// Major and minor of a version text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Minor(u64, u64);

impl Minor {
    /// Reads `v<major>.<minor>[.<patch>][-<label>]`, the whole text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (numbers, label) = match text.strip_prefix('v')?.split_once('-') {
            Some((numbers, label)) => (numbers, Some(label)),
            None => (text.strip_prefix('v')?, None),
        };
        if label == Some("") {
            return None;
        }
        let mut parts = numbers.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        });
        let (major, minor) = (parts.next()??, parts.next()??);
        match (parts.next(), parts.next()) {
            (None | Some(Some(_)), None) => Some(Self(major, minor)),
            _ => None,
        }
    }

    pub(crate) fn is(self, version: CharonVersion) -> bool {
        CharonVersion::of(self) == Some(version)
    }

    pub(crate) fn known(self) -> Option<CharonVersion> {
        CharonVersion::of(self)
    }
}

/// What identify tells of a peer, as far as a ceremony cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) kind: Kind,
    /// The generations of broadcast that it lists, in ascending order.
    pub(crate) broadcasts: Vec<Generation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of ours: it goes by what the Charons say, and answers however many messages are under way.
    Pluto,
    /// A Charon of this version.
    Charon(CharonVersion),
    /// A Charon that this crate does not speak.
    Stranger(String),
}

impl Who {
    pub(crate) fn from_identify(told: &Identified) -> Self {
        let lists = |id: &str| told.protocols.iter().any(|other| other.as_ref() == id);
        let mut broadcasts = Generation::ALL.to_vec();
        broadcasts.retain(|generation| lists(generation.sig().as_ref()));
        broadcasts.sort_unstable();
        let kind = match told.agent.split_once("charon/") {
            Some((_, version)) => match Minor::parse(version).map(|minor| minor.known()) {
                Some(Some(version)) => Kind::Charon(version),
                Some(None) => Kind::Stranger(super::reason::tame(version, 32)),
                // A build without a version of its own.
                None if lists(Generation::V2.sig().as_ref()) => Kind::Charon(CharonVersion::V1_11),
                None => Kind::Charon(CharonVersion::V1_10),
            },
            None => Kind::Pluto,
        };
        Self { kind, broadcasts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_and_minor_count_and_nothing_else() {
        for text in ["v1.11", "v1.11.3", "v1.11-rc", "v1.11.0-dev", "v1.11-rc3"] {
            assert_eq!(Minor::parse(text), Some(Minor(1, 11)), "{text}");
        }
        for text in [
            "",
            "v",
            "1.11",
            "v1",
            "v1.",
            "v1.x",
            "v1.11.",
            "v1.11.0.0",
            "v1.11-",
            "v+1.1",
        ] {
            assert_eq!(Minor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_is_spoken_can_be_pinned() {
        assert_eq!("v1.10".parse(), Ok(CharonVersion::V1_10));
        assert_eq!("v1.11.0-rc2".parse(), Ok(CharonVersion::V1_11));
        assert_eq!("v1.12".parse::<CharonVersion>(), Err(UnknownVersion));
        assert_eq!("newest".parse::<CharonVersion>(), Err(UnknownVersion));
    }

    #[test]
    fn a_release_candidate_has_the_version_of_one_line_and_the_broadcast_of_the_other() {
        let told = Identified {
            agent: "obolnetwork-charon/v1.11.0-rc".to_owned(),
            protocols: vec![Generation::V1.sig()],
        };
        let who = Who::from_identify(&told);
        assert_eq!(who.kind, Kind::Charon(CharonVersion::V1_11));
        assert_eq!(who.broadcasts, [Generation::V1]);
    }
}
