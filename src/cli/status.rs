//! `status`: the verdict first, then what it rests on.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::output::{Paint, count, escape, local_time, span};
use super::progress;
use super::session::{Keys, Session};
use crate::api::{ApiError, Coverage, PeerInfo, Reachability, Service, Status, Verdict};
use crate::base::{ByteSize, Code};
use crate::http::Client;
use crate::node::Mode;

/// Between two looks of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct StatusArgs {
    /// Show it again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(args: StatusArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    if !args.watch {
        return look(session).await;
    }
    loop {
        if std::io::stdout().is_terminal() && !session.output.json {
            session.output.text("\x1b[H\x1b[2J");
        }
        if let Err(error) = look(session).await {
            session.output.failure(&error, error.kind().exit());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn look(session: &Session<'_>) -> Result<u8, ApiError> {
    let settings = session.load()?.settings;
    let down = match Client::connect(&session.socket(&settings)).await {
        Ok(client) => {
            let status = client.status().await?;
            show(session, &status, true);
            return Ok(exit(&status));
        }
        Err(error) => error,
    };
    if down.kind() != Code::DaemonUnreachable {
        return Err(down);
    }
    let node = match session.open_here(settings, Keys::Unneeded, Mode::Offline).await {
        Ok(node) => node,
        Err(error) if matches!(error.kind(), Code::VaultNotFound | Code::VaultUnfinished) => {
            return Err(error);
        }
        Err(error) => {
            let hint = error.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            session.output.note(&format!(
                "nothing is known here either: {}{}",
                escape(&error.message),
                escape(&hint)
            ));
            return Err(down);
        }
    };
    let result = node.status().await;
    node.shutdown().await?;
    show(session, &result?, false);
    // The text says it already, in its first line.
    if session.output.json { Err(down) } else { Ok(down.kind().exit()) }
}

fn exit(status: &Status) -> u8 {
    match status.verdict {
        Verdict::Ok => 0,
        Verdict::AtRisk | Verdict::Locked => 1,
    }
}

fn show(session: &Session<'_>, status: &Status, up: bool) {
    if session.output.json {
        session.output.document(&document(status, up));
    } else {
        session.output.text(&render(status, up, session.output.paint));
    }
}

/// The status with `daemon`; without one the verdict is `down`.
fn document(status: &Status, up: bool) -> Value {
    let mut document = serde_json::to_value(status).expect("a status is plain data");
    document["daemon"] = up.into();
    if !up {
        document["verdict"] = "down".into();
    }
    document
}

fn render(status: &Status, up: bool, paint: Paint) -> String {
    let mut text = String::new();
    let verdict = match (up, status.verdict) {
        (false, _) => paint.bad("down: no daemon runs; start it with `shadowvault daemon`"),
        (true, Verdict::Ok) => paint.good("ok"),
        (true, Verdict::AtRisk) => paint.bad("at risk"),
        (true, Verdict::Locked) => paint.warning("locked: no backups until `shadowvault unlock`"),
    };
    text += &(verdict + "\n");
    for problem in &status.problems {
        text += &format!("  {} {}\n", paint.bad("!"), escape(problem));
    }
    text.push('\n');
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<9} {value}").expect("writing to a string works");
    };
    let version = escape(&status.version);
    let life =
        if up { format!("up {}", span(status.uptime_seconds as f64)) } else { "not running".to_owned() };
    line("node", format!("{}, version {version}, {life}", status.identity.peer_id));
    match status.identity.vault_id {
        Some(vault) => line("vault", vault.to_string()),
        None => line("vault", "none: this node stores for others only".to_owned()),
    }
    if status.identity.vault_id.is_some() {
        line("backups", backups(status));
        line("copies", copies(status));
        if status.replication.bytes_waiting > 0 {
            line("waiting", waiting(status));
        }
        let verified = status.last_verify.as_deref().map_or("never".to_owned(), local_time);
        line("verified", verified);
        line("audits", audits(status));
        line("restores", proven(status));
    }
    line("scrubbed", scrubbed(&status.scrub));
    line("storage", storage(status));
    let connected = status.peers.iter().filter(|peer| peer.connected).count();
    line("peers", format!("{connected} of {} connected", status.peers.len()));
    for peer in &status.peers {
        line("", one_peer(peer));
    }
    if let Some(reached) = reached(&status.reachability) {
        line("reached", reached);
    }
    for job in &status.jobs {
        let (kind, far) = (progress::word(job.kind), progress::line(&job.progress));
        line("job", format!("{} {kind}: {far}", job.id));
    }
    text
}

