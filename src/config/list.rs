//! Kinds that are lists: of scalars, addresses, keys and backup sets.

use base64::Engine as _;
use std::fmt;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::key::{Allowed, Shape, Wrong};
use super::kind::{Kind, Scalar, wrong};
use super::node::{Node, Value};
use crate::base::{PeerId, VaultId};

/// A list of scalars.
pub(super) struct List<S>(PhantomData<S>);

impl<S: Scalar> Kind for List<S> {
    type Value = Vec<S::Value>;
    const SHAPE: Shape = Shape::List;

    fn read(node: &Node, allowed: Allowed) -> Result<Vec<S::Value>, Vec<Wrong>> {
        let Value::List(items) = &node.value else {
            return Err(vec![wrong(node, format!("a list, each item {}", S::expected()))]);
        };
        each(items, |item| S::read(item, allowed))
    }

    fn show(values: &Vec<S::Value>) -> String {
        format!("[{}]", values.iter().map(S::print).collect::<Vec<_>>().join(", "))
    }
}

/// Reads every item and keeps all mistakes, each with its place in the list (counted from 1).
pub(super) fn each<T>(
    items: &[Node],
    read: impl Fn(&Node) -> Result<T, Vec<Wrong>>,
) -> Result<Vec<T>, Vec<Wrong>> {
    let mut values = Vec::with_capacity(items.len());
    let mut mistakes = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match read(item) {
            Ok(value) => values.push(value),
            Err(found) => mistakes.extend(
                found.into_iter().map(|w| Wrong { below: format!("[{}]{}", index + 1, w.below), ..w }),
            ),
        }
    }
    if mistakes.is_empty() { Ok(values) } else { Err(mistakes) }
}

/// A libp2p multiaddr. Only its form is checked here; whether it can be dialled shows when it is dialled.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address(String);

impl Address {
    /// The text, such as `/ip4/192.0.2.1/tcp/9000`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Scalar for Address {
    type Value = Self;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "a multiaddr (such as /ip4/192.0.2.1/tcp/9000)".to_owned()
    }
    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.strip_prefix('/')?.split('/').collect();
        let sound = |pair: &[&str]| match pair {
            ["ip4", host] => host.parse::<Ipv4Addr>().is_ok(),
            ["ip6", host] => host.parse::<Ipv6Addr>().is_ok(),
            ["tcp" | "udp", port] => port.parse::<u16>().is_ok(),
            ["p2p", peer] => peer.parse::<PeerId>().is_ok(),
            _ => true,
        };
        let complete =
            !matches!(parts.last(), Some(&("ip4" | "ip6" | "dns" | "dns4" | "dns6" | "tcp" | "udp" | "p2p")));
        let clean = parts.iter().all(|part| !part.is_empty() && !part.contains(char::is_whitespace));
        (clean && complete && parts.windows(2).all(sound)).then(|| Self(text.to_owned()))
    }
    fn print(value: &Self) -> String {
        super::kind::quoted(&value.0)
    }
}

/// A multiaddr that ends with the peer it leads to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddress {
    /// The whole address, `/p2p/ID` included.
    pub address: Address,
    /// The peer.
    pub peer: PeerId,
}

impl Scalar for PeerAddress {
    type Value = Self;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "a multiaddr that ends with the peer (such as /ip4/192.0.2.1/tcp/9000/p2p/12D3KooW…)".to_owned()
    }
    fn parse(text: &str) -> Option<Self> {
        let (way, peer) = text.rsplit_once("/p2p/")?;
        let peer = peer.parse().ok()?;
        Some(Self { address: Address::parse(text).filter(|_| !way.is_empty())?, peer })
    }
    fn print(value: &Self) -> String {
        Address::print(&value.address)
    }
}

/// An Ed25519 public key in base64.
pub(super) struct AdminKey;

impl Scalar for AdminKey {
    type Value = VaultId;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "an Ed25519 public key: 32 bytes in base64".to_owned()
    }
    fn parse(text: &str) -> Option<VaultId> {
        // A vault's id, as `id` shows it, is such a key in hex.
        if let Ok(vault) = text.parse() {
            return Some(vault);
        }
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        VaultId::try_from(bytes.as_slice()).ok()
    }
    fn print(value: &VaultId) -> String {
        super::kind::quoted(&base64::engine::general_purpose::STANDARD.encode(value.as_bytes()))
    }
}

/// A level for one target of the log, such as `net=debug`.
pub(super) struct TargetLevel;

impl Scalar for TargetLevel {
    type Value = String;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "a target and its level (such as net=debug; off, error, warn, info, debug or trace)".to_owned()
    }
    fn parse(text: &str) -> Option<String> {
        let (target, level) = text.split_once('=')?;
        let named =
            !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
        let known = ["off", "error", "warn", "info", "debug", "trace"].contains(&level);
        (named && known).then(|| text.to_owned())
    }
    fn print(value: &String) -> String {
        super::kind::quoted(value)
    }
}
