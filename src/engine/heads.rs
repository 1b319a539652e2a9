//! The vault as its heads tell it: snapshots of all devices, and the next head of this one.

use std::collections::{HashMap, HashSet};

use super::borrow::is_revoked;
use super::error::EngineError;
use super::holder::{HolderError, readable, records_complete};
use super::revocations::{Revocations, revocations};
use super::vault::Vault;
use crate::base::{DeviceId, HeadId, ListId, Moment, PackId, SnapshotId, VaultId, limit};
use crate::crypto::VaultKeys;
use crate::snapshot::{
    Head, HeadDraft, HeadLink, HeadSummary, ListRef, PackList, PackSize, PeerAddress, SignedHead, Snapshot,
    open_device_name, open_record, plan_lists,
};
use crate::store::{Store, StoreError};

/// The newest valid head of each device of `vault` that is in the store; several of one device when its chain has
/// branches of the same length. Damaged ones are passed over with a warning, so that an older one counts. Of a revoked
/// device it is the last good one, or none once its heir carries on what it had.
pub fn newest_heads(store: &Store, vault: VaultId) -> Result<Vec<Head>, EngineError> {
    let revoked = revocations(store, vault)?;
    Ok(revoked.living(newest_admitted(store, vault, &revoked)?))
}

/// The same, whether or not an heir carries on what a device had: what a head that comes is compared with.
pub fn known_heads(store: &Store, vault: VaultId) -> Result<Vec<Head>, EngineError> {
    newest_admitted(store, vault, &revocations(store, vault)?)
}

pub(super) fn newest_admitted(
    store: &Store,
    vault: VaultId,
    revoked: &Revocations,
) -> Result<Vec<Head>, EngineError> {
    let mut heads = Vec::new();
    for device in store.head_devices(vault)? {
        let mut newest = None;
        let names = store.head_names(vault, device)?;
        for (seq, id) in names.into_iter().filter(|(seq, id)| revoked.admits(device, *seq, *id)) {
            if newest.is_some_and(|newest| seq < newest) {
                break;
            }
            match read_head(store, vault, device, (seq, id))? {
                Ok(head) => {
                    newest = Some(seq);
                    heads.push(head);
                }
                Err(problem) => {
                    tracing::warn!(target: "heads", %device, seq, problem, "a head file is no use")
                }
            }
        }
    }
    Ok(heads)
}

/// The heads of `vault` that were the newest of their devices here at that moment, by when their files were written: a
/// device that lies about the time changes nothing.
pub fn heads_at(store: &Store, vault: VaultId, at: Moment) -> Result<Vec<Head>, EngineError> {
    let revoked = revocations(store, vault)?;
    let mut heads = Vec::new();
    for device in store.head_devices(vault)? {
        let names = store.head_names(vault, device)?;
        for (seq, id) in names.into_iter().filter(|(seq, id)| revoked.admits(device, *seq, *id)) {
            if store.head_stored_at(vault, device, seq, id)?.is_none_or(|stored| stored > at) {
                continue;
            }
            if let Ok(head) = read_head(store, vault, device, (seq, id))? {
                heads.push(head);
                break;
            }
        }
    }
    Ok(heads)
}

