//! Records: heads, pieces of pack lists and snapshot records. Checked, and got again from whoever has them, like packs.
//!
//! Each is named by the hash of its bytes, so nothing here needs a key, and what a peer gives is either the very file or
//! refused. The damaged file goes to quarantine first.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use super::chain::{UnreadableHead, read_head};
use super::error::EngineError;
use super::expected;
use super::heads::{for_each_listed, newest_heads, unreadable_heads};
use super::monitor::Monitor;
use super::signing::{publish_head_without, publish_next_head, unknown_lists};
use super::vault::Vault;
use crate::base::{ListId, PackId, PeerId, SnapshotId, VaultId, limit};
use crate::snapshot::{Head, ListRef, PackList, PackSize, PeerAddress};
use crate::store::{RecordName, Store};

/// What is wrong with a record's file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordFault {
    /// It is not here.
    Missing,
    /// It is not what its name says, or cannot be read.
    Damaged,
    /// It is what its name says and of no use all the same: nobody has a better one.
    Useless(String),
}

/// A record that is not sound here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordDamage {
    /// Which.
    pub record: RecordName,
    /// Of which vault.
    pub vault: VaultId,
    /// What is wrong.
    pub fault: RecordFault,
}

impl fmt::Display for RecordDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.record {
            RecordName::Head { device, seq, .. } => write!(f, "head {seq} of device {}", device.short())?,
            RecordName::List(id) => write!(f, "pack list {}", id.short())?,
            RecordName::Snapshot(id) => write!(f, "the record of snapshot {}", id.short())?,
        }
        match &self.fault {
            RecordFault::Missing => f.write_str(" is missing"),
            RecordFault::Damaged => f.write_str(" is damaged"),
            RecordFault::Useless(why) => write!(f, " is of no use: {why}"),
        }
    }
}

/// Where records come from.
pub trait RecordSource {
    /// Asks whoever may have it, the likeliest first, until `take` accepts what came; who was asked and what came of it.
    fn ask(&self, vault: VaultId, record: &RecordName, take: &mut dyn FnMut(PeerId, &[u8]) -> bool)
    -> String;
}

/// Whether these are the bytes that a record's name means.
pub fn is_record(record: &RecordName, bytes: &[u8]) -> bool {
    let whole = !matches!(record, RecordName::Snapshot(_)) || bytes.len() == limit::RECORD_BYTES;
    whole && blake3::hash(bytes).as_bytes() == record.hash()
}

/// Looks at one record's file.
fn examine(store: &Store, record: &RecordName) -> Result<Option<RecordFault>, EngineError> {
    match store.read_record(record) {
        Ok(None) => Ok(Some(RecordFault::Missing)),
        Ok(Some(bytes)) => Ok((!is_record(record, &bytes)).then_some(RecordFault::Damaged)),
        Err(error) if error.is_rot() => Ok(Some(RecordFault::Damaged)),
        Err(error) => Err(error.into()),
    }
}

/// Every record here that is not sound: heads, and what the newest head of each device names; own and kept for others.
/// Heads come first.
pub fn damaged_records(store: &Store, monitor: &Monitor) -> Result<Vec<RecordDamage>, EngineError> {
    let mut found = BTreeSet::new();
    for vault in expected::vaults(store)? {
        for device in store.head_devices(vault)? {
            for (seq, id) in store.head_names(vault, device)? {
                monitor.go_on()?;
                let record = RecordName::Head { vault, device, seq, id };
                let fault = match examine(store, &record)? {
                    None => read_head(store, vault, device, (seq, id))?.err().map(RecordFault::Useless),
                    fault => fault,
                };
                found.extend(fault.map(|fault| RecordDamage { record, vault, fault }));
            }
        }
        for UnreadableHead { device, seq, id, .. } in unreadable_heads(store, vault)? {
            let record = RecordName::Head { vault, device, seq, id };
            let fault = examine(store, &record)?.filter(|fault| *fault == RecordFault::Missing);
            found.extend(fault.map(|fault| RecordDamage { record, vault, fault }));
        }
        let mut seen = BTreeSet::new();
        for head in newest_heads(store, vault)? {
            let head = head?;
            for record in named_by(&head).filter(|record| seen.insert(*record)) {
                monitor.go_on()?;
                let fault = examine(store, &record)?;
                found.extend(fault.map(|fault| RecordDamage { record, vault, fault }));
            }
        }
    }
    found.extend(lost_heads(store)?);
    Ok(found.into_iter().collect())
}

