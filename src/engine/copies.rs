//! Copies: what holders have confirmed, and which packs to offer to whom.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::chain::read_head;
use super::error::EngineError;
use super::heads::{VaultView, head_packs, newest_heads};
use super::monitor::Monitor;
use super::pull::PackSource;
use super::reader::ChunkReader;
use super::tree::for_each_reference;
use super::vault::Vault;
use crate::base::{DeviceId, HeadId, Moment, PackId, PeerId, SnapshotId, VaultId, limit};
use crate::snapshot::{Head, Receipt, ReceiptError, Snapshot};
use crate::store::{KeptReceipts, PackNumber, Store, StoreError};
use crate::wire::{self, Bound};

/// What a receipt may count for.
pub struct Terms<'a> {
    /// What time it is here.
    pub now: Moment,
    /// Packs that its holder was offered, or asked about: of others it may say anything.
    pub expected: &'a dyn Fn(&PackId) -> bool,
    /// The holder lost something lately: all that it confirms has to be proven.
    pub on_probation: bool,
}

/// What came of a receipt.
pub struct Taken {
    /// The receipt, with those of its packs that count now.
    pub receipt: Receipt,
    /// Packs that count once slices of them were proven: the holder lost them before.
    pub doubted: Vec<PackId>,
}

/// Checks a receipt that `from` delivered, keeps what counts of it, and enters that. `None` when it confirms nothing new: a
/// holder answers every offer with one, and those are not kept.
///
/// # Errors
/// A receipt that is not signed by `from`, for another vault, or from the future.
pub fn take_receipt(
    store: &Store,
    vault: VaultId,
    from: PeerId,
    signed: &wire::Signed,
    terms: &Terms<'_>,
) -> Result<Option<Taken>, EngineError> {
    let mut receipt = checked(vault, from, signed)?;
    if receipt.time.since(terms.now) > limit::RECEIPT_AHEAD {
        return Err(ReceiptError::Ahead.into());
    }
    let void = store.void_receipts_of(from)?;
    let is_old = |id: &[u8; 32]| void.get(id).is_some_and(|until| receipt.time <= *until);
    let (mut counted, mut doubted) = (Vec::new(), Vec::new());
    for pack in std::mem::take(&mut receipt.packs) {
        let is_own = || Ok::<_, EngineError>(store.pack_by_id(pack)?.is_some_and(|row| row.own));
        if !(terms.expected)(&pack) || is_old(pack.as_bytes()) || !is_own()? {
            continue;
        }
        match terms.on_probation || void.contains_key(pack.as_bytes()) {
            true => doubted.push(pack),
            false => counted.push(pack),
        }
    }
    receipt.head = receipt.head.filter(|head| !is_old(head.as_bytes()));
    receipt.packs = counted;
    let is_news = !receipt.packs.is_empty() || confirms_a_head(store, &receipt)?;
    if is_news {
        keep_and_enter(store, &receipt)?;
    }
    Ok((is_news || !doubted.is_empty()).then_some(Taken { receipt, doubted }))
}

fn checked(vault: VaultId, from: PeerId, signed: &wire::Signed) -> Result<Receipt, EngineError> {
    let receipt = Receipt::verify(signed)?;
    if receipt.holder != from || receipt.vault != vault {
        return Err(ReceiptError::Malformed("holder or vault is another one").into());
    }
    Ok(receipt)
}

/// Enters packs that a holder confirmed at that time, by its own clock, and has proven to have since.
pub fn enter_proven(
    store: &Store,
    holder: PeerId,
    packs: &[PackId],
    time: Moment,
) -> Result<(), EngineError> {
    store.keep_receipt(holder, &KeptReceipts::of(packs, None, None, time))?;
    Ok(store.add_receipts(holder, packs, time)?)
}

fn keep_and_enter(store: &Store, receipt: &Receipt) -> Result<(), EngineError> {
    let kept = KeptReceipts::of(&receipt.packs, receipt.head, receipt.mark, receipt.time);
    store.keep_receipt(receipt.holder, &kept)?;
    enter_receipt(store, receipt)
}

