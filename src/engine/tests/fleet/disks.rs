//! Disks that are put back and copied, and records that are spoilt.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::holder::sound_bytes;
use super::source::Source;
use super::world::{Disk, Fleet, Live};
use crate::base::{ChunkId, DeviceId, PackId, PeerId, SnapshotId, VaultId};
use crate::engine::tests::devices::pass_on;
use crate::engine::tests::fixture::{holder, newest_heads};
use crate::engine::tests::full::copy;
use crate::engine::{Monitor, RecordSource, damaged_records, is_record, named_by};
use crate::snapshot::Head;
use crate::store::{RecordName, Store};

/// Copies of disks that are in use at the same time.
const COPIES_MAX: usize = 2;

/// What a disk was like.
pub(super) struct Image {
    dir: tempfile::TempDir,
    listed: BTreeSet<SnapshotId>,
}

impl Fleet {
    fn copied(&mut self, what: &str) -> tempfile::TempDir {
        self.copied += 1;
        self.place.dir(&format!("{what}-{}", self.copied))
    }

    /// Keeps what the disk is like now.
    pub(super) fn take_image(&mut self, device: usize) {
        let dir = self.copied("image");
        let Disk { fixture, listed, image, .. } = &mut self.disks[device];
        copy(fixture.store().dir(), &dir.path().join("store"));
        *image = Some(Image { dir, listed: listed.clone() });
    }

    /// One of the disks of which there is an image becomes what it was then.
    pub(super) fn put_back(&mut self, which: usize) {
        let kept: Vec<usize> = (0..self.disks.len()).filter(|at| self.disks[*at].image.is_some()).collect();
        let Some(device) = kept.get(which % kept.len().max(1)).copied() else { return };
        let Image { dir, listed } = self.disks[device].image.take().unwrap();
        let image = dir.path().join("store");
        let put = |store: &Path| {
            std::fs::remove_dir_all(store).unwrap();
            copy(&image, store);
        };
        self.reopen(device, put, |dir| Store::open(dir).unwrap());
        self.disks[device].listed = listed;
        self.branch(device);
    }

    /// A copy of the disk is used as well.
    pub(super) fn copy_disk(&mut self, device: usize) {
        if self.disks.len() == self.devices + COPIES_MAX {
            return;
        }
        let dir = self.copied("copy");
        let Disk { fixture, listed, .. } = &self.disks[device];
        copy(fixture.store().dir(), &dir.path().join("store"));
        let fixture = fixture.again(dir);
        let source = Source::new(fixture.src());
        let disk = Disk { fixture, source, listed: listed.clone(), astray: BTreeSet::new(), image: None };
        self.disks.push(disk);
        self.branch(self.disks.len() - 1);
    }

    /// A copy of a disk is no more in use.
    pub(super) fn drop_copy(&mut self) {
        if self.disks.len() > self.devices {
            let copy = self.disks.len() - 1;
            self.disks.pop();
            self.unnoticed.retain(|(_, by, _)| *by != copy);
            self.note_lost();
        }
    }

    /// The history of this disk's device may have branches from now on, and what it says of copies may be out of date.
    fn branch(&mut self, device: usize) {
        let id = self.disks[device].fixture.vault.device();
        self.branched.insert(id);
        for disk in self.disks.iter_mut().filter(|disk| disk.fixture.vault.device() == id) {
            disk.astray = (0..self.holders.len()).collect();
        }
        for holder in 0..self.holders.len() {
            let gone =
                self.confirmed(device, holder).into_iter().filter(|pack| !self.holders[holder].has(*pack));
            let gone: Vec<PackId> = gone.collect();
            self.unnoticed.extend(gone.into_iter().map(|pack| (holder, device, pack)));
        }
        self.note_lost();
    }

    /// A snapshot that no holder had and that was on one disk only went with what that disk was.
    fn note_lost(&mut self) {
        let sound = |(id, _): &(&PackId, &HashSet<ChunkId>)| {
            self.stores().any(|store| sound_bytes(store.dir(), **id).is_some())
        };
        let there: HashSet<ChunkId> =
            self.packs.iter().filter(sound).flat_map(|(_, chunks)| chunks).copied().collect();
        let is_there = |one: &Live| {
            let is_listed = self.disks.iter().any(|disk| disk.listed.contains(&one.done.snapshot));
            is_listed && one.chunks.keys().all(|id| there.contains(id))
        };
        let lost = self.live.iter().filter(|one| !one.is_safe && !is_there(one));
        let lost: BTreeSet<SnapshotId> = lost.map(|one| one.done.snapshot).collect();
        self.live.retain(|one| !lost.contains(&one.done.snapshot));
        self.gone.extend(lost);
    }

