//! `backup`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::command::{Leash, Output};
use super::explain::explain;
use super::input::stream_of;
use super::job::{self, Side};
use super::output::{Paint, count, escape, span};
use super::selecting::{Lists, misunderstood, pattern_files, sources};
use super::session::Session;
use crate::api::{
    ApiError, BackupRequest, BackupSummary, ExplainRequest, JobInfo, JobOutcome, JobRequest, PathFate,
    WaitFor,
};
use crate::base::{ByteSize, Code, host_fault, parse_duration, tag_fault};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct BackupArgs {
    /// Files and directories; with --stdin-from-command the command and its arguments
    #[arg(required_unless_present_any = ["set", "files_from", "files_from0", "stdin"], value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A backup set of the configuration, with its patterns, tags and hooks
    #[arg(long, value_name = "ID")]
    set: Option<String>,
    /// Take paths from this file as well, one a line, as they stand; - is standard input; may be repeated
    #[arg(long, value_name = "FILE", help_heading = SELECTING)]
    files_from: Vec<PathBuf>,
    /// The same for paths that end with a zero byte, as `find -print0` writes them
    #[arg(long, value_name = "FILE", help_heading = SELECTING)]
    files_from0: Vec<PathBuf>,
    /// Leave out what matches this gitignore pattern, as if in each PATH; before .shadowvaultignore files; may be repeated
    #[arg(long, value_name = "PATTERN", help_heading = SELECTING)]
    exclude: Vec<String>,
    /// The same whether letters are upper or lower case; after those of --exclude; may be repeated
    #[arg(long, value_name = "PATTERN", help_heading = SELECTING)]
    iexclude: Vec<String>,
    /// Leave out what matches the gitignore patterns in this file; .shadowvaultignore files outweigh them; may be repeated
    #[arg(long, value_name = "FILE", help_heading = SELECTING)]
    exclude_file: Vec<PathBuf>,
    /// Leave out the contents of directories that have such a file (that begins with HEADER); may be repeated
    #[arg(long, value_name = "NAME[:HEADER]", help_heading = SELECTING)]
    exclude_if_present: Vec<String>,
    /// Leave out the contents of directories that are tagged as caches (CACHEDIR.TAG)
    #[arg(long, help_heading = SELECTING)]
    exclude_caches: bool,
    /// Leave out larger files, such as 500MiB
    #[arg(long, value_name = "SIZE", value_parser = str::parse::<ByteSize>, help_heading = SELECTING)]
    exclude_larger_than: Option<ByteSize>,
    /// Do not cross into other file systems
    #[arg(short = 'x', long, help_heading = SELECTING)]
    one_file_system: bool,
    /// Back up standard input, as one file; whether what writes it fails is for the shell to tell (set -o pipefail)
    #[arg(long, conflicts_with_all = ["paths", "set", "files_from", "files_from0", "dry_run", "explain", "exclude",
        "iexclude", "exclude_file", "exclude_if_present", "exclude_caches", "exclude_larger_than", "one_file_system"])]
    stdin: bool,
    /// Back up what a command writes, as one file: -- CMD ARG...; when the command fails there is no snapshot
    #[arg(long, conflicts_with_all = ["stdin", "set", "files_from", "files_from0", "dry_run", "explain", "exclude",
        "iexclude", "exclude_file", "exclude_if_present", "exclude_caches", "exclude_larger_than", "one_file_system"])]
    stdin_from_command: bool,
    /// The name of that file [default: stdin]
    #[arg(long, value_name = "NAME")]
    stdin_filename: Option<String>,
    /// Only tell what would be done; with -v path by path
    #[arg(long, conflicts_with = "explain")]
    dry_run: bool,
    /// Only tell whether this path would be in the backup, and which rule decides that
    #[arg(long, value_name = "PATH")]
    explain: Option<PathBuf>,
    /// Label the snapshot; may be repeated
    #[arg(long = "tag", value_name = "TAG", value_parser = tag)]
    tags: Vec<String>,
    /// Host name to record instead of this machine's
    #[arg(long, value_name = "HOST", value_parser = host)]
    host: Option<String>,
    /// Read every file, changed or not
    #[arg(long)]
    force: bool,
    /// Make no snapshot when the source is as the newest one of the same host and paths has it, times of access apart
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Exit with 3 when the source is empty, or most files of the snapshot before are gone from it
    #[arg(long)]
    strict: bool,
    /// An empty source, or nothing in standard input, is meant: no warning, no error
    #[arg(long)]
    allow_empty: bool,
    /// A source with much less than before, or less than min_files of its set, is meant: no warning, no error
    #[arg(long)]
    allow_shrink: bool,
    /// When to return: once it is stored here, or once enough peers confirmed a copy
    #[arg(long, value_name = "WHAT", default_value = "local")]
    wait: Wait,
    /// How long to wait for copies, such as 30m
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    wait_timeout: Option<std::time::Duration>,
}

