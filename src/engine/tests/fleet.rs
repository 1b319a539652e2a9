//! Devices of one vault and their holders: whatever they do in whatever order, against a simple model.
//!
//! Devices edit, back up, forget, collect, meet holders, have packs damaged, mend them, die and come again; holders lose
//! packs, let time pass, die and come again. The model knows what each snapshot that nobody forgot must give back, and
//! after each step every one of them does. What is spoilt is only ever what somebody else is known to have: losing all
//! copies at the same time is no promise's fault.
//!
//! At the end all meet until nothing changes: then nobody has a pack that no snapshot needs.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::devices::{own_head, pass_on, twin_at};
use super::fixture::{Fixture, GRACE, gc_options, noise, scratch, vault_options, watched};
use super::lines::{Line, run};
use crate::base::{ChunkId, HeadId, Moment, PackId, PeerId, SnapshotId, limit, random_bytes};
use crate::crypto::NodeKey;
use crate::engine::copies::packs_of;
use crate::engine::reader::ChunkReader;
use crate::engine::tree::for_each_reference;
use crate::engine::{
    BackupResult, EngineError, FetchFailure, Gathering, GcOptions, Monitor, PackSource, PulledSlice, Sources,
    VaultOptions, VaultView, adopt_unindexed, collect, complete_head, confirm_borrowed, copy_counts,
    drop_expired, forget, forward_packs, head_packs, held_packs, index_remote_pack, keep_here, newest_heads,
    note_damage, plan_repair, publish_next_head, read_again, rebuild_index, record_receipt,
    referred_elsewhere, regain, renew_kept, run_repair,
};
use crate::pack::{Outboard, read_pack};
use crate::snapshot::{Head, sign_receipt};
use crate::store::{Borrowed, PackNumber, Store};

/// How long holders keep what no newest head needs.
const HOLD_DAYS: u64 = 30;

/// What happens. Devices, holders, packs and snapshots are named by any number.
#[derive(Clone, Debug)]
enum Step {
    /// Writes files with these contents, 0 removes one, and backs up.
    Backup {
        device: u8,
        edits: Vec<(u8, u8)>,
    },
    Forget {
        device: u8,
        which: u8,
    },
    Gc {
        device: u8,
        due: Due,
    },
    /// A device and a holder tell each other what they have; the line breaks after so many packs.
    Meet {
        device: u8,
        holder: u8,
        most: u8,
    },
    /// A device's pack is spoilt.
    Damage {
        device: u8,
        which: u8,
        how: Damage,
    },
    Repair {
        device: u8,
    },
    /// The program dies and comes again; its index is lost or not.
    Crash {
        device: u8,
        index_lost: bool,
    },
    HolderCrash {
        holder: u8,
        index_lost: bool,
    },
    /// A holder loses a pack and does not notice.
    Lose {
        holder: u8,
        which: u8,
    },
    /// So many days pass.
    Days {
        days: u8,
    },
}

