//! A bar on standard error for work that takes a while.

use std::{
    cell::Cell,
    io::{self, IsTerminal, Write},
};

/// Characters between the brackets.
const WIDTH: usize = 30;

/// How far something is. Where standard error is no terminal only the end is told.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    is_terminal: bool,
    /// Whether nothing of it stays when it is done.
    is_passing: bool,
    /// Whether the line that it stands in is not ended.
    is_open: Cell<bool>,
}

impl Progress {
    /// `what` is what is counted, and what happens to it: `keystores encrypted`.
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        Self {
            what,
            total,
            is_terminal: io::stderr().is_terminal(),
            is_passing: false,
            is_open: Cell::new(false),
        }
    }

    /// As [`new`](Self::new); when all are done it is taken away.
    pub(crate) fn passing(what: &'static str, total: usize) -> Self {
        let mut new = Self::new(what, total);
        new.is_passing = true;
        new
    }

    /// `done` of the total are done.
    pub(crate) fn show(&self, done: usize) {
        let Self { what, total, .. } = self;
        let ended = done == *total;
        if ended && self.is_passing && !self.is_terminal {
            return;
        }
        let mut stderr = io::stderr().lock();
        // Who cannot be told is not.
        let _ = if self.is_terminal {
            let bar = bar(done, *total);
            let end = match (ended, self.is_passing) {
                (false, _) => "",
                (true, false) => "\n",
                (true, true) => "\r\x1b[K",
            };
            self.is_open.set(!ended);
            write!(stderr, "\r[{bar}] {done} of {total} {what}{end}")
        } else if ended {
            writeln!(stderr, "{done} of {total} {what}")
        } else {
            Ok(())
        };
        let _ = stderr.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // It came to no end, and something is said of that.
        if self.is_open.get() {
            let _ = writeln!(io::stderr());
        }
    }
}

fn bar(done: usize, total: usize) -> String {
    let filled = (WIDTH * done)
        .checked_div(total)
        .unwrap_or(WIDTH)
        .min(WIDTH);
    format!("{}{}", "#".repeat(filled), "-".repeat(WIDTH - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_grows_from_empty_to_full() {
        assert_eq!(bar(0, 4), "-".repeat(WIDTH));
        assert_eq!(bar(1, 2), format!("{}{}", "#".repeat(15), "-".repeat(15)));
        assert_eq!(bar(4, 4), "#".repeat(WIDTH));
        assert_eq!(bar(0, 0), "#".repeat(WIDTH));
    }
}
