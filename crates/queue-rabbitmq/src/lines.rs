//! The queue of a line: looked for, made where it is missing, and never another one than it should be.

use std::{sync::Arc, time::Duration};

use lapin::{
    Channel,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable, LongString},
};
use robata_core::job::Line;
use tokio::time::Instant;

use crate::{
    connect::Live,
    error::{Fault, code},
    shared::{Shared, in_a_task},
};

const NO_LIMIT: &str = "x-delivery-limit";
/// How often to look whether another process has made a line.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Of a quorum queue; `unlimited` where the broker puts messages aside that were delivered often unless it is told not to.
fn arguments(unlimited: bool) -> FieldTable {
    let mut arguments = kind("quorum");
    if unlimited {
        arguments.insert(NO_LIMIT.into(), AMQPValue::LongInt(-1));
    }
    arguments
}

/// The argument that says which kind of queue it is.
pub(crate) fn kind(kind: &'static str) -> FieldTable {
    let mut arguments = FieldTable::default();
    let kind = LongString::from(kind.as_bytes().to_vec());
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind));
    arguments
}

/// How many messages wait in a queue; `None` where it is not there, which ends the channel.
pub(crate) async fn waiting(live: &Live, channel: &Channel, name: &str) -> Result<Option<u64>, Fault> {
    let options = QueueDeclareOptions::durable().passive();
    let asked = live.within(channel.queue_declare(name.into(), options, FieldTable::default()));
    match asked.await {
        Ok(queue) => Ok(Some(u64::from(queue.message_count()))),
        Err(fault) if fault.is_missing() => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Sees to it that the line's queue is there, once per connection.
pub(crate) async fn ensure(shared: &Arc<Shared>, live: &Arc<Live>, line: &Line) -> Result<(), Fault> {
    if live.knows(line) {
        return Ok(());
    }
    verify(shared, live, line).await
}

/// Sees to it that the line's queue is there now.
pub(crate) async fn verify(shared: &Arc<Shared>, live: &Arc<Live>, line: &Line) -> Result<(), Fault> {
    let name = shared.names.line(line);
    // What it is made of was seen before, by this connection.
    if live.knows(line) && waiting(live, &live.channel().await?, &name).await?.is_some() {
        return Ok(());
    }
    live.forget(line);
    let making = made(Arc::clone(shared), Arc::clone(live), line.clone());
    alone(shared, live, line, making).await?;
    live.learn(line);
    Ok(())
}

/// Makes the queue of a line that has none, one of all processes at a time: whoever came second would take the key away
/// that belongs to the queue of the first. Nor does anybody use a queue for the first time meanwhile: a broker tells of one
/// that it has only begun to make, and refuses what is published to it.
async fn made(shared: Arc<Shared>, live: Arc<Live>, line: Line) -> Result<(), Fault> {
    let name = shared.names.line(&line);
    if waiting(&live, &live.channel().await?, &name).await?.is_some() {
        return declare(&live, &name).await;
    }
    // Whatever was in it is gone, and its key with it: the key goes first, so that nobody ever sees the old key beside the
    // new queue (PROTOCOL O3).
    delete(&live, &live.channel().await?, &shared.names.key(&line)).await?;
    declare(&live, &name).await?;
    note_down(&shared, &live).await
}

/// Has the broker note down which member of it holds a queue that was just made. It writes such notes seconds later, or before
/// it takes the next one; killed without the note it starts that queue again as one that was never used, which holds nothing and
/// for ever waits for its first leader (<https://github.com/rabbitmq/rabbitmq-server/issues/15725>).
async fn note_down(shared: &Shared, live: &Live) -> Result<(), Fault> {
    let name = shared.names.trial("note");
    make(live, &name, kind("quorum")).await?;
    delete(live, &live.channel().await?, &name).await
}

/// Works on what a line has in the broker while no other process does. Once begun it goes on to its end, whoever goes away:
/// else the lock would stay for as long as our connection, and keep all others from the line. Whoever waits for a turn here
/// may go away, too, and leaves nothing: of such tasks there is one at a time.
pub(crate) async fn alone<T: Send + 'static>(
    shared: &Arc<Shared>,
    live: &Arc<Live>,
    line: &Line,
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    let alone_here = Arc::clone(&shared.making).lock_owned().await;
    let (live, lock) = (Arc::clone(live), shared.names.lock(line));
    // Boxed, for it is a part of everything that uses a line.
    let working = Box::pin(async move {
        let _alone_here = alone_here;
        let channel = hold(&live, &lock).await?;
        let done = work.await;
        let released = delete(&live, &channel, &lock).await;
        done.and_then(|done| released.map(|()| done))
    });
    in_a_task(working).await
}

/// Waits until no other connection has this queue, and has it. Should we die, it is gone with our connection.
async fn hold(live: &Live, lock: &str) -> Result<Channel, Fault> {
    let deadline = Instant::now() + live.response_timeout();
    loop {
        let channel = live.channel().await?;
        let declaring = channel.queue_declare(lock.into(), QueueDeclareOptions::exclusive(), FieldTable::default());
        match live.within(declaring).await {
            Ok(_) => return Ok(channel),
            Err(fault) if matches!(fault.reply(), Some((code::LOCKED, _))) && Instant::now() < deadline => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// Makes the queue, or is told whether the one that is there is as it should be.
async fn declare(live: &Live, name: &str) -> Result<(), Fault> {
    let unlimited = live.version.limits_deliveries();
    match make(live, name, arguments(unlimited)).await {
        // From before the broker knew of limits: it cannot be changed.
        Err(fault) if unlimited && matches!(fault.reply(), Some((_, text)) if text.contains(NO_LIMIT)) => {
            make(live, name, arguments(false)).await?;
            tracing::warn!(
                queue = name,
                "rabbitmq: this queue puts messages aside that were delivered often; a policy with delivery-limit = -1 ends that"
            );
            Ok(())
        }
        made => made,
    }
}

/// Declares a durable queue; a refusal ends the channel, which is therefore its own.
pub(crate) async fn make(live: &Live, name: &str, arguments: FieldTable) -> Result<(), Fault> {
    let channel = live.channel().await?;
    let options = QueueDeclareOptions::durable();
    live.within(channel.queue_declare(name.into(), options, arguments))
        .await?;
    Ok(())
}

/// Deletes a queue, whether it is there or not.
pub(crate) async fn delete(live: &Live, channel: &Channel, name: &str) -> Result<(), Fault> {
    let deleting = channel.queue_delete(name.into(), QueueDeleteOptions::default());
    live.within(deleting).await?;
    Ok(())
}
