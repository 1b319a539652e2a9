//! What was promised, and how it is told whether it holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::Due;
use super::holder::{HOLD_DAYS, listed_by};
use super::source::content;
use super::world::{Disk, Fleet, Live};
use crate::base::{PackId, SnapshotId};
use crate::engine::copies::packs_of;
use crate::engine::reader::ChunkReader;
use crate::engine::tests::devices::own_head;
use crate::engine::tests::fixture::Fixture;
use crate::engine::{Monitor, VaultView, forget, packs_as_known, unreadable_heads};
use crate::snapshot::Head;
use crate::store::{PackNumber, Store};

impl Fleet {
    /// What was promised holds.
    pub(super) fn check(&self) {
        for device in 0..self.disks.len() {
            self.lists(device);
            let Disk { fixture, astray, .. } = &self.disks[device];
            if astray.is_empty() && !self.has_twins(device) {
                self.reads(device);
            }
            // Of a device with branches, another disk may have let holders have it go.
            if self.is_branched(device) {
                continue;
            }
            let listed = listed_by(fixture.store(), &own_head(fixture));
            for (holder, at) in self.holders.iter().enumerate() {
                for pack in self.confirmed(device, holder).intersection(&listed) {
                    let is_known = self.unnoticed.contains(&(holder, device, *pack));
                    assert!(at.has(*pack) || is_known, "holder {holder} confirmed {pack} to device {device}");
                }
            }
        }
        for (holder, at) in self.holders.iter().enumerate() {
            let gone = at.held.keys().find(|pack| !at.has(**pack));
            assert_eq!(gone, None, "holder {holder} let it go before the hold was over");
        }
        let copies = self.with_holders();
        for one in self.live.iter().filter(|one| one.is_safe) {
            assert!(
                one.chunks.keys().all(|id| copies.contains(id)),
                "{} has no copy any more",
                one.done.snapshot
            );
        }
    }

    /// What was acknowledged on a disk, and nobody forgot, is listed there; of a device with one disk, nothing else.
    fn lists(&self, device: usize) {
        let Disk { listed, .. } = &self.disks[device];
        let wanted: BTreeSet<SnapshotId> = listed.difference(&self.gone).copied().collect();
        let has: BTreeSet<SnapshotId> =
            self.tips(device).into_iter().flat_map(|head| head.draft.snapshots).collect();
        // What only a head lists that cannot be read is not known, and that is said.
        if self.lacks_heads(device) {
            return;
        }
        let lost: Vec<_> = wanted.difference(&has).collect();
        assert!(lost.is_empty(), "disk {device} does not list {lost:?}");
        assert!(self.is_branched(device) || has == wanted, "disk {device} lists what was forgotten");
    }

    /// Every chunk that this device's snapshots need can be had. That they restore is looked at in the end: files take ten
    /// times as long.
    fn reads(&self, device: usize) {
        // Packs that only a head or a list names which cannot be read are not known once the index is lost, and that is said.
        if self.is_in_doubt(device) {
            return;
        }
        let (source, monitor) = (self.everywhere(), Monitor::default());
        let Disk { fixture, listed, .. } = &self.disks[device];
        let mut reader = ChunkReader::new(&fixture.vault, Some(&source), &monitor);
        let own = self.live.iter().filter(|one| one.device == fixture.vault.device());
        let own = own.filter(|one| listed.contains(&one.done.snapshot));
        let needed: BTreeMap<_, _> = own.flat_map(|one| &one.chunks).collect();
        for (id, kind) in needed {
            let read = reader.read(*kind, *id).map(drop);
            assert!(read.is_ok(), "{kind:?} chunk {id} of device {device}: {read:?}");
        }
    }

    /// Heads of this disk, or lists of its newest ones, cannot be read.
    fn is_in_doubt(&self, device: usize) -> bool {
        let store = self.disks[device].fixture.store();
        let lacks_lists = |head: &Head| !packs_as_known(store, head).unwrap().1.is_empty();
        self.lacks_heads(device) || self.tips(device).iter().any(lacks_lists)
    }

    fn lacks_heads(&self, device: usize) -> bool {
        let fixture = &self.disks[device].fixture;
        !unreadable_heads(fixture.store(), fixture.vault.id()).unwrap().is_empty()
    }

