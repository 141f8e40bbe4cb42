//! Broadcasts, and what they stand on.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::PeerId;
use pluto_core::PeerIdx;
use pluto_crypto::k1;
use pluto_p2p::{
    P2PContext,
    cores::Cores,
    exchange::{self, Done, QueueFull},
};
use prost::{Message, Name};
use prost_types::Any;
use tokio::{
    sync::{OnceCell, mpsc},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    CheckError, MSG, MessageId, SIG,
    agree::{Choice, Serves, choose},
    core::{Equivocation, Ledger, Next, Round},
    error::{AgreeError, BroadcastError, Cause, ConfigError, Failure},
    registry::{Delivered, RegisterError, Registry},
    wire::{self, Digest, Generation, Signature},
};
use crate::pb;

/// One of the operators.
pub(super) struct Member {
    pub(super) peer: PeerId,
    pub(super) idx: PeerIdx,
    pub(super) key: k1::PublicKey,
}

/// What component and behaviour share.
pub(super) struct Shared {
    pub(super) session: [u8; 32],
    pub(super) key: k1::SecretKey,
    pub(super) local: PeerIdx,
    /// In operator order, the local one among them.
    pub(super) members: Arc<[Member]>,
    pub(super) registry: Registry,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) cores: Cores,
    /// Set once.
    pub(super) chosen: OnceLock<Generation>,
    /// Cancelled with the behaviour.
    pub(super) closed: CancellationToken,
}

impl Shared {
    pub(super) fn new(
        peers: &[PeerId],
        key: k1::SecretKey,
        session: [u8; 32],
    ) -> Result<Arc<Self>, ConfigError> {
        let members = members(peers)?;
        let own = key.public_key();
        let local = members.iter().find(|member| member.key == own);
        let local = local.ok_or(ConfigError::NotAMember)?.idx;
        Ok(Arc::new(Self {
            session,
            key,
            local,
            members: members.into(),
            registry: Registry::default(),
            ledger: Mutex::default(),
            cores: Cores::all(),
            chosen: OnceLock::new(),
            closed: CancellationToken::new(),
        }))
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn member(&self, peer: &PeerId) -> Option<&Member> {
        let mut members = self.members.iter();
        members.find(|member| member.peer == *peer && member.idx != self.local)
    }

    /// By what a statement is known, in either generation.
    pub(super) fn digest(&self, id: MessageId, any: &Any) -> Digest {
        Generation::V2.hash(&self.session, id, &any.type_url, &any.value)
    }

    /// What is signed.
    pub(super) fn hash(&self, generation: Generation, id: MessageId, any: &Any) -> Digest {
        generation.hash(&self.session, id, &any.type_url, &any.value)
    }
}

fn members(peers: &[PeerId]) -> Result<Vec<Member>, ConfigError> {
    let mut members: Vec<Member> = Vec::with_capacity(peers.len());
    for (idx, peer) in (0..).map_while(PeerIdx::new).zip(peers.iter().copied()) {
        let key = k1::public_key_from_peer_id(&peer.to_bytes())
            .map_err(|source| ConfigError::Key { peer, source })?;
        if members.iter().any(|member| member.peer == peer) {
            return Err(ConfigError::Twice { peer });
        }
        members.push(Member { peer, idx, key });
    }
    Ok(members)
}

/// How long a component waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) agree: Duration,
    pub(super) sign: Duration,
    pub(super) deliver: Duration,
}

/// Registers message ids and broadcasts. Cheap to clone.
#[derive(Clone)]
pub struct Component {
    shared: Arc<Shared>,
    context: P2PContext,
    exchange: exchange::Handle,
    /// What this node serves, newest first.
    ours: Arc<[Generation]>,
    limits: Limits,
    agreed: Arc<OnceCell<Generation>>,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component")
            .field("local", &self.shared.local)
            .field("chosen", &self.shared.chosen.get())
            .finish_non_exhaustive()
    }
}

impl Component {
    pub(super) fn new(
        shared: Arc<Shared>,
        context: P2PContext,
        exchange: exchange::Handle,
        ours: Vec<Generation>,
        limits: Limits,
    ) -> Self {
        Self {
            shared,
            context,
            exchange,
            ours: ours.into(),
            limits,
            agreed: Arc::default(),
        }
    }

