//! A proxy between a daemon and a server, that can be cut: at once, or in one direction, as a network does it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};

/// What a proxy does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes it on.
    Pass,
    /// Keeps what goes to the server until it passes again, as a network that loses it and sends it anew.
    HoldToServer,
    /// Keeps what goes to the client.
    HoldToClient,
    /// Keeps both.
    Hold,
    /// Ends every connection, half-way through what is being said, and takes no new one.
    Refuse,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) enum Server {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What can be cut of a proxy.
#[derive(Clone, Debug)]
pub(crate) struct Cut(watch::Sender<Mode>);

impl Cut {
    fn new() -> Self {
        Self(watch::Sender::new(Mode::Pass))
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.0.send_replace(mode);
    }
}

/// A proxy to one server, on a port of its own.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) cut: Cut,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let cut = Cut::new();
        let modes = cut.0.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                abrupt(&client);
                if *modes.borrow() != Mode::Refuse {
                    tokio::spawn(connection(client, Server::Tcp(server), modes.clone()));
                }
            }
        });
        Ok(Self { port, cut })
    }
}

/// The same on a socket, in a folder that is made for it and that only we may enter: whoever reaches an engine is as good as
/// root, and a port has no owner.
pub(crate) fn on_socket(path: &Path, server: Server) -> Result<Cut> {
    let folder = path.parent().context("a folder")?;
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    let listener = UnixListener::bind(path)?;
    let cut = Cut::new();
    let modes = cut.0.subscribe();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            if *modes.borrow() != Mode::Refuse {
                tokio::spawn(connection(client, server.clone(), modes.clone()));
            }
        }
    });
    Ok(cut)
}

/// Has a connection end by a reset and not in good order, which is the milder fault.
fn abrupt(stream: &TcpStream) {
    stream.set_nodelay(true).ok();
    stream.set_zero_linger().ok();
}

async fn connection(client: impl AsyncRead + AsyncWrite + Send, server: Server, modes: watch::Receiver<Mode>) {
    let patience = Duration::from_secs(5);
    match server {
        Server::Tcp(address) => {
            if let Ok(Ok(server)) = timeout(patience, TcpStream::connect(address)).await {
                abrupt(&server);
                pass(client, server, modes).await;
            }
        }
        Server::Unix(path) => {
            if let Ok(Ok(server)) = timeout(patience, UnixStream::connect(path)).await {
                pass(client, server, modes).await;
            }
        }
    }
}

async fn pass(client: impl AsyncRead + AsyncWrite, server: impl AsyncRead + AsyncWrite, modes: watch::Receiver<Mode>) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    let mut cut = modes.clone();
    tokio::select! {
        () = copy(from_client, to_server, modes.clone(), [Mode::Hold, Mode::HoldToServer]) => {}
        () = copy(from_server, to_client, modes, [Mode::Hold, Mode::HoldToClient]) => {}
        _ = cut.wait_for(|mode| *mode == Mode::Refuse) => {}
    }
}

/// Passes bytes on while the mode lets them through.
async fn copy(from: impl AsyncRead, to: impl AsyncWrite, mut modes: watch::Receiver<Mode>, held: [Mode; 2]) {
    let (mut from, mut to) = (std::pin::pin!(from), std::pin::pin!(to));
    let mut bytes = vec![0; 16 << 10];
    loop {
        let Ok(count) = from.read(&mut bytes).await else {
            return;
        };
        if modes.wait_for(|mode| !held.contains(mode)).await.is_err() || count == 0 {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
