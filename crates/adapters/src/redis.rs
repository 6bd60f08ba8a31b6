//! From `[queue.redis]` to the adapter's own settings.

use robata_core::{Error, ErrorKind, InstallationId, Result};
use robata_queue_redis::RedisConfig;
use robata_settings::{Eviction, RedisSettings};

/// The adapter's settings for the lines of this installation.
pub(crate) fn config(redis: &RedisSettings, installation: InstallationId) -> Result<RedisConfig> {
    let mut config = RedisConfig::new(redis.url.as_str(), installation.to_string());
    if let Some(path) = &redis.ca {
        let pem = std::fs::read(path).map_err(|error| {
            let words = format!("cannot read queue.redis.ca ({})", path.display());
            Error::new(ErrorKind::Invalid, "queue.open", words).with_source(error)
        })?;
        config.ca_pem = Some(pem);
    }
    config.eviction = match redis.eviction {
        Eviction::Refuse => robata_queue_redis::Eviction::Refuse,
        Eviction::Warn => robata_queue_redis::Eviction::Warn,
    };
    Ok(config)
}
