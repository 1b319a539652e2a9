//! What somebody does who is no member.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use shadowvault::base::random_bytes;
use shadowvault::wire::{self, door_request::Ask};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::field::Scene;
use super::line::{self, ACK, DATA, FIN, GO_AWAY, Line, PING, SYN, UPDATE, connect, frame};
use super::peer::{DOOR, FETCH, KAD, Raw, SYNC, ask_door};
use super::{Act, Behaviour, crowd};

/// Longer than the other side takes to cut somebody off.
const STAY: Duration = Duration::from_secs(20);

fn of(name: &'static str, act: fn(Arc<Scene>) -> Act) -> Behaviour {
    Behaviour { name, members: 0, act, meanwhile: |_, _, _| {} }
}

pub fn all() -> Vec<Behaviour> {
    vec![
        of("silent TCP connections, renewed", silent),
        of("bytes that are no handshake", |scene| send_first(scene, noise)),
        of("a length without end in the place of a protocol", |scene| send_first(scene, endless_length)),
        of("protocols asked for that nobody speaks", |scene| send_first(scene, unknown_protocols)),
        of("a Noise handshake of noise", |scene| send_first(scene, noise_of_noise)),
        of("handshakes, one key after the other", handshakes),
        of("strangers that stay and say nothing", quiet),
        of("streams that are filled and never read", unread),
        of("streams by the thousand", |scene| frames(scene, streams_by_the_thousand)),
        of("more than a window, on streams that are none", |scene| frames(scene, over_the_window)),
        of("pings without end", |scene| frames(scene, pings)),
        of("windows past their end", |scene| frames(scene, windows)),
        of("frames that are none", |scene| frames(scene, odd_frames)),
        of("knocks without end", knocks),
        of("tickets and proofs that are guessed", guesses),
        of("door requests too long, or of a million fields", weighty),
        of("door requests that drip", drips),
        of("what members speak, asked for by strangers", members_protocols),
        of("silent HTTP clients", silent_http),
    ]
}

// ---- Before anybody has said who it is ------------------------------------------------------------------------

fn silent(scene: Arc<Scene>) -> Act {
    Box::pin(crowd(96, move |_| {
        let scene = scene.clone();
        async move {
            let Ok(mut tcp) = connect(Raw::new().from, scene.at).await else { return };
            scene.did();
            let mut came = [0; 256];
            while tcp.read(&mut came).await.is_ok_and(|length| length > 0) {}
        }
    }))
}

fn noise() -> Vec<u8> {
    let seed = u64::from_le_bytes(random_bytes());
    super::super::tree::noise(seed, 200_000)
}

fn endless_length() -> Vec<u8> {
    vec![0xff; 100_000]
}

fn unknown_protocols() -> Vec<u8> {
    let mut bytes = line::line("/multistream/1.0.0");
    (0..5000).for_each(|n| bytes.extend(line::line(&format!("/evil/{n}"))));
    bytes
}

fn noise_of_noise() -> Vec<u8> {
    [line::line("/multistream/1.0.0"), line::line("/noise"), noise()].concat()
}

/// Sends bytes as soon as it is connected, half of the time cut off in the middle; reads until it is sent away.
fn send_first(scene: Arc<Scene>, make: fn() -> Vec<u8>) -> Act {
    Box::pin(crowd(16, move |_| {
        let scene = scene.clone();
        async move {
            let Ok(mut tcp) = connect(Raw::new().from, scene.at).await else { return };
            let mut bytes = make();
            let [chance] = random_bytes::<1>();
            if chance < 128 {
                bytes.truncate(usize::from(chance) + 1);
            }
            tcp.write_all(&bytes).await.ok();
            scene.did();
            let mut came = [0; 4096];
            let read = async { while tcp.read(&mut came).await.is_ok_and(|length| length > 0) {} };
            timeout(STAY, read).await.ok();
        }
    }))
}

fn handshakes(scene: Arc<Scene>) -> Act {
    Box::pin(crowd(8, move |_| {
        let scene = scene.clone();
        async move {
            if Raw::new().dial(scene.at).await.is_ok() {
                scene.did();
            }
        }
    }))
}

// ---- Connected ----------------------------------------------------------------------------------------------------

