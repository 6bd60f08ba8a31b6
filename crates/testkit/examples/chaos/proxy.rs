//! A TCP proxy between a daemon and a server, that can be cut: at once, or in one direction, as a network does it.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
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

/// A proxy to one server.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (mode, modes) = watch::channel(Mode::Pass);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() == Mode::Refuse {
                    reset(&client);
                    continue;
                }
                tokio::spawn(connection(client, server, modes.clone()));
            }
        });
        Ok(Self { port, mode })
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// Ends a connection by a reset and not in good order.
fn reset(stream: &TcpStream) {
    // Without it the connection ends in good order, which is the milder fault.
    stream.set_zero_linger().ok();
}

async fn connection(client: TcpStream, server: SocketAddr, modes: watch::Receiver<Mode>) {
    let Ok(Ok(server)) = timeout(Duration::from_secs(5), TcpStream::connect(server)).await else {
        return reset(&client);
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok();
        reset(stream);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = modes.clone();
    tokio::select! {
        () = copy(from_client, to_server, modes.clone(), [Mode::Hold, Mode::HoldToServer]) => {}
        () = copy(from_server, to_client, modes, [Mode::Hold, Mode::HoldToClient]) => {}
        _ = cut.wait_for(|mode| *mode == Mode::Refuse) => {}
    }
}

/// Passes bytes on while the mode lets them through.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>, held: [Mode; 2]) {
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
