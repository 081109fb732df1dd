//! `wschatctl`: see and steer the running wschat daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    wschat::ctl::run(std::env::args_os())
}
