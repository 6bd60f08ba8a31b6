//! Looks at what settings name without using it: for `robata doctor`; and brings tables up to date for a person who asks.

use std::{fs::File, path::Path, time::Duration};

use nix::fcntl::{Flock, FlockArg};
use robata_core::{Result, Timestamp};
use robata_settings::{PostgresSettings, RabbitMqSettings, RedisSettings, Settings, SqsSettings, StoreSettings};

/// Who holds the store, where a process holds it by a lock: `PID SINCE HOST PROGRAM`.
#[must_use]
pub fn store_holder(settings: &Settings) -> Option<String> {
    match &settings.store {
        StoreSettings::Sqlite(sqlite) => holder(&sqlite.folder.join("lock")),
        StoreSettings::Postgres(_) => None,
    }
}

/// What stands in a lock file that somebody holds; `None` where nobody does.
fn holder(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        // Given back at once.
        Ok(_free) => None,
        Err(_) => Some(std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()),
    }
}

/// What a PostgreSQL is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The server's version, as `15.6`.
    pub server: String,
    /// The number of the database's schema; 0: there is none yet.
    pub schema: i32,
    /// The number that this release needs.
    pub needed: i32,
    /// How many connections the server takes.
    pub max_connections: u32,
    /// Of these, how many are open now.
    pub connections: u32,
    /// The server's clock.
    pub now: Timestamp,
    /// The format in use, and the oldest and the newest that live daemons announce; `None` where the tables tell nothing of
    /// it yet.
    pub formats: Option<[u8; 3]>,
}

/// Looks at the database of these settings.
pub async fn database(postgres: &PostgresSettings, limit: Duration) -> Result<Database> {
    #[cfg(feature = "postgres")]
    {
        let facts = robata_store_postgres::facts(&postgres.url, limit).await?;
        Ok(Database {
            server: facts.server,
            schema: facts.schema,
            needed: facts.needed,
            max_connections: facts.max_connections,
            connections: facts.connections,
            now: facts.now,
            formats: facts.formats,
        })
    }
    #[cfg(not(feature = "postgres"))]
    {
        let _ = (postgres, limit);
        Err(crate::left_out("store.postgres", "postgres"))
    }
}

/// Brings the tables of the database of these settings up to date; answers which migrations were run.
pub async fn migrate(postgres: &PostgresSettings) -> Result<Vec<String>> {
    #[cfg(feature = "postgres")]
    {
        Ok(robata_store_postgres::migrate(&postgres.url).await?.applied)
    }
    #[cfg(not(feature = "postgres"))]
    {
        let _ = postgres;
        Err(crate::left_out("store.postgres", "postgres"))
    }
}

/// What a Redis is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its version, where it says.
    pub version: Option<String>,
    /// Its `maxmemory-policy`, where it says.
    pub eviction: Option<String>,
    /// Whether what was published survives its restart, where it says.
    pub durable: Option<bool>,
    /// Whether it is a node of a cluster.
    pub cluster: bool,
    /// Why whole jobs may not be put into it (PROTOCOL I2); `None` where they may.
    pub no_whole_jobs: Option<String>,
}

/// Looks at the server of these settings; what it may evict is told, not refused.
pub async fn broker(redis: &RedisSettings) -> Result<Broker> {
    #[cfg(feature = "redis")]
    {
        use robata_queue_redis::{Eviction, RedisQueue, WholeJobs};

        let mut config = crate::redis::config(redis, robata_core::InstallationId::new())?;
        config.eviction = Eviction::Warn;
        let facts = RedisQueue::connect(config)?.check().await?;
        Ok(Broker {
            durable: facts.appendonly,
            cluster: facts.cluster == Some(true),
            no_whole_jobs: match facts.whole_jobs() {
                WholeJobs::Allowed => None,
                WholeJobs::Refused(why) => Some(why),
                _ => Some("it has not been asked yet".to_owned()),
            },
            version: facts.version,
            eviction: facts.eviction_policy,
        })
    }
    #[cfg(not(feature = "redis"))]
    {
        let _ = redis;
        Err(crate::left_out("queue.redis", "redis"))
    }
}

/// Makes a queue of each kind that is needed in the broker of these settings, uses it, and deletes it; answers the broker's
/// version.
pub async fn rabbitmq(rabbitmq: &RabbitMqSettings) -> Result<String> {
    #[cfg(feature = "rabbitmq")]
    {
        let config = crate::rabbitmq::config(rabbitmq, robata_core::InstallationId::new())?;
        let queue = robata_queue_rabbitmq::RabbitMqQueue::connect(config)?;
        Ok(queue.check().await?.version)
    }
    #[cfg(not(feature = "rabbitmq"))]
    {
        let _ = rabbitmq;
        Err(crate::left_out("queue.rabbitmq", "rabbitmq"))
    }
}

/// What [`sqs`] found.
#[derive(Clone, Debug)]
pub struct Sqs {
    /// The region that answered.
    pub region: String,
    /// How many of Robata's queues were looked at; `None`: they may not be listed.
    pub looked_at: Option<usize>,
    /// The names of those with a redrive policy, by which jobs would vanish.
    pub redriven: Vec<String>,
}

/// Makes a queue at the service of these settings, uses it, and deletes it; where queues are not to be made, only asks.
pub async fn sqs(sqs: &SqsSettings) -> Result<Sqs> {
    #[cfg(feature = "sqs")]
    {
        let config = crate::sqs::config(sqs, robata_core::InstallationId::new())?;
        let found = robata_queue_sqs::SqsQueue::connect(config)?.check().await?;
        Ok(Sqs {
            region: found.region,
            looked_at: found.looked_at,
            redriven: found.redriven,
        })
    }
    #[cfg(not(feature = "sqs"))]
    {
        let _ = sqs;
        Err(crate::left_out("queue.sqs", "sqs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_tells_its_holder_and_a_free_one_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(holder(&path), None);
        std::fs::write(&path, "1 now here robata\n").unwrap();
        assert_eq!(holder(&path), None);
        let lock = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusive).unwrap();
        assert_eq!(holder(&path).as_deref(), Some("1 now here robata"));
        drop(lock);
        assert_eq!(holder(&path), None);
    }
}
