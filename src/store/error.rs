//! What can go wrong with the data directory.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use crate::base::{ByteSize, Code, Coded, PackId};

/// A failed store operation.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No store in that directory.
    #[error("there is no ShadowVault node in {}", .0.display())]
    NotHere(PathBuf),
    /// One is being made there, or its making was cut off.
    #[error("`shadowvault {command}` was cut off in {}: what is there is not whole yet", path.display())]
    Unfinished {
        /// Where.
        path: PathBuf,
        /// The command that makes it.
        command: String,
    },
    /// There is one already.
    #[error("there is already a ShadowVault node in {}", .0.display())]
    Exists(PathBuf),
    /// Not empty, and not a store.
    #[error("{} is not empty and not a ShadowVault data directory", .0.display())]
    Foreign(PathBuf),
    /// Another process has it open.
    #[error("another process is using {}", .0.display())]
    Busy(PathBuf),
    /// Packs are there, the marker is not.
    #[error("the store marker in {} is missing or damaged", .0.display())]
    MarkerLost(PathBuf),
    /// From a newer version.
    #[error("the store was written by a newer version ({0})")]
    TooNew(String),
    /// The directory cannot be read at all.
    #[error("the data directory {} is not available", path.display())]
    Unavailable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data directory is on a medium, or of an owner, that lets nobody write here.
    #[error("the data directory {} can be read only", .0.display())]
    ReadOnly(PathBuf),
    /// redb's file is missing, foreign or damaged.
    #[error("the index is damaged: {0}")]
    IndexDamaged(String),
    /// The disk is full.
    #[error("the disk is full while {0}")]
    Full(&'static str),
    /// The packs take as much as they may.
    #[error("the packs here would take more than {0}")]
    OverLimit(ByteSize),
    /// What is lent to others, or the disk, is used up.
    #[error("what this node lends, or its disk, has no room for the pack")]
    NotLent,
    /// A flush to disk failed earlier; nothing more is acknowledged.
    #[error("a write to disk failed earlier; the store accepts nothing more until it is opened again")]
    Poisoned,
    /// No such pack file.
    #[error("pack {0} is not in this store")]
    MissingPack(PackId),
    /// A record or key file is not there.
    #[error("{0} is not in this store")]
    MissingFile(String),
    /// A file of ours does not decode.
    #[error("{0} is damaged")]
    DamagedFile(String),
    /// Any other read or write.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: Cow<'static, str>,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Sorts an I/O error into [`StoreError::Full`] or [`StoreError::Io`].
    pub fn io(doing: &'static str, source: io::Error) -> Self {
        match Code::of_refused_write(&source) {
            Code::StorageFull => Self::Full(doing),
            _ => Self::Io { doing: doing.into(), source },
        }
    }
}

impl StoreError {
    /// The file is there and cannot be read as what it is, now or ever: an absurd length, sectors that are gone, what a file
    /// system knows to be wrong, a directory in its place. Want of handles or memory says nothing about it.
    pub fn is_rot(&self) -> bool {
        use rustix::io::Errno;
        let is_of_file = |source: &io::Error| {
            let error = Errno::from_io_error(source);
            matches!(error, Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::ISDIR | Errno::LOOP))
        };
        match self {
            Self::DamagedFile(_) => true,
            Self::Io { source, .. } => is_of_file(source),
            _ => false,
        }
    }
}

/// What helps when a small file that the node cannot do without is damaged. Everything else comes from peers.
fn file_hint(name: &str) -> Option<&'static str> {
    match name.trim_start_matches('/') {
        "node.key" => Some(
            "put a copy of the file back; without its key the node is another peer: recover into a new directory (--repo NEW) with the 24 words, or init one, and keep this one until all is there",
        ),
        "vault.id" => Some(
            "put a copy of the file back: the vault's number, 64 digits, is the name of its directory in heads/",
        ),
        "members/peers.json" => Some(
            "put a copy of the file back, or move it and the one in copies away: then no peer is known, and each is paired again (`shadowvault peers add` or `invite`); packs, keys and snapshots are not in it",
        ),
        name if name.starts_with("members/") => {
            Some("put a copy of the file back, or move it and the one in copies away and start again")
        }
        _ => None,
    }
}

impl Coded for StoreError {
    fn code(&self) -> Code {
        match self {
            Self::NotHere(_) => Code::VaultNotFound,
            Self::Unfinished { .. } => Code::VaultUnfinished,
            Self::Exists(_) | Self::Foreign(_) => Code::VaultExists,
            Self::Busy(_) => Code::StorageBusy,
            Self::TooNew(_) => Code::StorageTooNew,
            Self::Unavailable { .. } | Self::ReadOnly(_) | Self::Poisoned => Code::StorageUnavailable,
            Self::MarkerLost(_) | Self::IndexDamaged(_) | Self::DamagedFile(_) => Code::StorageCorrupted,
            Self::Full(_) | Self::OverLimit(_) | Self::NotLent => Code::StorageFull,
            Self::MissingPack(_) | Self::MissingFile(_) => Code::ChunkNotFound,
            Self::Io { .. } => Code::IoFailed,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotHere(_) => {
                "`shadowvault init` makes one; --repo or SHADOWVAULT_REPO_PATH names another directory"
            }
            Self::Unfinished { .. } => {
                "run the same command again: it goes on where it was; or name another directory with --repo"
            }
            Self::Exists(_) => "to start anew, name another directory with --repo",
            Self::Foreign(_) => "name an empty or new directory with --repo",
            Self::Busy(_) => {
                "is the daemon running? commands reach it through its control socket; else wait for the other command"
            }
            Self::MarkerLost(_) => {
                "is the right disk mounted? the marker is the file shadowvault.store; if it alone is lost, `shadowvault rebuild-index` writes it again"
            }
            Self::IndexDamaged(_) => {
                "`shadowvault rebuild-index` makes it anew from the packs; no data is lost"
            }
            Self::Full(_) => "free some space and run the command again; everything committed so far is kept",
            Self::OverLimit(_) => "raise storage.disk_limit; everything committed so far is kept",
            Self::NotLent => {
                "raise replication.lend, or free some space; everything committed so far is kept"
            }
            Self::Unavailable { .. } => {
                "is the right disk mounted? if the node was removed on purpose, `shadowvault init` makes another one"
            }
            Self::ReadOnly(_) => {
                "listing, restoring and verifying work there; for anything else mount it read-write, or copy it to another disk"
            }
            Self::Poisoned => "check the disk (dmesg), then restart",
            Self::DamagedFile(name) => return file_hint(name).map(str::to_owned),
            Self::Io { .. } if self.is_rot() => {
                "the disk does not give it back: see what it says (dmesg), and copy what can be read to another one; `shadowvault repair` gets from peers what they have"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}