/// Takes a receipt by its word alone.
#[cfg(test)]
pub fn record_receipt(
    store: &Store,
    vault: VaultId,
    from: PeerId,
    signed: &wire::Signed,
) -> Result<Option<Receipt>, EngineError> {
    let receipt = checked(vault, from, signed)?;
    if receipt.packs.is_empty() && !confirms_a_head(store, &receipt)? {
        return Ok(None);
    }
    keep_and_enter(store, &receipt)?;
    Ok(Some(receipt))
}

/// Whether it is for a head that this store has, and that the holder has not confirmed yet.
fn confirms_a_head(store: &Store, receipt: &Receipt) -> Result<bool, EngineError> {
    let Some(id) = receipt.head else { return Ok(false) };
    let known = store.head_receipts()?;
    let confirmed = known.iter().any(|(holder, _, _, head)| *holder == receipt.holder && *head == id);
    Ok(!confirmed && find_head(store, receipt.vault, id)?.is_some())
}

/// What a holder said of a head's records is not so: it counts for none of that head's snapshots until it says so again.
/// Whether it counted.
pub fn void_head_receipt(store: &Store, holder: PeerId, head: HeadId) -> Result<bool, EngineError> {
    let kept = store.kept_receipts_of(holder)?;
    let mut last = kept.heads.get(&head).copied().unwrap_or_default();
    let bound = Bound::new(limit::RECEIPT_BYTES_MAX + limit::SIGNED_BYTES, limit::FIELDS_FEW);
    store.for_each_signed_receipt(|bytes| {
        let signed = wire::decode::<wire::Signed>(bytes, bound);
        if let Some(receipt) = signed.ok().and_then(|signed| Receipt::verify(&signed).ok())
            && (receipt.holder, receipt.head) == (holder, Some(head))
        {
            last = last.max(receipt.time);
        }
    })?;
    Ok(store.drop_head_receipt(holder, head, last)?)
}

/// Enters a verified receipt into the index.
pub(super) fn enter_receipt(store: &Store, receipt: &Receipt) -> Result<(), EngineError> {
    if let Some(mark) = receipt.mark {
        store.note_mark(receipt.holder, mark)?;
    }
    store.add_receipts(receipt.holder, &receipt.packs, receipt.time)?;
    if let Some(id) = receipt.head
        && let Some((device, seq)) = find_head(store, receipt.vault, id)?
    {
        store.set_head_receipt(receipt.holder, device, seq, id)?;
    }
    Ok(())
}

/// Enters that a holder has all records of a head of this node's vault, if the head is here.
pub(super) fn enter_head(store: &Store, holder: PeerId, head: HeadId) -> Result<(), EngineError> {
    let Some(vault) = store.read_vault_id()? else { return Ok(()) };
    if let Some((device, seq)) = find_head(store, vault, head)? {
        store.set_head_receipt(holder, device, seq, head)?;
    }
    Ok(())
}

fn find_head(store: &Store, vault: VaultId, id: HeadId) -> Result<Option<(DeviceId, u64)>, EngineError> {
    for device in store.head_devices(vault)? {
        if let Some((seq, _)) = store.head_names(vault, device)?.into_iter().find(|(_, head)| *head == id) {
            return Ok(Some((device, seq)));
        }
    }
    Ok(None)
}

/// Copies of everything, at one moment.
#[derive(Default)]
pub struct CopyCounts {
    packs: HashMap<PackNumber, u32>,
    records: HashMap<SnapshotId, HashSet<PeerId>>,
    needs: HashMap<SnapshotId, Vec<PackNumber>>,
    /// Of snapshots whose packs are not known: the fewest holders that any pack of their head has.
    at_least: HashMap<SnapshotId, u32>,
    /// Packs that this node keeps for other devices of the vault.
    kept_here: HashSet<PackNumber>,
    /// Snapshots of those devices.
    of_others: HashSet<SnapshotId>,
}

impl CopyCounts {
    /// Takes, for a snapshot whose packs are not known here, what holds for all packs that a head with it lists.
    fn bound(&mut self, store: &Store, id: SnapshotId, heads: &[Head]) -> Result<(), EngineError> {
        let Some(head) = heads.iter().find(|head| head.draft.snapshots.contains(&id)) else {
            self.forget(id);
            return Ok(());
        };
        if !self.at_least.contains_key(&id) {
            let fewest = self.fewest_of(store, head)?;
            // One head, one answer.
            self.at_least.extend(head.draft.snapshots.iter().map(|snapshot| (*snapshot, fewest)));
        }
        Ok(())
    }

