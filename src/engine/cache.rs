//! A small disk: which own packs may be given up here because holders have them.
//!
//! Packs with trees stay: listings, backups and collections read them all the time, and they are a hundredth of the whole.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::error::EngineError;
use crate::base::{PackId, PeerId, limit};
use crate::crypto::Kind;
use crate::store::{PackNumber, PackRow, Store};

/// An own pack that is here, and who holds it as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// The pack.
    pub row: PackRow,
    /// Holders whose receipts count.
    pub holders: Vec<PeerId>,
}

/// The oldest of these packs that at least `copies` holders have, so many that the rest of all takes at most `most` bytes;
/// at most [`limit::EVICTED_AT_ONCE`].
pub fn choose_evicted(mut here: Vec<Cached>, most: u64, copies: u32) -> Vec<Cached> {
    let all: u64 = here.iter().map(|pack| pack.row.bytes).sum();
    let mut surplus = all.saturating_sub(most);
    here.sort_unstable_by_key(|pack| pack.row.number);
    // Nothing is given up for a promise: without a wished copy there is none.
    here.retain(|pack| pack.holders.len() >= copies.max(1) as usize);
    let mut chosen = Vec::new();
    for pack in here {
        if surplus == 0 || chosen.len() >= limit::EVICTED_AT_ONCE {
            break;
        }
        surplus = surplus.saturating_sub(pack.row.bytes);
        chosen.push(pack);
    }
    chosen
}

/// Of packs that were chosen, those that at least `copies` of their holders have just proved to have. Only these may go.
pub fn proven(chosen: &[Cached], proofs: &BTreeSet<(PeerId, PackId)>, copies: u32) -> Vec<PackRow> {
    let proved =
        |pack: &Cached| pack.holders.iter().filter(|peer| proofs.contains(&(**peer, pack.row.id))).count();
    chosen.iter().filter(|pack| proved(pack) >= copies.max(1) as usize).map(|pack| pack.row).collect()
}

/// Own packs whose files are here, without `kept` ones and those that are damaged, and the holders that count of each.
pub fn cached_packs(
    store: &Store,
    kept: &HashSet<PackNumber>,
    counts: impl Fn(&PeerId) -> bool,
) -> Result<Vec<Cached>, EngineError> {
    let mut holders: HashMap<PackNumber, Vec<PeerId>> = HashMap::new();
    store.for_each_receipt(|pack, holder, _| {
        if counts(&holder) {
            holders.entry(pack).or_default().push(holder);
        }
    })?;
    let (mut here, mistrusted) = (Vec::new(), store.mistrusted_packs());
    store.for_each_pack(true, |row| {
        if !kept.contains(&row.number) && !mistrusted.contains(&row.number) {
            here.push(Cached { holders: holders.remove(&row.number).unwrap_or_default(), row });
        }
        true
    })?;
    let mut failure = None;
    here.retain(|pack| match store.pack_length(pack.row.id) {
        Ok(length) => length == Some(pack.row.bytes),
        Err(error) => {
            failure = Some(error);
            false
        }
    });
    failure.map_or(Ok(here), |error| Err(error.into()))
}

/// Which of these packs have trees. Looks through the whole index.
pub fn tree_packs(store: &Store, packs: &[Cached]) -> Result<HashSet<PackNumber>, EngineError> {
    let numbers: HashSet<PackNumber> = packs.iter().map(|pack| pack.row.number).collect();
    let chunks = store.chunks_in(&numbers)?;
    Ok(chunks
        .into_iter()
        .filter(|(_, place)| place.kind == Kind::Tree)
        .map(|(_, place)| place.pack)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, PackId};

    fn pack(number: u32, bytes: u64, holders: u8) -> Cached {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let row =
            PackRow { number: PackNumber(number), id: PackId::new(id), bytes, epoch: Epoch(0), own: true };
        Cached { row, holders: (0..holders).map(|n| PeerId::new([n; 32])).collect() }
    }

    fn chosen(here: &[Cached], most: u64, copies: u32) -> Vec<u32> {
        choose_evicted(here.to_vec(), most, copies).iter().map(|pack| pack.row.number.0).collect()
    }

    #[test]
    fn the_oldest_that_have_their_copies_go_until_the_rest_fits() {
        let here = [pack(3, 10, 2), pack(1, 10, 2), pack(2, 10, 1), pack(4, 10, 2)];
        assert_eq!(chosen(&here, 40, 2), [0; 0]);
        assert_eq!(chosen(&here, 39, 2), [1]);
        assert_eq!(chosen(&here, 20, 2), [1, 3]);
        assert_eq!(chosen(&here, 0, 2), [1, 3, 4], "one lacks a copy and stays");
        assert_eq!(chosen(&here, 0, 3), [0; 0]);
        assert_eq!(chosen(&[pack(1, 10, 0), pack(2, 10, 1)], 0, 0), [2], "nobody else has the other one");
        let many: Vec<Cached> = (0..2000).map(|number| pack(number, 1, 1)).collect();
        assert_eq!(choose_evicted(many, 0, 1).len(), limit::EVICTED_AT_ONCE);
    }

    /// A receipt is a word; the pack may be gone since. What is given up here rests on what was shown just now.
    #[test]
    fn only_what_enough_holders_have_just_proved_is_given_up() {
        let (peer, here) = (|n| PeerId::new([n; 32]), [pack(1, 10, 2), pack(2, 10, 2), pack(3, 10, 3)]);
        let proof = |holder, at: usize| (peer(holder), here[at].row.id);
        let gone = |proofs: &[(PeerId, PackId)], copies| {
            let rows = proven(&here, &proofs.iter().copied().collect(), copies);
            rows.iter().map(|row| row.number.0).collect::<Vec<_>>()
        };
        assert_eq!(gone(&[], 1), [0; 0]);
        assert_eq!(gone(&[], 0), [0; 0], "without a wished copy one proof is asked for all the same");
        let proofs = [proof(0, 0), proof(1, 0), proof(0, 1), proof(0, 2), proof(9, 2)];
        assert_eq!(gone(&proofs, 2), [1], "a stranger's proof is none");
        assert_eq!(gone(&proofs, 1), [1, 2, 3]);
    }
}
