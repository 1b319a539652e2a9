//! Packs of this node's vault that another device has written, and whether they may be referred to.
//!
//! *Unconfirmed*: known from the other device's head alone. That device may stop listing it and holders drop it before
//! any head of this one says that it is needed, so its chunks count as unknown to whoever would refer to them.
//! *Confirmed*: a holder has said of a head of this device, which lists the pack, that it keeps it. From then on that
//! holder keeps it for as long as this device's newest head lists it. *Kept*: its file is meant to be here as well.
//!
//! A pack that this device wrote and gave up, so that its disk is less full, is confirmed in the same way.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLockReadGuard};

use redb::ReadableTable;

use super::{BORROWED, Index, IndexedPack, NewPack, damaged, wrong};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::rows::{PackNumber, PackRow};

/// How a pack that need not be here stands.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Borrowed {
    /// Nobody has promised this device to keep it.
    Unconfirmed,
    /// A holder has.
    Confirmed,
    /// The same, and it belongs on this disk.
    Kept,
}

impl Borrowed {
    const fn byte(self) -> u8 {
        match self {
            Self::Unconfirmed => 0,
            Self::Confirmed => 1,
            Self::Kept => 2,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Unconfirmed),
            1 => Some(Self::Confirmed),
            2 => Some(Self::Kept),
            _ => None,
        }
    }
}

impl Index {
    /// Reads which packs are unconfirmed.
    pub(super) fn load_unconfirmed(&self) -> Result<(), StoreError> {
        let found = self.read_borrowed()?;
        let unconfirmed = found.into_iter().filter(|(_, state)| *state == Borrowed::Unconfirmed);
        *self.unconfirmed.write().unwrap_or_else(PoisonError::into_inner) =
            unconfirmed.map(|(number, _)| number).collect();
        Ok(())
    }

    fn read_borrowed(&self) -> Result<HashMap<PackNumber, Borrowed>, StoreError> {
        self.read(|tx| {
            let table = tx.open_table(BORROWED).map_err(wrong)?;
            let rows = table.iter().map_err(wrong)?;
            rows.map(|row| {
                let (number, state) = row.map_err(wrong)?;
                let state = Borrowed::of(state.value()).ok_or_else(|| damaged("borrowed"))?;
                Ok((PackNumber(number.value()), state))
            })
            .collect()
        })
    }

    /// Held while places are looked up that somebody will refer to.
    pub(in crate::store) fn unconfirmed(&self) -> RwLockReadGuard<'_, HashSet<PackNumber>> {
        self.unconfirmed.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Enters packs that another device has written and that are elsewhere; they are unconfirmed at first. Chunks that were
    /// only in packs which this device does not list any more, or which nobody has promised it to keep, are found in these:
    /// those may be gone, and these are what the other device has now.
    pub fn index_borrowed(&self, packs: &[NewPack]) -> Result<Vec<IndexedPack>, StoreError> {
        for pack in packs {
            self.absolve(pack.id)?;
        }
        let leaving = self.unlisted_packs();
        // Held while they become visible: nobody finds one before it is known as unconfirmed.
        let mut unconfirmed = self.index.unconfirmed.write().unwrap_or_else(PoisonError::into_inner);
        let gives_way = |pack: PackNumber| leaving.contains(&pack) || unconfirmed.contains(&pack);
        let (indexed, fresh) = self.enter_packs(packs, gives_way, |_| false, true)?;
        unconfirmed.extend(fresh);
        Ok(indexed)
    }

    /// Every pack here that another device wrote.
    pub fn borrowed(&self) -> Result<HashMap<PackNumber, Borrowed>, StoreError> {
        self.index.read_borrowed()
    }

    /// Packs that no holder has promised to keep for this device yet.
    pub fn unconfirmed_packs(&self) -> HashSet<PackNumber> {
        self.index.unconfirmed().clone()
    }

    /// Durably notes how packs of other devices stand now; those that this device wrote are left alone.
    pub fn set_borrowed(&self, packs: &[PackNumber], state: Borrowed) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        let mut unconfirmed = self.index.unconfirmed.write().unwrap_or_else(PoisonError::into_inner);
        let changed = self.index.write(|tx| {
            let mut table = tx.open_table(BORROWED).map_err(wrong)?;
            let mut changed = Vec::new();
            for number in packs {
                let known = table.get(number.0).map_err(wrong)?.map(|state| state.value());
                if known.is_some_and(|known| known != state.byte()) {
                    table.insert(number.0, state.byte()).map_err(wrong)?;
                    changed.push(*number);
                }
            }
            Ok(changed)
        })?;
        for number in changed {
            match state {
                Borrowed::Unconfirmed => unconfirmed.insert(number),
                Borrowed::Confirmed | Borrowed::Kept => unconfirmed.remove(&number),
            };
        }
        Ok(())
    }

    /// Removes the files of own packs that holders keep: they are elsewhere from now on, and may be referred to. Does nothing,
    /// and says `false`, while somebody is at work, who may be reading them.
    pub fn give_up(&self, packs: &[PackRow]) -> Result<bool, StoreError> {
        let gone = self.while_idle(|| {
            self.index.write(|tx| {
                let mut table = tx.open_table(BORROWED).map_err(wrong)?;
                for pack in packs {
                    table.insert(pack.number.0, Borrowed::Confirmed.byte()).map_err(wrong)?;
                }
                Ok(())
            })?;
            // A crash leaves files that are given up again.
            packs.iter().try_for_each(|pack| self.remove_pack_file(pack.id))
        })?;
        Ok(gone.is_some())
    }
}