    fn fewest_of(&self, store: &Store, head: &Head) -> Result<u32, EngineError> {
        let mut fewest = u32::MAX;
        for listed in head_packs(store, head) {
            // What cannot be read may be without any.
            let Ok((id, _)) = listed else { return Ok(0) };
            fewest = fewest.min(store.pack_by_id(id)?.map_or(0, |row| self.of_pack(row.number)));
        }
        Ok(if fewest == u32::MAX { 0 } else { fewest })
    }

    fn set_needs(&mut self, id: SnapshotId, packs: Vec<PackNumber>) {
        self.needs.insert(id, packs);
    }

    fn forget(&mut self, id: SnapshotId) {
        self.records.remove(&id);
    }

    /// Distinct holders of one pack.
    pub fn of_pack(&self, number: PackNumber) -> u32 {
        self.packs.get(&number).copied().unwrap_or(0)
    }

    /// Distinct holders that everything of a snapshot has: its record, the head that lists it, each pack. For another device this node
    /// is one of them.
    pub fn of_snapshot(&self, id: SnapshotId) -> u32 {
        let records = self.records.get(&id).map_or(0, |holders| holders.len() as u32);
        let packs = match self.needs.get(&id) {
            Some(packs) => packs.iter().map(|pack| self.of_pack(*pack)).min(),
            None => self.at_least.get(&id).copied(),
        };
        let is_kept = |packs: &Vec<PackNumber>| packs.iter().all(|pack| self.kept_here.contains(pack));
        let here = self.of_others.contains(&id) && self.needs.get(&id).is_some_and(is_kept);
        records.min(packs.unwrap_or(records)) + u32::from(here)
    }
}

/// Counts receipts for all snapshots of an open vault. Works out which packs a snapshot needs where that is not known
/// yet (after `rebuild-index` or `recover`); of one whose trees are not here, as many as every pack of its head has.
/// Receipts of peers that `counted` refuses say nothing.
pub fn copy_counts(
    vault: &Vault,
    view: &VaultView,
    counted: impl Fn(&PeerId) -> bool,
) -> Result<CopyCounts, EngineError> {
    let mut counts = counts_of_records(&vault.store, vault.id(), counted)?;
    counts.kept_here = vault.store.foreign_packs(vault.id())?.into_iter().collect();
    let own: HashSet<SnapshotId> = view
        .heads
        .iter()
        .filter(|head| head.device() == vault.device())
        .flat_map(|head| head.draft.snapshots.iter().copied())
        .collect();
    let theirs = view.snapshots.iter().map(|snapshot| snapshot.id).filter(|id| !own.contains(id));
    counts.of_others = theirs.collect();
    for snapshot in &view.snapshots {
        match packs_of(vault, None, snapshot) {
            Ok(packs) => counts.set_needs(snapshot.id, packs),
            Err(EngineError::Store(error @ (StoreError::IndexDamaged(_) | StoreError::Poisoned))) => {
                return Err(error.into());
            }
            Err(_) => counts.bound(&vault.store, snapshot.id, &view.heads)?,
        }
    }
    Ok(counts)
}

/// Counts receipts for the snapshots that the heads of `vault` list, without any key; one whose packs are not known has
/// as many copies as every pack of its head. Also returns those snapshots.
pub fn locked_copy_counts(
    store: &Store,
    vault: VaultId,
    counted: impl Fn(&PeerId) -> bool,
) -> Result<(CopyCounts, Vec<SnapshotId>), EngineError> {
    let mut counts = counts_of_records(store, vault, counted)?;
    let mut snapshots: Vec<SnapshotId> = Vec::new();
    let heads: Vec<Head> = newest_heads(store, vault)?.collect::<Result<_, _>>()?;
    let mut seen = HashSet::new();
    snapshots.extend(heads.iter().flat_map(|head| &head.draft.snapshots).filter(|id| seen.insert(**id)));
    for id in &snapshots {
        match store.snapshot_packs(*id)? {
            Some(packs) => counts.set_needs(*id, packs),
            None => counts.bound(store, *id, &heads)?,
        }
    }
    Ok((counts, snapshots))
}

