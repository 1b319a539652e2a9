//! The owner's ledger: which packs are offered to which holders, and when.
//!
//! Pure. Owns what is on its way to holders, what they did not take, the room they named, and the pace of the last
//! minutes; confirmed copies are in the store's index and are shown to a [`Wanting`] pack by pack. `now` is the time since
//! any fixed moment of a clock that is never set. No holder can take memory that others need: what is remembered of each
//! is bounded by what it was offered.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::copies::{Place, place_packs};
use crate::base::{Moment, PackId, PeerId, limit};

/// Without any news, an owner looks things over this often.
pub const ROUND_INTERVAL: Duration = Duration::from_secs(30);
/// Rounds do not follow each other faster.
pub const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// An offered pack counts as on its way to a holder for this long.
const OFFER_LIFE: Duration = Duration::from_secs(600);
/// A holder that did not take a pack is not offered it again for this long; others are at once.
const DECLINE_LIFE: Duration = Duration::from_secs(60);
/// Such packs that are remembered of one holder; one that declines more is offered nothing until some are forgotten.
const DECLINED_MAX: usize = OFFERED_MAX;
/// The pace of the last minutes is what the next ones are judged by.
const PACE_WINDOW: Duration = Duration::from_secs(120);
/// Confirmations that the pace is taken from.
const CONFIRMED_MAX: usize = 1024;
/// Holders that have nothing to get are told the head and asked for their room this often.
const TELL_INTERVAL: Duration = Duration::from_secs(300);
/// Packs under way to one holder: enough to keep it busy between rounds.
const OFFERED_MAX: usize = 1024;

/// A pack that wants holders: its id, its length in bytes, its holders and those it is on its way to.
pub type Want = (PackId, u64, Vec<PeerId>);

/// A holder that can be offered packs now.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// When it lost something, if it is on probation for that: others are better places.
    pub lost: Option<Moment>,
}

/// What a holder said last that it can still store, in bytes, and when; it may have kept silent since.
struct Room {
    bytes: u64,
    told: Option<Duration>,
    is_silent: bool,
}

/// What the owner knows of its holders besides their receipts.
#[derive(Default)]
pub struct Ledger {
    offered: HashMap<PackId, Vec<(PeerId, Duration)>>,
    declined: HashMap<PeerId, HashMap<PackId, Duration>>,
    rooms: HashMap<PeerId, Room>,
    /// Some packs want holders, so that room must be known anew.
    lacking: bool,
    /// When packs were confirmed, and how many, for as long as [`PACE_WINDOW`].
    confirmed: VecDeque<(Duration, u64)>,
}

impl Ledger {
    /// A holder confirmed packs.
    pub fn settle(&mut self, now: Duration, holder: PeerId, packs: &[PackId]) {
        self.forget_pace(now);
        if self.confirmed.len() >= CONFIRMED_MAX {
            self.confirmed.pop_front();
        }
        self.confirmed.push_back((now, packs.len() as u64));
        packs.iter().for_each(|pack| {
            self.take_back(holder, pack);
        });
    }

    /// Packs that were offered to a holder, and that it has not confirmed or declined.
    pub fn offered_to(&self, holder: PeerId) -> HashSet<PackId> {
        let offered = self.offered.iter().filter(|(_, peers)| peers.iter().any(|(peer, _)| *peer == holder));
        offered.map(|(pack, _)| *pack).collect()
    }

    /// A holder does not take packs. What it was not offered says nothing.
    pub fn decline(&mut self, now: Duration, holder: PeerId, packs: &[PackId]) {
        self.forget_old(now);
        for pack in packs {
            if self.take_back(holder, pack) {
                let declined = self.declined.entry(holder).or_default();
                if declined.len() < DECLINED_MAX {
                    declined.insert(*pack, now);
                }
            }
        }
    }

    /// A holder said how many bytes it can still store.
    pub fn note_room(&mut self, now: Duration, holder: PeerId, bytes: u64) {
        self.rooms.insert(holder, Room { bytes, told: Some(now), is_silent: false });
    }

    /// A holder did not say what it can store: it is offered nothing until it does.
    pub fn note_silence(&mut self, holder: PeerId) {
        if let Some(room) = self.rooms.get_mut(&holder) {
            (room.told, room.is_silent) = (None, true);
        }
    }

    /// A holder came or went, or an offer did not reach it: what it was offered is open again.
    pub fn forget_offers(&mut self, holder: PeerId) {
        self.rooms.remove(&holder);
        self.declined.remove(&holder);
        self.offered.retain(|_, peers| {
            peers.retain(|(peer, _)| *peer != holder);
            !peers.is_empty()
        });
    }

    /// What a holder said last that it can still store, in bytes.
    pub fn room(&self, holder: PeerId) -> Option<u64> {
        self.rooms.get(&holder).map(|room| room.bytes)
    }

