//! Where a connection comes from, as far as it counts: who has one address of a network has its neighbours too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host and the network that it is in: of IPv4 the address and its /24, of IPv6 the /64 and the /48 that providers give
/// to one customer.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// Names everything that one machine can call from.
    pub host: IpAddr,
    /// Names the network around it.
    pub network: IpAddr,
}

impl Origin {
    /// Of an address, however it is written: IPv4 in IPv6 is IPv4.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self { host: ip.into(), network: Ipv4Addr::new(a, b, c, 0).into() }
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self {
                    host: Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into(),
                    network: Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_network_and_one_customer_is_one_host() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        // (one, other, the same host, the same network)
        let table = [
            ("192.0.2.1", "::ffff:192.0.2.1", true, true),
            ("192.0.2.1", "192.0.2.200", false, true),
            ("192.0.2.1", "192.0.3.1", false, false),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true, true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false, true),
            ("2001:db8:1:2::1", "2001:db8:2:2::1", false, false),
        ];
        for (one, other, host, network) in table {
            let (one, other) = (of(one), of(other));
            assert_eq!((one.host == other.host, one.network == other.network), (host, network), "{other:?}");
        }
    }
}
