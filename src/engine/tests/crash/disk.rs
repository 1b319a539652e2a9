//! A disk that knows what is durable and what is not yet, and what of it a power cut may leave.
//!
//! A file's content is durable once the file was flushed, a name once its directory was. What was not flushed may be
//! there or not, write by write and name by name, in any combination; a write may be torn between two sectors. What
//! nobody ever flushes the kernel writes out some day.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::Event;

/// What is written as a whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;
/// After so many events the kernel has written out what nobody flushed.
const WRITTEN_BACK_AFTER: usize = 400;

/// Files that a store changes in their place; and the one that it locks. A lock is the file's, not the name's: with one
/// file for all states, a child that another test was just starting in this process still had the lock of the state before,
/// for as long as it took to run its own program.
const OWN: [&str; 3] = ["index.redb", "reserve", "lock"];

/// A small generator, so that a seed tells everything.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// One of so many, from 0 on.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.roll() as usize % end.max(1)
    }

    /// Once in so many times.
    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// Bytes, and their hash.
#[derive(Clone)]
struct Bytes {
    bytes: Arc<Vec<u8>>,
    hash: blake3::Hash,
}

impl Bytes {
    fn new(bytes: Vec<u8>) -> Self {
        Self { hash: blake3::hash(&bytes), bytes: Arc::new(bytes) }
    }
}

/// A change of a file's content: bytes at an offset, or another length.
#[derive(Clone)]
enum Change {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

/// A file's content, apart from its name.
#[derive(Clone)]
struct Content {
    durable: Bytes,
    /// Changes since the last flush, and at which event they came.
    loose: Vec<(usize, Change)>,
}

/// A change of names: one to set and one to clear, and the directory that must be flushed for it.
#[derive(Clone)]
struct Renaming {
    set: Option<(PathBuf, usize)>,
    clear: Option<PathBuf>,
    dir: PathBuf,
}

impl Renaming {
    fn apply(&self, names: &mut HashMap<PathBuf, usize>) {
        if let Some(path) = &self.clear {
            names.remove(path);
        }
        if let Some((path, number)) = &self.set {
            names.insert(path.clone(), *number);
        }
    }
}

/// Something that is not durable yet.
#[derive(Copy, Clone)]
enum Loose {
    /// Of a content, which change.
    Change(usize, usize),
    Name(usize),
    Dir(usize),
}

/// What becomes of something that was not durable.
#[derive(Copy, Clone, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    Lost,
    Kept,
    /// Of a write some sectors, chosen by this seed.
    Torn(u64),
}

/// The disk while a program works on it.
#[derive(Clone)]
pub(super) struct Disk {
    contents: Vec<Content>,
    /// Names as programs see them.
    seen: HashMap<PathBuf, usize>,
    /// Names that are durable.
    durable: HashMap<PathBuf, usize>,
    names: Vec<Renaming>,
    /// Directories that are not durable yet.
    dirs: Vec<PathBuf>,
    events: usize,
}

