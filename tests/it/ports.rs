//! What the daemon serves over TCP: metrics, health, the API behind its token, and a rate for each client.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::Value;

use super::node::{Node, PATIENCE, pair, text, until};
use super::tree;

const TOKEN: &str = "a token of more than sixteen characters";

/// A connection from 127.0.0.`from`, which is another client to the node.
fn dial(from: u8, to: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, from), 0)).expect("loopback is ours");
    connect(&socket, &to).expect("the daemon listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes as they are; everything that comes back.
fn raw(from: u8, to: SocketAddr, request: &str) -> String {
    let mut stream = dial(from, to);
    // A refusal may come, and the connection close, before everything is sent.
    stream.write_all(request.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A GET with more head lines; status, head and body.
fn get(from: u8, to: SocketAddr, path: &str, more: &str) -> (u16, String, String) {
    let answer =
        raw(from, to, &format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{more}\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

fn api_node() -> Node {
    let node = Node::init();
    let token = node.secret("token", TOKEN);
    let token = text(&token).to_owned();
    node.with("security.api_listen", "127.0.0.1:0").with("security.api_token_file", &token)
}

/// The samples of an answer of `/metrics`.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap())).unwrap()
        })
        .collect()
}

#[test]
fn metrics_tell_what_a_node_has_done() {
    let (mut owner, mut holder) = (Node::init().with("replication.copies", "1"), Node::storage_only("1GiB"));
    owner.start();
    holder.start();
    let scrape = |node: &Node| {
        let (status, head, body) = get(1, node.port("metrics"), "/metrics", "");
        assert_eq!(status, 200, "{body}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        body
    };
    // Everything is there from the beginning, at zero.
    let before = samples(&scrape(&owner));
    assert_eq!(before["shadowvault_backups_created_total"], 0.0);
    assert_eq!(before["shadowvault_errors_total{category=\"storage\"}"], 0.0);
    pair(&owner, &holder);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 100_000);
    owner.replicate(&source);
    owner.backup(&source);
    owner.run(&["verify"]).exits(0);
    owner.run(&["restore", "latest", "--target", text(&owner.path("target"))]).exits(0);
    owner.run(&["backup", text(&source.join("absent"))]).exits(1);

    let text = until("states were looked at again", &[&owner], || {
        Some(scrape(&owner)).filter(|text| text.contains("shadowvault_peers_connected 1"))
    });
    let after = samples(&text);
    let table = [
        ("shadowvault_backups_created_total", 2.0, 2.0),
        ("shadowvault_backups_failed_total", 0.0, 1.0),
        ("shadowvault_bytes_backed_up_total", 4e6, 4e6),
        ("shadowvault_backup_duration_seconds_count", 2.0, 2.0),
        ("shadowvault_backup_duration_seconds_bucket{le=\"86400\"}", 2.0, 2.0),
        ("shadowvault_restores_completed_total", 1.0, 1.0),
        ("shadowvault_bytes_restored_total", 2e6, 2e6),
        ("shadowvault_verify_runs_total{outcome=\"sound\"}", 1.0, 1.0),
        ("shadowvault_job_duration_seconds_count{kind=\"verify\"}", 1.0, 1.0),
        ("shadowvault_peers_connected", 1.0, 1.0),
        ("shadowvault_peers_discovered_total", 1.0, 1.0),
        ("shadowvault_chunks_stored_total", 20.0, 1e4),
        ("shadowvault_blocks_stored_total", 2.0, 100.0),
        ("shadowvault_serve_bytes_total", 2e6, 1e7),
        ("shadowvault_storage_used_bytes", 2e6, 1e7),
        ("shadowvault_store_packs", 2.0, 100.0),
        ("shadowvault_disk_free_bytes", 1.0, f64::MAX),
        ("shadowvault_backup_last_success_timestamp_seconds", 1.7e9, 1e10),
        ("shadowvault_messages_received_total", 3.0, 1e5),
        ("shadowvault_messages_sent_total", 3.0, 1e5),
        ("shadowvault_config_last_reload_successful", 1.0, 1.0),
        ("shadowvault_memory_budget_used_bytes", 0.0, 0.0),
    ];
    for (name, least, most) in table {
        let value = *after.get(name).unwrap_or_else(|| panic!("{name} in\n{text}"));
        assert!((least..=most).contains(&value), "{name} {value}");
    }
    let build = format!("shadowvault_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(after[&build], 1.0);
    assert!(after.keys().any(|name| name.starts_with("shadowvault_peer_last_seen_timestamp_seconds{peer=")));
    let pulled = samples(&scrape(&holder));
    assert!(
        pulled["shadowvault_fetch_bytes_total"] >= 2e6
            && pulled["shadowvault_chunk_fetch_seconds_count"] >= 2.0
    );
    // What is shown is explained.
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        assert!(name.starts_with("shadowvault_"), "{name}");
    }
    let summary = super::socket::get(&owner, "/api/v1/metrics/summary");
    assert_eq!(summary["shadowvault_backups_created_total"], 2.0);
    lint(&text);
    // Nothing private, and nothing else, on this port.
    assert_eq!(get(1, owner.port("metrics"), "/api/v1/status", "").0, 404);
    assert!(!text.contains("sv-it-"), "no path");
}

/// Prometheus' own linter, where it is installed.
fn lint(text: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else { return eprintln!("promtool is not installed: not linted") };
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let done = promtool.wait_with_output().expect("it ends");
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn health_tells_how_far_a_node_is_in_every_phase() {
    // A port that nobody has, for the time before the daemon can be asked for it.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut node = Node::init().with("monitoring.health_check_port", &free.port().to_string());
    let state = |path: &str| -> Option<(u16, Value)> {
        TcpStream::connect(free).ok()?;
        let (status, _, body) = get(1, free, path, "");
        Some((status, serde_json::from_str(&body).ok()?))
    };
    let lock = File::options().write(true).open(node.repo().join("lock")).unwrap();
    lock.lock().unwrap();
    let log = File::create(node.path("daemon.log")).unwrap();
    let mut early = node.command().arg("daemon").stderr(log).stdout(Stdio::null()).spawn().unwrap();
    let (status, body) = until("it answers before the store is open", &[&node], || state("/ready"));
    assert_eq!((status, &body["status"]), (503, &"starting".into()));
    assert_eq!(state("/live").unwrap().0, 200);
    early.kill().unwrap();
    early.wait().unwrap();
    drop(lock);

    node.start();
    for path in ["/health", "/healthz", "/ready", "/readyz", "/live", "/livez"] {
        let (status, body) = state(path).unwrap();
        assert_eq!((status, &body["status"]), (200, &"ok".into()), "{path}: {body}");
        for part in ["database", "p2p", "storage", "scheduler"] {
            assert_eq!(body["components"][part], "ok", "{body}");
        }
    }
    // A data directory that goes away.
    let (there, away) = (node.repo().to_owned(), node.path("away"));
    fs::rename(&there, &away).unwrap();
    let (status, body) = state("/health").unwrap();
    assert_eq!((status, &body["components"]["storage"]), (503, &"unavailable".into()), "{body}");
    assert_eq!(body["status"], "failed", "{body}");
    assert_eq!(state("/live").unwrap().0, 200, "the process itself is well");
    fs::rename(&away, &there).unwrap();
    assert_eq!(state("/health").unwrap().0, 200);

    let source = node.path("source");
    tree::plain(&source, 1, 30, 10_000_000);
    let mut backup = node.command();
    let mut backup =
        backup.arg("backup").arg(&source).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the backup runs", &[&node], || {
        super::socket::get(&node, "/api/v1/jobs")
            .as_array()?
            .iter()
            .find(|job| job["state"] == "running")
            .cloned()
    });
    node.signal(rustix::process::Signal::TERM);
    let (status, body) = until("it says that it stops", &[&node], || {
        state("/ready").filter(|(_, body)| body["status"] == "shutting_down")
    });
    assert_eq!(status, 503, "{body}");
    backup.wait().unwrap();
    node.terminate();
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // The short name of the first, which the tests set for every node.
    let table = [("metrics_port", "monitoring.metrics_port"); 1].into_iter();
    for (name, key) in table.chain([("monitoring.health_check_port", "monitoring.health_check_port")]) {
        let node = Node::init().with(name, &port);
        let refused = node.run(&["daemon"]).exits(16);
        assert!(refused.stderr.contains(key) && refused.stderr.contains(&port), "{refused:?}");
        node.run(&["snapshots"]).exits(0);
    }
}

#[test]
fn the_api_over_tcp_wants_the_token_and_answers_no_web_page() {
    let mut node = api_node().with("security.max_request_size", "1KiB");
    node.start();
    let api = node.port("api");
    let status = |more: &str| get(1, api, "/api/v1/status", more);
    let (code, _, body) = status(&bearer());
    assert_eq!(code, 200, "{body}");
    let (code, head, body) = status("");
    assert_eq!(code, 401, "{body}");
    assert!(head.contains("www-authenticate: bearer") && body.contains("UNAUTHORIZED"), "{head}");
    assert_eq!(status("Authorization: Bearer another token, long enough\r\n").0, 401);
    let (code, _, body) = status(&format!("{}Origin: https://evil.example\r\n", bearer()));
    assert_eq!((code, body.contains("PERMISSION_DENIED")), (403, true));
    let named = |host: &str| {
        raw(
            1,
            api,
            &format!("GET /api/v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}\r\n", bearer()),
        )
    };
    assert!(named("localhost").starts_with("HTTP/1.1 200"));
    assert!(named("evil.example").starts_with("HTTP/1.1 421"));
    let long = "x".repeat(2000);
    let posted = raw(
        1,
        api,
        &format!(
            "POST /api/v1/verify HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\nContent-Length: 2000\r\n{}\r\n{long}",
            bearer()
        ),
    );
    assert!(posted.starts_with("HTTP/1.1 413") && posted.contains("max_request_size"), "{posted}");
    // Nonsense harms nobody.
    for nonsense in [
        "\0\0\0\0",
        "GET",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        &format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)),
    ] {
        let mut stream = dial(1, api);
        stream.write_all(nonsense.as_bytes()).ok();
        drop(stream);
    }
    assert_eq!(status(&bearer()).0, 200);
    let log = node.log_text();
    assert!(!log.contains(TOKEN), "the token is in no log");

    // Without a token, or with one that others can read, there is no such port.
    let refused = Node::init().with("security.api_listen", "127.0.0.1:0").run(&["daemon"]).exits(16);
    assert!(refused.stderr.contains("api_token_file"), "{refused:?}");
    let node = api_node();
    fs::set_permissions(node.path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let refused = node.run(&["daemon"]).exits(16);
    assert!(refused.stderr.contains("others may read it"), "{refused:?}");
}

