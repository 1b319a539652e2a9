//! Where it happens: a real daemon that is attacked, one beside it that means well, and a member that fetches all the while.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shadowvault::base::{PackId, PeerId, VaultId, limit};
use tokio::runtime::Runtime;

use super::super::node::{Node, pair, text, until};
use super::super::tree;
use super::Behaviour;
use super::client::Client;
use super::peer::Raw;

/// With default settings, whatever anybody does.
const PEAK_BYTES_MAX: u64 = 256 << 20;
const FILES_MAX: usize = 1024;
/// After the end of an attack everything is as before within this time.
pub const RECOVERY: Duration = Duration::from_secs(30);
/// Between two looks at what the victim holds open.
pub const LOOK: Duration = Duration::from_millis(100);
/// What a member keeps of its rate, at least, in percent.
const RATE_MIN: u64 = 50;

/// How long each behaviour lasts in a usual run.
const SHORT: Duration = Duration::from_millis(1500);

/// Asked for at length: how long each behaviour lasts, where the table goes, and the seed of all that is random.
struct Settings {
    life: Duration,
    table: Option<PathBuf>,
    seed: u64,
}

impl Settings {
    fn get() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let table = std::env::var_os("EVIL_TABLE").map(PathBuf::from);
        let life = number("EVIL_SECONDS").map_or(SHORT, Duration::from_secs);
        Self { life, table, seed: number("SEED").unwrap_or(1) }
    }
}

/// What a behaviour has to work with.
pub struct Scene {
    pub at: SocketAddr,
    pub victim: PeerId,
    /// Those that the victim admitted for it.
    pub members: Vec<Raw>,
    /// What means well, and is stored at the victim or by it.
    pub vault: VaultId,
    pub packs: Vec<(PackId, u64)>,
    /// Where the victim's daemon listens for HTTP.
    pub http: Vec<SocketAddr>,
    /// The phrase of the vault that means well, where a behaviour is of one of its devices.
    pub phrase: Option<String>,
    done: AtomicU64,
    named: Mutex<Vec<String>>,
}

