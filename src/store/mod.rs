//! What is on this node's disk: pack files, records, key files, and the redb index over them.
//!
//! Owns the data directory and everything in it, under one exclusive lock. Sees sealed bytes only. What a crash may
//! lose: files that were being written (their rests lie in `tmp/` and are cleared at the next start) and index
//! rows of packs published since the last commit (found again by [`Store::unindexed_packs`]). Never lost: anything
//! whose publication returned `Ok`. The index is rebuildable; it is never the only copy of anything.

#[cfg(test)]
mod durable_test;
mod error;
mod files;
mod index;
mod making;
mod packs;
mod peers;
mod quarantine;
mod records;
mod reserve;
mod retire;
mod rows;
mod trace;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

pub use error::StoreError;
pub use index::{Borrowed, IndexedPack, NewPack, PackCounts};
pub use making::Purpose;
pub use packs::{PackDraft, PackFile};
pub use peers::{PeerBook, PeerEntry, PendingPeer};
pub use quarantine::Quarantined;
pub use records::{ChainStamp, RecordName};
pub use retire::{AtWork, MarkStart, Retired};
pub use rows::{ChunkPlace, PackNumber, PackRow};
#[cfg(test)]
pub use trace::{Event, record};

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::base::limit;
use files::Files;
use index::Index;
use records::Chains;
use reserve::Reserve;
use retire::Retiring;

const MARKER: &str = "shadowvault.store";
const MARKER_TEXT: &str = "ShadowVault store, format 1";
const LOCK: &str = "lock";
const INDEX: &str = "index.redb";

/// An open data directory. Share it by reference or `Arc`; all methods take `&self` and may block on the disk.
pub struct Store {
    files: Files,
    index: Index,
    reserve: Arc<Reserve>,
    /// What packs may take; 0 is no limit.
    disk_limit: AtomicU64,
    /// What they take, once counted.
    disk_used: Mutex<Option<u64>>,
    /// Packs on their way out.
    retiring: Retiring,
    /// Which heads count.
    chains: Chains,
    /// Holds the exclusive lock for as long as the store is open.
    _lock: std::fs::File,
}

impl Store {
    /// Whether there is a store in `dir`, of whatever version.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(MARKER).exists()
    }

    /// Opens the store in `dir`.
    ///
    /// # Errors
    /// [`StoreError::NotHere`] when there is none, [`StoreError::Unfinished`] when it is not whole yet, [`StoreError::Busy`] when another process has it open,
    /// [`StoreError::IndexDamaged`] when redb's file is missing, foreign or damaged: then [`Store::rebuild`] helps.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let (files, token, lock) = Self::open_files(dir)?;
        let index = Index::open(&dir.join(INDEX), &token)?;
        Self::assemble(files, index, lock)
    }

    /// Opens the store in `dir` with a new, empty index; the old one is kept as `index.redb.old`.
    ///
    /// The caller fills the index from the files.
    pub fn rebuild(dir: &Path) -> Result<Self, StoreError> {
        let (files, token, lock) = Self::open_files(dir)?;
        let path = dir.join(INDEX);
        if path.exists() {
            let kept = dir.join("index.redb.old");
            std::fs::rename(&path, &kept).map_err(|e| StoreError::io("moving the old index aside", e))?;
        }
        let index = Index::create(&path, &token)?;
        Self::assemble(files, index, lock)
    }

    /// Opens the store in `dir` for its files only, with a throw-away index in memory: to try keys before anything
    /// is changed. Index rows written to it are lost.
    pub fn rebuild_probe(dir: &Path) -> Result<Self, StoreError> {
        let (files, token, lock) = Self::open_files(dir)?;
        Self::assemble(files, Index::in_memory(&token)?, lock)
    }

    fn assemble(mut files: Files, mut index: Index, lock: std::fs::File) -> Result<Self, StoreError> {
        let index_bytes = std::fs::metadata(files.path("", INDEX)).map_or(0, |file| file.len());
        let reserve = Arc::new(Reserve::of(files.root(), index_bytes));
        files.draw_on(&reserve);
        index.draw_on(&reserve);
        let (retired, doomed) = index.leftovers()?;
        let retiring = Retiring::new(retired, doomed, index.mistrusted()?);
        let (disk_limit, disk_used) = (AtomicU64::new(0), Mutex::default());
        let chains = Chains::default();
        Ok(Self { files, index, reserve, disk_limit, disk_used, retiring, chains, _lock: lock })
    }

    fn open_files(dir: &Path) -> Result<(Files, String, std::fs::File), StoreError> {
        let marker = match std::fs::read_to_string(dir.join(MARKER)) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if let Some((_, purpose)) = making::read_making(dir)? {
                    return Err(purpose.cut_off_in(dir));
                }
                // Packs without a marker are not "no store": something went away.
                return Err(if dir.join("packs").is_dir() {
                    StoreError::MarkerLost(dir.to_owned())
                } else {
                    StoreError::NotHere(dir.to_owned())
                });
            }
            Err(e) => return Err(StoreError::Unavailable { path: dir.to_owned(), source: e }),
        };
        let mut lines = marker.lines();
        let (Some(head), Some(token)) = (lines.next(), lines.next()) else {
            return Err(StoreError::MarkerLost(dir.to_owned()));
        };
        if head != MARKER_TEXT {
            return Err(StoreError::TooNew(head.chars().take(60).collect()));
        }
        let lock = lock(dir)?;
        Ok((Files::open(dir)?, token.to_owned(), lock))
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.files.root()
    }

    /// Whether a flush to disk failed, so that nothing more is accepted.
    pub fn is_poisoned(&self) -> bool {
        self.files.sound().is_err()
    }

    /// Free bytes on its file system.
    pub fn disk_free(&self) -> u64 {
        rustix::fs::statvfs(self.files.root()).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
    }

    /// Bytes that packs may still take there: what is free beside the reserve.
    pub fn room(&self) -> u64 {
        self.reserve.room()
    }
}

