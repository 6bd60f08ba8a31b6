//! What a body costs in memory, whatever it says. One test in this binary, since it looks at the whole process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, sync::Arc};

use robata_api::{Api, ApiConfig, router};
use robata_client::{ApplyRequest, Client};
use robata_logs::{Logs, LogsConfig};
use robata_store_sqlite::{SqliteConfig, SqliteStore};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const MIB: usize = 1 << 20;
/// The largest body, the largest tree of settings, and room for all else.
const BOUND: usize = 220 * MIB;

/// The most memory that this process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// `head`, then `item` with commas between until there are so many bytes, then `tail`; answers the status. It is never
/// whole on this side.
async fn post(address: SocketAddr, path: &str, bytes: usize, head: &str, item: &str, tail: &str) -> u16 {
    let items = (bytes - head.len() - tail.len()) / (item.len() + 1);
    let length = head.len() + items * (item.len() + 1) - 1 + tail.len();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{head}"
    );
    let block = format!("{item},").repeat((MIB / item.len()).clamp(1, items));
    let mut left = items * (item.len() + 1);
    let sent = async {
        stream.write_all(request.as_bytes()).await?;
        while left > block.len() {
            stream.write_all(block.as_bytes()).await?;
            left -= block.len();
        }
        stream.write_all(&block.as_bytes()[..left - 1]).await?;
        stream.write_all(tail.as_bytes()).await
    };
    // What is refused unread is not taken to its end.
    let _refused_before = sent.await;
    let mut answer = Vec::new();
    let _cut_behind_the_answer = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).unwrap_or_default().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_costs_a_bounded_multiple_of_its_bytes_whatever_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig::new(folder.path().join("store")))
        .await
        .unwrap();
    let logs = Logs::folder(folder.path().join("logs"), LogsConfig::default()).unwrap();
    let api = Api::new(Arc::new(store.clone()), Arc::new(logs), ApiConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router(api)).await.unwrap() });
    let document = json!({"apps": {"shop": {"image": "x", "jobs": {"mail": {}}}}});
    let request = ApplyRequest {
        document,
        ..ApplyRequest::default()
    };
    let client = Client::new(&address.to_string(), None).unwrap();
    client.apply(&request, Default::default()).await.unwrap();

    let labels = r#"{"app": "shop", "job": "mail", "labels": {"#;
    let env = r#"{"app": "shop", "job": "mail", "env": {"#;
    let many = |head: &str| format!("{head}{}}}}}", vec!["\"a\":\"\""; 300_000].join(","));
    let unknown = format!(
        r#"{{"app": "shop", "job": "nope", "env": {{{}}}}}"#,
        (0..800).map(|n| format!("\"a{n}\":\"\"")).collect::<Vec<_>>().join(",")
    );
    let largest = 64 * MIB;
    let batch = "/api/v1/jobs/batch";
    let batch_of = "{\"jobs\": [";
    for (what, path, bytes, head, item, tail, status) in [
        ("items", batch, largest, batch_of, "0", "]}", 422),
        ("maps of labels", batch, largest, batch_of, &many(labels), "]}", 200),
        ("maps of variables", batch, largest, batch_of, &many(env), "]}", 200),
        ("unknown definitions", batch, largest, batch_of, &unknown, "]}", 200),
        ("labels", "/api/v1/jobs", 2 * MIB, labels, "\"a\":\"\"", "}}", 422),
        (
            "too many labels",
            "/api/v1/jobs",
            largest,
            labels,
            "\"a\":\"\"",
            "}}",
            413,
        ),
        (
            "a document",
            "/api/v1/apply",
            4 * MIB,
            "{\"document\": [",
            "0",
            "]}",
            422,
        ),
        (
            "a large document",
            "/api/v1/apply",
            largest,
            "{\"document\": [",
            "0",
            "]}",
            413,
        ),
        (
            "a command",
            "/api/v1/apps/shop/run",
            largest,
            "{\"command\": [",
            "\"\"",
            "]}",
            413,
        ),
    ] {
        let before = peak();
        assert_eq!(post(address, path, bytes, head, item, tail).await, status, "{what}");
        let now = peak();
        println!("{what}: {} MiB at most, {} before", now / MIB, before / MIB);
        assert!(now < BOUND, "{what}: {} MiB", now / MIB);
    }
    server.abort();
    store.close().await;
}
