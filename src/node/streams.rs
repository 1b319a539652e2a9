//! What passes between a job and its caller while it works: the input of a backup or import, the fates of paths in a dry run.
//!
//! Both are bounded: the faster side waits for the slower one. An input counts as whole only when its end was said; a
//! caller that goes away before that fails the job. A job waits `limit::JOB_STREAM_WAIT` for its caller to come.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Mutex;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, FateStream, InputStream, JobId, JobRequest, PathFate};
use crate::base::{Code, limit};

/// A job's ends of its streams.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) input: Option<Input>,
    pub(super) fates: Option<Fates>,
}

/// The callers' ends, of all jobs.
#[derive(Default)]
pub(super) struct Ends(Mutex<HashMap<JobId, End>>);

struct End {
    input: Option<mpsc::Sender<Piece>>,
    fates: Option<(mpsc::Receiver<PathFate>, oneshot::Sender<()>)>,
    cancel: CancellationToken,
}

enum Piece {
    /// The caller is there.
    Begin,
    Bytes(Bytes),
    /// That was all.
    End,
}

impl Ends {
    /// The streams that a job of this kind has.
    pub(super) fn enter(&self, id: JobId, request: &JobRequest, cancel: CancellationToken) -> Streams {
        let (takes_input, tells_fates) = match request {
            JobRequest::Backup(request) => {
                (request.stdin_filename.is_some(), request.dry_run && request.list)
            }
            JobRequest::Import(_) => (true, false),
            _ => (false, false),
        };
        let (mut job, mut end) =
            (Streams::default(), End { input: None, fates: None, cancel: cancel.clone() });
        if takes_input {
            let (sender, pieces) = mpsc::channel(limit::JOB_PIECES_MAX);
            end.input = Some(sender);
            job.input = Some(Input { pieces, current: Bytes::new(), ended: false });
        }
        if tells_fates {
            let (lines, receiver) = mpsc::channel(limit::JOB_LINES_MAX);
            let (taken, is_taken) = oneshot::channel();
            end.fates = Some((receiver, taken));
            job.fates = Some(Fates { lines, is_taken: Some(is_taken), cancel });
        }
        if job.input.is_some() || job.fates.is_some() {
            self.table().insert(id, end);
        }
        job
    }

    /// Closes what nobody has taken: the job ended, or is to end.
    pub(super) fn close(&self, id: JobId) {
        self.table().remove(&id);
    }

    pub(super) fn close_all(&self) {
        self.table().clear();
    }

    /// Streams a job's input to it.
    ///
    /// # Errors
    /// [`Code::UsageInvalid`] for a job that waits for none; what the stream breaks off with; [`Code::Cancelled`] when
    /// the job ends first, and tells why itself.
    pub(super) async fn feed(&self, id: JobId, mut input: InputStream) -> Result<(), ApiError> {
        let (pipe, cancel) = self.take(id, "input", |end| end.input.take())?;
        let over = || ApiError::new(Code::Cancelled, format!("job {id} ended before its input did"));
        pipe.send(Piece::Begin).await.map_err(|_| over())?;
        loop {
            let piece = tokio::select! {
                piece = input.next() => piece,
                () = cancel.cancelled() => return Err(over()),
                () = pipe.closed() => return Err(over()),
            };
            let piece = piece.transpose()?.map_or(Piece::End, Piece::Bytes);
            let last = matches!(piece, Piece::End);
            tokio::select! {
                sent = pipe.send(piece) => sent.map_err(|_| over())?,
                () = cancel.cancelled() => return Err(over()),
            }
            if last {
                return Ok(());
            }
        }
    }

    /// The fates that a dry run finds.
    ///
    /// # Errors
    /// [`Code::UsageInvalid`] for a job that gives none, or has given them.
    pub(super) fn fates(&self, id: JobId) -> Result<FateStream, ApiError> {
        let ((lines, taken), _) = self.take(id, "list", |end| end.fates.take())?;
        // A job that does not wait any more shows by closing its end.
        taken.send(()).ok();
        Ok(Box::pin(futures::stream::unfold(lines, |mut lines| async move {
            let line = lines.recv().await?;
            Some((Ok(line), lines))
        })))
    }

