//! Making the index anew from files, and taking in packs that a crash left without rows.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::borrow::packs_elsewhere;
use super::copies::{enter_head, enter_receipt, packs_of};
use super::error::EngineError;
use super::heads::{VaultView, for_each_ever_listed, newest_heads};
use super::holder::keep_what_is_here;
use super::monitor::Monitor;
use super::repair::Damage;
use super::signing::indexes_all;
use super::vault::Vault;
use crate::base::{Epoch, Moment, PackId, PeerId, VaultId, limit};
use crate::crypto::VaultKeys;
use crate::pack::read_pack;
use crate::policy::Mark;
use crate::snapshot::Receipt;
use crate::store::{KeptReceipts, NOBODY, NewPack, Store};
use crate::wire::{self, Bound};

/// What a rebuild found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Packs entered.
    pub packs: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Heads read.
    pub heads: u64,
    /// Files that could not be read; they stay where they are.
    pub unreadable: Vec<String>,
}

/// Packs entered in one commit.
const BATCH_PACKS: usize = 64;

/// Fills the (new, empty) index of `store` from its files. With `keys` own packs are indexed chunk by chunk; without,
/// what a holder needs is made: foreign packs by the heads that list them.
pub fn rebuild_index(
    store: &Store,
    keys: Option<&VaultKeys>,
    monitor: &Monitor,
) -> Result<Rebuilt, EngineError> {
    monitor.enter("reading heads");
    let mut done = Rebuilt::default();
    // Of what heads list only what is here: they may list without end.
    let mut foreign: HashMap<PackId, BTreeSet<VaultId>> = HashMap::new();
    let files = store.pack_files()?;
    let here: HashSet<PackId> = files.iter().copied().collect();
    // Without keys, packs of this node's own vault wait without rows: `adopt_unindexed` takes them in with keys.
    let own_vault = store.read_vault_id()?;
    let mut waiting: HashSet<PackId> = HashSet::new();
    for vault in store.head_vaults()? {
        for head in newest_heads(store, vault)? {
            head?;
            done.heads += 1;
        }
        if keys.is_some_and(|keys| keys.vault == vault) {
            continue;
        }
        // What only replaced heads list is held as well.
        let unreadable = for_each_ever_listed(
            store,
            vault,
            |_| true,
            |id| match here.contains(&id) {
                true if own_vault == Some(vault) => drop(waiting.insert(id)),
                true => drop(foreign.entry(id).or_default().insert(vault)),
                false => {}
            },
        )?;
        done.unreadable.extend(unreadable.into_iter().map(|id| format!("pack list {id}")));
    }
    monitor.enter("reading packs");
    let mut batch: Vec<NewPack> = Vec::new();
    for id in files {
        monitor.go_on()?;
        if waiting.contains(&id) {
            continue;
        }
        match examine(store, keys, id, foreign.contains_key(&id)) {
            Ok(pack) => {
                done.packs += 1;
                done.chunks += pack.entries.len() as u64;
                batch.push(pack);
            }
            Err(error) => done.unreadable.push(format!("pack {id}: {error}")),
        }
        Monitor::add(&monitor.files_done, 1);
        let rows: usize = batch.iter().map(|pack| pack.entries.len()).sum();
        if batch.len() >= BATCH_PACKS || rows >= limit::INDEX_ROWS_PENDING_MAX {
            commit(store, &mut batch, &foreign)?;
        }
    }
    commit(store, &mut batch, &foreign)?;
    let mut problems = verify_known_receipts(store)?;
    done.unreadable.append(&mut problems);
    Ok(done)
}

/// How many packs belong here: those of the index, or, where it tells nothing, those that newest heads list, among which may be
/// such that are with holders only; with `is_cache` none of its own vault need be here.
pub fn packs_to_be_here(store: &Store, has_index: bool, is_cache: bool) -> Result<u64, EngineError> {
    let own = store.read_vault_id()?;
    let mut count = 0;
    if has_index {
        let elsewhere = packs_elsewhere(store)?;
        for own in [true, false] {
            store.for_each_pack(own, |row| {
                count += u64::from(!elsewhere.contains_key(&row.number));
                true
            })?;
        }
        return Ok(count);
    }
    for vault in store.head_vaults()?.into_iter().filter(|vault| !is_cache || own != Some(*vault)) {
        for head in newest_heads(store, vault)? {
            count += head?.draft.lists.iter().map(|list| u64::from(list.packs)).sum::<u64>();
        }
    }
    Ok(count)
}

