//! Chunks that were cut by a crash or a full disk: never read, never counted, and no obstacle.

use anyhow::{Context, Result};
use robata_core::{
    attempt::LogState,
    executor::{Position, Stream},
};

use super::{Place, all, attempt, chunk, noise, read, seal, stdout};

/// What came before it is.
pub async fn a_half_written_chunk_is_not_read(place: Place) -> Result<()> {
    let attempt = attempt();
    let bytes = noise(5_000, 6);
    place.logs.append(stdout(attempt, 1, 0, "whole\n")).await?;
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stdout, 6, 1, &[&bytes[..100], &bytes[100..]]))
        .await?;
    (place.tear)(attempt).await.context("tearing the last chunk")?;
    let got = all(&*place.elsewhere()?, read(attempt, None, 0, false)).await?;
    // Its sound pieces may be given, the rest is a gap; a byte that is wrong may never come.
    let torn = got.stdout.strip_prefix(b"whole\n").context("the sound chunk is gone")?;
    assert!(
        torn.len() < bytes.len() && bytes.starts_with(torn),
        "{} bytes came of it",
        torn.len()
    );
    let told: u64 = got.gaps.iter().filter_map(|(_, _, bytes)| *bytes).sum();
    assert!(told == 0 || told == (bytes.len() - torn.len()) as u64, "{:?}", got.gaps);
    Ok(())
}

/// Promise 10.
pub async fn a_log_with_a_half_written_chunk_is_not_called_complete(place: Place) -> Result<()> {
    let attempt = attempt();
    for (index, text) in ["one\n", "two\n", "six\n"].into_iter().enumerate() {
        place.logs.append(stdout(attempt, 1, index as u64 * 4, text)).await?;
    }
    (place.tear)(attempt).await.context("tearing the last chunk")?;
    let there = place.elsewhere()?;
    let summary = seal(&*there, attempt, 2).await?;
    assert_eq!((summary.state, summary.bytes), (LogState::Incomplete, 8), "{summary:?}");
    let got = all(&*there, read(attempt, None, 0, false)).await?;
    assert_eq!((got.text(), got.end.as_ref()), ("one\ntwo\n", Some(&summary)));
    assert_eq!(got.gaps, [(Stream::Stdout, 8, Some(4))]);
    Ok(())
}

/// Whoever goes on reads what was in it again.
pub async fn progress_stops_before_a_half_written_chunk(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "whole\n")).await?;
    place.logs.append(stdout(attempt, 1, 6, "torn\n")).await?;
    (place.tear)(attempt).await.context("tearing the last chunk")?;
    let progress = place.elsewhere()?.progress(attempt).await?;
    assert_eq!((progress.stdout, progress.position), (6, Position("stdout@6".into())));
    Ok(())
}

/// And then the log is whole.
pub async fn a_half_written_chunk_may_be_written_again(place: Place) -> Result<()> {
    for epoch in [1, 2] {
        let attempt = attempt();
        place.logs.append(stdout(attempt, 1, 0, "whole\n")).await?;
        place.logs.append(stdout(attempt, 1, 6, "torn\n")).await?;
        (place.tear)(attempt).await.context("tearing the last chunk")?;
        let there = place.elsewhere()?;
        let progress = there.progress(attempt).await?;
        there
            .append(stdout(attempt, epoch, progress.stdout, "torn\nmore\n"))
            .await?;
        let summary = seal(&*there, attempt, epoch).await?;
        assert_eq!(
            (summary.state, summary.bytes),
            (LogState::Complete, 16),
            "epoch {epoch}: {summary:?}"
        );
        let got = all(&*place.elsewhere()?, read(attempt, None, 0, false)).await?;
        assert_eq!((got.text(), got.gaps.len()), ("whole\ntorn\nmore\n", 0));
    }
    Ok(())
}
