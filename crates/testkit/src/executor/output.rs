//! Cases of `output`: every byte, from any position, while it runs and after.

use std::time::Duration;

use futures::StreamExt;
use robata_core::{
    error::ErrorKind,
    executor::{Handle, Position, ReadOutput, Stream},
};

use super::{Printed, Stage};

/// `output` MUST give every byte, to a last line without newline, and then end.
pub async fn output_is_whole_to_a_last_line_without_newline(stage: Stage) {
    let (handle, _) = stage.run_to_end(stage.sh("echo one; echo; printf 'no newline'")).await;
    assert_eq!(stage.printed(&handle).await.text(), "one\n\nno newline");
    let (silent, _) = stage.run_to_end(stage.sh("exit 0")).await;
    assert_eq!(stage.printed(&silent).await, Printed::default());
    assert!(
        stage
            .pieces(&*stage.executor, &silent, Position::default(), true)
            .await
            .is_empty()
    );
}

/// Bytes that are no text come through, where the executor says so.
pub async fn binary_and_escape_bytes_come_through(stage: Stage) {
    let script = r"printf '\033[31mred\033[0m\r\n\000\001\377\376\200 \303\050\n\000'";
    let (handle, _) = stage.run_to_end(stage.sh(script)).await;
    let printed = stage.printed(&handle).await.stdout;
    let expected = b"\x1b[31mred\x1b[0m\r\n\x00\x01\xff\xfe\x80 \xc3\x28\n\x00".as_slice();
    if stage.executor.capabilities().exact_bytes {
        assert_eq!(printed, expected);
    } else {
        assert!(printed.starts_with(b"\x1b[31mred\x1b[0m"), "{printed:?}");
    }
}

/// A line longer than any buffer comes through as one line.
pub async fn a_line_of_a_megabyte_comes_through(stage: Stage) {
    let script = "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo after";
    let (handle, _) = stage.run_to_end(stage.sh(script)).await;
    let printed = stage.printed(&handle).await.stdout;
    assert_eq!(printed.len(), (1 << 20) + 7);
    assert!(printed[..1 << 20].iter().all(|byte| *byte == b'x'));
    assert_eq!(&printed[1 << 20..], b"\nafter\n");
}

/// Standard output and standard error are told apart, where the executor says so; nothing of either is lost.
pub async fn stdout_and_stderr_are_told_apart(stage: Stage) {
    let (handle, _) = stage
        .run_to_end(stage.sh("echo out; echo err >&2; echo out2; echo err2 >&2"))
        .await;
    let printed = stage.printed(&handle).await;
    if stage.executor.capabilities().separate_streams {
        assert_eq!(
            (printed.text().as_str(), &*printed.stderr),
            ("out\nout2\n", b"err\nerr2\n".as_slice())
        );
    } else {
        let mut lines: Vec<_> = printed.text().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(
            (lines.join(" ").as_str(), printed.stderr.is_empty()),
            ("err err2 out out2", true)
        );
    }
}

/// Following shows output while the thing runs, and ends when it has ended and all is read.
pub async fn following_shows_output_while_it_runs_and_then_ends(stage: Stage) {
    let script = "trap 'printf last; exit 0' TERM; echo first; while :; do sleep 0.05; done";
    let handle = stage.prepare(stage.sh(script)).await;
    let request = ReadOutput {
        handle: handle.clone(),
        from: Position::default(),
        follow: true,
    };
    // A follower may be there before the thing runs.
    let mut follow = stage.executor.output(request).await.expect("output");
    stage.executor.start(&handle).await.expect("start");
    let mut printed = Printed::default();
    if stage.executor.capabilities().live_logs {
        while printed.text() != "first\n" {
            let piece = tokio::time::timeout(Duration::from_secs(30), follow.next())
                .await
                .expect("it is shown live");
            printed.add(&piece.expect("the stream goes on while it runs").expect("a piece"));
        }
        stage.until_running(&handle).await;
    } else {
        stage.until_running(&handle).await;
    }
    let stop = stage.executor.stop(&handle, Duration::from_secs(30));
    let rest = async {
        while let Some(piece) = follow.next().await {
            printed.add(&piece.expect("a piece"));
        }
    };
    let (stopped, rest) = tokio::join!(stop, tokio::time::timeout(Duration::from_secs(60), rest));
    stopped.expect("stop");
    rest.expect("the stream ends with the thing");
    assert_eq!(printed.text(), "first\nlast");
}

