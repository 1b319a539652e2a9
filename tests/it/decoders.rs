//! Every decoder that a peer or a file feeds, fed with what neither should send: noise, messages cut and altered, fields
//! without number, nesting without end, numbers at their ends. One table says which there are.

use prost::Message;
use shadowvault::base::{DeviceId, Epoch, HeadId, ListId, Moment, PackId, PeerId, SnapshotId, limit};
use shadowvault::crypto::{AdminKey, Context, DeviceKeys, NodeKey, Phrase, VaultKeys, sign};
use shadowvault::engine::{
    Monitor, accept_head, adopt_head, complete_head, damaged_records, drop_expired, heads_at, is_known,
    keep_revocation, newest_heads, note_release, rebuild_index, wanted_packs,
};
use shadowvault::pack::{CellRange, verify_slice};
use shadowvault::snapshot::{
    Certificate, HeadDraft, HeadSummary, ListRef, PackList, PackSize, PeerAddress, PeerRecord,
    PeerRecordDraft, Receipt, Release, Revocation, SignedHead, decode_pieces, decode_tree, issue_certificate,
    open_record, seal_record, sign_peer_record, sign_receipt, sign_release, sign_revocation,
};
use shadowvault::store::Store;
use shadowvault::wire::{self, Bound, Layout};

/// Who signs whatever bytes come, so that they get past their signature.
struct Signer {
    admin: AdminKey,
    keys: VaultKeys,
    device: DeviceKeys,
    node: NodeKey,
    certificate: wire::Signed,
}

impl Signer {
    fn new() -> Self {
        let phrase = Phrase::generate();
        let (root, device, node) = (phrase.root(), DeviceKeys::generate("d"), NodeKey::generate());
        let (admin, keys) = (root.admin(), root.vault_keys(Epoch(0)));
        let now = Moment::from_millis(1);
        let certificate = issue_certificate(&admin, &keys, &device, node.peer_id(), now).unwrap();
        Self { admin, keys, device, node, certificate }
    }

    fn draft(&self) -> HeadDraft {
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
            supersedes: vec![(2, HeadId::new(id(8)))],
        }
    }

    fn head(&self, body: &[u8]) -> Vec<u8> {
        let head = sign(&self.device, Context::Head, body.to_vec());
        wire::SignedHead { head: Some(head), certificate: Some(self.certificate.clone()) }.encode_to_vec()
    }
}

/// Says whether it took what it was given.
type Take<'a> = Box<dyn Fn(&[u8]) -> bool + 'a>;

/// One decoder: what it is called, a message that it takes, and it.
struct Decoder<'a> {
    name: &'static str,
    valid: Vec<u8>,
    take: Take<'a>,
}

fn message<M: Layout>(name: &'static str, valid: &M, bytes: usize, fields: usize) -> Decoder<'static> {
    let take = move |given: &[u8]| wire::decode::<M>(given, Bound::new(bytes, fields)).is_ok();
    Decoder { name, valid: valid.encode_to_vec(), take: Box::new(take) }
}

fn signed<'a>(name: &'static str, valid: wire::Signed, take: Take<'a>) -> Decoder<'a> {
    Decoder { name, valid: valid.body, take }
}

fn decoders(signer: &Signer) -> Vec<Decoder<'_>> {
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
            sign_revocation(&signer.admin, &head.summary(), None, now),
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
            valid: wire::Tree { nodes: vec![node], parts: vec![] }.encode_to_vec(),
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

/// A field of bytes.
fn field(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// A number.
fn number(tag: u32, value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_key(tag, prost::encoding::WireType::Varint, out);
    prost::encoding::encode_varint(value, out);
}

/// Numbers at their ends; a signed one's least is the second.
const ENDS: [u64; 6] = [u64::MAX, 1 << 63, i64::MAX as u64, u32::MAX as u64, 1, 0];

/// The message with each of its numbers, and of those one message deeper, at an end: of two fields the last one counts.
fn with_ends(valid: &[u8]) -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for end in ENDS {
        for tag in 1..=22 {
            let mut bytes = valid.to_vec();
            number(tag, end, &mut bytes);
            made.push(bytes);
            for ids in [&[1, 3][..], &[2], &[1], &[]] {
                let mut inner = Vec::new();
                ids.iter().for_each(|id| field(*id, &[9; 32], &mut inner));
                (1..=3).filter(|tag| !ids.contains(tag)).for_each(|tag| number(tag, end, &mut inner));
                let mut bytes = valid.to_vec();
                field(tag, &inner, &mut bytes);
                made.push(bytes);
            }
        }
    }
    made
}

/// Noise that is the same in every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn altered(valid: &[u8]) -> Vec<Vec<u8>> {
    let step = valid.len().div_ceil(300).max(1);
    let mut made: Vec<Vec<u8>> = (0..valid.len()).step_by(step).map(|cut| valid[..cut].to_vec()).collect();
    for at in (0..valid.len()).step_by(step) {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = valid.to_vec();
            bytes[at] ^= flip;
            made.push(bytes);
        }
    }
    made.extend((0..200).map(|seed| noise(seed, (seed as usize * 37) % 4096)));
    made
}

