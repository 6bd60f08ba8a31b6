//! How many messages a second go through, beside the same commands sent by hand in pipelines.
//!
//! `cargo run --release -p robata-queue-redis --example redis_measure -- redis://127.0.0.1:6379 [MESSAGES]`

use std::{
    io::Write,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use robata_core::{
    job::Line,
    queue::{Message, Queue, Receive},
};
use robata_queue_redis::{RedisConfig, RedisQueue};

const BATCH: usize = 100;
const BODY: [u8; 200] = [b'x'; 200];

fn told(what: &str, count: usize, begun: Instant) -> std::io::Result<()> {
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
    let rate = count as f64 / seconds;
    writeln!(std::io::stdout(), "{what:<44} {rate:>10.0} a second")
}

async fn by_queue(queue: &RedisQueue, line: &Line, count: usize) -> anyhow::Result<()> {
    let message = || Message {
        body: BODY.to_vec().into(),
        ..Message::default()
    };
    let begun = Instant::now();
    for _ in 0..count / BATCH {
        queue
            .publish(line, std::iter::repeat_with(message).take(BATCH).collect())
            .await?;
    }
    told("queue: publish, batches of 100", count, begun)?;
    let request = Receive {
        lines: vec![(line.clone(), 1)],
        max: BATCH,
        wait: Duration::from_secs(5),
    };
    let (mut received, begun) = (Vec::with_capacity(count), Instant::now());
    while received.len() < count {
        received.extend(queue.receive(request.clone()).await?);
    }
    told("queue: receive, at most 100", count, begun)?;
    let begun = Instant::now();
    for deliveries in received.chunks(BATCH) {
        queue.acknowledge(deliveries).await?;
    }
    told("queue: acknowledge, batches of 100", count, begun)?;
    // One at a time: what a single job waits for.
    let (singles, begun) = ((count / 20).max(1), Instant::now());
    for _ in 0..singles {
        queue.publish(line, vec![message()]).await?;
        let got = queue.receive(request.clone()).await?;
        queue.acknowledge(&got).await?;
    }
    told("queue: publish, receive, acknowledge one", singles, begun)?;
    Ok(())
}

async fn by_hand(link: &mut MultiplexedConnection, key: &str, count: usize) -> anyhow::Result<()> {
    redis::cmd("XGROUP")
        .arg("CREATE")
        .arg(key)
        .arg("g")
        .arg("0")
        .arg("MKSTREAM")
        .exec_async(link)
        .await?;
    let begun = Instant::now();
    for _ in 0..count / BATCH {
        let mut pipeline = redis::pipe();
        for _ in 0..BATCH {
            pipeline.cmd("XADD").arg(key).arg("*").arg("b").arg(&BODY[..]);
        }
        pipeline.query_async::<Vec<String>>(link).await?;
    }
    told("by hand: XADD, pipelines of 100", count, begun)?;
    type Entries = Vec<(String, Vec<(String, Vec<Vec<u8>>)>)>;
    let (mut ids, begun) = (Vec::with_capacity(count), Instant::now());
    while ids.len() < count {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg("g")
            .arg("c")
            .arg("COUNT")
            .arg(BATCH)
            .arg("STREAMS")
            .arg(key)
            .arg(">");
        let entries: Entries = read.query_async(link).await?;
        ids.extend(entries.into_iter().flat_map(|(_, entries)| entries).map(|(id, _)| id));
    }
    told("by hand: XREADGROUP COUNT 100", count, begun)?;
    let begun = Instant::now();
    for ids in ids.chunks(BATCH) {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("XACK")
            .arg(key)
            .arg("g")
            .arg(ids)
            .cmd("XDEL")
            .arg(key)
            .arg(ids);
        pipeline.query_async::<(u64, u64)>(link).await?;
    }
    told("by hand: XACK and XDEL, pipelines of 100", count, begun)?;
    redis::cmd("DEL").arg(key).exec_async(link).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let count = arguments.next().map_or(Ok(50_000), |count| count.parse())?;
    let run = uuid::Uuid::new_v4().simple().to_string();
    let queue = RedisQueue::connect(RedisConfig::new(url.clone(), format!("measure-{run}")))?;
    writeln!(std::io::stdout(), "{:?}", queue.check().await?)?;
    let line = Line {
        queue: "measure".parse()?,
        executor: "none".parse()?,
    };
    let mut link = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    by_hand(&mut link, &format!("robata-measure-{run}"), count).await?;
    by_queue(&queue, &line, count).await
}
