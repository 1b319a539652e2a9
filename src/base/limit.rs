//! Every bound of the program, with its unit in the name and its reason beside it.

use std::num::NonZeroU32;
use std::time::Duration;

/// One KiB, MiB, GiB in bytes.
pub const KIB: usize = 1 << 10;
/// One MiB in bytes.
pub const MIB: usize = 1 << 20;

// ---- Formats ---------------------------------------------------------------------------------------------

/// Plaintext of one chunk. INTERFACE.md allows configured maximum sizes up to this.
pub const CHUNK_BYTES_MAX: usize = 8 * MIB;
/// The proof and request granularity inside a pack: hides chunk boundaries, keeps outboards at 0.05 %.
pub const CELL_BYTES: usize = 64 * KIB;
/// The sizes a pack may have: eight, powers of two, whole cells, so that outsiders learn at most three bits.
pub const PACK_SIZES: [usize; 8] =
    [128 * KIB, 256 * KIB, 512 * KIB, MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB];
/// The largest pack.
pub const PACK_BYTES_MAX: usize = PACK_SIZES[7];
/// Chunks in one pack, so that its directory stays small beside it even with the smallest chunks.
pub const PACK_CHUNKS_MAX: usize = 32 << 10;
/// Cells in the largest pack.
pub const PACK_CELLS_MAX: usize = PACK_BYTES_MAX / CELL_BYTES;
/// A sealed snapshot record's length in bytes; all have this one.
pub const RECORD_BYTES: usize = 8 * KIB;
/// A signed head with its certificate. 16,384 snapshots at 34 bytes fit three times over.
pub const HEAD_BYTES_MAX: usize = 2 * MIB;
/// Packs in one pack-list piece: 4,096 × 33 bytes, so that a piece stays far under a message's limit.
pub const LIST_PACKS_MAX: usize = 4096;
/// A pack in a pack-list piece, in bytes: its id and its size.
pub const LIST_ENTRY_BYTES: usize = 33;
/// A pack-list piece in bytes.
pub const LIST_BYTES_MAX: usize = 8 + LIST_PACKS_MAX * LIST_ENTRY_BYTES;
/// Snapshots one head may list.
pub const HEAD_SNAPSHOTS_MAX: usize = 16_384;
/// Earlier heads that one head names as carried on: 64 before it, one at each power of two, those that holders have, and
/// branches; 40 bytes each.
pub const HEAD_SUPERSEDES_MAX: usize = 256;
/// Of those before it a head names so many one after the other: a reader of a whole chain reads every 64th.
pub const HEAD_SUPERSEDES_RECENT: usize = 64;
/// Branches of one device's chain that are kept at a time. Each time that an old image of a disk is used makes one, until
/// the device has heard of it; all are loaded whole.
pub const HEAD_BRANCHES_MAX: usize = 16;
/// Heads of one vault that are told in one answer: four branches of each device.
pub const HEADS_TOLD_MAX: usize = 1024;
/// A signed receipt in bytes: 4,096 packs at 34 bytes and the rest.
pub const RECEIPT_BYTES_MAX: usize = 256 * KIB;
/// Packs in one receipt.
pub const RECEIPT_PACKS_MAX: usize = 4096;
/// A certificate in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 2 * KIB;
/// One directory entry with its attributes and inline piece list, in bytes. Fits a chunk with room to spare.
pub const NODE_BYTES_MAX: usize = 4 * MIB;
/// Nesting of a split tree: leaves of 64 KiB under 40-byte references reach 10^9 entries at depth 3.
pub const TREE_DEPTH_MAX: usize = 4;
/// Nesting of directories that restore follows (PATH_MAX is 4,096, two bytes a level).
pub const DIRECTORY_DEPTH_MAX: usize = 2048;

/// Pieces of pack lists that one head may name: 33 million packs, 512 TiB of the largest.
pub const HEAD_LISTS_MAX: usize = 8192;
/// Heads of devices that one device carries on which its head names: all that revocations may name, of every device.
pub const HEAD_CARRIED_MAX: usize = VAULT_DEVICES_MAX * REVOCATION_HEADS_MAX;
/// Packs that the heads of one import may list, 8 bytes each: a terabyte of the smallest.
pub const IMPORT_PACKS_MAX: usize = 8 << 20;

// ---- Fields of messages ------------------------------------------------------------------------------------
// Bytes alone do not bound memory: an empty message in a list takes two bytes on the wire and dozens once decoded. A message
// in a list counts for itself and for its fields.

/// Of a message that lists nothing, or few addresses.
pub const FIELDS_FEW: usize = 64;
/// What an address list takes with its peer.
const ADDRESS_FIELDS: usize = 2 + PEER_ADDRESSES_MAX;
/// Of a head.
pub const HEAD_FIELDS_MAX: usize = HEAD_SNAPSHOTS_MAX
    + 4 * HEAD_LISTS_MAX
    + 4 * VAULT_DEVICES_MAX
    + HEAD_HOLDERS_MAX * ADDRESS_FIELDS
    + VAULT_DEVICES_MAX
    + HEAD_CARRIED_MAX
    + 3 * HEAD_SUPERSEDES_MAX
    + FIELDS_FEW;
/// Of a receipt.
pub const RECEIPT_FIELDS_MAX: usize = RECEIPT_PACKS_MAX + FIELDS_FEW;
/// Of a release.
pub const RELEASE_FIELDS_MAX: usize = 4 * VAULT_DEVICES_MAX + FIELDS_FEW;
/// Of what is sealed in a snapshot record: its paths are the most.
pub const RECORD_FIELDS_MAX: usize = RECORD_BYTES / 2;
/// Of a key file: an epoch has four.
pub const KEY_FILE_FIELDS_MAX: usize = 4096;
/// Of a directory's chunk: a leaf of 256 KiB with fields of two bytes, and an entry that fills it, of 4 MiB, with the shortest
/// attributes and pieces.
pub const TREE_FIELDS_MAX: usize = 768 << 10;
/// Entries in a directory's chunk, some 400 bytes each once decoded: those of a leaf of 256 KiB take 10 bytes at least.
pub const TREE_ENTRIES_MAX: usize = 64 << 10;
/// Of a chunk that lists paths: one each, of two bytes at least.
pub const PATHS_FIELDS_MAX: usize = 1 << 20;
/// Of a sync request: an offer's packs.
pub const SYNC_REQUEST_FIELDS_MAX: usize = OFFER_PACKS_MAX + FIELDS_FEW;
/// Of a sync answer: heads with who holds the vault and who was revoked.
pub const SYNC_RESPONSE_FIELDS_MAX: usize =
    4 * HEADS_TOLD_MAX + HEAD_HOLDERS_MAX * ADDRESS_FIELDS + 3 * VAULT_DEVICES_MAX + FIELDS_FEW;
/// Of a chunk-fetch request.
pub const FETCH_REQUEST_FIELDS_MAX: usize = 3 * FETCH_RANGES_MAX + 8;
/// Of a chunk-fetch answer.
pub const FETCH_RESPONSE_FIELDS_MAX: usize = 4 * FETCH_RANGES_MAX + 8;
/// Of a door message.
pub const DOOR_FIELDS_MAX: usize = 16;
const _: () = assert!(3 * RECORDS_ASKED_MAX + FIELDS_FEW < SYNC_RESPONSE_FIELDS_MAX);
const _: () = assert!(3 * (PEER_RECORDS_MAX + VAULT_DEVICES_MAX) + FIELDS_FEW < SYNC_REQUEST_FIELDS_MAX);

/// Signatures that are known to verify without being checked again, at 32 bytes each.
pub const SIGNATURES_REMEMBERED: usize = 2048;

// ---- Network ---------------------------------------------------------------------------------------------

