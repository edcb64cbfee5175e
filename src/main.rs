//! Picks Lambda or the command line; nothing else.

// The futures of a run are nested more deeply than the default of 128.
#![recursion_limit = "256"]

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        return refresh_worker::handlers::runtime::main(refresh_worker::app::handlers);
    }
    command_line()
}

#[cfg(feature = "cli")]
fn command_line() -> ExitCode {
    refresh_worker::cli::main(std::env::args_os())
}

#[cfg(not(feature = "cli"))]
fn command_line() -> ExitCode {
    eprintln!(
        "refresh-worker {} was built for AWS Lambda only (AWS_LAMBDA_RUNTIME_API is not set); build it with the feature `cli` \
         for its commands",
        env!("CARGO_PKG_VERSION")
    );
    ExitCode::from(2)
}
