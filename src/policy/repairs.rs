//! Which damaged packs and records are tried again, and when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pause_after;
use crate::base::{Moment, PackId, limit};

/// Damaged packs that wait to be mended. Each is tried less and less often, until it is mended or nobody needs it.
///
/// At most [`limit::REPAIRS_WAITING_MAX`]; what finds no place is found again by the next check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairQueue {
    packs: BTreeMap<PackId, Waiting>,
    /// Records are small: they are looked at and tried all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    records: Option<Waiting>,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    /// When the damage was found.
    since: Moment,
    /// When it was found or last tried.
    tried: Moment,
    /// How often it was tried by itself.
    tries: u32,
}

impl Waiting {
    fn new(now: Moment) -> Self {
        Self { since: now, tried: now, tries: 0 }
    }

    fn due(&self, pack: &PackId) -> Moment {
        let (seed, _) = pack.as_bytes().split_first_chunk::<8>().expect("an id has 32 bytes");
        self.next(u64::from_le_bytes(*seed))
    }

    fn next(&self, seed: u64) -> Moment {
        self.tried.after(pause_after(self.tries, seed))
    }

    /// Whether it is its turn; then it counts as tried from now on.
    fn take(&mut self, due: Moment, now: Moment) -> bool {
        // Or the clock was set back.
        let is_due = due <= now || self.tried > now;
        if is_due {
            (self.tried, self.tries) = (now, self.tries.saturating_add(1));
        }
        is_due
    }

    fn hurry(&mut self, long_ago: Moment) {
        (self.tried, self.tries) = (self.tried.min(long_ago), self.tries.min(1));
    }
}

impl RepairQueue {
    /// Packs with damage; those that wait already go on waiting.
    pub fn enter(&mut self, packs: impl IntoIterator<Item = PackId>, now: Moment) {
        for pack in packs {
            if self.packs.len() >= limit::REPAIRS_WAITING_MAX && !self.packs.contains_key(&pack) {
                continue;
            }
            self.packs.entry(pack).or_insert(Waiting::new(now));
        }
    }