const SELECTING: &str = "What to take";

fn tag(text: &str) -> Result<String, &'static str> {
    tag_fault(text).map_or_else(|| Ok(text.to_owned()), Err)
}

fn host(text: &str) -> Result<String, &'static str> {
    host_fault(text).map_or_else(|| Ok(text.to_owned()), Err)
}

#[derive(ValueEnum, Copy, Clone, PartialEq, Eq)]
enum Wait {
    /// Stored here
    Local,
    /// Enough copies on peers
    Copies,
}

pub(super) async fn run(mut args: BackupArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let unsuited = |text: &str, hint: &str| Err(ApiError::new(Code::UsageInvalid, text).with_hint(hint));
    if args.wait_timeout.is_some() && args.wait == Wait::Local {
        return unsuited("--wait-timeout without --wait copies has no meaning", "add --wait copies");
    }
    let is_input = args.stdin || args.stdin_from_command;
    if args.stdin_filename.is_some() && !is_input {
        return unsuited("--stdin-filename without --stdin has no meaning", "add --stdin, without paths");
    }
    if args.dry_run && args.wait == Wait::Copies {
        return unsuited("a dry run makes no copies to wait for", "leave --wait out");
    }
    let explained = args.explain.as_deref().map(absolute).transpose()?;
    let mode = if args.wait == Wait::Copies { Mode::Online } else { Mode::Offline };
    let (stdin, words) = (args.stdin, args.stdin_from_command.then(|| std::mem::take(&mut args.paths)));
    let mut request = request(args)?;
    let lines = request.exclude_lists.iter().flat_map(|list| &list.lines);
    let patterns = request.exclude.iter().chain(&request.iexclude).chain(lines).map(String::as_str);
    misunderstood(patterns, &request.paths).iter().for_each(|text| session.output.note(text));
    if let Some(path) = explained {
        return explain(ExplainRequest { path, backup: request }, session).await;
    }
    request.list = request.dry_run && session.globals.verbose > 0 && !session.output.json;
    let mut leash = None;
    let side = match (words, stdin, request.list) {
        (Some(words), ..) => {
            let words: Vec<OsString> = words.into_iter().map(PathBuf::into_os_string).collect();
            let (output, ends) = Output::of(&words)?;
            leash = Some(ends);
            Side::Feed(stream_of("the command's output".to_owned(), output))
        }
        (None, true, _) => Side::Feed(stream_of("standard input".to_owned(), standard_input()?)),
        (None, false, true) => Side::Fates,
        (None, false, false) => Side::None,
    };
    let request = JobRequest::Backup(request);
    let ended = job::conduct_with(session, mode, request, side, |job, paint| match &job.outcome {
        Some(JobOutcome::Backup(summary)) if summary.dry_run => render_dry(summary, paint),
        Some(JobOutcome::Backup(summary)) => render(summary, job, paint),
        _ => String::new(),
    })
    .await;
    // The daemon knows only that its caller went away.
    match (ended, leash.as_ref().and_then(Leash::failure)) {
        (Err(error), Some(failure)) => {
            Err(ApiError::new(error.kind(), format!("{failure}; no snapshot was made")))
        }
        (ended, _) => ended,
    }
}

/// Standard input itself: `io::stdin` takes one that cannot be read for an empty one.
fn standard_input() -> Result<File, ApiError> {
    let failed = |error| ApiError::new(Code::IoFailed, format!("standard input cannot be read: {error}"));
    io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(failed)
}

fn request(args: BackupArgs) -> Result<BackupRequest, ApiError> {
    let lists = Lists { lines: &args.files_from, zeros: &args.files_from0 };
    Ok(BackupRequest {
        paths: sources(&args.paths, &lists)?,
        set: args.set,
        exclude: args.exclude,
        iexclude: args.iexclude,
        exclude_lists: pattern_files(&args.exclude_file)?,
        exclude_if_present: args.exclude_if_present,
        exclude_caches: args.exclude_caches,
        exclude_larger_than: args.exclude_larger_than.map(|size| size.0),
        stdin_filename: (args.stdin || args.stdin_from_command)
            .then(|| args.stdin_filename.unwrap_or_else(|| "stdin".to_owned())),
        dry_run: args.dry_run,
        list: false,
        tags: args.tags,
        host: args.host,
        one_file_system: args.one_file_system,
        force: args.force,
        skip_if_unchanged: args.skip_if_unchanged,
        min_files: 0,
        strict: args.strict,
        allow_empty: args.allow_empty,
        allow_shrink: args.allow_shrink,
        wait: if args.wait == Wait::Copies { WaitFor::Copies } else { WaitFor::Local },
        wait_timeout_ms: args.wait_timeout.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
    })
}

