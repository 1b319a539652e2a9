//! Devices, holders, and what happens to them; the model beside it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disks::{Image, RecordsOf, is_whole, own_tips, sound_record, take_over};
use super::holder::{Everywhere, HOLD_DAYS, Holder, listed_by, pack_path, sound_bytes};
use super::source::{Files, Source};
use super::{Damage, Due, Step};
use crate::base::{ChunkId, DeviceId, HeadId, Moment, PackId, Seeded, SnapshotId};
use crate::crypto::Kind;
use crate::engine::backup::backup_entries;
use crate::engine::reader::ChunkReader;
use crate::engine::tests::devices::{own_head, pass_on, twin_at};
use crate::engine::tests::fixture::{Fixture, GRACE, Place, gc_options, holder, vault_options};
use crate::engine::tests::fixture::{head_packs, newest_heads};
use crate::engine::tree::for_each_reference;
use crate::engine::{
    BackupResult, EngineError, GcOptions, Monitor, VaultOptions, adopt_unindexed, collect, complete_head,
    confirm_borrowed, copy_counts, damaged_records, drop_expired, forget, forward_packs, held_packs,
    index_remote_pack, is_known, join_branches, keep_here, missing_records, named_by, note_damage,
    plan_repair, publish_next_head, read_again, rebuild_index, record_receipt, referred_elsewhere, regain,
    renew_kept, repair_records, run_repair, unreadable_heads, void_head_receipt,
};
use crate::pack::read_pack;
use crate::snapshot::{Head, HeadName, sign_receipt};
use crate::store::{Borrowed, NOBODY, PackNumber, RecordName, Store};

/// A snapshot that nobody forgot and that went with no disk.
pub(super) struct Live {
    /// Of which device.
    pub(super) device: DeviceId,
    pub(super) done: BackupResult,
    /// Where the files were, and what it must give back.
    pub(super) src: PathBuf,
    pub(super) files: Files,
    /// All that it needs.
    pub(super) chunks: BTreeMap<ChunkId, Kind>,
    /// Holders have confirmed all of it.
    pub(super) is_safe: bool,
}

/// What a device runs on: its own disk, or a copy of it.
pub(super) struct Disk {
    pub(super) fixture: Fixture,
    /// What it backs up.
    pub(super) source: Source,
    /// Snapshots of its device that were acknowledged here, or that holders told of: those that nobody forgot stay listed.
    pub(super) listed: BTreeSet<SnapshotId>,
    /// Holders with which it has yet to exchange everything since its history had branches. Until then it may look for
    /// what it needs where that was.
    pub(super) astray: BTreeSet<usize>,
    /// What its store was like once.
    pub(super) image: Option<Image>,
}

