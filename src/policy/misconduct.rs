//! How often a peer sent wrong bytes. It is forgotten: a memory chip is replaced, a disk is mended.

use std::time::Duration;

use crate::base::Moment;

/// Half of what is held against a peer is forgotten in this time.
const HALF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What is held against one peer.
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct Misconduct {
    times: u32,
    last: Moment,
}

impl Misconduct {
    /// Notes one more wrong answer.
    pub fn note(&mut self, now: Moment) {
        *self = Self { times: self.times(now).saturating_add(1), last: now };
    }

    /// Wrong answers that still count.
    pub fn times(&self, now: Moment) -> u32 {
        let halvings = now.since(self.last).as_secs() / HALF_LIFE.as_secs();
        u32::try_from(halvings).ok().and_then(|halvings| self.times.checked_shr(halvings)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_is_forgotten_by_half_each_day() {
        let day = |n: u32| Moment::from_millis(0).after(HALF_LIFE * n);
        let mut record = Misconduct::default();
        assert_eq!(record.times(day(0)), 0);
        (0..6).for_each(|_| record.note(day(1)));
        let left = [1, 2, 3, 4, 40_000].map(|n| record.times(day(n)));
        assert_eq!(left, [6, 3, 1, 0, 0]);
        record.note(day(2));
        assert_eq!(record.times(day(2)), 4, "what is left counts on");
        assert_eq!(record.times(day(0)), 4, "a clock that was set back forgives nothing");
    }
}
