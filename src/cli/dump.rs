//! `dump`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use futures::TryStreamExt;
use serde_json::json;

use super::output::Output;
use super::reference::reference;
use super::session::{Keys, Session};
use crate::api::{ApiError, Dump};
use crate::base::{ByteSize, Code};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct DumpArgs {
    /// Snapshot and path; a directory becomes a tar archive of what is in it
    #[arg(value_name = "REF:PATH", value_parser = reference())]
    what: String,
    /// Write into this file instead of stdout; it appears, or is replaced, when everything is written
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(args: DumpArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Needed, Mode::Online).await?;
    let result = match handle.service().dump(args.what).await {
        Ok(dump) => write(dump, args.output.as_deref(), session.output).await,
        Err(error) => Err(error),
    };
    handle.close(result).await.map(|()| 0)
}

/// Writes a dump to a file, or to stdout.
pub(super) async fn write(dump: Dump, to: Option<&Path>, output: &Output) -> Result<(), ApiError> {
    let Some(path) = to else {
        if dump.archive && io::stdout().is_terminal() {
            let error = ApiError::new(Code::UsageInvalid, "a tar archive is nothing for a terminal");
            return Err(error.with_hint("send it to a program or file, or use --output FILE"));
        }
        return copy(dump, |bytes| output.write(bytes)).await.map(|_| ());
    };
    let archive = dump.archive;
    let bytes = into_file(dump, path).await?;
    if output.json {
        output.document(&json!({ "output": path.to_string_lossy(), "archive": archive, "bytes": bytes }));
    } else {
        output.note(&format!("{} written", ByteSize(bytes)));
    }
    Ok(())
}

/// Writes a dump piece by piece; the number of bytes.
async fn copy(mut dump: Dump, mut write: impl FnMut(&[u8]) -> Result<(), ApiError>) -> Result<u64, ApiError> {
    let mut written = 0;
    while let Some(part) = dump.parts.try_next().await? {
        write(&part)?;
        written += part.len() as u64;
    }
    match dump.bytes {
        Some(bytes) if bytes != written => {
            let text = format!("{written} of {bytes} bytes came: what was written is not whole");
            Err(ApiError::new(Code::Internal, text))
        }
        _ => Ok(written),
    }
}

/// A regular file is replaced when all is there, so that a part never looks like the whole; anything else that is
/// there already (a device, a pipe) is written to as it is.
async fn into_file(dump: Dump, path: &Path) -> Result<u64, ApiError> {
    let failed = |error: io::Error| {
        ApiError::new(Code::of_refused_write(&error), format!("{}: {error}", path.display()))
    };
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let mut file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        return copy(dump, |bytes| file.write_all(bytes).map_err(failed)).await;
    }
    let mut part = Part::create(path).map_err(failed)?;
    let bytes = copy(dump, |bytes| part.file.write_all(bytes).map_err(failed)).await?;
    part.publish(path).map_err(failed)?;
    Ok(bytes)
}

/// A file that is being written, beside its place; it goes unless it is published.
struct Part {
    file: File,
    path: Option<PathBuf>,
}

impl Part {
    fn create(place: &Path) -> io::Result<Self> {
        let mut name = place.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = place.with_file_name(name);
        // What is backed up need not be for everybody.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path: Some(path) })
    }

    fn publish(mut self, place: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        match self.path.take() {
            Some(path) => fs::rename(&path, place).inspect_err(|_| drop(fs::remove_file(&path))),
            None => Ok(()),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            fs::remove_file(path).ok();
        }
    }
}