#[test]
fn a_greedy_client_leaves_the_others_their_rate() {
    let mut node = api_node().with("security.requests_per_second", "2").with("security.burst_size", "10");
    fs::write(node.path("config/shadowvault/config.yaml"), "").unwrap();
    node.start();
    let api = node.port("api");
    let ask = |from: u8| get(from, api, "/api/v1/id", &bearer());
    let greedy: Vec<(u16, String, String)> = (0..40).map(|_| ask(2)).collect();
    let refused: Vec<_> = greedy.iter().filter(|(code, ..)| *code == 429).collect();
    assert!(refused.len() >= 10, "{} of 40", refused.len());
    assert!(
        refused
            .iter()
            .all(|(_, head, body)| head.contains("retry-after: ") && body.contains("RATE_LIMIT_EXCEEDED"))
    );
    assert!((0..10).all(|_| ask(3).0 == 200), "another client has its own rate");
    let metrics = get(4, node.port("metrics"), "/metrics", "").2;
    let limited = samples(&metrics)["shadowvault_rate_limited_total{scope=\"ip\"}"];
    assert!(limited >= refused.len() as f64, "{limited}");
    // The owner's own socket knows no rate.
    (0..30).for_each(|_| assert!(super::socket::get(&node, "/api/v1/id").is_object()));

    let whitelist = "security: { enable_ip_whitelist: true, whitelisted_ips: [127.0.0.2] }\n";
    fs::write(node.path("config/shadowvault/config.yaml"), whitelist).unwrap();
    node.run(&["config", "reload"]).exits(0);
    until("the whitelist counts", &[&node], || (ask(2).0 == 200).then_some(()));
    assert!((0..30).all(|_| ask(2).0 == 200), "exempt");
    assert_eq!(get(2, api, "/api/v1/id", "").0, 401, "and granted nothing");
}