    /// Spoils a head or record that a holder is known to have.
    pub(super) fn spoil_record(&mut self, device: usize, which: u8, is_gone: bool) {
        let store = self.disks[device].fixture.store();
        let records = self.records_of(store, self.disks[device].fixture.vault.id());
        let kept =
            |record: &RecordName| self.holders.iter().any(|at| sound_record(&at.store, record).is_some());
        let records: Vec<RecordName> = records.into_iter().filter(kept).collect();
        if let Some(RecordName::Head { device, .. }) = spoil(store, &records, which, is_gone) {
            // Not signed over: the device's next head is a branch beside it, and lists whatever it may have listed.
            self.branched.insert(device);
        }
    }

    /// Spoils one at a holder that somebody else has.
    pub(super) fn spoil_at_holder(&mut self, holder: usize, which: u8, is_gone: bool) {
        let (store, vault) = (&self.holders[holder].store, self.disks[0].fixture.vault.id());
        let kept = |record: &RecordName| {
            let others = self.holders.iter().enumerate().filter(|(at, _)| *at != holder);
            others.map(|(_, at)| &at.store).any(|store| sound_record(store, record).is_some())
        };
        let records: Vec<RecordName> = self.records_of(store, vault).into_iter().filter(kept).collect();
        spoil(store, &records, which, is_gone);
        self.look_again();
    }

    fn records_of(&self, store: &Store, vault: VaultId) -> BTreeSet<RecordName> {
        let heads = newest_heads(store, vault).unwrap();
        let name = |head: &Head| {
            let (seq, id) = (head.draft.seq, head.id);
            RecordName::Head { vault, device: head.device(), seq, id }
        };
        heads.iter().flat_map(|head| named_by(head).chain([name(head)])).collect()
    }
}

/// Of a record its bytes, if they are what its name says.
pub(super) fn sound_record(store: &Store, record: &RecordName) -> Option<Vec<u8>> {
    store.read_record(record).ok().flatten().filter(|bytes| is_record(record, bytes))
}

/// Whether every record is sound that tells what is needed.
pub(super) fn is_whole(store: &Store) -> bool {
    damaged_records(store, &Monitor::default()).unwrap().is_empty()
}

pub(super) fn own_tips(store: &Store, vault: VaultId, device: DeviceId) -> Vec<Head> {
    newest_heads(store, vault).unwrap().into_iter().filter(|head| head.device() == device).collect()
}

/// Takes over a head with its records, if who tells of it has all of them.
pub(super) fn take_over(to: &Store, from: &Store, head: &Head) -> bool {
    let has = |record: RecordName| sound_record(from, &record).or(sound_record(to, &record)).is_some();
    let is_all = named_by(head).all(has);
    if is_all {
        pass_on(to, from, head);
    }
    is_all
}

fn spoil(store: &Store, records: &[RecordName], which: u8, is_gone: bool) -> Option<RecordName> {
    // What was spoilt before is not spoilt again.
    let sound: Vec<&RecordName> =
        records.iter().filter(|record| sound_record(store, record).is_some()).collect();
    let record = *sound.get(usize::from(which) % sound.len().max(1))?;
    let path = match record {
        RecordName::List(id) => store.dir().join(format!("lists/{id}")),
        RecordName::Snapshot(id) => store.dir().join(format!("snapshots/{id}")),
        RecordName::Head { vault, device, seq, id } => {
            store.dir().join(format!("heads/{vault}/{device}/{seq:016x}-{id}"))
        }
    };
    // That a head was there is known from its file only.
    if is_gone && !matches!(record, RecordName::Head { .. }) {
        std::fs::remove_file(path).unwrap();
        return Some(*record);
    }
    let whole = std::fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    // A head that can be read stays: without any, a device signs nothing.
    if let RecordName::Head { vault, device, .. } = record
        && own_tips(store, *vault, *device).is_empty()
    {
        std::fs::write(path, whole).unwrap();
    }
    Some(*record)
}

/// Records from whoever has them.
pub(super) struct RecordsOf<'a>(pub(super) &'a Fleet);

impl RecordSource for RecordsOf<'_> {
    fn ask(&self, _: VaultId, record: &RecordName, take: &mut dyn FnMut(PeerId, &[u8]) -> bool) -> String {
        let mut stored =
            self.0.stores().enumerate().map(|(at, store)| (at, store.read_record(record).ok().flatten()));
        let taken = stored.any(|(at, bytes)| bytes.is_some_and(|bytes| take(holder(at), &bytes)));
        if taken { String::new() } else { "nobody has it".to_owned() }
    }
}
