//! The arguments: globals and the list of commands. Each command's own arguments stand in its file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::{
    backup, carry, config, device, diff, dump, find, forget, init, jobs, join, ls, peers, recover, restore,
    schedule, snapshots, stats, status, tag, verify,
};

/// Peer-to-peer backup: encrypted snapshots, sealed copies on friends' machines, self-repair, recovery from 24 words.
#[derive(Parser)]
#[command(name = "shadowvault", version, arg_required_else_help = true, max_term_width = 110)]
pub(super) struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// Arguments of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub(super) struct Globals {
    /// Configuration file, instead of the usual places
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The node's data directory (also SHADOWVAULT_REPO_PATH)
    #[arg(long, global = true, value_name = "DIR")]
    pub repo: Option<PathBuf>,
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Results as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress, no remarks
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log more on stderr; twice for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Never ask; fail instead
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Answer questions with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Read the passphrase from this file
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_command")]
    pub passphrase_file: Option<PathBuf>,
    /// Read the passphrase from what this shell command prints
    #[arg(long, global = true, value_name = "CMD")]
    pub passphrase_command: Option<OsString>,
    /// When to colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Colour,
}

/// When to colour.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make the node and its vault, and show the recovery phrase once
    Init(init::InitArgs),
    /// Show peer id, listen addresses and vault id
    Id,
    /// Run the node in the foreground
    Daemon,
    /// Show how things stand, verdict first
    Status(status::StatusArgs),
    /// List peers; let them in, remove them, find out why one is not connected
    Peers(peers::PeersArgs),
    /// Make a ticket with which one other machine can join
    Invite(join::InviteArgs),
    /// Become a peer of the machine that made a ticket
    Join(join::JoinArgs),
    /// List the vault's devices; revoke one that was lost or stolen
    Device(device::DeviceArgs),
    /// Back up files and directories
    Backup(backup::BackupArgs),
    /// List snapshots
    Snapshots(snapshots::SnapshotsArgs),
    /// List what is in a snapshot
    Ls(ls::LsArgs),
    /// Find files in snapshots by name
    Find(find::FindArgs),
    /// Show what differs between two snapshots
    Diff(diff::DiffArgs),
    /// Write a file of a snapshot, or a directory as a tar archive, to stdout
    Dump(dump::DumpArgs),
    /// Write sealed copies into a file, to carry them to a holder or keep them
    Export(carry::ExportArgs),
    /// Take in what `export` wrote: as copies for its owner, or as packs that are missing here
    Import(carry::ImportArgs),
    /// Show the vault or a snapshot in numbers
    Stats(stats::StatsArgs),
    /// Change the labels of snapshots
    Tag(tag::TagArgs),
    /// Keep snapshots whatever the rules of `forget` say
    Pin(tag::PinArgs),
    /// Let the rules of `forget` decide about snapshots again
    Unpin(tag::PinArgs),
    /// Forget snapshots: these, or all that no rule keeps
    Forget(forget::ForgetArgs),
    /// Delete what no snapshot needs any more
    Gc(forget::GcArgs),
    /// Bring files of a snapshot back
    Restore(restore::RestoreArgs),
    /// Check snapshots and everything they need
    Verify(verify::VerifyArgs),
    /// Check the packs here by their hashes, own and kept for others
    Scrub(verify::ScrubArgs),
    /// Mend damage from peers
    Repair(verify::RepairArgs),
    /// Bring a vault to this machine, from its phrase and one peer
    Recover(recover::RecoverArgs),
    /// Make the index anew from the stored files
    RebuildIndex(recover::RebuildArgs),
    /// Check and show the configuration
    Config(config::ConfigArgs),
    /// List and change what runs again and again
    Schedule(schedule::ScheduleArgs),
    /// List, show and cancel the daemon's jobs
    Jobs(jobs::JobsArgs),
    /// Follow what happens in the daemon
    Events(jobs::EventsArgs),
    /// Give a locked daemon the passphrase
    Unlock,
    /// Show the version
    Version,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_well_formed_and_p_stays_free() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for command in command.get_subcommands().chain([&command]) {
            assert!(command.get_arguments().all(|a| a.get_short() != Some('p')), "{}", command.get_name());
        }
    }

    #[test]
    fn usage_errors_exit_with_2_and_help_with_0() {
        let exit = |line: &str| Cli::try_parse_from(line.split(' ')).err().map(|error| error.exit_code());
        let table = [
            ("shadowvault snapshot", Some(2)),
            ("shadowvault backup", Some(2)),
            ("shadowvault restore latest", Some(2)),
            ("shadowvault backup /a --wait soon", Some(2)),
            ("shadowvault backup /a --wait-timeout 5", Some(2)),
            ("shadowvault backup /a -p x", Some(2)),
            ("shadowvault init --storage-only --phrase-out f", Some(2)),
            ("shadowvault status --passphrase-file a --passphrase-command b", Some(2)),
            ("shadowvault forget latest --keep-last 1", Some(2)),
            ("shadowvault forget --configured --keep-last 1", Some(2)),
            ("shadowvault forget --keep-daily 0", Some(2)),
            ("shadowvault gc --status --now", Some(2)),
            ("shadowvault pin", Some(2)),
            ("shadowvault forget --keep-last 1 --keep-within 30d --keep-tag a --keep-tag b --dry-run", None),
            ("shadowvault forget", None),
            ("shadowvault --help", Some(0)),
            ("shadowvault --version", Some(0)),
            ("shadowvault --json backup /a /b --tag x --wait copies --wait-timeout 5m -x", None),
            ("shadowvault backup /a --json --repo /r --socket /s -c /c -q --no-input -y", None),
            ("shadowvault peers", None),
            ("shadowvault peers add /ip4/1.2.3.4/tcp/9000 --name bob", None),
            ("shadowvault config show --effective --origin", None),
            ("shadowvault restore ab12:/etc --target /t --overwrite if-newer --no-owner --sparse", None),
            (
                "shadowvault restore ab12 --target /t --include a --include b --exclude c --delete --dry-run",
                None,
            ),
        ];
        for (line, code) in table {
            assert_eq!(exit(line), code, "{line}");
        }
    }

    #[test]
    fn a_mistyped_command_is_suggested() {
        let error = Cli::try_parse_from(["shadowvault", "snapshto"]).err().unwrap().to_string();
        assert!(error.contains("snapshots"), "{error}");
    }
}
