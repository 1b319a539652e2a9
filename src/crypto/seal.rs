//! Sealing: XChaCha20-Poly1305 with everything that gives the bytes their meaning bound as associated data.
//!
//! A sealed piece is `nonce (24) || ciphertext || tag (16)`. The nonce is derived from a pack's random salt, the
//! associated data and the payload, so that neither a cloned machine nor a rolled-back random generator can
//! use one nonce for two payloads.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};

use super::keys::{EpochKeys, VaultKeys};
use crate::base::{ChunkId, Code, Coded, Epoch, VaultId, limit, random_bytes};

/// Version of the sealing scheme, first byte of the associated data.
const SEAL_VERSION: u8 = 1;
/// Length of the nonce that stands before the ciphertext.
pub const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// What sealing adds to a payload.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;
const AAD_BYTES: usize = 1 + 4 + 32 + 1 + 1 + 32 + 4;

/// What a sealed piece is; one kind never opens as another.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A piece of a file.
    Data = 1,
    /// A tree, piece list, or other structure of a snapshot.
    Tree = 2,
    /// A pack's directory.
    Directory = 3,
    /// A pack's trailer.
    Trailer = 4,
    /// A snapshot record.
    Snapshot = 5,
    /// A device's name in its certificate.
    Name = 6,
}

impl Kind {
    /// The kind of a chunk in a pack, from its byte in the directory.
    pub fn of_chunk(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Data),
            2 => Some(Self::Tree),
            _ => None,
        }
    }
}

/// How the payload encodes the plaintext.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Stored = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// From its byte in the directory.
    pub fn of(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stored),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// A pack's random salt.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Salt(pub [u8; 32]);

impl Salt {
    /// Fresh from the operating system.
    pub fn random() -> Self {
        Self(random_bytes())
    }
}

/// What a sealed piece is about: bound to the ciphertext, so that a piece opens only in its place.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Key generation.
    pub epoch: Epoch,
    /// Kind.
    pub kind: Kind,
    /// Codec.
    pub codec: Codec,
    /// The chunk id; for other kinds what docs/FORMAT.md says (a pack's salt, a device id, zeros).
    pub id: [u8; 32],
    /// Length of the plaintext in bytes.
    pub length: u32,
}

impl Subject {
    fn aad(&self, vault: VaultId) -> [u8; AAD_BYTES] {
        let mut aad = [0u8; AAD_BYTES];
        aad[0] = SEAL_VERSION;
        aad[1..5].copy_from_slice(&self.epoch.0.to_le_bytes());
        aad[5..37].copy_from_slice(vault.as_bytes());
        aad[37] = self.kind as u8;
        aad[38] = self.codec as u8;
        aad[39..71].copy_from_slice(&self.id);
        aad[71..75].copy_from_slice(&self.length.to_le_bytes());
        aad
    }
}

/// What sealing a chunk produced.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct SealedAs {
    /// How the payload is encoded.
    pub codec: Codec,
    /// Bytes appended to the output.
    pub sealed_length: u32,
}

/// Sealing failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The plaintext is longer than a chunk may be.
    #[error("a chunk of {0} bytes is over the limit")]
    TooLong(usize),
    /// The device does not have this epoch's key.
    #[error("no key for epoch {}", .0.0)]
    NoKey(Epoch),
    /// zstd failed.
    #[error("compressing")]
    Compress(#[source] std::io::Error),
    /// The cipher refused.
    #[error("encrypting")]
    Cipher,
    /// What was sealed does not open again: memory or processor trouble.
    #[error("the sealed chunk does not open again")]
    Unsound(#[source] OpenError),
}

impl Coded for SealError {
    fn code(&self) -> Code {
        Code::EncryptionFailed
    }
}

/// Opening failed: the bytes are damaged, belong elsewhere, or another key is needed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Shorter than the overhead, or a declared length over the limit.
    #[error("sealed bytes have an impossible length")]
    Length,
    /// The device does not have this epoch's key.
    #[error("no key for epoch {}", .0.0)]
    NoKey(Epoch),
    /// The tag does not match.
    #[error("sealed bytes do not authenticate")]
    Tag,
    /// The payload does not decode to the declared length.
    #[error("payload does not decode")]
    Decode,
    /// The plaintext is not what its id says.
    #[error("plaintext does not match its chunk id")]
    Id,
}

