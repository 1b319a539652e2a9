//! Who keeps packs of others, and packs from wherever they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::{PackId, PeerId, limit};
use crate::crypto::NodeKey;
use crate::engine::tests::fixture::head_packs;
use crate::engine::tests::lines::{Line, run};
use crate::engine::{FetchFailure, Gathering, Monitor, PackSource, PulledSlice, Sources, rebuild_index};
use crate::pack::Outboard;
use crate::snapshot::Head;
use crate::store::Store;

/// How long holders keep what no newest head needs.
pub(super) const HOLD_DAYS: u64 = 30;

/// Keeps packs of others.
pub(super) struct Holder {
    dir: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) key: NodeKey,
    /// Days that it has seen pass.
    pub(super) day: u64,
    /// Packs of replaced heads, and until which day each is held at least.
    pub(super) held: BTreeMap<PackId, u64>,
}

impl Holder {
    pub(super) fn at(dir: tempfile::TempDir) -> Self {
        let store = Store::create(&dir.path().join("store")).unwrap();
        Self { dir, store, key: NodeKey::generate(), day: 0, held: BTreeMap::new() }
    }

    pub(super) fn reopened(self, index_lost: bool) -> Self {
        let Self { dir, store, key, day, held } = self;
        let path = store.dir().to_owned();
        drop(store);
        let store = if index_lost { Store::rebuild(&path).unwrap() } else { Store::open(&path).unwrap() };
        if index_lost {
            rebuild_index(&store, None, &Monitor::default()).unwrap();
            store.publish_index().unwrap();
        }
        Self { dir, store, key, day, held }
    }

    /// An index is being made anew when the program dies: the old one stands.
    pub(super) fn cut(self, is_filled: bool) -> Self {
        let Self { dir, store, key, day, held } = self;
        let path = store.dir().to_owned();
        drop(store);
        let store = Store::rebuild(&path).unwrap();
        if is_filled {
            rebuild_index(&store, None, &Monitor::default()).unwrap();
        }
        drop(store);
        Self { dir, store: Store::open(&path).unwrap(), key, day, held }
    }

    pub(super) fn has(&self, pack: PackId) -> bool {
        pack_path(self.store.dir(), pack).exists()
    }

    /// A head is about to be replaced: what it lists and is here stays for the hold.
    pub(super) fn replaces(&mut self, head: &Head) {
        let listed = listed_by(&self.store, head);
        let here: Vec<PackId> = listed.into_iter().filter(|pack| self.has(*pack)).collect();
        self.held.extend(here.into_iter().map(|pack| (pack, self.day + HOLD_DAYS)));
    }
}

pub(super) fn pack_path(store: &Path, id: PackId) -> PathBuf {
    store.join(format!("packs/{:02x}/{id}", id.as_bytes()[0]))
}

/// A pack's bytes, if they are sound.
pub(super) fn sound_bytes(store: &Path, id: PackId) -> Option<(Vec<u8>, Outboard)> {
    let bytes = std::fs::read(pack_path(store, id)).ok()?;
    let (found, outboard) = Outboard::of(&bytes);
    (found == id).then_some((bytes, outboard))
}

/// Packs that a head lists; none while one of its lists is not sound.
pub(super) fn listed_by(store: &Store, head: &Head) -> BTreeSet<PackId> {
    head_packs(store, head).unwrap_or_default().into_iter().map(|(id, _)| id).collect()
}

/// Packs from wherever they are, sound or not.
pub(super) struct Everywhere(pub(super) Vec<(PeerId, PathBuf)>);

impl PackSource for Everywhere {
    fn sources(&self, pack: PackId) -> Sources {
        let has = self.0.iter().filter(|(_, store)| pack_path(store, pack).exists());
        Sources { sure: has.map(|(peer, _)| *peer).collect(), ..Sources::default() }
    }

    fn gather(&self, pack: PackId, gathering: &mut Gathering<'_>) {
        let mut lines: Vec<Line> =
            self.0.iter().map(|(peer, _)| Line::new(*peer, 10 << 20, Duration::ZERO)).collect();
        run(gathering, &mut lines, |errand| {
            let (_, store) = self.0.iter().find(|(peer, _)| *peer == errand.holder).unwrap();
            let bytes = std::fs::read(pack_path(store, pack)).map_err(|_| FetchFailure::NotFound)?;
            let (from, range) = (errand.range.first * limit::CELL_BYTES, errand.range);
            let part = bytes.get(from..(range.end * limit::CELL_BYTES).min(bytes.len()));
            let data = part.filter(|part| !part.is_empty()).ok_or(FetchFailure::Corrupt)?.to_vec();
            Ok(PulledSlice { data: data.into(), proof: Outboard::of(&bytes).1.proof(range) })
        });
    }
}
