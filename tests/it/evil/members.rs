//! What a member does to a node that holds packs for it and for others.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use shadowvault::base::{limit, random_bytes};
use shadowvault::crypto::{DeviceKeys, Phrase};
use shadowvault::wire::{self, sync_request::Ask};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::tree::noise;
use super::field::Scene;
use super::line::Line;
use super::owner::{Made, Owner, offer};
use super::peer::{Answer, FETCH, Manner, SYNC, ask_sync, silent};
use super::{Act, Behaviour, crowd};

pub const STAY: Duration = Duration::from_secs(20);
pub const PAUSE: Duration = Duration::from_millis(20);

pub fn of(name: &'static str, members: usize, act: fn(Arc<Scene>) -> Act) -> Behaviour {
    Behaviour { name, members, act, meanwhile: |_, _, _| {} }
}

pub fn all() -> Vec<Behaviour> {
    vec![
        of("a head that names one list fifty thousand times", 1, one_list_again_and_again),
        of("a head of a million empty messages", 1, empty_messages),
        of("a vault of a hundred devices with heads of half a megabyte", 1, many_devices),
        of("numbers at their ends", 1, numbers_at_their_ends),
        of("a chain of a thousand branches", 1, branches),
        of("a head with eight thousand lists that never come", 1, lists_that_never_come),
        of("vaults whose records never come", 2, records_that_never_come),
        of("packs that come by drips", 2, packs_by_drips),
        of("packs that are not what they are called", 1, wrong_packs),
        of("a thousand empty vaults", 1, empty_vaults),
        of("packs that no head lists", 1, unlisted_packs),
    ]
}

/// Meets the victim again whenever it is cut off, and does that; each member for itself.
pub fn each<F, Fut>(scene: Arc<Scene>, manner: fn(&Owner) -> Manner, act: F) -> Act
where
    F: Fn(Arc<Scene>, Owner, Arc<Line>) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let owners: Vec<Owner> = scene.members.iter().map(Owner::new).collect();
    owners.iter().for_each(|owner| scene.leaves_no(format!("hold-{}", owner.vault())));
    Box::pin(crowd(owners.len(), move |n| {
        let (scene, act, owner) = (scene.clone(), act.clone(), owners[n].clone());
        async move {
            let mut tasks = JoinSet::new();
            let manner = manner(&owner);
            let Ok(line) = owner.raw.meet(scene.at, &manner, &mut tasks).await else { return };
            act(scene, owner, Arc::new(line)).await;
        }
    }))
}

pub async fn ask(line: &Line, request: &[u8]) -> Option<wire::SyncResponse> {
    let answer = timeout(STAY, line.ask(SYNC, request)).await.ok()?.ok()?;
    wire::SyncResponse::decode(answer.as_slice()).ok()
}

/// Offers heads, and stays to give them.
async fn offers(scene: &Scene, owner: &Owner, line: &Line, made: &[Made]) {
    for made in made.iter().cycle() {
        if line.has_ended() {
            return;
        }
        if ask(line, &owner.offer(made)).await.is_some() {
            scene.did();
        }
        sleep(PAUSE).await;
    }
}

// ---- Heads ------------------------------------------------------------------------------------------------------

/// Offers heads made by hand.
fn offers_head(scene: Arc<Scene>, make: fn(&Owner, &DeviceKeys) -> Vec<Made>) -> Act {
    each(scene, Owner::gives, move |scene, owner, line| async move {
        let made = make(&owner, &DeviceKeys::generate("evil"));
        offers(&scene, &owner, &line, &made).await;
    })
}

/// Heads that no holder takes.
fn offers_refused(scene: Arc<Scene>, make: fn(&Owner, &DeviceKeys) -> Vec<Made>) -> Act {
    each(scene, Owner::gives, move |scene, owner, line| async move {
        scene.leaves_no(owner.vault());
        let made = make(&owner, &DeviceKeys::generate("evil"));
        offers(&scene, &owner, &line, &made).await;
    })
}

fn one_list_again_and_again(scene: Arc<Scene>) -> Act {
    offers_refused(scene, |owner, device| {
        let (list, packs) = owner.list(1, 4096, false);
        let draft = wire::Head { lists: vec![list; 50_000], ..owner.draft(device, 1) };
        let head = owner.sign(device, 1, owner.raw.id, draft.encode_to_vec());
        vec![Made { head, packs }]
    })
}

fn empty_messages(scene: Arc<Scene>) -> Act {
    offers_refused(scene, |owner, device| {
        let made = |tag: u8, seq: u64| {
            let mut body = owner.draft(device, seq).encode_to_vec();
            body.extend([tag << 3 | 2, 0].repeat(1_000_000));
            Made { head: owner.sign(device, seq, owner.raw.id, body), packs: vec![vec![1; 32]] }
        };
        [6, 8, 10, 15].iter().enumerate().map(|(n, tag)| made(*tag, n as u64 + 1)).collect()
    })
}

fn many_devices(scene: Arc<Scene>) -> Act {
    each(scene, Owner::gives, |scene, owner, line| async move {
        let mut made = Vec::new();
        for n in 0..100u64 {
            let device = DeviceKeys::generate("evil");
            let snapshots = (0..16_000u64).map(|m| noise(n << 32 | m, 32)).collect();
            let draft = wire::Head { snapshots, ..owner.draft(&device, 1) };
            let head = owner.sign(&device, 1, owner.raw.id, draft.encode_to_vec());
            made.push(Made { head, packs: vec![vec![1; 32]] });
            if line.has_ended() || ask(&line, &owner.offer(&made[made.len() - 1])).await.is_none() {
                return;
            }
            scene.did();
        }
        let vault = owner.vault().as_bytes().to_vec();
        let question = ask_sync(Ask::Heads(wire::HeadQuery { vault, ..Default::default() }));
        while ask(&line, &question).await.is_some() {
            scene.did();
        }
    })
}

