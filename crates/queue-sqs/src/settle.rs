//! What becomes of received messages: deleted, sent again, or left to others.

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry};
use futures::{StreamExt, stream};
use robata_core::{job::Line, queue::Delivery};

use crate::{
    batch::{self, AT_ONCE, Answer, MOST, Outcome, told},
    error::Fault,
    held::Handle,
    message::Wire,
    publish,
    shared::Shared,
};

/// The receipt of a message by its number.
pub(crate) fn receipt(shared: &Shared, number: u64) -> String {
    format!("{}.{number}", shared.run)
}

/// A message's number by its receipt.
pub(crate) fn number(shared: &Shared, receipt: &str) -> Result<u64, Fault> {
    let ours = receipt.split_once('.').filter(|(run, _)| *run == shared.run);
    let number = ours.and_then(|(_, number)| number.parse().ok());
    number.ok_or_else(|| Fault::NoReceipt {
        receipt: receipt.to_owned(),
    })
}

fn numbers(shared: &Shared, deliveries: &[Delivery]) -> Result<Vec<u64>, Fault> {
    let numbers = deliveries.iter().map(|delivery| number(shared, &delivery.receipt.0));
    numbers.collect()
}

/// Deletes a batch, of any lines. What the service could not be told is told by the keeper, too.
pub(crate) async fn acknowledge(shared: &Shared, deliveries: &[Delivery]) -> Result<(), Fault> {
    let numbers = numbers(shared, deliveries)?;
    let settling = shared.held().settle(&numbers);
    delete(shared, settling).await
}

/// Deletes what is settled; an error tells which of the first line that failed.
pub(crate) async fn delete(shared: &Shared, settling: Vec<(u64, Handle)>) -> Result<(), Fault> {
    let mut answer = Ok(());
    for (line, settling) in by_line(settling, |(_, handle)| &handle.line) {
        let handles: Vec<_> = settling.iter().map(|(_, handle)| handle.clone()).collect();
        let mut outcome = ask(shared, &handles, None).await;
        for ((number, _), fault) in settling.iter().zip(&mut outcome) {
            // Deleted before, by a request whose answer was lost; or out again, and then at least once means twice; or gone
            // with its queue. No other answer would come.
            if fault
                .as_ref()
                .is_none_or(|fault| fault.is_bad_receipt() || fault.is_missing())
            {
                *fault = None;
                shared.held().end(*number);
            }
        }
        answer = answer.and(told("acknowledging", &line, &outcome));
    }
    answer
}

/// Publishes a batch again, and deletes it. What cannot be published is left to others as it is.
pub(crate) async fn give_back(shared: &Shared, deliveries: Vec<Delivery>) -> Result<(), Fault> {
    let numbers = numbers(shared, &deliveries)?;
    // What was settled before stays settled.
    let out: Vec<_> = numbers
        .into_iter()
        .zip(deliveries)
        .filter(|(number, _)| shared.held().is_out(*number))
        .collect();
    let mut answer = Ok(());
    for (line, out) in by_line(out, |(_, delivery)| &delivery.line) {
        let wires: Vec<_> = out.iter().map(|(_, delivery)| Wire::new(&delivery.message)).collect();
        let outcome = match publish::most_bytes(shared, &line).await {
            Ok(most) => publish::send(shared, &line, &wires, most).await,
            Err(fault) => vec![Some(fault); wires.len()],
        };
        let mut published = Vec::with_capacity(out.len());
        for ((number, _), fault) in out.iter().zip(&outcome) {
            match fault {
                None => published.push(*number),
                Some(_) => shared.held().put_back(*number),
            }
        }
        shared.chores.notify_one();
        let settling = shared.held().settle(&published);
        if let Err(fault) = delete(shared, settling).await {
            // They are out again as they should be; the keeper goes on deleting their first selves.
            tracing::warn!(%line, "sqs: what was given back may come twice: {fault}");
        }
        answer = answer.and(told("giving back", &line, &outcome));
    }
    answer
}

/// Nobody here wants them: as soon as the service can be told, others may have them.
pub(crate) fn put_back(shared: &Shared, deliveries: &[Delivery]) {
    for delivery in deliveries {
        if let Ok(number) = number(shared, &delivery.receipt.0) {
            shared.held().put_back(number);
        }
    }
    shared.chores.notify_one();
}

/// Asks for messages to be deleted, or to be kept from others for this time from now on.
pub(crate) async fn ask(shared: &Shared, handles: &[Handle], keep: Option<Duration>) -> Outcome {
    // A queue that was made again has a new address or none of these messages: each batch goes where its messages came from.
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, handle) in handles.iter().enumerate() {
        places.entry(&handle.place.url).or_default().push(place);
    }
    let batches: Vec<_> = places
        .into_iter()
        .flat_map(|(url, places)| {
            places
                .chunks(MOST)
                .map(|some| (url.to_owned(), some.to_vec()))
                .collect::<Vec<_>>()
        })
        .collect();
    let asking = stream::iter(batches).map(|(url, places)| async move {
        let handles: Vec<_> = places.iter().map(|place| handles[*place].handle.as_str()).collect();
        let outcome = one(shared, &url, &handles, keep).await;
        (places, outcome)
    });
    let mut asking = asking.buffer_unordered(AT_ONCE);
    let mut outcome: Outcome = vec![None; handles.len()];
    while let Some((places, faults)) = asking.next().await {
        for (place, fault) in places.into_iter().zip(faults) {
            outcome[place] = fault;
        }
    }
    outcome
}

async fn one(shared: &Shared, url: &str, handles: &[&str], keep: Option<Duration>) -> Outcome {
    batch::each(handles.len(), |left| async move {
        let entries = left.iter().map(|place| (place.to_string(), handles[*place]));
        match keep {
            None => delete_call(shared, url, entries).await,
            Some(keep) => keep_call(shared, url, entries, keep).await,
        }
    })
    .await
}

async fn delete_call<'a>(
    shared: &Shared,
    url: &str,
    entries: impl Iterator<Item = (String, &'a str)>,
) -> Result<Answer, Fault> {
    let entries = entries.map(|(id, handle)| {
        let entry = DeleteMessageBatchRequestEntry::builder();
        entry.id(id).receipt_handle(handle).build()
    });
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    let deleting = shared.clients().await.prompt.delete_message_batch();
    let answer = deleting.queue_url(url).set_entries(Some(entries)).send().await?;
    Ok(Answer {
        done: answer.successful.into_iter().map(|entry| entry.id).collect(),
        failed: answer.failed,
    })
}

async fn keep_call<'a>(
    shared: &Shared,
    url: &str,
    entries: impl Iterator<Item = (String, &'a str)>,
    keep: Duration,
) -> Result<Answer, Fault> {
    let seconds = i32::try_from(keep.as_secs()).unwrap_or(i32::MAX);
    let entries = entries.map(|(id, handle)| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder();
        entry.id(id).receipt_handle(handle).visibility_timeout(seconds).build()
    });
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    let keeping = shared.clients().await.prompt.change_message_visibility_batch();
    let answer = keeping.queue_url(url).set_entries(Some(entries)).send().await?;
    Ok(Answer {
        done: answer.successful.into_iter().map(|entry| entry.id).collect(),
        failed: answer.failed,
    })
}

fn by_line<T>(items: Vec<T>, line: impl Fn(&T) -> &Line) -> HashMap<Line, Vec<T>> {
    let mut lines: HashMap<Line, Vec<T>> = HashMap::new();
    for item in items {
        lines.entry(line(&item).clone()).or_default().push(item);
    }
    lines
}
