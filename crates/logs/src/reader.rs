//! A read: both streams merged by time, with a block of each in memory, going on as the log grows.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use robata_core::{
    Timestamp,
    attempt::{LogState, LogSummary},
    executor::Stream,
    log_store::{Entry, Read},
};
use tokio::sync::watch;

use crate::{
    cursor::{Cursor, cut},
    error::{LogsError, Result},
    log_store::Shared,
    open::{Open, Plan, View},
    plan::Segment,
};

/// Chunks may go away between planning and reading, when somebody seals; so often in a row nobody does.
const TRIES: usize = 100;

pub(crate) struct Reader {
    shared: Arc<Shared>,
    open: Arc<Open>,
    follow: bool,
    lanes: Vec<Lane>,
    version: watch::Receiver<u64>,
    /// The seal, where it was known before the lanes were planned: at their end the log is read.
    end: Option<LogSummary>,
    done: bool,
}

/// One stream on its way.
struct Lane {
    stream: Stream,
    /// The next byte.
    at: u64,
    /// No piece of this stream goes before this time: clocks go back, streams do not.
    floor: Timestamp,
    segments: VecDeque<Segment>,
    reach: u64,
    cursor: Option<(Cursor, Segment)>,
    head: Option<Entry>,
    /// The byte for which a hole was looked at twice.
    hole_at: Option<u64>,
    tries: usize,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, open: Arc<Open>, read: &Read) -> Self {
        let lanes = Stream::ALL
            .into_iter()
            .filter(|stream| read.stream.is_none_or(|only| only == *stream))
            .map(|stream| Lane {
                stream,
                at: read.offset,
                floor: Timestamp::from_millis(i64::MIN),
                segments: VecDeque::new(),
                reach: 0,
                cursor: None,
                head: None,
                hole_at: None,
                tries: 0,
            })
            .collect();
        let version = open.watch();
        let mut reader = Self {
            shared,
            open,
            follow: read.follow,
            lanes,
            version,
            end: None,
            done: false,
        };
        reader.plan();
        reader
    }

    pub(crate) fn into_stream(self) -> BoxStream<'static, Result<Entry>> {
        futures::stream::try_unfold(self, async |mut reader| {
            Ok(reader.next().await?.map(|entry| (entry, reader)))
        })
        .boxed()
    }

    fn plan(&mut self) {
        self.version.mark_unchanged();
        // First the seal: what it lists is then in the plan.
        self.end = self.open.summary();
        for lane in &mut self.lanes {
            lane.plan(&self.open);
        }
    }

    async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if self.done {
                return Ok(None);
            }
            for lane in &mut self.lanes {
                lane.fill(&self.shared, &self.open).await?;
            }
            if let Some(lane) = self
                .lanes
                .iter_mut()
                .filter(|lane| lane.head.is_some())
                .min_by_key(|lane| lane.time())
            {
                return Ok(lane.take());
            }
            if self.open.is_deleted() {
                return Err(LogsError::Deleted {
                    attempt: self.open.attempt,
                });
            }
            if let Some(summary) = self.end.take() {
                self.done = true;
                return Ok(Some(Entry::End(summary)));
            }
            if !self.follow {
                self.done = true;
                let bytes = self.open.kept();
                return Ok(Some(Entry::End(LogSummary {
                    state: LogState::Open,
                    reason: None,
                    bytes,
                })));
            }
            self.wait().await?;
            self.plan();
        }
    }

    /// Until this process has written something, or it is time to see what others have.
    async fn wait(&mut self) -> Result<()> {
        let poll = self.shared.config.poll;
        tokio::select! {
            changed = self.version.changed() => {
                debug_assert!(changed.is_ok(), "the sender lives as long as the log that this reader holds");
            }
            () = tokio::time::sleep(poll) => self.open.refresh(&self.shared.objects, poll / 2).await?,
        }
        Ok(())
    }
}

impl Lane {
    fn plan(&mut self, open: &Open) {
        let Plan { segments, reach } = open.plan(self.stream, self.at, View::Reader);
        self.segments = segments;
        self.reach = reach;
        self.cursor = None;
    }

    /// When the head was printed; a gap goes at once.
    fn time(&self) -> Timestamp {
        match &self.head {
            Some(Entry::Piece(piece)) => self.floor.max(piece.at),
            _ => Timestamp::from_millis(i64::MIN),
        }
    }

    fn take(&mut self) -> Option<Entry> {
        if let Some(Entry::Piece(piece)) = &self.head {
            self.floor = self.floor.max(piece.at);
        }
        self.head.take()
    }

    /// Has the next entry in `head`, if there is one now.
    async fn fill(&mut self, shared: &Shared, open: &Open) -> Result<()> {
        while self.head.is_none() {
            if self.cursor.as_ref().is_some_and(|(_, segment)| self.at >= segment.to) {
                self.cursor = None;
            }
            if let Some((cursor, segment)) = &mut self.cursor {
                let segment = *segment;
                match cursor.next(&shared.objects).await {
                    Ok(Some(piece)) => {
                        if let Some(piece) = cut(piece, self.at, segment.to) {
                            self.at = piece.offset + piece.data.len() as u64;
                            self.tries = 0;
                            self.head = Some(Entry::Piece(piece));
                        }
                    }
                    Ok(None) => self.cursor = None,
                    Err(fault) => self.around(shared, open, segment, fault).await?,
                }
                continue;
            }
            let Some(segment) = self.segments.front().copied() else {
                if self.at < self.reach {
                    self.gap(self.reach);
                }
                return Ok(());
            };
            if self.at < segment.from {
                // Chunks may be listed out of their order: a hole is told only where a second look shows it, too.
                if self.hole_at == Some(self.at) {
                    self.gap(segment.from);
                } else {
                    self.hole_at = Some(self.at);
                    open.refresh(&shared.objects, Duration::ZERO).await?;
                    self.plan(open);
                }
                continue;
            }
            self.segments.pop_front();
            let size = open.size(&segment.chunk).unwrap_or(0);
            match Cursor::open(&shared.objects, open.attempt, segment.chunk, size).await {
                Ok(cursor) => self.cursor = Some((cursor, segment)),
                Err(fault) => self.around(shared, open, segment, fault).await?,
            }
        }
        Ok(())
    }

    fn gap(&mut self, to: u64) {
        self.head = Some(Entry::Gap {
            stream: self.stream,
            offset: self.at,
            bytes: Some(to - self.at),
        });
        self.at = to;
    }

    /// Plans anew without a chunk that cannot be read.
    async fn around(&mut self, shared: &Shared, open: &Open, segment: Segment, fault: LogsError) -> Result<()> {
        self.tries += 1;
        if self.tries > TRIES {
            return Err(LogsError::Restless { attempt: open.attempt });
        }
        open.gave_way(&shared.objects, segment.chunk, fault).await?;
        self.plan(open);
        Ok(())
    }
}
