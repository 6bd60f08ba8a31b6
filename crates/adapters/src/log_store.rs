//! Which log stores can be chosen.

use std::sync::Arc;

use robata_core::{Result, log_store::LogStore};
use robata_logs::{Logs, LogsConfig};
use robata_settings::{LogSettings, Settings};

#[cfg(feature = "s3")]
fn bucket(s3: &robata_settings::S3Settings) -> robata_logs::S3Config {
    let mut config = robata_logs::S3Config::new(&s3.bucket);
    config.prefix.clone_from(&s3.prefix);
    config.region.clone_from(&s3.region);
    config.endpoint.clone_from(&s3.endpoint);
    config.keys = s3.keys();
    config.ca.clone_from(&s3.ca);
    config
}

/// Opens the log store that was chosen.
pub async fn log_store(settings: &Settings) -> Result<Arc<dyn LogStore>> {
    match &settings.logs {
        LogSettings::Folder(folder) => Ok(Arc::new(Logs::folder(&folder.path, LogsConfig::default())?)),
        #[cfg(feature = "s3")]
        LogSettings::S3(s3) => Ok(Arc::new(Logs::s3(&bucket(s3), LogsConfig::default())?)),
        #[cfg(not(feature = "s3"))]
        LogSettings::S3(_) => Err(crate::left_out("logs.s3", "s3")),
    }
}
