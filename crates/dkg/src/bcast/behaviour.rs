//! Signs what others broadcast, and takes what they deliver.
//!
//! - **Owner:** [`Rules`] holds each request from its arrival until it is answered or refused.
//! - **Wake-ups:** the exchange's inbound channel, finished work.
//! - **Bounds:** [`MAX_SERVED`] requests of one peer are held; further ones of that peer are refused.
//!   [`TURNS`] of them are worked on at once, on as many threads as there are cores, so that others wait
//!   for that many of a peer whose requests are slow. What was signed already is not checked again.
//! - **Disconnect:** what has arrived is still served; the same request may come on another
//!   connection and is answered again.
//! - **Cancellation:** dropping the behaviour ends every broadcast and every subscriber's stream.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::join_all;
use libp2p::{PeerId, swarm::ConnectionId};
use pluto_p2p::{
    exchange::{Core, Feature, Inbound, Rejected, Rejection, Request},
    proto::Frame,
};
use prost_types::Any;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    MSG, MessageId, Refusal, SIG,
    component::Shared,
    core::{Arrival, Equivocation, Phase},
    registry::{MAX_IDS, Parcel, Registered, Sender},
    wire::{self, Digest, Generation, Signature},
};

/// Requests of one peer that are served at once: each id collected and delivered, and that many
/// repetitions.
pub const MAX_SERVED: usize = 4 * MAX_IDS;

/// Requests of one peer that are worked on at once. An honest peer has hardly more under way.
pub const TURNS: usize = 2;

/// The behaviour.
pub type Behaviour = Feature<Rules>;

/// What the swarm's owner is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A peer said two things under one message id. Told once for each peer and id.
    Equivocation {
        /// The peer.
        peer: PeerId,
        /// Both.
        evidence: Box<Equivocation>,
    },
    /// Something was not signed, or not delivered.
    Refused {
        /// The authenticated sender.
        peer: PeerId,
        /// The connection it came on.
        connection: ConnectionId,
        /// Whether it was to be signed or was delivered.
        phase: Phase,
        /// The message id, if it is a registered one.
        id: Option<MessageId>,
        /// Why.
        cause: Refusal,
    },
    /// A stream came to nothing before there was a message.
    Rejected(Rejected),
}

impl From<Rejected> for Event {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

/// The rules: see the module's documentation.
pub struct Rules {
    shared: Arc<Shared>,
    inbound: Inbound,
    serving: JoinSet<(PeerId, Option<Event>)>,
    places: BTreeMap<PeerId, Places>,
}

/// The requests of one member.
struct Places {
    /// How many there are.
    taken: usize,
    turns: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            taken: 0,
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }
}

impl Rules {
    pub(super) fn new(shared: Arc<Shared>, inbound: Inbound) -> Self {
        Self {
            shared,
            inbound,
            serving: JoinSet::new(),
            places: BTreeMap::new(),
        }
    }

    /// Begins to serve it, or says why not.
    fn on_request(&mut self, request: Request) -> Option<Event> {
        let peer = request.peer;
        let cause = match self.shared.member(&peer) {
            None => Refusal::NotAMember,
            Some(member) => {
                let places = self.places.entry(peer).or_default();
                if places.taken < MAX_SERVED {
                    places.taken += 1;
                    let sender = Sender {
                        peer,
                        idx: member.idx,
                    };
                    let (shared, turns) = (self.shared.clone(), places.turns.clone());
                    self.serving.spawn(async move {
                        // Never closed; without it there would be no turn to give back.
                        let _turn = turns.acquire().await;
                        serve(request, sender, shared).await
                    });
                    return None;
                }
                Refusal::Busy
            }
        };
        Some(refused(&request, None, cause))
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        self.shared.closed.cancel();
        self.shared.registry.close();
    }
}

impl Core for Rules {
    type Event = Event;