/// Data bytes in one chunk-fetch answer: 1 MiB answers are the fastest measured on request-response.
pub const FETCH_BYTES_MAX: usize = MIB;
/// Ranges in one chunk-fetch request; each takes at least one cell of the answer.
pub const FETCH_RANGES_MAX: usize = FETCH_BYTES_MAX / CELL_BYTES;
/// A chunk-fetch request in bytes.
pub const FETCH_REQUEST_BYTES_MAX: usize = 4 * KIB;
/// A chunk-fetch answer in bytes: the data, and for each range at most two paths of eight 32-byte values.
pub const FETCH_RESPONSE_BYTES_MAX: usize = FETCH_BYTES_MAX + FETCH_RANGES_MAX * 1024 + KIB;
/// Packs in one offer or receipt query.
pub const OFFER_PACKS_MAX: usize = 4096;
/// A sync request in bytes: an offer of 4,096 packs, or a receipt.
pub const SYNC_REQUEST_BYTES_MAX: usize = 512 * KIB;
/// A sync answer in bytes: the largest is a head.
pub const SYNC_RESPONSE_BYTES_MAX: usize = HEAD_BYTES_MAX + 4 * KIB;
const _: () = assert!(PEER_RECORDS_MAX * (PEER_RECORD_BYTES_MAX + SIGNED_BYTES) < SYNC_REQUEST_BYTES_MAX);
/// Records that one request may ask for: as many sealed snapshot records as one answer has room for.
pub const RECORDS_ASKED_MAX: usize = 256;
/// What a record takes in such an answer beside its bytes: two tags, two lengths and a status.
pub const RECORD_FRAME_BYTES: usize = 12;
/// The records of one answer with their frames, in bytes; the largest head fits alone.
pub const RECORD_BATCH_BYTES_MAX: usize = HEAD_BYTES_MAX + RECORDS_ASKED_MAX * RECORD_FRAME_BYTES;
const _: () = assert!(RECORDS_ASKED_MAX * (RECORD_BYTES + RECORD_FRAME_BYTES) <= RECORD_BATCH_BYTES_MAX);
const _: () = assert!(RECORD_BATCH_BYTES_MAX + 64 <= SYNC_RESPONSE_BYTES_MAX);
const _: () = assert!(RECORDS_ASKED_MAX * 34 + KIB < SYNC_REQUEST_BYTES_MAX);
/// Digits of an id's beginning that name it: fewer are hit by chance.
pub const ID_PREFIX_DIGITS_MIN: usize = 4;
/// A signature and the framing around it, beside what is signed.
pub const SIGNED_BYTES: usize = 128;
/// A door message in bytes, either way.
pub const DOOR_BYTES_MAX: usize = KIB;
/// Addresses kept or listed for one peer.
pub const PEER_ADDRESSES_MAX: usize = 16;
/// Devices of one vault.
pub const VAULT_DEVICES_MAX: usize = 256;
/// Heads longer than this are decoded one at a time by the whole program.
pub const HEAD_BYTES_LONG: usize = 64 * KIB;
/// What decoding the longest head takes, in bytes: itself, what is signed of it, and for each field some 96: where it lies, its
/// own allocation, and the id that it becomes. What stays of it is under what the question for it was given: the longest answer.
pub const HEAD_DECODING_BYTES: usize = 2 * HEAD_BYTES_MAX + 96 * HEAD_FIELDS_MAX;
/// Holders named in a head.
pub const HEAD_HOLDERS_MAX: usize = 256;
/// Vaults that one node stores for others.
pub const VAULTS_MAX: usize = 1024;
/// Of those, vaults of which one peer brought something: it has one, and a few from before when it began anew. So one owner,
/// or a few, cannot take the places of all.
pub const VAULTS_PER_PEER_MAX: usize = 16;
/// A vault of which only heads are here is dropped when those who brought them were not here for so long: longer than a
/// season in a drawer. With a copy of any pack it stays.
pub const EMPTY_VAULT_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// Strangers listed as pending; the oldest makes room.
pub const PENDING_PEERS_MAX: usize = 64;
/// Established connections of one peer: simultaneous dials and TCP beside QUIC need more than one.
pub const CONNECTIONS_PER_PEER_MAX: u32 = 3;
/// Connections that are still shaking hands: outgoing ones, and incoming ones of each transport.
pub const CONNECTIONS_PENDING_MAX: u32 = 32;
/// Of the incoming ones: from hosts that no member was seen at.
pub const PENDING_STRANGERS_MAX: usize = 16;
/// Of those, from one host: a home with some devices behind one address.
pub const PENDING_PER_HOST_MAX: usize = 8;
/// And from one network.
pub const PENDING_PER_NETWORK_MAX: usize = 12;
/// And from hosts that members were seen at, who may all come back at one time; they wait for each other a little.
pub const PENDING_MEMBERS_MAX: usize = 16;
const _: () = assert!(PENDING_STRANGERS_MAX + PENDING_MEMBERS_MAX <= CONNECTIONS_PENDING_MAX as usize);
/// How long an incoming connection may take to say who it is: four round trips over a satellite take some seconds.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Incoming connections through relays that still shake hands: only members of this node's relays can make one.
pub const RELAYED_PENDING_MAX: usize = 16;
/// Connections that strangers may hold open at one time.
pub const STRANGER_CONNECTIONS_MAX: usize = 16;
/// Of those, from one host: a home whose machines are all set up anew.
pub const STRANGER_CONNECTIONS_PER_HOST_MAX: usize = 8;
/// And from one network.
pub const STRANGER_CONNECTIONS_PER_NETWORK_MAX: usize = 12;
/// Connections of all kinds that may be established at one time with up to `peers` members connected.
pub const fn connections_max(peers: usize) -> usize {
    peers.saturating_mul(CONNECTIONS_PER_PEER_MAX as usize).saturating_add(2 * STRANGER_CONNECTIONS_MAX)
}
/// Chunk-fetch requests being served at one time, for all peers: each may hold 1 MiB of data twice.
pub const FETCH_SERVED_MAX: usize = 16;
/// Of those, for one peer.
pub const FETCH_SERVED_PER_PEER_MAX: usize = 10;
/// Of the places for requests that are served, those that only peers get that hold few: two that read nothing must not hold
/// all of them.
pub const KEPT_PLACES: usize = 4;
/// How many of those one peer may hold.
pub const KEPT_PLACES_PER_PEER_MAX: usize = 2;
/// A peer that takes less of its answers than this while others wait for places, in bytes a second, ...
pub const SLOW_READER_BYTES_PER_SECOND: u64 = 16 * KIB as u64;
/// ... for so long, is disconnected: in that time a kernel's buffers, which are emptied by thirds, no longer matter.
pub const SLOW_READER_TIME: Duration = Duration::from_secs(30);
/// The same when it takes nothing at all.
pub const STALLED_READER_TIME: Duration = Duration::from_secs(10);
/// How long it has one place afterwards.
pub const SLOW_READER_RESTRICTED: Duration = Duration::from_secs(600);
const _: () = assert!(KEPT_PLACES < FETCH_SERVED_MAX && KEPT_PLACES < SYNC_SERVED_MAX);
/// Sync and door requests being served at one time, for all peers.
pub const SYNC_SERVED_MAX: usize = 12;
/// Commands and events waiting between the swarm and the rest.
pub const NET_QUEUE_MAX: usize = 256;
/// Chunk-fetch requests in flight to one peer: an answer of 1 MiB over TCP takes about three round trips, because the window of
/// each new stream begins at 256 KiB. At 20 ms, 10 of them moved 101 MB/s.
pub const FETCH_IN_FLIGHT_PER_PEER_MAX: usize = 10;
/// Chunk-fetch requests in flight to all peers, at most: what `p2p.max_concurrent_fetch` may be. Each holds 1 MiB.
pub const FETCH_IN_FLIGHT_MAX: usize = 64;
/// Of those, for one pack, when several holders have it: three of 1 MiB keep a line of 100 MB/s busy over 30 ms.
pub const GATHER_WINDOW: usize = 3;
/// Peers of which nothing is known that are asked for a pack at one time.
pub const GATHER_PROBES_MAX: usize = 4;
/// A range that takes twice as long as another holder's last one is asked of that one too, but not before this.
pub const HEDGE_AFTER_MIN: Duration = Duration::from_millis(200);
/// The same when it is not known how long the other one takes.
pub const HEDGE_AFTER_UNKNOWN: Duration = Duration::from_secs(2);
/// How often a pull looks whether it should stop.
pub const GATHER_LOOK: Duration = Duration::from_millis(500);
/// A holder that another overtook is asked only when no other has the pack, for so long.
pub const LATE_HOLDER_PAUSE: Duration = Duration::from_secs(60);
/// A holder that could not be reached is not dialled for another pack for so long, unless it comes by itself.
pub const ABSENT_HOLDER_PAUSE: Duration = Duration::from_secs(60);
/// Packs in a row that a member may not have before it is no longer asked without reason to, for [`GUESS_PAUSE`].
pub const GUESSES_MAX: u32 = 3;
/// See [`GUESSES_MAX`].
pub const GUESS_PAUSE: Duration = Duration::from_secs(600);
/// A holder that says nothing but "later" for so long is given up for a pack: at 1 KiB/s each of four packs that are
/// pulled at the same time gets a cell in half of it.
pub const BUSY_PATIENCE: Duration = Duration::from_secs(600);
/// How often in a row a holder that gave part of a pack may break off, and the first pause before it is asked again.
pub const BROKEN_TRIES: u32 = 4;
/// See [`BROKEN_TRIES`].
pub const BROKEN_PAUSE: Duration = Duration::from_secs(1);
/// How long an idle connection stays open; members keep theirs by pinging.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(60);
/// The first pause before a peer that said "later" is asked again; each is twice the one before, up to [`BUSY_PAUSE_MAX`].
pub const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// See [`BUSY_PAUSE`].
pub const BUSY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a daemon heeds "later" for the records of one head: what came is kept, and its peer tells of the head again.
pub const BUSY_WAIT: Duration = Duration::from_secs(60);
/// How long a recovery waits for the next of the holders that it knows of, when one let it in already.
pub const HOLDER_WAIT: Duration = Duration::from_secs(5);
/// How long one call of `join` knocks at a door that is busy, and how long the command does so again and again.
pub const JOIN_CALL: Duration = Duration::from_secs(10);
/// See [`JOIN_CALL`].
pub const JOIN_PATIENCE: Duration = Duration::from_secs(300);
/// How often a node knocks again, in a row, at a door whose connection breaks: with pauses of up to [`BUSY_PAUSE_MAX`] some two
/// minutes, longer than a stranger may stay inside.
pub const DOOR_TRIES: u32 = 30;
/// A nonce from the door is good for this long.
pub const DOOR_NONCE_LIFE: Duration = Duration::from_secs(60);
/// A state file of the node in bytes: what is in them has bounds of its own.
pub const STATE_BYTES_MAX: usize = MIB;
/// Invitations that are remembered, open or not; the one that was used or expired first makes room.
pub const INVITES_MAX: usize = 64;
/// Addresses in a ticket.
pub const TICKET_ADDRESSES_MAX: usize = 8;
/// A ticket as text in bytes: eight long addresses and two names fit several times.
pub const TICKET_BYTES_MAX: usize = 4 * KIB;
/// The shortest and the longest life of an invitation.
pub const INVITE_LIFE_MIN: Duration = Duration::from_secs(60);
/// See [`INVITE_LIFE_MIN`].
pub const INVITE_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// A peer's name for people in bytes.
pub const PEER_NAME_BYTES_MAX: usize = 64;
/// Peers that admins' records are kept of; the oldest makes room.
pub const PEER_RECORDS_MAX: usize = 256;
/// A peer record in bytes: eight long addresses and a name fit. All of them fit into one sync request.
pub const PEER_RECORD_BYTES_MAX: usize = KIB;
/// Heads that a revocation names, one of each branch of the device's history; those with smaller numbers than the first count in
/// any case.
pub const REVOCATION_HEADS_MAX: usize = 8;
/// A revocation in bytes: its fields are of fixed length. Those of a whole vault fit into one sync request beside all peer records.
pub const REVOCATION_BYTES_MAX: usize = 640;
const _: () = assert!(
    PEER_RECORDS_MAX * (PEER_RECORD_BYTES_MAX + SIGNED_BYTES)
        + VAULT_DEVICES_MAX * (REVOCATION_BYTES_MAX + SIGNED_BYTES)
        < SYNC_REQUEST_BYTES_MAX
);
/// How far a record's time may lie ahead of this node's clock.
pub const PEER_RECORD_AHEAD: Duration = Duration::from_secs(24 * 3600);
/// Peers that were turned away or removed; the one that was first makes room. A person does that one by one, an admin for at
/// most [`PEER_RECORDS_MAX`]; at 100 bytes each they leave most of a state file of 1 MiB to the others.
pub const TURNED_AWAY_PEERS_MAX: usize = 2048;
/// How long `join` waits to be served by the inviter after it was admitted.
pub const JOIN_WAIT: Duration = Duration::from_secs(10);
/// Wrong answers after which a peer is asked last and given no new packs.
pub const MISBEHAVIOUR_MAX: u32 = 3;

