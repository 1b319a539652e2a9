//! `peers` and `id`.

use clap::{Args, Subcommand};

use super::output::{Paint, Table, escape, local_time};
use super::session::{Keys, Session};
use super::verify::render_audit;
use crate::api::{AddPeer, ApiError, Identity, PeerInfo};
use crate::base::ByteSize;
use crate::node::Mode;

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
    },
    /// Remove a peer; it is disconnected at once
    Remove {
        /// Its id or name
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
        Verb::Add { address, name } => {
            let result = service.add_peer(AddPeer { address, name }).await;
            let peer = handle.close(result).await?;
            session.output.show(&peer, |peer, _| changed("allowed", peer));
            session
                .output
                .note("it must allow this node as well: `shadowvault id` shows what to give its owner");
        }
        Verb::Remove { peer } => {
            let result = service.remove_peer(peer).await;
            let peer = handle.close(result).await?;
            session.output.show(&peer, |peer, _| changed("removed", peer));
        }
    }
    Ok(0)
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

fn render(peers: &[PeerInfo], paint: Paint) -> String {
    if peers.is_empty() {
        return "no peers; `shadowvault peers add ADDR` allows one\n".to_owned();
    }
    let mut table = Table::new(&["NAME", "PEER", "STANDING", "SEEN", ">KEEPS OURS", ">STORED HERE"]);
    for peer in peers {
        let seen = match (peer.connected, &peer.last_seen) {
            (true, _) if peer.via.as_deref() == Some("relay") => "through a relay".to_owned(),
            (true, _) => "connected".to_owned(),
            (false, Some(seen)) => local_time(seen),
            (false, None) => "never".to_owned(),
        };
        table.row([
            peer.name.clone().unwrap_or_else(|| "-".to_owned()),
            peer.id.to_string(),
            peer.standing.clone(),
            seen,
            ByteSize(peer.bytes_held).to_string(),
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
            connected: false,
            via: None,
            addresses: vec![],
            last_seen: None,
            last_error: Some("refused".into()),
            packs_held: 0,
            bytes_held: 10,
            packs_stored: 0,
            bytes_stored: 0,
            audit: None,
            bytes_on_hold: 0,
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
