//! Peer addresses: what people paste, what peers claim, and the two forms of a peer id.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId as Libp2pId};

use crate::base::{Code, Coded, IdError, PeerId};

/// Why a text is not the address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a multiaddr at all.
    #[error("{0:?} is not a multiaddr (expected something like /ip4/203.0.113.7/tcp/9000/p2p/12D3KooW...)")]
    Malformed(String),
    /// A multiaddr that does not say who is there.
    #[error("{0:?} has no /p2p/PEER_ID at its end")]
    NoPeer(String),
    /// It names an identity that is not an Ed25519 node.
    #[error("the peer id in {text:?} is unusable")]
    WrongPeer {
        /// What was given.
        text: String,
        /// Why.
        #[source]
        source: IdError,
    },
    /// A transport that this node does not speak.
    #[error(
        "{0:?} is not a TCP or QUIC address (/ip4, /ip6 or /dns, then /tcp/PORT or /udp/PORT/quic-v1; of a relay, then \
         /p2p/RELAY/p2p-circuit)"
    )]
    Unsupported(String),
}

impl Coded for AddressError {
    fn code(&self) -> Code {
        Code::UsageInvalid
    }

    fn hint(&self) -> Option<String> {
        Some("run `shadowvault id` on the other machine to see its full address".to_owned())
    }
}

/// Splits a full address into who and where; the address comes back without its `/p2p/PEER_ID`.
pub fn parse_peer_address(text: &str) -> Result<(PeerId, String), AddressError> {
    let text = text.trim();
    let shown = || shorten(text);
    let mut address = parse(text)?;
    let Some(Protocol::P2p(id)) = address.pop() else {
        return Err(AddressError::NoPeer(shown()));
    };
    let peer = from_libp2p(&id).map_err(|source| AddressError::WrongPeer { text: shown(), source })?;
    if !is_dialable(&address) {
        return Err(AddressError::Unsupported(shown()));
    }
    Ok((peer, address.to_string()))
}

/// Reads an address to dial for `peer`, with or without its `/p2p/PEER_ID`.
pub(super) fn parse_for(peer: PeerId, text: &str) -> Result<Multiaddr, AddressError> {
    let address = strip_peer(parse(text.trim())?, peer);
    if is_dialable(&address) { Ok(address) } else { Err(AddressError::Unsupported(shorten(text))) }
}

/// Reads an address to listen on or to announce.
pub(super) fn parse_own(text: &str, me: PeerId) -> Result<Multiaddr, AddressError> {
    parse_for(me, text)
}

fn parse(text: &str) -> Result<Multiaddr, AddressError> {
    if text.len() > 512 {
        return Err(AddressError::Malformed(shorten(text)));
    }
    text.parse().map_err(|_| AddressError::Malformed(shorten(text)))
}

fn shorten(text: &str) -> String {
    text.chars().take(160).collect()
}

/// `address` without a trailing `/p2p/peer`.
pub(super) fn strip_peer(mut address: Multiaddr, peer: PeerId) -> Multiaddr {
    if let Some(Protocol::P2p(id)) = address.iter().last()
        && id == to_libp2p(peer)
    {
        address.pop();
    }
    address
}

/// `address` with `/p2p/peer` at its end.
pub(super) fn with_peer(address: &Multiaddr, peer: PeerId) -> String {
    format!("{address}/p2p/{peer}")
}

/// Whether this is a TCP or QUIC address, or one of those of a relay: what the compiled-in transports dial.
pub(super) fn is_dialable(address: &Multiaddr) -> bool {
    // One part more than the longest has, so that a longer one is seen to be too long.
    let parts: Vec<Protocol<'_>> = address.iter().take(6).collect();
    let direct = match parts.as_slice() {
        [direct @ .., Protocol::P2p(_), Protocol::P2pCircuit] => direct,
        direct => direct,
    };
    matches!(
        direct,
        [
            Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_),
            Protocol::Tcp(_)
        ] | [
            Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_),
            Protocol::Udp(_),
            Protocol::QuicV1
        ]
    )
}

/// Whether it leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

/// The address of whoever can be reached through `relay`, which is at `address`.
pub(super) fn through(address: Multiaddr, relay: PeerId) -> Multiaddr {
    address.with(Protocol::P2p(to_libp2p(relay))).with(Protocol::P2pCircuit)
}

