//! Holders that come are asked where their store is, before anything rests on what they confirmed.
//!
//! One that shows a state which may lack what it confirmed, or that cannot be told, is asked for all of it: what it does not
//! confirm again counts no more, and is offered anew. [`Confirmed`](crate::policy::Confirmed) decides. So is every one of them
//! when it is this node's own disk that turns out to be an older copy: they may have let go what it does not know of.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::auditing::confirmed;
use super::core::Core;
use super::error::failed;
use super::owning::own_head;
use super::records::ask;
use crate::api::{ApiError, Happening, Status, Verdict};
use crate::base::{Code, HeadId, PackId, PeerId, VaultId, limit, random_bytes};
use crate::engine;
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

/// Compares those that have come, or that are doubted for whatever this node found out since.
pub(super) async fn round(
    core: &Arc<Core>,
    net: &Net,
    vault: VaultId,
    peers: &[PeerId],
) -> Result<(), ApiError> {
    let doubted = core.blocking(|core| core.store.doubted_holders().map_err(failed)).await?;
    let is_due = |peer: &PeerId| !core.comparing.is_done(peer) || doubted.contains(peer);
    for peer in peers.iter().copied().filter(is_due) {
        match compare(core, net, peer, vault).await {
            Ok(()) => core.comparing.note(peer),
            Err(error) => {
                tracing::debug!(target: "replicate", peer = %peer.short(), code = error.code, %error, "comparing stores failed");
            }
        }
    }
    Ok(())
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
            // It is told of heads again, and confirms them when their records are there.
            false => core.store.doubt_holder(peer).and_then(|()| core.store.drop_head_receipts(peer)),
        }
        .map_err(failed)?;
        Ok(is_there)
    });
    if is_there.await? {
        return Ok(());
    }
    let (asked, lost) = ask_for_all(core, net, peer, vault).await?;
    core.blocking(move |core| core.store.settle_holder(peer, &inventory).map_err(failed)).await?;
    core.sharing.forget(peer);
    if lost > 0 {
        core.tell(Happening::AuditFailed { peer, packs: lost, records: 0 });
        tracing::warn!(target: "replicate", peer = %peer.short(), asked, lost,
            "a holder lacks what it confirmed: its disk or this one is an older copy, or a part of it was lost; it gets it anew");
    } else if asked > 0 {
        tracing::info!(target: "replicate", peer = %peer.short(), asked, "a holder confirmed all that it has again");
    }
    Ok(())
}

/// Has a holder confirm again what counts; how much that is, and how much of it counts no more.
///
/// Only for a head of this device that counts there too: it keeps what that one lists, and may let go anything else.
async fn ask_for_all(
    core: &Arc<Core>,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
) -> Result<(u64, u64), ApiError> {
    let silent = || ApiError::new(Code::PeerBusy, format!("{} does not say what it holds", peer.short()));
    let (head, listed) = core.blocking(move |core| listed(core, vault)).await?;
    let (mut asked, mut lost) = (0, 0);
    let mut from = Some(PackNumber(0));
    while let Some(begin) = from {
        let page = core
            .blocking(move |core| core.store.held_by(peer, begin, limit::RECEIPT_PACKS_MAX).map_err(failed));
        let (page, next) = page.await?;
        from = next;
        let page = page.into_iter().map(|row| (row.id, row.bytes));
        let (kept, mut gone): (Vec<_>, Vec<_>) = page.partition(|(pack, _)| listed.contains(pack));
        if asked == 0 && !kept.is_empty() {
            let said = confirmed(net, peer, vault, Some(head), &[]).await.ok_or_else(silent)?;
            if said.head != Some(head) {
                let late = format!("{} has not the newest head yet", peer.short());
                return Err(ApiError::new(Code::PeerBusy, late));
            }
        }
        if !kept.is_empty() {
            let said = confirmed(net, peer, vault, None, &kept).await.ok_or_else(silent)?;
            let there: HashSet<PackId> = said.packs.into_iter().collect();
            let lacking = kept.iter().filter(|(pack, _)| !there.contains(pack));
            (asked, lost) = (asked + kept.len() as u64, lost + lacking.clone().count() as u64);
            gone.extend(lacking);
        }
        let gone: Vec<PackId> = gone.into_iter().map(|(pack, _)| pack).collect();
        core.blocking(move |core| core.store.drop_pack_receipts(peer, &gone).map_err(failed)).await?;
    }
    Ok((asked, lost))
}

/// This device's newest head and what it lists. Blocking.
fn listed(core: &Arc<Core>, vault: VaultId) -> Result<(HeadId, HashSet<PackId>), ApiError> {
    let head = own_head(core, vault)?
        .ok_or_else(|| ApiError::new(Code::StorageCorrupted, "this device has no head that can be read"))?;
    let packs = engine::head_packs(&core.store, &head).map(|listed| listed.map(|(id, _)| id));
    Ok((head.id, packs.collect::<Result<_, _>>().map_err(failed)?))
}

/// Holders of which nothing counts for now.
pub(super) fn describe(core: &Core, status: &mut Status) -> Result<(), ApiError> {
    let doubted = core.store.doubted_holders().map_err(failed)?;
    let lines = status.peers.iter().filter(|peer| doubted.contains(&peer.id) && peer.packs_held > 0).map(|peer| {
        let name = peer.name.clone().unwrap_or_else(|| peer.id.to_string());
        format!(
            "what {name} confirmed is not proven: its disk or this one is an older copy; it counts again once {name} was asked for all of it (`shadowvault peers`)"
        )
    });
    let lines: Vec<String> = lines.collect();
    if !lines.is_empty() && status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
    status.problems.extend(lines);
    Ok(())
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
