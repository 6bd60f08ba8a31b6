//! A way to a server that can be cut, or held still.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Listens on a port of its own and passes everything on.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    to: SocketAddr,
    frozen: watch::Sender<bool>,
    running: Option<(CancellationToken, AbortOnDropHandle<()>)>,
}

impl Proxy {
    pub(crate) async fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = Self {
            address: listener.local_addr().unwrap(),
            to,
            frozen: watch::Sender::new(false),
            running: None,
        };
        proxy.run(listener);
        proxy
    }

    fn run(&mut self, listener: TcpListener) {
        let (cut, to) = (CancellationToken::new(), self.to);
        let (cutting, frozen) = (cut.clone(), self.frozen.subscribe());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    () = cutting.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((from, _)) = accepted else { continue };
                let frozen = frozen.clone();
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(to).await {
                        let (asks, answers) = (from.into_split(), server.into_split());
                        tokio::join!(pass(asks.0, answers.1, frozen.clone()), pass(answers.0, asks.1, frozen));
                    }
                });
            }
        });
        self.running = Some((cut, AbortOnDropHandle::new(task)));
    }

    /// Ends all connections and refuses new ones.
    pub(crate) async fn cut(&mut self) {
        if let Some((cut, task)) = self.running.take() {
            cut.cancel();
            task.await.unwrap();
        }
    }

    /// Holds all that comes, either way, and passes it on at the thaw: late, and nothing of it lost.
    pub(crate) fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Passes on what was held, and what comes.
    pub(crate) fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// Serves again.
    pub(crate) async fn mend(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.run(listener);
    }
}

/// However it ends, this direction is over.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut frozen: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // The proxy's end ends its connections, frozen or not.
        if frozen.wait_for(|frozen| !frozen).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
