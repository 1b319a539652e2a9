//! Every metric, declared once: name, meaning, label and its closed set of values.
//!
//! The table below is all there is; a name that is not in it cannot be written. Without a recorder (a command that
//! ends) every call does nothing. Names follow Prometheus: base units, `_total` on what only grows.

/// What only grows.
#[derive(Debug)]
pub struct Counter(&'static str);

impl Counter {
    /// Adds.
    pub fn add(&self, amount: u64) {
        metrics::counter!(self.0).increment(amount);
    }
}

/// What only grows, told apart by one label.
#[derive(Debug)]
pub struct CounterBy {
    name: &'static str,
    label: &'static str,
    values: &'static [&'static str],
}

impl CounterBy {
    /// Adds under one of the declared values.
    pub fn add(&self, value: &'static str, amount: u64) {
        debug_assert!(self.values.contains(&value), "{}: {value}", self.name);
        metrics::counter!(self.name, self.label => value).increment(amount);
    }
}

/// What goes up and down.
#[derive(Debug)]
pub struct Gauge(&'static str);

impl Gauge {
    /// Sets.
    pub fn set(&self, value: f64) {
        metrics::gauge!(self.0).set(value);
    }
}

/// The same for each peer; there are as many as the peer list has.
#[derive(Debug)]
pub struct GaugeOfPeer(&'static str);

impl GaugeOfPeer {
    /// Sets.
    pub fn set(&self, peer: String, value: f64) {
        metrics::gauge!(self.0, "peer" => peer).set(value);
    }
}

/// How often values fell into which range.
#[derive(Debug)]
pub struct Histogram(&'static str);

impl Histogram {
    /// Notes one value.
    pub fn note(&self, value: f64) {
        metrics::histogram!(self.0).record(value);
    }
}

/// The same, told apart by one label.
#[derive(Debug)]
pub struct HistogramBy {
    name: &'static str,
    label: &'static str,
}

impl HistogramBy {
    /// Notes one value under one of the declared values.
    pub fn note(&self, label: &'static str, value: f64) {
        metrics::histogram!(self.name, self.label => label).record(value);
    }
}

/// One row of the table, for those who show all of it.
#[derive(Copy, Clone, Debug)]
pub struct Metric {
    /// The name, prefix included.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// What kind it is.
    pub kind: MetricKind,
    /// The label and its values, where there is one with a closed set.
    pub labels: Option<(&'static str, &'static [&'static str])>,
}

/// Kinds of metrics.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A gauge for each peer.
    GaugeOfPeer,
    /// Ranges, by their upper ends.
    Histogram(&'static [f64]),
}

/// Seconds of jobs: from a look at one directory to a first backup of terabytes.
const JOB_SECONDS: &[f64] = &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
/// Seconds of one fetch: a LAN answers in milliseconds, a poor line in many seconds; the limit is a minute.
const FETCH_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

macro_rules! metrics_table {
    (
        counters { $($c:ident $cname:literal $chelp:literal;)+ }
        counters_by { $($b:ident $bname:literal $blabel:literal [$($bvalue:literal)+] $bhelp:literal;)+ }
        gauges { $($g:ident $gname:literal $ghelp:literal;)+ }
        gauges_of_peers { $($p:ident $pname:literal $phelp:literal;)+ }
        histograms { $($h:ident $hname:literal $hbuckets:ident $hhelp:literal;)+ }
        histograms_by { $($i:ident $iname:literal $ilabel:literal [$($ivalue:literal)+] $ibuckets:ident $ihelp:literal;)+ }
    ) => {
        $(#[doc = $chelp] pub static $c: Counter = Counter(concat!("shadowvault_", $cname));)+
        $(#[doc = $bhelp] pub static $b: CounterBy = CounterBy {
            name: concat!("shadowvault_", $bname), label: $blabel, values: &[$($bvalue),+],
        };)+
        $(#[doc = $ghelp] pub static $g: Gauge = Gauge(concat!("shadowvault_", $gname));)+
        $(#[doc = $phelp] pub static $p: GaugeOfPeer = GaugeOfPeer(concat!("shadowvault_", $pname));)+
        $(#[doc = $hhelp] pub static $h: Histogram = Histogram(concat!("shadowvault_", $hname));)+
        $(#[doc = $ihelp] pub static $i: HistogramBy = HistogramBy {
            name: concat!("shadowvault_", $iname), label: $ilabel,
        };)+

        /// Every metric.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: concat!("shadowvault_", $cname), help: $chelp, kind: MetricKind::Counter, labels: None },)+
            $(Metric {
                name: concat!("shadowvault_", $bname), help: $bhelp, kind: MetricKind::Counter,
                labels: Some(($blabel, &[$($bvalue),+])),
            },)+
            $(Metric { name: concat!("shadowvault_", $gname), help: $ghelp, kind: MetricKind::Gauge, labels: None },)+
            $(Metric { name: concat!("shadowvault_", $pname), help: $phelp, kind: MetricKind::GaugeOfPeer, labels: None },)+
            $(Metric {
                name: concat!("shadowvault_", $hname), help: $hhelp, kind: MetricKind::Histogram($hbuckets), labels: None,
            },)+
            $(Metric {
                name: concat!("shadowvault_", $iname), help: $ihelp, kind: MetricKind::Histogram($ibuckets),
                labels: Some(($ilabel, &[$($ivalue),+])),
            },)+
        ];
    };
}

metrics_table! {
    counters {
        BACKUPS_CREATED "backups_created_total" "Backups that ended with a snapshot.";
        BACKUPS_FAILED "backups_failed_total" "Backups that ended without a snapshot.";
        BYTES_BACKED_UP "bytes_backed_up_total" "Bytes of files in snapshots that were made.";
        RESTORES_COMPLETED "restores_completed_total" "Restores that brought everything back that was asked for.";
        RESTORES_FAILED "restores_failed_total" "Restores that failed or left something out.";
        BYTES_RESTORED "bytes_restored_total" "Bytes of files that restores wrote.";
        PEERS_DISCOVERED "peers_discovered_total" "Peers that were met for the first time since the start.";
        MESSAGES_SENT "messages_sent_total" "Requests and answers sent to peers.";
        MESSAGES_RECEIVED "messages_received_total" "Requests and answers received from peers.";
        CHUNKS_STORED "chunks_stored_total" "New chunks entered in the index.";
        CHUNKS_FETCHED "chunks_fetched_total" "Ranges of packs fetched from peers.";
        DEDUPLICATED_CHUNKS "deduplicated_chunks_total" "Chunks of backups that were stored already.";
        FETCH_BYTES "fetch_bytes_total" "Bytes of packs received from peers.";
        SERVE_BYTES "serve_bytes_total" "Bytes of packs sent to peers.";
        BLOCKS_STORED "blocks_stored_total" "Pack files written.";
        GC_RUNS "gc_runs_total" "Collections of garbage that ran to their end.";
        GC_FREED_BYTES "gc_freed_bytes_total" "Bytes of packs that collections of garbage deleted.";
        BLOCKS_DELETED "blocks_deleted_total" "Pack files removed or put into quarantine.";
    }
    counters_by {
        ERRORS "errors_total" "category" ["storage" "network" "crypto" "snapshot" "config" "permission" "resource"]
            "Operations that ended with an error, by the area of its code.";
        REPAIRED_CHUNKS "repaired_chunks_total" "outcome" ["restored" "lost"]
            "Damaged or missing chunks that repairs dealt with.";
        VERIFY_RUNS "verify_runs_total" "outcome" ["sound" "damaged" "failed"] "Verifications by how they ended.";
        AUDITS "audit_total" "outcome" ["ok" "wrong" "offline" "timeout" "unknown"]
            "Slices that holders were asked for to prove that they have them, by what came of it.";
        RATE_LIMITED "rate_limited_total" "scope" ["peer" "ip"] "Requests refused because one asked too often.";
        SCHEDULER_RUNS "scheduler_runs_total" "outcome" ["success" "incomplete" "retry" "failure"]
            "Runs of scheduled tasks by how they ended.";
        STORE_FAILURES "store_failures_total" "kind" ["write" "index" "away"]
            "Times that the data directory failed a write, that its index turned out damaged, or that it went out of reach.";
        CONFIG_RELOADS "config_reloads_total" "outcome" ["success" "failure"] "Reloads of the configuration.";
    }
    gauges {
        BUILD_UP "up" "1 while the node runs.";
        PEERS_CONNECTED "peers_connected" "Members connected now.";
        STORAGE_USED_BYTES "storage_used_bytes" "Bytes of all packs here, own and kept for others.";
        STORE_PACKS "store_packs" "Packs here, own and kept for others.";
        DISK_FREE_BYTES "disk_free_bytes" "Free bytes on the disk of the data directory.";
        MEMORY_BUDGET_USED_BYTES "memory_budget_used_bytes" "Bytes of the memory limit that jobs hold.";
        BACKUP_LAST_SUCCESS "backup_last_success_timestamp_seconds" "When the newest snapshot of this device was made; 0 for never.";
        SNAPSHOT_COPIES_MIN "snapshot_copies_min" "Copies of the snapshot that has the fewest.";
        UNDER_REPLICATED_BYTES "under_replicated_bytes" "Own bytes with fewer copies than wished.";
        CHUNKS_MISSING "chunks_missing" "Missing chunks that the last verification found.";
        CHUNKS_CORRUPT "chunks_corrupt" "Damaged chunks that the last verification found.";
        RESTORE_PROVEN "restore_proven_timestamp_seconds" "When a drill last brought all its files back from peers; 0 for never.";
        CONFIG_LAST_RELOAD_SUCCESSFUL "config_last_reload_successful" "1 unless the last reload of the configuration failed.";
        HELD_BYTES "held_bytes" "Bytes of packs of others that their owners list no more and that the hold keeps.";
        JOBS_RUNNING "jobs_running" "Jobs that wait or are at work.";
    }
    gauges_of_peers {
        PEER_LAST_SEEN "peer_last_seen_timestamp_seconds" "When the peer was last connected.";
    }
    histograms {
        BACKUP_DURATION "backup_duration_seconds" JOB_SECONDS "How long backups took.";
        CHUNK_FETCH_SECONDS "chunk_fetch_seconds" FETCH_SECONDS "How long range fetches from peers took.";
    }
    histograms_by {
        JOB_DURATION "job_duration_seconds" "kind" ["backup" "restore" "verify" "repair" "forget" "gc"] JOB_SECONDS "How long jobs took, from their start to their end.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let mut seen = std::collections::HashSet::new();
        for metric in METRICS {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == MetricKind::Counter,
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            if let MetricKind::Histogram(buckets) = metric.kind {
                assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]), "{}", metric.name);
            }
        }
    }

    #[test]
    fn every_category_of_errors_is_a_label() {
        for code in crate::base::Code::ALL {
            assert!(ERRORS.values.contains(&code.category().name()), "{code:?}");
        }
    }
}
