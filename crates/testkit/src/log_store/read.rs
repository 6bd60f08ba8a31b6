//! What a reader gets: every byte once, in order, by the highest epoch, and what is missing by its name.

use anyhow::Result;
use robata_core::{ErrorKind, attempt::LogState, executor::Stream};

use super::{Place, all, attempt, chunk, noise, read, seal, stdout};

/// Pieces and chunks of all sizes, of both streams.
pub async fn a_reader_gets_every_byte_once_and_in_order(place: Place) -> Result<()> {
    let attempt = attempt();
    let (out, err) = (noise(300_000, 1), noise(200_000, 2));
    for (stream, bytes) in [(Stream::Stdout, &out), (Stream::Stderr, &err)] {
        let mut offset = 0;
        for (index, part) in bytes.chunks(70_001).enumerate() {
            let pieces: Vec<_> = part.chunks(1 + index * 9_000).take(50).collect();
            let length: usize = pieces.iter().map(|piece| piece.len()).sum();
            let rest = &part[length..];
            let at = 1000 + i64::try_from(index)?;
            place
                .logs
                .append(chunk(attempt, 1, stream, offset, at, &pieces))
                .await?;
            offset += length as u64;
            if !rest.is_empty() {
                place
                    .logs
                    .append(chunk(attempt, 1, stream, offset, at + 1, &[rest]))
                    .await?;
                offset += rest.len() as u64;
            }
        }
    }
    let both = all(&*place.logs, read(attempt, None, 0, false)).await?;
    assert!(
        both.stdout == out && both.stderr == err && both.gaps.is_empty(),
        "the bytes have changed"
    );
    let only = all(&*place.logs, read(attempt, Some(Stream::Stderr), 0, false)).await?;
    assert!(only.stderr == err && only.stdout.is_empty(), "one stream alone");
    assert_eq!(only.end.map(|end| end.state), Some(LogState::Open));
    Ok(())
}

/// In the middle of a piece, at a border, at the end, behind it; open and sealed.
pub async fn a_read_from_an_offset_goes_on_from_there(place: Place) -> Result<()> {
    let attempt = attempt();
    let text = "0123456789abcdefghij";
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stdout, 0, 1, &["0123", "456789"]))
        .await?;
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stdout, 10, 3, &["abcde", "fghij"]))
        .await?;
    for sealed in [false, true] {
        if sealed {
            seal(&*place.logs, attempt, 1).await?;
        }
        for offset in [0, 1, 4, 5, 10, 12, 15, 19, 20, 21, 1000] {
            let got = all(&*place.logs, read(attempt, Some(Stream::Stdout), offset, false)).await?;
            let expected = text.get(usize::try_from(offset)?..).unwrap_or("");
            assert_eq!(
                (got.text(), got.gaps.len()),
                (expected, 0),
                "from {offset}, sealed: {sealed}"
            );
        }
    }
    Ok(())
}

/// Two streams have no common offset.
pub async fn an_offset_of_both_streams_is_refused(place: Place) -> Result<()> {
    let refused = place.logs.read(read(attempt(), None, 1, false)).await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Invalid));
    Ok(())
}

/// The one who was stopped, and the one who took over, both wrote.
pub async fn the_highest_epoch_wins_at_an_offset(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 2, 0, "NEW")).await?;
    place.elsewhere()?.append(stdout(attempt, 1, 0, "old")).await?;
    place.elsewhere()?.append(stdout(attempt, 1, 3, "old")).await?;
    place.elsewhere()?.append(stdout(attempt, 3, 3, "TOP")).await?;
    for sealed in [false, true] {
        if sealed {
            seal(&*place.logs, attempt, 3).await?;
        }
        let got = all(&*place.elsewhere()?, read(attempt, None, 0, false)).await?;
        assert_eq!(got.text(), "NEWTOP", "sealed: {sealed}");
    }
    Ok(())
}

