//! Whether PostgreSQL, Redis, RabbitMQ, SQS and the bucket of logs answer, and suit.

use std::time::Duration;

use robata_adapters::probe::{self, Broker, Database};
use robata_settings::{
    Eviction, LogSettings, Migrate, PostgresSettings, QueueSettings, RabbitMqSettings, RedisSettings, Settings,
    SqsSettings, StoreSettings,
};

use super::Check;
use crate::clock;

/// A service that answers at all does so within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Of SQS much is asked in turn, and credentials are looked for at several places before.
const SQS_WITHIN: Duration = Duration::from_secs(20);
/// Clocks further apart than this are told: people compare the store's times with those of this machine.
const APART: Duration = Duration::from_secs(2);
const STORE: &str = "store";
const QUEUE: &str = "queue";
const LOGS: &str = "logs";
const REDRIVE: &str = "queue, redrive policies";

pub(super) async fn check(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    if let StoreSettings::Postgres(postgres) = &settings.store {
        checks.extend(database(postgres).await);
    }
    if let QueueSettings::Redis(redis) = &settings.queue {
        checks.extend(broker(redis).await);
    }
    if let QueueSettings::Rabbitmq(rabbitmq) = &settings.queue {
        checks.extend(self::rabbitmq(rabbitmq).await);
    }
    if let QueueSettings::Sqs(sqs) = &settings.queue {
        checks.extend(self::sqs(sqs).await);
    }
    if let LogSettings::S3(s3) = &settings.logs {
        checks.push(bucket(settings, &s3.bucket).await);
    }
    checks
}

/// Really writes, reads and removes an object.
async fn bucket(settings: &Settings, bucket: &str) -> Check {
    let tried = async { robata_adapters::log_store(settings).await?.check(ANSWERS_WITHIN).await };
    match tried.await {
        Ok(()) => Check::ok(LOGS, format!("the bucket {bucket} can be written and read")),
        Err(error) => Check::fail(
            LOGS,
            error.full(),
            "see logs.s3 (`robata config`); objects must be listed, read, written and deleted there",
        ),
    }
}

async fn database(postgres: &PostgresSettings) -> Vec<Check> {
    let asked = clock::now();
    match probe::database(postgres, ANSWERS_WITHIN).await {
        Ok(found) => {
            let answered = clock::now();
            let mut checks = vec![
                Check::ok(STORE, format!("PostgreSQL {} answers", found.server)),
                schema(postgres, &found),
                connections(postgres, &found),
            ];
            checks.extend(found.formats.map(formats));
            let (early, late) = (asked.minus(APART), answered.plus(APART));
            checks.push(if (early..=late).contains(&found.now) {
                Check::ok("store, clock", "it goes with this machine's")
            } else {
                Check::warn(
                    "store, clock",
                    format!("the server's clock says {}, this machine's {answered}", found.now),
                    "set both by NTP: jobs go by the server's, logs show this machine's",
                )
            });
            checks
        }
        Err(error) => vec![Check::fail(
            STORE,
            format!("PostgreSQL: {}", error.full()),
            "see store.postgres.url (`robata config`), the server's pg_hba.conf, and that the database is there",
        )],
    }
}

fn schema(postgres: &PostgresSettings, found: &Database) -> Check {
    let name = "store, tables";
    let (schema, needed) = (found.schema, found.needed);
    if schema >= needed {
        return Check::ok(name, format!("they are up to date (number {schema})"));
    }
    let message = format!("they have number {schema}, and this release needs {needed}");
    match postgres.migrate {
        Migrate::Automatic => Check::warn(
            name,
            message,
            "the next daemon that starts brings them up to date; by hand: robata store migrate",
        ),
        Migrate::Check => Check::fail(name, message, "run robata store migrate: no daemon starts before"),
    }
}

/// Whether all daemons are of one release, as far as formats tell.
fn formats([in_use, oldest, newest]: [u8; 3]) -> Check {
    let name = "store, formats";
    if oldest == newest && in_use == newest {
        return Check::ok(name, format!("every daemon reads the format {in_use}, which is in use"));
    }
    if oldest == newest {
        return Check::ok(
            name,
            format!("every daemon reads the format {newest}; {in_use} is in use for some seconds more"),
        );
    }
    Check::warn(
        name,
        format!("mixed: an upgrade is under way; the format in use is {in_use}, the newest {newest}"),
        "finish the upgrade, or go back: the README says how (robata workers list tells who is of which release)",
    )
}