/// A million of the shortest fields of each number, and fewer, behind what is valid.
fn bombs(valid: &[u8]) -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for tag in 1..=15u8 {
        for kind in [2, 0] {
            let short = [(tag << 3) | kind, 0];
            made.push([valid, &short.repeat(1_000_000)].concat());
            made.push([valid, &short.repeat(200_000)].concat());
        }
    }
    made
}

/// Messages in messages, and groups in groups.
fn nested(valid: &[u8]) -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for tag in 1..=15u8 {
        let mut deep = Vec::new();
        for _ in 0..400 {
            let inner = std::mem::take(&mut deep);
            field(u32::from(tag), &inner, &mut deep);
        }
        made.push([valid, &deep].concat());
        made.push([valid, &[(tag << 3) | 3].repeat(500_000)].concat());
    }
    made
}

#[test]
fn no_decoder_panics_or_takes_much_memory_whatever_it_is_fed() {
    if !super::bounds::in_own_process("decoders::no_decoder_panics_or_takes_much_memory_whatever_it_is_fed") {
        return;
    }
    let signer = Signer::new();
    for decoder in decoders(&signer) {
        let name = decoder.name;
        assert!((decoder.take)(&decoder.valid) || name == "a slice of a pack", "{name} as it should be");
        let valid = &decoder.valid;
        for given in altered(valid).into_iter().chain(with_ends(valid)).chain(nested(valid)) {
            (decoder.take)(&given);
        }
        for bomb in bombs(valid) {
            let taken = (decoder.take)(&bomb);
            assert!(!taken, "{name} took {} bytes", bomb.len());
        }
        let peak = super::bounds::peak_bytes() >> 20;
        assert!(peak < 160, "{peak} MiB after {name}");
    }
}

/// A sequence number of 2^64-1 was an overflow.
#[test]
fn heads_with_numbers_at_their_ends_are_taken_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("s")).unwrap();
    let signer = Signer::new();
    let vault = signer.admin.vault();
    let list = PackList::new(vec![(PackId::new([1; 32]), PackSize::of(128 << 10).unwrap())]);
    let (list_id, bytes) = list.encode();
    store.publish_list(list_id, &bytes).unwrap();
    let mut taken = Vec::new();
    for end in ENDS {
        let draft = HeadDraft {
            seq: end.max(2),
            snapshots: vec![],
            lists: vec![ListRef { id: list_id, packs: end as u32, bytes: end }],
            copies: end as u32,
            time: Moment::from_millis(end),
            epoch: Epoch(end as u32),
            supersedes: vec![(end.max(2) - 1, HeadId::new([8; 32]))],
            ..signer.draft()
        };
        let (head, bytes) = SignedHead::sign(draft, &signer.device, &signer.certificate).unwrap();
        let _ = accept_head(&store, vault, head.id, &bytes);
        let _ = adopt_head(&store, &head, &bytes);
        let _ = is_known(&store, vault, &head.summary()).unwrap();
        let _ = complete_head(&store, vault, head.id).unwrap();
        wanted_packs(&store, &head, &[PackId::new([1; 32])]).unwrap();
        heads_at(&store, vault, Moment::from_millis(end)).unwrap().for_each(|head| drop(head.unwrap()));
        taken.push(head.summary());
    }
    for head in &taken {
        let release = sign_release(&signer.admin, None, &[*head]);
        note_release(&store, &Release::verify(&release).unwrap()).unwrap();
        for end in ENDS {
            let signed = sign_revocation(&signer.admin, head, None, Moment::from_millis(end));
            keep_revocation(&store, &signed).unwrap();
            newest_heads(&store, vault).unwrap().for_each(|head| drop(head.unwrap()));
        }
    }
    drop_expired(&store, None, limit::GC_GRACE, std::time::Duration::MAX).unwrap();
    damaged_records(&store, &Monitor::default()).unwrap();
    rebuild_index(&store, None, &Monitor::default()).unwrap();
}
