//! Which log stores can be chosen.

use std::sync::Arc;

use robata_core::{Result, log_store::LogStore};
use robata_logs::{Logs, LogsConfig};
use robata_settings::{LogSettings, Settings};

/// Opens the log store that was chosen.
pub async fn log_store(settings: &Settings) -> Result<Arc<dyn LogStore>> {
    match &settings.logs {
        LogSettings::Folder(folder) => Ok(Arc::new(Logs::folder(&folder.path, LogsConfig::default())?)),
    }
}
