//! Packs that another device of the vault wrote: which of them this device may refer to, and which it keeps.

use std::collections::{HashMap, HashSet};

use super::copies::packs_of;
use super::error::EngineError;
use super::heads::{VaultView, head_packs, newest_heads};
use super::monitor::Monitor;
use super::pull::PackSource;
use super::reader::heal_pack;
use super::recover::index_remote_pack;
use super::revocations::revocations;
use super::vault::Vault;
use super::verify::read_directory;
use crate::base::{Code, Coded, PackId, SnapshotId};
use crate::store::{Borrowed, NewPack, PackNumber, PackRow, Store};

/// Notes that a holder keeps these packs because a head of this device lists them.
pub fn confirm_borrowed(store: &Store, packs: &[PackId]) -> Result<(), EngineError> {
    let unconfirmed = store.unconfirmed_packs();
    let mut numbers: Vec<PackNumber> = Vec::new();
    for id in packs {
        let row = store.pack_by_id(*id)?;
        numbers.extend(row.map(|row| row.number).filter(|number| unconfirmed.contains(number)));
    }
    Ok(store.set_borrowed(&numbers, Borrowed::Confirmed)?)
}

/// Packs of other devices that snapshots in this device's newest head need and that are not kept here.
pub fn referred_elsewhere(vault: &Vault) -> Result<Vec<PackRow>, EngineError> {
    let borrowed = vault.store.borrowed()?;
    if borrowed.is_empty() {
        return Ok(Vec::new());
    }
    let mut needed: HashSet<PackNumber> = HashSet::new();
    for head in newest_heads(&vault.store, vault.id())? {
        let head = head?;
        if head.device() != vault.device() {
            continue;
        }
        for snapshot in &head.draft.snapshots {
            // What is not known of a snapshot yet is found out when it is looked at.
            needed.extend(vault.store.snapshot_packs(*snapshot)?.unwrap_or_default());
        }
    }
    let mut out = Vec::new();
    for (number, state) in borrowed {
        if state != Borrowed::Kept && needed.contains(&number) {
            out.extend(vault.store.pack_by_number(number)?);
        }
    }
    out.sort_unstable_by_key(|row| row.number);
    Ok(out)
}

/// Finds out which packs the snapshots of this device's newest head need, of those of which that is not known: an heir has got them
/// from elsewhere. Trees that are not here are read from `source`.
///
/// # Errors
/// The first snapshot whose trees cannot be read: those after it are looked at when that one can.
pub fn learn_needs(vault: &Vault, source: &dyn PackSource) -> Result<(), EngineError> {
    let mut unknown: HashSet<SnapshotId> = HashSet::new();
    for head in newest_heads(&vault.store, vault.id())? {
        let head = head?;
        for snapshot in head.draft.snapshots.iter().filter(|_| head.device() == vault.device()) {
            if vault.store.snapshot_packs(*snapshot)?.is_none() {
                unknown.insert(*snapshot);
            }
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let view = VaultView::load(vault)?;
    view.snapshots
        .iter()
        .filter(|snapshot| unknown.contains(&snapshot.id))
        .try_for_each(|snapshot| packs_of(vault, Some(source), snapshot).map(drop))
}

/// Packs that need not be here, and are not, with how they stand.
pub fn packs_elsewhere(store: &Store) -> Result<HashMap<PackNumber, (PackRow, Borrowed)>, EngineError> {
    let mut elsewhere = HashMap::new();
    for (number, state) in store.borrowed()? {
        if state != Borrowed::Kept
            && let Some(row) = store.pack_by_number(number)?
            && store.pack_length(row.id)?.is_none()
        {
            elsewhere.insert(number, (row, state));
        }
    }
    Ok(elsewhere)
}

/// Pulls a pack that is not here, or not sound.
pub fn keep_here(
    vault: &Vault,
    source: &dyn PackSource,
    row: &PackRow,
    monitor: &Monitor,
) -> Result<(), EngineError> {
    heal_pack(vault, source, monitor, row.id, row.bytes)
}

/// Packs of other devices that nobody is known to keep: no holder has promised this device to, and no other device lists
/// them any more. While what lists them cannot be read, nothing is one.
fn packs_adrift(vault: &Vault) -> Result<HashSet<PackNumber>, EngineError> {
    let mut adrift = HashMap::new();
    for number in vault.store.unconfirmed_packs() {
        adrift.extend(vault.store.pack_by_number(number)?.map(|row| (row.id, number)));
    }
    if adrift.is_empty() {
        return Ok(HashSet::new());
    }
    for head in newest_heads(&vault.store, vault.id())? {
        let head = head?;
        if head.device() == vault.device() {
            continue;
        }
        for listed in head_packs(&vault.store, &head) {
            let Ok((id, _)) = listed else { return Ok(HashSet::new()) };
            adrift.remove(&id);
        }
    }
    Ok(adrift.into_values().collect())
}

/// Reads the directories of packs again that hold chunks which were found elsewhere until that went, or until nobody was
/// known to keep it any more: two devices may have stored the same content. From this disk or from `source`; what cannot be
/// read, or on a full disk not be entered, stays for the next time.
pub fn read_again(
    vault: &Vault,
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
) -> Result<(), EngineError> {
    let adrift = packs_adrift(vault)?;
    vault.store.seek_elsewhere(&adrift)?;
    for row in vault.store.packs_to_read_again()? {
        monitor.go_on()?;
        let Some(pack) = directory_of(vault, source, &row, monitor) else { continue };
        match vault.store.enter_again(&[pack], &adrift) {
            // It must not keep a collection from making room.
            Err(error) if error.code() == Code::StorageFull => return Ok(()),
            entered => entered?,
        }
    }
    Ok(())
}

/// What is in a pack, here or elsewhere; `None` when that cannot be read now.
fn directory_of(
    vault: &Vault,
    source: Option<&dyn PackSource>,
    row: &PackRow,
    monitor: &Monitor,
) -> Option<NewPack> {
    let file = vault.store.open_pack(row.id).ok();
    let here = file.and_then(|file| read_directory(&file, &vault.keyring.vault, row.bytes as usize));
    if let Some((epoch, entries)) = here {
        return Some(NewPack { id: row.id, bytes: row.bytes, epoch, own: true, entries });
    }
    let pulled = index_remote_pack(vault, source?, row.id, row.bytes, monitor);
    pulled
        .inspect_err(|error| {
            tracing::debug!(target: "share", pack = %row.id.short(), %error, "a directory could not be read again");
        })
        .ok()
}

/// Whether the vault's owner revoked this very device.
pub fn is_revoked(vault: &Vault) -> Result<bool, EngineError> {
    Ok(revocations(&vault.store, vault.id())?.of(vault.device()).is_some())
}
