//! The vault as its heads tell it: snapshots of all devices, and the next head of this one.

use std::collections::{HashMap, HashSet};

use super::borrow::is_revoked;
use super::chain::{
    Heads, Tips, UnreadableHead, admitted_names, links, names_to_carry_on, read_head, tips, tips_among,
};
use super::error::EngineError;
use super::holder::{HolderError, check_device, readable, records_complete};
use super::revocations::{Revocations, revocations};
use super::vault::Vault;
use crate::base::{DeviceId, HeadId, ListId, Moment, PackId, SnapshotId, VaultId, limit};
use crate::crypto::VaultKeys;
use crate::snapshot::{
    Head, HeadDraft, HeadName, HeadSummary, ListRef, PackList, PackSize, PeerAddress, SignedHead, Snapshot,
    open_device_name, open_record, plan_lists,
};
use crate::store::{RecordName, Store};

/// The heads of `vault` that count: of each device the tips of its chain, one or, where it forked, several. One that cannot be
/// read is passed over with a warning, and what it alone carries on counts ([`unreadable_heads`] tells). Of a revoked device
/// it is the last good one, or none once its heir carries on what it had.
pub fn newest_heads(store: &Store, vault: VaultId) -> Result<Heads<'_>, EngineError> {
    let revoked = revocations(store, vault)?;
    let carried_on = carried_on(store, vault, &revoked)?;
    Ok(Heads::of_vault(store, vault, &revoked)?.without(carried_on))
}

/// Revoked devices whose heir says, in a newest head, that it carries on what they had.
pub(super) fn carried_on(
    store: &Store,
    vault: VaultId,
    revoked: &Revocations,
) -> Result<HashSet<DeviceId>, EngineError> {
    let mut carried_on = HashSet::new();
    if !revoked.is_empty() {
        for head in Heads::of_vault(store, vault, revoked)? {
            carried_on.extend(revoked.carried_on(&head?));
        }
    }
    Ok(carried_on)
}

/// Heads of `vault` that cannot be read and that no other one is known to carry on: what they list is not known here.
pub fn unreadable_heads(store: &Store, vault: VaultId) -> Result<Vec<UnreadableHead>, EngineError> {
    let mut heads = Heads::of_vault(store, vault, &revocations(store, vault)?)?;
    let mut unreadable = Vec::new();
    while let Some(head) = heads.step()? {
        unreadable.extend(head.err());
    }
    Ok(unreadable)
}

/// Whether a peer that has this head can tell nothing new with it: it is here and can be read, or a head here carries it on.
pub fn is_known(store: &Store, vault: VaultId, head: &HeadSummary) -> Result<bool, EngineError> {
    let (device, name) = (head.device, (head.seq, head.id));
    if store.head_names(vault, device)?.contains(&name) && read_head(store, vault, device, name)?.is_ok() {
        return Ok(true);
    }
    let revoked = revocations(store, vault)?;
    Ok(!tips_with(store, vault, device, &revoked, (name, &[]))?.contains(&name))
}

/// Tips of a device's chain as they would be with one more head, which carries on those.
fn tips_with(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    revoked: &Revocations,
    (one, its_links): (HeadName, &[HeadId]),
) -> Result<Vec<HeadName>, EngineError> {
    let mut names = admitted_names(store, vault, device, revoked)?;
    names.push(one);
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.dedup();
    tips_among(&names, |name| match name == one {
        true => Ok(its_links.to_vec()),
        false => links(store, vault, device, name),
    })
}

/// The heads of `vault` that were the newest of their devices here at that moment, by when their files were written: a
/// device that lies about the time changes nothing.
pub fn heads_at(store: &Store, vault: VaultId, at: Moment) -> Result<Heads<'_>, EngineError> {
    Ok(Heads::of_vault(store, vault, &revocations(store, vault)?)?.at(at))
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

