//! Where this store is, for those who rely on it, and where those are that this node relies on.
//!
//! The count and the rows that it counts are committed together, so that an image of the disk has both or neither. An index
//! that is made anew knows nothing of earlier runs: whoever relies on it asks again.

use std::collections::{BTreeSet, HashSet};

use redb::{ReadableTable, WriteTransaction};

use super::{Borrowed, CONFIRMED, HEAD_RECEIPTS, META, RECEIPTS, damaged, wrong};
use crate::base::PeerId;
use crate::policy::{Confirmed, Inventory, Mark};
use crate::store::Store;
use crate::store::error::StoreError;

/// Keys in [`META`].
const RUNS: &str = "runs";
const TAKEN_IN: &str = "taken_in";
/// Holders that have not been asked since this store turned out to be an older image of itself. An index that is made anew
/// would not know of it.
const UNPROVEN: &str = "unproven.json";
/// A mark: two numbers, little-endian.
const MARK_BYTES: usize = 16;

impl Store {
    /// A run of a node begins that takes things in for others; `run` is random.
    pub fn begin_run(&self, run: u64) -> Result<(), StoreError> {
        let mut inventory = self.inventory()?;
        inventory.begin(run);
        let runs: Vec<u8> = inventory.runs.iter().flat_map(mark_bytes).collect();
        self.index.write(|tx| {
            tx.open_table(META).map_err(wrong)?.insert(RUNS, runs.as_slice()).map_err(wrong)?;
            Ok(())
        })
    }