/// What a collection deletes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    /// What has waited for an hour, which nothing here has.
    Nothing,
    /// What has waited for some looks at the clock.
    Some,
    All,
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Gone,
    Cut,
    Flipped,
    /// The whole of it is zeros, and so are the values that tell good cells from bad.
    Zeroed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = any::<u8>;
    // Few contents, so that devices have the same ones.
    let edits = prop::collection::vec((0u8..5, 0u8..7), 0..4);
    let due = prop_oneof![1 => Just(Due::Nothing), 1 => Just(Due::Some), 3 => Just(Due::All)];
    let how = prop_oneof![Just(Damage::Gone), Just(Damage::Cut), Just(Damage::Flipped), Just(Damage::Zeroed)];
    let rarely = || prop::bool::weighted(0.3);
    let most = prop_oneof![3 => Just(u8::MAX), 1 => 0u8..3];
    let step = prop_oneof![
        6 => (one(), edits).prop_map(|(device, edits)| Step::Backup { device, edits }),
        4 => (one(), one()).prop_map(|(device, which)| Step::Forget { device, which }),
        4 => (one(), due).prop_map(|(device, due)| Step::Gc { device, due }),
        8 => (one(), one(), most).prop_map(|(device, holder, most)| Step::Meet { device, holder, most }),
        2 => (one(), one(), how).prop_map(|(device, which, how)| Step::Damage { device, which, how }),
        1 => one().prop_map(|device| Step::Repair { device }),
        1 => (one(), rarely()).prop_map(|(device, index_lost)| Step::Crash { device, index_lost }),
        1 => (one(), rarely()).prop_map(|(holder, index_lost)| Step::HolderCrash { holder, index_lost }),
        1 => (one(), one()).prop_map(|(holder, which)| Step::Lose { holder, which }),
        2 => (0u8..40).prop_map(|days| Step::Days { days }),
    ];
    prop::collection::vec(step, 8..32)
}

/// Names of files, and which content each has.
type Files = BTreeMap<u8, u8>;

fn content(of: u8) -> Vec<u8> {
    noise(u64::from(of), 20_000 * usize::from(of))
}

/// A snapshot that nobody forgot.
struct Live {
    done: BackupResult,
    /// What it must give back.
    files: Files,
    /// All that it needs.
    chunks: HashSet<ChunkId>,
    /// Holders have confirmed all of it.
    is_safe: bool,
}

/// Keeps packs of others.
struct Holder {
    dir: tempfile::TempDir,
    store: Store,
    key: NodeKey,
    /// Days that it has seen pass.
    day: u64,
    /// Packs of replaced heads, and until which day each is held at least.
    held: BTreeMap<PackId, u64>,
}

impl Holder {
    fn new() -> Self {
        let dir = scratch();
        let store = Store::create(&dir.path().join("store")).unwrap();
        Self { dir, store, key: NodeKey::generate(), day: 0, held: BTreeMap::new() }
    }

    fn reopened(self, index_lost: bool) -> Self {
        let Self { dir, store, key, day, held } = self;
        let path = store.dir().to_owned();
        drop(store);
        let store = if index_lost { Store::rebuild(&path).unwrap() } else { Store::open(&path).unwrap() };
        if index_lost {
            rebuild_index(&store, None, &Monitor::default()).unwrap();
        }
        Self { dir, store, key, day, held }
    }

    fn has(&self, pack: PackId) -> bool {
        pack_path(self.store.dir(), pack).exists()
    }

    /// A head is about to be replaced: what it lists and is here stays for the hold.
    fn replaces(&mut self, head: &Head) {
        let listed = listed_by(&self.store, head);
        let here: Vec<PackId> = listed.into_iter().filter(|pack| self.has(*pack)).collect();
        self.held.extend(here.into_iter().map(|pack| (pack, self.day + HOLD_DAYS)));
    }
}

fn pack_path(store: &Path, id: PackId) -> PathBuf {
    store.join(format!("packs/{:02x}/{id}", id.as_bytes()[0]))
}

/// A pack's bytes, if they are sound.
fn sound_bytes(store: &Path, id: PackId) -> Option<(Vec<u8>, Outboard)> {
    let bytes = std::fs::read(pack_path(store, id)).ok()?;
    let (found, outboard) = Outboard::of(&bytes);
    (found == id).then_some((bytes, outboard))
}

/// Packs from wherever they are, sound or not.
struct Everywhere(Vec<(PeerId, PathBuf)>);

impl PackSource for Everywhere {
    fn sources(&self, pack: PackId) -> Sources {
        let has = self.0.iter().filter(|(_, store)| pack_path(store, pack).exists());
        Sources { sure: has.map(|(peer, _)| *peer).collect(), ..Sources::default() }
    }