/// An owner that gives less than this of what it offered while others wait for its place, in bytes a second, ...
pub const HOLDING_BACK_BYTES_PER_SECOND: u64 = 4 * KIB as u64;
/// ... for so long, loses it: it takes a question and its answer over a slow line a few times.
pub const HOLDING_BACK_TIME: Duration = Duration::from_secs(20);
/// For so long it then shares the few places of those that held back.
pub const HOLDING_BACK_SLOW: Duration = Duration::from_secs(600);

/// A head is published this often during a long backup, so that holders can begin to pull.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

// ---- Store -----------------------------------------------------------------------------------------------

/// An index up to this length in bytes is checked whenever it is opened: some 50 ms for 16 MiB, a third of what deriving a
/// key takes.
pub const INDEX_CHECKED_BYTES: u64 = 16 * MIB as u64;
/// The same when a daemon opens it: some seconds.
pub const INDEX_CHECKED_LONG_BYTES: u64 = 1024 * MIB as u64;
/// redb's page cache. The default is 1 GiB, which would break the memory budget.
pub const INDEX_CACHE_BYTES: usize = 16 * MIB;
/// Index rows waiting for a commit; 20,000 rows a commit run at 93,000 rows/s.
pub const INDEX_ROWS_PENDING_MAX: usize = 20_000;
/// How long a store's lock is waited for. Whoever starts a program lends it all locks until it runs: measured, a store that was
/// closed is found locked once in 700 times while others start programs without end, for some milliseconds.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
pub const LOCK_STEP: Duration = Duration::from_millis(2);
/// Set aside on disk so that forget and gc can run when it is full, at least.
pub const RESERVE_BYTES: u64 = 8 * MIB as u64;
/// And at most, for an index of 512 MiB and more.
pub const RESERVE_BYTES_MAX: u64 = 64 * MIB as u64;
/// In between, one byte for so many of the index: a commit that removes rows here and there rewrites a page for each.
pub const RESERVE_INDEX_SHARE: u64 = 8;
/// What a commit to the index is given room for on a full disk, in bytes, beside what its rows take.
pub const INDEX_COMMIT_BYTES: u64 = MIB as u64;
/// For each row that it touches: the page that it lies in, with those above, is written anew.
pub const INDEX_ROW_ROOM_BYTES: u64 = 6 * KIB as u64;
/// Rows in one commit, however little room there is.
pub const INDEX_ROWS_MIN: usize = 256;
/// What a small file takes beside its bytes: blocks of its directory, and one that is not full.
pub const SMALL_FILE_ROOM_BYTES: u64 = 64 * KIB as u64;
/// A key slot or keyring file in bytes.
pub const KEY_FILE_BYTES_MAX: usize = 64 * KIB;
/// Packs that a list of missing or damaged things names one by one.
pub const REPORT_ITEMS_MAX: usize = 10_000;