    /// The peers in operator order, the local one among them.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.shared.members.iter().map(|member| member.peer)
    }

    /// The place of this node among them.
    #[must_use]
    pub fn local(&self) -> PeerIdx {
        self.shared.local
    }

    /// This node's key.
    pub(crate) fn key(&self) -> &k1::SecretKey {
        &self.shared.key
    }

    /// The key of an operator.
    pub(crate) fn key_of(&self, idx: PeerIdx) -> Option<&k1::PublicKey> {
        Some(&self.shared.members.get(idx.as_usize())?.key)
    }

    /// Registers a message id, before any peer may use it.
    ///
    /// `check` sees each message of each peer before this node signs it; what it refuses is not
    /// signed, so that nobody gets it. It is called on a worker thread, and may be called again for
    /// the same message. It must not wait: as many calls as there are cores run at once.
    ///
    /// What comes out is signed by all peers. Each peer says one thing under one id: the stream holds
    /// everything that can come. It ends with the behaviour.
    pub fn register<M>(
        &self,
        id: MessageId,
        check: impl Fn(PeerId, PeerIdx, &M) -> Result<(), CheckError> + Send + Sync + 'static,
    ) -> Result<mpsc::Receiver<Delivered<M>>, RegisterError>
    where
        M: Message + Name + Default + 'static,
    {
        let others = self.shared.members.len() - 1;
        self.shared.registry.register(id, others, check)
    }

    /// Who said two things under one id, with both.
    #[must_use]
    pub fn equivocations(&self) -> Vec<Equivocation> {
        self.shared.ledger().equivocations().collect()
    }

    /// The generation that was chosen, if it was.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.shared.chosen.get().copied()
    }

    /// Chooses the generation, once: the newest that all peers serve. From then on this node serves
    /// no other. Every broadcast does this first.
    ///
    /// Waits until all have told what they serve, [`Config::agree_timeout`](super::Config) at most.
    /// May be dropped and called again.
    pub async fn agree(&self) -> Result<Generation, AgreeError> {
        let choose = self.agreed.get_or_try_init(|| self.choose());
        let closed = self.shared.closed.cancelled();
        tokio::select! {
            biased;
            () = closed => Err(AgreeError::Closed),
            chosen = choose => chosen.copied(),
        }
    }

    async fn choose(&self) -> Result<Generation, AgreeError> {
        for member in self.others() {
            self.context.want(member.peer);
        }
        let decided = self.context.wait_for(|_| {
            let peers = self.serves();
            match choose(&self.ours, &peers) {
                Choice::Chosen(generation) => Some(Ok(generation)),
                Choice::Open => None,
                Choice::Disjoint => Some(Err(AgreeError::NoneInCommon {
                    ours: self.ours.to_vec(),
                    peers,
                })),
            }
        });
        let generation = match timeout(self.limits.agree, decided).await {
            Ok(Ok(decided)) => decided?,
            Ok(Err(_)) => return Err(AgreeError::Closed),
            Err(_) => {
                let peers = self.serves();
                let silent = peers.iter().find(|it| it.generations.is_none());
                let why = silent.and_then(|it| self.context.why_not_connected(it.peer));
                return Err(AgreeError::Unknown {
                    peers,
                    why: why.map(Box::new),
                });
            }
        };
        let gone = |_| AgreeError::Closed;
        let offer = |slot, id| self.exchange.offer(slot, vec![id]);
        offer(SIG, generation.sig()).await.map_err(gone)?;
        offer(MSG, generation.msg()).await.map_err(gone)?;
        let generation = *self.shared.chosen.get_or_init(|| generation);
        tracing::info!(%generation, "broadcast protocol chosen");
        Ok(generation)
    }

    fn serves(&self) -> Vec<Serves> {
        let view = self.context.view();
        let serves = |member: &Member| Serves {
            peer: member.peer,
            generations: view
                .peer(&member.peer)
                .and_then(|state| state.identified.as_ref())
                .map(|identified| Generation::served(&identified.protocols)),
        };
        self.others().map(serves).collect()
    }

    fn others(&self) -> impl Iterator<Item = &Member> {
        let local = self.shared.local;
        let members = self.shared.members.iter();
        members.filter(move |member| member.idx != local)
    }

    /// Broadcasts: all peers sign the message, then all get it with all signatures.
    ///
    /// Resolves once every other peer has confirmed that it checked and took it, or names who did
    /// not. Each peer has its own time-out in each phase, in which what broke is repeated, on another
    /// connection if there is one. This node's own stream does not get it.
    ///
    /// Dropping the future cancels what is under way; some may have the message then. The same
    /// message may be broadcast again, another one under this id never.
    pub fn broadcast<M: Message + Name>(
        &self,
        id: MessageId,
        message: &M,
    ) -> impl Future<Output = Result<(), BroadcastError>> + Send + use<M> {
        let this = self.clone();
        let any = Any {
            type_url: wire::type_url(&M::full_name()),
            value: message.encode_to_vec(),
        };
        async move {
            let closed = this.shared.closed.clone();
            let result = closed.run_until_cancelled(this.run(id, any)).await;
            result.unwrap_or(Err(BroadcastError::Closed))
        }
    }

    async fn run(&self, id: MessageId, any: Any) -> Result<(), BroadcastError> {
        let registered = self.shared.registry.find(id);
        let registered = registered.ok_or(BroadcastError::NotRegistered { id })?;
        if any.type_url != *registered.type_url {
            let expected = registered.type_url;
            return Err(BroadcastError::OtherType { id, expected });
        }
        let generation = self.agree().await?;

        let (shared, size) = (self.shared.clone(), any.value.len());
        let prepare = move || {
            let digest = shared.digest(id, &any);
            let mut ledger = shared.ledger();
            let said = ledger.on_own(shared.local, id, digest, &any.value);
            drop(ledger);
            said.map_err(|_| BroadcastError::AlreadySaid { id })?;
            let hash = match generation {
                Generation::V2 => digest,
                Generation::V1 => shared.hash(generation, id, &any),
            };
            Ok::<_, BroadcastError>((any, hash))
        };
        let prepared = self.shared.cores.run_sized(size, prepare).await;
        let (any, hash) = prepared.ok_or(BroadcastError::Closed)??;

        let mut round = Round::new(self.shared.members.len(), self.shared.local);
        let signatures = self.collect(&mut round, id, &any, hash).await;
        if let Some(signatures) = signatures
            && self.deliver(&mut round, id, any, signatures).await
        {
            return Ok(());
        }
        let failures = round.into_failures();
        if failures.is_empty() {
            return Ok(()); // There is nobody else.
        }
        let peer = |idx: PeerIdx| self.shared.members[idx.as_usize()].peer;
        let failures = failures.into_iter().map(|(idx, phase, cause)| Failure {
            peer: peer(idx),
            phase,
            cause,
        });
        let failures: Vec<_> = failures.collect();
        let is_closed =
            |failure: &Failure| matches!(failure.cause, Cause::Exchange(exchange::Error::Closed));
        if failures.iter().all(is_closed) {
            return Err(BroadcastError::Closed);
        }
        Err(BroadcastError::Failed { id, failures })
    }

    /// Signatures of all, in operator order.
    async fn collect(
        &self,
        round: &mut Round<Cause>,
        id: MessageId,
        any: &Any,
        hash: Digest,
    ) -> Option<Vec<Signature>> {
        let frame = wire::sig_request(id, any);
        let by = Instant::now() + self.limits.sign;
        let mut work: FuturesUnordered<BoxFuture<'_, (PeerIdx, Result<Signature, Cause>)>> =
            FuturesUnordered::new();
        for member in self.others() {
            let call = self.exchange.call(member.peer, SIG, frame.clone(), by);
            let (idx, key, cores) = (member.idx, member.key, &self.shared.cores);
            let sign = async move {
                let done = call?.await?;
                let check = move || read_signature(done, &key, &hash);
                cores.run(check).await.ok_or(Cause::Interrupted)?
            };
            work.push(Box::pin(sign.map(move |result| (idx, result))));
        }
        // While the others are being asked.
        let (shared, local) = (self.shared.clone(), self.shared.local);
        let own = self.shared.cores.run(move || shared.key.sign(&hash));
        let own = own.map(move |signature| (local, signature.ok_or(Cause::Interrupted)));
        work.push(Box::pin(own));

        while let Some((idx, result)) = work.next().await {
            match round.on_signature(idx, result) {
                Next::Wait => {}
                Next::Deliver(signatures) => return Some(signatures),
                Next::Done => return None,
                Next::Failed => {
                    // Who else is known to have failed by now is named too.
                    while let Some(Some((idx, result))) = work.next().now_or_never() {
                        round.on_signature(idx, result);
                    }
                    return None;
                }
            }
        }
        None
    }

    /// Whether all have confirmed.
    async fn deliver(
        &self,
        round: &mut Round<Cause>,
        id: MessageId,
        any: Any,
        signatures: Vec<Signature>,
    ) -> bool {
        let frame = wire::delivery(id, any, &signatures);
        let by = Instant::now() + self.limits.deliver;
        let confirm = |member: &Member| {
            let call = self.exchange.call(member.peer, MSG, frame.clone(), by);
            let idx = member.idx;
            async move { (idx, confirmed(call).await) }
        };
        let mut work: FuturesUnordered<_> = self.others().map(confirm).collect();
        while let Some((idx, result)) = work.next().await {
            match round.on_delivery(idx, result) {
                Next::Wait | Next::Deliver(_) => {}
                Next::Done => return true,
                Next::Failed => return false,
            }
        }
        false
    }
}

async fn confirmed(call: Result<exchange::Call, QueueFull>) -> Result<(), Cause> {
    call?.await?;
    Ok(())
}

/// The id in the answer does not count (dkg spec, section 3.1); the signature does.
fn read_signature(done: Done, key: &k1::PublicKey, hash: &Digest) -> Result<Signature, Cause> {
    let answer = pb::BCastSigResponse::decode(done.body)?;
    Ok(wire::verify(key, hash, &answer.signature)?)
}
