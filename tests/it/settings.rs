//! Every key of the configuration does what it says: each is named here with the test that sees its effect.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use super::node::{Node, pair, text, until};
use super::tree;

/// Keys and the tests that see their effect.
const SEEN: &[(&str, &str)] = &[
    ("repository_path", "places_and_addresses_are_as_configured"),
    ("listen_port", "places_and_addresses_are_as_configured"),
    ("peer_bootstrap", "addresses_without_a_peer_id_are_refused_and_unreachable_ones_disturb_nobody"),
    ("backup_sets", "a_backup_set_runs_at_once_with_its_tags_patterns_and_hooks"),
    ("snapshot.compression", "chunks_are_cut_and_compressed_as_configured"),
    ("snapshot.compression_level", "chunks_are_cut_and_compressed_as_configured"),
    ("snapshot.min_chunk_size", "chunks_are_cut_and_compressed_as_configured"),
    ("snapshot.avg_chunk_size", "chunks_are_cut_anew_after_a_reload_without_a_restart"),
    ("snapshot.max_chunk_size", "chunks_are_cut_and_compressed_as_configured"),
    ("replication.copies", "a_reload_changes_what_can_change_and_a_bad_one_changes_nothing"),
    ("replication.lend", "a_holder_never_stores_more_than_it_lends"),
    ("replication.proof_within", "an_answer_that_proves_nothing_is_no_proof"),
    ("replication.upload_limit", "limits_on_bytes_are_kept"),
    ("replication.download_limit", "limits_on_bytes_are_kept"),
    ("p2p.max_peers", "peers_over_the_number_wait"),
    ("p2p.connection_timeout", "dial_errors_say_what_happened_at_each_address"),
    ("p2p.discovery_interval", "third_peer_is_found_through_a_common_member"),
    ("p2p.heartbeat_interval", "a_peer_that_falls_silent_is_noticed_by_the_heartbeat"),
    ("p2p.max_concurrent_fetch", "fetches_in_flight_are_bounded_as_configured"),
    ("p2p.chunk_fetch_timeout", "server_that_never_answers_ends_in_a_timeout"),
    ("p2p.reconnect_backoff", "lost_member_is_dialled_again"),
    ("p2p.max_reconnect_backoff", "waits_double_to_the_maximum_and_are_spread"),
    ("p2p.peer_bytes_per_second", "requests_over_the_rate_wait_for_their_turn_and_are_all_served"),
    ("nat_traversal.serve_relay", "members_reach_each_other_through_a_relay"),
    ("nat_traversal.enable_auto_relay", "who_wants_no_relay_asks_for_none"),
    ("nat_traversal.enable_hole_punching", "a_connection_through_a_relay_becomes_a_direct_one"),
    ("nat_traversal.enable_mdns", "members_that_all_moved_are_heard_on_the_local_network"),
    ("nat_traversal.enable_upnp", "the_router_is_asked_for_open_ports_and_what_it_forwards_is_told"),
    ("p2p.listen", "places_and_addresses_are_as_configured"),
    ("p2p.announce", "places_and_addresses_are_as_configured"),
    ("storage.verify_on_restore", "chunks_are_cut_and_compressed_as_configured"),
    ("storage.enable_deduplication", "chunks_are_cut_and_compressed_as_configured"),
    ("storage.scrub_interval", "what_is_checked_seldom_waits_for_its_time"),
    ("storage.memory_limit", "the_least_memory_makes_whole_packs_and_brings_them_back"),
    ("storage.disk_limit", "packs_stop_at_the_disk_limit"),
    ("monitoring.enable_metrics", "monitoring_is_as_configured"),
    ("monitoring.listen", "monitoring_is_as_configured"),
    ("monitoring.metrics_port", "a_port_that_is_taken_is_named_with_its_key"),
    ("monitoring.health_check_port", "health_tells_how_far_a_node_is_in_every_phase"),
    ("monitoring.log_level", "monitoring_is_as_configured"),
    ("monitoring.log_filter", "a_reload_changes_what_can_change_and_a_bad_one_changes_nothing"),
    ("monitoring.log_format", "monitoring_is_as_configured"),
    ("scheduler.enable_auto_backup", "downtime_is_made_up_for_once_and_a_reload_brings_new_tasks"),
    ("scheduler.backup_interval", "downtime_is_made_up_for_once_and_a_reload_brings_new_tasks"),
    ("scheduler.backup_paths", "downtime_is_made_up_for_once_and_a_reload_brings_new_tasks"),
    ("scheduler.restore_drill_interval", "what_is_checked_seldom_waits_for_its_time"),
    ("scheduler.max_backup_retries", "retries_and_notifications_are_as_configured"),
    ("acl.admins", "what_an_admin_signs_travels_the_mesh_and_unknown_admins_are_refused"),
    (
        "p2p.away_after",
        "copies_of_a_holder_that_stays_away_are_made_elsewhere_and_count_again_when_it_is_back",
    ),
    ("notify.command", "a_hook_that_fails_or_is_missing_stops_the_backup_and_somebody_is_told"),
    ("notify.webhook", "retries_and_notifications_are_as_configured"),
    ("notify.on_success", "retries_and_notifications_are_as_configured"),
    ("security.enable_rate_limiting", "whitelisted_clients_are_exempt_while_the_list_counts"),
    ("retention.keep_last", "the_configured_rules_forget"),
    ("retention.keep_hourly", "the_configured_rules_forget"),
    ("retention.keep_daily", "the_configured_rules_forget"),
    ("retention.keep_weekly", "the_configured_rules_forget"),
    ("retention.keep_monthly", "the_configured_rules_forget"),
    ("retention.keep_yearly", "the_configured_rules_forget"),
    ("retention.keep_within", "the_configured_rules_forget"),
    ("retention.keep_tags", "the_configured_rules_forget"),
    ("storage.retention_days", "the_configured_rules_forget"),
    ("storage.hold_days", "a_holder_keeps_what_is_forgotten_and_recovery_goes_back_in_time"),
    ("storage.gc_interval", "garbage_is_collected_by_its_rhythm"),
    ("security.requests_per_second", "a_greedy_client_leaves_the_others_their_rate"),
    ("security.burst_size", "a_greedy_client_leaves_the_others_their_rate"),
    ("security.enable_ip_whitelist", "a_greedy_client_leaves_the_others_their_rate"),
    ("security.whitelisted_ips", "a_greedy_client_leaves_the_others_their_rate"),
    ("security.max_request_size", "the_api_over_tcp_wants_the_token_and_answers_no_web_page"),
    ("security.api_listen", "the_api_over_tcp_wants_the_token_and_answers_no_web_page"),
    ("security.api_token_file", "the_api_over_tcp_wants_the_token_and_answers_no_web_page"),
];

