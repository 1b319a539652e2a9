//! What a member asks a holder, without pause or without sense.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use shadowvault::base::{Moment, PackId, VaultId, limit, random_bytes};
use shadowvault::crypto::{Context, sign};
use shadowvault::snapshot::{PeerRecordDraft, sign_peer_record, sign_receipt};
use shadowvault::wire::{self, RecordKind, sync_request::Ask};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::tree::noise;
use super::field::Scene;
use super::line::{Line, line as spoken};
use super::members::{PAUSE, STAY, ask, each, of};
use super::owner::Owner;
use super::peer::{FETCH, KAD, SYNC, ask_sync};
use super::{Act, Behaviour, field};

pub fn all() -> Vec<Behaviour> {
    vec![
        of("answers that are never read", 2, answers_never_read),
        of("the same records of peers again and again", 2, peer_records),
        of("receipts asked for, thousands of packs at a time", 2, receipt_questions),
        of("heads of a vault asked for without pause", 2, head_questions),
        of("batches of records asked for without pause", 2, batches),
        of("receipts for what nobody asked to be kept", 2, receipts),
        of("damage told of what others hold", 2, damage),
        of("releases, revocations and records signed by nobody", 2, forgeries),
        of("calls back asked for without pause", 2, calls),
        of("FIND_NODE without pause", 2, find_node),
        of("records of others put into the members' Kademlia", 4, foreign_records),
        of("requests of megabytes, of a million fields, of noise", 2, odd_requests),
        of("ranges past the end, none, and sixteen times the same", 2, odd_ranges),
        of("what is asked for and broken off", 2, broken_off),
        of("streams of members that are filled and never read", 12, filled),
    ]
}

/// Asks the same, eight at a time, until it is cut off.
async fn asks(scene: Arc<Scene>, line: Arc<Line>, protocol: &'static str, make: fn(&Scene) -> Vec<u8>) {
    let mut all = JoinSet::new();
    for _ in 0..8 {
        let (scene, line) = (scene.clone(), line.clone());
        all.spawn(async move {
            while !line.has_ended() {
                match timeout(STAY, line.ask(protocol, &make(&scene))).await {
                    Ok(Ok(_)) => scene.did(),
                    // Cut off for what it asks: that is what it came for.
                    Ok(Err(_)) => {
                        scene.did();
                        sleep(PAUSE).await;
                    }
                    Err(_) => return,
                }
            }
        });
    }
    while all.join_next().await.is_some() {}
}

fn repeats(scene: Arc<Scene>, protocol: &'static str, make: fn(&Scene) -> Vec<u8>) -> Act {
    match protocol {
        FETCH => each(scene, Owner::gives, move |scene, _, line| asks(scene, line, FETCH, make)),
        _ => each(scene, Owner::gives, move |scene, _, line| asks(scene, line, SYNC, make)),
    }
}

// ---- Without pause --------------------------------------------------------------------------------------------------

fn first_range(scene: &Scene) -> Vec<u8> {
    let (pack, length) = scene.packs[0];
    let ranges = vec![wire::Range { offset: 0, length: length.min(1 << 20) }];
    wire::FetchRequest { pack: pack.as_bytes().to_vec(), ranges }.encode_to_vec()
}

fn answers_never_read(scene: Arc<Scene>) -> Act {
    each(scene, Owner::gives, |scene, _, line| async move {
        line.turn_deaf();
        // A deaf one hears no answer to what it wants to speak: it speaks on.
        let mut open = Vec::new();
        let asks = [spoken("/multistream/1.0.0"), spoken(FETCH), first_range(&scene)].concat();
        for _ in 0..100 {
            let Ok(mut stream) = line.open().await else { return };
            if stream.send(&asks).await.is_err() || stream.finish().await.is_err() {
                return;
            }
            scene.did();
            open.push(stream);
        }
        while !line.has_ended() {
            sleep(PAUSE).await;
        }
    })
}

fn peer_records(scene: Arc<Scene>) -> Act {
    each(scene, Owner::gives, |scene, owner, line| async move {
        let signed = (0..limit::PEER_RECORDS_MAX as u64).map(|n| {
            let draft = PeerRecordDraft {
                removes: n % 2 == 0,
                peer: scene.members[0].id,
                name: "evil".to_owned(),
                addresses: vec!["/ip4/10.0.0.1/tcp/9000".to_owned()],
                time: Moment::from_millis(n),
            };
            sign_peer_record(owner.admin(), &draft)
        });
        let records = wire::PeerRecords { records: signed.collect(), ..Default::default() };
        let request = ask_sync(Ask::Records(records));
        while !line.has_ended() && ask(&line, &request).await.is_some() {
            scene.did();
        }
    })
}

