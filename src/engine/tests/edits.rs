//! Random changes of a small tree, of every kind that a backup has to notice.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Timespec, Timestamps, fallocate, utimensat};

use super::fixture::noise;

/// Files grow no further than this many bytes.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// What one punch takes out of a file, in bytes.
const PUNCH_BYTES: u64 = 128 << 10;

/// `name` and `to` are places of [`path_of`]; `part` is a position in a file, in hundredths of its length.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    Write {
        name: u8,
        seed: u64,
        length: usize,
    },
    Append {
        name: u8,
        seed: u64,
        length: usize,
    },
    Overwrite {
        name: u8,
        seed: u64,
        part: u8,
        length: usize,
    },
    Resize {
        name: u8,
        part: u8,
    },
    Punch {
        name: u8,
        part: u8,
    },
    Touch {
        name: u8,
        seconds: i64,
        nanos: i64,
    },
    Mode {
        name: u8,
        mode: u32,
    },
    Remove {
        name: u8,
    },
    Directory {
        name: u8,
    },
    /// A file becomes a directory with a file in it; anything else becomes a file.
    Turn {
        name: u8,
        seed: u64,
    },
    Symlink {
        name: u8,
        to: u8,
    },
    Link {
        name: u8,
        to: u8,
    },
    Rename {
        name: u8,
        to: u8,
    },
}

pub(super) fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let name = || 0u8..24;
    let length = prop_oneof![Just(0usize), 1usize..5000, 60_000usize..400_000];
    let seconds = prop_oneof![-9i64..9, (1i64 << 32)..(1 << 32) + 9];
    let edit = prop_oneof![
        6 => (name(), 0u64..6, length).prop_map(|(name, seed, length)| Edit::Write { name, seed, length }),
        2 => (name(), 0u64..99, 1usize..90_000)
            .prop_map(|(name, seed, length)| Edit::Append { name, seed, length }),
        2 => (name(), 0u64..99, 0u8..100, 1usize..5000)
            .prop_map(|(name, seed, part, length)| Edit::Overwrite { name, seed, part, length }),
        2 => (name(), 0u8..250).prop_map(|(name, part)| Edit::Resize { name, part }),
        1 => (name(), 0u8..100).prop_map(|(name, part)| Edit::Punch { name, part }),
        1 => (name(), seconds, 0i64..1_000_000_000)
            .prop_map(|(name, seconds, nanos)| Edit::Touch { name, seconds, nanos }),
        1 => (name(), 0u32..0o7777).prop_map(|(name, mode)| Edit::Mode { name, mode: mode | 0o700 }),
        1 => name().prop_map(|name| Edit::Remove { name }),
        2 => name().prop_map(|name| Edit::Directory { name }),
        1 => (name(), 0u64..6).prop_map(|(name, seed)| Edit::Turn { name, seed }),
        1 => (name(), name()).prop_map(|(name, to)| Edit::Symlink { name, to }),
        1 => (name(), name()).prop_map(|(name, to)| Edit::Link { name, to }),
        1 => (name(), name()).prop_map(|(name, to)| Edit::Rename { name, to }),
    ];
    prop::collection::vec(edit, 0..20)
}

/// Eight names on each of three levels.
fn path_of(root: &Path, name: u8) -> PathBuf {
    let leaf = |n: u8| format!("n{n}");
    match name {
        0..8 => root.join(leaf(name)),
        8..16 => root.join("n0").join(leaf(name - 8)),
        _ => root.join("n0/n1").join(leaf(name - 16)),
    }
}

/// Edits that do not fit what is there fail, and that is fine.
pub(super) fn apply(root: &Path, edit: &Edit) {
    let at = |name: u8| path_of(root, name);
    let _ = match *edit {
        Edit::Write { name, seed, length } => std::fs::write(at(name), noise(seed, length)),
        Edit::Append { name, seed, length } => {
            change(&at(name), 100, |file, end| file.write_all_at(&noise(seed, length), end))
        }
        Edit::Overwrite { name, seed, part, length } => {
            change(&at(name), part, |file, offset| file.write_all_at(&noise(seed, length), offset))
        }
        Edit::Resize { name, part } => {
            change(&at(name), part, |file, length| file.set_len(length.min(FILE_BYTES_MAX)))
        }
        Edit::Punch { name, part } => change(&at(name), part, punch),
        Edit::Touch { name, seconds, nanos } => touch(&at(name), seconds, nanos),
        Edit::Mode { name, mode } => std::fs::set_permissions(at(name), Permissions::from_mode(mode)),
        Edit::Remove { name } => remove(&at(name)),
        Edit::Directory { name } => std::fs::create_dir(at(name)),
        Edit::Turn { name, seed } => turn(&at(name), seed),
        Edit::Symlink { name, to } => symlink(at(to), at(name)),
        Edit::Link { name, to } => std::fs::hard_link(at(to), at(name)),
        Edit::Rename { name, to } => std::fs::rename(at(name), at(to)),
    };
}

/// Does something to an open file at a part of its length.
fn change(path: &Path, part: u8, act: impl FnOnce(&File, u64) -> io::Result<()>) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    act(&file, length * u64::from(part) / 100)
}

fn punch(file: &File, offset: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, offset, PUNCH_BYTES)?)
}

fn touch(path: &Path, seconds: i64, nanos: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path).or_else(|_| std::fs::remove_dir_all(path))
}

fn turn(path: &Path, seed: u64) -> io::Result<()> {
    let was_file = path.symlink_metadata()?.is_file();
    remove(path)?;
    if !was_file {
        return std::fs::write(path, noise(seed, 70_000));
    }
    std::fs::create_dir(path)?;
    std::fs::write(path.join("n1"), noise(seed, 70_000))
}
