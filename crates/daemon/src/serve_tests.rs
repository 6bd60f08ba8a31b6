//! What a client may hold, over real sockets.

use std::net::SocketAddr;

use axum::routing::get;
use futures::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::mpsc,
    task::JoinHandle,
};

use super::*;
use crate::bind;

/// Nothing here takes longer, on a slow machine under load either.
const DEADLINE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

/// No limit that a test meets by chance.
fn limits() -> Limits {
    Limits {
        connections: 100,
        reserve: 1,
        head: DEADLINE * 2,
        reserve_head: DEADLINE * 2,
        rest: DEADLINE * 2,
        stalled: DEADLINE * 2,
    }
}

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn server(limits: Limits, more: Router) -> Server {
    let listener = bind(&"127.0.0.1:0".parse().unwrap(), &robata_settings::Settings::default())
        .await
        .unwrap();
    let address = listener.url().unwrap()["http://".len()..].parse().unwrap();
    let router = more
        .route("/healthz", get(async || "alive"))
        .route("/", get(async || "hello"));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, router, limits, stop.clone()));
    Server { address, stop, serving }
}

impl Server {
    async fn client(&self) -> Client<TcpStream> {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// A client that was answered, so that it has its place.
    async fn settled(&self) -> Client<TcpStream> {
        let mut client = self.client().await;
        assert_eq!(client.get("/").await.0, 200);
        client
    }
}

struct Client<I>(I);

impl<I: AsyncReadExt + AsyncWriteExt + Unpin> Client<I> {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The status and head of an answer, its body read.
    async fn answer(&mut self) -> (u16, String) {
        let reading = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.unwrap();
            (head["http/1.1 ".len()..][..3].parse().unwrap(), head)
        };
        timeout(DEADLINE, reading).await.expect("no answer")
    }

    async fn get(&mut self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            .await;
        self.answer().await
    }

    /// Waits until the server ends the connection; answers what came before.
    async fn ended(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A connection that was reset has ended, too.
        let _ = timeout(DEADLINE, self.0.read_to_end(&mut rest))
            .await
            .expect("the connection does not end");
        rest
    }
}

#[tokio::test]
async fn half_a_request_line_and_then_silence_is_ended() {
    let limits = Limits {
        head: SHORT,
        ..limits()
    };
    let server = server(limits, Router::new()).await;
    for begun in ["", "GET /hea", "GET / HTTP/1.1\r\nhost: local"] {
        let mut client = server.client().await;
        client.send(begun).await;
        assert_eq!(client.ended().await, b"", "after {begun:?}");
    }
}

#[tokio::test]
async fn a_connection_that_does_not_get_as_far_as_tls_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let settings = robata_settings::TlsSettings {
        certificate: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
    };
    std::fs::write(&settings.certificate, made.cert.pem()).unwrap();
    std::fs::write(&settings.key, made.signing_key.serialize_pem()).unwrap();
    let mut listener = bind(&"127.0.0.1:0".parse().unwrap(), &robata_settings::Settings::default())
        .await
        .unwrap();
    listener.tls = Some(Tls::open(&settings).unwrap());
    let address: SocketAddr = listener.url().unwrap()["https://".len()..].parse().unwrap();
    let limits = Limits {
        head: SHORT,
        ..limits()
    };
    let serving = tokio::spawn(serve(listener, Router::new(), limits, CancellationToken::new()));
    // Silence, and the beginning of a handshake that never goes on.
    for begun in ["", "\x16\x03\x01"] {
        let mut client = Client(TcpStream::connect(address).await.unwrap());
        client.send(begun).await;
        assert_eq!(client.ended().await, b"", "after {begun:?}");
    }
    serving.abort();
}

#[tokio::test]
async fn a_head_byte_by_byte_is_ended_however_soon_each_byte_follows() {
    let limits = Limits {
        head: SHORT,
        ..limits()
    };
    let server = server(limits, Router::new()).await;
    let mut client = server.settled().await;
    // A later head of a connection has the same limit.
    let dripping = async {
        while client.0.write_all(b"G").await.is_ok() {
            sleep(SHORT / 20).await;
        }
    };
    timeout(DEADLINE, dripping).await.expect("it goes on for ever");
}

#[tokio::test]
async fn a_connection_rests_longer_than_a_head_may_take_but_not_for_ever() {
    let limits = Limits {
        head: SHORT,
        rest: SHORT * 5,
        ..limits()
    };
    let server = server(limits, Router::new()).await;
    let mut resting = server.settled().await;
    // When this one is ended, a head's time has passed.
    server.client().await.ended().await;
    assert_eq!(resting.get("/").await.0, 200);
    assert_eq!(resting.ended().await, b"");
}

#[tokio::test]
async fn a_request_takes_its_time_whatever_a_head_may_take() {
    let limits = Limits {
        head: SHORT,
        rest: SHORT,
        ..limits()
    };
    let slow = get(async || {
        sleep(SHORT * 3).await;
        "done"
    });
    let server = server(limits, Router::new().route("/slow", slow)).await;
    assert_eq!(server.client().await.get("/slow").await.0, 200);
}

