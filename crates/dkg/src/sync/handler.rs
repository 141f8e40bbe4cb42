//! The streams of one connection: one of ours if it holds the claim, some of the peer's.
//!
//! - **Owner:** the behaviour decides which connection has the claim; the handler opens, says and hears.
//! - **Wake-ups:** each stream has its own; a step that changes wakes the stream of ours.
//! - **Bounds:** one stream of ours, and for a moment the one it replaces; [`MAX_STREAMS`] of theirs, of
//!   which the oldest goes for a new one: one is all that counts. Frames: [`MAX_FRAME`](super::wire::MAX_FRAME)
//!   bytes.
//! - **Disconnect, cancellation:** dropping the handler drops the streams, and they give back what they
//!   hold.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::{Instant, SystemTime},
};

use either::Either;
use futures::{
    AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, future::BoxFuture, io::ReadHalf,
    stream::FuturesUnordered,
};
use libp2p::{
    PeerId, Stream, StreamProtocol,
    core::upgrade::{DeniedUpgrade, ReadyUpgrade},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use pluto_p2p::proto;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    HEARTBEAT, IDLE, PROTOCOL, STALL,
    core::{Heard, Verdict},
    reason::SignatureFault,
    shared::{Claim, Listening, Shared},
    wire::{self, FRAME_TIMEOUT},
};
use crate::pb::{MsgSync, MsgSyncResponse};

/// Streams of theirs on one connection.
const MAX_STREAMS: usize = 4;
/// Messages to a node of ours that are not answered. A ceremony has eight steps.
const MAX_UNANSWERED: usize = 8;

/// What the behaviour asks for.
#[derive(Debug)]
pub enum FromBehaviour {
    /// Open a stream.
    Open(Opening),
    /// End the stream with this ticket once everything on it is answered.
    Release(u64),
}

/// A stream that is to be opened, or is being.
#[derive(Debug)]
pub struct Opening(pub(crate) Claim);

/// What the handler reports: a stream of the peer came to nothing.
#[derive(Debug)]
pub struct Rejected(pub(crate) Rejection);

/// Why a stream of a peer ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// A message could not be read.
    #[error("a message could not be read")]
    Read(#[source] proto::Error),
    /// An answer could not be written.
    #[error("an answer could not be written")]
    Write(#[source] std::io::Error),
    /// An answer was not taken in time.
    #[error("an answer was not taken in time")]
    WriteTimeout,
}

/// See the module's documentation.
pub struct Handler {
    shared: Arc<Shared>,
    peer: PeerId,
    is_operator: bool,
    to_open: VecDeque<Opening>,
    outbound: FuturesUnordered<BoxFuture<'static, ()>>,
    release: Option<(u64, CancellationToken)>,
    inbound: VecDeque<BoxFuture<'static, Result<(), Rejection>>>,
}

impl Handler {
    pub(crate) fn new(shared: Arc<Shared>, peer: PeerId, is_operator: bool) -> Self {
        Self {
            shared,
            peer,
            is_operator,
            to_open: VecDeque::new(),
            outbound: FuturesUnordered::new(),
            release: None,
            inbound: VecDeque::new(),
        }
    }
}

type Offer = Either<ReadyUpgrade<StreamProtocol>, DeniedUpgrade>;

impl ConnectionHandler for Handler {
    type FromBehaviour = FromBehaviour;
    type ToBehaviour = Rejected;
    type InboundProtocol = Offer;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opening;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer, ()> {
        let offer = if self.is_operator {
            Either::Left(ReadyUpgrade::new(PROTOCOL))
        } else {
            Either::Right(DeniedUpgrade)
        };
        SubstreamProtocol::new(offer, ())
    }

    fn on_behaviour_event(&mut self, event: FromBehaviour) {
        match event {
            FromBehaviour::Open(opening) => {
                // From now on, so that a release during negotiation is not lost.
                self.release = Some((opening.0.ticket(), CancellationToken::new()));
                self.to_open.push_back(opening);
            }
            FromBehaviour::Release(ticket) => {
                self.to_open.retain(|opening| opening.0.ticket() != ticket);
                if let Some((held, release)) = &self.release
                    && *held == ticket
                {
                    release.cancel();
                }
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Offer, Self::OutboundProtocol, (), Opening>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: futures::future::Either::Left(stream),
                ..
            }) => {
                let Some(listening) = Listening::begin(&self.shared, self.peer) else {
                    return;
                };
                if self.inbound.len() >= MAX_STREAMS {
                    self.inbound.pop_front();
                }
                self.inbound.push_back(hear(listening, stream).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: Opening(claim),
            }) => {
                let release = match &self.release {
                    Some((ticket, release)) if *ticket == claim.ticket() => release.clone(),
                    // The claim has gone on in the meantime.
                    _ => return,
                };
                self.outbound.push(say(claim, stream, release).boxed());
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                tracing::debug!(peer = %self.peer, connection = %info.0.connection(), %error, "sync stream not opened");
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Opening, Rejected>> {
        while let Poll::Ready(Some(())) = self.outbound.poll_next_unpin(cx) {}
        if let Some(opening) = self.to_open.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), opening)
                    .with_timeout(STALL),
            });
        }
        for at in 0..self.inbound.len() {
            if let Poll::Ready(ended) = self.inbound[at].poll_unpin(cx) {
                drop(self.inbound.remove(at));
                // Be polled again for the others.
                cx.waker().wake_by_ref();
                return match ended {
                    Ok(()) => Poll::Pending,
                    Err(cause) => {
                        Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Rejected(cause)))
                    }
                };
            }
        }
        Poll::Pending
    }
}

