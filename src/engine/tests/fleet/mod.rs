//! Devices of one vault and their holders: whatever they do in whatever order, against a simple model.
//!
//! Devices edit, back up, forget, collect, meet holders, have packs damaged, mend them, die and come again; holders lose
//! packs, let time pass, die and come again; disks are put back to old images and copied, records rot, and indexes that are made
//! anew stay halves. The model knows what each snapshot that nobody forgot must give back, and after each step every one of
//! them does. What is spoilt is only ever what somebody else is known to have: losing all copies at the same time is no
//! promise's fault. Where a device's history has branches, every one of its disks lists what was acknowledged on it, what
//! holders have confirmed stays with them, and once all disks have met all holders one disk has everything.
//!
//! At the end all meet until nothing changes: then nobody has a pack that no snapshot needs.
//!
//! A history is a seed and steps, and whoever has it has the run: keys, salts, times and paths follow from it, and so does
//! every byte in the stores. One that failed is printed as it stands in [`known`], where it stays.

mod disks;
mod holder;
mod known;
mod promises;
mod source;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestError, TestRunner};

use super::fixture::watched;
use world::Fleet;

/// What happened, from the beginning to the end.
#[derive(Clone, Debug)]
struct History {
    /// What is drawn at random follows from it.
    seed: u64,
    devices: usize,
    holders: usize,
    steps: Vec<Step>,
}

/// What happens. Devices, holders, packs and snapshots are named by any number.
#[derive(Clone, Debug)]
enum Step {
    /// Writes files with these contents, 0 removes one, and backs up.
    Backup {
        device: u8,
        edits: Edits,
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
    /// What the device's disk is like is kept.
    Image {
        device: u8,
    },
    /// A disk becomes what its image was.
    PutBack {
        device: u8,
    },
    /// The disk is copied, and both are used.
    Copy {
        device: u8,
    },
    /// The newest copy is used no more.
    DropCopy,
    /// A head, a piece of a pack list or a snapshot's record is spoilt.
    SpoilRecord {
        device: u8,
        which: u8,
        is_gone: bool,
    },
    SpoilAtHolder {
        holder: u8,
        which: u8,
        is_gone: bool,
    },
    /// The program dies while the index is made anew, at the beginning or when only its publication is left.
    CutRebuild {
        device: u8,
        is_filled: bool,
    },
    HolderCutRebuild {
        holder: u8,
        is_filled: bool,
    },
}

/// Names of files, and the content that each gets.
#[derive(Clone)]
struct Edits(Vec<(u8, u8)>);

impl std::fmt::Debug for Edits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Edits(vec!{:?})", self.0)
    }
}

/// What a collection deletes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    /// What has waited for an hour, which nothing here has.
    Nothing,
    /// What has waited for some looks at the clock.
    Old,
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
    let due = prop_oneof![1 => Just(Due::Nothing), 1 => Just(Due::Old), 3 => Just(Due::All)];
    let how = prop_oneof![Just(Damage::Gone), Just(Damage::Cut), Just(Damage::Flipped), Just(Damage::Zeroed)];
    let rarely = || prop::bool::weighted(0.3);
    let most = prop_oneof![3 => Just(u8::MAX), 1 => 0u8..3];
    let step = prop_oneof![
        6 => (one(), edits).prop_map(|(device, edits)| Step::Backup { device, edits: Edits(edits) }),
        4 => (one(), one()).prop_map(|(device, which)| Step::Forget { device, which }),
        4 => (one(), due).prop_map(|(device, due)| Step::Gc { device, due }),
        8 => (one(), one(), most).prop_map(|(device, holder, most)| Step::Meet { device, holder, most }),
        2 => (one(), one(), how).prop_map(|(device, which, how)| Step::Damage { device, which, how }),
        1 => one().prop_map(|device| Step::Repair { device }),
        1 => (one(), rarely()).prop_map(|(device, index_lost)| Step::Crash { device, index_lost }),
        1 => (one(), rarely()).prop_map(|(holder, index_lost)| Step::HolderCrash { holder, index_lost }),
        1 => (one(), one()).prop_map(|(holder, which)| Step::Lose { holder, which }),
        2 => (0u8..40).prop_map(|days| Step::Days { days }),
        2 => one().prop_map(|device| Step::Image { device }),
        2 => one().prop_map(|device| Step::PutBack { device }),
        1 => one().prop_map(|device| Step::Copy { device }),
        1 => Just(Step::DropCopy),
        2 => (one(), one(), any::<bool>())
            .prop_map(|(device, which, is_gone)| Step::SpoilRecord { device, which, is_gone }),
        1 => (one(), one(), any::<bool>())
            .prop_map(|(holder, which, is_gone)| Step::SpoilAtHolder { holder, which, is_gone }),
        1 => (one(), any::<bool>()).prop_map(|(device, is_filled)| Step::CutRebuild { device, is_filled }),
        1 => (one(), any::<bool>()).prop_map(|(holder, is_filled)| Step::HolderCutRebuild { holder, is_filled }),
    ];
    prop::collection::vec(step, 8..32)
}