    fn gather(&self, pack: PackId, gathering: &mut Gathering<'_>) {
        let mut lines: Vec<Line> =
            self.0.iter().map(|(peer, _)| Line::new(*peer, 10 << 20, Duration::ZERO)).collect();
        run(gathering, &mut lines, |errand| {
            let (_, store) = self.0.iter().find(|(peer, _)| *peer == errand.holder).unwrap();
            let bytes = std::fs::read(pack_path(store, pack)).map_err(|_| FetchFailure::NotFound)?;
            let (from, range) = (errand.range.first * limit::CELL_BYTES, errand.range);
            let part = bytes.get(from..(range.end * limit::CELL_BYTES).min(bytes.len()));
            let data = part.filter(|part| !part.is_empty()).ok_or(FetchFailure::Corrupt)?.to_vec();
            Ok(PulledSlice { data: data.into(), proof: Outboard::of(&bytes).1.proof(range) })
        });
    }
}

/// Everybody, and the model.
struct Fleet {
    devices: Vec<Fixture>,
    holders: Vec<Holder>,
    /// What each device's source directory has.
    sources: Vec<Files>,
    /// Snapshots of each device that nobody forgot.
    live: Vec<Vec<Live>>,
    /// What is in each pack that there ever was.
    packs: HashMap<PackId, HashSet<ChunkId>>,
    /// What holders lost and nobody noticed: of whom, by which device.
    unnoticed: HashSet<(usize, usize, PackId)>,
    /// The time of holders, in milliseconds.
    time: u64,
}

impl Fleet {
    fn new(devices: usize, holders: usize) -> Self {
        let dir = scratch();
        let store = dir.path().join("store");
        let first = Fixture::at(dir, &store, VaultOptions { workers: 1, ..vault_options() });
        let mut all = vec![first];
        while all.len() < devices {
            all.push(twin_at(scratch(), &all[0]));
        }
        Self {
            devices: all,
            holders: (0..holders).map(|_| Holder::new()).collect(),
            sources: vec![Files::new(); devices],
            live: (0..devices).map(|_| Vec::new()).collect(),
            packs: HashMap::new(),
            unnoticed: HashSet::new(),
            time: 1,
        }
    }

    fn device(&self, any: u8) -> usize {
        usize::from(any) % self.devices.len()
    }

    fn holder(&self, any: u8) -> usize {
        usize::from(any) % self.holders.len()
    }

    fn everywhere(&self) -> Everywhere {
        let holders = self.holders.iter().map(|holder| holder.store.dir().to_owned());
        let devices = self.devices.iter().map(|device| device.store().dir().to_owned());
        let named = holders.chain(devices).enumerate();
        Everywhere(named.map(|(at, store)| (PeerId::new([at as u8 + 1; 32]), store)).collect())
    }

    fn listed(&self, device: usize) -> BTreeSet<PackId> {
        listed_by(self.devices[device].store(), &own_head(&self.devices[device]))
    }