impl Scene {
    /// It did once what it is here to do.
    pub fn did(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// The victim has nothing under that name once the attacker is removed.
    pub fn leaves_no(&self, name: impl ToString) {
        let mut named = self.named.lock().expect("no panic while held");
        if named.len() < 4096 {
            named.push(name.to_string());
        }
    }
}

/// The victim, who is beside it, and what both have seen of each other.
pub struct Field {
    pub victim: Node,
    beside: Node,
    /// Whether the victim is the owner of what is stored; else its holder.
    owns: bool,
    client: Client,
    at: SocketAddr,
    id: PeerId,
    vault: VaultId,
    packs: Vec<(PackId, u64)>,
    stored: u64,
    /// Of those that mean harm, and of the member that does not: neither takes the other's turns.
    evil: Runtime,
    well: Runtime,
    settings: Settings,
}

fn socket(node: &Node) -> SocketAddr {
    let address = node.address();
    let port = address.split('/').nth(4).and_then(|port| port.parse().ok()).expect("a port");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Lets somebody in by hand. Where it says that it is nobody listens, or it does.
pub fn admit(victim: &Node, raw: &Raw, at: SocketAddr) {
    let address = format!("/ip4/{}/tcp/{}/p2p/{}", at.ip(), at.port(), raw.id);
    victim.run(&["peers", "add", &address]).exits(0);
}

/// A port of this machine at which nobody listens.
pub fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

impl Field {
    /// A holder for others is attacked, and an owner has its packs there.
    pub fn of_a_holder() -> Self {
        let mut victim = Node::storage_only("1GiB");
        victim.start();
        let mut owner = Node::init().with("replication.copies", "1");
        owner.start();
        Self::of(victim, owner, false)
    }

    /// An owner is attacked, and a holder has its packs. It wants one copy more, so that whoever comes is offered them.
    pub fn of_an_owner() -> Self {
        let mut victim = Node::init().with("replication.copies", "2");
        victim.start();
        let mut holder = Node::storage_only("1GiB");
        holder.start();
        Self::of(victim, holder, true)
    }

    fn of(victim: Node, beside: Node, owns: bool) -> Self {
        pair(&victim, &beside);
        let owner = if owns { &victim } else { &beside };
        let source = owner.path("source");
        fs::create_dir_all(&source).expect("the home is ours");
        fs::write(source.join("large"), tree::noise(7, 12 << 20)).expect("the home is ours");
        owner.backup(&source);
        let packs = owner.packs().into_iter().map(|pack| {
            let name = pack.file_name().and_then(|name| name.to_str()).expect("an id");
            let id = hex::decode(name).expect("a pack is called by its id");
            let length = fs::metadata(&pack).expect("it is there").len();
            (PackId::try_from(id.as_slice()).expect("32 bytes"), length)
        });
        let packs = packs.filter(|(_, length)| *length >= limit::FETCH_BYTES_MAX as u64).collect();
        let vault = fs::read_to_string(owner.repo().join("vault.id")).expect("an owner has a vault");
        let vault = hex::decode(vault.trim()).expect("hex");
        let client = Client::new();
        admit(&victim, &client.raw, nowhere());
        let field = Self {
            at: socket(&victim),
            id: victim.peer_id().parse().expect("a peer id"),
            vault: VaultId::try_from(vault.as_slice()).expect("32 bytes"),
            packs,
            stored: 0,
            evil: Runtime::new().expect("a runtime"),
            well: Runtime::new().expect("a runtime"),
            settings: Settings::get(),
            client,
            victim,
            beside,
            owns,
        };
        field.copied();
        field
    }

    fn owner(&self) -> &Node {
        if self.owns { &self.victim } else { &self.beside }
    }

    /// Whether there is time.
    pub fn is_long(&self) -> bool {
        self.settings.table.is_some()
    }

    /// Plays all, each in its turn, and writes down how each went.
    pub fn play(&mut self, behaviours: &[Behaviour]) {
        let only = std::env::var("EVIL_ONLY").unwrap_or_default();
        let mut chosen: Vec<_> = behaviours.iter().filter(|one| one.name.contains(&only)).collect();
        let seed = self.settings.seed;
        chosen.sort_by_key(|one| *blake3::hash(format!("{seed} {}", one.name).as_bytes()).as_bytes());
        let mut faults = Vec::new();
        for behaviour in chosen {
            let before = faults.len();
            let name = behaviour.name;
            let row = self.play_one(behaviour, &mut |what| faults.push(format!("{name}: {what}")));
            eprintln!("{row}\n{}", faults[before..].join("\n"));
            if let Some(table) = &self.settings.table {
                let file = fs::File::options().create(true).append(true).open(table);
                file.and_then(|mut file| writeln!(file, "{row}")).expect("the table can be written");
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    fn play_one(&mut self, behaviour: &Behaviour, fault: &mut dyn FnMut(String)) -> String {
        let (life, is_long) = (self.settings.life, self.is_long());
        let members: Vec<Raw> = (0..behaviour.members).map(|_| Raw::new()).collect();
        for member in &members {
            admit(&self.victim, member, nowhere());
        }
        let control = if is_long { self.rate(life) } else { 0 };
        let pid = self.victim.pid();
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("its peak can be forgotten");
        let scene = Arc::new(self.scene(members));
        let attack = self.evil.spawn((behaviour.act)(scene.clone()));
        if self.owns {
            // There is something to offer.
            self.store();
        }
        let looks = Looks::at(pid);
        let (bytes, rate) = self.fetch(life);
        (behaviour.meanwhile)(self, &scene, fault);
        let (peak, files) = (peak_bytes(pid), looks.end());
        attack.abort();
        if let Err(error) = self.evil.block_on(attack)
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        let done = scene.done.load(Ordering::Relaxed);
        let why = self.client.why.lock().expect("no panic while held").clone();
        let recovery = self.recover(&scene);
        let left = self.left_of(&scene);
        let holds = [
            (done > 0, "it did nothing".to_owned()),
            (bytes > 0, format!("a member was not served: {why}")),
            (peak <= PEAK_BYTES_MAX, format!("{} MiB at its peak", peak >> 20)),
            (files <= FILES_MAX, format!("{files} descriptors")),
            (!is_long || rate * 100 >= control * RATE_MIN, format!("{rate} of {control} bytes a second")),
            (recovery <= RECOVERY, format!("{} s until it stored again", recovery.as_secs())),
            (left.is_empty(), format!("left behind: {left:?}")),
            (!self.victim.log_text().contains("panicked"), "something panicked".to_owned()),
        ];
        holds.into_iter().filter(|(holds, _)| !holds).for_each(|(_, what)| fault(what));
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let (name, peak, recovery) = (behaviour.name, peak >> 20, recovery.as_secs_f64());
        format!("| {name} | {done} | {peak} | {files} | {} | {} | {recovery:.1} |", mib(control), mib(rate))
    }

    fn scene(&self, members: Vec<Raw>) -> Scene {
        let phrase = self.owner().phrase();
        Scene {
            at: self.at,
            victim: self.id,
            members,
            vault: self.vault,
            packs: self.packs.clone(),
            http: vec![self.victim.port("metrics"), self.victim.port("health")],
            phrase: fs::read_to_string(phrase).ok(),
            done: AtomicU64::new(0),
            named: Mutex::default(),
        }
    }

    fn rate(&mut self, life: Duration) -> u64 {
        self.fetch(life).1
    }

    /// What a member gets in that time, and how much of it in a second.
    fn fetch(&mut self, life: Duration) -> (u64, u64) {
        let (bytes, took) = self.well.block_on(self.client.fetch(self.at, &self.packs, life));
        (bytes, (bytes as f64 / took.as_secs_f64()) as u64)
    }

    /// Removes the attackers; how long it takes from then on until something new lies where its copy is to be.
    fn recover(&mut self, scene: &Scene) -> Duration {
        for member in &scene.members {
            self.victim.run(&["peers", "remove", &member.id.to_string()]).exits(0);
            scene.leaves_no(member.id);
        }
        let began = Instant::now();
        self.store();
        self.copied();
        began.elapsed()
    }

    /// Backs up something new.
    fn store(&mut self) {
        self.stored += 1;
        let owner = self.owner();
        let source = owner.path("source");
        fs::write(source.join(self.stored.to_string()), tree::noise(self.stored, 50_000))
            .expect("it is ours");
        owner.backup(&source);
    }

    /// Waits until all that the owner has lies with its honest holder.
    fn copied(&self) {
        let holder = if self.owns { &self.beside } else { &self.victim };
        let names = |node: &Node| -> BTreeSet<OsString> {
            node.packs().iter().filter_map(|pack| pack.file_name().map(ToOwned::to_owned)).collect()
        };
        let wanted = names(self.owner());
        until("everything has its copy", &[&self.victim, &self.beside], || {
            names(holder).is_superset(&wanted).then_some(())
        });
    }

    /// What the victim still has of an attacker that was removed: nothing that has the name of what it left.
    fn left_of(&self, scene: &Scene) -> Vec<String> {
        let named = scene.named.lock().expect("no panic while held");
        let mut left = Vec::new();
        let found = |left: &mut Vec<String>| {
            let files = self.victim.files("");
            left.clear();
            left.extend(
                files
                    .iter()
                    .map(|file| text(file).to_owned())
                    .filter(|file| named.iter().any(|name| file.contains(name.as_str()))),
            );
            left.is_empty()
        };
        let began = Instant::now();
        while !found(&mut left) && began.elapsed() < RECOVERY {
            std::thread::sleep(LOOK);
        }
        left
    }
}

/// Looks again and again at what a process holds open.
struct Looks {
    most: Arc<AtomicUsize>,
    ends: Sender<()>,
    thread: JoinHandle<()>,
}

impl Looks {
    fn at(pid: u32) -> Self {
        let (ends, ended) = channel();
        let most = Arc::new(AtomicUsize::new(0));
        let seen = most.clone();
        let thread = std::thread::spawn(move || {
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
                seen.fetch_max(open, Ordering::Relaxed);
            }
        });
        Self { most, ends, thread }
    }

    /// The most that there were.
    fn end(self) -> usize {
        drop(self.ends);
        self.thread.join().expect("it only looks");
        self.most.load(Ordering::Relaxed)
    }
}

fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}
