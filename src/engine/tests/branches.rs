//! One device whose disk is put back, copied and spoilt, and its holders, in random histories: what a holder has confirmed and
//! nobody forgot stays listed there, and comes back to whichever copy of the device goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::devices::{own_head, pass_on};
use super::fixture::{Fixture, noise, scratch, vault_options, watched};
use super::full::copy;
use crate::base::{Moment, SnapshotId, random_bytes};
use crate::crypto::NodeKey;
use crate::engine::tests::fixture::newest_heads;
use crate::engine::{
    complete_head, drop_expired, forget, is_known, join_branches, publish_next_head, record_receipt,
    unreadable_heads,
};
use crate::store::Store;

const HOLD: Duration = Duration::from_secs(30 * 86_400);

/// What happens. Disks, holders and snapshots are named by any number.
#[derive(Clone, Debug)]
enum Step {
    Backup {
        disk: u8,
    },
    Forget {
        disk: u8,
        which: u8,
    },
    /// A head without news, as checkpoints are.
    Sign {
        disk: u8,
    },
    /// A disk and a holder compare heads; a broken line lets only the one or the other hear.
    Meet {
        disk: u8,
        holder: u8,
        how: How,
    },
    /// A disk is copied; both go on.
    Copy {
        disk: u8,
    },
    /// A disk is replaced by a copy of another one.
    PutBack {
        disk: u8,
        from: u8,
    },
    /// One bit of the newest head file flips.
    Rot {
        disk: u8,
    },
    RotAtHolder {
        holder: u8,
    },
    Days {
        holder: u8,
        days: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Both,
    DeviceHears,
    HolderHears,
    /// The holder takes it in, and what it says of that is lost.
    ReceiptLost,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = any::<u8>;
    let how = prop_oneof![
        4 => Just(How::Both),
        1 => Just(How::DeviceHears),
        2 => Just(How::HolderHears),
        1 => Just(How::ReceiptLost),
    ];
    let step = prop_oneof![
        6 => one().prop_map(|disk| Step::Backup { disk }),
        1 => (one(), one()).prop_map(|(disk, which)| Step::Forget { disk, which }),
        1 => one().prop_map(|disk| Step::Sign { disk }),
        6 => (one(), one(), how).prop_map(|(disk, holder, how)| Step::Meet { disk, holder, how }),
        1 => one().prop_map(|disk| Step::Copy { disk }),
        1 => (one(), one()).prop_map(|(disk, from)| Step::PutBack { disk, from }),
        1 => one().prop_map(|disk| Step::Rot { disk }),
        1 => one().prop_map(|holder| Step::RotAtHolder { holder }),
        1 => (one(), 0u8..70).prop_map(|(holder, days)| Step::Days { holder, days }),
    ];
    prop::collection::vec(step, 8..48)
}

/// A disk of the device, and what was acknowledged on it.
struct Disk {
    fixture: Fixture,
    listed: BTreeSet<SnapshotId>,
    /// Its newest head rotted, and it has signed none since: the next one lists again what that one listed.
    rotted: bool,
}

struct Holder {
    _dir: tempfile::TempDir,
    store: Store,
    key: NodeKey,
    confirmed: BTreeSet<SnapshotId>,
}

struct World {
    disks: Vec<Disk>,
    holders: Vec<Holder>,
    forgotten: BTreeSet<SnapshotId>,
    made: u64,
    time: u64,
}

/// More disks than that show nothing new.
const DISKS_MAX: usize = 3;

impl World {
    fn new(holders: usize) -> Self {
        let dir = scratch();
        let store = dir.path().join("store");
        let options = crate::engine::VaultOptions { workers: 1, ..vault_options() };
        let holder = |_| {
            let dir = scratch();
            let store = Store::create(&dir.path().join("store")).unwrap();
            Holder { _dir: dir, store, key: NodeKey::generate(), confirmed: BTreeSet::new() }
        };
        Self {
            disks: vec![Disk {
                fixture: Fixture::at(dir, &store, options),
                listed: BTreeSet::new(),
                rotted: false,
            }],
            holders: (0..holders).map(holder).collect(),
            forgotten: BTreeSet::new(),
            made: 0,
            time: 0,
        }
    }

