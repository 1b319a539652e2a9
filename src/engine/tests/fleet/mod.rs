//! Devices of one vault and their holders: whatever they do in whatever order, against a simple model.
//!
//! Devices edit, back up, forget, collect, meet holders, have packs damaged, mend them, die and come again; holders lose
//! packs, let time pass, die and come again. The model knows what each snapshot that nobody forgot must give back, and
//! after each step every one of them does. What is spoilt is only ever what somebody else is known to have: losing all
//! copies at the same time is no promise's fault.
//!
//! At the end all meet until nothing changes: then nobody has a pack that no snapshot needs.

mod promises;
mod world;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::fixture::watched;
use crate::base::random_bytes;
use world::Fleet;

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
