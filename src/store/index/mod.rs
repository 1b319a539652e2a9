//! The redb index: chunks, packs, receipts, what snapshots and foreign vaults need. All tables are here.

mod accounts;
mod borrowed;
mod guard;
mod inventory;
mod leaving;
mod receipts;

pub use accounts::{Accounts, ChargedRecord, Kept, NOBODY, record_room};
pub use borrowed::Borrowed;
pub use guard::is_guarded;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};

use crate::base::{ChunkId, Epoch, HeadId, PackId, PeerId, SnapshotId, VaultId, limit, meter};
use crate::pack::PackEntry;
use crate::store::error::StoreError;
use crate::store::files;
use crate::store::health::{Failure, Health};
use crate::store::reserve::Reserve;
use crate::store::rows::{ChunkPlace, PLACE_BYTES, PackNumber, PackRow};
#[cfg(test)]
use crate::store::trace;
use crate::store::{INDEX, Store};
use guard::guarded;

/// `token` ties the index to its store's marker; `next_pack` is the next free pack number.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Chunk id → place.
const CHUNKS: TableDefinition<&[u8; 32], &[u8; PLACE_BYTES]> = TableDefinition::new("chunks");
/// Pack number → row.
const PACKS: TableDefinition<u32, &[u8]> = TableDefinition::new("packs");
/// Pack id → number.
const PACK_NUMBERS: TableDefinition<&[u8; 32], u32> = TableDefinition::new("pack_numbers");
/// (pack number, holder) → when the newest receipt was signed, in milliseconds.
const RECEIPTS: TableDefinition<(u32, &[u8; 32]), u64> = TableDefinition::new("receipts");
/// Snapshot id → the pack numbers it needs, four bytes each.
const SNAPSHOT_PACKS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("snapshot_packs");
/// (foreign vault, pack number): kept for that vault.
const FOREIGN: TableDefinition<(&[u8; 32], u32), ()> = TableDefinition::new("foreign");

/// (holder, device) → position and id of the newest head whose records the holder confirmed.
const HEAD_RECEIPTS: TableDefinition<Pair, (u64, &[u8; 32])> = TableDefinition::new("head_receipts");

/// Holder → what is known of its store: whether it is doubted, and the marks of its receipts.
const CONFIRMED: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("confirmed");
/// Pack number → since when it waits to be deleted, and what of it is elsewhere.
const RETIRED: TableDefinition<u32, &[u8]> = TableDefinition::new("retired");
/// Ids of packs whose rows are gone and whose files are to be removed.
const DOOMED: TableDefinition<&[u8; 32], ()> = TableDefinition::new("doomed");
/// Numbers of packs that are known to be damaged and that nobody could mend.
const MISTRUSTED: TableDefinition<u32, ()> = TableDefinition::new("mistrusted");
/// Pack number → how a pack that another device of the vault wrote stands.
const BORROWED: TableDefinition<u32, u8> = TableDefinition::new("borrowed");
/// (pack, another pack): a chunk that both hold is found in the first. The first is [`NOWHERE`] once it is gone: the other's
/// directory has to be read again.
const SHADOWS: TableDefinition<(u32, u32), ()> = TableDefinition::new("shadows");
/// (id of a pack or hash of a record, vault) → who brought it, the bytes charged for it, whether it is a pack.
const CHARGES: TableDefinition<Pair, accounts::Charge> = TableDefinition::new("charges");
/// The number of no pack.
const NOWHERE: u32 = u32::MAX;
/// The key of the next free pack number in [`META`].
const NEXT_PACK: &str = "next_pack";
/// The key in [`META`] that is there once everything the files tell has been entered.
const WHOLE: &str = "whole";
/// The key in [`META`] of this device's head of which every pack has been entered.
const LISTED: &str = "listed";

/// The key in [`META`] that is there once everything that is kept for others has been charged.
const ACCOUNTED: &str = "accounted";

/// Packs and bytes kept for each foreign vault.
type Usage = HashMap<VaultId, (u64, u64)>;
/// Two ids as a key.
type Pair = (&'static [u8; 32], &'static [u8; 32]);

