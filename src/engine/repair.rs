//! Repair: which cells of which packs are bad, what to pull, and putting sound packs in their place.
//!
//! Needs no key: a pack's id and the cells' chaining values tell good from bad, for own packs and for others' alike.
//! Nothing that does not hash to the pack's id is ever published; the damaged file goes to quarantine first.

use std::collections::BTreeMap;

use super::borrow::packs_elsewhere;
use super::error::EngineError;
use super::monitor::Monitor;
use super::pull::{PackSource, pull_cells};
use crate::base::{ByteSize, PackId, PeerId, limit};
use crate::pack::{CellRange, Outboard, cell_count};
use crate::store::{PackFile, Quarantined, Store, StoreError};

/// What is wrong with a pack's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which pack.
    pub pack: PackId,
    /// The length it should have in bytes.
    pub bytes: u64,
    /// The file is not here at all.
    pub missing: bool,
    /// Cells that must be pulled, ascending.
    pub cells: Vec<usize>,
}

impl Damage {
    /// Reads a pack's file and compares every cell; `None` when it is sound. A lost outboard is made again.
    pub fn examine(store: &Store, pack: PackId, bytes: u64) -> Result<Option<Self>, EngineError> {
        let file = match store.open_pack(pack) {
            Ok(file) => file.read_all(),
            Err(error) => Err(error),
        };
        match file {
            Ok(content) => Self::compare(store, pack, bytes, &content),
            Err(StoreError::MissingPack(_)) => Ok(Some(Self::whole(pack, bytes, true))),
            // Unreadable sectors or an absurd length: pulled anew as a whole.
            Err(StoreError::DamagedFile(_) | StoreError::Io { .. }) => {
                Ok(Some(Self::whole(pack, bytes, false)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Like [`Damage::examine`] for content that is in memory.
    pub fn compare(
        store: &Store,
        pack: PackId,
        bytes: u64,
        content: &[u8],
    ) -> Result<Option<Self>, EngineError> {
        let (id, outboard) = Outboard::of(content);
        let expected = usize::try_from(bytes).unwrap_or(usize::MAX);
        let kept = store.outboard(pack, expected)?;
        if id == pack {
            // On a full disk the pack is sound all the same; the next look makes it again.
            if kept.is_none()
                && let Err(error) = store.renew_outboard(pack, &outboard)
            {
                tracing::warn!(target: "store", pack = %pack.short(), %error, "an outboard could not be renewed");
            }
            return Ok(None);
        }
        let Some(kept) = kept else { return Ok(Some(Self::whole(pack, bytes, false))) };
        let sound = |cell: &usize| {
            let start = cell * limit::CELL_BYTES;
            let end = (start + limit::CELL_BYTES).min(expected);
            content.get(start..end).is_some_and(|data| kept.matches(*cell, data))
        };
        let cells = (0..cell_count(expected)).filter(|cell| !sound(cell)).collect();
        Ok(Some(Self { pack, bytes, missing: false, cells }))
    }

    fn whole(pack: PackId, bytes: u64, missing: bool) -> Self {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(limit::PACK_BYTES_MAX);
        Self { pack, bytes, missing, cells: (0..cell_count(length)).collect() }
    }

    /// Bytes that have to be pulled.
    pub fn bytes_wanted(&self) -> u64 {
        (self.cells.len() * limit::CELL_BYTES) as u64
    }
}

/// Packs that should be here and whose files are gone or of another length: a look at each file, no more.
pub fn lost_packs(store: &Store) -> Result<Vec<PackId>, EngineError> {
    let (elsewhere, aside) = (packs_elsewhere(store)?, store.packs_aside());
    let mut rows = Vec::new();
    for own in [true, false] {
        store.for_each_pack(own, |row| {
            rows.push(row);
            true
        })?;
    }
    rows.retain(|row| !elsewhere.contains_key(&row.number) && !aside.contains(&row.number));
    let mut lost = Vec::new();
    for row in rows {
        // Its row goes before its file.
        if store.pack_length(row.id)? != Some(row.bytes) && store.pack_by_number(row.number)?.is_some() {
            lost.push(row.id);
        }
    }
    Ok(lost)
}

/// Of packs that are here, those whose bytes are what they should be, and what is wrong with the others: what is confirmed
/// is looked at first.
pub fn look_over(store: &Store, packs: &[PackId]) -> Result<(Vec<PackId>, Vec<Damage>), EngineError> {
    let (mut sound, mut damages) = (Vec::new(), Vec::new());
    for id in packs {
        let Some(row) = store.pack_by_id(*id)? else { continue };
        match Damage::examine(store, *id, row.bytes)? {
            None => sound.push(*id),
            Some(damage) => damages.push(damage),
        }
    }
    Ok((sound, damages))
}

/// Reads cells of a pack of `bytes` bytes to give them to somebody else, each compared with the outboard first: rot is never
/// passed on.
///
/// # Errors
/// [`StoreError::DamagedFile`] when one of them is not what it should be.
pub fn read_sound(
    file: &PackFile,
    pack: PackId,
    bytes: u64,
    cells: CellRange,
    outboard: &Outboard,
) -> Result<Vec<u8>, StoreError> {
    let mut data = vec![0u8; usize::try_from(cells.length(bytes)).unwrap_or(0)];
    file.read_at(cells.offset(), &mut data)?;
    let mut each = data.chunks(limit::CELL_BYTES).enumerate();
    if each.all(|(at, cell)| outboard.matches(cells.first + at, cell)) {
        return Ok(data);
    }
    Err(StoreError::DamagedFile(format!("pack {pack}")))
}

/// What a repair will do, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairPlan {
    /// Missing packs first, then by id.
    pub items: Vec<Damage>,
}

impl RepairPlan {
    /// One line for each pack.
    pub fn lines(&self) -> Vec<String> {
        let line = |item: &Damage| {
            let what = if item.missing { "missing" } else { "damaged" };
            let wanted = ByteSize(item.bytes_wanted());
            format!("pack {} is {what}: pull {wanted} of {}", item.pack.short(), ByteSize(item.bytes))
        };
        self.items.iter().map(line).collect()
    }
}

/// Orders what was found: what is gone altogether is at greater risk than what is partly there.
pub fn plan_repair(mut damages: Vec<Damage>) -> RepairPlan {
    damages.sort_by_key(|damage| (!damage.missing, damage.pack));
    damages.dedup_by_key(|damage| damage.pack);
    RepairPlan { items: damages }
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairResult {
    /// Packs that are sound again.
    pub repaired: Vec<PackId>,
    /// Packs for which nobody had what was needed, and who was asked.
    pub failed: Vec<(PackId, String)>,
    /// Bytes that each peer gave.
    pub given: BTreeMap<PeerId, u64>,
}

/// Carries a plan out, pack by pack. A pack that cannot be had does not stop the others.
pub fn run_repair(
    store: &Store,
    plan: &RepairPlan,
    source: &dyn PackSource,
    monitor: &Monitor,
) -> Result<RepairResult, EngineError> {
    let mut result = RepairResult::default();
    for damage in &plan.items {
        monitor.go_on()?;
        match repair_pack(store, damage, source, monitor) {
            Ok(given) => {
                result.repaired.push(damage.pack);
                for (peer, bytes) in given {
                    *result.given.entry(peer).or_default() += bytes;
                }
            }
            Err(EngineError::NoSource { pack, tried, .. }) => result.failed.push((pack, tried)),
            Err(error) => return Err(error),
        }
    }
    Ok(result)
}

/// Makes one damaged pack sound again; what each peer gave.
pub(super) fn repair_pack(
    store: &Store,
    damage: &Damage,
    source: &dyn PackSource,
    monitor: &Monitor,
) -> Result<BTreeMap<PeerId, u64>, EngineError> {
    let length = usize::try_from(damage.bytes).unwrap_or(usize::MAX).min(limit::PACK_BYTES_MAX);
    let all: Vec<usize> = (0..cell_count(length)).collect();
    // What was readable when it was examined may not be any more.
    let kept = if damage.cells.len() == all.len() { None } else { read_file(store, damage.pack) };
    let every_cell = kept.is_none();
    let mut buffer = kept.unwrap_or_default();
    buffer.resize(length, 0);
    let cells = if every_cell { &all } else { &damage.cells };
    let mut given = pull_cells(source, damage.pack, cells, &mut buffer, monitor)?;
    let (mut id, mut outboard) = Outboard::of(&buffer);
    if id != damage.pack && !every_cell {
        // More has rotted since it was examined.
        given = pull_cells(source, damage.pack, &all, &mut buffer, monitor)?;
        (id, outboard) = Outboard::of(&buffer);
    }
    if id != damage.pack {
        let tried = "what was pulled does not make up the pack".to_owned();
        return Err(EngineError::NoSource { pack: damage.pack, tried, busy: false });
    }
    store.replace_pack(damage.pack, &buffer, &outboard)?;
    tracing::info!(target: "repair", pack = %damage.pack.short(), cells = damage.cells.len(), "pack restored");
    Ok(given)
}

fn read_file(store: &Store, pack: PackId) -> Option<Vec<u8>> {
    store.open_pack(pack).and_then(|file| file.read_all()).ok()
}

/// Puts a file back that a repair replaced, and tells whether it is sound. `None`: nothing was done, as that would put damage
/// in the place of what is sound, and `anyway` does not ask for that.
pub fn undo_repair(store: &Store, file: &Quarantined, anyway: bool) -> Result<Option<bool>, EngineError> {
    let is_sound =
        |content: Option<Vec<u8>>| content.is_some_and(|bytes| Outboard::of(&bytes).0 == file.pack);
    let sound = is_sound(store.read_quarantined(file).ok());
    if !sound && !anyway && is_sound(read_file(store, file.pack)) {
        return Ok(None);
    }
    store.put_back(file)?;
    if let Some(row) = store.pack_by_id(file.pack)?.filter(|row| row.own) {
        let (damaged, trusted) = if sound { (vec![], vec![row.number]) } else { (vec![row.number], vec![]) };
        store.note_mistrust(&damaged, &trusted)?;
    }
    Ok(Some(sound))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> (tempfile::TempDir, Store, PackId, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s")).unwrap();
        let mut bytes = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let (id, outboard) = Outboard::of(&bytes);
        store.publish_pack(id, &bytes, &outboard).unwrap();
        (dir, store, id, bytes)
    }

    fn pack_path(dir: &tempfile::TempDir, id: PackId) -> std::path::PathBuf {
        dir.path().join(format!("s/packs/{:02x}/{id}", id.as_bytes()[0]))
    }

    #[test]
    fn examine_names_exactly_the_bad_cells() {
        let (dir, store, id, bytes) = stored();
        assert_eq!(Damage::examine(&store, id, 1 << 20).unwrap(), None);
        let path = pack_path(&dir, id);
        let cells = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Damage::examine(&store, id, 1 << 20).unwrap().map(|damage| damage.cells)
        };
        let mut bad = bytes.clone();
        bad[3 * 65_536] ^= 1;
        bad[(1 << 20) - 1] ^= 1;
        assert_eq!(cells(&bad), Some(vec![3, 15]));
        assert_eq!(cells(&bytes[..900_000]), Some(vec![13, 14, 15]));
        assert_eq!(cells(&[]), Some((0..16).collect()));
        assert_eq!(cells(&[bytes.as_slice(), b"x"].concat()), Some(vec![]));
        // Without its outboard nothing of a damaged pack can be trusted; a sound one gets a new outboard.
        std::fs::remove_file(path.with_file_name(format!("{id}.cells"))).unwrap();
        assert_eq!(cells(&bad).map(|cells| cells.len()), Some(16));
        assert_eq!(cells(&bytes), None);
        assert!(store.outboard(id, 1 << 20).unwrap().is_some());
        std::fs::remove_file(&path).unwrap();
        assert!(Damage::examine(&store, id, 1 << 20).unwrap().unwrap().missing);
    }
}
