//! Who holds what: receipts of packs, and of heads with all their records.

use std::collections::HashMap;

use redb::ReadableTable;

use super::{HEAD_RECEIPTS, PACK_NUMBERS, PACKS, RECEIPTS, row_of, wrong};
use crate::base::{DeviceId, HeadId, Moment, PackId, PeerId};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::rows::{PackNumber, PackRow};

impl Store {
    /// Remembers that `holder` holds those packs; packs that the index does not know are left out.
    pub fn add_receipts(&self, holder: PeerId, packs: &[PackId], time: Moment) -> Result<(), StoreError> {
        self.index.write(|tx| {
            let numbers = tx.open_table(PACK_NUMBERS).map_err(wrong)?;
            let mut receipts = tx.open_table(RECEIPTS).map_err(wrong)?;
            for pack in packs {
                if let Some(number) = numbers.get(pack.as_bytes()).map_err(wrong)? {
                    let key = (number.value(), holder.as_bytes());
                    receipts.insert(key, time.as_millis()).map_err(wrong)?;
                }
            }
            Ok(())
        })
    }

    /// Forgets every receipt of a holder.
    pub fn drop_receipts(&self, holder: PeerId) -> Result<(), StoreError> {
        self.index.write(|tx| {
            let mut receipts = tx.open_table(RECEIPTS).map_err(wrong)?;
            receipts.retain(|(_, who), _| who != holder.as_bytes()).map_err(wrong)?;
            let mut heads = tx.open_table(HEAD_RECEIPTS).map_err(wrong)?;
            heads.retain(|(who, _), _| who != holder.as_bytes()).map_err(wrong)
        })
    }

    /// Forgets which heads a holder confirmed: it is told them again.
    pub fn drop_head_receipts(&self, holder: PeerId) -> Result<(), StoreError> {
        self.index.write(|tx| {
            let mut heads = tx.open_table(HEAD_RECEIPTS).map_err(wrong)?;
            heads.retain(|(who, _), _| who != holder.as_bytes()).map_err(wrong)
        })
    }

    /// Forgets that `holder` holds those packs: the receipts that say so are void, also for an index that is made anew.
    pub fn drop_pack_receipts(&self, holder: PeerId, packs: &[PackId]) -> Result<(), StoreError> {
        let held = self.index.read(|tx| {
            let numbers = tx.open_table(PACK_NUMBERS).map_err(wrong)?;
            let receipts = tx.open_table(RECEIPTS).map_err(wrong)?;
            let mut held = Vec::new();
            for pack in packs {
                let Some(number) = numbers.get(pack.as_bytes()).map_err(wrong)? else { continue };
                let key = (number.value(), holder.as_bytes());
                if let Some(time) = receipts.get(key).map_err(wrong)? {
                    held.push((*pack, Moment::from_millis(time.value())));
                }
            }
            Ok(held)
        })?;
        if held.is_empty() {
            return Ok(());
        }
        self.void_receipts(holder, held.iter().map(|(pack, time)| (*pack.as_bytes(), *time)))?;
        self.index.write(|tx| {
            let numbers = tx.open_table(PACK_NUMBERS).map_err(wrong)?;
            let mut receipts = tx.open_table(RECEIPTS).map_err(wrong)?;
            for (pack, _) in &held {
                if let Some(number) = numbers.get(pack.as_bytes()).map_err(wrong)? {
                    receipts.remove((number.value(), holder.as_bytes())).map_err(wrong)?;
                }
            }
            Ok(())
        })
    }

    /// Forgets that `holder` has all records of that head, also for an index that is made anew; whether it was known to.
    ///
    /// `signed`: when it last said so, by its own clock.
    pub fn drop_head_receipt(
        &self,
        holder: PeerId,
        head: HeadId,
        signed: Moment,
    ) -> Result<bool, StoreError> {
        let mut of =
            self.head_receipts()?.into_iter().filter(|(who, _, _, id)| (*who, *id) == (holder, head));
        let Some((_, device, ..)) = of.next() else { return Ok(false) };
        self.void_receipts(holder, [(*head.as_bytes(), signed)])?;
        self.index.write(|tx| {
            let mut table = tx.open_table(HEAD_RECEIPTS).map_err(wrong)?;
            table.remove((holder.as_bytes(), device.as_bytes())).map_err(wrong)?;
            Ok(())
        })?;
        Ok(true)
    }

