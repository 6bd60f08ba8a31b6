//! The service fails, throttles, loses answers, delivers twice; nothing is lost by it, and what can be told is told.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod service;

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use robata_core::{ErrorKind, Retry, queue::Queue};
use robata_queue_sqs::SqsConfig;
use robata_testkit::case::until;
use service::{
    between::{Between, Fate},
    *,
};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_partly_failed_publication_only_the_failed_part_is_sent_again() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let (queue, line) = (queue(&config)?, line("part"));
    let in_part = Fate::InPart {
        ids: vec![2, 5],
        ours: false,
    };
    // Failed entries keep their ids: they fail a second time.
    between.will("SendMessageBatch", 2, in_part);
    queue.publish(&line, numbered(0..10)).await?;
    assert_eq!(between.entries("SendMessageBatch"), [10, 2, 2]);
    let got = collect(&queue, &line, 10).await?;
    assert_eq!(sorted(&got)?, (0..10).collect::<Vec<_>>(), "each once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_service_does_not_take_is_told_by_its_number_and_the_others_are_published() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let (queue, line) = (queue(&config)?, line("refused"));
    between.will(
        "SendMessageBatch",
        1,
        Fate::InPart {
            ids: vec![0, 3],
            ours: true,
        },
    );
    let error = queue
        .publish(&line, numbered(0..5))
        .await
        .expect_err("two were refused");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(
        error.message().contains("2 of 5 messages") && error.message().contains("(number 1, 4)"),
        "{error:?}"
    );
    assert_eq!(between.entries("SendMessageBatch"), [5], "it would be refused again");
    assert_eq!(sorted(&collect(&queue, &line, 3).await?)?, [1, 2, 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_and_faults_of_the_service_pass_or_are_told_in_bounded_time() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let (queue, line) = (queue(&config)?, line("throttled"));
    for (status, code) in [
        (403, "RequestThrottled"),
        (400, "ThrottlingException"),
        (500, "InternalFailure"),
        (503, "ServiceUnavailable"),
    ] {
        between.will("SendMessageBatch", 2, Fate::Refused(status, code));
        queue.publish(&line, numbered(0..1)).await?;
        between.will("ReceiveMessage", 2, Fate::Refused(status, code));
        between.will("DeleteMessageBatch", 2, Fate::Refused(status, code));
        let got = queue.receive(want(&line, 1, SOON)).await?;
        queue.acknowledge(&got).await?;
    }
    between.will("SendMessageBatch", 1000, Fate::Refused(400, "ThrottlingException"));
    let begun = Instant::now();
    let error = queue.publish(&line, numbered(0..1)).await.expect_err("it goes on");
    assert!(
        begun.elapsed() < config.operation_timeout + Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(1)));
    assert!(error.message().contains("asked too often"), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_access_key_is_told_at_once_and_in_clear_words() -> Result<()> {
    for (code, words) in [
        ("InvalidClientTokenId", "refuses the access key"),
        ("SignatureDoesNotMatch", "refuses the access key"),
        ("AccessDeniedException", "does not let this access key do that"),
    ] {
        let (between, config) = Between::to(&config()?).await?;
        let queue = queue(&config)?;
        between.will("GetQueueUrl", 1000, Fate::Refused(403, code));
        let error = queue
            .publish(&line("key"), numbered(0..1))
            .await
            .expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert_eq!(
            error.retry(),
            Retry::After(Duration::from_secs(10)),
            "a person must help"
        );
        assert!(
            error.message().contains(words) && error.message().contains(code),
            "{error:?}"
        );
        assert_eq!(
            between.entries("GetQueueUrl").len(),
            1,
            "asking again would be refused again"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_line_of_unacknowledged_messages_has_no_room() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let queue = queue(&config)?;
    between.will("ReceiveMessage", 1000, Fate::Refused(403, "OverLimit"));
    let error = queue
        .receive(want(&line("full"), 1, SOON))
        .await
        .expect_err("120,000 are out");
    assert_eq!(error.kind(), ErrorKind::NoCapacity, "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_publication_loses_no_message() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let (queue, line) = (queue(&config)?, line("answer"));
    between.will("SendMessageBatch", 1, Fate::Lost);
    // Told, or tried again: what must not be is that it is called done and is not there.
    if let Err(error) = queue.publish(&line, numbered(0..3)).await {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        queue.publish(&line, numbered(0..3)).await?;
    }
    let mut numbers = BTreeSet::new();
    while numbers.len() < 3 {
        let got = collect(&queue, &line, 1).await?;
        queue.acknowledge(&got).await?;
        numbers.insert(number(&got[0])?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_receive_brings_its_messages_later() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let queue = queue(&SqsConfig {
        visibility: Duration::from_secs(2),
        ..config
    })?;
    let line = line("lost");
    queue.publish(&line, numbered(0..3)).await?;
    between.will("ReceiveMessage", 1, Fate::Lost);
    let got = collect(&queue, &line, 3).await?;
    assert_eq!(sorted(&got)?, [0, 1, 2]);
    queue.acknowledge(&got).await?;
    nothing_comes(&queue, &line, Duration::from_secs(3)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_whose_answer_is_lost_is_one_all_the_same() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let queue = queue(&SqsConfig {
        visibility: Duration::from_secs(2),
        ..config
    })?;
    let line = line("lost-ack");
    queue.publish(&line, numbered(0..3)).await?;
    let got = collect(&queue, &line, 3).await?;
    between.will("DeleteMessageBatch", 1, Fate::Lost);
    if let Err(error) = queue.acknowledge(&got).await {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        queue.acknowledge(&got).await?;
    }
    queue.acknowledge(&got).await?;
    nothing_comes(&queue, &line, Duration::from_secs(3)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partly_applied_acknowledgement_is_told_and_finished_by_itself() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let queue = queue(&SqsConfig {
        visibility: Duration::from_secs(6),
        ..config
    })?;
    let line = line("part-ack");
    queue.publish(&line, numbered(0..4)).await?;
    let got = collect(&queue, &line, 4).await?;
    between.will(
        "DeleteMessageBatch",
        4,
        Fate::InPart {
            ids: vec![1],
            ours: false,
        },
    );
    let error = queue.acknowledge(&got).await.expect_err("one of them was not deleted");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("acknowledging 1 of 4 messages"), "{error:?}");
    assert!(error.message().contains("(number 2)"), "{error:?}");
    assert_eq!(between.entries("DeleteMessageBatch")[..4], [4, 1, 1, 1]);
    // Nobody asks again: the keeper does, before the message comes to another.
    until("the keeper has deleted it", SOON, async || {
        let depth = queue.depth(&line).await?;
        Ok((depth.waiting + depth.unacknowledged == 0).then_some(()))
    })
    .await?;
    nothing_comes(&queue, &line, Duration::from_secs(1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_twice_is_in_one_hand_and_is_not_delivered_after_its_acknowledgement() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let (queue, line) = (queue(&config)?, line("twice"));
    queue.publish(&line, numbered(0..3)).await?;
    let got = collect(&queue, &line, 3).await?;
    between.will("ReceiveMessage", 2, Fate::Again);
    nothing_comes(&queue, &line, Duration::from_secs(1)).await?;
    queue.acknowledge(&got).await?;
    let deleted = between.entries("DeleteMessageBatch").len();
    // A part of SQS that did not hear of the deletion.
    between.will("ReceiveMessage", 1, Fate::Again);
    nothing_comes(&queue, &line, Duration::from_secs(1)).await?;
    until("it is deleted once more", SOON, async || {
        Ok((between.entries("DeleteMessageBatch").len() > deleted).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_for_long_comes_to_nobody_else() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let config = SqsConfig {
        visibility: Duration::from_secs(3),
        ..config
    };
    let (queue, other, line) = (queue(&config)?, queue(&config)?, line("held"));
    queue.publish(&line, numbered(0..12)).await?;
    let got = collect(&queue, &line, 12).await?;
    // The first request for more time fails: there is time for another.
    between.will("ChangeMessageVisibilityBatch", 4, Fate::Refused(500, "InternalFailure"));
    nothing_comes(&other, &line, Duration::from_secs(10)).await?;
    assert!(
        between.entries("ChangeMessageVisibilityBatch").len() > 4,
        "more time was asked for"
    );
    queue.acknowledge(&got[..6]).await?;
    // Settled, some of them; the others are still held.
    nothing_comes(&other, &line, Duration::from_secs(5)).await?;
    queue.give_back(got[6..].to_vec()).await?;
    assert_eq!(sorted(&collect(&other, &line, 6).await?)?, sorted(&got[6..])?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_held_comes_to_another() -> Result<()> {
    let config = SqsConfig {
        visibility: Duration::from_secs(2),
        ..config()?
    };
    let (dead, other, line) = (queue(&config)?, queue(&config)?, line("dead"));
    dead.publish(&line, numbered(0..3)).await?;
    let got = collect(&dead, &line, 3).await?;
    drop(dead);
    let again = collect(&other, &line, 3).await?;
    assert_eq!(sorted(&again)?, sorted(&got)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_published_again_is_left_to_others_as_it_is() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let (queue, line) = (queue(&config)?, line("back"));
    queue.publish(&line, numbered(0..3)).await?;
    let got = collect(&queue, &line, 3).await?;
    between.will("SendMessageBatch", 1000, Fate::Refused(503, "ServiceUnavailable"));
    let error = queue.give_back(got).await.expect_err("nothing can be published");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // Long before its time is over.
    let begun = Instant::now();
    let got = collect(&queue, &line, 3).await?;
    assert!(begun.elapsed() < config.visibility / 2, "{:?}", begun.elapsed());
    assert_eq!(sorted(&got)?, [0, 1, 2]);
    between.be_well();
    between.will(
        "SendMessageBatch",
        4,
        Fate::InPart {
            ids: vec![1],
            ours: false,
        },
    );
    queue.give_back(got).await.expect_err("one cannot be published");
    assert_eq!(
        sorted(&collect(&queue, &line, 3).await?)?,
        [0, 1, 2],
        "published or left, each once"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_falls_silent_is_left_in_time_and_asked_again() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let config = SqsConfig {
        response_timeout: Duration::from_secs(1),
        operation_timeout: Duration::from_secs(3),
        ..config
    };
    let (queue, line) = (queue(&config)?, line("silent"));
    queue.publish(&line, numbered(0..1)).await?;
    between.will("SendMessageBatch", 1000, Fate::Silence);
    let begun = Instant::now();
    let error = queue.publish(&line, numbered(1..2)).await.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    between.will("ReceiveMessage", 1, Fate::Silence);
    let begun = Instant::now();
    let got = collect(&queue, &line, 1).await?;
    assert_eq!(number(&got[0])?, 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    Ok(())
}
