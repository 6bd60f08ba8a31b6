//! One batch at SQS, which may be done in part: what the service failed at is tried again, and each entry has an end of its
//! own.

use std::time::Duration;

use aws_sdk_sqs::types::BatchResultErrorEntry;
use robata_core::job::Line;

use crate::error::Fault;

/// At most so many entries in a batch
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
pub(crate) const MOST: usize = 10;
/// At most so many batches of one call at once.
pub(crate) const AT_ONCE: usize = 8;
/// How often an entry is tried that the service failed at.
const TRIES: u32 = 4;
/// Before the second try; doubled from one to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What became of each entry; `None`: it is done.
pub(crate) type Outcome = Vec<Option<Fault>>;

/// The answer to a batch.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The ids of what is done.
    pub(crate) done: Vec<String>,
    /// What is not.
    pub(crate) failed: Vec<BatchResultErrorEntry>,
}

/// Sends `count` entries, whose ids are their places from 0 on. `call` is asked with the places that are still to be done.
pub(crate) async fn each<F>(count: usize, call: impl Fn(Vec<usize>) -> F) -> Outcome
where
    F: Future<Output = Result<Answer, Fault>>,
{
    let mut outcome: Outcome = vec![None; count];
    let mut left: Vec<usize> = (0..count).collect();
    let mut tries = 0;
    loop {
        let answer = match call(left.clone()).await {
            Ok(answer) => answer,
            Err(fault) => {
                for place in left {
                    outcome[place] = Some(fault.clone());
                }
                return outcome;
            }
        };
        tries += 1;
        let mut again = Vec::new();
        for place in left {
            let id = place.to_string();
            if answer.done.contains(&id) {
                outcome[place] = None;
                continue;
            }
            let (fault, ours) = match answer.failed.iter().find(|failed| failed.id() == id) {
                Some(failed) => (Fault::of_entry(failed.code(), failed.message()), failed.sender_fault()),
                None => (
                    Fault::Answer("a batch's answer that leaves an entry out".to_owned()),
                    false,
                ),
            };
            outcome[place] = Some(fault);
            if !ours {
                again.push(place);
            }
        }
        if again.is_empty() || tries == TRIES {
            return outcome;
        }
        tokio::time::sleep(PAUSE * 2_u32.pow(tries - 1)).await;
        left = again;
    }
}

/// One answer for all: the fault alone where all failed, else which failed and the first one's fault.
pub(crate) fn told(what: &'static str, line: &Line, outcome: &Outcome) -> Result<(), Fault> {
    let failed: Vec<_> = outcome
        .iter()
        .enumerate()
        .filter(|(_, fault)| fault.is_some())
        .collect();
    let Some((_, Some(first))) = failed.first() else {
        return Ok(());
    };
    if failed.len() == outcome.len() {
        return Err(first.clone());
    }
    Err(Fault::Some {
        what,
        line: line.clone(),
        places: failed.iter().map(|(place, _)| place + 1).collect(),
        of: outcome.len(),
        first: Box::new(first.clone()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn failed(id: usize, ours: bool) -> BatchResultErrorEntry {
        let entry = BatchResultErrorEntry::builder()
            .id(id.to_string())
            .code("Some")
            .sender_fault(ours);
        entry.build().unwrap()
    }

    #[tokio::test]
    async fn only_what_the_service_failed_at_is_tried_again() {
        let asked = Mutex::new(Vec::new());
        let outcome = each(4, |left| {
            let mut asked = asked.lock().unwrap();
            asked.push(left.clone());
            let first = asked.len() == 1;
            async move {
                Ok(Answer {
                    // The last one is in no answer at all, the first time.
                    done: left
                        .iter()
                        .filter(|place| !first || **place == 0)
                        .map(ToString::to_string)
                        .collect(),
                    failed: if first {
                        vec![failed(1, false), failed(2, true)]
                    } else {
                        Vec::new()
                    },
                })
            }
        })
        .await;
        assert_eq!(*asked.lock().unwrap(), [vec![0, 1, 2, 3], vec![1, 3]]);
        let failed: Vec<_> = outcome.iter().map(Option::is_some).collect();
        assert_eq!(failed, [false, false, true, false]);
    }

    #[tokio::test]
    async fn it_is_not_tried_for_ever_and_a_fault_of_the_whole_is_each_ones() {
        let times = Mutex::new(0);
        let outcome = each(1, |_| {
            *times.lock().unwrap() += 1;
            async {
                Ok(Answer {
                    done: Vec::new(),
                    failed: vec![failed(0, false)],
                })
            }
        })
        .await;
        assert!(outcome[0].is_some());
        assert_eq!(*times.lock().unwrap(), TRIES);
        let outcome = each(2, |_| async { Err(Fault::Unreached("away".to_owned())) }).await;
        assert!(outcome.iter().all(|fault| matches!(fault, Some(Fault::Unreached(_)))));
    }
}
