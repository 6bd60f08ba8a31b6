//! Output from a position: followed while the container runs, then read once more to its end and checked for losses.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bollard::{container::LogOutput, errors::Error as Client, query_parameters::LogsOptions};
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use robata_core::{
    Error, ErrorKind, Result,
    executor::{Output, ReadOutput, Stream},
};
use tokio::time::sleep;

use crate::{
    boot::Watched,
    engine::{Engine, Kind, frame},
    log_lines::{Broken, Lines, Place},
    missing::Missing,
    restart, state,
};

const OPERATION: &str = "docker.output";
/// Between looks at a container that does not run yet, or whose follower the engine has ended early.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// So often a log that ends before its last entry is read again: an engine that is slow may still be writing it.
const READ_AGAIN: u32 = 5;

type Frames = BoxStream<'static, Result<LogOutput, Client>>;

enum Step {
    /// Look at the container, then follow or read to the end.
    Look,
    Read {
        frames: Frames,
        lines: Box<Lines>,
        /// The container had ended before this connection was made: its end is the log's end.
        last: bool,
    },
    /// Everything was read: was everything there?
    Check {
        last: bool,
    },
    Done,
}

struct Reader {
    engine: Arc<Engine>,
    watched: Arc<Watched>,
    id: String,
    follow: bool,
    place: Place,
    step: Step,
    ready: VecDeque<Output>,
    /// How often the log was read again, for its end was not its last entry.
    read_again: u32,
}