const _: () = assert!(PACK_BYTES_MAX.is_multiple_of(CELL_BYTES));
const _: () = assert!(INDEX_COMMIT_BYTES + INDEX_ROWS_MIN as u64 * INDEX_ROW_ROOM_BYTES < RESERVE_BYTES / 2);
const _: () = assert!(CHUNK_BYTES_MAX + 64 * KIB < PACK_BYTES_MAX);
const _: () = assert!(LIST_BYTES_MAX < SYNC_RESPONSE_BYTES_MAX);
const _: () = assert!(RECEIPT_BYTES_MAX < SYNC_REQUEST_BYTES_MAX);
const _: () = assert!(OFFER_PACKS_MAX * 34 + KIB < SYNC_REQUEST_BYTES_MAX);
const _: () = assert!(NODE_BYTES_MAX < CHUNK_BYTES_MAX);

// ---- Files -----------------------------------------------------------------------------------------------

/// Directories a walk keeps open at one time; shallower ones are reopened through `..` and compared. Far under
/// the usual limit of 1,024 open files.
pub const WALK_OPEN_DIRECTORIES_MAX: usize = 256;
/// Bytes asked from a directory at one time: some 1,500 names, past which larger buffers gain nothing.
pub const DIRECTORY_READ_BYTES: usize = 64 * KIB;
/// One extended attribute's value, or the list of their names: Linux allows 64 KiB for each.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * KIB;
/// All extended attributes of one entry; the entry must fit `NODE_BYTES_MAX` with its pieces.
pub const XATTR_TOTAL_BYTES_MAX: usize = MIB;
/// A file or directory name; Linux's NAME_MAX.
pub const NAME_BYTES_MAX: usize = 255;
/// A symlink's target; Linux's PATH_MAX without the closing NUL.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Files from this size on are announced to the kernel as read in one go; below it the call costs more than it gives.
pub const READ_AHEAD_BYTES_MIN: u64 = MIB as u64;
/// What `--sparse` leaves out when it is all zeros: the block of nearly every file system.
pub const SPARSE_BLOCK_BYTES: u64 = 4 * KIB as u64;
/// Files from this size on that a restore overwrites are changed in their place, without writing what is the same: a
/// second file of that size may not fit. Smaller ones are written beside the old one, which stays until then.
pub const PATCH_BYTES_MIN: u64 = 64 * MIB as u64;
/// Files from this size on are taken up where a restore that died left them; smaller ones are written anew.
pub const RESUME_BYTES_MIN: u64 = 16 * MIB as u64;
/// Such files in one directory.
pub const RESUMED_FILES_MAX: usize = 64;
/// What is compared at one time when reading back.
pub const READ_BACK_BYTES: usize = 64 * KIB;
/// Names that the record of one directory has of what it leaves out; with more, any name may be one. A directory's own time
/// changes with each of them, so naming them makes no record differ that would not.
pub const OMISSIONS_MAX: usize = 128;
/// Those names together.
pub const OMISSIONS_BYTES_MAX: usize = 8 * KIB;
/// Entries that a restore names as written, overwritten or deleted; the rest is counted.
pub const RESTORE_CHANGES_MAX: usize = 1000;
/// Hard-linked files that a restore knows with all that it needs to give them their further names: some 5 MiB. Of earlier ones
/// that are in place it remembers where, in memory and then on disk. Tests come to that with few.
pub const RESTORE_LINKS_MAX: usize = if cfg!(test) { 32 } else { 16_384 };
/// Of those, such whose directory stays open for that; the others' is opened again.
pub const RESTORE_LINKS_OPEN_MAX: usize = 256;
/// An ignore file in bytes. A longer one is no list of patterns that somebody wrote.
pub const IGNORE_FILE_BYTES_MAX: usize = 256 * KIB;
/// Patterns in all ignore files that are in force at one time: about 1 MiB of them.
pub const IGNORE_RULES_MAX: usize = 16_384;
/// Patterns of one backup's flags and lists; each is looked at for each entry.
pub const PATTERNS_MAX: usize = 16_384;
/// What a file that marks a directory must begin with, in bytes.
pub const MARKER_HEADER_BYTES_MAX: usize = 4 * KIB;
/// A tag or host name in bytes.
pub const LABEL_BYTES_MAX: usize = 255;
/// Tags of one snapshot; the record has 8 KiB for everything.
pub const TAGS_MAX: usize = 64;
/// What a restore could not set (owners, attributes) that is named one by one; the rest is counted.
pub const RESTORE_WARNINGS_MAX: usize = 1000;

const _: () = assert!(XATTR_TOTAL_BYTES_MAX + MIB < NODE_BYTES_MAX);
// ---- The libp2p node (src/net) ---------------------------------------------------------------------------

