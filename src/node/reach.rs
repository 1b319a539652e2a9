//! Whether this node can be reached from outside: members are asked now and then to call it back. What they find is told
//! in `status` and announced; what nobody found is not announced.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::core::Core;
use crate::api::{ApiError, Reachability};
use crate::base::{Code, Moment, PeerId, limit};
use crate::net::{CalledBack, Net, Outside, Router, Transport};
use crate::wire::{self, sync_response::Answer};

/// After a member came or an address changed: several do at one time.
const SETTLE: Duration = Duration::from_secs(2);

/// What members found, each with when it was asked.
#[derive(Default)]
pub(super) struct Reach {
    found: Mutex<HashMap<PeerId, (Moment, Option<CalledBack>)>>,
    wake: Notify,
}

/// What they found together.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Missed,
    Reached(Vec<String>),
}

impl Reach {
    /// A member is there that may be asked.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// This node listens elsewhere: what was found is old.
    pub(super) fn moved(&self) {
        self.found.lock().expect("no panic while held").clear();
        self.wake();
    }

    fn note(&self, peer: PeerId, now: Moment, found: Option<CalledBack>) {
        self.found.lock().expect("no panic while held").insert(peer, (now, found));
    }

    /// Those of `members` that are to be asked: until enough that look from outside have answered.
    fn due(&self, members: Vec<PeerId>, now: Moment) -> Vec<PeerId> {
        let mut found = self.found.lock().expect("no panic while held");
        found.retain(|_, (asked, _)| now.since(*asked) < 2 * limit::CALL_EVERY);
        let is_fresh = |(asked, _): &(Moment, _)| now.since(*asked) < limit::CALL_EVERY;
        let outside =
            |(_, found): &(Moment, Option<CalledBack>)| found.as_ref().is_some_and(|f| f.from_outside);
        let answered = found.values().filter(|entry| is_fresh(entry) && outside(entry)).count();
        if answered >= limit::CALLERS_MAX {
            return Vec::new();
        }
        members.into_iter().filter(|peer| !found.get(peer).is_some_and(is_fresh)).collect()
    }

    fn together(&self) -> Found {
        let found = self.found.lock().expect("no panic while held");
        let outside: Vec<&CalledBack> = found
            .values()
            .filter_map(|(_, found)| found.as_ref())
            .filter(|found| found.from_outside)
            .collect();
        let mut reached: Vec<String> = outside.iter().filter_map(|found| found.reached.clone()).collect();
        reached.sort_unstable();
        reached.dedup();
        match (outside.is_empty(), reached.is_empty()) {
            (true, _) => Found::Nothing,
            (false, true) => Found::Missed,
            (false, false) => Found::Reached(reached),
        }
    }
}

/// Asks members whenever one came or an address changed, and every `limit::CALL_EVERY`; until the node ends.
pub(super) async fn run_loop(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.reach.wake.notified() => {}
            () = tokio::time::sleep(limit::CALL_EVERY) => {}
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = round(&core) => {}
        }
    }
}

async fn round(core: &Arc<Core>) {
    let Ok(net) = core.net() else { return };
    let states = net.peers();
    let direct = states.iter().filter(|state| state.transport != Some(Transport::Relay));
    let direct: HashSet<PeerId> = direct.map(|state| state.id).collect();
    let before = core.reach.together();
    let members: Vec<PeerId> = core.connected().into_iter().filter(|peer| direct.contains(peer)).collect();
    for peer in core.reach.due(members, core.now()) {
        let found = net.ask_call(peer).await;
        if let Err(error) = &found {
            tracing::debug!(target: "net", peer = %peer.short(), %error, "does not call back");
        }
        core.reach.note(peer, core.now(), found.ok());
    }
    let after = core.reach.together();
    if before != after {
        match &after {
            Found::Nothing => {}
            Found::Missed => tracing::info!(target: "net", "members outside do not reach this node directly"),
            Found::Reached(at) => tracing::info!(target: "net", ?at, "members outside reach this node"),
        }
    }
    let confirmed = if let Found::Reached(at) = after { at } else { Vec::new() };
    net.confirm_outside(&confirmed).await;
}

/// A member wants to be called back.
pub(super) async fn answer(
    core: &Arc<Core>,
    from: PeerId,
    query: wire::CallBack,
) -> Result<Option<Answer>, ApiError> {
    let mut addresses = query.addresses;
    addresses.truncate(limit::PEER_ADDRESSES_MAX);
    let Some((seen_at, reached)) = core.net()?.call_back(from, &addresses).await else {
        return Err(ApiError::new(Code::PeerBusy, "it was called a moment ago, or is not seen directly"));
    };
    let reached = reached.unwrap_or_default();
    Ok(Some(Answer::CalledBack(wire::CalledBack { seen_at: seen_at.to_string(), reached })))
}

