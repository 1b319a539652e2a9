//! Allowing, turning away and removing peers, and looking at one of them closely.

use std::sync::Arc;
use std::time::Instant;

use super::core::Core;
use super::error::failed;
use super::ticket::check_name;
use super::{reach, status, upkeep};
use crate::api::{AddPeer, ApiError, PeerDetail, PeerInfo, PeerWay};
use crate::base::{Code, Moment, PeerId, format_duration};
use crate::crypto;
use crate::net::{AddressState, Net, NetError, parse_peer_address};
use crate::store::{PeerEntry, Word};
use crate::wire;

/// Characters of a peer id's end that name it.
const SUFFIX_CHARS_MIN: usize = 6;

/// Allows the peer of an address, and dials it.
pub(super) async fn add(core: &Arc<Core>, request: AddPeer) -> Result<PeerInfo, ApiError> {
    let (peer, address) = parse_peer_address(&request.address).map_err(failed)?;
    if peer == core.key.peer_id() {
        return Err(ApiError::new(Code::UsageInvalid, "that is this node's own address"));
    }
    if let Some(name) = &request.name {
        check_name(name)?;
    }
    let entry = PeerEntry {
        name: request.name,
        addresses: vec![address.clone()],
        ..PeerEntry::new(peer, core.now())
    };
    core.admit(entry, Word::Person).await?;
    if let Ok(net) = core.net() {
        net.add_address(peer, &address).await.map_err(failed)?;
    }
    listed(core, peer).await
}

/// Allows a peer that knocked. It comes again by itself: where it came from it may not listen.
pub(super) async fn accept(core: &Arc<Core>, name: &str) -> Result<PeerInfo, ApiError> {
    let info = find(core, name).await?;
    if info.standing == "allowed" {
        return Ok(info);
    }
    core.admit(PeerEntry::new(info.id, core.now()), Word::Person).await?;
    listed(core, info.id).await
}

/// Turns a peer that knocked away.
pub(super) async fn reject(core: &Arc<Core>, name: &str) -> Result<PeerInfo, ApiError> {
    let info = find(core, name).await?;
    if info.standing != "pending" {
        let text = format!("{} is not waiting to be let in", info.id);
        return Err(ApiError::new(Code::UsageInvalid, text)
            .with_hint("`shadowvault peers remove` takes an allowed peer off the list"));
    }
    let (peer, now) = (info.id, core.now());
    core.edit_book(move |book| book.reject(peer, now)).await?;
    if let Ok(net) = core.net() {
        net.forget(peer).await;
    }
    Ok(info)
}

/// Takes a peer off the list, until a person allows it again, and disconnects it; what it holds for this node counts no more.
pub(super) async fn remove(core: &Arc<Core>, name: &str) -> Result<PeerInfo, ApiError> {
    let info = find(core, name).await?;
    let (peer, now) = (info.id, core.now());
    core.edit_book(move |book| book.remove(peer, now)).await?;
    part(core, peer).await?;
    Ok(info)
}

/// The same on the word that an admin gave at that time.
pub(super) async fn retire(core: &Arc<Core>, peer: PeerId, time: Moment) -> Result<(), ApiError> {
    core.edit_book(move |book| book.retire(peer, time)).await?;
    part(core, peer).await
}

/// Ends everything with a peer that is off the list.
async fn part(core: &Arc<Core>, peer: PeerId) -> Result<(), ApiError> {
    core.members.remove(&peer);
    if let Ok(net) = core.net() {
        net.forget(peer).await;
    }
    core.holding.part(peer);
    core.owning.forget_offers(peer);
    core.owning.accept(peer);
    core.clocks.forget(peer);
    core.pulling.forget(&peer);
    // Its receipts no longer count: the packs get other holders.
    core.blocking(move |core| {
        core.store.drop_receipts(peer).map_err(failed)?;
        core.store.remove_receipt_files(peer).map_err(failed)?;
        upkeep::drop_vacant(core)
    })
    .await?;
    core.changed.notify_one();
    Ok(())
}

async fn listed(core: &Arc<Core>, peer: PeerId) -> Result<PeerInfo, ApiError> {
    let all = core.blocking(status::peers).await?;
    all.into_iter().find(|info| info.id == peer).ok_or_else(|| no_such_peer(&peer.to_string()))
}

fn no_such_peer(name: &str) -> ApiError {
    let name: String = name.chars().take(80).collect();
    ApiError::new(Code::PeerNotFound, format!("no peer matches {name:?}"))
        .with_hint("`shadowvault peers` lists them")
}

/// The one peer with this id, name or end of an id.
async fn find(core: &Arc<Core>, name: &str) -> Result<PeerInfo, ApiError> {
    let all = core.blocking(status::peers).await?;
    let matches = |info: &&PeerInfo| {
        let id = info.id.to_string();
        id == name
            || info.name.as_deref() == Some(name)
            || (name.len() >= SUFFIX_CHARS_MIN && id.ends_with(name))
    };
    let found: Vec<&PeerInfo> = all.iter().filter(matches).collect();
    match found.as_slice() {
        [info] => Ok((*info).clone()),
        [] => Err(no_such_peer(name)),
        several => {
            let ids: Vec<String> = several.iter().map(|info| info.id.to_string()).collect();
            let text = format!("{} peers are called {name:?}: {}", several.len(), ids.join(", "));
            Err(ApiError::new(Code::PeerNotFound, text).with_hint("give the id"))
        }
    }
}