fn examine(
    store: &Store,
    keys: Option<&VaultKeys>,
    id: PackId,
    is_foreign: bool,
) -> Result<NewPack, EngineError> {
    let file = store.open_pack(id)?;
    if is_foreign {
        let bytes = file.length();
        return Ok(NewPack { id, bytes, epoch: Epoch(0), own: false, entries: Vec::new() });
    }
    let Some(keys) = keys else {
        return Err(EngineError::RecordMissing("a head that lists it".to_owned()));
    };
    let bytes = file.read_all()?;
    let (epoch, entries) = read_pack(keys, &bytes).map_err(|source| EngineError::Pack { id, source })?;
    Ok(NewPack { id, bytes: bytes.len() as u64, epoch, own: true, entries })
}

fn commit(
    store: &Store,
    batch: &mut Vec<NewPack>,
    foreign: &HashMap<PackId, BTreeSet<VaultId>>,
) -> Result<(), EngineError> {
    let mut by_vault: HashMap<VaultId, Vec<_>> = HashMap::new();
    for pack in store.index_packs(batch)? {
        for vault in foreign.get(&pack.id).into_iter().flatten() {
            by_vault.entry(*vault).or_default().push(pack.number);
        }
    }
    for (vault, numbers) in by_vault {
        store.add_foreign(vault, &numbers, NOBODY)?;
    }
    batch.clear();
    Ok(())
}

/// Enters all stored receipts again; returns what could not be read.
pub fn verify_known_receipts(store: &Store) -> Result<Vec<String>, EngineError> {
    let (mut receipts, mut problems) = (Vec::new(), Vec::new());
    let mut void: HashMap<PeerId, BTreeMap<[u8; 32], Moment>> = HashMap::new();
    store.for_each_signed_receipt(|bytes| {
        let signed = wire::decode::<wire::Signed>(
            bytes,
            Bound::new(limit::RECEIPT_BYTES_MAX + 1024, limit::FIELDS_FEW),
        );
        match signed.map_err(EngineError::from_wire).and_then(|signed| Ok(Receipt::verify(&signed)?)) {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => problems.push(format!("a receipt: {error}")),
        }
    })?;
    for mut receipt in receipts {
        let void = match void.entry(receipt.holder) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(store.void_receipts_of(receipt.holder)?),
        };
        // What was found lost since does not come back with the receipt.
        let counts = |id: &[u8; 32]| void.get(id).is_none_or(|until| receipt.time > *until);
        receipt.packs.retain(|pack| counts(pack.as_bytes()));
        receipt.head = receipt.head.filter(|head| counts(head.as_bytes()));
        enter_receipt(store, &receipt)?;
    }
    let mut all = Vec::new();
    store.for_each_kept_receipt(|holder, kept| {
        all.push((holder, kept));
        Ok(())
    })?;
    for (holder, kept) in all {
        enter_kept(store, holder, kept)?;
    }
    Ok(problems)
}

/// Enters what is kept of a holder's receipts and is not void.
fn enter_kept(store: &Store, holder: PeerId, kept: KeptReceipts) -> Result<(), EngineError> {
    let void = store.void_receipts_of(holder)?;
    let counts = |id: &[u8; 32], time: Moment| void.get(id).is_none_or(|until| time > *until);
    let mut packs: BTreeMap<Moment, Vec<PackId>> = BTreeMap::new();
    for (pack, time) in kept.packs.into_iter().filter(|(pack, time)| counts(pack.as_bytes(), *time)) {
        packs.entry(time).or_default().push(pack);
    }
    for (run, count) in kept.marks {
        store.note_mark(holder, Mark { run, count })?;
    }
    for (time, packs) in packs {
        store.add_receipts(holder, &packs, time)?;
    }
    for (head, time) in kept.heads {
        if counts(head.as_bytes(), time) {
            enter_head(store, holder, head)?;
        }
    }
    Ok(())
}

impl EngineError {
    fn from_wire(error: wire::WireError) -> Self {
        Self::RecordMissing(format!("a message ({error})"))
    }
}

/// Like [`examine`], for a pack that chunks will be reused from: all of it must be as it was sealed.
fn examine_sound(store: &Store, keys: &VaultKeys, id: PackId) -> Result<NewPack, EngineError> {
    if let Some(damage) = Damage::examine(store, id, store.open_pack(id)?.length())? {
        return Err(EngineError::RecordMissing(format!("{} of its bytes", damage.bytes_wanted())));
    }
    examine(store, Some(keys), id, false)
}

