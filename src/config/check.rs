//! Rules between keys, and the refusal of keys that do nothing yet.

use super::key::{Key, State};
use super::mistake::Fault;
use super::table::Settings;
use crate::base::{format_duration, limit};

/// A value that does not fit another one.
pub(super) struct Conflict {
    /// The key that is most probably wrong.
    pub key: &'static str,
    /// The key it is compared with.
    pub other: &'static str,
    pub fault: Fault,
}

/// Every broken rule between keys.
pub(super) fn conflicts(settings: &Settings) -> Vec<Conflict> {
    let Settings { snapshot, security, p2p, storage, scheduler, .. } = settings;
    let chunk_bytes = usize::try_from(snapshot.max_chunk_size).unwrap_or(usize::MAX / 16);
    let rules = [
        (
            snapshot.min_chunk_size <= snapshot.avg_chunk_size,
            ("snapshot.min_chunk_size", snapshot.min_chunk_size.to_string()),
            "at most",
            ("snapshot.avg_chunk_size", snapshot.avg_chunk_size.to_string()),
        ),
        (
            snapshot.avg_chunk_size <= snapshot.max_chunk_size,
            ("snapshot.max_chunk_size", snapshot.max_chunk_size.to_string()),
            "at least",
            ("snapshot.avg_chunk_size", snapshot.avg_chunk_size.to_string()),
        ),
        (
            storage.memory_limit >= limit::memory_bytes_min(chunk_bytes) as u64,
            ("storage.memory_limit", storage.memory_limit.to_string()),
            "at least 28 MiB and eight times",
            ("snapshot.max_chunk_size", snapshot.max_chunk_size.to_string()),
        ),
        (
            security.requests_per_second <= security.burst_size,
            ("security.burst_size", security.burst_size.to_string()),
            "at least",
            ("security.requests_per_second", security.requests_per_second.to_string()),
        ),
        (
            security.api_listen.is_none() || security.api_token_file.is_some(),
            (
                "security.api_listen",
                security.api_listen.map(|address| address.to_string()).unwrap_or_default(),
            ),
            "used together with",
            ("security.api_token_file", "which is not set".to_owned()),
        ),
        (
            !scheduler.enable_auto_backup || !scheduler.backup_paths.is_empty(),
            ("scheduler.enable_auto_backup", "true".to_owned()),
            "used together with",
            ("scheduler.backup_paths", "which is empty".to_owned()),
        ),
        (
            p2p.reconnect_backoff <= p2p.max_reconnect_backoff,
            ("p2p.max_reconnect_backoff", format_duration(p2p.max_reconnect_backoff)),
            "at least",
            ("p2p.reconnect_backoff", format_duration(p2p.reconnect_backoff)),
        ),
    ];
    rules
        .into_iter()
        .filter(|(holds, ..)| !holds)
        .map(|(_, (key, found), relation, (other, value))| {
            let rule = format!("it must be {relation} {other}, {value}");
            Conflict { key, other, fault: Fault::Conflict { found, rule } }
        })
        .collect()
}

/// Whether `key` was given a value that this version cannot honour.
pub(super) fn unavailable(key: &Key, settings: &Settings, defaults: &Settings) -> Option<Fault> {
    let changed = (key.show)(settings) != (key.show)(defaults);
    (key.state == State::NotYet && changed).then(|| {
        let default = if key.default.is_empty() { "\"\"" } else { key.default };
        Fault::Unavailable { default: default.to_owned() }
    })
}