    fn tells(&self, rejected: &Rejected) -> bool {
        // Charon does not wait for our confirmation.
        !matches!(rejected.cause, Rejection::Answer(_))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            // 1. What was served.
            match self.serving.poll_join_next(cx) {
                Poll::Ready(Some(Ok((peer, event)))) => {
                    if let Some(places) = self.places.get_mut(&peer) {
                        places.taken -= 1;
                    }
                    match event {
                        Some(event) => return Poll::Ready(event),
                        None => continue,
                    }
                }
                // Only when the runtime is shutting down: the work itself does not panic here.
                Poll::Ready(Some(Err(_))) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            // 2. What is asked for.
            match self.inbound.poll_recv(cx) {
                Poll::Ready(Some(request)) => {
                    if let Some(event) = self.on_request(request) {
                        return Poll::Ready(event);
                    }
                }
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn phase(request: &Request) -> Phase {
    if request.slot == MSG {
        Phase::Delivering
    } else {
        Phase::Collecting
    }
}

fn refused(request: &Request, id: Option<MessageId>, cause: Refusal) -> Event {
    let (peer, connection, phase) = (request.peer, request.connection, phase(request));
    let error = &cause as &dyn std::error::Error;
    tracing::debug!(%peer, %connection, %phase, id, error, "broadcast refused");
    Event::Refused {
        peer,
        connection,
        phase,
        id,
        cause,
    }
}

/// The request is kept until it is answered: its bytes count until then.
async fn serve(request: Request, sender: Sender, shared: Arc<Shared>) -> (PeerId, Option<Event>) {
    let mut id = None;
    let answer = match Generation::of(&request.id) {
        // It was agreed on before we chose another.
        Some(generation) if shared.chosen.get().is_some_and(|it| *it != generation) => {
            Err(Refusal::OtherGeneration)
        }
        Some(generation) if request.slot == SIG => {
            sign(&request.body, generation, sender, &shared, &mut id).await
        }
        Some(generation) => take(&request.body, generation, sender, &shared, &mut id).await,
        None => Err(Refusal::OtherGeneration),
    };
    let event = match answer {
        Ok(frame) => {
            request.respond(frame);
            None
        }
        Err(Refusal::Contradiction(contradiction)) if contradiction.is_new => {
            let peer = sender.peer;
            let evidence = id.and_then(|id| shared.ledger().equivocation(sender.idx, id));
            tracing::warn!(%peer, id, "peer said two things under one message id");
            evidence.map(|evidence| Event::Equivocation {
                peer,
                evidence: Box::new(evidence),
            })
        }
        Err(cause) => Some(refused(&request, id, cause)),
    };
    (sender.peer, event)
}

/// Signs what the peer broadcasts, if it may be.
pub(super) async fn sign(
    body: &Bytes,
    generation: Generation,
    sender: Sender,
    shared: &Arc<Shared>,
    id: &mut Option<MessageId>,
) -> Result<Frame, Refusal> {
    let (body, this) = (body.clone(), shared.clone());
    let work = move || {
        let received = match wire::read_sig_request(body) {
            Ok(received) => received,
            Err(cause) => return (None, Err(cause)),
        };
        let registered = match find(&this, &received.id) {
            Ok(registered) => registered,
            Err(cause) => return (None, Err(cause)),
        };
        let frame = sign_for(&this, generation, sender, &registered, &received.any);
        (Some(registered.id), frame)
    };
    let (found, frame) = shared.cores.run(work).await.ok_or(Refusal::Interrupted)?;
    *id = found;
    frame
}

fn sign_for(
    shared: &Shared,
    generation: Generation,
    sender: Sender,
    registered: &Registered,
    any: &Any,
) -> Result<Frame, Refusal> {
    let id = registered.id;
    check_type(registered, any)?;
    let digest = shared.digest(id, any);
    let hash = hash(shared, generation, id, any, digest);
    // A repetition was checked before.
    if let Some(signature) = shared.ledger().signature(sender.idx, id, &hash) {
        return Ok(wire::sig_response(id, signature));
    }
    registered.check(sender, &any.value)?;
    let mut ledger = shared.ledger();
    ledger.on_request(sender.idx, id, digest, &any.value)?;
    // It may have come twice at once.
    let signed = ledger.signature(sender.idx, id, &hash);
    drop(ledger);
    let signature = signed.unwrap_or_else(|| {
        let signature = shared.key.sign(&hash);
        let mut ledger = shared.ledger();
        ledger.on_signed(sender.idx, id, hash, signature);
        signature
    });
    Ok(wire::sig_response(id, signature))
}

/// Takes a delivery: everything is checked, then the subscriber gets it, then it is confirmed.
pub(super) async fn take(
    body: &Bytes,
    generation: Generation,
    sender: Sender,
    shared: &Arc<Shared>,
    id: &mut Option<MessageId>,
) -> Result<Frame, Refusal> {
    let (body, size, this) = (body.clone(), body.len(), shared.clone());
    let work = move || {
        let received = match wire::read_delivery(body) {
            Ok(received) => received,
            Err(cause) => return (None, Err(cause)),
        };
        let registered = match find(&this, &received.id) {
            Ok(registered) => registered,
            Err(cause) => return (None, Err(cause)),
        };
        let opened = open(&this, generation, sender, &registered, &received.any);
        let opened = opened.map(|opened| (opened, received.signatures));
        (Some(registered.id), opened)
    };
    let opened = shared.cores.run_sized(size, work).await;
    let (found, opened) = opened.ok_or(Refusal::Interrupted)?;
    *id = found;
    let (opened, signatures) = opened?;
    let own = shared
        .ledger()
        .signature(sender.idx, opened.id, &opened.hash);
    verify(shared, opened.hash, signatures, own).await?;
    let arrival = shared
        .ledger()
        .on_verified(sender.idx, opened.id, &opened.digest)?;
    if arrival == Arrival::First {
        (opened.parcel)();
    }
    Ok(wire::confirmation())
}

/// A delivery whose signatures are still to be checked.
struct Opened {
    id: MessageId,
    digest: Digest,
    hash: Digest,
    parcel: Parcel,
}

fn open(
    shared: &Shared,
    generation: Generation,
    sender: Sender,
    registered: &Registered,
    any: &Any,
) -> Result<Opened, Refusal> {
    let id = registered.id;
    check_type(registered, any)?;
    let digest = shared.digest(id, any);
    // Before the signatures, which cost more.
    shared.ledger().on_delivery(sender.idx, id, &digest)?;
    Ok(Opened {
        id,
        digest,
        hash: hash(shared, generation, id, any, digest),
        parcel: registered.parcel(sender, &any.value)?,
    })
}

/// One signature of each peer, in operator order, on all cores.
async fn verify(
    shared: &Arc<Shared>,
    hash: Digest,
    signatures: Vec<Bytes>,
    own: Option<Signature>,
) -> Result<(), Refusal> {
    let (n, got) = (shared.members.len(), signatures.len());
    if got != n {
        return Err(Refusal::SignatureCount { got, expected: n });
    }
    let signatures: Arc<[Bytes]> = signatures.into();
    let size = n.div_ceil(shared.cores.count());
    let parts = (0..n).step_by(size).map(|from| {
        let (this, signatures) = (shared.clone(), signatures.clone());
        let to = (from + size).min(n);
        shared
            .cores
            .run(move || verify_some(&this, &hash, &signatures, from..to, own))
    });
    for result in join_all(parts).await {
        result.ok_or(Refusal::Interrupted)??;
    }
    Ok(())
}

fn verify_some(
    shared: &Shared,
    hash: &Digest,
    signatures: &[Bytes],
    range: std::ops::Range<usize>,
    own: Option<Signature>,
) -> Result<(), Refusal> {
    for (member, signature) in shared.members[range.clone()].iter().zip(&signatures[range]) {
        // Ours as we gave it needs no check; in another form, such as with V = 27, it may be as good.
        if member.idx == shared.local && own.is_some_and(|own| own[..] == signature[..]) {
            continue;
        }
        wire::verify(&member.key, hash, signature).map_err(|source| Refusal::Signature {
            peer: member.peer,
            source,
        })?;
    }
    Ok(())
}

fn find(shared: &Shared, id: &str) -> Result<Registered, Refusal> {
    shared.registry.find(id).ok_or(Refusal::UnknownId)
}

fn check_type(registered: &Registered, any: &Any) -> Result<(), Refusal> {
    if any.type_url == *registered.type_url {
        Ok(())
    } else {
        Err(Refusal::OtherType)
    }
}

fn hash(
    shared: &Shared,
    generation: Generation,
    id: MessageId,
    any: &Any,
    digest: Digest,
) -> Digest {
    match generation {
        Generation::V2 => digest,
        Generation::V1 => shared.hash(generation, id, any),
    }
}
