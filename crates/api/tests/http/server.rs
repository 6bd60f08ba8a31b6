//! A server on a free port, and a worker by hand.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Method, Response};
use robata_api::{Api, ApiConfig, DegradedPath, router};
use robata_client::{Client, Problem};
use robata_core::{
    ClaimId, IncarnationId, JobId, Role,
    access::{NewToken, TokenHash},
    attempt::{AttemptChange, AttemptWrite, Claim, Claimed, HeldAttempt, LogState, LogSummary},
    executor::{Handle, Position, RealmId, Stream},
    finish::{End, Outcome},
    job::{Line, Reference},
    log_store::{Chunk, LogStore, Piece, Seal},
    store::{AccessStore, AttemptStore, JobStore, Register, Store, WorkerExecutor},
};
use robata_logs::{Logs, LogsConfig};
use robata_store_sqlite::{SqliteConfig, SqliteStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) http: reqwest::Client,
    pub(crate) store: SqliteStore,
    pub(crate) logs: Logs,
    pub(crate) shutdown: CancellationToken,
    pub(crate) folder: TempDir,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn start() -> Server {
    start_with(|_| ()).await
}

pub(crate) async fn start_with(configure: impl FnOnce(&mut ApiConfig)) -> Server {
    start_over(configure, |store| Arc::new(store)).await
}

/// The same over a store that stands before the real one.
pub(crate) async fn start_over(
    configure: impl FnOnce(&mut ApiConfig),
    before: impl FnOnce(SqliteStore) -> Arc<dyn Store>,
) -> Server {
    start_with_path(configure, before, None).await
}

/// The same with a way for jobs while the store does not serve.
pub(crate) async fn start_with_path(
    configure: impl FnOnce(&mut ApiConfig),
    before: impl FnOnce(SqliteStore) -> Arc<dyn Store>,
    degraded: Option<DegradedPath>,
) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig::new(folder.path().join("store")))
        .await
        .unwrap();
    let logs = Logs::folder(
        folder.path().join("logs"),
        LogsConfig::default().with_poll(Duration::from_millis(50)),
    )
    .unwrap();
    let mut config = ApiConfig::default();
    configure(&mut config);
    let mut api = Api::new(before(store.clone()), Arc::new(logs.clone()), config);
    api.degraded = degraded;
    let shutdown = api.shutdown.clone();
    let (address, task) = serve(api).await;
    Server {
        client: Client::new(&format!("http://{address}"), None).unwrap(),
        http: robata_testkit::http().build().unwrap(),
        address,
        store,
        logs,
        shutdown,
        folder,
        task,
    }
}

/// Another master over the same store.
pub(crate) async fn serve(api: Api) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (
        address,
        tokio::spawn(async move { axum::serve(listener, router(api)).await.unwrap() }),
    )
}

/// A server with an app `shop` that has the definitions `resize` (env LOCALE, queue images) and `mail`.
pub(crate) async fn shop() -> Server {
    let server = start().await;
    server.apply(document()).await;
    server
}

pub(crate) fn document() -> Value {
    json!({"apps": {"shop": {"image": "shop:1", "jobs": {
        "resize": {"command": ["resize"], "queue": "images", "env_allow": ["LOCALE"], "retry": {"max_attempts": 3}},
        "mail": {},
    }}}})
}

impl Server {
    pub(crate) async fn apply(&self, document: Value) {
        let request = robata_client::ApplyRequest {
            document,
            ..Default::default()
        };
        self.client.apply(&request, Default::default()).await.unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: &str) -> Response {
        self.http
            .request(method, self.url(path))
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
            .await
            .unwrap()
    }

    /// A token made past the API, with a secret that says what it is.
    pub(crate) async fn token(&self, name: &str, role: Role, app: Option<&str>) -> String {
        let secret = format!("rbt_secret-of-{name}");
        let new = NewToken {
            name: name.parse().unwrap(),
            role,
            app: app.map(|app| app.parse().unwrap()),
            hash: TokenHash::of(&secret),
            lasts: None,
        };
        self.store.create_token(new, "test").await.unwrap();
        secret
    }

    /// What the bearer of a token is answered.
    pub(crate) async fn send_as(&self, token: &str, method: Method, path: &str, body: &str) -> Response {
        let request = self.http.request(method, self.url(path)).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(body.to_owned());
        request.send().await.unwrap()
    }

    pub(crate) async fn get_as(&self, token: &str, path: &str) -> Response {
        self.http.get(self.url(path)).bearer_auth(token).send().await.unwrap()
    }

