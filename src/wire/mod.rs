//! Protobuf messages, generated from `proto/shadowvault.proto`, and their bounded decoding.
//!
//! Nothing is decoded whose bytes and fields were not counted before: an empty repeated message takes two bytes on the wire and
//! dozens once decoded. The counting knows from the `.proto` which fields hold messages.
//!
//! The generated code is committed so that a build needs no protobuf compiler; a test in this module compiles
//! the `.proto` again and compares. To renew it: `UPDATE_WIRE=1 cargo test --release wire`.

#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod generated;

pub use generated::*;

use std::fmt;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

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

/// A field that holds messages: its number, and which of their fields do so in turn.
pub struct Nested(u32, &'static [Self]);

/// A message whose fields can be counted before it is decoded. Implemented for all of them, out of the `.proto`.
pub trait Layout: Message + Default {
    /// Which of its fields hold messages.
    const NESTED: &'static [Nested];
}

/// What a message may weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Its length in bytes.
    pub bytes: usize,
    /// Fields in it and in the messages that it holds, all together.
    pub fields: usize,
}

impl Bound {
    /// So many bytes and fields.
    pub const fn new(bytes: usize, fields: usize) -> Self {
        Self { bytes, fields }
    }
}

/// Decodes `bytes`, refusing what weighs more than it may before anything is allocated.
pub fn decode<M: Layout>(bytes: &[u8], bound: Bound) -> Result<M, WireError> {
    weigh::<M>(bytes, bound)?;
    M::decode(bytes).map_err(malformed)
}

/// Like [`decode`]; long fields that are `Bytes` share their memory instead of being copied.
pub fn decode_shared<M: Layout>(bytes: Bytes, bound: Bound) -> Result<M, WireError> {
    weigh::<M>(&bytes, bound)?;
    M::decode(bytes).map_err(malformed)
}

/// Refuses a message of more than `most` fields, without those of messages in it.
pub fn check_outer(bytes: &[u8], most: usize) -> Result<(), WireError> {
    let mut left = most;
    count(bytes, &[], &mut left)
}

fn malformed(error: prost::DecodeError) -> WireError {
    WireError::Malformed(error.to_string())
}

fn weigh<M: Layout>(bytes: &[u8], bound: Bound) -> Result<(), WireError> {
    let length = bytes.len();
    if length > bound.bytes {
        return Err(WireError::TooLong { length, limit: bound.bytes });
    }
    let mut left = bound.fields;
    count(bytes, M::NESTED, &mut left)
}

/// Walks the fields of a message without decoding it; fails when there are more than `left`. Goes as deep as the `.proto`
/// does, and no deeper.
fn count(mut bytes: &[u8], nested: &[Nested], left: &mut usize) -> Result<(), WireError> {
    while !bytes.is_empty() {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| WireError::Malformed("too many fields in a message".to_owned()))?;
        let (tag, kind) = decode_key(&mut bytes).map_err(malformed)?;
        if kind != WireType::LengthDelimited {
            skip_field(kind, tag, &mut bytes, DecodeContext::default()).map_err(malformed)?;
            continue;
        }
        let length = decode_varint(&mut bytes).map_err(malformed)?;
        let (body, rest) = usize::try_from(length)
            .ok()
            .and_then(|n| bytes.split_at_checked(n))
            .ok_or_else(|| WireError::Malformed("a field is longer than its message".to_owned()))?;
        if let Some(Nested(_, inner)) = nested.iter().find(|n| n.0 == tag) {
            count(body, inner, left)?;
        }
        bytes = rest;
    }
    Ok(())
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
        let mut fresh = std::fs::read_to_string(out.path().join("shadowvault.v1.rs")).unwrap();
        fresh.push_str(&layouts());
        let committed = format!("{root}/src/wire/generated.rs");
        if std::env::var_os("UPDATE_WIRE").is_some() {
            std::fs::write(&committed, &fresh).unwrap();
        }
        let old = std::fs::read_to_string(&committed).unwrap();
        assert!(old == fresh, "src/wire/generated.rs is stale: UPDATE_WIRE=1 cargo test --release wire");
    }

    /// The layout of every message, as code.
    fn layouts() -> String {
        use protox::prost_reflect::{DescriptorPool, Kind};
        let root = env!("CARGO_MANIFEST_DIR");
        let set = protox::compile(["shadowvault.proto"], [format!("{root}/proto")]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(set).unwrap();
        let mut code = String::new();
        for message in pool.all_messages() {
            let mut nested = Vec::new();
            for field in message.fields() {
                match field.kind() {
                    Kind::Message(inner) => {
                        nested.push(format!("super::Nested({}, {}::NESTED)", field.number(), inner.name()));
                    }
                    Kind::Bytes | Kind::String => {}
                    // Packed numbers would be many behind one tag.
                    _ => assert!(!field.is_list(), "{} holds a list of numbers", message.name()),
                }
            }
            code.push_str(&format!(
                "impl super::Layout for {} {{\n    const NESTED: &'static [super::Nested] = &[{}];\n}}\n",
                message.name(),
                nested.join(", ")
            ));
        }
        code
    }

    const LARGE: Bound = Bound::new(1 << 20, 64);

    #[test]
    fn decode_refuses_over_long_and_malformed_messages() {
        let long = decode::<Range>(&[0; 9], Bound::new(8, 8));
        assert_eq!(long, Err(WireError::TooLong { length: 9, limit: 8 }));
        assert!(matches!(decode::<Range>(&[0xff; 8], LARGE), Err(WireError::Malformed(_))));
    }

    /// A head of a million empty messages took 276 MiB where signed bytes were decoded.
    #[test]
    fn fields_are_counted_at_every_depth_before_anything_is_decoded() {
        let address = PeerAddress { peer: vec![], addresses: vec![String::new(); 40] };
        let head = Head { holders: vec![address; 2], ..Head::default() };
        let bytes = head.encode_to_vec();
        // Two holders, and forty addresses in each.
        assert_eq!(decode(&bytes, Bound::new(1 << 20, 82)), Ok(head));
        assert!(matches!(decode::<Head>(&bytes, Bound::new(1 << 20, 81)), Err(WireError::Malformed(_))));
        // What is unknown, or a group, counts as well.
        let unknown = [0xfa, 0x7f, 0x00].repeat(65);
        assert!(decode::<Head>(&unknown, LARGE).is_err() && decode::<Head>(&unknown[..192], LARGE).is_ok());
        let deep = [0x0b].repeat(100_000);
        assert!(decode::<Head>(&deep, LARGE).is_err());
    }
}
