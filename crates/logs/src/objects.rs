//! The object store as logs use it: each operation bounded in time, each fault with the place where it happened.

use std::{fmt, future::Future, io, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use robata_core::{AttemptId, Epoch};

use crate::{
    error::{LogsError, Result},
    name::{self, ChunkName},
    private,
};

/// Timed access to one object store.
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    place: String,
    /// Where the objects are files: under this folder.
    folder: Option<PathBuf>,
    timeout: Duration,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// What an attempt's folder holds.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Chunks with their objects' sizes.
    pub(crate) chunks: Vec<(ChunkName, u64)>,
    /// The epochs of its seals.
    pub(crate) seals: Vec<Epoch>,
}

/// Runs what waits for the disk where it may wait.
async fn on_disk(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> object_store::Result<()> {
    let done = tokio::task::spawn_blocking(work).await?;
    done.map_err(|source| StoreError::Generic {
        store: "folder",
        source: source.into(),
    })
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, place: String, folder: Option<PathBuf>, timeout: Duration) -> Self {
        Self {
            store,
            place,
            folder,
            timeout,
        }
    }

    /// Which folder or bucket, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    async fn bounded<T>(
        &self,
        verb: &'static str,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.timeout, operation).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source @ StoreError::NotFound { .. })) => Err(LogsError::Gone {
                place: self.place.clone(),
                source,
            }),
            Ok(Err(source)) => Err(LogsError::Store {
                place: self.place.clone(),
                verb,
                source,
            }),
            Err(_) => Err(LogsError::Hangs {
                place: self.place.clone(),
                after: self.timeout,
            }),
        }
    }

    /// Writes an object whole or not at all.
    pub(crate) async fn put(&self, path: &Path, bytes: impl Into<PutPayload>) -> Result<()> {
        let file = self.folder.as_ref().map(|folder| folder.join(path.as_ref()));
        self.bounded("written", async {
            if let Some(above) = file.as_ref().and_then(|file| file.parent()) {
                let above = above.to_owned();
                on_disk(move || private::make_way(&above)).await?;
            }
            self.store.put(path, bytes.into()).await?;
            match file {
                Some(file) => on_disk(move || private::close(&file)).await,
                None => Ok(()),
            }
        })
        .await
    }

    pub(crate) async fn get(&self, path: &Path) -> Result<Bytes> {
        self.bounded("read", async { self.store.get(path).await?.bytes().await })
            .await
    }

    pub(crate) async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes> {
        self.bounded("read", self.store.get_range(path, range)).await
    }

    /// Removes objects; those that are not there are no fault.
    pub(crate) async fn delete(&self, paths: Vec<Path>) -> Result<()> {
        let gone = self.store.delete_stream(futures::stream::iter(paths).map(Ok).boxed());
        self.bounded("written", async {
            gone.filter_map(async |deleted| match deleted {
                Ok(_) | Err(StoreError::NotFound { .. }) => None,
                Err(error) => Some(Err(error)),
            })
            .try_collect::<Vec<Path>>()
            .await
        })
        .await
        .map(drop)
    }

    async fn under(&self, prefix: &Path) -> Result<Vec<(Path, u64)>> {
        let listed = self
            .store
            .list(Some(prefix))
            .map_ok(|object| (object.location, object.size));
        match self.bounded("read", listed.try_collect()).await {
            // A folder that was never made, or went away at this moment.
            Err(LogsError::Gone { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// What an attempt's folder holds now.
    pub(crate) async fn list(&self, attempt: AttemptId) -> Result<Listing> {
        let mut listing = Listing::default();
        for (path, size) in self.under(&name::folder(attempt)).await? {
            let Some(file_name) = path.filename() else { continue };
            if let Some(chunk) = ChunkName::parse(file_name) {
                listing.chunks.push((chunk, size));
            } else if let Some(epoch) = name::parse_seal(file_name) {
                listing.seals.push(epoch);
            }
        }
        Ok(listing)
    }

    /// Removes all of an attempt.
    pub(crate) async fn delete_attempt(&self, attempt: AttemptId) -> Result<()> {
        let all = self.under(&name::folder(attempt)).await?;
        self.delete(all.into_iter().map(|(path, _)| path).collect()).await
    }
}
