//! The raw limit of an attempt: what is kept of it, by hand, in the same tables and a stream of the same Redis, with as few
//! statements as there can be.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use redis::aio::MultiplexedConnection;
use sqlx::{Executor as _, PgPool};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{link, rows, space};
use crate::bench::{load, server::Server};

/// Attempts in each step: what a worker claims at once.
const BATCH: usize = 100;
/// Lanes beside each other.
const LANES: usize = 4;
const GROUP: &str = "by-hand";
/// A receive waits at most so long, in milliseconds.
const WAIT: usize = 5_000;

const PUBLISHED: &str =
    "UPDATE robata.queued SET published_at = 0, broker_key = 'raw', publications = 1 WHERE id = ANY($1)";
const CLAIM: &str = "
    WITH v AS MATERIALIZED (SELECT nextval('robata.attempt_seq') AS seq, id FROM unnest($1::uuid[]) AS v (id)),
         z AS (DELETE FROM robata.queued WHERE id = ANY($1)),
         r AS (INSERT INTO robata.start_requests (attempt, request) SELECT seq, $2 FROM v),
         a AS (INSERT INTO robata.attempts (seq, job_id, number, app, holder, epoch, claim, worker, state, executor,
                   created_at, moved_at)
               SELECT seq, id, 1, 'raw', $3, 1, $3, 'raw', 0, 'raw', 0, 0 FROM v)
    UPDATE robata.jobs SET state = 2, attempt = 1, moved_at = 1, first_claimed_at = 1 WHERE id = ANY($1)";
const PREPARED: &str =
    "UPDATE robata.attempts SET realm = 'raw', handle = job_id::text WHERE job_id = ANY($1) AND number = 1";
const ENDED: &str = "
    WITH a AS (UPDATE robata.attempts SET state = 3, exit_code = 0, counted = true, moved_at = 2, started_at = 2,
                   finished_at = 2 WHERE job_id = ANY($1) AND number = 1)
    UPDATE robata.jobs SET state = 3, counted = 1, moved_at = 2, started_at = 2, finished_at = 2 WHERE id = ANY($1)";
const FINALISED: &str = "
    WITH a AS (UPDATE robata.attempts SET finalised_at = 3, log_state = 1 WHERE job_id = ANY($1) AND number = 1
               RETURNING seq)
    DELETE FROM robata.start_requests USING a WHERE attempt = a.seq";

/// As large as a frozen request of the bench's own definition.
const REQUEST_BYTES: usize = 700;

/// One way by hand: a connection to PostgreSQL's pool, two to Redis, and a stream.
pub(super) struct Lane {
    pool: PgPool,
    sending: MultiplexedConnection,
    receiving: MultiplexedConnection,
    stream: String,
    holder: Uuid,
    request: String,
}

impl Lane {
    pub(super) async fn open(pool: &PgPool, queue_url: &str, number: usize) -> anyhow::Result<Self> {
        let options = pool.connect_options();
        let database = options.get_database().context("the bench's database has a name")?;
        let stream = format!("{}{number}", space::keys_by_hand(database));
        let mut sending = link::connect(queue_url).await?;
        redis::cmd("XGROUP")
            .arg(&["CREATE", &stream, GROUP, "0", "MKSTREAM"])
            .exec_async(&mut sending)
            .await?;
        Ok(Self {
            pool: pool.clone(),
            sending,
            receiving: link::connect(queue_url).await?,
            stream,
            holder: Uuid::new_v4(),
            request: "x".repeat(REQUEST_BYTES),
        })
    }