    /// A client with a token.
    pub(crate) fn client_as(&self, token: &str) -> Client {
        Client::new(&self.url(""), Some(token)).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Response {
        self.send(Method::POST, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    /// Enqueues this body, which is good, and answers the job.
    pub(crate) async fn enqueue(&self, body: &str) -> Value {
        let response = self.post("/api/v1/jobs", body).await;
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    pub(crate) async fn mail(&self) -> JobId {
        id(&self.enqueue(r#"{"app": "shop", "job": "mail"}"#).await)
    }

    /// Everything that the server says to these bytes, until it closes the connection.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(LONG, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Waits until so many requests wait for a job.
    pub(crate) async fn waiters(&self, count: usize) {
        let line = format!("robata_http_waiting {count}");
        until("requests wait", || async {
            let metrics = self.get("/metrics").await.text().await.unwrap();
            metrics.lines().any(|found| found == line)
        })
        .await;
    }
}

pub(crate) fn id(job: &Value) -> JobId {
    job["id"].as_str().unwrap().parse().unwrap()
}

/// The problem of a refusal with this status and code.
pub(crate) async fn refused(response: Response, status: u16, code: &str) -> Problem {
    let (got, media_type) = (
        response.status().as_u16(),
        response.headers()["content-type"].to_str().unwrap().to_owned(),
    );
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{text}");
    assert_eq!(media_type, "application/problem+json", "{text}");
    let problem: Problem = serde_json::from_str(&text).unwrap();
    assert_eq!((problem.status, &*problem.code), (status, code), "{text}");
    problem
}

/// Waits until `seen` says so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut seen: impl FnMut() -> F) {
    let begun = Instant::now();
    while !seen().await {
        assert!(begun.elapsed() < LONG, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A worker by hand.
pub(crate) struct Worker<'s> {
    server: &'s Server,
    incarnation: IncarnationId,
}

impl<'s> Worker<'s> {
    pub(crate) async fn new(server: &'s Server) -> Self {
        let incarnation = IncarnationId::new();
        let executor = WorkerExecutor {
            realm: Some(RealmId("realm".into())),
            slots: 4,
        };
        let register = Register {
            incarnation,
            host: "here".into(),
            pid: 7,
            executors: BTreeMap::from([("docker".parse().unwrap(), executor)]),
            format: robata_core::Format::OWN,
        };
        server.store.register(register).await.unwrap();
        Self { server, incarnation }
    }

    /// Claims a queued job's next attempt and starts it.
    pub(crate) async fn start(&self, job: JobId) -> HeldAttempt {
        let record = self.server.store.job(job).await.unwrap().job;
        let line: Line = record.line;
        let reference = Reference {
            job,
            attempt: record.attempt + 1,
        };
        let claim = Claim {
            claim: ClaimId::new(),
            incarnation: self.incarnation,
            references: vec![(line, reference)],
        };
        let held = match self.server.store.claim(claim).await.unwrap().remove(0) {
            Claimed::Held(held) => *held,
            other => panic!("not claimed: {other:?}"),
        };
        let prepared = AttemptChange::Prepared {
            realm: RealmId("realm".into()),
            handle: Handle(format!("thing-{}", held.id)),
            image_digest: None,
        };
        self.write(&held, prepared).await;
        self.write(&held, AttemptChange::Started { at: held.now }).await;
        held
    }

    pub(crate) async fn write(&self, held: &HeldAttempt, change: AttemptChange) {
        let write = AttemptWrite {
            attempt: held.id,
            epoch: held.epoch,
            incarnation: self.incarnation,
            change,
        };
        self.server.store.record(vec![write]).await.unwrap().remove(0).unwrap();
    }

    pub(crate) async fn print(&self, held: &HeldAttempt, stream: Stream, offset: u64, text: &[u8]) {
        let piece = Piece {
            at: held.now.plus(Duration::from_millis(offset)),
            stream,
            offset,
            data: text.to_vec().into(),
        };
        let chunk = Chunk {
            attempt: held.id,
            epoch: held.epoch,
            pieces: vec![piece],
            position: Position::default(),
        };
        self.server.logs.append(chunk).await.unwrap();
    }

    pub(crate) async fn end(&self, held: &HeldAttempt, end: End) {
        self.write(held, AttemptChange::Ended(Outcome::new(end))).await;
    }

    /// Seals the log and finalises.
    pub(crate) async fn finalise(&self, held: &HeldAttempt) {
        let seal = Seal {
            attempt: held.id,
            epoch: held.epoch,
            summary: LogSummary {
                state: LogState::Complete,
                reason: None,
                bytes: 0,
            },
            reach: None,
        };
        let summary = self.server.logs.seal(seal).await.unwrap();
        self.write(held, AttemptChange::Finalised(summary)).await;
    }
}
