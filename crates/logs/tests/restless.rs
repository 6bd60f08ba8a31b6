//! An object store that lists what it does not give: no call waits for it without end.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, memory::InMemory, path::Path,
};
use robata_core::{
    AttemptId, ErrorKind, JobId, Timestamp,
    executor::{Position, Stream},
    log_store::{Chunk, LogStore as _, Piece},
};
use robata_logs::{Logs, LogsConfig};

#[derive(Debug)]
struct Restless(Arc<InMemory>);

impl fmt::Display for Restless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("restless")
    }
}

#[async_trait]
impl ObjectStore for Restless {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.0.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, _: GetOptions) -> object_store::Result<GetResult> {
        Err(Error::NotFound {
            path: at.to_string(),
            source: "it went away again".into(),
        })
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn progress_of_a_log_that_does_not_come_to_rest_is_told_in_bounded_time() -> Result<()> {
    let memory = Arc::new(InMemory::new());
    let attempt = AttemptId {
        job: JobId::new(),
        number: 1,
    };
    let piece = Piece {
        at: Timestamp::from_millis(1),
        stream: Stream::Stdout,
        offset: 0,
        data: "text".into(),
    };
    let chunk = Chunk {
        attempt,
        epoch: 1,
        pieces: vec![piece],
        position: Position::default(),
    };
    Logs::new(Arc::<InMemory>::clone(&memory), LogsConfig::default())
        .append(chunk)
        .await?;
    let logs = Logs::new(Arc::new(Restless(memory)), LogsConfig::default());
    let asked = tokio::time::timeout(Duration::from_secs(60), logs.progress(attempt)).await;
    let error = asked.context("it did not answer")?.expect_err("it was read");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("does not come to rest"), "{error:?}");
    Ok(())
}
