//! The program: everything is in the library, behind [`shadowvault::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    shadowvault::cli::run(std::env::args_os())
}
