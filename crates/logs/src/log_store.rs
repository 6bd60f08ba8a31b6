//! The seam's methods, and the logs that are open in this process.

use std::{
    collections::HashMap,
    path::{Path as FilePath, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{ObjectStore, local::LocalFileSystem, path::Path};
use robata_core::{
    AttemptId, Result,
    attempt::LogSummary,
    executor::Stream,
    log_store::{Chunk, Entry, LogStore, Progress, Read, Seal},
};

use crate::{
    LogsConfig,
    chunk::{POSITION_BYTES, Writer},
    error::LogsError,
    name::{self, ChunkName},
    objects::Objects,
    open::{Admission, Open},
    private,
    reader::Reader,
    seal::{self, Fault},
};

/// So many logs are remembered; those that nobody uses at the moment are forgotten beyond it, and listed again if needed.
const REMEMBERED: usize = 4096;

/// Logs in a folder or in object storage. Clones are the same.
#[derive(Clone, Debug)]
pub struct Logs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) objects: Objects,
    pub(crate) config: LogsConfig,
    folder: Option<PathBuf>,
    open: Mutex<HashMap<AttemptId, Arc<Open>>>,
    checks: AtomicU64,
}

impl Logs {
    /// Logs in a folder, which is made (mode 0700) where it is not there; what is made in it is its owner's alone.
    pub fn folder(path: impl AsRef<FilePath>, config: LogsConfig) -> Result<Self> {
        let path = path.as_ref();
        let place = format!("the log folder {}", path.display());
        let path = private::root(path).map_err(|source| {
            LogsError::Folder {
                place: place.clone(),
                source,
            }
            .at("logs.open")
        })?;
        let store = LocalFileSystem::new_with_prefix(&path)
            .map_err(|source| {
                LogsError::Store {
                    place: place.clone(),
                    verb: "opened",
                    source,
                }
                .at("logs.open")
            })?
            .with_fsync(config.fsync);
        Ok(Self::with(Arc::new(store), config, place, Some(path)))
    }

    /// Logs in an object store, from its root on; wrap it in `object_store::prefix::PrefixStore` for less than all of it.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, config: LogsConfig) -> Self {
        let place = format!("the log store {store}");
        Self::with(store, config, place, None)
    }

    pub(crate) fn with(
        store: Arc<dyn ObjectStore>,
        config: LogsConfig,
        place: String,
        folder: Option<PathBuf>,
    ) -> Self {
        let objects = Objects::new(store, place, folder.clone(), config.operation_timeout);
        Self {
            shared: Arc::new(Shared {
                objects,
                config,
                folder,
                open: Mutex::default(),
                checks: AtomicU64::new(0),
            }),
        }
    }
}

impl Shared {
    /// What this process knows of a log, from now on shared by all who ask.
    fn open(&self, attempt: AttemptId) -> Arc<Open> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= REMEMBERED && !open.contains_key(&attempt) {
            open.retain(|_, log| Arc::strong_count(log) > 1);
        }
        Arc::clone(open.entry(attempt).or_insert_with(|| Arc::new(Open::new(attempt))))
    }

    fn forget(&self, attempt: AttemptId) -> Option<Arc<Open>> {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&attempt)
    }

    async fn append(&self, chunk: Chunk) -> Result<(), LogsError> {
        let Some(wanted) = checked(&chunk)? else { return Ok(()) };
        let open = self.open(chunk.attempt);
        if open.was_never_listed() {
            open.refresh(&self.objects, Duration::ZERO).await?;
        }
        let Admission::Write(name) = open.admit(wanted, &chunk.position)? else {
            return Ok(());
        };
        let mut writer = Writer::new(name, &chunk.position);
        for piece in &chunk.pieces {
            writer.push(piece.at, &piece.data);
        }
        let (name, bytes) = writer.finish();
        let size = bytes.len() as u64;
        self.objects.put(&name.path(chunk.attempt), bytes).await?;
        open.add(name, size, chunk.position);
        Ok(())
    }

    async fn progress(&self, attempt: AttemptId) -> Result<Progress, LogsError> {
        // Asked for by who takes over: what others wrote counts, and what is remembered may be old.
        let open = self.open(attempt);
        open.refresh(&self.objects, Duration::ZERO).await?;
        let sealed = open.summary();
        for _ in 0..seal::TRIES {
            let position = match seal::furthest(&self.objects, &open).await {
                Ok(position) => position,
                Err(Fault::Chunk(chunk, fault)) => {
                    open.gave_way(&self.objects, chunk, fault).await?;
                    continue;
                }
                Err(Fault::Other(fault)) => return Err(fault),
            };
            return Ok(Progress {
                position,
                stdout: open.end(Stream::Stdout),
                stderr: open.end(Stream::Stderr),
                sealed,
            });
        }
        Err(LogsError::Restless { attempt })
    }

    async fn seal(&self, request: Seal) -> Result<LogSummary, LogsError> {
        let open = self.open(request.attempt);
        let attempt = request.attempt;
        let summary = seal::seal(&self.objects, &self.config, &open, request).await?;
        // Followers hold it and read it to its end; whoever comes later reads the seal.
        self.forget(attempt);
        Ok(summary)
    }

    async fn delete(&self, attempt: AttemptId) -> Result<(), LogsError> {
        match &self.folder {
            // With what a killed process left half written, which no listing shows.
            Some(folder) => self.remove_folder(folder, attempt).await?,
            None => self.objects.delete_attempt(attempt).await?,
        }
        if let Some(open) = self.forget(attempt) {
            open.deleted();
        }
        Ok(())
    }

    async fn remove_folder(&self, folder: &FilePath, attempt: AttemptId) -> Result<(), LogsError> {
        let path = folder.join(name::folder(attempt).as_ref());
        let place = || format!("the log folder {}", path.display());
        let removal = tokio::time::timeout(self.config.operation_timeout, tokio::fs::remove_dir_all(&path));
        match removal.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Ok(Err(source)) => return Err(LogsError::Remove { place: place(), source }),
            Err(_) => {
                return Err(LogsError::Hangs {
                    place: place(),
                    after: self.config.operation_timeout,
                });
            }
        }
        // The job's own folder goes with its last attempt; until then it is not empty, and stays.
        if let Some(job) = path.parent()
            && let Err(error) = tokio::fs::remove_dir(job).await
        {
            tracing::trace!(%attempt, %error, "the job's folder stays");
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), LogsError> {
        let number = self.checks.fetch_add(1, Ordering::Relaxed);
        let path = Path::from_iter(["check", &format!("{}-{number}", std::process::id())]);
        self.objects.put(&path, "robata was here".as_bytes().to_vec()).await?;
        self.objects.delete(vec![path]).await
    }
}