impl Coded for OpenError {
    fn code(&self) -> Code {
        match self {
            Self::Id | Self::Decode | Self::Length => Code::ChunkInvalid,
            Self::NoKey(_) | Self::Tag => Code::DecryptionFailed,
        }
    }
}

fn cipher(keys: &EpochKeys) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&Key::from(*keys.sealing.expose()))
}

/// Encrypts `out[start + NONCE_BYTES..]`, the payload, in place, and puts the nonce before it and the tag behind it.
fn encrypt_in_place(
    keys: &EpochKeys,
    salt: &Salt,
    aad: &[u8],
    out: &mut Vec<u8>,
    start: usize,
) -> Result<(), SealError> {
    let (nonce_place, payload) = out[start..].split_at_mut(NONCE_BYTES);
    let mut hasher = blake3::Hasher::new_keyed(keys.nonce.expose());
    hasher.update(&salt.0).update(aad).update(payload);
    let mut nonce = [0u8; NONCE_BYTES];
    nonce.copy_from_slice(&hasher.finalize().as_bytes()[..NONCE_BYTES]);
    nonce_place.copy_from_slice(&nonce);
    let tag = cipher(keys)
        .encrypt_inout_detached(&XNonce::from(nonce), aad, payload.into())
        .map_err(|_| SealError::Cipher)?;
    out.extend_from_slice(&tag);
    Ok(())
}

/// Replaces `out` by the payload of `sealed`.
fn decrypt(keys: &EpochKeys, aad: &[u8], sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Length)?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::Length)?;
    out.clear();
    out.extend_from_slice(ciphertext);
    cipher(keys)
        .decrypt_inout_detached(&XNonce::from(*nonce), aad, out.as_mut_slice().into(), &Tag::from(*tag))
        .map_err(|_| OpenError::Tag)
}

/// Compresses and seals chunks; one for each worker thread.
pub struct Sealer {
    compressor: Option<Compressor>,
    check: Opener,
    /// The memory flips a bit of what was just sealed.
    #[cfg(test)]
    trouble: bool,
}

impl Sealer {
    /// `level`: zstd level, or `None` to store everything as it is.
    pub fn new(level: Option<i32>) -> Result<Self, SealError> {
        let compressor = level.map(Compressor::new).transpose().map_err(SealError::Compress)?;
        Ok(Self {
            compressor,
            check: Opener::new(),
            #[cfg(test)]
            trouble: false,
        })
    }

