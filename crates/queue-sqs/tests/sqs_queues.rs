//! The queues behind lines: made, looked up, refused, deleted by an operator; and what others put into them.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod service;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use robata_core::{ErrorKind, queue::Queue};
use robata_queue_sqs::SqsConfig;
use serde_json::json;
use service::{between::Between, *};

#[tokio::test]
async fn a_queue_is_made_as_a_line_needs_it_and_bears_its_whole_name() -> Result<()> {
    let config = config()?;
    let (queue, line) = (queue(&config)?, line(&"long".repeat(15)));
    let key = queue.broker_key(&line).await?;
    let name = queue.queue_name(&line);
    assert!(
        name.len() <= 80 && name.starts_with(&format!("robata-{}-long", config.installation)),
        "{name}"
    );
    let url = address(&queue, &line).await?;
    let made = api(
        "GetQueueAttributes",
        json!({"QueueUrl": url, "AttributeNames": ["All"]}),
    )
    .await?;
    let made = &made["Attributes"];
    assert_eq!(made["MessageRetentionPeriod"], "1209600", "14 days");
    assert_eq!(made["DelaySeconds"], "0");
    assert!(made["RedrivePolicy"].is_null() && made["FifoQueue"].is_null(), "{made}");
    let tags = api("ListQueueTags", json!({"QueueUrl": url})).await?;
    assert_eq!(tags["Tags"]["robata:line"], line.to_string());
    assert_eq!(tags["Tags"]["robata:installation"], config.installation);
    assert_eq!(tags["Tags"]["robata:key"], key.0);
    Ok(())
}

#[tokio::test]
async fn looking_at_a_line_makes_no_queue() -> Result<()> {
    let (queue, line) = (queue(&config()?)?, line("looked-at"));
    assert_eq!(queue.depth(&line).await?, robata_core::queue::Depth::default());
    address(&queue, &line).await.expect_err("there is no queue");
    Ok(())
}

#[tokio::test]
async fn where_queues_are_not_made_a_missing_one_is_named_and_one_made_by_hand_is_used() -> Result<()> {
    let config = SqsConfig {
        create: false,
        ..config()?
    };
    let (queue, line) = (queue(&config)?, line("by-hand"));
    let name = queue.queue_name(&line);
    for error in [
        queue
            .publish(&line, numbered(0..1))
            .await
            .expect_err("there is no queue"),
        queue
            .receive(want(&line, 1, SOON))
            .await
            .expect_err("there is no queue"),
        queue.broker_key(&line).await.expect_err("there is no queue"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(
            error.message().contains(&name) && error.message().contains("create = false"),
            "{error:?}"
        );
    }
    let error = queue.depth(&line).await.expect_err("nothing can be put into it");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.message().contains(&name), "{error:?}");
    api("CreateQueue", json!({"QueueName": name})).await?;
    assert_eq!(queue.depth(&line).await?, robata_core::queue::Depth::default());
    queue.publish(&line, numbered(0..1)).await?;
    assert_eq!(sorted(&collect(&queue, &line, 1).await?)?, [0]);
    let key = queue.broker_key(&line).await?;
    assert_eq!(queue.broker_key(&line).await?, key, "it was tagged");
    Ok(())
}