pub(super) struct Index {
    /// Always there until the index is dropped.
    db: Option<Database>,
    /// Told of everything that means that this index is of no use any more.
    health: Option<Arc<Health>>,
    /// Once counted; of chunks it knows nothing.
    totals: Mutex<Option<PackCounts>>,
    /// Packs and bytes kept for each foreign vault, once counted.
    usage: Mutex<Option<Usage>>,
    /// What is charged to whom, once counted.
    accounts: Mutex<Option<Accounts>>,
    /// Chunks entered since it was opened.
    entered: AtomicU64,
    /// Where commits take space on a full disk.
    reserve: Option<Arc<Reserve>>,
    /// Packs of other devices that may not be referred to yet. Taken before any other lock.
    unconfirmed: RwLock<HashSet<PackNumber>>,
}

/// Fewer new rows than this are not worth tidying up after.
const COMPACT_ROWS_MIN: u64 = 10_000;
/// Beyond this many rows, a second of work for each million, whoever ends a program would have to wait too long.
const COMPACT_ROWS_MAX: u64 = 2_000_000;

impl Drop for Index {
    /// Every commit leaves the pages that it replaced behind: after a first backup half of the file is free. Tidied up
    /// when most rows are of this run, so that it costs a fraction of what entering them did.
    fn drop(&mut self) {
        let entered = *self.entered.get_mut();
        let rows = || self.read(|tx| tx.open_table(CHUNKS).map_err(wrong)?.len().map_err(wrong));
        let worth = |rows: u64| rows <= COMPACT_ROWS_MAX && entered >= rows / 2;
        let is_sound = self.health.as_ref().is_none_or(|health| health.failure().is_none());
        let worthwhile = is_sound && entered >= COMPACT_ROWS_MIN && rows().is_ok_and(worth);
        let Some(mut db) = self.db.take() else { return };
        let closed = guarded(|| {
            let compacted = if worthwhile { db.compact().map(drop).map_err(wrong) } else { Ok(()) };
            // Closing a damaged one may fail a check as well.
            drop(db);
            compacted
        });
        if let Err(error) = closed {
            tracing::warn!(target: "store", %error, "the index could not be made smaller, or not be closed");
        }
    }
}

/// A pack to be entered into the index.
pub struct NewPack {
    /// Its id.
    pub id: PackId,
    /// Its length in bytes.
    pub bytes: u64,
    /// Key generation.
    pub epoch: Epoch,
    /// Of this node's vault.
    pub own: bool,
    /// Its chunks; empty for packs kept for others.
    pub entries: Vec<PackEntry>,
}

/// A pack that has been entered.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct IndexedPack {
    /// Its id.
    pub id: PackId,
    /// Its number.
    pub number: PackNumber,
}

/// Totals over the index.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct PackCounts {
    /// Own packs.
    pub own_packs: u64,
    /// Their bytes.
    pub own_bytes: u64,
    /// Packs kept for others.
    pub foreign_packs: u64,
    /// Their bytes.
    pub foreign_bytes: u64,
    /// Chunks.
    pub chunks: u64,
}

impl PackCounts {
    fn add(&mut self, own: bool, bytes: u64) {
        let (packs, sum) = if own {
            (&mut self.own_packs, &mut self.own_bytes)
        } else {
            (&mut self.foreign_packs, &mut self.foreign_bytes)
        };
        *packs += 1;
        *sum += bytes;
    }

    /// Bytes of all packs.
    pub fn bytes(&self) -> u64 {
        self.own_bytes + self.foreign_bytes
    }
}

/// redb's errors as ours: full disks told from damage.
fn wrong(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        // Not the disk's refusal but redb's: the file is empty, too short or not redb's.
        redb::Error::Io(e) if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            StoreError::IndexDamaged(e.to_string())
        }
        redb::Error::Io(e) => StoreError::io("writing the index", e),
        redb::Error::PreviousIo => StoreError::Poisoned,
        other => StoreError::IndexDamaged(other.to_string()),
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError::IndexDamaged(format!("a row of {what} does not decode"))
}

impl Index {
    /// An empty index, which is not known to be whole.
    pub(super) fn create(path: &Path, token: &str) -> Result<Self, StoreError> {
        // Made here so that its mode is ours; redb takes an empty file for a new database.
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let made = made.map_err(|e| StoreError::io("making the index", e))?;
        files::hand_over(path.parent().unwrap_or(path), &made);
        #[cfg(test)]
        if trace::is_recording() {
            let backend = trace::Recorded::open(path).map_err(|e| StoreError::io("making the index", e))?;
            return Self::fill(token, |builder| builder.create_with_backend(backend));
        }
        Self::fill(token, |builder| builder.create(path))
    }

