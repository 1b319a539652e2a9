//! The decoders that a peer or a file feeds, each with what it takes: the one list of them.

use prost::Message;
use shadowvault::api::TicketText;
use shadowvault::base::{DeviceId, Epoch, HeadId, ListId, Moment, PackId, PeerId, SnapshotId, limit};
use shadowvault::crypto::{
    AdminKey, Context, DeviceKeys, KdfCost, Kind, NodeKey, Passphrase, Phrase, Salt, Secret, VaultKeys,
    open_keyring, open_slot, seal_blob, seal_slot, sign,
};
use shadowvault::engine::{Keep, Monitor, import};
use shadowvault::net::parse_peer_address;
use shadowvault::node::Ticket;
use shadowvault::pack::{CellRange, ENTRY_BYTES, read_pack, verify_slice};
use shadowvault::snapshot::{
    Certificate, HeadDraft, HeadSummary, ListRef, PackList, PackSize, PeerAddress, PeerRecord,
    PeerRecordDraft, Receipt, Release, Revocation, SignedHead, decode_pieces, decode_tree, issue_certificate,
    open_record, seal_record, sign_peer_record, sign_receipt, sign_release, sign_revocation,
};
use shadowvault::store::{Store, StoreError};
use shadowvault::wire::{self, Bound, Layout};

/// Who signs whatever bytes come, so that they get past their signature.
pub struct Signer {
    pub admin: AdminKey,
    keys: VaultKeys,
    pub device: DeviceKeys,
    node: NodeKey,
    pub certificate: wire::Signed,
}

impl Signer {
    pub fn new() -> Self {
        let phrase = Phrase::generate();
        let (root, device, node) = (phrase.root(), DeviceKeys::generate("d"), NodeKey::generate());
        let (admin, keys) = (root.admin(), root.vault_keys(Epoch(0)));
        let now = Moment::from_millis(1);
        let certificate = issue_certificate(&admin, &keys, &device, node.peer_id(), now).unwrap();
        Self { admin, keys, device, node, certificate }
    }

    pub fn draft(&self) -> HeadDraft {
        let id = |fill| [fill; 32];
        HeadDraft {
            seq: 7,
            predecessor: Some(HeadId::new(id(1))),
            seen: vec![HeadSummary { device: DeviceId::new(id(2)), seq: 3, id: HeadId::new(id(3)) }],
            snapshots: vec![SnapshotId::new(id(4))],
            lists: vec![ListRef { id: ListId::new(id(5)), packs: 6, bytes: 7 }],
            copies: 2,
            holders: vec![PeerAddress {
                peer: PeerId::new(id(6)),
                addresses: vec!["/ip4/1.1.1.1/tcp/1".into()],
            }],
            time: Moment::from_millis(9),
            epoch: Epoch(0),
            checkpoint: true,
            inherited: vec![DeviceId::new(id(7))],
            carried: vec![HeadId::new(id(8))],
            supersedes: vec![(2, HeadId::new(id(8)))],
        }
    }

    fn head(&self, body: &[u8]) -> Vec<u8> {
        let head = sign(&self.device, Context::Head, body.to_vec());
        wire::SignedHead { head: Some(head), certificate: Some(self.certificate.clone()) }.encode_to_vec()
    }
}

/// Says whether it took what it was given.
pub type Take<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;

/// One decoder: what it is called, a message that it takes, and it.
pub struct Decoder<'a> {
    pub name: &'static str,
    pub valid: Vec<u8>,
    pub take: Take<'a>,
}

fn message<M: Layout>(name: &'static str, valid: &M, bytes: usize, fields: usize) -> Decoder<'static> {
    let take = move |given: &[u8]| wire::decode::<M>(given, Bound::new(bytes, fields)).is_ok();
    Decoder { name, valid: valid.encode_to_vec(), take: Box::new(take) }
}

fn signed<'a>(name: &'static str, valid: wire::Signed, take: Take<'a>) -> Decoder<'a> {
    Decoder { name, valid: valid.body, take }
}

/// All of them.
pub fn decoders(signer: &Signer) -> Vec<Decoder<'_>> {
    let mut all = messages_and_records(signer);
    all.extend(files_and_texts(signer));
    all
}