/// Keys that are refused at any value but their default, and what will bring them.
const LATER: &[(&str, &[&str])] = &[
    ("a cache", &["storage.local_copy", "storage.max_cache_size"]),
    (
        "profiles and traces",
        &[
            "monitoring.enable_profiling",
            "monitoring.profiling_port",
            "monitoring.enable_tracing",
            "monitoring.tracing_endpoint",
        ],
    ),
];

fn sources(below: &Path, found: &mut String) {
    for entry in fs::read_dir(below).expect("the sources are here").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *found += &fs::read_to_string(path).expect("sources are text");
        }
    }
}

#[test]
fn every_key_is_seen_to_work_or_is_refused() {
    let node = Node::bare();
    let schema: Value = serde_json::from_str(&node.run(&["config", "schema"]).exits(0).stdout).unwrap();
    let mut keys = Vec::new();
    for (name, property) in schema["properties"].as_object().expect("a schema") {
        match property["properties"].as_object() {
            Some(section) => keys.extend(section.keys().map(|key| format!("{name}.{key}"))),
            None => keys.push(name.clone()),
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = String::new();
    sources(&root.join("src"), &mut all);
    sources(&root.join("tests"), &mut all);
    let seen: BTreeMap<&str, &str> = SEEN.iter().copied().collect();
    let later: Vec<&str> = LATER.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    for key in &keys {
        match (seen.get(key.as_str()), later.contains(&key.as_str())) {
            (Some(test), false) => {
                assert!(all.contains(&format!("fn {test}(")), "{key}: there is no test {test}")
            }
            (None, true) => {}
            _ => panic!("{key} must be seen by one test, or come later"),
        }
    }
    assert_eq!(keys.len(), seen.len() + later.len(), "every named key exists");
}

fn configure(node: &Node, configuration: &str) {
    fs::write(node.path("config/shadowvault/config.yaml"), configuration).expect("the configuration is ours");
}

#[test]
fn places_and_addresses_are_as_configured() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut node = Node::init()
        .with("listen_port", &free.to_string())
        .with("p2p.listen", "/ip4/127.0.0.7/tcp/0")
        .with("p2p.announce", "/ip4/203.0.113.9/tcp/4242");
    node.start();
    let addresses = node.run(&["id"]).exits(0).json()["addresses"].to_string();
    for part in [
        format!("/ip4/127.0.0.1/tcp/{free}/"),
        "/ip4/127.0.0.7/tcp/".into(),
        "/ip4/203.0.113.9/tcp/4242/".into(),
    ] {
        assert!(addresses.contains(&part), "{part} in {addresses}");
    }
    assert_eq!(node.terminate().0, 0);

    // Without --repo the configured directory counts.
    configure(&node, &format!("repository_path: {}\n", text(node.repo())));
    let bare = |directory: &Path| {
        let mut command = std::process::Command::new(super::node::program());
        command.env_clear().env("XDG_CONFIG_HOME", node.path("config")).current_dir(directory);
        let done = command.args(["id", "--json"]).output().expect("it runs");
        (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    assert_eq!(bare(&node.path("")).0, Some(0));
    configure(&node, "repository_path: ./elsewhere\n");
    assert_eq!(bare(&node.path("")).0, Some(10));
}

#[test]
fn chunks_are_cut_and_compressed_as_configured() {
    let node = Node::init();
    let source = node.path("source");
    fs::create_dir(&source).unwrap();
    // A text of 64 words at random: a thorough search finds a fifth more than a quick one.
    let mut dice = 12_345u64;
    let words: String = std::iter::repeat_with(|| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:06x}", (dice >> 58).wrapping_mul(0x9e_3779_b97f).wrapping_add(dice >> 58) & 0xff_ffff)
    })
    .take(800_000)
    .collect();
    fs::write(source.join("words"), &words).unwrap();
    let backup = |settings: &str| {
        configure(&node, settings);
        node.run(&["backup", "--force", text(&source)]).exits(0).json()
    };
    let stored = |done: &Value| done["data_added_packed"].as_u64().expect("a number");
    let off = "storage: { enable_deduplication: false, verify_on_restore: false }\n";
    let plain = backup(&format!("snapshot: {{ compression: false }}\n{off}"));
    let fast = backup(&format!("snapshot: {{ compression_level: 1 }}\n{off}"));
    let small = backup(&format!("snapshot: {{ compression_level: 19 }}\n{off}"));
    assert!(stored(&plain) > 2 * stored(&fast) && stored(&fast) > stored(&small), "{plain}\n{fast}\n{small}");
    assert!(small["data_added"].as_u64() >= Some(words.len() as u64), "stored anew each time: {small}");
    let reference = format!("latest:{}", text(&source));
    let restored =
        |name: &str| node.run(&["restore", &reference, "--target", text(&node.path(name))]).exits(0).json();
    assert_eq!(restored("unverified")["files_verified"], 0);

    // As short as they are long: every chunk but the last has that size.
    fs::write(source.join("words"), tree::noise(5, 1 << 20)).unwrap();
    let before = node.status()["storage"]["chunks"].as_u64().unwrap();
    let sizes = "snapshot: { min_chunk_size: 64KiB, avg_chunk_size: 64KiB, max_chunk_size: 64KiB }\n";
    let again = backup(sizes);
    assert_eq!(restored("verified")["files_verified"], 1);
    let data = node.status()["storage"]["chunks"].as_u64().unwrap() - before;
    assert!((16..=24).contains(&data), "16 of data and a few of trees: {data}");
    // But perhaps for the directory above, where other tests are at work.
    assert!(backup(sizes)["data_added"].as_u64() < Some(10_000), "all known: {again}");
}

#[test]
fn the_least_memory_makes_whole_packs_and_brings_them_back() {
    for limit in ["32MiB", "96MiB"] {
        let node = Node::init().with("storage.memory_limit", limit);
        let (source, target) = (node.path("source"), node.path("target"));
        tree::plain(&source, 1, 5, 10 << 20);
        node.backup(&source);
        let largest = node.packs().iter().map(|pack| fs::metadata(pack).unwrap().len()).max().unwrap();
        assert_eq!(largest, 16 << 20, "with {limit}");
        node.run(&["restore", &format!("latest:{}", text(&source)), "--target", text(&target)]).exits(0);
        tree::assert_same(&source, &target);
    }
}

#[test]
fn peers_over_the_number_wait() {
    let mut node = Node::storage_only("1GiB").with("p2p.max_peers", "1");
    node.start();
    let mut others = [Node::storage_only("1GiB"), Node::storage_only("1GiB")];
    for other in &mut others {
        other.start();
    }
    pair(&node, &others[0]);
    node.run(&["peers", "add", &others[1].address()]).exits(0);
    others[1].run(&["peers", "add", &node.address()]).exits(0);
    let second = others[1].peer_id();
    until("it says why", &[&node, &others[1]], || {
        let peer = node.peer(&second)?;
        assert_eq!(peer["connected"], false, "{peer}");
        peer["last_error"].as_str().map(str::to_owned)
    });
    assert_eq!(node.peer(&others[0].peer_id()).unwrap()["connected"], true);
}

#[test]
fn monitoring_is_as_configured() {
    let mut quiet = Node::init()
        .with("monitoring.enable_metrics", "false")
        .with("monitoring.listen", "127.0.0.9")
        .with("monitoring.log_level", "warn");
    quiet.start();
    let listeners = super::socket::get(&quiet, "/api/v1/status")["listeners"].clone();
    assert!(listeners["health"].as_str().unwrap().starts_with("127.0.0.9:"), "{listeners}");
    assert!(listeners["metrics"].is_null(), "{listeners}");
    assert_eq!(quiet.terminate().0, 0);
    assert_eq!(quiet.log_text(), "", "nothing to warn of");

    let mut plain = Node::init().with("monitoring.log_format", "text");
    plain.start();
    assert_eq!(plain.terminate().0, 0);
    let log = plain.log_text();
    assert!(log.lines().all(|line| !line.starts_with('{')) && log.contains("node is up peer="), "{log}");
    // What others wrote stays on its line.
    let hostile = plain.run(&["peers", "add", "/ip4/1.2.3.4\n\u{1b}[31mfake"]).exits(2);
    assert!(!hostile.stderr.contains('\u{1b}'), "{hostile:?}");
}

/// Takes one HTTP request and answers it; its body.
fn hear(listener: &TcpListener) -> Value {
    let (mut stream, _) = listener.accept().expect("somebody asks");
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).expect("it goes on");
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
            return serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
        }
    }
}

