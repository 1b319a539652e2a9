//! Machines of their own: each node in a network namespace, joined by a bridge. Where namespaces are not permitted the
//! tests say so and end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::joining::{copied_once, invite};
use super::node::{Node, connected, text, until};
use super::tree;

/// A switch and the machines on it; all of it goes when dropped.
struct Lan {
    name: String,
    machines: Vec<String>,
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Lan {
    /// `None` where this machine does not allow it.
    fn new(name: &str) -> Option<Self> {
        let lan = Self { name: format!("sv-{}-{name}", std::process::id()), machines: Vec::new() };
        let switch = &lan.name;
        let made = ip(&format!("netns add {switch}"))
            && ip(&format!("-n {switch} link add br0 type bridge"))
            && ip(&format!("-n {switch} link set br0 up"));
        if !made {
            eprintln!("skipped: network namespaces with a bridge are not permitted here");
        }
        made.then_some(lan)
    }

    /// A namespace with the address 10.77.0.`host`.
    fn machine(&mut self, host: u8) -> String {
        let (switch, machine) = (self.name.clone(), format!("{}-{host}", self.name));
        self.machines.push(machine.clone());
        let steps = [
            format!("netns add {machine}"),
            format!("-n {machine} link set lo up"),
            format!("-n {machine} link add eth0 type veth peer name v{host} netns {switch}"),
            format!("-n {switch} link set v{host} master br0 up"),
            format!("-n {machine} addr add 10.77.0.{host}/24 dev eth0"),
            format!("-n {machine} link set eth0 up"),
        ];
        for step in steps {
            assert!(ip(&step), "ip {step}");
        }
        machine
    }

    /// A second switch, joined to the first one by a cable.
    fn second_switch(&self) {
        let switch = &self.name;
        for step in [
            "link add br1 type bridge".to_owned(),
            "link add cable0 type veth peer name cable1".to_owned(),
            "link set cable0 master br0 up".to_owned(),
            "link set cable1 master br1 up".to_owned(),
            "link set br1 up".to_owned(),
        ] {
            assert!(ip(&format!("-n {switch} {step}")), "ip {step}");
        }
    }

    /// Plugs a machine into the second switch.
    fn plug_over(&self, host: u8) {
        assert!(ip(&format!("-n {} link set v{host} master br1", self.name)));
    }

    /// Cuts or joins the cable between the two switches.
    fn cable(&self, state: &str) {
        assert!(ip(&format!("-n {} link set cable0 {state}", self.name)));
    }

    /// Lets a machine send no faster than this.
    fn slow_down(&self, machine: &str, rate: &str) {
        let shape = format!(
            "netns exec {machine} tc qdisc add dev eth0 root tbf rate {rate} burst 64kb latency 50ms"
        );
        assert!(ip(&shape), "ip {shape}");
    }

    /// Gives a machine another address.
    fn renumber(&self, machine: &str, from: u8, to: u8) {
        assert!(ip(&format!("-n {machine} addr del 10.77.0.{from}/24 dev eth0")));
        assert!(ip(&format!("-n {machine} addr add 10.77.0.{to}/24 dev eth0")));
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.machines.iter().chain([&self.name]) {
            ip(&format!("netns del {name}"));
        }
    }
}

/// Two machines that know nothing of each other but a ticket; then two more.
#[test]
fn machines_on_a_network_join_by_ticket_and_hold_copies() {
    let Some(mut lan) = Lan::new("join") else { return };
    let mut owner = Node::init().within(&lan.machine(1)).with("replication.copies", "1");
    owner.start();
    let mut holder = |host: u8, name: &str, owner: &Node| {
        let mut node = Node::bare().without_passphrase().within(&lan.machine(host));
        let ticket = invite(owner, &[name, "--quota", "1GiB"]);
        node.run(&["join", "-y", &ticket]).exits(0);
        node.start();
        connected(owner, &node);
        node
    };
    let first = holder(2, "attic", &owner);
    let source = copied_once(&owner, &first);
    owner.terminate();
    let mut owner = owner.with("replication.copies", "2");
    owner.start();
    let _more = [holder(3, "shed", &owner), holder(4, "loft", &owner)];
    assert_eq!(owner.replicate(&source)["copies"], 2);
    until("all snapshots have two copies", &[&owner], || {
        owner.snapshots().iter().all(|snapshot| snapshot["copies"] == 2).then_some(())
    });
}

/// That a peer is connected and known at an address.
fn reached(node: &Node, id: &str, address: &str) -> Option<()> {
    let peer = node.peer(id)?;
    let known = peer["addresses"].as_array()?.iter().any(|a| a.as_str().is_some_and(|a| a.contains(address)));
    (peer["connected"] == true && known).then_some(())
}

/// Two of three machines get other addresses at once, as after a move or from another router; nothing is restarted.
/// Each finds the third, which stayed, and through it the other.
#[test]
fn machines_that_moved_are_found_through_one_that_stayed_without_a_restart() {
    let Some(mut lan) = Lan::new("move") else { return };
    let names = [11, 12, 13].map(|host| lan.machine(host));
    let nodes = names.each_ref().map(|name| {
        let node = Node::storage_only("1GiB").within(name).with("p2p.discovery_interval", "1s");
        let mut node = node.with("p2p.heartbeat_interval", "1s").with("p2p.connection_timeout", "2s");
        node.start();
        node
    });
    let [one, other, third] = &nodes;
    for (a, b) in [(one, other), (one, third), (other, third)] {
        a.run(&["peers", "add", &b.wide_address()]).exits(0);
        b.run(&["peers", "add", &a.wide_address()]).exits(0);
        connected(a, b);
    }
    lan.renumber(&names[0], 11, 21);
    lan.renumber(&names[1], 12, 22);
    let ids = [one, other].map(Node::peer_id);
    until("each is connected at its new address", &[one, other, third], || {
        reached(one, &ids[1], "10.77.0.22")?;
        reached(other, &ids[0], "10.77.0.21")
    });
}

/// Both of two members get other addresses at once, and there is nobody whom they could ask: they hear each other.
#[test]
fn members_that_all_moved_are_heard_on_the_local_network() {
    let Some(mut lan) = Lan::new("near") else { return };
    let names = [31, 32].map(|host| lan.machine(host));
    let nodes = names.each_ref().map(|name| {
        let node = Node::storage_only("1GiB").within(name).with("nat_traversal.enable_mdns", "true");
        let mut node = node.with("p2p.heartbeat_interval", "1s").with("p2p.connection_timeout", "2s");
        node.start();
        node
    });
    let [one, other] = &nodes;
    let ids = [one, other].map(Node::peer_id);
    one.run(&["peers", "add", &other.wide_address()]).exits(0);
    other.run(&["peers", "add", &one.wide_address()]).exits(0);
    connected(one, other);
    lan.renumber(&names[0], 31, 41);
    lan.renumber(&names[1], 32, 42);
    until("each is connected at its new address", &[one, other], || {
        reached(one, &ids[1], "10.77.0.42")?;
        reached(other, &ids[0], "10.77.0.41")
    });
}

/// A process of its own in a namespace, until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_router_is_asked_for_open_ports_and_what_it_forwards_is_told() {
    let Some(mut lan) = Lan::new("router") else { return };
    let [router, machine] = [51, 52].map(|host| lan.machine(host));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fake_router.py");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &router, "python3"]).arg(script).args(["10.77.0.51", "9.9.9.9"]);
    let Ok(child) = command.stdout(Stdio::piped()).spawn() else { return };
    let mut running = Running(child);
    let mut lines = BufReader::new(running.0.stdout.take().expect("it was asked for")).lines();
    if lines.next().and_then(Result::ok).as_deref() != Some("ready") {
        eprintln!("skipped: python3 is not there");
        return;
    }
    let mut node = Node::storage_only("1GiB").within(&machine).with("nat_traversal.enable_upnp", "true");
    node.start();
    let tcp = |address: &str| {
        address.split("/tcp/").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned)
    };
    let port = tcp(&node.wide_address()).expect("a port");
    let mapped = until("the router forwards a port", &[&node], || {
        let how = node.status()["reachability"].clone();
        how["mapped"].as_array().filter(|mapped| !mapped.is_empty()).cloned()
    });
    let outside = format!("/ip4/9.9.9.9/tcp/{port}/p2p/{}", node.peer_id());
    assert!(mapped.iter().any(|address| *address == outside.as_str()), "{mapped:?}");
    // Whichever port was forwarded first is told first.
    let told = node.run(&["id"]).exits(0).json()["addresses"].clone();
    assert!(told[0].as_str().is_some_and(|first| first.starts_with("/ip4/9.9.9.9/")), "{told}");
    // TCP and QUIC, in no order.
    let asked: Vec<String> = lines.by_ref().take(2).map(|line| line.expect("a line")).collect();
    assert!(asked.contains(&format!("TCP {port} 10.77.0.52 {port}")), "{asked:?}");
}

