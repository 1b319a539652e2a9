//! Whether a store still has what it once confirmed: it counts what it takes in, and says where that count stands.
//!
//! Every start of a node is a run with a random number of its own, and begins at the count that its store then had. A disk
//! that was put back to an older image begins the next run at an older count: what was confirmed after that is not in it,
//! however much it takes in later.

use std::collections::VecDeque;

/// Runs that are remembered; a store that was started more often since it confirmed something is asked for it again.
pub const RUNS_MAX: usize = 256;
/// Marks of one store that are kept: of the run that was compared last, and of the one after it.
const MARKS_MAX: usize = 2;

/// Where a store was when it confirmed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The run.
    pub run: u64,
    /// What the store had taken in by then.
    pub count: u64,
}

/// Where a store is now, and how it came there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Every run with the count at its beginning, the present one last.
    pub runs: VecDeque<Mark>,
    /// What it has taken in.
    pub count: u64,
}

impl Inventory {
    /// A new run begins.
    pub fn begin(&mut self, run: u64) {
        self.runs.push_back(Mark { run, count: self.count });
        while self.runs.len() > RUNS_MAX {
            self.runs.pop_front();
        }
    }

    /// Where it is now; `None` before the first run.
    pub fn mark(&self) -> Option<Mark> {
        self.runs.back().map(|last| Mark { run: last.run, count: self.count })
    }

    /// Whether it has been at that mark. Of a run that it does not know nothing is known.
    pub fn has_passed(&self, mark: Mark) -> bool {
        let Some(at) = self.runs.iter().position(|run| run.run == mark.run) else { return false };
        let end = self.runs.get(at + 1).map_or(self.count, |next| next.count);
        mark.count <= end
    }
}

/// What an owner knows of a holder's store from its receipts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// The last mark of each run that confirmed something since they were compared.
    pub marks: Vec<Mark>,
    /// It showed a state in which what it confirmed may not be: nothing of it counts before it was asked for all.
    pub doubted: bool,
}

impl Confirmed {
    /// A receipt came with that mark.
    pub fn note(&mut self, mark: Mark) {
        match self.marks.iter().position(|known| known.run == mark.run) {
            Some(at) => self.marks[at].count = self.marks[at].count.max(mark.count),
            None if self.marks.len() < MARKS_MAX => self.marks.push(mark),
            // It was started again and again without being asked where it is.
            None => self.doubted = true,
        }
    }

    /// Whether all that was confirmed is in a store that is there. One that never said where it was may be anywhere.
    pub fn is_in(&self, inventory: &Inventory) -> bool {
        !self.doubted && !self.marks.is_empty() && self.marks.iter().all(|mark| inventory.has_passed(*mark))
    }

    /// What counts now is in a store that was there when it was asked. What came meanwhile from the same run stays known.
    pub fn settle(&mut self, inventory: &Inventory) {
        let now = inventory.mark();
        self.marks.retain(|known| now.is_some_and(|now| now.run == known.run && known.count > now.count));
        if self.marks.is_empty() {
            self.marks.extend(now);
        }
        self.doubted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(run: u64, count: u64) -> Mark {
        Mark { run, count }
    }

    /// Three runs: 0 to 5, 5 to 8, 8 to 10.
    fn store() -> Inventory {
        Inventory { runs: [mark(1, 0), mark(2, 5), mark(3, 8)].into(), count: 10 }
    }

    #[test]
    fn a_store_has_passed_what_its_runs_reached_and_nothing_else() {
        let table = [(1, 5, true), (1, 6, false), (2, 8, true), (2, 9, false), (3, 10, true), (3, 11, false)];
        for (run, count, passed) in table {
            assert_eq!(store().has_passed(mark(run, count)), passed, "{run} {count}");
        }
        assert!(!store().has_passed(mark(4, 0)) && !Inventory::default().has_passed(mark(1, 0)));
        assert_eq!((store().mark(), Inventory::default().mark()), (Some(mark(3, 10)), None));
    }

    /// An old image that took in as much again as it had lost looked like the newest one.
    #[test]
    fn an_older_image_is_seen_however_much_it_takes_in_afterwards() {
        let mut confirmed = Confirmed::default();
        confirmed.note(mark(3, 10));
        assert!(confirmed.is_in(&store()));
        for image in [0, 5, 9, 10] {
            let mut old = Inventory { runs: store().runs, count: image };
            old.runs.retain(|run| run.count <= image);
            old.begin(77);
            for count in [image, 10, 1000] {
                old.count = count;
                assert_eq!(confirmed.is_in(&old), image == 10, "{image} {count}");
            }
        }
    }

    #[test]
    fn what_the_next_run_confirms_hides_nothing_of_the_one_before() {
        let mut confirmed = Confirmed::default();
        assert!(!confirmed.is_in(&store()), "it never said where it was");
        confirmed.settle(&store());
        confirmed.note(mark(3, 12));
        confirmed.note(mark(3, 11));
        confirmed.note(mark(4, 10));
        let mut later = Inventory { count: 12, ..store() };
        assert!(!confirmed.is_in(&later));
        later.begin(4);
        later.count = 13;
        assert!(confirmed.is_in(&later));
        later.runs[3].count = 10;
        assert!(!confirmed.is_in(&later), "its disk was put back between the two runs");
        confirmed.note(mark(5, 14));
        assert!(confirmed.doubted && !confirmed.is_in(&later));
        // What came while it was asked is newer than its answer.
        confirmed.settle(&later);
        assert_eq!(confirmed, Confirmed { marks: vec![mark(4, 13)], doubted: false });
        confirmed.note(mark(4, 20));
        confirmed.settle(&later);
        assert_eq!(confirmed.marks, [mark(4, 20)]);
    }

    #[test]
    fn runs_are_bounded() {
        let mut inventory = Inventory::default();
        (0..2 * RUNS_MAX as u64).for_each(|run| inventory.begin(run));
        assert_eq!(
            (inventory.runs.len(), inventory.mark()),
            (RUNS_MAX, Some(mark(2 * RUNS_MAX as u64 - 1, 0)))
        );
    }
}
