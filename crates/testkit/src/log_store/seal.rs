//! The end of a log: who may say it, what it says, and that reading is the same before and after.

use anyhow::Result;
use robata_core::{
    ErrorKind,
    attempt::{LogState, LogSummary},
    executor::Stream,
    log_store::Seal,
};

use super::{Place, all, attempt, chunk, complete, noise, read, seal, stdout};

/// Who was taken over from does not have the last word.
pub async fn a_seal_of_a_lower_epoch_is_fenced(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "text")).await?;
    let sealed = seal(&*place.logs, attempt, 2).await?;
    for logs in [&place.logs, &place.elsewhere()?] {
        let request = Seal {
            attempt,
            epoch: 1,
            summary: LogSummary {
                reason: Some("old".into()),
                ..complete()
            },
            reach: None,
        };
        let error = logs.seal(request).await.expect_err("an old epoch sealed");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    }
    assert_eq!(
        all(&*place.logs, read(attempt, None, 0, false)).await?.end,
        Some(sealed)
    );
    Ok(())
}

/// The first answer was lost.
pub async fn sealing_again_with_the_same_epoch_answers_well(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 3, 0, "one ")).await?;
    place.logs.append(stdout(attempt, 3, 4, "two")).await?;
    let first = seal(&*place.logs, attempt, 3).await?;
    assert_eq!(seal(&*place.logs, attempt, 3).await?, first);
    assert_eq!(seal(&*place.elsewhere()?, attempt, 3).await?, first);
    assert_eq!(
        all(&*place.logs, read(attempt, None, 0, false)).await?.text(),
        "one two"
    );
    Ok(())
}

/// The first sealer died before the store knew of it, and the adopter found more output.
pub async fn a_higher_epoch_seals_again(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "one ")).await?;
    place.logs.append(stdout(attempt, 1, 4, "two ")).await?;
    seal(&*place.logs, attempt, 1).await?;
    let there = place.elsewhere()?;
    there.append(stdout(attempt, 2, 8, "three")).await?;
    let summary = seal(&*there, attempt, 2).await?;
    assert_eq!((summary.bytes, summary.state), (13, LogState::Complete));
    for logs in [&place.logs, &there, &place.elsewhere()?] {
        let got = all(&**logs, read(attempt, None, 0, false)).await?;
        assert_eq!((got.text(), got.end.as_ref()), ("one two three", Some(&summary)));
    }
    Ok(())
}

/// Of both streams, each byte once.
pub async fn a_seal_answers_how_many_bytes_are_kept(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "0123456789")).await?;
    place.logs.append(stdout(attempt, 2, 5, "56789abc")).await?;
    place
        .logs
        .append(chunk(attempt, 2, Stream::Stderr, 0, 1, &["err"]))
        .await?;
    let summary = seal(&*place.logs, attempt, 2).await?;
    assert_eq!(
        summary,
        LogSummary {
            state: LogState::Complete,
            reason: None,
            bytes: 16
        }
    );
    Ok(())
}

/// Promise 10: whole, or marked incomplete with the reason.
pub async fn a_stream_with_a_gap_is_not_called_complete(place: Place) -> Result<()> {
    for (stream, offset) in [(Stream::Stdout, 3), (Stream::Stderr, 100)] {
        let attempt = attempt();
        place
            .logs
            .append(stdout(attempt, 1, 0, if offset == 3 { "ab" } else { "abc" }))
            .await?;
        place
            .logs
            .append(chunk(attempt, 1, stream, offset, 1, &["later"]))
            .await?;
        let summary = seal(&*place.logs, attempt, 1).await?;
        assert_eq!(summary.state, LogState::Incomplete, "{stream:?}");
        let reason = summary.reason.clone().unwrap_or_default();
        assert!(
            reason.contains(stream.as_str()),
            "the reason does not say where: {reason:?}"
        );
        assert_eq!(
            all(&*place.elsewhere()?, read(attempt, None, 0, false)).await?.end,
            Some(summary)
        );
    }
    Ok(())
}

/// Nobody calls it complete later.
pub async fn an_incomplete_log_keeps_its_reason(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "text")).await?;
    let reason = Some("the engine rotated its log away".to_owned());
    let summary = LogSummary {
        state: LogState::Incomplete,
        reason,
        bytes: 0,
    };
    let sealed = place
        .logs
        .seal(Seal {
            attempt,
            epoch: 1,
            summary: summary.clone(),
            reach: None,
        })
        .await?;
    assert_eq!(sealed, LogSummary { bytes: 4, ..summary });
    assert_eq!(
        all(&*place.elsewhere()?, read(attempt, None, 0, true)).await?.end,
        Some(sealed)
    );
    Ok(())
}

