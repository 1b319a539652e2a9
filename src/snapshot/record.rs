//! Snapshot records: sealed, padded to one size, signed by the device that wrote them.

use prost::Message;

use crate::base::{ChunkId, Code, Coded, DeviceId, Epoch, Moment, SnapshotId, limit};
use crate::crypto::{
    self, Context, DeviceKeys, Kind, OVERHEAD_BYTES, OpenError, Salt, SealError, SignError, VaultKeys,
};
use crate::wire::{self, Bound};

const MAGIC: [u8; 4] = *b"SVSN";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
const SIGNATURE_BYTES: usize = 64;
const PLAIN_BYTES: usize = limit::RECORD_BYTES - HEADER_BYTES - OVERHEAD_BYTES - SIGNATURE_BYTES;

/// Why a snapshot record is refused.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not a record, or damaged.
    #[error("not a snapshot record: {0}")]
    Malformed(&'static str),
    /// From a newer version.
    #[error("snapshot record has version {0}; this program knows version {VERSION}")]
    TooNew(u16),
    /// More names than fit; the caller moves them into a list chunk.
    #[error("snapshot record of {0} bytes does not fit")]
    TooLong(usize),
    /// Does not open.
    #[error("opening the snapshot record")]
    Sealed(#[from] OpenError),
    /// Could not be sealed.
    #[error("sealing the snapshot record")]
    Sealing(#[from] SealError),
    /// Not signed by the device it names.
    #[error(transparent)]
    Signature(#[from] SignError),
}

impl Coded for RecordError {
    fn code(&self) -> Code {
        match self {
            Self::TooNew(_) => Code::StorageTooNew,
            Self::TooLong(_) => Code::SnapshotInvalid,
            Self::Signature(_) => Code::InvalidSignature,
            Self::Sealing(e) => e.code(),
            Self::Malformed(_) | Self::Sealed(_) => Code::SnapshotCorrupted,
        }
    }
}

/// One backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Names the sealed record.
    pub id: SnapshotId,
    /// Who wrote it.
    pub device: DeviceId,
    /// When it began.
    pub time: Moment,
    /// Root of the tree.
    pub tree: ChunkId,
    /// What it was compared with.
    pub parent: Option<SnapshotId>,
    /// Chunk with the unreadable files, if there were any.
    pub unreadable: Option<ChunkId>,
    /// Chunk with the paths when they do not fit `info`.
    pub paths_list: Option<ChunkId>,
    /// Its trees say what they leave out, so that what they do not have was not there.
    pub has_omissions: bool,
    /// The record as the backup wrote it, when this one stands in its place with other tags.
    pub original: Option<SnapshotId>,
    /// Paths, host, tags, counts.
    pub info: wire::Snapshot,
}

impl Snapshot {
    /// Whether every file that was chosen could be read.
    pub fn is_complete(&self) -> bool {
        self.info.counts.as_ref().is_none_or(|counts| counts.unreadable == 0)
    }
}

/// Seals and signs `info`: the record's bytes and their id.
pub fn seal_record(
    info: &wire::Snapshot,
    keys: &VaultKeys,
    device: &DeviceKeys,
) -> Result<(SnapshotId, Vec<u8>), RecordError> {
    seal_salted(info, keys, device, &Salt::random())
}

fn seal_salted(
    info: &wire::Snapshot,
    keys: &VaultKeys,
    device: &DeviceKeys,
    salt: &Salt,
) -> Result<(SnapshotId, Vec<u8>), RecordError> {
    let encoded = info.encode_to_vec();
    if encoded.len() + 4 > PLAIN_BYTES {
        return Err(RecordError::TooLong(encoded.len()));
    }
    let mut plain = Vec::with_capacity(PLAIN_BYTES);
    plain.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
    plain.extend_from_slice(&encoded);
    plain.resize(PLAIN_BYTES, 0);
    let epoch = keys.newest_epoch();
    let mut out = Vec::with_capacity(limit::RECORD_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    crypto::seal_blob(keys, epoch, salt, Kind::Snapshot, [0; 32], &plain, &mut out)?;
    let signed = crypto::sign(device, Context::Snapshot, out);
    let bytes = [signed.body, signed.signature].concat();
    Ok((SnapshotId::new(*blake3::hash(&bytes).as_bytes()), bytes))
}

/// Opens a record and checks its signature against the device it names.
///
/// Whether that device may write to the vault is for the caller to check with its certificate.
pub fn open_record(bytes: &[u8], keys: &VaultKeys) -> Result<Snapshot, RecordError> {
    let (Some((header, _)), true) =
        (bytes.split_first_chunk::<HEADER_BYTES>(), bytes.len() == limit::RECORD_BYTES)
    else {
        return Err(RecordError::Malformed("wrong length"));
    };
    if header[..4] != MAGIC {
        return Err(RecordError::Malformed("no record magic"));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version > VERSION {
        return Err(RecordError::TooNew(version));
    }
    if version != VERSION {
        return Err(RecordError::Malformed("version"));
    }
    let epoch = Epoch(u32::from_le_bytes([header[8], header[9], header[10], header[11]]));
    let (body, signature) = bytes.split_at(limit::RECORD_BYTES - SIGNATURE_BYTES);
    let plain = crypto::open_blob(keys, epoch, Kind::Snapshot, [0; 32], &body[HEADER_BYTES..])?;
    let (length, rest) = plain.split_first_chunk::<4>().ok_or(RecordError::Malformed("content"))?;
    let content =
        rest.get(..u32::from_le_bytes(*length) as usize).ok_or(RecordError::Malformed("content length"))?;
    let info: wire::Snapshot = wire::decode(content, Bound::new(PLAIN_BYTES, limit::RECORD_FIELDS_MAX))
        .map_err(|_| RecordError::Malformed("content"))?;
    let snapshot = convert(SnapshotId::new(*blake3::hash(bytes).as_bytes()), info)
        .ok_or(RecordError::Malformed("field lengths"))?;
    let signed = wire::Signed { body: body.to_vec(), signature: signature.to_vec() };
    crypto::verify(snapshot.device.as_bytes(), Context::Snapshot, &signed)?;
    Ok(snapshot)
}

fn convert(id: SnapshotId, info: wire::Snapshot) -> Option<Snapshot> {
    fn optional<T: for<'a> TryFrom<&'a [u8]>>(bytes: &[u8]) -> Option<Option<T>> {
        if bytes.is_empty() { Some(None) } else { T::try_from(bytes).ok().map(Some) }
    }
    Some(Snapshot {
        id,
        device: DeviceId::try_from(info.device.as_slice()).ok()?,
        time: Moment::from_millis(info.time_ms),
        tree: ChunkId::try_from(info.tree.as_slice()).ok()?,
        parent: optional(&info.parent)?,
        unreadable: optional(&info.unreadable)?,
        paths_list: optional(&info.paths_list)?,
        original: optional(&info.original)?,
        has_omissions: info.omissions,
        info,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Phrase;

    fn sample(device: &DeviceKeys) -> wire::Snapshot {
        wire::Snapshot {
            version: 1,
            device: device.id().as_bytes().to_vec(),
            time_ms: 1_700_000_000_000,
            tree: vec![5; 32],
            paths: vec![b"/home/a".to_vec()],
            hostname: "host".into(),
            ..Default::default()
        }
    }

    #[test]
    fn record_round_trips_at_one_size() {
        let (keys, device) = (Phrase::generate().root().vault_keys(Epoch(0)), DeviceKeys::generate("d"));
        let mut info = sample(&device);
        for count in [1, 100] {
            info.paths = vec![b"/some/path".to_vec(); count];
            let (id, bytes) = seal_record(&info, &keys, &device).unwrap();
            assert_eq!(bytes.len(), limit::RECORD_BYTES);
            let back = open_record(&bytes, &keys).unwrap();
            assert_eq!((back.id, &back.info), (id, &info));
        }
        info.paths = vec![vec![b'x'; 100]; 100];
        assert!(matches!(seal_record(&info, &keys, &device), Err(RecordError::TooLong(_))));
    }

    #[test]
    fn record_matches_its_frozen_bytes() {
        let (keys, device) = (Phrase::example().root().vault_keys(Epoch(0)), DeviceKeys::example());
        let counts = wire::SnapshotCounts { files: 1, bytes: 5, ..Default::default() };
        let info = wire::Snapshot { counts: Some(counts), tags: vec!["t".into()], ..sample(&device) };
        let (id, bytes) = seal_salted(&info, &keys, &device, &Salt([4; 32])).unwrap();
        assert_eq!(open_record(&bytes, &keys).unwrap().id, id);
        crate::base::frozen("record.bin", &bytes);
    }

    #[test]
    fn altered_foreign_or_forged_records_are_refused() {
        let (keys, device) = (Phrase::generate().root().vault_keys(Epoch(0)), DeviceKeys::generate("d"));
        let (_, bytes) = seal_record(&sample(&device), &keys, &device).unwrap();
        for at in (0..bytes.len()).step_by(7).chain(0..16).chain(8100..8192) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(open_record(&bad, &keys).is_err(), "byte {at}");
        }
        for length in [0, 16, 8191] {
            assert!(open_record(&bytes[..length], &keys).is_err());
        }
        let other = Phrase::generate().root().vault_keys(Epoch(0));
        assert!(open_record(&bytes, &other).is_err());
        let forger = DeviceKeys::generate("f");
        let (_, forged) = seal_record(&sample(&device), &keys, &forger).unwrap();
        assert!(matches!(open_record(&forged, &keys), Err(RecordError::Signature(_))));
    }
}
