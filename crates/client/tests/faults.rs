//! What the client makes of a server that goes away, talks nonsense, or stops in the middle.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use robata_client::{Client, ClientError, LogEntry, LogsRequest};
use robata_core::{JobId, JobState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// A server that answers each connection's first request with the next of `answers` and hangs up.
async fn server(answers: Vec<String>) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&listener.local_addr().unwrap().to_string(), None).unwrap();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    client
}

fn answer(status: &str, media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A job as a newer server may say it.
fn job(id: JobId, state: &str) -> String {
    format!(
        r#"{{"id": "{id}", "app": "a", "job": "j", "queue": "a", "executor": "docker", "state": "{state}", "reason": null,
            "message": null, "labels": {{}}, "priority": 0, "attempt": 1, "max_attempts": 1, "idempotency_key": null,
            "created_at": "2026-01-01T00:00:00.000Z", "run_at": "2026-01-01T00:00:00.000Z", "expires_at": null,
            "started_at": null, "finished_at": null, "cancel_requested_at": null, "waiting": null, "progress": 7}}"#
    )
}

#[tokio::test]
async fn a_wait_bears_a_server_that_is_being_restarted() {
    let id = JobId::new();
    let problem = r#"{"type": "x", "title": "x", "status": 503, "code": "unavailable", "detail": "x"}"#;
    let client = server(vec![
        String::new(),
        answer("503 Service Unavailable", "application/problem+json", problem),
        answer("200 OK", "application/json", &job(id, "a_new_state")),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{".to_owned(),
        answer("200 OK", "application/json", &job(id, "succeeded")),
    ])
    .await;
    let job = timeout(LONG, client.wait(id)).await.unwrap().unwrap();
    assert_eq!(job.state.known(), Some(JobState::Succeeded));
}

/// A server that says the next of `words` on the connection, each after so long, and hangs up after the last one of a
/// connection.
async fn slow_server(connections: Vec<Vec<(Duration, String)>>) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&listener.local_addr().unwrap().to_string(), None).unwrap();
    tokio::spawn(async move {
        for words in connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            for (after, word) in words {
                tokio::time::sleep(after).await;
                // A client that gave up is what some of the tests are about.
                if stream.write_all(word.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    client
}

// The clock stands still but for what is waited for, so that these minutes take no time.

#[tokio::test(start_paused = true)]
async fn the_patience_of_a_wait_begins_with_the_first_error() {
    let id = JobId::new();
    let breaks_off = vec![(Duration::from_secs(35), String::new())];
    let ended = answer("200 OK", "application/json", &job(id, "succeeded"));
    let client = slow_server(vec![breaks_off.clone(), breaks_off, vec![(Duration::ZERO, ended)]]).await;
    // The second break comes 35 s after the first: the server did not answer for longer than it is borne.
    let error = client.wait(id).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    let job = client.wait(id).await.unwrap();
    assert_eq!(job.state.known(), Some(JobState::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_that_breaks_off_late_is_no_silence() {
    let id = JobId::new();
    let breaks_off = vec![(Duration::from_secs(35), String::new())];
    let runs = vec![(
        Duration::from_secs(20),
        answer("200 OK", "application/json", &job(id, "running")),
    )];
    let ended = vec![(
        Duration::ZERO,
        answer("200 OK", "application/json", &job(id, "succeeded")),
    )];
    let client = slow_server(vec![breaks_off.clone(), runs, breaks_off, ended]).await;
    let job = client.wait(id).await.unwrap();
    assert_eq!(job.state.known(), Some(JobState::Succeeded));
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_log_may_take_as_long_as_it_is_if_its_pieces_come() {
    let piece = (Duration::from_secs(50), "1\r\na\r\n".to_owned());
    let mut words = vec![(Duration::from_secs(50), CHUNKED.to_owned())];
    words.extend(std::iter::repeat_n(piece, 20));
    words.push((Duration::from_secs(50), "0\r\n\r\n".to_owned()));
    let client = slow_server(vec![words]).await;
    let log = client.logs(JobId::new(), &LogsRequest::default()).await.unwrap();
    let pieces: Vec<_> = log.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), [b'a'; 20]);
}

#[tokio::test(start_paused = true)]
async fn a_log_whose_next_piece_does_not_come_ends_with_an_error() {
    let words = vec![
        (Duration::ZERO, CHUNKED.to_owned()),
        (Duration::from_secs(3600), "1\r\na\r\n".to_owned()),
    ];
    let client = slow_server(vec![words]).await;
    let begin = tokio::time::Instant::now();
    let log = client.logs(JobId::new(), &LogsRequest::default()).await.unwrap();
    let error = log.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, ClientError::BrokeOff { .. }), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(120), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_followed_may_be_silent_for_hours() {
    let hours = Duration::from_secs(5 * 3600);
    let words = vec![
        (hours, CHUNKED.to_owned()),
        (hours, "1\r\na\r\n".to_owned()),
        (hours, "0\r\n\r\n".to_owned()),
    ];
    let client = slow_server(vec![words]).await;
    let request = LogsRequest {
        follow: true,
        ..LogsRequest::default()
    };
    let log = client.logs(JobId::new(), &request).await.unwrap();
    let pieces: Vec<_> = log.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), b"a");
}

#[tokio::test]
async fn a_wait_ends_with_a_refusal_that_does_not_pass() {
    let problem = r#"{"code": "unknown_job", "status": 404, "detail": "there is no such job"}"#;
    let client = server(vec![answer("404 Not Found", "application/problem+json", problem)]).await;
    let error = timeout(LONG, client.wait(JobId::new())).await.unwrap().unwrap_err();
    assert_eq!(error.problem().unwrap().code, "unknown_job");
    assert_eq!(error.to_string(), "there is no such job");
}

#[tokio::test]
async fn something_that_is_not_robata_is_told_as_that() {
    let client = server(vec![
        answer("200 OK", "text/html", "<html>a router's page</html>"),
        answer("502 Bad Gateway", "text/html", "<html>no</html>"),
    ])
    .await;
    for status in [200, 502] {
        match client.apps().await.unwrap_err() {
            ClientError::Unexpected { status: told, body, .. } => {
                assert_eq!(told, status);
                assert!(body.contains("<html>"), "{body}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_log_that_stops_in_the_middle_is_an_error_not_an_end() {
    let line = r#"{"t":"2026-01-01T00:00:00.000Z","stream":"stdout","offset":0,"data":"a\n"}"#;
    let whole = format!("{line}\n");
    let cut = answer("200 OK", "application/x-ndjson", &whole);
    let half = answer("200 OK", "application/x-ndjson", &format!("{whole}{}", &line[..20]));
    let client = server(vec![cut, half]).await;
    for _ in 0..2 {
        let entries = client.log_entries(JobId::new(), &LogsRequest::default()).await.unwrap();
        let entries: Vec<_> = timeout(LONG, entries.collect()).await.unwrap();
        assert!(
            matches!(
                &entries[..],
                [Ok(LogEntry::Output { .. }), Err(ClientError::BrokeOff { .. })]
            ),
            "{entries:?}"
        );
    }
}

#[tokio::test]
async fn lines_are_put_together_however_they_are_cut() {
    let line = r#"{"t":"2026-01-01T00:00:00.000Z","stream":"stdout","offset":0,"data_base64":"/w=="}"#;
    let gap = r#"{"stream":"stderr","offset":4,"gap":{"bytes":null}}"#;
    let body = format!("{line}\n{gap}\n{}\n", r#"{"end":true,"complete":false,"reason":"gap"}"#);
    // One byte a chunk.
    let chunks: String = body.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let client = server(vec![format!("{head}{chunks}0\r\n\r\n")]).await;
    let entries = client.log_entries(JobId::new(), &LogsRequest::default()).await.unwrap();
    let entries: Vec<LogEntry> = timeout(LONG, entries.try_collect()).await.unwrap().unwrap();
    assert_eq!(entries.len(), 3);
    assert!(matches!(&entries[0], LogEntry::Output { data, .. } if data[..] == [0xff]));
    assert!(matches!(
        &entries[1],
        LogEntry::Gap {
            bytes: None,
            offset: 4,
            ..
        }
    ));
    assert!(matches!(&entries[2], LogEntry::End { complete: false, .. }));
}

#[tokio::test]
async fn a_token_that_no_header_holds_is_told_before_anything_is_sent_and_none_is_ever_printed() {
    for bad in ["", "two words", "a\nb", "é", "a\u{0}"] {
        let made = Client::new("http://127.0.0.1:1", Some(bad));
        assert!(matches!(made, Err(ClientError::InvalidToken)), "{bad:?}");
    }
    let secret = "rbt_secret";
    let client = Client::new("http://127.0.0.1:1", Some(secret)).unwrap();
    assert!(!format!("{client:?}").contains(secret), "{client:?}");
    let error = client.apps().await.unwrap_err();
    assert!(!format!("{error:?} {error}").contains(secret), "{error:?}");
}

#[tokio::test]
async fn a_refusal_for_want_of_a_token_is_told_apart() {
    let problem = r#"{"code": "unauthenticated", "status": 401, "detail": "a valid token is needed"}"#;
    let forbidden = r#"{"code": "forbidden", "status": 403, "detail": "this needs the role read"}"#;
    let client = server(vec![
        answer("401 Unauthorized", "application/problem+json", problem),
        answer("403 Forbidden", "application/problem+json", forbidden),
        answer("401 Unauthorized", "text/html", "<html>a proxy's own</html>"),
    ])
    .await;
    let error = client.apps().await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unauthenticated { with_token: false, .. }),
        "{error:?}"
    );
    assert!(!error.is_passing() && error.problem().unwrap().code == "unauthenticated");
    let error = client.apps().await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, "forbidden");
    assert!(matches!(
        client.apps().await,
        Err(ClientError::Unexpected { status: 401, .. })
    ));
}
