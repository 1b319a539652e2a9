//! What can go wrong on the user's disk, with the path it happened to.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::base::{Code, Coded, limit};

/// A failed walk or restore step.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A pattern that fits nothing, and why.
    #[error("the pattern {0:?} would match nothing: {1}")]
    Pattern(String, String),
    /// More than `limit::PATTERNS_MAX` of them.
    #[error("there are more than {} patterns", limit::PATTERNS_MAX)]
    PatternsTooMany,
    /// Not a file name, with an optional header.
    #[error("{0:?} does not name a file that marks a directory")]
    Marker(String),
    /// Not the name of a file.
    #[error("{0:?} is not a file name")]
    StreamName(String),
    /// A path to walk that is relative or has `..` in it.
    #[error("{} is not an absolute path without ..", .0.display())]
    NotAbsolute(PathBuf),
    /// A link to walk that leads to a pipe: it would be kept as a link, without what comes out of it.
    #[error("{} leads to a pipe, of which a snapshot would have nothing", .0.display())]
    LeadsToPipe(PathBuf),
    /// A path to walk that does not exist.
    #[error("{} does not exist", .0.display())]
    NotFound(PathBuf),
    /// A snapshot names an entry in a way that could leave its directory, or that no file system takes.
    #[error("unsafe name {name:?} in {}", .dir.display())]
    UnsafeName {
        /// The directory it was to be made in.
        dir: PathBuf,
        /// The name, shortened and with odd bytes replaced.
        name: String,
    },
    /// A snapshot's entry makes no sense (unknown type, impossible device or symlink target).
    #[error("malformed entry for {}", .0.display())]
    Malformed(PathBuf),
    /// Directories nested deeper than `limit::DIRECTORY_DEPTH_MAX`.
    #[error("{} is nested too deeply", .0.display())]
    TooDeep(PathBuf),
    /// Something of another kind is there, and may not be replaced.
    #[error("{} is in the way", .0.display())]
    InTheWay(PathBuf),
    /// A name that the target's file system takes for another one, of which this restore has made or found an entry.
    #[error("{} is the same as {} to this file system: left out", .path.display(), .other.display())]
    Twin {
        /// What is left out.
        path: PathBuf,
        /// What is there.
        other: PathBuf,
    },
    /// A restore's target that is something else.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The directory that must be left alone: the data that is being restored from.
    #[error("{} is in the node's own data directory", .0.display())]
    Spared(PathBuf),
    /// The operating system refused.
    #[error("{action} {}", .path.display())]
    Io {
        /// The verb: `open`, `write`, `rename`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl FsError {
    /// An error of the operating system.
    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Like [`FsError::io`], for a path that a person chose: a missing one is named as such.
    pub(super) fn chosen(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound(path.to_owned()),
            _ => Self::io(action, path, source),
        }
    }
}

impl Coded for FsError {
    fn code(&self) -> Code {
        match self {
            Self::NotAbsolute(_)
            | Self::Pattern(..)
            | Self::PatternsTooMany
            | Self::Marker(_)
            | Self::StreamName(_)
            | Self::NotADirectory(_)
            | Self::LeadsToPipe(_)
            | Self::Spared(_) => Code::UsageInvalid,
            Self::NotFound(_) => Code::PathNotFound,
            Self::UnsafeName { .. } | Self::Malformed(_) | Self::TooDeep(_) => Code::SnapshotInvalid,
            Self::InTheWay(_) | Self::Twin { .. } => Code::IoFailed,
            Self::Io { source, .. } => code_of(source),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::PatternsTooMany => Some("put them into .shadowvaultignore files, or join some".to_owned()),
            Self::Marker(_) => Some(format!(
                "write NAME or NAME:HEADER, such as .nobackup; a name has no slash and a header at most {} bytes",
                limit::MARKER_HEADER_BYTES_MAX
            )),
            Self::StreamName(_) => {
                Some("a name such as db.sql: at most 255 bytes, without a slash".to_owned())
            }
            Self::LeadsToPipe(_) => {
                Some("write it to --stdin: command | shadowvault backup --stdin".to_owned())
            }
            Self::InTheWay(_) => Some("move it away, or restore with --overwrite always".to_owned()),
            Self::Twin { .. } => Some(
                "restore to a file system that tells upper from lower case and keeps names as they are"
                    .to_owned(),
            ),
            Self::NotADirectory(_) | Self::Spared(_) => Some("choose another directory".to_owned()),
            _ => None,
        }
    }
}

/// The code of an error of the operating system. A full quota counts as a full disk.
fn code_of(error: &io::Error) -> Code {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Code::StorageFull,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Code::PermissionDenied,
        _ => Code::IoFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_become_codes_and_name_the_path() {
        let table = [
            (Errno::NOSPC, Code::StorageFull),
            (Errno::DQUOT, Code::StorageFull),
            (Errno::ACCESS, Code::PermissionDenied),
            (Errno::IO, Code::IoFailed),
        ];
        for (errno, code) in table {
            let error = FsError::io("write", Path::new("/a/b"), errno);
            assert_eq!(error.code(), code);
            assert!(error.to_string().contains("/a/b"));
        }
        assert_eq!(FsError::chosen("open", Path::new("/x"), Errno::NOENT).code(), Code::PathNotFound);
    }
}
