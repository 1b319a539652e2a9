//! What a power cut may leave: everything that the store does to the disk during backups, forgetting and collecting is
//! recorded; at chosen moments the disk is rebuilt with what was durable then and any part of what was not; the store must
//! open, and every snapshot that was acknowledged and not forgotten must be whole.
//!
//! A file's content is durable once the file was flushed, a name once its directory was. What was not flushed may be
//! there or not, write by write and name by name, in any combination.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fixture::{Fixture, noise, passphrase, vault_options};
use crate::base::{SnapshotId, random_bytes};
use crate::engine::{
    GcOptions, Monitor, Vault, VaultOptions, VaultView, VerifyOptions, backup, collect, forget, unlock,
    verify,
};
use crate::store::{Event, Store, record};

/// What was promised at one time.
#[derive(Clone)]
struct Promise {
    /// From this event on.
    event: usize,
    /// Snapshots that must be there.
    live: Vec<SnapshotId>,
}

/// A file's content, apart from its name.
#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    pending: Vec<(u64, Vec<u8>, Option<u64>)>,
}

/// A change of names that is not durable yet: names to set and names to clear, with the directories it is about.
#[derive(Clone)]
struct Renaming {
    set: Option<(PathBuf, usize)>,
    clear: PathBuf,
    dirs: Vec<PathBuf>,
}

/// The disk as it may be found after a power cut.
#[derive(Clone, Default)]
struct Disk {
    contents: Vec<Content>,
    /// Names as programs see them.
    seen: HashMap<PathBuf, usize>,
    /// Names that are durable.
    durable: HashMap<PathBuf, usize>,
    pending: Vec<Renaming>,
}

/// A small generator, so that a seed tells everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn yes(&mut self) -> bool {
        self.roll().is_multiple_of(2)
    }
}

fn apply(content: &mut Vec<u8>, (offset, bytes, length): &(u64, Vec<u8>, Option<u64>)) {
    if let Some(length) = length {
        content.resize(*length as usize, 0);
        return;
    }
    let end = *offset as usize + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[*offset as usize..end].copy_from_slice(bytes);
}