/// Who has which packs and records; what the snapshots need is still to be said.
fn counts_of_records(
    store: &Store,
    vault: VaultId,
    counted: impl Fn(&PeerId) -> bool,
) -> Result<CopyCounts, EngineError> {
    let packs = store.receipt_counts(&counted)?;
    let mut records: HashMap<SnapshotId, HashSet<PeerId>> = HashMap::new();
    let mut listed: HashMap<HeadId, Vec<SnapshotId>> = HashMap::new();
    let receipts = store.head_receipts()?;
    for (holder, device, seq, id) in receipts.into_iter().filter(|(holder, ..)| counted(holder)) {
        if let std::collections::hash_map::Entry::Vacant(entry) = listed.entry(id) {
            let head = read_head(store, vault, device, (seq, id))?;
            entry.insert(head.map_or_else(|_| Vec::new(), |head| head.draft.snapshots));
        }
        for snapshot in &listed[&id] {
            records.entry(*snapshot).or_default().insert(holder);
        }
    }
    Ok(CopyCounts { packs, records, ..CopyCounts::default() })
}

/// The packs that a snapshot needs. Trees that are not here are read from `source`.
pub(super) fn packs_of(
    vault: &Vault,
    source: Option<&dyn PackSource>,
    snapshot: &Snapshot,
) -> Result<Vec<PackNumber>, EngineError> {
    if let Some(packs) = vault.store.snapshot_packs(snapshot.id)? {
        return Ok(packs);
    }
    let monitor = Monitor::default();
    let mut reader = ChunkReader::new(vault, source, &monitor);
    let (mut ids, mut failure) = (HashSet::new(), None);
    for_each_reference(
        &mut reader,
        snapshot,
        &monitor,
        &mut |_, id| {
            ids.insert(id);
        },
        &mut |_, error| failure = Some(error),
    )?;
    if let Some(error) = failure {
        return Err(error);
    }
    let ids: Vec<_> = ids.into_iter().collect();
    let mut packs = HashSet::new();
    for place in vault.store.lookup_many(&ids)? {
        packs.insert(place.ok_or_else(|| EngineError::RecordMissing("a chunk".to_owned()))?.pack);
    }
    vault.store.set_snapshot_packs(snapshot.id, &packs)?;
    Ok(packs.into_iter().collect())
}

/// Where packs can go to.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Place {
    /// Whose disk it is.
    pub peer: PeerId,
    /// What it has free, in bytes.
    pub bytes: u64,
    /// When it lost something, if that was lately: it is taken where others are not enough, who lost last at last.
    pub lost: Option<Moment>,
}

/// Where each pack should get its missing copies: weighted rendezvous hashing over what each place has free.
///
/// Pure. `packs` come with their lengths and present holders (or those that are pulling them already), besides those that
/// did not take a pack just now. Packs that are satisfied never move; a place is never offered more than it has free.
pub fn place_packs(
    packs: &[(PackId, u64, Vec<PeerId>)],
    places: &[Place],
    declined: &HashSet<(PackId, PeerId)>,
    copies: u32,
) -> BTreeMap<PeerId, Vec<PackId>> {
    let mut free: BTreeMap<PeerId, u64> = places.iter().map(|place| (place.peer, place.bytes)).collect();
    let mut placed: BTreeMap<PeerId, Vec<PackId>> = BTreeMap::new();
    for (pack, bytes, holders) in packs {
        let missing = (copies as usize).saturating_sub(holders.len());
        let takes = |place: &&Place| {
            let peer = place.peer;
            !holders.contains(&peer) && free[&peer] >= *bytes && !declined.contains(&(*pack, peer))
        };
        let mut ranked: Vec<(f64, &Place)> =
            places.iter().filter(takes).map(|place| (score(*pack, place.peer, place.bytes), place)).collect();
        ranked.sort_by(|(a, one), (b, other)| one.lost.cmp(&other.lost).then(b.total_cmp(a)));
        for (_, place) in ranked.into_iter().take(missing) {
            placed.entry(place.peer).or_default().push(*pack);
            free.entry(place.peer).and_modify(|left| *left -= bytes);
        }
    }
    placed
}