/// The newest head of a device that is here and can be read, whether or not it counts: it has the device's certificate.
pub fn any_head(store: &Store, vault: VaultId, device: DeviceId) -> Result<Option<Head>, EngineError> {
    for name in store.head_names(vault, device)? {
        if let Ok(head) = read_head(store, vault, device, name)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// One stored head, or what is wrong with its file.
pub(super) fn read_head(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    (seq, id): (u64, HeadId),
) -> Result<Result<Head, String>, EngineError> {
    let bytes = match store.read_head(vault, device, seq, id) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error @ StoreError::DamagedFile(_)) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    Ok(match SignedHead::verify(&bytes) {
        Ok(head) if (head.vault(), head.device(), head.draft.seq, head.id) == (vault, device, seq, id) => {
            Ok(head)
        }
        Ok(_) => Err("it does not match its name".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

/// All packs that a head lists.
///
/// # Errors
/// A list piece that is missing or damaged.
pub fn head_packs(store: &Store, head: &Head) -> Result<Vec<(PackId, PackSize)>, EngineError> {
    let mut packs = Vec::new();
    for list in &head.draft.lists {
        let bytes = readable(store.read_list(list.id))?;
        let bytes = bytes.ok_or_else(|| EngineError::RecordMissing(format!("pack list {}", list.id)))?;
        packs.extend_from_slice(PackList::decode(&bytes)?.packs());
    }
    Ok(packs)
}

/// Packs on some lists, and the lists that cannot be read.
pub(super) type Listed = (HashSet<PackId>, Vec<ListId>);

/// All packs of these lists.
pub(super) fn packs_of_lists(store: &Store, lists: &HashSet<ListId>) -> Result<Listed, EngineError> {
    let (mut packs, mut unreadable) = Listed::default();
    for id in lists {
        let bytes = readable(store.read_list(*id))?;
        match bytes.and_then(|bytes| PackList::decode(&bytes).ok()) {
            Some(list) => packs.extend(list.packs().iter().map(|(id, _)| *id)),
            None => unreadable.push(*id),
        }
    }
    Ok((packs, unreadable))
}

/// Packs that any head here lists, replaced ones among them, of those devices that `counts` chooses. A head that cannot be
/// read is passed over.
pub(super) fn packs_of_every_head(
    store: &Store,
    vault: VaultId,
    counts: impl Fn(DeviceId) -> bool,
) -> Result<Listed, EngineError> {
    let mut lists = HashSet::new();
    for device in store.head_devices(vault)?.into_iter().filter(|device| counts(*device)) {
        for name in store.head_names(vault, device)? {
            if let Ok(head) = read_head(store, vault, device, name)? {
                lists.extend(head.draft.lists.iter().map(|list| list.id));
            }
        }
    }
    packs_of_lists(store, &lists)
}

/// What came of a head that someone else had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNews {
    /// Known already, or older than what is known.
    Known,
    /// Newer: it is stored now.
    Adopted,
    /// The device's chain has two branches: both are stored.
    Forked,
}

/// Stores a verified head of anyone's vault if it is news. Its records must be stored before.
///
/// # Errors
/// [`HolderError::Revoked`]: its device was revoked, and this head is none of those that count.
pub fn adopt_head(store: &Store, head: &Head, bytes: &[u8]) -> Result<HeadNews, EngineError> {
    let revoked = revocations(store, head.vault())?;
    if !revoked.admits(head.device(), head.draft.seq, head.id) {
        return Err(HolderError::Revoked(head.device()).into());
    }
    let known = newest_admitted(store, head.vault(), &revoked)?;
    let known = known.iter().filter(|known| known.device() == head.device());
    let links: Vec<HeadLink> = known.map(|known| head.link(&known.summary())).collect();
    let news = if links.iter().any(|link| matches!(link, HeadLink::Same | HeadLink::Older)) {
        return Ok(HeadNews::Known);
    } else if links.contains(&HeadLink::Fork) && !links.contains(&HeadLink::Newer) {
        tracing::warn!(target: "heads", device = %head.device(), seq = head.draft.seq,
            "two branches of one device's heads: a store was rolled back or copied");
        HeadNews::Forked
    } else {
        HeadNews::Adopted
    };
    store.publish_head(head.vault(), head.device(), head.draft.seq, head.id, bytes)?;
    Ok(news)
}

/// The vault's heads and snapshots.
pub struct VaultView {
    /// Newest head of each device.
    pub heads: Vec<Head>,
    /// Snapshots of all devices, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Snapshots that a head lists but whose record is missing or damaged here.
    pub broken: Vec<(SnapshotId, String)>,
    names: HashMap<DeviceId, String>,
}

impl VaultView {
    /// Reads heads and snapshot records of the vault.
    pub fn load(vault: &Vault) -> Result<Self, EngineError> {
        Self::read(&vault.store, vault.id(), &vault.keyring.vault)
    }

    fn read(store: &Store, vault: VaultId, keys: &VaultKeys) -> Result<Self, EngineError> {
        let heads = newest_heads(store, vault)?;
        if heads.is_empty() {
            // Every vault has a head from its first moment: without one this is damage, not an empty vault.
            return Err(EngineError::HeadsLost);
        }
        let mut view = Self { heads, snapshots: Vec::new(), broken: Vec::new(), names: HashMap::new() };
        let mut seen = HashSet::new();
        for head in &view.heads {
            let name = open_device_name(&head.certificate, keys).unwrap_or_else(|| head.device().short());
            view.names.insert(head.device(), name);
            for id in head.draft.snapshots.iter().filter(|id| seen.insert(**id)) {
                match readable(store.read_snapshot(*id))? {
                    None => view.broken.push((*id, "its record is missing".to_owned())),
                    Some(bytes) => match open_record(&bytes, keys) {
                        Ok(snapshot) if snapshot.id == *id => view.snapshots.push(snapshot),
                        Ok(_) => view.broken.push((*id, "its record is another one".to_owned())),
                        Err(error) => view.broken.push((*id, error.to_string())),
                    },
                }
            }
        }
        view.name_former_devices(store, vault, keys)?;
        view.snapshots.sort_by_key(|snapshot| (snapshot.time, snapshot.id));
        Ok(view)
    }

    /// Devices without a head that counts keep their names for as long as one of their heads is here.
    fn name_former_devices(
        &mut self,
        store: &Store,
        vault: VaultId,
        keys: &VaultKeys,
    ) -> Result<(), EngineError> {
        for device in store.head_devices(vault)? {
            if !self.names.contains_key(&device)
                && let Some(head) = any_head(store, vault, device)?
                && let Some(name) = open_device_name(&head.certificate, keys)
            {
                self.names.insert(device, name);
            }
        }
        Ok(())
    }

    /// The name of a device, as its certificate has it.
    pub fn device_name(&self, device: DeviceId) -> String {
        self.names.get(&device).cloned().unwrap_or_else(|| device.short())
    }

    /// Whether a certificate of that device is known: its signature then counts.
    pub fn is_certified(&self, device: DeviceId) -> bool {
        let inherited = || self.heads.iter().any(|head| head.draft.inherited.contains(&device));
        self.names.contains_key(&device) || inherited()
    }
}

/// What this device's next head says: its present snapshots and `added`, and every own pack.
pub fn next_head(
    vault: &Vault,
    added: &[SnapshotId],
    holders: &[PeerAddress],
) -> Result<HeadDraft, EngineError> {
    if is_revoked(vault)? {
        return Err(EngineError::DeviceRevoked);
    }
    let heads = newest_heads(&vault.store, vault.id())?;
    let (mine, others): (Vec<&Head>, Vec<&Head>) =
        heads.iter().partition(|head| head.device() == vault.device());
    if mine.is_empty() && !vault.store.head_names(vault.id(), vault.device())?.is_empty() {
        // A second chain would hide what the damaged one lists.
        return Err(EngineError::HeadsLost);
    }
    let previous = mine.first().map(|head| &head.draft);
    // Branches of this device's own chain are joined here.
    let present = mine.iter().flat_map(|head| &head.draft.snapshots);
    let mut seen = HashSet::new();
    let snapshots = present.chain(added).filter(|id| seen.insert(**id)).copied().collect();
    // Over the limit it cannot be signed, which fails the backup: dropping one silently would be worse.
    Ok(HeadDraft {
        seq: previous.map_or(1, |draft| draft.seq + 1),
        predecessor: mine.first().map(|head| head.id),
        seen: others.iter().map(|head| head.summary()).collect::<Vec<HeadSummary>>(),
        snapshots,
        lists: next_lists(vault, previous.map_or(&[], |draft| &draft.lists))?,
        copies: vault.options().copies,
        holders: holders.iter().take(limit::HEAD_HOLDERS_MAX).cloned().collect(),
        time: vault.clock.now(),
        epoch: vault.keyring.vault.newest_epoch(),
        checkpoint: false,
        inherited: previous.map_or_else(Vec::new, |draft| draft.inherited.clone()),
    })
}

/// Pieces that together list every own pack; pieces of the previous head are kept where possible.
fn next_lists(vault: &Vault, previous: &[ListRef]) -> Result<Vec<ListRef>, EngineError> {
    let store = &vault.store;
    let mut kept: Vec<(ListRef, PackList)> = Vec::new();
    for list in previous {
        // A piece that is gone or damaged is simply written anew: the index knows the packs.
        let decoded = readable(store.read_list(list.id))?.and_then(|bytes| PackList::decode(&bytes).ok());
        kept.extend(decoded.map(|decoded| (*list, decoded)));
    }
    let unlisted = unlisted_packs(store)?;
    // A piece that has a pack which is listed no more is written anew without it.
    kept.retain(|(_, list)| !list.packs().iter().any(|(id, _)| unlisted.contains(id)));
    let listed: HashSet<PackId> = kept.iter().flat_map(|(_, list)| list.packs()).map(|(id, _)| *id).collect();
    let mut added = Vec::new();
    store.for_each_pack(true, |row| {
        let known = listed.contains(&row.id) || unlisted.contains(&row.id);
        if let (false, Some(size)) = (known, PackSize::of(row.bytes)) {
            added.push((row.id, size));
        }
        true
    })?;
    let sizes: Vec<usize> = kept.iter().map(|(_, list)| list.packs().len()).collect();
    let plan = plan_lists(&sizes, added.len());
    let merged = kept.split_off(plan.keep);
    added.extend(merged.iter().flat_map(|(_, list)| list.packs()));
    added.sort_unstable();
    let mut lists: Vec<ListRef> = kept.into_iter().map(|(list, _)| list).collect();
    for part in added.chunks(limit::LIST_PACKS_MAX) {
        let list = PackList::new(part.to_vec());
        let (id, bytes) = list.encode();
        store.publish_list(id, &bytes)?;
        lists.push(ListRef { id, packs: part.len() as u32, bytes: list.bytes() });
    }
    Ok(lists)
}

/// Ids of packs that are on their way out.
fn unlisted_packs(store: &Store) -> Result<HashSet<PackId>, EngineError> {
    let mut ids = HashSet::new();
    for number in store.unlisted_packs() {
        ids.extend(store.pack_by_number(number)?.map(|row| row.id));
    }
    Ok(ids)
}

/// Signs and durably stores this device's next head with `added` snapshots.
pub fn publish_next_head(
    vault: &Vault,
    added: &[SnapshotId],
    holders: &[PeerAddress],
) -> Result<Head, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let draft = next_head(vault, added, holders)?;
    store_head(vault, draft)
}

/// Signs a head in the middle of a backup: no new snapshot, but all packs so far.
pub(super) fn publish_checkpoint(vault: &Vault, holders: &[PeerAddress]) -> Result<Head, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let draft = HeadDraft { checkpoint: true, ..next_head(vault, &[], holders)? };
    store_head(vault, draft)
}

/// What the first head of a device carries on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried {
    /// All that the newest head of this device lists, which is no more: the new one is its heir, and says so.
    pub heir_of: Option<DeviceId>,
    /// What the heads of all devices list that are here: newer ones may no longer do so.
    pub all: bool,
}

/// Signs the first head of a device that has just joined the vault, with what it carries on of others.
pub fn publish_first_head(
    vault: &Vault,
    carried: Carried,
    holders: &[PeerAddress],
) -> Result<Head, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let mut draft = next_head(vault, &[], holders)?;
    let mut snapshots: HashSet<SnapshotId> = draft.snapshots.iter().copied().collect();
    let mut lists: HashSet<ListId> = draft.lists.iter().map(|list| list.id).collect();
    for head in newest_heads(&vault.store, vault.id())? {
        let is_inherited = carried.heir_of == Some(head.device());
        if carried.all || is_inherited {
            // Several devices may list the same.
            draft.snapshots.extend(head.draft.snapshots.iter().filter(|id| snapshots.insert(**id)));
            // Its lists too: the packs are not in this index yet.
            draft.lists.extend(head.draft.lists.iter().filter(|list| lists.insert(list.id)));
        }
        if is_inherited {
            note_inherited(&mut draft, &head);
        }
    }
    store_head(vault, draft)
}

