//! `restore`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::backup::absolute;
use super::job;
use super::output::{Paint, count, escape, span};
use super::reference::reference;
use super::session::Session;
use crate::api::{ApiError, JobOutcome, JobRequest, RestoreChange, RestoreRequest, RestoreSummary};
use crate::base::{ByteSize, Code, limit};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct RestoreArgs {
    /// Snapshot: the beginning of its id, `latest` or `latest~N`; with :PATH, only what is there
    #[arg(value_name = "REF[:PATH]", value_parser = reference())]
    snapshot: String,
    /// Directory to restore into
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Restore only what matches this gitignore pattern, relative to what is restored (repeatable)
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out what matches this pattern (repeatable)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// What to do with what is there already; with never nothing of it changes [default: never]
    #[arg(long, value_name = "WHEN", value_parser = ["never", "if-changed", "if-newer", "always"])]
    overwrite: Option<String>,
    /// Delete what the snapshot does not have, in restored directories that were backed up as a whole
    #[arg(long)]
    delete: bool,
    /// Give DIR itself owner, mode, times and attributes of what is restored into it, also where it was there before
    #[arg(long)]
    target_metadata: bool,
    /// Only show what would be written, overwritten, skipped and deleted
    #[arg(long)]
    dry_run: bool,
    /// Leave owners alone
    #[arg(long)]
    no_owner: bool,
    /// No setuid, no devices, no security attributes
    #[arg(long)]
    no_privileged: bool,
    /// Read back what was written and compare, and have it on the disk at the end
    #[arg(long)]
    verify: bool,
    /// Turn long runs of zero bytes into holes
    #[arg(long)]
    sparse: bool,
}

pub(super) async fn run(args: RestoreArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let request = RestoreRequest {
        snapshot: args.snapshot,
        target: target(args.target)?,
        include: args.include,
        exclude: args.exclude,
        overwrite: args.overwrite,
        delete: args.delete,
        target_metadata: args.target_metadata,
        confirmed: session.globals.yes,
        dry_run: args.dry_run,
        no_owner: args.no_owner,
        no_privileged: args.no_privileged,
        verify: args.verify.then_some(true),
        sparse: args.sparse,
    };
    job::conduct(session, Mode::Online, JobRequest::Restore(request), |job, paint| match &job.outcome {
        Some(JobOutcome::Restore(summary)) => render(summary, paint),
        _ => String::new(),
    })
    .await
}

/// The target made absolute; it need not exist.
fn target(path: PathBuf) -> Result<PathBuf, ApiError> {
    match absolute(&path) {
        Err(error) if error.kind() == Code::PathNotFound => std::path::absolute(&path)
            .map_err(|e| ApiError::new(Code::IoFailed, format!("{}: {e}", path.display()))),
        result => result,
    }
}

fn render(summary: &RestoreSummary, paint: Paint) -> String {
    let short: String = summary.snapshot_id.chars().take(8).collect();
    let mut text = changes(summary, paint);
    let done = if summary.dry_run { "would be restored so" } else { "restored" };
    text += &(paint.bold(&format!("snapshot {} {done}", escape(&short))) + "\n");
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<8} {value}").expect("writing to a string works");
    };
    let (files, dirs) = (summary.files_restored, summary.dirs_restored);
    let dirs = if dirs == 1 { "1 directory".to_owned() } else { format!("{dirs} directories") };
    line("files", format!("{}, {dirs}, {} other", count(files, "file"), summary.others_restored));
    let (bytes, fetched) = (ByteSize(summary.bytes_restored), ByteSize(summary.bytes_fetched));
    line("bytes", if summary.dry_run { bytes.to_string() } else { format!("{bytes}, {fetched} from peers") });
    if summary.files_overwritten > 0 {
        line("replaced", format!("{} that were there", count(summary.files_overwritten, "file")));
    }
    if summary.files_verified > 0 {
        line("verified", format!("{} read back", count(summary.files_verified, "file")));
    }
    if summary.skipped > 0 {
        line("skipped", format!("{} that were there already (see --overwrite)", summary.skipped));
    }
    if summary.deleted > 0 {
        line("deleted", format!("{} that the snapshot does not have", summary.deleted));
    }
    if summary.kept > 0 {
        line("kept", format!("{} that the backup may have left out (named above)", summary.kept));
    }
    if summary.failed > 0 {
        line("failed", paint.bad(&format!("{} could not be restored", summary.failed)));
    }
    line("time", span(summary.total_duration));
    text
}

/// One line for each path of which something is to be told.
fn changes(summary: &RestoreSummary, paint: Paint) -> String {
    let mut text = String::new();
    for RestoreChange { action, path, reason } in &summary.changes {
        let reason = reason.as_ref().map_or_else(String::new, |reason| format!("  ({reason})"));
        let line = format!("{action:<9} {}{reason}", escape(path));
        let line = if action == "delete" { paint.warning(&line) } else { line };
        writeln!(text, "{line}").expect("writing to a string works");
    }
    let written = summary.files_restored + summary.dirs_restored + summary.others_restored;
    let removals = summary.deleted + summary.kept;
    let all = if summary.dry_run { written + summary.skipped + removals } else { removals };
    let more = all.saturating_sub(summary.changes.len() as u64);
    // Directories that are there already are not told.
    if summary.changes.len() == limit::RESTORE_CHANGES_MAX && more > 0 {
        writeln!(text, "and up to {more} more").expect("writing to a string works");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_reads_well() {
        let summary = RestoreSummary {
            snapshot_id: "0123456789abcdef".into(),
            files_restored: 2,
            dirs_restored: 1,
            skipped: 4,
            failed: 1,
            bytes_restored: 2048,
            files_verified: 2,
            ..RestoreSummary::default()
        };
        let expected = "snapshot 01234567 restored\n  files    2 files, 1 directory, 0 other\n  \
            bytes    2.0 KiB, 0 B from peers\n  verified 2 files read back\n  \
            skipped  4 that were there already (see --overwrite)\n  failed   1 could not be restored\n  time     0.0s\n";
        assert_eq!(render(&summary, Paint(false)), expected);
    }

    #[test]
    fn target_need_not_exist() {
        assert_eq!(target("/absent/dir".into()).unwrap(), PathBuf::from("/absent/dir"));
        assert_eq!(target("/absent/../dir".into()).unwrap(), PathBuf::from("/absent/../dir"));
    }
}