/// Weighted rendezvous: −w / ln(u), with u from a hash of both names. Source: Schindelhauer and Schomaker 2005.
fn score(pack: PackId, peer: PeerId, weight: u64) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(pack.as_bytes()).update(peer.as_bytes());
    let (word, _) =
        hasher.finalize().as_bytes().split_first_chunk::<8>().map_or(([0; 8], ()), |(w, _)| (*w, ()));
    let unit = (u64::from_le_bytes(word) >> 11) as f64 / (1u64 << 53) as f64;
    -(weight as f64) / unit.max(f64::MIN_POSITIVE).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(i: u32) -> PackId {
        PackId::new(*blake3::hash(&i.to_le_bytes()).as_bytes())
    }

    fn peer(i: u8) -> PeerId {
        PeerId::new([i; 32])
    }

    fn place(i: u8, bytes: u64) -> Place {
        Place { peer: peer(i), bytes, lost: None }
    }

    #[test]
    fn packs_go_to_distinct_holders_in_proportion_to_what_is_free() {
        let packs: Vec<_> = (0..3000).map(|i| (pack(i), 1, vec![])).collect();
        let placed = place_packs(
            &packs,
            &[place(1, 1 << 40), place(2, 1 << 40), place(3, 2 << 40)],
            &HashSet::new(),
            2,
        );
        let count = |i| placed[&peer(i)].len();
        assert_eq!(count(1) + count(2) + count(3), 6000);
        assert!(
            (1500..2000).contains(&count(1)) && count(3) > 2200,
            "{} {} {}",
            count(1),
            count(2),
            count(3)
        );
    }

    #[test]
    fn satisfied_packs_never_move_and_full_holders_get_nothing() {
        let two = vec![peer(1), peer(2)];
        let none = HashSet::new();
        assert!(place_packs(&[(pack(1), 5, two.clone())], &[place(3, 100)], &none, 2).is_empty());
        let lacking = [(pack(1), 5, vec![peer(1)])];
        let candidates = [place(1, 100), place(2, 4), place(3, 5)];
        let placed = place_packs(&lacking, &candidates, &none, 2);
        assert_eq!(placed, BTreeMap::from([(peer(3), vec![pack(1)])]));
        // Who did not take it is passed over, for this pack only.
        let declined = HashSet::from([(pack(1), peer(3))]);
        assert!(place_packs(&lacking, &candidates, &declined, 2).is_empty());
        let placed = place_packs(&[(pack(2), 5, vec![])], &candidates[2..], &declined, 2);
        assert_eq!(placed, BTreeMap::from([(peer(3), vec![pack(2)])]));
        let many: Vec<_> = (0..10).map(|i| (pack(i), 10, vec![])).collect();
        let placed = place_packs(&many, &[place(1, 35)], &none, 1);
        assert_eq!(placed[&peer(1)].len(), 3);
    }

    /// One that sent wrong bytes was offered the same pack after each audit, while others that had lost theirs before had
    /// room: what it won by its hash it won for ever.
    #[test]
    fn who_lost_something_is_taken_where_others_are_not_enough_and_who_lost_last_at_last() {
        let lost =
            |i, seconds: u64| Place { lost: Some(Moment::from_millis(seconds * 1000)), ..place(i, 100) };
        let none = HashSet::new();
        for pack in (0..50).map(pack) {
            let all = [lost(1, 30), lost(2, 10), place(3, 5), lost(4, 20)];
            let peers = |copies| {
                place_packs(&[(pack, 5, vec![])], &all, &none, copies).into_keys().collect::<Vec<_>>()
            };
            assert_eq!(
                [peers(1), peers(2), peers(3)],
                [vec![peer(3)], vec![peer(2), peer(3)], vec![peer(2), peer(3), peer(4)]]
            );
            let small = [lost(1, 30), place(3, 4)];
            let placed = place_packs(&[(pack, 5, vec![])], &small, &none, 1);
            assert_eq!(placed.into_keys().collect::<Vec<_>>(), [peer(1)], "it has room");
        }
    }
}
