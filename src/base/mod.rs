//! The vocabulary everything else speaks: identifiers, units, time, bounds and error codes.
//!
//! Owns no state and does no I/O apart from reading the system clock and random generator. Imports nothing
//! from the rest of the crate.

mod code;
mod id;
mod label;
pub mod limit;
pub mod meter;
mod origin;
mod path;
#[cfg(test)]
mod seeded;
mod time;
mod unit;

pub use code::{Category, Code, Coded, Retry};
pub use id::{ChunkId, DeviceId, HeadId, IdError, ListId, PackId, PeerId, SnapshotId, VaultId, random_bytes};
pub use label::{host_fault, tag_fault};
pub use origin::Origin;
pub use path::{encode_path, reference_text, split_reference};
#[cfg(test)]
pub(crate) use seeded::Seeded;
pub use time::{Clock, Moment, SystemClock};
pub use unit::{ByteSize, Epoch, UnitError, format_duration, parse_duration};

/// Compares `bytes` with the frozen file `tests/data/<name>`; writes it when `FREEZE=1` and it does not exist yet.
///
/// # Panics
/// When they differ: a format or derivation changed, which breaks every existing vault.
#[cfg(test)]
pub(crate) fn frozen(name: &str, bytes: &[u8]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    if !path.exists() && std::env::var_os("FREEZE").is_some() {
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("tests/data can be made");
        std::fs::write(&path, bytes).expect("tests/data can be written");
    }
    let kept = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(kept == bytes, "{name} differs from its frozen form in tests/data");
}
