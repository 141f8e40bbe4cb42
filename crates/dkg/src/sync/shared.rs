//! What handlers, behaviour and handles of one node share.
//!
//! - **Owner:** the core behind a lock that is held for one event at a time, never over I/O.
//! - **Wake-ups:** [`Shared::with`] publishes what has changed and wakes the behaviour when it has
//!   something to do or must be called earlier.
//! - **Ends:** [`Claim`] and [`Listening`] tell the core when they are dropped, wherever that is: in a
//!   handler, in a stream under negotiation, in a command that its connection did not live to see.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use futures::task::AtomicWaker;
use libp2p::{PeerId, swarm::ConnectionId};
use tokio::sync::watch;

use super::{
    core::{Core, End, Progress, Tell},
    wire::Fixed,
};

#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    pub(crate) tell: watch::Sender<Tell>,
    pub(crate) progress: watch::Sender<Arc<Progress>>,
    pub(crate) waker: AtomicWaker,
    /// When the ceremony ended.
    ended: OnceLock<tokio::time::Instant>,
    pub(crate) definition_hash: [u8; 32],
    pub(crate) fixed: Fixed,
}

#[derive(Debug)]
struct Inner {
    core: Core,
    /// When the behaviour wakes by itself.
    alarm: Option<Instant>,
}

impl Shared {
    pub(crate) fn new(core: Core, definition_hash: [u8; 32], fixed: Fixed) -> Arc<Self> {
        Arc::new(Self {
            tell: watch::Sender::new(core.tell()),
            progress: watch::Sender::new(Arc::new(core.progress())),
            inner: Mutex::new(Inner { core, alarm: None }),
            waker: AtomicWaker::new(),
            ended: OnceLock::new(),
            definition_hash,
            fixed,
        })
    }

    /// Lets something happen, and tells everybody what came of it.
    pub(crate) fn with<R>(&self, happens: impl FnOnce(&mut Core) -> R) -> R {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let result = happens(&mut inner.core);
        let tell = inner.core.tell();
        self.tell.send_if_modified(|told| {
            let modified = *told != tell;
            *told = tell;
            modified
        });
        if let Some(progress) = inner.core.take_progress() {
            if progress.ended.is_some() {
                self.ended.get_or_init(tokio::time::Instant::now);
            }
            self.progress.send_replace(Arc::new(progress));
        }
        let earlier = match (inner.core.next_deadline(), inner.alarm) {
            (Some(deadline), Some(alarm)) => deadline < alarm,
            (deadline, _) => deadline.is_some(),
        };
        let wake = earlier || inner.core.has_actions();
        drop(inner);
        if wake {
            self.waker.wake();
        }
        result
    }

    /// When the ceremony ended, if it has.
    pub(crate) fn ended_at(&self) -> Option<tokio::time::Instant> {
        self.ended.get().copied()
    }

    /// When the behaviour is to wake by itself. It remembers that.
    pub(crate) fn set_alarm(&self) -> Option<Instant> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.alarm = inner.core.next_deadline();
        inner.alarm
    }
}

/// The right to the one stream of ours to a peer. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Claim {
    shared: Arc<Shared>,
    peer: PeerId,
    connection: ConnectionId,
    ticket: u64,
    end: End,
}

impl Claim {
    /// Takes it for this connection, if it is still to be had.
    pub(crate) fn take(
        shared: &Arc<Shared>,
        peer: PeerId,
        connection: Option<ConnectionId>,
    ) -> Option<Self> {
        let ticket = shared.with(|core| core.take(peer, connection, Instant::now()))?;
        Some(Self {
            shared: shared.clone(),
            peer,
            connection: connection?,
            ticket,
            end: End::Broken,
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    pub(crate) fn connection(&self) -> ConnectionId {
        self.connection
    }

    pub(crate) fn is_pluto(&self) -> bool {
        self.shared.with(|core| core.is_pluto(self.peer))
    }

    pub(crate) fn has_other_path(&self) -> bool {
        self.shared
            .with(|core| core.has_other_path(self.peer, self.connection))
    }

    /// The peer has answered.
    pub(crate) fn answered(&mut self, was_shutdown: bool, error: &str) {
        let now = Instant::now();
        self.shared
            .with(|core| core.on_reply(self.peer, self.ticket, was_shutdown, error, now));
        if was_shutdown {
            self.end = End::Done;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let now = Instant::now();
        self.shared
            .with(|core| core.on_claim_ended(self.peer, self.ticket, self.end, now));
    }
}

/// One stream of a peer. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: PeerId,
    pub(crate) stream: u64,
}

impl Listening {
    /// Begins, if the peer is an operator.
    pub(crate) fn begin(shared: &Arc<Shared>, peer: PeerId) -> Option<Self> {
        let stream = shared.with(|core| core.on_stream(peer))?;
        Some(Self {
            shared: shared.clone(),
            peer,
            stream,
        })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared
            .with(|core| core.on_stream_ended(self.peer, self.stream));
    }
}