/// All packs that a head lists, a piece of its list in memory at a time. A piece that is missing or damaged is an error, and the
/// next ones follow.
pub fn head_packs<'a>(
    store: &'a Store,
    head: &'a Head,
) -> impl Iterator<Item = Result<(PackId, PackSize), EngineError>> + 'a {
    head.draft.lists.iter().flat_map(|list| {
        let (packs, problem) = match list_packs(store, list.id) {
            Ok(packs) => (packs, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        packs.into_iter().map(Ok).chain(problem.map(Err))
    })
}

fn list_packs(store: &Store, id: ListId) -> Result<Vec<(PackId, PackSize)>, EngineError> {
    let bytes = readable(store.read_list(id))?;
    let bytes = bytes.ok_or_else(|| EngineError::RecordMissing(format!("pack list {id}")))?;
    Ok(PackList::decode(&bytes)?.into_packs())
}

/// Calls `each` with every pack on these lists; a pack may come more than once. Returns the lists that cannot be read.
pub(super) fn for_each_listed(
    store: &Store,
    lists: &HashSet<ListId>,
    mut each: impl FnMut(PackId),
) -> Result<Vec<ListId>, EngineError> {
    let mut unreadable = Vec::new();
    for id in lists {
        let bytes = readable(store.read_list(*id))?;
        match bytes.and_then(|bytes| PackList::decode(&bytes).ok()) {
            Some(list) => list.packs().iter().for_each(|(id, _)| each(*id)),
            None => unreadable.push(*id),
        }
    }
    Ok(unreadable)
}

/// Calls `each` with every pack that any head here lists, replaced ones among them, of those devices that `counts` chooses;
/// returns the lists that cannot be read. A head that cannot be read is passed over.
pub(super) fn for_each_ever_listed(
    store: &Store,
    vault: VaultId,
    counts: impl Fn(DeviceId) -> bool,
    each: impl FnMut(PackId),
) -> Result<Vec<ListId>, EngineError> {
    let mut lists = HashSet::new();
    for device in store.head_devices(vault)?.into_iter().filter(|device| counts(*device)) {
        for name in store.head_names(vault, device)? {
            if let Ok(head) = read_head(store, vault, device, name)? {
                lists.extend(head.draft.lists.iter().map(|list| list.id));
            }
        }
    }
    for_each_listed(store, &lists, each)
}

/// What came of a head that someone else had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNews {
    /// Known already, or carried on by what is known.
    Known,
    /// It carries on what was known: it is stored now.
    Adopted,
    /// The device's chain has several branches, this is the tip of one: all count.
    Forked,
    /// Its file was here, and damaged: it can be read again.
    Mended,
}

