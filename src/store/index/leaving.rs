//! Rows of packs on their way out: what waits, what goes, in which commits.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use redb::{ReadableTable, WriteTransaction};

use super::{
    BORROWED, CHUNKS, DOOMED, FOREIGN, Index, META, MISTRUSTED, NEXT_PACK, NOWHERE, PACK_NUMBERS, PACKS,
    RECEIPTS, RETIRED, SHADOWS, SNAPSHOT_PACKS, accounts, damaged, next_pack, row_of, wrong,
};
use crate::base::{PackId, VaultId, limit};
use crate::store::error::StoreError;
use crate::store::rows::{ChunkPlace, PackNumber, PackRow, RetiredRow};

/// Packs that an earlier run retired, and files that it could not remove.
type Leftovers = (Vec<(PackNumber, RetiredRow)>, Vec<PackId>);
/// Chunks, and where to go on.
type SomeChunks = (Vec<[u8; 32]>, Option<[u8; 32]>);

impl Index {
    /// What an earlier run left to do.
    pub(in crate::store) fn leftovers(&self) -> Result<Leftovers, StoreError> {
        self.read(|tx| {
            let mut retired = Vec::new();
            for row in tx.open_table(RETIRED).map_err(wrong)?.iter().map_err(wrong)? {
                let (number, row) = row.map_err(wrong)?;
                let row = RetiredRow::decode(row.value()).ok_or_else(|| damaged("retired"))?;
                retired.push((PackNumber(number.value()), row));
            }
            let mut doomed = Vec::new();
            for row in tx.open_table(DOOMED).map_err(wrong)?.iter().map_err(wrong)? {
                doomed.push(PackId::new(*row.map_err(wrong)?.0.value()));
            }
            Ok((retired, doomed))
        })
    }

    pub(in crate::store) fn put_retired(&self, rows: &[(PackNumber, RetiredRow)]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.write(|tx| {
            let mut table = tx.open_table(RETIRED).map_err(wrong)?;
            for (pack, row) in rows {
                table.insert(pack.0, row.encode().as_slice()).map_err(wrong)?;
            }
            Ok(())
        })
    }

    /// Retires packs, and has snapshots need their successors instead, in one commit.
    pub(in crate::store) fn put_aside(&self, rows: &[(PackNumber, RetiredRow)]) -> Result<(), StoreError> {
        let packs = rows.iter().map(|(pack, _)| *pack).collect();
        let successors = rows.iter().map(|(pack, row)| (*pack, row.successors.clone())).collect();
        self.write(|tx| {
            let mut table = tx.open_table(RETIRED).map_err(wrong)?;
            for (pack, row) in rows {
                table.insert(pack.0, row.encode().as_slice()).map_err(wrong)?;
            }
            drop(table);
            replace_needed(tx, &packs, &successors)
        })
    }

    /// Packs that are known to be damaged.
    pub(in crate::store) fn mistrusted(&self) -> Result<HashSet<PackNumber>, StoreError> {
        self.read(|tx| {
            let rows = tx.open_table(MISTRUSTED).map_err(wrong)?;
            let numbers =
                rows.iter().map_err(wrong)?.map(|row| Ok(PackNumber(row.map_err(wrong)?.0.value())));
            numbers.collect()
        })
    }

    /// Adds packs to those that are known to be damaged, and takes others from them.
    pub(in crate::store) fn edit_mistrusted(
        &self,
        added: &[PackNumber],
        removed: &[PackNumber],
    ) -> Result<(), StoreError> {
        if added.is_empty() && removed.is_empty() {
            return Ok(());
        }
        self.write(|tx| {
            let mut table = tx.open_table(MISTRUSTED).map_err(wrong)?;
            for pack in removed {
                table.remove(pack.0).map_err(wrong)?;
            }
            for pack in added {
                table.insert(pack.0, ()).map_err(wrong)?;
            }
            Ok(())
        })
    }

