//! Audits: which slices to ask a holder for, and what its answers prove.
//!
//! Pure. Whoever knows a pack's id can check a slice of it without having the pack; nothing here needs a key.

use std::collections::{BTreeSet, BinaryHeap, HashSet};

use super::pull::{FetchFailure, PulledSlice};
use crate::base::{HeadId, Moment, PackId, limit};
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
            Err(FetchFailure::NotFound | FetchFailure::Corrupt | FetchFailure::Malformed) => {
                AuditOutcome::Wrong
            }
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

/// Of the packs of one holder, met one after the other, those that a round of audits picks from: what the seed ranks first.
/// Takes memory for these only.
pub struct Chosen {
    seed: u64,
    most: usize,
    ranked: BinaryHeap<([u64; 2], PackId, u64)>,
}

impl Chosen {
    /// For a round of `most` slices.
    pub fn new(most: usize, seed: u64) -> Self {
        Self { seed, most, ranked: BinaryHeap::new() }
    }

    /// One more pack, of that length in bytes.
    pub fn meet(&mut self, pack: PackId, bytes: u64) {
        self.ranked.push((chance(self.seed, 0, &pack), pack, bytes));
        if self.ranked.len() > self.most {
            self.ranked.pop();
        }
    }

    /// What [`pick_slices`] picks of all packs that were met.
    pub fn picks(self) -> Vec<Pick> {
        let (most, seed) = (self.most, self.seed);
        pick_slices(&self.into_packs(), most, seed)
    }

    /// One slice of each that was chosen.
    pub fn picks_once(self) -> Vec<Pick> {
        let seed = self.seed;
        let packs = self.into_packs();
        pick_slices(&packs, packs.len(), seed)
    }

    fn into_packs(self) -> Vec<(PackId, u64)> {
        self.ranked.into_iter().map(|(_, pack, bytes)| (pack, bytes)).collect()
    }
}

/// What one holder is asked for in a round: some of its packs, and those that are doubted.
pub struct Choice {
    some: Chosen,
    doubted: Chosen,
}

impl Choice {
    /// For a round of `slices` slices, besides those of doubted packs.
    pub fn new(slices: usize, seed: u64) -> Self {
        let doubted = Chosen::new(limit::AUDIT_SLICES_SUSPECT_MAX, seed ^ 2);
        Self { some: Chosen::new(slices, seed), doubted }
    }

    /// One more pack that it has receipted, of that length in bytes.
    pub fn meet(&mut self, pack: PackId, bytes: u64, is_doubted: bool) {
        self.some.meet(pack, bytes);
        if is_doubted {
            self.doubted.meet(pack, bytes);
        }
    }

    /// What to ask for.
    pub fn picks(self) -> Vec<Pick> {
        let mut picks = self.some.picks();
        picks.extend(self.doubted.picks_once());
        picks
    }
}

/// Where one pack is lost others may be: page by page a holder says what it still has, and is then asked for a slice of each
/// pack that it says to have.
pub struct Doubts {
    said: Chosen,
}

impl Doubts {
    /// The seed says which packs are asked for where a holder has more than can be asked for.
    pub fn new(seed: u64) -> Self {
        Self { said: Chosen::new(limit::AUDIT_SLICES_SUSPECT_MAX, seed) }
    }

    /// Some packs that the holder receipted, with their lengths in bytes, and those of them that it confirms now; `None` if
    /// it does not answer, which is believed to be a yes. Returns those that it has no more.
    pub fn hear(
        &mut self,
        tally: &mut AuditTally,
        packs: &[(PackId, u64)],
        confirmed: Option<&HashSet<PackId>>,
    ) -> Vec<PackId> {
        let open = packs.iter().copied().filter(|(pack, _)| !tally.lost.contains(pack));
        let says_to_have = |(pack, _): &(PackId, u64)| confirmed.is_none_or(|all| all.contains(pack));
        let (said, gone): (Vec<_>, Vec<_>) = open.partition(says_to_have);
        said.into_iter().for_each(|(pack, bytes)| self.said.meet(pack, bytes));
        tally.unconfirmed += gone.len() as u64;
        gone.into_iter().map(|(pack, _)| pack).collect()
    }

    /// What to ask for when all was heard.
    pub fn picks(self) -> Vec<Pick> {
        self.said.picks_once()
    }
}

/// When a holder lost something, if that was so lately that it is no place for more while there are others.
pub fn on_probation(lost: Option<Moment>, now: Moment) -> Option<Moment> {
    lost.filter(|at| now.since(*at) < limit::AUDIT_PROBATION)
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
    /// Packs of which a slice was right.
    pub proven: BTreeSet<PackId>,
    /// Packs that it was asked for and of which it proved nothing: it was busy, refused, or kept silent.
    pub unanswered: BTreeSet<PackId>,
    /// It was not there to be asked.
    pub was_away: bool,
    /// Packs of which a slice was wrong.
    pub lost: BTreeSet<PackId>,
    /// Packs more that the holder says itself that it does not have.
    pub unconfirmed: u64,
    /// Records that came and were right.
    pub records_ok: u64,
    /// Records that were wrong, or that the holder does not have.
    pub records_lost: u64,
    /// Heads that it confirmed and of which it lost records.
    pub unsound_heads: BTreeSet<HeadId>,
}

