//! What a power cut may leave: everything that the store does to the disk during backups, forgetting, collecting and
//! repair is recorded; just before every flush the disk is rebuilt with what was durable then and any part of what was
//! not ([`disk`]); the store must open, and every snapshot that was acknowledged and not forgotten must be whole. Of some
//! of these states the program goes on to work, is recorded once more, and the power goes again.
//!
//! States are counted once each, by their content. One that fails is kept; whatever fails, its place and the seed are told.

mod disk;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fixture::{Fixture, Holders, Manner, gc_options, noise, passphrase, scratch, vault_options};
use crate::base::Seeded;
use crate::base::{SnapshotId, random_bytes};
use crate::engine::{
    Monitor, Vault, VaultOptions, VaultView, VerifyOptions, VerifyResult, backup, collect, forget,
    plan_repair, run_repair, unlock, verify,
};
use crate::store::{Event, Store, record};
use disk::{Dice, Disk, State};

/// States that are tried of one history before the next begins.
const STATES_PER_HISTORY: usize = 2000;
/// In one of so many states the program goes on to work afterwards.
const WORKS_ON: usize = 4;
/// In one of so many of those the power goes again meanwhile,
const CUT_AGAIN: usize = 4;
/// at so many moments, with so many states each.
const CUT_AGAIN_MOMENTS: usize = 6;
const CUT_AGAIN_STATES: usize = 3;
/// What operations may take, in bytes.
const MEMORY: usize = 48 << 20;

/// What was promised at one time.
#[derive(Clone)]
struct Promise {
    /// From this event on.
    event: usize,
    /// Snapshots that must be there.
    live: Vec<SnapshotId>,
    /// Who has what a pack lost, while one is damaged: then it must be possible to repair it.
    damaged: Option<Arc<Holders>>,
}

/// What was done, from where, and what was promised when.
struct History {
    fixture: Fixture,
    base: Disk,
    events: Vec<Event>,
    promises: Vec<Promise>,
}

/// Work that is being recorded.
struct Worker<'a> {
    fixture: &'a Fixture,
    events: Arc<std::sync::Mutex<Vec<Event>>>,
    dice: &'a mut Dice,
    live: Vec<SnapshotId>,
    files: u64,
    promises: Vec<Promise>,
}

impl Worker<'_> {
    fn promise(&mut self, damaged: Option<Arc<Holders>>) {
        let event = self.events.lock().unwrap().len();
        self.promises.push(Promise { event, live: self.live.clone(), damaged });
    }

    /// One file stays as it is, of two others one may go and one may come: packs become partly dead.
    fn edit(&mut self) {
        let old = self.files.checked_sub(self.dice.roll() % 3);
        if let Some(old) = old.filter(|old| *old > 0) {
            std::fs::remove_file(self.fixture.src().join(old.to_string())).ok();
        }
        for _ in 0..=self.dice.below(2) {
            let length = 20_000 + self.dice.below(80_000);
            self.fixture.write(&self.files.to_string(), &noise(self.dice.roll(), length));
            self.files += 1;
        }
    }

    fn backup(&mut self) {
        self.edit();
        let done = backup(&self.fixture.vault, &self.fixture.options(), &Monitor::default()).unwrap();
        self.live.push(done.snapshot);
        self.promise(None);
    }

    /// From the moment that this begins the snapshot may be gone.
    fn forget(&mut self) {
        if self.live.len() < 2 {
            return;
        }
        let gone = self.live.remove(self.dice.below(self.live.len() - 1));
        self.promise(None);
        forget(&self.fixture.vault, &[gone], &[]).unwrap();
    }

    fn gc(&mut self, now: bool) {
        collect(&self.fixture.vault, gc_options(now), &[], None, &Monitor::default()).unwrap();
    }

    /// A pack rots or vanishes, which is no power cut, and comes back from a holder.
    fn repair(&mut self) {
        let holders = Arc::new(Holders::of(self.fixture, &[Manner::Honest]));
        self.promise(Some(holders.clone()));
        let packs = self.fixture.packs();
        let (_, path) = &packs[self.dice.below(packs.len())];
        if self.dice.once_in(2) {
            let mut bytes = std::fs::read(path).unwrap();
            let at = self.dice.below(bytes.len());
            bytes[at] ^= 1;
            std::fs::write(path, &bytes).unwrap();
            self.note([Event::Write(path.clone(), 0, bytes), Event::Sync(path.clone())]);
        } else {
            std::fs::remove_file(path).unwrap();
            self.note([Event::Remove(path.clone()), Event::SyncDir(path.parent().unwrap().to_owned())]);
        }
        repair_all(&self.fixture.vault, &holders);
        self.promise(None);
    }

    fn note(&self, events: [Event; 2]) {
        self.events.lock().unwrap().extend(events);
    }
}

