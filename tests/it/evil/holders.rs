//! What those do whom an owner trusts with its copies, and who means harm in the name of its own vault.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use shadowvault::base::{Clock, HeadId, Moment, PackId, SystemClock, limit, random_bytes};
use shadowvault::crypto::{DeviceKeys, Phrase};
use shadowvault::snapshot::sign_receipt;
use shadowvault::wire::{self, Status, sync_request::Ask, sync_response};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::tree::noise;
use super::field::{Field, Scene};
use super::owner::Owner;
use super::peer::{Answer, FETCH, Manner, Raw, SYNC, answers, ask_sync, says, silent};
use super::{Act, Behaviour, crowd};

const STAY: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

fn of(name: &'static str, members: usize, act: fn(Arc<Scene>) -> Act) -> Behaviour {
    Behaviour { name, members, act, meanwhile: |_, _, _| {} }
}

/// One whose lies are seen by whoever asks.
fn lie(name: &'static str, act: fn(Arc<Scene>) -> Act) -> Behaviour {
    Behaviour { name, members: 1, act, meanwhile: is_found_out }
}

/// The same, where it takes as long as an audit may take.
fn long_lie(name: &'static str, act: fn(Arc<Scene>) -> Act) -> Behaviour {
    let meanwhile = |field: &Field, scene: &Scene, fault: &mut dyn FnMut(String)| {
        if field.is_long() {
            is_found_out(field, scene, fault);
        }
    };
    Behaviour { name, members: 1, act, meanwhile }
}

pub fn all() -> Vec<Behaviour> {
    vec![
        lie("confirms all, and has nothing", |scene| confirms(scene, now, |_| status(Status::NotFound))),
        long_lie("confirms all, and is busy for ever", |scene| {
            confirms(scene, now, |_| status(Status::Busy))
        }),
        long_lie("confirms all, and refuses to show it", |scene| {
            confirms(scene, now, |_| status(Status::Refused))
        }),
        long_lie("confirms all, and shows noise", |scene| {
            confirms(scene, now, |_| Answer::Says(junk(70_000)))
        }),
        lie("confirms all, and shows other bytes", |scene| confirms(scene, now, other_bytes)),
        long_lie("confirms all, and breaks off", |scene| confirms(scene, now, |_| Answer::Breaks(junk(500)))),
        long_lie("confirms all, and says nothing more", |scene| confirms(scene, now, |_| Answer::Never)),
        of("confirms all, thirty years ahead", 1, |scene| {
            confirms(scene, far_ahead, |_| status(Status::Busy))
        }),
        of("confirms what it was never offered", 1, confirms_at_random),
        of("holders that answer nothing", 3, |scene| stays(scene, silent())),
        of("answers of megabytes, of a million fields, of noise", 2, |scene| stays(scene, Arc::new(odd))),
        of("answers that drip", 2, |scene| stays(scene, Arc::new(drips))),
        of("heads, holders and revocations that are made up", 2, |scene| stays(scene, Arc::new(made_up))),
        of("another place of its store each time", 2, |scene| stays(scene, Arc::new(moving))),
        of("says that all is lost, and others too", 2, all_is_lost),
        of("claims the victim's own addresses", 2, claims),
        Behaviour {
            name: "a device of the vault that signs forks and junk",
            members: 1,
            act: evil_device,
            meanwhile: own_snapshots_stay,
        },
    ]
}

fn now() -> Moment {
    SystemClock.now()
}

fn far_ahead() -> Moment {
    Moment::from_millis(now().as_millis() + 31 * 365 * 86_400_000)
}

fn junk(length: usize) -> Vec<u8> {
    noise(u64::from_le_bytes(random_bytes()), length)
}

fn status(status: Status) -> Answer {
    says(&wire::FetchResponse { status: status.into(), pack_length: 1 << 20, slices: Vec::new() })
}

