//! The `pluto` binary: arguments, terminal and exit codes. No protocol logic.
//!
//! Exit codes: 0 done, 1 it did not work, 2 wrong usage, 130 interrupted, 143 terminated.

#![warn(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "these panic where nobody reads; see `say`"
)]

mod args;
mod combine;
mod create;
mod devnet;
mod enr;
mod nodes;
mod progress;
mod relay;
mod say;
mod signals;
mod verify;

use std::process::ExitCode;

use self::{
    args::{Args, Command, Create},
    say::{note, say},
    signals::Stopped,
};

fn main() -> ExitCode {
    let args = Args::read();
    log_to_stderr();
    let result = match args.command {
        Command::Devnet(devnet) => devnet::run(devnet),
        Command::Relay(args) => relay::run(*args),
        Command::Enr(target) => enr::show(&target),
        Command::Combine(args) => combine::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Create(Create::Enr(target)) => enr::create(&target),
        Command::Create(Create::Dkg(args)) => create::dkg(&args),
        Command::Create(Create::Cluster(args)) => create::cluster(&args),
        Command::Version => {
            say!("pluto v{}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        note!("error: {}", say::causes(&*error));
        match error.downcast_ref::<Stopped>() {
            Some(Stopped(signal)) => ExitCode::from(signal.exit_code()),
            None => ExitCode::FAILURE,
        }
    })
}

/// Logs go to standard error, where data on standard output is not disturbed. `RUST_LOG` chooses.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Nobody reads them: that is no error to print where nobody reads.
        .log_internal_errors(false)
        .init();
}