/// A connection that only strangers' rights hold open closes after this long without a stream.
pub const STRANGER_IDLE: Duration = Duration::from_secs(15);
/// A stranger's incoming connection closes after this long, busy or not, so that others get their turn.
pub const STRANGER_LIFE: Duration = Duration::from_secs(60);
/// Connections one stranger may hold: one that broke without notice must not bar its successor.
pub const STRANGER_CONNECTIONS_PER_PEER_MAX: usize = 2;
/// Streams that a stranger may have open on a connection at one time; what comes beyond is reset. The door is asked one thing
/// after the other, and who takes a stranger for a member has it told otherwise within a round trip.
pub const STRANGER_STREAMS_MAX: usize = 3;
/// What is read of one such stream, in bytes: the names of protocols, and the longest message at the door. A window grows only
/// after half of it was read.
pub const STRANGER_STREAM_BYTES_MAX: usize = 16 * KIB;
/// What is read of a stranger's connection in all, in bytes, with all that is around its messages: some forty of the longest.
pub const STRANGER_BYTES_MAX: usize = 64 * KIB;
/// Streams of a stranger that are reset before its connection is closed: who takes a stranger for a member opens some dozens at
/// once, and not again when it was told.
pub const STRANGER_STREAMS_RESET_MAX: usize = 32;
/// Bytes that are read of a connection as one of the 128 steps after which a task makes room for others, as is a stream that is
/// opened: 2,700 of the smallest frames are a turn, and take milliseconds.
pub const BYTES_OF_A_STEP: usize = 256;
const _: () = assert!(DOOR_SERVED_PER_PEER_MAX < STRANGER_STREAMS_MAX);
const _: () = assert!(STRANGER_STREAM_BYTES_MAX < STRANGER_BYTES_MAX);
const _: () = assert!(8 * DOOR_BYTES_MAX < STRANGER_STREAM_BYTES_MAX);
/// What lies in memory of a stream over TCP that is not read, in bytes: where yamux begins, and where it stays while less than
/// half of that is read.
pub const TCP_STREAM_WINDOW_BYTES: usize = 256 * KIB;
const _: () = assert!(STRANGER_STREAM_BYTES_MAX < TCP_STREAM_WINDOW_BYTES / 2);
/// After admission a stranger has this long to read the answer and to hang up itself.
pub const ADMISSION_GRACE: Duration = Duration::from_millis(500);
/// Door requests being served at one time; apart from sync, so that strangers cannot crowd members out.
pub const DOOR_SERVED_MAX: usize = 4;
/// Of those, for one peer.
pub const DOOR_SERVED_PER_PEER_MAX: usize = 2;
/// Door requests of all strangers together, those that only knock apart: identities are free, so a rate for each is not
/// enough. Each is a lookup, or a signature to check: 50 of them take some thousandths of a core.
pub const DOOR_REQUESTS_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
/// Knocks of all strangers together: each writes a file.
pub const DOOR_KNOCKS_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Door requests of one host: to be let in takes two.
pub const DOOR_REQUESTS_PER_HOST_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Hosts whose door requests are counted; whoever comes from another one meanwhile is told to come again.
pub const DOOR_HOSTS_MAX: usize = 1024;
/// Of the sync requests being served, for one peer.
pub const SYNC_SERVED_PER_PEER_MAX: usize = 6;
/// Rows that are looked up, or written, for what counts as one request: some thousandths of a second.
pub const ROWS_OF_A_REQUEST: usize = 64;
/// Signatures that are checked for what counts as one request: as long.
pub const SIGNATURES_OF_A_REQUEST: usize = 8;
/// Sync requests in flight to one peer.
pub const SYNC_IN_FLIGHT_PER_PEER_MAX: usize = 4;
/// Sync requests in flight to all peers: an answer may be 2 MiB.
pub const SYNC_IN_FLIGHT_MAX: usize = 6;
/// Door requests in flight to all peers.
pub const DOOR_IN_FLIGHT_MAX: usize = 8;
/// Peers being dialled in the background at one time; each may use several addresses.
pub const DIALS_MAX: usize = 8;
/// How long nothing is dialled where a peer claims to be and never was, after the first failure; each pause is twice the one
/// before, up to [`CLAIM_PAUSE_MAX`].
pub const CLAIM_PAUSE: Duration = Duration::from_secs(10);
/// See [`CLAIM_PAUSE`].
pub const CLAIM_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// How long it may take to ask where a name leads that a peer claims, ...
pub const NAME_TIME: Duration = Duration::from_secs(5);
/// ... and how many of the addresses are dialled that it leads to.
pub const NAME_ADDRESSES_MAX: usize = 4;
/// TCP is dialled this much before QUIC: it moves more (740 against 470 MB/s measured).
pub const DIAL_HEAD_START: Duration = Duration::from_millis(500);
/// Kademlia searches under way.
pub const FINDS_MAX: usize = 16;
/// A Kademlia message in bytes: 20 peers with 16 short addresses each fit.
pub const KAD_BYTES_MAX: usize = 32 * KIB;
/// Kademlia's news of one peer's connections in a second, its questions among them: a search takes a handful.
pub const KAD_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Of those, how many may come at once: a node that lost all of its members searches for eight of them together.
pub const KAD_BURST_MAX: u64 = 100;
/// And how many wait for their turn: the connections of one peer have 32 streams each for questions.
pub const KAD_WAITING_MAX: usize = CONNECTIONS_PER_PEER_MAX as usize * 32;
/// Peers that are remembered without being members.
pub const PEERS_REMEMBERED_MAX: usize = 1024;
/// Substreams of one connection; over it yamux breaks the connection, so it stays above the sum of all protocols.
pub const STREAMS_PER_CONNECTION_MAX: usize = 128;
/// Substreams of one request-response protocol on one connection, both ways.
pub const PROTOCOL_STREAMS_MAX: usize = 24;
/// What came on streams over TCP and was not read yet, of all connections together, in bytes: over it the connection ends that
/// holds most. Whoever keeps to the protocols has next to nothing there, since requests and answers are read as they come; one
/// stream may bring 256 KiB at once.
pub const UNREAD_BYTES_MAX: usize = 12 * MIB;
/// QUIC's receive window of one stream in bytes: half a fetch answer. With ten under way, 5 MiB are, and a stranger makes this
/// node hold no more than twice what it may over TCP.
pub const QUIC_STREAM_WINDOW_BYTES: u32 = 1 << 19;
/// QUIC's receive window of one connection in bytes: what may be in flight to one peer.
pub const QUIC_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// What a TCP connection gathers before it sends, and reads at a time, in bytes; it holds no more than this each way. Twice
/// as much gained nothing.
pub const CORK_BYTES: usize = 32 * KIB;
/// How long `start` waits for its listeners to name their addresses.
pub const LISTEN_READY: Duration = Duration::from_secs(5);
/// How long a request may wait for its turn under a limit before it is told to come again.
pub const TURN_WAIT: Duration = Duration::from_secs(30);
/// Requests that wait for their turn, in bytes, all together: thousands of fetches, or eight of the longest offers.
pub const REQUESTS_WAITING_BYTES_MAX: usize = 4 * MIB;
/// Of those, of one peer: more than its streams can bring, or two of the longest offers.
pub const REQUESTS_WAITING_PER_PEER_BYTES_MAX: usize = MIB;
/// What a small request that waits counts for, in bytes: what the longest fetch request takes.
pub const WAITING_PLACE_BYTES: usize = FETCH_REQUEST_BYTES_MAX;
/// Names with addresses that mDNS holds at one time. A home or an office has some dozens.
pub const NEARBY_MAX: usize = 512;
/// How long the local network is not listened to after it told more than that.
pub const NEARBY_REST: Duration = Duration::from_secs(600);
/// How long no router is looked for after none was found that helps.
pub const ROUTER_REST: Duration = Duration::from_secs(1800);
/// For how long a router is asked to forward a port; it is asked again after half of that.
pub const ROUTER_LEASE: Duration = Duration::from_secs(3600);
/// This machine has another address, and may be on another network: what rests looks again after this.
pub const LOCAL_REST: Duration = Duration::from_secs(5);
/// Addresses that this node is reached at from outside.
pub const OUTSIDE_ADDRESSES_MAX: usize = 4;
/// What a member signed about where it is, in bytes: sixteen addresses of a usual length fit.
pub const WHEREABOUTS_BYTES_MAX: usize = 2 * KIB;
/// Members whose whereabouts are kept for others.
pub const WHEREABOUTS_MAX: usize = 1024;
/// Where this node is is not told more often than this, however fast its addresses change.
pub const WHEREABOUTS_PAUSE: Duration = Duration::from_secs(1);
/// Members that cannot be reached are searched for at once when another one comes, but not more often than this.
pub const SEARCH_PAUSE: Duration = Duration::from_secs(10);
/// A peer's clock that shows a time so far from this one's is named.
pub const CLOCK_OFF_MIN: Duration = Duration::from_secs(600);
/// Members being called back at one time.
pub const CALLS_MAX: usize = 4;
/// One member is called back this often at most.
pub const CALL_PAUSE: Duration = Duration::from_secs(30);
/// How long a call that a member says it made may take to arrive.
pub const CALL_ARRIVAL: Duration = Duration::from_secs(2);
/// Addresses that dials which are about to begin leave out: those of a few holes that are punched at one time.
pub const BARRED_ADDRESSES_MAX: usize = 64;
/// Ports that a member is called back at.
pub const CALL_ADDRESSES_MAX: usize = 4;
/// How often members are asked to call this node back.
pub const CALL_EVERY: Duration = Duration::from_secs(1800);
/// Members that are asked so at one time: one may be behind the same router, or may lie.
pub const CALLERS_MAX: usize = 3;
/// How long an orderly end of the network may take.
pub const NET_SHUTDOWN: Duration = Duration::from_secs(2);

