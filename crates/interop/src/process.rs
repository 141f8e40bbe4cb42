//! A process with a log.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// How much of a log an error shows, in bytes.
const TAIL: usize = 2000;

/// A running process. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// Why a process did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It could not be started.
    #[error("{} cannot be run", binary.display())]
    Start {
        /// What was to be run.
        binary: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system does not say how it ended.
    #[error("nobody knows how {what} ended")]
    Lost {
        /// What was run.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{what} ended with {status}:\n{log}")]
    Failed {
        /// What was run.
        what: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It took too long.
    #[error("{what} took longer than {limit:?}:\n{log}")]
    TimedOut {
        /// What was run.
        what: String,
        /// How long it had.
        limit: Duration,
        /// The end of its log.
        log: String,
    },
}

impl Process {
    /// Starts a binary; both its outputs go to the log file.
    pub fn start(binary: &Path, args: &[String], log: PathBuf) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Start {
            binary: binary.to_owned(),
            source,
        };
        let out = File::create(&log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let child = Command::new(binary)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self { child, log })
    }

    /// Runs a binary to its end and gives what it printed.
    pub async fn finish(
        binary: &Path,
        args: &[String],
        log: PathBuf,
        limit: Duration,
    ) -> Result<String, ProcessError> {
        let process = Self::start(binary, args, log)?;
        let what: Vec<_> = args.iter().take(2).cloned().collect();
        process.ended(&what.join(" "), limit).await
    }

    /// Waits until it has ended by itself, and well, and gives what it printed. Errors call it `what`.
    pub async fn ended(mut self, what: &str, limit: Duration) -> Result<String, ProcessError> {
        let what = what.to_owned();
        match timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(self.log()),
            Ok(Ok(status)) => Err(ProcessError::Failed {
                what,
                status,
                log: self.tail(),
            }),
            Ok(Err(source)) => Err(ProcessError::Lost { what, source }),
            Err(_) => Err(ProcessError::TimedOut {
                what,
                limit,
                log: self.tail(),
            }),
        }
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of it.
    pub fn tail(&self) -> String {
        let log = self.log();
        let from = log.len().saturating_sub(TAIL);
        let from = (from..log.len()).find(|at| log.is_char_boundary(*at));
        log[from.unwrap_or(log.len())..].to_owned()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it and waits for its end.
    pub async fn stop(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }
}
