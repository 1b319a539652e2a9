//! What a node does with data: back up, restore, verify, repair, replicate, recover.
//!
//! Synchronous: runs on threads of its own and states what it needs from outside as small traits
//! ([`PackSource`]). Plans are pure; runs do the I/O. Never imports `net`.

mod audit;
mod backup;
mod borrow;
mod budget;
mod cache;
mod carry;
mod chain;
mod copies;
mod diff;
mod drill;
mod dump;
mod enrol;
mod error;
mod expected;
mod find;
mod forget;
mod gather;
mod gc;
mod heads;
mod hold;
mod holder;
mod hurt;
mod laggards;
mod ledger;
mod monitor;
mod open_pack;
mod parent;
mod pull;
mod reader;
mod rebuild;
mod records;
mod recover;
mod reference;
mod regain;
mod remembered;
mod repair;
mod restore;
mod revocations;
mod seen;
mod signing;
mod stats;
mod tag;
mod tar;
mod tree;
mod vacant;
mod vault;
mod verify;
mod wishes;

#[cfg(test)]
mod tests;

pub use audit::{AuditOutcome, AuditTally, Choice, Doubts, Pick, on_probation, pick_slices};
pub use backup::{
    BackupOptions, BackupResult, Fate, Listener, PreviewResult, backup, backup_stream, preview, source_count,
};
pub use borrow::{
    confirm_borrowed, is_revoked, keep_here, learn_needs, packs_elsewhere, read_again, referred_elsewhere,
};
pub use cache::{Cached, cached_packs, choose_evicted, proven, tree_packs};
pub use carry::{ImportResult, Keep, Room, export, import};
pub use chain::UnreadableHead;
#[cfg(test)]
pub use copies::record_receipt;
pub use copies::{
    CopyCounts, Place, Taken, Terms, copy_counts, enter_proven, locked_copy_counts, take_receipt,
    void_head_receipt,
};
pub use diff::{Change, DiffTotals, Difference, SideTotals, diff};
pub use drill::{DrillOptions, DrillResult, restore_drill};
pub use dump::{DumpKind, dump};
pub use enrol::{enrol_device, make_node, own_vault, unlock};
pub use error::EngineError;
pub use find::{FindOptions, Pattern, Search};
pub use forget::{
    ForgetEffect, ForgetPlan, forget, forget_effect, forget_lost, plan_forget, plan_lost, plan_named,
};
pub use gather::{Errand, Gathering};
pub use gc::{GcOptions, GcResult, Waiting, collect, gc_memory_wanted, waiting};
pub use heads::{
    HeadNews, VaultView, adopt_head, any_head, check_counts, head_packs, heads_at, is_known, last_heads,
    newest_heads, packs_as_known, snapshots_left_out, unreadable_heads, was_here,
};
pub use hold::{HoldResult, drop_expired, note_release};
pub use holder::{
    HolderError, Lending, Needs, accept_head, account, charges_of, check_head, check_place, complete_head,
    forward_packs, held_packs, keep_for_device, keep_what_is_here, missing_records, store_list,
    store_snapshot, store_snapshots, wanted_packs,
};
pub use hurt::{HurtFile, HurtFiles};
pub use laggards::Laggards;
pub use ledger::{Candidate, Ledger, Plan, ROUND_INTERVAL, ROUND_PAUSE, Want, Wanting};
pub use monitor::{Monitor, Problem};
pub use pull::{FetchFailure, Given, PackSource, PulledSlice, Sources, pull_pack};
pub use rebuild::{
    Rebuilt, adopt_listed, adopt_own, adopt_unindexed, packs_to_be_here, rebuild_index, renew_kept,
    renew_snapshot_packs, verify_known_receipts,
};
pub use records::{
    RecordDamage, RecordFault, RecordRepair, RecordSource, damaged_records, give_up_lists, is_record,
    lost_lists, lost_snapshots, named_by, records_to_ask, renew_own_lists, repair_records,
};
pub use recover::index_remote_pack;
pub use reference::{resolve, resolve_listed};
pub use regain::{RegainResult, note_damage, plan_regain, regain};
pub use repair::{
    Damage, RepairPlan, RepairResult, look_over, lost_packs, plan_repair, read_sound, run_repair, undo_repair,
};
pub use restore::{RestoreAction, RestoreChange, RestoreOptions, RestoreResult, restore};
pub use revocations::{Revocations, keep_revocation, revocations};
pub use signing::{
    Carried, give_up_head, inherit, join_branches, next_head, publish_first_head, publish_next_head,
};
pub use stats::{ChunkSums, Sums, snapshot_sums, vault_sums};
pub use tag::{Retagged, TagEdit, tag};
pub use tree::{Spot, TreeEntry, list, locate};
pub use vacant::drop_vacant;
pub use vault::{Vault, VaultOptions};
pub use verify::{SnapshotFinding, VerifyOptions, VerifyResult, verify};
pub use wishes::{
    OWNERS_MAX, PULLS_MAX, PULLS_PER_OWNER_MAX, SLOW_OWNERS_MAX, SLOW_PULLS_MAX, Serving, Wish, WishKey,
    Wishes, is_hopeless,
};
