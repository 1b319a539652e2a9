//! The bytes of a pack: header, sealed chunks, sealed directory (with the padding), sealed trailer.

use crate::base::{ChunkId, Code, Coded, Epoch, limit};
use crate::crypto::{self, Codec, Kind, OVERHEAD_BYTES, OpenError, Salt, Subject, VaultKeys};

/// Length of the clear header: magic (4), version (2), zero (2), epoch (4), zero (4), salt (32).
pub const HEADER_BYTES: usize = 48;
/// Length of the sealed trailer at the very end.
pub const TRAILER_BYTES: usize = TRAILER_PLAIN_BYTES + OVERHEAD_BYTES;
pub(super) const TRAILER_PLAIN_BYTES: usize = 32;
/// One row of the directory: kind (1), codec (1), chunk id (32), offset (4), sealed length (4), length (4).
pub const ENTRY_BYTES: usize = 46;
const MAGIC: [u8; 4] = *b"SVPK";
const VERSION: u16 = 1;

/// Why bytes are not a readable pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Not a pack at all, or its clear header is damaged.
    #[error("not a pack: {0}")]
    Malformed(&'static str),
    /// From a newer version.
    #[error("pack has version {0}; this program knows version {VERSION}")]
    TooNew(u16),
    /// The directory or trailer does not open.
    #[error("opening the pack's directory")]
    Sealed(#[source] OpenError),
}

impl Coded for PackError {
    fn code(&self) -> Code {
        match self {
            Self::TooNew(_) => Code::StorageTooNew,
            Self::Malformed(_) | Self::Sealed(_) => Code::StorageCorrupted,
        }
    }
}

/// Where one chunk lies in a pack.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct PackEntry {
    /// Data or tree.
    pub kind: Kind,
    /// Encoding of the payload.
    pub codec: Codec,
    /// The chunk.
    pub id: ChunkId,
    /// Of the sealed chunk, from the start of the pack, in bytes.
    pub offset: u32,
    /// Of the sealed chunk, in bytes.
    pub sealed_length: u32,
    /// Of the plaintext, in bytes.
    pub length: u32,
}

impl PackEntry {
    /// What the sealed chunk claims to be; needed to open it.
    pub fn subject(&self, epoch: Epoch) -> Subject {
        Subject { epoch, kind: self.kind, codec: self.codec, id: *self.id.as_bytes(), length: self.length }
    }
}

pub(super) fn header(epoch: Epoch, salt: &Salt) -> [u8; HEADER_BYTES] {
    let mut out = [0u8; HEADER_BYTES];
    out[..4].copy_from_slice(&MAGIC);
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[8..12].copy_from_slice(&epoch.0.to_le_bytes());
    out[16..].copy_from_slice(&salt.0);
    out
}

fn read_header(bytes: &[u8; HEADER_BYTES]) -> Result<(Epoch, Salt), PackError> {
    if bytes[..4] != MAGIC {
        return Err(PackError::Malformed("no pack magic"));
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version > VERSION {
        return Err(PackError::TooNew(version));
    }
    if version != VERSION || bytes[6..8] != [0; 2] || bytes[12..16] != [0; 4] {
        return Err(PackError::Malformed("header fields are out of range"));
    }
    let (_, salt) = bytes.split_last_chunk::<32>().expect("the header is longer than its salt");
    Ok((Epoch(le_u32(&bytes[8..12])), Salt(*salt)))
}

/// Where a pack's sealed directory lies, as its trailer says.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct DirectoryPlace {
    /// Key generation of the whole pack.
    pub epoch: Epoch,
    /// From the start of the pack, in bytes.
    pub offset: u32,
    /// Of the sealed directory, in bytes.
    pub length: u32,
    salt: Salt,
    entries: u32,
}

pub(super) fn trailer_plain(offset: u32, length: u32, entries: u32) -> [u8; TRAILER_PLAIN_BYTES] {
    let mut out = [0u8; TRAILER_PLAIN_BYTES];
    out[..4].copy_from_slice(&offset.to_le_bytes());
    out[4..8].copy_from_slice(&length.to_le_bytes());
    out[8..12].copy_from_slice(&entries.to_le_bytes());
    out
}