/// What the messages of all protocols may take in memory at one time, in bytes, with up to `fetches` of ours under way.
/// A fetch that is served holds its data twice, any other exchange its request and its answer.
pub const fn messages_bytes_max(fetches: usize) -> usize {
    let fetch = FETCH_SERVED_MAX * (FETCH_REQUEST_BYTES_MAX + FETCH_BYTES_MAX + FETCH_RESPONSE_BYTES_MAX)
        + fetches * (FETCH_REQUEST_BYTES_MAX + FETCH_RESPONSE_BYTES_MAX);
    let sync = (SYNC_SERVED_MAX + SYNC_IN_FLIGHT_MAX) * (SYNC_REQUEST_BYTES_MAX + SYNC_RESPONSE_BYTES_MAX);
    let door = 2 * (DOOR_SERVED_MAX + DOOR_IN_FLIGHT_MAX) * DOOR_BYTES_MAX;
    fetch + sync + door + FINDS_MAX * KAD_BYTES_MAX + REQUESTS_WAITING_BYTES_MAX
}

/// What TCP connections, those included that still shake hands, may gather in memory at one time, in bytes, with up to
/// `peers` members connected.
pub const fn corks_bytes_max(peers: usize) -> usize {
    connections_max(peers).saturating_add(2 * CONNECTIONS_PENDING_MAX as usize).saturating_mul(2 * CORK_BYTES)
}

/// What Noise may hold of TCP connections in bytes, with up to `peers` members connected: a frame of 64 KiB that is not whole yet,
/// and 48 KiB that are to go.
pub const fn noise_bytes_max(peers: usize) -> usize {
    connections_max(peers).saturating_mul(112 * KIB)
}

/// What strangers' streams that are not read may hold in memory at one time, in bytes.
pub const fn strangers_bytes_max() -> usize {
    let of_stream = if (QUIC_STREAM_WINDOW_BYTES as usize) < TCP_STREAM_WINDOW_BYTES {
        TCP_STREAM_WINDOW_BYTES
    } else {
        QUIC_STREAM_WINDOW_BYTES as usize
    };
    STRANGER_CONNECTIONS_MAX * STRANGER_STREAMS_MAX * of_stream
}

const _: () = assert!(WHEREABOUTS_BYTES_MAX + KIB < KAD_BYTES_MAX);
const _: () = assert!(2 * FETCH_IN_FLIGHT_PER_PEER_MAX <= PROTOCOL_STREAMS_MAX);
const _: () = assert!(3 * PROTOCOL_STREAMS_MAX + 48 <= STREAMS_PER_CONNECTION_MAX);
// ---- Configuration ---------------------------------------------------------------------------------------

/// A configuration file in bytes: hundreds of backup sets fit.
pub const CONFIG_BYTES_MAX: usize = MIB;
/// Nesting in a configuration file; the deepest key, a hook's argument, is at 6.
pub const CONFIG_DEPTH_MAX: usize = 16;
/// YAML values in a configuration file, aliases expanded.
pub const CONFIG_NODES_MAX: usize = 50_000;
/// YAML anchors, and uses of them, in a configuration file.
pub const CONFIG_ALIASES_MAX: usize = 64;
// ---- Control socket and command line ----------------------------------------------------------------------

/// A request's body on the control socket: tens of thousands of paths to back up fit.
pub const HTTP_BODY_BYTES_MAX: usize = MIB;
/// A request for a backup: some 50,000 paths or patterns fit.
pub const BACKUP_REQUEST_BYTES_MAX: usize = 4 * MIB;
/// An answer on the control socket that is one document; longer ones, such as listings, come in pieces.
pub const HTTP_ANSWER_BYTES_MAX: usize = 64 * MIB;
/// Connections that the control socket serves at one time; each command needs one.
pub const HTTP_CONNECTIONS_MAX: usize = 64;
/// Of the connections of one port over TCP: from one host. Those that wait for no answer make room for others.
pub const HTTP_CONNECTIONS_PER_HOST_MAX: usize = 32;
/// And from one network.
pub const HTTP_CONNECTIONS_PER_NETWORK_MAX: usize = 48;
/// How long a call that only looks something up may take.
pub const HTTP_SHORT_CALL: Duration = Duration::from_secs(15);
/// How long a call that dials a peer, reads trees or derives a key may take.
pub const HTTP_LONG_CALL: Duration = Duration::from_secs(120);
/// Remembered `Idempotency-Key`s; the oldest makes room.
pub const IDEMPOTENCY_KEYS_MAX: usize = 256;
/// An `Idempotency-Key` in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Client addresses over TCP that have a token bucket at one time; when all are in use new ones wait.
pub const HTTP_CLIENTS_MAX: usize = 4096;
/// How often buckets of clients that no longer ask are dropped.
pub const HTTP_CLIENTS_PRUNED: Duration = Duration::from_secs(30);
/// How long a client over TCP may take for a request's head.
pub const HTTP_HEAD_READ: Duration = Duration::from_secs(10);
/// A request's head over TCP in bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * KIB;
/// How long a request over TCP may take until its answer begins.
pub const HTTP_REQUEST_LIFE: Duration = Duration::from_secs(150);
/// How long answers that are under way may take when the daemon stops.
pub const HTTP_LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The API's bearer token in bytes.
pub const API_TOKEN_BYTES_MIN: usize = 16;
/// The same, at most.
pub const API_TOKEN_BYTES_MAX: usize = 4096;
/// A passphrase or recovery phrase in bytes, as read from a file, a command or a variable.
pub const PASSPHRASE_BYTES_MAX: usize = 4 * KIB;
/// Data directories that are remembered on one machine; who has more hears of the newest.
pub const PLACES_MAX: usize = 32;
/// The file of those in bytes: paths have up to 4 KiB.
pub const PLACES_BYTES_MAX: u64 = 128 * 1024;
/// Between two looks whether the data directory is there: a person who pulled the wrong cable sees it at once.
pub const DISK_LOOK: Duration = Duration::from_secs(5);
/// A disk that has not answered such a look by then counts as out of reach; one that wakes up needs up to ten seconds.
pub const DISK_PATIENCE: Duration = Duration::from_secs(15);
/// How long `status` waits for the disk before it tells what is in memory.
pub const STATUS_PATIENCE: Duration = Duration::from_secs(10);
/// How long a node may take to stop.
pub const SHUTDOWN: Duration = Duration::from_secs(10);
// ---- Jobs and events of a node -----------------------------------------------------------------------------

/// Jobs at work at one time.
pub const JOBS_RUNNING_MAX: usize = 4;
/// Jobs that wait for their turn.
pub const JOBS_QUEUED_MAX: usize = 64;
/// Pieces of a streamed input that wait between its caller and the job.
pub const JOB_PIECES_MAX: usize = 8;
/// Lines of a dry run that wait for its caller; each has a path, of up to 4 KiB.
pub const JOB_LINES_MAX: usize = 256;
/// A piece of a streamed input in bytes.
pub const JOB_PIECE_BYTES: usize = 256 * KIB;
/// How long a job that wants an input, or has lines to give, waits for its caller.
pub const JOB_STREAM_WAIT: Duration = Duration::from_secs(30);
/// Ended jobs that are remembered.
pub const JOBS_REMEMBERED_MAX: usize = 100;
/// Files that a remembered job names after a restart.
pub const JOB_PROBLEMS_SAVED_MAX: usize = 10;
/// A remembered job in bytes; what makes one longer is left out.
pub const JOB_SAVED_BYTES_MAX: usize = 5 * KIB;
/// Events that a reader can still catch up on.
pub const EVENTS_REMEMBERED_MAX: usize = 1024;
/// A line of an event stream in bytes: the longest event names every key of the configuration.
pub const EVENT_LINE_BYTES_MAX: usize = 64 * KIB;
/// After the last job has ended its caller has this long to look; commands look every 250 ms.
pub const LAST_LOOK: Duration = Duration::from_millis(400);
/// How long ending the jobs may take: a backup packs what it has sealed.
pub const SHUTDOWN_JOBS: Duration = Duration::from_secs(6);
/// How long the rest may take after them, together.
pub const SHUTDOWN_REST: Duration = Duration::from_secs(3);