    /// Seals `plaintext` with the newest epoch, appends it to `out`, and opens it again before it returns.
    ///
    /// # Errors
    /// A plaintext over [`limit::CHUNK_BYTES_MAX`], or a sealed chunk that does not open to the same bytes
    /// ([`SealError::Unsound`]).
    pub fn seal(
        &mut self,
        keys: &VaultKeys,
        salt: &Salt,
        kind: Kind,
        id: ChunkId,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<SealedAs, SealError> {
        if plaintext.len() > limit::CHUNK_BYTES_MAX {
            return Err(SealError::TooLong(plaintext.len()));
        }
        let epoch = keys.newest_epoch();
        let epoch_keys = keys.epoch(epoch).ok_or(SealError::NoKey(epoch))?;
        let start = out.len();
        out.resize(start + NONCE_BYTES, 0);
        let codec = self.append_payload(plaintext, out)?;
        let subject = Subject { epoch, kind, codec, id: *id.as_bytes(), length: length_u32(plaintext.len()) };
        encrypt_in_place(epoch_keys, salt, &subject.aad(keys.vault), out, start)?;
        #[cfg(test)]
        self.suffer(&mut out[start..]);
        // Compared with the original, which says more than its hash and costs less.
        match self.check.decode(keys, &subject, &out[start..]) {
            Ok(opened) if opened == plaintext => {}
            Ok(_) => return Err(SealError::Unsound(OpenError::Id)),
            Err(error) => return Err(SealError::Unsound(error)),
        }
        Ok(SealedAs { codec, sealed_length: length_u32(out.len() - start) })
    }

    /// Seals a sealed chunk anew, for another pack and with the newest epoch: opened, checked against its id, encrypted as
    /// it is compressed, and opened again.
    ///
    /// # Errors
    /// [`SealError::Unsound`] when it does not open, before or after.
    pub fn reseal(
        &mut self,
        keys: &VaultKeys,
        salt: &Salt,
        subject: &Subject,
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<SealedAs, SealError> {
        let epoch = keys.newest_epoch();
        let epoch_keys = keys.epoch(epoch).ok_or(SealError::NoKey(epoch))?;
        self.check.open(keys, subject, sealed).map_err(SealError::Unsound)?;
        let start = out.len();
        out.resize(start + NONCE_BYTES, 0);
        out.extend_from_slice(&self.check.payload);
        let anew = Subject { epoch, ..*subject };
        encrypt_in_place(epoch_keys, salt, &anew.aad(keys.vault), out, start)?;
        #[cfg(test)]
        self.suffer(&mut out[start..]);
        self.check.open(keys, &anew, &out[start..]).map_err(SealError::Unsound)?;
        Ok(SealedAs { codec: subject.codec, sealed_length: length_u32(out.len() - start) })
    }

    #[cfg(test)]
    fn suffer(&self, sealed: &mut [u8]) {
        sealed[NONCE_BYTES] ^= u8::from(self.trouble);
    }

    /// Appends the compressed form, or the plaintext when that is not longer. Public for `benches/stages.rs`.
    #[doc(hidden)]
    pub fn append_payload(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<Codec, SealError> {
        let start = out.len();
        if let Some(compressor) = &mut self.compressor {
            compressor.append(plaintext, out).map_err(SealError::Compress)?;
            if out.len() - start < plaintext.len() {
                return Ok(Codec::Zstd);
            }
            out.truncate(start);
        }
        out.extend_from_slice(plaintext);
        Ok(Codec::Stored)
    }
}

/// Chunks up to this many bytes are compressed with zstd's level 1 when a level up to 3 is wanted.
///
/// Measured over 100,000 texts of 1–8 KiB: level 1 takes two thirds of level 3's time and its result is 0.3 % *smaller*;
/// over sources and documentation chunks of that size come out 0.5 % larger, the whole 0.03 %.
const SMALL_BYTES: usize = 8 << 10;

/// zstd with parameters that suit chunks: one context for small ones, one for the others.
struct Compressor {
    small: zstd::bulk::Compressor<'static>,
    large: zstd::bulk::Compressor<'static>,
}

impl Compressor {
    fn new(level: i32) -> std::io::Result<Self> {
        let small = if level <= 3 { level.min(1) } else { level };
        Ok(Self { small: zstd::bulk::Compressor::new(small)?, large: zstd::bulk::Compressor::new(level)? })
    }

    fn append(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        let context = if plaintext.len() <= SMALL_BYTES { &mut self.small } else { &mut self.large };
        let start = out.len() as u64;
        out.reserve(zstd::zstd_safe::compress_bound(plaintext.len()) + TAG_BYTES);
        let mut tail = std::io::Cursor::new(std::mem::take(out));
        tail.set_position(start);
        let result = context.compress_to_buffer(plaintext, &mut tail);
        *out = tail.into_inner();
        result.map(drop)
    }
}

/// Opens sealed chunks; one for each worker thread.
pub struct Opener {
    decompressor: zstd::bulk::Decompressor<'static>,
    payload: Vec<u8>,
    plaintext: Vec<u8>,
    last: Option<Subject>,
}

impl Default for Opener {
    fn default() -> Self {
        Self::new()
    }
}

impl Opener {
    /// Ready to open.
    pub fn new() -> Self {
        let decompressor = zstd::bulk::Decompressor::new().expect("zstd allocates its context");
        Self { decompressor, payload: Vec::new(), plaintext: Vec::new(), last: None }
    }

    /// The plaintext of `sealed`, authenticated, decoded to exactly the declared length, its chunk id recomputed.
    pub fn open(&mut self, keys: &VaultKeys, subject: &Subject, sealed: &[u8]) -> Result<&[u8], OpenError> {
        let plaintext = self.decode(keys, subject, sealed)?;
        if keys.chunk_id(subject.kind, plaintext).as_bytes() != &subject.id {
            return Err(OpenError::Id);
        }
        self.last = Some(*subject);
        Ok(self.opened(subject).expect("decoded just now"))
    }

    /// Authenticates and decodes; whether the plaintext is what the id says, is for the caller to check.
    fn decode(&mut self, keys: &VaultKeys, subject: &Subject, sealed: &[u8]) -> Result<&[u8], OpenError> {
        self.last = None;
        let length = subject.length as usize;
        if length > limit::CHUNK_BYTES_MAX || sealed.len() > length.saturating_add(OVERHEAD_BYTES) {
            return Err(OpenError::Length);
        }
        let epoch_keys = keys.epoch(subject.epoch).ok_or(OpenError::NoKey(subject.epoch))?;
        decrypt(epoch_keys, &subject.aad(keys.vault), sealed, &mut self.payload)?;
        let plaintext = match subject.codec {
            Codec::Stored => &self.payload,
            Codec::Zstd => {
                self.plaintext.clear();
                self.plaintext.reserve(length);
                self.decompressor
                    .decompress_to_buffer(&self.payload, &mut self.plaintext)
                    .map_err(|_| OpenError::Decode)?;
                &self.plaintext
            }
        };
        if plaintext.len() == length { Ok(plaintext) } else { Err(OpenError::Decode) }
    }

    /// What the last successful [`Opener::open`] gave, if it was about `subject`.
    pub fn opened(&self, subject: &Subject) -> Option<&[u8]> {
        let plaintext = if subject.codec == Codec::Zstd { &self.plaintext } else { &self.payload };
        (self.last == Some(*subject)).then_some(plaintext.as_slice())
    }
}

/// Seals a structure that is not a chunk (directory, trailer, record, name); never compressed.
pub fn seal_blob(
    keys: &VaultKeys,
    epoch: Epoch,
    salt: &Salt,
    kind: Kind,
    id: [u8; 32],
    plaintext: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), SealError> {
    let epoch_keys = keys.epoch(epoch).ok_or(SealError::NoKey(epoch))?;
    let subject = Subject { epoch, kind, codec: Codec::Stored, id, length: length_u32(plaintext.len()) };
    let start = out.len();
    out.resize(start + NONCE_BYTES, 0);
    out.extend_from_slice(plaintext);
    encrypt_in_place(epoch_keys, salt, &subject.aad(keys.vault), out, start)
}

/// Opens what [`seal_blob`] sealed.
pub fn open_blob(
    keys: &VaultKeys,
    epoch: Epoch,
    kind: Kind,
    id: [u8; 32],
    sealed: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let epoch_keys = keys.epoch(epoch).ok_or(OpenError::NoKey(epoch))?;
    let length = sealed.len().checked_sub(OVERHEAD_BYTES).ok_or(OpenError::Length)?;
    let subject = Subject { epoch, kind, codec: Codec::Stored, id, length: length_u32(length) };
    let mut out = Vec::new();
    decrypt(epoch_keys, &subject.aad(keys.vault), sealed, &mut out)?;
    Ok(out)
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("bounded by the size of a pack")
}

#[cfg(test)]
mod tests {
    use super::super::Phrase;
    use super::*;
    use proptest::prelude::*;

    fn seal(keys: &VaultKeys, kind: Kind, plaintext: &[u8]) -> (Subject, Vec<u8>) {
        let id = keys.chunk_id(kind, plaintext);
        let mut out = Vec::new();
        let made =
            Sealer::new(Some(3)).unwrap().seal(keys, &Salt([7; 32]), kind, id, plaintext, &mut out).unwrap();
        let length = plaintext.len() as u32;
        (Subject { epoch: keys.newest_epoch(), kind, codec: made.codec, id: *id.as_bytes(), length }, out)
    }

    fn refuses(keys: &VaultKeys, subject: &Subject, sealed: &[u8]) -> bool {
        Opener::new().open(keys, subject, sealed).is_err()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sealed_chunk_opens_to_its_plaintext(text in prop::collection::vec(any::<u8>(), 0..5000), pad in 0usize..4000) {
            let keys = Phrase::generate().root().vault_keys(Epoch(0));
            let plaintext = [text, vec![b'a'; pad]].concat();
            let (subject, sealed) = seal(&keys, Kind::Data, &plaintext);
            let mut opener = Opener::new();
            prop_assert_eq!(opener.open(&keys, &subject, &sealed).unwrap(), plaintext.as_slice());
        }
    }

    /// A bit that memory flips between sealing and writing would be found when the only other copy is gone.
    #[test]
    fn what_does_not_open_again_is_never_handed_on() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        let (subject, sealed) = seal(&keys, Kind::Data, b"plaintext");
        let mut sealer = Sealer::new(Some(3)).unwrap();
        sealer.trouble = true;
        let (salt, mut out) = (Salt([7; 32]), Vec::new());
        let id = keys.chunk_id(Kind::Data, b"plaintext");
        let done = sealer.seal(&keys, &salt, Kind::Data, id, b"plaintext", &mut out);
        assert!(matches!(done, Err(SealError::Unsound(_))), "{done:?}");
        let done = sealer.reseal(&keys, &salt, &subject, &sealed, &mut Vec::new());
        assert!(matches!(done, Err(SealError::Unsound(_))), "{done:?}");
    }

    /// Whoever has the keys can seal anything under any name; nobody who opens it takes it for that.
    #[test]
    fn a_plaintext_under_the_name_of_another_one_is_refused() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        for text in [b"as it is".to_vec(), vec![b'a'; 5000]] {
            let id = keys.chunk_id(Kind::Data, b"another one");
            let mut out = Vec::new();
            let mut sealer = Sealer::new(Some(3)).unwrap();
            let made = sealer.seal(&keys, &Salt([7; 32]), Kind::Data, id, &text, &mut out).unwrap();
            let (epoch, length) = (keys.newest_epoch(), text.len() as u32);
            let subject = Subject { epoch, kind: Kind::Data, codec: made.codec, id: *id.as_bytes(), length };
            assert!(matches!(Opener::new().open(&keys, &subject, &out), Err(OpenError::Id)));
        }
    }

    /// A zstd frame of one run: 100 × `a`. Written by hand, so that the vector outlives changes of the compressor.
    const FRAME: [u8; 10] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 100, 0x23, 0x03, 0x00, b'a'];