fn backups(status: &Status) -> String {
    let mut text = count(status.snapshots, "snapshot");
    match &status.last_snapshot {
        Some(last) => text += &format!(", newest {} from {}", escape(&last.short_id), local_time(&last.time)),
        None if status.snapshots == 0 => text += "; `shadowvault backup PATH` makes the first",
        None => {}
    }
    text
}

fn copies(status: &Status) -> String {
    let (safe, all, wanted) =
        (status.snapshots_safe, count(status.snapshots, "snapshot"), status.copies_wanted);
    let mut text = format!("{safe} of {all} have {wanted} or more copies");
    if status.under_replicated_bytes > 0 {
        text += &format!("; {} still short of them", ByteSize(status.under_replicated_bytes));
    }
    text
}

fn waiting(status: &Status) -> String {
    let replication = &status.replication;
    let mut text = format!("{} to send", ByteSize(replication.bytes_waiting));
    if let Some(since) = &replication.since {
        text += &format!(", since {}", local_time(since));
    }
    if !replication.to.is_empty() {
        text += &format!(", to {}", escape(&replication.to.join(", ")));
    }
    match replication.seconds_left {
        Some(seconds) => {
            let pace = ByteSize(replication.bytes_per_second);
            text + &format!("; {pace}/s, about {} left", span(seconds as f64))
        }
        None if replication.to.is_empty() => text + "; nothing moves now",
        None => text + "; on its way",
    }
}

/// How others reach this node from outside; nothing as long as that is not known.
pub(super) fn reached(how: &Reachability) -> Option<String> {
    let at = |all: &[String]| escape(&all.join(", ")).into_owned();
    let text = match (how.state.as_str(), how.mapped.is_empty(), how.relayed.is_empty()) {
        ("yes", ..) => format!("from outside, at {}", at(&how.reached)),
        ("no", _, false) => "from outside through a relay only".to_owned(),
        ("no", ..) => "not from outside".to_owned(),
        (_, false, _) => format!("from outside, the router says, at {}", at(&how.mapped)),
        _ => return None,
    };
    Some(how.advice.as_ref().map_or(text.clone(), |advice| format!("{text}: {}", escape(advice))))
}

fn proven(status: &Status) -> String {
    match status.drill.as_ref().and_then(|drill| Some((drill, drill.proven.as_deref()?))) {
        Some((drill, when)) if drill.failed == 0 => {
            format!("proven {} with {} from peers", local_time(when), count(drill.files, "file"))
        }
        Some((_, when)) => format!("last proven {}", local_time(when)),
        None => "not proven yet (`shadowvault verify --drill`)".to_owned(),
    }
}

fn audits(status: &Status) -> String {
    let last = status.peers.iter().filter_map(|peer| peer.audit.as_ref()).map(|audit| &audit.time).max();
    match last {
        Some(last) => format!("holders last proved their packs {}", local_time(last)),
        None => "no holder has been asked yet (`shadowvault verify --peers`)".to_owned(),
    }
}

fn scrubbed(round: &Coverage) -> String {
    match (&round.round_completed, &round.last) {
        (Some(done), _) => format!("every pack read again by {}", local_time(done)),
        (None, Some(last)) => {
            format!("{:.0}% of all packs, last {}", round.covered_percent, local_time(last))
        }
        (None, None) => "not yet (`shadowvault scrub --now`)".to_owned(),
    }
}

fn storage(status: &Status) -> String {
    let disk = &status.storage;
    let mut own = format!("own {} in {}", ByteSize(disk.own_bytes), count(disk.own_packs, "pack"));
    if disk.elsewhere_packs > 0 {
        own += &format!(" ({} more with holders only)", ByteSize(disk.elsewhere_bytes));
    }
    let foreign = ByteSize(disk.foreign_bytes + disk.foreign_record_bytes);
    let mut lent = format!("for others {foreign} of {} lent", ByteSize(disk.lend));
    if disk.on_hold_bytes > 0 {
        lent += &format!(" ({} of it on hold)", ByteSize(disk.on_hold_bytes));
    }
    format!("{own}; {lent}; {} free on disk", ByteSize(disk.disk_free))
}