// ---- Looking closely ---------------------------------------------------------------------------------------

/// What is known of a peer; with `dial` its addresses are tried now, and the answer of a connected one is timed.
pub(super) async fn detail(core: &Arc<Core>, name: &str, dial: bool) -> Result<PeerDetail, ApiError> {
    let found = find(core, name).await?;
    let peer = found.id;
    let mut round_trip_ms = None;
    let mut failure = None;
    if dial {
        let net = core.net()?;
        let member = core.members.allows(&peer);
        // Where a member is the network knows, and how far that is to be trusted.
        let addresses = if member { &[] } else { found.addresses.as_slice() };
        match time(net, member, peer, addresses).await {
            Ok(ms) => round_trip_ms = Some(ms),
            Err(error) => failure = Some(error),
        }
    }
    // After the dial: it may have changed all of it.
    let info = listed(core, peer).await?;
    let states = core.net().map(Net::peers).unwrap_or_default();
    let state = states.into_iter().find(|state| state.id == peer);
    let entry = core.book().find(peer).cloned();
    let ways = state.as_ref().map(|state| state.addresses.iter().map(way).collect()).unwrap_or_default();
    let advice = advice(&info, core.key.peer_id(), failure.as_ref());
    Ok(PeerDetail {
        words: crypto::pairing_words(core.key.peer_id(), peer),
        transport: state.as_ref().and_then(|s| s.transport).map(|transport| transport.name().to_owned()),
        round_trip_ms,
        agent: state.and_then(|s| s.agent_version),
        lends: entry.as_ref().and_then(|entry| entry.lends),
        quota: entry.as_ref().and_then(|entry| entry.quota),
        ways,
        advice,
        here: reach::reachability(core),
        peer: info,
    })
}

/// Milliseconds for one small request and its answer, connection apart.
async fn time(net: &Net, member: bool, peer: PeerId, addresses: &[String]) -> Result<f64, NetError> {
    net.dial(peer, addresses).await?;
    let began = Instant::now();
    if member {
        // Nothing is asked: that the answer says so is answer enough.
        net.sync(peer, wire::SyncRequest { ask: None }).await?;
    } else {
        let hello = wire::DoorHello { name: String::new() };
        net.door(peer, wire::DoorRequest { ask: Some(wire::door_request::Ask::Hello(hello)) }).await?;
    }
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn way(known: &AddressState) -> PeerWay {
    PeerWay {
        address: known.address.clone(),
        last_good: known.last_good.map(Moment::to_rfc3339),
        advice: known.last_error.as_deref().map(|error| cure(error).to_owned()),
        error: known.last_error.clone(),
    }
}

/// What to do about an error at one address. The texts are the system's and libp2p's; one that is not known gets the
/// general advice.
fn cure(error: &str) -> &'static str {
    let error = error.to_lowercase();
    let has = |part: &str| error.contains(part);
    if has("refused") {
        "nothing listens there: start `shadowvault daemon` on that machine, or its port has changed"
    } else if has("another node answers") {
        "the address belongs to another node now: ask for the new one (`shadowvault id` there)"
    } else if has("this node itself") {
        "the address is this machine's own: was the data directory copied?"
    } else if has("timed out") || has("timeout") {
        "a firewall drops the packets, or the machine is off: open the port there, or forward it on the router"
    } else if has("unreachable") || has("no route") {
        "this machine has no route there: check its network"
    } else if has("dns") || has("resolve") || has("lookup") {
        "the name is not known: check its spelling and this machine's resolver"
    } else if has("not supported") {
        "this version does not speak that transport: give a /tcp or /quic-v1 address"
    } else if has("not dialled") {
        "a limit of this node is reached: see `p2p.max_peers`"
    } else {
        "check that the daemon runs there and that the address is right"
    }
}

/// What helps with the peer as a whole.
fn advice(info: &PeerInfo, me: PeerId, failure: Option<&NetError>) -> Option<String> {
    if info.connected {
        return None;
    }
    let text = match (info.standing.as_str(), failure) {
        ("pending", _) => {
            format!("it waits to be let in: `shadowvault peers accept {}`", info.id.short())
        }
        (_, Some(NetError::NoAddress(_))) => {
            "no address of it is known: `shadowvault peers add ADDRESS`, or wait until it dials".to_owned()
        }
        (_, Some(NetError::NotAdmitted(_))) => format!(
            "it answers, but does not list this node: `shadowvault peers accept {}` there",
            me.short()
        ),
        (_, Some(NetError::Timeout { after, .. })) => {
            format!("it did not answer within {}: its machine may be overloaded", format_duration(*after))
        }
        (_, Some(NetError::OtherVersion(_))) => {
            "update shadowvault on the older of the two machines".to_owned()
        }
        _ if info
            .last_error
            .as_deref()
            .is_some_and(|error| error.starts_with("connected, but it does not list")) =>
        {
            format!("let this node in there: `shadowvault peers accept {}`", me.short())
        }
        _ => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_own_cure() {
        let table = [
            ("Connection refused (os error 111)", "nothing listens"),
            ("another node answers there: 12D3KooW", "another node"),
            ("this node itself answers there", "own"),
            ("Connection timed out (os error 110)", "firewall"),
            ("Timeout has been reached", "firewall"),
            ("Network is unreachable (os error 101)", "route"),
            ("failed to lookup address information", "name"),
            ("something new", "check that"),
        ];
        for (error, part) in table {
            assert!(cure(error).contains(part), "{error}: {}", cure(error));
        }
    }
}
