//! A holder's rules: which heads and records it takes, which packs it pulls, what it may confirm. Needs no key.

use std::collections::{BTreeMap, HashSet};

use super::error::EngineError;
use super::heads::{head_packs, newest_heads};
use super::revocations::revocations;
use super::vault::Vault;
use crate::base::{
    ByteSize, Code, Coded, DeviceId, HeadId, ListId, PackId, PeerId, SnapshotId, VaultId, limit,
};
use crate::pack::{Outboard, read_pack};
use crate::snapshot::{Head, HeadError, PackList, PackSize, SignedHead};
use crate::store::{Borrowed, ChargedRecord, NOBODY, NewPack, RecordName, Store, StoreError};

/// Why a holder does not take something.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// Not what was asked for.
    #[error("the record is not the one that was asked for")]
    WrongRecord,
    /// The head is not valid.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The head is of another vault than was said.
    #[error("the head belongs to another vault")]
    WrongVault,
    /// The head is of a device that counts no more.
    #[error("device {} of the vault was revoked", .0.short())]
    Revoked(DeviceId),
    /// This node stores for enough vaults.
    #[error("this node stores for {0} vaults already")]
    TooManyVaults(usize),
    /// So many of them are of the peer that brings another one.
    #[error("{0} vaults of that peer are here already")]
    TooManyVaultsOfPeer(usize),
    /// It keeps enough heads of that vault; the hold of the oldest has to end first.
    #[error("this node keeps {} of heads of that vault already", ByteSize(*.0))]
    TooManyHeads(u64),
    /// As many devices of that vault as it may have have heads here.
    #[error(
        "{} devices of the vault have heads here, and it may have no more: one that is gone makes room when it was revoked and what it had is carried on (`shadowvault device revoke --heir`)",
        limit::VAULT_DEVICES_MAX
    )]
    TooManyDevices,
    /// Its device's chain has as many branches here as are kept.
    #[error("{} branches of the chain of device {} are here already", limit::HEAD_BRANCHES_MAX, .0.short())]
    TooManyBranches(DeviceId),
    /// What is here cannot be counted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Coded for HolderError {
    fn code(&self) -> Code {
        match self {
            Self::WrongRecord | Self::WrongVault => Code::PeerMisbehaved,
            Self::Head(e) => e.code(),
            Self::Revoked(_) => Code::DeviceRevoked,
            Self::TooManyVaults(_)
            | Self::TooManyVaultsOfPeer(_)
            | Self::TooManyHeads(_)
            | Self::TooManyDevices
            | Self::TooManyBranches(_) => Code::ResourceExhausted,
            Self::Store(e) => e.code(),
        }
    }
}

/// Checks that what a peer sent is the head `want` of `vault`.
pub fn check_head(vault: VaultId, want: HeadId, bytes: &[u8]) -> Result<Head, HolderError> {
    let head = SignedHead::verify(bytes)?;
    if head.id != want {
        return Err(HolderError::WrongRecord);
    }
    if head.vault() != vault {
        return Err(HolderError::WrongVault);
    }
    Ok(head)
}

/// Checks a head that a peer sent when asked for `want` of `vault`, and that there is a place for it.
pub fn accept_head(store: &Store, vault: VaultId, want: HeadId, bytes: &[u8]) -> Result<Head, HolderError> {
    let head = check_head(vault, want, bytes)?;
    if !revocations(store, vault)?.admits(head.device(), head.draft.seq, head.id) {
        return Err(HolderError::Revoked(head.device()));
    }
    check_device(store, vault, head.device())?;
    check_heads(store, vault, bytes.len())?;
    Ok(head)
}

/// That there is a place for heads of that device, which `payer` brings: before one is asked for.
pub fn check_place(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    payer: PeerId,
) -> Result<(), HolderError> {
    let vaults = store.head_vaults()?;
    if !vaults.contains(&vault) {
        let of_peer = store.accounts()?.vaults_of(payer);
        if of_peer >= limit::VAULTS_PER_PEER_MAX {
            return Err(HolderError::TooManyVaultsOfPeer(of_peer));
        }
        if vaults.len() >= limit::VAULTS_MAX {
            return Err(HolderError::TooManyVaults(vaults.len()));
        }
    }
    check_device(store, vault, device)?;
    check_heads(store, vault, 0)
}

/// That a vault has room for a head of so many bytes. A hold keeps all heads: a device that signs one after the other must not
/// fill the disk.
fn check_heads(store: &Store, vault: VaultId, bytes: usize) -> Result<(), HolderError> {
    let (count, held) = store.head_sizes(vault)?;
    if count >= limit::VAULT_HEADS_MAX || held + bytes as u64 > limit::VAULT_HEADS_BYTES_MAX {
        return Err(HolderError::TooManyHeads(held));
    }
    Ok(())
}

/// That a head's device is not one too many of its vault.
pub(super) fn check_device(store: &Store, vault: VaultId, device: DeviceId) -> Result<(), HolderError> {
    match store.is_device_over(vault, device, limit::VAULT_DEVICES_MAX)? {
        true => Err(HolderError::TooManyDevices),
        false => Ok(()),
    }
}

