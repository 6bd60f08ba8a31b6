//! A client's connection that ends where the client keeps us waiting: for the rest of a request's head, or to take an
//! answer. hyper has one limit for both a head and the rest between two requests, but the first must be short (whoever
//! sends heads byte by byte holds a place), and the second long: a client that asks again at the very moment in which its
//! connection is ended cannot know whether it was heard.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

const RESTS: u8 = 0;
const HEAD: u8 = 1;
const ANSWERS: u8 = 2;

/// What a connection is at. It is told by the connection's own task alone.
#[derive(Clone, Debug)]
pub(crate) struct Stage(Arc<AtomicU8>);

impl Stage {
    /// A connection that was just opened has to send a head.
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(HEAD)))
    }

    /// A request's head is there; bodies have a limit of their own.
    pub(crate) fn answers(&self) -> Answering {
        self.0.store(ANSWERS, Ordering::Relaxed);
        Answering(self.clone())
    }

    /// Whether the first byte after a rest begins a head.
    fn begins(&self) -> bool {
        let moved = self
            .0
            .compare_exchange(RESTS, HEAD, Ordering::Relaxed, Ordering::Relaxed);
        moved.is_ok()
    }

    fn is_head(&self) -> bool {
        self.0.load(Ordering::Relaxed) == HEAD
    }
}

/// Held until a request is answered to its end.
#[derive(Debug)]
pub(crate) struct Answering(Stage);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.store(RESTS, Ordering::Relaxed);
    }
}

/// A connection with limits.
#[derive(Debug)]
pub(crate) struct Patient<I> {
    io: I,
    stage: Stage,
    /// How long a head may take from its first byte.
    head: Duration,
    /// How long a client may take nothing of an answer.
    stalled: Duration,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl<I> Patient<I> {
    pub(crate) fn new(io: I, stage: Stage, head: Duration, stalled: Duration) -> Self {
        Self {
            io,
            stage,
            head,
            stalled,
            // From the opening on.
            reading: Some(Box::pin(sleep(head))),
            writing: None,
        }
    }

    /// The answer of a write, or the end of our patience with its client.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let stalled = self.stalled;
        let limit = self.writing.get_or_insert_with(|| Box::pin(sleep(stalled)));
        ready!(limit.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if buf.filled().len() > before && this.stage.begins() {
            this.reading = Some(Box::pin(sleep(this.head)));
        }
        if !this.stage.is_head() {
            this.reading = None;
        } else if let Some(limit) = &mut this.reading
            && limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, pieces);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.io).poll_shutdown(cx);
        this.written(cx, shut)
    }
}