impl Disk {
    /// A directory as it is, all of it durable.
    pub(super) fn of(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut waiting = vec![root.to_owned()];
        while let Some(dir) = waiting.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    files.insert(path.clone(), Bytes::new(std::fs::read(&path).unwrap()));
                }
            }
        }
        Self::with(files)
    }

    fn with(files: BTreeMap<PathBuf, Bytes>) -> Self {
        let (mut contents, mut durable) = (Vec::new(), HashMap::new());
        for (path, bytes) in files {
            durable.insert(path, contents.len());
            contents.push(Content { durable: bytes, loose: Vec::new() });
        }
        let seen = durable.clone();
        Self { contents, seen, durable, names: Vec::new(), dirs: Vec::new(), events: 0 }
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        if !self.seen.contains_key(path) {
            let number = self.contents.len();
            self.contents.push(Content { durable: Bytes::new(Vec::new()), loose: Vec::new() });
            self.seen.insert(path.to_owned(), number);
            self.set(path, number, None);
        }
        &mut self.contents[self.seen[path]]
    }

    fn set(&mut self, path: &Path, number: usize, clear: Option<&Path>) {
        self.rename(Renaming {
            set: Some((path.to_owned(), number)),
            clear: clear.map(Path::to_owned),
            dir: path.parent().unwrap().to_owned(),
        });
    }

    /// Which names are in `tmp/` tells nobody anything, so that is not tried both ways.
    fn rename(&mut self, change: Renaming) {
        match change.dir.ends_with("tmp") {
            true => change.apply(&mut self.durable),
            false => self.names.push(change),
        }
    }

    pub(super) fn step(&mut self, event: &Event) {
        self.events += 1;
        let now = self.events;
        match event {
            Event::Write(path, offset, bytes) => {
                self.content(path).loose.push((now, Change::Bytes(*offset, bytes.clone())));
            }
            Event::SetLength(path, length) => self.content(path).loose.push((now, Change::Length(*length))),
            Event::Sync(path) => self.content(path).flush(|_| true),
            Event::Rename(from, to) => {
                let Some(number) = self.seen.remove(from) else { return };
                self.seen.insert(to.clone(), number);
                self.set(to, number, Some(from));
            }
            Event::Link(from, to) => {
                let Some(number) = self.seen.get(from).copied() else { return };
                self.seen.insert(to.clone(), number);
                self.set(to, number, None);
            }
            Event::Remove(path) => {
                if self.seen.remove(path).is_some() {
                    let dir = path.parent().unwrap().to_owned();
                    self.rename(Renaming { set: None, clear: Some(path.clone()), dir });
                }
            }
            Event::MakeDir(path) => self.dirs.push(path.clone()),
            Event::SyncDir(dir) => {
                // Flushing the directory that a file was moved to makes the move durable.
                let (flushed, loose) = std::mem::take(&mut self.names)
                    .into_iter()
                    .partition(|change: &Renaming| change.dir == *dir);
                self.names = loose;
                flushed.into_iter().for_each(|change: Renaming| change.apply(&mut self.durable));
                self.dirs.retain(|made| made.parent() != Some(dir));
            }
        }
    }

    /// What is not durable now and would show. Old changes are written back first.
    fn loose(&mut self) -> Vec<Loose> {
        let old = self.events.saturating_sub(WRITTEN_BACK_AFTER);
        let tmp = |path: &PathBuf| path.parent().is_some_and(|dir| dir.ends_with("tmp"));
        let set = self.names.iter().filter_map(|change| change.set.as_ref());
        let set = set.map(|(path, number)| (path, *number));
        let named = self.durable.iter().map(|(path, number)| (path, *number)).chain(set);
        let mut shown: Vec<usize> = named.filter(|(path, _)| !tmp(path)).map(|(_, number)| number).collect();
        shown.sort_unstable();
        shown.dedup();
        let mut all = Vec::new();
        for number in shown {
            let content = &mut self.contents[number];
            content.flush(|at| at < old);
            all.extend((0..content.loose.len()).map(|which| Loose::Change(number, which)));
        }
        all.extend((0..self.names.len()).map(Loose::Name));
        all.extend((0..self.dirs.len()).map(Loose::Dir));
        all
    }

    /// Some of what a power cut may leave now, `quota` of them at most; all of it where there is not more.
    pub(super) fn states(&mut self, quota: usize, dice: &mut Dice) -> Vec<State> {
        let loose = self.loose();
        choices(loose.len(), quota, dice).iter().map(|fates| self.state(&loose, fates)).collect()
    }

    fn state(&self, loose: &[Loose], fates: &[Fate]) -> State {
        let (mut names, mut changed) = (self.durable.clone(), HashMap::<usize, Vec<u8>>::new());
        let mut absent: HashSet<&PathBuf> = HashSet::new();
        for (one, fate) in loose.iter().zip(fates) {
            match *one {
                Loose::Change(number, which) if *fate != Fate::Lost => {
                    let content = &self.contents[number];
                    let bytes = changed.entry(number).or_insert_with(|| content.durable.bytes.to_vec());
                    content.loose[which].1.apply(bytes, *fate);
                }
                Loose::Name(which) if *fate != Fate::Lost => self.names[which].apply(&mut names),
                Loose::Dir(which) if *fate == Fate::Lost => {
                    absent.insert(&self.dirs[which]);
                }
                _ => {}
            }
        }
        let changed: HashMap<usize, Bytes> =
            changed.into_iter().map(|(number, bytes)| (number, Bytes::new(bytes))).collect();
        let here = |path: &PathBuf| !path.ancestors().any(|dir| absent.contains(&dir.to_owned()));
        let files = names.into_iter().filter(|(path, _)| here(path)).map(|(path, number)| {
            (path, changed.get(&number).unwrap_or(&self.contents[number].durable).clone())
        });
        State { files: files.collect() }
    }
}

