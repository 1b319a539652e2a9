//! Peers whose clocks show another time. Nothing depends on it that they are right: what counts across machines is signed
//! and numbered. But times that people read, such as when a copy was confirmed, would mislead them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use crate::base::{Moment, PeerId, format_duration, limit};

/// What is known of others' clocks, from what they signed a moment ago.
#[derive(Default)]
pub(super) struct Clocks {
    off: Mutex<HashMap<PeerId, Off>>,
}

/// By how much another clock is off.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) struct Off {
    by: Duration,
    ahead: bool,
}

impl Off {
    fn between(theirs: Moment, ours: Moment) -> Option<Self> {
        let ahead = theirs > ours;
        let by = if ahead { theirs.since(ours) } else { ours.since(theirs) };
        (by >= limit::CLOCK_OFF_MIN).then_some(Self { by, ahead })
    }

    /// In words, to whole minutes.
    pub(super) fn words(self) -> String {
        let minutes = Duration::from_secs(self.by.as_secs() / 60 * 60);
        format!("{} {}", format_duration(minutes), if self.ahead { "ahead" } else { "behind" })
    }
}

impl Clocks {
    /// A peer signed something just now, by its clock at `theirs`. Says so in the log when its clock is off and was not
    /// before.
    pub(super) fn note(&self, peer: PeerId, theirs: Moment, ours: Moment) {
        let mut off = self.off.lock().expect("no panic while held");
        let Some(now) = Off::between(theirs, ours) else {
            off.remove(&peer);
            return;
        };
        if off.insert(peer, now).is_none() {
            let clock = now.words();
            tracing::warn!(target: "peers", peer = %peer.short(), clock, "a peer's clock shows another time than this one");
        }
    }

    pub(super) fn of(&self, peer: PeerId) -> Option<Off> {
        self.off.lock().expect("no panic while held").get(&peer).copied()
    }

    pub(super) fn forget(&self, peer: PeerId) {
        self.off.lock().expect("no panic while held").remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_named_until_it_is_right_again() {
        let at = |minutes: u64| Moment::from_millis(minutes * 60_000);
        let (clocks, peer) = (Clocks::default(), PeerId::new([1; 32]));
        let table = [
            (at(1060), at(1000), Some("1h ahead")),
            (at(940), at(1000), Some("1h behind")),
            (at(1001), at(1000), None),
            (at(5000), at(1000), Some("ahead")),
        ];
        for (theirs, ours, expected) in table {
            clocks.note(peer, theirs, ours);
            let words = clocks.of(peer).map(Off::words);
            match expected {
                None => assert_eq!(words, None),
                Some(part) => assert!(words.as_ref().is_some_and(|words| words.contains(part)), "{words:?}"),
            }
        }
        clocks.forget(peer);
        assert_eq!(clocks.of(peer), None);
    }
}