/// What one master and one worker take, beside what is open now; how many there are nobody here knows.
fn connections(postgres: &PostgresSettings, found: &Database) -> Check {
    let name = "store, connections";
    let listening = u32::from(postgres.listen_url.as_deref() != Some("off"));
    // A pool; one for heartbeats; one that listens.
    let master = postgres.master_connections + 1 + listening;
    let worker = postgres.worker_connections + 1 + listening;
    let (open, max) = (found.connections, found.max_connections);
    let message = format!(
        "{open} of {max} are open; a master takes up to {master}, a worker up to {worker} (masters × {master} + workers × {worker} must fit)"
    );
    if open + master + worker <= max {
        Check::ok(name, message)
    } else {
        Check::warn(
            name,
            message,
            "raise max_connections, lower store.postgres.master_connections and worker_connections, or put PgBouncer between",
        )
    }
}

async fn broker(redis: &RedisSettings) -> Vec<Check> {
    let asked = tokio::time::timeout(ANSWERS_WITHIN, probe::broker(redis)).await;
    let why = match asked {
        Ok(Ok(found)) => return suits(redis, &found),
        Ok(Err(error)) => error.full(),
        Err(_elapsed) => format!("no answer within {} s", ANSWERS_WITHIN.as_secs()),
    };
    vec![Check::fail(
        QUEUE,
        format!("Redis: {why}"),
        "see queue.redis.url (`robata config`); Redis 6.2 or later, or Valkey",
    )]
}

async fn rabbitmq(rabbitmq: &RabbitMqSettings) -> Vec<Check> {
    let asked = tokio::time::timeout(ANSWERS_WITHIN, probe::rabbitmq(rabbitmq)).await;
    let why = match asked {
        Ok(Ok(version)) => {
            return vec![
                Check::ok(
                    QUEUE,
                    format!("RabbitMQ {version} answers, and takes quorum queues and streams"),
                ),
                Check::ok("queue, durability", "what was published survives its restart"),
                Check::ok(
                    "queue, whole jobs",
                    "it is durable enough to take whole jobs while the store is down",
                ),
            ];
        }
        Ok(Err(error)) => error.full(),
        Err(_elapsed) => format!("no answer within {} s", ANSWERS_WITHIN.as_secs()),
    };
    vec![Check::fail(
        QUEUE,
        format!("RabbitMQ: {why}"),
        "see queue.rabbitmq.url (`robata config`); RabbitMQ 3.10 or later; what the user must be permitted stands in crates/queue-rabbitmq/README.md",
    )]
}

async fn sqs(sqs: &SqsSettings) -> Vec<Check> {
    let asked = tokio::time::timeout(SQS_WITHIN, probe::sqs(sqs)).await;
    let found = match asked {
        Ok(Ok(found)) => found,
        failed => {
            let why = match failed {
                Ok(answer) => answer.err().map(|error| error.full()).unwrap_or_default(),
                Err(_elapsed) => format!("no answer within {} s", SQS_WITHIN.as_secs()),
            };
            return vec![Check::fail(
                QUEUE,
                format!("SQS: {why}"),
                "see queue.sqs (`robata config`); what the access key must be allowed stands in crates/queue-sqs/README.md",
            )];
        }
    };
    let tried = if sqs.create {
        "a queue was made, used and deleted"
    } else {
        "queues are only looked up (queue.sqs.create = false): nothing was tried on one"
    };
    let mut checks = vec![
        Check::ok(QUEUE, format!("SQS in {} answers; {tried}", found.region)),
        Check::ok(
            "queue, durability",
            "SQS keeps messages 14 days at most; references that are gone by then are published again",
        ),
        Check::ok(
            "queue, whole jobs",
            "it takes whole jobs while the store is down, which must be back within 14 days",
        ),
    ];
    checks.push(match (found.looked_at, found.redriven.as_slice()) {
        (None, _) => Check::warn(
            REDRIVE,
            "queues may not be listed: whether one has a redrive policy is seen only when it is used",
            "allow sqs:ListQueues",
        ),
        (Some(count), []) => Check::ok(
            REDRIVE,
            format!("none of {count} queues named robata-… puts messages aside"),
        ),
        (Some(_), queues) => Check::fail(
            REDRIVE,
            format!(
                "{} would put jobs aside, and no daemon uses such a queue",
                queues.join(", ")
            ),
            "take the redrive policy away: Robata itself decides what is tried again",
        ),
    });
    checks
}

