//! Output from a position: followed while the container runs, then read once more to its end and checked for losses.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bollard::{container::LogOutput, errors::Error as Client, query_parameters::LogsOptions};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use robata_core::{
    Error, ErrorKind, Result,
    executor::{Output, ReadOutput},
};
use tokio::time::{sleep, timeout};

use crate::{
    engine::{Engine, frame},
    log_lines::{Broken, Lines, Place},
    state,
};

const OPERATION: &str = "docker.output";
/// Between looks at a container that does not run yet, or whose follower the engine has ended early.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

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
    Done,
}

struct Reader {
    engine: Arc<Engine>,
    id: String,
    follow: bool,
    place: Place,
    step: Step,
    ready: VecDeque<Output>,
}

pub(crate) async fn output(engine: Arc<Engine>, request: ReadOutput) -> Result<BoxStream<'static, Result<Output>>> {
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
        id: request.handle.0,
        follow: request.follow,
        place,
        step: Step::Look,
        ready: VecDeque::new(),
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
                Step::Look => self.look().await?,
                Step::Read { frames, lines, last } => match frames.next().await {
                    Some(Ok(output)) => {
                        let (stream, entry) = frame(output);
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
                        lines.end().map_err(|broken| broken_log(&broken))?;
                        self.place = lines.place.clone();
                        self.step = Step::Look;
                        if last {
                            self.step = Step::Done;
                            Self::check_whole(Arc::clone(&self.engine), self.id.clone(), self.place.clone()).await?;
                        } else if !self.follow {
                            self.step = Step::Done;
                        } else {
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
        let since = self.place.since();
        let frames = Self::frames(&self.engine, &self.id, self.follow && runs, since).await?;
        let lines = Box::new(Lines::new(self.place.clone(), since));
        self.step = Step::Read { frames, lines, last };
        Ok(())
    }

    async fn frames(engine: &Engine, id: &str, follow: bool, since: i64) -> Result<Frames> {
        let client = engine.client().await.map_err(|fault| fault.into_error(OPERATION))?;
        let options = LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            since: i32::try_from(since).unwrap_or(0),
            timestamps: true,
            ..LogsOptions::default()
        };
        Ok(client.logs(id, Some(options)).boxed())
    }

    /// At the log's end: was everything there to be read?
    async fn check_whole(engine: Arc<Engine>, id: String, place: Place) -> Result<()> {
        let most = engine.config.log_max_bytes;
        if place.bytes >= most {
            let message = format!(
                "more output than the engine keeps ({most} bytes, setting `log_max_bytes`): some of it may be lost"
            );
            return Err(Error::new(ErrorKind::Internal, OPERATION, message));
        }
        // A short log was just read from its first entry on; a long one is asked for its first entry alone.
        if place.since() > 0 {
            let mut frames = Self::frames(&engine, &id, false, 0).await?;
            let limit = engine.config.call_timeout;
            let first = timeout(limit, frames.next()).await.ok().flatten();
            let Some(Ok(output)) = first else {
                let message = "the engine does not show the log's beginning";
                return Err(Error::new(ErrorKind::Unavailable, OPERATION, message));
            };
            let (stream, entry) = frame(output);
            let mut lines = Lines::new(place.clone(), 0);
            lines.entry(stream, &entry).map_err(|broken| broken_log(&broken))?;
        }
        if let Some(stream) = place.unknown_end() {
            let message = format!(
                "the last line of {} is longer than 16 KiB, and the engine does not keep whether a newline ended it",
                stream.as_str()
            );
            return Err(Error::new(ErrorKind::Internal, OPERATION, message));
        }
        Ok(())
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::NotFound, OPERATION, "there is no such container")
}

fn broken_log(broken: &Broken) -> Error {
    let kind = match broken {
        Broken::NoPosition(_) => ErrorKind::Invalid,
        Broken::NoTime | Broken::Lost => ErrorKind::Internal,
    };
    Error::new(kind, OPERATION, broken.to_string())
}
