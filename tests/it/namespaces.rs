//! Machines of their own: each node in a network namespace, joined by a bridge. Where namespaces are not permitted the
//! tests say so and end.

use std::process::{Command, Stdio};

use super::joining::{copied_once, invite};
use super::node::{Node, connected, until};

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
        node.run(&["join", &ticket]).exits(0);
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
    let reached = |node: &Node, id: &str, address: &str| {
        let peer = node.peer(id)?;
        let known =
            peer["addresses"].as_array()?.iter().any(|a| a.as_str().is_some_and(|a| a.contains(address)));
        (peer["connected"] == true && known).then_some(())
    };
    let ids = [one, other].map(Node::peer_id);
    until("each is connected at its new address", &[one, other, third], || {
        reached(one, &ids[1], "10.77.0.22")?;
        reached(other, &ids[0], "10.77.0.21")
    });
}
