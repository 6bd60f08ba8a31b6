//! Connections to Redis, for the commands by hand and for deleting what the bench made.

use std::time::Duration;

use anyhow::Context as _;
use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};

/// An answer that takes longer does not come; longer than any command here waits.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn connect(url: &str) -> anyhow::Result<MultiplexedConnection> {
    let client = Client::open(url).context("--queue-url is no address of a Redis server")?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .context("Redis is not reached (--queue-url)")
}

/// Deletes all keys that begin so; `prefix` has none of the signs that a pattern gives a meaning to.
pub(super) async fn delete(url: &str, prefix: &str) -> anyhow::Result<()> {
    let mut link = connect(url).await?;
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{prefix}*"))
            .arg("COUNT")
            .arg(1_000)
            .query_async(&mut link)
            .await?;
        if !keys.is_empty() {
            redis::cmd("UNLINK").arg(keys).exec_async(&mut link).await?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}
