//! A holder's queue: what owners offered and nobody works on yet, and how far an offer is that is worked on.
//!
//! Pure. Bounded for each owner, so that none fills the memory; an owner that was answered and hears nothing offers again,
//! so that nothing here must outlive the program.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use crate::base::{Code, PackId, PeerId, VaultId, limit};
use crate::snapshot::HeadSummary;

/// Packs pulled at one time for all owners together: each needs up to 16 MiB.
pub const PULLS_MAX: usize = 4;
/// Of those, for one owner.
pub const PULLS_PER_OWNER_MAX: usize = 3;
/// And for all owners together that held back.
pub const SLOW_PULLS_MAX: usize = 1;
/// Owners served at one time, so that one with much to store does not keep the others waiting.
pub const OWNERS_MAX: usize = 8;
/// Of those, such that held back.
pub const SLOW_OWNERS_MAX: usize = 2;
/// Vaults of one owner that may wait at one time: each wish holds up to 512 KiB of pack ids.
const WISHES_PER_OWNER_MAX: usize = 4;
/// Packs of one wish: an owner that is served late may offer a few times before.
const WISH_PACKS_MAX: usize = 4 * limit::OFFER_PACKS_MAX;
/// Packs after which a receipt is sent even though more are coming.
const RECEIPT_PACKS: usize = 16;
/// A receipt is sent at least this often while packs come in.
const RECEIPT_PAUSE: Duration = Duration::from_secs(2);

/// Whose wish it is, and for which vault.
pub type WishKey = (PeerId, VaultId);

/// What one owner wants stored.
pub struct Wish {
    /// The newest head that it named.
    pub head: HeadSummary,
    /// What it offered, in that order, nothing twice.
    pub packs: Vec<PackId>,
}

/// Offers that nobody works on. One wish for each owner and vault: a newer offer joins it. Whoever waits longest is next.
#[derive(Default)]
pub struct Wishes {
    waiting: VecDeque<(WishKey, Wish)>,
}

impl Wishes {
    /// An offer; returns how many of its packs are taken on.
    pub fn add(&mut self, key: WishKey, head: HeadSummary, packs: &[PackId]) -> u32 {
        let wish = match self.waiting.iter().position(|(waiting, _)| *waiting == key) {
            Some(place) => &mut self.waiting[place].1,
            None if self.of_owner(key.0) >= WISHES_PER_OWNER_MAX => return 0,
            None => {
                self.waiting.push_back((key, Wish { head, packs: Vec::new() }));
                &mut self.waiting.back_mut().expect("just pushed").1
            }
        };
        wish.head = head;
        let mut known: HashSet<PackId> = wish.packs.iter().copied().collect();
        let mut accepted = 0;
        for pack in packs {
            if !known.contains(pack) && wish.packs.len() < WISH_PACKS_MAX {
                known.insert(*pack);
                wish.packs.push(*pack);
            }
            accepted += u32::from(known.contains(pack));
        }
        accepted
    }

    fn of_owner(&self, owner: PeerId) -> usize {
        self.waiting.iter().filter(|((of, _), _)| *of == owner).count()
    }

    /// The next wish of an owner that has no place yet, however many vaults it has. `served` are those that have; of those
    /// that are `slow` only a few have one.
    pub fn take(
        &mut self,
        served: &HashSet<PeerId>,
        slow: impl Fn(PeerId) -> bool,
    ) -> Option<(WishKey, Wish)> {
        let place = self.next(served, slow)?;
        self.waiting.remove(place)
    }

    /// Whether somebody waits for a place.
    pub fn is_awaited(&self, served: &HashSet<PeerId>) -> bool {
        self.waiting.iter().any(|((owner, _), _)| !served.contains(owner))
    }

    fn next(&self, served: &HashSet<PeerId>, slow: impl Fn(PeerId) -> bool) -> Option<usize> {
        if served.len() >= OWNERS_MAX {
            return None;
        }
        let slow_places = SLOW_OWNERS_MAX.saturating_sub(served.iter().filter(|owner| slow(**owner)).count());
        let may = |owner: PeerId| !served.contains(&owner) && (slow_places > 0 || !slow(owner));
        self.waiting.iter().position(|((owner, _), _)| may(*owner))
    }

    /// Drops what an owner wanted: it offers again when it is back.
    pub fn forget(&mut self, owner: PeerId) {
        self.waiting.retain(|((of, _), _)| *of != owner);
    }
}

/// How far one wish is: what came, and what of it the owner knows. Times are since it was begun.
pub struct Serving {
    left: BTreeSet<PackId>,
    fresh: Vec<PackId>,
    told: Duration,
}

impl Serving {
    /// Begins with all that was offered.
    pub fn new(offered: &[PackId]) -> Self {
        Self { left: offered.iter().copied().collect(), fresh: Vec::new(), told: Duration::ZERO }
    }

    /// A pack is stored.
    pub fn store(&mut self, pack: PackId) {
        self.fresh.push(pack);
    }

    /// What is to be confirmed now; more are coming. Empty while it is too early.
    pub fn due(&mut self, now: Duration) -> Vec<PackId> {
        let is_due = self.fresh.len() >= RECEIPT_PACKS || now.saturating_sub(self.told) >= RECEIPT_PAUSE;
        if is_due { self.rest() } else { Vec::new() }
    }