/// How this node looks from outside, and what would help.
pub(super) fn reachability(core: &Core) -> Reachability {
    let Ok(net) = core.net() else { return Reachability::default() };
    describe(core.reach.together(), net.outside(), port(net))
}

/// The TCP port that this node listens on.
fn port(net: &Net) -> Option<String> {
    let addresses = net.addresses();
    let direct =
        addresses.iter().find(|address| !address.contains("/p2p-circuit") && address.contains("/tcp/"))?;
    direct.split("/tcp/").nth(1)?.split('/').next().map(str::to_owned)
}

fn describe(found: Found, outside: Outside, port: Option<String>) -> Reachability {
    let port = port.map_or("the port of `listen_port`".to_owned(), |port| format!("TCP and UDP port {port}"));
    let (router, mapped) = match outside.router {
        None => (None, Vec::new()),
        Some(Router::Silent) => (Some("none answers (UPnP)"), Vec::new()),
        Some(Router::Refuses) => (Some("answers, but forwards no port (UPnP)"), Vec::new()),
        Some(Router::Hidden) => (Some("has no public address itself"), Vec::new()),
        Some(Router::Forwards(mapped)) => (Some("forwards (UPnP)"), mapped),
    };
    let (state, advice) = match &found {
        Found::Nothing => ("unknown", None),
        Found::Reached(_) => ("yes", None),
        Found::Missed if outside.relayed.is_empty() => (
            "no",
            Some(format!(
                "have the router forward {port} to this machine, or set `nat_traversal.serve_relay: true` on a member \
                 that others reach"
            )),
        ),
        Found::Missed => (
            "no",
            Some(format!(
                "members come through a relay; it is faster when the router forwards {port} to this machine"
            )),
        ),
    };
    Reachability {
        state: state.to_owned(),
        reached: outside.reached,
        mapped,
        relayed: outside.relayed,
        router: router.map(str::to_owned),
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(from_outside: bool, reached: Option<&str>) -> Option<CalledBack> {
        Some(CalledBack { from_outside, reached: reached.map(str::to_owned) })
    }

    #[test]
    fn only_those_outside_say_whether_a_node_is_reached() {
        let at = "/ip4/203.0.113.7/tcp/9000";
        let reached = || Found::Reached(vec![at.to_owned()]);
        let table = [
            (vec![], Found::Nothing),
            (vec![answer(false, Some("/ip4/10.0.0.1/tcp/9000")), None], Found::Nothing),
            (vec![answer(false, Some("/ip4/10.0.0.1/tcp/9000")), answer(true, None)], Found::Missed),
            // One that fails may be at fault itself.
            (vec![answer(true, None), answer(true, Some(at))], reached()),
        ];
        for (answers, expected) in table {
            let reach = Reach::default();
            for (n, found) in answers.into_iter().enumerate() {
                reach.note(PeerId::new([n as u8; 32]), Moment::from_millis(1), found);
            }
            assert_eq!(reach.together(), expected);
        }
    }

    #[test]
    fn members_are_asked_until_enough_have_looked_from_outside_and_again_later() {
        let reach = Reach::default();
        let all: Vec<PeerId> = (0..9).map(|n| PeerId::new([n; 32])).collect();
        let at = |ms: u64| Moment::from_millis(ms);
        let every = limit::CALL_EVERY.as_millis() as u64;
        assert_eq!(reach.due(all.clone(), at(every)), all);
        reach.note(all[0], at(every), answer(false, None));
        assert_eq!(reach.due(all.clone(), at(every)), all[1..]);
        for peer in &all[1..=limit::CALLERS_MAX] {
            reach.note(*peer, at(every), answer(true, None));
        }
        assert_eq!(reach.due(all.clone(), at(every)), []);
        assert_eq!(reach.due(all.clone(), at(2 * every)), all);
    }

    #[test]
    fn what_helps_is_said_when_nobody_gets_through() {
        let outside = |relayed: &[&str]| Outside {
            reached: vec![],
            relayed: relayed.iter().map(|a| (*a).to_owned()).collect(),
            router: Some(Router::Silent),
        };
        let alone = describe(Found::Missed, outside(&[]), Some("9000".to_owned()));
        let advice = alone.advice.expect("advice");
        assert!(advice.contains("port 9000") && advice.contains("serve_relay"), "{advice}");
        let relayed = describe(Found::Missed, outside(&["/ip4/1.2.3.4/tcp/1/p2p/X/p2p-circuit"]), None);
        assert!(relayed.advice.expect("advice").contains("relay"));
        assert_eq!(describe(Found::Nothing, outside(&[]), None).advice, None);
    }
}