/// Our stream: the first message at once, then each change, and one each [`HEARTBEAT`]. Ends by
/// dropping the claim.
async fn say(mut claim: Claim, stream: Stream, release: CancellationToken) {
    let shared = claim.shared().clone();
    let mut tells = shared.tell.subscribe();
    let (reader, mut writer) = stream.split();
    let mut reply = Box::pin(read_reply(reader));
    let mut unanswered = VecDeque::new();
    let mut beat = Box::pin(sleep(HEARTBEAT));
    let mut stall = Box::pin(sleep(STALL));
    let mut due = true;
    let mut last = false;
    let mut told = false;
    loop {
        // Charon takes one message at a time. Who a peer is may become known while the stream is open.
        let may_say =
            unanswered.is_empty() || (due && unanswered.len() < MAX_UNANSWERED && claim.is_pluto());
        if due && !last && may_say && !release.is_cancelled() {
            due = false;
            let tell = *tells.borrow_and_update();
            let Some(version) = tell.version else {
                return;
            };
            let message = shared
                .fixed
                .message(&tell, version.as_str(), SystemTime::now());
            let frame = wire::frame(&message);
            let write = async {
                writer.write_all(&frame).await?;
                writer.flush().await
            };
            match timeout(IDLE, write).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
            if unanswered.is_empty() {
                stall.as_mut().reset(tokio::time::Instant::now() + STALL);
            }
            unanswered.push_back(tell.shutdown);
            last = tell.shutdown;
            beat.as_mut().reset(tokio::time::Instant::now() + HEARTBEAT);
        }
        if release.is_cancelled() && unanswered.is_empty() {
            let _ = timeout(STALL, writer.close()).await;
            return;
        }
        tokio::select! {
            biased;
            (reader, answer) = &mut reply => {
                // An answer that nobody asked for, or none: the stream is of no use any more.
                let (Ok(answer), Some(was_shutdown)) = (answer, unanswered.pop_front()) else {
                    return;
                };
                claim.answered(was_shutdown, &answer.error);
                if was_shutdown {
                    let _ = timeout(STALL, writer.close()).await;
                    return;
                }
                // Once more and at once: whoever told us waits to see that we know.
                if !answer.error.is_empty() && !std::mem::replace(&mut told, true) {
                    due = true;
                }
                stall.as_mut().reset(tokio::time::Instant::now() + STALL);
                reply = Box::pin(read_reply(reader));
            }
            changed = tells.changed(), if !due && !last && !release.is_cancelled() => {
                if changed.is_err() {
                    return;
                }
                due = true;
            }
            () = &mut beat, if !due && unanswered.is_empty() => due = true,
            () = &mut stall, if !unanswered.is_empty() => {
                if claim.has_other_path() {
                    return;
                }
                stall.as_mut().reset(tokio::time::Instant::now() + STALL);
            }
            () = release.cancelled(), if !release.is_cancelled() => {}
        }
    }
}

async fn read_reply(
    mut reader: ReadHalf<Stream>,
) -> (ReadHalf<Stream>, Result<MsgSyncResponse, proto::Error>) {
    // How long an answer may take is for the caller to say: it may come after a partition.
    let answer = wire::read(&mut reader, std::time::Duration::MAX).await;
    (reader, answer)
}

/// A stream of theirs: each message is judged and answered.
async fn hear(listening: Listening, mut stream: Stream) -> Result<(), Rejection> {
    let Listening {
        shared,
        peer,
        stream: number,
    } = &listening;
    let mut verified: Option<bytes::Bytes> = None;
    let mut told = false;
    loop {
        let message: MsgSync = match wire::read(&mut stream, IDLE).await {
            Ok(message) => message,
            Err(proto::Error::Empty) => return Ok(()),
            Err(error) => return Err(Rejection::Read(error)),
        };
        // What was flushed may not have left this host yet; what comes after it says that it arrived.
        if told {
            shared.with(|core| core.on_end_known(*peer));
        }
        // One check a stream: a peer signs once.
        let signature: Result<(), SignatureFault> =
            if verified.as_ref() == Some(&message.hash_signature) {
                Ok(())
            } else {
                wire::verify(peer, &shared.definition_hash, &message.hash_signature)
            };
        if signature.is_ok() {
            verified = Some(message.hash_signature.clone());
        }
        let heard = Heard {
            version: &message.version,
            signature,
            step: message.step,
            shutdown: message.shutdown,
        };
        let verdict = shared.with(|core| core.on_message(*peer, *number, heard, Instant::now()));
        let Verdict::Answer { error, close } = verdict else {
            return Ok(());
        };
        told |= !error.is_empty();
        let answer = wire::frame(&wire::response(&message, error));
        let write = async {
            stream.write_all(&answer).await?;
            stream.flush().await
        };
        timeout(FRAME_TIMEOUT, write)
            .await
            .map_err(|_| Rejection::WriteTimeout)?
            .map_err(Rejection::Write)?;
        if told {
            shared.with(|core| core.on_end_sent(*peer));
        }
        if close {
            let _ = timeout(STALL, stream.close()).await;
            return Ok(());
        }
    }
}