fn histories() -> impl Strategy<Value = History> {
    let devices = prop_oneof![3 => Just(2usize), 2 => Just(3), 1 => Just(4)];
    (any::<u64>().no_shrink(), devices, 1usize..4, steps())
        .prop_map(|(seed, devices, holders, steps)| History { seed, devices, holders, steps })
}

impl History {
    fn run(self) {
        watched(move || {
            let mut fleet = Fleet::new(self.seed, self.devices, self.holders);
            for step in &self.steps {
                fleet.step(step);
                fleet.check();
            }
            fleet.end();
        });
    }

    /// What is in all stores after each step.
    fn traces(self) -> Vec<String> {
        watched(move || {
            let mut fleet = Fleet::new(self.seed, self.devices, self.holders);
            let mut traces = vec![fleet.trace()];
            for step in &self.steps {
                fleet.step(step);
                traces.push(fleet.trace());
            }
            fleet.end();
            traces.push(fleet.trace());
            traces
        })
    }
}

/// Histories that one random generator makes one after the other. So few that a failure is soon made again.
const LOT: u32 = 20;

/// Runs a lot; on a failure, what to write down.
fn run_lot(seed: u64, cases: u32) -> Result<(), String> {
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let ran = TestRunner::new(config).run(&histories(), |history| {
        history.run();
        Ok(())
    });
    match ran {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, history)) => Err(format!("{why}\n{history:?}")),
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}

/// Without a `SEED` the same histories in every run: one that fails is found by whoever looks for it (`make test-forgetting`),
/// not by whoever happens to build.
const USUAL_SEED: u64 = 1;

/// `CASES` and `SEED` from the environment (`make test-forgetting`), else 2,000 cases from [`USUAL_SEED`].
#[test]
fn whatever_is_done_in_whatever_order_live_snapshots_restore_and_garbage_goes() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("SEED").unwrap_or(USUAL_SEED);
    let cases = number("CASES").map_or(2_000, |cases| cases as u32);
    let (next, failures) = (AtomicU32::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let lot = next.fetch_add(1, Ordering::Relaxed);
                    let before = lot.saturating_mul(LOT);
                    if before >= cases || !failures.lock().unwrap().is_empty() {
                        return;
                    }
                    let ran = run_lot(seed.wrapping_add(u64::from(lot)), LOT.min(cases - before));
                    failures.lock().unwrap().extend(ran.err());
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "make test-forgetting SEED={seed} CASES={cases}; each of these belongs into known.rs:\n{}",
        failures.join("\n\n")
    );
}

/// Random lanes, salts and clocks let a history fail in one run and pass in the next.
#[test]
fn a_history_leaves_the_same_bytes_in_every_run() {
    let mut runner =
        TestRunner::new(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() });
    let made = (0..6).map(|_| histories().new_tree(&mut runner).unwrap().current());
    for history in known::histories().into_iter().chain(made) {
        let (first, second) = (history.clone().traces(), history.clone().traces());
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        if let Some(at) = differs {
            panic!("{history:?}\nafter step {at}: {}", difference(&first[at], &second[at]));
        }
    }
}

/// The first line that one has and the other has not.
fn difference(first: &str, second: &str) -> String {
    let lines = first.lines().zip(second.lines());
    lines.filter(|(one, other)| one != other).map(|(one, other)| format!("{one} | {other}")).take(5).collect()
}
