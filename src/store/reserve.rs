//! The reserve: a file that keeps disk space for what must work when there is none left.
//!
//! Packs stop short of filling the disk; other programs do not. When the last byte is gone, what forgetting and collecting
//! have to write (index rows, a head, pack lists) takes its space from this file, which is made shorter by as much, and
//! whole again once there is room. Packs never take from it: they are refused unless it is whole or could be.
//!
//! How much is free is what the file system says. Once it has refused a write for which it claimed to have room (a user's
//! quota, for one), it is tried out from then on. Where space cannot be set aside there is no such file, and packs leave
//! as much free instead.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::files::hand_over;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::base::{limit, random_bytes};

const FILE: &str = "reserve";
/// It is made shorter by at least this much.
const STEP_BYTES: u64 = limit::MIB as u64;

pub(super) struct Reserve {
    root: PathBuf,
    /// Its length when it is whole, in bytes.
    wanted: u64,
    /// Bytes that it keeps now.
    held: AtomicU64,
    /// The file system refused what it had claimed to have room for.
    distrusted: AtomicBool,
    /// Taken while its length changes.
    changing: Mutex<()>,
    /// Taken while a commit uses what it was given.
    giving: Mutex<()>,
}

impl Reserve {
    /// Of the store in `root` with an index of so many bytes: whoever removes rows of a large one rewrites more of it.
    pub(super) fn of(root: &Path, index_bytes: u64) -> Self {
        let wanted =
            (index_bytes / limit::RESERVE_INDEX_SHARE).clamp(limit::RESERVE_BYTES, limit::RESERVE_BYTES_MAX);
        // Of a sparse file only what is really there counts.
        let held = std::fs::metadata(root.join(FILE)).map_or(0, |file| file.len().min(file.blocks() * 512));
        Self {
            root: root.to_owned(),
            wanted,
            held: AtomicU64::new(held),
            distrusted: AtomicBool::new(false),
            changing: Mutex::default(),
            giving: Mutex::default(),
        }
    }

    fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Free bytes of the file system, as it says; it may not be able to.
    fn free(&self) -> Option<u64> {
        statvfs(&self.root).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Free bytes and those of the reserve together. The file must not change between the two looks: what it has just
    /// taken would count as gone.
    fn with_reserve(&self) -> Option<u64> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.free().map(|free| free + self.held())
    }

    /// Bytes that packs may still take.
    pub(super) fn room(&self) -> u64 {
        let room = self.with_reserve().map_or(u64::MAX, |bytes| bytes.saturating_sub(self.wanted));
        let largest = limit::PACK_BYTES_MAX as u64;
        if self.distrusted.load(Ordering::Acquire) && !self.try_out(largest.min(room)) { 0 } else { room }
    }

    /// Whether a pack may take `bytes`. A file system that cannot tell is written to until it refuses.
    pub(super) fn admits(&self, bytes: u64) -> bool {
        if !self.distrusted.load(Ordering::Acquire) {
            return self.with_reserve().is_none_or(|all| all >= bytes.saturating_add(self.wanted));
        }
        self.refill();
        self.held() >= self.wanted && self.try_out(bytes)
    }

    /// Makes room for `bytes` of something without which the store cannot go on, as far as there is any.
    pub(super) fn make_room(&self, bytes: u64) {
        if self.has_room(bytes) {
            return;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        while self.held() > 0 && !self.has_room(bytes) {
            let left = self.held().saturating_sub(bytes.max(STEP_BYTES));
            let shortened = OpenOptions::new().write(true).open(self.root.join(FILE));
            if shortened.and_then(|file| file.set_len(left)).is_err() {
                return;
            }
            self.held.store(left, Ordering::Release);
            tracing::debug!(target: "store", left, "the disk is full: took from the reserve");
        }
    }

    /// Makes room for a commit that touches so many rows of the index, as long as what is returned lives.
    pub(super) fn room_for_rows(&self, rows: usize) -> MutexGuard<'_, ()> {
        let given = self.giving.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = limit::INDEX_COMMIT_BYTES + rows as u64 * limit::INDEX_ROW_ROOM_BYTES;
        self.make_room(bytes.min(self.wanted));
        given
    }

    /// Rows that one commit may touch so that there is room for it and for what follows.
    pub(super) fn rows_at_once(&self) -> usize {
        let room = self.with_reserve().unwrap_or(u64::MAX) / 2;
        let rows = room.saturating_sub(limit::INDEX_COMMIT_BYTES) / limit::INDEX_ROW_ROOM_BYTES;
        usize::try_from(rows)
            .unwrap_or(usize::MAX)
            .clamp(limit::INDEX_ROWS_MIN, limit::INDEX_ROWS_PENDING_MAX)
    }

