//! Packs that this vault's snapshots need and that are with holders only: how many, and whether any of these can be reached.

use std::collections::HashSet;

use super::core::Core;
use super::error::failed;
use crate::api::ApiError;
use crate::base::PeerId;
use crate::engine;

/// Numbers of packs, and their bytes.
#[derive(Default)]
pub(super) struct Unread {
    /// All that are needed and not here.
    pub(super) all: (u64, u64),
    /// Those of which no holder is connected.
    pub(super) unreachable: (u64, u64),
}

/// What is not on this disk. Nothing on a node without an open vault. Blocking.
pub(super) fn unread(core: &Core) -> Result<Unread, ApiError> {
    let Ok(vault) = core.vault() else { return Ok(Unread::default()) };
    let elsewhere = engine::packs_elsewhere(&core.store).map_err(failed)?;
    if elsewhere.is_empty() {
        return Ok(Unread::default());
    }
    let connected: HashSet<PeerId> = core.connected().into_iter().collect();
    let mut unread = Unread::default();
    let add = |sum: &mut (u64, u64), bytes: u64| *sum = (sum.0 + 1, sum.1 + bytes);
    for row in engine::referred_elsewhere(&vault).map_err(failed)? {
        if !elsewhere.contains_key(&row.number) {
            continue;
        }
        add(&mut unread.all, row.bytes);
        let holders = core.store.holders_of(row.id).map_err(failed)?;
        if !holders.iter().any(|holder| connected.contains(holder)) {
            add(&mut unread.unreachable, row.bytes);
        }
    }
    Ok(unread)
}