    /// Whether a holder must be told the head and asked for its room in this round. `has_head`: it has confirmed the
    /// newest head; one without room confirms nothing and is not asked for that.
    pub fn is_to_ask(&self, now: Duration, holder: PeerId, has_head: bool) -> bool {
        let Some(room) = self.rooms.get(&holder) else { return true };
        let is_fresh = room.told.is_some_and(|told| now.saturating_sub(told) < TELL_INTERVAL);
        self.lacking || !is_fresh || (room.bytes > 0 && !has_head)
    }

    /// Packs that holders confirmed a second lately; 0 when none did.
    pub fn packs_per_second(&self, now: Duration) -> f64 {
        let age = |when: &Duration| now.saturating_sub(*when);
        let recent = self.confirmed.iter().filter(|(when, _)| age(when) < PACE_WINDOW);
        let (first, packs) =
            recent.fold((None, 0), |(first, sum), (when, packs)| (first.or(Some(when)), sum + packs));
        first.map_or(0.0, |first| packs as f64 / age(first).as_secs_f64().max(1.0))
    }

    /// Peers that packs are under way to.
    pub fn receivers(&mut self, now: Duration) -> HashSet<PeerId> {
        self.forget_old(now);
        self.offered.values().flatten().map(|(peer, _)| *peer).collect()
    }

    /// Begins to look for packs with fewer than `copies` holders, among those that this device's head lists: holders take no
    /// others, and a backup under way has packs that no head lists yet.
    pub fn wanting(&mut self, now: Duration, copies: u32, listed: HashSet<PackId>) -> Wanting {
        self.forget_old(now);
        let peers = |peers: &[(PeerId, Duration)]| peers.iter().map(|(peer, _)| *peer).collect();
        let under_way = self.offered.iter().map(|(pack, offers)| (*pack, peers(offers))).collect();
        Wanting { copies: copies as usize, listed, under_way, found: Vec::new() }
    }

    /// What was found: whether anything wants a holder decides how often all are asked for their room.
    pub fn note_wanted(&mut self, wanted: &[Want]) {
        self.lacking = !wanted.is_empty();
    }

    /// Which of these can be offered something, as they stand now.
    pub fn plan(&mut self, now: Duration, candidates: &[Candidate], copies: u32) -> Plan {
        self.forget_old(now);
        let place = |candidate: &Candidate| {
            let room = self.rooms.get(&candidate.peer).filter(|room| !room.is_silent)?;
            let declined = self.declined.get(&candidate.peer).map_or(0, HashMap::len);
            let place = Place { peer: candidate.peer, bytes: room.bytes, lost: candidate.lost };
            (declined < DECLINED_MAX).then_some(place)
        };
        let places = candidates.iter().filter_map(place).collect();
        let mut load: HashMap<PeerId, usize> = HashMap::new();
        for (peer, _) in self.offered.values().flatten() {
            *load.entry(*peer).or_default() += 1;
        }
        let each = |(peer, packs): (&PeerId, &HashMap<PackId, Duration>)| {
            packs.keys().map(|pack| (*pack, *peer)).collect::<Vec<_>>()
        };
        let declined = self.declined.iter().flat_map(each).collect();
        Plan { copies, places, declined, load }
    }

    /// Packs are offered to a holder now.
    pub fn note_offered(&mut self, now: Duration, holder: PeerId, packs: &[PackId]) {
        for pack in packs {
            self.offered.entry(*pack).or_default().push((holder, now));
        }
    }

    fn take_back(&mut self, holder: PeerId, pack: &PackId) -> bool {
        let Some(peers) = self.offered.get_mut(pack) else { return false };
        let before = peers.len();
        peers.retain(|(peer, _)| *peer != holder);
        let was_offered = peers.len() < before;
        if peers.is_empty() {
            self.offered.remove(pack);
        }
        was_offered
    }

    fn forget_pace(&mut self, now: Duration) {
        self.confirmed.retain(|(when, _)| now.saturating_sub(*when) < PACE_WINDOW);
    }

    /// Forgets offers and declines that are over.
    fn forget_old(&mut self, now: Duration) {
        self.offered.retain(|_, peers| {
            peers.retain(|(_, when)| now.saturating_sub(*when) < OFFER_LIFE);
            !peers.is_empty()
        });
        self.declined.retain(|_, packs| {
            packs.retain(|_, when| now.saturating_sub(*when) < DECLINE_LIFE);
            !packs.is_empty()
        });
    }
}

/// Looks through the own packs for those with too few copies.
pub struct Wanting {
    copies: usize,
    listed: HashSet<PackId>,
    under_way: HashMap<PackId, Vec<PeerId>>,
    found: Vec<Want>,
}

