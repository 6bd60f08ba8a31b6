//! From `[queue.sqs]` to the adapter's own settings.

use robata_core::{Error, ErrorKind, InstallationId, Result};
use robata_queue_sqs::SqsConfig;
use robata_settings::SqsSettings;

/// The adapter's settings for the lines of this installation.
pub(crate) fn config(sqs: &SqsSettings, installation: InstallationId) -> Result<SqsConfig> {
    let mut config = SqsConfig::new(installation.to_string());
    config.region.clone_from(&sqs.region);
    config.endpoint.clone_from(&sqs.endpoint);
    config.keys = sqs.keys();
    config.create = sqs.create;
    if let Some(path) = &sqs.ca {
        let read = std::fs::read(path).map_err(|error| {
            let words = format!("cannot read queue.sqs.ca ({})", path.display());
            Error::new(ErrorKind::Invalid, "queue.open", words).with_source(error)
        });
        config.ca_pem = Some(read?);
    }
    Ok(config)
}
