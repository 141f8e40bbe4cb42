//! Work that takes a core, off the network task.

use std::{num::NonZeroUsize, sync::Arc};

use tokio::{sync::Semaphore, task::spawn_blocking};

/// Up to so many bytes are decoded and hashed where they are: that is some microseconds, as many as
/// handing them to another thread and back. Chosen freely; a node signature has 70.
const SMALL: usize = 4 << 10;

/// The cores that one component may use at once.
#[derive(Debug, Clone)]
pub(super) struct Workers {
    permits: Arc<Semaphore>,
    pub(super) count: usize,
}

impl Workers {
    /// All that the machine has.
    pub(super) fn all() -> Self {
        let count = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            permits: Arc::new(Semaphore::new(count)),
            count,
        }
    }

    /// Runs work that takes as long as its bytes are many: here, or on a worker thread.
    pub(super) async fn run_sized<T: Send + 'static>(
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
    pub(super) async fn run<T: Send + 'static>(
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