    /// Calls `each` with every own pack and each of its holders. Holds one row at a time.
    pub fn for_each_held(&self, mut each: impl FnMut(&PackRow, PeerId)) -> Result<(), StoreError> {
        self.index.read(|tx| {
            let packs = tx.open_table(PACKS).map_err(wrong)?;
            let mut last: Option<PackRow> = None;
            for row in tx.open_table(RECEIPTS).map_err(wrong)?.iter().map_err(wrong)? {
                let (key, _) = row.map_err(wrong)?;
                let (number, holder) = key.value();
                if last.is_none_or(|last| last.number.0 != number) {
                    last = row_of(&packs, PackNumber(number))?;
                }
                if let Some(row) = last.filter(|row| row.own) {
                    each(&row, PeerId::new(*holder));
                }
            }
            Ok(())
        })
    }

    /// At most `most` own packs of which `holder` has receipts, from number `from` on, and where to go on.
    pub fn held_by(
        &self,
        holder: PeerId,
        from: PackNumber,
        most: usize,
    ) -> Result<(Vec<PackRow>, Option<PackNumber>), StoreError> {
        self.index.read(|tx| {
            let packs = tx.open_table(PACKS).map_err(wrong)?;
            let mut held = Vec::new();
            let receipts = tx.open_table(RECEIPTS).map_err(wrong)?;
            for row in receipts.range((from.0, &[0u8; 32])..).map_err(wrong)? {
                let (key, _) = row.map_err(wrong)?;
                let (number, who) = key.value();
                if held.len() >= most {
                    return Ok((held, Some(PackNumber(number))));
                }
                if who == holder.as_bytes() {
                    held.extend(row_of(&packs, PackNumber(number))?.filter(|row| row.own));
                }
            }
            Ok((held, None))
        })
    }

    /// Remembers that `holder` has all records of a head; an earlier one of the same device is replaced.
    pub fn set_head_receipt(
        &self,
        holder: PeerId,
        device: DeviceId,
        seq: u64,
        head: HeadId,
    ) -> Result<(), StoreError> {
        self.index.write(|tx| {
            let mut table = tx.open_table(HEAD_RECEIPTS).map_err(wrong)?;
            let key = (holder.as_bytes(), device.as_bytes());
            let newer = table.get(key).map_err(wrong)?.is_none_or(|row| row.value().0 <= seq);
            if newer {
                table.insert(key, (seq, head.as_bytes())).map_err(wrong)?;
            }
            Ok(())
        })
    }

    /// Every holder's newest confirmed head of each device.
    pub fn head_receipts(&self) -> Result<Vec<(PeerId, DeviceId, u64, HeadId)>, StoreError> {
        self.index.read(|tx| {
            let table = tx.open_table(HEAD_RECEIPTS).map_err(wrong)?;
            let rows = table.iter().map_err(wrong)?;
            rows.map(|row| {
                let (key, value) = row.map_err(wrong)?;
                let ((holder, device), (seq, id)) = (key.value(), value.value());
                Ok((PeerId::new(*holder), DeviceId::new(*device), seq, HeadId::new(*id)))
            })
            .collect()
        })
    }

    /// Number of distinct holders of each pack that has any, of those that are `counted`.
    pub fn receipt_counts(
        &self,
        counted: impl Fn(&PeerId) -> bool,
    ) -> Result<HashMap<PackNumber, u32>, StoreError> {
        let mut counts = HashMap::new();
        self.for_each_receipt(|pack, holder, _| {
            if counted(&holder) {
                *counts.entry(pack).or_insert(0) += 1;
            }
        })?;
        Ok(counts)
    }

    /// Calls `each` with every receipt: pack, holder, when it was signed.
    pub fn for_each_receipt(
        &self,
        mut each: impl FnMut(PackNumber, PeerId, Moment),
    ) -> Result<(), StoreError> {
        self.index.read(|tx| {
            for row in tx.open_table(RECEIPTS).map_err(wrong)?.iter().map_err(wrong)? {
                let (key, time) = row.map_err(wrong)?;
                let (pack, holder) = key.value();
                each(PackNumber(pack), PeerId::new(*holder), Moment::from_millis(time.value()));
            }
            Ok(())
        })
    }

    /// Holders of one pack.
    pub fn holders_of(&self, pack: PackId) -> Result<Vec<PeerId>, StoreError> {
        self.index.read(|tx| {
            let numbers = tx.open_table(PACK_NUMBERS).map_err(wrong)?;
            let Some(number) = numbers.get(pack.as_bytes()).map_err(wrong)? else { return Ok(Vec::new()) };
            let number = number.value();
            let receipts = tx.open_table(RECEIPTS).map_err(wrong)?;
            let range = receipts.range((number, &[0u8; 32])..=(number, &[0xff; 32])).map_err(wrong)?;
            range.map(|row| Ok(PeerId::new(*row.map_err(wrong)?.0.value().1))).collect()
        })
    }
}