/// Carries on, in this device's next head, what revoked devices had that name this one as their heir; returns them.
///
/// One whose last good head is not here yet, or of whose packs some are not in the index, has to wait: what no head lists
/// could be lost. Until then its own last good head counts.
pub fn inherit(vault: &Vault, holders: &[PeerAddress]) -> Result<Vec<DeviceId>, EngineError> {
    let revoked = revocations(&vault.store, vault.id())?;
    let mine: Vec<DeviceId> =
        revoked.iter().filter(|one| one.heir == Some(vault.device())).map(|one| one.device).collect();
    if mine.is_empty() {
        return Ok(mine);
    }
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let mut ready: Vec<Head> = Vec::new();
    let last_good = |head: &Head| revoked.of(head.device()).and_then(|one| one.last_good);
    for head in newest_heads(&vault.store, vault.id())? {
        let is_last = last_good(&head) == Some((head.draft.seq, head.id));
        if mine.contains(&head.device()) && is_last && all_indexed(vault, &head)? {
            ready.push(head);
        }
    }
    if ready.is_empty() {
        return Ok(Vec::new());
    }
    let added: Vec<SnapshotId> = ready.iter().flat_map(|head| &head.draft.snapshots).copied().collect();
    let mut draft = next_head(vault, &added, holders)?;
    for head in &ready {
        note_inherited(&mut draft, head);
    }
    store_head(vault, draft)?;
    Ok(ready.iter().map(Head::device).collect())
}

/// Whether the index knows every pack of a head, and its records are here.
fn all_indexed(vault: &Vault, head: &Head) -> Result<bool, EngineError> {
    if !records_complete(&vault.store, head)? {
        return Ok(false);
    }
    for (id, _) in head_packs(&vault.store, head)? {
        if vault.store.pack_by_id(id)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says that the draft's device carries on what the device of `lost` had, and whatever that one carried on.
fn note_inherited(draft: &mut HeadDraft, lost: &Head) {
    draft.inherited.push(lost.device());
    draft.inherited.extend(&lost.draft.inherited);
    draft.inherited.sort_unstable();
    draft.inherited.dedup();
}

/// Signs and durably stores a head; the caller holds the chain's lock or is alone.
pub(super) fn store_head(vault: &Vault, draft: HeadDraft) -> Result<Head, EngineError> {
    let (head, bytes) = SignedHead::sign(draft, &vault.keyring.device, &vault.keyring.certificate)?;
    vault.store.publish_head(vault.id(), vault.device(), head.draft.seq, head.id, &bytes)?;
    Ok(head)
}
