//! A TCP proxy that cuts a connection half-way through a reply.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicUsize, Ordering},
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
    left: Arc<AtomicI64>,
    cuts: Arc<AtomicUsize>,
    passed: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// In front of `to`.
    pub(crate) async fn start(to: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (left, cuts) = (Arc::new(AtomicI64::new(NEVER)), Arc::new(AtomicUsize::new(0)));
        let passed = Arc::new(AtomicI64::new(0));
        let (l, c, p) = (Arc::clone(&left), Arc::clone(&cuts), Arc::clone(&passed));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, left, cuts, passed) = (to.clone(), Arc::clone(&l), Arc::clone(&c), Arc::clone(&p));
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(&to).await {
                        pipe(client, server, &left, &cuts, &passed).await;
                    }
                });
            }
        });
        Ok(Self {
            port,
            left,
            cuts,
            passed,
            task,
        })
    }

    /// Bytes of replies that have gone through since this was last asked.
    pub(crate) fn passed(&self) -> i64 {
        self.passed.swap(0, Ordering::SeqCst)
    }

    /// Cuts the connection that gets the next reply, once so many bytes of replies have gone through.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Cuts no more; how often it did.
    pub(crate) fn heal(&self) -> usize {
        self.left.store(NEVER, Ordering::SeqCst);
        self.cuts.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pipe(client: TcpStream, server: TcpStream, left: &AtomicI64, cuts: &AtomicUsize, passed: &AtomicI64) {
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
            let allowed = left.load(Ordering::SeqCst);
            let cut = allowed != NEVER && allowed < n as i64;
            if cut {
                n = usize::try_from(allowed).unwrap_or(0);
                // Once: the connections after it are whole.
                left.store(NEVER, Ordering::SeqCst);
                cuts.fetch_add(1, Ordering::SeqCst);
            } else if allowed != NEVER {
                left.fetch_sub(n as i64, Ordering::SeqCst);
            }
            passed.fetch_add(n as i64, Ordering::SeqCst);
            if to_client.write_all(&buffer[..n]).await.is_err() || cut {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
