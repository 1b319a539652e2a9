//! One error for the engine's verbs; sources are kept.

use std::path::PathBuf;

use super::chain::UnreadableHead;
use super::holder::HolderError;
use crate::base::{ChunkId, Code, Coded, PackId, SnapshotId, limit};
use crate::crypto::{KeyFileError, OpenError, SealError};
use crate::fs::FsError;
use crate::pack::PackError;
use crate::snapshot::{HeadError, ListError, ReceiptError, RecordError, TreeError};
use crate::store::StoreError;

/// Why an operation of the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The data directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The user's disk.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Sealing.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A snapshot record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A head or certificate.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A pack list.
    #[error(transparent)]
    List(#[from] ListError),
    /// A receipt.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// Something that a holder does not take.
    #[error(transparent)]
    Holder(#[from] HolderError),
    /// A pack's structure.
    #[error("pack {id}")]
    Pack {
        /// Which.
        id: PackId,
        /// What is wrong with it.
        #[source]
        source: PackError,
    },
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// No pack has that chunk.
    #[error("chunk {0} is in no pack that can be reached")]
    ChunkMissing(ChunkId),
    /// A chunk's bytes are damaged.
    #[error("chunk {id} is damaged")]
    ChunkDamaged {
        /// Which.
        id: ChunkId,
        /// How.
        #[source]
        source: OpenError,
    },
    /// No holder gave the pack.
    #[error("pack {pack} could not be pulled from any peer: {tried}")]
    NoSource {
        /// Which.
        pack: PackId,
        /// Who was asked and what came of it.
        tried: String,
        /// One that may have it said "later" to the end: it is not known to be lost.
        busy: bool,
    },
    /// No snapshot by that reference.
    #[error("no snapshot matches {reference:?}{}", listed("; these are called alike:", near))]
    SnapshotUnknown {
        /// As given.
        reference: String,
        /// What is called alike.
        near: Vec<String>,
    },
    /// A snapshot that a head lists and whose record is missing or damaged here.
    #[error("snapshot {} cannot be read: {why}", .id.short())]
    SnapshotBroken {
        /// Which.
        id: SnapshotId,
        /// What is wrong with its record.
        why: String,
    },
    /// A snapshot whose record cannot be read may be the one that is meant.
    #[error("which snapshot is the latest is not known: the record of {} cannot be read", shorts(.0))]
    LatestUncertain(Vec<SnapshotId>),
    /// A head that cannot be read may list snapshots that are newer than all that are known.
    #[error(
        "what the newest snapshot is is not known: head {} of device {} cannot be read ({})",
        .0.seq, .0.device.short(), .0.problem
    )]
    HeadHidden(UnreadableHead),
    /// A snapshot that is not lost.
    #[error("snapshot {} is not lost: its record can be read", .0.short())]
    NotLost(SnapshotId),
    /// A reference that means several snapshots.
    #[error("{reference:?} is ambiguous, it could be{}", listed(":", candidates))]
    SnapshotAmbiguous {
        /// As given.
        reference: String,
        /// What it could mean.
        candidates: Vec<String>,
    },
    /// Something that is neither a file nor a directory.
    #[error("{} is neither a file nor a directory", .0.display())]
    NotDumpable(PathBuf),
    /// A pattern that cannot be read.
    #[error("{pattern:?} is not a pattern: {why}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A snapshot that only another device's head lists.
    #[error("snapshot {} belongs to device {device:?}; only that one can change it", .id.short())]
    NotOwn {
        /// Which.
        id: SnapshotId,
        /// Whose.
        device: String,
    },
    /// A snapshot that somebody wants to keep.
    #[error("snapshot {} is pinned", .0.short())]
    Pinned(SnapshotId),
    /// A snapshot without which a set has no complete one.
    #[error("snapshot {} is the newest complete one of its host and paths", .0.short())]
    NewestComplete(SnapshotId),
    /// Something that tells what is needed cannot be read, so nothing may be deleted.
    #[error("nothing is deleted: {0}")]
    RootUnreadable(String),
    /// A snapshot's record cannot be read, so nothing may be deleted.
    #[error("nothing is deleted: what snapshot {} needs is not known: {why}", .id.short())]
    RootBroken {
        /// Which.
        id: SnapshotId,
        /// What is wrong with its record.
        why: String,
    },
    /// A path that is not in the snapshot.
    #[error("{} is not in that snapshot", .0.display())]
    NotInSnapshot(PathBuf),
    /// Nothing tells which snapshots there are; a holder has the heads as well.
    #[error("every head of the vault is missing or damaged here")]
    HeadsLost,
    /// What is not in a snapshot may have been left out of it: nothing may be deleted for that.
    #[error(
        "snapshot {} was made by a version that does not say what it left out: nothing is deleted by it",
        .0.short()
    )]
    OmissionsUnknown(SnapshotId),
    /// A tree nests too deeply or refers to itself.
    #[error("the snapshot's trees nest too deeply")]
    TooDeep,
    /// The vault's admin key said that this device counts no more.
    #[error("this device was revoked: its backups go nowhere")]
    DeviceRevoked,
    /// The vault's newest head lists something that is not here.
    #[error("{0} of the vault's head is missing or damaged")]
    RecordMissing(String),
    /// A streamed file did not come to its end.
    #[error("the input broke off before its end; no snapshot was made")]
    InputBroken(#[source] std::io::Error),
    /// A file of several names was not restored under the first of them, where the reason is told; its code is the same.
    #[error("the first name of this file could not be restored")]
    FirstNameFailed(Code),
    /// What was set aside of files with several names cannot be read, or could not be set aside.
    #[error("this and further hard-linked files come back as files of their own: those before are forgotten")]
    LinksLost(#[source] Box<EngineError>),
    /// It had no byte: whatever was to write it may never have run.
    #[error("the input is empty: no snapshot was made")]
    InputEmpty,
    /// The directory that a drill restores into, or what an operation set aside.
    #[error("using the scratch directory")]
    Scratch(#[source] std::io::Error),
    /// Not what `export` writes, or not all of it.
    #[error("that is no whole export: {0}")]
    NotAnExport(String),
    /// Asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A thread of a pipeline ended early; the error that caused it is reported instead where there is one.
    #[error("a worker stopped unexpectedly")]
    Stopped,
}

impl EngineError {
    /// No snapshot by that reference, nor one that is called alike.
    pub fn unknown(reference: impl Into<String>) -> Self {
        Self::SnapshotUnknown { reference: reference.into(), near: Vec::new() }
    }
}

/// Their first digits, a few of them.
fn shorts(ids: &[SnapshotId]) -> String {
    let shown: Vec<String> = ids.iter().take(limit::CANDIDATES_NAMED_MAX).map(SnapshotId::short).collect();
    let more = if ids.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// What helps with a snapshot whose record cannot be read.
fn lost_hint(id: &SnapshotId) -> String {
    let id = id.short();
    format!(
        "`shadowvault repair` gets its record from a holder; if none has it, `shadowvault forget {id} --lost` takes the snapshot out"
    )
}

/// The first lines under a heading; nothing when there are none.
fn listed(heading: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let shown = lines.iter().take(limit::CANDIDATES_NAMED_MAX);
    let mut text = shown.fold(heading.to_owned(), |text, line| format!("{text}\n  {line}"));
    if let Some(more) = lines.len().checked_sub(limit::CANDIDATES_NAMED_MAX).filter(|more| *more > 0) {
        text += &format!("\n  and {more} more");
    }
    text
}

impl Coded for EngineError {
    fn code(&self) -> Code {
        match self {
            Self::Store(e) => e.code(),
            Self::Fs(e) => e.code(),
            Self::Seal(e) => e.code(),
            Self::Tree(e) => e.code(),
            Self::Record(e) => e.code(),
            Self::Head(e) => e.code(),
            Self::List(e) => e.code(),
            Self::Receipt(e) => e.code(),
            Self::Holder(e) => e.code(),
            Self::Pack { source, .. } => source.code(),
            Self::Key(e) => e.code(),
            Self::NoSource { busy: true, .. } => Code::PeerBusy,
            Self::ChunkMissing(_) | Self::NoSource { .. } | Self::RecordMissing(_) => Code::ChunkNotFound,
            Self::ChunkDamaged { .. } => Code::ChunkInvalid,
            Self::SnapshotUnknown { .. } => Code::SnapshotNotFound,
            Self::SnapshotAmbiguous { .. } => Code::SnapshotInvalid,
            Self::NotInSnapshot(_) => Code::PathNotFound,
            Self::NotDumpable(_) | Self::Pattern { .. } | Self::NotAnExport(_) => Code::UsageInvalid,
            Self::NotOwn { .. } | Self::Pinned(_) | Self::NewestComplete(_) => Code::PermissionDenied,
            Self::TooDeep | Self::SnapshotBroken { .. } | Self::LatestUncertain(_) | Self::HeadHidden(_) => {
                Code::SnapshotCorrupted
            }
            Self::NotLost(_) | Self::OmissionsUnknown(_) => Code::UsageInvalid,
            Self::HeadsLost | Self::RootUnreadable(_) | Self::RootBroken { .. } => Code::StorageCorrupted,
            Self::DeviceRevoked => Code::DeviceRevoked,
            Self::FirstNameFailed(code) => *code,
            Self::LinksLost(error) => error.code(),
            Self::InputBroken(_) | Self::InputEmpty => Code::IoFailed,
            Self::Scratch(error) => Code::of_refused_write(error),
            Self::Cancelled => Code::Cancelled,
            Self::Stopped => Code::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(e) => e.hint(),
            Self::Fs(e) => e.hint(),
            Self::Key(e) => e.hint(),
            Self::ChunkMissing(_) | Self::ChunkDamaged { .. } => {
                Some("`shadowvault repair` pulls damaged and missing data from peers".to_owned())
            }
            Self::NoSource { busy: true, .. } => {
                Some("it is not lost: run the same again when that peer has less to do".to_owned())
            }
            Self::NoSource { .. } => Some("`shadowvault peers` shows who can be reached".to_owned()),
            Self::SnapshotUnknown { .. } | Self::SnapshotAmbiguous { .. } => {
                Some("`shadowvault snapshots` lists them; `latest` and `latest~N` work too".to_owned())
            }
            Self::HeadsLost => Some(
                "the daemon takes them from a holder once it is connected; or `shadowvault recover` into a new directory"
                    .to_owned(),
            ),
            Self::DeviceRevoked => Some(
                "if it is yours, make a new device of it: another --repo, then `shadowvault recover` or `shadowvault join`"
                    .to_owned(),
            ),
            Self::InputEmpty => Some("did what writes it run? --allow-empty says that nothing is meant".to_owned()),
            Self::NotDumpable(_) => Some("`shadowvault restore` brings anything back".to_owned()),
            Self::Pattern { .. } => Some("quote it, and write `\\*` for a star that is meant".to_owned()),
            Self::NotOwn { .. } => Some("run this on that device".to_owned()),
            Self::Pinned(id) => Some(format!("`shadowvault unpin {}` lets it go", id.short())),
            Self::NewestComplete(_) => Some("make a newer backup first, or add --yes if it is to go".to_owned()),
            Self::SnapshotBroken { id, .. } => Some(lost_hint(id)),
            Self::RootBroken { id, .. } => Some(format!("{}; then `shadowvault gc` works again", lost_hint(id))),
            Self::LatestUncertain(_) => Some(
                "`shadowvault repair` gets records from holders; or name a snapshot by its id (`shadowvault snapshots`)".to_owned(),
            ),
            Self::HeadHidden(head) => Some(format!(
                "`shadowvault repair` gets it from holders; if nobody has it any more, `shadowvault forget --lost {}`; or name a snapshot by its id (`shadowvault snapshots`)",
                head.id.short()
            )),
            Self::NotLost(id) => Some(format!("`shadowvault forget {}`, without --lost, forgets it", id.short())),
            Self::RootUnreadable(_) => {
                Some("mend it with `shadowvault repair`, then run `shadowvault gc` again; what nobody has any more `shadowvault forget` gives up with the snapshots that `shadowvault verify` names".to_owned())
            }
            Self::NotInSnapshot(_) => Some("`shadowvault ls REF -R` lists what is there".to_owned()),
            _ => None,
        }
    }
}
