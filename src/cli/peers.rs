//! `peers` and `id`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use prost::Message;

use super::init::read_phrase;
use super::join::render_words;
use super::output::{Paint, Table, escape, local_time};
use super::session::{Keys, Session};
use super::status::reached;
use super::verify::render_audit;
use crate::api::{AddPeer, ApiError, Identity, PeerDetail, PeerInfo, Service};
use crate::base::{ByteSize, Clock, Code, Moment, SystemClock};
use crate::node::Mode;
use crate::node::parse_peer_address;
use crate::snapshot::{PeerRecordDraft, sign_peer_record};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct PeersArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// List known peers
    List,
    /// Allow a peer to connect and to store
    Add {
        /// Multiaddr with the peer's id, such as /ip4/203.0.113.5/tcp/9000/p2p/12D3…
        #[arg(value_name = "ADDR")]
        address: String,
        /// A name for it
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// For every node that trusts this vault's admin key (`acl.admins`); needs the phrase
        #[arg(long, requires = "phrase_file")]
        for_all: bool,
        /// The recovery phrase to sign with; - reads stdin
        #[arg(long, value_name = "FILE", requires = "for_all")]
        phrase_file: Option<PathBuf>,
    },
    /// Remove a peer; it is disconnected at once
    Remove {
        /// Its id or name
        #[arg(value_name = "PEER")]
        peer: String,
        /// For every node that trusts this vault's admin key (`acl.admins`); needs the phrase
        #[arg(long, requires = "phrase_file")]
        for_all: bool,
        /// The recovery phrase to sign with; - reads stdin
        #[arg(long, value_name = "FILE", requires = "for_all")]
        phrase_file: Option<PathBuf>,
    },
    /// Show one peer with all its addresses
    Show {
        /// Its id or name
        #[arg(value_name = "PEER")]
        peer: String,
    },
    /// Time a request and its answer
    Ping {
        /// Its id or name
        #[arg(value_name = "PEER")]
        peer: String,
    },
    /// Try every address of a peer, and tell what failed and what to do
    Why {
        /// Its id or name
        #[arg(value_name = "PEER")]
        peer: String,
    },
    /// Let a peer in that knocked
    Accept {
        /// Its id, or the end of it
        #[arg(value_name = "PEER")]
        peer: String,
    },
    /// Turn a peer away that knocked; it is not listed again
    Reject {
        /// Its id, or the end of it
        #[arg(value_name = "PEER")]
        peer: String,
    },
}

pub(super) async fn run(args: PeersArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Unneeded, Mode::Offline).await?;
    let service = handle.service();
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let result = service.peers().await;
            let peers = handle.close(result).await?;
            session.output.show(&peers, |peers, paint| render(peers, paint));
        }
        Verb::Add { address, name, for_all: true, phrase_file: Some(phrase) } => {
            let (peer, place) = parse_peer_address(&address).map_err(|error| ApiError::from(&error))?;
            let name = name.unwrap_or_default();
            let draft = PeerRecordDraft { removes: false, peer, name, addresses: vec![place], time: now() };
            let result = publish(service, session, &phrase, draft).await;
            let peer = handle.close(result).await?;
            session.output.show(&peer, |peer, _| changed("allowed everywhere", peer));
        }
        Verb::Remove { peer, for_all: true, phrase_file: Some(phrase) } => {
            let result = async {
                let peer = service.peer(peer, false).await?.peer.id;
                let (name, addresses) = (String::new(), Vec::new());
                let draft = PeerRecordDraft { removes: true, peer, name, addresses, time: now() };
                publish(service, session, &phrase, draft).await
            };
            let result = result.await;
            let peer = handle.close(result).await?;
            session.output.show(&peer, |peer, _| changed("removed everywhere", peer));
        }
        Verb::Add { address, name, .. } => {
            let result = service.add_peer(AddPeer { address, name }).await;
            let peer = handle.close(result).await?;
            session.output.show(&peer, |peer, _| changed("allowed", peer));
            session
                .output
                .note("it must allow this node as well: `shadowvault id` shows what to give its owner");
        }
        Verb::Remove { peer, .. } => {
            let result = service.remove_peer(peer).await;
            let peer = handle.close(result).await?;
            session.output.show(&peer, |peer, _| changed("removed", peer));
        }
        Verb::Accept { peer } => {
            let result = service.accept_peer(peer).await;
            let peer = handle.close(result).await?;
            session.output.show(&peer, |peer, _| changed("allowed", peer));
        }
        Verb::Reject { peer } => {
            let result = service.reject_peer(peer).await;
            let peer = handle.close(result).await?;
            session.output.show(&peer, |peer, _| changed("turned away", peer));
        }
        Verb::Show { peer } => {
            let result = service.peer(peer, false).await;
            let detail = handle.close(result).await?;
            session.output.show(&detail, |detail, _| render_detail(detail));
        }
        Verb::Why { peer } => {
            let result = service.peer(peer, true).await;
            let detail = handle.close(result).await?;
            session.output.show(&detail, |detail, _| render_why(detail));
        }
        Verb::Ping { peer } => {
            let result = service.peer(peer, true).await;
            let detail = handle.close(result).await?;
            if detail.round_trip_ms.is_none() {
                return Err(no_answer(&detail));
            }
            session.output.show(&detail, |detail, _| render_ping(detail));
        }
    }
    Ok(0)
}