fn other_bytes(request: &[u8]) -> Answer {
    let request = wire::FetchRequest::decode(request).unwrap_or_default();
    let slice = |range: &wire::Range| {
        let offset = range.offset / (64 << 10) * (64 << 10);
        wire::Slice { offset, data: junk(64 << 10).into(), proof: junk(3 * 32) }
    };
    let slices = request.ranges.iter().map(slice).collect();
    says(&wire::FetchResponse { status: Status::Ok.into(), pack_length: 1 << 20, slices })
}

// ---- Copies that are not there --------------------------------------------------------------------------------

/// Takes whatever it is offered, signs for it at once, and answers as it likes when it is to show it.
fn confirms(scene: Arc<Scene>, when: fn() -> Moment, shows: fn(&[u8]) -> Answer) -> Act {
    Box::pin(crowd(scene.members.len(), move |n| {
        let scene = scene.clone();
        async move {
            let raw = scene.members[n].clone();
            let (offered, mut offers) = mpsc::unbounded_channel();
            let manner = accepts(&scene, &raw, when, shows, offered);
            let mut tasks = JoinSet::new();
            let Ok(line) = raw.meet(scene.at, &manner, &mut tasks).await else { return };
            while let Ok(Some(offer)) = timeout(STAY, offers.recv()).await {
                let signed = sign(&scene, &raw, &offer, when());
                if timeout(STAY, line.ask(SYNC, &ask_sync(Ask::Receipt(signed)))).await.is_ok() {
                    scene.did();
                }
                if line.has_ended() {
                    return;
                }
            }
        }
    }))
}

fn sign(scene: &Scene, raw: &Raw, offer: &wire::Offer, when: Moment) -> wire::Signed {
    let head = offer.head.as_ref().and_then(|head| HeadId::try_from(head.id.as_slice()).ok());
    let packs: Vec<PackId> =
        offer.packs.iter().filter_map(|id| PackId::try_from(id.as_slice()).ok()).collect();
    sign_receipt(&raw.node, scene.vault, head, &packs, when)
}

fn accepts(
    scene: &Arc<Scene>,
    raw: &Raw,
    when: fn() -> Moment,
    shows: fn(&[u8]) -> Answer,
    offered: mpsc::UnboundedSender<wire::Offer>,
) -> Manner {
    let (scene, raw) = (scene.clone(), raw.clone());
    Arc::new(move |protocol, request| {
        if protocol == FETCH {
            return shows(request);
        }
        match wire::SyncRequest::decode(request).unwrap_or_default().ask {
            Some(Ask::Offer(offer)) => {
                let accepted = offer.packs.len() as u32;
                offered.send(offer).ok();
                answers(sync_response::Answer::Offer(wire::OfferAnswer { free_bytes: 1 << 40, accepted }))
            }
            Some(Ask::Receipts(query)) => {
                let head = (!query.head.is_empty())
                    .then_some(wire::HeadRef { id: query.head, ..Default::default() });
                let offer = wire::Offer { vault: query.vault, head, packs: query.packs };
                answers(sync_response::Answer::Receipt(sign(&scene, &raw, &offer, when())))
            }
            Some(Ask::Heads(_)) => answers(sync_response::Answer::Heads(wire::HeadList::default())),
            Some(Ask::Inventory(_)) => answers(sync_response::Answer::Inventory(wire::Inventory::default())),
            Some(Ask::Record(_) | Ask::Batch(_)) => {
                says(&wire::SyncResponse { status: Status::Busy.into(), answer: None })
            }
            _ => says(&wire::SyncResponse { status: Status::Ok.into(), answer: None }),
        }
    })
}

/// Nobody who asks is told that the liar's copies are copies.
fn is_found_out(field: &Field, scene: &Scene, fault: &mut dyn FnMut(String)) {
    let liar = scene.members[0].id.to_string();
    let stored = field.victim.peer(&liar).and_then(|peer| peer["packs_held"].as_u64()).unwrap_or(0);
    let told = field.victim.run(&["verify", "--peers"]);
    let known = field.victim.peer(&liar);
    if told.code == 0 && stored > 0 {
        fault(format!("nobody notices: {} {known:?}", told.stdout));
    }
}

