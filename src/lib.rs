//! ShadowVault: a peer-to-peer backup node. `docs/ARCHITECTURE.md` draws the house; start reading there.

pub mod api;
pub mod base;
pub mod chunker;
pub mod cli;
pub mod crypto;
pub mod http;
pub mod pack;
pub mod snapshot;
pub mod wire;
