//! Checks that go round, audits of holders, scrubs: damage is found where it is and mended.

use std::fs;

use super::mesh::{holders, owner};
use super::node::{Node, connected, flip, text, until};
use super::socket;
use super::tree::{self, assert_same};

#[test]
fn a_verification_names_the_files_it_hurts_and_its_report_stays() {
    let mut node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 12, 60_000);
    fs::write(source.join("hurt"), tree::noise(77, 900_000)).unwrap();
    node.backup(&source);
    let packs = node.packs();
    let largest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let sound = fs::read(largest).unwrap();
    fs::remove_file(largest).unwrap();
    let found = node.run(&["verify"]).exits(5).json();
    let snapshot = &found["snapshots"][0];
    let named = snapshot["damaged_files"].as_array().expect("files");
    assert_eq!(snapshot["damaged_files_total"].as_u64(), Some(named.len() as u64), "{snapshot}");
    let missing = snapshot["missing_chunks"].as_array().expect("chunks");
    for file in named {
        let path = file["path"].as_str().expect("a path");
        assert!(path.starts_with(text(&source)) && missing.contains(&file["chunk"]), "{file}");
    }
    assert!(named.iter().any(|file| file["path"] == text(&source.join("hurt"))), "{snapshot}");

    node.start();
    let report = socket::get(&node, "/api/v1/verify/report");
    assert_eq!(report["damaged_packs"], found["damaged_packs"], "{report}");
    assert!(!report["time"].as_str().expect("a time").is_empty(), "{report}");
    fs::write(largest, sound).unwrap();
    node.run(&["verify", "--quick"]).exits(0);
    let report = socket::get(&node, "/api/v1/verify/report");
    assert_eq!(report["health_percentage"], 100.0, "{report}");
}

#[test]
fn shares_go_on_where_the_last_one_stopped_and_find_what_is_in_them() {
    let node = Node::init();
    let source = node.path("source");
    for round in 0..4 {
        tree::plain(&source.join(round.to_string()), round, 3, 50_000);
        node.backup(&source);
    }
    let packs = node.packs();
    let checks = |part: &str| {
        let report = node.run(&["verify", "--subset", part]).exits(0).json();
        (report["packs_checked"].as_u64().expect("a count"), report["coverage"].clone())
    };
    let (mut checked, mut runs) = (0, 0);
    loop {
        let (count, coverage) = checks("30%");
        checked += count;
        runs += 1;
        if coverage["round_completed"].is_string() {
            assert_eq!(coverage["covered_percent"], 0.0, "{coverage}");
            break;
        }
        assert!(coverage["covered_percent"].as_f64().is_some_and(|part| part > 0.0), "{coverage}");
        assert!(runs < 10);
    }
    assert_eq!(checked, packs.len() as u64, "each pack once");
    let parts: u64 = (1..=3).map(|part| checks(&format!("{part}/3")).0).sum();
    assert_eq!(parts, packs.len() as u64);

    // Rot is found by the part that has the pack, a lost pack by each.
    // It holds data: trees are read by each, since they say what is needed.
    let pack = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let sound = fs::read(pack).unwrap();
    flip(pack);
    let codes: Vec<i32> =
        (1..=3).map(|part| node.run(&["verify", "--subset", &format!("{part}/3")]).code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 5).count(), 1, "{codes:?}");
    fs::remove_file(pack).unwrap();
    for part in ["1/3", "2/3", "3/3"] {
        node.run(&["verify", "--subset", part]).exits(5);
    }
    fs::write(pack, sound).unwrap();
    for arguments in [["--subset", "0%"], ["--subset", "4/3"], ["--subset", "many"]] {
        node.run(&[&["verify"][..], &arguments[..]].concat()).exits(2);
    }
    node.run(&["verify", "latest", "--subset", "5%"]).exits(2);
}