    fn take<T>(
        &self,
        id: JobId,
        what: &str,
        take: impl FnOnce(&mut End) -> Option<T>,
    ) -> Result<(T, CancellationToken), ApiError> {
        let mut table = self.table();
        let taken = table.get_mut(&id).and_then(|end| Some((take(end)?, end.cancel.clone())));
        taken.ok_or_else(|| {
            let text = format!("job {id} waits for no caller of its {what}, or has one already");
            ApiError::new(Code::UsageInvalid, text)
        })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, End>> {
        self.0.lock().expect("no panic while held")
    }
}

/// A job's input, to be read on a thread of its own.
pub(super) struct Input {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Input {
    /// Waits until the caller is there.
    pub(super) async fn begin(&mut self) -> Result<(), ApiError> {
        match tokio::time::timeout(limit::JOB_STREAM_WAIT, self.pieces.recv()).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(ApiError::new(Code::Cancelled, "cancelled before its input came")),
            Err(_) => Err(nobody_came("input", "PUT it to /api/v1/jobs/ID/input")),
        }
    }
}

fn nobody_came(what: &str, hint: &str) -> ApiError {
    let seconds = limit::JOB_STREAM_WAIT.as_secs();
    ApiError::new(Code::IoFailed, format!("nobody came for the job's {what} within {seconds} s"))
        .with_hint(hint)
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Begin) => {}
                None => {
                    let text = "whoever streamed it went away";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Where a job tells the fates of paths.
pub(super) struct Fates {
    lines: mpsc::Sender<PathFate>,
    is_taken: Option<oneshot::Receiver<()>>,
    cancel: CancellationToken,
}

impl Fates {
    /// Waits until the caller is there.
    pub(super) async fn begin(&mut self) -> Result<(), ApiError> {
        let Some(taken) = self.is_taken.take() else { return Ok(()) };
        match tokio::time::timeout(limit::JOB_STREAM_WAIT, taken).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ApiError::new(Code::Cancelled, "cancelled before its list was asked for")),
            Err(_) => Err(nobody_came("list", "GET it from /api/v1/jobs/ID/fates")),
        }
    }

    /// Tells one; `false` when nobody listens any more. Blocking, on a thread that may.
    pub(super) fn tell(&self, fate: PathFate) -> bool {
        match self.lines.try_send(fate) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(fate)) => tokio::runtime::Handle::current().block_on(async {
                tokio::select! {
                    sent = self.lines.send(fate) => sent.is_ok(),
                    () = self.cancel.cancelled() => false,
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BackupRequest;

    fn stdin() -> JobRequest {
        JobRequest::Backup(BackupRequest { stdin_filename: Some("a".into()), ..BackupRequest::default() })
    }

    fn pieces(parts: Vec<Result<&'static [u8], Code>>) -> InputStream {
        let part = |part: Result<&'static [u8], Code>| {
            part.map(Bytes::from).map_err(|code| ApiError::new(code, "no"))
        };
        Box::pin(futures::stream::iter(parts.into_iter().map(part)))
    }

    /// What a job reads of an input, and how feeding it ended.
    async fn check(parts: Vec<Result<&'static [u8], Code>>) -> (io::Result<Vec<u8>>, Result<(), Code>) {
        let ends = Ends::default();
        let mut input = ends.enter(JobId(1), &stdin(), CancellationToken::new()).input.unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes).map(|_| bytes)
        });
        let fed = ends.feed(JobId(1), pieces(parts)).await.map_err(|error| error.kind());
        (read.await.unwrap(), fed)
    }

    #[tokio::test]
    async fn an_input_is_whole_only_with_its_end() {
        let (read, fed) = check(vec![Ok(b"one"), Ok(b""), Ok(b"two")]).await;
        assert_eq!((read.unwrap(), fed), (b"onetwo".to_vec(), Ok(())));
        let (read, fed) = check(vec![Ok(b"one"), Err(Code::IoFailed)]).await;
        assert_eq!((read.unwrap_err().kind(), fed), (io::ErrorKind::UnexpectedEof, Err(Code::IoFailed)));
    }

    #[tokio::test]
    async fn a_cancelled_job_hears_it_from_its_input() {
        let (ends, cancel) = (Ends::default(), CancellationToken::new());
        let mut input = ends.enter(JobId(1), &stdin(), cancel.clone()).input.unwrap();
        ends.close(JobId(1));
        assert_eq!(input.begin().await.unwrap_err().kind(), Code::Cancelled);
        assert_eq!(ends.feed(JobId(1), pieces(vec![])).await.unwrap_err().kind(), Code::UsageInvalid);

        let mut input = ends.enter(JobId(2), &stdin(), cancel.clone()).input.unwrap();
        let endless: InputStream = Box::pin(futures::stream::pending());
        let (begun, fed) = tokio::join!(
            async {
                let begun = input.begin().await;
                cancel.cancel();
                begun
            },
            ends.feed(JobId(2), endless)
        );
        assert!(begun.is_ok());
        assert_eq!(fed.unwrap_err().kind(), Code::Cancelled);
    }

    #[tokio::test]
    async fn fates_are_given_once_and_end_with_the_job() {
        let ends = Ends::default();
        let request = BackupRequest { dry_run: true, list: true, ..BackupRequest::default() };
        let mut fates =
            ends.enter(JobId(1), &JobRequest::Backup(request), CancellationToken::new()).fates.unwrap();
        let stream = ends.fates(JobId(1)).unwrap();
        assert!(ends.fates(JobId(1)).is_err());
        fates.begin().await.unwrap();
        let many = 2 * limit::JOB_LINES_MAX;
        let job = tokio::task::spawn_blocking(move || {
            let line = |n: usize| PathFate { fate: "new".into(), path: n.to_string(), why: None };
            (0..many).all(|n| fates.tell(line(n)))
        });
        let paths: Vec<String> = stream.map(|line| line.unwrap().path).collect().await;
        assert!(job.await.unwrap());
        assert_eq!(paths, (0..many).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}