    /// An index that nothing keeps.
    pub(super) fn in_memory(token: &str) -> Result<Self, StoreError> {
        Self::fill(token, |builder| builder.create_with_backend(redb::backends::InMemoryBackend::new()))
    }

    fn fill(
        token: &str,
        create: impl FnOnce(&mut redb::Builder) -> Result<Database, redb::DatabaseError>,
    ) -> Result<Self, StoreError> {
        guarded(|| {
            let mut builder = Database::builder();
            let db = create(builder.set_cache_size(limit::INDEX_CACHE_BYTES)).map_err(wrong)?;
            let index = Self::of(db);
            index.write(|tx| {
                tx.open_table(META).map_err(wrong)?.insert("token", token.as_bytes()).map_err(wrong)?;
                tx.open_table(CHUNKS).map_err(wrong)?;
                tx.open_table(PACKS).map_err(wrong)?;
                tx.open_table(PACK_NUMBERS).map_err(wrong)?;
                tx.open_table(RECEIPTS).map_err(wrong)?;
                tx.open_table(SNAPSHOT_PACKS).map_err(wrong)?;
                tx.open_table(FOREIGN).map_err(wrong)?;
                tx.open_table(HEAD_RECEIPTS).map_err(wrong)?;
                tx.open_table(RETIRED).map_err(wrong)?;
                tx.open_table(DOOMED).map_err(wrong)?;
                tx.open_table(MISTRUSTED).map_err(wrong)?;
                tx.open_table(BORROWED).map_err(wrong)?;
                tx.open_table(SHADOWS).map_err(wrong)?;
                tx.open_table(CONFIRMED).map_err(wrong)?;
                tx.open_table(CHARGES).map_err(wrong)?;
                Ok(())
            })?;
            Ok(index)
        })
    }

    /// Opens the index and, if it has at most `check_bytes`, checks every page of it: redb itself takes what it reads for
    /// what it wrote, and rows of a page that was overwritten would point anywhere.
    pub(super) fn open(path: &Path, token: &str, check_bytes: u64) -> Result<Self, StoreError> {
        let Ok(there) = std::fs::metadata(path) else {
            return Err(StoreError::IndexDamaged("index.redb is missing".to_owned()));
        };
        Self::open_with(there.len() <= check_bytes, token, || Self::open_file(path))
    }

    /// The same of a copy that nothing keeps.
    pub(super) fn open_copy(path: &Path, token: &str, check_bytes: u64) -> Result<Self, StoreError> {
        let Ok(mut from) = File::open(path) else {
            return Err(StoreError::IndexDamaged("index.redb is missing".to_owned()));
        };
        let mut copy = files::temporary()?;
        let bytes =
            std::io::copy(&mut from, &mut copy).map_err(|e| StoreError::io("copying the index", e))?;
        Self::open_with(bytes <= check_bytes, token, || {
            let backend = redb::backends::FileBackend::new(copy).map_err(wrong)?;
            let mut builder = Database::builder();
            builder.set_cache_size(limit::INDEX_CACHE_BYTES).create_with_backend(backend).map_err(wrong)
        })
    }

    fn open_with(
        is_checked: bool,
        token: &str,
        open: impl FnOnce() -> Result<Database, StoreError>,
    ) -> Result<Self, StoreError> {
        guarded(|| {
            let mut db = open()?;
            if is_checked {
                // What it puts in order without an error (pages that nothing refers to) is sound.
                db.check_integrity().map_err(wrong)?;
            }
            let index = Self::of(db);
            let known = index.read(|tx| {
                let meta = tx.open_table(META).map_err(wrong)?;
                Ok(meta.get("token").map_err(wrong)?.is_some_and(|t| t.value() == token.as_bytes()))
            })?;
            if !known {
                return Err(StoreError::IndexDamaged("it belongs to another store".to_owned()));
            }
            index.add_missing_tables()?;
            index.load_unconfirmed()?;
            Ok(index)
        })
    }

    fn of(db: Database) -> Self {
        let (totals, usage, unconfirmed) = (Mutex::default(), Mutex::default(), RwLock::default());
        let (entered, health, reserve) = (AtomicU64::new(0), None, None);
        let accounts = Mutex::default();
        Self { db: Some(db), health, totals, usage, accounts, entered, unconfirmed, reserve }
    }

