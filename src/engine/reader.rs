//! Reading chunks: index, pack file, open. Missing or damaged packs are pulled from peers when there is a source.

use std::collections::VecDeque;

use super::error::EngineError;
use super::monitor::Monitor;
use super::pull::PackSource;
use super::repair::{Damage, repair_pack};
use super::vault::Vault;
use crate::base::{ChunkId, Coded, PackId, limit};
use crate::crypto::{Kind, OVERHEAD_BYTES, OpenError, Opener, Subject};
use crate::store::{AtWork, ChunkPlace, PackFile, PackNumber, PackRow, StoreError};

/// Pack files kept open by one reader.
const OPEN_PACKS_MAX: usize = 16;
/// Chunks that lie this close in a pack are read in one go: skipping costs less than another call.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// Bytes read in one go; at most one chunk, whatever its size, or this.
pub(super) const SPAN_BYTES_MAX: usize = 256 << 10;

/// Reads chunks of one vault; one for each thread.
pub(super) struct ChunkReader<'a> {
    vault: &'a Vault,
    source: Option<&'a dyn PackSource>,
    monitor: &'a Monitor,
    opener: Opener,
    sealed: Vec<u8>,
    span: Vec<u8>,
    open: VecDeque<(PackNumber, PackRow, PackFile)>,
    /// What it finds stays in its place for as long as it reads.
    _at_work: Option<AtWork>,
}

/// Gives chunks in the clear, from wherever it has them.
pub(super) trait ReadChunk {
    /// The plaintext of a chunk of that kind.
    fn read(&mut self, kind: Kind, id: ChunkId) -> Result<&[u8], EngineError>;
}

impl ReadChunk for ChunkReader<'_> {
    fn read(&mut self, kind: Kind, id: ChunkId) -> Result<&[u8], EngineError> {
        Self::read(self, kind, id)
    }
}

impl<'a> ChunkReader<'a> {
    pub(super) fn new(vault: &'a Vault, source: Option<&'a dyn PackSource>, monitor: &'a Monitor) -> Self {
        Self { _at_work: Some(vault.store.enter()), ..Self::for_marking(vault, source, monitor) }
    }

    /// For garbage collection itself, which deletes nothing while it reads.
    pub(super) fn for_marking(
        vault: &'a Vault,
        source: Option<&'a dyn PackSource>,
        monitor: &'a Monitor,
    ) -> Self {
        let (sealed, span) = (Vec::new(), Vec::new());
        let (opener, open) = (Opener::new(), VecDeque::new());
        Self { vault, source, monitor, opener, sealed, span, open, _at_work: None }
    }

    /// The plaintext of a chunk of that kind.
    pub(super) fn read(&mut self, kind: Kind, id: ChunkId) -> Result<&[u8], EngineError> {
        let place = self.vault.store.lookup(id)?.filter(|place| place.kind == kind);
        self.read_at_place(id, &place.ok_or(EngineError::ChunkMissing(id))?)
    }

    fn read_at_place(&mut self, id: ChunkId, place: &ChunkPlace) -> Result<&[u8], EngineError> {
        if let Err(error) = self.try_read(id, place) {
            let (Some(source), true) = (self.source, is_healable(&error)) else { return Err(error) };
            self.heal(source, place, error)?;
            self.try_read(id, place)?;
        }
        let subject = self.subject(id, place)?;
        Ok(self.opener.opened(&subject).expect("try_read opened it"))
    }