#[test]
fn retries_and_notifications_are_as_configured() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?key=secret", listener.local_addr().unwrap());
    let mut node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 2, 1000);
    let set = format!("backup_sets: [{{ id: docs, paths: [{}], every: 24h }}]\n", text(&source));
    let webhook = |more: &str| format!("notify: {{ webhook: '{url}'{more} }}\n");
    // Nothing fits: worth another try, unless none is wanted.
    configure(
        &node,
        &format!(
            "{set}{}storage: {{ disk_limit: 1 }}\nscheduler: {{ max_backup_retries: 0 }}\n",
            webhook("")
        ),
    );
    node.start();
    let told = hear(&listener);
    assert_eq!((&told["event"], &told["code"]), (&"failure".into(), &"STORAGE_FULL".into()), "{told}");
    let task = |node: &Node| {
        let all = node.run(&["schedule"]).exits(0).json();
        all.as_array().unwrap().iter().find(|task| task["id"] == "docs").cloned().unwrap()
    };
    assert_eq!(task(&node)["tries"], 0);
    configure(&node, &format!("{set}{}storage: {{ disk_limit: 1 }}\n", webhook("")));
    node.run(&["config", "reload"]).exits(0);
    node.run(&["schedule", "run", "docs"]).exits(0);
    until("it is to be tried again", &[&node], || (task(&node)["tries"] == 1).then_some(()));
    let (next, last) = (task(&node)["next"].clone(), task(&node)["last"].clone());
    assert!(next.as_str() > last["ended"].as_str() && last["code"] == "STORAGE_FULL", "{next} after {last}");

    configure(&node, &format!("{set}{}", webhook(", on_success: true")));
    node.run(&["config", "reload"]).exits(0);
    for event in ["recovered", "success"] {
        node.run(&["schedule", "run", "docs"]).exits(0);
        let told = hear(&listener);
        assert_eq!(told["event"], event, "{told}");
        until("it is through", &[&node], || (task(&node)["running"] == false).then_some(()));
    }
    assert!(!node.log_text().contains("secret"), "a webhook's address is nobody's business");
}
