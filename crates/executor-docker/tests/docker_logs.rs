//! Logs in depth: what the engine does to long lines and bytes, resuming far into a long log, and losses that are noticed.

#[path = "support/go.rs"]
mod go;
mod support;

use robata_core::{
    ErrorKind, InstallationId,
    executor::{Executor, Position, Stream},
    finish::End,
};
use robata_executor_docker::{DockerConfig, DockerExecutor};

fn executor(config: &DockerConfig) -> DockerExecutor {
    DockerExecutor::connect(config.clone()).expect("connect")
}

async fn printed(config: &DockerConfig, script: &str) -> robata_core::Result<Vec<u8>> {
    let executor = executor(config);
    let handle = support::start(&executor, support::sh(script)).await;
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
    support::printed(&executor, &handle).await
}

#[tokio::test]
async fn lines_around_the_engines_piece_of_16_kib_come_through() {
    let config = support::config(InstallationId::new());
    let lengths = [16_383, 16_384, 16_385, 32_768, 32_769, 0, 5];
    let script: String = lengths
        .iter()
        .map(|length| format!("head -c {length} /dev/zero | tr '\\0' x; echo; "))
        .collect();
    let printed = printed(&config, &script).await.expect("output");
    let found: Vec<_> = printed.split(|&byte| byte == b'\n').map(<[u8]>::len).collect();
    assert_eq!(found[..lengths.len()], lengths);
    support::empty(&config).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_come_through_whole_also_where_a_line_is_cut() {
    let config = support::config(InstallationId::new());
    // 0xFF and a two-byte letter across every cut.
    let script = "printf 'a'; i=0; while [ $i -lt 20000 ]; do printf '\\303\\251'; i=$((i+1)); done; printf '\\377\\n'";
    let printed = printed(&config, &format!("{script}; echo end")).await.expect("output");
    let expected = [b"a".as_slice(), "é".repeat(20_000).as_bytes(), b"\xff\nend\n"].concat();
    assert!(printed == expected, "{} of {} bytes", printed.len(), expected.len());
    support::empty(&config).await;
}

#[tokio::test]
async fn a_last_line_too_long_for_the_engine_to_keep_its_newline_is_whole_and_an_error_says_so() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    let handle = support::start(&executor, support::sh("head -c 20000 /dev/zero | tr '\\0' x; echo")).await;
    support::ending(&executor, &handle).await;
    let mut pieces = support::pieces(&executor, &handle, Position::default()).await;
    let error = pieces.pop().unwrap().expect_err("nobody can know");
    assert!(error.message().contains("last line of stdout"), "{error}");
    let bytes: usize = pieces.into_iter().map(|piece| piece.unwrap().data.len()).sum();
    assert_eq!(bytes, 20_000);
    support::empty(&config).await;
}

#[tokio::test]
async fn reading_goes_on_far_into_a_long_log() {
    let config = support::config(InstallationId::new());
    let executor = executor(&config);
    // More than is sent again whole, over more than the margin's seconds, with an old line on the other stream.
    let script = "echo first >&2; i=0; while [ $i -lt 6 ]; do head -c 1200000 /dev/zero | tr '\\0' x | fold -w 1000; echo; \
                  i=$((i+1)); sleep 1; done; printf last";
    let handle = support::start(&executor, support::sh(script)).await;
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
    let pieces: Vec<_> = support::pieces(&executor, &handle, Position::default())
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let whole: usize = pieces.iter().map(|piece| piece.data.len()).sum();
    let (step, mut resumed) = (pieces.len() / 4, 0);
    for cut in (step..pieces.len()).step_by(step) {
        let before: usize = pieces[..cut].iter().map(|piece| piece.data.len()).sum();
        let rest = support::pieces(&executor, &handle, pieces[cut - 1].position.clone()).await;
        let rest: Vec<_> = rest.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            before + rest.iter().map(|piece| piece.data.len()).sum::<usize>(),
            whole,
            "cut at {cut}"
        );
        assert!(rest.iter().all(|piece| piece.stream == Stream::Stdout));
        assert_eq!(rest.last().unwrap().data, "last");
        resumed += 1;
    }
    assert!(resumed >= 3);
    support::empty(&config).await;
}

