//! For who goes on with a log, and for who removes it.

use anyhow::Result;
use robata_core::{
    AttemptId,
    attempt::LogState,
    executor::{Position, Stream},
    log_store::Progress,
};

use super::{Place, all, attempt, chunk, complete, read, seal, stdout};

/// In both streams, and of the highest epoch.
pub async fn progress_gives_the_position_of_the_furthest_chunk(place: Place) -> Result<()> {
    let attempt = attempt();
    let mut expected = Progress::default();
    let chunks = [
        (Stream::Stdout, 1, "one\n"),
        (Stream::Stdout, 1, "two\n"),
        (Stream::Stderr, 1, "oops\n"),
        (Stream::Stdout, 2, "three\n"),
        (Stream::Stderr, 2, "again\n"),
    ];
    for (index, (stream, epoch, text)) in chunks.into_iter().enumerate() {
        let kept = if stream == Stream::Stdout {
            &mut expected.stdout
        } else {
            &mut expected.stderr
        };
        let mut chunk = chunk(attempt, epoch, stream, *kept, 1, &[text]);
        chunk.position = Position(format!("position {index} \u{1F980}"));
        *kept += text.len() as u64;
        expected.position = chunk.position.clone();
        place.logs.append(chunk).await?;
        assert_eq!(place.logs.progress(attempt).await?, expected, "after chunk {index}");
    }
    Ok(())
}

/// A take-over: the other process reads on where this one stopped, and so does the next one.
pub async fn progress_goes_on_elsewhere(place: Place) -> Result<()> {
    let attempt = attempt();
    let mut text = String::new();
    for epoch in 1..=5 {
        let logs = place.elsewhere()?;
        let progress = logs.progress(attempt).await?;
        assert_eq!(progress.stdout, text.len() as u64);
        if epoch > 1 {
            assert_eq!(progress.position, Position(format!("stdout@{}", text.len())));
        }
        for line in 0..3 {
            let line = format!("epoch {epoch} line {line}\n");
            logs.append(stdout(attempt, epoch, text.len() as u64, &line)).await?;
            text.push_str(&line);
        }
    }
    assert_eq!(all(&*place.logs, read(attempt, None, 0, false)).await?.text(), text);
    Ok(())
}

/// It begins at the beginning.
pub async fn progress_of_an_unknown_log_is_nothing(place: Place) -> Result<()> {
    assert_eq!(place.logs.progress(attempt()).await?, Progress::default());
    Ok(())
}

/// The adopter of an attempt that was sealed and not finalised has only to finalise it.
pub async fn progress_tells_of_the_seal(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "one ")).await?;
    place.logs.append(stdout(attempt, 1, 4, "two ")).await?;
    let summary = seal(&*place.logs, attempt, 1).await?;
    for logs in [&place.logs, &place.elsewhere()?] {
        let progress = logs.progress(attempt).await?;
        assert_eq!(
            (progress.stdout, progress.stderr, progress.sealed),
            (8, 0, Some(summary.clone()))
        );
        assert_eq!(progress.position, Position("stdout@8".into()));
    }
    Ok(())
}

/// Open and sealed ones, and only those that were named.
pub async fn delete_removes_all_of_an_attempt_and_nothing_else(place: Place) -> Result<()> {
    let first = attempt();
    let attempts = [1, 2, 3, 12].map(|number| AttemptId { number, ..first });
    for attempt in attempts {
        place.logs.append(stdout(attempt, 1, 0, "one")).await?;
        place
            .logs
            .append(chunk(attempt, 1, Stream::Stderr, 0, 1, &["two"]))
            .await?;
    }
    seal(&*place.logs, attempts[1], 1).await?;
    place.logs.delete(&attempts[..2]).await?;
    for logs in [&place.logs, &place.elsewhere()?] {
        for (attempt, bytes) in attempts.into_iter().zip([0, 0, 6, 6]) {
            let got = all(&**logs, read(attempt, None, 0, false)).await?;
            assert_eq!(got.stdout.len() + got.stderr.len(), bytes, "{attempt}");
            assert_eq!(
                got.end.map(|end| (end.state, end.bytes)),
                Some((LogState::Open, bytes as u64))
            );
            let progress = logs.progress(attempt).await?;
            assert_eq!(
                (progress.stdout + progress.stderr, progress.sealed),
                (bytes as u64, None)
            );
        }
    }
    // What is gone can be written anew, as if it had never been.
    place.logs.append(stdout(attempts[0], 1, 0, "new")).await?;
    assert_eq!(seal(&*place.logs, attempts[0], 1).await?.bytes, 3);
    Ok(())
}

/// The first answer was lost, or there was never any output.
pub async fn deleting_an_unknown_log_answers_well(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.delete(&[attempt]).await?;
    place.logs.delete(&[]).await?;
    place.logs.append(stdout(attempt, 1, 0, "text")).await?;
    place.logs.delete(&[attempt]).await?;
    place.logs.delete(&[attempt]).await?;
    assert_eq!(seal(&*place.logs, attempt, 1).await?, complete());
    Ok(())
}