impl History {
    /// Everything at least once, in an order that the dice choose.
    fn record(dice: &mut Dice) -> Self {
        let events = record(true);
        let dir = scratch();
        let store = dir.path().join("store");
        let fixture = Fixture::at(dir, &store, VaultOptions { workers: 1, ..vault_options() });
        let base = Disk::of(&store);
        events.lock().unwrap().clear();
        let live = Vec::new();
        let promises = vec![Promise { event: 0, live: Vec::new(), damaged: None }];
        let mut worker = Worker { fixture: &fixture, events, dice, live, files: 0, promises };
        worker.backup();
        worker.backup();
        let mut steps: Vec<fn(&mut Worker<'_>)> = vec![
            |worker| worker.backup(),
            |worker| worker.backup(),
            |worker| worker.forget(),
            |worker| worker.forget(),
            |worker| worker.repair(),
            |worker| worker.gc(false),
            |worker| worker.gc(true),
        ];
        while !steps.is_empty() {
            steps.swap_remove(worker.dice.below(steps.len()))(&mut worker);
        }
        worker.forget();
        worker.gc(true);
        worker.promise(None);
        let (events, promises) = (worker.events.lock().unwrap().clone(), worker.promises);
        record(false);
        Self { fixture, base, events, promises }
    }

    /// What holds for a power cut before event `moment`.
    fn promise(&self, moment: usize) -> &Promise {
        // Several may be made between two events; the first of them holds already, the last may let something go.
        let made_then = self.promises.iter().find(|promise| promise.event == moment);
        let before = || self.promises.iter().rfind(|promise| promise.event < moment);
        made_then.or_else(before).expect("the first is of the beginning")
    }