#[tokio::test]
async fn output_that_the_engine_has_thrown_away_is_an_error() {
    let mut config = support::config(InstallationId::new());
    config.log_max_bytes = 100_000;
    let executor = executor(&config);
    let script = "seq -f 'line %06g of some length' 30000";
    let script = format!(
        "{script} 2>/dev/null || {{ i=0; while [ $i -lt 30000 ]; do echo \"line $i of some length\"; i=$((i+1)); done; }}"
    );
    let handle = support::start(&executor, support::sh(&script)).await;
    support::ending(&executor, &handle).await;
    let pieces = support::pieces(&executor, &handle, Position::default()).await;
    let error = pieces.into_iter().find_map(Result::err).expect("lines are missing");
    assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
    assert!(error.message().contains("log_max_bytes"), "{error}");
    support::empty(&config).await;
}

#[tokio::test]
async fn a_position_whose_output_was_thrown_away_is_an_error() {
    let mut config = support::config(InstallationId::new());
    config.log_max_bytes = 100_000;
    let executor = executor(&config);
    let script = "echo first; while [ ! -e /tmp/go ]; do sleep 0.05; done; \
                  i=0; while [ $i -lt 30000 ]; do echo \"line $i of some length\"; i=$((i+1)); done";
    let handle = support::start(&executor, support::sh(script)).await;
    let mut position = Position::default();
    while position == Position::default() {
        let request = robata_core::executor::ReadOutput {
            handle: handle.clone(),
            from: Position::default(),
            follow: false,
        };
        let mut seen = executor.output(request).await.unwrap();
        if let Some(piece) = futures::StreamExt::next(&mut seen).await {
            position = piece.expect("a piece").position;
        }
    }
    go::go(&config, &handle.0).await;
    support::ending(&executor, &handle).await;
    let pieces = support::pieces(&executor, &handle, position).await;
    let error = pieces.into_iter().find_map(Result::err).expect("lines are missing");
    assert!(error.message().contains("thrown away"), "{error}");
    support::empty(&config).await;
}

#[tokio::test]
async fn a_flood_that_nobody_reads_neither_blocks_the_container_nor_fills_anything_and_its_loss_is_told() {
    const PRINTED: usize = 150 << 20;
    const KEPT: u64 = 8 << 20;
    let mut config = support::config(InstallationId::new());
    config.log_max_bytes = KEPT;
    let executor = executor(&config);
    let line = "x".repeat(1023);
    let script = format!("yes {line} | head -c {PRINTED}; echo last");
    let handle = support::start(&executor, support::sh(&script)).await;
    let request = robata_core::executor::ReadOutput {
        handle: handle.clone(),
        from: Position::default(),
        follow: true,
    };
    let mut seen = executor.output(request).await.expect("output");
    let first = futures::StreamExt::next(&mut seen)
        .await
        .expect("a piece")
        .expect("a piece");
    // The reader stands still, and it ends all the same.
    assert_eq!(support::ending(&executor, &handle).await.end, End::Exited(0));
    let mut bytes = first.data.len();
    let (mut last, mut error) = (first.data, None);
    let rest = async {
        while let Some(piece) = futures::StreamExt::next(&mut seen).await {
            match piece {
                Ok(piece) => {
                    bytes += piece.data.len();
                    last = piece.data;
                }
                Err(said) => error = Some(said),
            }
        }
    };
    tokio::time::timeout(support::STATE, rest)
        .await
        .expect("the output ends in time");
    // What the engine keeps is two files of this size, and what was on its way to us.
    assert!(bytes < 3 * usize::try_from(KEPT).unwrap(), "{bytes}");
    let error = error.expect("most of it is missing");
    assert!(error.message().contains("log_max_bytes"), "{error}");
    assert_eq!(last, "last\n", "the end is worth having");
    let peak = peak_memory_kib();
    assert!(peak < 100 << 10, "our memory: {peak} KiB");
    support::empty(&config).await;
}

/// The most memory that this process has had.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
