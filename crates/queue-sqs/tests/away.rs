//! Nobody is there, or the options cannot be: told at once, by the right kind of error. Needs no service.

use std::time::Duration;

use anyhow::Result;
use robata_core::{
    ErrorKind,
    job::Line,
    queue::{Message, Queue, Receive},
};
use robata_queue_sqs::{SqsConfig, SqsQueue};
use tokio::time::Instant;

fn line() -> Line {
    Line {
        queue: "mails".parse().expect("a name"),
        executor: "docker".parse().expect("a name"),
    }
}

fn at(endpoint: String) -> SqsConfig {
    SqsConfig {
        region: Some("us-east-1".to_owned()),
        endpoint: Some(endpoint),
        keys: Some(("test".to_owned(), "test".to_owned())),
        ..SqsConfig::new("x")
    }
}

fn receive(wait: Duration) -> Receive {
    Receive {
        lines: vec![(line(), 1)],
        max: 1,
        wait,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_may_be_made_while_nobody_is_there_and_says_so_at_each_call() -> Result<()> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let queue = SqsQueue::connect(at(format!("http://127.0.0.1:{port}")))?;
    let begun = Instant::now();
    for error in [
        queue
            .publish(&line(), vec![Message::default()])
            .await
            .expect_err("nobody is there"),
        queue
            .receive(receive(Duration::from_secs(60)))
            .await
            .expect_err("nobody is there"),
        queue.depth(&line()).await.expect_err("nobody is there"),
        queue.broker_key(&line()).await.expect_err("nobody is there"),
        queue.check().await.expect_err("nobody is there"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.message().starts_with("SQS cannot be reached"), "{error:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_connections_and_says_nothing_is_left_in_time() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let queue = SqsQueue::connect(SqsConfig {
        response_timeout: Duration::from_millis(500),
        operation_timeout: Duration::from_secs(2),
        ..at(format!("http://{}", listener.local_addr()?))
    })?;
    let begun = Instant::now();
    let error = queue.depth(&line()).await.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().starts_with("SQS did not answer in time"), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}

#[test]
fn options_that_cannot_be_are_refused_before_anybody_is_asked() {
    let fine = at("http://127.0.0.1:1".to_owned());
    for config in [
        at("127.0.0.1:1".to_owned()),
        SqsConfig {
            installation: String::new(),
            ..fine.clone()
        },
        SqsConfig {
            installation: "a.b".to_owned(),
            ..fine.clone()
        },
        SqsConfig {
            installation: "i".repeat(49),
            ..fine.clone()
        },
        SqsConfig {
            visibility: Duration::from_secs(1),
            ..fine.clone()
        },
        SqsConfig {
            visibility: Duration::from_millis(2500),
            ..fine.clone()
        },
        SqsConfig {
            visibility: Duration::from_secs(43_201),
            ..fine.clone()
        },
        SqsConfig {
            operation_timeout: Duration::ZERO,
            ..fine.clone()
        },
        SqsConfig {
            max_message_bytes: 100,
            ..fine.clone()
        },
        SqsConfig {
            max_message_bytes: 2 * 1024 * 1024,
            ..fine.clone()
        },
        SqsConfig {
            ca_pem: Some(b"nothing".to_vec()),
            ..fine.clone()
        },
        SqsConfig {
            ca_pem: Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec()),
            ..fine.clone()
        },
    ] {
        let error = SqsQueue::connect(config.clone()).expect_err("it cannot be");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{config:?}: {error:?}");
    }
    assert!(SqsQueue::connect(fine).is_ok());
}

#[tokio::test]
async fn what_cannot_be_carried_is_refused_before_anybody_is_asked() -> Result<()> {
    // Nobody is there: whatever asks would say so.
    let queue = SqsQueue::connect(at("http://127.0.0.1:1".to_owned()))?;
    let max = queue.capabilities().max_body_bytes;
    let large = Message {
        body: vec![b'x'; max + 1].into(),
        ..Message::default()
    };
    let beside = Message {
        attributes: [("a".to_owned(), "x".repeat(1024 * 1024))].into(),
        ..Message::default()
    };
    for bad in [large, beside] {
        let batch = vec![Message::default(), bad];
        let error = queue.publish(&line(), batch).await.expect_err("it is too large");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    }
    let unweighted = Receive {
        lines: vec![(line(), 0)],
        ..receive(Duration::ZERO)
    };
    let error = queue.receive(unweighted).await.expect_err("a weight of 0");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    queue.publish(&line(), Vec::new()).await?;
    Ok(())
}

#[tokio::test]
async fn a_receipt_of_another_queue_is_refused() -> Result<()> {
    let queue = SqsQueue::connect(at("http://127.0.0.1:1".to_owned()))?;
    for receipt in ["", "1", "another.1", "."] {
        let delivery = robata_core::queue::Delivery {
            line: line(),
            message: Message::default(),
            receipt: robata_core::queue::Receipt(receipt.to_owned()),
        };
        let error = queue
            .acknowledge(&[delivery])
            .await
            .expect_err("it is not of this queue");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    }
    Ok(())
}
