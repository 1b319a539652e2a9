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
mod health;
mod index;
mod making;
mod packs;
mod peers;
mod quarantine;
mod receipt_files;
mod records;
mod reserve;
mod retire;
mod rows;
mod scratch;
mod states;
mod trace;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

pub use error::StoreError;
pub use health::Failure;
pub use index::{
    Accounts, Borrowed, ChargedRecord, IndexedPack, Kept, NOBODY, NewPack, PackCounts, is_guarded,
    record_room,
};
pub use making::Purpose;
pub use packs::{PackDraft, PackFile};
pub use peers::{Account, ClaimedAddress, Left, PeerBook, PeerEntry, PendingPeer, TurnedAway, Word};
pub use quarantine::Quarantined;
pub use receipt_files::KeptReceipts;
pub use records::{ChainStamp, RecordName};
pub use retire::{AtWork, MarkStart, Retired};
pub use rows::{ChunkPlace, PackNumber, PackRow};
pub use scratch::Scratch;
#[cfg(test)]
pub use trace::{Event, record};

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::base::{limit, random_bytes};
use files::Files;
use index::Index;
use records::{Chains, NODE_KEY};
use reserve::Reserve;
use retire::Retiring;

const MARKER: &str = "shadowvault.store";
const MARKER_BEGIN: &str = "ShadowVault store, format ";
const MARKER_TEXT: &str = "ShadowVault store, format 1";
const LOCK: &str = "lock";
const INDEX: &str = "index.redb";
/// In `tmp/`: an index that is being made anew.
const NEW_INDEX: &str = "index.redb";
/// Is there when the index turned out damaged while it was used, until it is made anew.
const DAMAGED: &str = "index.damaged";
/// Where earlier versions kept the index before the last rebuild.
const OLD_INDEX: &str = "index.redb.old";

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
        Self::open_checked(dir, limit::INDEX_CHECKED_BYTES)
    }

    /// The same for who has it open for long: larger indexes are checked as well, and one that turned out damaged in an
    /// earlier run, and was not made anew since, is not used.
    ///
    /// # Errors
    /// As of [`Store::open`].
    pub fn open_for_long(dir: &Path) -> Result<Self, StoreError> {
        if dir.join(DAMAGED).exists() {
            return Err(StoreError::IndexDamaged("it turned out so before".to_owned()));
        }
        Self::open_checked(dir, limit::INDEX_CHECKED_LONG_BYTES)
    }

    /// Opens the store in `dir` for reading alone, if it can be read only: whatever would be written is an error, and what is
    /// entered in the index is forgotten in the end. It works on a copy of the index in the system's directory for such.
    ///
    /// # Errors
    /// As of [`Store::open`].
    pub fn open_to_read(dir: &Path) -> Result<Self, StoreError> {
        match Self::open(dir) {
            Err(StoreError::ReadOnly(_)) => {}
            opened => return opened,
        }
        let token = read_marker(dir)?;
        let lock = match std::fs::File::open(dir.join(LOCK)) {
            Ok(file) => wait_for(file, dir, FlockOperation::NonBlockingLockShared)?,
            // Who made the copy left it out.
            Err(_) => files::temporary()?,
        };
        let index = Index::open_copy(&dir.join(INDEX), &token, limit::INDEX_CHECKED_BYTES)?;
        let store = Self::assemble(Files::open_read_only(dir), index, lock)?;
        store.trust_index()?;
        tracing::warn!(target: "store", dir = %dir.display(), "the data directory can be read only: nothing is noted there");
        Ok(store)
    }

    fn open_checked(dir: &Path, check_bytes: u64) -> Result<Self, StoreError> {
        let (files, token, lock) = Self::open_files(dir)?;
        let index = Index::open(&dir.join(INDEX), &token, check_bytes)?;
        let store = Self::assemble(files, index, lock)?;
        store.trust_index()?;
        store.mend_states()?;
        Ok(store)
    }

    /// An index that nobody marked as whole is of an earlier version, which made indexes anew in place: it may be half of
    /// one. It is whole if no such rebuild left its trace, and every pack here has its row.
    fn trust_index(&self) -> Result<(), StoreError> {
        if self.index.is_whole()? {
            return Ok(());
        }
        if self.files.path("", OLD_INDEX).exists() || !self.unindexed_packs()?.is_empty() {
            return Err(StoreError::IndexDamaged("it may not have been finished".to_owned()));
        }
        self.index.mark_whole()
    }

    /// Opens the store in `dir` with a new, empty index beside the one that is in place, which stays as it is.
    ///
    /// The caller fills the index from the files and then calls [`Store::publish_index`]; without that it is gone at the
    /// next start. A marker that is lost or damaged is written again.
    pub fn rebuild(dir: &Path) -> Result<Self, StoreError> {
        let (files, token, lock) = Self::open_marked_anew(dir, true)?;
        let index = Index::create(&files.path("tmp", NEW_INDEX), &token)?;
        Self::assemble(files, index, lock)
    }

    /// Durably puts the index that [`Store::rebuild`] began in place of the old one: now it has everything that the files
    /// tell.
    pub fn publish_index(&self) -> Result<(), StoreError> {
        self.index.mark_whole()?;
        self.files.rename(("tmp", NEW_INDEX), ("", INDEX))?;
        self.files.remove("", DAMAGED)?;
        self.files.remove("", OLD_INDEX)
    }

    /// Opens the store in `dir` for its files only, with a throw-away index in memory: to try keys before anything
    /// is changed. Index rows written to it are lost.
    pub fn rebuild_probe(dir: &Path) -> Result<Self, StoreError> {
        let (files, token, lock) = Self::open_marked_anew(dir, false)?;
        Self::assemble(files, Index::in_memory(&token)?, lock)
    }

    fn assemble(mut files: Files, mut index: Index, lock: std::fs::File) -> Result<Self, StoreError> {
        let index_bytes = std::fs::metadata(files.path("", INDEX)).map_or(0, |file| file.len());
        let reserve = Arc::new(Reserve::of(files.root(), index_bytes));
        files.draw_on(&reserve);
        index.belong(&reserve, files.health());
        files.health().settle()?;
        let (retired, doomed) = index.leftovers()?;
        let retiring = Retiring::new(retired, doomed, index.mistrusted()?);
        let (disk_limit, disk_used) = (AtomicU64::new(0), Mutex::default());
        let chains = Chains::default();
        let store = Self { files, index, reserve, disk_limit, disk_used, retiring, chains, _lock: lock };
        store.renew_doubts()?;
        Ok(store)
    }

    fn open_files(dir: &Path) -> Result<(Files, String, std::fs::File), StoreError> {
        let token = read_marker(dir)?;
        let lock = lock(dir)?;
        Ok((Files::open(dir)?, token, lock))
    }

    /// The same where a marker that alone is lost may be written again. Where the node's key is, the disk is the right one.
    fn open_marked_anew(dir: &Path, write: bool) -> Result<(Files, String, std::fs::File), StoreError> {
        let token = match read_marker(dir) {
            Err(StoreError::MarkerLost(_)) if dir.join(NODE_KEY).is_file() => {
                hex::encode(random_bytes::<16>())
            }
            known => return known.and_then(|_| Self::open_files(dir)),
        };
        let lock = lock(dir)?;
        let files = Files::open(dir)?;
        if write {
            tracing::warn!(target: "store", "the store's marker was gone or damaged, and is written again");
            files.publish("", MARKER, &[format!("{MARKER_TEXT}\n{token}\n").as_bytes()])?;
        }
        Ok((files, token, lock))
    }

    /// Whether nothing can be written to it.
    pub fn is_read_only(&self) -> bool {
        self.files.health().is_read_only()
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.files.root()
    }

    /// What failed for good, so that nothing more is acknowledged.
    pub fn failure(&self) -> Option<Failure> {
        self.files.health().failure().cloned()
    }

    /// Has `hook` told once when something fails for good. It is called on the thread that meets it, which may hold locks
    /// of the store.
    pub fn on_failure(&self, hook: impl Fn(&Failure) + Send + Sync + 'static) {
        self.files.health().on_failure(Box::new(hook));
    }

    /// Whether the store can be relied on now: nothing failed for good, and its directory is where it was.
    ///
    /// # Errors
    /// What everything is to be answered with: [`StoreError::Poisoned`], [`StoreError::IndexDamaged`], or
    /// [`StoreError::Unavailable`].
    pub fn available(&self) -> Result<(), StoreError> {
        self.files.health().sound()
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

/// What ties the index to the store in `dir`.
fn read_marker(dir: &Path) -> Result<String, StoreError> {
    let marker = match std::fs::read(dir.join(MARKER)) {
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
    let marker = String::from_utf8_lossy(&marker);
    let mut lines = marker.lines();
    let (Some(head), Some(token)) = (lines.next(), lines.next()) else {
        return Err(StoreError::MarkerLost(dir.to_owned()));
    };
    if head == MARKER_TEXT {
        return Ok(token.to_owned());
    }
    // Of a newer version is what says so; anything else is damage.
    Err(match head.strip_prefix(MARKER_BEGIN).is_some_and(|version| version.parse::<u32>().is_ok()) {
        true => StoreError::TooNew(head.chars().take(60).collect()),
        false => StoreError::MarkerLost(dir.to_owned()),
    })
}

fn lock(dir: &Path) -> Result<std::fs::File, StoreError> {
    let path: PathBuf = dir.join(LOCK);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| cannot_lock(dir, error))?;
    wait_for(file, dir, FlockOperation::NonBlockingLockExclusive)
}

fn cannot_lock(dir: &Path, error: std::io::Error) -> StoreError {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => StoreError::ReadOnly(dir.to_owned()),
        _ => StoreError::io("opening the lock file", error),
    }
}