/// Its chunks do not begin where the old ones do.
pub async fn an_epoch_may_begin_in_the_middle_of_an_older_chunk(place: Place) -> Result<()> {
    let attempt = attempt();
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stdout, 0, 1, &["aaaa", "aaaa", "aaaa"]))
        .await?;
    place
        .logs
        .append(chunk(attempt, 2, Stream::Stdout, 6, 9, &["BBB"]))
        .await?;
    place
        .logs
        .append(chunk(attempt, 3, Stream::Stdout, 8, 10, &["CC"]))
        .await?;
    for sealed in [false, true] {
        if sealed {
            let summary = seal(&*place.logs, attempt, 3).await?;
            assert_eq!((summary.bytes, summary.state), (12, LogState::Complete));
        }
        for offset in 0..12 {
            let got = all(&*place.logs, read(attempt, Some(Stream::Stdout), offset, false)).await?;
            let expected = &"aaaaaaBBCCaa"[usize::try_from(offset)?..];
            assert_eq!(got.text(), expected, "from {offset}, sealed: {sealed}");
        }
    }
    Ok(())
}

/// A writer that failed in the middle reads the engine's output again, and cuts it into other chunks.
pub async fn what_was_written_again_in_one_epoch_is_read_once(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 0, "0123456789")).await?;
    place.logs.append(stdout(attempt, 1, 0, "0123456789abc")).await?;
    place.logs.append(stdout(attempt, 1, 4, "456789abcdef")).await?;
    for sealed in [false, true] {
        if sealed {
            assert_eq!(seal(&*place.logs, attempt, 1).await?.bytes, 16);
        }
        let got = all(&*place.logs, read(attempt, None, 0, false)).await?;
        assert_eq!(
            (got.text(), got.gaps.len()),
            ("0123456789abcdef", 0),
            "sealed: {sealed}"
        );
    }
    Ok(())
}

/// As a terminal would have shown it.
pub async fn both_streams_come_in_the_order_of_their_times(place: Place) -> Result<()> {
    let attempt = attempt();
    for round in 0..5_u64 {
        let at = i64::try_from(round * 20)?;
        let even: Vec<_> = (0..10).map(|index| format!("{}\n", at + index)).collect();
        place
            .logs
            .append(chunk(
                attempt,
                1,
                Stream::Stderr,
                round * 100,
                at + 5,
                &[vec![b'e'; 100]],
            ))
            .await?;
        let offset = all(&*place.logs, read(attempt, Some(Stream::Stdout), 0, false))
            .await?
            .stdout
            .len() as u64;
        place
            .logs
            .append(chunk(attempt, 1, Stream::Stdout, offset, at, &even))
            .await?;
    }
    for sealed in [false, true] {
        if sealed {
            seal(&*place.logs, attempt, 1).await?;
        }
        let got = all(&*place.logs, read(attempt, None, 0, false)).await?;
        assert!(got.times.is_sorted(), "sealed: {sealed}: {:?}", got.times);
        assert_eq!(got.stderr.len(), 500);
    }
    Ok(())
}

/// The bytes' order is the stream's own, whatever the clock says.
pub async fn a_clock_that_goes_back_does_not_turn_a_stream_around(place: Place) -> Result<()> {
    let attempt = attempt();
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stdout, 0, 5000, &["one ", "two "]))
        .await?;
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stdout, 8, 100, &["three ", "four "]))
        .await?;
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stderr, 0, 4000, &["early ", "late "]))
        .await?;
    let got = all(&*place.logs, read(attempt, None, 0, false)).await?;
    assert_eq!(
        (got.text(), got.stderr.as_slice()),
        ("one two three four ", &b"early late "[..])
    );
    Ok(())
}

