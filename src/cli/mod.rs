//! The command line: reads arguments, asks a node, shows the answer, ends with the exit code that belongs to it.
//!
//! A command speaks to the daemon when its control socket answers, and opens the store itself when not; either way
//! through [`api::Service`](crate::api::Service). Deciding (verbs) stands apart from rendering (functions that return
//! text). stdout carries results only, JSON only with `--json`; progress, warnings and errors go to stderr. What
//! others named (files, peers, hosts) is escaped before it reaches a terminal.

mod args;
mod backup;
mod carry;
mod command;
mod config;
mod daemon;
mod device;
mod diff;
mod dump;
mod entries;
mod explain;
mod find;
mod forget;
mod init;
mod input;
mod job;
mod jobs;
mod join;
mod limits;
mod logging;
mod ls;
mod output;
mod passphrase;
mod peers;
mod ports;
mod progress;
mod recover;
mod reference;
mod restore;
mod schedule;
mod selecting;
mod session;
mod snapshots;
mod stats;
mod status;
mod tag;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use output::Output;
use session::Session;

use crate::api::ApiError;
use crate::base::Code;

/// Runs one command; `arguments` begin with the program's name.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(refusal) => return refuse(&refusal, arguments.iter().any(|argument| argument == "--json")),
    };
    let output = Output::new(&cli.globals);
    quiet_index_checks();
    limits::settle();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| ApiError::new(Code::ResourceExhausted, format!("starting threads: {error}")))
        .and_then(|runtime| {
            let result = runtime.block_on(dispatch(cli, &output));
            // A prompt that nobody answered must not keep the program from ending.
            runtime.shutdown_background();
            result
        });
    ExitCode::from(output.end(result))
}

/// A damaged index fails checks inside redb by panics that are caught and told as what they are.
fn quiet_index_checks() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !crate::store::is_guarded() {
            usual(panic);
        }
    }));
}

/// Help and version, which are "errors" of clap that succeed, and arguments that make no sense.
fn refuse(refusal: &clap::Error, json: bool) -> ExitCode {
    if json && refusal.use_stderr() {
        let text = refusal.render().to_string();
        let first = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        let message = first.split_whitespace().collect::<Vec<_>>().join(" ");
        let error =
            ApiError::new(Code::UsageInvalid, message).with_hint("`shadowvault help` lists the commands");
        writeln!(io::stderr(), "{}", output::exit_error(&error, error.kind().exit())).ok();
    } else {
        // Help that does not get out is a failure; a refusal is one anyway.
        match refusal.print().and_then(|()| io::stdout().flush()) {
            Err(error) if !refusal.use_stderr() => return unheard(&error),
            _ => {}
        }
    }
    ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2))
}

fn unheard(error: &io::Error) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitCode::from(output::CLOSED_PIPE);
    }
    let error = output::unwritten(error);
    writeln!(io::stderr(), "error: {error}").ok();
    ExitCode::from(error.kind().exit())
}

/// The exit code of the command, or the error it ended with.
async fn dispatch(cli: Cli, output: &Output) -> Result<u8, ApiError> {
    let Cli { globals, command } = cli;
    let session = Session::new(globals, output);
    if !matches!(command, Command::Daemon) {
        logging::for_command(&session.globals);
    }
    match command {
        Command::Init(args) => init::run(args, &session).await,
        Command::Id => peers::identity(&session).await,
        Command::Daemon => daemon::run(&session).await,
        Command::Status(args) => status::run(args, &session).await,
        Command::Peers(args) => peers::run(args, &session).await,
        Command::Invite(args) => join::invite(args, &session).await,
        Command::Join(args) => join::join(args, &session).await,
        Command::Device(args) => device::run(args, &session).await,
        Command::Backup(args) => backup::run(args, &session).await,
        Command::Snapshots(args) => snapshots::run(args, &session).await,
        Command::Ls(args) => ls::run(args, &session).await,
        Command::Find(args) => find::run(args, &session).await,
        Command::Diff(args) => diff::run(args, &session).await,
        Command::Dump(args) => dump::run(args, &session).await,
        Command::Export(args) => carry::export(args, &session).await,
        Command::Import(args) => carry::import(args, &session).await,
        Command::Stats(args) => stats::run(args, &session).await,
        Command::Tag(args) => tag::run(args, &session).await,
        Command::Pin(args) => tag::pin(args, true, &session).await,
        Command::Unpin(args) => tag::pin(args, false, &session).await,
        Command::Forget(args) => forget::run(args, &session).await,
        Command::Gc(args) => forget::gc(args, &session).await,
        Command::Restore(args) => restore::run(args, &session).await,
        Command::Verify(args) => verify::run(args, &session).await,
        Command::Scrub(args) => verify::scrub(args, &session).await,
        Command::Repair(args) => verify::repair(args, &session).await,
        Command::Recover(args) => recover::run(args, &session).await,
        Command::RebuildIndex(args) => recover::rebuild_index(args, &session).await,
        Command::Config(args) => config::run(args, &session).await,
        Command::Schedule(args) => schedule::run(args, &session).await,
        Command::Jobs(args) => jobs::run(args, &session).await,
        Command::Events(args) => jobs::events(args, &session).await,
        Command::Unlock => jobs::unlock(&session).await,
        Command::Version => config::version(&session),
    }
}
