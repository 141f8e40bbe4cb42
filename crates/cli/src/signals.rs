//! Ctrl-C and SIGTERM.
//!
//! - **Owner:** who made [`Signals`] awaits them. [`Stop`] has a thread that does, which ends with the
//!   program.
//! - **Cancellation:** [`Signals::next`] may be dropped at any await; no signal is lost.

use std::{
    io,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
    thread,
};

/// Who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// What a command that it ended early ends with, as shells do: 128 and the number of the signal.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Signals one after another.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl Signals {
    /// Listens from now on; none that comes later is missed, and none ends the program by itself.
    /// Within a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }
        #[cfg(windows)]
        Ok(Self {
            interrupt: tokio::signal::windows::ctrl_c()?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
        #[cfg(windows)]
        {
            self.interrupt.recv().await;
            Signal::Interrupt
        }
    }
}

/// A command that writes was told to end, and has removed what it had written.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a signal; nothing was made")]
pub(crate) struct Stopped(pub(crate) Signal);

/// For work that blocks: it asks between its steps whether to go on.
pub(crate) struct Stop(Arc<OnceLock<Signal>>);

impl Stop {
    /// Listens from now on: a signal is noticed here and does not end the program by itself.
    pub(crate) fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let mut signals = {
            let _within = runtime.enter();
            Signals::new()?
        };
        let first = Arc::new(OnceLock::new());
        let seen = Arc::clone(&first);
        thread::spawn(move || {
            let _ = seen.set(runtime.block_on(signals.next()));
        });
        Ok(Self(first))
    }

    /// Whether to go on.
    pub(crate) fn check(&self) -> ControlFlow<()> {
        match self.0.get() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }

    /// What there is to say if a signal has come.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.0.get().copied().map(Stopped)
    }
}