fn messages_and_records(signer: &Signer) -> Vec<Decoder<'_>> {
    let (vault, now) = (signer.admin.vault(), Moment::from_millis(5));
    let (head, head_bytes) = SignedHead::sign(signer.draft(), &signer.device, &signer.certificate).unwrap();
    let body = |bytes: &[u8]| {
        let signed: wire::SignedHead = Message::decode(bytes).unwrap();
        signed.head.unwrap().body
    };
    let packs = [PackId::new([1; 32]), PackId::new([2; 32])];
    let receipt = sign_receipt(&signer.node, vault, Some(head.id), &packs, now);
    let record = PeerRecordDraft {
        removes: false,
        peer: signer.node.peer_id(),
        name: "attic".to_owned(),
        addresses: vec!["/ip4/10.0.0.1/tcp/9000".to_owned()],
        time: now,
    };
    let list = PackList::new(packs.iter().map(|id| (*id, PackSize::of(128 << 10).unwrap())).collect());
    let info = wire::Snapshot {
        version: 1,
        device: signer.device.id().as_bytes().to_vec(),
        tree: vec![3; 32],
        ..wire::Snapshot::default()
    };
    let node = wire::Node { name: b"n".to_vec(), r#type: 1, size: 5, ..wire::Node::default() };
    let omitted = wire::Omitted { name: b"o".to_vec(), why: 2 };
    let omissions = wire::Omissions { named: vec![omitted], unnamed: 8 };
    let piece = wire::Piece { chunk: vec![1; 32], length: 5 };
    let head_ref = head.summary().to_wire();
    let offer = wire::Offer { vault: vec![1; 32], head: Some(head_ref.clone()), packs: vec![vec![2; 32]] };
    let heads = wire::HeadList { heads: vec![head_ref], ..wire::HeadList::default() };
    let slice = wire::Slice { offset: 65_536, data: vec![1; 64].into(), proof: vec![2; 64] };
    let range = wire::Range { offset: 1, length: 2 };
    let proof = wire::DoorProof {
        vault: vec![1; 32],
        certificate: Some(signer.certificate.clone()),
        ..wire::DoorProof::default()
    };
    vec![
        message(
            "a sync request",
            &wire::SyncRequest { ask: Some(wire::sync_request::Ask::Offer(offer)) },
            limit::SYNC_REQUEST_BYTES_MAX,
            limit::SYNC_REQUEST_FIELDS_MAX,
        ),
        message(
            "a sync answer",
            &wire::SyncResponse { status: 1, answer: Some(wire::sync_response::Answer::Heads(heads)) },
            limit::SYNC_RESPONSE_BYTES_MAX,
            limit::SYNC_RESPONSE_FIELDS_MAX,
        ),
        message(
            "a fetch request",
            &wire::FetchRequest { pack: vec![1; 32], ranges: vec![range] },
            limit::FETCH_REQUEST_BYTES_MAX,
            limit::FETCH_REQUEST_FIELDS_MAX,
        ),
        message(
            "a fetch answer",
            &wire::FetchResponse { status: 1, pack_length: 1 << 20, slices: vec![slice] },
            limit::FETCH_RESPONSE_BYTES_MAX,
            limit::FETCH_RESPONSE_FIELDS_MAX,
        ),
        message(
            "a door request",
            &wire::DoorRequest { ask: Some(wire::door_request::Ask::Proof(proof)) },
            limit::DOOR_BYTES_MAX,
            limit::DOOR_FIELDS_MAX,
        ),
        message(
            "a door answer",
            &wire::DoorResponse { status: 1, nonce: vec![1; 32], admitted: true, refusal: 0 },
            limit::DOOR_BYTES_MAX,
            limit::DOOR_FIELDS_MAX,
        ),
        Decoder {
            name: "a signed head",
            valid: head_bytes.clone(),
            take: Box::new(|bytes| SignedHead::verify(bytes).is_ok()),
        },
        Decoder {
            name: "what is signed of a head",
            valid: body(&head_bytes),
            take: Box::new(|bytes| SignedHead::verify(&signer.head(bytes)).is_ok()),
        },
        signed(
            "a certificate",
            signer.certificate.clone(),
            Box::new(|bytes| {
                Certificate::verify(&sign(&signer.admin, Context::Certificate, bytes.to_vec())).is_ok()
            }),
        ),
        signed(
            "a receipt",
            receipt,
            Box::new(|bytes| Receipt::verify(&sign(&signer.node, Context::Receipt, bytes.to_vec())).is_ok()),
        ),
        signed(
            "a peer record",
            sign_peer_record(&signer.admin, &record),
            Box::new(|bytes| {
                PeerRecord::verify(&sign(&signer.admin, Context::PeerRecord, bytes.to_vec())).is_ok()
            }),
        ),
        signed(
            "a release",
            sign_release(&signer.admin, None, &[head.summary()]),
            Box::new(|bytes| Release::verify(&sign(&signer.admin, Context::Release, bytes.to_vec())).is_ok()),
        ),
        signed(
            "a revocation",
            sign_revocation(
                &signer.admin,
                head.device(),
                &[(head.draft.seq, head.id), (head.draft.seq, HeadId::new([1; 32]))],
                None,
                now,
            ),
            Box::new(|bytes| {
                Revocation::verify(&sign(&signer.admin, Context::Revocation, bytes.to_vec())).is_ok()
            }),
        ),
        Decoder {
            name: "a pack list",
            valid: list.encode().1,
            take: Box::new(|bytes| PackList::decode(bytes).is_ok()),
        },
        Decoder {
            name: "a snapshot record",
            valid: seal_record(&info, &signer.keys, &signer.device).unwrap().1,
            take: Box::new(|bytes| open_record(bytes, &signer.keys).is_ok()),
        },
        Decoder {
            name: "a directory",
            valid: wire::Tree { nodes: vec![node], parts: vec![], omissions: Some(omissions) }
                .encode_to_vec(),
            take: Box::new(|bytes| decode_tree(bytes).is_ok()),
        },
        Decoder {
            name: "a list of pieces",
            valid: wire::PieceList { pieces: vec![piece] }.encode_to_vec(),
            take: Box::new(|bytes| decode_pieces(bytes).is_ok()),
        },
        Decoder {
            name: "a slice of a pack",
            valid: [7; 600].to_vec(),
            take: Box::new(|bytes| {
                let (data, proof) = bytes.split_at(bytes.len() / 2);
                let cells = CellRange::covering(65_536, 65_536, 1 << 20).unwrap();
                verify_slice(PackId::new([1; 32]), 1 << 20, cells, data, proof).is_ok()
            }),
        },
    ]
}

