//! How a request and its answer travel: one protobuf message each way, ended by closing that half of the
//! stream, bounded before anything large is allocated. An answer says its length first: a stream ends alike whether its
//! sender was done or was cut off, so what is shorter than that is neither taken for the whole nor held against its sender.

use std::cmp::Ordering;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use prost::Message;

use super::readers::Taken;
use crate::base::limit;
use crate::wire::{self, Bound, Layout, WireError};

/// A request-response protocol: its name, its messages and what they may weigh.
pub(super) trait Protocol: Send + std::marker::Sync + 'static {
    const NAME: &'static str;
    type Request: Layout + 'static;
    type Response: Layout + 'static;
    const REQUEST: Bound;
    const RESPONSE: Bound;
}

/// `/shadowvault/sync/1`.
pub(super) enum Sync {}
/// `/shadowvault/chunk-fetch/1`.
pub(super) enum Fetch {}
/// `/shadowvault/door/1`.
pub(super) enum Door {}

impl Protocol for Sync {
    const NAME: &'static str = "/shadowvault/sync/1";
    type Request = wire::SyncRequest;
    type Response = wire::SyncResponse;
    const REQUEST: Bound = Bound::new(limit::SYNC_REQUEST_BYTES_MAX, limit::SYNC_REQUEST_FIELDS_MAX);
    const RESPONSE: Bound = Bound::new(limit::SYNC_RESPONSE_BYTES_MAX, limit::SYNC_RESPONSE_FIELDS_MAX);
}

impl Protocol for Fetch {
    const NAME: &'static str = "/shadowvault/chunk-fetch/1";
    type Request = wire::FetchRequest;
    type Response = wire::FetchResponse;
    const REQUEST: Bound = Bound::new(limit::FETCH_REQUEST_BYTES_MAX, limit::FETCH_REQUEST_FIELDS_MAX);
    const RESPONSE: Bound = Bound::new(limit::FETCH_RESPONSE_BYTES_MAX, limit::FETCH_RESPONSE_FIELDS_MAX);
}

impl Protocol for Door {
    const NAME: &'static str = "/shadowvault/door/1";
    type Request = wire::DoorRequest;
    type Response = wire::DoorResponse;
    const REQUEST: Bound = Bound::new(limit::DOOR_BYTES_MAX, limit::DOOR_FIELDS_MAX);
    const RESPONSE: Bound = Bound::new(limit::DOOR_BYTES_MAX, limit::DOOR_FIELDS_MAX);
}

/// An answer. What its reader has taken of one that is sent is counted.
#[derive(Debug)]
pub(super) struct Answer<M> {
    pub(super) message: M,
    pub(super) taken: Option<Taken>,
}

impl<M> From<M> for Answer<M> {
    fn from(message: M) -> Self {
        Self { message, taken: None }
    }
}

/// The codec of protocol `P`.
pub(super) struct Codec<P>(PhantomData<fn() -> P>);

impl<P> Clone for Codec<P> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<P> Default for Codec<P> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// A request as it came: one that is malformed is answered with a refusal, so it must get past the codec.
pub(super) type Asked<M> = Result<M, WireError>;

impl<P: Protocol> request_response::Codec for Codec<P> {
    type Protocol = StreamProtocol;
    type Request = Asked<P::Request>;
    type Response = Answer<P::Response>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(wire::decode_shared(read(io, P::REQUEST.bytes).await?.into(), P::REQUEST))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        let bytes = read(io, LENGTH_BYTES + P::RESPONSE.bytes).await?;
        let message: P::Response = wire::decode_shared(whole(bytes.into())?, P::RESPONSE)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(message.into())
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Self::Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let request = request.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        io.write_all(&encode(Vec::new(), &request, P::REQUEST.bytes)?).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Self::Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let length = u32::try_from(response.message.encoded_len()).unwrap_or(u32::MAX);
        let bytes = encode(length.to_le_bytes().to_vec(), &response.message, P::RESPONSE.bytes)?;
        write(io, &bytes, response.taken.as_deref()).await
    }
}

/// What an answer begins with: the length of the rest, little-endian.
const LENGTH_BYTES: usize = size_of::<u32>();