fn confirms_at_random(scene: Arc<Scene>) -> Act {
    let manner: Manner =
        Arc::new(|_, _| says(&wire::SyncResponse { status: Status::Ok.into(), answer: None }));
    Box::pin(crowd(1, move |_| {
        let (scene, manner) = (scene.clone(), manner.clone());
        async move {
            let raw = &scene.members[0];
            let mut tasks = JoinSet::new();
            let Ok(line) = raw.meet(scene.at, &manner, &mut tasks).await else { return };
            while !line.has_ended() {
                let packs: Vec<PackId> = (0..4096).map(|_| PackId::new(random_bytes())).collect();
                let signed =
                    sign_receipt(&raw.node, scene.vault, Some(HeadId::new(random_bytes())), &packs, now());
                if timeout(STAY, line.ask(SYNC, &ask_sync(Ask::Receipt(signed)))).await.is_err() {
                    return;
                }
                scene.did();
            }
        }
    }))
}

// ---- Answers that are none -------------------------------------------------------------------------------------

/// Is there, and answers as it likes, until the end.
fn stays(scene: Arc<Scene>, manner: Manner) -> Act {
    Box::pin(crowd(scene.members.len(), move |n| {
        let (scene, manner) = (scene.clone(), manner.clone());
        async move {
            let counted: Manner = {
                let scene = scene.clone();
                Arc::new(move |protocol, request| {
                    scene.did();
                    manner(protocol, request)
                })
            };
            let mut tasks = JoinSet::new();
            let Ok(line) = scene.members[n].meet(scene.at, &counted, &mut tasks).await else { return };
            while !line.has_ended() {
                sleep(PAUSE).await;
            }
        }
    }))
}

fn odd(_: &str, _: &[u8]) -> Answer {
    match random_bytes::<1>()[0] % 4 {
        0 => Answer::Says(vec![0x12; 8 << 20]),
        1 => Answer::Says([0x12, 0].repeat(1_000_000)),
        2 => Answer::Says(junk(100_000)),
        _ => Answer::Says(Vec::new()),
    }
}

fn drips(_: &str, _: &[u8]) -> Answer {
    Answer::Drips(vec![0x12; 100_000], 16, Duration::from_millis(500))
}

fn made_up(_: &str, request: &[u8]) -> Answer {
    let Some(Ask::Heads(query)) = wire::SyncRequest::decode(request).unwrap_or_default().ask else {
        return says(&wire::SyncResponse { status: Status::NotFound.into(), answer: None });
    };
    let head = |n: u64| wire::HeadRef { device: noise(n % 300, 32), seq: u64::MAX - n, id: noise(n, 32) };
    let addresses = vec!["/ip4/127.0.0.1/tcp/22".to_owned(), "/dns4/localhost/tcp/1".to_owned()];
    let holder = |n: u64| wire::PeerAddress { peer: noise(n, 32), addresses: addresses.clone() };
    let last_good = Some(wire::HeadRef { device: noise(1, 32), seq: 0, id: Vec::new() });
    let revocation = wire::Revocation { version: 1, vault: query.vault, last_good, ..Default::default() };
    let forged = wire::Signed { body: revocation.encode_to_vec(), signature: junk(64) };
    answers(sync_response::Answer::Heads(wire::HeadList {
        heads: (0..limit::HEADS_TOLD_MAX as u64).map(head).collect(),
        holders: (0..256).map(holder).collect(),
        revocations: vec![forged; 256],
        twins: true,
        instance: query.instance,
        unreadable: Vec::new(),
    }))
}

fn moving(_: &str, request: &[u8]) -> Answer {
    match wire::SyncRequest::decode(request).unwrap_or_default().ask {
        Some(Ask::Inventory(_)) => {
            let runs = junk(16 * usize::from(random_bytes::<1>()[0]));
            let taken_in = u64::from_le_bytes(random_bytes());
            answers(sync_response::Answer::Inventory(wire::Inventory { runs, taken_in }))
        }
        _ => says(&wire::SyncResponse { status: Status::Unavailable.into(), answer: None }),
    }
}

