//! A bounded number of places that anyone may take: who takes many must leave some to the others.
//!
//! Nobody finds it full for long. Somebody new takes the place of one that does least: of the same host when that has its
//! share, else of the same network when that has, else of the host with the most places. Among those that do equally little
//! chance decides. The oldest, or the newest, would be known beforehand to who fills the places again and again; so each that
//! comes in earnest has a good chance to stay until it is known.

use std::collections::BTreeMap;

use crate::base::Origin;

/// How many there may be at one time.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub all: usize,
    /// From one host.
    pub host: usize,
    /// From one network.
    pub network: usize,
}

/// Whether a guest is one of those meant.
type Choice = Box<dyn Fn(&Origin) -> bool>;

/// Who has a place.
#[derive(Debug)]
pub struct Crowd<K> {
    room: Room,
    guests: BTreeMap<K, Origin>,
}

/// What becomes of somebody new.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Entry<K> {
    /// It has a place.
    Free,
    /// It has the place of this one, which has to go.
    InsteadOf(K),
    /// All that could make room for it are needed more.
    Full,
}

impl<K: Copy + Ord> Crowd<K> {
    /// With nobody in it.
    pub const fn new(room: Room) -> Self {
        Self { room, guests: BTreeMap::new() }
    }

    /// Lets somebody in. `worth` says what a guest does, least first, and `None` of one that must not go; `chance` is any
    /// number.
    pub fn enter(
        &mut self,
        key: K,
        origin: Origin,
        chance: u64,
        worth: impl Fn(K) -> Option<u8>,
    ) -> Entry<K> {
        let entry = match self.over(origin) {
            None => Entry::Free,
            Some(wanted) => match self.least(wanted, chance, worth) {
                None => return Entry::Full,
                Some(goes) => {
                    self.guests.remove(&goes);
                    Entry::InsteadOf(goes)
                }
            },
        };
        self.guests.insert(key, origin);
        entry
    }

    /// A guest went; one that is not there any more does not matter.
    pub fn leave(&mut self, key: K) {
        self.guests.remove(&key);
    }

    /// How many places are taken.
    pub fn len(&self) -> usize {
        self.guests.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    /// Those of whom one has to go for a newcomer from there, if one has to.
    fn over(&self, newcomer: Origin) -> Option<Choice> {
        let count = |wanted: &dyn Fn(&Origin) -> bool| self.guests.values().filter(|of| wanted(of)).count();
        let of_host = move |of: &Origin| of.host == newcomer.host;
        if count(&of_host) >= self.room.host {
            return Some(Box::new(of_host));
        }
        let of_network = move |of: &Origin| of.network == newcomer.network;
        if count(&of_network) >= self.room.network {
            return Some(Box::new(of_network));
        }
        if self.guests.len() < self.room.all {
            return None;
        }
        let largest = self
            .guests
            .values()
            .max_by_key(|one| (count(&|of| of.network == one.network), count(&|of| of.host == one.host)))?
            .host;
        Some(Box::new(move |of| of.host == largest))
    }

    fn least(
        &self,
        wanted: impl Fn(&Origin) -> bool,
        chance: u64,
        worth: impl Fn(K) -> Option<u8>,
    ) -> Option<K> {
        let may_go = |wanted: &dyn Fn(&Origin) -> bool| -> Vec<(u8, K)> {
            let of = self.guests.iter().filter(|(_, origin)| wanted(origin));
            of.filter_map(|(key, _)| Some((worth(*key)?, *key))).collect()
        };
        let candidates = may_go(&wanted);
        let lowest = candidates.iter().map(|(worth, _)| *worth).min()?;
        let equal: Vec<K> =
            candidates.into_iter().filter(|(worth, _)| *worth == lowest).map(|(_, key)| key).collect();
        let at = usize::try_from(chance % equal.len() as u64).unwrap_or(0);
        equal.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { all: 6, host: 2, network: 3 };

    fn from(text: &str) -> Origin {
        Origin::of(text.parse().unwrap())
    }

    fn full(hosts: &[&str]) -> Crowd<u32> {
        let mut crowd = Crowd::new(ROOM);
        for (key, host) in (0..).zip(hosts) {
            assert_eq!(crowd.enter(key, from(host), 0, |_| Some(0)), Entry::Free, "{host}");
        }
        crowd
    }

    #[test]
    fn who_has_its_share_makes_room_itself_and_the_largest_for_all_others() {
        let table: [(&[&str], &str, Entry<u32>); 5] = [
            (&["10.0.0.1"], "10.0.0.1", Entry::Free),
            (&["10.0.0.1", "10.0.0.1", "10.0.1.1"], "10.0.0.1", Entry::InsteadOf(0)),
            (&["10.0.0.1", "10.0.0.2", "10.0.0.3"], "10.0.0.4", Entry::InsteadOf(0)),
            (&["10.0.0.1", "10.0.0.1", "10.0.0.2"], "10.0.1.1", Entry::Free),
            (
                &["10.0.9.1", "10.0.1.1", "10.0.2.1", "10.0.2.1", "10.0.3.1", "10.0.4.1"],
                "10.0.5.1",
                Entry::InsteadOf(2),
            ),
        ];
        for (there, newcomer, expected) in table {
            let mut crowd = full(there);
            assert_eq!(crowd.enter(99, from(newcomer), 0, |_| Some(0)), expected, "{newcomer}");
            assert!(crowd.len() <= ROOM.all);
        }
    }

    #[test]
    fn who_does_least_goes_first_by_chance_and_who_is_needed_stays() {
        let mut crowd = full(&["10.0.0.1", "10.0.0.1"]);
        assert_eq!(crowd.enter(9, from("10.0.0.1"), 7, |key| Some(u8::from(key == 0))), Entry::InsteadOf(1));
        assert_eq!(crowd.enter(8, from("10.0.0.1"), 1, |_| Some(3)), Entry::InsteadOf(9), "by chance");
        assert_eq!(crowd.enter(7, from("10.0.0.1"), 0, |_| None), Entry::Full);
        crowd.leave(8);
        crowd.leave(8);
        assert_eq!(crowd.enter(7, from("10.0.0.1"), 0, |_| None), Entry::Free);
        assert_eq!(crowd.len(), 2);
    }

    /// One host that comes again and again took the places of all others.
    #[test]
    fn a_flood_from_one_host_takes_nobody_elses_place() {
        let mut crowd = full(&["10.0.1.1", "10.0.2.1"]);
        for key in 100..1000 {
            let entry = crowd.enter(key, from("203.0.113.9"), u64::from(key), |_| Some(0));
            assert!(!matches!(entry, Entry::InsteadOf(0 | 1)), "{entry:?}");
        }
        assert_eq!(crowd.len(), 4);
    }
}