/// The message in an answer, if all of it came. A peer that gave up on the request closes the stream without a word.
fn whole(answer: Bytes) -> io::Result<Bytes> {
    let Some(length) = answer.first_chunk() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    let (length, message) = (u32::from_le_bytes(*length) as usize, answer.slice(LENGTH_BYTES..));
    match message.len().cmp(&length) {
        Ordering::Less => Err(io::ErrorKind::UnexpectedEof.into()),
        Ordering::Equal => Ok(message),
        Ordering::Greater => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "an answer is longer than it says"))
        }
    }
}

/// Reads to the end of the stream, or fails after `limit` bytes. Memory follows what really arrived: who has sent the bytes of a
/// cell gets room for the longest message at once, which spares a long one from being moved again and again.
async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, limit: usize) -> io::Result<Vec<u8>> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    for room in [limit::CELL_BYTES / 16, limit::CELL_BYTES, limit + 1] {
        // Zeroed once: what comes does so in small pieces, and `read_to_end` writes over all room that is left before each.
        let mut larger = vec![0; room.min(limit + 1)];
        larger[..length].copy_from_slice(&bytes[..length]);
        bytes = larger;
        while length < bytes.len() {
            match io.read(&mut bytes[length..]).await? {
                0 => {
                    bytes.truncate(length);
                    return Ok(bytes);
                }
                read => length += read,
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, WireError::TooLong { length, limit }))
}

/// A message behind what stands before it.
fn encode(mut before: Vec<u8>, message: &impl Message, limit: usize) -> io::Result<Vec<u8>> {
    let length = message.encoded_len();
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, WireError::TooLong { length, limit }));
    }
    before.reserve_exact(length);
    message.encode(&mut before).expect("a vector has room");
    Ok(before)
}

