//! What goes in: whole batches, unchanged, each into its own line.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use robata_core::{ErrorKind, queue::Message};

use super::{Broker, collect, line, message, named, nothing_comes, number, numbered, want};

/// Nothing of a batch may come later than the answer.
pub async fn publish_returns_once_the_whole_batch_is_there(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("batch")?);
    queue.publish(&line, numbered(0..500)).await?;
    let mut numbers = Vec::new();
    for delivery in collect(&*queue, &line, 500).await? {
        numbers.push(number(&delivery)?);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    Ok(())
}

/// An empty batch is no fault.
pub async fn publishing_nothing_answers_well(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("nothing")?);
    queue.publish(&line, Vec::new()).await?;
    nothing_comes(&*queue, &line).await
}

/// What `capabilities()` says is what is refused.
pub async fn a_body_over_the_bound_is_refused_and_nothing_of_its_batch_is_published(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("large")?);
    let max = queue.capabilities().max_body_bytes;
    assert!(max > 0, "a queue that takes no body is of no use");
    let batch = vec![message("small"), message(vec![b'x'; max + 1])];
    let error = queue
        .publish(&line, batch)
        .await
        .expect_err("a body over the bound was taken");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    nothing_comes(&*queue, &line).await
}

/// The bound itself is allowed.
pub async fn a_body_of_the_largest_size_comes_through(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("largest")?);
    let body: Vec<u8> = (0..=250).cycle().take(queue.capabilities().max_body_bytes).collect();
    queue.publish(&line, vec![message(body.clone())]).await?;
    let got = collect(&*queue, &line, 1).await?;
    assert!(got[0].message.body == body, "the body has changed");
    Ok(())
}

/// Bytes that are no text, nothing at all, and attributes that would break a careless protocol.
pub async fn bytes_and_attributes_come_out_as_they_went_in(broker: Broker) -> Result<()> {
    let (queue, line) = (broker.queue, line("bytes")?);
    let attributes: BTreeMap<String, String> = [
        ("format", "1"),
        ("empty", ""),
        ("lines", "a\nb\r\nc"),
        ("unicode", "Grüße, 世界 🦀"),
        ("quotes", "\"'\\{}[]:,;=&%"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let bodies: [Bytes; 4] = [
        (0..=255).collect::<Vec<u8>>().into(),
        Bytes::new(),
        Bytes::from_static(b"\0\0\xff\xfe\r\n\0"),
        Bytes::from_static("{\"payload\": \"\\u0000\"}".as_bytes()),
    ];
    for body in bodies {
        let sent = Message {
            body,
            attributes: attributes.clone(),
        };
        queue.publish(&line, vec![sent.clone()]).await?;
        let got = collect(&*queue, &line, 1).await?;
        assert_eq!(got[0].message, sent);
        assert_eq!(got[0].line, line);
        queue.acknowledge(&got).await?;
    }
    Ok(())
}

/// Names that a joined, folded or cut spelling would take for one.
pub async fn lines_with_like_names_do_not_mix(broker: Broker) -> Result<()> {
    let queue = broker.queue;
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let stem = &unique[..12];
    let long = format!("{stem}-{}", "x".repeat(49));
    let lines = [
        (format!("{stem}-a"), "b-c".to_owned()),
        (format!("{stem}-a-b"), "c".to_owned()),
        (format!("{stem}_a"), "b-c".to_owned()),
        (format!("{stem}-A"), "b-c".to_owned()),
        (format!("{stem}-a"), "B-c".to_owned()),
        (stem.to_owned(), "a".to_owned()),
        ("a".to_owned(), stem.to_owned()),
        (format!("{long}1"), "e".to_owned()),
        (format!("{long}2"), "e".to_owned()),
    ];
    let lines = lines
        .iter()
        .map(|(queue, executor)| named(queue, executor))
        .collect::<Result<Vec<_>>>()?;
    for (index, line) in lines.iter().enumerate() {
        queue.publish(line, vec![message(index.to_string())]).await?;
    }
    for (index, line) in lines.iter().enumerate() {
        let got = collect(&*queue, line, 1).await?;
        assert_eq!((number(&got[0])?, &got[0].line), (index, line));
        queue.acknowledge(&got).await?;
    }
    let all: Vec<_> = lines.iter().map(|line| (line, 1)).collect();
    let more = queue.receive(want(&all, 10, Duration::from_millis(300))).await?;
    assert!(more.is_empty(), "these came twice: {more:?}");
    Ok(())
}