#[test]
fn a_scrub_mends_packs_of_others_without_a_key_and_tells_their_owner() {
    let owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 60_000);
    owner.replicate(&source);
    let pack = holder.packs().remove(0);
    let sound = fs::read(&pack).unwrap();
    flip(&pack);
    let report = holder.run(&["scrub", "--now"]).exits(0).json();
    assert_eq!(report["repair"]["repaired_packs"], 1, "{report}");
    assert!(report["repair"]["sources"].get(owner.peer_id()).is_some(), "{report}");
    assert_eq!(fs::read(&pack).unwrap(), sound);
    until("the owner hears of it", &[&owner, &holder], || {
        owner.log_text().contains("a holder found damage").then_some(())
    });
    let scrubbed = holder.status()["scrub"].clone();
    assert!(scrubbed["round_completed"].is_string(), "{scrubbed}");
    assert_eq!(owner.snapshots()[0]["copies"], 1);

    // What nobody has is told, remembered, and mended once somebody has it.
    let mine = owner.repo().join(pack.strip_prefix(holder.repo()).unwrap());
    fs::remove_file(&mine).unwrap();
    flip(&pack);
    holder.run(&["scrub", "--now"]).exits(5);
    until("the copy counts no more", &[&owner, &holder], || {
        (owner.snapshots()[0]["copies"] == 0).then_some(())
    });
    fs::write(&mine, &sound).unwrap();
    holder.kill();
    holder.start();
    connected(&owner, &holder);
    until("it is mended and confirmed again", &[&owner, &holder], || {
        (owner.snapshots()[0]["copies"] == 1).then_some(())
    });
    assert_eq!(fs::read(&pack).unwrap(), sound);
    holder.run(&["scrub", "--now"]).exits(0);
}