/// Packs that reading pulls from peers at one time: each takes up to 16 MiB. Of two that come at the same rate both would be
/// written at the same time, and nothing would come meanwhile.
pub const PACKS_HEALED_MAX: usize = 3;
/// Rows of packs that are open, on their way to the disk, or wait for the index, in bytes: 56 for each chunk, and a
/// directory while it is sealed.
pub const PACK_ROWS_BYTES: usize = 6 * MIB;
/// The least memory, in bytes, that one backup with chunks of up to `chunk_bytes` is given: two batches of a MiB and a
/// chunk, three chunks for the only worker, one more in each of two open packs, and what comes beside.
pub const fn backup_bytes_min(chunk_bytes: usize) -> usize {
    9 * MIB + 7 * chunk_bytes
}

/// The least that `storage.memory_limit` may be: a backup, and a restore beside it.
pub const fn memory_bytes_min(chunk_bytes: usize) -> usize {
    28 * MIB + 8 * chunk_bytes
}

const _: () =
    assert!(backup_bytes_min(CHUNK_BYTES_MAX) + 3 * CHUNK_BYTES_MAX <= memory_bytes_min(CHUNK_BYTES_MAX));
// The state file of jobs is read up to 1 MiB.
const _: () =
    assert!((JOBS_REMEMBERED_MAX + JOBS_RUNNING_MAX + JOBS_QUEUED_MAX) * (JOB_SAVED_BYTES_MAX + 16) < MIB);
const _: () = assert!(SHUTDOWN_JOBS.as_secs() + SHUTDOWN_REST.as_secs() < SHUTDOWN.as_secs());
// ---- Relays --------------------------------------------------------------------------------------------------

/// Members that may be reachable through this node at one time; each is an entry in a table.
pub const RELAY_RESERVATIONS_MAX: usize = 128;
/// Connections that this node carries at one time, and of one member; each has two buffers of 8 KiB.
pub const RELAY_CIRCUITS_MAX: usize = 64;
/// As many as a member has connections to others that are hard to reach.
pub const RELAY_CIRCUITS_PER_PEER_MAX: usize = 16;
/// How long one such connection may last. Who is cut off connects again and goes on where it was.
pub const RELAY_CIRCUIT_LIFE: Duration = Duration::from_secs(12 * 3600);
/// What one such connection may carry, in bytes: a first backup over a line of 10 MB/s for that time.
pub const RELAY_CIRCUIT_BYTES_MAX: u64 = 512 << 30;
/// Relays that a node is reachable through at one time: one may go.
pub const RELAYS_USED_MAX: usize = 2;
/// A connection through a relay is closed when there has been a direct one for this long.
pub const RELAYED_PARTING: Duration = Duration::from_secs(5);
// ---- Recurring tasks ----------------------------------------------------------------------------------------

/// The scheduler looks at the clock this often at least: it may have been set, and the machine may have slept.
pub const SCHEDULE_LOOK: Duration = Duration::from_secs(30);
/// The shortest rhythm of a task.
pub const SCHEDULE_EVERY_MIN: Duration = Duration::from_secs(60);
/// Tasks that can be added by command.
pub const SCHEDULE_TASKS_MAX: usize = 256;
/// A task's name in bytes.
pub const SCHEDULE_ID_BYTES_MAX: usize = 64;
/// What is remembered of an error's words.
pub const SCHEDULE_MESSAGE_CHARS_MAX: usize = 500;
/// How long a command around a backup may take: dumping a database takes minutes.
pub const HOOK_LIFE: Duration = Duration::from_secs(3600);
/// How long a notification's command or request may take.
pub const NOTICE_LIFE: Duration = Duration::from_secs(30);
/// What is kept of the output of a hook or notification, in bytes.
pub const HOOK_OUTPUT_BYTES_MAX: usize = 4 * KIB;
/// Tries of a webhook.
pub const WEBHOOK_TRIES: u32 = 3;
// ---- Reading back -------------------------------------------------------------------------------------------

/// Listings, searches and comparisons at one time; each holds a few trees and what waits for its reader.
pub const READINGS_MAX: usize = 8;
/// Dumps at one time; each holds chunks of files too, which may have 8 MiB, sealed and open.
pub const DUMPS_MAX: usize = 4;
/// How long one more waits for its turn before it is told to come again.
pub const READING_WAIT: Duration = Duration::from_secs(30);
/// Entries that are found and wait for their reader; with paths of ordinary length some 256 KiB.
pub const ENTRIES_WAITING_MAX: usize = 512;
/// Bytes of one piece of a dump.
pub const DUMP_PART_BYTES: usize = 128 * KIB;
/// Pieces of a dump that wait for their reader.
pub const DUMP_PARTS_WAITING_MAX: usize = 8;
/// First names of files with several that a restore or a dump remembers in memory, in bytes; more of them lie on disk. Tests come
/// to that with few.
pub const REMEMBERED_BYTES_MAX: usize = if cfg!(test) { KIB } else { 16 * MIB };
/// redb's page cache of what lies on disk for that.
pub const SCRATCH_CACHE_BYTES: usize = 4 * MIB;
/// Trees that a search, a count or a verification remembers; 17 bytes each, so 9 MiB. Others are read again when they come again.
pub const TREES_REMEMBERED_MAX: usize = 450_000;
/// Distinct chunks of one snapshot that are counted exactly, 9 bytes each; over it the count is an estimate.
pub const CHUNKS_COUNTED_MAX: usize = 900_000;
/// Pieces of the two versions of a file that are compared one by one, each; longer parts are compared as a whole.
pub const PIECES_COMPARED_MAX: usize = 450_000;
/// How long counting what a snapshot needs may take: it reads every tree.
pub const HTTP_COUNT_CALL: Duration = Duration::from_secs(1800);
/// One line of a streamed answer in bytes: a path of 2,048 names of 255 bytes, escaped, and a symlink's target.
pub const HTTP_LINE_BYTES_MAX: usize = 4 * MIB;
/// Snapshots that an ambiguous or unknown reference names.
pub const CANDIDATES_NAMED_MAX: usize = 10;
// ---- Forgetting ---------------------------------------------------------------------------------------------

/// How long packs that nothing needs wait before they are deleted: a backup that broke off is usually taken up within a
/// day, and finds there what it had stored.
pub const GC_GRACE: Duration = Duration::from_secs(86_400);
/// Percent of the needed bytes that may stay unused in partly needed packs; rewriting them all would cost more than it frees.
pub const GC_UNUSED_PERCENT: u32 = 5;
/// Entries of one directory that was there before a restore which it knows again under a second name: some 100 MiB of names.
/// What comes after them, a file system to which two names are the same may join without a word.
pub const RESTORE_SETTLED_MAX: usize = 1 << 20;
/// A source with fewer files than so many percent of what it had has lost them: a mount is missing, as a rule.
pub const SOURCE_LEFT_PERCENT_MIN: u64 = 10;
/// Of sources that had fewer files than this it is not said: small ones change as a whole.
pub const SOURCE_LOST_FILES_MIN: u64 = 20;
/// Percent of the needed bytes that rules may free at one time without a word from a person.
pub const FORGET_PERCENT_MAX: u64 = 30;
/// How often the configured rules are applied.
pub const FORGET_EVERY: Duration = Duration::from_secs(86_400);
/// How long `status` tells that an old image of the disk was in use.
pub const ROLLBACK_TOLD: Duration = Duration::from_secs(7 * 86_400);
/// How often a node looks whether the hold of something is over.
pub const HOLD_LOOK: Duration = Duration::from_secs(3600);
/// Replaced heads of one vault whose age is remembered; a state file has 1 MiB, and each takes some 90 bytes.
pub const HOLD_STAMPS_MAX: usize = 8192;
/// Heads of one vault that are kept here, newest and replaced: one every three minutes for the usual hold.
pub const VAULT_HEADS_MAX: usize = 16_384;
/// Their bytes: an hourly one with as many snapshots as it may list, for the usual hold, twice.
pub const VAULT_HEADS_BYTES_MAX: u64 = 1 << 30;
/// Of what is lent, and of each quota, one part in so many takes heads and pack lists only: an owner that has filled the rest
/// can still say that it needs less.
pub const HEADS_RESERVE_SHARE: u64 = 64;
/// And at most so much: the largest head eight times.
pub const HEADS_RESERVE_BYTES_MAX: u64 = 8 * HEAD_BYTES_MAX as u64;
/// A release of a hold in bytes: a head of each of 256 devices.
pub const RELEASE_BYTES_MAX: usize = 32 * KIB;
/// Releases that an owner keeps for holders that were away, of one vault: one for all, and for each that was named.
pub const RELEASES_MAX: usize = 16;
/// A list or record that no head names is removed at this age: the head that names it comes after it.
pub const RECORD_AGE_MIN: Duration = Duration::from_secs(86_400);
// ---- Checks -------------------------------------------------------------------------------------------------

