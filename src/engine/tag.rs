//! Changing tags and pins: a new signed record in the place of the old one, in this device's next head.
//!
//! A record is signed and named by its bytes, so other tags make another snapshot id. The new record remembers the
//! first one's id, by which references still find it. Everything else, the packs included, stays the same.

use super::error::EngineError;
use super::heads::VaultView;
use super::signing::{next_head, store_head};
use super::vault::Vault;
use crate::base::SnapshotId;
use crate::snapshot::{PeerAddress, Snapshot, seal_record};

/// How tags change: first all are replaced, if so asked; then some go, then some come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagEdit {
    /// All tags from now on.
    pub set: Option<Vec<String>>,
    /// Without these.
    pub remove: Vec<String>,
    /// With these.
    pub add: Vec<String>,
    /// Whether it is pinned from now on; as it is when absent.
    pub pin: Option<bool>,
}

impl TagEdit {
    /// Pure. The order of tags stays, new ones come last, none stands twice.
    fn apply(&self, tags: &[String]) -> Vec<String> {
        let start = self.set.as_deref().unwrap_or(tags);
        let mut out: Vec<String> = Vec::new();
        for tag in start.iter().filter(|tag| !self.remove.contains(tag)).chain(&self.add) {
            if !out.contains(tag) {
                out.push(tag.clone());
            }
        }
        out
    }
}

/// A snapshot after its tags were changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retagged {
    /// What it was called.
    pub old: SnapshotId,
    /// What it is called now; the same when its tags are as they were.
    pub new: SnapshotId,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// Changes the tags of `snapshots`, all in one new head, which is durable when this returns `Ok`.
///
/// # Errors
/// [`EngineError::NotOwn`] when this device's head does not list one of them: nothing is changed then.
pub fn tag(
    vault: &Vault,
    view: &VaultView,
    snapshots: &[SnapshotId],
    edit: &TagEdit,
    holders: &[PeerAddress],
) -> Result<Vec<Retagged>, EngineError> {
    let _chain = vault.head_lock.lock().expect("no panic while held");
    let mut draft = next_head(vault, &[], holders)?;
    let known = |id: &SnapshotId| {
        let snapshot = view.snapshots.iter().find(|snapshot| snapshot.id == *id);
        let snapshot = snapshot.ok_or_else(|| EngineError::unknown(id.short()))?;
        if draft.snapshots.contains(id) {
            Ok(snapshot)
        } else {
            let (id, device) = (snapshot.id, view.device_name(snapshot.device));
            Err(EngineError::NotOwn { id, device })
        }
    };
    let chosen = snapshots.iter().map(known).collect::<Result<Vec<_>, _>>()?;
    let mut out = Vec::new();
    for snapshot in chosen {
        let tags = edit.apply(&snapshot.info.tags);
        let pinned = edit.pin.unwrap_or(snapshot.info.pinned);
        let same = (&tags, pinned) == (&snapshot.info.tags, snapshot.info.pinned);
        let new = if same { snapshot.id } else { replace(vault, snapshot, &tags, pinned)? };
        draft.snapshots.iter_mut().filter(|id| **id == snapshot.id).for_each(|id| *id = new);
        out.push(Retagged { old: snapshot.id, new, tags, pinned });
    }
    if out.iter().any(|one| one.old != one.new) {
        store_head(vault, draft)?;
    }
    Ok(out)
}

/// Stores the record with other tags and pin; no head lists it yet.
fn replace(
    vault: &Vault,
    snapshot: &Snapshot,
    tags: &[String],
    pinned: bool,
) -> Result<SnapshotId, EngineError> {
    let mut info = snapshot.info.clone();
    info.tags = tags.to_vec();
    info.pinned = pinned;
    info.original = snapshot.original.unwrap_or(snapshot.id).as_bytes().to_vec();
    // An inherited snapshot is this device's from now on: it can sign for itself only.
    info.device = vault.device().as_bytes().to_vec();
    let (id, bytes) = seal_record(&info, &vault.keyring.vault, &vault.keyring.device)?;
    vault.store.publish_snapshot(id, &bytes)?;
    // Where it is not known what the old one needs, that of the new one is found out as well.
    if let Some(packs) = vault.store.snapshot_packs(snapshot.id)? {
        vault.store.set_snapshot_packs(id, &packs.into_iter().collect())?;
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_their_order_and_none_stands_twice() {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let table = [
            // tags, set, remove, add, then
            ("a b", None, "", "c", "a b c"),
            ("a b", None, "a", "", "b"),
            ("a b", None, "a", "a", "b a"),
            ("a b", Some(""), "", "", ""),
            ("a b", Some("x y x"), "y", "z", "x z"),
            ("a b", None, "c", "b", "a b"),
        ];
        for (tags, set, remove, add, expected) in table {
            let edit = TagEdit { set: set.map(list), remove: list(remove), add: list(add), pin: None };
            assert_eq!(edit.apply(&list(tags)), list(expected), "{tags} {edit:?}");
        }
    }
}
