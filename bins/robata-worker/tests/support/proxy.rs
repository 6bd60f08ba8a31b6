//! A way to a server that can be cut, or held still.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

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
    heard: Option<Heard>,
}

/// What went through: the bytes of each direction of each connection.
type Heard = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;

impl Proxy {
    pub(crate) async fn to(to: SocketAddr) -> Self {
        Self::with(to, None).await
    }

    /// The same, and remembers all that goes through.
    pub(crate) async fn hearing(to: SocketAddr) -> Self {
        Self::with(to, Some(Heard::default())).await
    }

    /// All that went through.
    pub(crate) fn heard(&self) -> Vec<Vec<u8>> {
        let heard = self.heard.as_ref().expect("it remembers").lock().unwrap();
        heard.iter().map(|one| one.lock().unwrap().clone()).collect()
    }

    async fn with(to: SocketAddr, heard: Option<Heard>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = Self {
            address: listener.local_addr().unwrap(),
            to,
            frozen: watch::Sender::new(false),
            running: None,
            heard,
        };
        proxy.run(listener);
        proxy
    }

    fn run(&mut self, listener: TcpListener) {
        let (cut, to) = (CancellationToken::new(), self.to);
        let (cutting, frozen, heard) = (cut.clone(), self.frozen.subscribe(), self.heard.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    () = cutting.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((from, _)) = accepted else { continue };
                let frozen = frozen.clone();
                let [asked, answered] = [(); 2].map(|()| {
                    let one = Arc::<Mutex<Vec<u8>>>::default();
                    heard.as_ref().map(|heard| {
                        heard.lock().unwrap().push(Arc::clone(&one));
                        one
                    })
                });
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(to).await {
                        let (asks, answers) = (from.into_split(), server.into_split());
                        tokio::join!(
                            pass(asks.0, answers.1, frozen.clone(), asked),
                            pass(answers.0, asks.1, frozen, answered)
                        );
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
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut frozen: watch::Receiver<bool>,
    heard: Option<Arc<Mutex<Vec<u8>>>>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if let Some(heard) = &heard {
            heard.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
        // The proxy's end ends its connections, frozen or not.
        if frozen.wait_for(|frozen| !frozen).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
