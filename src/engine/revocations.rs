//! Which devices of a vault count no more: what its admin key said, kept in one published file for each vault.
//!
//! Of a revoked device the last good head counts as its newest one, whatever came later, until a head of the named heir says
//! that it carries on what the device had; then none of its heads is the newest any more, and the hold begins. The file is
//! small and read whenever it is asked for. A damaged one counts as none: everything in it comes again from the peers that
//! know it, and until then the hold keeps what counted.

use prost::Message;
use serde::{Deserialize, Serialize};

use super::error::EngineError;
use super::expected::expected;
use crate::base::{DeviceId, HeadId, VaultId, limit};
use crate::snapshot::{Head, HeadName, Revocation};
use crate::store::{Store, StoreError};
use crate::wire::{self, Bound};

/// As they came, in hex; one a device.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    revocations: Vec<String>,
}

pub(super) fn file(vault: VaultId) -> String {
    format!("revoked-{vault}.json")
}

/// The revocations of one vault.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Revocations {
    all: Vec<(Revocation, wire::Signed)>,
    /// Heads of the vault that must be here: what counts is not told without them.
    expected: Vec<(DeviceId, HeadName)>,
}

impl Revocations {
    /// That of one device.
    pub fn of(&self, device: DeviceId) -> Option<&Revocation> {
        self.all.iter().map(|(revocation, _)| revocation).find(|revocation| revocation.device == device)
    }

    /// As they are passed on.
    pub fn signed(&self) -> Vec<wire::Signed> {
        self.all.iter().map(|(_, signed)| signed.clone()).collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.all.iter().map(|(revocation, _)| revocation)
    }

    /// Heads of a device that must be here, and count.
    pub(super) fn expected(&self, device: DeviceId) -> impl Iterator<Item = HeadName> {
        let of_device = self.expected.iter().filter(move |(of, _)| *of == device);
        of_device.map(|(_, name)| *name).filter(move |(seq, id)| self.admits(device, *seq, *id))
    }

    /// Devices of which some must.
    pub(super) fn expected_devices(&self) -> impl Iterator<Item = DeviceId> {
        self.expected.iter().map(|(device, _)| *device)
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a head may count as one of its device's.
    pub fn admits(&self, device: DeviceId, seq: u64, id: HeadId) -> bool {
        self.of(device).is_none_or(|revocation| revocation.admits(seq, id))
    }

    /// Takes one in if it is news.
    pub fn add(&mut self, revocation: Revocation, signed: wire::Signed) -> bool {
        if self.of(revocation.device).is_some_and(|known| !revocation.outranks(known)) {
            return false;
        }
        self.all.retain(|(known, _)| known.device != revocation.device);
        if self.all.len() >= limit::VAULT_DEVICES_MAX {
            return false;
        }
        self.all.push((revocation, signed));
        true
    }

    /// Revoked devices whose heir wrote this head and says in it that it carries on what they had.
    pub(super) fn carried_on(&self, head: &Head) -> impl Iterator<Item = DeviceId> {
        let carried = self.iter().filter(|one| one.heir == Some(head.device()));
        carried.map(|one| one.device).filter(|device| self.is_carried_on(*device, head))
    }

    /// Whether a head says that it carries on what a device had: all last good heads that count for it now. A later revocation may
    /// name others.
    pub fn is_carried_on(&self, device: DeviceId, by: &Head) -> bool {
        let has = |id: HeadId| by.draft.carried.is_empty() || by.draft.carried.contains(&id);
        by.draft.inherited.contains(&device) && self.of(device).is_none_or(|one| one.last_good_ids().all(has))
    }
}

/// What is known of a vault's revoked devices, and of the heads that must be here.
pub fn revocations(store: &Store, vault: VaultId) -> Result<Revocations, StoreError> {
    let kept: Option<Kept> = store.read_state_if_sound(&file(vault))?;
    let mut known = Revocations { all: Vec::new(), expected: expected(store, vault)? };
    let bound = Bound::new(limit::REVOCATION_BYTES_MAX + limit::SIGNED_BYTES, limit::FIELDS_FEW);
    for text in kept.unwrap_or_default().revocations {
        let bytes = hex::decode(text).unwrap_or_default();
        if let Ok(signed) = wire::decode::<wire::Signed>(&bytes, bound)
            && let Ok(revocation) = Revocation::verify(&signed)
            && revocation.vault == vault
        {
            known.add(revocation, signed);
        }
    }
    Ok(known)
}

/// Durably keeps a revocation if it is news: `Some` is what it says.
///
/// # Errors
/// One whose signature does not hold.
pub fn keep_revocation(store: &Store, signed: &wire::Signed) -> Result<Option<Revocation>, EngineError> {
    let revocation = Revocation::verify(signed)?;
    let mut known = revocations(store, revocation.vault)?;
    if !known.add(revocation.clone(), signed.clone()) {
        return Ok(None);
    }
    let lines = known.all.iter().map(|(_, signed)| hex::encode(signed.encode_to_vec()));
    store.publish_state(&file(revocation.vault), &Kept { revocations: lines.collect() })?;
    Ok(Some(revocation))
}