impl AuditTally {
    /// Adds one answer.
    pub fn note(&mut self, pick: &Pick, outcome: AuditOutcome) {
        self.slices += 1;
        self.outcomes[outcome as usize] += 1;
        match outcome {
            AuditOutcome::Ok => self.proven.insert(pick.pack),
            AuditOutcome::Wrong => self.lost.insert(pick.pack),
            AuditOutcome::Timeout | AuditOutcome::Unknown => self.unanswered.insert(pick.pack),
            AuditOutcome::Offline => false,
        };
    }

    /// Packs of which every slice that was asked for came and was right.
    pub fn wholly_proven(&self) -> impl Iterator<Item = PackId> {
        let is_whole = |pack: &&PackId| !self.lost.contains(pack) && !self.unanswered.contains(pack);
        self.proven.iter().filter(is_whole).copied()
    }

    /// Packs that count as lost.
    pub fn packs_lost(&self) -> u64 {
        self.lost.len() as u64 + self.unconfirmed
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
    fn packs_that_come_one_after_the_other_are_picked_as_if_all_were_at_hand() {
        for (count, slices) in [(0, 7), (1, 7), (5, 7), (400, 7), (400, 300), (3, 300)] {
            let all = packs(count);
            let mut chosen = Chosen::new(slices, 11);
            all.iter().rev().for_each(|(pack, bytes)| chosen.meet(*pack, *bytes));
            assert!(chosen.ranked.len() <= slices);
            assert_eq!(chosen.picks(), pick_slices(&all, slices, 11), "{slices} of {count}");
        }
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

    /// How many rounds it takes until a holder that lost every `one_in`th of these packs is found out; at most `most`.
    fn rounds_until_found(all: &[(PackId, u64)], one_in: usize, seed: u64, most: u64) -> Option<u64> {
        let lost: HashSet<PackId> = all.iter().step_by(one_in).map(|(id, _)| *id).collect();
        (0..most).find(|round| {
            let mut chosen = Chosen::new(limit::AUDIT_SLICES_ROUND, chance(seed, *round, &all[0].0)[0]);
            all.iter().for_each(|(pack, bytes)| chosen.meet(*pack, *bytes));
            chosen.picks().iter().any(|pick| lost.contains(&pick.pack))
        })
    }

    /// Simulated days at the pace that is built in: the figures behind `limit::AUDIT_SLICES_DAY` and `limit::AUDIT_ROUND`.
    #[test]
    fn a_loss_of_one_percent_is_found_within_a_day_and_a_total_one_within_the_hour() {
        let rounds = |hours: u64| hours * 3600 / limit::AUDIT_ROUND.as_secs();
        let all = packs(400);
        let found =
            (0..1000).filter(|seed| rounds_until_found(&all, 100, *seed, rounds(24)).is_some()).count();
        assert!(found >= 950, "a loss of 1 % was found within a day in {found} of 1,000 cases");
        let slowest = (0..100).map(|seed| rounds_until_found(&all, 1, seed, rounds(24))).max().flatten();
        assert!(slowest.is_some_and(|round| round < rounds(1)), "{slowest:?}");
    }

    #[test]
    fn one_that_failed_loses_what_it_does_not_confirm_and_is_asked_for_the_rest() {
        let all = packs(10);
        let mut tally = AuditTally { lost: BTreeSet::from([all[0].0]), ..AuditTally::default() };
        let mut doubts = Doubts::new(3);
        let confirmed: HashSet<PackId> = all[..4].iter().map(|(pack, _)| *pack).collect();
        let gone = doubts.hear(&mut tally, &all[..6], Some(&confirmed));
        assert_eq!(gone, [all[4].0, all[5].0]);
        assert!(doubts.hear(&mut tally, &all[6..], None).is_empty(), "silence proves nothing");
        assert_eq!(tally.packs_lost(), 3);
        let asked: BTreeSet<PackId> = doubts.picks().iter().map(|pick| pick.pack).collect();
        assert_eq!(asked, all[1..4].iter().chain(&all[6..]).map(|(pack, _)| *pack).collect());
    }

    #[test]
    fn answers_are_judged_by_what_they_prove() {
        let bytes = vec![7u8; 1 << 18];
        let (pack, outboard) = Outboard::of(&bytes);
        let pick = Pick { pack, bytes: 1 << 18, cell: 2 };
        let slice =
            |data: &[u8]| Ok(PulledSlice { data: data.to_vec().into(), proof: outboard.proof(pick.range()) });
        let right = &bytes[2 << 16..3 << 16];
        let mut wrong = right.to_vec();
        wrong[9] ^= 1;
        let table = [
            (slice(right), AuditOutcome::Ok),
            (slice(&wrong), AuditOutcome::Wrong),
            (slice(&[]), AuditOutcome::Wrong),
            (Err(FetchFailure::NotFound), AuditOutcome::Wrong),
            (Err(FetchFailure::Corrupt), AuditOutcome::Wrong),
            (Err(FetchFailure::Malformed), AuditOutcome::Wrong),
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
        assert_eq!((tally.slices, tally.outcomes, tally.lost.len()), (10, [1, 5, 1, 1, 2], 1));
    }
}
