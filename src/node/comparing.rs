//! Holders that come are asked where their store is, before anything rests on what they confirmed.
//!
//! One that shows a state which may lack what it confirmed, or that cannot be told, is asked for all of it: what it does not
//! confirm again counts no more, and is offered anew. [`Confirmed`](crate::policy::Confirmed) decides.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::auditing::confirmed;
use super::core::Core;
use super::error::failed;
use super::records::ask;
use crate::api::{ApiError, Happening};
use crate::base::{Code, PackId, PeerId, VaultId, limit, random_bytes};
use crate::net::Net;
use crate::policy::{Inventory, Mark, RUNS_MAX};
use crate::store::{PackNumber, Store, StoreError};
use crate::wire::{self, sync_request::Ask, sync_response::Answer};

/// Holders that were compared since they came.
#[derive(Default)]
pub(super) struct Comparing {
    done: Mutex<HashSet<PeerId>>,
    /// The present run could not be noted: nothing is said of the own store.
    is_mute: AtomicBool,
}

impl Comparing {
    /// A peer came or went: who comes back may come with another disk.
    pub(super) fn forget(&self, peer: PeerId) {
        self.done.lock().expect("no panic while held").remove(&peer);
    }

    /// Whether it was compared since it came.
    pub(super) fn is_done(&self, peer: &PeerId) -> bool {
        self.done.lock().expect("no panic while held").contains(peer)
    }

    /// The run of a node that others rely on begins. On a full disk it cannot be noted: then they ask for all.
    pub(super) fn begin(&self, store: &Store) -> Result<(), StoreError> {
        // Never 0: that is how nothing is said.
        let begun = store.begin_run(u64::from_le_bytes(random_bytes()).max(1));
        self.is_mute.store(begun.is_err(), Ordering::Relaxed);
        match begun {
            Err(StoreError::Full(error)) => {
                tracing::warn!(target: "hold", %error, "the disk is full: owners will ask for all that is kept for them");
                Ok(())
            }
            other => other,
        }
    }

    /// Where this node's store is, for whoever relies on it.
    pub(super) fn own(&self, store: &Store) -> Result<Inventory, StoreError> {
        match self.is_mute.load(Ordering::Relaxed) {
            true => Ok(Inventory::default()),
            false => store.inventory(),
        }
    }

    fn note(&self, peer: PeerId) {
        self.done.lock().expect("no panic while held").insert(peer);
    }
}

/// Compares those that have come.
pub(super) async fn round(core: &Arc<Core>, net: &Net, vault: VaultId, peers: &[PeerId]) {
    for peer in peers.iter().copied().filter(|peer| !core.comparing.is_done(peer)) {
        match compare(core, net, peer, vault).await {
            Ok(()) => core.comparing.note(peer),
            Err(error) => {
                tracing::debug!(target: "replicate", peer = %peer.short(), code = error.code, %error, "comparing stores failed");
            }
        }
    }
}

async fn compare(core: &Arc<Core>, net: &Net, peer: PeerId, vault: VaultId) -> Result<(), ApiError> {
    let inventory = match ask(net, peer, Ask::Inventory(wire::InventoryQuery {})).await {
        Ok(Some(Answer::Inventory(said))) => from_wire(&said),
        // It does not say: it is asked for everything each time it comes.
        Ok(_) => Inventory::default(),
        Err(error) if error.kind() == Code::PeerMisbehaved => Inventory::default(),
        Err(error) => return Err(error),
    };
    let now = inventory.clone();
    let is_there = core.blocking(move |core| {
        let known = core.store.confirmed_by(peer).map_err(failed)?;
        let is_there = known.is_in(&now);
        match is_there {
            true => core.store.settle_holder(peer, &now),
            false => core.store.doubt_holder(peer),
        }
        .map_err(failed)?;
        Ok(is_there)
    });
    if is_there.await? {
        return Ok(());
    }
    let (asked, lost) = ask_for_all(core, net, peer, vault).await?;
    core.blocking(move |core| {
        // It is told them again, and confirms them when their records are there.
        core.store.drop_head_receipts(peer).map_err(failed)?;
        core.store.settle_holder(peer, &inventory).map_err(failed)
    })
    .await?;
    core.sharing.forget(peer);
    if lost > 0 {
        core.tell(Happening::AuditFailed { peer, packs: lost, records: 0 });
        tracing::warn!(target: "replicate", peer = %peer.short(), asked, lost,
            "a holder lacks what it confirmed: its disk is an older copy, or a part of it was lost; it gets it anew");
    } else if asked > 0 {
        tracing::info!(target: "replicate", peer = %peer.short(), asked, "a holder confirmed all that it has again");
    }
    Ok(())
}

/// Has a holder confirm again what counts; how much that is, and how much of it counts no more.
async fn ask_for_all(
    core: &Arc<Core>,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
) -> Result<(u64, u64), ApiError> {
    let (mut asked, mut lost) = (0, 0);
    let mut from = Some(PackNumber(0));
    while let Some(begin) = from {
        let page = core
            .blocking(move |core| core.store.held_by(peer, begin, limit::RECEIPT_PACKS_MAX).map_err(failed));
        let (page, next) = page.await?;
        from = next;
        if page.is_empty() {
            continue;
        }
        let page: Vec<(PackId, u64)> = page.into_iter().map(|row| (row.id, row.bytes)).collect();
        let there = confirmed(net, peer, vault, &page).await.ok_or_else(|| {
            ApiError::new(Code::PeerBusy, format!("{} does not say what it holds", peer.short()))
        })?;
        let gone: Vec<PackId> =
            page.iter().map(|(pack, _)| *pack).filter(|pack| !there.contains(pack)).collect();
        (asked, lost) = (asked + page.len() as u64, lost + gone.len() as u64);
        core.blocking(move |core| core.store.drop_pack_receipts(peer, &gone).map_err(failed)).await?;
    }
    Ok((asked, lost))
}

/// An inventory as it is sent.
pub(super) fn to_wire(inventory: &Inventory) -> wire::Inventory {
    let both = |run: &Mark| [run.run.to_le_bytes(), run.count.to_le_bytes()].concat();
    wire::Inventory { runs: inventory.runs.iter().flat_map(both).collect(), taken_in: inventory.count }
}

fn from_wire(said: &wire::Inventory) -> Inventory {
    let (numbers, _) = said.runs.as_chunks::<8>();
    let (runs, _) = numbers.as_chunks::<2>();
    let run = |[run, count]: &[[u8; 8]; 2]| Mark {
        run: u64::from_le_bytes(*run),
        count: u64::from_le_bytes(*count),
    };
    let runs: VecDeque<Mark> = runs.iter().take(RUNS_MAX).map(run).collect();
    Inventory { runs, count: said.taken_in }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_survives_the_wire_and_a_malformed_one_tells_nothing() {
        let mut inventory = Inventory::default();
        inventory.begin(u64::MAX);
        inventory.count = 7;
        inventory.begin(2);
        assert_eq!(from_wire(&to_wire(&inventory)), inventory);
        let odd = wire::Inventory { runs: vec![1; 15], taken_in: 3 };
        assert_eq!(from_wire(&odd).mark(), None);
        let endless = wire::Inventory { runs: vec![1; 16 * 2 * RUNS_MAX], taken_in: 3 };
        assert_eq!(from_wire(&endless).runs.len(), RUNS_MAX);
    }
}
