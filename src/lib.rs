//! ShadowVault: a peer-to-peer backup node. `docs/ARCHITECTURE.md` draws the house; start reading there.

pub mod base;
pub mod config;
pub mod wire;