/// Key files, tickets, addresses, packs, what is in trees, exports.
fn files_and_texts(signer: &Signer) -> Vec<Decoder<'_>> {
    let passphrase = Passphrase::new("correct horse".to_owned());
    let (key, cheap) = (Secret::random(), KdfCost { memory_kib: 8, iterations: 1, lanes: 1 });
    let slot = seal_slot(&key, &passphrase, cheap, Moment::from_millis(1));
    let sealed = wire::SealedKeyring { version: 1, nonce: vec![1; 24], sealed: vec![2; 400] };
    let epoch = wire::EpochKeys { epoch: 0, sealing: vec![1; 32], nonce: vec![2; 32] };
    let keyring = wire::Keyring {
        vault: vec![1; 32],
        epochs: vec![epoch],
        certificate: Some(signer.certificate.clone()),
        device_name: "d".to_owned(),
        ..wire::Keyring::default()
    };
    let ticket = wire::Ticket {
        peer: signer.node.peer_id().as_bytes().to_vec(),
        addresses: vec!["/ip4/1.1.1.1/tcp/1".to_owned()],
        secret: vec![1; 16],
        role: wire::TicketRole::RoleMutual.into(),
        ..wire::Ticket::default()
    };
    let said = wire::Whereabouts {
        version: 1,
        peer: signer.node.peer_id().as_bytes().to_vec(),
        seq: 7,
        addresses: vec!["/ip4/1.1.1.1/tcp/1".to_owned()],
    };
    let address = format!("/dns4/example.org/tcp/9000/p2p/{}", signer.node.peer_id());
    vec![
        Decoder {
            name: "a key slot",
            valid: slot,
            // One that says that it is dear to open is so: only what is cheap is opened here.
            take: Box::new(move |bytes| {
                let said: wire::KeySlot = Message::decode(bytes).unwrap_or_default();
                let is_dear = said.memory_kib > 1024 || said.iterations > 4;
                !is_dear && open_slot(bytes, &passphrase).is_ok()
            }),
        },
        Decoder {
            name: "a sealed keyring",
            valid: sealed.encode_to_vec(),
            take: Box::new(move |bytes| open_keyring(bytes, &key).is_ok()),
        },
        message("a keyring", &keyring, 64 << 10, limit::KEY_FILE_FIELDS_MAX),
        message("whereabouts", &said, limit::WHEREABOUTS_BYTES_MAX, limit::FIELDS_FEW),
        message(
            "a list of paths",
            &wire::PathList { paths: vec![b"/p".to_vec()] },
            limit::CHUNK_BYTES_MAX,
            limit::PATHS_FIELDS_MAX,
        ),
        Decoder {
            name: "a ticket",
            valid: ticket.encode_to_vec(),
            take: Box::new(|bytes| {
                // What is too long is seen before it is read; writing it down takes the square of its length.
                let bytes = &bytes[..bytes.len().min(2 * limit::TICKET_BYTES_MAX)];
                let check = blake3::hash(bytes);
                let all = [bytes, &check.as_bytes()[..4]].concat();
                Ticket::parse(&TicketText(format!("svt1{}", bs58::encode(all).into_string()))).is_ok()
            }),
        },
        Decoder {
            name: "the text of a ticket",
            valid: b"svt1".to_vec(),
            take: Box::new(|bytes| Ticket::parse(&TicketText(String::from_utf8_lossy(bytes).into())).is_ok()),
        },
        Decoder {
            name: "an address",
            valid: address.into_bytes(),
            take: Box::new(|bytes| parse_peer_address(&String::from_utf8_lossy(bytes)).is_ok()),
        },
        Decoder {
            name: "a pack",
            valid: pack(signer, &row()),
            take: Box::new(|bytes| read_pack(&signer.keys, bytes).is_ok()),
        },
        Decoder {
            name: "a pack's directory",
            valid: row(),
            take: Box::new(|bytes| {
                let bytes = &bytes[..bytes.len().min(128 << 10)];
                read_pack(&signer.keys, &pack(signer, bytes)).is_ok()
            }),
        },
        import_of(signer),
    ]
}

