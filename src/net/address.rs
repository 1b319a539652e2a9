//! Peer addresses: what people paste, what peers claim, and the two forms of a peer id.

use std::net::IpAddr;

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

/// Whether an address that a peer claims for itself can be dialled at all. Who it may lead to is looked at when it is
/// ([`may_claim`]): names lead elsewhere every day.
pub(super) fn is_claimable(claimed: &Multiaddr) -> bool {
    let port_given = claimed.iter().any(|p| matches!(p, Protocol::Tcp(n) | Protocol::Udp(n) if n != 0));
    is_dialable(claimed) && port_given && first_ip(claimed).is_none_or(|ip| !is_nowhere(ip))
}

/// Whether this node dials `ip` because a peer says that it is there: nobody makes it dial itself, or a network that the
/// peer has nothing to do with. `seen_at` is where the peer really is, `own` are this machine's addresses; `signed` is the
/// peer's own signed word.
pub(super) fn may_claim(ip: IpAddr, seen_at: Option<IpAddr>, own: &[IpAddr], signed: bool) -> bool {
    let (ip, seen_at) = (ip.to_canonical(), seen_at.map(|ip| ip.to_canonical()));
    let is_here = |ip: IpAddr| ip.is_loopback() || own.contains(&ip);
    let on_this_machine = seen_at.is_some_and(is_here);
    if is_nowhere(ip) {
        false
    } else if is_here(ip) {
        on_this_machine
    } else if is_global(ip) {
        true
    } else {
        signed || on_this_machine || seen_at.is_some_and(|seen_at| is_one_network(seen_at, ip))
    }
}

/// Where nobody is, or everybody, or somebody else depending on who looks.
fn is_nowhere(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => {
            let is_old_v4 = ip.segments()[..6] == [0; 6] && !ip.is_loopback();
            is_old_v4 || ip.is_multicast() || ip.is_unicast_link_local()
        }
    }
}

/// Whether both are in one home or office: an inner network has a /16 at most, as people lay them out, or a /48.
fn is_one_network(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            !is_global(one.into()) && one.octets()[..2] == other.octets()[..2]
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..3] == other.segments()[..3],
        _ => false,
    }
}

/// A name at the place of an IP address, and which kinds of address it may lead to: 4, 6, or both.
pub(super) fn name_of(address: &Multiaddr) -> Option<(String, u16, Option<bool>)> {
    if is_relayed(address) {
        return None;
    }
    let mut parts = address.iter();
    let (name, only_v4) = match parts.next()? {
        Protocol::Dns(name) => (name.into_owned(), None),
        Protocol::Dns4(name) => (name.into_owned(), Some(true)),
        Protocol::Dns6(name) => (name.into_owned(), Some(false)),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some((name, port, only_v4)),
        _ => None,
    }
}

/// The same address at an IP address.
pub(super) fn at_ip(address: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    address.replace(0, |_| Some(Protocol::from(ip)))
}

/// The IP address that it begins with, of a relay's address the relay's.
pub(super) fn first_ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether it leads to the machine itself.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    first_ip(address).is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether it is a TCP address, and not one of a relay.
pub(super) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|p| matches!(p, Protocol::Tcp(_))) && !is_relayed(address)
}

/// The IP address that a multiaddr begins with; a relay's address says nothing of who is behind it.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    if is_relayed(address) { None } else { first_ip(address) }
}

/// Whether an address is one on the internet: not of a home's or an office's own network, a provider's inner one, or this
/// machine's.
pub(super) fn is_global(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            let inner = ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared;
            !inner && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            let inner = ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback();
            !inner && !ip.is_unspecified() && !ip.is_multicast()
        }
    }
}

/// The TCP socket address to probe before listening there, when it names one with a port.
pub(super) fn tcp_socket(address: &Multiaddr) -> Option<std::net::SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
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
    fn claimed_addresses_are_kept_only_when_they_can_be_dialled() {
        let table = [
            ("/ip4/10.0.0.1/tcp/9000", true),
            ("/dns4/box.example/udp/9000/quic-v1", true),
            ("/ip4/127.0.0.1/tcp/9000", true),
            ("/ip4/0.0.0.0/tcp/9000", false),
            ("/ip4/10.0.0.1/tcp/0", false),
            ("/ip4/224.0.0.1/udp/1/quic-v1", false),
            ("/ip4/169.254.7.7/tcp/9000", false),
            ("/ip6/fe80::1/tcp/9000", false),
            ("/ip6/::/tcp/9000", false),
            ("/ip6/::7f00:1/tcp/9000", false),
            ("/unix/x", false),
        ];
        for (claimed, kept) in table {
            let parsed = claimed.parse();
            assert_eq!(parsed.is_ok_and(|claimed: Multiaddr| is_claimable(&claimed)), kept, "{claimed}");
        }
    }

    /// Members' claims made a node dial its own ports again and again, in any spelling of its address.
    #[test]
    fn nobody_is_dialled_where_the_peer_cannot_be() {
        let own: [IpAddr; 2] = ["192.168.1.5".parse().unwrap(), "203.0.113.5".parse().unwrap()];
        // (claimed, seen at, signed, dialled)
        let table = [
            ("198.51.100.1", "198.51.100.1", false, true),
            ("203.0.113.9", "10.0.0.1", false, true),
            ("127.0.0.1", "198.51.100.1", true, false),
            ("127.9.9.9", "192.168.1.7", true, false),
            ("::1", "198.51.100.1", true, false),
            ("::ffff:127.0.0.1", "198.51.100.1", true, false),
            ("::ffff:192.168.1.5", "198.51.100.1", true, false),
            ("127.0.0.1", "127.0.0.1", false, true),
            ("192.168.1.5", "127.0.0.1", false, true),
            ("127.0.0.1", "::ffff:127.0.0.1", false, true),
            ("0.0.0.0", "127.0.0.1", true, false),
            ("0.7.7.7", "127.0.0.1", true, false),
            ("169.254.1.1", "169.254.1.2", true, false),
            ("192.168.1.5", "192.168.1.7", true, false),
            ("203.0.113.5", "198.51.100.1", true, false),
            ("203.0.113.5", "203.0.113.5", false, true),
            ("192.168.1.9", "198.51.100.1", false, false),
            ("192.168.1.9", "198.51.100.1", true, true),
            ("192.168.1.9", "192.168.200.7", false, true),
            ("172.17.0.1", "192.168.1.7", false, false),
            ("100.64.0.9", "198.51.100.1", false, false),
            ("fd00:1:2:3::1", "fd00:1:2:4::1", false, true),
            ("fd00:1:2:3::1", "2001:db8::1", false, false),
        ];
        for (claimed, seen_at, signed, dialled) in table {
            let claims = |seen_at| may_claim(claimed.parse().unwrap(), seen_at, &own, signed);
            assert_eq!(claims(Some(seen_at.parse().unwrap())), dialled, "{claimed} of {seen_at}");
        }
        assert!(!may_claim("127.0.0.1".parse().unwrap(), None, &own, true), "seen nowhere");
    }
}