/// Opens the trailer of a pack of `pack_length` bytes.
pub fn locate_directory(
    keys: &VaultKeys,
    pack_length: usize,
    header: &[u8; HEADER_BYTES],
    trailer: &[u8; TRAILER_BYTES],
) -> Result<DirectoryPlace, PackError> {
    let (epoch, salt) = read_header(header)?;
    let plain = crypto::open_blob(keys, epoch, Kind::Trailer, salt.0, trailer).map_err(PackError::Sealed)?;
    let (offset, length, entries) = (le_u32(&plain[..4]), le_u32(&plain[4..8]), le_u32(&plain[8..12]));
    let end = pack_length.checked_sub(TRAILER_BYTES);
    let stated = (offset as usize).checked_add(length as usize);
    let room = (length as usize).saturating_sub(OVERHEAD_BYTES) / ENTRY_BYTES;
    if stated != end || (offset as usize) < HEADER_BYTES || entries as usize > room {
        return Err(PackError::Malformed("trailer does not fit the pack"));
    }
    Ok(DirectoryPlace { epoch, offset, length, salt, entries })
}

/// Opens a sealed directory; `sealed` are the bytes that `place` names.
pub fn open_directory(
    keys: &VaultKeys,
    place: &DirectoryPlace,
    sealed: &[u8],
) -> Result<Vec<PackEntry>, PackError> {
    let plain = crypto::open_blob(keys, place.epoch, Kind::Directory, place.salt.0, sealed)
        .map_err(PackError::Sealed)?;
    let rows = plain
        .get(..place.entries as usize * ENTRY_BYTES)
        .ok_or(PackError::Malformed("directory is shorter than its rows"))?;
    let mut at = HEADER_BYTES as u32;
    let mut entries = Vec::with_capacity(place.entries as usize);
    for row in rows.as_chunks::<ENTRY_BYTES>().0 {
        let entry = read_entry(row)?;
        let fits = entry.offset == at
            && entry.sealed_length as usize >= OVERHEAD_BYTES
            && entry.length as usize <= limit::CHUNK_BYTES_MAX;
        at = at
            .checked_add(entry.sealed_length)
            .filter(|end| fits && *end <= place.offset)
            .ok_or(PackError::Malformed("directory rows do not fit the pack"))?;
        entries.push(entry);
    }
    Ok(entries)
}

fn read_entry(row: &[u8; ENTRY_BYTES]) -> Result<PackEntry, PackError> {
    let id: [u8; 32] = row[2..34].try_into().expect("32 bytes of a fixed row");
    Ok(PackEntry {
        kind: Kind::of_chunk(row[0]).ok_or(PackError::Malformed("unknown chunk kind"))?,
        codec: Codec::of(row[1]).ok_or(PackError::Malformed("unknown codec"))?,
        id: ChunkId::new(id),
        offset: le_u32(&row[34..38]),
        sealed_length: le_u32(&row[38..42]),
        length: le_u32(&row[42..46]),
    })
}

pub(super) fn write_entry(entry: &PackEntry, out: &mut Vec<u8>) {
    out.extend_from_slice(&[entry.kind as u8, entry.codec as u8]);
    out.extend_from_slice(entry.id.as_bytes());
    for number in [entry.offset, entry.sealed_length, entry.length] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// The directory of a whole pack in memory, and its epoch.
pub fn read_pack(keys: &VaultKeys, pack: &[u8]) -> Result<(Epoch, Vec<PackEntry>), PackError> {
    let short = PackError::Malformed("shorter than a pack can be");
    let (Some((header, _)), Some((_, trailer))) =
        (pack.split_first_chunk::<HEADER_BYTES>(), pack.split_last_chunk::<TRAILER_BYTES>())
    else {
        return Err(short);
    };
    let place = locate_directory(keys, pack.len(), header, trailer)?;
    let sealed = &pack[place.offset as usize..(place.offset + place.length) as usize];
    Ok((place.epoch, open_directory(keys, &place, sealed)?))
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes of a fixed layout"))
}
