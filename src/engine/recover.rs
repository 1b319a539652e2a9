//! Indexing packs that are not here: their sealed directories are enough.

use super::error::EngineError;
use super::monitor::Monitor;
use super::pull::{PackSource, pull_cells};
use super::vault::Vault;
use crate::base::{PackId, limit};
use crate::pack::{HEADER_BYTES, TRAILER_BYTES, cell_count, locate_directory, open_directory};
use crate::store::NewPack;

/// Pulls the directory of a pack of the vault from a holder and enters its chunks, so that they are known to be in that
/// pack; the pack itself is pulled when something in it is read.
pub fn index_remote_pack(
    vault: &Vault,
    source: &dyn PackSource,
    pack: PackId,
    length: u64,
    monitor: &Monitor,
) -> Result<NewPack, EngineError> {
    let size = usize::try_from(length).unwrap_or(usize::MAX).min(limit::PACK_BYTES_MAX);
    let mut buffer = vec![0u8; size];
    let last = cell_count(size).saturating_sub(1);
    // A full pack's directory lies within its last two cells in nearly all cases.
    let mut cells: Vec<usize> = vec![0, last.saturating_sub(1), last];
    cells.sort_unstable();
    cells.dedup();
    pull_cells(source, pack, &cells, &mut buffer, monitor)?;
    let keys = &vault.keyring.vault;
    let wrong = |source| EngineError::Pack { id: pack, source };
    let short = || EngineError::RecordMissing(format!("pack {pack} is too short and"));
    let header = buffer.first_chunk::<HEADER_BYTES>().ok_or_else(short)?;
    let trailer = buffer.last_chunk::<TRAILER_BYTES>().ok_or_else(short)?;
    let place = locate_directory(keys, size, header, trailer).map_err(wrong)?;
    let first = place.offset as usize / limit::CELL_BYTES;
    let missing: Vec<usize> = (first..=last).filter(|cell| !cells.contains(cell)).collect();
    if !missing.is_empty() {
        pull_cells(source, pack, &missing, &mut buffer, monitor)?;
    }
    let sealed = &buffer[place.offset as usize..(place.offset + place.length) as usize];
    let entries = open_directory(keys, &place, sealed).map_err(wrong)?;
    Ok(NewPack { id: pack, bytes: length, epoch: place.epoch, own: true, entries })
}
