//! What a node says of itself.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use pluto_p2p::proto::Frame;
use prost::Message;
use prost_types::Timestamp;

use crate::pb;

/// The longest text that is kept of a peer's, in bytes. Charon allows a nickname of 32 bytes
/// (p2p spec, section 13); versions are shorter.
pub const MAX_TEXT: usize = 64;

/// What this node tells others of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its version, such as `v1.11.0`: what Charon's peers up to v1.10 check for compatibility.
    pub version: String,
    /// The hash of the cluster lock, in a ceremony that of the definition.
    pub lock_hash: Bytes,
    /// Seven hexadecimal digits of the commit it was built from, or `unknown`.
    pub git_hash: String,
    /// When it was started.
    pub started_at: SystemTime,
    /// Whether it uses the builder API.
    pub builder_api: bool,
    /// What its operator calls it; at most 32 bytes.
    pub nickname: String,
    /// The name of the software.
    pub dv_client: String,
}

impl Local {
    /// A Pluto node of a cluster. Its version is that of the protocols it speaks.
    pub fn new(lock_hash: impl Into<Bytes>) -> Self {
        Self {
            // Peers up to v1.10 refuse what they do not know, whoever says it; `dv_client` tells
            // newer ones who speaks.
            version: "v1.11.0".to_owned(),
            lock_hash: lock_hash.into(),
            git_hash: "unknown".to_owned(),
            started_at: SystemTime::now(),
            builder_api: false,
            nickname: String::new(),
            dv_client: "pluto".to_owned(),
        }
    }

    /// The frame that answers a question at that time.
    pub fn answer(&self, now: SystemTime) -> Frame {
        Frame::encode(&self.message(now, self.git_hash.clone()))
    }

    /// The frame that asks. As Charon's, it does not say what it was built from.
    pub fn question(&self, now: SystemTime) -> Frame {
        Frame::encode(&self.message(now, String::new()))
    }

    fn message(&self, now: SystemTime, git_hash: String) -> pb::PeerInfo {
        pb::PeerInfo {
            charon_version: self.version.clone(),
            lock_hash: self.lock_hash.clone(),
            sent_at: Some(now.into()),
            git_hash,
            started_at: Some(self.started_at.into()),
            builder_api_enabled: self.builder_api,
            nickname: self.nickname.clone(),
            dv_client: self.dv_client.clone(),
        }
    }
}

/// What a peer told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its version as it wrote it, cut to [`MAX_TEXT`].
    pub version: String,
    /// The hash of its cluster lock.
    pub lock_hash: Bytes,
    /// When it says it sent this.
    pub sent_at: SystemTime,
    /// What it was built from.
    pub git_hash: String,
    /// When it says it was started.
    pub started_at: SystemTime,
    /// Whether it uses the builder API.
    pub builder_api: bool,
    /// What its operator calls it, cut to [`MAX_TEXT`], without control characters.
    pub nickname: String,
    /// The name of its software; `charon` where it gives none, as Charon up to v1.10 does.
    pub dv_client: String,
}

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InfoError {
    /// It is no such message.
    #[error("the answer cannot be read")]
    Decode(#[from] prost::DecodeError),
    /// It lacks a time.
    #[error("the answer does not say when it was {}", if *.started { "started" } else { "sent" })]
    NoTime {
        /// Whether the missing one is the start.
        started: bool,
    },
    /// A time lies outside of what a clock can show.
    #[error("the answer has an impossible time")]
    BadTime,
}

impl Info {
    /// Reads an answer.
    pub fn decode(body: &[u8]) -> Result<Self, InfoError> {
        let message = pb::PeerInfo::decode(body)?;
        let time = |time: Option<Timestamp>, started| {
            let time = time.ok_or(InfoError::NoTime { started })?;
            SystemTime::try_from(time).map_err(|_| InfoError::BadTime)
        };
        Ok(Self {
            version: clean(&message.charon_version),
            lock_hash: message.lock_hash,
            sent_at: time(message.sent_at, false)?,
            git_hash: clean(&message.git_hash),
            started_at: time(message.started_at, true)?,
            builder_api: message.builder_api_enabled,
            nickname: clean(&message.nickname),
            dv_client: match clean(&message.dv_client) {
                none if none.is_empty() => "charon".to_owned(),
                name => name,
            },
        })
    }

    /// How far the peer's clock is ahead, if the answer travelled half of the round trip.
    pub fn clock_offset(&self, received_at: SystemTime, round_trip: Duration) -> ClockOffset {
        let nanos = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
            Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
        };
        let half = i128::try_from(round_trip.as_nanos() / 2).unwrap_or(i128::MAX);
        let expected = nanos(received_at).saturating_sub(half);
        let offset = nanos(self.sent_at).saturating_sub(expected) / 1_000_000;
        ClockOffset {
            millis: i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX }),
        }
    }
}

/// How far a peer's clock is ahead of ours (negative: behind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClockOffset {
    /// Milliseconds.
    pub millis: i64,
}

impl ClockOffset {
    /// Seconds, clamped to an hour either way as Charon's metric is.
    pub fn as_secs_clamped(self) -> f64 {
        self.millis.clamp(-3_600_000, 3_600_000) as f64 / 1e3
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.millis < 0 { "behind" } else { "ahead" };
        let off = Duration::from_millis(self.millis.unsigned_abs());
        write!(f, "{off:?} {side}")
    }
}

/// A peer's text ends up in terminals, logs and labels: bounded, and without control characters.
fn clean(text: &str) -> String {
    let mut clean = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if clean.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_with_the_middle_of_the_round_trip() {
        let local = Local::new(vec![1; 32]);
        let sent = UNIX_EPOCH + Duration::from_secs(1_000);
        let info = Info::decode(&local.answer(sent).body()).unwrap();
        let offset = |received: u64, trip| {
            let received = UNIX_EPOCH + Duration::from_millis(received);
            info.clock_offset(received, Duration::from_millis(trip))
        };
        assert_eq!(offset(1_000_050, 100).millis, 0);
        assert_eq!(offset(1_000_000, 100).millis, 50);
        assert_eq!(offset(1_002_050, 100).to_string(), "2s behind");
        assert_eq!(offset(10_000_000, 0).as_secs_clamped(), -3600.0);
    }

    #[test]
    fn texts_of_a_peer_are_cut_and_cleaned() {
        let mut local = Local::new(vec![]);
        local.nickname = "\u{1b}[31mred\n".repeat(100);
        local.dv_client = String::new();
        let info = Info::decode(&local.answer(UNIX_EPOCH).body()).unwrap();
        assert!(info.nickname.len() <= MAX_TEXT);
        assert!(!info.nickname.contains(char::is_control));
        assert_eq!(info.dv_client, "charon");
    }

    #[test]
    fn an_answer_without_times_is_none() {
        assert_eq!(
            Info::decode(b"").unwrap_err(),
            InfoError::NoTime { started: false }
        );
        assert!(matches!(
            Info::decode(b"\xff\xff").unwrap_err(),
            InfoError::Decode(_)
        ));
    }
}