fn numbers_at_their_ends(scene: Arc<Scene>) -> Act {
    offers_head(scene, |owner, device| {
        let (list, packs) = owner.list(1, 4, true);
        let made = |seq: u64| {
            let far = wire::ListRef { packs: u32::MAX, bytes: u64::MAX, ..list.clone() };
            let supersedes = vec![wire::HeadName { seq: seq.wrapping_sub(1), id: vec![8; 32] }];
            let draft = wire::Head {
                predecessor: vec![7; 32],
                lists: vec![far],
                copies: u32::MAX,
                time_ms: u64::MAX,
                epoch: u32::MAX,
                supersedes,
                ..owner.draft(device, seq)
            };
            Made { head: owner.sign(device, seq, owner.raw.id, draft.encode_to_vec()), packs: packs.clone() }
        };
        [u64::MAX, u64::MAX - 1, 1 << 63, u64::from(u32::MAX), 2, 1, 0].into_iter().map(made).collect()
    })
}

fn branches(scene: Arc<Scene>) -> Act {
    offers_head(scene, |owner, device| {
        let (list, packs) = owner.list(1, 2, true);
        let made = |seq: u64| {
            let lists = vec![list.clone()];
            let predecessor = noise(seq, 32);
            let draft = wire::Head { lists, predecessor, ..owner.draft(device, 2 + seq % 7) };
            let head = owner.sign(device, 2 + seq % 7, owner.raw.id, draft.encode_to_vec());
            Made { head, packs: packs.clone() }
        };
        (0..1000).map(made).collect()
    })
}

fn lists_that_never_come(scene: Arc<Scene>) -> Act {
    offers_refused(scene, |owner, device| {
        let list = |n: u64| wire::ListRef { id: noise(n, 32), packs: 4096, bytes: 1 << 29 };
        let lists = (0..limit::HEAD_LISTS_MAX as u64).map(list).collect();
        let draft = wire::Head { lists, ..owner.draft(device, 1) };
        let head = owner.sign(device, 1, owner.raw.id, draft.encode_to_vec());
        vec![Made { head, packs: vec![vec![1; 32]] }]
    })
}

// ---- Held back --------------------------------------------------------------------------------------------------

fn records_that_never_come(scene: Arc<Scene>) -> Act {
    each(
        scene,
        |_| silent(),
        |scene, _, line| async move {
            for n in 0.. {
                let id = vec![n % 16; 32];
                scene.leaves_no(hex::encode(&id));
                let head = wire::HeadRef { device: id.clone(), seq: 1, id: id.clone() };
                if line.has_ended() || ask(&line, &offer(id.clone(), head, vec![id; 4])).await.is_none() {
                    return;
                }
                scene.did();
                sleep(PAUSE).await;
            }
        },
    )
}

fn packs_by_drips(scene: Arc<Scene>) -> Act {
    let drips = |owner: &Owner| -> Manner {
        let gives = owner.gives();
        Arc::new(move |protocol, request| match gives(protocol, request) {
            Answer::Says(bytes) if protocol == FETCH => Answer::Drips(bytes, 64, Duration::from_secs(1)),
            other => other,
        })
    };
    each(scene, drips, |scene, owner, line| async move {
        let made = owner.honest(&DeviceKeys::generate("evil"), 1, owner.raw.id, 16);
        offers(&scene, &owner, &line, &[made]).await;
    })
}

fn wrong_packs(scene: Arc<Scene>) -> Act {
    let lies = |owner: &Owner| -> Manner {
        let gives = owner.gives();
        Arc::new(move |protocol, request| match gives(protocol, request) {
            Answer::Says(mut bytes) if protocol == FETCH => {
                let at = usize::from(random_bytes::<1>()[0]) * bytes.len() / 256;
                bytes[at] ^= 0x20;
                Answer::Says(bytes)
            }
            other => other,
        })
    };
    each(scene, lies, |scene, owner, line| async move {
        let made = owner.honest(&DeviceKeys::generate("evil"), 1, owner.raw.id, 16);
        made.packs.iter().for_each(|pack| scene.leaves_no(hex::encode(pack)));
        offers(&scene, &owner, &line, &[made]).await;
    })
}

fn empty_vaults(scene: Arc<Scene>) -> Act {
    each(scene, Owner::gives, |scene, owner, line| async move {
        for n in 0..2000u64 {
            let vault = Owner::of_vault(&owner.raw, &Phrase::generate());
            let device = DeviceKeys::generate("evil");
            let body = vault.draft(&device, 1).encode_to_vec();
            let head = vault.sign(&device, 1, owner.raw.id, body);
            let request = offer(vault.vault().as_bytes().to_vec(), head, Vec::new());
            scene.leaves_no(vault.vault());
            if line.has_ended() || ask(&line, &request).await.is_none() {
                return;
            }
            scene.did();
            if n % 16 == 0 {
                sleep(PAUSE).await;
            }
        }
    })
}

fn unlisted_packs(scene: Arc<Scene>) -> Act {
    each(scene, Owner::gives, |scene, owner, line| async move {
        let device = DeviceKeys::generate("evil");
        let mut made = owner.honest(&device, 1, owner.raw.id, 1);
        let (_, packs) = owner.list(9, 32, true);
        packs.iter().for_each(|pack| scene.leaves_no(hex::encode(pack)));
        made.packs = packs;
        made.packs.extend((0..4000).map(|_| random_bytes::<32>().to_vec()));
        offers(&scene, &owner, &line, &[made]).await;
    })
}