/// The path from the root, without `.` and `..`; a symlink at its end stays one.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, ApiError> {
    let failed = |error: io::Error| {
        let code = if error.kind() == io::ErrorKind::NotFound { Code::PathNotFound } else { Code::IoFailed };
        ApiError::new(code, format!("{}: {error}", path.display()))
    };
    let mut whole = std::path::absolute(path).map_err(failed)?;
    if path.as_os_str().as_bytes().ends_with(b"/.") {
        // It follows a symlink before it, as a slash does, and is not the same without.
        whole.push("");
    }
    if !whole.components().any(|part| part == std::path::Component::ParentDir) {
        return Ok(whole);
    }
    // `a/..` need not be where `a` stands: only the file system knows.
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => {
            let end = if whole.as_os_str().as_bytes().ends_with(b"/") { "/" } else { "" };
            let mut name = name.to_owned();
            name.push(end);
            Ok(parent.canonicalize().map_err(failed)?.join(name))
        }
        _ => whole.canonicalize().map_err(failed),
    }
}

fn render(summary: &BackupSummary, job: &JobInfo, paint: Paint) -> String {
    let short: String = summary.snapshot_id.chars().take(8).collect();
    let saved = match summary.skipped {
        true => format!("nothing has changed since snapshot {}: none was made", escape(&short)),
        false => format!("snapshot {} saved", escape(&short)),
    };
    let mut text = paint.bold(&saved) + "\n";
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
    for warning in &summary.warnings {
        line("look", paint.warning(&format!("{warning}; is all of it mounted?")));
    }
    if summary.copies < summary.copies_wanted && job.error.is_none() {
        line("next", "copies follow while `shadowvault daemon` runs; see `shadowvault status`".to_owned());
    }
    text
}

fn render_dry(summary: &BackupSummary, paint: Paint) -> String {
    let (new, changed, same) = (summary.files_new, summary.files_changed, summary.files_unmodified);
    let (files, bytes) = (summary.total_files_processed, ByteSize(summary.total_bytes_processed));
    let mut text = paint.bold("dry run: nothing was stored") + "\n";
    let whole = count(files, "file");
    writeln!(text, "  files    {new} new, {changed} changed, {same} unchanged; {whole} with {bytes}")
        .expect("writing to a string works");
    writeln!(text, "  to read  {}", ByteSize(summary.bytes_to_read)).expect("writing to a string works");
    if summary.unreadable > 0 {
        let missing = format!("{} could not be read", count(summary.unreadable, "entry"));
        writeln!(text, "  left out {}", paint.warning(&missing)).expect("writing to a string works");
    }
    for warning in &summary.warnings {
        let asked = format!("{warning}; is all of it mounted?");
        writeln!(text, "  look     {}", paint.warning(&asked)).expect("writing to a string works");
    }
    text
}

/// A line of a dry run with `-v`.
pub(super) fn render_fate(fate: &PathFate) -> String {
    let why = fate.why.as_ref().map_or_else(String::new, |why| format!("  # {}", escape(why)));
    format!("{:<9} {}{why}\n", fate.fate, escape(&fate.path))
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
    fn dry_runs_read_well() {
        let fate = PathFate { fate: "left-out".into(), path: "/a\n".into(), why: Some("*.o (f:1)".into()) };
        assert_eq!(render_fate(&fate), "left-out  /a\\n  # *.o (f:1)\n");
        let summary =
            BackupSummary { files_new: 1, bytes_to_read: 5, dry_run: true, ..BackupSummary::default() };
        assert!(render_dry(&summary, Paint(false)).ends_with("  to read  5 B\n"));
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
        let none = Lists { lines: &[], zeros: &[] };
        for given in [&[root.join("absent")][..], &[root.join("a"), root.join("absent")]] {
            assert_eq!(sources(given, &none).unwrap_err().kind(), Code::PathNotFound);
        }
        assert_eq!(sources(&[root.join("link"), root.join("a")], &none).unwrap().len(), 2);
        // What follows a symlink is not the same without its end.
        for (given, expected) in [("link/", "link/"), ("link/.", "link/"), ("a/../link/", "link/")] {
            let (found, expected) = (absolute(&root.join(given)).unwrap(), root.join(expected));
            assert_eq!(found.into_os_string(), expected.into_os_string(), "{given}");
        }
    }
}
