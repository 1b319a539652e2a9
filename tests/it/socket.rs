//! The control socket: HTTP for programs, and the command line through it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::node::{Node, PATIENCE, text, until};
use super::tree::{self, assert_same};

/// One HTTP exchange: status, head, body.
fn http(node: &Node, method: &str, path: &str, body: Option<&Value>) -> (u16, String, Value) {
    let mut stream = UnixStream::connect(node.socket()).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

pub fn get(node: &Node, path: &str) -> Value {
    let (status, _, body) = http(node, "GET", path, None);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// Starts a job; its number.
pub fn start(node: &Node, path: &str, body: &Value) -> u64 {
    let (status, head, accepted) = http(node, "POST", path, Some(body));
    assert_eq!(status, 202, "{accepted}");
    let id = accepted["job_id"].as_u64().expect("a number");
    assert!(head.contains(&format!("location: /api/v1/jobs/{id}\r\n")), "{head}");
    id
}

/// Starts a job and follows it to its end.
fn job(node: &Node, path: &str, body: &Value) -> Value {
    let place = format!("/api/v1/jobs/{}", start(node, path, body));
    let ended = |job: &Value| job["state"] != "queued" && job["state"] != "running";
    until("the job ends", &[node], || Some(get(node, &place)).filter(ended))
}

#[test]
fn programs_back_up_and_restore_over_the_socket() {
    let mut node = Node::init();
    node.start();
    let mode = fs::metadata(node.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        fs::metadata(node.repo()).unwrap().permissions().mode() & 0o077,
        0,
        "the directory is private"
    );

    let source = node.path("source");
    tree::plain(&source, 1, 5, 100_000);
    let done = job(&node, "/api/v1/backup", &json!({ "paths": [&source], "tags": ["api"] }));
    assert_eq!(done["state"], "done", "{done}");
    let snapshot = done["outcome"]["snapshot_id"].as_str().expect("a snapshot").to_owned();
    let target = node.path("target");
    let reference = format!("{snapshot}:{}", text(&source));
    let done = job(&node, "/api/v1/restore", &json!({ "snapshot": reference, "target": &target }));
    assert_eq!(done["state"], "done", "{done}");
    assert_same(&source, &target);
    let done = job(&node, "/api/v1/verify", &json!({}));
    assert_eq!(done["outcome"]["valid_snapshots"], 1, "{done}");

    let status = get(&node, "/api/v1/status");
    assert_eq!((&status["snapshots"], &status["verdict"]), (&1.into(), &"at-risk".into()), "{status}");
    assert_eq!(get(&node, "/api/v1/peers"), json!([]));
    let listed = get(&node, "/api/v1/snapshots");
    assert_eq!((&listed[0]["id"], &listed[0]["tags"][0]), (&snapshot.into(), &"api".into()));
    for path in ["/health", "/ready", "/live", "/healthz", "/readyz", "/livez"] {
        let health = get(&node, path);
        assert!(health["status"].is_string() && health["uptime"].is_number(), "{path}: {health}");
    }
    let components = get(&node, "/health")["components"].clone();
    for name in ["database", "p2p", "storage", "scheduler"] {
        assert!(components[name].is_string(), "{components}");
    }
}

#[test]
fn wrong_requests_are_problems_with_a_code() {
    let mut node = Node::init();
    node.start();
    let table = [
        ("GET", "/api/v1/nothing", None, 404),
        ("DELETE", "/api/v1/status", None, 405),
        ("GET", "/api/v1/jobs/77", None, 400),
        ("POST", "/api/v1/backup", Some(json!({ "paths": [], "typo": 1 })), 400),
        ("POST", "/api/v1/peers", Some(json!({ "address": "/ip4/127.0.0.1/tcp/9" })), 400),
        ("DELETE", "/api/v1/peers/nobody", None, 404),
    ];
    for (method, path, body, expected) in table {
        let (status, head, problem) = http(&node, method, path, body.as_ref());
        assert!(status == expected || (expected == 400 && (400..500).contains(&status)), "{path}: {status}");
        assert!(head.contains("application/problem+json"), "{path}: {head}");
        assert!(problem["code"].is_string() && problem.get("retryable").is_some(), "{path}: {problem}");
    }
    // Not HTTP at all, and half a request, disturb nobody.
    for bytes in [b"\x00\xff\xfe garbage\r\n\r\n".as_slice(), b"GET /api/v1/sta"] {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.write_all(bytes).unwrap();
    }
    get(&node, "/api/v1/status");
}

#[test]
fn commands_answer_the_same_with_and_without_a_daemon() {
    let mut node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 5, 10_000);
    node.backup(&source);
    let reference = format!("latest:{}", text(&source));
    let commands: [&[&str]; 5] = [
        &["snapshots"],
        &["ls", &reference, "-R"],
        &["peers"],
        &["ls", "beef"],
        &["restore", "beef", "--target", "x"],
    ];
    // What a job logs goes to the daemon's log when there is one; how often progress is told is up to the clock.
    let last = |text: &str| text.lines().last().map(str::to_owned);
    let results = |text: &str| {
        text.lines().filter(|line| !line.contains("\"status\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    let answers = |node: &Node| {
        commands
            .map(|command| node.run(command))
            .map(|out| (out.code, results(&out.stdout), last(&out.stderr)))
    };
    let alone = answers(&node);
    node.start();
    assert_eq!(answers(&node), alone);
    let verified = |node: &Node| {
        let mut report = node.run(&["verify"]).exits(0).json();
        ["total_duration", "job_id", "time"].into_iter().for_each(|what| report[what] = Value::Null);
        report
    };
    let through = verified(&node);
    for place in ["with", "without"] {
        let target = node.path(place);
        node.run(&["restore", &reference, "--target", text(&target)]).exits(0);
        assert_same(&source, &target);
        if place == "with" {
            assert_eq!(node.terminate().0, 0);
            assert!(!node.socket().exists(), "the socket goes with the daemon");
        }
    }
    assert_eq!(verified(&node), through);
}

#[test]
fn a_daemon_without_a_passphrase_runs_locked_until_it_is_unlocked() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 2, 1000);
    node.backup(&source);
    let passphrase = node.path("passphrase");
    let aside = node.path("aside");
    fs::rename(&passphrase, &aside).unwrap();
    // The harness always names the file; an empty environment and no flag is what a locked start looks like.
    let log = fs::File::create(node.path("daemon.log")).unwrap();
    let mut command = std::process::Command::new(super::node::program());
    command
        .env_clear()
        .env("SHADOWVAULT_LISTEN_PORT", "0")
        .env("SHADOWVAULT_METRICS_PORT", "0")
        .env("SHADOWVAULT_MONITORING__HEALTH_CHECK_PORT", "0")
        .stdin(std::process::Stdio::null())
        .stderr(log);
    command.args(["--no-input", "--repo", text(node.repo()), "daemon"]);
    let mut daemon = command.spawn().unwrap();
    fs::rename(&aside, &passphrase).unwrap();
    until("the locked daemon answers", &[&node], || {
        UnixStream::connect(node.socket()).ok()?;
        Some(())
    });
    let locked = node.run(&["status"]);
    let refused = node.run(&["snapshots"]);
    let (wrong, _, _) = http(&node, "POST", "/api/v1/unlock", Some(&json!({ "passphrase": "incorrect" })));
    let unlocked = node.run(&["unlock"]);
    let after = node.run(&["snapshots"]);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(locked.json()["verdict"], "locked", "{locked:?}");
    assert_eq!(refused.exits(12).failure()["code"], "VAULT_LOCKED");
    assert_eq!(wrong, 401);
    unlocked.exits(0);
    assert_eq!(after.exits(0).json().as_array().map(Vec::len), Some(1));
}

/// Enough to be at work for a moment; sparse, so that making it costs nothing.
fn large(node: &Node) -> std::path::PathBuf {
    let source = node.path("large");
    tree::plain(&source, 1, 8, 32 << 20);
    source
}

#[test]
fn a_cancelled_job_ends_soon_and_what_is_stored_stays_sound() {
    let mut node = Node::init();
    node.start();
    let source = large(&node);
    let (_, _, accepted) = http(&node, "POST", "/api/v1/backup", Some(&json!({ "paths": [&source] })));
    let place = format!("/api/v1/jobs/{}", accepted["job_id"]);
    until("the job is at work", &[&node], || {
        (get(&node, &place)["progress"]["bytes_done"].as_u64()? > 0).then_some(())
    });
    let (status, _, _) = http(&node, "POST", &format!("{place}/cancel"), None);
    assert!((200..300).contains(&status), "{status}");
    let ended =
        until("the job ends", &[&node], || Some(get(&node, &place)).filter(|job| job["ended"].is_string()));
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(node.snapshots().len(), 0);
    node.run(&["verify"]).exits(0);
    let jobs = node.run(&["jobs", "list"]).exits(0).json();
    assert!(jobs.as_array().expect("a list").iter().any(|job| job["state"] == "cancelled"), "{jobs}");
    node.backup(&source);
    node.run(&["verify"]).exits(0);
}

#[test]
fn sigterm_during_a_backup_ends_cleanly_and_the_next_start_is_clean() {
    let mut node = Node::init();
    node.start();
    let source = large(&node);
    let (_, _, accepted) = http(&node, "POST", "/api/v1/backup", Some(&json!({ "paths": [&source] })));
    let place = format!("/api/v1/jobs/{}", accepted["job_id"]);
    until("the job is at work", &[&node], || {
        (get(&node, &place)["progress"]["bytes_done"].as_u64()? > 0).then_some(())
    });
    let (code, took) = node.terminate();
    assert_eq!(code, 0, "{}", node.log_text());
    assert!(took <= Duration::from_secs(10), "{took:?}");
    node.start();
    node.run(&["verify"]).exits(0);
    node.backup(&source);
    node.run(&["verify"]).exits(0);
    assert!(!node.log_text().contains("panicked"));
}

const OTHER: u32 = 65534;

fn give_away(path: &std::path::Path) {
    let done = std::process::Command::new("chown").arg("-R").arg(OTHER.to_string()).arg(path).status();
    assert!(done.expect("chown runs").success());
}

/// Root's passphrase went to whoever had put a socket where root happened to be.
#[test]
fn root_speaks_to_its_own_daemons_only_and_uses_no_directory_of_others_that_it_did_not_name() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let node = Node::init();
    fs::rename(node.repo(), node.path("data")).unwrap();
    let node = node.at_home("data");
    // As in the directory of another user, where root types a command that names no data directory.
    let unnamed = |arguments: &[&str]| {
        let mut command = std::process::Command::new(super::node::program());
        command.env_clear().env("HOME", node.path("")).current_dir(node.path(""));
        command.arg("--passphrase-file").arg(node.path("passphrase")).args(["--no-input", "--json"]);
        node.finish(command.args(arguments))
    };
    unnamed(&["snapshots"]).exits(0);
    give_away(&node.path(""));
    let refused = unnamed(&["snapshots"]);
    assert_eq!(refused.failure()["code"], "PERMISSION_DENIED", "{refused:?}");
    assert!(refused.failure()["hint"].as_str().is_some_and(|hint| hint.contains("--repo")), "{refused:?}");
    node.run(&["snapshots"]).exits(0);
    give_away(&node.path(""));

    let mut daemon = {
        use std::os::unix::process::CommandExt;
        let mut command = node.command();
        command.arg("daemon").uid(OTHER).gid(OTHER);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    until("the other user's daemon listens", &[&node], || UnixStream::connect(node.socket()).ok());
    let refused = node.run(&["--socket", text(&node.socket()), "unlock"]);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(refused.failure()["code"], "PERMISSION_DENIED", "{refused:?}");
}

/// Any process of the same user could read the keys, and a crash wrote them to a file.
#[test]
fn the_memory_of_a_daemon_is_neither_dumped_nor_shown_to_its_user() {
    let mut node = Node::init();
    node.start();
    let process = format!("/proc/{}", node.pid());
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(cores.split_whitespace().nth(4), Some("0"), "{cores}");
    // What may not be dumped belongs to root there, whoever's it is.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("{process}/mem")).unwrap());
    assert_eq!(owner, 0);
}
