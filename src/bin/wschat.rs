//! The daemon. What it does is in the library; here is only what a process needs.

use std::process::ExitCode;

use clap::Parser;
use wschat::cli::{self, Args, exit};
use wschat::control::{give, places::Environment};
use wschat::{config, daemon};

fn main() -> ExitCode {
    ExitCode::from(run())
}

fn run() -> u8 {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Whatever it is (help, the version, a mistake), it goes where it belongs.
            let _ = error.print();
            return cli::usage_exit(&error);
        }
    };
    if args.check_config {
        let (text, status) = cli::run_check(&args.file_to_check());
        if status == exit::OK {
            print!("{text}");
        } else {
            eprint!("{text}");
        }
        return status;
    }
    let file = args.file(std::env::var_os("CONFIGURATION_DIRECTORY").as_deref());
    let config = match cli::load(file.as_deref()) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return exit::CONFIG;
        }
    };
    if args.print_config {
        print!("{}", config::print(&config));
        return exit::OK;
    }
    if args.give_sockets {
        let failed = give::give_all(&config, &Environment::of_process());
        failed.iter().for_each(|error| eprintln!("{error}"));
        return if failed.is_empty() { exit::OK } else { exit::FAILED };
    }
    daemon::run(config, file)
}
