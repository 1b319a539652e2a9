//! The user's disk: walking it, capturing what restore needs, reading files with their holes, restoring safely.
//!
//! Synchronous, for worker threads. Nothing here follows a symlink inside a tree, neither while it walks nor
//! while it restores: every step goes from an open directory to one name in it. The only links that are
//! followed stand in paths a person typed (above a root of a walk, and up to a restore's target).
//!
//! A restore writes nothing outside its target whatever the snapshot says and whatever others do in the target
//! meanwhile; a file appears under its name only when it is complete. (Of files over `limit::PATCH_BYTES_MIN` that are
//! overwritten, only the parts that differ are written, in their place.)

mod accounts;
mod apply;
mod capture;
mod compare;
mod directory;
mod error;
mod explain;
mod file;
mod glob;
mod ignore;
mod listing;
mod removal;
mod roots;
mod rules;
mod select;
mod selector;
mod settled;
mod source;
mod special;
mod stream;
mod target;
mod temporary;
mod walk;

#[cfg(test)]
mod ignore_test;
#[cfg(test)]
mod restore_test;
#[cfg(test)]
mod walk_test;

pub use directory::{Fate, TargetDir};
pub use error::FsError;
pub use explain::{Explanation, Why, explain};
pub use file::{Begin, FileWriter};
pub use ignore::{Exclusions, Ground, IGNORE_FILE, PatternList, Sieve, Watch};
pub use listing::Listing;
pub use removal::{Older, Removal};
pub use roots::{is_link, plain_roots};
pub use selector::{Choice, Selector};
pub use source::{FileStamp, Segment, Segments, SourceFile, open_file};
pub use stream::stream_events;
pub use target::{Lost, Outcome, Overwrite, RestoreOptions, SkipReason, Target, Warning, Warnings};
pub use walk::{Contents, Entries, Filter, Item, KeepAll, Walk, WalkEvent, WalkOptions};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit of open files as far as it may, and returns what it is now (`None`: unlimited).
///
/// A restore holds one handle for each directory on the way down and for each file being written; the usual
/// soft limit of 1,024 is too low for deep trees. Never fails: without the right, the limit stays.
pub fn raise_open_files_limit() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    if setrlimit(Resource::Nofile, raised).is_ok() { now.maximum } else { now.current }
}
