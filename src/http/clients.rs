//! How much each client address may ask: a token bucket for each.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::base::{Origin, limit, meter};
use crate::config::Security;

/// Buckets for clients over TCP. Whitelisted addresses are exempt; it grants them nothing else.
pub struct Clients {
    rules: RwLock<Arc<Rules>>,
}

struct Rules {
    buckets: Option<DefaultKeyedRateLimiter<IpAddr>>,
    exempt: Vec<IpAddr>,
}

impl Rules {
    fn new(security: &Security) -> Self {
        let rate = NonZeroU32::new(security.requests_per_second).filter(|_| security.enable_rate_limiting);
        let buckets = rate.map(|rate| {
            let burst = NonZeroU32::new(security.burst_size).unwrap_or(rate).max(rate);
            RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst))
        });
        let exempt = if security.enable_ip_whitelist { security.whitelisted_ips.clone() } else { Vec::new() };
        Self { buckets, exempt }
    }
}

impl Clients {
    /// Buckets as configured.
    pub fn new(security: &Security) -> Self {
        Self { rules: RwLock::new(Arc::new(Rules::new(security))) }
    }

    /// Other rates from now on; what clients have used up of the old ones is forgotten.
    pub fn configure(&self, security: &Security) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Rules::new(security));
    }

    /// Charges one request, or tells after what time the next one is allowed.
    pub(super) fn charge(&self, address: IpAddr) -> Result<(), Duration> {
        let rules = self.rules();
        let address = address.to_canonical();
        let Some(buckets) = rules.buckets.as_ref().filter(|_| !rules.exempt.contains(&address)) else {
            return Ok(());
        };
        if buckets.len() >= limit::HTTP_CLIENTS_MAX {
            buckets.retain_recent();
            if buckets.len() >= limit::HTTP_CLIENTS_MAX {
                meter::RATE_LIMITED.add("ip", 1);
                return Err(Duration::from_secs(1));
            }
        }
        // Whoever has one address of an IPv6 network has all of them.
        buckets.check_key(&Origin::of(address).host).map_err(|not_until| {
            meter::RATE_LIMITED.add("ip", 1);
            not_until.wait_time_from(DefaultClock::default().now())
        })
    }

    /// Drops buckets that are full again. To be called now and then.
    pub(super) fn prune(&self) {
        if let Some(buckets) = &self.rules().buckets {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn clients(change: impl FnOnce(&mut Security)) -> Clients {
        let mut security = Settings::default().security;
        (security.requests_per_second, security.burst_size) = (1, 3);
        change(&mut security);
        Clients::new(&security)
    }

    fn allowed(clients: &Clients, address: &str) -> usize {
        (0..10).filter(|_| clients.charge(address.parse().unwrap()).is_ok()).count()
    }

    #[test]
    fn a_greedy_client_leaves_the_others_their_rate() {
        let clients = clients(|_| {});
        assert_eq!(allowed(&clients, "192.0.2.1"), 3);
        assert_eq!(allowed(&clients, "192.0.2.2"), 3);
        assert_eq!(allowed(&clients, "::ffff:192.0.2.1"), 0, "the same client");
        assert_eq!(allowed(&clients, "2001:db8::1"), 3);
        assert_eq!(allowed(&clients, "2001:db8::2"), 0, "the same network");
        assert_eq!(allowed(&clients, "2001:db8:0:1::2"), 3);
        let wait = clients.charge("192.0.2.1".parse().unwrap()).unwrap_err();
        assert!(wait <= Duration::from_secs(1) && !wait.is_zero(), "{wait:?}");
    }

    #[test]
    fn whitelisted_clients_are_exempt_while_the_list_counts() {
        let listed = |security: &mut Security| security.whitelisted_ips = vec!["192.0.2.1".parse().unwrap()];
        assert_eq!(allowed(&clients(listed), "192.0.2.1"), 3, "the list is not enabled");
        let clients = clients(|security| {
            listed(security);
            security.enable_ip_whitelist = true;
        });
        assert_eq!((allowed(&clients, "192.0.2.1"), allowed(&clients, "192.0.2.2")), (10, 3));
        let mut security = Settings::default().security;
        security.enable_rate_limiting = false;
        clients.configure(&security);
        assert_eq!(allowed(&clients, "192.0.2.2"), 10);
    }

    #[test]
    fn there_are_never_more_buckets_than_the_bound() {
        let clients = clients(|_| {});
        for n in 0..limit::HTTP_CLIENTS_MAX as u32 + 5 {
            clients.charge(std::net::Ipv4Addr::from(n).into()).ok();
        }
        let count = clients.rules().buckets.as_ref().map_or(0, RateLimiter::len);
        assert!(count <= limit::HTTP_CLIENTS_MAX, "{count}");
    }
}