fn suits(redis: &RedisSettings, found: &Broker) -> Vec<Check> {
    let version = found.version.as_deref().unwrap_or("of a version that it does not tell");
    let node = if found.cluster { ", a node of a cluster," } else { "" };
    let mut checks = vec![Check::ok(QUEUE, format!("Redis {version}{node} answers"))];
    let name = "queue, eviction";
    let todo = "set maxmemory-policy to noeviction (of a managed service: among its parameters)";
    checks.push(match found.eviction.as_deref() {
        Some("noeviction") => Check::ok(name, "it evicts nothing"),
        Some(policy) if redis.eviction == Eviction::Refuse => {
            let message =
                format!("its maxmemory-policy is {policy}: daemons do not use it (queue.redis.eviction = \"refuse\")");
            Check::fail(name, message, todo)
        }
        Some(policy) => Check::warn(
            name,
            format!("its maxmemory-policy is {policy}: what it evicts goes out again from the store, late"),
            todo,
        ),
        None => Check::warn(
            name,
            "it does not tell its maxmemory-policy: neither CONFIG nor INFO is allowed",
            "see for yourself that it is noeviction; or allow the user `+info`",
        ),
    });
    let name = "queue, durability";
    checks.push(match found.durable {
        Some(true) => Check::ok(name, "what was published survives its restart"),
        Some(false) => Check::warn(
            name,
            "appendonly is off: at its restart all references go out again from the store",
            "nothing is lost by it; to be faster after a restart: appendonly yes",
        ),
        None => Check::warn(
            name,
            "it does not tell whether what was published survives its restart: neither CONFIG nor INFO is allowed",
            "if it does not, all references go out again from the store, and nothing is lost",
        ),
    });
    let name = "queue, whole jobs";
    checks.push(match &found.no_whole_jobs {
        None => Check::ok(name, "it is durable enough to take whole jobs while the store is down"),
        Some(why) => Check::warn(
            name,
            format!("it takes no whole jobs while the store is down, enqueues are then refused (503): {why}"),
            "appendonly yes, appendfsync always, maxmemory-policy noeviction",
        ),
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn found() -> Database {
        Database {
            server: "15.6".into(),
            schema: 1,
            needed: 1,
            max_connections: 100,
            connections: 10,
            now: clock::now(),
            formats: None,
        }
    }

    #[test]
    fn old_tables_are_a_fault_where_nobody_migrates_by_itself() {
        let mut settings = PostgresSettings::default();
        assert_eq!(schema(&settings, &found()).verdict, Verdict::Ok);
        let old = Database { schema: 0, ..found() };
        assert_eq!(schema(&settings, &old).verdict, Verdict::Warn);
        settings.migrate = Migrate::Check;
        assert_eq!(schema(&settings, &old).verdict, Verdict::Fail);
    }

    #[test]
    fn pools_that_do_not_fit_the_server_are_told() {
        let settings = PostgresSettings::default();
        assert_eq!(connections(&settings, &found()).verdict, Verdict::Ok);
        let full = Database {
            connections: 90,
            ..found()
        };
        let check = connections(&settings, &full);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(
            check.message.contains("masters × 10 + workers × 5"),
            "{}",
            check.message
        );
    }

    #[test]
    fn a_redis_that_evicts_is_a_fault_or_a_warning_as_set() {
        let mut settings = RedisSettings::default();
        let found = Broker {
            version: Some("7.0.15".into()),
            eviction: Some("allkeys-lru".into()),
            durable: Some(true),
            cluster: false,
            no_whole_jobs: Some("maxmemory-policy is not noeviction".into()),
        };
        let verdict = |settings: &RedisSettings| {
            let checks = suits(settings, &found);
            checks
                .iter()
                .find(|check| check.name == "queue, eviction")
                .unwrap()
                .verdict
        };
        assert_eq!(verdict(&settings), Verdict::Fail);
        settings.eviction = Eviction::Warn;
        assert_eq!(verdict(&settings), Verdict::Warn);
    }

    #[test]
    fn what_a_redis_does_not_tell_is_not_said_to_be_off() {
        let found = Broker {
            version: None,
            eviction: None,
            durable: None,
            cluster: true,
            no_whole_jobs: Some("the server does not tell whether appendonly is yes".into()),
        };
        let checks = suits(&RedisSettings::default(), &found);
        let said = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
        assert!(said(QUEUE).message.contains("a node of a cluster"));
        for name in ["queue, eviction", "queue, durability"] {
            assert_eq!(said(name).verdict, Verdict::Warn);
            assert!(said(name).message.contains("does not tell"), "{}", said(name).message);
        }
    }

    #[test]
    fn daemons_of_two_releases_are_told_as_an_upgrade_under_way() {
        assert_eq!(formats([2, 2, 2]).verdict, Verdict::Ok);
        assert_eq!(formats([1, 2, 2]).verdict, Verdict::Ok);
        let mixed = formats([1, 1, 2]);
        assert_eq!(mixed.verdict, Verdict::Warn);
        assert_eq!(
            mixed.message,
            "mixed: an upgrade is under way; the format in use is 1, the newest 2"
        );
    }
}
