//! Requests that handlers are done with.
//!
//! Where the waiter has been told, nothing is left but the place that the request held: the behaviour
//! looks when it is polled next, and is woken only if somebody waits for a place. Otherwise each
//! request would have the whole swarm polled once more, in the way of the next one. What broke wakes
//! it always.
//!
//! - **Bounds:** [`MAX_HANDED`](super::MAX_HANDED) for each connection, since each stands for a place.
//! - **Disconnect:** what is noted of a connection that has closed changes nothing.

use std::{
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use libp2p::{PeerId, swarm::ConnectionId};

/// Shared by a behaviour and its handlers.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    notes: Vec<Note>,
    /// Whether somebody waits for a place.
    waits: bool,
    waker: Option<Waker>,
}

/// A request that has left its connection.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) job: u64,
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    /// Nobody waits for it any more, or this broke it and whether it is repeated is the behaviour's
    /// decision.
    pub(super) outcome: io::Result<()>,
}

impl Ended {
    /// By a handler.
    pub(super) fn push(&self, note: Note) {
        let mut state = self.state();
        let waker = match state.waits || note.outcome.is_err() {
            true => state.waker.take(),
            false => None,
        };
        state.notes.push(note);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// By the behaviour: what has ended. If there is nothing, it is woken by the next that matters.
    pub(super) fn take(&self, cx: &mut Context<'_>, waits: bool) -> Vec<Note> {
        let mut state = self.state();
        if state.notes.is_empty() {
            state.waits = waits;
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        mem::take(&mut state.notes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use futures::task::noop_waker;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_waits_for_a_place_is_woken_and_nobody_else() {
        let count = Arc::<Count>::default();
        let waker = count.clone().into();
        let mut cx = Context::from_waker(&waker);
        let ended = Ended::default();
        let woken = || count.0.load(Ordering::SeqCst);
        let peer = PeerId::random();
        let note = |job, outcome| Note {
            job,
            peer,
            connection: ConnectionId::new_unchecked(1),
            outcome,
        };
        let jobs = |notes: Vec<Note>| notes.iter().map(|note| note.job).collect::<Vec<_>>();

        assert!(ended.take(&mut cx, false).is_empty());
        ended.push(note(1, Ok(())));
        assert_eq!(woken(), 0);

        assert_eq!(jobs(ended.take(&mut cx, true)), [1]);
        assert!(ended.take(&mut cx, true).is_empty());
        ended.push(note(2, Ok(())));
        ended.push(note(3, Ok(())));
        assert_eq!(woken(), 1);

        assert_eq!(jobs(ended.take(&mut cx, false)), [2, 3]);
        assert!(ended.take(&mut cx, false).is_empty());
        ended.push(note(4, Err(io::ErrorKind::ConnectionReset.into())));
        assert_eq!(woken(), 2, "it is the behaviour's turn");

        // Somebody else polls it now.
        let other = noop_waker();
        let mut cx = Context::from_waker(&other);
        assert_eq!(jobs(ended.take(&mut cx, true)), [4]);
        assert!(ended.take(&mut cx, true).is_empty());
        ended.push(note(5, Ok(())));
        assert_eq!(woken(), 2);
    }
}
