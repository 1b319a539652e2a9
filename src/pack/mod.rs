//! Packs: the only unit of data that peers see.
//!
//! Owns the pack layout (docs/FORMAT.md), its size classes, and the BLAKE3 proofs that let anyone who knows a
//! [`PackId`](crate::base::PackId) check any range of cells. Does no I/O.

mod builder;
mod cells;
mod layout;

pub use builder::{PackBuilder, SealedPack, pack_sizes_for};
pub use cells::{CellRange, Outboard, OutboardBuilder, ProofError, cell_count, verify_slice};
pub use layout::{
    DirectoryPlace, ENTRY_BYTES, HEADER_BYTES, PackEntry, PackError, TRAILER_BYTES, locate_directory,
    open_directory, read_pack,
};