/// The row of one chunk of ten bytes.
fn row() -> Vec<u8> {
    let numbers = [48u32, 50, 10].map(u32::to_le_bytes).concat();
    [&[1, 0][..], &[7; 32], &numbers].concat()
}

/// A pack with room for one chunk, and with this directory, whose number of rows is right if it has none that is cut.
fn pack(signer: &Signer, directory: &[u8]) -> Vec<u8> {
    let salt = Salt([9; 32]);
    let seal = |kind, plain: &[u8]| {
        let mut sealed = Vec::new();
        seal_blob(&signer.keys, Epoch(0), &salt, kind, salt.0, plain, &mut sealed).expect("it is sealed");
        sealed
    };
    let directory_sealed = seal(Kind::Directory, directory);
    let at =
        [98, directory_sealed.len() as u32, (directory.len() / ENTRY_BYTES) as u32].map(u32::to_le_bytes);
    let trailer = seal(Kind::Trailer, &[&at.concat()[..], &[0; 20]].concat());
    [b"SVPK\x01\0\0\0\0\0\0\0\0\0\0\0", &salt.0[..], &[5; 50], &directory_sealed, &trailer].concat()
}

/// An export, as far as somebody could take it in who has no vault.
fn import_of(signer: &Signer) -> Decoder<'_> {
    let list = PackList::new(vec![(PackId::new([1; 32]), PackSize::of(128 << 10).unwrap())]);
    let (list_id, list) = list.encode();
    let lists = vec![ListRef { id: list_id, packs: 1, bytes: 128 << 10 }];
    let draft = HeadDraft { lists, snapshots: vec![], ..signer.draft() };
    let (head, head_bytes) = SignedHead::sign(draft, &signer.device, &signer.certificate).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut member = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    member("shadowvault-export-1".to_owned(), signer.admin.vault().to_string().as_bytes());
    member(format!("heads/{}", hex::encode(head.id.as_bytes())), &head_bytes);
    member(format!("lists/{}", hex::encode(list_id.as_bytes())), &list);
    let valid = archive.into_inner().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("s")).unwrap();
    // Its directory goes with it.
    let home = (store, dir);
    Decoder {
        name: "an export",
        valid,
        take: Box::new(move |bytes| {
            let none = |_, _, _: Keep<'_>| Err(StoreError::NotLent.into());
            import(&home.0, None, &mut &*bytes, &none, &Monitor::default()).is_ok()
        }),
    }
}