    /// Publishes references and notes it.
    pub(super) async fn publish(&mut self, ids: &[Uuid]) -> anyhow::Result<()> {
        let mut pipeline = redis::pipe();
        for id in ids {
            pipeline
                .cmd("XADD")
                .arg(&self.stream)
                .arg("*")
                .arg("b")
                .arg(&id.as_bytes()[..]);
        }
        pipeline.query_async::<Vec<String>>(&mut self.sending).await?;
        // As the store does: lost in a crash, it would be found.
        let mut transaction = self.pool.begin().await?;
        transaction.execute("SET LOCAL synchronous_commit = off").await?;
        sqlx::query(PUBLISHED).bind(ids).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Receives at least one reference, claims, acknowledges; answers what was claimed.
    pub(super) async fn claim(&mut self) -> anyhow::Result<Vec<Uuid>> {
        type Entries = Vec<(String, Vec<(String, Vec<Vec<u8>>)>)>;
        let entries: Entries = redis::cmd("XREADGROUP")
            .arg(&["GROUP", GROUP, "worker", "COUNT"])
            .arg(BATCH)
            .arg("BLOCK")
            .arg(WAIT)
            .arg(&["STREAMS", &self.stream, ">"])
            .query_async(&mut self.receiving)
            .await?;
        let (mut places, mut ids) = (Vec::new(), Vec::new());
        for (place, fields) in entries.into_iter().flat_map(|(_, entries)| entries) {
            let body = fields.get(1).context("an entry without its field")?;
            ids.push(Uuid::from_slice(body)?);
            places.push(place);
        }
        ensure!(!ids.is_empty(), "nothing was received");
        let claim = sqlx::query(CLAIM).bind(&ids).bind(&self.request).bind(self.holder);
        claim.execute(&self.pool).await?;
        redis::pipe()
            .cmd("XACK")
            .arg(&self.stream)
            .arg(GROUP)
            .arg(&places)
            .cmd("XDEL")
            .arg(&self.stream)
            .arg(&places)
            .exec_async(&mut self.receiving)
            .await?;
        Ok(ids)
    }

    /// The rest of the way of what was claimed.
    async fn finish(&self, ids: &[Uuid]) -> anyhow::Result<()> {
        for step in [PREPARED, ENDED, FINALISED] {
            sqlx::query(step).bind(ids).execute(&self.pool).await?;
        }
        Ok(())
    }
}

/// Attempts a second by hand, over `jobs` attempts; and how they were made, in words.
pub(super) async fn attempts_per_second(
    server: &Server,
    queue_url: &str,
    jobs: usize,
) -> anyhow::Result<(f64, String)> {
    let pool = super::crew::pool(server, u32::try_from(LANES)?).await?;
    let each = jobs.div_ceil(LANES * BATCH);
    let mut lanes = Vec::new();
    for number in 0..LANES {
        let mut batches = Vec::new();
        for _ in 0..each {
            batches.push(rows::insert(&pool, BATCH).await?);
        }
        lanes.push((Lane::open(&pool, queue_url, number).await?, batches));
    }
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for (mut lane, batches) in lanes {
        tasks.spawn(async move {
            let mut done = 0;
            for batch in batches {
                lane.publish(&batch).await?;
                let claimed = lane.claim().await?;
                lane.finish(&claimed).await?;
                done += claimed.len() as u64;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        done += ended??;
    }
    let rate = load::per_second(done, begin.elapsed());
    pool.close().await;
    Ok((
        rate,
        format!("the same writes by hand, {BATCH} at once over {LANES} connections"),
    ))
}

/// From the insert of one job to the claim's commit by whoever waits for it.
pub(super) async fn dispatch(
    server: &Server,
    queue_url: &str,
    count: u32,
    pause: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let pool = super::crew::pool(server, 2).await?;
    let (mut sender, mut receiver) = (
        Lane::open(&pool, queue_url, 0).await?,
        Lane::open(&pool, queue_url, 1).await?,
    );
    receiver.stream.clone_from(&sender.stream);
    let mut times = Vec::new();
    for _ in 0..count {
        tokio::time::sleep(pause).await;
        let begin = Instant::now();
        let send = async {
            let ids = rows::insert(&sender.pool.clone(), 1).await?;
            sender.publish(&ids).await
        };
        let (sent, claimed) = tokio::join!(send, async { (receiver.claim().await, begin.elapsed()) });
        sent?;
        claimed.0?;
        times.push(claimed.1);
    }
    pool.close().await;
    Ok(times)
}
