//! From `[queue.rabbitmq]` to the adapter's own settings.

use std::path::Path;

use robata_core::{Error, ErrorKind, InstallationId, Result};
use robata_queue_rabbitmq::{Identity, RabbitMqConfig};
use robata_settings::RabbitMqSettings;

/// The adapter's settings for the lines of this installation.
pub(crate) fn config(rabbitmq: &RabbitMqSettings, installation: InstallationId) -> Result<RabbitMqConfig> {
    let mut config = RabbitMqConfig::new(rabbitmq.url.as_str(), installation.to_string());
    if let Some(path) = &rabbitmq.ca {
        config.ca_pem = Some(read("ca", path)?);
    }
    if let (Some(certificate), Some(key)) = (&rabbitmq.certificate, &rabbitmq.key) {
        config.identity = Some(Identity {
            certificates_pem: read("certificate", certificate)?,
            key_pem: read("key", key)?,
        });
    }
    Ok(config)
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let words = format!("cannot read queue.rabbitmq.{key} ({})", path.display());
        Error::new(ErrorKind::Invalid, "queue.open", words).with_source(error)
    })
}
