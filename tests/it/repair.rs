//! Damage that peers mend.

use std::fs;

use super::mesh::{holders, owner};
use super::node::{Node, connected, flip, text, until};
use super::tree::{self, assert_same};

#[test]
fn an_owner_mends_damage_from_a_holder_and_pulls_little() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 60, 200_000);
    owner.replicate(&source);
    let packs = owner.packs();
    let largest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    flip(largest);
    owner.run(&["verify"]).exits(5);
    let planned = owner.run(&["repair", "--dry-run"]).json();
    let plan: Vec<&str> =
        planned["plan"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let [pull, read] = plan[..] else { panic!("{planned}") };
    assert!(pull.starts_with("pack ") && read.starts_with(&format!("file {}", text(&source))), "{planned}");
    let mended = owner.run(&["verify", "--repair"]).exits(0).json();
    let report = &mended["repair"];
    // Eight bytes in one cell were wrong: not the whole pack is pulled.
    let fetched = report["bytes_fetched"].as_u64().unwrap();
    assert!(fetched > 0 && fetched <= 4 * 65536, "{report}");
    assert_eq!(report["repaired_packs"], 1, "{report}");
    assert!(report["sources"].get(holder.peer_id()).is_some(), "{report}");
    assert!(mended["repaired_chunks"].as_u64().unwrap() > 0, "{mended}");

    fs::remove_file(&packs[0]).unwrap();
    fs::write(packs.last().unwrap(), b"short").unwrap();
    owner.run(&["verify"]).exits(5);
    let report = owner.run(&["repair"]).exits(0).json();
    assert_eq!(report["unrepaired_chunks"], 0, "{report}");
    owner.run(&["verify"]).exits(0);
    assert_eq!(owner.packs(), packs);
    let target = owner.path("target");
    let reference = format!("latest:{}", text(&source));
    owner.run(&["restore", &reference, "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
    // Damaged files are set aside, not deleted.
    assert!(!owner.files("quarantine/").is_empty());
}

/// Nothing noticed before a scrub came by, which may take weeks, or an audit asked for just that pack.
#[test]
fn a_holder_that_lost_the_file_of_a_pack_has_it_again_without_a_backup() {
    let owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 200_000);
    owner.replicate(&source);
    let packs = holder.packs();
    for with_index in [false, true] {
        holder.terminate();
        fs::remove_file(&packs[0]).unwrap();
        if with_index {
            fs::remove_file(holder.repo().join("index.redb")).unwrap();
            holder.run(&["rebuild-index"]).exits(0);
        }
        holder.start();
        connected(&owner, &holder);
        until("it has it again", &[&owner, &holder], || (holder.packs() == packs).then_some(()));
        until("it counts", &[&owner, &holder], || (owner.snapshots()[0]["copies"] == 1).then_some(()));
        holder.run(&["verify"]).exits(0);
    }
}

#[test]
fn a_restore_pulls_damaged_pieces_from_a_holder_by_itself() {
    let owner = owner(1);
    let [_holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 200_000);
    owner.replicate(&source);
    for (at, pack) in owner.packs().iter().enumerate() {
        if at % 2 == 0 { flip(pack) } else { fs::remove_file(pack).unwrap() }
    }
    let target = owner.path("target");
    let reference = format!("latest:{}", text(&source));
    let done = owner.run(&["restore", &reference, "--target", text(&target)]).exits(0).json();
    assert!(done["bytes_fetched"].as_u64().unwrap() > 0, "{done}");
    assert_same(&source, &target);
}

#[test]
fn a_holder_without_keys_mends_its_packs_from_whoever_has_them() {
    let mut owner = owner(2);
    let holders: [Node; 2] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 30, 200_000);
    owner.replicate(&source);
    let [first, second] = &holders;
    let packs = first.packs();
    let largest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let sound = fs::read(largest).unwrap();
    flip(largest);
    first.run(&["verify"]).exits(5);
    // From the owner.
    first.run(&["verify", "--repair"]).exits(0);
    assert_eq!(fs::read(largest).unwrap(), sound);
    fs::remove_file(largest).unwrap();
    first.run(&["repair"]).exits(0);
    assert_eq!(fs::read(largest).unwrap(), sound);

    // From another holder, when the owner is away.
    super::node::pair(first, second);
    owner.kill();
    until("the owner is gone", &[first], || {
        (first.status()["peers"].as_array()?.iter().filter(|peer| peer["connected"] == true).count() == 1)
            .then_some(())
    });
    flip(largest);
    let report = first.run(&["repair"]).exits(0).json();
    assert!(report["sources"].get(second.peer_id()).is_some(), "{report}");
    assert_eq!(fs::read(largest).unwrap(), sound);
    first.run(&["verify"]).exits(0);
}

