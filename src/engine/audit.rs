//! Audits: which slices to ask a holder for, and what its answers prove.
//!
//! Pure. Whoever knows a pack's id can check a slice of it without having the pack; nothing here needs a key.

use std::collections::BTreeSet;

use super::pull::{FetchFailure, PulledSlice};
use crate::base::{PackId, limit};
use crate::pack::{CellRange, cell_count, verify_slice};

/// What one answer, or the want of it, proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditOutcome {
    /// The slice came and is right: the holder has it.
    Ok,
    /// It is wrong, or the holder says that it has the pack damaged or not at all.
    Wrong,
    /// The holder cannot be reached.
    Offline,
    /// It did not answer in time.
    Timeout,
    /// It is busy or refuses: proves nothing.
    Unknown,
}

impl AuditOutcome {
    /// Lower-case name, as in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Wrong => "wrong",
            Self::Offline => "offline",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }
}

/// One cell of one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    /// Which pack.
    pub pack: PackId,
    /// Its length in bytes.
    pub bytes: u64,
    /// Which cell.
    pub cell: usize,
}

impl Pick {
    /// The cell as a range.
    pub fn range(&self) -> CellRange {
        CellRange { first: self.cell, end: self.cell + 1 }
    }

    /// What an answer to it proves.
    pub fn judge(&self, answer: &Result<PulledSlice, FetchFailure>) -> AuditOutcome {
        match answer {
            Ok(slice) => match verify_slice(self.pack, self.bytes, self.range(), &slice.data, &slice.proof) {
                Ok(()) => AuditOutcome::Ok,
                Err(_) => AuditOutcome::Wrong,
            },
            Err(FetchFailure::NotFound | FetchFailure::Corrupt) => AuditOutcome::Wrong,
            Err(FetchFailure::Timeout) => AuditOutcome::Timeout,
            Err(FetchFailure::Offline(_)) => AuditOutcome::Offline,
            Err(FetchFailure::Busy | FetchFailure::Refused) => AuditOutcome::Unknown,
        }
    }
}

/// `count` cells of these packs (with their lengths) at random, each pack once before any comes twice.
///
/// The same seed ranks packs alike whoever holds them, so that holders of one pack are asked for it at the same time:
/// one that has lost it cannot get it from another and pass.
pub fn pick_slices(packs: &[(PackId, u64)], count: usize, seed: u64) -> Vec<Pick> {
    let mut ranked: Vec<([u64; 2], usize)> =
        packs.iter().enumerate().map(|(at, (id, _))| (chance(seed, 0, id), at)).collect();
    ranked.sort_unstable();
    let mut picks = BTreeSet::new();
    let mut out = Vec::new();
    for round in 0..count.div_ceil(packs.len().max(1)) as u64 {
        for (_, at) in ranked.iter().take(count - out.len()) {
            let (pack, bytes) = packs[*at];
            let cells =
                cell_count(usize::try_from(bytes).unwrap_or(usize::MAX)).clamp(1, limit::PACK_CELLS_MAX);
            let cell = (chance(seed, round, &pack)[1] % cells as u64) as usize;
            let pick = Pick { pack, bytes, cell };
            // A cell that comes again would prove nothing new.
            if picks.insert(pick) {
                out.push(pick);
            }
        }
    }
    out
}

/// Two numbers that nobody foresees who does not know the seed.
fn chance(seed: u64, round: u64, pack: &PackId) -> [u64; 2] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&round.to_le_bytes()).update(pack.as_bytes());
    let hash = hasher.finalize();
    let (words, _) = hash.as_bytes().as_chunks::<8>();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}

/// What all answers of one holder come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditTally {
    /// Slices asked for.
    pub slices: u64,
    /// Each outcome: ok, wrong, offline, timeout, unknown.
    pub outcomes: [u64; 5],
    /// Packs of which a slice was wrong.
    pub lost: BTreeSet<PackId>,
}