impl Content {
    /// Makes those changes durable that came at such events.
    fn flush(&mut self, which: impl Fn(usize) -> bool) {
        if !self.loose.iter().any(|(at, _)| which(*at)) {
            return;
        }
        let mut bytes = self.durable.bytes.to_vec();
        let (flushed, loose) = std::mem::take(&mut self.loose).into_iter().partition(|(at, _)| which(*at));
        self.loose = loose;
        flushed.into_iter().for_each(|(_, change): (usize, Change)| change.apply(&mut bytes, Fate::Kept));
        self.durable = Bytes::new(bytes);
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>, fate: Fate) {
        let (offset, bytes) = match self {
            Self::Length(length) => return content.resize(*length as usize, 0),
            Self::Bytes(offset, bytes) => (*offset as usize, bytes),
        };
        let end = offset + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        let Fate::Torn(seed) = fate else { return content[offset..end].copy_from_slice(bytes) };
        let mut dice = Dice(seed);
        let mut at = offset;
        while at < end {
            // Sectors of the disk, not of the write.
            let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
            if dice.once_in(2) {
                content[at..next].copy_from_slice(&bytes[at - offset..next - offset]);
            }
            at = next;
        }
    }
}

/// What may become of so many things that are not durable: every combination where there are at most `quota`; else none,
/// all, everything up to one of them, everything but one of them, and the rest at random.
fn choices(count: usize, quota: usize, dice: &mut Dice) -> Vec<Vec<Fate>> {
    let of = |kept: bool| if kept { Fate::Kept } else { Fate::Lost };
    if count < 20 && 1 << count <= quota {
        return (0..1usize << count)
            .map(|bits| (0..count).map(|at| of(bits >> at & 1 == 1)).collect())
            .collect();
    }
    let mut all: Vec<Vec<Fate>> = vec![vec![Fate::Lost; count], vec![Fate::Kept; count]];
    for turn in 0..quota / 3 {
        let at = dice.below(count);
        let kept = |one| if turn % 2 == 0 { one < at } else { one != at };
        all.push((0..count).map(|one| of(kept(one))).collect());
    }
    while all.len() < quota {
        let torn = dice.once_in(4);
        let fate = |dice: &mut Dice| match dice.below(8) {
            0 if torn => Fate::Torn(dice.roll()),
            0..4 => Fate::Kept,
            _ => Fate::Lost,
        };
        all.push((0..count).map(|_| fate(dice)).collect());
    }
    all.truncate(quota.max(1));
    all
}

/// What a power cut left.
pub(super) struct State {
    files: BTreeMap<PathBuf, Bytes>,
}

