//! Logs in object storage: a log that was hurt in one place is told of, and never read as something else; what is no log of
//! ours is never read at all.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use robata_core::{
    AttemptId, JobId, Timestamp,
    attempt::{LogState, LogSummary},
    executor::{Position, Stream},
    log_store::{Chunk, Entry, LogStore, Piece, Read, Seal},
};
use robata_logs::{Logs, LogsConfig};
use tokio::runtime::Builder;

/// What was printed, and what becomes of it.
#[derive(Arbitrary, Debug)]
struct Case<'a> {
    /// Chunks: of stderr, and so many bytes.
    chunks: Vec<(bool, u8)>,
    sealed: bool,
    fate: Fate<'a>,
}

#[derive(Arbitrary, Debug)]
enum Fate<'a> {
    Nothing,
    /// One byte of one object is another.
    Changed {
        object: u8,
        at: u16,
        by: u8,
    },
    /// One object is cut.
    Cut {
        object: u8,
        at: u16,
    },
    /// One object is gone.
    Gone {
        object: u8,
    },
    /// There is another one, under any name.
    Foreign {
        name: &'a str,
        bytes: &'a [u8],
    },
}

fuzz_target!(|case: Case<'_>| {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(run(case));
});

async fn run(case: Case<'_>) {
    let attempt = AttemptId {
        job: JobId::from_bytes([7; 16]),
        number: 1,
    };
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let logs = Logs::new(Arc::clone(&objects), LogsConfig::default());
    let mut printed = [Vec::new(), Vec::new()];
    for (number, (stderr, length)) in case.chunks.iter().take(32).enumerate() {
        let stream = if *stderr { Stream::Stderr } else { Stream::Stdout };
        let kept = &mut printed[usize::from(*stderr)];
        let data: Vec<u8> = (0..=*length).map(|byte| byte.wrapping_add(number as u8)).collect();
        let chunk = Chunk {
            attempt,
            epoch: 1,
            pieces: vec![Piece {
                at: Timestamp::from_millis(number as i64),
                stream,
                offset: kept.len() as u64,
                data: Bytes::copy_from_slice(&data),
            }],
            position: Position(number.to_string()),
        };
        kept.extend_from_slice(&data);
        logs.append(chunk).await.expect("a chunk");
    }
    if case.sealed {
        let seal = Seal {
            attempt,
            epoch: 1,
            summary: LogSummary {
                state: LogState::Complete,
                ..LogSummary::default()
            },
            reach: None,
        };
        logs.seal(seal).await.expect("a seal");
    }
    let foreign = matches!(case.fate, Fate::Foreign { .. });
    let hurt = hurt(&*objects, attempt, case.fate).await;
    // Who has seen nothing of it yet.
    let logs = Logs::new(objects, LogsConfig::default());
    for stream in Stream::ALL {
        let kept = &printed[usize::from(stream == Stream::Stderr)];
        let whole = read(&logs, attempt, stream, kept, foreign).await;
        assert!(whole || hurt, "a whole log was not read whole");
    }
    // Its answer is another's to judge: it only has to come.
    drop(logs.progress(attempt).await);
}

/// Whether anything was done to the log.
async fn hurt(objects: &dyn ObjectStore, attempt: AttemptId, fate: Fate<'_>) -> bool {
    let mut paths: Vec<Path> = objects
        .list(None)
        .filter_map(|found| async { Some(found.ok()?.location) })
        .collect()
        .await;
    paths.sort();
    let pick = |number: u8| paths.get(usize::from(number) % paths.len().max(1)).cloned();
    let bytes_of = async |path: &Path| -> Vec<u8> {
        let found = objects.get(path).await.expect("an object that was listed");
        found.bytes().await.expect("its bytes").to_vec()
    };
    let (path, bytes) = match fate {
        Fate::Nothing => return false,
        Fate::Changed { object, at, by } => {
            let Some(path) = pick(object) else { return false };
            let mut bytes = bytes_of(&path).await;
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= by;
            (path, bytes)
        }
        Fate::Cut { object, at } => {
            let Some(path) = pick(object) else { return false };
            let mut bytes = bytes_of(&path).await;
            bytes.truncate(usize::from(at));
            (path, bytes)
        }
        Fate::Gone { object } => {
            let Some(path) = pick(object) else { return false };
            objects.delete(&path).await.expect("an object that was listed");
            return true;
        }
        Fate::Foreign { name, bytes } => {
            let job = attempt.job.to_string();
            let folder = format!("{}/{job}/{}", &job[job.len() - 2..], attempt.number);
            let Ok(path) = Path::parse(format!("{folder}/{name}")) else {
                return false;
            };
            (path, bytes.to_vec())
        }
    };
    objects.put(&path, bytes.into()).await.expect("memory");
    true
}

/// Reads a stream to its end; whether all of it came. What comes is in order, and what was printed.
async fn read(logs: &Logs, attempt: AttemptId, stream: Stream, kept: &[u8], foreign: bool) -> bool {
    let request = Read {
        attempt,
        stream: Some(stream),
        offset: 0,
        follow: false,
    };
    let Ok(mut entries) = logs.read(request).await else {
        return false;
    };
    let (mut next, mut read) = (0, 0);
    while let Some(entry) = entries.next().await {
        match entry {
            Ok(Entry::Piece(piece)) => {
                assert!(piece.offset >= next, "out of order");
                next = piece.offset + piece.data.len() as u64;
                read += piece.data.len();
                let from = usize::try_from(piece.offset).expect("a place");
                let original = kept.get(from..from + piece.data.len());
                // A forged chunk with good checksums is a chunk.
                assert!(
                    foreign || original == Some(&piece.data[..]),
                    "something that nobody printed"
                );
            }
            Ok(Entry::Gap { offset, bytes, .. }) => {
                assert!(offset >= next, "out of order");
                next = offset.saturating_add(bytes.unwrap_or(0));
            }
            Ok(Entry::End(_)) => return read == kept.len(),
            Err(error) => {
                assert!(!error.message().is_empty());
                return false;
            }
        }
    }
    panic!("a log without an end");
}