#[test]
fn a_holder_with_rot_is_passed_over_for_a_sound_one() {
    let owner = owner(2);
    let holders: [Node; 2] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 200_000);
    owner.replicate(&source);
    // All packs of one holder are rotten, all of the owner's are lost.
    holders[0].packs().iter().for_each(|pack| flip(pack));
    let packs = owner.packs();
    packs.iter().for_each(|pack| fs::remove_file(pack).unwrap());
    let report = owner.run(&["repair"]).exits(0).json();
    assert_eq!(report["repaired_packs"], packs.len(), "{report}");
    owner.run(&["verify"]).exits(0);
    let target = owner.path("target");
    owner.run(&["restore", &format!("latest:{}", text(&source)), "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
}

#[test]
fn damage_that_nobody_can_mend_stays_told() {
    let mut owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 200_000);
    owner.replicate(&source);
    let pack = owner.packs().remove(0);
    let name = pack.file_name().unwrap().to_owned();
    fs::remove_file(&pack).unwrap();
    holder.packs().iter().filter(|pack| pack.file_name() == Some(&name)).for_each(|pack| flip(pack));
    fs::remove_dir_all(&source).unwrap();
    let report = owner.run(&["verify", "--repair"]).exits(5).json();
    assert!(report["repair"]["unrepaired_packs"].as_array().is_some_and(|lost| lost.len() == 1), "{report}");
    assert_eq!(owner.run(&["status"]).exits(1).json()["verdict"], "at-risk");
    holder.kill();
    owner.run(&["repair"]).exits(5);
    owner.terminate();
    owner.run(&["verify"]).exits(5);
}

#[test]
fn what_could_not_be_mended_is_mended_by_itself_once_a_holder_is_back() {
    let mut owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 200_000);
    owner.replicate(&source);
    fs::remove_dir_all(&source).unwrap();
    let packs = owner.packs();
    holder.terminate();
    packs.iter().take(2).for_each(|pack| fs::remove_file(pack).unwrap());
    owner.run(&["verify", "--repair"]).exits(5);
    assert_eq!(owner.status()["repairs"]["waiting"], 2);
    // What waits is on the disk.
    owner.kill();
    let before = owner.run(&["status"]).json();
    assert_eq!(before["repairs"]["waiting"], 2, "{before}");
    assert!(before["problems"].to_string().contains("2 damaged packs wait to be mended"), "{before}");
    owner.start();
    holder.start();
    super::node::pair(&owner, &holder);
    let after = until("the damage is mended", &[&owner, &holder], || {
        let status = owner.status();
        (status["repairs"]["waiting"] == 0 && !status["problems"].to_string().contains("damage"))
            .then_some(status)
    });
    assert_eq!(after["repairs"]["since"], serde_json::Value::Null);
    assert_eq!(owner.packs(), packs);
    owner.run(&["verify"]).exits(0);
}

#[test]
fn rot_that_an_owner_comes_upon_is_mended_by_the_holder() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 200_000);
    owner.replicate(&source);
    let rotten = holder.packs().remove(0);
    let sound = fs::read(&rotten).unwrap();
    fs::write(&rotten, vec![0; sound.len()]).unwrap();
    owner.run(&["verify", "--peers"]).exits(5);
    until("the holder knows of it, and mends it", &[&owner, &holder], || {
        let is_mended = fs::read(&rotten).is_ok_and(|bytes| bytes == sound);
        (is_mended && holder.status()["repairs"]["waiting"] == 0).then_some(())
    });
    holder.run(&["verify"]).exits(0);
}

#[test]
fn what_a_repair_replaced_is_kept_and_can_be_put_back() {
    let owner = owner(1);
    let [_holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 200_000);
    owner.replicate(&source);
    let pack = owner.packs().remove(0);
    let id = pack.file_name().unwrap().to_str().unwrap().to_owned();
    let sound = fs::read(&pack).unwrap();
    owner.run(&["repair", "--undo", &id]).exits(5);
    flip(&pack);
    let rotten = fs::read(&pack).unwrap();
    owner.run(&["repair"]).exits(0);
    let kept = owner.run(&["gc", "--status"]).exits(0).json();
    assert_eq!(kept["replaced"][0]["pack"], id.as_str(), "{kept}");
    // Nobody puts damage in the place of what is sound by mistake.
    let refused = owner.run(&["repair", "--undo", &id[..12]]).exits(1).failure();
    assert_eq!(refused["code"], "CONFIRMATION_NEEDED", "{refused}");
    assert_eq!(fs::read(&pack).unwrap(), sound);
    owner.run(&["repair", "--undo", &id[..12], "--yes"]).exits(0);
    assert_eq!(fs::read(&pack).unwrap(), rotten);
    owner.run(&["verify"]).exits(5);
    owner.run(&["repair", "--undo", &id]).exits(0);
    assert_eq!(fs::read(&pack).unwrap(), sound);
    owner.run(&["verify"]).exits(0);
    let done = owner.run(&["gc", "--now"]).exits(0).json();
    assert_eq!(done["cleared_files"], 1, "{done}");
    assert!(owner.files("quarantine/").is_empty());
}

