//! The Queue suite: one case for every sentence of the contract in `robata_core::queue`.
//!
//! `robata_testkit::queue_suite!(make)` makes one test of each case; `make` is an async closure that answers a
//! [`Broker`], or a queue alone. Every case uses lines of its own, so that a broker may be shared by all of them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use robata_core::{
    job::Line,
    queue::{Delivery, Message, Queue, Receive},
};

mod acknowledge;
mod delivery;
mod dropped;
mod fairness;
mod publish;
mod receive;

pub use acknowledge::*;
pub use delivery::*;
pub use dropped::*;
pub use fairness::*;
pub use publish::*;
pub use receive::*;

/// How long a broker may take to bring what it has; memory needs none of it, a network does.
pub const SOON: Duration = Duration::from_secs(10);

type Lose = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Queue>>> + Send + Sync>;

/// What a case works with.
pub struct Broker {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// Makes the broker lose all that it has, and answers the queue to use from then on.
    pub lose: Lose,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker and the way to make it lose everything.
    pub fn new<F>(queue: impl Queue, lose: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<dyn Queue>>> + Send + 'static,
    {
        Self {
            queue: Arc::new(queue),
            lose: Box::new(move || Box::pin(lose())),
        }
    }
}

/// A line that no other case has. `hint` stands in its name.
pub fn line(hint: &str) -> Result<Line> {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    named(&format!("{hint}-{}", &unique[..12]), "suite")
}

pub(crate) fn named(queue: &str, executor: &str) -> Result<Line> {
    Ok(Line {
        queue: queue.parse()?,
        executor: executor.parse()?,
    })
}

pub(crate) fn message(body: impl Into<bytes::Bytes>) -> Message {
    Message {
        body: body.into(),
        attributes: BTreeMap::new(),
    }
}

/// Messages with the numbers of `range` as text.
pub(crate) fn numbered(range: std::ops::Range<usize>) -> Vec<Message> {
    range.map(|number| message(number.to_string())).collect()
}

pub(crate) fn number(delivery: &Delivery) -> Result<usize> {
    std::str::from_utf8(&delivery.message.body)?
        .parse()
        .context("a message that nobody published")
}

pub(crate) fn want(lines: &[(&Line, u32)], max: usize, wait: Duration) -> Receive {
    Receive {
        lines: lines.iter().map(|(line, weight)| ((*line).clone(), *weight)).collect(),
        max,
        wait,
    }
}

/// Receives from one line until `count` messages are there, and acknowledges none.
pub(crate) async fn collect(queue: &dyn Queue, line: &Line, count: usize) -> Result<Vec<Delivery>> {
    let deadline = tokio::time::Instant::now() + SOON;
    let mut all = Vec::new();
    while all.len() < count {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        anyhow::ensure!(
            !left.is_zero(),
            "{} of {count} messages came within {SOON:?}",
            all.len()
        );
        all.extend(queue.receive(want(&[(line, 1)], count - all.len(), left)).await?);
    }
    Ok(all)
}

/// Fails if anything comes from the line within a short wait.
pub(crate) async fn nothing_comes(queue: &dyn Queue, line: &Line) -> Result<()> {
    let more = queue.receive(want(&[(line, 1)], 1, Duration::from_millis(300))).await?;
    anyhow::ensure!(more.is_empty(), "this should not have come: {more:?}");
    Ok(())
}

/// Makes one `#[tokio::test]` of each case of the Queue suite.
///
/// `$make` is an async closure that answers `anyhow::Result<`[`Broker`](crate::queue::Broker)`>`.
#[macro_export]
macro_rules! queue_suite {
    ($make:expr) => {
        $crate::queue_suite! { @cases $make;
            publish_returns_once_the_whole_batch_is_there,
            publishing_nothing_answers_well,
            a_body_over_the_bound_is_refused_and_nothing_of_its_batch_is_published,
            a_body_of_the_largest_size_comes_through,
            bytes_and_attributes_come_out_as_they_went_in,
            lines_with_like_names_do_not_mix,
            every_message_is_delivered,
            two_receivers_never_hold_one_message,
            receive_answers_early_with_what_there_is,
            receive_returns_nothing_after_its_wait,
            receive_without_a_wait_answers_at_once,
            receive_never_gives_more_than_asked_for,
            a_waiting_receiver_is_woken_by_each_of_its_lines,
            many_receivers_that_wait_share_one_batch,
            dropping_a_receive_that_waits_loses_nothing,
            dropping_a_receive_at_any_await_loses_nothing,
            dropping_one_receiver_leaves_the_message_to_another,
            a_full_line_does_not_starve_another,
            one_message_at_a_time_is_shared_too,
            weights_share_the_room,
            a_line_that_was_empty_is_not_owed_that_time,
            an_acknowledged_message_is_not_delivered_again,
            acknowledging_twice_answers_well,
            one_batch_acknowledges_in_many_lines,
            what_is_given_back_is_deliverable_at_once,
            what_is_given_back_wakes_a_waiting_receiver,
            what_is_given_back_comes_once,
            depth_tells_what_waits_and_what_is_out,
            the_broker_key_stays_while_messages_are_kept,
            the_broker_key_changes_when_messages_are_gone,
        }
    };
    (@cases $make:expr; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::case::run(stringify!($case), async {
                    let broker = $crate::case::made::<$crate::queue::Broker>($make).await?;
                    $crate::queue::$case(broker).await
                })
                .await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_that_is_written_is_in_the_macro() {
        crate::case::all_listed(
            include_str!("mod.rs"),
            &[
                include_str!("acknowledge.rs"),
                include_str!("delivery.rs"),
                include_str!("dropped.rs"),
                include_str!("fairness.rs"),
                include_str!("publish.rs"),
                include_str!("receive.rs"),
            ],
        );
    }
}