    fn disk(&self, any: u8) -> usize {
        usize::from(any) % self.disks.len()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Backup { disk } => self.backup(self.disk(disk)),
            Step::Forget { disk, which } => self.forget(self.disk(disk), which),
            Step::Sign { disk } => {
                let disk = self.disk(disk);
                publish_next_head(&self.disks[disk].fixture.vault, &[], &[]).unwrap();
                self.disks[disk].rotted = false;
            }
            Step::Meet { disk, holder, how } => {
                let (disk, holder) = (self.disk(disk), usize::from(holder) % self.holders.len());
                self.meet(disk, holder, how);
            }
            Step::Copy { disk } => {
                if self.disks.len() < DISKS_MAX {
                    let copied = self.copy(self.disk(disk));
                    self.disks.push(copied);
                }
            }
            Step::PutBack { disk, from } => {
                let (disk, from) = (self.disk(disk), self.disk(from));
                if disk != from {
                    self.disks[disk] = self.copy(from);
                }
            }
            Step::Rot { disk } => {
                let disk = self.disk(disk);
                let Disk { fixture, rotted, .. } = &mut self.disks[disk];
                rot(fixture.store(), &own_head(fixture));
                *rotted = true;
            }
            Step::RotAtHolder { holder } => {
                let (vault, count) = (self.disks[0].fixture.vault.id(), self.holders.len());
                let Holder { store, confirmed, .. } = &mut self.holders[usize::from(holder) % count];
                let Some(head) = newest_heads(store, vault).unwrap().into_iter().next() else { return };
                rot(store, &head);
                // It is no copy any more: to find that out is not what this model is about.
                let left =
                    newest_heads(store, vault).unwrap().into_iter().flat_map(|head| head.draft.snapshots);
                let left: BTreeSet<SnapshotId> = left.collect();
                confirmed.retain(|id| left.contains(id));
            }
            Step::Days { holder, days } => {
                let store = &self.holders[usize::from(holder) % self.holders.len()].store;
                drop_expired(store, None, HOLD, Duration::from_secs(u64::from(days) * 86_400)).unwrap();
            }
        }
    }

    fn backup(&mut self, disk: usize) {
        self.made += 1;
        let Disk { fixture, listed, rotted } = &mut self.disks[disk];
        *rotted = false;
        fixture.write("file", &noise(self.made, 100));
        listed.insert(fixture.backup().snapshot);
    }

    fn forget(&mut self, disk: usize, which: u8) {
        let Disk { fixture, listed, .. } = &mut self.disks[disk];
        let now = own_head(fixture).draft.snapshots;
        if let Some(id) = now.get(usize::from(which) % now.len().max(1)) {
            forget(&fixture.vault, &[*id], &[]).unwrap();
            listed.remove(id);
            self.forgotten.insert(*id);
        }
    }

    fn meet(&mut self, disk: usize, holder: usize, how: How) {
        let (Disk { fixture, listed, .. }, at) = (&mut self.disks[disk], &mut self.holders[holder]);
        let (store, vault) = (fixture.store(), fixture.vault.id());
        if how != How::HolderHears {
            let theirs = newest_heads(&at.store, vault).unwrap();
            for head in &theirs {
                if !is_known(store, vault, &head.summary()).unwrap() {
                    pass_on(store, &at.store, head);
                    listed.extend(&head.draft.snapshots);
                }
            }
            let told: Vec<_> = theirs.iter().map(|head| (head.draft.seq, head.id)).collect();
            join_branches(&fixture.vault, &told, &[]).unwrap();
        }
        if how == How::DeviceHears {
            return;
        }
        let head = own_head(fixture);
        pass_on(&at.store, store, &head);
        let complete = complete_head(&at.store, vault, head.id).unwrap().map(|head| head.id);
        if complete.is_some() {
            at.confirmed.extend(&head.draft.snapshots);
        }
        if how != How::ReceiptLost {
            self.time += 1;
            let signed =
                crate::snapshot::sign_receipt(&at.key, vault, complete, &[], Moment::from_millis(self.time));
            record_receipt(store, vault, at.key.peer_id(), &signed).unwrap();
        }
    }

