//! Real nodes for tests: the real program, its own processes, directories and loopback ports.
//!
//! Every node has a home of its own (data, configuration, passphrase, log) that goes when it is dropped, together with
//! its daemon. Nothing waits without a deadline; a wait that fails shows the logs of the nodes it concerns.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here should take on a slow, busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long one command may take, whatever it does.
const COMMAND_LIFE: Duration = Duration::from_secs(120);

/// The program: the one that was built with these tests, or `SHADOWVAULT_BIN` to test another build.
pub fn program() -> PathBuf {
    std::env::var_os("SHADOWVAULT_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_shadowvault").into(), PathBuf::from)
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 128 + signal when one ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The one JSON document, or the last JSON line of a job.
    pub fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_else(|| panic!("no output: {self:?}"));
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The line that a failed command ends with on stderr.
    pub fn failure(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_else(|| panic!("nothing on stderr: {self:?}"));
        let line: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(line["message_type"], "exit_error", "{self:?}");
        assert_eq!(line["exit"], self.code, "{self:?}");
        line
    }

    /// Asserts the exit code, and that nothing panicked on the way.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// One node with a home of its own.
pub struct Node {
    home: TempDir,
    repo: PathBuf,
    vault: bool,
    namespace: Option<String>,
    environment: Vec<(String, String)>,
    daemon: Option<Child>,
}

impl Node {
    /// A home without a node in it.
    pub fn bare() -> Self {
        let home = tempfile::Builder::new().prefix("sv-it-").tempdir().expect("a temporary directory");
        let repo = home.path().join("repo");
        let node = Self { home, repo, vault: true, namespace: None, environment: Vec::new(), daemon: None };
        node.secret("passphrase", "correct horse\n");
        node
    }

    /// A node with a vault; its phrase is in [`Node::phrase`].
    pub fn init() -> Self {
        let node = Self::bare();
        let phrase = node.phrase();
        node.run(&["init", "--phrase-out", text(&phrase)]).exits(0);
        node
    }

    /// A node that stores for others only, up to `lend`.
    pub fn storage_only(lend: &str) -> Self {
        let mut node = Self::bare();
        node.vault = false;
        node.run(&["init", "--storage-only", "--lend", lend]).exits(0);
        node
    }

    /// Gives no passphrase: for a machine that has no vault.
    pub fn without_passphrase(mut self) -> Self {
        self.vault = false;
        self
    }

    /// Runs every command in a network namespace.
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Keeps the data directory elsewhere.
    pub fn at(mut self, repo: &Path) -> Self {
        self.repo = repo.to_owned();
        self
    }

    /// Keeps the data directory under this name in its home.
    pub fn at_home(self, name: &str) -> Self {
        let repo = self.path(name);
        self.at(&repo)
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    /// Sets one configuration key (`section.key`) for every later command.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        let name = format!("SHADOWVAULT_{}", key.replace('.', "__").to_uppercase());
        self.environment.push((name, value.to_owned()));
        self
    }

    pub fn repo(&self) -> &Path {
        &self.repo
    }

    /// Where a state file of it lies: itself and its copy.
    pub fn state_files(&self, name: &str) -> [PathBuf; 2] {
        ["members", "copies"].map(|dir| self.repo.join(dir).join(name))
    }

    /// What a state file of it says.
    pub fn state(&self, name: &str) -> Value {
        let text = fs::read_to_string(&self.state_files(name)[0]).expect("a state file");
        serde_json::from_str(text.lines().next().expect("a line")).expect("JSON")
    }

    /// Has it say something else.
    pub fn put_state(&self, name: &str, text: &str) {
        self.state_files(name).iter().for_each(|file| fs::write(file, text).expect("a state file"));
    }