    /// Frozen: keys, nonce, associated data and payload of a stored chunk, a compressed chunk and a structure.
    #[test]
    fn sealed_pieces_match_the_frozen_vectors() {
        let keys = Phrase::example().root().vault_keys(Epoch(1));
        let (salt, mut text) = (Salt([4; 32]), String::new());
        let stored = b"hello".as_slice();
        let id = keys.chunk_id(Kind::Data, stored);
        let mut sealed = Vec::new();
        let made = Sealer::new(Some(3)).unwrap().seal(&keys, &salt, Kind::Data, id, stored, &mut sealed);
        assert_eq!(made.unwrap().codec, Codec::Stored);
        text += &format!("stored {id} {}\n", hex::encode(&sealed));

        let plain = [b'a'; 100];
        let id = keys.chunk_id(Kind::Tree, &plain);
        let subject = Subject {
            epoch: Epoch(0),
            kind: Kind::Tree,
            codec: Codec::Zstd,
            id: *id.as_bytes(),
            length: 100,
        };
        let mut sealed = [&[0; NONCE_BYTES], FRAME.as_slice()].concat();
        let (epoch_keys, aad) = (keys.epoch(Epoch(0)).unwrap(), subject.aad(keys.vault));
        encrypt_in_place(epoch_keys, &salt, &aad, &mut sealed, 0).unwrap();
        assert_eq!(Opener::new().open(&keys, &subject, &sealed).unwrap(), plain);
        text += &format!("zstd {id} {}\n", hex::encode(&sealed));
        text += &format!("aad {}\n", hex::encode(subject.aad(keys.vault)));

        let mut sealed = Vec::new();
        seal_blob(&keys, Epoch(1), &salt, Kind::Name, [5; 32], b"structure", &mut sealed).unwrap();
        text += &format!("blob {}\n", hex::encode(&sealed));
        crate::base::frozen("sealed.txt", text.as_bytes());
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_refused() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        for plaintext in [vec![b'x'; 300], random_bytes::<200>().to_vec(), Vec::new()] {
            let (subject, sealed) = seal(&keys, Kind::Data, &plaintext);
            for at in 0..sealed.len() {
                let mut bad = sealed.clone();
                bad[at] ^= 1 << (at % 8);
                assert!(refuses(&keys, &subject, &bad), "byte {at}");
                assert!(refuses(&keys, &subject, &sealed[..at]), "cut at {at}");
            }
        }
    }

