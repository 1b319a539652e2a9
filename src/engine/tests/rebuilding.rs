//! Packs without rows, and an index made anew.

use std::path::Path;

use super::fixture::{Fixture, noise, watched};
use super::tree_of::assert_same;
use crate::base::{PackId, PeerId};
use crate::engine::expected::lose_names;
use crate::engine::tests::fixture::{head_packs, newest_heads};
use crate::engine::{
    Monitor, account, adopt_listed, adopt_own, adopt_unindexed, charges_of, forward_packs, held_packs,
    rebuild_index, store_list,
};
use crate::pack::Outboard;
use crate::snapshot::Head;
use crate::store::{Kept, NOBODY, Store, record_room};

fn rebuilt(fixture: Fixture) -> Fixture {
    fixture.reopened(|_| {}, |path| Store::rebuild(path).unwrap())
}

/// What a kill between publishing packs and committing their rows leaves: packs, but no rows, no snapshot, no head
/// beyond the vault's first, and nobody who knows of one.
fn interrupted() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("large", &noise(1, 6 << 20));
    fixture.write("small", &noise(2, 600));
    fixture.backup();
    let forget = |store: &Path| {
        for name in ["snapshots", "lists"] {
            std::fs::remove_dir_all(store.join(name)).unwrap();
            std::fs::create_dir(store.join(name)).unwrap();
        }
        let only = |dir: &Path| std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
        for head in std::fs::read_dir(only(&only(&store.join("heads")))).unwrap() {
            let head = head.unwrap();
            if !head.file_name().to_string_lossy().starts_with("0000000000000001-") {
                std::fs::remove_file(head.path()).unwrap();
            }
        }
        lose_names(store);
    };
    fixture.reopened(forget, |path| Store::rebuild(path).unwrap())
}

#[test]
fn packs_that_a_crash_left_without_rows_are_used_by_the_next_backup() {
    watched(|| {
        let fixture = interrupted();
        let left = fixture.packs().len();
        let done = fixture.backup();
        assert_eq!(done.counts.files_new, 2);
        assert!(done.counts.data_added < 20_000, "{}", done.counts.data_added);
        assert!(fixture.packs().len() <= left + 1);
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
        assert!(fixture.verify().is_sound());
        assert_eq!(adopt_unindexed(&fixture.vault, &Monitor::default()).unwrap(), 0);
    });
}

/// A pack with a readable directory was taken in whatever its chunks looked like, and a new backup relied on them.
#[test]
fn a_damaged_pack_without_rows_is_not_relied_upon() {
    watched(|| {
        let fixture = interrupted();
        for (_, path) in fixture.packs() {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[500] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let done = fixture.backup();
        assert!(done.counts.data_added > 6 << 20);
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
        assert!(fixture.verify().is_sound());
    });
}

/// Without keys the node's own packs were entered as another vault's: no chunk rows, and no later backup found them.
#[test]
fn an_index_rebuilt_without_keys_leaves_own_packs_to_be_taken_in_later() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("large", &noise(1, 3 << 20));
        let done = fixture.backup();
        let fixture = rebuilt(fixture);
        let result = rebuild_index(fixture.store(), None, &Monitor::default()).unwrap();
        assert_eq!((result.packs, result.unreadable.len(), result.heads), (0, 0, 1));
        assert_eq!(fixture.store().pack_counts().unwrap().foreign_packs, 0);
        let packs = fixture.packs().len() as u64;
        assert_eq!(adopt_unindexed(&fixture.vault, &Monitor::default()).unwrap(), packs);
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
        assert!(fixture.verify().is_sound());
    });
}

#[test]
fn a_damaged_pack_is_in_the_rebuilt_index_so_that_it_can_be_repaired() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("large", &noise(1, 3 << 20));
        fixture.backup();
        let chunks = fixture.store().pack_counts().unwrap();
        for (_, path) in fixture.packs() {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[500] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let fixture = rebuilt(fixture);
        let keys = Some(&fixture.vault.keyring.vault);
        let result = rebuild_index(fixture.store(), keys, &Monitor::default()).unwrap();
        assert_eq!(result.unreadable, Vec::<String>::new());
        assert_eq!(fixture.store().pack_counts().unwrap(), chunks);
        assert_eq!(fixture.verify().damages.len(), fixture.packs().len());
    });
}