impl State {
    /// The same for all that tell a program the same; what lies in `tmp/` is only cleared.
    pub(super) fn identity(&self, root: &Path) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (path, content) in self.files.iter().filter(|(path, _)| path.parent() != Some(&root.join("tmp")))
        {
            hasher.update(path.as_os_str().as_encoded_bytes()).update(b"\0").update(content.hash.as_bytes());
        }
        hasher.finalize()
    }

    /// Puts the files that lay in `root` into `to`. Contents come from `pool` where they are there, and are put there: a
    /// store replaces its files, so that several may share one; only [`OWN`] are each state's own.
    pub(super) fn lay(&self, root: &Path, to: &Path, pool: &Path) {
        let mut made: HashSet<PathBuf> = HashSet::new();
        for (path, content) in &self.files {
            let path = to.join(path.strip_prefix(root).unwrap());
            let dir = path.parent().unwrap();
            if made.insert(dir.to_owned()) {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).unwrap();
            }
            if path.file_name().is_some_and(|name| OWN.iter().any(|own| name == *own)) {
                std::fs::write(path, content.bytes.as_slice()).unwrap();
                continue;
            }
            let shared = pool.join(content.hash.to_hex().as_str());
            if !shared.exists() {
                std::fs::write(&shared, content.bytes.as_slice()).unwrap();
            }
            std::fs::hard_link(shared, path).unwrap();
        }
    }

    /// The disk that a program finds which now begins to work on it in `dir`.
    pub(super) fn disk(&self, root: &Path, dir: &Path) -> Disk {
        let moved = |path: &PathBuf| dir.join(path.strip_prefix(root).unwrap());
        Disk::with(self.files.iter().map(|(path, content)| (moved(path), content.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(disk: &mut Disk) -> Vec<Vec<(String, Vec<u8>)>> {
        let mut all: Vec<_> =
            disk.states(64, &mut Dice(1)).into_iter().map(|state| contents(&state)).collect();
        all.sort();
        all.dedup();
        all
    }

    fn contents(state: &State) -> Vec<(String, Vec<u8>)> {
        let files = state.files.iter();
        files.map(|(path, bytes)| (path.display().to_string(), bytes.bytes.to_vec())).collect()
    }

    #[test]
    fn what_was_flushed_stays_and_of_the_rest_any_part() {
        let path = |name: &str| PathBuf::from(name);
        let one = |name: &str, bytes: &[u8]| vec![(name.to_owned(), bytes.to_vec())];
        let mut disk = Disk::with(BTreeMap::from([(path("/d/a"), Bytes::new(b"old".to_vec()))]));
        disk.step(&Event::Write(path("/tmp/t"), 0, b"new".to_vec()));
        assert_eq!(found(&mut disk), [[one("/d/a", b"old"), one("/tmp/t", b"")].concat()]);
        disk.step(&Event::Sync(path("/tmp/t")));
        disk.step(&Event::Rename(path("/tmp/t"), path("/d/a")));
        let old = [one("/d/a", b"old"), one("/tmp/t", b"new")].concat();
        assert_eq!(found(&mut disk), [one("/d/a", b"new"), old]);
        disk.step(&Event::SyncDir(path("/d")));
        assert_eq!(found(&mut disk), [one("/d/a", b"new")]);
        // In its place, piece by piece; and in a directory that is not durable.
        disk.step(&Event::Write(path("/d/a"), 0, b"x".to_vec()));
        disk.step(&Event::Write(path("/d/a"), 2, b"yz".to_vec()));
        let any: [&[u8]; 4] = [b"new", b"neyz", b"xew", b"xeyz"];
        assert_eq!(found(&mut disk), any.map(|bytes| one("/d/a", bytes)));
        disk.step(&Event::Sync(path("/d/a")));
        disk.step(&Event::MakeDir(path("/e")));
        disk.step(&Event::Rename(path("/d/a"), path("/e/a")));
        disk.step(&Event::SyncDir(path("/e")));
        assert_eq!(found(&mut disk), [vec![], one("/e/a", b"xeyz")]);
        disk.step(&Event::SyncDir(path("/")));
        assert_eq!(found(&mut disk), [one("/e/a", b"xeyz")]);
        disk.step(&Event::Remove(path("/e/a")));
        assert_eq!(found(&mut disk), [vec![], one("/e/a", b"xeyz")]);
    }

    #[test]
    fn few_things_are_tried_in_every_combination_and_many_in_some() {
        let tried = |count, quota| {
            let all = choices(count, quota, &mut Dice(3));
            assert!(all.iter().all(|fates| fates.len() == count));
            all.into_iter().collect::<HashSet<_>>().len()
        };
        assert_eq!((tried(0, 5), tried(3, 8), tried(3, 100)), (1, 8, 8));
        assert!((50..=100).contains(&tried(12, 100)));
    }
}
