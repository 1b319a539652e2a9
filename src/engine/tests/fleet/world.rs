//! Devices, holders, and what happens to them; the model beside it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::holder::{Everywhere, HOLD_DAYS, Holder, listed_by, pack_path, sound_bytes};
use super::source::{Files, Source};
use super::{Damage, Due, Step};
use crate::base::Seeded;
use crate::base::{ChunkId, HeadId, Moment, PackId};
use crate::crypto::Kind;
use crate::engine::backup::backup_entries;
use crate::engine::reader::ChunkReader;
use crate::engine::tests::devices::{own_head, pass_on, twin_at};
use crate::engine::tests::fixture::{Fixture, GRACE, Place, gc_options, holder, vault_options};
use crate::engine::tests::fixture::{head_packs, newest_heads};
use crate::engine::tree::for_each_reference;
use crate::engine::{
    BackupResult, EngineError, GcOptions, Monitor, VaultOptions, adopt_unindexed, collect, complete_head,
    confirm_borrowed, copy_counts, drop_expired, forget, forward_packs, held_packs, index_remote_pack,
    keep_here, note_damage, plan_repair, publish_next_head, read_again, rebuild_index, record_receipt,
    referred_elsewhere, regain, renew_kept, run_repair,
};
use crate::pack::read_pack;
use crate::snapshot::sign_receipt;
use crate::store::{Borrowed, PackNumber, Store};

/// A snapshot that nobody forgot.
pub(super) struct Live {
    pub(super) done: BackupResult,
    /// What it must give back.
    pub(super) files: Files,
    /// All that it needs.
    pub(super) chunks: BTreeMap<ChunkId, Kind>,
    /// Holders have confirmed all of it.
    pub(super) is_safe: bool,
}

/// Everybody, and the model.
pub(super) struct Fleet {
    _seeded: Seeded,
    pub(super) devices: Vec<Fixture>,
    pub(super) holders: Vec<Holder>,
    /// What each device backs up.
    sources: Vec<Source>,
    /// Snapshots of each device that nobody forgot.
    pub(super) live: Vec<Vec<Live>>,
    /// What is in each pack that there ever was.
    packs: HashMap<PackId, HashSet<ChunkId>>,
    /// What holders lost and nobody noticed: of whom, by which device.
    pub(super) unnoticed: HashSet<(usize, usize, PackId)>,
    /// The time of holders, in milliseconds.
    time: u64,
    /// Where all of it lies; last, as it goes last.
    _place: Place,
}

impl Fleet {
    /// Everything here, to the last byte, follows from these numbers and the steps that come.
    pub(super) fn new(seed: u64, devices: usize, holders: usize) -> Self {
        let (seeded, place) = (Seeded::new(seed), Place::named(&format!("fleet-{seed:016x}")));
        let dir = place.dir("device-0");
        let store = dir.path().join("store");
        let first = Fixture::at(dir, &store, VaultOptions { workers: 1, ..vault_options() });
        let mut all = vec![first];
        while all.len() < devices {
            all.push(twin_at(place.dir(&format!("device-{}", all.len())), &all[0]));
        }
        Self {
            _seeded: seeded,
            sources: all.iter().map(|fixture| Source::new(fixture.src())).collect(),
            devices: all,
            holders: (0..holders).map(|at| Holder::at(place.dir(&format!("holder-{at}")))).collect(),
            live: (0..devices).map(|_| Vec::new()).collect(),
            packs: HashMap::new(),
            unnoticed: HashSet::new(),
            time: 1,
            _place: place,
        }
    }

    fn device(&self, any: u8) -> usize {
        usize::from(any) % self.devices.len()
    }

    fn holder(&self, any: u8) -> usize {
        usize::from(any) % self.holders.len()
    }

    /// Of holders, then of devices.
    pub(super) fn stores(&self) -> impl Iterator<Item = &Store> {
        let holders = self.holders.iter().map(|holder| &holder.store);
        holders.chain(self.devices.iter().map(|device| device.store()))
    }

