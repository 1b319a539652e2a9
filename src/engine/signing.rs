//! The next head of this device: what it lists, what it carries on, and its signature.

use std::collections::{HashMap, HashSet};

use super::borrow::is_revoked;
use super::chain::{Tips, admitted_names, names_to_carry_on, read_head, tip_names, tips};
use super::error::EngineError;
use super::expected;
use super::heads::{head_packs, newest_heads, packs_as_known, read_list, tips_with, unreadable_heads};
use super::holder::{HolderError, readable, records_complete};
use super::revocations::{Revocations, revocations};
use super::vault::Vault;
use crate::base::{Code, Coded, DeviceId, HeadId, ListId, PackId, SnapshotId, limit};
use crate::snapshot::{
    Head, HeadDraft, HeadName, HeadSummary, ListRef, PackList, PackSize, PeerAddress, Revocation, SignedHead,
    open_record, plan_lists,
};
use crate::store::{RecordName, Store};

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
    let others = Others::of(vault)?;
    let mine = tips(store, vault.id(), device, &revoked)?;
    let names = admitted_names(store, vault.id(), device, &revoked)?;
    let draft = HeadDraft {
        seq: 1,
        predecessor: None,
        seen: others.seen,
        snapshots: Vec::new(),
        lists: next_lists(vault, &mine.heads)?,
        copies: vault.options().copies,
        holders: holders.iter().take(limit::HEAD_HOLDERS_MAX).cloned().collect(),
        time: vault.clock.now(),
        epoch: vault.keyring.vault.newest_epoch(),
        checkpoint: false,
        inherited: Vec::new(),
        carried: Vec::new(),
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
    let mut carried: Vec<HeadId> =
        mine.heads.iter().flat_map(|head| head.draft.carried.iter().copied()).collect();
    bound_carried(&mut carried, &revoked);
    let last = names.first().map_or(0, |(seq, _)| *seq);
    // Over a limit it cannot be signed, which fails the backup: dropping one silently would be worse.
    Ok(HeadDraft {
        seq: last.checked_add(1).ok_or(EngineError::HeadsLost)?,
        predecessor: Some(newest.id),
        snapshots,
        inherited,
        carried,
        supersedes: carried_on_by_name(vault, &mine, &names, others.of_mine)?,
        ..draft
    })
}

/// What other devices' newest heads are, and which heads of this device they say to have seen.
struct Others {
    seen: Vec<HeadSummary>,
    of_mine: Vec<HeadName>,
    /// Those of devices of which several count here.
    branches: Vec<HeadId>,
}

impl Others {
    fn of(vault: &Vault) -> Result<Self, EngineError> {
        let (mut seen, mut of_mine): (Vec<HeadSummary>, _) = (Vec::new(), Vec::new());
        for head in newest_heads(&vault.store, vault.id())? {
            let head = head?;
            if head.device() != vault.device() {
                seen.push(head.summary());
                let mine = head.draft.seen.iter().filter(|seen| seen.device == vault.device());
                of_mine.extend(mine.map(|seen| (seen.seq, seen.id)));
            }
        }
        let mut count = HashMap::new();
        seen.iter().for_each(|head| *count.entry(head.device).or_insert(0) += 1);
        // Where there is no room for all, for those that wait to be named.
        seen.sort_by_key(|head| count[&head.device] == 1);
        seen.truncate(limit::VAULT_DEVICES_MAX);
        let branches = seen.iter().filter(|head| count[&head.device] > 1).map(|head| head.id).collect();
        Ok(Self { seen, of_mine, branches })
    }
}