    pub(in crate::store) fn remove_retired(&self, packs: &HashSet<PackNumber>) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        self.write(|tx| {
            let mut table = tx.open_table(RETIRED).map_err(wrong)?;
            for pack in packs {
                table.remove(pack.0).map_err(wrong)?;
            }
            Ok(())
        })
    }

    /// Removes the rows of all chunks that lie in `packs`, some at a time: each commit is bounded, and others may write
    /// in between. On a full disk there are fewer in each.
    pub(in crate::store) fn remove_chunks_of(&self, packs: &HashSet<PackNumber>) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        let mut from = [0u8; 32];
        loop {
            let most =
                self.reserve.as_ref().map_or(limit::INDEX_ROWS_PENDING_MAX, |reserve| reserve.rows_at_once());
            let (ids, next) = self.chunks_of(packs, &from, most)?;
            self.write_rows(ids.len(), |tx| {
                let mut chunks = tx.open_table(CHUNKS).map_err(wrong)?;
                for id in &ids {
                    // Meanwhile it may have got another place.
                    let goes = match chunks.get(id).map_err(wrong)? {
                        None => false,
                        Some(row) => {
                            ChunkPlace::decode(row.value()).is_none_or(|place| packs.contains(&place.pack))
                        }
                    };
                    if goes {
                        chunks.remove(id).map_err(wrong)?;
                    }
                }
                Ok(())
            })?;
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// The next chunks, from `from` on and `most` of them, that lie in `packs`, and where to go on.
    fn chunks_of(
        &self,
        packs: &HashSet<PackNumber>,
        from: &[u8; 32],
        most: usize,
    ) -> Result<SomeChunks, StoreError> {
        self.read(|tx| {
            let mut found = Vec::new();
            for row in tx.open_table(CHUNKS).map_err(wrong)?.range::<&[u8; 32]>(from..).map_err(wrong)? {
                let (id, place) = row.map_err(wrong)?;
                if found.len() >= most {
                    return Ok((found, Some(*id.value())));
                }
                if ChunkPlace::decode(place.value()).is_some_and(|place| packs.contains(&place.pack)) {
                    found.push(*id.value());
                }
            }
            Ok((found, None))
        })
    }

    /// Removes the rows of packs in which no chunk lies any more, and all that is known of them, in one commit that also
    /// remembers that their files are to go. Snapshots that needed them need their successors.
    pub(in crate::store) fn remove_packs(
        &self,
        packs: &HashSet<PackNumber>,
        successors: &HashMap<PackNumber, Vec<u32>>,
    ) -> Result<Vec<PackId>, StoreError> {
        if packs.is_empty() {
            return Ok(Vec::new());
        }
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let doomed = self.write(|tx| {
            let mut rows = tx.open_table(PACKS).map_err(wrong)?;
            let next = next_pack(tx, &rows)?;
            tx.open_table(META)
                .map_err(wrong)?
                .insert(NEXT_PACK, next.to_le_bytes().as_slice())
                .map_err(wrong)?;
            let mut numbers = tx.open_table(PACK_NUMBERS).map_err(wrong)?;
            let mut retired = tx.open_table(RETIRED).map_err(wrong)?;
            let mut doomed = tx.open_table(DOOMED).map_err(wrong)?;
            let mut receipts = tx.open_table(RECEIPTS).map_err(wrong)?;
            let mut borrowed = tx.open_table(BORROWED).map_err(wrong)?;
            let mut mistrusted = tx.open_table(MISTRUSTED).map_err(wrong)?;
            let mut shadows = tx.open_table(SHADOWS).map_err(wrong)?;
            let mut gone = Vec::new();
            for pack in packs {
                let shadowed = shadows.range((pack.0, 0)..=(pack.0, u32::MAX)).map_err(wrong)?;
                let shadowed: Vec<u32> = shadowed
                    .map(|row| Ok(row.map_err(wrong)?.0.value().1))
                    .collect::<Result<_, StoreError>>()?;
                for other in shadowed {
                    shadows.remove((pack.0, other)).map_err(wrong)?;
                    // One that went before is not to be read any more.
                    if rows.get(other).map_err(wrong)?.is_some() && !packs.contains(&PackNumber(other)) {
                        shadows.insert((NOWHERE, other), ()).map_err(wrong)?;
                    }
                }
                shadows.remove((NOWHERE, pack.0)).map_err(wrong)?;
                retired.remove(pack.0).map_err(wrong)?;
                borrowed.remove(pack.0).map_err(wrong)?;
                mistrusted.remove(pack.0).map_err(wrong)?;
                let Some(row) = rows.remove(pack.0).map_err(wrong)? else { continue };
                let row = PackRow::decode(*pack, row.value()).ok_or_else(|| damaged("packs"))?;
                numbers.remove(row.id.as_bytes()).map_err(wrong)?;
                doomed.insert(row.id.as_bytes(), ()).map_err(wrong)?;
                let range = (pack.0, &[0u8; 32])..=(pack.0, &[0xff; 32]);
                receipts.retain_in(range, |_, _| false).map_err(wrong)?;
                gone.push(row.id);
            }
            // What was kept for other devices of the own vault goes with them.
            let mut foreign = tx.open_table(FOREIGN).map_err(wrong)?;
            foreign.retain(|(_, number), ()| !packs.contains(&PackNumber(number))).map_err(wrong)?;
            accounts::discharge(tx, None, gone.iter().map(PackId::as_bytes))?;
            replace_needed(tx, packs, successors)?;
            Ok(gone)
        })?;
        *totals = None;
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.recount();
        Ok(doomed)
    }

    /// Notes that packs with chunks which are found in those of `packs` are to be read again.
    pub(super) fn unshadow(&self, packs: &HashSet<PackNumber>) -> Result<(), StoreError> {
        let shadowed = self.read(|tx| {
            let table = tx.open_table(SHADOWS).map_err(wrong)?;
            let mut pairs = Vec::new();
            for pack in packs {
                for row in table.range((pack.0, 0)..=(pack.0, u32::MAX)).map_err(wrong)? {
                    let pair = row.map_err(wrong)?.0.value();
                    pairs.extend((!packs.contains(&PackNumber(pair.1))).then_some(pair));
                }
            }
            Ok(pairs)
        })?;
        if shadowed.is_empty() {
            return Ok(());
        }
        self.write(|tx| {
            let mut table = tx.open_table(SHADOWS).map_err(wrong)?;
            let rows = tx.open_table(PACKS).map_err(wrong)?;
            for pair in shadowed {
                table.remove(pair).map_err(wrong)?;
                if rows.get(pair.1).map_err(wrong)?.is_some() {
                    table.insert((NOWHERE, pair.1), ()).map_err(wrong)?;
                }
            }
            Ok(())
        })
    }

    /// Packs with chunks that were found elsewhere, until that went: they are entered again from their directories.
    pub(in crate::store) fn unshadowed(&self) -> Result<Vec<PackNumber>, StoreError> {
        self.read(|tx| {
            let table = tx.open_table(SHADOWS).map_err(wrong)?;
            let rows = table.range((NOWHERE, 0)..=(NOWHERE, u32::MAX)).map_err(wrong)?;
            rows.map(|row| Ok(PackNumber(row.map_err(wrong)?.0.value().1))).collect()
        })
    }

    /// Forgets that packs are kept for a vault; those that are kept for no other, and are not this node's own.
    pub(in crate::store) fn remove_foreign(
        &self,
        vault: VaultId,
        packs: &[PackNumber],
    ) -> Result<HashSet<PackNumber>, StoreError> {
        if packs.is_empty() {
            return Ok(HashSet::new());
        }
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        *usage = None;
        let gone = self.write(|tx| {
            let mut table = tx.open_table(FOREIGN).map_err(wrong)?;
            let rows = tx.open_table(PACKS).map_err(wrong)?;
            for pack in packs {
                table.remove((vault.as_bytes(), pack.0)).map_err(wrong)?;
                if let Some(row) = row_of(&rows, *pack)? {
                    accounts::discharge(tx, Some(vault), [row.id.as_bytes()])?;
                }
            }
            let mut gone: HashSet<PackNumber> = packs.iter().copied().collect();
            for row in table.iter().map_err(wrong)? {
                let (key, ()) = row.map(|(key, _)| (key, ())).map_err(wrong)?;
                gone.remove(&PackNumber(key.value().1));
            }
            for pack in packs {
                let row = rows.get(pack.0).map_err(wrong)?;
                if row.and_then(|row| PackRow::decode(*pack, row.value())).is_none_or(|row| row.own) {
                    gone.remove(pack);
                }
            }
            Ok(gone)
        })?;
        self.recount();
        Ok(gone)
    }

    pub(in crate::store) fn remove_doomed(&self, packs: &[PackId]) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        self.write(|tx| {
            let mut table = tx.open_table(DOOMED).map_err(wrong)?;
            for id in packs {
                table.remove(id.as_bytes()).map_err(wrong)?;
            }
            Ok(())
        })
    }
}