/// Whether an address that a peer claims for itself is worth keeping: one that can be dialled, and not our own
/// machine unless the peer is on it. `seen_at` is where the peer really is.
pub(super) fn is_credible(claimed: &Multiaddr, seen_at: &Multiaddr) -> bool {
    let port_given = claimed.iter().any(|p| matches!(p, Protocol::Tcp(n) | Protocol::Udp(n) if n != 0));
    let placed = match claimed.iter().next() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
        _ => true,
    };
    is_dialable(claimed) && port_given && placed && (!is_loopback(claimed) || is_loopback(seen_at))
}

/// Whether it leads to the machine itself.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Whether it is a TCP address, and not one of a relay.
pub(super) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|p| matches!(p, Protocol::Tcp(_))) && !is_relayed(address)
}

/// The IP address that a multiaddr begins with; a relay's address says nothing of who is behind it.
pub(super) fn ip_of(address: &Multiaddr) -> Option<std::net::IpAddr> {
    if is_relayed(address) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether an address is one on the internet: not of a home's or an office's own network, a provider's inner one, or this
/// machine's.
pub(super) fn is_global(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            let inner = ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared;
            !inner && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()
        }
        std::net::IpAddr::V6(ip) => {
            let inner = ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback();
            !inner && !ip.is_unspecified() && !ip.is_multicast()
        }
    }
}

/// The TCP socket address to probe before listening there, when it names one with a port.
pub(super) fn tcp_socket(address: &Multiaddr) -> Option<std::net::SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => std::net::IpAddr::V4(ip),
        Protocol::Ip6(ip) => std::net::IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) if port != 0 => Some((ip, port).into()),
        _ => None,
    }
}

/// libp2p's form of a peer id.
pub(super) fn to_libp2p(peer: PeerId) -> Libp2pId {
    Libp2pId::from_bytes(&peer.to_multihash()).expect("an identity multihash of 36 bytes is a peer id")
}

/// The crate's form of a peer id; only Ed25519 identities have one.
pub(super) fn from_libp2p(peer: &Libp2pId) -> Result<PeerId, IdError> {
    PeerId::from_multihash(&peer.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

    #[test]
    fn peer_address_splits_into_peer_and_place() {
        for place in ["/ip4/10.0.0.1/tcp/9000", "/dns4/box.example/udp/9000/quic-v1", "/ip6/::1/tcp/1"] {
            let (peer, address) = parse_peer_address(&format!(" {place}/p2p/{ID} ")).unwrap();
            assert_eq!((peer.to_string().as_str(), address.as_str()), (ID, place));
            assert_eq!(from_libp2p(&to_libp2p(peer)), Ok(peer));
        }
    }

    #[test]
    fn peer_address_errors_say_what_is_missing() {
        let table = [
            ("10.0.0.1:9000", "is not a multiaddr"),
            ("/ip4/10.0.0.1/tcp/9000", "no /p2p/PEER_ID"),
            ("/ip4/10.0.0.1/tcp/9000/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "unusable"),
            ("", "no /p2p/PEER_ID"),
        ];
        for (text, part) in table {
            let error = parse_peer_address(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(error.hint().unwrap().contains("shadowvault id"));
        }
        for place in ["/ip4/10.0.0.1/udp/9000", "/ip4/10.0.0.1", "/ip4/1.2.3.4/tcp/1/ws", "/unix/x"] {
            let error = parse_peer_address(&format!("{place}/p2p/{ID}")).unwrap_err();
            assert!(matches!(error, AddressError::Unsupported(_) | AddressError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn addresses_on_the_internet_are_told_from_inner_ones() {
        let global = ["8.8.8.8", "203.0.113.7", "2001:4860:4860::8888"];
        let inner = [
            "10.1.2.3",
            "192.168.0.1",
            "172.20.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
        ];
        let all = global.iter().map(|ip| (ip, true)).chain(inner.iter().map(|ip| (ip, false)));
        for (ip, expected) in all {
            assert_eq!(is_global(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn claimed_addresses_are_kept_only_when_they_can_be_true() {
        let table = [
            ("/ip4/10.0.0.1/tcp/9000", "/ip4/10.0.0.1/tcp/4", true),
            ("/ip4/127.0.0.1/tcp/9000", "/ip4/10.0.0.1/tcp/4", false),
            ("/ip4/127.0.0.1/tcp/9000", "/ip4/127.0.0.1/tcp/4", true),
            ("/ip4/0.0.0.0/tcp/9000", "/ip4/127.0.0.1/tcp/4", false),
            ("/ip4/10.0.0.1/tcp/0", "/ip4/10.0.0.1/tcp/4", false),
            ("/ip4/224.0.0.1/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/4", false),
        ];
        for (claimed, seen, kept) in table {
            assert_eq!(is_credible(&claimed.parse().unwrap(), &seen.parse().unwrap()), kept, "{claimed}");
        }
    }
}
