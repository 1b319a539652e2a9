//! The one table of all keys. The settings' types, their defaults, the checks, the schema and the example file
//! all come from it.
//!
//! A row reads: name, kind, default as one would write it, what is allowed, when a change counts, whether it
//! does something yet. `NotYet` rows accept only their default: a setting that is silently ignored is worse
//! than one that is refused.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::key::Allowed::{Any, Between, EvenBetween};
use super::key::Change::{Live, Restart};
use super::key::Key;
use super::key::State::{Built, NotYet};
use super::kind::{
    Absolute, Directory, Filled, Ip, Kind, LocalCopy, LogFormat, LogLevel, Maybe, Number, Size, Socket, Span,
    Switch, Text, Url,
};
use super::list::{Address, AdminKey, List, PeerAddress, TargetLevel};
use super::sets::{BackupSet, Sets};
use crate::base::VaultId;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Makes the settings' structs and [`KEYS`] from the table below.
macro_rules! table {
    (
        { $($(#[doc = $tdoc:literal])+ $top:ident: $ttype:ty = $tkind:ty, $tdefault:literal, $tallowed:expr, $tchange:expr, $tstate:expr;)+ }
        $($(#[doc = $sdoc:literal])+ $section:ident: $struct:ident {
            $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $kind:ty, $default:literal, $allowed:expr, $change:expr, $state:expr;)+
        })+
    ) => {
        /// Everything that can be configured, checked. Made by [`load`](super::load).
        #[derive(Clone, PartialEq, Debug)]
        pub struct Settings {
            $($(#[doc = $tdoc])+ pub $top: $ttype,)+
            $($(#[doc = $sdoc])+ pub $section: $struct,)+
        }

        $(
            $(#[doc = $sdoc])+
            #[derive(Clone, PartialEq, Debug)]
            pub struct $struct { $($(#[doc = $doc])+ pub $name: $type,)+ }
        )+

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    $($top: default_of::<$tkind>($tdefault),)+
                    $($section: $struct { $($name: default_of::<$kind>($default),)+ },)+
                }
            }
        }

        /// Every key, in the order of the example file.
        pub const KEYS: &[Key] = &[
            $(Key {
                section: "", name: stringify!($top), shape: <$tkind as Kind>::SHAPE, allowed: $tallowed,
                default: $tdefault, doc: concat!($($tdoc),+), change: $tchange, state: $tstate,
                set: |key, settings, node| {
                    settings.$top = <$tkind as Kind>::read(node, key.allowed)?;
                    Ok(())
                },
                show: |settings| <$tkind as Kind>::show(&settings.$top),
                copy: |from, to| to.$top = from.$top.clone(),
            },)+
            $($(Key {
                section: stringify!($section), name: stringify!($name), shape: <$kind as Kind>::SHAPE,
                allowed: $allowed, default: $default, doc: concat!($($doc),+), change: $change, state: $state,
                set: |key, settings, node| {
                    settings.$section.$name = <$kind as Kind>::read(node, key.allowed)?;
                    Ok(())
                },
                show: |settings| <$kind as Kind>::show(&settings.$section.$name),
                copy: |from, to| to.$section.$name = from.$section.$name.clone(),
            },)+)+
        ];

        /// The sections with what each is about, in the order of the example file.
        pub(super) const SECTIONS: &[(&str, &str)] = &[$((stringify!($section), concat!($($sdoc),+)),)+];
    };
}

/// The value that a default in the table stands for.
fn default_of<K: Kind>(text: &str) -> K::Value {
    let node = super::layer::written(text, K::SHAPE).ok();
    node.and_then(|node| K::read(&node, Any).ok()).expect("a test reads every default of the table")
}

table! {
    {
        /// The node's data directory. A relative path counts from where the program is started.
        repository_path: PathBuf = Directory, "./data", Any, Restart, Built;
        /// TCP and UDP (QUIC) port for peers; 0 takes any free one.
        listen_port: u16 = Number<u16>, "9000", Between(0, 65_535), Restart, Built;
        /// Multiaddrs with /p2p/ID that are dialled first. Being listed allows nobody to store here.
        peer_bootstrap: Vec<PeerAddress> = List<PeerAddress>, "[]", Any, Restart, Built;
        /// What is backed up together and when: {id, paths, exclude, exclude_if_present, exclude_caches, exclude_larger_than,
        /// one_file_system, min_files, allow_shrink, tags, every | cron, hooks: {before, after, success, failure}}.
        backup_sets: Vec<BackupSet> = Sets, "[]", Any, Live, Built;
    }

    /// Ways to reach peers, and to be reached, across routers.
    nat_traversal: NatTraversal {
        /// Use relays that members run when there is no direct way.
        enable_auto_relay: bool = Switch, "true", Any, Restart, Built;
        /// Try to turn relayed connections into direct ones.
        enable_hole_punching: bool = Switch, "true", Any, Restart, Built;
        /// Ask the router for an open port.
        enable_upnp: bool = Switch, "true", Any, Restart, Built;
        /// Find members on the local network.
        enable_mdns: bool = Switch, "true", Any, Restart, Built;
        /// Relay for other members.
        serve_relay: bool = Switch, "false", Any, Restart, Built;
    }

    /// How files become chunks. Other chunk sizes than before make unchanged files look new once.
    snapshot: Snapshot {
        /// Compress chunks (zstd) where that makes them smaller.
        compression: bool = Switch, "true", Any, Live, Built;
        /// zstd level; higher is smaller and slower.
        compression_level: u8 = Number<u8>, "3", Between(1, 19), Live, Built;
        /// No chunk is cut shorter than this, a file's end apart.
        min_chunk_size: u64 = Size, "16KiB", EvenBetween(64, MIB), Live, Built;
        /// The size aimed at.
        avg_chunk_size: u64 = Size, "64KiB", EvenBetween(256, 4 * MIB), Live, Built;
        /// No chunk is longer than this.
        max_chunk_size: u64 = Size, "256KiB", EvenBetween(KIB, 8 * MIB), Live, Built;
    }

    /// Who may change the list of members for this node.
    acl: Acl {
        /// Base64 Ed25519 public keys whose PeerAdd and PeerRemove records count.
        admins: Vec<VaultId> = List<AdminKey>, "[]", Any, Live, Built;
    }

    /// Copies on peers, and storing for peers.
    replication: Replication {
        /// Peers that must hold a backup before it counts as safe; this machine never counts.
        copies: u32 = Number<u32>, "2", Between(0, 64), Live, Built;
        /// Disk space lent to peers; 0 stores for nobody.
        lend: u64 = Size, "0", Any, Live, Built;
        /// A holder that is asked and proves nothing of what it keeps for this long does not count as a copy.
        proof_within: Duration = Span, "72h", Between(MINUTE, 365 * DAY), Live, Built;
        /// Bytes per second sent to all peers together; 0 is no limit.
        upload_limit: u64 = Size, "0", Any, Live, Built;
        /// Bytes per second taken from all peers together; 0 is no limit.
        download_limit: u64 = Size, "0", Any, Live, Built;
    }

    /// Which snapshots `forget` keeps on schedule; with no rule, all.
    retention: Retention {
        /// The newest so many.
        keep_last: Option<u32> = Maybe<Number<u32>>, "", Between(1, 1_000_000), Live, Built;
        /// The newest of each of so many hours.
        keep_hourly: Option<u32> = Maybe<Number<u32>>, "", Between(1, 1_000_000), Live, Built;
        /// The newest of each of so many days.
        keep_daily: Option<u32> = Maybe<Number<u32>>, "", Between(1, 1_000_000), Live, Built;
        /// The newest of each of so many weeks.
        keep_weekly: Option<u32> = Maybe<Number<u32>>, "", Between(1, 1_000_000), Live, Built;
        /// The newest of each of so many months.
        keep_monthly: Option<u32> = Maybe<Number<u32>>, "", Between(1, 1_000_000), Live, Built;
        /// The newest of each of so many years.
        keep_yearly: Option<u32> = Maybe<Number<u32>>, "", Between(1, 1_000_000), Live, Built;
        /// All that are younger than this.
        keep_within: Option<Duration> = Maybe<Span>, "", Between(1, u64::MAX), Live, Built;
        /// All that carry one of these tags.
        keep_tags: Vec<String> = List<Filled>, "[]", Any, Live, Built;
    }

    /// The mesh of peers.
    p2p: P2p {
        /// Members connected at one time.
        max_peers: u32 = Number<u32>, "50", Between(1, 1_000), Restart, Built;
        /// How long setting up a connection may take.
        connection_timeout: Duration = Span, "30s", Between(SECOND, 10 * MINUTE), Restart, Built;
        /// How often members without a connection are looked for.
        discovery_interval: Duration = Span, "5m", Between(SECOND, DAY), Restart, Built;
        /// How often connected members are pinged and compared with.
        heartbeat_interval: Duration = Span, "30s", Between(SECOND, HOUR), Restart, Built;
        /// Range fetches under way at one time.
        max_concurrent_fetch: u32 = Number<u32>, "10", Between(1, 64), Restart, Built;
        /// How long one range fetch may take.
        chunk_fetch_timeout: Duration = Span, "60s", Between(SECOND, HOUR), Restart, Built;
        /// First pause before a lost member is dialled again; doubles from there.
        reconnect_backoff: Duration = Span, "5s", Between(100, HOUR), Restart, Built;
        /// The longest such pause.
        max_reconnect_backoff: Duration = Span, "5m", Between(100, DAY), Restart, Built;
        /// A member unseen for this long counts as lost, and its copies are made again elsewhere.
        away_after: Duration = Span, "72h", Between(SECOND, 365 * DAY), Live, Built;
        /// Bytes per second that one member may fetch; 0 is no limit.
        peer_bytes_per_second: u64 = Size, "0", Any, Live, Built;
        /// More multiaddrs to listen on.
        listen: Vec<Address> = List<Address>, "[]", Any, Restart, Built;
        /// Multiaddrs that others should dial, when they differ from what this machine sees.
        announce: Vec<Address> = List<Address>, "[]", Any, Restart, Built;
    }

    /// Packs on this machine's disk, and memory.
    storage: Storage {
        /// What own packs may take here with local_copy: cache, beside those with directories and those without their copies.
        max_cache_size: u64 = Size, "1GiB", Between(64 * MIB, u64::MAX), Live, Built;
        /// How often unneeded packs are looked for.
        gc_interval: Duration = Span, "24h", Between(MINUTE, 365 * DAY), Live, Built;
        /// Forget snapshots older than so many days; 0 keeps all.
        retention_days: u32 = Number<u32>, "0", Between(0, 36_500), Live, Built;
        /// Read restored files again and compare.
        verify_on_restore: bool = Switch, "true", Any, Live, Built;
        /// Store a chunk once, however often it occurs. false is for measuring.
        enable_deduplication: bool = Switch, "true", Any, Live, Built;
        /// Days for which packs of others are kept after their owner no longer lists them.
        hold_days: u32 = Number<u32>, "30", Between(1, 3_650), Live, Built;
        /// How often every pack is read and checked.
        scrub_interval: Duration = Span, "30d", Between(HOUR, 365 * DAY), Live, Built;
        /// Memory for the buffers of backup, restore and repair.
        memory_limit: u64 = Size, "96MiB", Between(32 * MIB, 1 << 40), Live, Built;
        /// Disk space that packs, own and kept for others, may take; 0 is no limit.
        disk_limit: u64 = Size, "0", Any, Live, Built;
        /// full keeps own packs here too; cache keeps max_cache_size of them once enough peers have proved to hold the rest.
        local_copy: LocalCopy = LocalCopy, "full", Any, Live, Built;
    }

    /// Logs, metrics and health.
    monitoring: Monitoring {
        /// Serve metrics at metrics_port.
        enable_metrics: bool = Switch, "true", Any, Restart, Built;
        /// Address of the metrics and health ports.
        listen: IpAddr = Ip, "127.0.0.1", Any, Restart, Built;
        /// Port of /metrics; 0 takes any free one.
        metrics_port: u16 = Number<u16>, "9090", Between(0, 65_535), Restart, Built;
        /// Port of /health, /ready and /live; 0 takes any free one.
        health_check_port: u16 = Number<u16>, "8080", Between(0, 65_535), Restart, Built;
        /// The least important log lines that are written.
        log_level: LogLevel = LogLevel, "info", Any, Live, Built;
        /// Levels of single targets, such as net=debug; over log_level for those.
        log_filter: Vec<String> = List<TargetLevel>, "[]", Any, Live, Built;
        /// json for machines, text for people.
        log_format: LogFormat = LogFormat, "json", Any, Restart, Built;
        /// Serve CPU profiles at profiling_port.
        enable_profiling: bool = Switch, "false", Any, Restart, NotYet;
        /// Port of the profiles; 0 takes any free one.
        profiling_port: u16 = Number<u16>, "6060", Between(0, 65_535), Restart, NotYet;
        /// Send traces to tracing_endpoint.
        enable_tracing: bool = Switch, "false", Any, Restart, NotYet;
        /// An OTLP endpoint.
        tracing_endpoint: String = Text, "", Any, Restart, NotYet;
    }

    /// One plain recurring backup; backup_sets can do more.
    scheduler: Scheduler {
        /// Back up backup_paths every backup_interval.
        enable_auto_backup: bool = Switch, "false", Any, Live, Built;
        /// The rhythm.
        backup_interval: Duration = Span, "24h", Between(MINUTE, 365 * DAY), Live, Built;
        /// Absolute paths.
        backup_paths: Vec<PathBuf> = List<Absolute>, "[]", Any, Live, Built;
        /// Tries after a backup that failed.
        max_backup_retries: u32 = Number<u32>, "3", Between(0, 100), Live, Built;
        /// How often some files are restored from peers into a scratch directory and compared.
        restore_drill_interval: Duration = Span, "30d", Between(HOUR, 365 * DAY), Live, Built;
    }

    /// Who is told when a recurring task fails for good, and when it works again.
    notify: Notify {
        /// A command as an argument list; it gets the message as JSON on its standard input.
        command: Vec<String> = List<Filled>, "[]", Any, Live, Built;
        /// An http or https URL that the message is posted to as JSON.
        webhook: Option<String> = Maybe<Url>, "", Any, Live, Built;
        /// Tell of every run that works, too.
        on_success: bool = Switch, "false", Any, Live, Built;
    }

    /// Limits on what others may ask, and the API over TCP.
    security: Security {
        /// Limit requests by peer and by address.
        enable_rate_limiting: bool = Switch, "true", Any, Live, Built;
        /// Requests per second from one peer or address.
        requests_per_second: u32 = Number<u32>, "100", Between(1, 1_000_000), Live, Built;
        /// Requests that may come at once; at least requests_per_second.
        burst_size: u32 = Number<u32>, "200", Between(1, 1_000_000), Live, Built;
        /// Exempt whitelisted_ips from limits. It grants nothing else.
        enable_ip_whitelist: bool = Switch, "false", Any, Live, Built;
        /// IP addresses.
        whitelisted_ips: Vec<IpAddr> = List<Ip>, "[]", Any, Live, Built;
        /// Bytes in one request to the API.
        max_request_size: u64 = Size, "100MiB", Between(KIB, 1 << 40), Restart, Built;
        /// Address and port of the API over TCP; empty leaves it to the control socket.
        api_listen: Option<SocketAddr> = Maybe<Socket>, "", Any, Restart, Built;
        /// File that holds the API's bearer token.
        api_token_file: Option<PathBuf> = Maybe<Directory>, "", Any, Restart, Built;
    }
}