    /// A path in this node's home, outside its data directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn phrase(&self) -> PathBuf {
        self.path("phrase")
    }

    pub fn socket(&self) -> PathBuf {
        self.repo.join("control.sock")
    }

    /// Writes a file that only its owner can read; its path.
    pub fn secret(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(content.as_bytes())).expect("writing into the home");
        path
    }

    /// The program with this node's surroundings and nothing of the tester's own.
    pub fn command(&self) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(program()),
            Some(namespace) => {
                let mut command = Command::new("ip");
                // It replaces itself with the program: signals reach that.
                command.args(["netns", "exec", namespace]).arg(program());
                command
            }
        };
        command.env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.home.path()).env("XDG_CONFIG_HOME", self.path("config"));
        command.env("SHADOWVAULT_LISTEN_PORT", "0").env("SHADOWVAULT_METRICS_PORT", "0");
        command.env("SHADOWVAULT_MONITORING__HEALTH_CHECK_PORT", "0");
        command.env("SHADOWVAULT_P2P__RECONNECT_BACKOFF", "1s");
        // Nodes of tests know what a test tells them, and leave the tester's router alone.
        command.env("SHADOWVAULT_NAT_TRAVERSAL__ENABLE_MDNS", "false");
        command.env("SHADOWVAULT_NAT_TRAVERSAL__ENABLE_UPNP", "false");
        command.env("SHADOWVAULT_P2P__MAX_RECONNECT_BACKOFF", "2s");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.home.path());
        command.arg("--repo").arg(&self.repo).arg("--no-input");
        if self.vault {
            command.arg("--passphrase-file").arg(self.path("passphrase"));
        }
        command
    }

    /// Runs a command to its end, with `--json`.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.finish(self.command().arg("--json").args(arguments))
    }

    /// Runs a prepared command to its end.
    pub fn finish(&self, command: &mut Command) -> Output {
        // Files, so that no pipe can fill up.
        let (out, err) = (tempfile::NamedTempFile::new(), tempfile::NamedTempFile::new());
        let (out, err) = (out.expect("a temporary file"), err.expect("a temporary file"));
        let handle = |file: &tempfile::NamedTempFile| file.reopen().expect("a file just made");
        let mut child =
            command.stdout(handle(&out)).stderr(handle(&err)).spawn().expect("the program starts");
        let began = Instant::now();
        let status = loop {
            match child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if began.elapsed() < COMMAND_LIFE => std::thread::sleep(Duration::from_millis(5)),
                None => {
                    child.kill().ok();
                    child.wait().ok();
                    let said = fs::read_to_string(err.path()).unwrap_or_default();
                    panic!("{command:?} did not end\n{said}\n{}", self.log_tail());
                }
            }
        };
        let read = |file: &tempfile::NamedTempFile| {
            String::from_utf8_lossy(&fs::read(file.path()).expect("a file just written")).into_owned()
        };
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let code = status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0));
        Output { code, stdout: read(&out), stderr: read(&err) }
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) -> &mut Self {
        self.start_under(&[])
    }

    /// The same, under another program that becomes the daemon.
    pub fn start_under(&mut self, words: &[&str]) -> &mut Self {
        let ended = self.try_start_under(words);
        assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.log_tail());
        self
    }

    /// The same with a daemon that may end before it is up: how it ended then.
    pub fn try_start_under(&mut self, words: &[&str]) -> Option<i32> {
        assert!(self.daemon.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = self.command();
        command.arg("daemon");
        let mut command = under(words, command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().expect("the program starts"));
        // A command before that would open the store itself, and keep the daemon out.
        let mut daemon = self.daemon.take().expect("it was just started");
        let ended = until("the daemon listens on its socket", &[self], || {
            match daemon.try_wait().expect("a child can be waited for") {
                Some(ended) => Some(Some(ended.code().unwrap_or(-1))),
                None => UnixStream::connect(self.socket()).ok().map(|_| None),
            }
        });
        if ended.is_some() {
            return ended;
        }
        self.daemon = Some(daemon);
        until("the daemon knows its address", &[self], || {
            let id = self.run(&["id"]).exits(0).json();
            (!id["addresses"].as_array()?.is_empty()).then_some(())
        });
        None
    }

    /// Starts the daemon without a passphrase.
    pub fn start_locked(&mut self) -> &mut Self {
        self.vault = false;
        self.start();
        self.vault = true;
        self
    }

    /// Where the daemon listens over TCP for `metrics`, `health` or `api`.
    pub fn port(&self, what: &str) -> SocketAddr {
        let status = super::socket::get(self, "/api/v1/status");
        status["listeners"][what].as_str().and_then(|address| address.parse().ok()).expect("it listens")
    }

    /// Ends the daemon as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }

    /// Asks the daemon to end; its exit code and how long that took.
    pub fn terminate(&mut self) -> (i32, Duration) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is our child");
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = daemon.try_wait().expect("a child can be waited for") {
                let signal = std::os::unix::process::ExitStatusExt::signal(&status);
                return (status.code().unwrap_or(128 + signal.unwrap_or(0)), began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon.kill().ok();
        daemon.wait().ok();
        panic!("the daemon did not end\n{}", self.log_tail());
    }

    /// Waits until the daemon has ended by itself; its exit code.
    pub fn ended(&mut self) -> i32 {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = daemon.try_wait().expect("a child can be waited for") {
                let signal = std::os::unix::process::ExitStatusExt::signal(&status);
                return status.code().unwrap_or(128 + signal.unwrap_or(0));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon.kill().ok();
        daemon.wait().ok();
        panic!("the daemon goes on\n{}", self.log_tail());
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let daemon = self.daemon.as_ref().expect("a daemon runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(daemon), signal)
            .expect("it is our child");
    }

    fn log(&self) -> PathBuf {
        self.path("daemon.log")
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log_text();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(25)..];
        format!("---- log of {}\n{}", self.repo.display(), tail.join("\n"))
    }

    /// The daemon's address on loopback.
    pub fn address(&self) -> String {
        let id = self.run(&["id"]).exits(0).json();
        let addresses = id["addresses"].as_array().expect("addresses").iter().filter_map(Value::as_str);
        let found = addresses.clone().find(|a| a.starts_with("/ip4/127.0.0.1/tcp/"));
        found.unwrap_or_else(|| panic!("no loopback address in {id}")).to_owned()
    }

    /// The daemon's TCP address on the network.
    pub fn wide_address(&self) -> String {
        let id = self.run(&["id"]).exits(0).json();
        let addresses = id["addresses"].as_array().expect("addresses").iter().filter_map(Value::as_str);
        let is_wide = |a: &&str| a.starts_with("/ip4/") && !a.starts_with("/ip4/127.") && a.contains("/tcp/");
        let found = addresses.clone().find(is_wide);
        found.unwrap_or_else(|| panic!("no address on a network in {id}")).to_owned()
    }

    pub fn peer_id(&self) -> String {
        self.run(&["id"]).exits(0).json()["peer_id"].as_str().expect("a peer id").to_owned()
    }

    /// One peer as this node sees it.
    pub fn peer(&self, id: &str) -> Option<Value> {
        let peers = self.run(&["peers", "list"]).exits(0).json();
        peers.as_array().expect("a list").iter().find(|peer| peer["id"] == id).cloned()
    }

    /// Backs up, succeeds; the snapshot's id.
    #[track_caller]
    pub fn backup(&self, source: &Path) -> String {
        let done = self.run(&["backup", text(source)]).exits(0).json();
        done["snapshot_id"].as_str().expect("a snapshot id").to_owned()
    }

    /// Backs up and waits for copies; the summary.
    #[track_caller]
    pub fn replicate(&self, source: &Path) -> Value {
        let arguments = ["backup", text(source), "--wait", "copies", "--wait-timeout", "60s"];
        self.run(&arguments).exits(0).json()
    }

    pub fn snapshots(&self) -> Vec<Value> {
        self.run(&["snapshots"]).exits(0).json().as_array().expect("a list").clone()
    }

    pub fn status(&self) -> Value {
        self.run(&["status"]).json()
    }

    /// Files of packs here, without what lies beside them, sorted.
    pub fn packs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for dir in fs::read_dir(self.repo.join("packs")).expect("a store") {
            let files = fs::read_dir(dir.expect("an entry").path()).expect("a directory");
            found.extend(files.map(|file| file.expect("an entry").path()));
        }
        found.retain(|path| path.extension().is_none());
        found.sort();
        found
    }

    /// Bytes of all packs here.
    pub fn pack_bytes(&self) -> u64 {
        self.packs().iter().map(|pack| fs::metadata(pack).map_or(0, |there| there.len())).sum()
    }

    /// Every file of the data directory whose path below it contains `part`.
    pub fn files(&self, part: &str) -> Vec<PathBuf> {
        fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => walk(&entry.path(), out),
                    _ => out.push(entry.path()),
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.repo, &mut out);
        out.retain(|path| path.strip_prefix(&self.repo).is_ok_and(|below| text(below).contains(part)));
        out.sort();
        out
    }
}