    /// From now on commits find room on a full disk: redb takes one that does not for the end of itself. And it is told to
    /// the rest of the store when that end has come.
    pub(super) fn belong(&mut self, reserve: &Arc<Reserve>, health: &Arc<Health>) {
        self.reserve = Some(reserve.clone());
        self.health = Some(health.clone());
    }

    /// Notes durably that everything the files tell has been entered.
    pub(super) fn mark_whole(&self) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.open_table(META).map_err(wrong)?.insert(WHOLE, [].as_slice()).map_err(wrong)?;
            Ok(())
        })
    }

    /// Whether it is known that everything the files told had been entered once.
    pub(super) fn is_whole(&self) -> Result<bool, StoreError> {
        self.read(|tx| Ok(tx.open_table(META).map_err(wrong)?.get(WHOLE).map_err(wrong)?.is_some()))
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("it is taken when the index is dropped")
    }

    fn open_file(path: &Path) -> Result<Database, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(limit::INDEX_CACHE_BYTES);
        #[cfg(test)]
        if trace::is_recording() {
            let backend = trace::Recorded::open(path).map_err(|e| StoreError::io("opening the index", e))?;
            return builder.create_with_backend(backend).map_err(wrong);
        }
        builder.open(path).map_err(wrong)
    }

    /// An index of an earlier version lacks the tables that came since.
    fn add_missing_tables(&self) -> Result<(), StoreError> {
        let missing = self.read(|tx| match tx.open_table(CHARGES) {
            Ok(_) => Ok(false),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(true),
            Err(error) => Err(wrong(error)),
        })?;
        if missing {
            self.write(|tx| {
                tx.open_table(RETIRED).map_err(wrong)?;
                tx.open_table(DOOMED).map_err(wrong)?;
                tx.open_table(MISTRUSTED).map_err(wrong)?;
                tx.open_table(BORROWED).map_err(wrong)?;
                tx.open_table(SHADOWS).map_err(wrong)?;
                tx.open_table(CONFIRMED).map_err(wrong)?;
                tx.open_table(CHARGES).map_err(wrong)?;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.judged(guarded(|| work(&self.db().begin_read().map_err(wrong)?)))
    }

    /// Tells the rest of the store when redb is of no use any more: it does not check out, or the system refused it
    /// something, after which it refuses everything until it is opened again.
    fn judged<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(health) = &self.health {
            match &done {
                Err(StoreError::IndexDamaged(why)) => health.fail(Failure::Index(why.clone())),
                Err(StoreError::Io { .. } | StoreError::Full(_) | StoreError::Poisoned) => {
                    health.fail(Failure::Write);
                }
                _ => {}
            }
        }
        done
    }

    /// Commits durably before it returns `Ok`.
    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_rows(0, work)
    }

    /// The same, for a commit that touches so many rows here and there.
    fn write_rows<T>(
        &self,
        rows: usize,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _given = self.reserve.as_ref().map(|reserve| reserve.room_for_rows(rows));
        let written = self.commit(work);
        if let (Err(StoreError::Full(_)), Some(reserve)) = (&written, &self.reserve) {
            reserve.note_refusal();
        }
        written
    }

    fn commit<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(health) = &self.health {
            health.sound()?;
        }
        self.judged(guarded(|| {
            let mut tx = self.db().begin_write().map_err(wrong)?;
            tx.set_two_phase_commit(true);
            tx.set_quick_repair(true);
            let value = work(&tx)?;
            tx.commit().map_err(wrong)?;
            Ok(value)
        }))
    }
}

impl Store {
    /// Where a chunk lies, if the index knows it.
    pub fn lookup(&self, id: ChunkId) -> Result<Option<ChunkPlace>, StoreError> {
        Ok(self.lookup_many(&[id])?.pop().flatten())
    }

    /// Where each chunk lies; one transaction for all.
    pub fn lookup_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkPlace>>, StoreError> {
        self.index.read(|tx| {
            let chunks = tx.open_table(CHUNKS).map_err(wrong)?;
            ids.iter()
                .map(|id| match chunks.get(id.as_bytes()).map_err(wrong)? {
                    None => Ok(None),
                    Some(row) => ChunkPlace::decode(row.value()).map(Some).ok_or_else(|| damaged("chunks")),
                })
                .collect()
        })
    }

