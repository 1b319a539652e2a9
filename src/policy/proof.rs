//! Whether a holder still proves what it confirmed: a claim without proof counts for a stated time and no longer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Moment, PackId, limit};

/// What audits of one holder have come to. Begins without anything against it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proof {
    /// When it last proved something.
    pub proven: Option<Moment>,
    /// The first and the last try since then in which it proved nothing.
    failed: Option<(Moment, Moment)>,
    /// Packs that it was asked for and neither proved nor denied, and since when.
    open: BTreeMap<String, Moment>,
}

impl Proof {
    /// It proved something.
    pub fn succeed(&mut self, now: Moment) {
        (self.proven, self.failed) = (Some(now), None);
    }

    /// It was there, was asked, and proved nothing: it was busy, refused, kept silent.
    pub fn fail(&mut self, now: Moment) {
        let (first, last) = self.failed.unwrap_or((now, now));
        self.failed = Some((first, last.max(now)));
    }

    /// Whether its copies count: unless it has failed for as long as that, from the first try to the last. Time in which nobody
    /// asked it says nothing.
    pub fn stands(&self, within: Duration) -> bool {
        self.failed.is_none_or(|(first, last)| last.since(first) < within)
    }

    /// Since when it has proved nothing, though it was asked.
    pub fn unproven_since(&self) -> Option<Moment> {
        self.failed.map(|(first, _)| first)
    }

    /// It answered for a pack, whatever the answer.
    pub fn close(&mut self, pack: PackId) {
        self.open.remove(&pack.to_string());
    }

    /// It did not answer for a pack; whether that has gone on for so long that it counts as lost. Not all are remembered:
    /// those that are make themselves known soon enough.
    pub fn leave_open(&mut self, pack: PackId, within: Duration, now: Moment) -> bool {
        let key = pack.to_string();
        if !self.open.contains_key(&key) && self.open.len() >= limit::AUDIT_OPEN_MAX {
            return false;
        }
        let since = *self.open.entry(key.clone()).or_insert(now);
        let is_over = now.since(since) >= within;
        if is_over {
            self.open.remove(&key);
        }
        is_over
    }

    /// Packs to be asked for again.
    pub fn open(&self) -> impl Iterator<Item = PackId> {
        self.open.keys().filter_map(|pack| pack.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(n: u32) -> Moment {
        Moment::from_millis(1000).after(DAY * n)
    }

    /// One that answered every audit with "busy" kept its copies for ever.
    #[test]
    fn copies_count_until_nothing_was_proven_for_the_stated_time() {
        let mut proof = Proof::default();
        assert!(proof.stands(3 * DAY), "nobody has asked it yet");
        proof.succeed(day(0));
        for n in 1..=3 {
            proof.fail(day(n));
            assert!(proof.stands(3 * DAY), "day {n}");
        }
        proof.fail(day(4));
        assert_eq!((proof.stands(3 * DAY), proof.unproven_since()), (false, Some(day(1))));
        proof.succeed(day(5));
        assert_eq!((proof.stands(3 * DAY), proof.unproven_since()), (true, None));
        // The owner slept for weeks: that nobody asked is not held against it.
        proof.fail(day(6));
        assert!(proof.stands(3 * DAY));
        proof.succeed(day(40));
        proof.fail(day(80));
        assert!(proof.stands(3 * DAY));
    }

    /// One that has half of what it confirmed is busy whenever it is asked for the other half.
    #[test]
    fn a_pack_that_is_never_answered_for_is_lost_in_the_end() {
        let (mut proof, pack, other) = (Proof::default(), PackId::new([1; 32]), PackId::new([2; 32]));
        assert!(!proof.leave_open(pack, 3 * DAY, day(0)) && !proof.leave_open(other, 3 * DAY, day(0)));
        proof.succeed(day(1));
        assert!(!proof.leave_open(pack, 3 * DAY, day(2)));
        proof.close(other);
        assert_eq!(proof.open().collect::<Vec<_>>(), [pack]);
        let kept: Proof = serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap();
        assert_eq!(kept, proof);
        assert!(proof.leave_open(pack, 3 * DAY, day(3)));
        assert_eq!(proof.open().count(), 0);
        for n in 0..=limit::AUDIT_OPEN_MAX {
            proof.leave_open(PackId::new([n as u8; 32]), DAY, day(4));
        }
        assert_eq!(proof.open().count(), limit::AUDIT_OPEN_MAX);
    }
}
