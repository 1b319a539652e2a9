//! `diff`.

use clap::Args;
use futures::TryStreamExt;
use serde_json::json;

use super::entries::named;
use super::output::{Array, Output, Paint};
use super::reference::reference;
use super::session::{Keys, Session};
use crate::api::{ApiError, Batches, DiffChange, DiffItem, DiffQuery, DiffStatistics};
use crate::base::{ByteSize, Code};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct DiffArgs {
    /// The first snapshot; with :PATH, only what is there
    #[arg(value_name = "REF[:PATH]", value_parser = reference())]
    from: String,
    /// The second
    #[arg(value_name = "REF[:PATH]", value_parser = reference())]
    to: String,
    /// Also show where only mode, owner, time or attributes differ (U)
    #[arg(long)]
    metadata: bool,
}

pub(super) async fn run(args: DiffArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let query = DiffQuery { from: args.from, to: args.to, metadata: args.metadata };
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    let result = match handle.service().diff(query).await {
        Ok(items) => print(items, session.output).await,
        Err(error) => Err(error),
    };
    handle.close(result).await.map(|()| 0)
}

async fn print(mut items: Batches<DiffItem>, output: &Output) -> Result<(), ApiError> {
    let (mut array, mut statistics) = (Array::new(output), None);
    while let Some(batch) = items.try_next().await? {
        let mut changes = Vec::new();
        for item in batch {
            match item {
                DiffItem::Change(change) => changes.push(change),
                DiffItem::Statistics(counted) => statistics = Some(counted),
            }
        }
        if output.json {
            if array.is_empty() {
                output.write(b"{\"changes\":")?;
            }
            array.add(&changes)?;
        } else {
            let lines: String = changes.iter().map(|change| line(change, output.paint)).collect();
            output.write(lines.as_bytes())?;
        }
    }
    let counted =
        statistics.ok_or_else(|| ApiError::new(Code::Internal, "the comparison ended without its counts"))?;
    if output.json {
        return array.end(&format!(",\"statistics\":{}}}\n", json!(counted)));
    }
    output.write(summary(&counted).as_bytes())
}

fn line(change: &DiffChange, paint: Paint) -> String {
    let end = if change.path_encoded.is_some() && change.path.ends_with('/') { "/" } else { "" };
    let text = format!("{:<5}{}{end}", change.modifier, named(&change.path, change.path_encoded.as_deref()));
    let painted = match change.modifier.as_str() {
        "+" => paint.good(&text),
        "-" => paint.bad(&text),
        _ => paint.warning(&text),
    };
    painted + "\n"
}

fn summary(counted: &DiffStatistics) -> String {
    let (added, removed) = (&counted.added, &counted.removed);
    let (source, target) = (counted.source_snapshot.short(), counted.target_snapshot.short());
    let row = |name: &str, new: u64, gone: u64| format!("  {name:<8}{new:>6} new, {gone:>6} removed");
    format!(
        "from {source} to {target}\n{}, {:>6} changed\n{}\n{}\n  added   {}\n  removed {}\n",
        row("files", added.files, removed.files),
        counted.changed_files,
        row("dirs", added.dirs, removed.dirs),
        row("others", added.others, removed.others),
        ByteSize(added.bytes),
        ByteSize(removed.bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DiffSide;
    use crate::base::SnapshotId;

    #[test]
    fn differences_are_lines_and_their_counts_a_summary() {
        let change = |modifier: &str, path: &str, encoded: Option<&str>| DiffChange {
            path: path.into(),
            path_encoded: encoded.map(str::to_owned),
            modifier: modifier.into(),
        };
        let lines: String =
            [change("+", "/a\u{1b}/", None), change("MU", "/b", None), change("-", "/c?/", Some("/c%FF"))]
                .iter()
                .map(|change| line(change, Paint(false)))
                .collect();
        assert_eq!(lines, "+    /a\\u{1b}/\nMU   /b\n-    :/c%FF/\n");
        let counted = DiffStatistics {
            source_snapshot: SnapshotId::new([0x11; 32]),
            target_snapshot: SnapshotId::new([0x22; 32]),
            changed_files: 3,
            added: DiffSide { files: 1, bytes: 2048, ..DiffSide::default() },
            removed: DiffSide { dirs: 2, ..DiffSide::default() },
        };
        let expected = "from 11111111 to 22222222\n  \
            files        1 new,      0 removed,      3 changed\n  \
            dirs         0 new,      2 removed\n  \
            others       0 new,      0 removed\n  \
            added   2.0 KiB\n  removed 0 B\n";
        assert_eq!(summary(&counted), expected);
    }
}
