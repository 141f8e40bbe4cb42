//! The `pluto` binary: arguments, terminal and exit codes. No protocol logic.
//!
//! Exit codes: 0 done, 1 it did not work, 2 wrong usage, 130 interrupted, 143 terminated. Wrong usage is
//! a flag that is missing, not known, or has a value that it cannot have.

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

use std::{error::Error, process::ExitCode};

use pluto_cluster::NewDefinitionError;
use pluto_eth::network::CustomError;

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
            say!("pluto {}", args::VERSION);
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        note!("error: {}", say::causes(&*error));
        match error.downcast_ref::<Stopped>() {
            Some(Stopped(signal)) => ExitCode::from(signal.exit_code()),
            None if is_wrong_usage(&*error) => ExitCode::from(WRONG_USAGE),
            None => ExitCode::FAILURE,
        }
    })
}

/// As clap has it.
const WRONG_USAGE: u8 = 2;

/// Whether what clap could not see is wrong with the flags.
fn is_wrong_usage(error: &(dyn Error + 'static)) -> bool {
    error.is::<CustomError>()
        || error.is::<args::EndpointError>()
        || error.is::<devnet::UsageError>()
        // Elsewhere definitions are read, and here they are made of flags.
        || error.is::<NewDefinitionError>()
        || error
            .downcast_ref::<create::CreateError>()
            .is_some_and(create::CreateError::is_wrong_usage)
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