/// Files that a verification names for one damaged snapshot; with paths of ordinary length some 20 KiB.
pub const HURT_FILES_MAX: usize = 100;
/// A paced check sleeps no longer than this before it looks whether it should stop.
pub const SCRUB_PAUSE_STEP: Duration = Duration::from_millis(200);
/// A scrub rests so many times as long as it worked: a tenth of one core.
pub const SCRUB_REST: u32 = 9;
/// Own packs that a small disk gives up at once: each takes a question to each holder.
pub const EVICTED_AT_ONCE: usize = 64;
/// Between two tries of giving packs up, when the first one gave up nothing.
pub const EVICTION_PAUSE: Duration = Duration::from_secs(60);
/// Damaged packs that wait to be mended; others are found again in the next round of scrubbing.
pub const REPAIRS_WAITING_MAX: usize = 1024;
/// Choices of packs of which a lost piece of a pack list is made again to compare its hash: a third of a millisecond each at most.
pub const LIST_GUESSES_MAX: usize = 1024;
/// Lost pieces that one repair tries to make again: each reads the pack lists of the vault.
pub const LISTS_MADE_AGAIN_MAX: usize = 64;
/// How long after a peer came damaged packs are asked of it: it has just been dialled, and may have more to say first.
pub const REPAIR_AFTER_ARRIVAL: Duration = Duration::from_secs(5);
/// Tries of mending a pack in which files are read again for what no peer has. Later ones ask peers alone: what a file lost is
/// rarely there again.
pub const REGAIN_TRIES: u32 = 3;
/// How long damaged files are kept that a repair replaced: who wonders why something was mended does so within days.
pub const QUARANTINE_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Slices in which a scrub goes once over all packs.
pub const SCRUB_SLICES: u32 = 30;
/// Damaged packs that are mended without asking, however few packs there are.
pub const REPAIR_UNASKED_PACKS: u64 = 32;
/// Beyond those, mending more than one in so many packs wants a confirmation: a disk that is going away looks like this.
pub const REPAIR_UNASKED_SHARE: u64 = 20;
/// Files that a drill of restoring brings back, however few a hundredth of all are.
pub const DRILL_FILES_MIN: usize = 100;
/// And at most: the names of so many are kept in memory.
pub const DRILL_FILES_MAX: usize = 10_000;
/// Bytes of files that one drill restores, so that large files do not fill the line for days.
pub const DRILL_BYTES_MAX: u64 = 512 * MIB as u64;
/// Files that a drill's report names as not restored.
pub const DRILL_FAILURES_NAMED_MAX: usize = 100;
/// Files that the plan of a repair names as such that would be read again; the rest is counted.
pub const REREAD_FILES_NAMED_MAX: usize = 1000;
/// Damaged packs whose sound chunks are moved at one time: a row of 60 bytes is held for each, at most 30 MiB of them.
pub const REGAIN_PACKS_AT_ONCE: usize = 16;
/// How often a repair reads files again: a tree that comes back shows what else is lost.
pub const REGAIN_ROUNDS_MAX: usize = 3;
/// Ids and packs of each kind that the kept report of a verification names.
pub const REPORT_NAMED_MAX: usize = 100;
/// The kept report in bytes; one that is longer names nothing.
pub const REPORT_BYTES_MAX: usize = MIB / 2;
/// Slices that each holder is asked for in a day: 95 % to notice that one pack in a hundred is lost.
pub const AUDIT_SLICES_DAY: usize = 300;
/// Between two rounds of audits: a holder that lost everything is found within the hour.
pub const AUDIT_ROUND: Duration = Duration::from_secs(1800);
/// Slices that each holder is asked for in one round.
pub const AUDIT_SLICES_ROUND: usize = 7;
/// Slices that a holder asks each fellow holder of a vault for in one round: some 40 bytes a second.
pub const FELLOW_SLICES_ROUND: usize = 1;
/// Slices of an audit by command: as many as in a day.
pub const AUDIT_SLICES_NOW: usize = AUDIT_SLICES_DAY;
/// Slices more of a holder that failed, one of each pack.
pub const AUDIT_SLICES_SUSPECT_MAX: usize = 4096;
/// Packs of one holder whose receipts are remembered as void, 40 bytes each; beyond them all of its receipts are forgotten.
pub const VOID_RECEIPTS_MAX: usize = 65_536;
/// How long a holder has for one slice of 64 KiB: longer than a disk needs to spin up.
pub const AUDIT_DEADLINE: Duration = Duration::from_secs(20);
/// Slices under way to one holder.
pub const AUDIT_IN_FLIGHT: usize = 4;
/// Records (heads, pack lists, snapshot records) that each holder is asked for in a round: 48 rounds a day reach each of
/// 100 records about twice a day.
pub const AUDIT_RECORDS_ROUND: usize = 4;
/// Records that each holder is asked for when a person audits.
pub const AUDIT_RECORDS_NOW: usize = 100;
/// Packs of one holder that it neither proved nor denied and that are asked for again until it does: with fifty holders they fit
/// a state file of 1 MiB.
pub const AUDIT_OPEN_MAX: usize = 64;
/// How often is looked whether somebody who is there now was away when the last round asked.
pub const AUDIT_LOOK: Duration = Duration::from_secs(60);
/// How long an audit of one holder may take in all, whatever it is asked for: all are asked at the same time, so this is what
/// `verify --peers` takes beside the disk.
pub const AUDIT_WHOLE: Duration = Duration::from_secs(60);
/// Slices of each pack that is confirmed again by a holder that had lost it.
pub const AUDIT_SLICES_TRIAL: usize = 4;
/// Packs that holders have confirmed again and that wait for proof, of all together; others are offered again later.
pub const AUDIT_TRIALS_MAX: usize = 16_384;
/// How far a receipt's time may lie ahead of this node's clock.
pub const RECEIPT_AHEAD: Duration = PEER_RECORD_AHEAD;
/// Files in which the receipts of one holder lie; more are joined into one.
pub const RECEIPT_FILES_MAX: usize = 64;
/// Such a file in bytes: two million packs, at 41 bytes.
pub const RECEIPT_FILE_BYTES_MAX: usize = 96 * MIB;
/// Heads and runs of one holder that are remembered there, each.
pub const RECEIPT_HEADS_MAX: usize = 256;
/// A holder that lost something gets nothing new for so long, where others can take it.
pub const AUDIT_PROBATION: Duration = Duration::from_secs(24 * 3600);

const _: () = assert!(24 * 3600 / AUDIT_ROUND.as_secs() as usize * AUDIT_SLICES_ROUND >= AUDIT_SLICES_DAY);