/// What a holder lends, and what is taken of it; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lending {
    /// Lent to all others together.
    pub lent: u64,
    /// Stored for others: packs, and the records that lead to them.
    pub stored: u64,
    /// What the disk can take.
    pub disk: u64,
}

impl Lending {
    /// What others may still store: what is lent minus what they have stored, and never more than the disk has.
    pub fn free(&self) -> u64 {
        self.lent.saturating_sub(self.stored).min(self.disk)
    }

    /// The same for one owner, of whom `stored` bytes are here, within what was agreed with it.
    pub fn free_for(&self, quota: Option<u64>, stored: u64) -> u64 {
        quota.map_or(self.free(), |quota| self.free().min(quota.saturating_sub(stored)))
    }

    /// The same for packs and snapshot records: they leave room for heads and pack lists, so that an owner who has filled
    /// its share can still say that it needs less.
    pub fn free_for_packs(&self, quota: Option<u64>, stored: u64) -> u64 {
        let reserve = |most: u64| (most / limit::HEADS_RESERVE_SHARE).min(limit::HEADS_RESERVE_BYTES_MAX);
        let lent = self.lent.saturating_sub(reserve(self.lent));
        let quota = quota.map(|quota| quota.saturating_sub(reserve(quota)));
        Self { lent, ..*self }.free_for(quota, stored)
    }
}

/// What everything is charged with that a head names and that is stored here.
pub fn charges_of(store: &Store, head: &Head) -> Result<Vec<ChargedRecord>, EngineError> {
    let lists = head.draft.lists.iter().map(|list| RecordName::List(list.id));
    let snapshots = head.draft.snapshots.iter().map(|id| RecordName::Snapshot(*id));
    let own = (head.vault(), head.device(), head.draft.seq, head.id);
    let own = RecordName::Head { vault: own.0, device: own.1, seq: own.2, id: own.3 };
    let mut charges = Vec::new();
    for name in lists.chain(snapshots).chain([own]) {
        if let Some(length) = store.record_length(&name)? {
            charges.push((*name.hash(), length));
        }
    }
    Ok(charges)
}

/// Charges what is kept here for others and was never charged: of an index that is of an earlier version, or was made anew.
/// Records of replaced heads are not looked for; they go when their hold ends. Who brought it is not known.
pub fn account(store: &Store) -> Result<(), EngineError> {
    if store.is_accounted()? {
        return Ok(());
    }
    let own = store.read_vault_id()?;
    for vault in store.head_vaults()? {
        for numbers in store.foreign_packs(vault)?.chunks(limit::OFFER_PACKS_MAX) {
            let rows = numbers.iter().map(|number| store.pack_by_number(*number));
            let packs = rows.filter_map(Result::transpose).map(|row| row.map(|row| (row.id, row.bytes)));
            store.charge_packs(vault, NOBODY, &packs.collect::<Result<Vec<_>, _>>()?)?;
        }
        if own != Some(vault) {
            for head in newest_heads(store, vault)? {
                store.charge_records(vault, NOBODY, &charges_of(store, &head?)?)?;
            }
        }
    }
    Ok(store.note_accounted()?)
}

/// Records that a head lists and that are not here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Pack-list pieces.
    pub lists: Vec<ListId>,
    /// Snapshot records.
    pub snapshots: Vec<SnapshotId>,
}

impl Needs {
    /// Nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.snapshots.is_empty()
    }
}

/// What must be fetched before a head's records are complete; damaged records count as missing.
pub fn missing_records(store: &Store, head: &Head) -> Result<Needs, EngineError> {
    let mut needs = Needs::default();
    for list in &head.draft.lists {
        if readable(store.read_list(list.id))?.is_none() {
            needs.lists.push(list.id);
        }
    }
    for id in &head.draft.snapshots {
        let sound = readable(store.read_snapshot(*id))?.is_some_and(|bytes| is_record(*id, &bytes));
        if !sound {
            needs.snapshots.push(*id);
        }
    }
    Ok(needs)
}

/// A file that grew beyond any bound, or whose sectors cannot be read, is as good as none.
pub(super) fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error) if error.is_rot() => Ok(None),
        other => other,
    }
}

fn is_record(id: SnapshotId, bytes: &[u8]) -> bool {
    bytes.len() == limit::RECORD_BYTES && blake3::hash(bytes).as_bytes() == id.as_bytes()
}

/// Stores a pack-list piece that a peer sent.
pub fn store_list(store: &Store, id: ListId, bytes: &[u8]) -> Result<(), EngineError> {
    if blake3::hash(bytes).as_bytes() != id.as_bytes() {
        return Err(EngineError::RecordMissing(format!("pack list {id}")));
    }
    PackList::decode(bytes)?;
    Ok(store.replace_record(&RecordName::List(id), bytes)?)
}

/// Stores a snapshot record that a peer sent; only its hash and length can be checked without a key.
pub fn store_snapshot(store: &Store, id: SnapshotId, bytes: &[u8]) -> Result<(), EngineError> {
    store_snapshots(store, &[(id, bytes.to_vec())])
}

