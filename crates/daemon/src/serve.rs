//! Serving HTTP with a bound on everything that a client can hold: connections, and the time of each step.
//!
//! Beyond the bound a connection is taken all the same, into a small reserve: there `/healthz`, `/readyz` and `/metrics`
//! are answered as ever, since who watches us must not take a crowd for our end, and all else is told at once to come back
//! (503 with `Retry-After`), which a wait in the kernel's line would not tell. A connection of the reserve has one answer
//! and little time. Only beyond the reserve is nothing accepted until a place is free. Near the bound each answer ends its
//! connection, so that clients that keep many open share the places with those that come.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, StatusCode, header},
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use nix::sys::resource::{Resource, getrlimit};
use robata_api_types::{Problem, problem::PROBLEM_JSON};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    listener::{Connection, Listener, Socket},
    patience::{Patient, Stage},
    tls::Tls,
};

/// What follows a log may hold its connection open; stopping does not wait longer for it.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// After a failed accept: out of files, mostly, which others must give back first.
const PAUSE: Duration = Duration::from_secs(1);
/// A head is no longer than this, and so much of a body or an answer is kept for one connection.
const BUFFER: usize = 64 << 10;
/// What is answered beyond the bound, too.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Connections at once, where this process may have files enough.
const MOST: usize = 2_048;

/// What clients may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Beyond them, with one answer each.
    pub(crate) reserve: usize,
    /// A request's head arrives within this time from its first byte, a connection's first one from its opening.
    pub(crate) head: Duration,
    /// The same in the reserve.
    pub(crate) reserve_head: Duration,
    /// A connection without a request is kept for this time.
    pub(crate) rest: Duration,
    /// A client that takes nothing of its answer for this time has gone.
    pub(crate) stalled: Duration,
}

impl Limits {
    /// As this process's limit of open files allows: half of them, since store, broker and engines need theirs.
    pub(crate) fn here() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
        let half = usize::try_from(files / 2).unwrap_or(MOST);
        Self {
            connections: half.clamp(1, MOST),
            reserve: 32,
            head: Duration::from_secs(10),
            reserve_head: Duration::from_secs(2),
            // Longer than the 60 and 90 s of the usual clients' pools, so that they end theirs first.
            rest: Duration::from_secs(120),
            stalled: Duration::from_secs(120),
        }
    }
}

impl Listener {
    /// Serves until told to stop; what is still being answered then has a moment to end.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let path = match &self.socket {
            Socket::Tcp(_) => None,
            Socket::Unix(_, path) => Some(path.clone()),
        };
        serve(self, router, Limits::here(), stop).await;
        if let Some(path) = path {
            // The next start removes it as well.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The same with these limits, and without the end of a socket's file.
async fn serve(listener: Listener, router: Router, limits: Limits, stop: CancellationToken) {
    let room = Room {
        places: Arc::new(Semaphore::new(limits.connections)),
        reserve: Arc::new(Semaphore::new(limits.reserve)),
        limits,
    };
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut crowded = false;
    loop {
        while let Some(ended) = connections.try_join_next() {
            seen(ended);
        }
        let taken = async {
            let connection = listener.accept().await?;
            io::Result::Ok((connection, room.place().await))
        };
        let (connection, place) = tokio::select! {
            () = stop.cancelled() => break,
            taken = taken => match taken {
                Ok(taken) => taken,
                Err(error) => {
                    accept_failed(&error).await;
                    continue;
                }
            },
        };
        if place.is_reserve && !crowded {
            let most = limits.connections;
            tracing::warn!(
                most,
                "all connections are taken: others are told to come back; more than half the process's open files \
                 (LimitNOFILE) are not given to clients"
            );
        }
        crowded = place.is_reserve;
        let tls = listener.tls.clone();
        connections.spawn(begin(
            connection,
            tls,
            router.clone(),
            room.clone(),
            place,
            graceful.watcher(),
        ));
    }
    // Refused from here on, not left waiting.
    drop(listener);
    // What is still open after that is dropped with its task.
    let _ = timeout(LAST_ANSWERS, graceful.shutdown()).await;
}

/// The places that connections take.
#[derive(Clone, Debug)]
struct Room {
    places: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    limits: Limits,
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    is_reserve: bool,
}

impl Room {
    /// A place, else one of the reserve, else whichever becomes free first.
    async fn place(&self) -> Place {
        let of = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).acquire_owned();
        let (permit, is_reserve) = tokio::select! {
            biased;
            permit = of(&self.places) => (permit, false),
            permit = of(&self.reserve) => (permit, true),
        };
        Place {
            // They are never closed.
            _permit: permit.ok(),
            is_reserve,
        }
    }

    /// How long a client in this place has for a head.
    fn head(&self, place: &Place) -> Duration {
        if place.is_reserve {
            self.limits.reserve_head
        } else {
            self.limits.head
        }
    }

    /// Whether fewer than an eighth of the places are free.
    fn is_near_its_bound(&self) -> bool {
        self.places.available_permits() < self.limits.connections.div_ceil(8)
    }
}

/// Begins a connection, by TLS where the port speaks it, and answers its requests.
async fn begin(connection: Connection, tls: Option<Tls>, router: Router, room: Room, place: Place, watcher: Watcher) {
    let Some(tls) = tls else {
        return answer(connection, router, room, place, watcher).await;
    };
    // A client has as long for it as for a request's head.
    match timeout(room.head(&place), tls.acceptor.accept(connection)).await {
        Ok(Ok(stream)) => answer(stream, router, room, place, watcher).await,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection began without TLS, or with one that is not spoken here")
        }
        Err(_) => tracing::debug!("a connection did not begin in time"),
    }
}

/// Answers one connection's requests.
async fn answer<I>(connection: I, router: Router, room: Room, place: Place, watcher: Watcher)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, stage) = (room.limits, Stage::new());
    let patient = Patient::new(connection, stage.clone(), room.head(&place), limits.stalled);
    let is_reserve = place.is_reserve;
    let service = service_fn(move |request: Request<Incoming>| {
        let (answering, router, room) = (stage.answers(), router.clone(), room.clone());
        async move {
            let mut response = if is_reserve && !PROBES.contains(&request.uri().path()) {
                crowded()
            } else {
                let Ok(response) = router.oneshot(request.map(Body::new)).await;
                response
            };
            if is_reserve || room.is_near_its_bound() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            // The answer has ended once its body is dropped. (Of all that wraps one, this keeps its length.)
            Ok::<_, Infallible>(response.map(|body| {
                body.map_err(move |error| {
                    let _until_its_end = &answering;
                    error
                })
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper's limit of a head holds while a connection rests, too.
        .header_read_timeout(limits.rest)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(patient), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended");
    }
    drop(place);
}

/// What is answered beyond the bound.
fn crowded() -> Response<Body> {
    const AFTER: u64 = 1;
    let detail = "all connections that this server has are taken; try again";
    let mut problem = Problem::new(503, "Service Unavailable", "too_many_connections", detail);
    problem.retry_after = Some(AFTER);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(AFTER));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn accept_failed(error: &io::Error) {
    // One that ended before it was taken says nothing about the next.
    if !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    ) {
        tracing::error!(%error, "cannot take connections; tries again");
        sleep(PAUSE).await;
    }
}

fn seen(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panicked) = ended
        && panicked.is_panic()
    {
        tracing::error!(%panicked, "a connection's task panicked");
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
