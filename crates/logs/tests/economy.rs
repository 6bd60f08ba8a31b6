//! What an attempt costs in requests, since object storage is paid by the request (PROTOCOL X7).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, memory::InMemory, path::Path,
};
use robata_core::{
    AttemptId, JobId, Timestamp,
    attempt::{LogState, LogSummary},
    executor::{Position, Stream},
    log_store::{Chunk, LogStore as _, Piece, Read, Seal},
};
use robata_logs::{Logs, LogsConfig};

/// Counts what a server would be asked for. Deletions go by the thousand, as S3 takes them.
#[derive(Debug, Default)]
struct Counting {
    memory: InMemory,
    requests: AtomicUsize,
}

impl Counting {
    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The requests since the last time.
    fn taken(&self) -> usize {
        self.requests.swap(0, Ordering::Relaxed)
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.count();
        self.memory.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.count();
        self.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.count();
        self.memory.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.count();
        self.memory.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.count();
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.count();
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.count();
        self.memory.copy_opts(from, to, options).await
    }
}

fn attempt() -> AttemptId {
    AttemptId {
        job: JobId::new(),
        number: 1,
    }
}

fn chunk(attempt: AttemptId, offset: u64, data: Bytes) -> Chunk {
    Chunk {
        attempt,
        epoch: 1,
        pieces: vec![Piece {
            at: Timestamp::from_millis(0),
            stream: Stream::Stdout,
            offset,
            data,
        }],
        position: Position(offset.to_string()),
    }
}

fn complete(attempt: AttemptId) -> Seal {
    Seal {
        attempt,
        epoch: 1,
        summary: LogSummary {
            state: LogState::Complete,
            ..LogSummary::default()
        },
        reach: None,
    }
}

async fn read(logs: &Logs, attempt: AttemptId) -> Result<usize> {
    let all = Read {
        attempt,
        stream: None,
        offset: 0,
        follow: false,
    };
    Ok(logs.read(all).await?.try_collect::<Vec<_>>().await?.len())
}

#[tokio::test]
async fn requests_of_an_attempt_are_few_and_known() -> Result<()> {
    let store = Arc::new(Counting::default());
    let logs = Logs::new(Arc::clone(&store) as Arc<dyn ObjectStore>, LogsConfig::default());

    let silent = attempt();
    logs.seal(complete(silent)).await?;
    assert_eq!(store.taken(), SILENT, "an attempt without output");

    let short = attempt();
    logs.append(chunk(short, 0, "hello\n".into())).await?;
    logs.seal(complete(short)).await?;
    assert_eq!(store.taken(), SHORT, "an attempt with one chunk");

    let elsewhere = Logs::new(Arc::clone(&store) as Arc<dyn ObjectStore>, LogsConfig::default());
    assert_eq!(read(&elsewhere, short).await?, 2);
    assert_eq!(store.taken(), READ, "a reader of it in another process");

    let long = attempt();
    let data = Bytes::from(vec![b'x'; 256 << 10]);
    for number in 0..64 {
        logs.append(chunk(long, number * data.len() as u64, data.clone()))
            .await?;
    }
    assert_eq!(store.taken(), 64 + LISTING, "one request a chunk");
    logs.seal(complete(long)).await?;
    assert_eq!(store.taken(), SEAL_OF_64, "16 MiB in 64 chunks become 4 objects");

    logs.delete(&[long]).await?;
    assert_eq!(store.taken(), DELETE, "a deletion");
    let left: Vec<_> = store.memory.list(None).collect().await;
    assert_eq!(left.len(), 3, "what is left is the others': {left:?}");
    Ok(())
}

/// A writer lists once: another worker may have written before it.
const LISTING: usize = 1;
const SILENT: usize = LISTING + 1;
/// The seal lists once more: an earlier holder may have written late.
const SHORT: usize = LISTING + 1 + LISTING + 1;
/// The listing, the seal, the chunk.
const READ: usize = LISTING + 1 + 1;
/// 64 chunks are read, 4 objects and the seal are written, the chunks are removed at once.
const SEAL_OF_64: usize = LISTING + 64 + 4 + 1 + 1;
const DELETE: usize = LISTING + 1;