impl Disk {
    /// The directory as it is, all of it durable.
    fn of(dir: &Path) -> Self {
        let mut disk = Self::default();
        let mut waiting = vec![dir.to_owned()];
        while let Some(dir) = waiting.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    let durable = std::fs::read(&path).unwrap();
                    disk.contents.push(Content { durable, pending: Vec::new() });
                    disk.seen.insert(path.clone(), disk.contents.len() - 1);
                    disk.durable.insert(path, disk.contents.len() - 1);
                }
            }
        }
        disk
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        if !self.seen.contains_key(path) {
            self.contents.push(Content::default());
            let number = self.contents.len() - 1;
            self.seen.insert(path.to_owned(), number);
            let dirs = vec![path.parent().unwrap().to_owned()];
            self.pending.push(Renaming {
                set: Some((path.to_owned(), number)),
                clear: path.to_owned(),
                dirs,
            });
        }
        &mut self.contents[self.seen[path]]
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Write(path, offset, bytes) => {
                self.content(path).pending.push((*offset, bytes.clone(), None));
            }
            Event::SetLength(path, length) => self.content(path).pending.push((0, Vec::new(), Some(*length))),
            Event::Sync(path) => {
                let content = self.content(path);
                for write in std::mem::take(&mut content.pending) {
                    apply(&mut content.durable, &write);
                }
            }
            Event::Rename(from, to) => {
                let Some(number) = self.seen.remove(from) else { return };
                self.seen.insert(to.clone(), number);
                let dirs = [from, to].map(|path| path.parent().unwrap().to_owned()).to_vec();
                self.pending.push(Renaming { set: Some((to.clone(), number)), clear: from.clone(), dirs });
            }
            Event::Remove(path) => {
                if self.seen.remove(path).is_some() {
                    let dirs = vec![path.parent().unwrap().to_owned()];
                    self.pending.push(Renaming { set: None, clear: path.clone(), dirs });
                }
            }
            Event::SyncDir(dir) => {
                // Flushing the directory that a file was moved to makes the move durable.
                let (flushed, open) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|change: &Renaming| change.dirs.last() == Some(dir));
                self.pending = open;
                flushed.into_iter().for_each(|change: Renaming| change.apply(&mut self.durable));
            }
        }
    }

    /// Writes what may be left into `to`, in the place of `from`.
    fn rebuild(&self, from: &Path, to: &Path, dice: &mut Dice) {
        let mut names = self.durable.clone();
        self.pending.iter().filter(|_| dice.yes()).for_each(|change| change.apply(&mut names));
        for (path, number) in names {
            let content = &self.contents[number];
            let mut bytes = content.durable.clone();
            content.pending.iter().filter(|_| dice.yes()).for_each(|write| apply(&mut bytes, write));
            let path = to.join(path.strip_prefix(from).unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

impl Renaming {
    fn apply(&self, names: &mut HashMap<PathBuf, usize>) {
        names.remove(&self.clear);
        if let Some((path, number)) = &self.set {
            names.insert(path.clone(), *number);
        }
    }
}

/// Backs up, forgets and collects, several times; what was done, and what was promised when.
fn record_work(fixture: &Fixture, events: &std::sync::Mutex<Vec<Event>>) -> Vec<Promise> {
    let mut promises = vec![Promise { event: 0, live: Vec::new() }];
    let mut live: Vec<SnapshotId> = Vec::new();
    let mut promise = |live: &[SnapshotId]| {
        promises.push(Promise { event: events.lock().unwrap().len(), live: live.to_vec() });
    };
    let gc = |now| {
        let options = GcOptions {
            dry_run: false,
            now,
            max_unused_percent: 5,
            grace: super::forgetting::GRACE,
            memory_bytes: 48 << 20,
        };
        collect(&fixture.vault, options, &[], None, &Monitor::default()).unwrap();
    };
    for round in 0..4u64 {
        for file in 0..3u64 {
            let seed = if file == 0 { 0 } else { round * 10 + file };
            fixture.write(&format!("{file}-{seed}"), &noise(seed, 90_000));
        }
        if round > 0 {
            std::fs::remove_file(fixture.src().join(format!("1-{}", round * 10 - 9))).unwrap();
        }
        live.push(backup(&fixture.vault, &fixture.options(), &Monitor::default()).unwrap().snapshot);
        promise(&live);
        if round > 0 {
            // From the moment that this begins the first one may be gone.
            let gone = live.remove(0);
            promise(&live);
            forget(&fixture.vault, &[gone], &[]).unwrap();
            gc(false);
            gc(true);
        }
    }
    promise(&live);
    promises
}

/// Opens what was left, checks it, and goes on working with it.
fn check(dir: &Path, live: &[SnapshotId], fixture: &Fixture, what: &str) {
    let store = Store::open(dir).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let keyring = unlock(&store, &passphrase()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let vault =
        Vault::new(Arc::new(store), keyring, fixture.vault.clock.clone(), (*fixture.vault.options()).clone());
    let view = VaultView::load(&vault).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    for id in live {
        assert!(view.snapshots.iter().any(|one| one.id == *id), "{what}: {} is lost", id.short());
    }
    let options = VerifyOptions { memory_bytes: 48 << 20, ..Default::default() };
    let found = verify(&vault.store, Some(&vault), options, 1, &Monitor::default()).unwrap();
    assert!(found.is_sound(), "{what}: {:?} {:?} {:?}", found.damages, found.records, found.snapshots);
    let options = GcOptions {
        dry_run: false,
        now: true,
        max_unused_percent: 5,
        grace: super::forgetting::GRACE,
        memory_bytes: 48 << 20,
    };
    collect(&vault, options, &[], None, &Monitor::default())
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let found = verify(&vault.store, Some(&vault), VerifyOptions::default(), 1, &Monitor::default()).unwrap();
    assert!(found.is_sound(), "{what}, then collected: {:?} {:?}", found.damages, found.snapshots);
}

/// `STATES` and `SEED` from the environment (`make test-forgetting`), else a few states from a seed that nobody chose.
fn wanted() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("SEED").unwrap_or_else(|| u64::from_le_bytes(random_bytes()));
    let states = number("STATES").unwrap_or(60);
    eprintln!("again with: make test-forgetting SEED={seed} STATES={states}");
    (states, seed)
}

#[test]
fn no_power_cut_loses_an_acknowledged_snapshot() {
    let events = record(true);
    let fixture = Fixture::with(VaultOptions { workers: 1, ..vault_options() });
    let root = fixture.store().dir().to_owned();
    let base = Disk::of(&root);
    events.lock().unwrap().clear();
    let promises = record_work(&fixture, &events);
    record(false);
    let events = events.lock().unwrap().clone();
    let scratch = tempfile::tempdir().unwrap();
    let ((states, seed), total) = (wanted(), events.len());
    let mut dice = Dice(seed);
    // Moments in order, so that the disk is stepped through once.
    let mut moments: Vec<usize> = (0..states).map(|_| dice.roll() as usize % (total + 1)).collect();
    moments.sort_unstable();
    let (mut disk, mut done) = (base, 0);
    for (number, moment) in moments.into_iter().enumerate() {
        for event in &events[done..moment] {
            disk.step(event);
        }
        done = moment;
        let promise = promises.iter().rev().find(|promise| promise.event <= moment).unwrap();
        let dir = scratch.path().join(number.to_string());
        disk.rebuild(&root, &dir, &mut Dice(seed ^ number as u64));
        check(
            &dir,
            &promise.live,
            &fixture,
            &format!("event {moment} of {total}, state {number} of seed {seed}"),
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
