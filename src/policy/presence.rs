//! Whether a peer that is not connected still counts as a holder.

use std::time::Duration;

use crate::base::Moment;

/// How a peer stands with the copies that it holds.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is connected.
    Available,
    /// It is not, and is expected back: its copies count, nothing is moved. A laptop sleeps.
    Away,
    /// It has not been seen for so long that its copies are made anew elsewhere. They count again when it is back.
    Missing,
    /// It will hardly come back.
    Lost,
}

impl Presence {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Away => "away",
            Self::Missing => "missing",
            Self::Lost => "lost",
        }
    }

    /// Whether the copies it confirmed count.
    pub const fn counts(self) -> bool {
        matches!(self, Self::Available | Self::Away)
    }
}

/// A peer that is missing this many times as long as it takes to be so is lost.
const LOST_AFTER: u32 = 10;

/// The longest time in which this node, just awake, gives all others the chance to be found.
const AWAKE_GRACE: Duration = Duration::from_secs(600);

/// Judges a peer that was last seen at `seen` (or allowed then, if it never was) by a node that has been awake since
/// `awake`. A node that slept itself has seen nobody: it waits for ten minutes, or `away_after` if that is less, before
/// it takes anyone for missing.
pub fn presence(connected: bool, seen: Moment, awake: Moment, now: Moment, away_after: Duration) -> Presence {
    let gone = now.since(seen);
    if connected {
        Presence::Available
    } else if gone < away_after || now.since(awake) < away_after.min(AWAKE_GRACE) {
        Presence::Away
    } else if gone < away_after.saturating_mul(LOST_AFTER) {
        Presence::Missing
    } else {
        Presence::Lost
    }
}

/// When a peer was last seen is written down this often while it is connected: a crash must not make it look away.
const NOTED_EVERY: Duration = Duration::from_secs(3600);

/// Whether it is to be written down again that a connected peer is here; `noted` is when that was done last.
pub fn is_to_note(noted: Option<Moment>, now: Moment) -> bool {
    noted.is_none_or(|noted| now.since(noted) > NOTED_EVERY)
}

/// A longer pause between two looks means that the machine slept.
const SLEPT: Duration = Duration::from_secs(300);

/// Since when a node is awake; the clock goes on while a machine sleeps.
#[derive(Debug, Clone, Copy)]
pub struct Waking {
    awake: Moment,
    looked: Moment,
}

impl Waking {
    /// Awake since now.
    pub fn new(now: Moment) -> Self {
        Self { awake: now, looked: now }
    }

    /// Called again and again while the node is awake.
    pub fn look(&mut self, now: Moment) {
        if now.since(self.looked) > SLEPT || now < self.looked {
            self.awake = now;
        }
        self.looked = now;
    }

    /// Since when it is.
    pub fn since(&self) -> Moment {
        self.awake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_slept_is_awake_since_it_woke() {
        let at = |seconds: u64| Moment::from_millis(seconds * 1000);
        let mut waking = Waking::new(at(0));
        for seconds in [30, 60, 90, 300] {
            waking.look(at(seconds));
            assert_eq!(waking.since(), at(0));
        }
        waking.look(at(5000));
        assert_eq!(waking.since(), at(5000));
        // The clock was set back.
        waking.look(at(100));
        assert_eq!(waking.since(), at(100));
    }

    #[test]
    fn peers_are_missed_late_and_never_by_a_node_that_just_woke() {
        const HOUR: u64 = 3_600_000;
        let at = |hours: u64| Moment::from_millis(hours * HOUR);
        let table = [
            // connected, seen at, awake since, now, presence
            (true, 0, 0, 10_000, Presence::Available),
            (false, 0, 0, 71, Presence::Away),
            (false, 0, 0, 72, Presence::Missing),
            (false, 0, 100, 100, Presence::Away),
            (false, 0, 99, 100, Presence::Missing),
            (false, 0, 0, 720, Presence::Lost),
            // A clock that was set back: nothing is concluded.
            (false, 500, 0, 100, Presence::Away),
        ];
        for (connected, seen, awake, now, expected) in table {
            let found = presence(connected, at(seen), at(awake), at(now), Duration::from_secs(72 * 3600));
            assert_eq!(found, expected, "seen {seen}, awake {awake}, now {now}");
        }
    }
}
