//! The vault as its heads tell it: snapshots of all devices, and the next head of this one.

use std::collections::{HashMap, HashSet};

use super::error::EngineError;
use super::vault::Vault;
use crate::base::{DeviceId, PackId, SnapshotId, VaultId, limit};
use crate::crypto::VaultKeys;
use crate::snapshot::{
    Head, HeadDraft, HeadLink, HeadSummary, ListRef, PackList, PackSize, PeerAddress, SignedHead, Snapshot,
    open_device_name, open_record, plan_lists,
};
use crate::store::Store;

/// The newest valid head of each device of `vault` that is in the store. Damaged ones are passed over with a
/// warning, so that an older one counts.
pub fn newest_heads(store: &Store, vault: VaultId) -> Result<Vec<Head>, EngineError> {
    let mut heads = Vec::new();
    for device in store.head_devices(vault)? {
        for (seq, id) in store.head_names(vault, device)? {
            let Some(bytes) = store.read_head(vault, device, seq, id)? else { continue };
            match SignedHead::verify(&bytes) {
                Ok(head) if head.vault() == vault && head.device() == device && head.id == id => {
                    heads.push(head);
                    break;
                }
                Ok(_) => tracing::warn!(target: "heads", %device, seq, "a head file does not match its name"),
                Err(error) => {
                    tracing::warn!(target: "heads", %device, seq, %error, "a head file is damaged");
                }
            }
        }
    }
    Ok(heads)
}

/// All packs that a head lists.
///
/// # Errors
/// A list piece that is missing or damaged.
pub fn head_packs(store: &Store, head: &Head) -> Result<Vec<(PackId, PackSize)>, EngineError> {
    let mut packs = Vec::new();
    for list in &head.draft.lists {
        let bytes = store.read_list(list.id)?;
        let bytes = bytes.ok_or_else(|| EngineError::RecordMissing(format!("pack list {}", list.id)))?;
        packs.extend_from_slice(PackList::decode(&bytes)?.packs());
    }
    Ok(packs)
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
pub fn adopt_head(store: &Store, head: &Head, bytes: &[u8]) -> Result<HeadNews, EngineError> {
    let known = newest_heads(store, head.vault())?;
    let known = known.iter().find(|known| known.device() == head.device());
    let news = match known.map(|known| head.link(&known.summary())) {
        Some(HeadLink::Same | HeadLink::Older) => return Ok(HeadNews::Known),
        Some(HeadLink::Fork) => {
            tracing::warn!(target: "heads", device = %head.device(), seq = head.draft.seq,
                "two branches of one device's heads: a store was rolled back or copied");
            HeadNews::Forked
        }
        Some(HeadLink::Newer) | None => HeadNews::Adopted,
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
        let mut view = Self { heads, snapshots: Vec::new(), broken: Vec::new(), names: HashMap::new() };
        let mut seen = HashSet::new();
        for head in &view.heads {
            let name = open_device_name(&head.certificate, keys).unwrap_or_else(|| head.device().short());
            view.names.insert(head.device(), name);
            for id in head.draft.snapshots.iter().filter(|id| seen.insert(**id)) {
                match store.read_snapshot(*id)? {
                    None => view.broken.push((*id, "its record is missing".to_owned())),
                    Some(bytes) => match open_record(&bytes, keys) {
                        Ok(snapshot) if snapshot.id == *id => view.snapshots.push(snapshot),
                        Ok(_) => view.broken.push((*id, "its record is another one".to_owned())),
                        Err(error) => view.broken.push((*id, error.to_string())),
                    },
                }
            }
        }
        view.snapshots.sort_by_key(|snapshot| (snapshot.time, snapshot.id));
        Ok(view)
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

/// Finds the snapshot that `reference` names: an id prefix, `latest`, `latest~N`.
pub fn resolve<'a>(view: &'a VaultView, reference: &str) -> Result<&'a Snapshot, EngineError> {
    let unknown = || EngineError::SnapshotUnknown(reference.chars().take(80).collect());
    let back = match reference.strip_prefix("latest") {
        Some("") => Some(0),
        Some(rest) => Some(rest.strip_prefix('~').and_then(|n| n.parse::<usize>().ok()).ok_or_else(unknown)?),
        None => None,
    };
    if let Some(back) = back {
        let at = view.snapshots.len().checked_sub(back + 1).ok_or_else(unknown)?;
        return Ok(&view.snapshots[at]);
    }
    if reference.len() < 4 || !reference.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(unknown());
    }
    let prefix = reference.to_ascii_lowercase();
    let matching: Vec<&Snapshot> =
        view.snapshots.iter().filter(|snapshot| snapshot.id.to_string().starts_with(&prefix)).collect();
    match matching.as_slice() {
        [] => Err(unknown()),
        [one] => Ok(one),
        several => Err(EngineError::SnapshotAmbiguous {
            reference: prefix,
            candidates: several.iter().map(|snapshot| snapshot.id.short()).collect(),
        }),
    }
}