/// The same for many: when one is not what it is called, none is stored.
pub fn store_snapshots(store: &Store, records: &[(SnapshotId, Vec<u8>)]) -> Result<(), EngineError> {
    if let Some((id, _)) = records.iter().find(|(id, bytes)| !is_record(*id, bytes)) {
        return Err(EngineError::RecordMissing(format!("snapshot record {id}")));
    }
    let mut fresh = Vec::new();
    for (id, bytes) in records {
        let name = RecordName::Snapshot(*id);
        match readable(store.read_record(&name)) {
            Ok(None) => fresh.push((*id, bytes.clone())),
            // What is here is damaged, or it would not have been asked for.
            _ => store.replace_record(&name, bytes)?,
        }
    }
    Ok(store.publish_snapshots(&fresh)?)
}

/// Of the offered packs, those that a head of the vault lists, with their sizes.
pub fn wanted_packs(
    store: &Store,
    head: &Head,
    offered: &[PackId],
) -> Result<Vec<(PackId, PackSize)>, EngineError> {
    let offered: HashSet<&PackId> = offered.iter().collect();
    let mut wanted = BTreeMap::new();
    for listed in head_packs(store, head) {
        let (id, size) = listed?;
        if offered.contains(&id) {
            wanted.insert(id, size);
        }
    }
    Ok(wanted.into_iter().collect())
}

/// Of these packs, those that are here for that vault, with a file of the right length.
pub fn held_packs(store: &Store, vault: VaultId, packs: &[PackId]) -> Result<Vec<PackId>, EngineError> {
    // Not while it is found out what goes: what is said to be held must be.
    let _gate = store.open_gate();
    // Of its own vault a node holds what it keeps for other devices.
    let is_own = store.read_vault_id()? == Some(vault);
    let mut held = Vec::new();
    for id in packs {
        let Some(row) = store.pack_by_id(*id)? else { continue };
        let here = store.pack_length(*id)? == Some(row.bytes);
        if here && row.own == is_own && store.is_foreign_of(vault, row.number)? {
            held.push(*id);
        }
    }
    Ok(held)
}

/// Stores a pulled and verified pack for a foreign vault, charged to who brought it: durable, with its row, when this
/// returns `Ok`.
pub fn forward_packs(
    store: &Store,
    (vault, payer): (VaultId, PeerId),
    id: PackId,
    bytes: &[u8],
    outboard: &Outboard,
) -> Result<(), EngineError> {
    let _gate = store.open_gate();
    store.publish_pack(id, bytes, outboard)?;
    let pack = NewPack {
        id,
        bytes: bytes.len() as u64,
        epoch: crate::base::Epoch(0),
        own: false,
        entries: Vec::new(),
    };
    let indexed = store.index_packs(&[pack])?;
    let numbers: Vec<_> = indexed.iter().map(|pack| pack.number).collect();
    Ok(store.add_foreign(vault, &numbers, payer)?)
}

/// Stores a pulled and verified pack for another device of this node's own vault: its chunks can be referred to here too.
/// Durable, with its rows, when this returns `Ok`.
pub fn keep_for_device(
    vault: &Vault,
    payer: PeerId,
    id: PackId,
    bytes: &[u8],
    outboard: &Outboard,
) -> Result<(), EngineError> {
    let store = &vault.store;
    let _gate = store.open_gate();
    let read = read_pack(&vault.keyring.vault, bytes);
    let (epoch, entries) = read.map_err(|source| EngineError::Pack { id, source })?;
    store.publish_pack(id, bytes, outboard)?;
    let pack = NewPack { id, bytes: bytes.len() as u64, epoch, own: true, entries };
    let numbers: Vec<_> = store.index_borrowed(&[pack])?.iter().map(|pack| pack.number).collect();
    store.set_borrowed(&numbers, Borrowed::Kept)?;
    Ok(store.add_foreign(vault.id(), &numbers, payer)?)
}

/// Notes, of packs that another device of this node's vault wants kept, that those which are here anyway are.
pub fn keep_what_is_here(
    store: &Store,
    (vault, payer): (VaultId, PeerId),
    packs: &[PackId],
) -> Result<(), EngineError> {
    let mut numbers = Vec::new();
    for id in packs {
        let Some(row) = store.pack_by_id(*id)? else { continue };
        if row.own && store.pack_length(*id)? == Some(row.bytes) {
            numbers.push(row.number);
        }
    }
    store.set_borrowed(&numbers, Borrowed::Kept)?;
    Ok(store.add_foreign(vault, &numbers, payer)?)
}

/// Whether all records of a head are here, so that a receipt may name it.
pub(super) fn records_complete(store: &Store, head: &Head) -> Result<bool, EngineError> {
    Ok(missing_records(store, head)?.is_empty())
}

/// The head of `vault` with that id, if it is here and complete.
pub fn complete_head(store: &Store, vault: VaultId, id: HeadId) -> Result<Option<Head>, EngineError> {
    match newest_heads(store, vault)?.named(id).next().transpose()? {
        Some(head) if records_complete(store, &head)? => Ok(Some(head)),
        _ => Ok(None),
    }
}
