//! Forgetting: which snapshots of this device stay by what rule, and a next head without the others.
//!
//! What only a forgotten snapshot needs becomes garbage; nothing is deleted here (see `gc`). A head lists what one device
//! has made or inherited, so each device forgets its own.

use std::collections::HashSet;

use jiff::tz::TimeZone;

use super::error::EngineError;
use super::heads::VaultView;
use super::holder::readable;
use super::signing::{next_head, store_head};
use super::vault::Vault;
use crate::base::{ChunkId, DeviceId, Moment, SnapshotId};
use crate::policy::{self, Candidate, Reason, Rules};
use crate::snapshot::{Head, PeerAddress, Snapshot, open_record};
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
        shrunk: info.shrunk,
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

/// Whether it has what was to be backed up, as far as anybody knows.
fn is_whole(snapshot: &Snapshot) -> bool {
    snapshot.is_complete() && !snapshot.info.shrunk
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
        let (set, after) = (candidate(snapshot).set, own.iter().skip_while(|other| other.id != *id).skip(1));
        let after: HashSet<SnapshotId> = after.map(|other| other.id).collect();
        let replaced = left.iter().any(|other| {
            candidate(other).set == set && is_whole(other) && after.contains(&other.id) && other.time <= now
        });
        if is_whole(snapshot) && !replaced && !confirmed {
            return Err(EngineError::NewestComplete(*id));
        }
    }
    Ok(ForgetPlan {
        keep: left.into_iter().map(|snapshot| (snapshot.id, Vec::new())).collect(),
        forget: named.to_vec(),
    })
}

/// A plan that gives up exactly `named`, snapshots whose records cannot be read.
///
/// # Errors
/// One that can be read, or that this device's head does not list.
pub fn plan_lost(vault: &Vault, view: &VaultView, named: &[SnapshotId]) -> Result<ForgetPlan, EngineError> {
    for id in named {
        if view.snapshots.iter().any(|snapshot| snapshot.id == *id) {
            return Err(EngineError::NotLost(*id));
        }
        let lists = |head: &&Head| head.draft.snapshots.contains(id);
        if !view.heads.iter().filter(lists).any(|head| head.device() == vault.device()) {
            let other = view.heads.iter().find(lists).ok_or_else(|| EngineError::unknown(id.short()))?;
            return Err(EngineError::NotOwn { id: *id, device: view.device_name(other.device()) });
        }
    }
    let keep = own(vault, view).into_iter().map(|snapshot| (snapshot.id, Vec::new())).collect();
    Ok(ForgetPlan { keep, forget: named.to_vec() })
}

/// What forgetting these would free. Snapshots whose packs are not known count as needing nothing.
pub fn forget_effect(
    vault: &Vault,
    view: &VaultView,
    forget: &[SnapshotId],
) -> Result<ForgetEffect, EngineError> {
    let (mut all, mut left): (HashSet<PackNumber>, HashSet<PackNumber>) = Default::default();
    let broken = view.broken.iter().map(|(id, _)| *id);
    for id in view.snapshots.iter().map(|snapshot| snapshot.id).chain(broken) {
        let packs = vault.store.snapshot_packs(id)?.unwrap_or_default();
        if !forget.contains(&id) {
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
    forget_where(vault, snapshots, holders, |_| Ok(()))
}

/// The same for snapshots whose records cannot be read, which is looked at once more: one that can is refused, and then
/// nothing is forgotten.
pub fn forget_lost(
    vault: &Vault,
    snapshots: &[SnapshotId],
    holders: &[PeerAddress],
) -> Result<usize, EngineError> {
    forget_where(vault, snapshots, holders, |id| {
        let bytes = readable(vault.store.read_snapshot(id))?.unwrap_or_default();
        match open_record(&bytes, &vault.keyring.vault) {
            Ok(snapshot) if snapshot.id == id => Err(EngineError::NotLost(id)),
            _ => Ok(()),
        }
    })
}

fn forget_where(
    vault: &Vault,
    snapshots: &[SnapshotId],
    holders: &[PeerAddress],
    check: impl Fn(SnapshotId) -> Result<(), EngineError>,
) -> Result<usize, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    snapshots.iter().try_for_each(|id| check(*id))?;
    let mut draft = next_head(vault, &[], holders)?;
    let before = draft.snapshots.len();
    draft.snapshots.retain(|id| !snapshots.contains(id));
    let gone = before - draft.snapshots.len();
    if gone > 0 {
        store_head(vault, draft)?;
    }
    Ok(gone)
}