/// Takes in packs that are kept for others and that the index does not know although heads list them: an older one was put back.
pub fn adopt_listed(store: &Store) -> Result<u64, EngineError> {
    let unknown: HashSet<PackId> = store.unindexed_packs()?.into_iter().collect();
    if unknown.is_empty() {
        return Ok(0);
    }
    let own_vault = store.read_vault_id()?;
    let mut foreign: HashMap<PackId, BTreeSet<VaultId>> = HashMap::new();
    for vault in store.head_vaults()?.into_iter().filter(|vault| own_vault != Some(*vault)) {
        for_each_ever_listed(
            store,
            vault,
            |_| true,
            |id| {
                if unknown.contains(&id) {
                    foreign.entry(id).or_default().insert(vault);
                }
            },
        )?;
    }
    let (mut batch, mut adopted) = (Vec::new(), 0);
    for id in foreign.keys() {
        match examine(store, None, *id, true) {
            Ok(pack) => {
                adopted += 1;
                batch.push(pack);
            }
            Err(error) => {
                tracing::warn!(target: "store", pack = %id, %error, "a pack without rows is not usable");
            }
        }
        if batch.len() >= BATCH_PACKS {
            commit(store, &mut batch, &foreign)?;
        }
    }
    commit(store, &mut batch, &foreign)?;
    Ok(adopted)
}

/// Takes in own packs that were published just before a crash, so that their chunks are not sealed again.
pub fn adopt_unindexed(vault: &Vault, monitor: &Monitor) -> Result<u64, EngineError> {
    let mut batch = Vec::new();
    let mut adopted = 0;
    for id in vault.store.unindexed_packs()? {
        monitor.go_on()?;
        match examine_sound(&vault.store, &vault.keyring.vault, id) {
            Ok(pack) => {
                adopted += 1;
                batch.push(pack);
            }
            // Not ours, or damaged: verify tells.
            Err(error) => {
                tracing::warn!(target: "store", pack = %id, %error, "a pack without rows is not usable")
            }
        }
        if batch.len() >= BATCH_PACKS {
            commit(&vault.store, &mut batch, &HashMap::new())?;
        }
    }
    commit(&vault.store, &mut batch, &HashMap::new())?;
    Ok(adopted)
}

/// Takes in own packs that lie here, that the newest head of this device lists, and that the index does not know: it is an older
/// one. Looks at nothing while the index is known to know all that the head lists.
pub fn adopt_own(vault: &Vault, monitor: &Monitor) -> Result<u64, EngineError> {
    let store = &vault.store;
    let mut adopted = 0;
    for head in newest_heads(store, vault.id())? {
        let head = head?;
        if head.device() != vault.device() || store.is_head_indexed(head.id)? {
            continue;
        }
        if !indexes_all(store, &head)? {
            // Packs that are taken in for others are not looked at before they have their rows.
            let _gate = store.close_gate();
            adopted += adopt_unindexed(vault, monitor)?;
        }
        if indexes_all(store, &head)? {
            store.note_head_indexed(head.id)?;
        }
    }
    Ok(adopted)
}

/// Keeps again what is here for the vault's other devices: what was promised to them is not known any more, so it is all
/// that their heads list, replaced ones too. A pack list that cannot be read is verify's to report.
pub fn renew_kept(vault: &Vault) -> Result<(), EngineError> {
    let files: HashSet<PackId> = vault.store.pack_files()?.into_iter().collect();
    let mut packs = HashSet::new();
    let is_other = |device| device != vault.device();
    for_each_ever_listed(&vault.store, vault.id(), is_other, |id| {
        packs.extend(files.contains(&id).then_some(id));
    })?;
    let packs: Vec<PackId> = packs.into_iter().collect();
    keep_what_is_here(&vault.store, (vault.id(), NOBODY), &packs)
}

/// Works out again which packs each snapshot needs.
pub fn renew_snapshot_packs(vault: &Vault) -> Result<u64, EngineError> {
    let view = VaultView::load(vault)?;
    let mut seen = HashSet::new();
    for snapshot in &view.snapshots {
        // A snapshot that cannot be read is verify's to report.
        if packs_of(vault, None, snapshot).is_ok() {
            seen.insert(snapshot.id);
        }
    }
    Ok(seen.len() as u64)
}