/// Names of heads of this device that its next one carries on; `seen` are those that other devices last knew.
fn carried_on_by_name(
    vault: &Vault,
    mine: &Tips,
    names: &[HeadName],
    seen: Vec<HeadName>,
) -> Result<Vec<HeadName>, EngineError> {
    let is_tip = |id: HeadId| {
        mine.heads.iter().any(|head| head.id == id) || mine.unreadable.iter().any(|head| head.id == id)
    };
    // Some of them are here no more or never were, and others may still know them as the newest. A predecessor has no number
    // where it is named; it is this one at most.
    let before = mine
        .heads
        .iter()
        .filter_map(|head| Some((head.draft.seq.saturating_sub(1), head.draft.predecessor?)));
    let named = mine.heads.iter().flat_map(|head| head.draft.supersedes.iter().copied()).chain(before);
    let mut known = HashSet::new();
    let mut past: Vec<HeadName> = names.iter().copied().chain(named).collect();
    past.retain(|(_, id)| !is_tip(*id) && known.insert(*id));
    past.sort_unstable_by(|a, b| b.cmp(a));
    let branches: Vec<HeadName> = mine.heads.iter().skip(1).map(|head| (head.draft.seq, head.id)).collect();
    let confirmed = vault.store.head_receipts()?.into_iter();
    let with_holders =
        confirmed.filter(|(_, device, _, _)| *device == vault.device()).map(|(_, _, _, id)| id);
    let with_others = with_holders.chain(seen.into_iter().map(|(_, id)| id)).collect();
    Ok(names_to_carry_on(&branches, &with_others, &past))
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

/// Pieces of the pack lists of these heads of this device that cannot be read here, and of which the index may not know every
/// pack either: it was made anew, or the head was not signed over it.
pub(super) fn unknown_lists(store: &Store, heads: &[Head]) -> Result<Vec<ListRef>, EngineError> {
    if let [one] = heads
        && store.is_head_indexed(one.id)?
    {
        return Ok(Vec::new());
    }
    let mut unknown: Vec<ListRef> = Vec::new();
    for list in heads.iter().flat_map(|head| &head.draft.lists) {
        if read_list(store, list.id)?.is_none() && !unknown.contains(list) {
            unknown.push(*list);
        }
    }
    Ok(unknown)
}

/// Pieces that together list every own pack and all that the `heads` list which are joined; their pieces are kept where
/// possible. One that is gone or damaged is written anew where the index knows its packs, and else stays named: a holder has
/// it, and keeps what stands there.
fn next_lists(vault: &Vault, heads: &[Head]) -> Result<Vec<ListRef>, EngineError> {
    let store = &vault.store;
    let unlisted = unlisted_packs(store)?;
    let unknown = unknown_lists(store, heads)?;
    let mut kept: Vec<(ListRef, PackList)> = Vec::new();
    let (mut listed, mut added): (HashSet<PackId>, Vec<(PackId, PackSize)>) = Default::default();
    let mut seen = HashSet::new();
    for list in heads.iter().flat_map(|head| &head.draft.lists).filter(|list| seen.insert(list.id)) {
        let Some(decoded) = read_list(store, list.id)? else { continue };
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
    // One of them may be written anew just so.
    let unknown: Vec<ListRef> =
        unknown.into_iter().filter(|list| lists.iter().all(|known| known.id != list.id)).collect();
    lists.extend(unknown);
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

/// Signs this device's next head without these pieces of its pack list, but for those that it writes anew just so.
pub(super) fn publish_head_without(
    vault: &Vault,
    lost: &[ListId],
    holders: &[PeerAddress],
) -> Result<Head, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let mut draft = next_head(vault, &[], holders)?;
    let mut kept = Vec::new();
    for list in draft.lists {
        if !lost.contains(&list.id) || read_list(&vault.store, list.id)?.is_some() {
            kept.push(list);
        }
    }
    draft.lists = kept;
    store_head(vault, draft)
}

/// Joins the branches of this device's chain, and names heads that holders or other devices still take for branches of it, in one
/// new head, which also says of which other devices several heads count here. `None` when there is nothing to join, name or say.
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
    let others = Others::of(vault)?;
    let mut unnamed: Vec<HeadName> = Vec::new();
    for name in with_holders.iter().chain(&others.of_mine).filter(|(_, id)| !named.contains(id)) {
        if unnamed.contains(name) {
            continue;
        }
        // Only what is carried on here may be called so; its file need not be here any more.
        let tips = tips_with(&vault.store, vault.id(), vault.device(), &revoked, (*name, &[]))?;
        unnamed.extend((!tips.contains(name)).then_some(*name));
    }
    let said: HashSet<HeadId> =
        mine.heads.iter().flat_map(|head| head.draft.seen.iter().map(|seen| seen.id)).collect();
    if mine.heads.len() < 2 && unnamed.is_empty() && others.branches.iter().all(|id| said.contains(id)) {
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
    vault.store.set_aside_record(&file)?;
    expected::give_up(&vault.store, vault.id(), lost.device, id)
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
    let revoked = revocations(&vault.store, vault.id())?;
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
            note_inherited(&mut draft, &head, &revoked);
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
    let mut counting: Vec<Head> = Vec::new();
    for head in newest_heads(&vault.store, vault.id())? {
        let head = head?;
        counting.extend(mine.contains(&head.device()).then_some(head));
    }
    for revocation in revoked.iter().filter(|one| mine.contains(&one.device)) {
        let heads = || counting.iter().filter(|head| head.device() == revocation.device);
        let is_here =
            |id: HeadId| heads().any(|head| head.id == id || head.carries_on().any(|carried| carried == id));
        let mut is_ready = heads().count() > 0 && revocation.last_good.iter().all(|(_, id)| is_here(*id));
        for head in heads() {
            is_ready = is_ready && all_indexed(vault, head)?;
        }
        if is_ready {
            ready.extend(heads().cloned());
        }
    }
    if ready.is_empty() {
        return Ok(Vec::new());
    }
    let added: Vec<SnapshotId> = ready.iter().flat_map(|head| &head.draft.snapshots).copied().collect();
    let mut draft = next_head(vault, &added, holders)?;
    for head in &ready {
        note_inherited(&mut draft, head, &revoked);
    }
    store_head(vault, draft)?;
    let mut carried: Vec<DeviceId> = ready.iter().map(Head::device).collect();
    carried.dedup();
    Ok(carried)
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
fn note_inherited(draft: &mut HeadDraft, lost: &Head, revoked: &Revocations) {
    draft.inherited.push(lost.device());
    draft.inherited.extend(&lost.draft.inherited);
    draft.inherited.sort_unstable();
    draft.inherited.dedup();
    draft.carried.push(lost.id);
    draft.carried.extend(&lost.draft.carried);
    // All of them are here, or carried on by one that is.
    draft.carried.extend(revoked.of(lost.device()).into_iter().flat_map(Revocation::last_good_ids));
    bound_carried(&mut draft.carried, revoked);
}

/// Each once; where there is no room for all, those that a revocation names.
fn bound_carried(carried: &mut Vec<HeadId>, revoked: &Revocations) {
    carried.sort_unstable();
    carried.dedup();
    if carried.len() > limit::HEAD_CARRIED_MAX {
        let named: HashSet<HeadId> = revoked.iter().flat_map(Revocation::last_good_ids).collect();
        carried.sort_by_key(|id| !named.contains(id));
        carried.truncate(limit::HEAD_CARRIED_MAX);
    }
}

/// Whether the index knows every pack that a head lists.
pub(super) fn indexes_all(store: &Store, head: &Head) -> Result<bool, EngineError> {
    let (mut packs, unreadable) = packs_as_known(store, head)?;
    store.for_each_pack(true, |row| {
        packs.remove(&row.id);
        true
    })?;
    Ok(packs.is_empty() && unreadable.is_empty())
}

/// Signs and durably stores a head; the caller holds the chain's lock or is alone.
pub(super) fn store_head(vault: &Vault, draft: HeadDraft) -> Result<Head, EngineError> {
    let (head, bytes) = SignedHead::sign(draft, &vault.keyring.device, &vault.keyring.certificate)?;
    if indexes_all(&vault.store, &head)? {
        match vault.store.note_head_indexed(head.id) {
            // Then its lists count as unknown when they are lost, which is safe.
            Err(error) if error.code() == Code::StorageFull => {}
            noted => noted?,
        }
    }
    vault.store.publish_head(vault.id(), vault.device(), head.draft.seq, head.id, &bytes)?;
    // One that is missing and not carried on is still waited for.
    let revoked = revocations(&vault.store, vault.id())?;
    let (newest, _) = tip_names(&vault.store, vault.id(), vault.device(), &revoked)?;
    match expected::expect(&vault.store, vault.id(), vault.device(), &newest) {
        // The head is there, and the ones before it are still expected. The next one is noted with it.
        Err(error) if error.code() == Code::StorageFull => {
            tracing::warn!(target: "heads", %error, "no room to note that this head must be here");
        }
        noted => noted?,
    }
    Ok(head)
}