    /// Gives the plaintext of each of these chunks to `each`, with its position in `ids`. In the order in which they lie
    /// in packs, neighbours read together.
    ///
    /// # Errors
    /// What the index or `each` gives; what is wrong with a single chunk goes to `each`.
    pub(super) fn read_many(
        &mut self,
        kind: Kind,
        ids: &[ChunkId],
        mut each: impl FnMut(usize, Result<&[u8], EngineError>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let places = self.vault.store.lookup_many(ids)?;
        let mut known: Vec<(ChunkPlace, usize)> = Vec::with_capacity(ids.len());
        for (at, place) in places.into_iter().enumerate() {
            match place.filter(|place| place.kind == kind) {
                Some(place) => known.push((place, at)),
                None => each(at, Err(EngineError::ChunkMissing(ids[at])))?,
            }
        }
        known.sort_unstable_by_key(|(place, at)| (place.pack, place.offset, *at));
        let mut rest = known.as_slice();
        while !rest.is_empty() {
            let (span, more) = rest.split_at(span_of(rest));
            rest = more;
            self.read_span(span, ids, &mut each)?;
        }
        Ok(())
    }

    /// Reads neighbours in one pack together. Whatever goes wrong with that, each is read again on its own.
    fn read_span(
        &mut self,
        span: &[(ChunkPlace, usize)],
        ids: &[ChunkId],
        each: &mut impl FnMut(usize, Result<&[u8], EngineError>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut sealed = std::mem::take(&mut self.span);
        let begin = span[0].0.offset;
        let together = span.len() > 1 && self.fill_span(span, &mut sealed).is_ok();
        let mut result = Ok(());
        for (place, at) in span {
            let id = ids[*at];
            let from = (place.offset - begin) as usize;
            let part = sealed.get(from..from + place.sealed_length as usize).filter(|_| together);
            let opened = match part.map(|part| self.open_part(id, place, part)) {
                Some(Ok(subject)) => Ok(self.opener.opened(&subject).expect("it was just opened")),
                _ => self.read_at_place(id, place),
            };
            result = each(*at, opened);
            if result.is_err() {
                break;
            }
        }
        self.span = sealed;
        result
    }

    fn fill_span(&mut self, span: &[(ChunkPlace, usize)], sealed: &mut Vec<u8>) -> Result<(), EngineError> {
        let end = span.iter().map(|(place, _)| end_of(place)).max().unwrap_or(0);
        let begin = u64::from(span[0].0.offset);
        // `span_of` keeps this under its bound.
        sealed.resize(usize::try_from(end - begin).unwrap_or(0), 0);
        let (_, _, file) = self.pack(span[0].0.pack)?;
        Ok(file.read_at(begin, sealed)?)
    }

    fn open_part(&mut self, id: ChunkId, place: &ChunkPlace, part: &[u8]) -> Result<Subject, EngineError> {
        let subject = self.subject(id, place)?;
        let opened = self.opener.open(&self.vault.keyring.vault, &subject, part);
        opened.map(|_| subject).map_err(|source| EngineError::ChunkDamaged { id, source })
    }

    /// Whether these bytes are the plaintext of that data chunk.
    pub(super) fn is_plaintext_of(&self, id: ChunkId, bytes: &[u8]) -> bool {
        self.vault.keyring.vault.chunk_id(Kind::Data, bytes) == id
    }

    fn subject(&mut self, id: ChunkId, place: &ChunkPlace) -> Result<Subject, EngineError> {
        let (_, row, _) = self.pack(place.pack)?;
        Ok(Subject {
            epoch: row.epoch,
            kind: place.kind,
            codec: place.codec,
            id: *id.as_bytes(),
            length: place.length,
        })
    }

    fn try_read(&mut self, id: ChunkId, place: &ChunkPlace) -> Result<(), EngineError> {
        let subject = self.subject(id, place)?;
        if place.sealed_length as usize > limit::CHUNK_BYTES_MAX + OVERHEAD_BYTES {
            // An altered index row must not decide how much memory is taken.
            return Err(EngineError::ChunkDamaged { id, source: OpenError::Length });
        }
        let mut sealed = std::mem::take(&mut self.sealed);
        sealed.resize(place.sealed_length as usize, 0);
        let (_, _, file) = self.pack(place.pack)?;
        let read = file.read_at(u64::from(place.offset), &mut sealed);
        let opened = read.map_err(EngineError::from).and_then(|()| {
            let opened = self.opener.open(&self.vault.keyring.vault, &subject, &sealed);
            opened.map(|_| ()).map_err(|source| EngineError::ChunkDamaged { id, source })
        });
        self.sealed = sealed;
        opened
    }

    fn pack(&mut self, number: PackNumber) -> Result<&(PackNumber, PackRow, PackFile), EngineError> {
        if let Some(at) = self.open.iter().position(|(known, ..)| *known == number) {
            return Ok(&self.open[at]);
        }
        let row = self
            .vault
            .store
            .pack_by_number(number)?
            .ok_or_else(|| StoreError::IndexDamaged(format!("no pack has number {}", number.0)))?;
        let file = self.vault.store.open_pack(row.id)?;
        if self.open.len() >= OPEN_PACKS_MAX {
            self.open.pop_front();
        }
        self.open.push_back((number, row, file));
        Ok(self.open.back().expect("just pushed"))
    }

    fn heal(
        &mut self,
        source: &dyn PackSource,
        place: &ChunkPlace,
        error: EngineError,
    ) -> Result<(), EngineError> {
        let row = self.vault.store.pack_by_number(place.pack)?.ok_or(error)?;
        self.open.retain(|(number, ..)| *number != place.pack);
        heal_pack(self.vault, source, self.monitor, row.id, row.bytes)
    }
}

fn end_of(place: &ChunkPlace) -> u64 {
    u64::from(place.offset) + u64::from(place.sealed_length)
}

/// How many of these places (by pack and offset) to read together; at least one.
fn span_of(places: &[(ChunkPlace, usize)]) -> usize {
    let first = &places[0].0;
    let mut end = end_of(first);
    let more = places[1..].iter().take_while(|(place, _)| {
        // In one pack they come by offset.
        let joins = place.pack == first.pack
            && u64::from(place.offset) <= end + GAP_BYTES_MAX
            && end_of(place) - u64::from(first.offset) <= SPAN_BYTES_MAX as u64;
        if joins {
            end = end.max(end_of(place));
        }
        joins
    });
    1 + more.count()
}

/// Makes one pack sound again from peers.
pub(super) fn heal_pack(
    vault: &Vault,
    source: &dyn PackSource,
    monitor: &Monitor,
    id: PackId,
    bytes: u64,
) -> Result<(), EngineError> {
    // Threads that need one pack at the same time: whoever comes second finds it there.
    let _healing = vault.healing(id);
    let damage = Damage::examine(&vault.store, id, bytes)?;
    let Some(damage) = damage else { return Ok(()) };
    repair_pack(&vault.store, &damage, source, monitor).map(drop)
}

fn is_healable(error: &EngineError) -> bool {
    use crate::base::Code;
    match error {
        EngineError::Store(StoreError::MissingPack(_) | StoreError::DamagedFile(_)) => true,
        // A bad sector; what is wrong with the system as a whole is not the pack's fault.
        EngineError::Store(StoreError::Io { source, .. }) => {
            source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        }
        _ => error.code() == Code::ChunkInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Codec;

    #[test]
    fn neighbours_are_read_together_and_the_rest_apart() {
        const K: u32 = 1 << 10;
        let place = |pack, offset, sealed_length| {
            let (kind, codec) = (Kind::Data, Codec::Zstd);
            (ChunkPlace { pack: PackNumber(pack), offset, sealed_length, length: 1, kind, codec }, 0)
        };
        let table: [(&[_], usize); 7] = [
            (&[place(1, 0, 10)], 1),
            (&[place(1, 0, 10), place(1, 10, 10), place(1, 20 + 16 * K, 5), place(1, 40 * K, 5)], 3),
            (&[place(1, 0, 10), place(2, 10, 10)], 1),
            (&[place(1, 9 * K, 10), place(2, 0, 10)], 1),
            (&[place(1, 0, 200 * K), place(1, 200 * K, 100 * K)], 1),
            (&[place(1, 0, 900 * K), place(1, 900 * K, 1)], 1),
            // The same chunk twice, and a row that is altered.
            (&[place(1, 5, 10), place(1, 5, 10), place(1, 6, u32::MAX)], 2),
        ];
        for (places, together) in table {
            assert_eq!(span_of(places), together, "{places:?}");
        }
    }
}