/// `open` is no end.
pub async fn a_seal_must_say_how_the_log_ended(place: Place) -> Result<()> {
    let attempt = attempt();
    let refused = place
        .logs
        .seal(Seal {
            attempt,
            epoch: 1,
            summary: LogSummary::default(),
            reach: None,
        })
        .await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Invalid));
    Ok(())
}

/// `/bin/true`.
pub async fn a_sealed_log_without_output_is_its_end(place: Place) -> Result<()> {
    let attempt = attempt();
    let summary = seal(&*place.logs, attempt, 1).await?;
    assert_eq!(summary, complete());
    for follow in [false, true] {
        let got = all(&*place.elsewhere()?, read(attempt, None, 0, follow)).await?;
        assert_eq!(
            (got.stdout.len() + got.stderr.len(), got.end),
            (0, Some(summary.clone()))
        );
    }
    Ok(())
}

/// Merging changes nothing that a reader sees, be it bytes, order or times.
pub async fn a_log_of_many_chunks_is_the_same_after_its_seal(place: Place) -> Result<()> {
    let attempt = attempt();
    let mut offsets = [0, 0];
    for index in 0..300_u64 {
        let which = usize::from(index % 3 == 0);
        let bytes = noise(usize::try_from(1 + index * 37 % 2000)?, index);
        let at = i64::try_from(index * 10)?;
        place
            .logs
            .append(chunk(attempt, 1, Stream::ALL[which], offsets[which], at, &[&bytes]))
            .await?;
        offsets[which] += bytes.len() as u64;
    }
    let before = all(&*place.logs, read(attempt, None, 0, false)).await?;
    let summary = seal(&*place.logs, attempt, 1).await?;
    assert_eq!(
        (summary.bytes, summary.state),
        (offsets[0] + offsets[1], LogState::Complete)
    );
    for logs in [&place.logs, &place.elsewhere()?] {
        let after = all(&**logs, read(attempt, None, 0, false)).await?;
        assert!(
            after.stdout == before.stdout && after.stderr == before.stderr,
            "the bytes have changed"
        );
        assert_eq!(after.times, before.times);
    }
    Ok(())
}

/// A worker that wakes after ten minutes.
pub async fn what_an_old_writer_appends_after_the_seal_does_not_count(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "text")).await?;
    let asleep = place.elsewhere()?;
    asleep.progress(attempt).await?;
    let sealed = seal(&*place.logs, attempt, 2).await?;
    // Refused or ignored: the log stays as it was sealed.
    if let Err(error) = asleep.append(stdout(attempt, 1, 4, " and more")).await {
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    }
    for logs in [&place.logs, &asleep, &place.elsewhere()?] {
        let got = all(&**logs, read(attempt, None, 0, false)).await?;
        assert_eq!((got.text(), got.end.as_ref()), ("text", Some(&sealed)));
    }
    Ok(())
}

/// Where it says that a stream went further than what is kept, readers MUST get the rest as a gap.
pub async fn what_was_left_out_at_the_end_is_told_as_a_gap(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "text")).await?;
    let reason = Some("log_limit".to_owned());
    let summary = LogSummary {
        state: LogState::Incomplete,
        reason,
        bytes: 0,
    };
    let seal = |summary: LogSummary| Seal {
        attempt,
        epoch: 1,
        summary,
        reach: Some([10, 3]),
    };
    let sealed = place.logs.seal(seal(summary.clone())).await?;
    assert_eq!(sealed, LogSummary { bytes: 4, ..summary });
    let got = all(&*place.elsewhere()?, read(attempt, None, 0, true)).await?;
    assert_eq!((got.text(), &got.end), ("text", &Some(sealed)));
    let mut gaps = got.gaps;
    gaps.sort_unstable_by_key(|gap| gap.1);
    assert_eq!(gaps, [(Stream::Stderr, 0, Some(3)), (Stream::Stdout, 4, Some(6))]);
    Ok(())
}

/// A stream with a gap at its end MUST NOT be called complete, either.
pub async fn a_log_that_should_go_further_is_not_called_complete(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "text")).await?;
    let seal = Seal {
        attempt,
        epoch: 1,
        summary: complete(),
        reach: Some([5, 0]),
    };
    let sealed = place.logs.seal(seal).await?;
    assert_eq!(sealed.state, LogState::Incomplete);
    assert!(sealed.reason.is_some_and(|reason| reason.contains("stdout")));
    Ok(())
}
