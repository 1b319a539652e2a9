//! Heads that must be here: the newest of each device, and those that a holder confirmed.
//!
//! A file that is gone tells nothing, so that an older head would count in its place, and what only the lost one lists would go.
//! The names of the newest heads lie in one small published file for each vault; one that is lost or damaged only expects
//! less. What is carried on by another head here is missed by nobody.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::copies::void_head_receipt;
use super::error::EngineError;
use crate::base::{DeviceId, HeadId, VaultId};
use crate::snapshot::HeadName;
use crate::store::{Store, StoreError};

const PREFIX: &str = "newest-";
const SUFFIX: &str = ".json";

pub(super) fn file(vault: VaultId) -> String {
    format!("{PREFIX}{vault}{SUFFIX}")
}

/// Of each device its newest heads, and their numbers.
#[derive(Default, PartialEq, Clone, Serialize, Deserialize)]
struct Newest {
    devices: BTreeMap<String, BTreeMap<String, u64>>,
}

/// Notes what the newest heads of a device are: they were published before.
pub(super) fn expect(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    newest: &[HeadName],
) -> Result<(), StoreError> {
    change(store, vault, |known| {
        let heads = newest.iter().map(|(seq, id)| (id.to_string(), *seq)).collect();
        known.devices.insert(device.to_string(), heads);
    })
}

/// A head that is gone is waited for no longer, whoever has confirmed it.
pub(super) fn give_up(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    head: HeadId,
) -> Result<(), EngineError> {
    for (holder, ..) in store.head_receipts()?.into_iter().filter(|(_, _, _, id)| *id == head) {
        void_head_receipt(store, holder, head)?;
    }
    Ok(change(store, vault, |known| {
        if let Some(heads) = known.devices.get_mut(&device.to_string()) {
            heads.remove(&head.to_string());
        }
    })?)
}

fn change(store: &Store, vault: VaultId, change: impl FnOnce(&mut Newest)) -> Result<(), StoreError> {
    let _one = store.keep_names();
    let before: Newest = store.read_state_if_sound(&file(vault))?.unwrap_or_default();
    let mut after = before.clone();
    change(&mut after);
    if after == before { Ok(()) } else { store.publish_state(&file(vault), &after) }
}

/// Heads of a vault that were here.
pub(super) fn expected(store: &Store, vault: VaultId) -> Result<Vec<(DeviceId, HeadName)>, StoreError> {
    let known: Newest = store.read_state_if_sound(&file(vault))?.unwrap_or_default();
    let mut heads = BTreeSet::new();
    for (device, names) in known.devices {
        let Ok(device) = device.parse::<DeviceId>() else { continue };
        heads.extend(
            names.into_iter().filter_map(|(id, seq)| Some((device, (seq, id.parse::<HeadId>().ok()?)))),
        );
    }
    // Of one that cannot be told nothing more is expected.
    if store.read_vault_id().ok().flatten() == Some(vault) {
        heads.extend(store.head_receipts()?.into_iter().map(|(_, device, seq, id)| (device, (seq, id))));
    }
    Ok(heads.into_iter().collect())
}

/// Vaults that have heads here, or had some.
pub(super) fn vaults(store: &Store) -> Result<BTreeSet<VaultId>, StoreError> {
    let names = store.state_names()?;
    let had = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
    Ok(store.head_vaults()?.into_iter().chain(had).collect())
}

/// Removes the files with the names, as rot may.
#[cfg(test)]
pub(super) fn lose_names(store: &std::path::Path) {
    for dir in ["members", "copies"] {
        for file in std::fs::read_dir(store.join(dir)).unwrap() {
            let file = file.unwrap();
            if file.file_name().to_str().unwrap().starts_with(PREFIX) {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    }
}
