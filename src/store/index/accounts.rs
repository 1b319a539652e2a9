//! Who pays for what: everything that is kept for others is charged to the peer that brought it, and to its vault.
//!
//! Whoever a certificate names has no part in that: the peer is the one that the connection authenticated. What nobody is
//! known to have brought (an index that was made anew, an import) is charged to [`NOBODY`], and to the first peer that offers
//! something for that vault from then on. A crash may leave a file without its charge until its head is offered again.

use std::collections::HashMap;
use std::sync::PoisonError;

use redb::{ReadableTable, WriteTransaction};

use super::{ACCOUNTED, CHARGES, Index, META, wrong};
use crate::base::{PackId, PeerId, VaultId};
use crate::store::Store;
use crate::store::error::StoreError;

/// Is charged with what nobody is known to have brought. No node has this key.
pub const NOBODY: PeerId = PeerId::new([0; 32]);
/// Small files take whole blocks of the disk.
const BLOCK_BYTES: u64 = 4096;

/// A head, pack list or snapshot record that is charged: its hash and its length.
pub type ChargedRecord = ([u8; 32], u64);

/// What is kept: packs, their bytes, and bytes of records (heads, pack lists, snapshot records) in whole blocks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Bytes of records.
    pub record_bytes: u64,
}

impl Kept {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.pack_bytes + self.record_bytes
    }

    fn add(&mut self, more: Self) {
        self.packs += more.packs;
        self.pack_bytes += more.pack_bytes;
        self.record_bytes += more.record_bytes;
    }
}

/// Everything that is kept for others, by vault and by who brought it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Accounts(HashMap<(VaultId, PeerId), Kept>);

impl Accounts {
    /// What a peer brought.
    pub fn of_peer(&self, peer: PeerId) -> Kept {
        self.sum(|_, who| who == peer)
    }

    /// What is kept for a vault.
    pub fn of_vault(&self, vault: VaultId) -> Kept {
        self.sum(|of, _| of == vault)
    }

    /// All of it.
    pub fn total(&self) -> Kept {
        self.sum(|_, _| true)
    }

    /// Who brought something of a vault, whoever brought most first; [`NOBODY`] is not among them.
    pub fn bearers(&self, vault: VaultId) -> Vec<PeerId> {
        let of_vault = self.0.iter().filter(|((of, who), _)| *of == vault && *who != NOBODY);
        let mut all: Vec<(u64, PeerId)> = of_vault.map(|((_, who), kept)| (kept.bytes(), *who)).collect();
        all.sort_by_key(|(bytes, who)| (std::cmp::Reverse(*bytes), *who));
        all.into_iter().map(|(_, who)| who).collect()
    }

    /// Vaults of which a peer brought something.
    pub fn vaults_of(&self, peer: PeerId) -> usize {
        self.0.keys().filter(|(_, who)| *who == peer).count()
    }

    /// Every vault, who brought of it, and what.
    pub fn iter(&self) -> impl Iterator<Item = (VaultId, PeerId, Kept)> {
        self.0.iter().map(|((vault, who), kept)| (*vault, *who, *kept))
    }

    pub(super) fn note(&mut self, vault: VaultId, payer: PeerId, more: Kept) {
        self.0.entry((vault, payer)).or_default().add(more);
    }

    fn sum(&self, counts: impl Fn(VaultId, PeerId) -> bool) -> Kept {
        let mut sum = Kept::default();
        self.iter().filter(|(vault, who, _)| counts(*vault, *who)).for_each(|(_, _, kept)| sum.add(kept));
        sum
    }
}

/// A charge as a row has it: who pays, bytes, whether it is a pack.
pub(super) type Charge = (&'static [u8; 32], u64, bool);

/// Charges one thing to who brought it, unless it is charged already; whether it was not.
pub(super) fn charge(
    tx: &WriteTransaction,
    (vault, payer): (VaultId, PeerId),
    id: &[u8; 32],
    (bytes, is_pack): (u64, bool),
) -> Result<bool, StoreError> {
    let mut table = tx.open_table(CHARGES).map_err(wrong)?;
    let key = (id, vault.as_bytes());
    if table.get(key).map_err(wrong)?.is_some() {
        return Ok(false);
    }
    table.insert(key, (payer.as_bytes(), bytes, is_pack)).map_err(wrong)?;
    Ok(true)
}

/// Nothing is charged for these any more: for that vault, or for any.
pub(super) fn discharge<'a>(
    tx: &WriteTransaction,
    vault: Option<VaultId>,
    ids: impl IntoIterator<Item = &'a [u8; 32]>,
) -> Result<(), StoreError> {
    let mut table = tx.open_table(CHARGES).map_err(wrong)?;
    for id in ids {
        match vault {
            Some(vault) => drop(table.remove((id, vault.as_bytes())).map_err(wrong)?),
            None => {
                table.retain_in((id, &[0u8; 32])..=(id, &[0xff; 32]), |_, _| false).map_err(wrong)?;
            }
        }
    }
    Ok(())
}

