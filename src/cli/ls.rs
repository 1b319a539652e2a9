//! `ls`.

use clap::Args;
use futures::TryStreamExt;

use super::entries::Lines;
use super::output::{Array, Output};
use super::reference::reference;
use super::session::{Keys, Session};
use crate::api::{ApiError, Batches, EntryInfo, TreeQuery};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct LsArgs {
    /// Snapshot: the beginning of its id, `latest` or `latest~N`; with :PATH, what is there
    #[arg(value_name = "REF[:PATH]", value_parser = reference())]
    snapshot: String,
    /// Show modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    /// Show everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

pub(super) async fn run(args: LsArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let query = TreeQuery { snapshot: args.snapshot, recursive: args.recursive };
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    let result = match handle.service().list(query).await {
        Ok(entries) => print(entries, args.long, session.output).await,
        Err(error) => Err(error),
    };
    handle.close(result).await.map(|()| 0)
}

async fn print(mut entries: Batches<EntryInfo>, long: bool, output: &Output) -> Result<(), ApiError> {
    if output.json {
        let mut array = Array::new(output);
        while let Some(batch) = entries.try_next().await? {
            array.add(&batch)?;
        }
        return array.end("\n");
    }
    let mut lines = Lines::new(long);
    while let Some(batch) = entries.try_next().await? {
        output.write(lines.add(batch).as_bytes())?;
    }
    output.write(lines.rest().as_bytes())
}
