//! The broker key of a line (PROTOCOL O3): the first message of a stream beside it. A stream gives the same first message to
//! everybody, for ever, however many write a key at the same time.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{
    Channel,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable, LongString},
};
use robata_core::{
    job::Line,
    queue::{BrokerKey, Message},
};

use crate::{connect::Live, error::Fault, lines, publish, shared::Shared};

/// So long a stream that is said to be empty is read before a key is written into it. A second key would do no harm:
/// nobody reads it.
const EMPTY_FOR: Duration = Duration::from_millis(50);

/// So long after a change at most a broker writes down which members its queues have: half a second after the last change, looked
/// at each half second (`ra_directory` of its library for Raft), and a moment in a cache.
const WRITTEN_DOWN: Duration = Duration::from_secs(2);

/// The line's key, made where there is none.
pub(crate) async fn broker_key(shared: &Arc<Shared>, line: &Line) -> Result<BrokerKey, Fault> {
    let live = shared.inward.get().await?;
    // Asked of the broker each time: a queue that was deleted and made again is empty, and has another key.
    lines::verify(shared, &live, line).await?;
    let name = shared.names.key(line);
    let written = lines::waiting(&live, &live.channel().await?, &name).await?;
    if written.unwrap_or_default() == 0 {
        shared.streams.get_or_try_init(|| begin(shared, &live)).await?;
        // Some brokers do not take it well that several make one stream at the same time.
        let writing = write(Arc::clone(shared), Arc::clone(&live), name.clone());
        Box::pin(lines::alone(shared, &live, line, writing)).await?;
    }
    let key = first(&live, &name, shared.config.response_timeout).await?;
    key.ok_or(Fault::NoKey { name })
}

/// Writes a key where there is none.
async fn write(shared: Arc<Shared>, live: Arc<Live>, name: String) -> Result<(), Fault> {
    if lines::waiting(&live, &live.channel().await?, &name).await?.is_none() {
        lines::make(&live, &name, lines::kind("stream")).await?;
    }
    if first(&live, &name, EMPTY_FOR).await?.is_some() {
        return Ok(());
    }
    let fresh = Message {
        body: uuid::Uuid::new_v4().simple().to_string().into(),
        ..Message::default()
    };
    publish::to_queue(&shared, &name, &[fresh]).await
}

/// Has the broker begin with streams, once per process: with its very first one it starts what coordinates them all, and writes
/// down a second later that it has. Killed before that, it never serves again what streams it had; so the first one is not a
/// key's.
async fn begin(shared: &Shared, live: &Live) -> Result<(), Fault> {
    let name = shared.names.trial("begin");
    lines::make(live, &name, lines::kind("stream")).await?;
    tokio::time::sleep(WRITTEN_DOWN).await;
    lines::delete(live, &live.channel().await?, &name).await
}

/// The stream's first message, if it comes in this time.
async fn first(live: &Live, name: &str, within: Duration) -> Result<Option<BrokerKey>, Fault> {
    let channel: Channel = live.channel().await?;
    // A stream is read with a bound only.
    live.within(channel.basic_qos(1, BasicQosOptions::default())).await?;
    let mut arguments = FieldTable::default();
    let from = AMQPValue::LongString(LongString::from(b"first".to_vec()));
    arguments.insert("x-stream-offset".into(), from);
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(name.into(), "key".into(), options, arguments);
    let mut consumer = live
        .of_queue(name, consuming)
        .await
        .inspect_err(|_| Live::abandon(channel.clone()))?;
    // The channel ends with this function, and the consumer with it.
    match tokio::time::timeout(within, consumer.next()).await {
        Ok(Some(message)) => {
            let key = String::from_utf8(message?.data);
            Ok(Some(BrokerKey(
                key.map_err(|_| Fault::NoKey { name: name.to_owned() })?,
            )))
        }
        Ok(None) => Err(Fault::NoKey { name: name.to_owned() }),
        Err(_) => Ok(None),
    }
}
