//! Redis keeps the contract of `robata_core::queue`: each case on a real server, in an installation of its own.

use std::sync::Arc;

use anyhow::{Context, Result};
use robata_core::queue::Queue;
use robata_queue_redis::{RedisConfig, RedisQueue};
use robata_testkit::queue::Broker;

fn url() -> Result<String> {
    std::env::var("ROBATA_TEST_REDIS_URL")
        .context("ROBATA_TEST_REDIS_URL is not set: the address of a Redis that these tests may use")
}

/// Loses what one installation has, as FLUSHALL would: other tests use the same server.
async fn lose(url: &str, installation: &str) -> Result<()> {
    let mut link = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{{robata:{installation}}}*"))
        .query_async(&mut link)
        .await?;
    anyhow::ensure!(!keys.is_empty(), "there is nothing to lose");
    Ok(redis::cmd("DEL").arg(keys).exec_async(&mut link).await?)
}

mod redis_streams {
    use super::*;

    robata_testkit::queue_suite!(async || {
        let url = url()?;
        let installation = format!("test-{}", uuid::Uuid::new_v4().simple());
        let queue = RedisQueue::connect(RedisConfig::new(&url, &installation))?;
        let same = queue.clone();
        Ok(Broker::new(queue, move || {
            let (url, installation, same) = (url.clone(), installation.clone(), same.clone());
            async move {
                lose(&url, &installation).await?;
                Ok(Arc::new(same) as Arc<dyn Queue>)
            }
        }))
    });
}