    /// Enters packs that are already published (or known to be elsewhere), with their chunks, in one durable commit.
    ///
    /// A chunk that the index has keeps its place. Entering a pack again changes nothing.
    pub fn index_packs(&self, packs: &[NewPack]) -> Result<Vec<IndexedPack>, StoreError> {
        for pack in packs {
            self.absolve(pack.id)?;
        }
        // A chunk whose only place is going, is damaged, or may not be referred to, gets its new one.
        let unconfirmed = self.index.unconfirmed();
        let given_up = self.given_up();
        let gives_way = |pack: PackNumber| given_up.contains(&pack) || unconfirmed.contains(&pack);
        Ok(self.enter_packs(packs, gives_way, |pack| given_up.contains(&pack), false)?.0)
    }

    /// Enters packs as [`Store::index_packs`] does, and lets their chunks be found there instead of in packs of `from`.
    pub fn move_chunks(
        &self,
        packs: &[NewPack],
        from: &HashSet<PackNumber>,
    ) -> Result<Vec<IndexedPack>, StoreError> {
        Ok(self.enter_packs(packs, |pack| from.contains(&pack), |_| false, false)?.0)
    }

    /// The same for packs of `from` that are damaged: whoever needs one of those needs the new one as well.
    pub fn replace_chunks(
        &self,
        packs: &[NewPack],
        from: &HashSet<PackNumber>,
    ) -> Result<Vec<IndexedPack>, StoreError> {
        Ok(self.enter_packs(packs, |pack| from.contains(&pack), |_| true, false)?.0)
    }

    /// Durably notes that this index knows every pack that a head of this device lists, before that head is published. Rows of
    /// packs only go once a newer head does not list them. An index that is made anew knows of no head.
    pub fn note_head_indexed(&self, head: HeadId) -> Result<(), StoreError> {
        self.index.write(|tx| {
            tx.open_table(META).map_err(wrong)?.insert(LISTED, head.as_bytes().as_slice()).map_err(wrong)?;
            Ok(())
        })
    }

    /// Whether this index knows every pack that this head lists, as was noted when it was signed here.
    pub fn is_head_indexed(&self, head: HeadId) -> Result<bool, StoreError> {
        self.index.read(|tx| {
            let meta = tx.open_table(META).map_err(wrong)?;
            let known = meta.get(LISTED).map_err(wrong)?;
            Ok(known.is_some_and(|known| known.value() == head.as_bytes()))
        })
    }

    /// Packs with chunks that were found in other packs, until those went: their chunks have to be entered again.
    pub fn packs_to_read_again(&self) -> Result<Vec<PackRow>, StoreError> {
        let mut rows = Vec::new();
        for number in self.index.unshadowed()? {
            rows.extend(self.pack_by_number(number)?);
        }
        Ok(rows)
    }

    /// Has packs that share chunks with those of `packs`, and are none of them, read again.
    pub fn seek_elsewhere(&self, packs: &HashSet<PackNumber>) -> Result<(), StoreError> {
        self.index.unshadow(packs)
    }

    /// Enters chunks of known packs that are found nowhere else, or only in packs of `from`.
    pub fn enter_again(&self, packs: &[NewPack], from: &HashSet<PackNumber>) -> Result<(), StoreError> {
        self.enter_packs(packs, |pack| from.contains(&pack), |_| false, false).map(drop)
    }