    /// Packs that are sound again, or that nobody needs.
    pub fn leave<'a>(&mut self, packs: impl IntoIterator<Item = &'a PackId>) {
        packs.into_iter().for_each(|pack| {
            self.packs.remove(pack);
        });
    }

    /// Only these go on waiting.
    pub fn keep(&mut self, damaged: impl Fn(&PackId) -> bool) {
        self.packs.retain(|pack, _| damaged(pack));
    }

    /// Records are damaged, or none is any more.
    pub fn note_records(&mut self, damaged: bool, now: Moment) {
        self.records = if damaged { self.records.or(Some(Waiting::new(now))) } else { None };
    }

    /// Whether records wait.
    pub fn has_records(&self) -> bool {
        self.records.is_some()
    }

    /// Whether records are to be tried now; they count as tried from now on.
    pub fn take_records(&mut self, now: Moment) -> bool {
        self.records.as_mut().is_some_and(|waiting| waiting.take(waiting.next(0), now))
    }

    /// What is to be tried now; each counts as tried from now on.
    pub fn take_due(&mut self, now: Moment) -> Vec<PackId> {
        let mut due = Vec::new();
        for (pack, waiting) in &mut self.packs {
            if waiting.take(waiting.due(pack), now) {
                due.push(*pack);
            }
        }
        due
    }

    /// Somebody came who may have what is needed: all are tried soon, however often they were tried before.
    pub fn hurry(&mut self, now: Moment) {
        let long_ago = now.before(pause_after(1, 0).saturating_sub(limit::REPAIR_AFTER_ARRIVAL));
        self.packs.values_mut().chain(&mut self.records).for_each(|waiting| waiting.hurry(long_ago));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Moment> {
        let records = self.records.map(|waiting| waiting.next(0));
        self.packs.iter().map(|(pack, waiting)| waiting.due(pack)).chain(records).min()
    }

    /// Since when the longest has been waiting.
    pub fn since(&self) -> Option<Moment> {
        self.packs.values().chain(&self.records).map(|waiting| waiting.since).min()
    }

    /// How many packs wait.
    pub fn len(&self) -> usize {
        self.packs.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.records.is_none()
    }

    /// Whether any of these has not been tried often.
    pub fn is_any_fresh(&self, packs: &[PackId]) -> bool {
        let waiting = packs.iter().filter_map(|pack| self.packs.get(pack));
        waiting.into_iter().any(|waiting| waiting.tries <= limit::REGAIN_TRIES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(1_000_000_000_000 + seconds * 1000)
    }

    fn pack(fill: u16) -> PackId {
        let mut id = [0; 32];
        id[8..10].copy_from_slice(&fill.to_be_bytes());
        PackId::new(id)
    }

    #[test]
    fn each_is_tried_less_and_less_often_until_it_leaves() {
        let mut queue = RepairQueue::default();
        assert_eq!((queue.next(), queue.take_due(at(0))), (None, vec![]));
        queue.enter([pack(1)], at(0));
        let mut due = Vec::new();
        for second in 0..4 * 3600 {
            if queue.take_due(at(second)) == [pack(1)] {
                due.push(second);
            }
        }
        assert_eq!(due, [60, 120, 240, 480, 960, 1920, 3840, 7440, 11040]);
        assert_eq!((queue.since(), queue.next()), (Some(at(0)), Some(at(14_640))));
        queue.leave(&[pack(1)]);
        assert!(queue.is_empty() && queue.take_due(at(100_000)).is_empty());
        queue.enter([pack(1), pack(2)], at(0));
        queue.keep(|waiting| *waiting == pack(2));
        assert_eq!(queue.take_due(at(60)), [pack(2)]);
    }

    #[test]
    fn records_wait_together_and_are_tried_like_packs() {
        let mut queue = RepairQueue::default();
        queue.note_records(true, at(0));
        assert!(!queue.is_empty() && queue.has_records() && !queue.take_records(at(59)));
        assert!(queue.take_records(at(60)) && !queue.take_records(at(60)));
        // Found again: no sooner for that. Somebody came: soon.
        queue.note_records(true, at(100));
        assert_eq!((queue.since(), queue.next()), (Some(at(0)), Some(at(120))));
        queue.take_records(at(120));
        queue.hurry(at(130));
        assert!(queue.next().unwrap() < at(180));
        queue.note_records(false, at(140));
        assert!(queue.is_empty() && queue.next().is_none());
    }

    #[test]
    fn what_waits_keeps_its_place_and_a_guest_hurries_it() {
        let mut queue = RepairQueue::default();
        queue.enter([pack(1)], at(0));
        for second in 0..3600 {
            queue.take_due(at(second));
        }
        // Found again: no sooner for that.
        queue.enter([pack(1), pack(2)], at(3600));
        assert_eq!((queue.since(), queue.next()), (Some(at(0)), Some(at(3660))));
        assert_eq!(queue.take_due(at(3660)), [pack(2)]);
        assert!(!queue.is_any_fresh(&[pack(1)]) && queue.is_any_fresh(&[pack(1), pack(2)]));
        queue.hurry(at(3661));
        let wait = limit::REPAIR_AFTER_ARRIVAL.as_secs();
        assert!(queue.take_due(at(3660 + wait)).contains(&pack(1)), "its last try was long ago");
        assert_eq!(queue.take_due(at(3661 + wait)), [pack(2)]);
        assert!(queue.take_due(at(3662 + wait)).is_empty());
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nothing_waiting() {
        let mut queue = RepairQueue::default();
        queue.enter([pack(1)], at(1_000_000));
        assert_eq!(queue.take_due(at(0)), [pack(1)]);
        assert!(queue.take_due(at(1)).is_empty());
    }

    #[test]
    fn it_has_a_ceiling_and_survives_being_written() {
        let mut queue = RepairQueue::default();
        queue.enter((0..u16::MAX).map(pack), at(0));
        assert_eq!(queue.len(), limit::REPAIRS_WAITING_MAX);
        let text = serde_json::to_vec(&queue).unwrap();
        assert!(text.len() < limit::MIB / 2);
        assert_eq!(serde_json::from_slice::<RepairQueue>(&text).unwrap(), queue);
    }
}
