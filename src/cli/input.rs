//! Files and standard input on their way to a job.

use std::io::Read;

use bytes::Bytes;

use crate::api::{ApiError, InputStream};
use crate::base::{Code, limit};

/// What `reader` gives, in pieces, read by a thread of its own: it may wait for ever. `name` is for messages.
pub(super) fn stream_of(name: String, mut reader: impl Read + Send + 'static) -> InputStream {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let mut piece = Vec::with_capacity(limit::JOB_PIECE_BYTES);
            let read = reader.by_ref().take(limit::JOB_PIECE_BYTES as u64).read_to_end(&mut piece);
            let piece = match read {
                Ok(0) => break,
                Ok(_) => Ok(Bytes::from(piece)),
                Err(error) => Err(ApiError::new(Code::IoFailed, format!("{name} cannot be read: {error}"))),
            };
            let last = piece.is_err();
            if sender.blocking_send(piece).is_err() || last {
                break;
            }
        }
    });
    Box::pin(futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}
