//! What was promised, and how it is told whether it holds.

use std::collections::{BTreeSet, HashSet};

use super::Due;
use super::world::{Fleet, HOLD_DAYS, Live, content, listed_by};
use crate::base::{PackId, SnapshotId};
use crate::engine::VaultView;
use crate::engine::copies::packs_of;
use crate::engine::tests::fixture::Fixture;
use crate::store::Store;

impl Fleet {
    /// What was promised holds.
    pub(super) fn check(&self) {
        for (device, fixture) in self.devices.iter().enumerate() {
            let view = fixture.view();
            let head = view.heads.iter().find(|head| head.device() == fixture.vault.device()).unwrap();
            let own: HashSet<SnapshotId> = head.draft.snapshots.iter().copied().collect();
            assert_eq!(own, self.live[device].iter().map(|one| one.done.snapshot).collect());
            for one in &self.live[device] {
                self.restores(fixture, &view, one);
            }
            let listed = listed_by(fixture.store(), head);
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
        for one in self.live.iter().flatten().filter(|one| one.is_safe) {
            assert!(one.chunks.is_subset(&copies), "{} has no copy any more", one.done.snapshot);
        }
    }

    fn restores(&self, fixture: &Fixture, view: &VaultView, Live { done, files, .. }: &Live) {
        let found = view.snapshots.iter().find(|one| one.id == done.snapshot).unwrap();
        let origin = self.devices.iter().find(|one| one.vault.device() == found.device).unwrap().src();
        let (out, _, monitor) = fixture.restore_path(found, &origin, "out", Some(&self.everywhere()));
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
            let vault = fleet.devices[0].vault.id();
            let known = |store: &Store| {
                let heads = store.head_devices(vault).unwrap().into_iter();
                let heads: Vec<_> = heads.map(|device| store.head_names(vault, device).unwrap()).collect();
                (store.foreign_packs(vault).unwrap().len(), store.retired_packs().len(), heads)
            };
            fleet.stores().map(known).collect::<Vec<_>>()
        };
        let mut before = state(self);
        for _ in 0..16 {
            for device in 0..self.devices.len() {
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

    /// Everything is everywhere that it should be, and nothing else.
    pub(super) fn end(&mut self) {
        (0..self.devices.len()).for_each(|device| self.repair(device));
        self.settle();
        self.check();
        let needed: BTreeSet<PackId> = self.devices.iter().flat_map(|fixture| self.needed(fixture)).collect();
        for (at, store) in self.stores().enumerate() {
            let packs = store.pack_files().unwrap().into_iter();
            let garbage: Vec<PackId> = packs.filter(|id| !needed.contains(id)).collect();
            assert_eq!(garbage, [], "with {at}, holders first");
        }
        for (device, fixture) in self.devices.iter().enumerate() {
            // Of a chunk that two devices stored each may use its own, and lets the other's pack be.
            let waits = fixture.store().retired_packs().into_iter().filter(|one| !one.unlisted);
            assert_eq!(waits.count(), 0, "device {device}");
            let view = fixture.view();
            for one in self.live.iter().flatten() {
                self.restores(fixture, &view, one);
            }
            let found = fixture.verify();
            assert!(found.is_sound(), "{:?} {:?} {:?}", found.damages, found.records, found.snapshots);
        }
    }
}
