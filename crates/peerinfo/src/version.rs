//! Versions, as far as compatibility goes (p2p spec, section 10.4).

use std::{fmt, str::FromStr};

/// Minor versions that Charon's releases support, newest first.
pub const SUPPORTED: [(u32, u32); 12] = [
    (1, 11),
    (1, 10),
    (1, 9),
    (1, 8),
    (1, 7),
    (1, 6),
    (1, 5),
    (1, 4),
    (1, 3),
    (1, 2),
    (1, 1),
    (1, 0),
];

/// The part of a version that decides: major and minor. Patch and label do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

/// A text that is no version such as `v1.10.3-rc1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version such as v1.10.3")]
pub struct VersionError;

impl Version {
    /// Whether nodes of this version can be in one cluster with ours. What is newer than all that
    /// we know is taken to be compatible.
    pub fn is_supported(self) -> bool {
        let pair = (self.major, self.minor);
        pair > SUPPORTED[0] || SUPPORTED.contains(&pair)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let text = text.strip_prefix('v').ok_or(VersionError)?;
        let (numbers, label) = match text.split_once('-') {
            Some((numbers, label)) => (numbers, Some(label)),
            None => (text, None),
        };
        if label == Some("") {
            return Err(VersionError);
        }
        let mut parts = numbers.split('.');
        let mut number = || {
            let part = parts.next()?;
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            // A number too large for 32 bits is no version that anybody released.
            digits.then(|| part.parse::<u32>().ok()).flatten()
        };
        let (major, minor) = (number(), number());
        let (patch_is_bad, more) = match numbers.split('.').nth(2) {
            None => (false, false),
            Some(_) => (number().is_none(), parts.next().is_some()),
        };
        match (major, minor) {
            (Some(major), Some(minor)) if !patch_is_bad && !more => Ok(Self { major, minor }),
            _ => Err(VersionError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_charon_writes_them() {
        for (text, expected) in [
            ("v1.10.3", Some((1, 10))),
            ("v1.10", Some((1, 10))),
            ("v1.11.0-rc3", Some((1, 11))),
            ("v1.11-dev", Some((1, 11))),
            ("v0.2-", None),
            ("1.10.3", None),
            ("v1", None),
            ("v1.10.3.4", None),
            ("v1.x", None),
            ("v+1.2", None),
            ("v1.2.", None),
            ("v99999999999.0", None),
            ("", None),
        ] {
            let read = text.parse::<Version>().ok();
            assert_eq!(read.map(|v| (v.major, v.minor)), expected, "{text}");
        }
    }

    #[test]
    fn what_is_newer_is_supported_and_what_is_unknown_is_not() {
        let supported = |text: &str| text.parse::<Version>().unwrap().is_supported();
        assert!(supported("v1.11.0"));
        assert!(supported("v1.0"));
        assert!(supported("v1.12"));
        assert!(supported("v2.0"));
        assert!(!supported("v0.19.2"));
    }
}
