//! The program: everything is in the library, behind [`shadowvault::cli`].

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    settle_allocator();
    shadowvault::cli::run(std::env::args_os())
}

/// Starts this program again, once, with glibc told to give memory back.
///
/// Left alone it keeps freed pack buffers in one arena for each thread that ever ran: a daemon grew from 80 to 457 MiB over
/// ten backups, and stays near 50 MiB with these. They are read before `main`, so setting them here would be too late.
/// If it cannot start again, it goes on as it is.
fn settle_allocator() {
    const SETTINGS: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "1048576")];
    if SETTINGS.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| program.clone().into());
        let _failure = Command::new(program).arg0(name).args(arguments).envs(SETTINGS).exec();
    }
}
