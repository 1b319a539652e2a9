//! Forgetting: which snapshots of this device stay by what rule, and a next head without the others.
//!
//! What only a forgotten snapshot needs becomes garbage; nothing is deleted here (see `gc`). A head lists what one device
//! has made or inherited, so each device forgets its own.

use std::collections::HashSet;

use jiff::tz::TimeZone;

use super::error::EngineError;
use super::heads::{VaultView, next_head, store_head};
use super::vault::Vault;
use crate::base::{ChunkId, DeviceId, Moment, SnapshotId};
use crate::policy::{self, Candidate, Reason, Rules};
use crate::snapshot::{PeerAddress, Snapshot};
use crate::store::PackNumber;

/// What `forget` would do, oldest snapshot first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForgetPlan {
    /// Those that stay, and why.
    pub keep: Vec<(SnapshotId, Vec<Reason>)>,
    /// Those that go.
    pub forget: Vec<SnapshotId>,
}

/// What forgetting frees, by the packs that each snapshot needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForgetEffect {
    /// Bytes of packs that the vault's snapshots need now.
    pub live_bytes: u64,
    /// Of those, such that none needs any more. Partly needed packs are not in it.
    pub freed_bytes: u64,
}

impl ForgetEffect {
    /// Whether it is more than `percent` of everything.
    pub fn exceeds(&self, percent: u64) -> bool {
        u128::from(self.freed_bytes) * 100 > u128::from(self.live_bytes) * u128::from(percent)
    }
}

/// Snapshots of one set: the device, the host and the paths.
type Set<'a> = (DeviceId, &'a str, &'a [Vec<u8>], Option<ChunkId>);

fn candidate(snapshot: &Snapshot) -> Candidate<Set<'_>> {
    let info = &snapshot.info;
    Candidate {
        set: (snapshot.device, &info.hostname, &info.paths, snapshot.paths_list),
        time: snapshot.time,
        complete: snapshot.is_complete(),
        pinned: info.pinned,
        tags: info.tags.clone(),
    }
}

/// This device's snapshots: those that its newest head lists. Oldest first.
fn own<'a>(vault: &Vault, view: &'a VaultView) -> Vec<&'a Snapshot> {
    let listed: HashSet<SnapshotId> = view
        .heads
        .iter()
        .filter(|head| head.device() == vault.device())
        .flat_map(|head| head.draft.snapshots.iter().copied())
        .collect();
    view.snapshots.iter().filter(|snapshot| listed.contains(&snapshot.id)).collect()
}

/// Sorts this device's snapshots by `rules`. Calendar days are those of `zone`. Changes nothing.
pub fn plan_forget(
    vault: &Vault,
    view: &VaultView,
    rules: &Rules,
    now: Moment,
    zone: &TimeZone,
) -> ForgetPlan {
    let own = own(vault, view);
    let candidates: Vec<_> = own.iter().map(|snapshot| candidate(snapshot)).collect();
    let mut plan = ForgetPlan::default();
    for (snapshot, reasons) in own.iter().zip(policy::keep(rules, &candidates, now, zone)) {
        if reasons.is_empty() {
            plan.forget.push(snapshot.id);
        } else {
            plan.keep.push((snapshot.id, reasons));
        }
    }
    plan
}

/// A plan that forgets exactly `named`. With `confirmed` also the newest complete snapshot of a set.
///
/// # Errors
/// A snapshot of another device, a pinned one, or unless `confirmed` the last complete one of its set.
pub fn plan_named(
    vault: &Vault,
    view: &VaultView,
    named: &[SnapshotId],
    confirmed: bool,
    now: Moment,
) -> Result<ForgetPlan, EngineError> {
    let own = own(vault, view);
    let left: Vec<&&Snapshot> = own.iter().filter(|snapshot| !named.contains(&snapshot.id)).collect();
    for id in named {
        let snapshot = view.snapshots.iter().find(|snapshot| snapshot.id == *id);
        let snapshot = snapshot.ok_or_else(|| EngineError::unknown(id.short()))?;
        if !own.iter().any(|known| known.id == *id) {
            return Err(EngineError::NotOwn { id: *id, device: view.device_name(snapshot.device) });
        }
        if snapshot.info.pinned {
            return Err(EngineError::Pinned(*id));
        }
        let set = candidate(snapshot).set;
        let replaced = left.iter().any(|other| {
            candidate(other).set == set
                && other.is_complete()
                && snapshot.time <= other.time
                && other.time <= now
        });
        if snapshot.is_complete() && !replaced && !confirmed {
            return Err(EngineError::NewestComplete(*id));
        }
    }
    Ok(ForgetPlan {
        keep: left.into_iter().map(|snapshot| (snapshot.id, Vec::new())).collect(),
        forget: named.to_vec(),
    })
}

/// What forgetting these would free. Snapshots whose packs are not known count as needing nothing.
pub fn forget_effect(
    vault: &Vault,
    view: &VaultView,
    forget: &[SnapshotId],
) -> Result<ForgetEffect, EngineError> {
    let (mut all, mut left): (HashSet<PackNumber>, HashSet<PackNumber>) = Default::default();
    for snapshot in &view.snapshots {
        let packs = vault.store.snapshot_packs(snapshot.id)?.unwrap_or_default();
        if !forget.contains(&snapshot.id) {
            left.extend(&packs);
        }
        all.extend(packs);
    }
    let mut effect = ForgetEffect::default();
    vault.store.for_each_pack(true, |row| {
        if all.contains(&row.number) {
            effect.live_bytes += row.bytes;
            effect.freed_bytes += if left.contains(&row.number) { 0 } else { row.bytes };
        }
        true
    })?;
    Ok(effect)
}

/// Forgets those of `snapshots` that this device's head still lists, in one new head, which is durable when this returns
/// `Ok`; how many there were. Works on a full disk: a head fits the reserve that packs leave.
pub fn forget(
    vault: &Vault,
    snapshots: &[SnapshotId],
    holders: &[PeerAddress],
) -> Result<usize, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let mut draft = next_head(vault, &[], holders)?;
    let before = draft.snapshots.len();
    draft.snapshots.retain(|id| !snapshots.contains(id));
    let gone = before - draft.snapshots.len();
    if gone > 0 {
        store_head(vault, draft)?;
    }
    Ok(gone)
}
