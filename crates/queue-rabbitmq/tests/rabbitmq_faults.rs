//! The way to the broker breaks, and queues are deleted; nothing that was published is lost.

mod broker;

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use broker::{
    traffic::{MESSAGES, Traffic},
    *,
};
use robata_core::{
    ErrorKind,
    queue::{Queue, Receive},
};
use robata_queue_rabbitmq::RabbitMqConfig;
use robata_testkit::case::until;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_cut_half_way_is_delivered_again() -> Result<()> {
    let config = config()?;
    let (proxy, by_proxy) = Proxy::to(&config.url).await?;
    let direct = queue(&config)?;
    let queue = queue(&RabbitMqConfig {
        url: by_proxy,
        ..config.clone()
    })?;
    for bytes in [1, 20, 100, 400, 1000, 2000] {
        let line = line(&format!("cut{bytes}"));
        direct.publish(&line, numbered(0..40)).await?;
        // The connection and the line stand before the cut, so that it falls into what brings the messages.
        insist("a first look", async || {
            let got = queue.receive(want(&line, 1, Duration::from_secs(5))).await?;
            queue.give_back(got).await
        })
        .await?;
        proxy.cut_after(bytes);
        let mut numbers = BTreeSet::new();
        let begun = Instant::now();
        loop {
            anyhow::ensure!(begun.elapsed() < SOON, "cut after {bytes}: {} came", numbers.len());
            let got = queue.receive(want(&line, 1, Duration::from_millis(500))).await;
            let got = got.unwrap_or_default();
            for delivery in &got {
                numbers.insert(number(delivery)?);
            }
            // Where this is cut the broker has heard it all the same, or gives the message again.
            queue.acknowledge(&got).await.ok();
            if numbers.len() == 40 && got.is_empty() && direct.depth(&line).await?.waiting == 0 {
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_in_the_midst_of_everything_lose_nothing() -> Result<()> {
    let config = config()?;
    let line = line("storm");
    let mut proxies = Vec::new();
    let mut queues = Vec::new();
    for _ in 0..3 {
        let (proxy, url) = Proxy::to(&config.url).await?;
        proxies.push(proxy);
        queues.push(queue(&RabbitMqConfig { url, ..config.clone() })?);
    }
    let [publisher, one, other] = <[_; 3]>::try_from(queues).expect("three");
    let traffic = Traffic::start(publisher, &[one, other], &line);
    for (turn, bytes) in [0, 7, 50, 333, 1, 900, 90, 2500, 20, 150, 5, 600]
        .into_iter()
        .enumerate()
    {
        traffic.came(MESSAGES * turn / 16).await?;
        proxies[turn % 3].cut_after(bytes);
    }
    traffic.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_whose_confirms_are_lost_is_an_error_and_may_be_repeated() -> Result<()> {
    let config = config()?;
    let (proxy, by_proxy) = Proxy::to(&config.url).await?;
    let direct = queue(&config)?;
    let queue = queue(&RabbitMqConfig {
        url: by_proxy,
        ..config.clone()
    })?;
    let line = line("confirms");
    queue.publish(&line, numbered(1000..1001)).await?;
    proxy.cut_after(10);
    let error = queue
        .publish(&line, numbered(0..200))
        .await
        .expect_err("the answer was cut");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    insist("publish", async || queue.publish(&line, numbered(0..200)).await).await?;
    let mut numbers = BTreeSet::new();
    while numbers.len() < 201 {
        let got = collect(&direct, &line, 1).await?;
        direct.acknowledge(&got).await?;
        for delivery in &got {
            numbers.insert(number(delivery)?);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_receive_whose_connection_died_silently_comes_back() -> Result<()> {
    let config = config()?;
    let (proxy, by_proxy) = Proxy::to(&config.url).await?;
    let (direct, line) = (queue(&config)?, line("silent"));
    let queue = queue(&RabbitMqConfig {
        url: by_proxy,
        heartbeat: Duration::from_secs(1),
        ..config.clone()
    })?;
    direct.publish(&line, numbered(0..1)).await?;
    let got = collect(&queue, &line, 1).await?;
    queue.acknowledge(&got).await?;
    let receiver = tokio::spawn({
        let (queue, line) = (queue.clone(), line.clone());
        async move { collect(&queue, &line, 1).await }
    });
    let (_connection, channel) = by_hand(&config.url).await?;
    until("it waits", SOON, async || {
        let passive = lapin::options::QueueDeclareOptions::durable().passive();
        let name = names(&config, &line)[0].as_str().into();
        let declared = channel
            .queue_declare(name, passive, lapin::types::FieldTable::default())
            .await?;
        Ok((declared.consumer_count() > 0).then_some(()))
    })
    .await?;
    proxy.freeze();
    direct.publish(&line, numbered(5..6)).await?;
    let begun = Instant::now();
    let got = receiver.await??;
    assert_eq!(number(&got[0])?, 5);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    insist("acknowledge", async || queue.acknowledge(&got).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_under_a_waiting_receive_is_made_again() -> Result<()> {
    let config = config()?;
    let (queue, line) = (queue(&config)?, line("deleted"));
    let key = queue.broker_key(&line).await?;
    let receiver = tokio::spawn({
        let (queue, line) = (queue.clone(), line.clone());
        async move { queue.receive(want(&line, 3, SOON)).await }
    });
    let (_connection, channel) = by_hand(&config.url).await?;
    let [name, _] = names(&config, &line);
    until("it waits", SOON, async || {
        let passive = lapin::options::QueueDeclareOptions::durable().passive();
        let declared = channel
            .queue_declare(name.as_str().into(), passive, lapin::types::FieldTable::default())
            .await?;
        Ok((declared.consumer_count() > 0).then_some(()))
    })
    .await?;
    delete(&config.url, std::slice::from_ref(&name)).await?;
    insist("publish", async || queue.publish(&line, numbered(7..8)).await).await?;
    let got = receiver.await??;
    assert_eq!(got.iter().map(number).collect::<Result<Vec<_>>>()?, [7]);
    assert_ne!(queue.broker_key(&line).await?, key, "what was in the line is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_to_a_deleted_queue_finds_a_new_one() -> Result<()> {
    let config = config()?;
    let (queue, line) = (queue(&config)?, line("returned"));
    queue.publish(&line, numbered(0..3)).await?;
    let key = queue.broker_key(&line).await?;
    delete(&config.url, &names(&config, &line)[..1]).await?;
    // The connection still takes the queue to be there: the broker returns each message.
    queue.publish(&line, numbered(10..310)).await?;
    let mut numbers = BTreeSet::new();
    for delivery in collect(&queue, &line, 300).await? {
        numbers.insert(number(&delivery)?);
    }
    assert_eq!(numbers, (10..310).collect());
    assert_ne!(queue.broker_key(&line).await?, key, "the first three are gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_changes_whoever_makes_the_queue_again() -> Result<()> {
    let config = config()?;
    let (asker, other, line) = (queue(&config)?, queue(&config)?, line("by-another"));
    let key = asker.broker_key(&line).await?;
    assert_eq!(other.broker_key(&line).await?, key, "all see one key");
    delete(&config.url, &names(&config, &line)[..1]).await?;
    other.publish(&line, numbered(0..1)).await?;
    let second = asker.broker_key(&line).await?;
    assert_ne!(second, key);
    assert_eq!(other.broker_key(&line).await?, second);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_for_a_new_lines_key_get_one_key() -> Result<()> {
    let config = config()?;
    let line = line("one-key");
    let queues = (0..6).map(|_| queue(&config)).collect::<Result<Vec<_>>>()?;
    // The line itself is there: only its key is made by all of them.
    queues[0].publish(&line, numbered(0..1)).await?;
    let asked = futures::future::try_join_all(queues.iter().map(|queue| queue.broker_key(&line))).await?;
    assert!(asked.iter().all(|key| *key == asked[0]), "{asked:?}");
    assert_eq!(queues[0].broker_key(&line).await?, asked[0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_publish_at_once_to_a_new_line_are_all_served() -> Result<()> {
    let config = config()?;
    let queues = (0..6).map(|_| queue(&config)).collect::<Result<Vec<_>>>()?;
    for turn in 0..20 {
        let line = line(&format!("fresh{turn}"));
        let publishing = queues.iter().map(|queue| queue.publish(&line, numbered(0..5)));
        futures::future::try_join_all(publishing).await?;
        assert_eq!(queues[0].depth(&line).await?.waiting, 30);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_kind_is_told_and_keeps_no_other_line_back() -> Result<()> {
    let config = config()?;
    let (queue, wrong, right) = (queue(&config)?, line("classic"), line("right"));
    let (_connection, channel) = by_hand(&config.url).await?;
    let name = &names(&config, &wrong)[0];
    let options = lapin::options::QueueDeclareOptions::durable();
    channel
        .queue_declare(name.as_str().into(), options, lapin::types::FieldTable::default())
        .await?;
    for error in [
        queue
            .publish(&wrong, numbered(0..1))
            .await
            .expect_err("a classic queue"),
        queue
            .receive(want(&wrong, 1, Duration::ZERO))
            .await
            .expect_err("a classic queue"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
        assert!(error.message().contains("another kind"), "{}", error.message());
        assert!(error.full().contains(name.as_str()), "{}", error.full());
    }
    queue.publish(&right, numbered(0..1)).await?;
    let both = Receive {
        lines: vec![(wrong, 1), (right, 1)],
        max: 5,
        wait: SOON,
    };
    assert_eq!(queue.receive(both).await?.len(), 1);
    delete(&config.url, std::slice::from_ref(name)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_publish_is_delivered_as_it_is_and_may_be_given_back() -> Result<()> {
    let config = config()?;
    let (queue, line) = (queue(&config)?, line("foreign"));
    queue.publish(&line, numbered(0..1)).await?;
    queue.acknowledge(&collect(&queue, &line, 1).await?).await?;
    let (_connection, channel) = by_hand(&config.url).await?;
    let mut headers = lapin::types::FieldTable::default();
    headers.insert("n".repeat(255).into(), lapin::types::AMQPValue::LongInt(42));
    let properties = lapin::BasicProperties::default().with_headers(headers);
    channel
        .basic_publish(
            "".into(),
            names(&config, &line)[0].as_str().into(),
            lapin::options::BasicPublishOptions::default(),
            b"\xff not ours",
            properties,
        )
        .await?
        .await?;
    // It has a name that cannot be published by us: it goes back all the same, and neither loops nor vanishes.
    for _ in 0..3 {
        let got = collect(&queue, &line, 1).await?;
        assert_eq!(&got[0].message.body[..], b"\xff not ours");
        let told: Vec<_> = got[0].message.attributes.iter().collect();
        assert_eq!(told, [(&format!("foreign:{}", "n".repeat(255)), &"42".to_owned())]);
        queue.give_back(got).await?;
    }
    queue.acknowledge(&collect(&queue, &line, 1).await?).await?;
    assert!(queue.receive(want(&line, 1, Duration::ZERO)).await?.is_empty());
    // Nor one that is larger than what we publish.
    let large = vec![7; 10 * 1024 * 1024];
    channel
        .basic_publish(
            "".into(),
            names(&config, &line)[0].as_str().into(),
            lapin::options::BasicPublishOptions::default(),
            &large,
            lapin::BasicProperties::default(),
        )
        .await?
        .await?;
    for _ in 0..2 {
        let got = collect(&queue, &line, 1).await?;
        assert_eq!(got[0].message.body, large);
        queue.give_back(got).await?;
    }
    queue.acknowledge(&collect(&queue, &line, 1).await?).await?;
    Ok(())
}
