//! The program: everything is in the library, behind [`shadowvault::cli`].

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    settle_allocator();
    shadowvault::cli::run(std::env::args_os())
}

/// Starts this program again, once, with glibc told how to keep memory and when to give it back.
///
/// Left alone it keeps freed pack buffers in one arena for each thread that ever ran: a daemon grew from 80 to 457 MiB over
/// ten backups. Packs (16 MiB) go back to the kernel at once; messages between nodes (1 MiB) do not, because fresh memory for
/// each of them took more than a third of a pull: a holder got 330 MB/s with the threshold at 1 MiB, and 530 with these. A
/// daemon over ten backups now settles at 83 MiB.
/// They are read before `main`, so setting them here would be too late. If it cannot start again, it goes on as it is.
fn settle_allocator() {
    const SETTINGS: [(&str, &str); 3] = [
        ("MALLOC_ARENA_MAX", "2"),
        ("MALLOC_MMAP_THRESHOLD_", "4194304"),
        ("MALLOC_TRIM_THRESHOLD_", "16777216"),
    ];
    if SETTINGS.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| program.clone().into());
        let _failure = Command::new(program).arg0(name).args(arguments).envs(SETTINGS).exec();
    }
}