fn receipt_questions(scene: Arc<Scene>) -> Act {
    repeats(scene, SYNC, |scene| {
        let packs = (0..4096).map(|_| random_bytes::<32>().to_vec()).collect();
        let vault = scene.vault.as_bytes().to_vec();
        ask_sync(Ask::Receipts(wire::ReceiptQuery { vault, packs, ..Default::default() }))
    })
}

fn head_questions(scene: Arc<Scene>) -> Act {
    repeats(scene, SYNC, |scene| {
        let [chance] = random_bytes::<1>();
        let vault = if chance < 128 { scene.vault } else { VaultId::new(random_bytes()) };
        let at_ms = if chance % 2 == 0 { 0 } else { u64::MAX };
        let vault = vault.as_bytes().to_vec();
        ask_sync(Ask::Heads(wire::HeadQuery { vault, at_ms, instance: u64::from(chance) }))
    })
}

fn batches(scene: Arc<Scene>) -> Act {
    repeats(scene, SYNC, |scene| {
        let kind = [RecordKind::RecordHead, RecordKind::RecordList, RecordKind::RecordSnapshot];
        let kind = kind[usize::from(random_bytes::<1>()[0] % 3)].into();
        let ids = (0..256).map(|_| random_bytes::<32>().to_vec()).collect();
        let vault = scene.vault.as_bytes().to_vec();
        ask_sync(Ask::Batch(wire::RecordsQuery { vault, kind, ids }))
    })
}

fn receipts(scene: Arc<Scene>) -> Act {
    repeats(scene, SYNC, |scene| {
        let packs: Vec<_> = (0..4096).map(|_| PackId::new(random_bytes())).collect();
        let time = Moment::from_millis(u64::from_le_bytes(random_bytes()) >> 20);
        let node = &scene.members[0].node;
        ask_sync(Ask::Receipt(sign_receipt(node, scene.vault, None, &packs, time)))
    })
}

fn damage(scene: Arc<Scene>) -> Act {
    repeats(scene, SYNC, |scene| {
        let packs: Vec<_> = scene.packs.iter().map(|(id, _)| id.as_bytes().to_vec()).collect();
        ask_sync(Ask::Damage(wire::DamageNotice {
            vault: scene.vault.as_bytes().to_vec(),
            packs: packs.clone(),
            declined: packs.clone(),
            mended: u32::MAX,
            doubted_holder: scene.victim.as_bytes().to_vec(),
            doubted: packs,
            heads: (0..256).map(|_| random_bytes::<32>().to_vec()).collect(),
            refused: 0,
        }))
    })
}

fn forgeries(scene: Arc<Scene>) -> Act {
    repeats(scene, SYNC, |scene| {
        let vault = scene.vault.as_bytes().to_vec();
        let forged = |body: Vec<u8>| wire::Signed { body, signature: random_bytes::<64>().to_vec() };
        let last_good = Some(wire::HeadRef { device: vec![1; 32], seq: 0, id: Vec::new() });
        let revocation =
            wire::Revocation { version: 1, vault: vault.clone(), last_good, ..Default::default() };
        let heads = vec![wire::HeadRef { device: vec![1; 32], seq: u64::MAX, id: vec![1; 32] }; 256];
        let release = wire::HoldRelease { version: 1, vault: vault.clone(), holder: Vec::new(), heads };
        let record = wire::PeerRecord { version: 1, admin: vault, action: 2, ..Default::default() };
        match random_bytes::<1>()[0] % 2 {
            0 => ask_sync(Ask::Release(forged(release.encode_to_vec()))),
            _ => ask_sync(Ask::Records(wire::PeerRecords {
                records: vec![forged(record.encode_to_vec()); 256],
                revocations: vec![forged(revocation.encode_to_vec()); 256],
            })),
        }
    })
}

fn calls(scene: Arc<Scene>) -> Act {
    repeats(scene, SYNC, |scene| {
        let own = format!("/ip4/127.0.0.1/tcp/{}", scene.at.port());
        let addresses = vec![own, "/dns4/localhost/tcp/1".to_owned(), "/ip4/10.0.0.1/tcp/22".to_owned()];
        ask_sync(Ask::CallBack(wire::CallBack { addresses }))
    })
}

