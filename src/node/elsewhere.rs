//! Packs that this vault's snapshots need and that are with holders only: how many, and whether any of these can be reached.
//!
//! Snapshots of other devices count too: the machine that made them may be gone. Only what nobody has promised this device is left
//! to a device that lists it, while that one is a member.

use std::collections::HashSet;

use super::core::Core;
use super::error::failed;
use crate::api::ApiError;
use crate::base::{PackId, PeerId};
use crate::engine::{self, Vault};
use crate::store::{Borrowed, PackNumber};

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
    let mine: HashSet<PackNumber> =
        engine::referred_elsewhere(&vault).map_err(failed)?.into_iter().map(|row| row.number).collect();
    let theirs = kept_by_members(core, &vault)?;
    for (number, (row, state)) in elsewhere {
        if state == Borrowed::Unconfirmed && !mine.contains(&number) && theirs.contains(&row.id) {
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

/// Packs that other devices of the vault list which are members here.
fn kept_by_members(core: &Core, vault: &Vault) -> Result<HashSet<PackId>, ApiError> {
    let mut packs = HashSet::new();
    for head in engine::newest_heads(&core.store, vault.id()).map_err(failed)? {
        let head = head.map_err(failed)?;
        if head.device() != vault.device() && core.members.allows(&head.certificate.peer) {
            packs.extend(engine::packs_as_known(&core.store, &head).map_err(failed)?.0);
        }
    }
    Ok(packs)
}