    /// Packs that this holder has confirmed to this device.
    fn confirmed(&self, device: usize, holder: usize) -> BTreeSet<PackId> {
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

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Backup { device, ref edits } => self.backup(self.device(device), edits),
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
        let (fixture, files) = (&self.devices[device], &mut self.sources[device]);
        for (name, of) in edits.iter().copied() {
            if of == 0 {
                std::fs::remove_file(fixture.src().join(name.to_string())).ok();
                files.remove(&name);
            } else {
                fixture.write(&name.to_string(), &content(of));
                files.insert(name, of);
            }
        }
        fixture.let_the_clock_tick();
        let done = fixture.backup();
        let (files, monitor) = (files.clone(), Monitor::default());
        let (mut chunks, source) = (HashSet::new(), self.everywhere());
        let mut reader = ChunkReader::new(&fixture.vault, Some(&source), &monitor);
        for_each_reference(
            &mut reader,
            &fixture.snapshot(&done),
            &monitor,
            &mut |_, id| {
                chunks.insert(id);
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
    fn with_holders(&self) -> HashSet<ChunkId> {
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
                one.is_safe = one.chunks.is_subset(&copies);
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

    fn gc(&mut self, device: usize, due: Due) {
        let grace = if due == Due::Some { Duration::from_secs(3) } else { GRACE };
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

    fn meet(&mut self, device: usize, holder: usize, most: usize) {
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
        let confirmed: Vec<PackId> = self.confirmed(device, holder).into_iter().collect();
        let (_, lost): (Vec<PackId>, Vec<PackId>) = confirmed.into_iter().partition(|pack| at.has(*pack));
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
    fn repair(&self, device: usize) {
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
        self.live.iter_mut().flatten().for_each(|one| one.is_safe &= one.chunks.is_subset(&copies));
    }

    fn days(&mut self, days: u64) {
        let span = |days| Duration::from_secs(days * 86_400);
        for fixture in &self.devices {
            let own = Some(fixture.vault.id());
            drop_expired(fixture.store(), own, span(HOLD_DAYS), span(days)).unwrap();
        }
        for at in &mut self.holders {
            drop_expired(&at.store, None, span(HOLD_DAYS), span(days)).unwrap();
            at.day += days;
            at.held.retain(|_, until| *until > at.day);
        }
    }

    /// What was promised holds.
    fn check(&self) {
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
            let devices = fleet.devices.iter().map(|fixture| fixture.store());
            let all = devices.chain(fleet.holders.iter().map(|holder| &holder.store));
            let known = |store: &Store| {
                let heads = store.head_devices(vault).unwrap().into_iter();
                let heads: Vec<_> = heads.map(|device| store.head_names(vault, device).unwrap()).collect();
                (store.foreign_packs(vault).unwrap().len(), store.retired_packs().len(), heads)
            };
            all.map(known).collect::<Vec<_>>()
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
    fn end(&mut self) {
        (0..self.devices.len()).for_each(|device| self.repair(device));
        self.settle();
        self.check();
        let needed: BTreeSet<PackId> = self.devices.iter().flat_map(|fixture| self.needed(fixture)).collect();
        for (peer, store) in self.everywhere().0 {
            let garbage: Vec<PackId> =
                files_of(&store).into_iter().filter(|id| !needed.contains(id)).collect();
            assert_eq!(garbage, [], "with {}, holders first", peer.as_bytes()[0]);
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

fn listed_by(store: &Store, head: &Head) -> BTreeSet<PackId> {
    head_packs(store, head).unwrap().into_iter().map(|(id, _)| id).collect()
}

fn files_of(store: &Path) -> Vec<PackId> {
    let dirs = std::fs::read_dir(store.join("packs")).unwrap();
    let files = dirs.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
    let mut ids: Vec<PackId> =
        files.filter_map(|file| file.unwrap().file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    ids
}

fn run_steps(devices: usize, holders: usize, steps: &[Step]) {
    let mut fleet = Fleet::new(devices, holders);
    for step in steps {
        fleet.step(step);
        fleet.check();
    }
    fleet.end();
}

/// `CASES` and `SEED` from the environment (`make test-forgetting`), else 500 cases from a seed that nobody chose.
fn config() -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("SEED").unwrap_or_else(|| u64::from_le_bytes(random_bytes()));
    let cases = number("CASES").map_or(500, |cases| cases as u32);
    eprintln!("again with: make test-forgetting SEED={seed} CASES={cases}");
    let rng_seed = RngSeed::Fixed(seed);
    ProptestConfig { cases, rng_seed, max_shrink_iters: 200, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn whatever_is_done_in_whatever_order_live_snapshots_restore_and_garbage_goes(
        devices in prop_oneof![3 => Just(2usize), 2 => Just(3), 1 => Just(4)],
        holders in 1usize..4,
        steps in steps(),
    ) {
        watched(move || run_steps(devices, holders, &steps));
    }
}
