//! Keys, sealing and signatures. Pure: bytes in, bytes out; the only outside source is the random generator.
//!
//! Owns every secret of the program: no secret type here has `Debug`, `Clone` or `Serialize`, and all are wiped
//! when dropped. Invariant: nothing leaves [`Opener::open`] whose chunk id was not recomputed.

mod keys;
mod phrase;
mod seal;
mod sign;
mod slot;

pub use keys::{DeviceKeys, EpochKeys, Keyring, NodeKey, Secret, VaultKeys};
pub use phrase::{AdminKey, Phrase, PhraseError, Root, pairing_words};
pub use seal::{
    Codec, Kind, NONCE_BYTES, OVERHEAD_BYTES, OpenError, Opener, Salt, SealError, SealedAs, Sealer, Subject,
    open_blob, seal_blob,
};
pub use sign::{Context, SignError, sign, verify};
pub use slot::{KdfCost, KeyFileError, Passphrase, open_keyring, open_slot, seal_keyring, seal_slot};
