//! Packs from the network, for the engine: blocking on the outside, several requests in flight inside.
//!
//! [`Gathering`] says whom to ask for what; here it is asked. What was learnt of members on the way (who had nothing, who
//! was late) says whom to ask for the next pack.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::runtime::Handle;

use super::core::Core;
use crate::base::{PackId, PeerId, limit};
use crate::engine::{Errand, FetchFailure, Gathering, PackSource, PulledSlice, Sources};
use crate::net::{Net, NetError};
use crate::pack::CellRange;
use crate::policy::Stride;
use crate::wire::{self, Status};

/// What pulling taught of members. Lost at the end of the program.
#[derive(Default)]
pub(super) struct Pulling {
    peers: Mutex<HashMap<PeerId, Learnt>>,
}

#[derive(Default)]
struct Learnt {
    /// Packs in a row that it did not have, and since when.
    misses: u32,
    missed: Option<Instant>,
    /// When another holder overtook it.
    late: Option<Instant>,
    /// When it could not be reached.
    absent: Option<Instant>,
    /// How much it is asked for at one time.
    stride: Option<Stride>,
}

impl Pulling {
    fn edit(&self, peer: PeerId, edit: impl FnOnce(&mut Learnt)) {
        edit(self.peers.lock().expect("no panic while held").entry(peer).or_default());
    }

    fn note(&self, peer: PeerId, answer: &Result<PulledSlice, FetchFailure>) {
        match answer {
            Ok(_) => self.edit(peer, |learnt| (learnt.misses, learnt.missed) = (0, None)),
            Err(FetchFailure::NotFound) => {
                self.edit(peer, |learnt| {
                    (learnt.misses, learnt.missed) = (learnt.misses + 1, Some(Instant::now()))
                });
            }
            Err(FetchFailure::Offline(_)) => self.edit(peer, |learnt| learnt.absent = Some(Instant::now())),
            Err(_) => {}
        }
    }

    /// Whether it could not be reached a moment ago: each pack would wait for another dial.
    fn is_absent(&self, peer: &PeerId) -> bool {
        let peers = self.peers.lock().expect("no panic while held");
        let absent = peers.get(peer).and_then(|learnt| learnt.absent);
        absent.is_some_and(|when| when.elapsed() < limit::ABSENT_HOLDER_PAUSE)
    }

    /// Whether it may be asked for a pack without reason to believe that it has it.
    fn is_worth_a_guess(&self, peer: &PeerId) -> bool {
        let peers = self.peers.lock().expect("no panic while held");
        peers.get(peer).is_none_or(|learnt| {
            let long_ago = learnt.missed.is_none_or(|missed| missed.elapsed() > limit::GUESS_PAUSE);
            learnt.misses < limit::GUESSES_MAX || long_ago
        })
    }

    fn is_late(&self, peer: &PeerId) -> bool {
        let peers = self.peers.lock().expect("no panic while held");
        let late = peers.get(peer).and_then(|learnt| learnt.late);
        late.is_some_and(|when| when.elapsed() < limit::LATE_HOLDER_PAUSE)
    }

    /// How much some members are best asked for at one time.
    fn strides(&self, of: &[&PeerId]) -> BTreeMap<PeerId, Stride> {
        let peers = self.peers.lock().expect("no panic while held");
        of.iter().filter_map(|peer| Some((**peer, peers.get(peer)?.stride?))).collect()
    }

    /// A member that went has nothing to do with the one that comes back.
    pub(super) fn forget(&self, peer: &PeerId) {
        self.peers.lock().expect("no panic while held").remove(peer);
    }
}

/// Pulls from members. Use it from blocking threads only.
pub(super) struct Mesh {
    core: Arc<Core>,
    net: Net,
    runtime: Handle,
    /// Has what is pulled: it offered it.
    owner: Option<PeerId>,
}

impl Mesh {
    /// A source over the node's network; `owner` is sure to have what is pulled.
    ///
    /// Must be made on a thread of the runtime.
    pub(super) fn new(core: Arc<Core>, net: Net, owner: Option<PeerId>) -> Self {
        Self { core, net, runtime: Handle::current(), owner }
    }
}