fn now() -> Moment {
    SystemClock.now()
}

/// Signs a record with the phrase's admin key and hands it to the node; the peer as it was or is listed.
async fn publish(
    service: &dyn Service,
    session: &Session<'_>,
    phrase: &Path,
    draft: PeerRecordDraft,
) -> Result<PeerInfo, ApiError> {
    let admin = read_phrase(phrase, session.output)?.root().admin();
    let record = hex::encode(sign_peer_record(&admin, &draft).encode_to_vec());
    let find = async || Ok::<_, ApiError>(service.peers().await?.into_iter().find(|p| p.id == draft.peer));
    let before = find().await?;
    service.publish_peer_record(record).await?;
    let after = find().await?;
    after.or(before).ok_or_else(|| ApiError::new(Code::Internal, "the peer is not listed"))
}

pub(super) async fn identity(session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Unneeded, Mode::Offline).await?;
    let result = handle.service().identity().await;
    let identity = handle.close(result).await?;
    session.output.show(&identity, |identity, _| describe(identity));
    Ok(0)
}

/// Who a node is, in a few lines.
pub(super) fn describe(identity: &Identity) -> String {
    let vault = identity.vault_id.map_or("none (storage only)".to_owned(), |id| id.to_string());
    let mut text = format!("peer id   {}\nvault     {vault}\n", identity.peer_id);
    for address in &identity.addresses {
        text += &format!("address   {}\n", escape(address));
    }
    text
}

fn changed(what: &str, peer: &PeerInfo) -> String {
    let name = peer.name.as_ref().map(|name| format!(" ({})", escape(name))).unwrap_or_default();
    format!("{what} {}{name}\n", peer.id)
}

fn title(peer: &PeerInfo) -> String {
    let name = peer.name.as_ref().map(|name| format!(" ({})", escape(name))).unwrap_or_default();
    format!("{}{name}", peer.id)
}

fn render_ping(detail: &PeerDetail) -> String {
    let ms = detail.round_trip_ms.unwrap_or_default();
    let over = detail.transport.as_deref().map(|t| format!(" over {}", escape(t))).unwrap_or_default();
    format!("{} answered in {ms:.1} ms{over}\n", title(&detail.peer))
}

fn no_answer(detail: &PeerDetail) -> ApiError {
    let text = format!("no answer from {}", title(&detail.peer));
    let why = format!("`shadowvault peers why {}` tells what is in the way", detail.peer.id.short());
    ApiError::new(Code::NetworkUnreachable, text).with_hint(why)
}

/// What is in the way, address by address.
fn render_why(detail: &PeerDetail) -> String {
    let peer = &detail.peer;
    let mut text = format!("{}: ", title(peer));
    text += match (peer.connected, peer.standing.as_str()) {
        (true, _) => "connected\n",
        (false, "pending") => "waits to be let in\n",
        (false, _) => "not connected\n",
    };
    for way in &detail.ways {
        text += &format!("  {}\n", escape(&way.address));
        if let Some(error) = &way.error {
            text += &format!("    failed: {}\n", escape(error));
        } else if let Some(good) = &way.last_good {
            text += &format!("    worked at {}\n", local_time(good));
        } else {
            text += "    not tried\n";
        }
        if let Some(advice) = &way.advice {
            text += &format!("    {}\n", escape(advice));
        }
    }
    let advice = detail.advice.as_ref().or(peer.last_error.as_ref().filter(|_| detail.ways.is_empty()));
    if let Some(advice) = advice {
        text += &format!("  {}\n", escape(advice));
    }
    if let Some(here) = reached(&detail.here).filter(|_| !peer.connected) {
        text += &format!("  this node is reached {here}\n");
    }
    text
}