    /// A copy of a disk, as it is now.
    fn copy(&self, of: usize) -> Disk {
        let Disk { fixture, listed, rotted } = &self.disks[of];
        let dir = scratch();
        copy(fixture.store().dir(), &dir.path().join("store"));
        Disk { fixture: fixture.again(dir), listed: listed.clone(), rotted: *rotted }
    }

    /// What was promised holds.
    fn check(&self) {
        let vault = self.disks[0].fixture.vault.id();
        for (at, disk) in self.disks.iter().enumerate() {
            let gone = lacking(disk.fixture.store(), &disk.fixture, &disk.listed, &self.forgotten);
            assert!(disk.rotted || gone.is_empty(), "disk {at} has lost {gone:?}");
            let unreadable = unreadable_heads(disk.fixture.store(), vault).unwrap();
            assert!(!disk.rotted || !unreadable.is_empty() || gone.is_empty(), "disk {at} does not say so");
        }
        for (at, holder) in self.holders.iter().enumerate() {
            let gone = lacking(&holder.store, &self.disks[0].fixture, &holder.confirmed, &self.forgotten);
            assert!(gone.is_empty(), "holder {at} has lost {gone:?}");
        }
    }

    /// One disk is left, and meets every holder until nothing changes.
    fn end(&mut self) {
        self.disks.truncate(1);
        for _ in 0..3 {
            for holder in 0..self.holders.len() {
                self.meet(0, holder, How::Both);
            }
        }
        self.check();
        let fixture = &self.disks[0].fixture;
        let own = own_head(fixture);
        let confirmed: BTreeSet<SnapshotId> =
            self.holders.iter().flat_map(|holder| holder.confirmed.iter().copied()).collect();
        assert_eq!(lacking(fixture.store(), fixture, &confirmed, &self.forgotten), [], "did not come back");
        for store in self.holders.iter().map(|holder| &holder.store).chain([fixture.store()]) {
            let tips: Vec<_> = newest_heads(store, own.vault()).unwrap().iter().map(|head| head.id).collect();
            assert_eq!(tips, [own.id], "branches are left");
        }
        assert_eq!(fixture.view().broken, []);
    }
}

/// Of these snapshots, those that nobody forgot and no head in `store` lists.
fn lacking(
    store: &Store,
    device: &Fixture,
    wanted: &BTreeSet<SnapshotId>,
    forgotten: &BTreeSet<SnapshotId>,
) -> Vec<SnapshotId> {
    let heads = newest_heads(store, device.vault.id()).unwrap();
    let listed: BTreeSet<SnapshotId> = heads.into_iter().flat_map(|head| head.draft.snapshots).collect();
    wanted.difference(&(&listed | forgotten)).copied().collect()
}

fn rot(store: &Store, head: &crate::snapshot::Head) {
    let dir = store.dir().join(format!("heads/{}/{}", head.vault(), head.device()));
    let path = dir.join(format!("{:016x}-{}", head.draft.seq, head.id));
    let whole = std::fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    // The last one that can be read stays: without any, nothing is signed.
    if newest_heads(store, head.vault()).unwrap().is_empty() {
        std::fs::write(path, whole).unwrap();
    }
}

/// `CASES` and `SEED` from the environment, else 300 cases from a seed that nobody chose.
fn config() -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("SEED").unwrap_or_else(|| u64::from_le_bytes(random_bytes()));
    let cases = number("CASES").map_or(300, |cases| cases as u32);
    eprintln!("again with: make test-history SEED={seed} CASES={cases}");
    let rng_seed = RngSeed::Fixed(seed);
    ProptestConfig { cases, rng_seed, max_shrink_iters: 400, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn whatever_becomes_of_its_disks_a_devices_history_never_goes_backward(
        holders in 1usize..4,
        steps in steps(),
    ) {
        watched(move || {
            let mut world = World::new(holders);
            for step in &steps {
                world.step(step);
                world.check();
            }
            world.end();
        });
    }
}
