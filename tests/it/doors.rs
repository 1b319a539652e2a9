//! Who comes in earnest gets in, however many others stand at the door and say nothing.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use shadowvault::base::{PeerId, limit, random_bytes};
use shadowvault::net::{BoxFuture, Limits, Members, Net, NetConfig, Server};
use shadowvault::wire::{self, sync_request::Ask};

use super::joining::invite;
use super::node::{Node, connected, pair, until};
use super::tree;

/// Connections that say nothing, and are made again as soon as they are cut off. They end with it.
struct Silent {
    ended: Arc<AtomicBool>,
    all: Vec<JoinHandle<()>>,
}

impl Silent {
    fn at(address: SocketAddr, count: usize) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let stand = move |ended: Arc<AtomicBool>| {
            while !ended.load(Ordering::Relaxed) {
                let Ok(mut stream) = TcpStream::connect(address) else { continue };
                stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
                // Until it is cut off; what the other side says does not matter.
                while !ended.load(Ordering::Relaxed) {
                    match stream.read(&mut [0; 256]) {
                        Ok(0) => break,
                        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                        _ => {}
                    }
                }
            }
        };
        let all = (0..count).map(|_| {
            let ended = ended.clone();
            std::thread::spawn(move || stand(ended))
        });
        Self { all: all.collect(), ended }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.all.drain(..).for_each(|thread| thread.join().expect("it ends"));
    }
}

/// The daemon's TCP port on this machine.
fn door(node: &Node) -> SocketAddr {
    let address = node.address();
    let port = address.split('/').nth(4).and_then(|port| port.parse().ok()).expect("a port");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Thirty-two silent connections kept everybody out who had a ticket, and every member, for as long as they wanted.
#[test]
fn silent_connections_keep_out_neither_who_has_a_ticket_nor_members() {
    let mut owner = Node::init();
    owner.start();
    let tickets = [invite(&owner, &["one"]), invite(&owner, &["two"])];
    let silent = Silent::at(door(&owner), 64);
    let joiners = tickets.map(|ticket| {
        let mut node = Node::bare().without_passphrase();
        node.run(&["join", "-y", &ticket]).exits(0);
        node.start();
        connected(&owner, &node);
        node
    });
    // Those that are known come back as well.
    for mut node in joiners {
        node.terminate();
        node.start();
        connected(&owner, &node);
    }
    drop(silent);
}

// ---- A member that holds back what it offers ----------------------------------------------------------------

/// Answers nothing that it is asked.
struct HoldsBack;

impl Server for HoldsBack {
    fn sync(&self, _: PeerId, _: wire::SyncRequest) -> BoxFuture<'static, wire::SyncResponse> {
        Box::pin(std::future::pending())
    }

    fn fetch(&self, _: PeerId, _: wire::FetchRequest) -> BoxFuture<'static, wire::FetchResponse> {
        Box::pin(std::future::pending())
    }

    fn door(&self, _: PeerId, _: wire::DoorRequest) -> BoxFuture<'static, wire::DoorResponse> {
        Box::pin(std::future::pending())
    }
}

fn settings() -> NetConfig {
    NetConfig {
        node_key: random_bytes().into(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        announce: vec![],
        max_peers: 10,
        connection_timeout: Duration::from_secs(10),
        heartbeat_interval: Duration::from_secs(15),
        reconnect_backoff: Duration::from_millis(100),
        max_reconnect_backoff: Duration::from_secs(1),
        serve_relay: false,
        use_relays: false,
        punch_holes: false,
        search_nearby: false,
        map_ports: false,
        discovery_interval: Duration::from_secs(300),
        fetch_timeout: Duration::from_secs(60),
        turn_wait: limit::TURN_WAIT,
        max_concurrent_fetch: 16,
        limits: Limits::default(),
    }
}

/// Offers packs of ever the same eight vaults.
async fn offer_for_ever(net: Net, holder: PeerId) {
    loop {
        for vault in 0..8u8 {
            let head = wire::HeadRef { device: vec![vault; 32], seq: 1, id: vec![vault; 32] };
            let (vault, packs) = (vec![vault; 32], vec![vec![vault; 32]; 4]);
            let ask = Some(Ask::Offer(wire::Offer { vault, head: Some(head), packs }));
            net.sync(holder, wire::SyncRequest { ask }).await.ok();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// One member offered packs of eight vaults and answered nothing: no other one had a copy made for as long as it wanted.
#[test]
fn a_member_that_holds_back_what_it_offers_holds_nobody_else_up() {
    let mut holder = Node::storage_only("1GiB");
    holder.start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let id: PeerId = holder.peer_id().parse().expect("a peer id");
    let (net, _events) = runtime
        .block_on(Net::start(settings(), Arc::new(Members::new([id])), Arc::new(HoldsBack)))
        .expect("it listens");
    holder.run(&["peers", "add", &net.addresses()[0]]).exits(0);
    runtime.block_on(net.dial(id, &[])).ok();
    runtime
        .block_on(net.add_address(id, holder.address().split("/p2p/").next().expect("an address")))
        .unwrap();
    let offers = runtime.spawn(offer_for_ever(net.clone(), id));
    until("the holder is busy", &[&holder], || {
        holder.peer(&net.peer_id().to_string())?["connected"].as_bool().filter(|connected| *connected)
    });
    let mut owner = Node::init().with("replication.copies", "1");
    owner.start();
    pair(&owner, &holder);
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 100_000);
    assert_eq!(owner.replicate(&source)["copies"], 1);
    offers.abort();
    runtime.block_on(net.shutdown());
}
