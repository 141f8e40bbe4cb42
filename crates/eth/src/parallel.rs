//! The same work on many items, on a bounded number of threads.

use std::{
    num::NonZeroUsize,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

/// More threads than this gain nothing: each derivation keeps a core busy, and scrypt its memory.
const MAX_THREADS: usize = 16;

/// One thread for each core, up to 16.
#[must_use]
pub fn threads() -> NonZeroUsize {
    let max = NonZeroUsize::new(MAX_THREADS).unwrap_or(NonZeroUsize::MIN);
    thread::available_parallelism().map_or(NonZeroUsize::MIN, |cores| cores.min(max))
}

/// Maps in order. `done` is called on this thread with each item's position when it is finished.
pub(crate) fn map<T: Sync, R: Send>(
    items: &[T],
    threads: NonZeroUsize,
    work: impl Fn(&T) -> R + Sync,
    mut done: impl FnMut(usize),
) -> Vec<R> {
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(threads.get());
        for _ in 0..threads.get().min(items.len()) {
            let sender = sender.clone();
            let (next, work) = (&next, &work);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    if sender.send((at, work(item))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (at, result) in receiver {
            results[at] = Some(result);
            done(at);
        }
    });
    // None is missing: a worker that does not answer has panicked, and so has the scope.
    results.into_iter().flatten().collect()
}

/// An amount that workers share; who asks for more than is left waits.
pub(crate) struct Budget {
    left: Mutex<usize>,
    returned: Condvar,
}

impl Budget {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            left: Mutex::new(total),
            returned: Condvar::new(),
        }
    }

    /// Runs `work` while holding `amount`, which must not be more than the total.
    pub(crate) fn with<R>(&self, amount: usize, work: impl FnOnce() -> R) -> R {
        let enough = |left: &mut usize| *left < amount;
        let mut left = self
            .returned
            .wait_while(self.left(), enough)
            .unwrap_or_else(PoisonError::into_inner);
        *left -= amount;
        drop(left);
        let _held = Held {
            budget: self,
            amount,
        };
        work()
    }

    fn left(&self) -> MutexGuard<'_, usize> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns its share also when the work panics.
struct Held<'a> {
    budget: &'a Budget,
    amount: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.budget.left() += self.amount;
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> NonZeroUsize {
        NonZeroUsize::new(3).unwrap()
    }

    #[test]
    fn results_keep_their_order_and_each_is_told() {
        let items: Vec<u32> = (0..100).collect();
        let mut done = Vec::new();

        let results = map(&items, three(), |item| item * 2, |at| done.push(at));

        assert_eq!(
            results,
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
        assert!(map(&[(); 0], three(), |()| (), |_| panic!("nothing to do")).is_empty());
    }

    #[test]
    fn no_more_of_the_budget_is_held_than_there_is() {
        let budget = Budget::new(2);
        let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));

        map(
            &[1, 2, 1, 1, 2, 1, 1, 1],
            three(),
            |amount| {
                budget.with(*amount, || {
                    let now = held.fetch_add(*amount, Ordering::SeqCst) + amount;
                    most.fetch_max(now, Ordering::SeqCst);
                    thread::yield_now();
                    held.fetch_sub(*amount, Ordering::SeqCst);
                });
            },
            |_| (),
        );

        assert!(most.into_inner() <= 2);
        assert_eq!(*budget.left(), 2);
    }
}