#[test]
fn what_no_peer_has_comes_back_from_the_files() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 30, 100_000);
    node.backup(&source);
    let whole = node.packs();
    let largest = whole.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    fs::remove_file(largest).unwrap();
    node.run(&["verify"]).exits(5);
    let planned = node.run(&["repair", "--dry-run"]).json();
    let plan = planned["plan"].as_array().expect("steps");
    let files = plan.iter().filter(|line| line.as_str().is_some_and(|line| line.starts_with("file ")));
    assert!(files.count() > 1, "{planned}");
    assert_eq!(node.packs().len() + 1, whole.len(), "a dry run changes nothing");

    let mended = node.run(&["repair"]).exits(0).json();
    assert!(mended["regained_chunks"].as_u64().is_some_and(|chunks| chunks > 1), "{mended}");
    assert_eq!(mended["replaced_packs"].as_array().map(Vec::len), Some(1), "{mended}");
    assert!(mended["sources"]["files"].as_u64().is_some_and(|bytes| bytes > 100_000), "{mended}");
    assert_eq!((&mended["unrepaired_chunks"], &mended["bytes_fetched"]), (&0.into(), &0.into()));
    node.run(&["verify"]).exits(0);
    let target = node.path("target");
    node.run(&["restore", &format!("latest:{}", text(&source)), "--target", text(&target)]).exits(0);
    assert_same(&source, &target);

    // Once the files are gone, what is lost is lost, and told.
    fs::remove_dir_all(&source).unwrap();
    for pack in node.packs() {
        flip(&pack);
    }
    let report = node.run(&["repair"]).exits(5).json();
    assert!(report["unrepaired_chunks"].as_u64().is_some_and(|lost| lost > 0), "{report}");
}

#[test]
fn a_drill_restores_from_peers_whatever_is_on_this_disk() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    assert!(owner.run(&["verify", "--drill"]).exits(0).json()["snapshot"].is_null(), "nothing is there yet");
    assert!(owner.status()["drill"].is_null(), "and nothing is proven by that");
    let source = owner.path("source");
    tree::plain(&source, 1, 40, 50_000);
    fs::write(source.join("large"), tree::noise(9, 3 << 20)).unwrap();
    owner.replicate(&source);
    // Not even the own packs are needed for it.
    let packs = owner.packs();
    let kept: Vec<Vec<u8>> = packs.iter().map(|pack| fs::read(pack).unwrap()).collect();
    packs.iter().for_each(|pack| {
        if fs::metadata(pack).unwrap().len() > 1 << 20 {
            fs::remove_file(pack).unwrap();
        }
    });
    let drill = owner.run(&["verify", "--drill"]).exits(0).json();
    assert!(drill["files"].as_u64().is_some_and(|files| files > 40) && drill["failed"] == 0, "{drill}");
    assert!(drill["bytes_fetched"].as_u64() >= drill["bytes"].as_u64(), "{drill}");
    assert!(!owner.repo().join("drill").exists());
    assert_eq!(owner.status()["drill"]["proven"], drill["proven"]);
    for (pack, bytes) in packs.iter().zip(kept) {
        fs::write(pack, bytes).unwrap();
    }

    // Its disk is sound, the holder's is not: the drill tells, and when restoring was last proven stays known.
    holder.packs().iter().for_each(|pack| flip(pack));
    let failed = owner.run(&["verify", "--drill"]);
    assert_ne!(failed.code, 0);
    owner.run(&["verify"]).exits(0);
    assert_eq!(owner.status()["drill"]["proven"], drill["proven"]);
}

/// The holder's pull of that one ended the pull of all others, about once a minute, and nobody said why nothing moved.
#[test]
fn a_pack_that_its_owner_has_no_more_keeps_no_others_from_their_copies() {
    for is_gone in [true, false] {
        let mut owner = owner(1);
        let [mut holder] = holders(&owner);
        holder.terminate();
        let mut ids = Vec::new();
        for number in 0..4u64 {
            let source = owner.path(&format!("source {number}"));
            tree::plain(&source, 60 + number, 3, 200_000);
            let before = owner.packs();
            ids.push(owner.backup(&source));
            if number == 0 {
                let pack = owner.packs().into_iter().find(|pack| !before.contains(pack)).expect("a pack");
                if is_gone { fs::remove_file(pack).unwrap() } else { super::node::flip(&pack) }
            }
        }
        holder.start();
        connected(&owner, &holder);
        until("all that is sound has its copy", &[&owner, &holder], || {
            let all = owner.snapshots();
            let safe = all.iter().filter(|snapshot| snapshot["copies"] == 1).count();
            (safe == 3).then_some(())
        });
        until("it is said what keeps the other one", &[&owner], || {
            owner.status()["problems"].to_string().contains("damaged").then_some(())
        });
        owner.terminate();
    }
}
