//! Logs as printed and as NDJSON, followed and not.

use futures::{StreamExt, TryStreamExt};
use robata_client::{LogEntry, LogsRequest};
use robata_core::{
    JobId,
    attempt::{AttemptChange, LogState, LogSummary},
    executor::Stream,
    finish::End,
};

use crate::server::{LONG, Server, Worker, refused, shop};

fn follow() -> LogsRequest {
    LogsRequest {
        follow: true,
        ..LogsRequest::default()
    }
}

async fn text(server: &Server, id: JobId, query: &str) -> Vec<u8> {
    let response = server.get(&format!("/api/v1/jobs/{id}/logs{query}")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    response.bytes().await.unwrap().to_vec()
}

async fn entries(server: &Server, id: JobId, request: &LogsRequest) -> Vec<LogEntry> {
    let entries = server.client.log_entries(id, request).await.unwrap();
    tokio::time::timeout(LONG, entries.try_collect())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn a_log_comes_as_printed_and_says_in_ndjson_that_it_is_whole() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    let held = worker.start(id).await;
    worker.print(&held, Stream::Stdout, 0, b"one\n").await;
    worker.print(&held, Stream::Stderr, 0, b"\xff!\n").await;
    worker.print(&held, Stream::Stdout, 4, b"two, no newline").await;
    worker.end(&held, End::Exited(0)).await;
    worker.finalise(&held).await;

    assert_eq!(text(&server, id, "?stream=stdout").await, b"one\ntwo, no newline");
    assert_eq!(text(&server, id, "?stream=stdout&offset=4").await, b"two, no newline");
    assert_eq!(text(&server, id, "?stream=stderr&attempt=1").await, b"\xff!\n");
    assert_eq!(text(&server, id, "").await.len(), 22);
    // Over already: following ends at once.
    assert_eq!(text(&server, id, "?follow=true").await.len(), 22);

    let all = entries(&server, id, &LogsRequest::default()).await;
    let end = LogEntry::End {
        complete: true,
        reason: None,
    };
    assert_eq!(all.last(), Some(&end));
    let stderr: Vec<_> = all
        .iter()
        .filter_map(|entry| match entry {
            LogEntry::Output { stream, data, .. } if stream == "stderr" => Some(&data[..]),
            _ => None,
        })
        .collect();
    assert_eq!(stderr.concat(), b"\xff!\n");
}

#[tokio::test]
async fn a_follower_gets_lines_while_they_are_printed_and_the_end() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    // It begins before there is an attempt.
    let mut entries = Box::pin(server.client.log_entries(id, &follow()).await.unwrap());
    server.waiters(1).await;
    let held = worker.start(id).await;
    for (offset, line) in [(0, "a\n"), (2, "b\n")] {
        worker.print(&held, Stream::Stdout, offset, line.as_bytes()).await;
        let entry = tokio::time::timeout(LONG, entries.next()).await.unwrap();
        match entry.unwrap().unwrap() {
            LogEntry::Output { data, offset: at, .. } => assert_eq!((at, &data[..]), (offset, line.as_bytes())),
            other => panic!("{other:?}"),
        }
    }
    worker.end(&held, End::Exited(0)).await;
    worker.finalise(&held).await;
    let rest: Vec<LogEntry> = tokio::time::timeout(LONG, entries.try_collect())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(rest[..], [LogEntry::End { complete: true, .. }]), "{rest:?}");
}

#[tokio::test]
async fn following_a_job_that_never_starts_ends_with_the_job() {
    let server = shop().await;
    let id = server.mail().await;
    let following = tokio::spawn({
        let client = server.client.clone();
        async move {
            let entries = client.log_entries(id, &follow()).await.unwrap();
            entries.try_collect::<Vec<_>>().await.unwrap()
        }
    });
    server.waiters(1).await;
    server.client.cancel(id).await.unwrap();
    let entries = tokio::time::timeout(LONG, following).await.unwrap().unwrap();
    assert!(
        matches!(entries[..], [LogEntry::End { complete: true, .. }]),
        "{entries:?}"
    );
}