/// At the beginning, between two chunks, and in one stream only.
pub async fn what_is_missing_is_told_as_a_gap(place: Place) -> Result<()> {
    let attempt = attempt();
    place.logs.append(stdout(attempt, 1, 5, "56789")).await?;
    place.logs.append(stdout(attempt, 1, 20, "later")).await?;
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stderr, 0, 1, &["whole"]))
        .await?;
    for sealed in [false, true] {
        if sealed {
            seal(&*place.logs, attempt, 1).await?;
        }
        let got = all(&*place.logs, read(attempt, None, 0, false)).await?;
        assert_eq!((got.text(), got.stderr.as_slice()), ("56789later", &b"whole"[..]));
        assert_eq!(
            got.gaps,
            [(Stream::Stdout, 0, Some(5)), (Stream::Stdout, 10, Some(10))],
            "sealed: {sealed}"
        );
        let got = all(&*place.logs, read(attempt, Some(Stream::Stdout), 13, false)).await?;
        assert_eq!(
            (got.text(), &got.gaps[..]),
            ("later", &[(Stream::Stdout, 13, Some(7))][..])
        );
    }
    Ok(())
}

/// It may be about to begin.
pub async fn an_unknown_log_is_open_and_empty(place: Place) -> Result<()> {
    let got = all(&*place.logs, read(attempt(), None, 0, false)).await?;
    assert!(got.stdout.is_empty() && got.stderr.is_empty() && got.gaps.is_empty());
    assert_eq!(got.end.map(|end| (end.state, end.bytes)), Some((LogState::Open, 0)));
    Ok(())
}

/// Every byte there is, and no newline at the end.
pub async fn bytes_that_are_no_text_come_through(place: Place) -> Result<()> {
    let attempt = attempt();
    let bytes: Vec<u8> = (0..=255).chain([0, 10, 13, 0xff, 0xfe]).collect();
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stdout, 0, 1, &[&bytes[..100], &bytes[100..]]))
        .await?;
    for sealed in [false, true] {
        if sealed {
            seal(&*place.logs, attempt, 1).await?;
        }
        assert_eq!(all(&*place.logs, read(attempt, None, 0, false)).await?.stdout, bytes);
    }
    Ok(())
}

/// One piece, larger than any buffer ought to be.
pub async fn a_line_of_a_megabyte_comes_through(place: Place) -> Result<()> {
    let attempt = attempt();
    let line = vec![b'x'; 1_000_003];
    place
        .logs
        .append(chunk(attempt, 1, Stream::Stdout, 0, 1, &[&line]))
        .await?;
    for sealed in [false, true] {
        if sealed {
            seal(&*place.logs, attempt, 1).await?;
        }
        let got = all(&*place.logs, read(attempt, None, 0, false)).await?;
        assert!(got.stdout == line, "{} bytes came", got.stdout.len());
        let tail = all(&*place.logs, read(attempt, Some(Stream::Stdout), 1_000_000, false)).await?;
        assert_eq!(tail.text(), "xxx");
    }
    Ok(())
}

/// Twelve megabytes in chunks of a quarter: more than one object, more than one list page of a small engine.
pub async fn a_large_log_comes_through(place: Place) -> Result<()> {
    let attempt = attempt();
    let bytes = noise(12 << 20, 3);
    for (index, part) in bytes.chunks(256 << 10).enumerate() {
        let offset = (index * (256 << 10)) as u64;
        let pieces: Vec<_> = part.chunks(10_000).collect();
        place
            .logs
            .append(chunk(
                attempt,
                1,
                Stream::Stdout,
                offset,
                i64::try_from(offset)?,
                &pieces,
            ))
            .await?;
    }
    for sealed in [false, true] {
        if sealed {
            let summary = seal(&*place.logs, attempt, 1).await?;
            assert_eq!((summary.bytes, summary.state), (bytes.len() as u64, LogState::Complete));
        }
        let got = all(&*place.elsewhere()?, read(attempt, None, 0, false)).await?;
        assert!(got.stdout == bytes, "sealed: {sealed}: {} bytes came", got.stdout.len());
        let offset = 9_999_999;
        let got = all(&*place.logs, read(attempt, Some(Stream::Stdout), offset, false)).await?;
        assert!(
            got.stdout == bytes[usize::try_from(offset)?..],
            "sealed: {sealed}: from {offset}"
        );
    }
    Ok(())
}