fn one_peer(peer: &PeerInfo) -> String {
    let id = peer.id.to_string();
    let name = peer.name.as_deref().map_or(id.clone(), |name| escape(name).into_owned());
    let state = match (peer.connected, &peer.last_seen) {
        (true, _) => "connected".to_owned(),
        (false, Some(seen)) => {
            format!("{} since {}", peer.state.as_deref().map_or("away".into(), escape), local_time(seen))
        }
        (false, None) => "never seen".to_owned(),
    };
    let standing =
        if peer.standing == "allowed" { String::new() } else { format!(" ({})", escape(&peer.standing)) };
    let (held, stored) = (ByteSize(peer.bytes_held), ByteSize(peer.bytes_stored));
    format!("{name}{standing}: {state}, keeps {held} of ours, {stored} of theirs here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Identity, StorageStatus};
    use crate::base::{PeerId, VaultId};

    fn status(verdict: Verdict) -> Status {
        let peer = PeerInfo {
            id: PeerId::new([7; 32]),
            name: Some("b\x1bob".into()),
            standing: "allowed".into(),
            state: Some("available".into()),
            room_bytes: None,
            connected: true,
            via: None,
            addresses: vec![],
            last_seen: None,
            last_error: None,
            packs_held: 1,
            bytes_held: 1024,
            packs_stored: 0,
            bytes_stored: 0,
            bytes_on_hold: 0,
            audit: None,
        };
        Status {
            verdict,
            problems: vec!["1 snapshot has too few copies: run `shadowvault peers`".into()],
            version: "1.2.3".into(),
            uptime_seconds: 90,
            identity: Identity {
                peer_id: PeerId::new([1; 32]),
                addresses: vec![],
                vault_id: Some(VaultId::new([2; 32])),
            },
            snapshots: 2,
            snapshots_safe: 1,
            last_snapshot: None,
            under_replicated_bytes: 2048,
            repairs: crate::api::RepairQueueStatus::default(),
            replication: crate::api::ReplicationStatus::default(),
            copies_wanted: 2,
            last_verify: None,
            scrub: Coverage::default(),
            drill: None,
            storage: StorageStatus { own_packs: 1, own_bytes: 1024, ..StorageStatus::default() },
            peers: vec![peer],
            jobs: vec![],
            reachability: Reachability::default(),
            listeners: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn how_a_node_is_reached_is_said_with_what_would_help() {
        let how = |state: &str| Reachability { state: state.into(), ..Reachability::default() };
        assert_eq!(reached(&how("unknown")), None);
        let hidden = Reachability { advice: Some("forward a port".into()), ..how("no") };
        assert_eq!(reached(&hidden).unwrap(), "not from outside: forward a port");
        let mapped = Reachability { mapped: vec!["/ip4/9.9.9.9/tcp/1".into()], ..how("unknown") };
        assert_eq!(reached(&mapped).unwrap(), "from outside, the router says, at /ip4/9.9.9.9/tcp/1");
    }

    #[test]
    fn verdict_and_problems_come_first() {
        let text = render(&status(Verdict::AtRisk), true, Paint(false));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "at risk");
        assert_eq!(lines[1], "  ! 1 snapshot has too few copies: run `shadowvault peers`");
        assert!(
            text.contains("copies    1 of 2 snapshots have 2 or more copies; 2.0 KiB still short of them\n")
        );
        assert!(
            text.contains(
                "peers     1 of 1 connected\n          b\\u{1b}ob: connected, keeps 1.0 KiB of ours"
            )
        );
        assert!(!text.contains('\x1b'));
        let down = render(&status(Verdict::Ok), false, Paint(false));
        assert!(down.starts_with("down") && down.contains("`shadowvault daemon`"));
    }

    #[test]
    fn exit_follows_the_verdict_and_json_tells_of_the_daemon() {
        for (verdict, code) in [(Verdict::Ok, 0), (Verdict::AtRisk, 1), (Verdict::Locked, 1)] {
            assert_eq!(exit(&status(verdict)), code);
        }
        assert_eq!(document(&status(Verdict::AtRisk), true)["verdict"], "at-risk");
        let down = document(&status(Verdict::Ok), false);
        assert_eq!((&down["verdict"], &down["daemon"]), (&"down".into(), &false.into()));
    }
}