#[test]
fn limits_on_bytes_are_kept() {
    // 3 MiB at 1 MiB a second, of which the first may come at once: two seconds at the least.
    for (owner_key, holder_key) in [("replication.upload_limit", ""), ("", "replication.download_limit")] {
        let limited = |node: Node, key: &str| if key.is_empty() { node } else { node.with(key, "1MiB") };
        let mut owner = limited(Node::init().with("replication.copies", "1"), owner_key);
        let mut holder = limited(Node::storage_only("1GiB"), holder_key);
        owner.start();
        holder.start();
        pair(&owner, &holder);
        let source = owner.path("source");
        tree::plain(&source, 1, 3, 1 << 20);
        owner.backup(&source);
        let began = std::time::Instant::now();
        until("it is copied", &[&owner, &holder], || (owner.snapshots()[0]["copies"] == 1).then_some(()));
        assert!(began.elapsed().as_millis() >= 1500, "{:?} with {owner_key}{holder_key}", began.elapsed());
    }
}

#[test]
fn packs_stop_at_the_disk_limit() {
    let mut node = Node::init().with("storage.disk_limit", "4MiB");
    node.start();
    let source = node.path("source");
    tree::plain(&source, 1, 2, 1 << 20);
    node.backup(&source);
    tree::plain(&node.path("more"), 2, 5, 1 << 20);
    let full = node.run(&["backup", text(&node.path("more"))]).exits(15);
    assert!(full.stderr.contains("disk_limit"), "{full:?}");
    assert!(node.pack_bytes() <= 4 << 20, "{}", node.pack_bytes());
    node.run(&["verify"]).exits(0);
    node.run(&["restore", "latest", "--target", text(&node.path("target"))]).exits(0);
}

/// Owners who were pulled for at the same time each saw the same free room and together took more than was lent.
#[test]
fn several_owners_at_once_get_no_more_than_is_lent() {
    let mut holder = Node::storage_only("20MiB");
    holder.start();
    let mut owners: Vec<Node> = (0..3).map(|_| Node::init().with("replication.copies", "1")).collect();
    for (seed, owner) in owners.iter_mut().enumerate() {
        owner.start();
        tree::plain(&owner.path("source"), seed as u64 + 1, 8, 2 << 20);
        owner.backup(&owner.path("source"));
    }
    for owner in &owners {
        pair(owner, &holder);
    }
    until("it has taken some from each, or is full", &[&holder], || {
        (holder.pack_bytes() > (20 << 20) - (16 << 20)).then_some(())
    });
    for _ in 0..20 {
        assert!(holder.pack_bytes() <= 20 << 20, "{}", holder.pack_bytes());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