async fn write<T: AsyncWrite + Unpin + Send>(
    io: &mut T,
    bytes: &[u8],
    taken: Option<&AtomicU64>,
) -> io::Result<()> {
    let mut left = bytes;
    while !left.is_empty() {
        let written = io.write(left).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if let Some(taken) = taken {
            taken.fetch_add(written as u64, Relaxed);
        }
        left = &left[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;

    fn decode<M: Layout>(bytes: Vec<u8>, bound: Bound) -> Result<M, WireError> {
        wire::decode_shared(bytes.into(), bound)
    }

    #[test]
    fn largest_legitimate_messages_fit() {
        let pack = vec![7; 32];
        let ranges = vec![wire::Range { offset: u64::MAX, length: u64::MAX }; limit::FETCH_RANGES_MAX];
        let fetch = wire::FetchRequest { pack: pack.clone(), ranges };
        assert_eq!(decode(fetch.encode_to_vec(), Fetch::REQUEST), Ok(fetch));

        let slice =
            wire::Slice { offset: 1 << 24, data: vec![1; limit::CELL_BYTES].into(), proof: vec![2; 512] };
        let slices = vec![slice; limit::FETCH_RANGES_MAX];
        let answer = wire::FetchResponse { status: 1, pack_length: 1 << 24, slices };
        assert_eq!(decode(answer.encode_to_vec(), Fetch::RESPONSE), Ok(answer));

        let head = wire::HeadRef { device: pack.clone(), seq: u64::MAX, id: pack.clone() };
        let packs = vec![pack.clone(); limit::OFFER_PACKS_MAX];
        let offer = wire::Offer { vault: pack.clone(), head: Some(head.clone()), packs };
        let sync = wire::SyncRequest { ask: Some(wire::sync_request::Ask::Offer(offer)) };
        assert_eq!(decode(sync.encode_to_vec(), Sync::REQUEST), Ok(sync));

        let holder = wire::PeerAddress {
            peer: pack.clone(),
            addresses: vec!["/ip4/203.0.113.255/tcp/65535".to_owned(); limit::PEER_ADDRESSES_MAX],
        };
        let signed = wire::Signed { body: vec![8; limit::REVOCATION_BYTES_MAX], signature: vec![9; 64] };
        let heads = wire::HeadList {
            heads: vec![head; limit::HEADS_TOLD_MAX],
            holders: vec![holder; limit::HEAD_HOLDERS_MAX],
            revocations: vec![signed; limit::VAULT_DEVICES_MAX],
            twins: true,
            instance: 1,
            unreadable: Vec::new(),
        };
        let answer =
            wire::SyncResponse { status: 1, answer: Some(wire::sync_response::Answer::Heads(heads)) };
        assert_eq!(decode(answer.encode_to_vec(), Sync::RESPONSE), Ok(answer));

        let ids = vec![pack.clone(); limit::RECORDS_ASKED_MAX];
        let query = wire::RecordsQuery { vault: pack, kind: wire::RecordKind::RecordSnapshot.into(), ids };
        let sync = wire::SyncRequest { ask: Some(wire::sync_request::Ask::Batch(query)) };
        assert_eq!(decode(sync.encode_to_vec(), Sync::REQUEST), Ok(sync));
        for (bytes, count) in [(limit::RECORD_BYTES, limit::RECORDS_ASKED_MAX), (limit::HEAD_BYTES_MAX, 1)] {
            let record = wire::RecordAnswer { status: 1, record: vec![7; bytes] };
            let batch = wire::RecordBatch { records: vec![record; count] };
            let answer = Some(wire::sync_response::Answer::Batch(batch));
            let answer = wire::SyncResponse { status: 1, answer };
            assert_eq!(decode(answer.encode_to_vec(), Sync::RESPONSE), Ok(answer));
        }
    }

    #[test]
    fn messages_of_many_empty_fields_are_refused_undecoded() {
        // 500,000 empty slices are 1 MB on the wire and 28 MB in memory.
        let slices = vec![wire::Slice::default(); 500_000];
        let bytes = wire::FetchResponse { slices, ..Default::default() }.encode_to_vec();
        assert!(bytes.len() < limit::FETCH_RESPONSE_BYTES_MAX);
        assert!(matches!(
            decode::<wire::FetchResponse>(bytes, Fetch::RESPONSE),
            Err(WireError::Malformed(_))
        ));

        let holders = vec![wire::PeerAddress { peer: vec![], addresses: vec![String::new(); 100_000] }];
        let heads = wire::HeadList { holders, ..wire::HeadList::default() };
        let answer = Some(wire::sync_response::Answer::Heads(heads));
        let bytes = wire::SyncResponse { status: 1, answer }.encode_to_vec();
        assert!(decode::<wire::SyncResponse>(bytes, Sync::RESPONSE).is_err());
    }

    /// What was cut off in the middle was held against its sender, and what was cut off between two fields was taken for the
    /// whole.
    #[test]
    fn answer_is_whole_or_it_did_not_come() {
        use request_response::Codec as _;
        let (mut codec, name) = (Codec::<Fetch>::default(), StreamProtocol::new(Fetch::NAME));
        let slice = wire::Slice { offset: 0, data: vec![1; 20].into(), proof: vec![2; 32] };
        let answer = wire::FetchResponse { status: 1, pack_length: 1 << 20, slices: vec![slice; 2] };
        let mut bytes = Vec::new();
        block_on(codec.write_response(&name, &mut bytes, answer.clone().into())).unwrap();
        let mut read = |bytes: &[u8]| block_on(codec.read_response(&name, &mut &bytes[..]));
        assert_eq!(read(&bytes).unwrap().message, answer);
        for length in 0..bytes.len() {
            let error = read(&bytes[..length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}: {error}");
        }
        bytes.push(0);
        assert_eq!(read(&bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
        bytes.pop();
        bytes[LENGTH_BYTES] = 0xff;
        assert_eq!(read(&bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn reading_stops_one_byte_over_the_limit() {
        assert_eq!(block_on(read(&mut &[1u8; 8][..], 8)).unwrap().len(), 8);
        assert_eq!(block_on(read(&mut &[1u8; 9][..], 8)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut endless = futures::io::repeat(0);
        assert!(block_on(read(&mut endless, limit::DOOR_BYTES_MAX)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _ = decode::<wire::SyncRequest>(bytes.clone(), Sync::REQUEST);
            let _ = decode::<wire::FetchResponse>(bytes, Fetch::RESPONSE);
        }
    }
}