impl PackSource for Mesh {
    fn sources(&self, pack: PackId) -> Sources {
        let receipted = self.core.store.holders_of(pack).unwrap_or_default();
        let connected = self.core.connected();
        let usable = |peer: &PeerId| self.core.members.allows(peer) && !self.core.is_distrusted(*peer);
        let known = self.owner.iter().chain(receipted.iter().filter(|peer| connected.contains(peer)));
        let (late, sure): (Vec<PeerId>, Vec<PeerId>) =
            known.copied().filter(usable).partition(|peer| self.core.pulling.is_late(peer));
        // Who knows the holders need not guess.
        let is_guess =
            |peer: &&PeerId| receipted.is_empty() && usable(peer) && self.core.pulling.is_worth_a_guess(peer);
        let maybe: Vec<PeerId> = connected.iter().filter(is_guess).copied().collect();
        // Those that are not connected right now may still answer a dial; those that sent wrong bytes come last.
        let absent = |peer: &PeerId| !connected.contains(peer) && self.core.pulling.is_absent(peer);
        let receipted = receipted.into_iter().filter(|peer| !absent(peer));
        let mut rest: Vec<PeerId> =
            late.into_iter().chain(connected.iter().copied()).chain(receipted).collect();
        rest.retain(|peer| self.core.members.allows(peer));
        rest.sort_by_key(|peer| self.core.is_distrusted(*peer));
        let strides = self.core.pulling.strides(&sure.iter().chain(&maybe).chain(&rest).collect::<Vec<_>>());
        Sources { sure, maybe, rest, strides }
    }

    fn gather(&self, pack: PackId, gathering: &mut Gathering<'_>) {
        let began = Instant::now();
        self.runtime.block_on(async {
            let mut flights = FuturesUnordered::new();
            loop {
                while let Some(errand) = gathering.next(began.elapsed()) {
                    flights.push(fly(self.net.clone(), pack, errand));
                }
                if gathering.is_over() || self.core.stop.is_cancelled() {
                    break;
                }
                let wake = gathering.wake(began.elapsed());
                tokio::select! {
                    Some((errand, answer)) = flights.next() => {
                        self.core.pulling.note(errand.holder, &answer);
                        if let Ok(slice) = &answer {
                            self.core.holding.give(errand.holder, slice.data.len() as u64);
                        }
                        gathering.answered(began.elapsed(), errand, answer);
                    }
                    () = tokio::time::sleep(wake) => {}
                }
            }
        });
        for (peer, stride) in gathering.strides() {
            self.core.pulling.edit(peer, |learnt| learnt.stride = Some(stride));
        }
        for peer in gathering.misbehaved() {
            self.core.blame(*peer);
        }
        for peer in gathering.late() {
            self.core.pulling.edit(*peer, |learnt| learnt.late = Some(Instant::now()));
        }
    }
}

async fn fly(net: Net, pack: PackId, errand: Errand) -> (Errand, Result<PulledSlice, FetchFailure>) {
    let answer = ask_once(&net, errand.holder, pack, errand.range).await;
    (errand, answer)
}

/// Asks one peer for one range; a busy one again and again within that time.
pub(super) async fn ask(
    net: &Net,
    holder: PeerId,
    pack: PackId,
    range: CellRange,
    within: Duration,
) -> Result<PulledSlice, FetchFailure> {
    let (began, mut pause) = (Instant::now(), limit::BUSY_PAUSE);
    loop {
        match ask_once(net, holder, pack, range).await {
            Err(FetchFailure::Busy) if began.elapsed() + pause < within => {}
            answer => return answer,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(limit::BUSY_PAUSE_MAX);
    }
}

async fn ask_once(
    net: &Net,
    holder: PeerId,
    pack: PackId,
    range: CellRange,
) -> Result<PulledSlice, FetchFailure> {
    let length = ((range.end - range.first) * limit::CELL_BYTES) as u64;
    let request = wire::FetchRequest {
        pack: pack.as_bytes().to_vec(),
        ranges: vec![wire::Range { offset: range.offset(), length }],
    };
    let mut broken = false;
    loop {
        return match net.fetch(holder, request.clone()).await {
            Err(NetError::Busy(_)) => Err(FetchFailure::Busy),
            // The connection may have been closed in favour of a better one.
            Err(NetError::Broken { .. }) if !broken => {
                broken = true;
                continue;
            }
            Err(NetError::Timeout { .. }) => Err(FetchFailure::Timeout),
            Err(NetError::Malformed { .. }) => Err(FetchFailure::Malformed),
            Err(error) => Err(FetchFailure::Offline(error.to_string())),
            Ok(response) => slice_of(response),
        };
    }
}

fn slice_of(response: wire::FetchResponse) -> Result<PulledSlice, FetchFailure> {
    match (response.status(), response.slices.into_iter().next()) {
        (Status::Ok, Some(slice)) => Ok(PulledSlice { data: slice.data, proof: slice.proof }),
        (Status::NotFound, _) => Err(FetchFailure::NotFound),
        (Status::Corrupt, _) => Err(FetchFailure::Corrupt),
        (Status::Busy, _) => Err(FetchFailure::Busy),
        (Status::Ok | Status::Unspecified, _) => Err(FetchFailure::Malformed),
        _ => Err(FetchFailure::Refused),
    }
}