fn odd_requests(scene: Arc<Scene>) -> Act {
    repeats(scene, SYNC, |_| match random_bytes::<1>()[0] % 4 {
        0 => vec![0x1a; 4 << 20],
        1 => [0x1a, 0].repeat(200_000),
        2 => noise(u64::from_le_bytes(random_bytes()), 5000),
        _ => {
            let mut deep = Vec::new();
            for _ in 0..2000 {
                let inner = std::mem::take(&mut deep);
                field(3, &inner, &mut deep);
            }
            deep
        }
    })
}

fn odd_ranges(scene: Arc<Scene>) -> Act {
    repeats(scene, FETCH, |scene| {
        let (pack, length) = scene.packs[0];
        let range = |offset, length| wire::Range { offset, length };
        let ranges = match random_bytes::<1>()[0] % 5 {
            0 => vec![range(u64::MAX, u64::MAX)],
            1 => vec![],
            2 => vec![range(0, 1); 16],
            3 => vec![range(0, length); 2000],
            _ => vec![range(length - 1, u64::MAX)],
        };
        wire::FetchRequest { pack: pack.as_bytes().to_vec(), ranges }.encode_to_vec()
    })
}

fn broken_off(scene: Arc<Scene>) -> Act {
    each(scene, Owner::gives, |scene, _, line| async move {
        while !line.has_ended() {
            for cut in [false, true] {
                let Ok(mut stream) = line.speak(FETCH).await else { return };
                let request = first_range(&scene);
                let request = if cut { &request[..request.len() / 2] } else { &request };
                if stream.send(request).await.is_err() {
                    return;
                }
                if !cut {
                    stream.finish().await.ok();
                }
                stream.reset().await.ok();
                scene.did();
            }
        }
    })
}

/// Streams that bring all that they may, behind a request that is not whole.
fn filled(scene: Arc<Scene>) -> Act {
    each(scene, Owner::gives, move |scene, _, line| async move {
        line.turn_deaf();
        let mut open = Vec::new();
        for _ in 0..100 {
            let Ok(mut stream) = line.open().await else { break };
            let asks = [spoken("/multistream/1.0.0"), spoken(KAD)].concat();
            let filled = async {
                stream.send(&asks).await?;
                stream.send(&vec![0; (256 << 10) - asks.len()]).await
            };
            timeout(Duration::from_secs(1), filled).await.ok();
            open.push(stream);
            scene.did();
        }
        timeout(STAY, async {
            while !line.has_ended() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .ok();
    })
}

// ---- Kademlia ---------------------------------------------------------------------------------------------------

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(message.len() as u64, &mut bytes);
    bytes.extend_from_slice(message);
    bytes
}

/// A message of Kademlia: its kind, the key, and a record if there is one.
fn kad(kind: u64, key: &[u8], record: Option<&[u8]>) -> Vec<u8> {
    let mut message = Vec::new();
    prost::encoding::encode_key(1, prost::encoding::WireType::Varint, &mut message);
    prost::encoding::encode_varint(kind, &mut message);
    field(2, key, &mut message);
    if let Some(value) = record {
        let mut inner = Vec::new();
        field(1, key, &mut inner);
        field(2, value, &mut inner);
        field(3, &inner, &mut message);
    }
    framed(&message)
}

fn speaks_kad(scene: Arc<Scene>, make: fn(&Scene, &Owner) -> Vec<u8>) -> Act {
    each(scene, Owner::gives, move |scene, owner, line| async move {
        while !line.has_ended() {
            let Ok(mut stream) = line.speak(KAD).await else { return };
            for _ in 0..200 {
                if stream.send(&make(&scene, &owner)).await.is_err() {
                    break;
                }
                scene.did();
            }
            stream.finish().await.ok();
            timeout(Duration::from_secs(2), stream.read_to_end()).await.ok();
        }
    })
}

fn find_node(scene: Arc<Scene>) -> Act {
    speaks_kad(scene, |_, _| kad(4, &random_bytes::<32>(), None))
}

fn foreign_records(scene: Arc<Scene>) -> Act {
    speaks_kad(scene, |scene, owner| {
        let peer = scene.members[0].id.as_bytes().to_vec();
        let said = wire::Whereabouts {
            version: 1,
            peer: peer.clone(),
            seq: u64::MAX,
            addresses: vec![format!("/ip4/127.0.0.1/tcp/{}", scene.at.port())],
        };
        let context = Context::Whereabouts;
        let signed = sign(&*owner.raw.node, context, said.encode_to_vec());
        match random_bytes::<1>()[0] % 3 {
            0 => kad(0, &peer, Some(&signed.encode_to_vec())),
            1 => kad(0, &random_bytes::<32>(), Some(&[7; 2048])),
            _ => kad(1, &random_bytes::<32>(), None),
        }
    })
}
