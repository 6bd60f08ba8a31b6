//! Nobody is there, or the settings cannot be: told at once, by the right kind of error. Needs no server.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use robata_core::{
    ErrorKind,
    job::Line,
    queue::{Message, Queue, Receive},
};
use robata_queue_rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use tokio::time::Instant;

fn line() -> Line {
    Line {
        queue: "mails".parse().expect("a name"),
        executor: "docker".parse().expect("a name"),
    }
}

fn message(body: Vec<u8>, attribute: String) -> Message {
    Message {
        body: body.into(),
        attributes: BTreeMap::from([(attribute, String::new())]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_may_be_made_while_nobody_is_there_and_says_so_at_each_call() -> Result<()> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let queue = RabbitMqQueue::connect(RabbitMqConfig::new(format!("amqp://127.0.0.1:{port}"), "x"))?;
    let begun = Instant::now();
    for _ in 0..3 {
        let batch = vec![message(Vec::new(), "a".to_owned())];
        let receive = Receive {
            lines: vec![(line(), 1)],
            max: 1,
            wait: Duration::from_secs(60),
        };
        for error in [
            queue.publish(&line(), batch).await.expect_err("nobody is there"),
            queue.receive(receive).await.expect_err("nobody is there"),
            queue.depth(&line()).await.expect_err("nobody is there"),
            queue.broker_key(&line()).await.expect_err("nobody is there"),
            queue.check().await.expect_err("nobody is there"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_connections_and_says_nothing_is_left_in_time() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("amqp://{}", listener.local_addr()?);
    let queue = RabbitMqQueue::connect(RabbitMqConfig {
        connect_timeout: Duration::from_millis(500),
        ..RabbitMqConfig::new(url, "x")
    })?;
    let begun = Instant::now();
    let error = queue.depth(&line()).await.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}

#[test]
fn settings_that_cannot_be_are_refused_before_anybody_is_asked() {
    let fine = RabbitMqConfig::new("amqp://127.0.0.1", "x");
    for config in [
        RabbitMqConfig::new("redis://127.0.0.1", "x"),
        RabbitMqConfig::new("", "x"),
        RabbitMqConfig::new("amqp://127.0.0.1", ""),
        RabbitMqConfig::new("amqp://127.0.0.1", "a/b"),
        RabbitMqConfig::new("amqp://127.0.0.1", "i".repeat(65)),
        RabbitMqConfig {
            max_receivers: 0,
            ..fine.clone()
        },
        RabbitMqConfig {
            ca_pem: Some(b"nothing".to_vec()),
            ..fine.clone()
        },
    ] {
        let error = RabbitMqQueue::connect(config.clone()).expect_err("it cannot be");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{config:?}: {error:?}");
    }
    assert!(RabbitMqQueue::connect(fine).is_ok());
}

#[tokio::test]
async fn what_cannot_be_carried_is_refused_before_anybody_is_asked() -> Result<()> {
    // Nobody is there: whatever asks would say so.
    let queue = RabbitMqQueue::connect(RabbitMqConfig {
        max_body_bytes: 3,
        ..RabbitMqConfig::new("amqp://127.0.0.1:1", "x")
    })?;
    for bad in [
        message(vec![0; 4], "a".to_owned()),
        message(Vec::new(), "n".repeat(254)),
    ] {
        let batch = vec![message(Vec::new(), "a".to_owned()), bad];
        let error = queue.publish(&line(), batch).await.expect_err("it is too large");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    }
    let receive = Receive {
        lines: vec![(line(), 0)],
        max: 1,
        wait: Duration::ZERO,
    };
    let error = queue.receive(receive).await.expect_err("a weight of 0");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    Ok(())
}
