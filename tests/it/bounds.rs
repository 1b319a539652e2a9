//! docs/SECURITY.md says what a peer may cost; here it is compared with the bounds themselves, and with what can be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shadowvault::base::limit;

/// Whether this is a process of its own for the test of that name; the other one makes it and waits until it ended well.
pub(super) fn in_own_process(test: &str) -> bool {
    const OWN: &str = "SHADOWVAULT_TEST_ALONE";
    if std::env::var_os(OWN).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let done =
        std::process::Command::new(program).args(["--exact", test, "--nocapture"]).env(OWN, "1").output();
    let done = done.unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}{why}");
    false
}

/// The most memory that this process ever had, in bytes.
pub(super) fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

trait Value {
    fn value(self) -> u64;
}

impl Value for usize {
    fn value(self) -> u64 {
        self as u64
    }
}

impl Value for u32 {
    fn value(self) -> u64 {
        u64::from(self)
    }
}

impl Value for u64 {
    fn value(self) -> u64 {
        self
    }
}

impl Value for std::num::NonZeroU32 {
    fn value(self) -> u64 {
        u64::from(self.get())
    }
}

impl Value for Duration {
    fn value(self) -> u64 {
        self.as_secs()
    }
}

macro_rules! bounds {
    ($($name:ident)*) => {
        BTreeMap::from([$((stringify!($name), Value::value(limit::$name))),*])
    };
}

/// Every bound that a peer can meet. One that is added to `base::limit` for peers is added here, and then the table lacks it.
fn bounds() -> BTreeMap<&'static str, u64> {
    bounds! {
        CORK_BYTES CONNECTIONS_PENDING_MAX STRANGER_CONNECTIONS_PER_PEER_MAX STRANGER_CONNECTIONS_MAX STRANGER_LIFE
        STRANGER_IDLE CONNECTIONS_PER_PEER_MAX TCP_STREAM_WINDOW_BYTES QUIC_STREAM_WINDOW_BYTES STRANGER_STREAMS_MAX
        STRANGER_STREAM_BYTES_MAX STRANGER_BYTES_MAX STRANGER_STREAMS_RESET_MAX BYTES_OF_A_STEP QUIC_CONNECTION_WINDOW_BYTES UNREAD_BYTES_MAX STREAMS_PER_CONNECTION_MAX DOOR_BYTES_MAX
        DOOR_FIELDS_MAX PENDING_PEERS_MAX DOOR_SERVED_PER_PEER_MAX DOOR_SERVED_MAX DOOR_REQUESTS_PER_SECOND_MAX
        HEAD_DECODING_BYTES VAULT_DEVICES_MAX HEAD_BRANCHES_MAX SYNC_SERVED_PER_PEER_MAX SYNC_SERVED_MAX
        HEAD_BYTES_MAX RECORDS_ASKED_MAX RECORD_BATCH_BYTES_MAX CELL_BYTES OFFER_PACKS_MAX SYNC_REQUEST_BYTES_MAX
        SYNC_REQUEST_FIELDS_MAX HEAD_LISTS_MAX HEAD_SNAPSHOTS_MAX VAULT_HEADS_BYTES_MAX VAULT_HEADS_MAX VAULTS_MAX
        VAULTS_PER_PEER_MAX EMPTY_VAULT_KEPT
        RECEIPT_BYTES_MAX RECEIPT_PACKS_MAX RECEIPT_FIELDS_MAX PEER_RECORDS_MAX PEER_RECORD_BYTES_MAX
        REVOCATION_BYTES_MAX RELEASE_BYTES_MAX RELEASE_FIELDS_MAX CALL_ADDRESSES_MAX CALL_PAUSE CALLS_MAX
        FETCH_BYTES_MAX FETCH_RANGES_MAX FETCH_REQUEST_BYTES_MAX FETCH_REQUEST_FIELDS_MAX
        FETCH_SERVED_PER_PEER_MAX FETCH_SERVED_MAX FETCH_RESPONSE_BYTES_MAX FETCH_RESPONSE_FIELDS_MAX
        FETCH_IN_FLIGHT_PER_PEER_MAX FETCH_IN_FLIGHT_MAX SYNC_RESPONSE_BYTES_MAX SYNC_RESPONSE_FIELDS_MAX
        SYNC_IN_FLIGHT_PER_PEER_MAX SYNC_IN_FLIGHT_MAX REQUESTS_WAITING_PER_PEER_BYTES_MAX
        REQUESTS_WAITING_BYTES_MAX KAD_BYTES_MAX WHEREABOUTS_BYTES_MAX WHEREABOUTS_MAX FINDS_MAX HEAD_FIELDS_MAX
        HEAD_BYTES_LONG CERTIFICATE_BYTES_MAX FIELDS_FEW LIST_BYTES_MAX LIST_PACKS_MAX RECORD_BYTES
        RECORD_FIELDS_MAX CHUNK_BYTES_MAX TREE_FIELDS_MAX TREE_ENTRIES_MAX IMPORT_PACKS_MAX
        PENDING_PER_HOST_MAX PENDING_PER_NETWORK_MAX PENDING_STRANGERS_MAX PENDING_MEMBERS_MAX HANDSHAKE
        RELAYED_PENDING_MAX STRANGER_CONNECTIONS_PER_HOST_MAX STRANGER_CONNECTIONS_PER_NETWORK_MAX
        DOOR_REQUESTS_PER_HOST_PER_SECOND_MAX DOOR_KNOCKS_PER_SECOND_MAX DOOR_HOSTS_MAX KAD_PER_SECOND_MAX
        KAD_BURST_MAX KAD_WAITING_MAX ROWS_OF_A_REQUEST SIGNATURES_OF_A_REQUEST KEPT_PLACES_PER_PEER_MAX KEPT_PLACES
        SLOW_READER_BYTES_PER_SECOND SLOW_READER_TIME STALLED_READER_TIME SLOW_READER_RESTRICTED
        HOLDING_BACK_BYTES_PER_SECOND HOLDING_BACK_TIME HOLDING_BACK_SLOW PEER_ADDRESSES_MAX NAME_TIME
        NAME_ADDRESSES_MAX CLAIM_PAUSE CLAIM_PAUSE_MAX TURNED_AWAY_PEERS_MAX RECEIPT_FILES_MAX AUDIT_TRIALS_MAX
    }
}