    /// What is to be confirmed when nothing more comes.
    pub fn rest(&mut self) -> Vec<PackId> {
        std::mem::take(&mut self.fresh)
    }

    /// The owner has a receipt for these.
    pub fn confirm(&mut self, now: Duration, packs: &[PackId]) {
        self.told = now;
        packs.iter().for_each(|pack| {
            self.left.remove(pack);
        });
    }

    /// What the owner must be told, at the end, not to wait for: what is not here, or was confirmed in vain.
    pub fn into_left(self) -> Vec<PackId> {
        self.left.into_iter().collect()
    }
}

/// Whether one pack that cannot be stored means that no other of that owner can be now. One that the owner does not have, or not
/// soundly, says nothing about the others.
pub fn is_hopeless(code: Code) -> bool {
    matches!(code, Code::StorageFull | Code::StorageUnavailable | Code::NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DeviceId, HeadId};

    fn head(seq: u64) -> HeadSummary {
        HeadSummary { device: DeviceId::new([1; 32]), seq, id: HeadId::new([2; 32]) }
    }

    fn key(owner: u8, vault: u8) -> WishKey {
        (PeerId::new([owner; 32]), VaultId::new([vault; 32]))
    }

    fn packs(count: u64) -> Vec<PackId> {
        (0..count).map(|n| PackId::new(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect()
    }

    /// A member that named ever new vaults could have filled the memory with wishes.
    #[test]
    fn one_owner_cannot_fill_the_queue() {
        let (mut wishes, packs) = (Wishes::default(), packs(WISH_PACKS_MAX as u64 + 5));
        let accepted: Vec<u32> =
            (0..6).map(|vault| wishes.add(key(1, vault), head(1), &packs[..1])).collect();
        assert_eq!(accepted, [1, 1, 1, 1, 0, 0]);
        assert_eq!(wishes.add(key(1, 0), head(1), &packs), WISH_PACKS_MAX as u32);
        assert_eq!(wishes.add(key(2, 9), head(1), &packs[..1]), 1);
    }

    #[test]
    fn a_newer_offer_joins_the_one_that_waits_and_the_longest_waiting_is_served_first() {
        let (mut wishes, packs) = (Wishes::default(), packs(5));
        for (owner, seq, range) in [(2, 1, 0..2), (1, 1, 0..1), (2, 2, 1..4)] {
            assert_eq!(wishes.add(key(owner, 0), head(seq), &packs[range.clone()]), range.len() as u32);
        }
        let nobody = HashSet::new();
        let of = |owner: u8| HashSet::from([key(owner, 0).0]);
        let (first, wish) = wishes.take(&nobody, |_| false).unwrap();
        assert_eq!((first, wish.head.seq, wish.packs), (key(2, 0), 2, packs[..4].to_vec()));
        wishes.add(key(2, 0), head(3), &packs);
        assert_eq!(wishes.take(&of(1), |_| false).map(|(next, _)| next), Some(key(2, 0)));
        assert!(wishes.take(&of(1), |_| false).is_none(), "it is being served");
        wishes.forget(key(1, 0).0);
        assert!(wishes.take(&nobody, |_| false).is_none());
    }

    /// One owner with eight vaults whose records never came held all places for as long as it wanted.
    #[test]
    fn an_owner_has_one_place_and_those_that_held_back_have_few_together() {
        let (mut wishes, packs) = (Wishes::default(), packs(1));
        for (owner, vault) in [(1, 0), (1, 1), (2, 0), (3, 0), (4, 0), (5, 0)] {
            wishes.add(key(owner, vault), head(1), &packs);
        }
        let is_slow = |owner: PeerId| owner != key(5, 0).0;
        let mut served = HashSet::new();
        let order = std::iter::from_fn(|| {
            let (key, _) = wishes.take(&served, is_slow)?;
            served.insert(key.0);
            Some(key)
        });
        assert_eq!(order.collect::<Vec<_>>(), [key(1, 0), key(2, 0), key(5, 0)]);
        assert!(wishes.is_awaited(&served));
        let all: HashSet<PeerId> = (10..10 + OWNERS_MAX as u8).map(|n| key(n, 0).0).collect();
        assert!(wishes.take(&all, |_| false).is_none(), "all places are taken");
    }

    #[test]
    fn receipts_are_sent_for_some_packs_together_and_what_was_not_confirmed_is_left() {
        let packs = packs(RECEIPT_PACKS as u64 + 3);
        let mut serving = Serving::new(&packs);
        for pack in &packs[..RECEIPT_PACKS - 1] {
            serving.store(*pack);
            assert!(serving.due(Duration::ZERO).is_empty());
        }
        serving.store(packs[RECEIPT_PACKS - 1]);
        assert_eq!(serving.due(Duration::ZERO), packs[..RECEIPT_PACKS]);
        serving.confirm(Duration::ZERO, &packs[..RECEIPT_PACKS]);
        serving.store(packs[RECEIPT_PACKS]);
        assert_eq!(serving.due(RECEIPT_PAUSE), [packs[RECEIPT_PACKS]], "this receipt is lost on its way");
        serving.store(packs[RECEIPT_PACKS + 1]);
        let rest = serving.rest();
        serving.confirm(RECEIPT_PAUSE, &rest);
        let left: BTreeSet<PackId> = serving.into_left().into_iter().collect();
        assert_eq!(left, BTreeSet::from([packs[RECEIPT_PACKS], packs[RECEIPT_PACKS + 2]]));
    }
}
