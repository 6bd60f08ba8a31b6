//! What a SQLite store can be told.

use std::{path::PathBuf, sync::Arc};

use robata_core::ExecutorName;

use crate::clock::{Clock, SystemClock};

/// Settings of a [`SqliteStore`](crate::SqliteStore).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// The data folder: made (mode 0700) where it is missing, and locked while the store is open.
    pub folder: PathBuf,
    /// What holds the folder, for the message to whoever comes second; default: the program's name.
    pub program: String,
    /// The executor of definitions that name none; where `None`, their waiting jobs keep the one they have.
    pub default_executor: Option<ExecutorName>,
    /// Connections that read.
    pub readers: u32,
    /// The writer's page cache, in KiB.
    pub cache_kib: u32,
    /// The largest size of the database file, in pages of 4 KiB; `None`: as large as the disk. Beyond it the store
    /// answers `Unavailable`, as on a full disk.
    pub max_pages: Option<u32>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl SqliteConfig {
    /// The defaults, in this folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            ..Self::default()
        }
    }
}

impl Default for SqliteConfig {
    fn default() -> Self {
        let program = std::env::args_os()
            .next()
            .and_then(|path| {
                let name = PathBuf::from(path).file_name()?.to_owned();
                Some(name.to_string_lossy().into_owned())
            })
            .unwrap_or_else(|| "robata".to_owned());
        Self {
            folder: PathBuf::from("robata-data"),
            program,
            default_executor: None,
            readers: 4,
            cache_kib: 16 << 10,
            max_pages: None,
            clock: Arc::new(SystemClock),
        }
    }
}