#[tokio::test]
async fn beyond_the_bound_probes_are_answered_others_told_and_those_that_are_open_go_on() {
    let limits = Limits {
        connections: 2,
        ..limits()
    };
    let (pieces, taken) = mpsc::channel::<&str>(1);
    let taken = Arc::new(tokio::sync::Mutex::new(Some(taken)));
    let follow = get(async move || {
        let taken = taken.lock().await.take().unwrap();
        let pieces = stream::unfold(taken, async |mut taken| {
            Some((Ok::<_, Infallible>(taken.recv().await?), taken))
        });
        Body::from_stream(pieces)
    });
    let server = server(limits, Router::new().route("/follow", follow)).await;
    let mut follower = server.settled().await;
    follower.send("GET /follow HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    pieces.send("one").await.unwrap();
    assert_eq!(follower.answer().await.0, 200);
    let mut other = server.client().await;
    other.send("GET ").await;

    let mut third = server.client().await;
    let (status, head) = third.get("/").await;
    assert_eq!(status, 503);
    assert!(
        head.contains("connection: close") && head.contains("retry-after: 1"),
        "{head}"
    );
    assert!(head.contains("application/problem+json"), "{head}");
    third.ended().await;
    for _ in 0..3 {
        assert_eq!(server.client().await.get("/healthz").await.0, 200);
    }

    other.send("/ HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let (status, head) = other.answer().await;
    assert_eq!(status, 200);
    assert!(head.contains("connection: close"), "places come round: {head}");
    other.ended().await;
    pieces.send("two").await.unwrap();
    drop(pieces);
    let mut followed = String::new();
    while !followed.ends_with("0\r\n\r\n") {
        followed.push(
            timeout(DEADLINE, follower.0.read_u8())
                .await
                .expect("it ends")
                .unwrap()
                .into(),
        );
    }
    assert!(followed.contains("one") && followed.contains("two"), "{followed:?}");
    drop(follower);
    // Their places are free again, once it is seen that they have gone.
    let free = async { while server.client().await.get("/").await.0 != 200 {} };
    timeout(DEADLINE, free).await.expect("no place is free again");
}

#[tokio::test]
async fn beyond_the_reserve_a_connection_waits_until_one_is_ended() {
    let limits = Limits {
        connections: 1,
        reserve_head: SHORT,
        ..limits()
    };
    let server = server(limits, Router::new()).await;
    let mut first = server.client().await;
    first.send("GET ").await;
    // Holds the reserve until its time is over.
    let mut silent = server.client().await;
    let mut waits = server.client().await;
    assert_eq!(waits.get("/healthz").await.0, 200);
    assert_eq!(silent.ended().await, b"");
    first.send("/ HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(first.answer().await.0, 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_loses_it() {
    /// Tells when an answer is given up.
    struct Gone(mpsc::UnboundedSender<()>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let limits = Limits {
        stalled: SHORT,
        ..limits()
    };
    let (gone, mut told) = mpsc::unbounded_channel();
    let endless = get(async move || {
        let gone = Gone(gone.clone());
        Body::from_stream(stream::repeat_with(move || {
            let _until_it_ends = &gone;
            Ok::<_, Infallible>(vec![b'x'; BUFFER])
        }))
    });
    let server = server(limits, Router::new().route("/endless", endless)).await;
    let mut client = server.client().await;
    client.send("GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    timeout(DEADLINE, told.recv())
        .await
        .expect("it is written for ever")
        .unwrap();
}

#[tokio::test]
async fn told_to_stop_it_ends_what_rests_at_once_and_answers_what_was_asked() {
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let (go, may_go) = mpsc::channel::<()>(1);
    let may_go = Arc::new(tokio::sync::Mutex::new(may_go));
    let slow = get(async move || {
        asked.send(()).unwrap();
        may_go.lock().await.recv().await;
        "done"
    });
    let server = server(limits(), Router::new().route("/slow", slow)).await;
    let mut resting = server.settled().await;
    let mut waiting = server.client().await;
    waiting.send("GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    is_asked.recv().await.unwrap();
    server.stop.cancel();
    assert_eq!(resting.ended().await, b"");
    assert!(TcpStream::connect(server.address).await.is_err());
    go.send(()).await.unwrap();
    assert_eq!(waiting.answer().await.0, 200);
    timeout(DEADLINE, server.serving).await.expect("it serves on").unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_served_alike_and_goes_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.sock");
    let listener = bind(
        &format!("unix:{}", path.display()).parse().unwrap(),
        &robata_settings::Settings::default(),
    )
    .await
    .unwrap();
    let stop = CancellationToken::new();
    let router = Router::new().route("/", get(async || "hello"));
    let serving = tokio::spawn(listener.serve(router, stop.clone()));
    let mut client = Client(UnixStream::connect(&path).await.unwrap());
    assert_eq!(client.get("/").await.0, 200);
    stop.cancel();
    client.ended().await;
    timeout(DEADLINE, serving).await.expect("it serves on").unwrap();
    assert!(!path.exists());
}