/// `output` MUST give every byte from the position.
pub async fn output_goes_on_from_any_position(stage: Stage) {
    let script = "i=0; while [ $i -lt 3000 ]; do echo \"line $i of some length to fill more than one piece of output\"; \
                  echo \"error $i\" >&2; i=$((i+1)); done";
    let (handle, _) = stage.run_to_end(stage.sh(script)).await;
    let pieces = stage
        .pieces(&*stage.executor, &handle, Position::default(), false)
        .await;
    assert!(!pieces.is_empty());
    let mut whole = Printed::default();
    pieces.iter().for_each(|piece| whole.add(piece));
    assert_eq!(whole.all().lines().count(), 6000);
    let step = (pieces.len() / 5).max(1);
    for taken in (0..pieces.len()).step_by(step).chain([pieces.len() - 1]) {
        let mut joined = Printed::default();
        pieces[..=taken].iter().for_each(|piece| joined.add(piece));
        for follow in [false, true] {
            let mut joined = joined.clone();
            let rest = stage
                .pieces(&*stage.executor, &handle, pieces[taken].position.clone(), follow)
                .await;
            rest.iter().for_each(|piece| joined.add(piece));
            assert_eq!(joined, whole, "from {:?}", pieces[taken].position);
        }
    }
}

/// A reader that does not read neither holds up the thing nor loses anything.
pub async fn a_slow_reader_neither_blocks_the_thing_nor_loses_bytes(stage: Stage) {
    let handle = stage
        .prepare(stage.sh("head -c 4194304 /dev/zero | tr '\\0' y; echo; echo end"))
        .await;
    let request = ReadOutput {
        handle: handle.clone(),
        from: Position::default(),
        follow: true,
    };
    let mut follow = stage.executor.output(request).await.expect("output");
    stage.executor.start(&handle).await.expect("start");
    let mut bytes = follow.next().await.expect("a first piece").expect("a piece").data.len();
    // The thing ends though nobody reads on.
    stage.ending(&handle).await;
    let mut last = Vec::new();
    while let Some(piece) = follow.next().await {
        let piece = piece.expect("a piece");
        assert_eq!(piece.stream, Stream::Stdout);
        bytes += piece.data.len();
        last.extend_from_slice(&piece.data[piece.data.len().saturating_sub(8)..]);
    }
    assert_eq!(bytes, (4 << 20) + 5);
    assert!(last.ends_with(b"\nend\n"));
}

/// What the engine cannot give MUST be an error, not silence.
pub async fn output_of_what_never_was_is_not_found(stage: Stage) {
    let request = ReadOutput {
        handle: Handle("00000000000000000000000000000000".to_owned()),
        from: Position::default(),
        follow: true,
    };
    let error = match stage.executor.output(request).await {
        Err(error) => error,
        Ok(mut stream) => match stream.next().await {
            Some(Err(error)) => error,
            other => panic!("silence: {other:?}"),
        },
    };
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

/// A worker that comes later reads the whole output.
pub async fn a_restarted_worker_reads_the_whole_output(stage: Stage) {
    let (handle, _) = stage.run_to_end(stage.sh("echo a; echo b; printf c")).await;
    let late = stage.restarted().await;
    let mut printed = Printed::default();
    for piece in stage.pieces(&*late, &handle, Position::default(), true).await {
        printed.add(&piece);
    }
    assert_eq!(printed.text(), "a\nb\nc");
}