/// Stores a verified head of anyone's vault if it is news. Its records must be stored before.
///
/// # Errors
/// [`HolderError::Revoked`]: its device was revoked, and this head is none of those that count.
/// [`HolderError::TooManyBranches`]: so many branches of that device's chain are here already.
/// [`HolderError::TooManyDevices`]: heads of as many other devices of that vault are here as it may have.
pub fn adopt_head(store: &Store, head: &Head, bytes: &[u8]) -> Result<HeadNews, EngineError> {
    let (vault, device, name) = (head.vault(), head.device(), (head.draft.seq, head.id));
    let revoked = revocations(store, vault)?;
    if !revoked.admits(device, name.0, name.1) {
        return Err(HolderError::Revoked(device).into());
    }
    let is_here = store.head_names(vault, device)?.contains(&name);
    if is_here && read_head(store, vault, device, name)?.is_ok() {
        return Ok(HeadNews::Known);
    }
    let links: Vec<HeadId> = head.carries_on().collect();
    let tips = tips_with(store, vault, device, &revoked, (name, &links))?;
    if !is_here && !tips.contains(&name) {
        return Ok(HeadNews::Known);
    }
    if tips.len() > limit::HEAD_BRANCHES_MAX {
        return Err(HolderError::TooManyBranches(device).into());
    }
    check_device(store, head)?;
    if is_here {
        store.replace_record(&RecordName::Head { vault, device, seq: name.0, id: name.1 }, bytes)?;
    } else {
        store.publish_head(vault, device, name.0, name.1, bytes)?;
    }
    if is_here {
        return Ok(HeadNews::Mended);
    }
    if tips.len() == 1 {
        return Ok(HeadNews::Adopted);
    }
    tracing::warn!(target: "heads", %device, seq = name.0, branches = tips.len(),
        "forked head chain: a store was rolled back or copied; every branch counts until the device joins them");
    Ok(HeadNews::Forked)
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
        let heads: Vec<Head> = newest_heads(store, vault)?.collect::<Result<_, _>>()?;
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

/// What this device's next head says: its present snapshots and `added`, and every own pack. Branches of its chain are joined:
/// what any of them lists is listed.
///
/// A newer head that cannot be read is not signed over: the next one gets a number past it and does not carry it on, so that
/// holders keep what they have of it, and lists whatever is here that it may have listed.
pub fn next_head(
    vault: &Vault,
    added: &[SnapshotId],
    holders: &[PeerAddress],
) -> Result<HeadDraft, EngineError> {
    if is_revoked(vault)? {
        return Err(EngineError::DeviceRevoked);
    }
    let (store, device) = (&vault.store, vault.device());
    let revoked = revocations(store, vault.id())?;
    let mut seen = Vec::new();
    for head in newest_heads(store, vault.id())? {
        let head = head?;
        seen.extend((head.device() != device).then(|| head.summary()));
    }
    let mine = tips(store, vault.id(), device, &revoked)?;
    let names = admitted_names(store, vault.id(), device, &revoked)?;
    let draft = HeadDraft {
        seq: 1,
        predecessor: None,
        seen,
        snapshots: Vec::new(),
        lists: next_lists(vault, &mine.heads)?,
        copies: vault.options().copies,
        holders: holders.iter().take(limit::HEAD_HOLDERS_MAX).cloned().collect(),
        time: vault.clock.now(),
        epoch: vault.keyring.vault.newest_epoch(),
        checkpoint: false,
        inherited: Vec::new(),
        supersedes: Vec::new(),
    };
    let Some(newest) = mine.heads.first() else {
        return match names.is_empty() {
            true => Ok(HeadDraft { snapshots: added.to_vec(), ..draft }),
            // A second chain would hide what the damaged one lists.
            false => Err(EngineError::HeadsLost),
        };
    };
    let mut seen = HashSet::new();
    let present = mine.heads.iter().flat_map(|head| head.draft.snapshots.iter().copied());
    let hidden = match mine.unreadable.is_empty() {
        true => Vec::new(),
        false => unlisted_snapshots(vault, &names)?,
    };
    let snapshots =
        present.chain(hidden).chain(added.iter().copied()).filter(|id| seen.insert(*id)).collect();
    let mut inherited: Vec<DeviceId> =
        mine.heads.iter().flat_map(|head| head.draft.inherited.iter().copied()).collect();
    inherited.sort_unstable();
    inherited.dedup();
    let last = names.first().map_or(0, |(seq, _)| *seq);
    // Over a limit it cannot be signed, which fails the backup: dropping one silently would be worse.
    Ok(HeadDraft {
        seq: last.checked_add(1).ok_or(EngineError::HeadsLost)?,
        predecessor: Some(newest.id),
        snapshots,
        inherited,
        supersedes: carried_on_by_name(vault, &mine, &names)?,
        ..draft
    })
}

/// Names of heads of this device that its next one carries on.
fn carried_on_by_name(vault: &Vault, mine: &Tips, names: &[HeadName]) -> Result<Vec<HeadName>, EngineError> {
    let is_tip = |id: HeadId| {
        mine.heads.iter().any(|head| head.id == id) || mine.unreadable.iter().any(|head| head.id == id)
    };
    let past: Vec<HeadName> = names.iter().filter(|(_, id)| !is_tip(*id)).copied().collect();
    let branches: Vec<HeadName> = mine.heads.iter().skip(1).map(|head| (head.draft.seq, head.id)).collect();
    let confirmed = vault.store.head_receipts()?.into_iter();
    let with_holders =
        confirmed.filter(|(_, device, _, _)| *device == vault.device()).map(|(_, _, _, id)| id);
    Ok(names_to_carry_on(&branches, &with_holders.collect(), &past))
}

/// Snapshots of this device whose records are here and that no readable head of its lists: a head that cannot be read may. What
/// was forgotten is listed by an older one.
fn unlisted_snapshots(vault: &Vault, names: &[HeadName]) -> Result<Vec<SnapshotId>, EngineError> {
    let (store, device) = (&vault.store, vault.device());
    let mut listed = HashSet::new();
    for name in names {
        if let Ok(head) = read_head(store, vault.id(), device, *name)? {
            listed.extend(head.draft.snapshots);
        }
    }
    let mut found = Vec::new();
    for id in store.snapshot_files()?.into_iter().filter(|id| !listed.contains(id)) {
        let bytes = readable(store.read_snapshot(id))?.unwrap_or_default();
        if let Ok(snapshot) = open_record(&bytes, &vault.keyring.vault)
            && (snapshot.id, snapshot.device) == (id, device)
        {
            found.push((snapshot.time, id));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// Pieces that together list every own pack and all that the `heads` list which are joined; their pieces are kept where
/// possible.
fn next_lists(vault: &Vault, heads: &[Head]) -> Result<Vec<ListRef>, EngineError> {
    let store = &vault.store;
    let unlisted = unlisted_packs(store)?;
    let mut kept: Vec<(ListRef, PackList)> = Vec::new();
    let (mut listed, mut added): (HashSet<PackId>, Vec<(PackId, PackSize)>) = Default::default();
    let mut seen = HashSet::new();
    for list in heads.iter().flat_map(|head| &head.draft.lists).filter(|list| seen.insert(list.id)) {
        let decoded = readable(store.read_list(list.id))?.and_then(|bytes| PackList::decode(&bytes).ok());
        let Some(decoded) = decoded else {
            if heads.len() > 1 {
                // Packs of another branch may stand there that the index does not know.
                return Err(EngineError::RecordMissing(format!("pack list {}", list.id)));
            }
            // A piece that is gone or damaged is simply written anew: the index knows the packs.
            continue;
        };
        let is_new = |(id, _): &&(PackId, PackSize)| !unlisted.contains(id) && !listed.contains(id);
        let fresh: Vec<(PackId, PackSize)> = decoded.packs().iter().filter(is_new).copied().collect();
        listed.extend(fresh.iter().map(|(id, _)| *id));
        // A piece that has a pack which is listed no more, or in another piece too, is written anew without it.
        if fresh.len() == decoded.packs().len() {
            kept.push((*list, decoded));
        } else {
            added.extend(fresh);
        }
    }
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

/// Joins the branches of this device's chain, and names heads that holders still take for branches of it, in one new head. `None`
/// when there is nothing to join.
pub fn join_branches(
    vault: &Vault,
    with_holders: &[HeadName],
    holders: &[PeerAddress],
) -> Result<Option<Head>, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let revoked = revocations(&vault.store, vault.id())?;
    let mine = tips(&vault.store, vault.id(), vault.device(), &revoked)?;
    let named: HashSet<HeadId> =
        mine.heads.iter().flat_map(|head| head.carries_on().chain([head.id])).collect();
    let mut unnamed = Vec::new();
    for name in with_holders.iter().filter(|(_, id)| !named.contains(id)) {
        // Only what is carried on here may be called so; its file need not be here any more.
        let tips = tips_with(&vault.store, vault.id(), vault.device(), &revoked, (*name, &[]))?;
        unnamed.extend((!tips.contains(name)).then_some(*name));
    }
    if mine.heads.len() < 2 && unnamed.is_empty() {
        return Ok(None);
    }
    let mut draft = next_head(vault, &[], holders)?;
    draft.supersedes.retain(|name| !unnamed.contains(name));
    draft.supersedes.splice(0..0, unnamed);
    draft.supersedes.truncate(limit::HEAD_SUPERSEDES_MAX);
    Ok(Some(store_head(vault, draft)?))
}

/// Gives up a head that cannot be read and that nobody has any more, so that what it may have listed is no longer waited for.
/// One of this device is carried on by a new head, which lists whatever is here that it may have listed; of another
/// device only the file is set aside, and the head comes back should someone have it.
///
/// # Errors
/// [`EngineError::RecordMissing`] when there is no such unreadable head.
pub fn give_up_head(vault: &Vault, id: HeadId, holders: &[PeerAddress]) -> Result<(), EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let lost = unreadable_heads(&vault.store, vault.id())?.into_iter().find(|head| head.id == id);
    let lost =
        lost.ok_or_else(|| EngineError::RecordMissing(format!("an unreadable head {}", id.short())))?;
    if lost.device == vault.device() {
        let mut draft = next_head(vault, &[], holders)?;
        draft.supersedes.insert(0, (lost.seq, id));
        draft.supersedes.truncate(limit::HEAD_SUPERSEDES_MAX);
        store_head(vault, draft)?;
    }
    let file = RecordName::Head { vault: vault.id(), device: lost.device, seq: lost.seq, id };
    Ok(vault.store.set_aside_record(&file)?)
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
    if vault.store.is_device_over(vault.id(), vault.device(), limit::VAULT_DEVICES_MAX)? {
        return Err(HolderError::TooManyDevices.into());
    }
    let mut draft = next_head(vault, &[], holders)?;
    let mut snapshots: HashSet<SnapshotId> = draft.snapshots.iter().copied().collect();
    let mut lists: HashSet<ListId> = draft.lists.iter().map(|list| list.id).collect();
    for head in newest_heads(&vault.store, vault.id())? {
        let head = head?;
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
        let head = head?;
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
    for listed in head_packs(&vault.store, head) {
        let (id, _) = listed?;
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