/// The name that a chunk wants, but for its sequence; `None` where it holds no byte.
fn checked(chunk: &Chunk) -> Result<Option<ChunkName>, LogsError> {
    let bad = |what| {
        Err(LogsError::BadChunk {
            attempt: chunk.attempt,
            what,
        })
    };
    let Some(first) = chunk.pieces.first() else {
        return bad("has no pieces");
    };
    if chunk.position.0.len() > POSITION_BYTES {
        return bad("has a position of more than 64 KiB");
    }
    let mut end = first.offset;
    for piece in &chunk.pieces {
        if piece.stream != first.stream {
            return bad("has pieces of both streams");
        }
        if piece.offset != end {
            return bad("has a gap between its pieces");
        }
        let Some(next) = end.checked_add(piece.data.len() as u64) else {
            return bad("ends beyond all offsets");
        };
        end = next;
    }
    let name = ChunkName {
        stream: first.stream,
        offset: first.offset,
        end,
        epoch: chunk.epoch,
        sequence: 0,
    };
    Ok((name.bytes() > 0).then_some(name))
}

#[async_trait]
impl LogStore for Logs {
    async fn append(&self, chunk: Chunk) -> Result<()> {
        self.shared.append(chunk).await.map_err(|error| error.at("logs.append"))
    }

    async fn progress(&self, attempt: AttemptId) -> Result<Progress> {
        self.shared
            .progress(attempt)
            .await
            .map_err(|error| error.at("logs.progress"))
    }

    async fn seal(&self, seal: Seal) -> Result<LogSummary> {
        self.shared.seal(seal).await.map_err(|error| error.at("logs.seal"))
    }

    async fn read(&self, read: Read) -> Result<BoxStream<'static, Result<Entry>>> {
        if read.stream.is_none() && read.offset > 0 {
            return Err(LogsError::OffsetWithoutStream.at("logs.read"));
        }
        let open = if read.follow {
            self.shared.open(read.attempt)
        } else {
            // Read once, remembered by nobody.
            Arc::new(Open::new(read.attempt))
        };
        let refreshed = open.refresh(&self.shared.objects, Duration::ZERO).await;
        refreshed.map_err(|error| error.at("logs.read"))?;
        if open.seal().is_some() {
            // Nothing more will happen to it: this reader alone holds it from now on.
            self.shared.forget(read.attempt);
        }
        let reader = Reader::new(Arc::clone(&self.shared), open, &read);
        Ok(reader.into_stream().map_err(|error| error.at("logs.read")).boxed())
    }

    async fn delete(&self, attempts: &[AttemptId]) -> Result<()> {
        futures::stream::iter(attempts.to_vec())
            .map(|attempt| self.shared.delete(attempt))
            .buffer_unordered(8)
            .try_collect::<()>()
            .await
            .map_err(|error| error.at("logs.delete"))
    }

    async fn check(&self, timeout: Duration) -> Result<()> {
        let checked = tokio::time::timeout(timeout, self.shared.check()).await;
        let hangs = |_| LogsError::Hangs {
            place: self.shared.objects.place().to_owned(),
            after: timeout,
        };
        checked.map_err(hangs).flatten().map_err(|error| error.at("logs.check"))
    }
}
