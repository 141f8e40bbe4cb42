//! One outbound request, and the handle that makes them.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use libp2p::{PeerId, StreamProtocol};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Done, Error, MAX_OUTSTANDING, Slot, Step};
use crate::proto::Frame;

/// Commands that the behaviour has not taken yet; it takes them whenever it is polled.
const COMMANDS: usize = 1024;

/// Too many requests to one peer are unfinished; nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue to peer {peer} is full ({limit} messages): it reads slower than we send")]
pub struct QueueFull {
    /// The receiver.
    pub peer: PeerId,
    /// The bound that was met.
    pub limit: usize,
}

pub(super) enum Command {
    Call(Arc<Job>),
    Offer(Slot, Vec<StreamProtocol>),
}

/// One request. Behaviour and handler share it, so that none is lost with a connection.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) peer: PeerId,
    pub(super) slot: Slot,
    pub(super) frame: Frame,
    pub(super) by: Instant,
    step: AtomicU8,
    waiter: Mutex<Option<Waiter>>,
}

struct Waiter {
    reply: oneshot::Sender<Result<Done, Error>>,
    /// Given back with the answer, or when the call is dropped.
    outstanding: Option<Outstanding>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("slot", &self.slot)
            .field("step", &self.step())
            .finish_non_exhaustive()
    }
}

impl Job {
    pub(super) fn step(&self) -> Step {
        match self.step.load(Ordering::Acquire) {
            0 => Step::Opening,
            1 => Step::Writing,
            _ => Step::Reading,
        }
    }

    pub(super) fn set_step(&self, step: Step) {
        let step = match step {
            Step::Opening => 0,
            Step::Writing => 1,
            Step::Reading => 2,
        };
        self.step.store(step, Ordering::Release);
    }

    /// Whether a byte of the frame may have left.
    pub(super) fn has_started(&self) -> bool {
        self.step() != Step::Opening
    }

    /// Tells the waiter, once.
    pub(super) fn finish(&self, result: Result<Done, Error>) {
        let waiter = self.waiter().take();
        if let Some(Waiter { reply, outstanding }) = waiter {
            // First, so that whoever is told has its place again.
            drop(outstanding);
            // The waiter may be gone.
            let _ = reply.send(result);
        }
    }

    /// Gives the place back. That nobody waits any more shows in the channel, which wakes whoever is at it.
    fn cancel(&self) {
        if let Some(waiter) = self.waiter().as_mut() {
            waiter.outstanding = None;
        }
    }

    /// Whether nobody waits any more.
    pub(super) fn is_finished(&self) -> bool {
        let waiter = self.waiter();
        waiter
            .as_ref()
            .is_none_or(|waiter| waiter.reply.is_closed())
    }

    /// Resolves once nobody waits any more.
    pub(super) async fn finished(&self) {
        std::future::poll_fn(|cx| match self.waiter().as_mut() {
            Some(waiter) => waiter.reply.poll_closed(cx),
            None => Poll::Ready(()),
        })
        .await;
    }

    fn waiter(&self) -> MutexGuard<'_, Option<Waiter>> {
        self.waiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    counts: Arc<Mutex<BTreeMap<PeerId, usize>>>,
    next: Arc<AtomicU64>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(job) => f.debug_tuple("Call").field(job).finish(),
            Self::Offer(slot, ids) => f.debug_tuple("Offer").field(slot).field(ids).finish(),
        }
    }
}

pub(super) fn channel() -> (Handle, mpsc::Receiver<Command>) {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let handle = Handle {
        commands,
        counts: Arc::default(),
        next: Arc::default(),
    };
    (handle, receiver)
}

impl Handle {
    /// Begins an exchange that ends at `by` at the latest. The frame is shared, not copied.
    pub fn call(
        &self,
        to: PeerId,
        slot: Slot,
        frame: Frame,
        by: Instant,
    ) -> Result<Call, QueueFull> {
        let outstanding = Outstanding::take(&self.counts, to)?;
        let (reply, result) = oneshot::channel();
        let job = Arc::new(Job {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            peer: to,
            slot,
            frame,
            by,
            step: AtomicU8::new(0),
            waiter: Mutex::new(Some(Waiter {
                reply,
                outstanding: Some(outstanding),
            })),
        });
        let call = Call {
            result,
            job: Arc::downgrade(&job),
        };
        match self.commands.try_send(Command::Call(job)) {
            // A closed channel drops the job, and the call resolves to `Closed`.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(call),
            Err(mpsc::error::TrySendError::Full(_)) => Err(QueueFull {
                peer: to,
                limit: COMMANDS,
            }),
        }
    }

    /// Serves and offers only these of a protocol's ids from now on.
    pub async fn offer(&self, slot: Slot, ids: Vec<StreamProtocol>) -> Result<(), Error> {
        self.commands
            .send(Command::Offer(slot, ids))
            .await
            .map_err(|_| Error::Closed)
    }
}

/// The outcome of one exchange. Dropping it cancels, and frees its place at once.
#[derive(Debug)]
#[must_use = "dropping a call cancels it"]
pub struct Call {
    result: oneshot::Receiver<Result<Done, Error>>,
    /// Weak: the end of the behaviour drops the job, which ends the call.
    job: Weak<Job>,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(job) = self.job.upgrade() {
            job.cancel();
        }
    }
}

impl Future for Call {
    type Output = Result<Done, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result)
            .poll(cx)
            .map(|result| result.unwrap_or(Err(Error::Closed)))
    }
}

/// One place among a peer's unfinished requests.
struct Outstanding {
    counts: Arc<Mutex<BTreeMap<PeerId, usize>>>,
    peer: PeerId,
}

impl Outstanding {
    fn take(counts: &Arc<Mutex<BTreeMap<PeerId, usize>>>, peer: PeerId) -> Result<Self, QueueFull> {
        let mut map = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = map.entry(peer).or_default();
        if *count >= MAX_OUTSTANDING {
            return Err(QueueFull {
                peer,
                limit: MAX_OUTSTANDING,
            });
        }
        *count += 1;
        Ok(Self {
            counts: counts.clone(),
            peer,
        })
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        let mut map = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = map.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                map.remove(&self.peer);
            }
        }
    }
}