impl Wanting {
    /// One pack, of that length in bytes, and the holders whose receipts count.
    pub fn meet(&mut self, pack: PackId, bytes: u64, mut holders: Vec<PeerId>) {
        if !self.listed.contains(&pack) {
            return;
        }
        for peer in self.under_way.get(&pack).into_iter().flatten() {
            if !holders.contains(peer) {
                holders.push(*peer);
            }
        }
        if holders.len() < self.copies {
            self.found.push((pack, bytes, holders));
        }
    }

    /// Those with the fewest copies first.
    pub fn finish(mut self) -> Vec<Want> {
        self.found.sort_by_key(|(_, _, holders)| holders.len());
        self.found
    }
}

/// Whom packs can go to: what the [`Ledger`] knew when the plan was made.
pub struct Plan {
    copies: u32,
    places: Vec<Place>,
    declined: HashSet<(PackId, PeerId)>,
    load: HashMap<PeerId, usize>,
}

impl Plan {
    /// Which of these packs are offered to whom now: as many as a message holds and a holder may have under way.
    pub fn place(&self, wanted: &[Want]) -> BTreeMap<PeerId, Vec<PackId>> {
        let mut placed = place_packs(wanted, &self.places, &self.declined, self.copies);
        for (peer, packs) in &mut placed {
            let load = self.load.get(peer).copied().unwrap_or(0);
            packs.truncate(OFFERED_MAX.saturating_sub(load).min(limit::OFFER_PACKS_MAX));
        }
        placed.retain(|_, packs| !packs.is_empty());
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T0: Duration = Duration::from_secs(1000);

    fn peer(n: u8) -> PeerId {
        PeerId::new([n; 32])
    }

    fn packs(count: u16) -> Vec<PackId> {
        (0..count).map(|n| PackId::new(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect()
    }

    fn candidate(n: u8) -> Candidate {
        Candidate { peer: peer(n), lost: None }
    }

    /// Ten owners that asked each other every half minute would have sent kilobytes a second for nothing.
    #[test]
    fn holders_are_not_asked_again_while_nothing_wants_one() {
        let (mut ledger, holder) = (Ledger::default(), peer(1));
        assert!(ledger.is_to_ask(T0, holder, true));
        ledger.note_room(T0, holder, 7);
        assert!(!ledger.is_to_ask(T0, holder, true));
        assert!(ledger.is_to_ask(T0, holder, false), "it does not have the newest head");
        assert!(ledger.is_to_ask(T0 + TELL_INTERVAL, holder, true));
        ledger.note_wanted(&[(packs(1)[0], 1, Vec::new())]);
        assert!(ledger.is_to_ask(T0, holder, true) && ledger.room(holder) == Some(7));
        ledger.note_wanted(&[]);
        // It was away meanwhile.
        ledger.forget_offers(holder);
        assert!(ledger.is_to_ask(T0, holder, true));
        ledger.note_room(T0, holder, 0);
        assert!(!ledger.is_to_ask(T0, holder, false), "one without room confirms nothing");
    }

    fn wanted(ledger: &mut Ledger, now: Duration, packs: &[PackId], copies: u32) -> Vec<Want> {
        let mut wanting = ledger.wanting(now, copies, packs.iter().copied().collect());
        packs.iter().for_each(|pack| wanting.meet(*pack, 1, Vec::new()));
        wanting.finish()
    }

    /// A holder pulls what a signed head lists; an offer of anything else is declined, over and over.
    #[test]
    fn a_pack_that_no_head_lists_is_offered_to_nobody() {
        let (mut ledger, packs) = (Ledger::default(), packs(3));
        let mut wanting = ledger.wanting(T0, 2, packs[..2].iter().copied().collect());
        packs.iter().for_each(|pack| wanting.meet(*pack, 1, Vec::new()));
        let found: Vec<PackId> = wanting.finish().into_iter().map(|(pack, ..)| pack).collect();
        assert_eq!(found, packs[..2]);
    }

    #[test]
    fn what_a_holder_does_not_take_is_open_for_others_at_once_and_for_it_after_a_minute() {
        let (mut ledger, packs) = (Ledger::default(), packs(3));
        (1..=2).for_each(|n| ledger.note_room(T0, peer(n), 100));
        ledger.note_offered(T0, peer(1), &packs);
        ledger.decline(T0, peer(1), &packs[..2]);
        let want = wanted(&mut ledger, T0, &packs, 1);
        assert_eq!(want.iter().map(|(pack, ..)| *pack).collect::<Vec<_>>(), packs[..2]);
        let both = [candidate(1), candidate(2)];
        let placed = ledger.plan(T0, &both, 1).place(&want);
        assert_eq!(placed, BTreeMap::from([(peer(2), packs[..2].to_vec())]));
        let later = T0 + DECLINE_LIFE;
        assert_eq!(ledger.plan(later, &both[..1], 1).place(&want)[&peer(1)], packs[..2]);
        // An offer that is not answered is made again in the end.
        assert_eq!(wanted(&mut ledger, T0 + OFFER_LIFE, &packs, 1).len(), 3);
    }

    /// One that declined what nobody offered it filled the memory that the others' declines had.
    #[test]
    fn a_holder_declines_only_what_it_was_offered_and_takes_no_place_of_others() {
        let (mut ledger, packs) = (Ledger::default(), packs(DECLINED_MAX as u16 + 10));
        ledger.decline(T0, peer(1), &packs);
        assert!(ledger.declined.is_empty());
        (1..=2).for_each(|n| ledger.note_room(T0, peer(n), 1 << 30));
        ledger.note_offered(T0, peer(1), &packs);
        ledger.note_offered(T0, peer(2), &packs[..1]);
        ledger.decline(T0, peer(1), &packs);
        ledger.decline(T0, peer(2), &packs[..1]);
        assert_eq!(ledger.declined.values().map(HashMap::len).sum::<usize>(), DECLINED_MAX + 1);
        let want = wanted(&mut ledger, T0, &packs, 1);
        let placed = ledger.plan(T0, &[candidate(1), candidate(2)], 1).place(&want);
        assert_eq!(placed.keys().copied().collect::<Vec<_>>(), [peer(2)], "it declines all there is");
        assert_eq!(placed[&peer(2)].len(), OFFERED_MAX);
    }

    #[test]
    fn the_silent_are_passed_over_and_those_on_probation_are_no_first_choice() {
        let (mut ledger, want) = (Ledger::default(), vec![(packs(1)[0], 1, Vec::new())]);
        (1..=3).for_each(|n| ledger.note_room(T0, peer(n), 1 << (10 * n)));
        let all =
            [candidate(1), candidate(2), Candidate { peer: peer(3), lost: Some(Moment::from_millis(5)) }];
        let placed = ledger.plan(T0, &all, 2).place(&want);
        assert_eq!(placed.into_keys().collect::<Vec<_>>(), [peer(1), peer(2)]);
        ledger.note_silence(peer(2));
        let placed = ledger.plan(T0, &all, 2).place(&want);
        assert_eq!(placed.into_keys().collect::<Vec<_>>(), [peer(1), peer(3)], "else there are too few");
        ledger.note_room(T0, peer(2), 1);
        assert_eq!(ledger.plan(T0, &all, 3).place(&want).len(), 3);
    }

    #[test]
    fn the_pace_is_that_of_the_last_minutes() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.packs_per_second(T0), 0.0);
        ledger.settle(T0, peer(1), &packs(10));
        ledger.settle(T0 + Duration::from_secs(5), peer(1), &packs(10));
        assert_eq!(ledger.packs_per_second(T0 + Duration::from_secs(10)), 2.0);
        assert_eq!(ledger.packs_per_second(T0 + PACE_WINDOW * 2), 0.0);
    }

    /// What happens to a ledger: who, which pack, what.
    fn histories() -> impl Strategy<Value = Vec<(u8, usize, u8)>> {
        prop::collection::vec((1u8..6, 0usize..20, 0u8..6), 0..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_pack_is_under_way_to_more_than_want_it_or_twice_to_one(history in histories(), copies in 1u32..4) {
            let (mut ledger, packs) = (Ledger::default(), packs(20));
            for (at, (who, which, what)) in history.into_iter().enumerate() {
                let (now, one) = (T0 + Duration::from_secs(at as u64 * 7), &packs[which..=which]);
                match what {
                    0 => ledger.settle(now, peer(who), one),
                    1 => ledger.decline(now, peer(who), one),
                    2 => ledger.forget_offers(peer(who)),
                    3 => ledger.note_silence(peer(who)),
                    _ => ledger.note_room(now, peer(who), which as u64),
                }
                let want = wanted(&mut ledger, now, &packs, copies);
                let candidates: Vec<Candidate> = (1..6).map(candidate).collect();
                for (to, placed) in ledger.plan(now, &candidates, copies).place(&want) {
                    prop_assert!(placed.len() as u64 <= ledger.room(to).unwrap_or(0));
                    prop_assert!(placed.iter().all(|pack| ledger.declined.get(&to).is_none_or(|d| !d.contains_key(pack))));
                    ledger.note_offered(now, to, &placed);
                }
                for offers in ledger.offered.values() {
                    let distinct: HashSet<PeerId> = offers.iter().map(|(peer, _)| *peer).collect();
                    prop_assert!(distinct.len() == offers.len() && offers.len() <= copies as usize);
                }
            }
        }
    }
}
