//! Protobuf messages, generated from `proto/shadowvault.proto`, and their bounded decoding.
//!
//! The generated code is committed so that a build needs no protobuf compiler; a test in this module compiles
//! the `.proto` again and compares. To renew it: `UPDATE_WIRE=1 cargo test --release wire`.

#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod generated;

pub use generated::*;

use std::fmt;

use bytes::Buf;
use prost::Message;

// These two carry the secret of a ticket, which no log may show.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

impl fmt::Debug for DoorRedeem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorRedeem").finish_non_exhaustive()
    }
}

/// A message that does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than the place where it was found allows.
    #[error("message of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Length found.
        length: usize,
        /// Length allowed.
        limit: usize,
    },
    /// Not a message of this type.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// Decodes `bytes`, refusing more than `limit` bytes before anything is allocated.
pub fn decode<M: Message + Default>(bytes: &[u8], limit: usize) -> Result<M, WireError> {
    decode_shared(bytes, limit)
}

/// Like [`decode`]; out of `Bytes`, long fields share their memory instead of being copied.
pub fn decode_shared<M: Message + Default>(bytes: impl Buf, limit: usize) -> Result<M, WireError> {
    let length = bytes.remaining();
    if length > limit {
        return Err(WireError::TooLong { length, limit });
    }
    M::decode(bytes).map_err(|e| WireError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_code_matches_the_proto_file() {
        let root = env!("CARGO_MANIFEST_DIR");
        let set = protox::compile(["shadowvault.proto"], [format!("{root}/proto")]).unwrap();
        let out = tempfile::tempdir().unwrap();
        let mut config = prost_build::Config::new();
        config.bytes([".shadowvault.v1.Slice.data"]);
        config.skip_debug([".shadowvault.v1.Ticket", ".shadowvault.v1.DoorRedeem"]);
        config.out_dir(out.path()).compile_fds(set).unwrap();
        let fresh = std::fs::read_to_string(out.path().join("shadowvault.v1.rs")).unwrap();
        let committed = format!("{root}/src/wire/generated.rs");
        if std::env::var_os("UPDATE_WIRE").is_some() {
            std::fs::write(&committed, &fresh).unwrap();
        }
        let old = std::fs::read_to_string(&committed).unwrap();
        assert!(old == fresh, "src/wire/generated.rs is stale: UPDATE_WIRE=1 cargo test --release wire");
    }

    #[test]
    fn decode_refuses_over_long_and_malformed_messages() {
        assert_eq!(decode::<()>(&[0; 9], 8), Err(WireError::TooLong { length: 9, limit: 8 }));
        assert!(matches!(decode::<()>(&[0xff; 8], 8), Err(WireError::Malformed(_))));
    }
}
