//! The vault's structures above chunks: trees, snapshot records, pack lists, certificates, heads, receipts.
//!
//! Encodes, signs and checks them; stores and sends nothing. Invariant: a [`Head`], [`Certificate`] or
//! [`Receipt`] value exists only after its signatures verified.

mod certificate;
mod head;
mod list;
mod omissions;
mod peer_record;
mod receipt;
mod record;
mod release;
mod revocation;
mod tree;

pub use certificate::{Certificate, issue_certificate, open_device_name};
pub use head::{Head, HeadDraft, HeadError, HeadName, HeadSummary, ListRef, PeerAddress, SignedHead};
pub use list::{ListError, ListPlan, PackList, PackSize, plan_lists};
pub use omissions::{Omission, Omissions};
pub use peer_record::{PeerRecord, PeerRecordDraft, PeerRecordError, sign_peer_record};
pub use receipt::{Receipt, ReceiptError, sign_receipt, sign_receipt_at};
pub use record::{RecordError, Snapshot, open_record, seal_record};
pub use release::{Release, ReleaseError, sign_release};
pub use revocation::{Revocation, sign_revocation};
pub use tree::{
    Content, PieceWriter, Tree, TreeError, TreeWriter, decode_directory, decode_pieces, decode_tree,
    node_content,
};
