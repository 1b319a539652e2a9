//! `export` and `import`.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use clap::Args;

use super::dump;
use super::input::stream_of;
use super::job::{self, Side};
use super::output::{Paint, count};
use super::reference::reference;
use super::session::{Keys, Session};
use crate::api::{ApiError, ImportRequest, ImportSummary, JobOutcome, JobRequest};
use crate::base::{ByteSize, Code};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct ExportArgs {
    /// Only the packs that this snapshot needs; the whole vault when it is left out
    #[arg(value_name = "REF", value_parser = reference())]
    snapshot: Option<String>,
    /// Write into this file instead of stdout; it appears, or is replaced, when everything is written
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct ImportArgs {
    /// What `export` wrote; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn export(args: ExportArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Needed, Mode::Online).await?;
    let result = match handle.service().export(args.snapshot).await {
        Ok(archive) => dump::write(archive, args.output.as_deref(), session.output).await,
        Err(error) => Err(error),
    };
    handle.close(result).await.map(|()| 0)
}

pub(super) async fn import(args: ImportArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let (input, bytes) = if args.file.as_os_str() == "-" {
        (stream_of("standard input".to_owned(), io::stdin()), 0)
    } else {
        let name = args.file.display().to_string();
        let failed = |error: io::Error| {
            let absent = error.kind() == io::ErrorKind::NotFound;
            ApiError::new(
                if absent { Code::PathNotFound } else { Code::IoFailed },
                format!("{name}: {error}"),
            )
        };
        let bytes = fs::metadata(&args.file).map_err(failed)?.len();
        (stream_of(name.clone(), File::open(&args.file).map_err(failed)?), bytes)
    };
    let request = JobRequest::Import(ImportRequest { bytes });
    job::conduct_with(session, Mode::Offline, request, Side::Feed(input), |job, paint| match &job.outcome {
        Some(JobOutcome::Import(summary)) => render(summary, paint),
        _ => String::new(),
    })
    .await
}

fn render(summary: &ImportSummary, paint: Paint) -> String {
    let whose = if summary.own {
        "of this node's own vault".to_owned()
    } else {
        format!("for vault {}", summary.vault)
    };
    let stored = format!("{} stored", count(summary.packs, "pack"));
    let mut text = format!("{} {whose}, {}", paint.good(&stored), ByteSize(summary.bytes));
    if summary.held > 0 {
        text += &format!("; {} here already", summary.held);
    }
    text += "\n";
    if summary.passed_over > 0 {
        text += &format!(
            "{} in the file are not listed: they were forgotten since it was written, or are of a revoked device; \
             to read them, import the file at a new node (`shadowvault init --storage-only`) and `shadowvault recover` from it\n",
            count(summary.passed_over, "snapshot")
        );
    }
    if summary.damaged > 0 {
        text += &format!("{} left out: damaged or missing in the file\n", count(summary.damaged, "part"));
    }
    if summary.snapshots > 0 {
        text +=
            &format!("{} that were not known here are listed now\n", count(summary.snapshots, "snapshot"));
    }
    if !summary.own {
        text += "its owner learns of them when it connects\n";
    }
    text
}
