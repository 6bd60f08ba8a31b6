//! Followers: what is appended reaches them, the seal ends them, and nobody disturbs another.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures::StreamExt;
use robata_core::{
    AttemptId,
    attempt::LogState,
    executor::Stream,
    log_store::{Entry, LogStore},
};
use tokio::{task::JoinHandle, time::timeout};

use super::{Got, Place, SOON, all, attempt, chunk, drain, noise, read, seal, stdout};

fn follower(logs: &Arc<dyn LogStore>, attempt: AttemptId, offset: u64) -> JoinHandle<Result<Got>> {
    let logs = Arc::clone(logs);
    let stream = (offset > 0).then_some(Stream::Stdout);
    tokio::spawn(async move { all(&*logs, read(attempt, stream, offset, true)).await })
}

async fn next_text(
    entries: &mut (impl StreamExt<Item = robata_core::Result<Entry>> + Unpin),
    within: Duration,
) -> Result<String> {
    let entry = timeout(within, entries.next())
        .await
        .context("the follower waited in vain")?;
    match entry.context("the stream ended")?? {
        Entry::Piece(piece) => Ok(String::from_utf8(piece.data.to_vec())?),
        other => anyhow::bail!("instead of a piece came {other:?}"),
    }
}

/// Each of them at once, in the process that writes.
pub async fn a_follower_gets_what_is_appended_while_it_waits(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "before ")).await?;
    let mut entries = place.logs.read(read(attempt, None, 0, true)).await?;
    assert_eq!(next_text(&mut entries, SOON).await?, "before ");
    let mut offset = 7;
    for round in 0..50 {
        let text = format!("line {round}\n");
        place.logs.append(stdout(attempt, 1, offset, &text)).await?;
        offset += text.len() as u64;
        assert_eq!(next_text(&mut entries, SOON).await?, text);
    }
    seal(&*place.logs, attempt, 1).await?;
    let end = timeout(SOON, entries.next()).await?.context("no end")??;
    assert!(
        matches!(&end, Entry::End(end) if end.state == LogState::Complete && end.bytes == offset),
        "{end:?}"
    );
    assert!(entries.next().await.is_none(), "something came after the end");
    Ok(())
}

/// `--follow` is often faster than the job.
pub async fn a_follower_may_come_before_the_first_byte(place: Place) -> Result<()> {
    let attempt = attempt();
    let mut entries = place.logs.read(read(attempt, None, 0, true)).await?;
    let early = timeout(Duration::from_millis(200), entries.next()).await;
    assert!(early.is_err(), "of a log that has not begun came {early:?}");
    place.logs.append(stdout(attempt, 1, 0, "first")).await?;
    assert_eq!(next_text(&mut entries, SOON).await?, "first");
    Ok(())
}

/// Another master.
pub async fn a_follower_elsewhere_sees_what_is_appended_here(place: Place) -> Result<()> {
    let attempt = attempt();
    let there = place.elsewhere()?;
    let mut entries = there.read(read(attempt, None, 0, true)).await?;
    for (offset, text) in [(0, "one\n"), (4, "two\n"), (8, "three\n")] {
        place.logs.append(stdout(attempt, 1, offset, text)).await?;
        assert_eq!(next_text(&mut entries, SOON).await?, text);
    }
    seal(&*place.logs, attempt, 1).await?;
    let end = timeout(SOON, entries.next()).await?.context("no end")??;
    assert!(matches!(&end, Entry::End(end) if end.bytes == 14), "{end:?}");
    Ok(())
}

/// Here and elsewhere, from the beginning and from the middle, early and late.
pub async fn followers_from_everywhere_get_the_same(place: Place) -> Result<()> {
    let attempt = attempt();
    let bytes = noise(400_000, 4);
    let there = place.elsewhere()?;
    let mut followers = Vec::new();
    let mut offset = 0;
    for (round, part) in bytes.chunks(9_973).enumerate() {
        if round % 8 == 0 {
            for logs in [&place.logs, &there] {
                for from in [0, 5, offset, offset + 3] {
                    followers.push((from, follower(logs, attempt, from)));
                }
            }
        }
        let at = i64::try_from(round)?;
        place
            .logs
            .append(chunk(attempt, 1, Stream::Stdout, offset, at, &[part]))
            .await?;
        offset += part.len() as u64;
    }
    seal(&*place.logs, attempt, 1).await?;
    for (from, follower) in followers {
        let got = follower.await??;
        assert!(
            got.stdout == bytes[usize::try_from(from)?..],
            "from {from} came {} bytes",
            got.stdout.len()
        );
        assert!(got.gaps.is_empty(), "from {from}: {:?}", got.gaps);
        assert_eq!(got.end.map(|end| end.state), Some(LogState::Complete));
    }
    Ok(())
}

/// With what is left to read first, and with the seal's own words.
pub async fn a_follower_ends_with_the_seal(place: Place) -> Result<()> {
    let attempt = attempt();
    let waiting = [
        follower(&place.logs, attempt, 0),
        follower(&place.elsewhere()?, attempt, 0),
    ];
    place.logs.append(stdout(attempt, 1, 0, "all there is")).await?;
    let summary = seal(&*place.logs, attempt, 1).await?;
    for follower in waiting.into_iter().chain([follower(&place.logs, attempt, 0)]) {
        let got = timeout(SOON, follower).await???;
        assert_eq!((got.text(), got.end.as_ref()), ("all there is", Some(&summary)));
    }
    Ok(())
}

/// It is slow, and in the middle of chunks that the seal merges and removes.
pub async fn a_reader_is_not_disturbed_by_the_seal(place: Place) -> Result<()> {
    let attempt = attempt();
    let bytes = noise(600_000, 5);
    for (index, part) in bytes.chunks(20_000).enumerate() {
        let offset = (index * 20_000) as u64;
        place
            .logs
            .append(chunk(
                attempt,
                1,
                Stream::Stdout,
                offset,
                i64::try_from(index)?,
                &[part],
            ))
            .await?;
    }
    let mut readers = Vec::new();
    for (logs, follow) in [(&place.logs, false), (&place.logs, true), (&place.elsewhere()?, false)] {
        let mut entries = logs.read(read(attempt, None, 0, follow)).await?;
        let first = entries.next().await.context("no entry")??;
        let Entry::Piece(first) = first else {
            anyhow::bail!("{first:?}")
        };
        let offset = first.data.len() as u64;
        readers.push((
            first.data,
            tokio::spawn(drain(entries, offset, Duration::from_millis(2))),
        ));
    }
    seal(&*place.logs, attempt, 1).await?;
    for (first, reader) in readers {
        let got = reader.await??;
        assert!(got.gaps.is_empty(), "{:?}", got.gaps);
        let whole = [&first[..], &got.stdout[..]].concat();
        assert!(whole == bytes, "{} of {} bytes came", whole.len(), bytes.len());
    }
    Ok(())
}

/// A browser tab that is closed.
pub async fn dropping_a_follower_disturbs_nobody(place: Place) -> Result<()> {
    let attempt = attempt();
    let staying = follower(&place.logs, attempt, 0);
    let mut offset = 0;
    for round in 0..30 {
        let leaving = follower(&place.logs, attempt, 0);
        let text = format!("{round} ");
        place.logs.append(stdout(attempt, 1, offset, &text)).await?;
        offset += text.len() as u64;
        leaving.abort();
    }
    assert_eq!(seal(&*place.logs, attempt, 1).await?.bytes, offset);
    let got = timeout(SOON, staying).await???;
    assert_eq!(got.stdout.len() as u64, offset);
    Ok(())
}