fn all_is_lost(scene: Arc<Scene>) -> Act {
    let manner: Manner =
        Arc::new(|_, _| says(&wire::SyncResponse { status: Status::Ok.into(), answer: None }));
    Box::pin(crowd(scene.members.len(), move |n| {
        let (scene, manner) = (scene.clone(), manner.clone());
        async move {
            let mut tasks = JoinSet::new();
            let Ok(line) = scene.members[n].meet(scene.at, &manner, &mut tasks).await else { return };
            let packs: Vec<_> = scene.packs.iter().map(|(id, _)| id.as_bytes().to_vec()).collect();
            while !line.has_ended() {
                let notice = wire::DamageNotice {
                    vault: scene.vault.as_bytes().to_vec(),
                    packs: packs.clone(),
                    declined: packs.clone(),
                    mended: 7,
                    doubted_holder: scene.members[1 - n].id.as_bytes().to_vec(),
                    doubted: packs.clone(),
                    heads: vec![random_bytes::<32>().to_vec(); 256],
                    refused: 0,
                };
                if timeout(STAY, line.ask(SYNC, &ask_sync(Ask::Damage(notice)))).await.is_err() {
                    return;
                }
                scene.did();
            }
        }
    }))
}

fn claims(scene: Arc<Scene>) -> Act {
    let port = scene.at.port();
    let claimed = [
        format!("/ip4/127.0.0.1/tcp/{port}"),
        format!("/dns4/localhost/tcp/{port}"),
        format!("/ip6/::ffff:127.0.0.1/tcp/{port}"),
        format!("/ip4/0.0.0.0/tcp/{port}"),
        format!("/ip6/::1/tcp/{port}"),
        format!("/ip4/169.254.1.1/tcp/{port}"),
    ];
    Box::pin(crowd(scene.members.len(), move |n| {
        let scene = scene.clone();
        let raw = scene.members[n].clone().claiming(&claimed);
        async move {
            let mut tasks = JoinSet::new();
            let Ok(line) = raw.meet(scene.at, &silent(), &mut tasks).await else { return };
            scene.did();
            sleep(2 * PAUSE).await;
            drop(line);
        }
    }))
}

// ---- A device of the same vault --------------------------------------------------------------------------------

fn evil_device(scene: Arc<Scene>) -> Act {
    let phrase =
        scene.phrase.clone().and_then(|text| Phrase::parse(text.trim()).ok()).expect("the owner's phrase");
    let owner = Owner::of_vault(&scene.members[0], &phrase);
    let device = DeviceKeys::generate("evil");
    let (list, _) = owner.list(1, 2048, false);
    for seq in 1..64u64 {
        let draft = wire::Head {
            predecessor: noise(seq, 32),
            lists: vec![list.clone()],
            snapshots: (0..200).map(|n| noise(seq << 16 | n, 32)).collect(),
            inherited: (0..200).map(|n| noise(n, 32)).collect(),
            carried: Vec::new(),
            time_ms: u64::MAX,
            ..owner.draft(&device, u64::MAX - seq % 9)
        };
        let head = owner.sign(&device, u64::MAX - seq % 9, owner.raw.id, draft.encode_to_vec());
        owner.tell(head);
    }
    stays(scene, owner.gives())
}

/// Whatever another device signs, one's own snapshots are there and sound.
fn own_snapshots_stay(field: &Field, _: &Scene, fault: &mut dyn FnMut(String)) {
    let listed = field.victim.run(&["snapshots"]);
    if listed.code != 0 || listed.json().as_array().is_none_or(Vec::is_empty) {
        fault(format!("its snapshots are not listed: {listed:?}"));
    }
    let checked = field.victim.run(&["verify", "--quick"]);
    if checked.code != 0 {
        fault(format!("its own snapshots are not sound: {checked:?}"));
    }
}