/// What this device's next head says: its present snapshots and `added`, and every own pack.
pub fn next_head(
    vault: &Vault,
    added: &[SnapshotId],
    holders: &[PeerAddress],
) -> Result<HeadDraft, EngineError> {
    let heads = newest_heads(&vault.store, vault.id())?;
    let (mine, others): (Vec<&Head>, Vec<&Head>) =
        heads.iter().partition(|head| head.device() == vault.device());
    let previous = mine.first().map(|head| &head.draft);
    let mut snapshots = previous.map_or_else(Vec::new, |draft| draft.snapshots.clone());
    for id in added {
        if !snapshots.contains(id) {
            snapshots.push(*id);
        }
    }
    // A full head makes room by dropping nothing: that is for `forget`.
    snapshots.truncate(limit::HEAD_SNAPSHOTS_MAX);
    Ok(HeadDraft {
        seq: previous.map_or(1, |draft| draft.seq + 1),
        predecessor: mine.first().map(|head| head.id),
        seen: others.iter().map(|head| head.summary()).collect::<Vec<HeadSummary>>(),
        snapshots,
        lists: next_lists(vault, previous.map_or(&[], |draft| &draft.lists))?,
        copies: vault.options.copies,
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
        let decoded = store.read_list(list.id)?.and_then(|bytes| PackList::decode(&bytes).ok());
        kept.extend(decoded.map(|decoded| (*list, decoded)));
    }
    let listed: HashSet<PackId> = kept.iter().flat_map(|(_, list)| list.packs()).map(|(id, _)| *id).collect();
    let mut added = Vec::new();
    store.for_each_pack(true, |row| {
        if let (false, Some(size)) = (listed.contains(&row.id), PackSize::of(row.bytes)) {
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

/// Signs the first head of a device that has just joined the vault; as heir it carries on another device's snapshots.
pub fn publish_first_head(
    vault: &Vault,
    heir_of: Option<DeviceId>,
    holders: &[PeerAddress],
) -> Result<Head, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let mut draft = next_head(vault, &[], holders)?;
    if let Some(device) = heir_of {
        let heads = newest_heads(&vault.store, vault.id())?;
        let lost = heads.iter().find(|head| head.device() == device);
        if let Some(lost) = lost {
            // Its lists too: the packs are not in this index yet.
            draft.snapshots.clone_from(&lost.draft.snapshots);
            draft.lists.clone_from(&lost.draft.lists);
            draft.inherited = [device].into_iter().chain(lost.draft.inherited.iter().copied()).collect();
        }
    }
    store_head(vault, draft)
}

/// Signs and durably stores a head; the caller holds the chain's lock or is alone.
fn store_head(vault: &Vault, draft: HeadDraft) -> Result<Head, EngineError> {
    let (head, bytes) = SignedHead::sign(draft, &vault.keyring.device, &vault.keyring.certificate)?;
    vault.store.publish_head(vault.id(), vault.device(), head.draft.seq, head.id, &bytes)?;
    Ok(head)
}
