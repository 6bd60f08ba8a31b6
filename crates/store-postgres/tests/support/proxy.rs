//! A TCP proxy that cuts a connection half-way through a reply, or lets it fall silent there.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const NEVER: i64 = i64::MAX;

/// The proxy.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    left: AtomicI64,
    /// Whether what is over the limit is kept back, and the connection stays.
    silent: AtomicBool,
    cuts: AtomicUsize,
    passed: AtomicI64,
}

impl Proxy {
    /// In front of `to`.
    pub(crate) async fn start(to: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            left: AtomicI64::new(NEVER),
            silent: AtomicBool::new(false),
            cuts: AtomicUsize::new(0),
            passed: AtomicI64::new(0),
        });
        let all = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, state) = (to.clone(), Arc::clone(&all));
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(&to).await {
                        pipe(client, server, &state).await;
                    }
                });
            }
        });
        Ok(Self { port, state, task })
    }

    /// Bytes of replies that have gone through since this was last asked.
    pub(crate) fn passed(&self) -> i64 {
        self.state.passed.swap(0, Ordering::SeqCst)
    }

    /// Cuts the connection that gets the next reply, once so many bytes of replies have gone through.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.state.silent.store(false, Ordering::SeqCst);
        self.state.left.store(bytes, Ordering::SeqCst);
    }

    /// The connection that gets the next reply says nothing more once so many bytes of replies have gone through, and is not
    /// closed either.
    pub(crate) fn silence_after(&self, bytes: i64) {
        self.state.silent.store(true, Ordering::SeqCst);
        self.state.left.store(bytes, Ordering::SeqCst);
    }

    /// Cuts and silences no more; how often it did.
    pub(crate) fn heal(&self) -> usize {
        self.state.left.store(NEVER, Ordering::SeqCst);
        self.state.cuts.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pipe(client: TcpStream, server: TcpStream, state: &State) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let down = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let Ok(n @ 1..) = from_server.read(&mut buffer).await else {
                return;
            };
            let mut n = n;
            let allowed = state.left.load(Ordering::SeqCst);
            let cut = allowed != NEVER && allowed < n as i64;
            if cut {
                n = usize::try_from(allowed).unwrap_or(0);
                // Once: the connections after it are whole.
                state.left.store(NEVER, Ordering::SeqCst);
                state.cuts.fetch_add(1, Ordering::SeqCst);
            } else if allowed != NEVER {
                state.left.fetch_sub(n as i64, Ordering::SeqCst);
            }
            state.passed.fetch_add(n as i64, Ordering::SeqCst);
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
            if cut && state.silent.load(Ordering::SeqCst) {
                // Until the client goes.
                return std::future::pending().await;
            }
            if cut {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