/// Everybody, and the model.
pub(super) struct Fleet {
    _seeded: Seeded,
    /// One for each device, then copies.
    pub(super) disks: Vec<Disk>,
    pub(super) holders: Vec<Holder>,
    /// How many devices there are.
    pub(super) devices: usize,
    pub(super) live: Vec<Live>,
    /// Snapshots that were forgotten, or lost with the only disk that had all of them: old images may list them.
    pub(super) gone: BTreeSet<SnapshotId>,
    /// Devices whose disk was put back or copied, or lost a head: what was forgotten may be listed again.
    pub(super) branched: BTreeSet<DeviceId>,
    /// What is in each pack that there ever was.
    pub(super) packs: HashMap<PackId, HashSet<ChunkId>>,
    /// What holders lost and nobody noticed: of whom, by which disk.
    pub(super) unnoticed: HashSet<(usize, usize, PackId)>,
    /// The time of holders, in milliseconds.
    time: u64,
    /// Images and copies so far.
    pub(super) copied: usize,
    /// Where all of it lies; last, as it goes last.
    pub(super) place: Place,
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
        let disk = |fixture: Fixture| Disk {
            source: Source::new(fixture.src()),
            fixture,
            listed: BTreeSet::new(),
            astray: BTreeSet::new(),
            image: None,
        };
        Self {
            _seeded: seeded,
            disks: all.into_iter().map(disk).collect(),
            holders: (0..holders).map(|at| Holder::at(place.dir(&format!("holder-{at}")))).collect(),
            devices,
            live: Vec::new(),
            gone: BTreeSet::new(),
            branched: BTreeSet::new(),
            packs: HashMap::new(),
            unnoticed: HashSet::new(),
            time: 1,
            copied: 0,
            place,
        }
    }

    fn device(&self, any: u8) -> usize {
        usize::from(any) % self.disks.len()
    }

    fn holder(&self, any: u8) -> usize {
        usize::from(any) % self.holders.len()
    }

    /// Of holders, then of devices.
    pub(super) fn stores(&self) -> impl Iterator<Item = &Store> {
        let holders = self.holders.iter().map(|holder| &holder.store);
        holders.chain(self.disks.iter().map(|disk| disk.fixture.store()))
    }

    pub(super) fn everywhere(&self) -> Everywhere {
        let named = self.stores().enumerate();
        Everywhere(named.map(|(at, store)| (holder(at), store.dir().to_owned())).collect())
    }

    /// Heads of a disk's own device that count there: several where its history has branches.
    pub(super) fn tips(&self, device: usize) -> Vec<Head> {
        let Fixture { vault, .. } = &self.disks[device].fixture;
        let heads = newest_heads(&vault.store, vault.id()).unwrap();
        heads.into_iter().filter(|head| head.device() == vault.device()).collect()
    }

    /// Packs that the device's heads list. What a list that is not sound has is not known.
    pub(super) fn listed(&self, device: usize) -> BTreeSet<PackId> {
        let store = self.disks[device].fixture.store();
        self.tips(device).iter().flat_map(|head| listed_by(store, head)).collect()
    }

    pub(super) fn is_branched(&self, device: usize) -> bool {
        self.branched.contains(&self.disks[device].fixture.vault.device())
    }

    /// Whether other disks of its device are in use.
    pub(super) fn has_twins(&self, device: usize) -> bool {
        let id = |disk: &Disk| disk.fixture.vault.device();
        self.disks.iter().filter(|disk| id(disk) == id(&self.disks[device])).count() > 1
    }

    /// Packs that this holder has confirmed to this device.
    pub(super) fn confirmed(&self, device: usize, holder: usize) -> BTreeSet<PackId> {
        let (store, peer) = (self.disks[device].fixture.store(), self.holders[holder].key.peer_id());
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
            Step::Image { device } => self.take_image(self.device(device)),
            Step::PutBack { device } => self.put_back(usize::from(device)),
            Step::Copy { device } => self.copy_disk(self.device(device)),
            Step::DropCopy => self.drop_copy(),
            Step::SpoilRecord { device, which, is_gone } => {
                self.spoil_record(self.device(device), which, is_gone)
            }
            Step::SpoilAtHolder { holder, which, is_gone } => {
                self.spoil_at_holder(self.holder(holder), which, is_gone)
            }
            Step::CutRebuild { device, is_filled } => self.cut_rebuild(self.device(device), is_filled),
            Step::HolderCutRebuild { holder, is_filled } => {
                let holder = self.holder(holder);
                let reopened = self.holders.remove(holder).cut(is_filled);
                self.holders.insert(holder, reopened);
            }
        }
    }

    fn backup(&mut self, device: usize, edits: &[(u8, u8)]) {
        let source = self.everywhere();
        let Disk { fixture, source: tree, listed, .. } = &mut self.disks[device];
        edits.iter().for_each(|(name, of)| tree.write(*name, *of));
        let (files, monitor) = (tree.files().clone(), Monitor::default());
        let done = backup_entries(&fixture.vault, &fixture.options(), tree.entries(), &monitor).unwrap();
        let mut chunks = BTreeMap::new();
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
        listed.insert(done.snapshot);
        let of = fixture.vault.device();
        self.live.push(Live { device: of, done, src: fixture.src(), files, chunks, is_safe: false });
        self.note_packs(device);
    }

    /// Notes what is in packs that this device wrote.
    fn note_packs(&mut self, device: usize) {
        let vault = &self.disks[device].fixture.vault;
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

    /// Whether holders have all of it, and one of them a head that lists it and its record.
    fn is_kept(&self, one: &Live, with_holders: &HashSet<ChunkId>) -> bool {
        let (vault, id) = (self.disks[0].fixture.vault.id(), one.done.snapshot);
        let is_listed = |at: &Holder| {
            let heads = newest_heads(&at.store, vault).unwrap();
            heads.iter().any(|head| head.draft.snapshots.contains(&id))
                && sound_record(&at.store, &RecordName::Snapshot(id)).is_some()
        };
        one.chunks.keys().all(|id| with_holders.contains(id)) && self.holders.iter().any(is_listed)
    }

    /// What has a copy by now, as the device counts it.
    fn note_safe(&mut self, device: usize) {
        let (fixture, copies) = (&self.disks[device].fixture, self.with_holders());
        let counts = copy_counts(&fixture.vault, &fixture.view(), |_| true).unwrap();
        let is_misled = self.is_branched(device) || self.unnoticed.iter().any(|(_, by, _)| *by == device);
        for at in 0..self.live.len() {
            let one = &self.live[at];
            if one.device == fixture.vault.device() && counts.of_snapshot(one.done.snapshot) > 0 {
                let is_safe = self.is_kept(one, &copies);
                assert!(is_safe || is_misled, "{} was said to have a copy", one.done.snapshot);
                self.live[at].is_safe = is_safe;
            }
        }
    }

    /// What was spoilt at holders may be what made a snapshot safe.
    pub(super) fn look_again(&mut self) {
        let copies = self.with_holders();
        for at in 0..self.live.len() {
            self.live[at].is_safe &= self.is_kept(&self.live[at], &copies);
        }
    }

    fn forget(&mut self, device: usize, which: u8) {
        let Disk { fixture, listed, .. } = &self.disks[device];
        let known = self.live.iter().filter(|one| listed.contains(&one.done.snapshot));
        let own = known.filter(|one| one.device == fixture.vault.device());
        let own: Vec<SnapshotId> = own.map(|one| one.done.snapshot).collect();
        let Some(id) = own.get(usize::from(which) % own.len().max(1)) else { return };
        // What a head lists that cannot be read is not there to be forgotten.
        let is_whole = unreadable_heads(fixture.store(), fixture.vault.id()).unwrap().is_empty();
        let forgotten = forget(&fixture.vault, &[*id], &[]).unwrap();
        assert!(forgotten == 1 || !is_whole);
        self.gone.insert(*id);
        self.live.retain(|one| one.done.snapshot != *id);
    }

    pub(super) fn gc(&mut self, device: usize, due: Due) {
        let grace = if due == Due::Old { Duration::from_secs(3) } else { GRACE };
        let options = GcOptions { grace, holder_room: Some(u64::MAX), ..gc_options(due == Due::All) };
        let fixture = &self.disks[device].fixture;
        let (source, before) = (self.everywhere(), fixture.store().pack_files().unwrap());
        let is_whole = is_whole(fixture.store());
        // What stands in its own lists the index knows.
        let own_lists: HashSet<RecordName> = self.tips(device).iter().flat_map(named_by).collect();
        let unsure =
            damaged_records(fixture.store(), &Monitor::default()).unwrap().into_iter().any(|damage| {
                !(matches!(damage.record, RecordName::List(_)) && own_lists.contains(&damage.record))
            });
        match collect(&fixture.vault, options, &[], Some(&source), &Monitor::default()) {
            // Another device forgot since what it had said, and its trees were never anywhere else; or a record that tells
            // what is needed is not sound.
            Err(EngineError::RootUnreadable(_) | EngineError::RootBroken { .. })
                if self.is_behind(device) || !self.branched.is_empty() || !is_whole => {}
            other => drop(other.unwrap()),
        }
        let left: HashSet<PackId> = fixture.store().pack_files().unwrap().into_iter().collect();
        assert!(
            !unsure || before.iter().all(|id| left.contains(id)),
            "device {device} deleted packs although it could not know what is needed"
        );
        self.note_packs(device);
    }

    /// Whether it knows another device by an older head than that one's newest.
    fn is_behind(&self, device: usize) -> bool {
        let fixture = &self.disks[device].fixture;
        let known = newest_heads(fixture.store(), fixture.vault.id()).unwrap();
        let newest: Vec<HeadId> = self.disks.iter().map(|disk| own_head(&disk.fixture).id).collect();
        known.iter().any(|head| !newest.contains(&head.id))
    }

    pub(super) fn meet(&mut self, device: usize, holder: usize, most: usize) {
        self.audit(device, holder);
        let told = self.learn(device, holder);
        self.mend_records(device);
        let fixture = &self.disks[device].fixture;
        join_branches(&fixture.vault, &told, &[]).unwrap();
        self.index_listed(device);
        self.list_borrowed(device);
        self.hand_over(device, holder, most);
        if most == usize::MAX {
            self.disks[device].astray.remove(&holder);
        }
        let fixture = &self.disks[device].fixture;
        for row in referred_elsewhere(&fixture.vault).unwrap() {
            if keep_here(&fixture.vault, &self.everywhere(), &row, &Monitor::default()).is_ok() {
                fixture.store().set_borrowed(&[row.number], Borrowed::Kept).unwrap();
            }
        }
        self.note_safe(device);
    }

    /// Takes over what the holder has of the vault; which heads of this device's own it takes for newest.
    fn learn(&mut self, device: usize, holder: usize) -> Vec<HeadName> {
        let Disk { fixture, listed, .. } = &mut self.disks[device];
        let (store, vault, at) = (fixture.store(), fixture.vault.id(), &self.holders[holder]);
        let theirs = newest_heads(&at.store, vault).unwrap();
        let mut told = Vec::new();
        for head in &theirs {
            let is_own = head.device() == fixture.vault.device();
            if !is_known(store, vault, &head.summary()).unwrap()
                && take_over(store, &at.store, head)
                && is_own
            {
                listed.extend(&head.draft.snapshots);
            }
            told.extend(is_own.then_some((head.draft.seq, head.id)));
        }
        told
    }

    /// Gets records again from whoever has them.
    fn mend_records(&self, device: usize) {
        self.mend(self.disks[device].fixture.store());
    }

    /// Holders look at what they have and get records again.
    pub(super) fn mend_holders(&self) {
        self.holders.iter().for_each(|at| self.mend(&at.store));
    }

    fn mend(&self, store: &Store) {
        let damages = damaged_records(store, &Monitor::default()).unwrap();
        repair_records(store, damages, &RecordsOf(self), &Monitor::default()).unwrap();
    }

    /// What the holder cannot prove to have is no copy any more.
    fn audit(&mut self, device: usize, holder: usize) {
        let (fixture, at) = (&self.disks[device].fixture, &self.holders[holder]);
        let confirmed = self.confirmed(device, holder).into_iter();
        let lost: Vec<PackId> = confirmed.filter(|pack| !at.has(*pack)).collect();
        fixture.store().drop_pack_receipts(at.key.peer_id(), &lost).unwrap();
        for (by, device, seq, id) in fixture.store().head_receipts().unwrap() {
            let vault = fixture.vault.id();
            let head = sound_record(&at.store, &RecordName::Head { vault, device, seq, id });
            let is_there =
                |head: &Head| named_by(head).all(|record| sound_record(&at.store, &record).is_some());
            let head =
                head.and_then(|_| own_tips(&at.store, vault, device).into_iter().find(|head| head.id == id));
            if by == at.key.peer_id() && !head.is_some_and(|head| is_there(&head)) {
                void_head_receipt(fixture.store(), by, id).unwrap();
            }
        }
        self.unnoticed.retain(|(of, by, _)| (*of, *by) != (holder, device));
    }

    /// Reads the directories of packs that heads list and the index does not know.
    fn index_listed(&self, device: usize) {
        let (fixture, source) = (&self.disks[device].fixture, self.everywhere());
        for head in newest_heads(fixture.store(), fixture.vault.id()).unwrap() {
            // A list that nobody has yet tells nothing.
            for (id, size) in head_packs(fixture.store(), &head).unwrap_or_default() {
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
        let fixture = &self.disks[device].fixture;
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
        let fixture = &self.disks[device].fixture;
        let (vault, head) = (fixture.vault.id(), own_head(fixture));
        if !missing_records(fixture.store(), &head).unwrap().is_empty() {
            return;
        }
        let known = newest_heads(&self.holders[holder].store, vault).unwrap();
        let carried: HashSet<HeadId> = head.carries_on().collect();
        let old = known.iter().filter(|old| old.device() == head.device() && carried.contains(&old.id));
        old.for_each(|old| self.holders[holder].replaces(old));
        let at = &self.holders[holder];
        pass_on(&at.store, fixture.store(), &head);
        let listed: Vec<PackId> = listed_by(fixture.store(), &head).into_iter().collect();
        let held = held_packs(&at.store, vault, &listed).unwrap();
        let here = listed.iter().filter(|id| !held.contains(id));
        for id in here.take(most) {
            if let Some((bytes, outboard)) = sound_bytes(fixture.store().dir(), *id) {
                forward_packs(&at.store, (vault, NOBODY), *id, &bytes, &outboard).unwrap();
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
        let store = self.disks[device].fixture.store().dir();
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
        self.mend_records(device);
        let fixture = &self.disks[device].fixture;
        let found = fixture.verify();
        note_damage(fixture.store(), &found.damages).unwrap();
        let plan = plan_repair(found.damages);
        run_repair(fixture.store(), &plan, &self.everywhere(), &Monitor::default()).unwrap();
        let left = fixture.verify();
        if !left.is_sound() {
            regain(&fixture.vault, &left, &[], &Monitor::default()).unwrap();
        }
        let left = fixture.verify();
        let may_lack = self.is_behind(device) || !self.branched.is_empty() || !left.records.is_empty();
        let is_sound = left.is_sound() || may_lack && (left.damages.is_empty() || self.is_branched(device));
        assert!(is_sound, "{:?} {:?} {:?}", left.damages, left.records, left.snapshots);
    }

    fn crash(&mut self, device: usize, index_lost: bool) {
        let open: fn(&Path) -> Store =
            if index_lost { |dir| Store::rebuild(dir).unwrap() } else { |dir| Store::open(dir).unwrap() };
        self.reopen(device, |_| {}, open);
        let fixture = &self.disks[device].fixture;
        if index_lost {
            rebuild_index(fixture.store(), Some(&fixture.vault.keyring.vault), &Monitor::default()).unwrap();
            renew_kept(&fixture.vault).unwrap();
            fixture.store().publish_index().unwrap();
            self.index_listed(device);
        } else {
            adopt_unindexed(&fixture.vault, &Monitor::default()).unwrap();
        }
    }

    pub(super) fn reopen(&mut self, device: usize, change: impl FnOnce(&Path), open: fn(&Path) -> Store) {
        let Disk { fixture, source, listed, astray, image } = self.disks.remove(device);
        let fixture = fixture.reopened(change, open);
        self.disks.insert(device, Disk { fixture, source, listed, astray, image });
    }

    /// An index is being made anew when the program dies, before or after the new one has everything: the old one stands.
    fn cut_rebuild(&mut self, device: usize, is_filled: bool) {
        self.reopen(device, |_| {}, |dir| Store::rebuild(dir).unwrap());
        if is_filled {
            let Fixture { vault, .. } = &self.disks[device].fixture;
            rebuild_index(&vault.store, Some(&vault.keyring.vault), &Monitor::default()).unwrap();
        }
        self.crash(device, false);
    }

    /// A pack goes that whoever needs it has, or another holder.
    fn lose(&mut self, holder: usize, which: u8) {
        let store = &self.holders[holder].store;
        // Where a record is not sound, what is needed is not known.
        if !self.stores().all(is_whole) {
            return;
        }
        let listed: Vec<BTreeSet<PackId>> = (0..self.disks.len()).map(|one| self.listed(one)).collect();
        let is_spare = |id: &PackId| {
            // What an old image does not know of may be needed by a head that only holders have.
            let is_elsewhere = self.branched.is_empty()
                || (0..self.holders.len()).any(|other| other != holder && self.holders[other].has(*id));
            is_elsewhere
                && (0..self.disks.len()).all(|device| {
                    !listed[device].contains(id)
                        || sound_bytes(self.disks[device].fixture.store().dir(), *id).is_some()
                        || self.is_safe(device, *id, Some(holder))
                })
        };
        let packs: Vec<PackId> = store.pack_files().unwrap().into_iter().filter(is_spare).collect();
        let Some(id) = packs.get(usize::from(which) % packs.len().max(1)) else { return };
        std::fs::remove_file(pack_path(store.dir(), *id)).unwrap();
        self.holders[holder].held.remove(id);
        self.unnoticed.extend((0..self.disks.len()).map(|device| (holder, device, *id)));
        self.look_again();
    }

    pub(super) fn days(&mut self, days: u64) {
        let span = |days| Duration::from_secs(days * 86_400);
        for Disk { fixture, .. } in &self.disks {
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