fn lock(dir: &Path) -> Result<std::fs::File, StoreError> {
    let path: PathBuf = dir.join(LOCK);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| StoreError::io("opening the lock file", e))?;
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() >= limit::LOCK_PATIENCE => {
                return Err(StoreError::Busy(dir.to_owned()));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(limit::LOCK_STEP),
            Err(e) => return Err(StoreError::io("locking the store", e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ChunkId, Epoch, PackId, PeerId};
    use crate::crypto::{Codec, Kind};
    use crate::pack::{Outboard, PackEntry};

    fn pack(fill: u8) -> (PackId, Vec<u8>, Outboard) {
        let bytes = vec![fill; 128 << 10];
        let (id, outboard) = Outboard::of(&bytes);
        (id, bytes, outboard)
    }

    fn entry(fill: u8) -> PackEntry {
        PackEntry {
            kind: Kind::Data,
            codec: Codec::Zstd,
            id: ChunkId::new([fill; 32]),
            offset: 48,
            sealed_length: 50,
            length: 99,
        }
    }

    #[test]
    fn packs_and_rows_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let (id, bytes, outboard) = pack(1);
        {
            let store = Store::create(dir.path()).unwrap();
            store.publish_pack(id, &bytes, &outboard).unwrap();
            let new = NewPack {
                id,
                bytes: bytes.len() as u64,
                epoch: Epoch(0),
                own: true,
                entries: vec![entry(7)],
            };
            store.index_packs(&[new]).unwrap();
            assert!(matches!(Store::open(dir.path()), Err(StoreError::Busy(_))));
        }
        let store = Store::open(dir.path()).unwrap();
        let place = store.lookup(ChunkId::new([7; 32])).unwrap().unwrap();
        assert_eq!((place.offset, place.length, place.codec), (48, 99, Codec::Zstd));
        let row = store.pack_by_number(place.pack).unwrap().unwrap();
        assert_eq!(row.id, id);
        let file = store.open_pack(id).unwrap();
        let mut got = vec![0; 4];
        file.read_at(5, &mut got).unwrap();
        assert_eq!(got, [1; 4]);
        assert_eq!(store.outboard(id, bytes.len()).unwrap(), Some(outboard));
    }

    #[test]
    fn a_store_is_told_from_none_and_from_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("node");
        assert!(matches!(Store::open(&at), Err(StoreError::NotHere(_))));
        drop(Store::create(&at).unwrap());
        assert!(matches!(Store::create(&at), Err(StoreError::Exists(_))));
        let index = std::fs::read(at.join(INDEX)).unwrap();
        std::fs::remove_file(at.join(INDEX)).unwrap();
        assert!(matches!(Store::open(&at), Err(StoreError::IndexDamaged(_))));
        // A foreign index (of another store) is refused as well.
        let other = dir.path().join("other");
        drop(Store::create(&other).unwrap());
        std::fs::copy(other.join(INDEX), at.join(INDEX)).unwrap();
        assert!(matches!(Store::open(&at), Err(StoreError::IndexDamaged(_))));
        // Damaged anywhere: refused or harmless, never a panic.
        for at_byte in (0..index.len()).step_by(index.len() / 40) {
            let mut bad = index.clone();
            bad[at_byte] ^= 0xff;
            std::fs::write(at.join(INDEX), &bad).unwrap();
            if let Ok(store) = Store::open(&at) {
                let _ = store.pack_counts();
            }
        }
        drop(Store::rebuild(&at).unwrap());
        drop(Store::open(&at).unwrap());
        std::fs::remove_file(at.join(MARKER)).unwrap();
        assert!(matches!(Store::open(&at), Err(StoreError::MarkerLost(_))));
    }

    /// A data directory that others may list must not show them anything.
    #[test]
    fn every_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let store = Store::create(dir.path()).unwrap();
        store.publish_node_key(&[1; 32]).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.file_name());
        }
    }

    #[test]
    fn receipts_count_distinct_holders() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let (id, bytes, _) = pack(1);
        let new = NewPack { id, bytes: bytes.len() as u64, epoch: Epoch(0), own: true, entries: vec![] };
        store.index_packs(&[new]).unwrap();
        let (a, b) = (PeerId::new([1; 32]), PeerId::new([2; 32]));
        for holder in [a, b, a] {
            store
                .add_receipts(holder, &[id, PackId::new([9; 32])], crate::base::Moment::from_millis(5))
                .unwrap();
        }
        let counts = store.receipt_counts(|_| true).unwrap();
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2]);
        let counts = store.receipt_counts(|holder| *holder == b).unwrap();
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [1]);
        store.drop_receipts(a).unwrap();
        assert_eq!(store.holders_of(id).unwrap(), [b]);
    }
}