/// One holder loses a pack silently, one rots single bits, one keeps only files of the right length.
#[test]
fn audits_find_every_way_to_lose_packs_and_the_copies_are_complete_again() {
    let owner = owner(2);
    let holders: [Node; 4] = holders(&owner);
    let source = owner.path("source");
    for round in 0..6 {
        tree::plain(&source.join(round.to_string()), round, 3, 30_000);
        owner.replicate(&source);
    }
    let clean = owner.run(&["verify", "--peers"]).exits(0).json();
    let audits = clean["audits"].as_array().expect("audits");
    assert!(!audits.is_empty() && audits.iter().all(|audit| audit["ok"] == audit["slices"]), "{clean}");

    let mut hurt: Vec<&Node> = holders.iter().filter(|holder| !holder.packs().is_empty()).collect();
    hurt.truncate(3);
    let ways: [fn(&std::path::Path); 3] = [
        |pack| fs::remove_file(pack).unwrap(),
        |pack| flip(pack),
        |pack| {
            let length = fs::metadata(pack).unwrap().len();
            fs::write(pack, vec![0; usize::try_from(length).unwrap()]).unwrap();
        },
    ];
    for (holder, harm) in hurt.iter().zip(ways) {
        harm(&holder.packs()[0]);
    }
    let output = owner.run(&["verify", "--peers"]).exits(5);
    assert_eq!(output.failure()["code"], "STORAGE_CORRUPTED");
    let report = output.json();
    for holder in &hurt {
        let audits = report["audits"].as_array().expect("audits");
        let audit = audits.iter().find(|audit| audit["peer"] == holder.peer_id()).expect("it was asked");
        assert!(audit["wrong"].as_u64() > Some(0) && audit["packs_lost"] == 1, "{audit}");
        let known = owner.peer(&holder.peer_id()).expect("a peer");
        // What is confirmed again is asked for again, and the last audit is the one that is told.
        assert!(known["audit"]["lost_at"].is_string(), "{known}");
    }
    let all: Vec<&Node> = holders.iter().chain([&owner]).collect();
    until("the copies are complete again", &all, || {
        owner.snapshots().iter().all(|snapshot| snapshot["copies"] == 2).then_some(())
    });
    // What is confirmed now is there.
    owner.run(&["verify", "--peers"]).exits(0);
    owner.packs().iter().for_each(|pack| fs::remove_file(pack).unwrap());
    let target = owner.path("target");
    owner.run(&["restore", &format!("latest:{}", text(&source)), "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
}

#[test]
fn fellow_holders_tell_the_owner_what_one_of_them_lost() {
    let owner = owner(2);
    let holders: [Node; 2] = holders(&owner);
    super::node::pair(&holders[0], &holders[1]);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 60_000);
    owner.replicate(&source);
    for pack in holders[1].packs() {
        let length = fs::metadata(&pack).unwrap().len();
        fs::write(&pack, vec![0; usize::try_from(length).unwrap()]).unwrap();
    }
    holders[0].run(&["verify", "--peers"]).exits(0);
    until("the owner hears of it", &[&owner, &holders[0]], || {
        owner.log_text().contains("a fellow holder doubts").then_some(())
    });
    // It believes what it sees itself.
    let report = owner.run(&["verify", "--peers"]).exits(5).json();
    let lost: Vec<u64> = report["audits"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|audit| audit["packs_lost"].as_u64())
        .collect();
    assert_eq!(lost.iter().filter(|lost| **lost > 0).count(), 1, "{report}");
}

/// What happens to the largest pack, given all of them.
type Harm = fn(&std::path::Path, &[std::path::PathBuf]);

fn change(pack: &std::path::Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(pack).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::write(pack, bytes).unwrap();
}

/// Every way to harm a pack × what happens next: found or harmless, never wrong plaintext, healed with one good peer.
#[test]
fn whatever_happens_to_a_pack_one_good_peer_heals_it() {
    let owner = owner(1);
    let [_holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 60_000);
    owner.replicate(&source);
    let packs = owner.packs();
    assert!(packs.len() > 1);
    let largest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let sound: Vec<Vec<u8>> = packs.iter().map(|pack| fs::read(pack).unwrap()).collect();

    let harms: [(&str, Harm); 11] = [
        ("header", |pack, _| change(pack, |_| 5)),
        ("salt", |pack, _| change(pack, |_| 20)),
        ("payload", |pack, _| change(pack, |length| length / 3)),
        ("directory or padding", |pack, _| change(pack, |length| length - 200)),
        ("trailer", |pack, _| change(pack, |length| length - 1)),
        ("outboard", |pack, _| change(&pack.with_extension("cells"), |length| length / 2)),
        ("cut", |pack, _| {
            let bytes = fs::read(pack).unwrap();
            fs::write(pack, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("zeroed", |pack, _| fs::write(pack, vec![0; fs::read(pack).unwrap().len()]).unwrap()),
        ("exchanged", |pack, all| {
            let other = all.iter().find(|other| other.as_path() != pack).unwrap();
            let (mine, theirs) = (fs::read(pack).unwrap(), fs::read(other).unwrap());
            fs::write(pack, theirs).unwrap();
            fs::write(other, mine).unwrap();
        }),
        ("renamed", |pack, _| fs::rename(pack, pack.with_extension("moved")).unwrap()),
        ("lost with its outboard", |pack, _| {
            fs::remove_file(pack).unwrap();
            fs::remove_file(pack.with_extension("cells")).unwrap();
        }),
    ];
    let reference = format!("latest:{}", text(&source));
    for (name, harm) in harms {
        for next in ["verify --repair", "repair", "scrub --now", "restore", "backup"] {
            harm(largest, &packs);
            match next {
                "restore" => {
                    let target = owner.path(&format!("{name} target"));
                    owner.run(&["restore", &reference, "--target", text(&target)]).exits(0);
                    assert_same(&source, &target);
                }
                "backup" => drop(owner.backup(&source)),
                _ => drop(owner.run(&next.split(' ').collect::<Vec<_>>()).exits(0)),
            }
            // What was not needed is mended when it is looked for.
            owner.run(&["repair"]).exits(0);
            owner.run(&["verify"]).exits(0);
            for (pack, sound) in packs.iter().zip(&sound) {
                assert!(fs::read(pack).unwrap() == *sound, "{name}, then {next}: {}", pack.display());
            }
            let _ = fs::remove_file(largest.with_extension("moved"));
        }
    }
}

#[test]
fn a_drill_proves_phrase_and_holder_and_leaves_nothing() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 2, 10_000);
    owner.replicate(&source);
    let peers = |node: &Node| node.run(&["peers", "list"]).exits(0).json().as_array().map(Vec::len);
    let before = peers(&holder);
    let elsewhere = Node::bare();
    let drill = |phrase: &std::path::Path| {
        let arguments = ["recover", "--drill", "--peer", &holder.address(), "--phrase-file", text(phrase)];
        elsewhere.run(&arguments)
    };
    let proven = drill(&owner.phrase()).exits(0).json();
    let vault = owner.run(&["id"]).exits(0).json()["vault_id"].clone();
    assert_eq!((&proven["proved"], &proven["vault_id"]), (&true.into(), &vault), "{proven}");
    assert!(!elsewhere.repo().exists(), "no node is made");
    until("the holder lists nobody new", &[&holder], || (peers(&holder) == before).then_some(()));
    // The phrase of another vault proves nothing.
    let other = Node::init();
    assert_eq!(drill(&other.phrase()).exits(10).failure()["code"], "VAULT_NOT_FOUND");
}