impl Index {
    /// What was counted is counted anew.
    pub(super) fn recount(&self) {
        *self.accounts.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn count_charges(&self) -> Result<Accounts, StoreError> {
        self.read(|tx| {
            let mut accounts = Accounts::default();
            for row in tx.open_table(CHARGES).map_err(wrong)?.iter().map_err(wrong)? {
                let (key, value) = row.map_err(wrong)?;
                let ((_, vault), (payer, bytes, is_pack)) = (key.value(), value.value());
                accounts.note(VaultId::new(*vault), PeerId::new(*payer), kept(bytes, is_pack));
            }
            Ok(accounts)
        })
    }
}

fn kept(bytes: u64, is_pack: bool) -> Kept {
    match is_pack {
        true => Kept { packs: 1, pack_bytes: bytes, record_bytes: 0 },
        false => Kept { record_bytes: bytes, ..Kept::default() },
    }
}

/// What a record of so many bytes takes on the disk.
pub fn record_room(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

impl Store {
    /// What is kept for others, and who brought it. The first call reads every row, later ones remember.
    pub fn accounts(&self) -> Result<Accounts, StoreError> {
        let mut known = self.index.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = Some(self.index.count_charges()?);
        }
        Ok(known.clone().unwrap_or_default())
    }

    /// Of these records of a vault, those that are charged to nobody for it.
    pub fn uncharged(
        &self,
        vault: VaultId,
        records: &[ChargedRecord],
    ) -> Result<Vec<ChargedRecord>, StoreError> {
        self.index.read(|tx| {
            let table = tx.open_table(CHARGES).map_err(wrong)?;
            let mut left = Vec::new();
            for record in records {
                if table.get((&record.0, vault.as_bytes())).map_err(wrong)?.is_none() {
                    left.push(*record);
                }
            }
            Ok(left)
        })
    }

    /// Charges records that were stored for a vault to who brought them; those that are charged already stay as they are.
    pub fn charge_records(
        &self,
        vault: VaultId,
        payer: PeerId,
        records: &[ChargedRecord],
    ) -> Result<(), StoreError> {
        // Held while writing, so that nothing is counted twice.
        let mut accounts = self.index.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let more = self.index.write(|tx| {
            let mut more = 0;
            for (id, length) in records {
                let bytes = record_room(*length);
                if charge(tx, (vault, payer), id, (bytes, false))? {
                    more += bytes;
                }
            }
            Ok(more)
        })?;
        accounts.iter_mut().for_each(|known| known.note(vault, payer, kept(more, false)));
        Ok(())
    }

    /// Records that were removed are charged to nobody.
    pub fn discharge_records(&self, records: &[[u8; 32]]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        self.index.write(|tx| discharge(tx, None, records))?;
        self.index.recount();
        Ok(())
    }

    /// Nothing is charged for a vault any more.
    pub(in crate::store) fn discharge_vault(&self, vault: VaultId) -> Result<(), StoreError> {
        self.index.write(|tx| {
            let mut table = tx.open_table(CHARGES).map_err(wrong)?;
            table.retain(|(_, of), _| of != vault.as_bytes()).map_err(wrong)
        })?;
        self.index.recount();
        Ok(())
    }

    /// What nobody is known to have brought of a vault is charged to this peer from now on.
    pub fn claim(&self, vault: VaultId, payer: PeerId) -> Result<(), StoreError> {
        if self.accounts()?.0.get(&(vault, NOBODY)).is_none_or(|kept| *kept == Kept::default()) {
            return Ok(());
        }
        self.index.write(|tx| {
            let mut table = tx.open_table(CHARGES).map_err(wrong)?;
            let mut unpaid: Vec<([u8; 32], u64, bool)> = Vec::new();
            for row in table.iter().map_err(wrong)? {
                let (key, value) = row.map_err(wrong)?;
                let ((id, of), (who, bytes, is_pack)) = (key.value(), value.value());
                if of == vault.as_bytes() && who == NOBODY.as_bytes() {
                    unpaid.push((*id, bytes, is_pack));
                }
            }
            for (id, bytes, is_pack) in unpaid {
                table.insert((&id, vault.as_bytes()), (payer.as_bytes(), bytes, is_pack)).map_err(wrong)?;
            }
            Ok(())
        })?;
        self.index.recount();
        Ok(())
    }

    /// Charges packs that were kept for a vault before anything was charged.
    pub fn charge_packs(
        &self,
        vault: VaultId,
        payer: PeerId,
        packs: &[(PackId, u64)],
    ) -> Result<(), StoreError> {
        self.index.write(|tx| {
            for (id, bytes) in packs {
                charge(tx, (vault, payer), id.as_bytes(), (*bytes, true))?;
            }
            Ok(())
        })?;
        self.index.recount();
        Ok(())
    }

    /// Whether everything that was kept for others has been charged once.
    pub fn is_accounted(&self) -> Result<bool, StoreError> {
        self.index.read(|tx| Ok(tx.open_table(META).map_err(wrong)?.get(ACCOUNTED).map_err(wrong)?.is_some()))
    }

    /// Notes that it has.
    pub fn note_accounted(&self) -> Result<(), StoreError> {
        self.index.write(|tx| {
            tx.open_table(META).map_err(wrong)?.insert(ACCOUNTED, [].as_slice()).map_err(wrong)?;
            Ok(())
        })
    }
}
