//! Output: what a follower elsewhere sees while a job runs, and how much is kept.

mod support;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use robata_core::{
    AttemptId, JobState,
    attempt::LogState,
    definition::Memory,
    executor::Stream,
    finish::End,
    log_store::{Entry, LogStore, Read},
    store::JobStore,
};
use support::{Rig, STATE, attempt, ensure_ended, only, runs};
use tokio::time::{Instant, timeout};

/// What was kept of a log, and what was told as missing: by stream.
async fn kept(rig: &Rig, id: AttemptId) -> Result<([String; 2], [u64; 2])> {
    let read = Read {
        attempt: id,
        stream: None,
        offset: 0,
        follow: false,
    };
    let (mut text, mut missing) = ([String::new(), String::new()], [0, 0]);
    let mut entries = rig.logs_elsewhere()?.read(read).await?;
    while let Some(entry) = entries.next().await {
        match entry? {
            Entry::Piece(piece) => {
                text[usize::from(piece.stream == Stream::Stderr)].push_str(std::str::from_utf8(&piece.data)?);
            }
            Entry::Gap { stream, bytes, .. } => {
                missing[usize::from(stream == Stream::Stderr)] += bytes.context("how many is known")?;
            }
            Entry::End(_) => break,
        }
    }
    Ok((text, missing))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_the_limit_is_not_kept_and_the_log_says_so() -> Result<()> {
    let mut definition = runs(&["print:0123456", "eprint:abcdef", "print:more", "exit:0"]);
    definition.log_limit = Some(Memory { bytes: 10 });
    let rig = Rig::new(&[("chatty", definition)]).await?;
    let _worker = rig.worker("a")?;
    let job = rig.enqueue("chatty").await?;
    let detail = rig.finalised(job).await?;
    ensure_ended(&detail, JobState::Succeeded, None)?;
    let log = &only(&detail)?.log;
    ensure!(
        (log.state, log.reason.as_deref(), log.bytes) == (LogState::Incomplete, Some("log_limit"), 10),
        "{log:?}"
    );
    let (text, missing) = kept(&rig, attempt(job, 1)).await?;
    ensure!(text == ["0123456".to_owned(), "abc".to_owned()], "{text:?}");
    ensure!(missing == [4, 3], "{missing:?}");
    rig.nothing_was_started_twice_or_left().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_at_the_limit_is_whole() -> Result<()> {
    let mut definition = runs(&["print:0123456789", "exit:0"]);
    definition.log_limit = Some(Memory { bytes: 10 });
    let mut unlimited = runs(&["print:0123456789", "exit:0"]);
    unlimited.log_limit = None;
    let rig = Rig::new(&[("exact", definition), ("unlimited", unlimited)]).await?;
    let _worker = rig.worker("a")?;
    for name in ["exact", "unlimited"] {
        let detail = rig.finalised(rig.enqueue(name).await?).await?;
        support::ensure_whole(only(&detail)?)?;
        ensure!(only(&detail)?.log.bytes == 10);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_holder_keeps_to_the_limit_too() -> Result<()> {
    let mut definition = runs(&["print:0123456789ab"]);
    definition.log_limit = Some(Memory { bytes: 10 });
    let rig = Rig::new(&[("chatty", definition)]).await?;
    let mut first = rig.worker("a")?;
    let job = rig.enqueue("chatty").await?;
    let id = rig.running(job).await?;
    rig.eventually("a chunk is kept", || first.faults.calls("logs.append") > 0)
        .await?;
    first.kill();
    rig.end_lease("a").await?;
    let _next = rig.worker("b")?;
    rig.engine.print(id, Stream::Stderr, "later");
    rig.engine.end(id, End::Exited(0));
    let detail = rig.finalised(job).await?;
    ensure!(only(&detail)?.log.reason.as_deref() == Some("log_limit"), "{detail:?}");
    let (text, missing) = kept(&rig, id).await?;
    ensure!(
        text == ["0123456789".to_owned(), String::new()] && missing == [2, 5],
        "{text:?} {missing:?}"
    );
    Ok(())
}

/// Follows elsewhere; answers how long each of these lines took from its printing.
async fn follow(rig: &Rig, worker: &support::Running) -> Result<[Duration; 3]> {
    let job = rig.enqueue("long").await?;
    let id = rig.running(job).await?;
    // Nobody follows: chunks come ever more rarely, at 1, 2, 4, … seconds.
    for chunk in 1..=3 {
        rig.engine.print(id, Stream::Stdout, "quiet ");
        rig.eventually("the chunk is kept", || worker.faults.calls("logs.append") >= chunk)
            .await?;
    }
    let read = Read {
        attempt: id,
        stream: None,
        offset: 0,
        follow: true,
    };
    let mut entries = rig.logs_elsewhere()?.read(read).await?;
    rig.store.follow(id, Duration::from_secs(30)).await?;
    let mut took = [Duration::ZERO; 3];
    for (place, word) in ["one", "two", "three"].into_iter().enumerate() {
        let printed = Instant::now();
        rig.engine.print(id, Stream::Stdout, word);
        loop {
            let entry = timeout(STATE, entries.next()).await?.context("it goes on")??;
            if matches!(entry, Entry::Piece(piece) if piece.data.ends_with(word.as_bytes())) {
                break;
            }
        }
        took[place] = printed.elapsed();
    }
    rig.engine.end(id, End::Exited(0));
    rig.finalised(job).await?;
    Ok(took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_elsewhere_is_at_most_two_seconds_behind() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.worker("a")?;
    let took = follow(&rig, &worker).await?;
    ensure!(took.iter().all(|took| *took < Duration::from_secs(2)), "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_elsewhere_needs_no_hints() -> Result<()> {
    let rig = Rig::new(&[("long", runs(&[]))]).await?;
    let worker = rig.deaf_worker("a")?;
    let took = follow(&rig, &worker).await?;
    // The next heartbeat tells of the first one.
    ensure!(took[0] < Duration::from_secs(5), "{took:?}");
    ensure!(took[1..].iter().all(|took| *took < Duration::from_secs(2)), "{took:?}");
    Ok(())
}