#[tokio::test]
async fn an_open_log_says_that_it_is_not_whole() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    let none = entries(&server, id, &LogsRequest::default()).await;
    assert!(
        matches!(
            &none[..],
            [LogEntry::End {
                complete: false,
                reason: Some(_)
            }]
        ),
        "{none:?}"
    );
    let held = worker.start(id).await;
    worker.print(&held, Stream::Stdout, 0, b"a").await;
    let some = entries(&server, id, &LogsRequest::default()).await;
    assert!(
        matches!(
            &some[..],
            [LogEntry::Output { .. }, LogEntry::End { complete: false, .. }]
        ),
        "{some:?}"
    );
}

#[tokio::test]
async fn a_log_that_was_never_sealed_does_not_hold_its_followers() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    let held = worker.start(id).await;
    worker.print(&held, Stream::Stdout, 0, b"a").await;
    let following = tokio::spawn({
        let client = server.client.clone();
        async move {
            let entries = client.log_entries(id, &follow()).await.unwrap();
            entries.try_collect::<Vec<_>>().await.unwrap()
        }
    });
    worker.end(&held, End::Exited(0)).await;
    let reason = "the log folder cannot be written";
    let summary = LogSummary {
        state: LogState::Incomplete,
        reason: Some(reason.into()),
        bytes: 1,
    };
    worker.write(&held, AttemptChange::Finalised(summary)).await;
    let entries = tokio::time::timeout(LONG, following).await.unwrap().unwrap();
    let end = LogEntry::End {
        complete: false,
        reason: Some(reason.into()),
    };
    assert_eq!(entries.last(), Some(&end));
    // Whoever comes later is told the same.
    let later = crate::logs::entries(&server, id, &LogsRequest::default()).await;
    assert_eq!(later.last(), Some(&end));
}

#[tokio::test]
async fn a_shutdown_cuts_followers_so_that_they_notice() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    let held = worker.start(id).await;
    worker.print(&held, Stream::Stdout, 0, b"a").await;
    let mut lines = Box::pin(server.client.log_entries(id, &follow()).await.unwrap());
    let mut printed = Box::pin(server.client.logs(id, &follow()).await.unwrap());
    assert!(matches!(lines.next().await, Some(Ok(LogEntry::Output { .. }))));
    assert_eq!(printed.next().await.unwrap().unwrap(), "a");
    server.shutdown.cancel();
    match tokio::time::timeout(LONG, lines.next()).await.unwrap() {
        Some(Ok(LogEntry::End {
            complete: false,
            reason: Some(reason),
        })) => {
            assert!(reason.contains("shutting down"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let cut = tokio::time::timeout(LONG, printed.next()).await.unwrap();
    assert!(
        matches!(cut, Some(Err(robata_client::ClientError::BrokeOff { .. }))),
        "{cut:?}"
    );
}

#[tokio::test]
async fn bad_questions_for_logs_are_refused() {
    let server = shop().await;
    let id = server.mail().await;
    for query in [
        "?offset=3",
        "?stream=both",
        "?attempt=0",
        "?attempt=x",
        "?follow=maybe",
        "?offset=-1&stream=stdout",
        "?x=1",
    ] {
        let response = server.get(&format!("/api/v1/jobs/{id}/logs{query}")).await;
        refused(response, 400, "invalid_query").await;
    }
    refused(
        server.get(&format!("/api/v1/jobs/{id}/logs?attempt=9")).await,
        404,
        "unknown_attempt",
    )
    .await;
}

#[tokio::test]
async fn a_retry_has_a_log_of_its_own() {
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    for (number, code) in [(1, 1), (2, 0)] {
        let held = worker.start(id).await;
        assert_eq!(held.id.number, number);
        worker
            .print(&held, Stream::Stdout, 0, format!("try {number}").as_bytes())
            .await;
        worker.end(&held, End::Exited(code)).await;
        worker.finalise(&held).await;
        if number == 1 {
            server.client.retry(id).await.unwrap();
        }
    }
    assert_eq!(text(&server, id, "").await, b"try 2");
    assert_eq!(text(&server, id, "?attempt=1").await, b"try 1");
}

#[tokio::test]
async fn the_worker_is_asked_to_write_often_while_somebody_follows() {
    use robata_core::store::{Hint, Store};
    let server = shop().await;
    let worker = Worker::new(&server).await;
    let id = server.mail().await;
    let held = worker.start(id).await;
    let mut hints = server.store.hints();
    let _following = server.client.log_entries(id, &follow()).await.unwrap();
    let told = async {
        while let Some(hint) = hints.next().await {
            if hint == Hint::Attempt(held.id) {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(LONG, told).await.unwrap());
}