    /// Enters packs; chunks in packs that give way are found in these, and whoever needs such a pack of which both are needed
    /// needs these as well. Also returns the numbers that are new.
    fn enter_packs(
        &self,
        packs: &[NewPack],
        gives_way: impl Fn(PackNumber) -> bool,
        both_needed: impl Fn(PackNumber) -> bool,
        borrowed: bool,
    ) -> Result<(Vec<IndexedPack>, Vec<PackNumber>), StoreError> {
        let mut totals = self.index.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut fresh, mut chunks_added, mut new) = (PackCounts::default(), 0, Vec::new());
        let touched = packs.iter().map(|pack| pack.entries.len()).sum();
        let indexed = self.index.write_rows(touched, |tx| {
            let mut borrowed_rows = tx.open_table(BORROWED).map_err(wrong)?;
            let mut rows = tx.open_table(PACKS).map_err(wrong)?;
            let mut numbers = tx.open_table(PACK_NUMBERS).map_err(wrong)?;
            let mut chunks = tx.open_table(CHUNKS).map_err(wrong)?;
            let mut shadows = tx.open_table(SHADOWS).map_err(wrong)?;
            let mut next = next_pack(tx, &rows)?;
            let mut out = Vec::with_capacity(packs.len());
            let mut moved: HashMap<PackNumber, Vec<u32>> = HashMap::new();
            for pack in packs {
                let known = numbers.get(pack.id.as_bytes()).map_err(wrong)?.map(|number| number.value());
                let number = PackNumber(known.unwrap_or(next));
                if known.is_none() {
                    next += 1;
                    let row =
                        PackRow { id: pack.id, number, bytes: pack.bytes, epoch: pack.epoch, own: pack.own };
                    rows.insert(number.0, row.encode().as_slice()).map_err(wrong)?;
                    numbers.insert(pack.id.as_bytes(), number.0).map_err(wrong)?;
                    fresh.add(pack.own, pack.bytes);
                    new.push(number);
                    if borrowed {
                        borrowed_rows.insert(number.0, 0).map_err(wrong)?;
                    }
                }
                shadows.remove((NOWHERE, number.0)).map_err(wrong)?;
                let mut pairs: BTreeSet<(u32, u32)> = BTreeSet::new();
                for entry in &pack.entries {
                    let known = match chunks.get(entry.id.as_bytes()).map_err(wrong)? {
                        None => None,
                        Some(row) => Some(ChunkPlace::decode(row.value()).ok_or_else(|| damaged("chunks"))?),
                    };
                    let is_moved = known.as_ref().is_none_or(|place| gives_way(place.pack));
                    if let Some(place) = known.as_ref().filter(|place| place.pack != number) {
                        let (found, other) =
                            if is_moved { (number, place.pack) } else { (place.pack, number) };
                        pairs.insert((found.0, other.0));
                    }
                    if is_moved {
                        let place = ChunkPlace::of(number, entry).encode();
                        chunks.insert(entry.id.as_bytes(), &place).map_err(wrong)?;
                        chunks_added += u64::from(known.is_none());
                        if let Some(old) = known.filter(|old| both_needed(old.pack) && old.pack != number) {
                            let both = moved.entry(old.pack).or_insert_with(|| vec![old.pack.0]);
                            if both.last() != Some(&number.0) {
                                both.push(number.0);
                            }
                        }
                    }
                }
                for pair in pairs {
                    shadows.insert(pair, ()).map_err(wrong)?;
                }
                out.push(IndexedPack { id: pack.id, number });
            }
            leaving::replace_needed(tx, &moved.keys().copied().collect(), &moved)?;
            Ok(out)
        })?;
        meter::CHUNKS_STORED.add(chunks_added);
        self.index.entered.fetch_add(chunks_added, Ordering::Relaxed);
        if let Some(totals) = totals.as_mut() {
            totals.own_packs += fresh.own_packs;
            totals.own_bytes += fresh.own_bytes;
            totals.foreign_packs += fresh.foreign_packs;
            totals.foreign_bytes += fresh.foreign_bytes;
        }
        Ok((indexed, new))
    }

    /// What the index knows of a pack.
    pub fn pack_by_id(&self, id: PackId) -> Result<Option<PackRow>, StoreError> {
        self.index.read(|tx| {
            let numbers = tx.open_table(PACK_NUMBERS).map_err(wrong)?;
            let Some(number) = numbers.get(id.as_bytes()).map_err(wrong)? else { return Ok(None) };
            read_pack_row(tx, PackNumber(number.value()))
        })
    }

    /// What the index knows of a pack.
    pub fn pack_by_number(&self, number: PackNumber) -> Result<Option<PackRow>, StoreError> {
        self.index.read(|tx| read_pack_row(tx, number))
    }

    /// Calls `each` for every pack in number order, own or foreign as asked; stops when it gives `false`.
    pub fn for_each_pack(&self, own: bool, mut each: impl FnMut(PackRow) -> bool) -> Result<(), StoreError> {
        self.index.read(|tx| {
            for row in tx.open_table(PACKS).map_err(wrong)?.iter().map_err(wrong)? {
                let (number, value) = row.map_err(wrong)?;
                let row = PackRow::decode(PackNumber(number.value()), value.value())
                    .ok_or_else(|| damaged("packs"))?;
                if row.own == own && !each(row) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Totals. The first call reads every pack row (65 thousand for 1 TiB), later ones remember.
    pub fn pack_counts(&self) -> Result<PackCounts, StoreError> {
        // Held while counting: a pack that is entered meanwhile waits, and is added after.
        let mut totals = self.index.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = match *totals {
            Some(counts) => counts,
            None => self.count_packs()?,
        };
        *totals = Some(counts);
        drop(totals);
        counts.chunks = self.index.read(|tx| tx.open_table(CHUNKS).map_err(wrong)?.len().map_err(wrong))?;
        Ok(counts)
    }

    fn count_packs(&self) -> Result<PackCounts, StoreError> {
        let mut counts = PackCounts::default();
        for own in [true, false] {
            self.for_each_pack(own, |row| {
                counts.add(own, row.bytes);
                true
            })?;
        }
        Ok(counts)
    }

    /// Remembers which packs a snapshot needs.
    pub fn set_snapshot_packs(
        &self,
        snapshot: SnapshotId,
        packs: &HashSet<PackNumber>,
    ) -> Result<(), StoreError> {
        let mut numbers: Vec<u32> = packs.iter().map(|number| number.0).collect();
        numbers.sort_unstable();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.index.write(|tx| {
            let mut table = tx.open_table(SNAPSHOT_PACKS).map_err(wrong)?;
            table.insert(snapshot.as_bytes(), bytes.as_slice()).map_err(wrong)?;
            Ok(())
        })
    }

    /// Which packs a snapshot needs; `None` when that has not been worked out yet.
    pub fn snapshot_packs(&self, snapshot: SnapshotId) -> Result<Option<Vec<PackNumber>>, StoreError> {
        self.index.read(|tx| {
            let table = tx.open_table(SNAPSHOT_PACKS).map_err(wrong)?;
            let row = table.get(snapshot.as_bytes()).map_err(wrong)?;
            Ok(row.map(|row| {
                let (numbers, _) = row.value().as_chunks::<4>();
                numbers.iter().map(|number| PackNumber(u32::from_le_bytes(*number))).collect()
            }))
        })
    }

    /// Forgets which packs these snapshots need.
    pub fn drop_snapshot_packs(&self, gone: impl Fn(SnapshotId) -> bool) -> Result<(), StoreError> {
        self.index.write(|tx| {
            let mut table = tx.open_table(SNAPSHOT_PACKS).map_err(wrong)?;
            table.retain(|id, _| !gone(SnapshotId::new(*id))).map_err(wrong)
        })
    }

    /// Calls `each` for every chunk; stops when it gives `false`. Reads the whole chunk table.
    pub fn for_each_chunk(
        &self,
        mut each: impl FnMut(ChunkId, ChunkPlace) -> bool,
    ) -> Result<(), StoreError> {
        self.index.read(|tx| {
            for row in tx.open_table(CHUNKS).map_err(wrong)?.iter().map_err(wrong)? {
                let (id, place) = row.map_err(wrong)?;
                let place = ChunkPlace::decode(place.value()).ok_or_else(|| damaged("chunks"))?;
                if !each(ChunkId::new(*id.value()), place) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Length of the index's file in bytes.
    pub fn index_bytes(&self) -> u64 {
        std::fs::metadata(self.dir().join(INDEX)).map_or(0, |file| file.len())
    }

    /// Chunks that the index places in one pack. Reads the whole chunk table: for damaged packs only.
    pub fn chunks_in(&self, packs: &HashSet<PackNumber>) -> Result<Vec<(ChunkId, ChunkPlace)>, StoreError> {
        self.index.read(|tx| {
            let mut out = Vec::new();
            for row in tx.open_table(CHUNKS).map_err(wrong)?.iter().map_err(wrong)? {
                let (id, place) = row.map_err(wrong)?;
                let place = ChunkPlace::decode(place.value()).ok_or_else(|| damaged("chunks"))?;
                if packs.contains(&place.pack) {
                    out.push((ChunkId::new(*id.value()), place));
                }
            }
            Ok(out)
        })
    }

    /// Notes that packs are kept for a foreign vault, and charges them to the peer that brought them.
    pub fn add_foreign(&self, vault: VaultId, packs: &[PackNumber], payer: PeerId) -> Result<(), StoreError> {
        // Held while writing, as of the totals.
        let mut usage = self.index.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let mut accounts = self.index.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let (fresh, bytes, charged) = self.index.write(|tx| {
            let mut table = tx.open_table(FOREIGN).map_err(wrong)?;
            let rows = tx.open_table(PACKS).map_err(wrong)?;
            let (mut fresh, mut bytes, mut charged) = (0, 0, Kept::default());
            for number in packs {
                let row = foreign_row(&rows, *number)?;
                if table.insert((vault.as_bytes(), number.0), ()).map_err(wrong)?.is_none() {
                    fresh += 1;
                    bytes += row.bytes;
                }
                if accounts::charge(tx, (vault, payer), row.id.as_bytes(), (row.bytes, true))? {
                    charged.packs += 1;
                    charged.pack_bytes += row.bytes;
                }
            }
            if fresh > 0 {
                inventory::count_one(tx)?;
            }
            Ok((fresh, bytes, charged))
        })?;
        accounts.iter_mut().for_each(|known| known.note(vault, payer, charged));
        if fresh > 0
            && let Some(usage) = usage.as_mut()
        {
            let entry = usage.entry(vault).or_default();
            *entry = (entry.0 + fresh, entry.1 + bytes);
        }
        Ok(())
    }

    /// Packs that are kept for that vault.
    pub fn foreign_packs(&self, vault: VaultId) -> Result<Vec<PackNumber>, StoreError> {
        self.index.read(|tx| {
            let table = tx.open_table(FOREIGN).map_err(wrong)?;
            let all = (vault.as_bytes(), 0)..=(vault.as_bytes(), u32::MAX);
            let rows = table.range::<(&[u8; 32], u32)>(all).map_err(wrong)?;
            rows.map(|row| Ok(PackNumber(row.map_err(wrong)?.0.value().1))).collect()
        })
    }

    /// Packs and bytes kept for each foreign vault. The first call reads every row, later ones remember.
    pub fn foreign_usage(&self) -> Result<HashMap<VaultId, (u64, u64)>, StoreError> {
        let mut usage = self.index.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match usage.take() {
            Some(known) => known,
            None => self.count_foreign()?,
        };
        Ok(usage.insert(known).clone())
    }

    fn count_foreign(&self) -> Result<Usage, StoreError> {
        self.index.read(|tx| {
            let mut usage = Usage::new();
            let packs = tx.open_table(PACKS).map_err(wrong)?;
            for row in tx.open_table(FOREIGN).map_err(wrong)?.iter().map_err(wrong)? {
                let (key, ()) = row.map(|(key, _)| (key, ())).map_err(wrong)?;
                let (vault, number) = key.value();
                let row = foreign_row(&packs, PackNumber(number))?;
                let entry = usage.entry(VaultId::new(*vault)).or_default();
                entry.0 += 1;
                entry.1 += row.bytes;
            }
            Ok(usage)
        })
    }

    /// Whether a pack is kept for that foreign vault.
    pub fn is_foreign_of(&self, vault: VaultId, number: PackNumber) -> Result<bool, StoreError> {
        self.index.read(|tx| {
            let table = tx.open_table(FOREIGN).map_err(wrong)?;
            Ok(table.get((vault.as_bytes(), number.0)).map_err(wrong)?.is_some())
        })
    }
}

/// The next free pack number: never one that was given before, since somebody may remember a place under it.
fn next_pack(
    tx: &WriteTransaction,
    rows: &impl ReadableTable<u32, &'static [u8]>,
) -> Result<u32, StoreError> {
    let after_last = rows.last().map_err(wrong)?.map_or(0, |(number, _)| number.value() + 1);
    let meta = tx.open_table(META).map_err(wrong)?;
    let stored = meta.get(NEXT_PACK).map_err(wrong)?;
    let stored = stored.and_then(|bytes| bytes.value().try_into().ok()).map_or(0, u32::from_le_bytes);
    Ok(after_last.max(stored))
}

fn row_of(
    rows: &impl ReadableTable<u32, &'static [u8]>,
    number: PackNumber,
) -> Result<Option<PackRow>, StoreError> {
    match rows.get(number.0).map_err(wrong)? {
        None => Ok(None),
        Some(row) => PackRow::decode(number, row.value()).map(Some).ok_or_else(|| damaged("packs")),
    }
}

/// The row of a pack that is kept for another vault, which is there.
fn foreign_row(
    rows: &impl ReadableTable<u32, &'static [u8]>,
    number: PackNumber,
) -> Result<PackRow, StoreError> {
    row_of(rows, number)?.ok_or_else(|| damaged("foreign"))
}

fn read_pack_row(tx: &ReadTransaction, number: PackNumber) -> Result<Option<PackRow>, StoreError> {
    row_of(&tx.open_table(PACKS).map_err(wrong)?, number)
}