    /// Where this store is.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        self.index.read(|tx| {
            let meta = tx.open_table(META).map_err(wrong)?;
            let runs = meta.get(RUNS).map_err(wrong)?;
            let runs = runs.map(|row| marks_of(row.value())).transpose()?.unwrap_or_default();
            let count = meta.get(TAKEN_IN).map_err(wrong)?;
            let count = count.map_or(Ok(0), |row| number(row.value()))?;
            Ok(Inventory { runs: runs.into(), count })
        })
    }

    /// Something was taken in that has no row, such as a head: an image from before does not have it.
    pub fn count_taken_in(&self) -> Result<(), StoreError> {
        self.index.write(count_one)
    }

    /// A holder signed something with that mark. To be called before what it signed is entered.
    pub fn note_mark(&self, holder: PeerId, mark: Mark) -> Result<(), StoreError> {
        self.edit_confirmed(holder, |confirmed| confirmed.note(mark))
    }

    /// What is known of a holder's store.
    pub fn confirmed_by(&self, holder: PeerId) -> Result<Confirmed, StoreError> {
        self.index.read(|tx| {
            let table = tx.open_table(CONFIRMED).map_err(wrong)?;
            let row = table.get(holder.as_bytes()).map_err(wrong)?;
            Ok(row.map(|row| confirmed_of(row.value())).transpose()?.unwrap_or_default())
        })
    }

    /// A holder may not have what it confirmed: from now on nothing of it counts.
    pub fn doubt_holder(&self, holder: PeerId) -> Result<(), StoreError> {
        self.edit_confirmed(holder, |confirmed| confirmed.doubted = true)
    }

    /// This store is an older image of itself, and holders may have let go what it knows them to have: from now on nothing
    /// counts that any of them confirmed or promised, until it was asked for all of it. Durable when this returns, and also
    /// for an index that is made anew.
    pub fn doubt_all_holders(&self) -> Result<(), StoreError> {
        self.publish_state(UNPROVEN, &self.holders()?)?;
        self.renew_doubts()?;
        let mut promised = self.borrowed()?;
        promised.retain(|_, state| *state == Borrowed::Confirmed);
        self.set_borrowed(&promised.into_keys().collect::<Vec<_>>(), Borrowed::Unconfirmed)
    }

    /// Has the index know of doubts that are older than it.
    pub(in crate::store) fn renew_doubts(&self) -> Result<(), StoreError> {
        self.unproven()?.into_iter().try_for_each(|holder| self.doubt_holder(holder))
    }

    /// A file that cannot be understood may name any holder.
    fn unproven(&self) -> Result<BTreeSet<PeerId>, StoreError> {
        match self.read_state(UNPROVEN) {
            Err(StoreError::DamagedFile(_)) => self.holders(),
            read => Ok(read?.unwrap_or_default()),
        }
    }

    /// Everyone who confirmed something.
    fn holders(&self) -> Result<BTreeSet<PeerId>, StoreError> {
        self.index.read(|tx| {
            let mut holders = BTreeSet::new();
            for row in tx.open_table(RECEIPTS).map_err(wrong)?.iter().map_err(wrong)? {
                let (key, _) = row.map_err(wrong)?;
                holders.insert(PeerId::new(*key.value().1));
            }
            for row in tx.open_table(HEAD_RECEIPTS).map_err(wrong)?.iter().map_err(wrong)? {
                let (key, _) = row.map_err(wrong)?;
                holders.insert(PeerId::new(*key.value().0));
            }
            Ok(holders)
        })
    }

    /// What counts of a holder is in its store as it is there.
    pub fn settle_holder(&self, holder: PeerId, inventory: &Inventory) -> Result<(), StoreError> {
        self.edit_confirmed(holder, |confirmed| confirmed.settle(inventory))?;
        let mut unproven = self.unproven()?;
        if unproven.remove(&holder) { self.publish_state(UNPROVEN, &unproven) } else { Ok(()) }
    }

    /// Holders of which nothing counts.
    pub fn doubted_holders(&self) -> Result<HashSet<PeerId>, StoreError> {
        self.index.read(|tx| {
            let mut doubted = HashSet::new();
            for row in tx.open_table(CONFIRMED).map_err(wrong)?.iter().map_err(wrong)? {
                let (holder, row) = row.map_err(wrong)?;
                if confirmed_of(row.value())?.doubted {
                    doubted.insert(PeerId::new(*holder.value()));
                }
            }
            Ok(doubted)
        })
    }

    fn edit_confirmed(&self, holder: PeerId, edit: impl FnOnce(&mut Confirmed)) -> Result<(), StoreError> {
        let before = self.confirmed_by(holder)?;
        let mut after = before.clone();
        edit(&mut after);
        if after == before {
            return Ok(());
        }
        let mut bytes = vec![u8::from(after.doubted)];
        bytes.extend(after.marks.iter().flat_map(mark_bytes));
        self.index.write(|tx| {
            let mut table = tx.open_table(CONFIRMED).map_err(wrong)?;
            table.insert(holder.as_bytes(), bytes.as_slice()).map_err(wrong)?;
            Ok(())
        })
    }
}

/// One thing more was taken in.
pub(super) fn count_one(tx: &WriteTransaction) -> Result<(), StoreError> {
    let mut meta = tx.open_table(META).map_err(wrong)?;
    let count = match meta.get(TAKEN_IN).map_err(wrong)? {
        Some(row) => number(row.value())?,
        None => 0,
    };
    meta.insert(TAKEN_IN, count.saturating_add(1).to_le_bytes().as_slice()).map_err(wrong)?;
    Ok(())
}

fn number(bytes: &[u8]) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| damaged("meta"))
}

fn mark_bytes(mark: &Mark) -> [u8; MARK_BYTES] {
    (u128::from(mark.run) | u128::from(mark.count) << 64).to_le_bytes()
}

fn marks_of(bytes: &[u8]) -> Result<Vec<Mark>, StoreError> {
    let (rows, rest) = bytes.as_chunks::<MARK_BYTES>();
    let mark = |row: &[u8; MARK_BYTES]| {
        let both = u128::from_le_bytes(*row);
        Mark { run: both as u64, count: (both >> 64) as u64 }
    };
    if rest.is_empty() { Ok(rows.iter().map(mark).collect()) } else { Err(damaged("confirmed")) }
}

