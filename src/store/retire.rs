//! Packs on their way out: retired, condemned, doomed, gone. And the fence that keeps them from those who may need them.
//!
//! - *Retired*: nothing live needs it. Everything of it stays in place; who comes upon a chunk in it that is to be referred
//!   to again takes it back ([`Store::lookup_to_keep`]).
//! - *Condemned*: chosen for deletion in this run of the program; its chunks count as unknown from then on.
//! - *Mistrusted*: known to be damaged, and nobody could mend it yet. Its chunks count as unknown to whoever will refer to
//!   them, so that a backup seals them anew; it is trusted again once it is mended. When nothing needs it any more it is
//!   *set aside*: retired, listed by no head, and no damage any more.
//! - *Doomed*: its rows are gone and its file is going. Remembered in the same commit, so that a file whose removal a
//!   crash prevented is removed later and never taken for a pack that lost its rows.
//!
//! **The fence** is one number that grows. Whoever looks chunks up takes a number when it begins ([`Store::enter`]) and
//! gives it back at its end; a pack gets one when it is retired. Who began after a pack was retired takes back what it
//! finds there; who began before may hold a place in it, so the pack is not condemned while such a one is at work; and a
//! mark proves that a pack is dead only to the extent that nobody who began before the pack was retired was still at work
//! when the mark began (what ended before the mark shows in the heads that the mark follows). The fence lives in memory:
//! one process has the store, and a crash ends everyone whom it held up.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Store;
use super::error::StoreError;
use super::rows::{ChunkPlace, PackNumber, RetiredRow};
use crate::base::{ChunkId, Moment, PackId, VaultId, meter};

/// A pack that waits to be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retired {
    /// Which.
    pub pack: PackNumber,
    /// Since when.
    pub since: Moment,
    /// Heads of this device list it no more: another device's head still does.
    pub unlisted: bool,
    /// Where its live chunks are now, when they were moved.
    pub successors: Vec<PackNumber>,
}

/// When a mark began, on the fence.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct MarkStart {
    /// The fence's number then.
    at: u64,
    /// The number of whoever had been at work longest; `at` when nobody was.
    oldest: u64,
}

/// What is known in memory of packs on their way out.
#[derive(Default)]
pub(super) struct Retiring {
    state: Mutex<Fence>,
    /// Files that are to be removed. Held while one is removed, so that it is not the one that is being stored again.
    doomed: Mutex<HashSet<PackId>>,
    /// Closed while it is found out what is kept for others no longer.
    gate: RwLock<()>,
    /// Taken while the hold of replaced heads is worked out and written down.
    hold: Mutex<()>,
    names: Mutex<()>,
}

#[derive(Default)]
struct Fence {
    counter: u64,
    /// The number of whoever began last.
    last_begun: u64,
    at_work: BTreeSet<u64>,
    /// Numbers of retired packs; those that were retired in an earlier run have 0.
    retired: HashMap<PackNumber, Numbered>,
    condemned: HashSet<PackNumber>,
    /// Known to be damaged, and not mended.
    mistrusted: HashSet<PackNumber>,
    /// How often packs went from here because their rows are gone.
    removals: u64,
}

struct Numbered {
    number: u64,
    /// Who had begun last when it was retired.
    begun_before: u64,
    row: RetiredRow,
}

impl Fence {
    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn gave_up(&self, pack: PackNumber) -> bool {
        self.condemned.contains(&pack) || self.mistrusted.contains(&pack)
    }
}

/// Somebody looks chunks up and may refer to them or read them, until this is dropped.
pub struct AtWork {
    store: Arc<Store>,
    number: u64,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.store.fence().at_work.remove(&self.number);
    }
}

impl Retiring {
    /// With what an earlier run left.
    pub(super) fn new(
        retired: Vec<(PackNumber, RetiredRow)>,
        doomed: Vec<PackId>,
        mistrusted: HashSet<PackNumber>,
    ) -> Self {
        let retired =
            retired.into_iter().map(|(pack, row)| (pack, Numbered { number: 0, begun_before: 0, row }));
        let state = Fence { retired: retired.collect(), mistrusted, ..Fence::default() };
        Self {
            state: Mutex::new(state),
            doomed: Mutex::new(doomed.into_iter().collect()),
            gate: RwLock::default(),
            hold: Mutex::default(),
            names: Mutex::default(),
        }
    }
}