#[tokio::test]
async fn a_queue_with_a_redrive_policy_is_refused_by_name_and_keeps_no_other_line_back() -> Result<()> {
    let config = config()?;
    let (queue, bad, good) = (queue(&config)?, line("redriven"), line("good"));
    let dead = api(
        "CreateQueue",
        json!({"QueueName": format!("dead-{}", config.installation)}),
    )
    .await?;
    let dead = api(
        "GetQueueAttributes",
        json!({"QueueUrl": dead["QueueUrl"], "AttributeNames": ["All"]}),
    )
    .await?;
    let arn = dead["Attributes"]["QueueArn"].as_str().context("an ARN")?.to_owned();
    let policy = json!({"deadLetterTargetArn": arn, "maxReceiveCount": 3}).to_string();
    let name = queue.queue_name(&bad);
    api(
        "CreateQueue",
        json!({"QueueName": name, "Attributes": {"RedrivePolicy": policy}}),
    )
    .await?;
    for error in [
        queue
            .publish(&bad, numbered(0..1))
            .await
            .expect_err("it has a redrive policy"),
        queue
            .receive(want(&bad, 1, SOON))
            .await
            .expect_err("it has a redrive policy"),
        queue.depth(&bad).await.expect_err("it has a redrive policy"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(
            error.message().contains(&name) && error.message().contains(&arn),
            "{error:?}"
        );
    }
    queue.publish(&good, numbered(0..2)).await?;
    let mut both = want(&bad, 10, SOON);
    both.lines.push((good, 1));
    assert_eq!(sorted(&queue.receive(both).await?)?, [0, 1]);
    let facts = queue.check().await?;
    assert!(facts.redriven.contains(&name), "{facts:?}");
    // Taken away, it is a line like any other.
    let url = address(&queue, &bad).await?;
    api(
        "SetQueueAttributes",
        json!({"QueueUrl": url, "Attributes": {"RedrivePolicy": ""}}),
    )
    .await?;
    queue.publish(&bad, numbered(0..1)).await?;
    assert!(!queue.check().await?.redriven.contains(&name));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_without_a_queue_ends_no_wait_for_others_and_is_tried_again() -> Result<()> {
    let config = SqsConfig {
        create: false,
        ..config()?
    };
    let (queue, missing, good) = (queue(&config)?, line("missing"), line("good"));
    api("CreateQueue", json!({"QueueName": queue.queue_name(&good)})).await?;
    let both = |wait| {
        let mut both = want(&missing, 10, wait);
        both.lines.push((good.clone(), 1));
        both
    };
    // More than once: the first time it is found out, then it is left out.
    for _ in 0..2 {
        let got = queue.receive(both(Duration::from_secs(1))).await?;
        assert!(got.is_empty(), "{got:?}");
    }
    queue
        .receive(want(&missing, 10, SOON))
        .await
        .expect_err("there is no other");
    queue.publish(&good, numbered(0..1)).await?;
    assert_eq!(sorted(&queue.receive(both(SOON)).await?)?, [0]);
    // Within one receive that waits for both.
    api("CreateQueue", json!({"QueueName": queue.queue_name(&missing)})).await?;
    queue.publish(&missing, numbered(1..2)).await?;
    assert_eq!(sorted(&queue.receive(both(SOON)).await?)?, [1]);
    Ok(())
}

#[tokio::test]
async fn a_queue_that_takes_less_takes_nothing_of_a_batch_with_more() -> Result<()> {
    let (queue, line) = (queue(&config()?)?, line("small"));
    let attributes = json!({"MaximumMessageSize": "2048", "MessageRetentionPeriod": "1209600"});
    api(
        "CreateQueue",
        json!({"QueueName": queue.queue_name(&line), "Attributes": attributes}),
    )
    .await?;
    let batch = vec![text("x"), text("y".repeat(2049))];
    let error = queue.publish(&line, batch).await.expect_err("it does not fit");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.message().contains("at most 2048"), "{error:?}");
    nothing_comes(&queue, &line, Duration::from_millis(300)).await?;
    queue.publish(&line, vec![text("y".repeat(2048))]).await?;
    assert_eq!(collect(&queue, &line, 1).await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_no_more_bytes_than_its_queue_takes_in_a_message() -> Result<()> {
    let (between, config) = Between::to(&config()?).await?;
    let (queue, line) = (queue(&config)?, line("small-batches"));
    let attributes = json!({"MaximumMessageSize": "2048", "MessageRetentionPeriod": "1209600"});
    api(
        "CreateQueue",
        json!({"QueueName": queue.queue_name(&line), "Attributes": attributes}),
    )
    .await?;
    let of = |number: u8| text(vec![b'0' + number; 1000]);
    queue.publish(&line, (0..4).map(of).collect()).await?;
    assert_eq!(between.entries("SendMessageBatch"), [2, 2]);
    let got = collect(&queue, &line, 4).await?;
    queue.give_back(got).await?;
    assert_eq!(between.entries("SendMessageBatch"), [2, 2, 2, 2], "given back, too");
    assert_eq!(collect(&queue, &line, 4).await?.len(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_go_in_as_many_batches_as_they_need() -> Result<()> {
    let (queue, line) = (queue(&config()?)?, line("batches"));
    let of = |number: u8| text(vec![b'0' + number; 300_000]);
    queue.publish(&line, (0..8).map(of).collect()).await?;
    let got = collect(&queue, &line, 8).await?;
    let mut bodies: Vec<_> = got
        .iter()
        .map(|delivery| (delivery.message.body[0], delivery.message.body.len()))
        .collect();
    bodies.sort_unstable();
    assert_eq!(
        bodies,
        (0..8).map(|number| (b'0' + number, 300_000)).collect::<Vec<_>>()
    );
    queue.acknowledge(&got).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_by_hand_is_made_again_with_another_key() -> Result<()> {
    let config = config()?;
    let (asker, other, line) = (queue(&config)?, queue(&config)?, line("deleted"));
    let key = asker.broker_key(&line).await?;
    assert_eq!(other.broker_key(&line).await?, key, "all see one key");
    other.publish(&line, numbered(0..3)).await?;
    let held = collect(&other, &line, 1).await?;
    assert_eq!(delete_all(&config).await?, 1);
    other.publish(&line, numbered(10..13)).await?;
    let second = asker.broker_key(&line).await?;
    assert_ne!(second, key);
    assert_eq!(other.broker_key(&line).await?, second);
    other.acknowledge(&held).await?;
    assert_eq!(sorted(&collect(&asker, &line, 3).await?)?, [10, 11, 12]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_need_a_new_line_at_once_get_one_queue_and_one_key() -> Result<()> {
    let (config, line) = (config()?, line("one-key"));
    let queues = (0..6).map(|_| queue(&config)).collect::<Result<Vec<_>>>()?;
    let asked = futures::future::try_join_all(queues.iter().map(|queue| queue.broker_key(&line))).await?;
    assert!(asked.iter().all(|key| *key == asked[0]), "{asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_send_is_delivered_as_it_is_and_may_be_given_back() -> Result<()> {
    let (queue, line) = (queue(&config()?)?, line("foreign"));
    queue.broker_key(&line).await?;
    let url = address(&queue, &line).await?;
    for (body, attributes, told) in [
        ("plain", json!({}), vec![]),
        (
            "{\"job\": 1}",
            json!({"n": {"DataType": "Number", "StringValue": "42"}, "b": {"DataType": "Binary", "BinaryValue": "/wA="}}),
            vec![("foreign:b", "/wA="), ("foreign:n", "42")],
        ),
        (
            "*no base64*",
            json!({"robata": {"DataType": "String", "StringValue": "{\"body\":\"base64\"}"}}),
            vec![("foreign:robata", "{\"body\":\"base64\"}")],
        ),
    ] {
        api(
            "SendMessage",
            json!({"QueueUrl": url, "MessageBody": body, "MessageAttributes": attributes}),
        )
        .await?;
        let told: BTreeMap<_, _> = told.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        for _ in 0..3 {
            let got = collect(&queue, &line, 1).await?;
            assert_eq!(&got[0].message.body[..], body.as_bytes());
            assert_eq!(got[0].message.attributes, told);
            queue.give_back(got).await?;
        }
        queue.acknowledge(&collect(&queue, &line, 1).await?).await?;
    }
    nothing_comes(&queue, &line, Duration::from_millis(300)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_tells_what_it_found_and_leaves_nothing() -> Result<()> {
    let config = config()?;
    let facts = queue(&config)?.check().await?;
    assert_eq!(facts.region, "us-east-1");
    assert!(facts.looked_at.is_some());
    assert_eq!(delete_all(&config).await?, 0, "its queue is deleted");
    let only_looks = SqsConfig {
        create: false,
        ..config.clone()
    };
    queue(&only_looks)?.check().await?;
    assert_eq!(delete_all(&config).await?, 0);
    Ok(())
}
