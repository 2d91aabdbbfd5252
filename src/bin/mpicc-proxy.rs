//! The user's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mpicc_proxy::cli::main(std::env::args_os().collect()).into()
}
