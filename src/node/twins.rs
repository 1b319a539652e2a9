//! Two machines with one identity: a data directory that was copied, or brought back beside the original.
//!
//! Each run of the program has a random number, which it shows to those it compares heads with. One that shows up again
//! after another one was seen from the same peer was running all the time, so two are. That says it; a restart does not.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use crate::base::{Moment, PeerId, random_bytes};

/// Runs of one peer that are remembered.
const FORMER_MAX: usize = 8;
/// Peers that are remembered: more than a node has members.
const PEERS_MAX: usize = 1024;
/// What was noticed longer ago is over.
const NOTICE_LIFE: Duration = Duration::from_secs(3600);

/// What was seen of one peer.
#[derive(Default)]
struct Runs {
    current: u64,
    former: VecDeque<u64>,
    /// When two were last seen.
    noticed: Option<Moment>,
}

impl Runs {
    /// Notes that a run was heard of; whether that proves another one beside it.
    fn note(&mut self, run: u64, now: Moment) -> bool {
        if run == self.current {
            return false;
        }
        let is_twin = self.former.contains(&run);
        self.former.retain(|former| *former != run);
        if self.former.len() >= FORMER_MAX {
            self.former.pop_front();
        }
        if self.current != 0 {
            self.former.push_back(self.current);
        }
        self.current = run;
        if is_twin {
            self.noticed = Some(now);
        }
        is_twin
    }
}

/// Who was seen twice.
pub(super) struct Twins {
    /// Of this run of the program; never 0.
    pub(super) me: u64,
    seen: Mutex<HashMap<PeerId, Runs>>,
    /// Who told that this node has a twin, and when.
    told: Mutex<Option<(PeerId, Moment)>>,
}

impl Default for Twins {
    fn default() -> Self {
        let me = u64::from_le_bytes(random_bytes()) | 1;
        Self { me, seen: Mutex::default(), told: Mutex::default() }
    }
}

fn lately(when: Moment, now: Moment) -> bool {
    now.since(when) < NOTICE_LIFE
}

impl Twins {
    /// Notes which run of a peer was heard of (0: it does not say); true when that is news of two machines.
    pub(super) fn note(&self, peer: PeerId, run: u64, now: Moment) -> bool {
        let mut seen = self.seen.lock().expect("no panic while held");
        if run == 0 || (seen.len() >= PEERS_MAX && !seen.contains_key(&peer)) {
            return false;
        }
        let runs = seen.entry(peer).or_default();
        let was_known = runs.noticed.is_some_and(|when| lately(when, now));
        runs.note(run, now) && !was_known
    }

    /// Whether two machines were seen with this peer's identity lately.
    pub(super) fn has_twin(&self, peer: PeerId, now: Moment) -> bool {
        let seen = self.seen.lock().expect("no panic while held");
        seen.get(&peer).and_then(|runs| runs.noticed).is_some_and(|when| lately(when, now))
    }

    /// A peer says that another machine has this node's identity; true when that is news.
    pub(super) fn heed(&self, from: PeerId, now: Moment) -> bool {
        let mut told = self.told.lock().expect("no panic while held");
        let before = told.replace((from, now));
        before.is_none_or(|(_, when)| !lately(when, now))
    }

    /// Who said so lately.
    pub(super) fn told_by(&self, now: Moment) -> Option<PeerId> {
        let told = self.told.lock().expect("no panic while held");
        told.filter(|(_, when)| lately(*when, now)).map(|(peer, _)| peer)
    }

    /// All peers that two machines were seen with lately.
    pub(super) fn all(&self, now: Moment) -> Vec<PeerId> {
        let seen = self.seen.lock().expect("no panic while held");
        let noticed = seen.iter().filter(|(_, runs)| runs.noticed.is_some_and(|when| lately(when, now)));
        let mut all: Vec<PeerId> = noticed.map(|(peer, _)| *peer).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_no_twins_and_a_run_that_comes_again_is_one() {
        let (twins, peer) = (Twins::default(), PeerId::new([1; 32]));
        let at = |seconds: u64| Moment::from_millis(seconds * 1000);
        for (second, run) in [(0, 5), (1, 5), (2, 6), (3, 7), (4, 7)] {
            assert!(!twins.note(peer, run, at(second)), "{second}");
        }
        assert!(!twins.has_twin(peer, at(4)));
        assert!(twins.note(peer, 6, at(5)), "it was there all the time");
        assert!(!twins.note(peer, 7, at(6)), "that is known");
        assert_eq!((twins.all(at(7)), twins.has_twin(peer, at(7))), (vec![peer], true));
        assert!(!twins.has_twin(peer, at(6 + 3600)), "it is over");
        assert!(!twins.note(PeerId::new([2; 32]), 0, at(7)), "an older version says nothing");
        assert!(twins.heed(peer, at(8)) && !twins.heed(peer, at(9)));
        assert_eq!((twins.told_by(at(9)), twins.told_by(at(9000))), (Some(peer), None));
    }
}