    pub(super) fn everywhere(&self) -> Everywhere {
        let named = self.stores().enumerate();
        Everywhere(named.map(|(at, store)| (holder(at), store.dir().to_owned())).collect())
    }

    pub(super) fn listed(&self, device: usize) -> BTreeSet<PackId> {
        listed_by(self.devices[device].store(), &own_head(&self.devices[device]))
    }

    /// Packs that this holder has confirmed to this device.
    pub(super) fn confirmed(&self, device: usize, holder: usize) -> BTreeSet<PackId> {
        let (store, peer) = (self.devices[device].store(), self.holders[holder].key.peer_id());
        let mut packs = Vec::new();
        store.for_each_receipt(|pack, of, _| packs.extend((of == peer).then_some(pack))).unwrap();
        packs.into_iter().filter_map(|pack| store.pack_by_number(pack).unwrap()).map(|row| row.id).collect()
    }

    /// Whether a holder other than `but` has confirmed that pack to that device, and does have it.
    fn is_safe(&self, device: usize, pack: PackId, but: Option<usize>) -> bool {
        (0..self.holders.len())
            .filter(|holder| Some(*holder) != but)
            .any(|holder| self.confirmed(device, holder).contains(&pack) && self.holders[holder].has(pack))
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Backup { device, ref edits } => self.backup(self.device(device), &edits.0),
            Step::Forget { device, which } => self.forget(self.device(device), which),
            Step::Gc { device, due } => self.gc(self.device(device), due),
            Step::Meet { device, holder, most } => {
                self.meet(self.device(device), self.holder(holder), usize::from(most))
            }
            Step::Damage { device, which, how } => self.damage(self.device(device), which, how),
            Step::Repair { device } => self.repair(self.device(device)),
            Step::Crash { device, index_lost } => self.crash(self.device(device), index_lost),
            Step::HolderCrash { holder, index_lost } => {
                let holder = self.holder(holder);
                let reopened = self.holders.remove(holder).reopened(index_lost);
                self.holders.insert(holder, reopened);
            }
            Step::Lose { holder, which } => self.lose(self.holder(holder), which),
            Step::Days { days } => self.days(u64::from(days)),
        }
    }

    fn backup(&mut self, device: usize, edits: &[(u8, u8)]) {
        let (fixture, tree) = (&self.devices[device], &mut self.sources[device]);
        edits.iter().for_each(|(name, of)| tree.write(*name, *of));
        let (files, monitor) = (tree.files().clone(), Monitor::default());
        let done = backup_entries(&fixture.vault, &fixture.options(), tree.entries(), &monitor).unwrap();
        let (mut chunks, source) = (BTreeMap::new(), self.everywhere());
        let mut reader = ChunkReader::new(&fixture.vault, Some(&source), &monitor);
        for_each_reference(
            &mut reader,
            &fixture.snapshot(&done),
            &monitor,
            &mut |kind, id| {
                chunks.insert(id, kind);
            },
            &mut |_, error| panic!("{error}"),
        )
        .unwrap();
        self.live[device].push(Live { done, files, chunks, is_safe: false });
        self.note_packs(device);
    }

    /// Notes what is in packs that this device wrote.
    fn note_packs(&mut self, device: usize) {
        let vault = &self.devices[device].vault;
        let mut written = Vec::new();
        vault.store.for_each_pack(true, |row| (written.push(row.id), true).1).unwrap();
        for id in written {
            if let Entry::Vacant(place) = self.packs.entry(id)
                && let Some((bytes, _)) = sound_bytes(vault.store.dir(), id)
            {
                let (_, entries) = read_pack(&vault.keyring.vault, &bytes).unwrap();
                place.insert(entries.into_iter().map(|entry| entry.id).collect());
            }
        }
    }

    /// What holders have between them.
    pub(super) fn with_holders(&self) -> HashSet<ChunkId> {
        let has = |id: &PackId| self.holders.iter().any(|holder| holder.has(*id));
        self.packs.iter().filter(|(id, _)| has(id)).flat_map(|(_, chunks)| chunks).copied().collect()
    }

    /// What has a copy by now, as the device counts it.
    fn note_safe(&mut self, device: usize) {
        let (fixture, copies) = (&self.devices[device], self.with_holders());
        let counts = copy_counts(&fixture.vault, &fixture.view(), |_| true).unwrap();
        let is_misled = self.unnoticed.iter().any(|(_, by, _)| *by == device);
        for one in &mut self.live[device] {
            if counts.of_snapshot(one.done.snapshot) > 0 {
                one.is_safe = one.chunks.keys().all(|id| copies.contains(id));
                assert!(one.is_safe || is_misled, "{} was said to have a copy", one.done.snapshot);
            }
        }
    }

    fn forget(&mut self, device: usize, which: u8) {
        let live = &mut self.live[device];
        if !live.is_empty() {
            let Live { done, .. } = live.remove(usize::from(which) % live.len());
            assert_eq!(forget(&self.devices[device].vault, &[done.snapshot], &[]).unwrap(), 1);
        }
    }

    pub(super) fn gc(&mut self, device: usize, due: Due) {
        let grace = if due == Due::Old { Duration::from_secs(3) } else { GRACE };
        let options = GcOptions { grace, holder_room: Some(u64::MAX), ..gc_options(due == Due::All) };
        let fixture = &self.devices[device];
        let source = self.everywhere();
        match collect(&fixture.vault, options, &[], Some(&source), &Monitor::default()) {
            // Another device forgot since what it had said, and its trees were never anywhere else.
            Err(EngineError::RootUnreadable(_)) if self.is_behind(device) => {}
            other => drop(other.unwrap()),
        }
        self.note_packs(device);
    }

    /// Whether it knows another device by an older head than that one's newest.
    fn is_behind(&self, device: usize) -> bool {
        let fixture = &self.devices[device];
        let known = newest_heads(fixture.store(), fixture.vault.id()).unwrap();
        let newest: Vec<HeadId> = self.devices.iter().map(|one| own_head(one).id).collect();
        known.iter().any(|head| !newest.contains(&head.id))
    }

    pub(super) fn meet(&mut self, device: usize, holder: usize, most: usize) {
        self.audit(device, holder);
        for head in newest_heads(&self.holders[holder].store, self.devices[device].vault.id()).unwrap() {
            if head.device() != self.devices[device].vault.device() {
                pass_on(self.devices[device].store(), &self.holders[holder].store, &head);
            }
        }
        self.index_listed(device);
        self.list_borrowed(device);
        self.hand_over(device, holder, most);
        let fixture = &self.devices[device];
        for row in referred_elsewhere(&fixture.vault).unwrap() {
            if keep_here(&fixture.vault, &self.everywhere(), &row, &Monitor::default()).is_ok() {
                fixture.store().set_borrowed(&[row.number], Borrowed::Kept).unwrap();
            }
        }
        self.note_safe(device);
    }

    /// What the holder cannot prove to have is no copy any more.
    fn audit(&mut self, device: usize, holder: usize) {
        let (fixture, at) = (&self.devices[device], &self.holders[holder]);
        let confirmed = self.confirmed(device, holder).into_iter();
        let lost: Vec<PackId> = confirmed.filter(|pack| !at.has(*pack)).collect();
        fixture.store().drop_pack_receipts(at.key.peer_id(), &lost).unwrap();
        self.unnoticed.retain(|(of, by, _)| (*of, *by) != (holder, device));
    }

    /// Reads the directories of packs that heads list and the index does not know.
    fn index_listed(&self, device: usize) {
        let (fixture, source) = (&self.devices[device], self.everywhere());
        for head in newest_heads(fixture.store(), fixture.vault.id()).unwrap() {
            for (id, size) in head_packs(fixture.store(), &head).unwrap() {
                if fixture.store().pack_by_id(id).unwrap().is_some() {
                    continue;
                }
                let monitor = Monitor::default();
                let found = index_remote_pack(&fixture.vault, &source, id, size.bytes(), &monitor);
                let Ok(pack) = found else { continue };
                match head.device() == fixture.vault.device() {
                    true => drop(fixture.store().index_packs(&[pack]).unwrap()),
                    false => drop(fixture.store().index_borrowed(&[pack]).unwrap()),
                }
            }
        }
        read_again(&fixture.vault, Some(&source), &Monitor::default()).unwrap();
    }

    /// Lists what other devices have written, unless it is on its way out.
    fn list_borrowed(&self, device: usize) {
        let fixture = &self.devices[device];
        let (unconfirmed, leaving) = (fixture.store().unconfirmed_packs(), fixture.store().unlisted_packs());
        if unconfirmed.is_subset(&leaving) {
            return;
        }
        let listed = self.listed(device);
        let is_new = |pack: &PackNumber| {
            let row = fixture.store().pack_by_number(*pack).unwrap();
            row.is_some_and(|row| !listed.contains(&row.id))
        };
        if unconfirmed.difference(&leaving).any(is_new) {
            publish_next_head(&fixture.vault, &[], &[]).unwrap();
        }
    }

    /// Gives a holder the newest head and packs that it does not have; it confirms what it has of all that is listed.
    fn hand_over(&mut self, device: usize, holder: usize, most: usize) {
        let fixture = &self.devices[device];
        let (vault, head) = (fixture.vault.id(), own_head(fixture));
        let known = newest_heads(&self.holders[holder].store, vault).unwrap();
        if let Some(old) = known.iter().find(|old| old.device() == head.device() && old.id != head.id) {
            self.holders[holder].replaces(old);
        }
        let at = &self.holders[holder];
        pass_on(&at.store, fixture.store(), &head);
        let listed: Vec<PackId> = listed_by(fixture.store(), &head).into_iter().collect();
        let held = held_packs(&at.store, vault, &listed).unwrap();
        let here = listed.iter().filter(|id| !held.contains(id));
        for id in here.take(most) {
            if let Some((bytes, outboard)) = sound_bytes(fixture.store().dir(), *id) {
                forward_packs(&at.store, vault, *id, &bytes, &outboard).unwrap();
            }
        }
        self.time += 1;
        let held = held_packs(&at.store, vault, &listed).unwrap();
        let complete = complete_head(&at.store, vault, head.id).unwrap().map(|head| head.id);
        let signed = sign_receipt(&at.key, vault, complete, &held, Moment::from_millis(self.time));
        let news = record_receipt(fixture.store(), vault, at.key.peer_id(), &signed).unwrap();
        if let Some(receipt) = news {
            confirm_borrowed(fixture.store(), &receipt.packs).unwrap();
        }
    }

    /// Spoils a pack of which a holder is known to have a copy.
    fn damage(&self, device: usize, which: u8, how: Damage) {
        let store = self.devices[device].store().dir();
        let packs: Vec<PackId> = self
            .listed(device)
            .into_iter()
            .filter(|id| sound_bytes(store, *id).is_some() && self.is_safe(device, *id, None))
            .collect();
        let Some(id) = packs.get(usize::from(which) % packs.len().max(1)) else { return };
        let path = pack_path(store, *id);
        let mut bytes = std::fs::read(&path).unwrap();
        match how {
            Damage::Gone => return std::fs::remove_file(path).unwrap(),
            Damage::Cut => bytes.truncate(bytes.len() / 3),
            Damage::Flipped => (0..bytes.len()).step_by(40_000).for_each(|at| bytes[at] ^= 1),
            Damage::Zeroed => {
                bytes.fill(0);
                let cells = path.with_file_name(format!("{id}.cells"));
                std::fs::write(&cells, vec![0; cells.metadata().map_or(0, |meta| meta.len() as usize)])
                    .unwrap();
            }
        }
        std::fs::write(path, bytes).unwrap();
    }

    /// Looks at everything and mends it, from others and, if they cannot, from the files.
    pub(super) fn repair(&self, device: usize) {
        let fixture = &self.devices[device];
        let found = fixture.verify();
        note_damage(fixture.store(), &found.damages).unwrap();
        let plan = plan_repair(found.damages);
        run_repair(fixture.store(), &plan, &self.everywhere(), &Monitor::default()).unwrap();
        let left = fixture.verify();
        if !left.is_sound() {
            regain(&fixture.vault, &left, &[], &Monitor::default()).unwrap();
        }
        let left = fixture.verify();
        let is_sound = left.is_sound() || self.is_behind(device) && left.damages.is_empty();
        assert!(is_sound, "{:?} {:?} {:?}", left.damages, left.records, left.snapshots);
    }

    fn crash(&mut self, device: usize, index_lost: bool) {
        let fixture = self.devices.remove(device);
        let open: fn(&Path) -> Store =
            if index_lost { |dir| Store::rebuild(dir).unwrap() } else { |dir| Store::open(dir).unwrap() };
        let fixture = fixture.reopened(|_| {}, open);
        if index_lost {
            rebuild_index(fixture.store(), Some(&fixture.vault.keyring.vault), &Monitor::default()).unwrap();
            renew_kept(&fixture.vault).unwrap();
        } else {
            adopt_unindexed(&fixture.vault, &Monitor::default()).unwrap();
        }
        self.devices.insert(device, fixture);
        if index_lost {
            self.index_listed(device);
        }
    }

    /// A pack goes that whoever needs it has, or another holder.
    fn lose(&mut self, holder: usize, which: u8) {
        let store = &self.holders[holder].store;
        let listed: Vec<BTreeSet<PackId>> = (0..self.devices.len()).map(|one| self.listed(one)).collect();
        let is_spare = |id: &PackId| {
            (0..self.devices.len()).all(|device| {
                !listed[device].contains(id)
                    || sound_bytes(self.devices[device].store().dir(), *id).is_some()
                    || self.is_safe(device, *id, Some(holder))
            })
        };
        let packs: Vec<PackId> = store.pack_files().unwrap().into_iter().filter(is_spare).collect();
        let Some(id) = packs.get(usize::from(which) % packs.len().max(1)) else { return };
        std::fs::remove_file(pack_path(store.dir(), *id)).unwrap();
        self.holders[holder].held.remove(id);
        self.unnoticed.extend((0..self.devices.len()).map(|device| (holder, device, *id)));
        let copies = self.with_holders();
        self.live
            .iter_mut()
            .flatten()
            .for_each(|one| one.is_safe &= one.chunks.keys().all(|id| copies.contains(id)));
    }

    pub(super) fn days(&mut self, days: u64) {
        let span = |days| Duration::from_secs(days * 86_400);
        for fixture in &self.devices {
            let own = Some(fixture.vault.id());
            drop_expired(fixture.store(), own, span(HOLD_DAYS), span(days)).unwrap();
            age_records(fixture.store(), span(days));
        }
        for at in &mut self.holders {
            drop_expired(&at.store, None, span(HOLD_DAYS), span(days)).unwrap();
            age_records(&at.store, span(days));
            at.day += days;
            at.held.retain(|_, until| *until > at.day);
        }
    }
}

/// A record that no head names goes only once its file is old enough.
fn age_records(store: &Store, by: Duration) {
    for dir in ["snapshots", "lists"] {
        for entry in std::fs::read_dir(store.dir().join(dir)).unwrap() {
            let file = File::options().write(true).open(entry.unwrap().path()).unwrap();
            let written = file.metadata().unwrap().modified().unwrap();
            file.set_modified(written - by).unwrap();
        }
    }
}