    fn restores(&self, fixture: &Fixture, view: &VaultView, Live { done, src, files, .. }: &Live) {
        let found = view.snapshots.iter().find(|one| one.id == done.snapshot).unwrap();
        let (out, _, monitor) = fixture.restore_path(found, src, "out", Some(&self.everywhere()));
        assert_eq!(monitor.problems().1, []);
        let mut names: Vec<String> = std::fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, files.keys().map(u8::to_string).collect::<Vec<_>>());
        for (name, of) in files {
            assert!(std::fs::read(out.join(name.to_string())).unwrap() == content(*of), "file {name}");
        }
        std::fs::remove_dir_all(out).unwrap();
    }

    /// Everybody meets, collects, and lets the hold pass, until nothing changes.
    fn settle(&mut self) {
        // Which heads are known to whom, and how many packs.
        let state = |fleet: &Self| {
            let vault = fleet.disks[0].fixture.vault.id();
            let known = |store: &Store| {
                let heads = store.head_devices(vault).unwrap().into_iter();
                let heads: Vec<_> = heads.map(|device| store.head_names(vault, device).unwrap()).collect();
                (store.foreign_packs(vault).unwrap().len(), store.retired_packs().len(), heads)
            };
            fleet.stores().map(known).collect::<Vec<_>>()
        };
        let mut before = state(self);
        for _ in 0..16 {
            for device in 0..self.disks.len() {
                for holder in 0..self.holders.len() {
                    self.meet(device, holder, usize::MAX);
                }
                self.gc(device, Due::All);
            }
            // A stamp begins at one look, and is over at a later one.
            self.days(0);
            self.days(HOLD_DAYS);
            let now = state(self);
            if now == before {
                return;
            }
            before = now;
        }
        panic!("it never ends");
    }

    /// What the snapshots of all devices need, as one of them sees it.
    fn needed(&self, fixture: &Fixture) -> BTreeSet<PackId> {
        // Worked out anew, not as it was noted down.
        fixture.store().drop_snapshot_packs(|_| true).unwrap();
        let mut needed = BTreeSet::new();
        for snapshot in fixture.view().snapshots {
            for pack in packs_of(&fixture.vault, Some(&self.everywhere()), &snapshot).unwrap() {
                needed.extend(fixture.store().pack_by_number(pack).unwrap().map(|row| row.id));
            }
        }
        needed
    }

    /// Copies of disks meet every holder and are used no more; what else was forgotten is forgotten where an old image
    /// brought it back.
    fn join(&mut self) {
        if self.branched.is_empty() {
            return;
        }
        for _ in 0..2 {
            for device in (0..self.disks.len()).rev() {
                for holder in 0..self.holders.len() {
                    self.meet(device, holder, usize::MAX);
                }
            }
        }
        for copy in self.disks.split_off(self.devices) {
            let id = copy.fixture.vault.device();
            let own = self.disks.iter_mut().find(|disk| disk.fixture.vault.device() == id).unwrap();
            own.listed.extend(copy.listed);
        }
        for device in 0..self.devices {
            for holder in 0..self.holders.len() {
                self.meet(device, holder, usize::MAX);
            }
            let again: BTreeSet<SnapshotId> =
                self.tips(device).into_iter().flat_map(|head| head.draft.snapshots).collect();
            let again: Vec<SnapshotId> = again.intersection(&self.gone).copied().collect();
            forget(&self.disks[device].fixture.vault, &again, &[]).unwrap();
        }
        for device in 0..self.devices {
            for holder in 0..self.holders.len() {
                self.meet(device, holder, usize::MAX);
            }
        }
    }

    /// Everything is everywhere that it should be, and nothing else.
    pub(super) fn end(&mut self) {
        self.join();
        self.mend_holders();
        (0..self.devices).for_each(|device| self.repair(device));
        self.settle();
        self.check();
        let needed: BTreeSet<PackId> =
            self.disks.iter().flat_map(|disk| self.needed(&disk.fixture)).collect();
        for (at, store) in self.stores().enumerate() {
            let packs = store.pack_files().unwrap().into_iter();
            let garbage: Vec<PackId> = packs.filter(|id| !needed.contains(id)).collect();
            assert_eq!(garbage, [], "with {at}, holders first");
        }
        for (device, Disk { fixture, .. }) in self.disks.iter().enumerate() {
            // Of a chunk that two devices stored each may use its own, and lets the other's pack be.
            let waits = fixture.store().retired_packs().into_iter().filter(|one| !one.unlisted);
            assert_eq!(waits.count(), 0, "device {device}");
            let view = fixture.view();
            for one in &self.live {
                self.restores(fixture, &view, one);
            }
            let found = fixture.verify();
            assert!(found.is_sound(), "{:?} {:?} {:?}", found.damages, found.records, found.snapshots);
        }
    }
}

impl Fleet {
    /// All that stores have, line by line.
    pub(super) fn trace(&self) -> String {
        let mut lines = String::new();
        for (at, store) in self.stores().enumerate() {
            note_files(store.dir(), store.dir(), at, &mut lines);
            let mut note = |what: &str, row: String| lines.push_str(&format!("{at} {what} {row}\n"));
            store.for_each_chunk(|id, place| (note("chunk", format!("{id} {place:?}")), true).1).unwrap();
            for own in [true, false] {
                store.for_each_pack(own, |row| (note("pack", format!("{row:?}")), true).1).unwrap();
            }
            store
                .for_each_receipt(|pack, of, time| note("receipt", format!("{pack:?} {of} {time}")))
                .unwrap();
            store
                .head_receipts()
                .unwrap()
                .into_iter()
                .for_each(|one| note("head receipt", format!("{one:?}")));
            store.retired_packs().into_iter().for_each(|one| note("retired", format!("{one:?}")));
            let sorted = |packs: HashSet<PackNumber>| packs.into_iter().collect::<BTreeSet<_>>();
            note("mistrusted", format!("{:?}", sorted(store.mistrusted_packs())));
            let borrowed: BTreeMap<_, _> = store.borrowed().unwrap().into_iter().collect();
            note("borrowed", format!("{borrowed:?}"));
        }
        lines
    }
}

/// Files by name, with a hash of what they have; the index is told of by its rows.
fn note_files(dir: &Path, root: &Path, at: usize, lines: &mut String) {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    for path in paths {
        if path.is_dir() {
            note_files(&path, root, at, lines);
        } else if !path.ends_with("index.redb") {
            let (name, hash) =
                (path.strip_prefix(root).unwrap(), blake3::hash(&std::fs::read(&path).unwrap()));
            lines.push_str(&format!("{at} file {} {hash}\n", name.display()));
        }
    }
}
