//! `stats`.

use std::fmt::Write as _;

use clap::Args;

use super::output::{Paint, count};
use super::reference::reference;
use super::session::{Keys, Session};
use crate::api::{ApiError, Stats};
use crate::base::ByteSize;
use crate::node::Mode;

#[derive(Args)]
pub(super) struct StatsArgs {
    /// One snapshot; the whole vault when absent
    #[arg(value_name = "REF", value_parser = reference())]
    snapshot: Option<String>,
}

pub(super) async fn run(args: StatsArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    let result = handle.service().stats(args.snapshot).await;
    let stats = handle.close(result).await?;
    session.output.show(&stats, render);
    Ok(0)
}

fn render(stats: &Stats, paint: Paint) -> String {
    let head = match stats.snapshot_id {
        Some(id) => format!("snapshot {}", id.short()),
        None => count(stats.snapshots_count, "snapshot"),
    };
    let mut text = paint.bold(&head) + "\n";
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<12} {value}").expect("writing to a string works");
    };
    let about = if stats.estimated { "about " } else { "" };
    let (files, size) = (count(stats.total_file_count, "file"), ByteSize(stats.total_size));
    line("to restore", format!("{size} in {files}"));
    let (unique, chunks) = (ByteSize(stats.unique_size), count(stats.total_chunk_count, "chunk"));
    line("unique", format!("{about}{unique} of files, deduplicated {:.2}x", stats.deduplication_ratio));
    line("directories", format!("{about}{}", ByteSize(stats.tree_size)));
    let sealed = ByteSize(stats.sealed_size);
    line("compressed", format!("{about}{sealed} in {chunks}, {:.2}x", stats.compression_ratio));
    line("stored", format!("{} in {}", ByteSize(stats.stored_size), count(stats.total_pack_count, "pack")));
    if let Some(exclusive) = stats.exclusive_size {
        line("only here", format!("{} in packs that no other snapshot needs", ByteSize(exclusive)));
    }
    if let Some(index) = stats.index_size {
        line("index", ByteSize(index).to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SnapshotId;

    #[test]
    fn numbers_read_well() {
        let stats = Stats {
            snapshot_id: Some(SnapshotId::new([0x11; 32])),
            snapshots_count: 1,
            total_file_count: 2,
            total_size: 4096,
            unique_size: 2048,
            tree_size: 100,
            sealed_size: 1024,
            stored_size: 262_144,
            exclusive_size: Some(0),
            deduplication_ratio: 2.0,
            compression_ratio: 2.098,
            total_chunk_count: 3,
            total_pack_count: 1,
            index_size: None,
            estimated: true,
        };
        let expected = "snapshot 11111111\n  \
            to restore   4.0 KiB in 2 files\n  \
            unique       about 2.0 KiB of files, deduplicated 2.00x\n  \
            directories  about 100 B\n  \
            compressed   about 1.0 KiB in 3 chunks, 2.10x\n  \
            stored       256.0 KiB in 1 pack\n  \
            only here    0 B in packs that no other snapshot needs\n";
        assert_eq!(render(&stats, Paint(false)), expected);
    }
}
