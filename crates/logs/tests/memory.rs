//! Memory stays the same however large a log is: written, followed, sealed and read, beside each other. One test in this
//! binary, since it looks at the whole process.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use robata_core::{
    AttemptId, JobId, Timestamp,
    attempt::{LogState, LogSummary},
    executor::{Position, Stream},
    log_store::{Chunk, Entry, LogStore, Piece, Read, Seal},
};
use robata_logs::{Logs, LogsConfig};

const BYTES: u64 = 50 << 20;
const CHUNK: usize = 256 << 10;
const FOLLOWERS: usize = 4;
/// A block of each follower, a chunk in the writer's hands, one merged object, and what the allocator keeps.
const BOUND: u64 = 40 << 20;

/// The most memory this process has had, in bytes.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .context("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kib * 1024)
}

fn byte(place: u64) -> u8 {
    u8::try_from((place * 31 + place / 251) % 256).unwrap_or(0)
}

async fn read(logs: Arc<Logs>, attempt: AttemptId, follow: bool) -> Result<u64> {
    let mut entries = logs
        .read(Read {
            attempt,
            stream: None,
            offset: 0,
            follow,
        })
        .await?;
    let mut next = 0;
    while let Some(entry) = entries.next().await {
        match entry? {
            Entry::Piece(piece) => {
                anyhow::ensure!(piece.offset == next, "{} where {next} was due", piece.offset);
                for index in [0, piece.data.len() / 2, piece.data.len() - 1] {
                    anyhow::ensure!(
                        piece.data[index] == byte(next + index as u64),
                        "a wrong byte near {next}"
                    );
                }
                next += piece.data.len() as u64;
            }
            Entry::Gap { offset, .. } => anyhow::bail!("a gap at {offset}"),
            Entry::End(_) => break,
        }
    }
    Ok(next)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_megabytes_take_no_more_memory_than_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let logs = Arc::new(Logs::folder(folder.path(), LogsConfig::default())?);
    let attempt = AttemptId {
        job: JobId::new(),
        number: 1,
    };
    let before = peak()?;
    let followers: Vec<_> = (0..FOLLOWERS)
        .map(|_| tokio::spawn(read(Arc::clone(&logs), attempt, true)))
        .collect();
    let mut offset = 0;
    while offset < BYTES {
        let data: Bytes = (offset..offset + CHUNK as u64).map(byte).collect();
        let at = Timestamp::from_millis(i64::try_from(offset)?);
        let pieces = vec![Piece {
            at,
            stream: Stream::Stdout,
            offset,
            data,
        }];
        logs.append(Chunk {
            attempt,
            epoch: 1,
            pieces,
            position: Position::default(),
        })
        .await?;
        offset += CHUNK as u64;
    }
    let summary = LogSummary {
        state: LogState::Complete,
        ..LogSummary::default()
    };
    assert_eq!(
        logs.seal(Seal {
            attempt,
            epoch: 1,
            summary,
            reach: None,
        })
        .await?
        .bytes,
        BYTES
    );
    for follower in followers {
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), follower).await???, BYTES);
    }
    assert_eq!(read(Arc::clone(&logs), attempt, false).await?, BYTES);
    let grown = peak()?.saturating_sub(before);
    println!("{} MiB of log took {} MiB of memory", BYTES >> 20, grown >> 20);
    assert!(
        grown < BOUND,
        "{} MiB of memory for {} MiB of log",
        grown >> 20,
        BYTES >> 20
    );
    Ok(())
}
