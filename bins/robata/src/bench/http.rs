//! A minimal HTTP/1.1 client for pre-rendered requests over one kept connection.
//!
//! A general client would take a good part of the two cores that the server needs, and what would be measured is the
//! client; and the engine's API is spoken here by hand on purpose, as the limit to compare with.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Heads larger than this are nobody's that is talked to here.
const HEAD_AT_MOST: usize = 64 << 10;

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// One connection; calls go one after another.
pub(super) struct Connection {
    wire: Box<dyn Wire>,
    buffer: BytesMut,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

enum Length {
    Known(usize),
    Chunked,
}

/// A request as it goes over the wire.
pub(super) fn request(method: &str, path: &str, host: &str, body: &[u8]) -> Bytes {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat().into()
}

impl Connection {
    pub(super) async fn tcp(address: SocketAddr) -> anyhow::Result<Self> {
        let wire = timeout(PATIENCE, TcpStream::connect(address)).await??;
        wire.set_nodelay(true)?;
        Ok(Self::over(wire))
    }

    pub(super) async fn unix(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::over(UnixStream::connect(path).await?))
    }

    fn over(wire: impl Wire + 'static) -> Self {
        Self {
            wire: Box::new(wire),
            buffer: BytesMut::with_capacity(8 << 10),
        }
    }

    /// Sends one request and reads its answer whole.
    pub(super) async fn call(&mut self, request: &[u8]) -> anyhow::Result<Reply> {
        timeout(PATIENCE, async {
            self.wire.write_all(request).await?;
            self.reply().await
        })
        .await
        .context("no answer in time")?
    }

    async fn reply(&mut self) -> anyhow::Result<Reply> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(self.buffer.len() < HEAD_AT_MOST, "an answer without end of head");
            self.more().await?;
        };
        let head = self.buffer.split_to(end);
        let (status, length) = read_head(std::str::from_utf8(&head)?)?;
        let body = match length {
            Length::Known(length) => self.take(length).await?,
            Length::Chunked => self.chunks().await?,
        };
        Ok(Reply { status, body })
    }

    async fn chunks(&mut self) -> anyhow::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    break at;
                }
                self.more().await?;
            };
            let size = std::str::from_utf8(&self.buffer[..end])?
                .split(';')
                .next()
                .unwrap_or_default()
                .trim();
            let size = usize::from_str_radix(size, 16).with_context(|| format!("{size:?} is no chunk's size"))?;
            self.buffer.advance(end + 2);
            body.extend_from_slice(&self.take(size).await?);
            // The chunk's own line end; trailers are sent by nobody here.
            self.take(2).await?;
            if size == 0 {
                return Ok(body.freeze());
            }
        }
    }

    async fn take(&mut self, length: usize) -> anyhow::Result<Bytes> {
        self.buffer.reserve(length.saturating_sub(self.buffer.len()));
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(4 << 10);
        if self.wire.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed in the middle of an answer");
        }
        Ok(())
    }
}

fn read_head(head: &str) -> anyhow::Result<(u16, Length)> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status: u16 = first
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("{first:?} is no HTTP status line"))?;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok((status, Length::Known(value.trim().parse()?)));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
            return Ok((status, Length::Chunked));
        }
    }
    ensure!(
        matches!(status, 204 | 304),
        "an answer ({status}) that does not say how long it is"
    );
    Ok((status, Length::Known(0)))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// How often `what` stands in `bytes`.
pub(super) fn count(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).filter(|window| *window == what).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(pieces: &[&str]) -> anyhow::Result<Vec<Reply>> {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let text = pieces.concat();
        let sent = tokio::task::spawn(async move { theirs.write_all(text.as_bytes()).await.map(|()| theirs) });
        let mut connection = Connection::over(ours);
        let mut replies = Vec::new();
        for _ in pieces {
            replies.push(connection.reply().await?);
        }
        drop(sent.await??);
        Ok(replies)
    }

    #[tokio::test]
    async fn answers_of_every_length_are_told_apart() {
        let replies = answered(&[
            "HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
        ])
        .await
        .unwrap();
        let told: Vec<_> = replies.iter().map(|reply| (reply.status, &reply.body[..])).collect();
        assert_eq!(told, [(201, &b"hello"[..]), (200, b"hello!"), (204, b"")]);
    }

    #[tokio::test]
    async fn an_answer_without_length_is_an_error() {
        let error = answered(&["HTTP/1.1 200 OK\r\n\r\n"]).await.unwrap_err();
        assert!(error.to_string().contains("how long"), "{error}");
    }
}