/// They lay there, called missing, and what was said to help was to forget the snapshots that need them.
#[test]
fn own_packs_that_an_older_index_does_not_know_are_taken_in() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("large", &noise(1, 1 << 20));
        fixture.backup();
        let older = std::fs::read(fixture.store().dir().join("index.redb")).unwrap();
        fixture.write("more", &noise(2, 1 << 20));
        let done = fixture.backup();
        let packs = fixture.packs().len() as u64;
        let known = |fixture: &Fixture| fixture.store().pack_counts().unwrap().own_packs;
        assert_eq!((known(&fixture), adopt_own(&fixture.vault, &Monitor::default()).unwrap()), (packs, 0));
        let put_back = |dir: &Path| std::fs::write(dir.join("index.redb"), &older).unwrap();
        let fixture = fixture.reopened(put_back, |dir| Store::open(dir).unwrap());
        let missing = packs - known(&fixture);
        assert!(missing > 0 && !fixture.verify().is_sound());
        assert_eq!(adopt_own(&fixture.vault, &Monitor::default()).unwrap(), missing);
        assert_eq!(known(&fixture), packs);
        assert!(fixture.verify().is_sound());
        fixture.restore(&done, "out");
    });
}

/// A node that keeps another vault's newest head, and the packs that it lists.
fn holder() -> (Fixture, Head, Vec<PackId>) {
    let (owner, holder) = (Fixture::new(), Fixture::new());
    owner.write("large", &noise(1, 3 << 20));
    owner.backup();
    let vault = owner.vault.id();
    let head = newest_heads(owner.store(), vault).unwrap().remove(0);
    for list in &head.draft.lists {
        let bytes = owner.store().read_list(list.id).unwrap().unwrap();
        store_list(holder.store(), list.id, &bytes).unwrap();
    }
    let bytes = owner.store().read_head(vault, head.device(), head.draft.seq, head.id).unwrap().unwrap();
    holder.store().publish_head(vault, head.device(), head.draft.seq, head.id, &bytes).unwrap();
    let packs: Vec<_> = head_packs(holder.store(), &head).unwrap().into_iter().map(|(id, _)| id).collect();
    for (id, path) in owner.packs() {
        let bytes = std::fs::read(path).unwrap();
        forward_packs(holder.store(), (vault, NOBODY), id, &bytes, &Outboard::of(&bytes).1).unwrap();
    }
    assert_eq!(held_packs(holder.store(), vault, &packs).unwrap(), packs);
    (holder, head, packs)
}

/// Its packs lay there, unknown to all, and the holder said that all was well.
#[test]
fn packs_for_others_that_an_older_index_does_not_know_are_taken_in() {
    watched(|| {
        let (holder, head, packs) = holder();
        let holder = rebuilt(holder);
        assert_eq!(held_packs(holder.store(), head.vault(), &packs).unwrap(), []);
        assert_eq!(adopt_listed(holder.store()).unwrap(), packs.len() as u64);
        assert_eq!(held_packs(holder.store(), head.vault(), &packs).unwrap(), packs);
        assert_eq!(adopt_listed(holder.store()).unwrap(), 0);
    });
}

#[test]
fn foreign_packs_come_back_without_keys() {
    watched(|| {
        let (holder, head, packs) = holder();
        let vault = head.vault();
        let result = holder.verify();
        assert_eq!((result.packs, result.damages.len()), (packs.len() as u64, 0));
        assert_eq!(result.records.len(), 1, "the snapshot record did not come: {:?}", result.records);
        let usage = holder.store().foreign_usage().unwrap();
        let holder = rebuilt(holder);
        rebuild_index(holder.store(), None, &Monitor::default()).unwrap();
        assert_eq!(holder.store().foreign_usage().unwrap(), usage);
        assert_eq!(held_packs(holder.store(), vault, &packs).unwrap(), packs);
        // Nobody knows any more who brought them: they count all the same, and whoever offers first has brought them.
        account(holder.store()).unwrap();
        let kept = holder.store().accounts().unwrap().of_vault(vault);
        assert_eq!((kept.packs, kept.pack_bytes), usage[&vault]);
        let records = charges_of(holder.store(), &head).unwrap();
        assert_eq!(records.len(), head.draft.lists.len() + 1);
        let room = records.iter().map(|(_, length)| record_room(*length)).sum::<u64>();
        assert_eq!(kept.record_bytes, room);
        assert_eq!(holder.store().accounts().unwrap().bearers(vault), []);
        let (first, second) = (PeerId::new([1; 32]), PeerId::new([2; 32]));
        for peer in [first, second] {
            holder.store().claim(vault, peer).unwrap();
        }
        let accounts = holder.store().accounts().unwrap();
        assert_eq!((accounts.of_peer(first), accounts.bearers(vault)), (kept, vec![first]));
        // What goes is charged to nobody.
        let numbers = holder.store().foreign_packs(vault).unwrap();
        holder.store().drop_foreign(vault, &numbers).unwrap();
        let records: Vec<[u8; 32]> = records.into_iter().map(|(id, _)| id).collect();
        holder.store().discharge_records(&records).unwrap();
        assert_eq!(holder.store().accounts().unwrap().total(), Kept::default());
    });
}
