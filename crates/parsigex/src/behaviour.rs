//! Takes partial signatures from peers, checks them off the network task, delivers them.
//!
//! - **Owner:** [`Rules`] holds each message from its arrival until the subscriber took it.
//! - **Wake-ups:** the exchange's inbound channel, finished checks, room in the subscriber's queue.
//! - **Bounds:** [`MAX_CHECKS`] messages are checked at once, on as many threads as there are cores;
//!   [`MAX_DELIVERED`] wait for the subscriber. At both bounds nothing more is taken from the
//!   exchange, which in turn stops reading. What is read and not taken within
//!   [`READ_TIMEOUT`](crate::READ_TIMEOUT) is refused, and told as [`Event::Rejected`].
//! - **Disconnect:** what has arrived is still checked and delivered.
//! - **Cancellation:** dropping the behaviour drops what is unchecked; a check that runs on a thread
//!   ends by itself within milliseconds.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{PeerId, swarm::ConnectionId};
use pluto_core::{DecodeError, Duty, ParSigEx, ShareIdx, threshold::Partial};
use pluto_p2p::{
    cores::Cores,
    exchange::{Core, Feature, Inbound, Rejected, Request},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::PollSender;

use crate::{
    gate::{Gate, GateError},
    members::{BindError, Members},
    verify::{Verifier, VerifyError, verify},
};

/// Messages in the making. Chosen freely: enough to keep all cores busy while some wait for one.
pub const MAX_CHECKS: usize = 32;
/// Checked messages that the subscriber has not taken: ten peers with some duties of a slot each.
pub const MAX_DELIVERED: usize = 256;

/// The behaviour.
pub type Behaviour = Feature<Rules>;

/// Partial signatures of a peer, checked.
#[derive(Debug, Clone)]
pub struct Received {
    /// The authenticated sender.
    pub peer: PeerId,
    /// Its share index.
    pub share_idx: ShareIdx,
    /// The duty and the signatures, by validator, as they were sent.
    pub message: ParSigEx,
    /// What the verifier read of each entry, by validator too: what a
    /// [`ThresholdStore`](pluto_core::threshold::ThresholdStore) takes. Empty with
    /// [`Unverified`](crate::Unverified), which reads nothing.
    pub partials: Vec<Partial>,
}

/// What the swarm's owner is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message was refused. Nothing of it was delivered.
    Refused {
        /// The authenticated sender.
        peer: PeerId,
        /// The connection it came on.
        connection: ConnectionId,
        /// The duty, if that much could be read.
        duty: Option<Duty>,
        /// Why.
        cause: Refusal,
    },
    /// A message was not checked, and nothing of it delivered: the verifier panicked, or the node is
    /// shutting down. The sender is not to blame.
    Unchecked {
        /// The authenticated sender.
        peer: PeerId,
        /// The connection it came on.
        connection: ConnectionId,
        /// The duty, if that much was read.
        duty: Option<Duty>,
    },
    /// A stream came to nothing before there was a message.
    Rejected(Rejected),
}

impl From<Rejected> for Event {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot be read.
    #[error("the message cannot be read")]
    Decode(#[from] DecodeError),
    /// The duty is none that is taken now.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The sender may not send it.
    #[error(transparent)]
    Sender(#[from] BindError),
    /// A signature is wrong.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// The rules: see the module's documentation.
pub struct Rules {
    members: Arc<Members>,
    gate: Arc<dyn Gate>,
    verifier: Arc<dyn Verifier>,
    cores: Cores,
    inbound: Inbound,
    checks: JoinSet<Result<Received, Event>>,
    out: PollSender<Received>,
    /// Checked, and waiting for room.
    ready: Option<Received>,
}

impl Rules {
    pub(crate) fn new(
        members: Arc<Members>,
        gate: Arc<dyn Gate>,
        verifier: Arc<dyn Verifier>,
        inbound: Inbound,
    ) -> (Self, mpsc::Receiver<Received>) {
        let (out, received) = mpsc::channel(MAX_DELIVERED);
        let rules = Self {
            members,
            gate,
            verifier,
            cores: Cores::all(),
            inbound,
            checks: JoinSet::new(),
            out: PollSender::new(out),
            ready: None,
        };
        (rules, received)
    }
}

impl Core for Rules {
    type Event = Event;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            // 1. Deliver. A subscriber that is gone wants nothing: what is checked is dropped.
            if self.ready.is_some() {
                match self.out.poll_reserve(cx) {
                    Poll::Ready(Ok(())) => {
                        if let Some(received) = self.ready.take() {
                            // Cannot fail after a reservation, unless the subscriber just went.
                            let _ = self.out.send_item(received);
                        }
                    }
                    Poll::Ready(Err(_)) => self.ready = None,
                    Poll::Pending => return Poll::Pending,
                }
            }
            // 2. Collect what is checked.
            match self.checks.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Ok(received)))) => {
                    self.ready = Some(received);
                    continue;
                }
                Poll::Ready(Some(Ok(Err(refused)))) => return Poll::Ready(refused),
                // Only when the runtime is shutting down.
                Poll::Ready(Some(Err(_))) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            // 3. Take more.
            if self.checks.len() >= MAX_CHECKS {
                return Poll::Pending;
            }
            match self.inbound.poll_recv(cx) {
                Poll::Ready(Some(request)) => {
                    let check = check(
                        request,
                        self.members.clone(),
                        self.gate.clone(),
                        self.verifier.clone(),
                        self.cores.clone(),
                    );
                    self.checks.spawn(check);
                }
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Everything that takes time, off the network task.
async fn check(
    request: Request,
    members: Arc<Members>,
    gate: Arc<dyn Gate>,
    verifier: Arc<dyn Verifier>,
    cores: Cores,
) -> Result<Received, Event> {
    let (peer, connection) = (request.peer, request.connection);
    let refused = |duty, cause| {
        tracing::debug!(%peer, %connection, ?duty, %cause, "partial signatures refused");
        Event::Refused {
            peer,
            connection,
            duty,
            cause,
        }
    };
    let unchecked = |duty| {
        tracing::warn!(%peer, %connection, ?duty, "partial signatures not checked");
        Event::Unchecked {
            peer,
            connection,
            duty,
        }
    };
    // The request is kept until its message is checked: its bytes count until then.
    let body = request.body.clone();
    let message = cores
        .run_sized(body.len(), move || ParSigEx::decode(&body))
        .await
        .ok_or_else(|| unchecked(None))?
        .map_err(|cause| refused(None, cause.into()))?;
    let duty = message.duty;
    gate.check(duty)
        .map_err(|cause| refused(Some(duty), cause.into()))?;
    let mut share_idx = None;
    for (_, data) in message.set.iter() {
        let bound = members
            .bind(peer, i64::from(data.share_idx.get()))
            .map_err(|cause| refused(Some(duty), cause.into()))?;
        share_idx = Some(bound);
    }
    let partials = verify(&cores, verifier, duty, &message.set)
        .await
        .ok_or_else(|| unchecked(Some(duty)))?
        .map_err(|cause| refused(Some(duty), cause.into()))?;
    match share_idx {
        Some(share_idx) => Ok(Received {
            peer,
            share_idx,
            message,
            partials,
        }),
        // A set is never empty.
        None => Err(refused(Some(duty), BindError::UnknownPeer { peer }.into())),
    }
}
