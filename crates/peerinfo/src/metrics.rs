//! What is known of the peers, with Charon's names (p2p spec, section 12).

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use libp2p::PeerId;
use pluto_p2p::{P2PContext, metrics::Registrar};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{ClockOffset, Finding, Info, Local};

/// The gauges `app_peerinfo_*`. Their label `peer` is the peer id. A series exists for each member
/// that has answered once, and for this node.
#[derive(Debug, Clone)]
pub struct Metrics {
    clock_offset: Family<ByPeer, Gauge<f64, AtomicU64>>,
    version: Family<VersionOf, Gauge>,
    git_commit: Family<GitCommitOf, Gauge>,
    start_time: Family<ByPeer, Gauge>,
    index: Family<ByPeer, Gauge>,
    version_support: Family<ByPeer, Gauge>,
    builder_api: Family<ByPeer, Gauge>,
    nickname: Family<NicknameOf, Gauge>,
    dv_client: Family<DvClientOf, Gauge>,
    /// The texts that each peer's series carry, so that old ones go when they change.
    texts: Arc<Mutex<BTreeMap<PeerId, Texts>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Texts {
    version: String,
    git_hash: String,
    nickname: String,
    dv_client: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPeer {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionOf {
    peer: String,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GitCommitOf {
    peer: String,
    git_hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NicknameOf {
    peer: String,
    peer_nickname: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DvClientOf {
    peer: String,
    dv_client: String,
}

impl Metrics {
    /// Registers the gauges.
    pub fn register(registry: &mut Registry) -> Self {
        let mut peerinfo = Registrar(registry.sub_registry_with_prefix("app_peerinfo"));
        Self {
            clock_offset: peerinfo.make(
                "clock_offset_seconds",
                "How far the peer's clock is ahead, at most an hour either way",
            ),
            version: peerinfo.make("version", "Constant 1 with the peer's version"),
            git_commit: peerinfo.make("git_commit", "Constant 1 with what the peer was built from"),
            start_time: peerinfo.make(
                "start_time_secs",
                "When the peer was started, in seconds since 1970",
            ),
            index: peerinfo.make("index", "The peer's place in the cluster"),
            version_support: peerinfo
                .make("version_support", "Whether the peer's version fits ours"),
            builder_api: peerinfo.make(
                "builder_api_enabled",
                "Whether the peer uses the builder API",
            ),
            nickname: peerinfo.make("nickname", "Constant 1 with the peer's nickname"),
            dv_client: peerinfo.make(
                "dv_client",
                "Constant 1 with the name of the peer's software",
            ),
            texts: Arc::default(),
        }
    }

    pub(crate) fn set_local(&self, context: &P2PContext, local: &Local) {
        let Some(peer) = context.local_peer_id() else {
            return;
        };
        self.set_texts(
            peer,
            Texts {
                version: local.version.clone(),
                git_hash: local.git_hash.clone(),
                nickname: local.nickname.clone(),
                dv_client: local.dv_client.clone(),
            },
        );
        self.set_numbers(context, peer, local.started_at, local.builder_api);
    }

    pub(crate) fn set_peer(
        &self,
        context: &P2PContext,
        peer: PeerId,
        info: &Info,
        offset: ClockOffset,
        findings: &[Finding],
    ) {
        self.set_texts(
            peer,
            Texts {
                version: info.version.clone(),
                git_hash: info.git_hash.clone(),
                nickname: info.nickname.clone(),
                dv_client: info.dv_client.clone(),
            },
        );
        self.set_numbers(context, peer, info.started_at, info.builder_api);
        let supported = !findings.iter().any(Finding::is_version);
        let by_peer = ByPeer::from(peer);
        self.version_support
            .get_or_create(&by_peer)
            .set(supported.into());
        self.clock_offset
            .get_or_create(&by_peer)
            .set(offset.as_secs_clamped());
    }

    fn set_numbers(&self, context: &P2PContext, peer: PeerId, started: SystemTime, builder: bool) {
        let by_peer = ByPeer::from(peer);
        let seconds = started
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.start_time
            .get_or_create(&by_peer)
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
        self.builder_api.get_or_create(&by_peer).set(builder.into());
        let place = context.view().order.iter().position(|id| *id == peer);
        if let Some(place) = place.and_then(|place| i64::try_from(place).ok()) {
            self.index.get_or_create(&by_peer).set(place);
        }
    }

    fn set_texts(&self, peer: PeerId, texts: Texts) {
        let mut all = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let id = || peer.to_string();
        if let Some(old) = all.get(&peer).filter(|old| **old != texts) {
            let old = old.clone();
            self.version.remove(&VersionOf {
                peer: id(),
                version: old.version,
            });
            self.git_commit.remove(&GitCommitOf {
                peer: id(),
                git_hash: old.git_hash,
            });
            self.nickname.remove(&NicknameOf {
                peer: id(),
                peer_nickname: old.nickname,
            });
            self.dv_client.remove(&DvClientOf {
                peer: id(),
                dv_client: old.dv_client,
            });
        }
        all.insert(peer, texts.clone());
        self.version
            .get_or_create(&VersionOf {
                peer: id(),
                version: texts.version,
            })
            .set(1);
        self.git_commit
            .get_or_create(&GitCommitOf {
                peer: id(),
                git_hash: texts.git_hash,
            })
            .set(1);
        self.nickname
            .get_or_create(&NicknameOf {
                peer: id(),
                peer_nickname: texts.nickname,
            })
            .set(1);
        self.dv_client
            .get_or_create(&DvClientOf {
                peer: id(),
                dv_client: texts.dv_client,
            })
            .set(1);
    }
}

impl From<PeerId> for ByPeer {
    fn from(peer: PeerId) -> Self {
        Self {
            peer: peer.to_string(),
        }
    }
}
