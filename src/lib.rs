//! ShadowVault: a peer-to-peer backup node. `docs/ARCHITECTURE.md` draws the house; start reading there.

pub mod api;
pub mod base;
pub mod chunker;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod engine;
pub mod fs;
pub mod http;
pub mod net;
pub mod node;
pub mod pack;
pub mod policy;
pub mod snapshot;
pub mod store;
pub mod wire;