/// All records that a head names, without itself.
pub fn named_by(head: &Head) -> impl Iterator<Item = RecordName> {
    let lists = head.draft.lists.iter().map(|list| RecordName::List(list.id));
    lists.chain(head.draft.snapshots.iter().map(|id| RecordName::Snapshot(*id)))
}

/// Of a head and its records `count`, as the seed ranks them: what a holder that confirmed it is asked for.
pub fn records_to_ask(head: &Head, count: usize, seed: u64) -> Vec<RecordName> {
    let (vault, device) = (head.vault(), head.device());
    let itself = RecordName::Head { vault, device, seq: head.draft.seq, id: head.id };
    let rank = |record: &RecordName| {
        let mut hasher = blake3::Hasher::new();
        *hasher.update(&seed.to_le_bytes()).update(record.hash()).finalize().as_bytes()
    };
    let mut ranked: Vec<RecordName> = named_by(head).chain([itself]).collect();
    ranked.sort_by_cached_key(rank);
    ranked.truncate(count);
    ranked
}

/// Heads that a holder has confirmed and that are not here: those are kept.
fn lost_heads(store: &Store) -> Result<Vec<RecordDamage>, EngineError> {
    let Some(vault) = store.read_vault_id()? else { return Ok(Vec::new()) };
    let mut lost = Vec::new();
    for (_, device, seq, id) in store.head_receipts()? {
        let record = RecordName::Head { vault, device, seq, id };
        if examine(store, &record)? == Some(RecordFault::Missing) {
            lost.push(RecordDamage { record, vault, fault: RecordFault::Missing });
        }
    }
    Ok(lost)
}

/// What getting records again came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordRepair {
    /// Those that are sound again.
    pub repaired: Vec<RecordDamage>,
    /// Those of them that nobody had and that were made again from what is kept here.
    pub remade: Vec<RecordDamage>,
    /// Those that nobody had, and who was asked.
    pub failed: Vec<(RecordDamage, String)>,
    /// Bytes that each peer gave.
    pub given: BTreeMap<PeerId, u64>,
}

/// Gets damaged and missing records again. A head that comes back may name more that is not here: those are looked for as
/// well. What cannot be had does not stop the others.
pub fn repair_records(
    store: &Store,
    damages: Vec<RecordDamage>,
    source: &dyn RecordSource,
    monitor: &Monitor,
) -> Result<RecordRepair, EngineError> {
    let mut result = RecordRepair::default();
    let is_head = |damage: &RecordDamage| matches!(damage.record, RecordName::Head { .. });
    let (heads, mut others): (Vec<_>, Vec<_>) = damages.into_iter().partition(is_head);
    repair_each(store, heads, source, monitor, &mut result)?;
    if !result.repaired.is_empty() {
        others = damaged_records(store, monitor)?.into_iter().filter(|damage| !is_head(damage)).collect();
    }
    repair_each(store, others, source, monitor, &mut result)?;
    Ok(result)
}

fn repair_each(
    store: &Store,
    damages: Vec<RecordDamage>,
    source: &dyn RecordSource,
    monitor: &Monitor,
    result: &mut RecordRepair,
) -> Result<(), EngineError> {
    let mut tries = limit::LISTS_MADE_AGAIN_MAX;
    for damage in damages {
        monitor.go_on()?;
        if let RecordFault::Useless(why) = &damage.fault {
            let why = why.clone();
            result.failed.push((damage, why));
            continue;
        }
        let mut came = None;
        let tried = source.ask(damage.vault, &damage.record, &mut |peer, bytes| {
            let right = is_record(&damage.record, bytes);
            if right {
                came = Some((peer, bytes.to_vec()));
            }
            right
        });
        let Some((peer, bytes)) = came else {
            let remade = match damage.record {
                RecordName::List(id) if tries > 0 => {
                    tries -= 1;
                    make_list_again(store, damage.vault, id)?
                }
                _ => false,
            };
            if remade {
                tracing::info!(target: "repair", record = %damage.record, "record made again");
                result.remade.push(damage.clone());
                result.repaired.push(damage);
            } else {
                result.failed.push((damage, tried));
            }
            continue;
        };
        store.replace_record(&damage.record, &bytes)?;
        tracing::info!(target: "repair", record = %damage.record, peer = %peer.short(), "record restored");
        *result.given.entry(peer).or_default() += bytes.len() as u64;
        result.repaired.push(damage);
    }
    Ok(())
}

