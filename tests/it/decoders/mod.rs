//! Every decoder that a peer or a file feeds, fed with what neither should send: noise, messages cut and altered, fields
//! without number, nesting without end, numbers at their ends. One list says which there are.

mod list;

use list::{Signer, decoders};
use shadowvault::base::{Epoch, HeadId, Moment, PackId, limit};
use shadowvault::engine::{
    Monitor, accept_head, adopt_head, complete_head, damaged_records, drop_expired, heads_at, is_known,
    keep_revocation, newest_heads, note_release, rebuild_index, wanted_packs,
};
use shadowvault::snapshot::{
    HeadDraft, ListRef, PackList, PackSize, Release, SignedHead, sign_release, sign_revocation,
};
use shadowvault::store::Store;

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

/// May have a path for every other byte, of which each is small.
const ONE_A_PATH: &str = "a list of paths";

/// What is here lacks a key or a pack, and is refused as it stands.
const PARTS: [&str; 4] = ["a slice of a pack", "a sealed keyring", "the text of a ticket", "an export"];

#[test]
fn no_decoder_panics_or_takes_much_memory_whatever_it_is_fed() {
    if !super::bounds::in_own_process("decoders::no_decoder_panics_or_takes_much_memory_whatever_it_is_fed") {
        return;
    }
    let signer = Signer::new();
    for decoder in decoders(&signer) {
        let name = decoder.name;
        let is_whole = !PARTS.contains(&name);
        assert_eq!((decoder.take)(&decoder.valid), is_whole, "{name} as it should be");
        let valid = &decoder.valid;
        for given in altered(valid).into_iter().chain(with_ends(valid)).chain(nested(valid)) {
            (decoder.take)(&given);
        }
        for bomb in bombs(valid) {
            let taken = (decoder.take)(&bomb);
            assert!(!taken || name == ONE_A_PATH, "{name} took {} bytes", bomb.len());
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
            let (last, time) = ([(head.seq, head.id)], Moment::from_millis(end));
            let signed = sign_revocation(&signer.admin, head.device, &last, None, time);
            keep_revocation(&store, &signed).unwrap();
            newest_heads(&store, vault).unwrap().for_each(|head| drop(head.unwrap()));
        }
    }
    drop_expired(&store, None, limit::GC_GRACE, std::time::Duration::MAX).unwrap();
    damaged_records(&store, &Monitor::default()).unwrap();
    rebuild_index(&store, None, &Monitor::default()).unwrap();
}