    fn moments(&self) -> Vec<usize> {
        let mut all = flushes(&self.events);
        all.extend(self.promises.iter().map(|promise| promise.event));
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Moments just before a flush, and the end: of what may be left in between there is nothing that is not possible then.
fn flushes(events: &[Event]) -> Vec<usize> {
    let flush = |event: &Event| matches!(event, Event::Sync(_) | Event::SyncDir(_));
    let at = events.iter().enumerate().filter(|(_, event)| flush(event)).map(|(at, _)| at);
    at.chain([events.len()]).collect()
}

fn check_all(vault: &Vault) -> VerifyResult {
    let options = VerifyOptions { memory_bytes: MEMORY, ..VerifyOptions::default() };
    verify(&vault.store, Some(vault), options, 1, &Monitor::default()).unwrap()
}

fn repair_all(vault: &Vault, holders: &Holders) {
    let plan = plan_repair(check_all(vault).damages);
    run_repair(&vault.store, &plan, holders, &Monitor::default()).unwrap();
}

fn assert_sound(vault: &Vault, when: &str) {
    let found = check_all(vault);
    assert!(found.is_sound(), "{when}: {:?} {:?} {:?}", found.damages, found.records, found.snapshots);
}

/// Opens what was left and checks it; where the program is to work on, it collects, backs up and is checked again.
fn check(dir: &Path, promise: &Promise, fixture: &Fixture, works_on: bool) {
    let store = Store::open(dir).unwrap();
    let keyring = unlock(&store, &passphrase()).unwrap();
    let options = (*fixture.vault.options()).clone();
    let vault = Vault::new(Arc::new(store), keyring, fixture.vault.clock.clone(), options);
    let view = VaultView::load(&vault).unwrap();
    for id in &promise.live {
        assert!(view.snapshots.iter().any(|one| one.id == *id), "{} is lost", id.short());
    }
    if let Some(holders) = &promise.damaged {
        repair_all(&vault, holders);
    }
    assert_sound(&vault, "opened");
    if works_on {
        collect(&vault, gc_options(true), &[], None, &Monitor::default()).unwrap();
        let done = backup(&vault, &fixture.options(), &Monitor::default()).unwrap();
        assert_sound(&vault, "after more work");
        let view = VaultView::load(&vault).unwrap();
        let here = |id: &SnapshotId| view.snapshots.iter().any(|one| one.id == *id);
        assert!(promise.live.iter().chain([&done.snapshot]).all(here), "lost by more work");
    }
}

/// Tries states until there were enough.
struct Trial {
    scratch: tempfile::TempDir,
    wanted: usize,
    seed: u64,
    seen: HashSet<blake3::Hash>,
    /// Of these, such that a second power cut left.
    twice: usize,
}

impl Trial {
    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn run(&mut self) {
        let mut dice = Dice(self.seed);
        for number in 0.. {
            if self.seen.len() >= self.wanted {
                return;
            }
            // The salts and keys of a history follow from the seed as well.
            let _seeded = Seeded::new(self.seed.wrapping_add(number));
            let history = self.telling(&format!("history {number}"), || History::record(&mut dice));
            std::fs::create_dir(self.path("pool")).unwrap();
            self.try_history(&history, &mut dice);
            std::fs::remove_dir_all(self.path("pool")).unwrap();
        }
    }

    /// Does `work`; when it fails, says where and with which seed.
    fn telling<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            eprintln!("{what}, after {} states of seed {}", self.seen.len(), self.seed);
            resume_unwind(panic)
        })
    }

    fn try_history(&mut self, history: &History, dice: &mut Dice) {
        let moments = history.moments();
        let quota = STATES_PER_HISTORY.div_ceil(moments.len());
        let (mut disk, mut done) = (history.base.clone(), 0);
        let root = history.fixture.store().dir();
        for moment in moments {
            history.events[done..moment].iter().for_each(|event| disk.step(event));
            done = moment;
            let promise = history.promise(moment);
            let what = format!("before event {moment} of {}", history.events.len());
            for state in disk.states(quota, dice) {
                if self.seen.len() >= self.wanted {
                    return;
                }
                let works_on = dice.once_in(WORKS_ON);
                let again = works_on && dice.once_in(CUT_AGAIN);
                let events = record(again);
                let fresh = self.try_state(&state, root, promise, &history.fixture, works_on, &what);
                record(false);
                if fresh && again {
                    let events = std::mem::take(&mut *events.lock().unwrap());
                    self.try_again(&state, root, &events, promise, &history.fixture, dice);
                }
            }
        }
    }

    /// The power went while what a first power cut left was being worked with.
    fn try_again(
        &mut self,
        state: &State,
        root: &Path,
        events: &[Event],
        promise: &Promise,
        fixture: &Fixture,
        dice: &mut Dice,
    ) {
        let dir = self.path("state");
        let mut disk = state.disk(root, &dir);
        let all = flushes(events);
        let mut moments: Vec<usize> = (0..CUT_AGAIN_MOMENTS).map(|_| all[dice.below(all.len())]).collect();
        moments.sort_unstable();
        moments.dedup();
        let mut done = 0;
        for moment in moments {
            events[done..moment].iter().for_each(|event| disk.step(event));
            done = moment;
            for state in disk.states(CUT_AGAIN_STATES, dice) {
                let what = format!("again, before event {moment} of {}", events.len());
                self.twice += usize::from(self.try_state(&state, &dir, promise, fixture, false, &what));
            }
        }
    }

    /// Whether it was a new one.
    fn try_state(
        &mut self,
        state: &State,
        root: &Path,
        promise: &Promise,
        fixture: &Fixture,
        works_on: bool,
        what: &str,
    ) -> bool {
        if !self.seen.insert(state.identity(root)) {
            return false;
        }
        let dir = self.path("state");
        self.telling(what, || {
            state.lay(root, &dir, &self.path("pool"));
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&dir, promise, fixture, works_on))) {
                let kept = tempfile::tempdir().unwrap().keep();
                state.lay(root, &kept.join("store"), &kept);
                eprintln!("kept in {}", kept.display());
                resume_unwind(panic);
            }
        });
        std::fs::remove_dir_all(&dir).unwrap();
        true
    }
}

/// One file was the lock of all: a child that another test was starting in this process had it for a moment longer, and the
/// next state did not open.
#[test]
fn what_two_power_cuts_left_opens_side_by_side() {
    let dir = scratch();
    let (store, pool) = (dir.path().join("store"), dir.path().join("pool"));
    drop(Store::create(&store).unwrap());
    std::fs::create_dir(&pool).unwrap();
    let state = Disk::of(&store).states(1, &mut Dice(1)).remove(0);
    let _both = ["one", "other"].map(|name| {
        let place = dir.path().join(name);
        state.lay(&store, &place, &pool);
        Store::open(&place).unwrap()
    });
}

/// `STATES` and `SEED` from the environment (`make test-crashes`), else some states from a seed that nobody chose.
fn wanted() -> (usize, u64) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("SEED").unwrap_or_else(|| u64::from_le_bytes(random_bytes()));
    let states = number("STATES").unwrap_or(20_000);
    eprintln!("again with: make test-crashes SEED={seed} STATES={states}");
    (states as usize, seed)
}

#[test]
fn no_power_cut_loses_an_acknowledged_snapshot() {
    let (wanted, seed) = wanted();
    let mut trial = Trial { scratch: scratch(), wanted, seed, seen: HashSet::new(), twice: 0 };
    let began = std::time::Instant::now();
    trial.run();
    let (states, twice, elapsed) = (trial.seen.len(), trial.twice, began.elapsed());
    eprintln!("{states} states held, {twice} of them left by a second power cut, in {elapsed:.1?}");
}
