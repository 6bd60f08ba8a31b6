//! Output is read from the files that the job itself writes to; a position is `STDOUT_OFFSET,STDERR_OFFSET`.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use robata_core::{
    Timestamp,
    executor::{Output, Position, Stream as Which},
};
use tokio::time::sleep;

use crate::{
    clock,
    error::{Fault, Result},
    executor::Engine,
    hub::Ends,
    thing::{Seen, Thing},
};

/// The largest piece.
const PIECE: usize = 64 << 10;
/// A job that prints byte by byte is not read byte by byte.
const GATHER: Duration = Duration::from_millis(10);
/// Where the kernel has no watch left, and in any case now and then.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_THOUGH_WATCHED: Duration = Duration::from_secs(15);

/// The files, open as long as somebody reads: what was opened stays readable though the thing is removed.
struct Files {
    thing: Thing,
    files: [File; 2],
    at: [u64; 2],
}

struct Reader {
    engine: Engine,
    files: Arc<Files>,
    at: [u64; 2],
    ready: VecDeque<Output>,
    follow: Option<Ends>,
    last: bool,
}

/// Opens the output of a thing.
pub(crate) async fn read(
    engine: Engine,
    thing: Thing,
    from: &Position,
    follow: bool,
) -> Result<impl Stream<Item = Result<Output>> + Send + use<>> {
    let at = parse(from)?;
    let ends = follow.then(|| engine.hub.ends(&thing.handle));
    let files = engine
        .blocking(move |_| {
            let open = |name: &str| {
                let path = thing.path(name);
                File::open(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => Fault::Absent(thing.handle.0.clone()),
                    _ => Fault::io("open", &path)(error),
                })
            };
            Ok(Files {
                files: [open("stdout")?, open("stderr")?],
                at,
                thing,
            })
        })
        .await?;
    let at = files.at;
    let reader = Reader {
        engine,
        files: Arc::new(files),
        at,
        ready: VecDeque::new(),
        follow: ends,
        last: false,
    };
    Ok(stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next().await?.map(|piece| (piece, reader)))
    }))
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Output>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.last {
                return Ok(None);
            }
            // In this order: what was printed before the end is there when the end is seen.
            let follows = self.follow.is_some();
            let (files, at) = (Arc::clone(&self.files), self.at);
            let (over, pieces) = self
                .engine
                .blocking(move |engine| {
                    let over = !follows || is_over(engine, &files.thing)?;
                    Ok((over, pieces(&files, at)?))
                })
                .await?;
            if let Some(piece) = pieces.last() {
                self.at = parse(&piece.position)?;
                self.ready = pieces.into();
            } else if over {
                self.last = true;
            } else {
                self.wait().await?;
            }
        }
    }

    /// Waits until there may be more.
    async fn wait(&mut self) -> Result<()> {
        let Some(ends) = &mut self.follow else { return Ok(()) };
        ends.mark_seen();
        let grown =
            [Which::Stdout, Which::Stderr].map(|which| self.engine.hub.growth(&self.files.thing.path(which.as_str())));
        // Watch first, then look: what came in between is seen by the look.
        let (files, at) = (Arc::clone(&self.files), self.at);
        let more = self
            .engine
            .blocking(move |engine| {
                let longer = files.files.iter().zip(at).map(|(file, at)| Ok(length(file)? > at));
                Ok(longer.collect::<Result<Vec<_>>>()?.contains(&true) || is_over(engine, &files.thing)?)
            })
            .await?;
        if more {
            return Ok(());
        }
        let watched = grown.iter().all(Option::is_some);
        let [stdout, stderr] = grown.map(|grown| async {
            match grown {
                Some(grown) => grown.await,
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            () = stdout => sleep(GATHER).await,
            () = stderr => sleep(GATHER).await,
            () = ends.next() => {}
            () = sleep(if watched { LOOK_THOUGH_WATCHED } else { LOOK }) => {}
        }
        Ok(())
    }
}

/// Whether nothing writes any more. A thing whose supervisor is gone may have descendants that write: they are ended.
fn is_over(engine: &Engine, thing: &Thing) -> Result<bool> {
    match thing.look()? {
        Seen::Prepared | Seen::Running(_) => Ok(false),
        Seen::Absent | Seen::Ended(_) => Ok(true),
        Seen::Died(_) => crate::remove::settle(engine, &[(thing, thing.record()?)]).map(|_| true),
    }
}

/// The next piece of each stream.
fn pieces(files: &Files, mut at: [u64; 2]) -> Result<Vec<Output>> {
    let mut pieces = Vec::new();
    for (index, which) in [Which::Stdout, Which::Stderr].into_iter().enumerate() {
        let file = &files.files[index];
        let read_failed = |error: io::Error| Fault::io("read", &files.thing.path(which.as_str()))(error);
        let left = length(file)?
            .checked_sub(at[index])
            .ok_or_else(|| Fault::Lingers(format!("{} is shorter than what was read of it", which.as_str())))?;
        if left == 0 {
            continue;
        }
        let mut data = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        let count = file.read_at(&mut data, at[index]).map_err(read_failed)?;
        data.truncate(count);
        if data.is_empty() {
            continue;
        }
        at[index] += count as u64;
        pieces.push(Output {
            at: written_at(file),
            stream: which,
            data: Bytes::from(data),
            position: Position(format!("{},{}", at[0], at[1])),
        });
    }
    Ok(pieces)
}

/// When the file was last written: no later than that was this piece printed.
fn written_at(file: &File) -> Timestamp {
    match file.metadata().and_then(|metadata| metadata.modified()) {
        Ok(time) => clock::from_system(time),
        Err(_) => clock::now(),
    }
}

fn length(file: &File) -> Result<u64> {
    Ok(file
        .metadata()
        .map_err(Fault::io("look at", std::path::Path::new("the output")))?
        .len())
}

fn parse(position: &Position) -> Result<[u64; 2]> {
    if position.0.is_empty() {
        return Ok([0, 0]);
    }
    let mut parts = position.0.split(',').map(str::parse);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(stdout)), Some(Ok(stderr)), None) => Ok([stdout, stderr]),
        _ => Err(Fault::Settings(format!(
            "{:?} is no position in a process's output",
            position.0
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_two_offsets() {
        assert_eq!(parse(&Position::default()).unwrap(), [0, 0]);
        assert_eq!(parse(&Position("5,70".to_owned())).unwrap(), [5, 70]);
        for wrong in ["5", "5,", "a,b", "1,2,3", "-1,0"] {
            parse(&Position(wrong.to_owned())).unwrap_err();
        }
    }
}
