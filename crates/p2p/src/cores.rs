//! Work that takes a core, off the network task.
//!
//! - **Owner:** each component has its own [`Cores`]; what it clones share one bound.
//! - **Bounds:** as many pieces of work at once as there are cores. Further ones wait, in order.
//! - **Cancellation:** dropping the future of work that waits drops the work. What runs on a thread
//!   already runs to its end, and has its core until then.

use std::{num::NonZeroUsize, sync::Arc};

use tokio::{sync::Semaphore, task::spawn_blocking};

/// Up to so many bytes are decoded and hashed where they are: that is some microseconds, as many as
/// handing them to another thread and back. Chosen freely; a node signature has 70, a partial signature
/// with its duty some hundred.
const SMALL: usize = 4 << 10;

/// The cores that one component may use at once.
#[derive(Debug, Clone)]
pub struct Cores {
    permits: Arc<Semaphore>,
    count: usize,
}

impl Cores {
    /// All that the machine has.
    pub fn all() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    fn new(count: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count)),
            count,
        }
    }

    /// How many there are, at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs work that takes as long as its bytes are many: here, or on a worker thread.
    pub async fn run_sized<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if bytes <= SMALL {
            return Some(work());
        }
        self.run(work).await
    }

    /// Runs work on a worker thread once a core is free. `None` if it panicked or the runtime ends.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        let work = move || {
            let _permit = permit;
            work()
        };
        spawn_blocking(work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn no_more_runs_at_once_than_there_are_cores() {
        let cores = Cores::new(2);
        let running = Arc::new(AtomicUsize::new(0));
        // Each waits for another one, so that two do run at once.
        let pair = Arc::new(Barrier::new(2));
        let works = (0..16).map(|_| {
            let (running, pair) = (running.clone(), pair.clone());
            cores.run(move || {
                let at_once = running.fetch_add(1, Ordering::SeqCst) + 1;
                pair.wait();
                running.fetch_sub(1, Ordering::SeqCst);
                at_once
            })
        });
        assert_eq!(join_all(works).await.into_iter().max(), Some(Some(2)));
    }

    #[tokio::test]
    async fn what_is_small_is_done_where_it_is() {
        let cores = Cores::all();
        let here = || std::thread::current().id();
        assert_eq!(cores.run_sized(SMALL, here).await, Some(here()));
        assert_ne!(cores.run_sized(SMALL + 1, here).await, Some(here()));
    }

    #[tokio::test]
    async fn work_that_panics_is_none_and_gives_its_core_back() {
        let cores = Cores::new(1);
        assert_eq!(cores.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(cores.run(|| 7).await, Some(7));
    }
}
