//! Reading chunks: index, pack file, open. Missing or damaged packs are pulled from peers when there is a source.

use std::collections::VecDeque;

use super::error::EngineError;
use super::monitor::Monitor;
use super::pull::PackSource;
use super::repair::{Damage, plan_repair, run_repair};
use super::vault::Vault;
use crate::base::{ChunkId, Coded, PackId, limit};
use crate::crypto::{Kind, OVERHEAD_BYTES, OpenError, Opener, Subject};
use crate::store::{ChunkPlace, PackFile, PackNumber, PackRow, StoreError};

/// Pack files kept open by one reader.
const OPEN_PACKS_MAX: usize = 16;

/// Reads chunks of one vault; one for each thread.
pub(super) struct ChunkReader<'a> {
    vault: &'a Vault,
    source: Option<&'a dyn PackSource>,
    monitor: &'a Monitor,
    opener: Opener,
    sealed: Vec<u8>,
    open: VecDeque<(PackNumber, PackRow, PackFile)>,
}

impl<'a> ChunkReader<'a> {
    pub(super) fn new(vault: &'a Vault, source: Option<&'a dyn PackSource>, monitor: &'a Monitor) -> Self {
        Self { vault, source, monitor, opener: Opener::new(), sealed: Vec::new(), open: VecDeque::new() }
    }

    /// The plaintext of a chunk of that kind.
    pub(super) fn read(&mut self, kind: Kind, id: ChunkId) -> Result<&[u8], EngineError> {
        let place = self.vault.store.lookup(id)?.filter(|place| place.kind == kind);
        let place = place.ok_or(EngineError::ChunkMissing(id))?;
        if let Err(error) = self.try_read(id, &place) {
            let (Some(source), true) = (self.source, is_healable(&error)) else { return Err(error) };
            self.heal(source, &place, error)?;
            self.try_read(id, &place)?;
        }
        let subject = self.subject(id, &place)?;
        Ok(self.opener.opened(&subject).expect("try_read opened it"))
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
    let plan = plan_repair(vec![damage]);
    let result = run_repair(&vault.store, &plan, source, monitor)?;
    match result.failed.into_iter().next() {
        None => Ok(()),
        Some((pack, tried)) => Err(EngineError::NoSource { pack, tried }),
    }
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
