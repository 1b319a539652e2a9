//! Looking into snapshots: questions, and answers that come in pieces because they may be long.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::report::EntryInfo;
use crate::base::SnapshotId;

/// Answers as they are found, some at a time, in order. An error ends them: then they are not all.
pub type Batches<T> = Pin<Box<dyn Stream<Item = Result<Vec<T>, ApiError>> + Send>>;

/// Bytes as they are read, in order. An error ends them: then they are not all.
pub type Parts = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>;

/// What `find` asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FindQuery {
    /// A glob: of names, of ends of paths when it has a `/` inside, of whole paths when it begins with one.
    pub pattern: String,
    /// Only in these; in all when there are none.
    pub snapshots: Vec<String>,
    /// Only in snapshots of this host.
    pub host: Option<String>,
    /// Only in snapshots with this tag.
    pub tag: Option<String>,
    /// Only in snapshots with this path among the backed-up ones.
    pub path: Option<String>,
    /// Only `file`, `dir`, `symlink`, `fifo`, `socket`, `chardev` or `dev`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Only what was modified at this moment (RFC 3339) or later.
    pub newer: Option<String>,
    /// Only what was modified at this moment (RFC 3339) or earlier.
    pub older: Option<String>,
    /// Capitals do not count.
    pub ignore_case: bool,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// In which snapshot.
    pub snapshot: SnapshotId,
    /// When that was made, RFC 3339.
    pub time: String,
    /// What.
    pub entry: EntryInfo,
}

/// What `diff` asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiffQuery {
    /// The first snapshot, with an optional `:PATH`.
    pub from: String,
    /// The second.
    pub to: String,
    /// Tell where only mode, owner, time or attributes differ.
    pub metadata: bool,
}

/// One piece of a comparison; restic's field names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message_type", rename_all = "lowercase")]
pub enum DiffItem {
    /// One difference.
    Change(DiffChange),
    /// All of them, counted; the last piece.
    Statistics(DiffStatistics),
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiffChange {
    /// Absolute path, with a `/` at its end for a directory (bytes that are not UTF-8 replaced).
    pub path: String,
    /// Its exact form, percent-encoded, when it is not UTF-8; `REF::ENCODED` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_encoded: Option<String>,
    /// `+` added, `-` removed, or letters: `T` another type, `M` other content, `U` other metadata.
    pub modifier: String,
}

/// Counts of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffSide {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Anything else.
    pub others: u64,
    /// Bytes of those files, and what changed files have in chunks of their own.
    pub bytes: u64,
}

/// All differences, counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiffStatistics {
    /// The first snapshot.
    pub source_snapshot: SnapshotId,
    /// The second.
    pub target_snapshot: SnapshotId,
    /// Files whose bytes differ.
    pub changed_files: u64,
    /// In the second only.
    pub added: DiffSide,
    /// In the first only.
    pub removed: DiffSide,
}

/// The content of a file, or a directory as a tar archive.
pub struct Dump {
    /// It is an archive.
    pub archive: bool,
    /// Its length in bytes; unknown of an archive.
    pub bytes: Option<u64>,
    /// What to write.
    pub parts: Parts,
}

/// A vault or a snapshot in numbers. Sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Of this snapshot only; of the whole vault when absent.
    pub snapshot_id: Option<SnapshotId>,
    /// Snapshots.
    pub snapshots_count: u64,
    /// Regular files, each as often as it stands in a snapshot.
    pub total_file_count: u64,
    /// What restoring everything would write.
    pub total_size: u64,
    /// Distinct chunks of files, uncompressed.
    pub unique_size: u64,
    /// Distinct chunks that describe directories, uncompressed.
    pub tree_size: u64,
    /// Distinct chunks, compressed and sealed.
    pub sealed_size: u64,
    /// Packs on disk, padding included.
    pub stored_size: u64,
    /// Packs that no other snapshot needs; of one snapshot only.
    pub exclusive_size: Option<u64>,
    /// `total_size` / `unique_size`.
    pub deduplication_ratio: f64,
    /// (`unique_size` + `tree_size`) / `sealed_size`.
    pub compression_ratio: f64,
    /// Distinct chunks.
    pub total_chunk_count: u64,
    /// Packs.
    pub total_pack_count: u64,
    /// The index on disk; of the vault only.
    pub index_size: Option<u64>,
    /// Chunks were too many to be counted one by one: their sums are good to some 0.2 %.
    pub estimated: bool,
}

/// What `tag` asks: the same change for all these snapshots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TagRequest {
    /// Snapshot references.
    pub snapshots: Vec<String>,
    /// Tags to add.
    pub add: Vec<String>,
    /// Tags to remove.
    pub remove: Vec<String>,
    /// All tags from now on; `remove` and `add` come after.
    pub set: Option<Vec<String>>,
    /// Whether they are pinned from now on: then no rule forgets them. As they are when absent.
    pub pin: Option<bool>,
}

/// A snapshot after a change of its tags. The record is signed, so another one is another snapshot id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tagged {
    /// Its id from now on.
    pub snapshot_id: SnapshotId,
    /// Its id before; the same when nothing changed. References find it by both.
    pub old_snapshot_id: SnapshotId,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it is pinned.
    #[serde(default)]
    pub pinned: bool,
}