    /// Makes the file whole again where there is room for it. What a commit was given is not taken back from it.
    pub(super) fn refill(&self) {
        let Some(_nothing_given) = unless_taken(&self.giving) else { return };
        let missing = self.wanted.saturating_sub(self.held());
        if missing == 0 || self.free().is_none_or(|free| free < missing) {
            return;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(false).mode(0o600).open(self.root.join(FILE));
        // One that cannot be made is none; what it would have kept is left free instead.
        let filled = |file: File| {
            hand_over(&self.root, &file);
            fallocate(file, FallocateFlags::empty(), 0, self.wanted).is_ok()
        };
        if opened.is_ok_and(filled) {
            self.held.store(self.wanted, Ordering::Release);
        }
    }

    /// Notes that a write was refused for want of space.
    pub(super) fn note_refusal(&self) {
        // A file system that has nothing left told the truth.
        if self.free().is_none_or(|free| free >= STEP_BYTES) {
            self.distrusted.store(true, Ordering::Release);
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        let claimed = self.free().is_none_or(|free| free >= bytes);
        claimed && (!self.distrusted.load(Ordering::Acquire) || self.try_out(bytes))
    }

    /// Whether so many bytes can be had, by having them for a moment. Costs two changes of a directory.
    fn try_out(&self, bytes: u64) -> bool {
        let path = self.root.join("tmp").join(hex::encode(random_bytes::<16>()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let fits =
            file.is_ok_and(|file: File| match fallocate(file, FallocateFlags::empty(), 0, bytes.max(1)) {
                Ok(()) => true,
                Err(error) => error == rustix::io::Errno::OPNOTSUPP,
            });
        // What cannot be deleted now is cleared at the next start.
        let _ = std::fs::remove_file(&path);
        fits
    }
}

fn unless_taken(lock: &Mutex<()>) -> Option<MutexGuard<'_, ()>> {
    match lock.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Reserve) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        let reserve = Reserve::of(dir.path(), 0);
        (dir, reserve)
    }

    #[test]
    fn it_is_made_where_there_is_room_and_grows_with_the_index() {
        let (dir, reserve) = store();
        assert_eq!(reserve.held(), 0);
        assert!(reserve.admits(1) && reserve.room() > 0);
        reserve.refill();
        let length = || std::fs::metadata(dir.path().join(FILE)).unwrap().len();
        assert_eq!((reserve.held(), length()), (limit::RESERVE_BYTES, limit::RESERVE_BYTES));
        // There is room enough, so nothing is taken.
        reserve.make_room(1);
        assert_eq!(length(), limit::RESERVE_BYTES);
        assert_eq!(Reserve::of(dir.path(), 0).held(), limit::RESERVE_BYTES);
        let wanted = |bytes| Reserve::of(dir.path(), bytes).wanted;
        assert_eq!(wanted(limit::RESERVE_BYTES * limit::RESERVE_INDEX_SHARE * 2), limit::RESERVE_BYTES * 2);
        assert_eq!(wanted(u64::MAX), limit::RESERVE_BYTES_MAX);
        // A file without blocks keeps nothing.
        let sparse = File::create(dir.path().join(FILE)).unwrap();
        sparse.set_len(limit::RESERVE_BYTES).unwrap();
        assert_eq!(Reserve::of(dir.path(), 0).held(), 0);
    }

    /// While the file grew, what it had taken was counted nowhere, and packs were refused on a disk with room.
    #[test]
    fn a_reserve_that_is_being_made_is_not_counted_as_gone() {
        let (dir, mut reserve) = store();
        // So large that what others write meanwhile makes no difference.
        reserve.wanted = 256 << 20;
        let bytes = reserve.free().unwrap().saturating_sub(reserve.wanted + reserve.wanted / 2);
        let growing = reserve.changing.lock().unwrap();
        std::thread::scope(|scope| {
            // It has taken its space and not said so yet.
            let file = File::create(dir.path().join(FILE)).unwrap();
            fallocate(file, FallocateFlags::empty(), 0, reserve.wanted).unwrap();
            let answer = scope.spawn(|| reserve.admits(bytes));
            std::thread::yield_now();
            reserve.held.store(reserve.wanted, Ordering::Release);
            drop(growing);
            assert!(answer.join().unwrap());
        });
    }

    /// A pack that was published beside a commit had the reserve take back what the commit had been given.
    #[test]
    fn it_grows_only_after_a_commit() {
        let (_dir, reserve) = store();
        let given = reserve.room_for_rows(0);
        reserve.refill();
        assert_eq!(reserve.held(), 0);
        drop(given);
        reserve.refill();
        assert_eq!(reserve.held(), limit::RESERVE_BYTES);
    }

    #[test]
    fn no_request_is_met_with_more_than_there_is() {
        let (_dir, reserve) = store();
        assert!(!reserve.admits(u64::MAX));
        reserve.refill();
        reserve.make_room(u64::MAX);
        assert_eq!(reserve.held(), 0, "all of it was given");
        // A refusal where there is room enough: from now on it is tried out.
        reserve.note_refusal();
        assert!(reserve.admits(1 << 20) && !reserve.admits(u64::MAX / 2));
        assert_eq!(reserve.held(), limit::RESERVE_BYTES, "and made whole for that");
    }
}