/// Names of the packs that a node has.
fn pack_names(node: &Node) -> BTreeSet<String> {
    node.packs().iter().map(|path| text(path.file_name().expect("a file").as_ref()).to_owned()).collect()
}

/// Five nodes; three are cut off from the other two in the middle of a backup, for so long that those count as missing
/// (`SPLIT_SECONDS` makes it longer). The copies are made on the owner's side, and when the network is whole again
/// nothing is stored anew: who has a copy keeps it, and no pack has more than its two and those of the other side.
#[test]
fn a_network_that_falls_apart_and_heals_loses_nothing_and_stores_nothing_twice() {
    let Some(mut lan) = Lan::new("split") else { return };
    let names = [71, 72, 73, 74, 75].map(|host| lan.machine(host));
    lan.second_switch();
    [74, 75].into_iter().for_each(|host| lan.plug_over(host));
    let quick = |node: Node, name: &str| {
        let node =
            node.within(name).with("p2p.heartbeat_interval", "1s").with("p2p.connection_timeout", "2s");
        let mut node = node.with("p2p.away_after", "3s").with("replication.copies", "2");
        node.start();
        node
    };
    let owner = quick(Node::init(), &names[0]);
    let holders = [1, 2, 3, 4].map(|n| quick(Node::storage_only("1GiB"), &names[n]));
    for holder in &holders {
        owner.run(&["peers", "add", &holder.wide_address()]).exits(0);
        holder.run(&["peers", "add", &owner.wide_address()]).exits(0);
        connected(&owner, holder);
        // Packs go to those of whom it is known that they have room.
        until("the holder has told its room", &[&owner, holder], || {
            owner.peer(&holder.peer_id())?["room_bytes"].as_u64()
        });
    }
    let (near, far) = holders.split_at(2);
    let source = owner.path("source");
    tree::plain(&source.join("first"), 1, 40, 200_000);
    assert_eq!(owner.replicate(&source)["copies"], 2);
    let before: BTreeSet<String> = far.iter().flat_map(pack_names).collect();
    assert!(!before.is_empty(), "packs are spread over all holders");

    tree::plain(&source.join("second"), 2, 100, 200_000);
    let mut backup = owner.command();
    let backup =
        backup.args(["--json", "backup", "--wait", "copies", "--wait-timeout", "60s", text(&source)]);
    let mut backup = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let first = owner.pack_bytes();
    until("the backup has begun", &[&owner], || (owner.pack_bytes() > first).then_some(()));
    lan.cable("down");
    let ids: Vec<String> = far.iter().map(Node::peer_id).collect();
    until("the others count as missing", &[&owner], || {
        ids.iter().all(|id| owner.peer(id).is_some_and(|peer| peer["state"] == "missing")).then_some(())
    });
    assert!(backup.wait().expect("it ends").success(), "a backup ends with its copies on this side");
    until("everything has two copies on this side", &[&owner], || {
        let all = owner.snapshots();
        (all.len() == 2 && all.iter().all(|snapshot| snapshot["copies"] == 2)).then_some(())
    });
    let more = std::env::var("SPLIT_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    std::thread::sleep(std::time::Duration::from_secs(more));
    let cut_off: Vec<BTreeSet<String>> = far.iter().map(pack_names).collect();
    lan.cable("up");
    for holder in far {
        connected(&owner, holder);
    }
    // One more backup shows that placing goes on, with all four.
    tree::plain(&source.join("third"), 3, 10, 200_000);
    let all = pack_names(&owner);
    owner.replicate(&source);
    for (holder, then) in far.iter().zip(&cut_off) {
        let now = pack_names(holder);
        assert!(now.is_superset(then), "a holder keeps what it confirmed");
        let again = now.difference(then).filter(|pack| all.contains(*pack)).count();
        assert_eq!(again, 0, "packs that had their copies are not stored anew");
    }
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    near.iter().flat_map(pack_names).for_each(|pack| *copies.entry(pack).or_default() += 1);
    assert!(all.iter().all(|pack| copies.get(pack) == Some(&2)), "{copies:?}");
    for node in holders.iter().chain([&owner]) {
        node.run(&["verify"]).exits(0);
    }
    assert!(owner.snapshots().iter().all(|snapshot| snapshot["copies"].as_u64() >= Some(2)));
}

/// Closing a connection waits for what is still to be sent, and into a dead line nothing goes any more: a holder that
/// vanished while packs went to it counted as connected for as long as the kernel tried.
#[test]
fn a_holder_that_vanishes_in_the_middle_of_a_pull_is_missed_soon() {
    let Some(mut lan) = Lan::new("vanish") else { return };
    let names = [81, 82].map(|host| lan.machine(host));
    lan.second_switch();
    lan.plug_over(82);
    let quick = |node: Node, name: &str| {
        let node = node.within(name).with("p2p.heartbeat_interval", "1s").with("p2p.away_after", "3s");
        let mut node = node.with("p2p.connection_timeout", "2s").with("replication.copies", "1");
        node.start();
        node
    };
    let (owner, holder) = (quick(Node::init(), &names[0]), quick(Node::storage_only("1GiB"), &names[1]));
    owner.run(&["peers", "add", &holder.wide_address()]).exits(0);
    holder.run(&["peers", "add", &owner.wide_address()]).exits(0);
    connected(&owner, &holder);
    let source = owner.path("source");
    tree::plain(&source, 1, 80, 1_000_000);
    // The kernel takes much for a fast line, and all that is under way fits.
    lan.slow_down(&names[0], "80mbit");
    owner.run(&["backup", text(&source)]);
    until("packs are under way", &[&owner], || (holder.pack_bytes() > 0).then_some(()));
    lan.cable("down");
    let id = holder.peer_id();
    until("the owner misses the holder", &[&owner], || {
        owner.peer(&id).is_some_and(|peer| peer["state"] == "missing").then_some(())
    });
    assert!(holder.pack_bytes() < owner.pack_bytes(), "it vanished in the middle");
}
