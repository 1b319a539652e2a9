//! Random trees through a file system of faults: what a restore brings is what the source had while it was backed up, or it is
//! named among what could not be read, and the backup is incomplete.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::edits::{Edit, apply, edits};
use super::fixture::{Fixture, watched};
use super::history::config;
use super::tree_of::{Fact, assert_same, tree_of};
use crate::engine::Monitor;
use crate::engine::backup::backup_entries;
use crate::fs::{Entries, Walk, WalkEvent, WalkOptions};
use crate::wire::{Node, NodeType};

/// What goes wrong with an entry.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// Its directory tells it twice.
    Twice,
    /// It is deleted after it was looked at.
    Vanishes,
    /// It grows after it was looked at.
    Grows,
    /// An attribute of it cannot be read.
    Torn,
    /// It cannot be looked at.
    Denied,
    /// It says that it is empty.
    SaysEmpty,
}

impl Fault {
    /// The same for the same entry in the same round.
    fn of(seed: u64, path: &Path, node: &Node) -> Self {
        let hash = blake3::hash(format!("{seed} {}", path.display()).as_bytes());
        let is_file = node.r#type() == NodeType::NodeFile;
        match hash.as_bytes()[0] % 12 {
            0 => Self::Twice,
            1 => Self::Vanishes,
            2 if is_file => Self::Grows,
            3 => Self::Torn,
            4 => Self::Denied,
            5 if is_file => Self::SaysEmpty,
            _ => Self::None,
        }
    }

    /// Whether a backup must name it.
    fn is_told(self) -> bool {
        matches!(self, Self::Twice | Self::Torn | Self::Denied)
    }
}

/// A walk through such a file system.
struct Faulty {
    walk: Walk,
    ready: VecDeque<WalkEvent>,
    seed: u64,
    /// Change times do not follow.
    frozen: bool,
    met: Arc<Mutex<BTreeMap<PathBuf, Fault>>>,
}

impl Entries for Faulty {
    fn advance(&mut self) -> Option<WalkEvent> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        let event = self.walk.advance()?;
        let WalkEvent::Entry { path, mut node } = event else { return Some(event) };
        if self.frozen {
            node.ctime = node.mtime;
        }
        let fault = Fault::of(self.seed, &path, &node);
        self.met.lock().unwrap().insert(path.clone(), fault);
        let failed = || WalkEvent::Failed { path: path.clone(), error: std::io::Error::from_raw_os_error(5) };
        match fault {
            Fault::None => {}
            Fault::Twice => self.ready.push_back(WalkEvent::Entry { path: path.clone(), node: node.clone() }),
            Fault::Vanishes => std::fs::remove_file(&path).unwrap(),
            Fault::Grows => {
                let mut file = std::fs::File::options().append(true).open(&path).unwrap();
                file.write_all(b"and more").unwrap();
            }
            Fault::Torn => {
                node.partial = true;
                self.ready.push_back(failed());
            }
            Fault::Denied => return Some(failed()),
            Fault::SaysEmpty => node.size = 0,
        }
        Some(WalkEvent::Entry { path, node })
    }

    fn complete(&mut self, node: &mut Node) {
        let partial = node.partial;
        self.walk.complete(node);
        node.partial |= partial;
    }
}

/// What is wrong with what came back, if anything: every part of it is as it was before the backup or after it.
fn check(path: &Path, got: Option<&Fact>, before: Option<&Fact>, after: Option<&Fact>) -> Result<(), String> {
    let told =
        |what: &str| Err(format!("{}: {what}: {got:?}, before {before:?}, after {after:?}", path.display()));
    match (got, before, after) {
        (None, Some(_), Some(_)) => told("it is missing"),
        (None, ..) => Ok(()),
        (Some(_), None, None) => told("it was not there"),
        (Some(got), ..) if got.is_made_of(&[before, after]) => Ok(()),
        _ => told("it never was like that"),
    }
}

/// Gives files other modes, some in each round: no time of theirs tells it where change times do not follow.
fn dress(dir: &Path, seed: u64) {
    for path in tree_of(dir).into_keys().map(|path| dir.join(path)).filter(|path| path.is_file()) {
        let hash = blake3::hash(format!("mode {seed} {}", path.display()).as_bytes());
        let [chosen, mode, ..] = *hash.as_bytes();
        if chosen < 64 && !path.is_symlink() {
            let mode = Permissions::from_mode(0o600 | u32::from(mode) & 0o177);
            std::fs::set_permissions(path, mode).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn what_faults_leave_of_a_tree_is_what_was_there_or_is_named(
        rounds in prop::collection::vec((edits(), any::<u64>()), 1..5),
        frozen in any::<bool>(),
    ) {
        watched(move || {
            let fixture = Fixture::new();
            // Something to go wrong with from the start.
            for name in 0..24 {
                let edit = match name {
                    0 | 9 => Edit::Directory { name },
                    _ => Edit::Write { name, seed: name.into(), length: 10 * usize::from(name) },
                };
                apply(&fixture.src(), &edit);
            }
            for (at, (round, seed)) in rounds.iter().enumerate() {
                fixture.let_the_clock_tick();
                round.iter().for_each(|edit| apply(&fixture.src(), edit));
                dress(&fixture.src(), *seed);
                let before = tree_of(&fixture.src());
                let met = Arc::<Mutex<_>>::default();
                let walk = Walk::new(&[fixture.src()], WalkOptions::default()).unwrap();
                let entries =
                    Faulty { walk, ready: VecDeque::new(), seed: *seed, frozen, met: Arc::clone(&met) };
                let monitor = Monitor::default();
                let done =
                    backup_entries(&fixture.vault, &fixture.options(), Box::new(entries), &monitor).unwrap();
                let after = tree_of(&fixture.src());

                let named: BTreeSet<PathBuf> =
                    monitor.problems().1.into_iter().map(|problem| problem.path.into()).collect();
                let met: BTreeMap<PathBuf, Fault> = std::mem::take(&mut met.lock().unwrap());
                for (path, fault) in met.iter().filter(|(_, fault)| fault.is_told()) {
                    assert!(named.contains(path), "{} is not named: {fault:?}", path.display());
                }
                assert_eq!(done.counts.unreadable + done.counts.inconsistent > 0, !named.is_empty());
                assert_eq!(fixture.snapshot(&done).is_complete(), named.is_empty());

                let (target, _) = fixture.restore(&done, &format!("at-{at}"));
                let restored = tree_of(&target);
                let all: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).chain(restored.keys()).collect();
                for path in all {
                    let whole = fixture.src().join(path);
                    let checked = check(path, restored.get(path), before.get(path), after.get(path));
                    if !named.contains(&whole) {
                        checked.unwrap_or_else(|wrong| panic!("{wrong}; {:?}", met.get(&whole)));
                    }
                }
            }
            // What went wrong leaves nothing behind.
            let done = fixture.backup();
            assert!(fixture.snapshot(&done).is_complete());
            let (target, _) = fixture.restore(&done, "sound");
            assert_same(&fixture.src(), &target);
            assert!(fixture.verify().is_sound());
        });
    }
}
