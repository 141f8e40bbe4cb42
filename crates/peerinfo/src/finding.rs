//! What does not fit between a peer and this node.

use crate::{
    ClockOffset, Info, Local,
    version::{Version, VersionError},
};

/// A clock that is this far off makes duties late. A slot has twelve seconds and its first third
/// is for the proposal; chosen well below, and above what a bad network does to the estimate.
const CLOCK_TOLERANCE_MS: i64 = 500;

/// Something that an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// Its version is none that we can be in a cluster with.
    #[error("version {version} is not supported: its operator should update it")]
    UnsupportedVersion {
        /// Its version.
        version: String,
    },
    /// Its version cannot be read.
    #[error("its version '{version}' is not one such as v1.10.3")]
    MalformedVersion {
        /// What it says.
        version: String,
    },
    /// It does not say what it was built from.
    #[error("its git hash '{git_hash}' is neither seven hexadecimal digits nor 'unknown'")]
    MalformedGitHash {
        /// What it says.
        git_hash: String,
    },
    /// It runs with another cluster lock.
    #[error("it runs with another cluster lock: compare the cluster-lock.json of both nodes")]
    OtherLock,
    /// It differs in the use of the builder API.
    #[error(
        "its builder API is {} and ours is {}: blocks would not match",
        on(*.theirs), on(!*.theirs)
    )]
    OtherBuilderApi {
        /// Its setting.
        theirs: bool,
    },
    /// Its clock is off.
    #[error("its clock is {offset} (compared with ours): check the time synchronisation of both")]
    ClockOff {
        /// How far.
        offset: ClockOffset,
    },
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

impl Finding {
    /// Compares a peer with this node. All that is found, not only the first.
    pub(crate) fn all(local: &Local, info: &Info, offset: ClockOffset) -> Vec<Self> {
        let mut found = Vec::new();
        let hash = info.git_hash.as_bytes();
        let is_hash = hash.len() == 7
            && hash
                .iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hash && info.git_hash != "unknown" {
            found.push(Self::MalformedGitHash {
                git_hash: info.git_hash.clone(),
            });
        }
        // Other software counts its versions as it likes.
        if info.dv_client == "charon" {
            let version = info.version.clone();
            match version.parse::<Version>() {
                Ok(parsed) if parsed.is_supported() => {}
                Ok(_) => found.push(Self::UnsupportedVersion { version }),
                Err(VersionError) => found.push(Self::MalformedVersion { version }),
            }
        }
        if info.lock_hash != local.lock_hash {
            found.push(Self::OtherLock);
        }
        if info.builder_api != local.builder_api {
            found.push(Self::OtherBuilderApi {
                theirs: info.builder_api,
            });
        }
        if offset.millis.saturating_abs() > CLOCK_TOLERANCE_MS {
            found.push(Self::ClockOff { offset });
        }
        found
    }

    /// Whether the peer's version keeps it out of the cluster.
    pub(crate) fn is_version(&self) -> bool {
        matches!(
            self,
            Self::UnsupportedVersion { .. } | Self::MalformedVersion { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_twin_has_no_findings_and_a_stranger_has_all_of_them() {
        let local = Local::new(vec![7; 32]);
        let twin = Info::decode(&local.answer(SystemTime::now()).body()).unwrap();
        assert_eq!(Finding::all(&local, &twin, ClockOffset { millis: 3 }), []);

        let stranger = Info {
            version: "v0.9".to_owned(),
            lock_hash: vec![8; 32].into(),
            git_hash: "ABCDEF0".to_owned(),
            builder_api: true,
            dv_client: "charon".to_owned(),
            ..twin
        };
        let offset = ClockOffset { millis: -700 };
        let found = Finding::all(&local, &stranger, offset);
        let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "its git hash 'ABCDEF0' is neither seven hexadecimal digits nor 'unknown'",
                "version v0.9 is not supported: its operator should update it",
                "it runs with another cluster lock: compare the cluster-lock.json of both nodes",
                "its builder API is on and ours is off: blocks would not match",
                "its clock is 700ms behind (compared with ours): check the time synchronisation of both",
            ]
        );
    }

    #[test]
    fn only_charon_is_held_to_charons_versions() {
        let local = Local::new(vec![]);
        let mut info = Info::decode(&local.answer(SystemTime::now()).body()).unwrap();
        info.version = "v0.1".to_owned();
        assert_eq!(Finding::all(&local, &info, ClockOffset { millis: 0 }), []);
    }
}
