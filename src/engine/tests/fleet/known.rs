//! Histories that once failed, as the model prints them. Each stays.

use super::Damage::{Cut, Flipped, Zeroed};
use super::Due::{All, Old};
use super::Step::{
    Backup, Copy, Crash, Damage, Days, Forget, Gc, HolderCrash, Image, Lose, Meet, PutBack, Repair,
    SpoilRecord,
};
use super::{Edits, History};

pub(super) fn histories() -> Vec<History> {
    vec![
        sought_where_nobody_keeps_it(0),
        joined_unheard(),
        joined_half_heard(),
        mended_beside_what_was_stored_again(),
    ]
}

/// Two devices stored the same content. The first let its own go and sought it there all the same when it heard of the
/// snapshot of the other, which its holder had: in a pack that the holder had dropped by then.
fn sought_where_nobody_keeps_it(seed: u64) -> History {
    History {
        seed,
        devices: 2,
        holders: 2,
        steps: vec![
            Backup { device: 221, edits: Edits(vec![(0, 5), (1, 1)]) },
            Gc { device: 132, due: All },
            Meet { device: 22, holder: 118, most: 255 },
            Backup { device: 158, edits: Edits(vec![(0, 6), (4, 3), (2, 6)]) },
            HolderCrash { holder: 4, index_lost: false },
            Crash { device: 94, index_lost: false },
            Gc { device: 5, due: Old },
            Days { days: 12 },
            Backup { device: 2, edits: Edits(vec![(3, 1), (0, 5), (0, 1)]) },
            Forget { device: 75, which: 120 },
            Forget { device: 144, which: 228 },
            Forget { device: 65, which: 237 },
            Forget { device: 76, which: 196 },
            Meet { device: 64, holder: 209, most: 255 },
            HolderCrash { holder: 244, index_lost: false },
            Gc { device: 212, due: All },
            HolderCrash { holder: 76, index_lost: false },
            Meet { device: 55, holder: 117, most: 255 },
            HolderCrash { holder: 117, index_lost: false },
            Lose { holder: 251, which: 208 },
            Repair { device: 138 },
            Damage { device: 187, which: 114, how: Zeroed },
            Damage { device: 4, which: 9, how: Flipped },
            Backup { device: 19, edits: Edits(vec![]) },
            Gc { device: 204, due: All },
        ],
    }
}

/// A device whose disk was put back joined its branches, and its next heads did not name the one that the other device knew:
/// what only that one listed was never let go.
fn joined_unheard() -> History {
    History {
        seed: 5036108178732486921,
        devices: 2,
        holders: 1,
        steps: vec![
            Backup { device: 2, edits: Edits(vec![(0, 3), (0, 4)]) },
            Image { device: 7 },
            Meet { device: 126, holder: 0, most: 255 },
            Lose { holder: 0, which: 19 },
            Meet { device: 11, holder: 0, most: 255 },
            Forget { device: 216, which: 0 },
            Backup { device: 7, edits: Edits(vec![(0, 4)]) },
            Gc { device: 161, due: All },
            Meet { device: 6, holder: 0, most: 255 },
            Meet { device: 35, holder: 0, most: 255 },
            PutBack { device: 0 },
        ],
    }
}

/// A holder had two heads of a copy, one after the other; another device heard of the first, the disk that joined them of the
/// second, and did not name the first.
fn joined_half_heard() -> History {
    History {
        seed: 4223788684687120768,
        devices: 3,
        holders: 1,
        steps: vec![
            Copy { device: 0 },
            Copy { device: 217 },
            Backup { device: 5, edits: Edits(vec![]) },
            Forget { device: 35, which: 0 },
            Meet { device: 215, holder: 0, most: 255 },
            Backup { device: 85, edits: Edits(vec![(0, 1)]) },
            Backup { device: 36, edits: Edits(vec![(0, 1)]) },
            Meet { device: 24, holder: 0, most: 255 },
            Meet { device: 195, holder: 0, most: 255 },
            Meet { device: 2, holder: 0, most: 255 },
        ],
    }
}

/// A pack was cut, the head that lists it spoilt, and the index lost: nothing here told of the pack until that head came back.
fn mended_beside_what_was_stored_again() -> History {
    History {
        seed: 10710074663058954858,
        devices: 2,
        holders: 1,
        steps: vec![
            Backup { device: 62, edits: Edits(vec![]) },
            Meet { device: 6, holder: 0, most: 255 },
            Damage { device: 32, which: 0, how: Cut },
            SpoilRecord { device: 14, which: 27, is_gone: false },
            Crash { device: 30, index_lost: true },
            Backup { device: 0, edits: Edits(vec![]) },
            Backup { device: 0, edits: Edits(vec![]) },
            Repair { device: 30 },
        ],
    }
}

#[test]
fn what_was_lost_and_stored_again_is_found_after_a_repair() {
    (0..12).for_each(|more| {
        let seed = 10710074663058954858 + more;
        History { seed, ..mended_beside_what_was_stored_again() }.run();
    });
}

#[test]
fn branches_of_copies_end_where_all_have_met() {
    (0..12).for_each(|more| History { seed: 4223788684687120768 + more, ..joined_half_heard() }.run());
}

#[test]
fn branches_that_were_joined_unheard_are_known_to_be() {
    (0..12).for_each(|more| History { seed: 5036108178732486921 + more, ..joined_unheard() }.run());
}

/// As the order of packs was, it failed or not.
#[test]
fn what_another_device_stored_as_well_is_sought_where_somebody_keeps_it() {
    (0..12).for_each(|seed| sought_where_nobody_keeps_it(seed).run());
}