    #[test]
    fn meaning_cannot_be_swapped() {
        let root = Phrase::generate().root();
        let keys = root.vault_keys(Epoch(1));
        let (subject, sealed) = seal(&keys, Kind::Data, &[b'y'; 500]);
        assert_eq!(subject.codec, Codec::Zstd);
        assert!(!refuses(&keys, &subject, &sealed));
        let wrong = [
            Subject { kind: Kind::Tree, ..subject },
            Subject { codec: Codec::Stored, ..subject },
            Subject { epoch: Epoch(0), ..subject },
            Subject { epoch: Epoch(9), ..subject },
            Subject { length: 499, ..subject },
            Subject { length: u32::MAX, ..subject },
            Subject { id: [0; 32], ..subject },
        ];
        for subject in wrong {
            assert!(refuses(&keys, &subject, &sealed), "{subject:?}");
        }
        let other_vault = Phrase::generate().root().vault_keys(Epoch(1));
        assert!(refuses(&other_vault, &subject, &sealed));
    }

    #[test]
    fn nonce_depends_on_salt_and_payload() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        let nonce = |salt: u8, text: &[u8]| {
            let mut out = Vec::new();
            seal_blob(&keys, Epoch(0), &Salt([salt; 32]), Kind::Name, [0; 32], text, &mut out).unwrap();
            out[..NONCE_BYTES].to_vec()
        };
        assert_eq!(nonce(1, b"a"), nonce(1, b"a"));
        assert_ne!(nonce(1, b"a"), nonce(2, b"a"));
        assert_ne!(nonce(1, b"a"), nonce(1, b"b"));
    }

    /// A payload that would inflate far beyond its declared length stops at the declared length.
    #[test]
    fn decompression_bomb_stops_at_the_declared_length() {
        let keys = Phrase::generate().root().vault_keys(Epoch(0));
        let plaintext = vec![0u8; 4 * limit::MIB];
        let (subject, sealed) = seal(&keys, Kind::Data, &plaintext);
        assert!(sealed.len() < 2000);
        let mut opener = Opener::new();
        assert!(opener.open(&keys, &Subject { length: 4096, ..subject }, &sealed).is_err());
        assert!(opener.plaintext.capacity() <= 8192);
    }
}
