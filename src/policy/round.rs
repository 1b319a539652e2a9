//! Rounds over all packs, a stretch at a time: checks that take up where the last one stopped, and parts of all packs.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::{Moment, PackId};

/// Thousandths in a whole.
const WHOLE: u32 = 1000;
/// Parts that packs can be divided in; more would be emptier than one pack in the largest store.
const PARTS_MAX: u32 = 65_536;

/// Part of all packs: `5%` or `n/m`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Subset {
    /// One of several equal parts, the same packs each time; numbers begin at 1.
    Part {
        /// Which.
        number: u32,
        /// Of how many.
        parts: u32,
    },
    /// So many thousandths of all bytes, on from where the last such check stopped.
    Share(u32),
}

/// Text that names no part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a share such as 5% nor a part such as 1/20")]
pub struct SubsetError(String);

impl FromStr for Subset {
    type Err = SubsetError;

    fn from_str(text: &str) -> Result<Self, SubsetError> {
        let wrong = || SubsetError(text.to_owned());
        if let Some(share) = text.strip_suffix('%') {
            let percent: f64 = share.parse().map_err(|_| wrong())?;
            let permille = (percent * 10.0).round();
            let fits = (1.0..=f64::from(WHOLE)).contains(&permille);
            return if fits { Ok(Self::Share(permille as u32)) } else { Err(wrong()) };
        }
        let (number, parts) = text.split_once('/').ok_or_else(wrong)?;
        let (number, parts) =
            (number.parse().map_err(|_| wrong())?, parts.parse::<u32>().map_err(|_| wrong())?);
        let fits = (1..=PARTS_MAX).contains(&parts) && (1..=parts).contains(&number);
        if fits { Ok(Self::Part { number, parts }) } else { Err(wrong()) }
    }
}

impl Subset {
    /// Which of `packs` (sorted by id, with their bytes) belong to it, after the pack `after` where it is a share.
    ///
    /// A share ends where the round does, so that the next one begins at the first pack. It has at least one pack.
    pub fn choose(&self, packs: &[(PackId, u64)], after: Option<PackId>) -> Vec<usize> {
        match *self {
            Self::Part { number, parts } => {
                let is_in = |id: &PackId| word(id) % u64::from(parts) == u64::from(number - 1);
                (0..packs.len()).filter(|at| is_in(&packs[*at].0)).collect()
            }
            Self::Share(permille) => {
                let all: u64 = packs.iter().map(|(_, bytes)| bytes).sum();
                let wanted = (u128::from(all) * u128::from(permille)).div_ceil(u128::from(WHOLE));
                let first = after.map_or(0, |after| packs.partition_point(|(id, _)| *id <= after));
                let first = if first == packs.len() { 0 } else { first };
                let mut taken = 0u128;
                let next = packs[first..].iter().take_while(|(_, bytes)| {
                    let more = taken < wanted;
                    taken += u128::from(*bytes);
                    more
                });
                (first..first + next.count()).collect()
            }
        }
    }
}

/// Ids are hashes: their bits are as good as chance.
fn word(id: &PackId) -> u64 {
    let (word, _) = id.as_bytes().split_first_chunk::<8>().expect("an id has 32 bytes");
    u64::from_le_bytes(*word)
}

/// How far a round over all packs is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Round {
    /// The last pack that was checked, in order of ids; none at the start of a round.
    pub after: Option<PackId>,
    /// When this round began.
    pub began: Option<Moment>,
    /// Bytes checked in it.
    pub bytes: u64,
    /// When a stretch was checked last.
    pub last: Option<Moment>,
    /// When a round was last complete.
    pub completed: Option<Moment>,
}

impl Round {
    /// Notes that packs of `bytes` up to `reached` were checked; `ended` when no pack comes after.
    pub fn advance(&mut self, reached: Option<PackId>, bytes: u64, ended: bool, now: Moment) {
        self.began = self.began.or(Some(now));
        self.last = Some(now);
        if ended {
            (self.after, self.began, self.bytes) = (None, None, 0);
            self.completed = Some(now);
        } else if reached.is_some() {
            self.after = reached;
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(count: u64) -> Vec<(PackId, u64)> {
        let mut packs: Vec<_> =
            (0..count).map(|i| (PackId::new(*blake3::hash(&i.to_le_bytes()).as_bytes()), 10)).collect();
        packs.sort_unstable();
        packs
    }

    #[test]
    fn shares_and_parts_are_read_and_nonsense_is_refused() {
        let table = [
            ("5%", Some(Subset::Share(50))),
            ("0.1%", Some(Subset::Share(1))),
            ("100%", Some(Subset::Share(1000))),
            ("1/20", Some(Subset::Part { number: 1, parts: 20 })),
            ("20/20", Some(Subset::Part { number: 20, parts: 20 })),
            ("0%", None),
            ("101%", None),
            ("NaN%", None),
            ("0/3", None),
            ("4/3", None),
            ("1/70000", None),
            ("5", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }

    #[test]
    fn parts_divide_all_packs_and_shares_go_round() {
        let packs = packs(1000);
        let mut seen: Vec<usize> =
            (1..=7).flat_map(|number| Subset::Part { number, parts: 7 }.choose(&packs, None)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());

        let (mut round, mut checked, mut runs) = (Round::default(), 0, 0);
        while round.completed.is_none() {
            let chosen = Subset::Share(34).choose(&packs, round.after);
            assert_eq!(chosen[0], checked, "it goes on where it stopped");
            checked += chosen.len();
            runs += 1;
            let last = *chosen.last().unwrap();
            round.advance(
                Some(packs[last].0),
                10 * chosen.len() as u64,
                last == 999,
                Moment::from_millis(runs),
            );
        }
        assert_eq!((checked, runs), (1000, 30));
        assert_eq!((round.after, round.bytes), (None, 0));
    }

    #[test]
    fn a_share_has_a_pack_and_survives_that_packs_come_and_go() {
        let all = packs(3);
        assert_eq!(Subset::Share(1).choose(&all, None), [0]);
        assert_eq!(Subset::Share(1).choose(&all, Some(all[2].0)), [0], "the last pack was the end");
        assert_eq!(Subset::Share(1).choose(&all[1..], Some(all[0].0)), [0], "the pack at the mark is gone");
        assert_eq!(Subset::Share(500).choose(&[], None), [0; 0]);
    }
}
