//! Work that takes a core, off the network task.

use std::{num::NonZeroUsize, sync::Arc};

use tokio::{sync::Semaphore, task::spawn_blocking};

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
