//! Packs from the network, for the engine: blocking on the outside, several requests in flight inside.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::runtime::Handle;

use super::core::Core;
use crate::base::{PackId, PeerId, limit};
use crate::engine::{FetchFailure, PackSource, PulledSlice};
use crate::net::{Net, NetError};
use crate::pack::CellRange;
use crate::wire::{self, Status};

/// How often a busy peer is asked again, each time after twice the pause.
const BUSY_TRIES: u32 = 6;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Pulls from members. Use it from blocking threads only.
pub(super) struct Mesh {
    core: Arc<Core>,
    net: Net,
    runtime: Handle,
    /// Asked before all others.
    first: Option<PeerId>,
}

impl Mesh {
    /// A source over the node's network; `first` is asked before all others.
    ///
    /// Must be made on a thread of the runtime.
    pub(super) fn new(core: Arc<Core>, net: Net, first: Option<PeerId>) -> Self {
        Self { core, net, runtime: Handle::current(), first }
    }
}

impl PackSource for Mesh {
    fn holders(&self, pack: PackId) -> Vec<PeerId> {
        let receipted = self.core.store.holders_of(pack).unwrap_or_default();
        let connected = self.core.connected();
        let mut out: Vec<PeerId> = self.first.into_iter().collect();
        out.extend(receipted.iter().filter(|peer| connected.contains(peer)));
        out.extend(connected.iter());
        // Those that are not connected right now may still answer a dial.
        out.extend(receipted.iter());
        let mut seen = std::collections::HashSet::new();
        out.retain(|peer| seen.insert(*peer) && self.core.members.allows(peer));
        out.sort_by_key(|peer| self.core.is_distrusted(*peer));
        out
    }

    fn fetch(
        &self,
        holder: PeerId,
        pack: PackId,
        ranges: &[CellRange],
        each: &mut dyn FnMut(usize, Result<PulledSlice, FetchFailure>) -> bool,
    ) {
        let flights = limit::FETCH_IN_FLIGHT_PER_PEER_MAX;
        let requests = ranges.iter().enumerate().map(|(at, range)| {
            let net = self.net.clone();
            let range = *range;
            async move { (at, ask(&net, holder, pack, range).await) }
        });
        self.runtime.block_on(async {
            let mut answers = futures::stream::iter(requests).buffer_unordered(flights);
            while let Some((at, answer)) = answers.next().await {
                if !each(at, answer) {
                    break;
                }
            }
        });
    }

    fn misbehaved(&self, holder: PeerId, _: PackId) {
        self.core.blame(holder);
    }
}

/// Asks one peer for one range; a busy one again, for some seconds.
pub(super) async fn ask(
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
    let (mut pause, mut broken) = (BUSY_PAUSE, false);
    for _ in 0..BUSY_TRIES {
        match net.fetch(holder, request.clone()).await {
            Err(NetError::Busy { .. }) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            // The connection may have been closed in favour of a better one.
            Err(NetError::Broken { .. }) if !broken => broken = true,
            Err(NetError::Timeout { .. }) => return Err(FetchFailure::Timeout),
            Err(error) => return Err(FetchFailure::Offline(error.to_string())),
            Ok(response) => return slice_of(response),
        }
    }
    Err(FetchFailure::Busy)
}

fn slice_of(response: wire::FetchResponse) -> Result<PulledSlice, FetchFailure> {
    match (response.status(), response.slices.into_iter().next()) {
        (Status::Ok, Some(slice)) => Ok(PulledSlice { data: slice.data, proof: slice.proof }),
        (Status::NotFound, _) => Err(FetchFailure::NotFound),
        (Status::Corrupt, _) => Err(FetchFailure::Corrupt),
        (Status::Busy, _) => Err(FetchFailure::Busy),
        _ => Err(FetchFailure::Refused),
    }
}