impl Store {
    fn fence(&self) -> MutexGuard<'_, Fence> {
        self.retiring.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that somebody begins to look chunks up.
    pub fn enter(self: &Arc<Self>) -> AtWork {
        let mut fence = self.fence();
        let number = fence.next();
        fence.last_begun = number;
        fence.at_work.insert(number);
        AtWork { store: self.clone(), number }
    }

    /// Notes that a mark begins. What the mark follows must be read after this.
    pub fn mark_start(&self) -> MarkStart {
        let mut fence = self.fence();
        let at = fence.next();
        MarkStart { at, oldest: fence.at_work.first().copied().unwrap_or(at) }
    }

    /// Where each chunk lies, for who will refer to what it finds: retired packs are taken back, durably, and chunks of
    /// condemned and mistrusted ones count as unknown, as do those of packs that nobody has promised this device to keep.
    pub fn lookup_to_keep(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkPlace>>, StoreError> {
        let unconfirmed = self.index.unconfirmed();
        let mut places = self.lookup_living(ids)?;
        if !unconfirmed.is_empty() {
            for found in &mut places {
                *found = found.filter(|place| !unconfirmed.contains(&place.pack));
            }
        }
        Ok(places)
    }

    fn lookup_living(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkPlace>>, StoreError> {
        let removals = self.fence().removals;
        let places = self.lookup_many(ids)?;
        let fence = self.fence();
        let in_doubt =
            |place: &ChunkPlace| fence.retired.contains_key(&place.pack) || fence.gave_up(place.pack);
        // What is found and not on its way out cannot be condemned before whoever asks has ended.
        if fence.removals == removals && !places.iter().flatten().any(in_doubt) {
            return Ok(places);
        }
        // Under the lock, so that no pack is condemned between the look and what follows from it.
        self.lookup_and_revive(fence, ids)
    }

    fn lookup_and_revive(
        &self,
        mut fence: MutexGuard<'_, Fence>,
        ids: &[ChunkId],
    ) -> Result<Vec<Option<ChunkPlace>>, StoreError> {
        let mut places = self.lookup_many(ids)?;
        let mut wanted: HashSet<PackNumber> = HashSet::new();
        for found in &mut places {
            match found {
                Some(place) if fence.gave_up(place.pack) => *found = None,
                Some(place) if fence.retired.contains_key(&place.pack) => {
                    wanted.insert(place.pack);
                }
                _ => {}
            }
        }
        if !wanted.is_empty() {
            self.index.remove_retired(&wanted)?;
            fence.retired.retain(|pack, _| !wanted.contains(pack));
        }
        Ok(places)
    }

    /// Packs that wait to be deleted, by number.
    pub fn retired_packs(&self) -> Vec<Retired> {
        let fence = self.fence();
        let mut all: Vec<Retired> = fence
            .retired
            .iter()
            .map(|(pack, numbered)| Retired {
                pack: *pack,
                since: Moment::from_millis(numbered.row.since_ms),
                unlisted: numbered.row.unlisted,
                successors: numbered.row.successors.iter().copied().map(PackNumber).collect(),
            })
            .collect();
        all.sort_unstable_by_key(|one| one.pack);
        all
    }

    /// Durably retires packs, those that are retired already excepted.
    pub fn retire(&self, packs: &[(PackNumber, Vec<PackNumber>)], now: Moment) -> Result<(), StoreError> {
        let mut fence = self.fence();
        let fresh: Vec<(PackNumber, RetiredRow)> = packs
            .iter()
            .filter(|(pack, _)| !fence.retired.contains_key(pack) && !fence.condemned.contains(pack))
            .map(|(pack, successors)| {
                let successors = successors.iter().map(|pack| pack.0).collect();
                (*pack, RetiredRow { since_ms: now.as_millis(), unlisted: false, successors })
            })
            .collect();
        self.index.put_retired(&fresh)?;
        for (pack, row) in fresh {
            let (number, begun_before) = (fence.next(), fence.last_begun);
            fence.retired.insert(pack, Numbered { number, begun_before, row });
        }
        Ok(())
    }

    /// Durably takes retired packs back.
    pub fn revive(&self, packs: &HashSet<PackNumber>) -> Result<(), StoreError> {
        let mut fence = self.fence();
        self.index.remove_retired(packs)?;
        fence.retired.retain(|pack, _| !packs.contains(pack));
        Ok(())
    }

    /// Durably notes of retired packs that this device's heads list them no more, or that they wait from another moment.
    pub fn update_retired(&self, packs: &[Retired]) -> Result<(), StoreError> {
        let mut fence = self.fence();
        let mut rows = Vec::new();
        for one in packs {
            if let Some(numbered) = fence.retired.get_mut(&one.pack) {
                (numbered.row.since_ms, numbered.row.unlisted) = (one.since.as_millis(), one.unlisted);
                rows.push((one.pack, numbered.row.clone()));
            }
        }
        self.index.put_retired(&rows)
    }

    /// Of `packs`, those that a mark which began at `mark` found dead and nobody at work may need: condemned from now on.
    pub fn condemn(&self, packs: &[PackNumber], mark: MarkStart) -> Vec<PackNumber> {
        let mut fence = self.fence();
        let oldest_now = fence.at_work.first().copied().unwrap_or(u64::MAX);
        // Nobody was at work when the mark began, and nobody began between that and the pack's retirement.
        let undisturbed = |pack: &Numbered| mark.oldest == mark.at && pack.begun_before < mark.at;
        let safe =
            |pack: &Numbered| pack.number < oldest_now && (pack.number < mark.oldest || undisturbed(pack));
        let chosen: Vec<PackNumber> =
            packs.iter().copied().filter(|pack| fence.retired.get(pack).is_some_and(safe)).collect();
        for pack in &chosen {
            fence.condemned.insert(*pack);
        }
        chosen
    }

    /// Packs that heads of this device must not list.
    pub fn unlisted_packs(&self) -> HashSet<PackNumber> {
        let fence = self.fence();
        let unlisted = fence.retired.iter().filter(|(_, numbered)| numbered.row.unlisted);
        unlisted.map(|(pack, _)| *pack).chain(fence.condemned.iter().copied()).collect()
    }

    /// Packs with their successors, and those with theirs.
    pub fn with_successors(&self, packs: &mut HashSet<PackNumber>) {
        let fence = self.fence();
        let mut waiting: Vec<PackNumber> = packs.iter().copied().collect();
        while let Some(pack) = waiting.pop() {
            for successor in
                fence.retired.get(&pack).into_iter().flat_map(|numbered| &numbered.row.successors)
            {
                if packs.insert(PackNumber(*successor)) {
                    waiting.push(PackNumber(*successor));
                }
            }
        }
    }

    pub(super) fn condemned(&self) -> HashSet<PackNumber> {
        self.fence().condemned.clone()
    }

    /// Packs whose chunks get another place when they come again.
    pub(super) fn given_up(&self) -> HashSet<PackNumber> {
        let fence = self.fence();
        fence.condemned.union(&fence.mistrusted).copied().collect()
    }

    /// Packs that are known to be damaged and were not mended.
    pub fn mistrusted_packs(&self) -> HashSet<PackNumber> {
        self.fence().mistrusted.clone()
    }

    /// Durably notes that packs are damaged, and that others are sound after all.
    pub fn note_mistrust(&self, damaged: &[PackNumber], sound: &[PackNumber]) -> Result<(), StoreError> {
        let mut fence = self.fence();
        let added: Vec<PackNumber> =
            damaged.iter().copied().filter(|pack| !fence.mistrusted.contains(pack)).collect();
        let removed: Vec<PackNumber> =
            sound.iter().copied().filter(|pack| fence.mistrusted.contains(pack)).collect();
        self.index.edit_mistrusted(&added, &removed)?;
        fence.mistrusted.extend(added);
        removed.iter().for_each(|pack| {
            fence.mistrusted.remove(pack);
        });
        Ok(())
    }

    /// A pack whose sound bytes came is trusted again.
    pub(super) fn trust(&self, id: PackId) -> Result<(), StoreError> {
        if self.fence().mistrusted.is_empty() {
            return Ok(());
        }
        let Some(row) = self.pack_by_id(id)? else { return Ok(()) };
        self.note_mistrust(&[], &[row.number])
    }

    /// Durably gives up damaged packs that nothing needs any more: snapshots need their successors from now on, and the next
    /// head does not list them.
    pub fn set_aside(&self, packs: &[(PackNumber, Vec<PackNumber>)], now: Moment) -> Result<(), StoreError> {
        let damaged: Vec<PackNumber> = packs.iter().map(|(pack, _)| *pack).collect();
        self.note_mistrust(&damaged, &[])?;
        let mut fence = self.fence();
        let row = |successors: &Vec<PackNumber>| RetiredRow {
            since_ms: now.as_millis(),
            unlisted: true,
            successors: successors.iter().map(|pack| pack.0).collect(),
        };
        let rows: Vec<(PackNumber, RetiredRow)> =
            packs.iter().map(|(pack, successors)| (*pack, row(successors))).collect();
        self.index.put_aside(&rows)?;
        for (pack, row) in rows {
            let (number, begun_before) = (fence.next(), fence.last_begun);
            fence.retired.insert(pack, Numbered { number, begun_before, row });
        }
        Ok(())
    }

    /// Runs `work` unless somebody is at work, and lets nobody begin meanwhile.
    pub(super) fn while_idle<T>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let fence = self.fence();
        if fence.at_work.is_empty() { work().map(Some) } else { Ok(None) }
    }

    /// Packs that were set aside: their damage hurts nobody.
    pub fn packs_aside(&self) -> HashSet<PackNumber> {
        let fence = self.fence();
        let retired = fence.retired.keys().filter(|pack| fence.mistrusted.contains(pack));
        retired.copied().collect()
    }

    /// Takes back what was condemned and not deleted.
    pub fn spare(&self, packs: &[PackNumber]) {
        let mut fence = self.fence();
        packs.iter().for_each(|pack| {
            fence.condemned.remove(pack);
        });
    }

    /// Deletes condemned packs that no head lists any more: rows first, then files. Returns how many files went, and
    /// their bytes. A crash at any step leaves a store that verifies.
    pub fn delete_condemned(&self, packs: &[PackNumber]) -> Result<(u64, u64), StoreError> {
        let condemned = self.condemned();
        let chosen: HashSet<PackNumber> =
            packs.iter().copied().filter(|pack| condemned.contains(pack)).collect();
        self.index.remove_chunks_of(&chosen)?;
        let successors = self.successors_of(&chosen);
        let doomed = self.index.remove_packs(&chosen, &successors)?;
        {
            let mut fence = self.fence();
            fence.retired.retain(|pack, _| !chosen.contains(pack));
            fence.condemned.retain(|pack| !chosen.contains(pack));
            fence.mistrusted.retain(|pack| !chosen.contains(pack));
            fence.removals += 1;
        }
        self.retiring.doomed.lock().unwrap_or_else(PoisonError::into_inner).extend(doomed);
        self.remove_doomed()
    }

    fn successors_of(&self, packs: &HashSet<PackNumber>) -> HashMap<PackNumber, Vec<u32>> {
        let fence = self.fence();
        let with = packs.iter().filter_map(|pack| Some((*pack, fence.retired.get(pack)?)));
        with.map(|(pack, numbered)| (pack, numbered.row.successors.clone())).collect()
    }

    /// Removes the files of packs whose rows are gone; an earlier run may have left some.
    pub fn remove_doomed(&self) -> Result<(u64, u64), StoreError> {
        let all: Vec<PackId> =
            self.retiring.doomed.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let (mut files, mut bytes) = (0, 0);
        for id in &all {
            let mut doomed = self.retiring.doomed.lock().unwrap_or_else(PoisonError::into_inner);
            // Meanwhile it may have been stored again.
            if doomed.contains(id) && self.pack_by_id(*id)?.is_none() {
                let length = self.pack_length(*id)?;
                self.remove_pack_file(*id)?;
                files += u64::from(length.is_some());
                bytes += length.unwrap_or(0);
            }
            doomed.remove(id);
        }
        self.index.remove_doomed(&all)?;
        if files > 0 {
            self.reserve.refill();
        }
        meter::BLOCKS_DELETED.add(files);
        Ok((files, bytes))
    }

    /// Until the guard is dropped packs may be taken in for others, and told to be held.
    pub fn open_gate(&self) -> RwLockReadGuard<'_, ()> {
        self.retiring.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the guard is dropped nobody takes packs in for others, or says that they are held.
    pub fn close_gate(&self) -> RwLockWriteGuard<'_, ()> {
        self.retiring.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by whoever works out how long replaced heads are kept: one at a time.
    pub fn keep_hold(&self) -> MutexGuard<'_, ()> {
        self.retiring.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by whoever changes what is known of newest heads.
    pub fn keep_names(&self) -> MutexGuard<'_, ()> {
        self.retiring.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps packs no longer for that vault, and deletes those that are kept for none: rows first, then files. The gate is
    /// closed. How many went, and their bytes.
    pub fn drop_foreign(&self, vault: VaultId, packs: &[PackNumber]) -> Result<(u64, u64), StoreError> {
        let gone = self.index.remove_foreign(vault, packs)?;
        let doomed = self.index.remove_packs(&gone, &HashMap::new())?;
        self.retiring.doomed.lock().unwrap_or_else(PoisonError::into_inner).extend(doomed);
        self.remove_doomed()
    }

    /// Whether a file is only waiting to be removed.
    pub(super) fn is_doomed(&self, id: PackId) -> bool {
        self.retiring.doomed.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// A pack that comes again is not doomed any more.
    pub(super) fn absolve(&self, id: PackId) -> Result<(), StoreError> {
        let was = self.retiring.doomed.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if was { self.index.remove_doomed(&[id]) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Epoch;
    use crate::crypto::{Codec, Kind};
    use crate::pack::{Outboard, PackEntry};
    use crate::store::{NOBODY, NewPack};

    fn chunk(fill: u8) -> ChunkId {
        ChunkId::new([fill; 32])
    }

    /// A store with packs 0, 1, 2…, each with the chunk of its number.
    fn store(packs: u8) -> (tempfile::TempDir, Arc<Store>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::create(&dir.path().join("s")).unwrap());
        for fill in 0..packs {
            publish(&store, fill);
        }
        (dir, store)
    }

    fn publish(store: &Store, fill: u8) -> PackId {
        let bytes = vec![fill; 128 << 10];
        let (id, outboard) = Outboard::of(&bytes);
        store.publish_pack(id, &bytes, &outboard).unwrap();
        let bytes = bytes.len() as u64;
        store
            .index_packs(&[NewPack {
                id,
                bytes,
                epoch: Epoch(0),
                own: true,
                entries: vec![store_entry(fill)],
            }])
            .unwrap();
        id
    }

    const NOW: Moment = Moment::from_millis(7);

    fn retire(store: &Store, pack: u32) {
        store.retire(&[(PackNumber(pack), Vec::new())], NOW).unwrap();
    }

    fn condemned(store: &Store, mark: MarkStart) -> Vec<u32> {
        let all: Vec<PackNumber> = store.retired_packs().iter().map(|one| one.pack).collect();
        store.condemn(&all, mark).into_iter().map(|pack| pack.0).collect()
    }

    #[test]
    fn a_pack_goes_only_when_nobody_can_need_it() {
        let (_dir, store) = store(4);
        // Retired before the mark, with nobody at work.
        retire(&store, 0);
        assert_eq!(condemned(&store, store.mark_start()), [0]);
        // A backup that began before the pack was retired may hold a place in it.
        let backup = store.enter();
        retire(&store, 1);
        assert_eq!(condemned(&store, store.mark_start()), [0], "0 once more, as nothing deleted it");
        // It ended after the mark began: its snapshot may not have been seen.
        let mark = store.mark_start();
        drop(backup);
        assert_eq!(condemned(&store, mark), [0]);
        assert_eq!(condemned(&store, store.mark_start()), [0, 1]);
        // One that began after the pack was retired takes back what it needs, so it holds up nothing.
        let later = store.enter();
        assert_eq!(condemned(&store, store.mark_start()), [0, 1]);
        drop(later);
        // Retired after the mark began: safe if nobody worked in between.
        let mark = store.mark_start();
        retire(&store, 2);
        assert_eq!(condemned(&store, mark), [0, 1, 2]);
        let mark = store.mark_start();
        drop(store.enter());
        retire(&store, 3);
        assert_eq!(condemned(&store, mark), [0, 1, 2]);
    }

    #[test]
    fn what_is_needed_again_comes_back_and_what_is_condemned_is_unknown() {
        let (dir, store) = store(3);
        retire(&store, 0);
        retire(&store, 1);
        assert_eq!(store.condemn(&[PackNumber(1)], store.mark_start()), [PackNumber(1)]);
        let found = store.lookup_to_keep(&[chunk(0), chunk(1), chunk(2)]).unwrap();
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        let waiting: Vec<_> = store.retired_packs().iter().map(|one| one.pack.0).collect();
        assert_eq!(waiting, [1]);
        assert_eq!(store.unlisted_packs(), HashSet::from([PackNumber(1)]));
        // The chunk is stored anew meanwhile, and its new place survives the old pack.
        let entry = PackEntry { offset: 500, ..store_entry(1) };
        let bytes = vec![9; 128 << 10];
        let (id, outboard) = Outboard::of(&bytes);
        store.publish_pack(id, &bytes, &outboard).unwrap();
        let new = NewPack { id, bytes: 128 << 10, epoch: Epoch(0), own: true, entries: vec![entry] };
        let number = store.index_packs(&[new]).unwrap()[0].number;
        assert_eq!(store.delete_condemned(&[PackNumber(1)]).unwrap(), (1, 128 << 10));
        assert_eq!(store.lookup(chunk(1)).unwrap().unwrap().pack, number);
        assert_eq!((store.pack_files().unwrap().len(), store.pack_counts().unwrap().own_packs), (3, 3));
        // Numbers are not given twice, not even over a restart.
        retire(&store, number.0);
        assert_eq!(condemned(&store, store.mark_start()), [number.0]);
        store.delete_condemned(&[number]).unwrap();
        drop(store);
        let store = Store::open(&dir.path().join("s")).unwrap();
        publish(&store, 77);
        assert!(store.lookup(chunk(77)).unwrap().unwrap().pack > number);
    }

    #[test]
    fn a_pack_is_read_again_once_where_its_chunks_were_found_is_gone() {
        let (_dir, store) = store(1);
        let new = |fill: u8, entries| {
            let bytes = vec![fill; 128 << 10];
            let (id, outboard) = Outboard::of(&bytes);
            store.publish_pack(id, &bytes, &outboard).unwrap();
            NewPack { id, bytes: 128 << 10, epoch: Epoch(0), own: true, entries }
        };
        let delete = |pack: u32| {
            retire(&store, pack);
            store.condemn(&[PackNumber(pack)], store.mark_start());
            store.delete_condemned(&[PackNumber(pack)]).unwrap();
        };
        let to_read =
            || store.packs_to_read_again().unwrap().iter().map(|row| row.number.0).collect::<Vec<_>>();
        // Pack 1 has the chunk of pack 0 as well, and one of its own.
        let second = || new(100, vec![store_entry(0), store_entry(1)]);
        store.index_packs(&[second()]).unwrap();
        assert_eq!(store.lookup(chunk(0)).unwrap().unwrap().pack, PackNumber(0));
        delete(0);
        assert_eq!((store.lookup(chunk(0)).unwrap(), to_read()), (None, vec![1]));
        store.enter_again(&[second()], &HashSet::new()).unwrap();
        assert_eq!(store.lookup(chunk(0)).unwrap().unwrap().pack, PackNumber(1));
        assert_eq!(to_read(), Vec::<u32>::new());
        // Its chunks move, it goes, and so does where they are: nothing is left to be read.
        let third = new(101, vec![store_entry(0), store_entry(1)]);
        store.move_chunks(&[third], &HashSet::from([PackNumber(1)])).unwrap();
        delete(1);
        delete(2);
        assert_eq!(store.index.unshadowed().unwrap(), []);
    }

    /// It was counted anew, over all that is kept for anyone, for each pack that came.
    #[test]
    fn what_is_kept_for_others_is_known_without_counting() {
        let (dir, store) = store(0);
        let (one, two) = (VaultId::new([1; 32]), VaultId::new([2; 32]));
        let keep = |store: &Store, vault, fill: u8| {
            let bytes = vec![fill; 128 << 10];
            let (id, outboard) = Outboard::of(&bytes);
            store.publish_pack(id, &bytes, &outboard).unwrap();
            let new = NewPack { id, bytes: 128 << 10, epoch: Epoch(0), own: false, entries: Vec::new() };
            let number = store.index_packs(&[new]).unwrap()[0].number;
            store.add_foreign(vault, &[number], NOBODY).unwrap();
            number
        };
        assert!(store.foreign_usage().unwrap().is_empty());
        store.add_foreign(one, &[], NOBODY).unwrap();
        assert!(store.foreign_usage().unwrap().is_empty());
        let first = keep(&store, one, 1);
        assert_eq!(keep(&store, one, 1), first, "the same once more");
        keep(&store, one, 2);
        assert_eq!(keep(&store, two, 1), first);
        let expected = HashMap::from([(one, (2, 256 << 10)), (two, (1, 128 << 10))]);
        assert_eq!(store.foreign_usage().unwrap(), expected);
        store.drop_foreign(one, &[first]).unwrap();
        keep(&store, two, 3);
        let expected = HashMap::from([(one, (1, 128 << 10)), (two, (2, 256 << 10))]);
        assert_eq!(store.foreign_usage().unwrap(), expected);
        drop(store);
        assert_eq!(Store::open(&dir.path().join("s")).unwrap().foreign_usage().unwrap(), expected);
    }

    fn store_entry(fill: u8) -> PackEntry {
        PackEntry {
            kind: Kind::Data,
            codec: Codec::Zstd,
            id: chunk(fill),
            offset: 48,
            sealed_length: 50,
            length: 99,
        }
    }

    /// Died between rows and file: the file went later, and was no pack that lost its rows.
    #[test]
    fn a_file_that_a_crash_left_is_removed_later_unless_it_came_again() {
        let (dir, store) = store(2);
        let ids = store.pack_files().unwrap();
        let path = |id: PackId| dir.path().join(format!("s/packs/{:02x}/{id}", id.as_bytes()[0]));
        let bytes: Vec<_> = ids.iter().map(|id| std::fs::read(path(*id)).unwrap()).collect();
        retire(&store, 0);
        retire(&store, 1);
        store.condemn(&[PackNumber(0), PackNumber(1)], store.mark_start());
        let gone = HashSet::from([PackNumber(0), PackNumber(1)]);
        store.index.remove_chunks_of(&gone).unwrap();
        store.index.remove_packs(&gone, &HashMap::new()).unwrap();
        drop(store);
        let store = Store::open(&dir.path().join("s")).unwrap();
        assert_eq!(store.unindexed_packs().unwrap(), []);
        let (id, outboard) = Outboard::of(&bytes[0]);
        store.publish_pack(id, &bytes[0], &outboard).unwrap();
        assert_eq!(store.remove_doomed().unwrap(), (1, 128 << 10));
        assert_eq!(store.pack_files().unwrap(), [ids[0]]);
        assert_eq!(store.unindexed_packs().unwrap(), [ids[0]]);
        assert!(!path(ids[1]).with_file_name(format!("{}.cells", ids[1])).exists());
    }
}
