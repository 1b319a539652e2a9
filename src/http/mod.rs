//! HTTP over the control socket: the daemon's router, and the client that makes a far node a [`Service`].
//!
//! Owns the socket file, the routes of the API and the shape of its errors (RFC 9457 problem+json). Decides nothing
//! about backups: every route is one call of [`Service`]. Only processes of the same user or of root are served;
//! bodies, answers, connections and waiting times are bounded.
//!
//! [`Service`]: crate::api::Service

mod client;
mod events;
mod extract;
mod problem;
mod router;
mod socket;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use socket::{bind, serve};