fn render_detail(detail: &PeerDetail) -> String {
    let peer = &detail.peer;
    let mut text = format!("peer      {}\n", title(peer));
    let state = match (peer.connected, &peer.last_seen) {
        (true, _) => {
            let over =
                detail.transport.as_deref().map(|t| format!(" over {}", escape(t))).unwrap_or_default();
            format!("connected{over}")
        }
        (false, Some(seen)) => format!("last seen {}", local_time(seen)),
        (false, None) => "never seen".to_owned(),
    };
    text += &format!("state     {}, {state}\n", escape(&peer.standing));
    if let Some(agent) = &detail.agent {
        text += &format!("runs      {}\n", escape(agent));
    }
    text += &render_words(&detail.words);
    let lends = detail.lends.map(|bytes| format!(" of {} that it lends", ByteSize(bytes)));
    text += &format!("keeps     {}{} for this node\n", ByteSize(peer.bytes_held), lends.unwrap_or_default());
    let quota = detail.quota.map(|bytes| format!(" of {} that it may", ByteSize(bytes)));
    text += &format!("stores    {}{} here\n", ByteSize(peer.bytes_stored), quota.unwrap_or_default());
    for address in &peer.addresses {
        text += &format!("address   {}\n", escape(address));
    }
    text
}

fn render(peers: &[PeerInfo], paint: Paint) -> String {
    if peers.is_empty() {
        return "no peers; `shadowvault invite` makes a ticket for one, `shadowvault peers add ADDR` allows one\n".to_owned();
    }
    let mut table = Table::new(&["NAME", "PEER", "STANDING", "SEEN", ">KEEPS OURS", ">ROOM", ">STORED HERE"]);
    for peer in peers {
        let seen = match (peer.connected, &peer.last_seen) {
            (true, _) if peer.via.as_deref() == Some("relay") => "through a relay".to_owned(),
            (true, _) => "connected".to_owned(),
            (false, Some(seen)) => match &peer.state {
                Some(state) => format!("{state} since {}", local_time(seen)),
                None => local_time(seen),
            },
            (false, None) => "never".to_owned(),
        };
        table.row([
            peer.name.clone().unwrap_or_else(|| "-".to_owned()),
            peer.id.to_string(),
            peer.standing.clone(),
            seen,
            ByteSize(peer.bytes_held).to_string(),
            peer.room_bytes.map_or("-".to_owned(), |bytes| ByteSize(bytes).to_string()),
            ByteSize(peer.bytes_stored).to_string(),
        ]);
    }
    let mut text = table.render(paint);
    for audit in peers.iter().filter_map(|peer| peer.audit.as_ref()) {
        text += &format!("{}: {}\n", local_time(&audit.time), render_audit(audit, paint));
    }
    for peer in peers.iter().filter(|peer| !peer.connected) {
        if let Some(error) = &peer.last_error {
            let id = peer.id.short();
            text += &format!("{}: {}\n", peer.name.as_deref().map_or(id.into(), escape), escape(error));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PeerId;

    #[test]
    fn peers_are_a_table_with_their_last_errors_below() {
        let id = PeerId::new([7; 32]);
        let peer = PeerInfo {
            id,
            name: Some("bob\x07".into()),
            standing: "allowed".into(),
            state: Some("available".into()),
            room_bytes: None,
            connected: false,
            via: None,
            addresses: vec![],
            last_seen: None,
            last_error: Some("refused".into()),
            packs_held: 0,
            bytes_held: 10,
            packs_stored: 0,
            bytes_stored: 0,
            bytes_on_hold: 0,
            audit: None,
        };
        let text = render(&[peer], Paint(false));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with(&format!("bob\\u{{7}}  {id}  allowed   never")), "{text}");
        assert_eq!(lines[2], "bob\\u{7}: refused");
        assert!(render(&[], Paint(false)).contains("peers add"));
    }

    #[test]
    fn identity_shows_whole_ids() {
        let peer_id = PeerId::new([1; 32]);
        let identity = Identity { peer_id, addresses: vec!["/ip4/1.2.3.4/tcp/9000".into()], vault_id: None };
        let text = describe(&identity);
        assert_eq!(
            text,
            format!("peer id   {peer_id}\nvault     none (storage only)\naddress   /ip4/1.2.3.4/tcp/9000\n")
        );
    }
}