/// A stranger's connection, stayed on until it is cut off.
async fn stay(line: &Line) {
    let wait = async {
        while !line.has_ended() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(STAY, wait).await.ok();
}

fn quiet(scene: Arc<Scene>) -> Act {
    Box::pin(crowd(40, move |_| {
        let scene = scene.clone();
        async move {
            let Ok(line) = Raw::new().dial(scene.at).await else { return };
            scene.did();
            stay(&line).await;
        }
    }))
}

fn unread(scene: Arc<Scene>) -> Act {
    Box::pin(crowd(24, move |_| {
        let scene = scene.clone();
        async move {
            let Ok(line) = Raw::new().dial(scene.at).await else { return };
            line.turn_deaf();
            let mut open = Vec::new();
            for _ in 0..128 {
                let Ok(mut stream) = line.open().await else { break };
                let asks = [line::line("/multistream/1.0.0"), line::line(DOOR)].concat();
                let filled = async {
                    stream.send(&asks).await?;
                    stream.send(&vec![0; (256 << 10) - asks.len()]).await
                };
                timeout(Duration::from_secs(1), filled).await.ok();
                open.push(stream);
                scene.did();
            }
            stay(&line).await;
        }
    }))
}

/// Sends frames of its own making until it is cut off.
fn frames(scene: Arc<Scene>, make: fn(u32) -> Vec<u8>) -> Act {
    Box::pin(crowd(8, move |_| {
        let scene = scene.clone();
        async move {
            let Ok(line) = Raw::new().dial(scene.at).await else { return };
            for n in 0.. {
                if line.has_ended() || line.raw(make(n)).await.is_err() {
                    return;
                }
                scene.did();
            }
        }
    }))
}

fn streams_by_the_thousand(n: u32) -> Vec<u8> {
    (0..1000).flat_map(|m| frame(UPDATE, SYN, 2 * (1000 * n + m) + 1, 0)).collect()
}

fn over_the_window(n: u32) -> Vec<u8> {
    let flags = if n.is_multiple_of(40) { SYN } else { 0 };
    [frame(DATA, flags, 2 * (n / 40) + 1, 16 << 10), vec![0; 16 << 10]].concat()
}

fn pings(n: u32) -> Vec<u8> {
    (0..1000).flat_map(|m| frame(PING, SYN, 0, n.wrapping_mul(1000) + m)).collect()
}

fn windows(n: u32) -> Vec<u8> {
    let flags = if n == 0 { SYN } else { 0 };
    frame(UPDATE, flags, 1, u32::MAX)
}

fn odd_frames(n: u32) -> Vec<u8> {
    let [kind, flags] = random_bytes::<2>();
    match n % 4 {
        0 => frame(kind, u16::from(flags), n, u32::MAX),
        1 => frame(DATA, ACK | FIN, n, 0),
        2 => frame(GO_AWAY, 0, 0, n),
        _ => noise(),
    }
}

// ---- At the door ----------------------------------------------------------------------------------------------

/// Asks at the door, again and again, each from a host of its own.
fn at_the_door(scene: Arc<Scene>, make: fn(&Scene) -> Vec<u8>) -> Act {
    Box::pin(crowd(12, move |_| {
        let scene = scene.clone();
        async move {
            let Ok(line) = Raw::new().dial(scene.at).await else { return };
            for _ in 0..50 {
                let Ok(Ok(answer)) = timeout(STAY, line.ask(DOOR, &make(&scene))).await else { return };
                if let Ok(answer) = wire::DoorResponse::decode(answer.as_slice()) {
                    assert!(!answer.admitted, "a stranger was let in: {answer:?}");
                }
                scene.did();
            }
        }
    }))
}

fn knocks(scene: Arc<Scene>) -> Act {
    at_the_door(scene, |_| ask_door(Ask::Hello(wire::DoorHello { name: "evil".repeat(200) })))
}

fn guesses(scene: Arc<Scene>) -> Act {
    at_the_door(scene, |scene| {
        let [chance] = random_bytes::<1>();
        match chance % 3 {
            0 => ask_door(Ask::Redeem(wire::DoorRedeem {
                secret: random_bytes::<16>().to_vec(),
                name: String::new(),
            })),
            1 => ask_door(Ask::Challenge(wire::DoorChallenge {})),
            _ => ask_door(Ask::Proof(wire::DoorProof {
                vault: scene.vault.as_bytes().to_vec(),
                nonce: random_bytes::<32>().to_vec(),
                signature: random_bytes::<64>().to_vec(),
                ..wire::DoorProof::default()
            })),
        }
    })
}

fn weighty(scene: Arc<Scene>) -> Act {
    at_the_door(scene, |_| {
        let [chance] = random_bytes::<1>();
        if chance < 128 { vec![0x0a; 1 << 20] } else { [0x0a, 0].repeat(100_000) }
    })
}

fn drips(scene: Arc<Scene>) -> Act {
    Box::pin(crowd(24, move |_| {
        let scene = scene.clone();
        async move {
            let Ok(line) = Raw::new().dial(scene.at).await else { return };
            let Ok(mut stream) = line.speak(DOOR).await else { return };
            while stream.send(&[0x1a]).await.is_ok() && !line.has_ended() {
                scene.did();
                sleep(Duration::from_millis(200)).await;
            }
        }
    }))
}

fn members_protocols(scene: Arc<Scene>) -> Act {
    Box::pin(crowd(8, move |_| {
        let scene = scene.clone();
        async move {
            let Ok(line) = Raw::new().dial(scene.at).await else { return };
            for protocol in [SYNC, FETCH, KAD, "/ipfs/id/1.0.0", "/libp2p/circuit/relay/0.2.0/hop"] {
                let asked = timeout(STAY, line.ask(protocol, &[])).await;
                // It is cut off, or told that nobody speaks that.
                assert!(!matches!(asked, Ok(Ok(_))), "{protocol} is spoken with a stranger");
                scene.did();
            }
        }
    }))
}

fn silent_http(scene: Arc<Scene>) -> Act {
    Box::pin(crowd(800, move |n| {
        let scene = scene.clone();
        async move {
            let at = scene.http[n % scene.http.len()];
            let Ok(mut tcp) = connect(Raw::new().from, at).await else { return };
            if n % 3 == 0 {
                tcp.write_all(b"GET /health HTTP/1.1\r\nX-Slow: ").await.ok();
            }
            scene.did();
            let mut came = [0; 256];
            while tcp.read(&mut came).await.is_ok_and(|length| length > 0) {}
        }
    }))
}