/// Makes a piece of a pack list again that nobody has, of packs that are kept for that vault; whether that could be done. Those that one
/// piece names came one after the other as a rule, and its hash says whether it is the very one.
fn make_list_again(store: &Store, vault: VaultId, id: ListId) -> Result<bool, EngineError> {
    let (mut lost, mut beside, mut all) = (None, HashSet::new(), HashSet::new());
    for head in newest_heads(store, vault)? {
        let lists = head?.draft.lists;
        if let Some(list) = lists.iter().find(|list| list.id == id) {
            lost = Some(*list);
            beside.extend(lists.iter().map(|list| list.id));
        }
        all.extend(lists.iter().map(|list| list.id));
    }
    let Some(lost) = lost else { return Ok(false) };
    let mut kept = Vec::new();
    for number in store.foreign_packs(vault)? {
        let row = store.pack_by_number(number)?;
        kept.extend(row.and_then(|row| Some((row.id, PackSize::of(row.bytes)?))));
    }
    // Devices may list the same packs, or have brought theirs in turn.
    for lists in [beside, all] {
        let mut named = HashSet::new();
        for_each_listed(store, &lists, |pack| {
            named.insert(pack);
        })?;
        kept.retain(|(pack, _)| !named.contains(pack));
        if let Some(bytes) = piece_among(&kept, &lost) {
            store.replace_record(&RecordName::List(id), &bytes)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// The piece of that name, if it is one of packs which stand together.
fn piece_among(packs: &[(PackId, PackSize)], lost: &ListRef) -> Option<Vec<u8>> {
    let count = lost.packs as usize;
    if !(1..=limit::LIST_PACKS_MAX).contains(&count) {
        return None;
    }
    let has_its_length =
        |some: &&[_]| some.iter().map(|(_, size): &(_, PackSize)| size.bytes()).sum::<u64>() == lost.bytes;
    packs.windows(count).filter(has_its_length).take(limit::LIST_GUESSES_MAX).find_map(|some| {
        let (id, bytes) = PackList::new(some.to_vec()).encode();
        (id == lost.id).then_some(bytes)
    })
}

/// Pieces of this device's own pack list that nobody has are written anew, with a new head, where the index knows the packs.
/// Whether there were any.
pub fn renew_own_lists(vault: &Vault, holders: &[PeerAddress]) -> Result<bool, EngineError> {
    let (mine, mut lost) = (own_heads(vault)?, false);
    for list in mine.iter().flat_map(|head| &head.draft.lists) {
        lost |= examine(&vault.store, &RecordName::List(list.id))?.is_some();
    }
    lost &= unknown_lists(&vault.store, &mine)?.is_empty();
    if lost {
        publish_next_head(vault, &[], holders)?;
    }
    Ok(lost)
}

/// Pieces of this device's pack list that cannot be read, and of which nothing else tells here which packs they name.
pub fn lost_lists(vault: &Vault) -> Result<Vec<ListId>, EngineError> {
    Ok(unknown_lists(&vault.store, &own_heads(vault)?)?.into_iter().map(|list| list.id).collect())
}

/// Signs a head without pieces that are lost: packs that only they name are listed no more. Others stay as they are.
pub fn give_up_lists(vault: &Vault, lost: &[ListId], holders: &[PeerAddress]) -> Result<(), EngineError> {
    publish_head_without(vault, lost, holders)?;
    Ok(())
}

fn own_heads(vault: &Vault) -> Result<Vec<Head>, EngineError> {
    let is_mine =
        |head: &Result<Head, EngineError>| head.as_ref().map_or(true, |head| head.device() == vault.device());
    newest_heads(&vault.store, vault.id())?.filter(is_mine).collect()
}

/// Snapshots of these damaged records.
pub fn lost_snapshots(damages: &[RecordDamage]) -> impl Iterator<Item = SnapshotId> {
    damages.iter().filter_map(|damage| match damage.record {
        RecordName::Snapshot(id) => Some(id),
        _ => None,
    })
}
