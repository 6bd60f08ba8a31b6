//! A way to a server that can be cut.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Listens on a port of its own and passes everything on.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    to: SocketAddr,
    running: Option<(CancellationToken, AbortOnDropHandle<()>)>,
}

impl Proxy {
    pub(crate) async fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = Self {
            address: listener.local_addr().unwrap(),
            to,
            running: None,
        };
        proxy.run(listener);
        proxy
    }

    fn run(&mut self, listener: TcpListener) {
        let (cut, to) = (CancellationToken::new(), self.to);
        let cutting = cut.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    () = cutting.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((mut from, _)) = accepted else { continue };
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        // However it ends, the connection is over.
                        let _ = copy_bidirectional(&mut from, &mut server).await;
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

    /// Serves again.
    pub(crate) async fn mend(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.run(listener);
    }
}
