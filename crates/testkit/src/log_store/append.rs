//! What is kept, from which moment on, and what is refused.

use std::time::Duration;

use anyhow::Result;
use robata_core::{AttemptId, ErrorKind, executor::Stream};

use super::{Place, all, attempt, chunk, read, seal, stdout};

/// Another process can read it at once.
pub async fn a_chunk_is_kept_when_append_returns(place: Place) -> Result<()> {
    let attempt = attempt();
    for (index, text) in ["one\n", "two\n", "last without newline"].iter().enumerate() {
        let before = all(&*place.logs, read(attempt, None, 0, false)).await?;
        place
            .logs
            .append(stdout(attempt, 1, before.stdout.len() as u64, text))
            .await?;
        let got = all(&*place.elsewhere()?, read(attempt, None, 0, false)).await?;
        assert!(got.text().ends_with(text), "append {index}: {got:?}");
    }
    Ok(())
}

/// A lost answer and a second try.
pub async fn the_same_chunk_again_changes_nothing(place: Place) -> Result<()> {
    let attempt = attempt();
    let (one, two) = (stdout(attempt, 1, 0, "one\n"), stdout(attempt, 1, 4, "two\n"));
    place.logs.append(one.clone()).await?;
    place.logs.append(two.clone()).await?;
    place.logs.append(one.clone()).await?;
    place.elsewhere()?.append(two.clone()).await?;
    let got = all(&*place.logs, read(attempt, None, 0, false)).await?;
    assert_eq!((got.text(), &got.gaps[..]), ("one\ntwo\n", &[][..]));
    let summary = seal(&*place.logs, attempt, 1).await?;
    assert_eq!(summary.bytes, 8);
    // The answer to the last append was lost, and the seal went through: still no fault of the writer.
    place.logs.append(two).await?;
    assert_eq!(
        all(&*place.logs, read(attempt, None, 0, false)).await?.text(),
        "one\ntwo\n"
    );
    Ok(())
}

/// Nothing of it is kept.
pub async fn a_chunk_that_is_none_is_refused(place: Place) -> Result<()> {
    let attempt = attempt();
    let mut empty = stdout(attempt, 1, 0, "x");
    empty.pieces.clear();
    let mut mixed = stdout(attempt, 1, 0, "out");
    mixed
        .pieces
        .extend(chunk(attempt, 1, Stream::Stderr, 3, 1, &["err"]).pieces);
    let mut torn = stdout(attempt, 1, 0, "out");
    torn.pieces.extend(stdout(attempt, 1, 7, "later").pieces);
    for (what, chunk) in [("no pieces", empty), ("both streams", mixed), ("a hole", torn)] {
        let error = place.logs.append(chunk).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error:?}");
    }
    assert!(
        all(&*place.logs, read(attempt, None, 0, false))
            .await?
            .stdout
            .is_empty()
    );
    Ok(())
}

/// Neither two attempts of one job, nor numbers that begin alike.
pub async fn attempts_do_not_mix(place: Place) -> Result<()> {
    let first = attempt();
    let attempts = [1, 2, 11, 12, 111].map(|number| AttemptId { number, ..first });
    for attempt in attempts {
        place
            .logs
            .append(stdout(attempt, 1, 0, &format!("attempt {}", attempt.number)))
            .await?;
    }
    for attempt in attempts {
        let got = all(&*place.logs, read(attempt, None, 0, false)).await?;
        assert_eq!(got.text(), format!("attempt {}", attempt.number));
    }
    Ok(())
}

/// A place that takes chunks is a place that can be written.
pub async fn check_tries_for_real(place: Place) -> Result<()> {
    place.logs.check(Duration::from_secs(10)).await?;
    place.logs.check(Duration::from_secs(10)).await?;
    Ok(())
}
