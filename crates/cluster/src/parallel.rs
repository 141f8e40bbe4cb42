//! The same work on many items, on the cores there are. The calling thread blocks.

use std::thread;

/// Fewer items than this are not worth a thread: a few milliseconds.
const MIN_ITEMS_PER_THREAD: usize = 16;

/// Calls `each` for parts of `items`, with the position of the part, on the cores there are.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    each: impl Fn(usize, &[T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let size = items.len().div_ceil(cores).max(MIN_ITEMS_PER_THREAD);
    if items.len() <= size {
        return each(0, items);
    }
    let each = &each;
    thread::scope(|scope| {
        let parts = items.chunks(size).enumerate();
        let threads = parts.map(|(part, items)| scope.spawn(move || each(part * size, items)));
        let threads: Vec<_> = threads.collect();
        let done = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        done.collect()
    })
}
