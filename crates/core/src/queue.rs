//! The seam to brokers: opaque bytes with attributes through named lines, at least once, in no promised order.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{error::Result, job::Line};

pub mod hand;
pub mod left_out;
pub mod share;

/// What a queue can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether what was published survives the broker's restart.
    pub durable: bool,
    /// The largest body, in bytes.
    pub max_body_bytes: usize,
    /// Whether whole jobs, not only references, may be put into it (PROTOCOL I2): what it has confirmed is on disk, and it
    /// evicts nothing. May change in time: a broker is judged by what it last said of itself, and not before it said so.
    pub whole_jobs: bool,
}

/// A message to be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The body.
    pub body: Bytes,
    /// Attributes beside it.
    pub attributes: BTreeMap<String, String>,
}

/// What identifies a delivery to its queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// A message that was received and not yet acknowledged.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The line it came from.
    pub line: Line,
    /// The message.
    pub message: Message,
    /// For `acknowledge`.
    pub receipt: Receipt,
}

/// What to receive.
#[derive(Clone, Debug)]
pub struct Receive {
    /// The lines, with weights from 1: a line of weight 2 is offered twice the room of one of weight 1.
    pub lines: Vec<(Line, u32)>,
    /// At most so many messages.
    pub max: usize,
    /// At most so long; answers as soon as there is one message.
    pub wait: Duration,
}

/// A random value kept in the broker beside a line: where it has changed, what was published is gone (PROTOCOL O3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BrokerKey(pub String);

/// How much is in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that nobody has received.
    pub waiting: u64,
    /// Messages received and not acknowledged.
    pub unacknowledged: u64,
    /// Receivers that wait on this line now; `None` where the broker does not say.
    pub receivers: Option<u64>,
}

/// A broker's lines.
///
/// # Contract
/// An implementation MUST keep each of these; `robata_testkit::queue` has a case for every sentence.
///
/// - `publish` MUST return only once the broker has made the whole batch as durable as it can.
/// - A published message MUST be delivered at least once, to one receiver at a time.
/// - `receive` MUST return early with what there is, MUST return nothing after `wait`, and MUST NOT give more than `max`.
/// - Dropping a `receive` at any await MUST lose nothing: what it had taken is delivered again.
/// - `receive` MUST offer every line its share: a full line MUST NOT starve another.
/// - An acknowledged message MUST NOT be delivered again while the broker stands; acknowledging twice MUST answer well.
/// - `give_back` MUST make its messages deliverable again at once, by publishing them again before acknowledging.
/// - `broker_key` MUST stay the same while published messages are kept and MUST change when they may be gone.
/// - Bodies and attributes MUST come out as they went in, bytes that are no text included.
/// - Two lines with like names MUST NOT mix.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Publishes a batch to one line.
    async fn publish(&self, line: &Line, messages: Vec<Message>) -> Result<()>;

    /// Receives from lines.
    async fn receive(&self, request: Receive) -> Result<Vec<Delivery>>;

    /// Acknowledges a batch.
    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()>;

    /// Publishes a batch again and acknowledges it.
    async fn give_back(&self, deliveries: Vec<Delivery>) -> Result<()>;

    /// How much is in a line. One that nobody has used yet is empty; `NotFound` where it is not there and `publish` would not
    /// make it either.
    async fn depth(&self, line: &Line) -> Result<Depth>;

    /// The line's broker key; made where there is none yet.
    async fn broker_key(&self, line: &Line) -> Result<BrokerKey>;
}
