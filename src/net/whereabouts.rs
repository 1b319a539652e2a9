//! What a node signs about where it can be dialled, so that others can pass it on and nobody can make it up.

use libp2p::Multiaddr;
use prost::Message;

use super::address::parse_for;
use crate::base::{PeerId, limit};
use crate::crypto::{self, Context, NodeKey, SignError};
use crate::wire::{self, Bound, WireError};

const VERSION: u32 = 1;
const BOUND: Bound = Bound::new(limit::WHEREABOUTS_BYTES_MAX, limit::FIELDS_FEW);
/// Leaves room for the signature, the peer and each address's two bytes of framing.
const ADDRESSES_BYTES_MAX: usize = limit::WHEREABOUTS_BYTES_MAX - 256;

/// Why such a word is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WhereaboutsError {
    #[error(transparent)]
    Encoding(#[from] WireError),
    #[error("of another version, or too long")]
    Shape,
    #[error("about another node")]
    Another,
    #[error(transparent)]
    Signature(#[from] SignError),
}

/// Where a node said it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whereabouts {
    /// Of two the one with the higher number counts.
    pub(super) seq: u64,
    /// Without the peer id.
    pub(super) addresses: Vec<Multiaddr>,
}

impl Whereabouts {
    /// As it travels. Addresses over the bounds are left out, the last ones first.
    pub(super) fn sign(&self, key: &NodeKey) -> Vec<u8> {
        let mut room = ADDRESSES_BYTES_MAX;
        let fits = |address: &String| {
            let left = room.checked_sub(address.len() + 2);
            room = left.unwrap_or(0);
            left.is_some()
        };
        let addresses = self.addresses.iter().map(Multiaddr::to_string).take_while(fits);
        let body = wire::Whereabouts {
            version: VERSION,
            peer: key.peer_id().as_bytes().to_vec(),
            seq: self.seq,
            addresses: addresses.take(limit::PEER_ADDRESSES_MAX).collect(),
        };
        crypto::sign(key, Context::Whereabouts, body.encode_to_vec()).encode_to_vec()
    }

    /// Believes it if `peer` itself signed it. Addresses that this node cannot dial are left out.
    pub(super) fn verify(peer: PeerId, bytes: &[u8]) -> Result<Self, WhereaboutsError> {
        let signed: wire::Signed = wire::decode(bytes, BOUND)?;
        let body: wire::Whereabouts = wire::decode(&signed.body, BOUND)?;
        if body.version != VERSION || body.addresses.len() > limit::PEER_ADDRESSES_MAX {
            return Err(WhereaboutsError::Shape);
        }
        if body.peer != peer.as_bytes() {
            return Err(WhereaboutsError::Another);
        }
        crypto::verify(peer.as_bytes(), Context::Whereabouts, &signed)?;
        let addresses = body.addresses.iter().filter_map(|text| parse_for(peer, text).ok()).collect();
        Ok(Self { seq: body.seq, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(count: usize) -> Whereabouts {
        let address = |n| format!("/ip4/10.0.0.{n}/tcp/9000").parse().unwrap();
        Whereabouts { seq: 7, addresses: (0..count).map(address).collect() }
    }

    #[test]
    fn only_the_node_itself_says_where_it_is() {
        let (key, other) = (NodeKey::generate(), NodeKey::generate());
        let bytes = said(3).sign(&key);
        assert_eq!(Whereabouts::verify(key.peer_id(), &bytes), Ok(said(3)));
        assert_eq!(Whereabouts::verify(other.peer_id(), &bytes), Err(WhereaboutsError::Another));
        // Another node's word in its name.
        let mut forged: wire::Signed = wire::decode(&said(1).sign(&other), BOUND).unwrap();
        forged.body = wire::decode::<wire::Signed>(&bytes, BOUND).unwrap().body;
        let forged = Whereabouts::verify(key.peer_id(), &forged.encode_to_vec());
        assert!(matches!(forged, Err(WhereaboutsError::Signature(_))), "{forged:?}");
        for cut in [0, 10, bytes.len() - 1] {
            assert!(Whereabouts::verify(key.peer_id(), &bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Whereabouts::verify(key.peer_id(), &vec![0; 1 << 20]).is_err());
    }

    #[test]
    fn it_is_never_longer_than_what_others_take() {
        let key = NodeKey::generate();
        let read = Whereabouts::verify(key.peer_id(), &said(40).sign(&key)).unwrap();
        assert_eq!(read, said(limit::PEER_ADDRESSES_MAX));
        let long = format!("/dns4/{}/tcp/9000", ["a"; 120].join("."));
        let long = Whereabouts { seq: 1, addresses: vec![long.parse().unwrap(); 16] };
        let bytes = long.sign(&key);
        assert!(bytes.len() <= limit::WHEREABOUTS_BYTES_MAX);
        assert!(!Whereabouts::verify(key.peer_id(), &bytes).unwrap().addresses.is_empty());
    }
}
