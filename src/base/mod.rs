//! The vocabulary everything else speaks: identifiers, units, time, bounds and error codes.
//!
//! Owns no state and does no I/O apart from reading the system clock and random generator. Imports nothing
//! from the rest of the crate.

mod code;
mod id;
pub mod limit;
mod time;
mod unit;

pub use code::{Category, Code, Coded, Retry};
pub use id::{ChunkId, DeviceId, HeadId, IdError, ListId, PackId, PeerId, SnapshotId, VaultId, random_bytes};
pub use time::{Clock, Moment, SystemClock};
pub use unit::{ByteSize, Epoch, UnitError, format_duration, parse_duration};