impl AuditTally {
    /// Adds one answer.
    pub fn note(&mut self, pick: &Pick, outcome: AuditOutcome) {
        self.slices += 1;
        self.outcomes[outcome as usize] += 1;
        if outcome == AuditOutcome::Wrong {
            self.lost.insert(pick.pack);
        }
    }

    /// How often an outcome came.
    pub fn of(&self, outcome: AuditOutcome) -> u64 {
        self.outcomes[outcome as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Outboard;

    fn packs(count: u64) -> Vec<(PackId, u64)> {
        (0..count).map(|i| (PackId::new(*blake3::hash(&i.to_le_bytes()).as_bytes()), 16 << 20)).collect()
    }

    #[test]
    fn every_pack_is_picked_before_one_comes_twice_and_cells_are_spread() {
        let all = packs(50);
        let picks = pick_slices(&all, 50, 7);
        let distinct: BTreeSet<PackId> = picks.iter().map(|pick| pick.pack).collect();
        assert_eq!((picks.len(), distinct.len()), (50, 50));
        let cells: BTreeSet<usize> = picks.iter().map(|pick| pick.cell).collect();
        assert!(cells.len() > 30 && cells.iter().all(|cell| *cell < 256), "{cells:?}");
        assert_ne!(pick_slices(&all, 5, 7), pick_slices(&all, 5, 8));
        assert_eq!(pick_slices(&[], 5, 7), []);
        assert_eq!(pick_slices(&[(all[0].0, 1 << 17)], 300, 7).len(), 2, "it has only two cells");
    }

    #[test]
    fn holders_of_the_same_packs_are_asked_for_them_at_the_same_time() {
        let all = packs(60);
        let (first, second): (Vec<_>, Vec<_>) = (
            pick_slices(&all[..40], 20, 3),
            pick_slices(&all[..40].iter().rev().copied().collect::<Vec<_>>(), 20, 3),
        );
        assert_eq!(first, second);
    }

    /// The figure behind `limit::AUDIT_SLICES_DAY`.
    #[test]
    fn three_hundred_slices_find_a_loss_of_one_percent_nearly_always() {
        let all = packs(1000);
        let lost: BTreeSet<PackId> = all.iter().step_by(100).map(|(id, _)| *id).collect();
        let found = (0..100)
            .filter(|seed| pick_slices(&all, 300, *seed).iter().any(|pick| lost.contains(&pick.pack)));
        assert!(found.count() >= 90);
    }

    #[test]
    fn answers_are_judged_by_what_they_prove() {
        let bytes = vec![7u8; 1 << 18];
        let (pack, outboard) = Outboard::of(&bytes);
        let pick = Pick { pack, bytes: 1 << 18, cell: 2 };
        let slice =
            |data: &[u8]| Ok(PulledSlice { data: data.to_vec(), proof: outboard.proof(pick.range()) });
        let right = &bytes[2 << 16..3 << 16];
        let mut wrong = right.to_vec();
        wrong[9] ^= 1;
        let table = [
            (slice(right), AuditOutcome::Ok),
            (slice(&wrong), AuditOutcome::Wrong),
            (slice(&[]), AuditOutcome::Wrong),
            (Err(FetchFailure::NotFound), AuditOutcome::Wrong),
            (Err(FetchFailure::Corrupt), AuditOutcome::Wrong),
            (Err(FetchFailure::Busy), AuditOutcome::Unknown),
            (Err(FetchFailure::Refused), AuditOutcome::Unknown),
            (Err(FetchFailure::Timeout), AuditOutcome::Timeout),
            (Err(FetchFailure::Offline("x".into())), AuditOutcome::Offline),
        ];
        let mut tally = AuditTally::default();
        for (answer, expected) in &table {
            let outcome = pick.judge(answer);
            assert_eq!(outcome, *expected);
            tally.note(&pick, outcome);
        }
        assert_eq!((tally.slices, tally.outcomes, tally.lost.len()), (9, [1, 4, 1, 1, 2], 1));
    }
}