/// A command, run by another program that is named first.
pub fn under(words: &[&str], command: Command) -> Command {
    let Some((program, arguments)) = words.split_first() else { return command };
    let mut outer = Command::new(program);
    outer.args(arguments).arg(command.get_program()).args(command.get_args()).env_clear();
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() && self.daemon.is_some() {
            eprintln!("{}", self.log_tail());
        }
        self.kill();
    }
}

/// Makes two running nodes allow each other, and waits until they are connected.
pub fn pair(one: &Node, other: &Node) {
    one.run(&["peers", "add", &other.address()]).exits(0);
    other.run(&["peers", "add", &one.address()]).exits(0);
    connected(one, other);
}

/// Waits until two nodes that allow each other are connected.
pub fn connected(one: &Node, other: &Node) {
    let (first, second) = (one.peer_id(), other.peer_id());
    until("two nodes are connected", &[one, other], || {
        let sees = |node: &Node, id: &str| node.peer(id).is_some_and(|peer| peer["connected"] == true);
        (sees(one, &second) && sees(other, &first)).then_some(())
    });
}

/// Waits until `condition` gives something; panics with the logs of `nodes` when it takes too long.
#[track_caller]
pub fn until<T>(what: &str, nodes: &[&Node], mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        if began.elapsed() > PATIENCE {
            let logs: Vec<String> = nodes.iter().map(|node| node.log_tail()).collect();
            panic!("waited in vain: {what}\n{}", logs.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A path as an argument; those of tests are UTF-8.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Changes bytes in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file to damage");
    let middle = bytes.len() / 2;
    for byte in bytes.iter_mut().skip(middle).take(8) {
        *byte ^= 0x5a;
    }
    fs::write(path, bytes).expect("damaging a file");
}
