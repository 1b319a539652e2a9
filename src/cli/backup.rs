//! `backup`.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::job;
use super::output::{Paint, count, escape, span};
use super::session::Session;
use crate::api::{ApiError, BackupRequest, BackupSummary, JobInfo, JobOutcome, JobRequest, WaitFor};
use crate::base::{ByteSize, Code, parse_duration};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct BackupArgs {
    /// Files and directories
    #[arg(required_unless_present = "set", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A backup set of the configuration, with its patterns, tags and hooks
    #[arg(long, value_name = "ID")]
    set: Option<String>,
    /// Leave out what matches this gitignore pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Label the snapshot; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Host name to record instead of this machine's
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Do not cross into other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read every file, changed or not
    #[arg(long)]
    force: bool,
    /// When to return: once it is stored here, or once enough peers confirmed a copy
    #[arg(long, value_name = "WHAT", default_value = "local")]
    wait: Wait,
    /// How long to wait for copies, such as 30m
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    wait_timeout: Option<std::time::Duration>,
}

#[derive(ValueEnum, Copy, Clone, PartialEq, Eq)]
enum Wait {
    /// Stored here
    Local,
    /// Enough copies on peers
    Copies,
}

pub(super) async fn run(args: BackupArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    if args.wait_timeout.is_some() && args.wait == Wait::Local {
        let error = ApiError::new(Code::UsageInvalid, "--wait-timeout without --wait copies has no meaning");
        return Err(error.with_hint("add --wait copies"));
    }
    let (wait, mode) = match args.wait {
        Wait::Local => (WaitFor::Local, Mode::Offline),
        Wait::Copies => (WaitFor::Copies, Mode::Online),
    };
    let request = BackupRequest {
        paths: sources(&args.paths)?,
        set: args.set,
        exclude: args.exclude,
        tags: args.tags,
        host: args.host,
        one_file_system: args.one_file_system,
        force: args.force,
        wait,
        wait_timeout_ms: args.wait_timeout.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
    };
    job::conduct(session, mode, JobRequest::Backup(request), |job, paint| match &job.outcome {
        Some(JobOutcome::Backup(summary)) => render(summary, job, paint),
        _ => String::new(),
    })
    .await
}

/// The paths made absolute. A missing one is the node's to report, unless none is there: then it is a slip.
fn sources(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ApiError> {
    let gone =
        |path: &PathBuf| path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if let Some(first) = paths.first().filter(|_| paths.iter().all(gone)) {
        return Err(ApiError::new(Code::PathNotFound, format!("{} does not exist", first.display())));
    }
    paths.iter().map(|path| absolute(path)).collect()
}

/// The path from the root, without `.` and `..`; a symlink at its end stays one.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, ApiError> {
    let failed = |error: io::Error| {
        let code = if error.kind() == io::ErrorKind::NotFound { Code::PathNotFound } else { Code::IoFailed };
        ApiError::new(code, format!("{}: {error}", path.display()))
    };
    let whole = std::path::absolute(path).map_err(failed)?;
    if !whole.components().any(|part| part == std::path::Component::ParentDir) {
        return Ok(whole);
    }
    // `a/..` need not be where `a` stands: only the file system knows.
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(failed)?.join(name)),
        _ => whole.canonicalize().map_err(failed),
    }
}

fn render(summary: &BackupSummary, job: &JobInfo, paint: Paint) -> String {
    let short: String = summary.snapshot_id.chars().take(8).collect();
    let mut text = paint.bold(&format!("snapshot {} saved", escape(&short))) + "\n";
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<8} {value}").expect("writing to a string works");
    };
    let (new, changed, same) = (summary.files_new, summary.files_changed, summary.files_unmodified);
    let (files, bytes) = (summary.total_files_processed, ByteSize(summary.total_bytes_processed));
    line(
        "files",
        format!("{new} new, {changed} changed, {same} unchanged; {} with {bytes}", count(files, "file")),
    );
    let (added, packed) = (ByteSize(summary.data_added), ByteSize(summary.data_added_packed));
    line("added", format!("{added}, {packed} as stored"));
    if summary.copies_wanted > 0 {
        line("copies", format!("{} of {}", summary.copies, summary.copies_wanted));
    }
    line("time", span(summary.total_duration));
    if summary.unreadable > 0 {
        line("left out", paint.warning(&format!("{} could not be read", count(summary.unreadable, "file"))));
    }
    if summary.inconsistent > 0 {
        line(
            "unsteady",
            paint.warning(&format!("{} changed while being read", count(summary.inconsistent, "file"))),
        );
    }
    if summary.copies < summary.copies_wanted && job.error.is_none() {
        line("next", "copies follow while `shadowvault daemon` runs; see `shadowvault status`".to_owned());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{JobId, JobKind, JobState, Progress};

    #[test]
    fn summary_reads_well() {
        let summary = BackupSummary {
            snapshot_id: "0123456789abcdef".into(),
            files_new: 1,
            files_unmodified: 2,
            total_files_processed: 3,
            total_bytes_processed: 2048,
            data_added: 1024,
            data_added_packed: 512,
            total_duration: 1.0,
            unreadable: 1,
            copies: 1,
            copies_wanted: 2,
            ..BackupSummary::default()
        };
        let (id, kind, progress) = (JobId(1), JobKind::Backup, Progress::default());
        let job = JobInfo {
            id,
            kind,
            state: JobState::Done,
            started: String::new(),
            ended: None,
            progress,
            problems: vec![],
            outcome: None,
            error: None,
        };
        let expected = "snapshot 01234567 saved\n  files    1 new, 0 changed, 2 unchanged; 3 files with 2.0 KiB\n  \
            added    1.0 KiB, 512 B as stored\n  copies   1 of 2\n  time     1.0s\n  \
            left out 1 file could not be read\n  \
            next     copies follow while `shadowvault daemon` runs; see `shadowvault status`\n";
        assert_eq!(render(&summary, &job, Paint(false)), expected);
    }

    #[test]
    fn paths_become_absolute_without_dots() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
        let table =
            [("a/./b", "a/b"), ("a/b/../x", "a/x"), ("link/../y", "a/y"), ("link", "link"), ("a/b/..", "a")];
        for (given, expected) in table {
            assert_eq!(absolute(&root.join(given)).unwrap(), root.join(expected), "{given}");
        }
        assert_eq!(sources(&[root.join("absent")]).unwrap_err().kind(), Code::PathNotFound);
        assert_eq!(sources(&[root.join("absent"), root.join("a")]).unwrap().len(), 2);
    }
}