fn confirmed_of(bytes: &[u8]) -> Result<Confirmed, StoreError> {
    let (doubted, marks) = bytes.split_first().ok_or_else(|| damaged("confirmed"))?;
    Ok(Confirmed { marks: marks_of(marks)?, doubted: *doubted != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DeviceId, Epoch, HeadId, Moment, PackId, VaultId};
    use crate::store::{NOBODY, NewPack};

    #[test]
    fn what_is_kept_for_others_is_counted_with_it_and_outlives_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let store = Store::create(&root).unwrap();
        assert_eq!(
            (store.inventory().unwrap(), store.inventory().unwrap().mark()),
            (Inventory::default(), None)
        );
        store.begin_run(7).unwrap();
        let (epoch, own, entries) = (Epoch(0), false, vec![]);
        let pack = NewPack { id: PackId::new([1; 32]), bytes: 131_072, epoch, own, entries };
        let number = store.index_packs(&[pack]).unwrap()[0].number;
        store.add_foreign(VaultId::new([2; 32]), &[number], NOBODY).unwrap();
        store.count_taken_in().unwrap();
        assert_eq!(store.inventory().unwrap().mark(), Some(Mark { run: 7, count: 2 }));
        let (a, b) = (PeerId::new([1; 32]), PeerId::new([2; 32]));
        store.note_mark(a, Mark { run: u64::MAX, count: 1 << 40 }).unwrap();
        store.doubt_holder(b).unwrap();
        drop(store);
        let store = Store::open(&root).unwrap();
        store.begin_run(8).unwrap();
        let runs = [Mark { run: 7, count: 0 }, Mark { run: 8, count: 2 }];
        assert_eq!(store.inventory().unwrap(), Inventory { runs: runs.into(), count: 2 });
        assert_eq!(store.confirmed_by(a).unwrap().marks, [Mark { run: u64::MAX, count: 1 << 40 }]);
        assert_eq!(store.doubted_holders().unwrap(), HashSet::from([b]));
        store.settle_holder(b, &Inventory::default()).unwrap();
        assert!(store.doubted_holders().unwrap().is_empty());
    }

    /// What holders promised an older image of a store is worth nothing, whatever becomes of its program or its index.
    #[test]
    fn a_doubt_of_all_holders_outlives_the_program_and_the_index_and_ends_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let store = Store::create(&root).unwrap();
        let (epoch, own) = (Epoch(0), true);
        let pack =
            |fill| NewPack { id: PackId::new([fill; 32]), bytes: 131_072, epoch, own, entries: vec![] };
        store.index_packs(&[pack(1)]).unwrap();
        let there = store.index_borrowed(&[pack(2)]).unwrap()[0].number;
        store.set_borrowed(&[there], Borrowed::Confirmed).unwrap();
        let (a, b, c) = (PeerId::new([1; 32]), PeerId::new([2; 32]), PeerId::new([3; 32]));
        store.add_receipts(a, &[PackId::new([1; 32])], Moment::from_millis(1)).unwrap();
        store.set_head_receipt(b, DeviceId::new([1; 32]), 1, HeadId::new([1; 32])).unwrap();
        store.note_mark(c, Mark { run: 1, count: 1 }).unwrap();
        store.doubt_all_holders().unwrap();
        assert_eq!(store.doubted_holders().unwrap(), HashSet::from([a, b]), "nothing counts of the third");
        assert_eq!(store.unconfirmed_packs(), HashSet::from([there]));
        drop(store);
        Store::rebuild(&root).unwrap().publish_index().unwrap();
        let store = Store::open(&root).unwrap();
        assert_eq!(store.doubted_holders().unwrap(), HashSet::from([a, b]));
        store.settle_holder(a, &Inventory::default()).unwrap();
        drop(store);
        let store = Store::open(&root).unwrap();
        assert_eq!(store.doubted_holders().unwrap(), HashSet::from([b]));
    }
}