pub(crate) async fn output(
    engine: Arc<Engine>,
    watched: Arc<Watched>,
    request: ReadOutput,
) -> Result<BoxStream<'static, Result<Output>>> {
    let place = Place::read(&request.from).map_err(|broken| broken_log(&broken))?;
    if engine
        .ours(&request.handle.0)
        .await
        .map_err(|fault| fault.into_error(OPERATION))?
        .is_none()
    {
        return Err(gone());
    }
    let reader = Reader {
        engine,
        watched,
        id: request.handle.0,
        follow: request.follow,
        place,
        step: Step::Look,
        ready: VecDeque::new(),
        read_again: 0,
    };
    Ok(stream::unfold(reader, |mut reader| async move {
        match reader.next().await {
            Ok(Some(output)) => Some((Ok(output), reader)),
            Ok(None) => None,
            Err(error) => {
                reader.step = Step::Done;
                Some((Err(error), reader))
            }
        }
    })
    .boxed())
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Output>> {
        loop {
            if let Some(output) = self.ready.pop_front() {
                return Ok(Some(output));
            }
            match &mut self.step {
                Step::Done => return Ok(None),
                Step::Check { last } => {
                    let last = *last;
                    self.step = Step::Done;
                    let check = Self::check_whole(Arc::clone(&self.engine), self.id.clone(), self.place.clone(), last);
                    if !check.await? {
                        if self.read_again == READ_AGAIN {
                            return Err(unreadable("it ends before its last entry, as if torn"));
                        }
                        self.read_again += 1;
                        self.step = Step::Look;
                        sleep(LOOK_AGAIN).await;
                    }
                }
                Step::Look => self.look().await?,
                Step::Read { frames, lines, last } => match frames.next().await {
                    Some(Ok(output)) => {
                        let (stream, entry) = frame(output).map_err(|words| unreadable(&words))?;
                        let read = lines.entry(stream, &entry).map_err(|broken| broken_log(&broken))?;
                        if let Some((at, data)) = read.filter(|(_, data)| !data.is_empty()) {
                            let position = lines.place.position();
                            return Ok(Some(Output {
                                at,
                                stream,
                                data,
                                position,
                            }));
                        }
                    }
                    Some(Err(error)) => return Err(self.engine.fault(error).into_error(OPERATION)),
                    None => {
                        let last = *last;
                        // Of a connection that ended early nothing can be said: the next one is sent all of it again.
                        let ends = last || !self.follow;
                        let Step::Read { lines, .. } = std::mem::replace(&mut self.step, Step::Look) else {
                            continue;
                        };
                        if ends {
                            self.place = lines.end();
                            self.step = Step::Check { last };
                        } else {
                            self.place = lines.place;
                            sleep(LOOK_AGAIN).await;
                        }
                    }
                },
            }
        }
    }

    /// Opens the next connection: a follower while the container runs, the last one when it has ended.
    async fn look(&mut self) -> Result<()> {
        let found = self
            .engine
            .ours(&self.id)
            .await
            .map_err(|fault| fault.into_error(OPERATION))?;
        let state = found.and_then(|found| found.state).ok_or_else(gone)?;
        let runs = state::runs(&state);
        let last = !runs && (state::has_run(&state) || state::was_refused(&state));
        if !runs && !last && self.follow {
            sleep(LOOK_AGAIN).await;
            return Ok(());
        }
        if let Some(started) = state::time(state.started_at.as_ref()) {
            let from = self.place.read_up_to().map_or(started, |read| read.max(started));
            let restarted = restart::since(&self.engine, &self.watched, &self.id, from);
            self.place.missing.restarted |= restarted.await.map_err(|fault| fault.into_error(OPERATION))?;
        }
        let since = self.place.since();
        let options = LogsOptions {
            follow: self.follow && runs,
            since: i32::try_from(since).unwrap_or(0),
            ..LogsOptions::default()
        };
        let frames = Self::frames(&self.engine, &self.id, options).await?;
        let lines = Box::new(Lines::new(self.place.clone(), since));
        self.step = Step::Read { frames, lines, last };
        Ok(())
    }

    /// Opens a connection with what is the same for all.
    async fn frames(engine: &Engine, id: &str, options: LogsOptions) -> Result<Frames> {
        let client = engine.client().await.map_err(|fault| fault.into_error(OPERATION))?;
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            timestamps: true,
            ..options
        };
        Ok(client.logs(id, Some(options)).boxed())
    }

    /// The first entry of a connection, if there is one.
    async fn first(engine: &Engine, mut frames: Frames) -> Result<Option<(Stream, Bytes)>> {
        let first = engine.bounded(engine.config.call_timeout, frames.next().map(Option::transpose));
        let first = first.await.map_err(|fault| fault.into_error(OPERATION))?;
        first
            .map(|output| frame(output).map_err(|words| unreadable(&words)))
            .transpose()
    }

    /// Whether the log's last entry is the last that was read. The engine finds it from the file's end: where the file is torn,
    /// it may take the tear for the end. (Podman's file is text, and asked for the last line it joins two, seen on 4.3.)
    async fn ends_there(engine: &Engine, id: &str, place: &Place) -> Result<bool> {
        let tail = LogsOptions {
            tail: "1".to_owned(),
            ..LogsOptions::default()
        };
        let frames = Self::frames(engine, id, tail).await?;
        match Self::first(engine, frames).await? {
            Some((stream, entry)) => place.ends_with(stream, &entry).map_err(|broken| broken_log(&broken)),
            None => Ok(true),
        }
    }

    /// At the end of what there is: was everything there to be read? `last`: it is the log's end. `false`: there is more
    /// than was read.
    async fn check_whole(engine: Arc<Engine>, id: String, place: Place, last: bool) -> Result<bool> {
        let whole = |missing: Missing| match missing.words() {
            Some(words) => Err(Error::new(ErrorKind::Internal, OPERATION, words)),
            None => Ok(()),
        };
        whole(place.missing)?;
        if !last {
            return Ok(true);
        }
        let most = engine.config.log_max_bytes;
        if place.bytes >= most {
            let message = format!(
                "more output than the engine keeps ({most} bytes, setting `log_max_bytes`): some of it may be lost"
            );
            return Err(Error::new(ErrorKind::Internal, OPERATION, message));
        }
        // A short log was just read from its first entry on; a long one is asked for its first entry alone.
        if place.since() > 0 {
            let frames = Self::frames(&engine, &id, LogsOptions::default()).await?;
            let Some((stream, entry)) = Self::first(&engine, frames).await? else {
                let message = "the engine does not show the log's beginning";
                return Err(Error::new(ErrorKind::Unavailable, OPERATION, message));
            };
            let mut lines = Lines::new(place.clone(), 0);
            lines.entry(stream, &entry).map_err(|broken| broken_log(&broken))?;
            whole(lines.place.missing)?;
        }
        if engine.kind().await.map_err(|fault| fault.into_error(OPERATION))? == Kind::Docker
            && !Self::ends_there(&engine, &id, &place).await?
        {
            return Ok(false);
        }
        if let Some(stream) = place.unknown_end() {
            let message = format!(
                "the last line of {} is longer than 16 KiB, and the engine does not keep whether a newline ended it",
                stream.as_str()
            );
            return Err(Error::new(ErrorKind::Internal, OPERATION, message));
        }
        Ok(true)
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::NotFound, OPERATION, "there is no such container")
}

/// The engine cannot read its own log, now or later: torn, as where its disk was full.
fn unreadable(words: &str) -> Error {
    let message = format!("the engine cannot read the log: {words}");
    Error::new(ErrorKind::Internal, OPERATION, message)
}

fn broken_log(broken: &Broken) -> Error {
    let kind = match broken {
        Broken::NoPosition(_) => ErrorKind::Invalid,
        Broken::NoTime => ErrorKind::Internal,
    };
    Error::new(kind, OPERATION, broken.to_string())
}