fn wait_for(file: std::fs::File, dir: &Path, how: FlockOperation) -> Result<std::fs::File, StoreError> {
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&file, how) {
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

    /// Any 32 bytes were a key: the node was another peer from then on, and said that all was well.
    #[test]
    fn a_node_is_never_another_one_because_its_key_rotted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        let (seed, path) = ([7; 32], store.dir().join(NODE_KEY));
        store.publish_node_key(&seed).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() * 2 {
            let mut bytes = whole.clone();
            match bytes.get_mut(at) {
                Some(byte) => *byte ^= 1,
                None => bytes.truncate(at - whole.len()),
            }
            std::fs::write(&path, bytes).unwrap();
            // Without the check it is a file of the first version.
            match store.read_node_key() {
                Ok(read) => assert!(at == whole.len() + 32 && read == Some(seed), "{at}"),
                Err(error) => assert!(matches!(error, StoreError::DamagedFile(_)), "{at}: {error}"),
            }
        }
        std::fs::write(&path, [0; 32]).unwrap();
        assert!(store.read_node_key().is_err());
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
        for marker in
            [None, Some(&b"\0\0\0"[..]), Some(b"ShadowVault store, farmat 1\nabc\n"), Some(b"ShadowVault")]
        {
            match marker {
                None => std::fs::remove_file(at.join(MARKER)).unwrap(),
                Some(bytes) => std::fs::write(at.join(MARKER), bytes).unwrap(),
            }
            assert!(matches!(Store::open(&at), Err(StoreError::MarkerLost(_))));
            // Without the node's key there is no telling that this is the right disk.
            assert!(matches!(Store::rebuild(&at), Err(StoreError::MarkerLost(_))));
            std::fs::write(at.join(NODE_KEY), b"").unwrap();
            drop(Store::rebuild_probe(&at).unwrap());
            assert!(matches!(Store::open(&at), Err(StoreError::MarkerLost(_))));
            Store::rebuild(&at).unwrap().publish_index().unwrap();
            drop(Store::open(&at).unwrap());
            std::fs::remove_file(at.join(NODE_KEY)).unwrap();
        }
    }

    fn index_of(store: &Store, id: PackId) {
        let new = NewPack { id, bytes: 128 << 10, epoch: Epoch(0), own: true, entries: vec![entry(7)] };
        store.index_packs(&[new]).unwrap();
    }

    /// A rebuild that was cut off left an index that opened as whole, and knew nothing.
    #[test]
    fn an_index_that_is_being_made_anew_takes_its_place_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let (id, bytes, outboard) = pack(1);
        {
            let store = Store::create(dir.path()).unwrap();
            store.publish_pack(id, &bytes, &outboard).unwrap();
            index_of(&store, id);
        }
        // Left before it knows anything, and when it knows everything but that.
        for is_filled in [false, true] {
            let store = Store::rebuild(dir.path()).unwrap();
            assert!(store.pack_by_id(id).unwrap().is_none());
            if is_filled {
                index_of(&store, id);
            }
            drop(store);
            let store = Store::open(dir.path()).unwrap();
            assert!(store.lookup(ChunkId::new([7; 32])).unwrap().is_some(), "the old one stands");
            assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        }
        std::fs::write(dir.path().join(INDEX), b"damaged").unwrap();
        drop(Store::rebuild(dir.path()).unwrap());
        assert!(
            matches!(Store::open(dir.path()), Err(StoreError::IndexDamaged(_))),
            "nor is half a one better"
        );
        std::fs::write(dir.path().join(DAMAGED), b"").unwrap();
        let store = Store::rebuild(dir.path()).unwrap();
        index_of(&store, id);
        store.publish_index().unwrap();
        // It goes on in its new place.
        store.add_receipts(PeerId::new([1; 32]), &[id], crate::base::Moment::from_millis(5)).unwrap();
        drop(store);
        let store = Store::open_for_long(dir.path()).unwrap();
        assert!(store.lookup(ChunkId::new([7; 32])).unwrap().is_some());
        assert_eq!(store.holders_of(id).unwrap(), [PeerId::new([1; 32])]);
    }

    /// An index without the mark is of an earlier version, which made indexes anew in place.
    #[test]
    fn an_index_without_the_mark_is_whole_only_if_every_pack_has_its_row() {
        let dir = tempfile::tempdir().unwrap();
        let (id, bytes, outboard) = pack(1);
        let unmarked = |fill: bool, old: bool| {
            let at = dir.path().join(format!("{fill}{old}"));
            drop(Store::create(&at).unwrap());
            let store = Store::rebuild(&at).unwrap();
            store.publish_pack(id, &bytes, &outboard).unwrap();
            if fill {
                index_of(&store, id);
            }
            store.files.rename(("tmp", NEW_INDEX), ("", INDEX)).unwrap();
            drop(store);
            if old {
                std::fs::write(at.join(OLD_INDEX), b"").unwrap();
            }
            Store::open(&at).and_then(|store| store.index.is_whole())
        };
        assert!(unmarked(true, false).unwrap(), "it gets the mark");
        for (fill, old) in [(false, false), (true, true), (false, true)] {
            assert!(matches!(unmarked(fill, old), Err(StoreError::IndexDamaged(_))), "{fill} {old}");
        }
    }

    /// Zeroed pages made redb panic, or rows point anywhere.
    #[test]
    fn an_index_with_a_zeroed_page_is_refused_or_as_good_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let ids: Vec<PackId> = (0..20u8).map(|fill| PackId::new([fill; 32])).collect();
        let entries = |n: u8| -> Vec<PackEntry> {
            let id = |k: u8| ChunkId::new(*blake3::hash(&[n, k]).as_bytes());
            (0..100).map(|k| PackEntry { id: id(k), ..entry(0) }).collect()
        };
        for (n, id) in (0u8..).zip(&ids) {
            let new = NewPack { id: *id, bytes: 1, epoch: Epoch(0), own: true, entries: entries(n) };
            store.index_packs(&[new]).unwrap();
        }
        let all = |store: &Store| {
            let mut places = Vec::new();
            store.for_each_chunk(|id, place| {
                places.push((id, place.pack));
                true
            })?;
            Ok::<_, StoreError>(places)
        };
        let want = all(&store).unwrap();
        drop(store);
        let sound = std::fs::read(dir.path().join(INDEX)).unwrap();
        let mut refused = 0;
        for page in 0..sound.len() / 4096 {
            let mut bad = sound.clone();
            bad[page * 4096..][..4096].fill(0);
            std::fs::write(dir.path().join(INDEX), &bad).unwrap();
            match Store::open(dir.path()) {
                Ok(store) => assert!(all(&store).unwrap() == want, "page {page}"),
                Err(StoreError::IndexDamaged(_)) => refused += 1,
                Err(error) => panic!("page {page}: {error}"),
            }
        }
        assert!(refused > 3, "{refused}");
    }

    /// A directory that somebody made in `tmp/` kept the store from opening.
    #[test]
    fn whatever_lies_in_tmp_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::create(dir.path()).unwrap());
        std::fs::create_dir_all(dir.path().join("tmp/some/where")).unwrap();
        std::fs::write(dir.path().join("tmp/some/where/file"), b"x").unwrap();
        drop(Store::open(dir.path()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
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
