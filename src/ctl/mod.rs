//! `wschatctl`: one command line, one connection to the daemon, one answer on standard output.
//!
//! It knows the control protocol and terminals, and nothing of chat, hub or sockets of clients.
//! Data goes to standard output and everything else to standard error.

pub mod args;
mod backup;
mod client;
mod columns;
mod commands;
mod drain;
mod failure;
mod kick;
mod log_level;
mod man;
mod moderation;
mod output;
mod rooms;
mod stats;
mod text;
mod top;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

pub use failure::status;
pub use man::page;

/// Runs one command line; the first argument is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match args::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads to the end is no failure.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { status::DONE } else { status::USAGE });
        }
    };
    match commands::run(&cli) {
        Ok(()) => ExitCode::from(status::DONE),
        Err(failure) => {
            if failure.status() != status::DONE {
                anstream::eprintln!("wschatctl: {failure}");
            }
            ExitCode::from(failure.status())
        }
    }
}