/// Snapshots that needed `packs` need their successors instead.
pub(super) fn replace_needed(
    tx: &WriteTransaction,
    packs: &HashSet<PackNumber>,
    successors: &HashMap<PackNumber, Vec<u32>>,
) -> Result<(), StoreError> {
    if packs.is_empty() {
        return Ok(());
    }
    let mut table = tx.open_table(SNAPSHOT_PACKS).map_err(wrong)?;
    let ids: Vec<[u8; 32]> = table
        .iter()
        .map_err(wrong)?
        .map(|row| row.map(|(id, _)| *id.value()).map_err(wrong))
        .collect::<Result<_, _>>()?;
    for id in ids {
        let Some(row) = table.get(&id).map_err(wrong)? else { continue };
        let numbers: Vec<u32> =
            row.value().as_chunks::<4>().0.iter().map(|n| u32::from_le_bytes(*n)).collect();
        drop(row);
        if !numbers.iter().any(|number| packs.contains(&PackNumber(*number))) {
            continue;
        }
        let mut left: Vec<u32> = Vec::with_capacity(numbers.len());
        for number in numbers {
            match packs.contains(&PackNumber(number)) {
                true => left.extend(successors.get(&PackNumber(number)).into_iter().flatten()),
                false => left.push(number),
            }
        }
        left.sort_unstable();
        left.dedup();
        let bytes: Vec<u8> = left.iter().flat_map(|number| number.to_le_bytes()).collect();
        table.insert(&id, bytes.as_slice()).map_err(wrong)?;
    }
    Ok(())
}
