//! Pulling packs and parts of packs from holders: the one way bytes come in, for holding, restoring and repairing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error::EngineError;
use super::gather::Gathering;
use super::monitor::Monitor;
use crate::base::{Code, Coded, PackId, PeerId, limit};
use crate::pack::{CellRange, Outboard, cell_count};
use crate::policy::Stride;

/// Cells of a pack as a peer sent them: not yet verified.
pub struct PulledSlice {
    /// The cells' bytes.
    pub data: Bytes,
    /// The chaining values that should connect them to the pack's id.
    pub proof: Vec<u8>,
}

/// Why a peer gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// It does not have the pack.
    #[error("does not have it")]
    NotFound,
    /// It has it, but damaged.
    #[error("has it damaged")]
    Corrupt,
    /// What it sent is no answer.
    #[error("sent something that is no answer")]
    Malformed,
    /// It has too much to do.
    #[error("is busy")]
    Busy,
    /// It does not serve us.
    #[error("refuses")]
    Refused,
    /// It did not answer in time.
    #[error("did not answer in time")]
    Timeout,
    /// It cannot be reached.
    #[error("cannot be reached ({0})")]
    Offline(String),
}

impl Coded for FetchFailure {
    fn code(&self) -> Code {
        match self {
            Self::NotFound => Code::ChunkNotFound,
            Self::Corrupt => Code::StorageCorrupted,
            Self::Malformed => Code::PeerMisbehaved,
            Self::Busy => Code::PeerBusy,
            Self::Refused => Code::Unauthorized,
            Self::Timeout => Code::NetworkTimeout,
            Self::Offline(_) => Code::NetworkUnreachable,
        }
    }
}

/// Who may have a pack, by how well that is known; each best first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// They said that they have it, and are within reach.
    pub sure: Vec<PeerId>,
    /// They may have it.
    pub maybe: Vec<PeerId>,
    /// Asked only when nobody else is left.
    pub rest: Vec<PeerId>,
    /// How much each of them is asked for at one time, as far as that is known.
    pub strides: BTreeMap<PeerId, Stride>,
}

/// Where packs can be pulled from. Implemented by the node over the network; blocking.
pub trait PackSource: Send + Sync {
    /// Peers that may have the pack.
    fn sources(&self, pack: PackId) -> Sources;

    /// Runs the errands that `gathering` gives, all that it gives at the same time, until it is over.
    fn gather(&self, pack: PackId, gathering: &mut Gathering<'_>);
}

/// Bytes that each peer gave.
pub type Given = BTreeMap<PeerId, u64>;

/// Ranges of at most [`limit::FETCH_BYTES_MAX`] that cover the given cells (ascending).
pub(super) fn ranges_of(cells: &[usize]) -> Vec<CellRange> {
    let longest = limit::FETCH_BYTES_MAX / limit::CELL_BYTES;
    let mut ranges: Vec<CellRange> = Vec::new();
    for cell in cells {
        match ranges.last_mut() {
            Some(last) if last.end == *cell && last.end - last.first < longest => last.end += 1,
            _ => ranges.push(CellRange { first: *cell, end: cell + 1 }),
        }
    }
    ranges
}

/// Pulls `cells` of a pack into their places in `buffer`, which has the pack's length, from all who have it at once.
/// Every slice is verified against the pack's id before it is copied.
///
/// Returns the bytes that each peer gave.
pub(super) fn pull_cells(
    source: &dyn PackSource,
    pack: PackId,
    cells: &[usize],
    buffer: &mut [u8],
    monitor: &Monitor,
) -> Result<Given, EngineError> {
    monitor.go_on()?;
    let mut gathering = Gathering::new(pack, ranges_of(cells), source.sources(pack), buffer, monitor);
    source.gather(pack, &mut gathering);
    let given = gathering.finish();
    given.or_else(|error| {
        monitor.go_on()?;
        Err(error)
    })
}

/// Pulls a whole pack into `buffer`, which may have been used before; what is in it then hashes to `pack`.
pub fn pull_pack(
    source: &dyn PackSource,
    pack: PackId,
    length: u64,
    buffer: &mut Vec<u8>,
    monitor: &Monitor,
) -> Result<(Outboard, Given), EngineError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(limit::PACK_BYTES_MAX);
    buffer.resize(length, 0);
    let cells: Vec<usize> = (0..cell_count(length)).collect();
    let given = pull_cells(source, pack, &cells, buffer, monitor)?;
    let (id, outboard) = Outboard::of(buffer);
    if id != pack {
        // Slices verify one by one, so this cannot come from a peer.
        let tried = "the slices do not make up the pack".to_owned();
        return Err(EngineError::NoSource { pack, tried, busy: false });
    }
    Ok((outboard, given))
}

#[cfg(test)]
mod tests {
    use super::super::gather::Errand;
    use super::super::tests::lines::{Line, run};
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Holders that answer as told.
    struct Fake {
        pack: Vec<u8>,
        peers: Vec<(PeerId, Manner)>,
        asked: AtomicUsize,
        blamed: Mutex<Vec<PeerId>>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Manner {
        Honest,
        WrongBytes,
        OtherLength,
        Silent,
        HalfOnly,
        Absent,
        /// Says that it is busy more often than not.
        Busy,
        /// Never says anything else.
        AlwaysBusy,
        /// Breaks off again and again.
        Broken,
    }