/// The table's rows.
fn rows(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with('|')).collect()
}

/// What comes before a name in brackets: a number, and what it counts.
fn stated(before: &str) -> Option<u64> {
    let words: Vec<&str> = before.split_whitespace().collect();
    let at = words.iter().rposition(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let number: u64 = words[at].replace(',', "").parse().ok()?;
    let unit = words.get(at + 1).copied().unwrap_or_default();
    Some(match unit {
        "KiB" => number << 10,
        "MiB" => number << 20,
        "GiB" => number << 30,
        _ => number,
    })
}

#[test]
fn the_table_of_costs_says_what_the_bounds_are() {
    let text = include_str!("../../docs/SECURITY.md");
    let bounds = bounds();
    let mut named = BTreeSet::new();
    for row in rows(text) {
        let mut rest = row;
        while let Some((before, after)) = rest.split_once("(`") {
            let (name, after) = after.split_once("`)").unwrap_or_else(|| panic!("{row}"));
            rest = after;
            if let Some(value) = bounds.get(name) {
                assert_eq!(stated(before), Some(*value), "{name} in {row}");
                named.insert(name);
            } else {
                assert!(name.contains(char::is_lowercase), "{name} is no bound that this test knows");
            }
        }
    }
    let missing: Vec<_> = bounds.keys().filter(|name| !named.contains(*name)).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
}

#[test]
fn the_table_of_costs_has_everything_that_a_peer_can_ask() {
    let table = rows(include_str!("../../docs/SECURITY.md")).join("\n");
    let proto = include_str!("../../proto/shadowvault.proto");
    let mut asked = 0;
    for oneof in proto.split("oneof ask {").skip(1) {
        for line in oneof.split('}').next().unwrap().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, name, "=", ..] = words[..] {
                assert!(table.contains(&format!("`{name}`")), "{name} is not in the table");
                asked += 1;
            }
        }
    }
    assert!(asked > 14, "{asked}");
}