    impl PackSource for Fake {
        fn sources(&self, _: PackId) -> Sources {
            let sure = self.peers.iter().map(|(peer, _)| *peer).collect();
            Sources { sure, ..Sources::default() }
        }

        fn gather(&self, _: PackId, gathering: &mut Gathering<'_>) {
            let (_, outboard) = Outboard::of(&self.pack);
            let mut lines: Vec<Line> =
                self.peers.iter().map(|(peer, _)| Line::new(*peer, 10 << 20, Duration::ZERO)).collect();
            run(gathering, &mut lines, |errand: &Errand| {
                let times = self.asked.fetch_add(1, Ordering::Relaxed);
                let manner = self.peers.iter().find(|(peer, _)| *peer == errand.holder).unwrap().1;
                let range = errand.range;
                let start = range.offset() as usize;
                let end = start + range.length(self.pack.len() as u64) as usize;
                let (mut data, proof) = (self.pack[start..end].to_vec(), outboard.proof(range));
                match manner {
                    Manner::Honest => {}
                    Manner::WrongBytes => data[7] ^= 1,
                    Manner::OtherLength => data.push(0),
                    Manner::Silent => return Err(FetchFailure::Timeout),
                    Manner::HalfOnly if start >= self.pack.len() / 2 => return Err(FetchFailure::Timeout),
                    Manner::HalfOnly => {}
                    Manner::Absent => return Err(FetchFailure::NotFound),
                    Manner::Busy if !times.is_multiple_of(5) => return Err(FetchFailure::Busy),
                    Manner::AlwaysBusy => return Err(FetchFailure::Busy),
                    Manner::Broken if times % 20 > 10 => {
                        return Err(FetchFailure::Offline("gone".to_owned()));
                    }
                    Manner::Busy | Manner::Broken => {}
                }
                Ok(PulledSlice { data: data.into(), proof })
            });
            self.blamed.lock().unwrap().extend(gathering.misbehaved());
        }
    }

    fn fake(manners: &[Manner]) -> (Fake, PackId) {
        let mut pack = vec![0; 4 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut pack);
        let id = Outboard::of(&pack).0;
        let peers = manners.iter().enumerate().map(|(i, m)| (PeerId::new([i as u8; 32]), *m)).collect();
        (Fake { pack, peers, asked: AtomicUsize::default(), blamed: Mutex::default() }, id)
    }

    #[test]
    fn every_bad_peer_is_passed_over_for_a_good_one() {
        use Manner::{Absent, HalfOnly, Honest, OtherLength, Silent, WrongBytes};
        for bad in [WrongBytes, OtherLength, Silent, HalfOnly, Absent] {
            let (source, id) = fake(&[bad, Honest]);
            // A buffer that was used before may be longer or shorter.
            for before in [0, 5 << 20] {
                let mut bytes = vec![9; before];
                pull_pack(&source, id, 4 << 20, &mut bytes, &Monitor::default()).unwrap();
                assert!(bytes == source.pack);
            }
            let (source, id) = fake(&[bad, Honest]);
            let (_, given) = pull_pack(&source, id, 4 << 20, &mut Vec::new(), &Monitor::default()).unwrap();
            assert_eq!(given.contains_key(&PeerId::new([0; 32])), bad == HalfOnly);
            assert!(given.contains_key(&PeerId::new([1; 32])));
            let blamed = source.blamed.lock().unwrap().len();
            assert_eq!(blamed > 0, matches!(bad, WrongBytes | OtherLength));
            let (alone, id) = fake(&[bad]);
            assert!(pull_pack(&alone, id, 4 << 20, &mut Vec::new(), &Monitor::default()).is_err());
        }
    }

    /// What had come was thrown away with the first "later" too many, and the pack counted as missing or damaged.
    #[test]
    fn who_is_busy_or_breaks_off_is_asked_again_and_what_came_is_kept() {
        for manner in [Manner::Busy, Manner::Broken] {
            let (source, id) = fake(&[manner]);
            let (_, given) = pull_pack(&source, id, 4 << 20, &mut Vec::new(), &Monitor::default()).unwrap();
            assert_eq!(given.into_values().sum::<u64>(), 4 << 20, "nothing is asked for twice");
        }
        let (source, id) = fake(&[Manner::AlwaysBusy]);
        let error = pull_pack(&source, id, 4 << 20, &mut Vec::new(), &Monitor::default()).unwrap_err();
        assert_eq!(error.code(), Code::PeerBusy, "it is not known to be lost: {error}");
        let (source, id) = fake(&[Manner::AlwaysBusy, Manner::Honest]);
        pull_pack(&source, id, 4 << 20, &mut Vec::new(), &Monitor::default()).unwrap();
    }

    #[test]
    fn ranges_join_neighbours_up_to_one_answer() {
        let range = |first, end| CellRange { first, end };
        assert_eq!(ranges_of(&[1, 2, 3, 7]), [range(1, 4), range(7, 8)]);
        assert_eq!(ranges_of(&(0..20).collect::<Vec<_>>()), [range(0, 16), range(16, 20)]);
    }
}
