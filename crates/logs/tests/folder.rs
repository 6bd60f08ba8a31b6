//! What only a folder knows: permissions and full disks, left-overs of killed processes, and the wake-up within a process.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use object_store::{
    ObjectStore, local::LocalFileSystem, memory::InMemory, throttle::ThrottleConfig, throttle::ThrottledStore,
};
use robata_core::{
    AttemptId, ErrorKind, JobId, Timestamp,
    attempt::{LogState, LogSummary},
    executor::{Position, Stream},
    log_store::{Chunk, Entry, LogStore, Piece, Read, Seal},
};
use robata_logs::{Logs, LogsConfig};

fn attempt() -> AttemptId {
    AttemptId {
        job: JobId::new(),
        number: 1,
    }
}

fn chunk(attempt: AttemptId, offset: u64, data: &'static str) -> Chunk {
    let data = Bytes::from_static(data.as_bytes());
    let piece = Piece {
        at: Timestamp::from_millis(1),
        stream: Stream::Stdout,
        offset,
        data,
    };
    Chunk {
        attempt,
        epoch: 1,
        pieces: vec![piece],
        position: Position::default(),
    }
}

fn follow(attempt: AttemptId) -> Read {
    Read {
        attempt,
        stream: None,
        offset: 0,
        follow: true,
    }
}

fn complete(attempt: AttemptId) -> Seal {
    Seal {
        attempt,
        epoch: 1,
        summary: LogSummary {
            state: LogState::Complete,
            ..LogSummary::default()
        },
        reach: None,
    }
}

/// Files below `path`, however deep.
fn files(path: &std::path::Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(self::files(&entry.path())?);
        } else {
            files.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    files.sort();
    Ok(files)
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_says_which_and_why() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way")?;
    let error = Logs::folder(file.join("logs"), LogsConfig::default()).expect_err("a folder in a file");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.full();
    assert!(text.contains("the log folder ") && text.contains("file/logs"), "{text}");
    assert!(text.contains("Not a directory"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_fails_its_check_and_its_appends_and_works_again_after() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("logs");
    let logs = Logs::folder(&path, LogsConfig::default())?;
    logs.check(Duration::from_secs(5)).await?;
    // Permissions say nothing to root; a file in the folder's place stops everybody.
    std::fs::rename(&path, folder.path().join("away"))?;
    std::fs::write(&path, "in the way")?;
    let attempt = attempt();
    for error in [
        logs.check(Duration::from_secs(5)).await.expect_err("check"),
        logs.append(chunk(attempt, 0, "text")).await.expect_err("append"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        let text = error.full();
        assert!(
            text.contains("the log folder ") && text.contains(&path.display().to_string()),
            "{text}"
        );
        assert!(text.contains("Not a directory"), "{text}");
    }
    std::fs::remove_file(&path)?;
    logs.append(chunk(attempt, 0, "text")).await?;
    logs.check(Duration::from_secs(5)).await?;
    assert_eq!(logs.seal(complete(attempt)).await?.bytes, 4);
    Ok(())
}

#[tokio::test]
async fn a_store_that_hangs_is_unavailable_within_the_time_given() -> Result<()> {
    let slow = ThrottleConfig {
        wait_put_per_call: Duration::from_secs(3600),
        ..ThrottleConfig::default()
    };
    let store: Arc<dyn ObjectStore> = Arc::new(ThrottledStore::new(InMemory::new(), slow));
    let logs = Logs::new(
        store,
        LogsConfig::default().with_operation_timeout(Duration::from_millis(100)),
    );
    let begun = std::time::Instant::now();
    let checked = logs.check(Duration::from_millis(50)).await.expect_err("check");
    let appended = logs.append(chunk(attempt(), 0, "text")).await.expect_err("append");
    for error in [checked, appended] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.message().contains("did not answer within"), "{error:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    Ok(())
}

#[tokio::test]
async fn a_follower_in_the_writers_process_is_woken_without_any_poll() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let logs = Logs::folder(
        folder.path(),
        LogsConfig::default().with_poll(Duration::from_secs(3600)),
    )?;
    let attempt = attempt();
    let mut entries = logs.read(follow(attempt)).await?;
    let reader = tokio::spawn(async move {
        let mut text = String::new();
        while let Some(entry) = entries.next().await {
            match entry? {
                Entry::Piece(piece) => text.push_str(std::str::from_utf8(&piece.data)?),
                Entry::Gap { .. } => anyhow::bail!("a gap"),
                Entry::End(_) => break,
            }
        }
        Ok(text)
    });
    for (offset, text) in [(0, "one "), (4, "two "), (8, "three")] {
        logs.append(chunk(attempt, offset, text)).await?;
        tokio::task::yield_now().await;
    }
    logs.seal(complete(attempt)).await?;
    let text = tokio::time::timeout(Duration::from_secs(10), reader)
        .await
        .context("it was not woken")???;
    assert_eq!(text, "one two three");
    Ok(())
}

#[tokio::test]
async fn a_seal_leaves_one_object_of_each_stream_and_the_seal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let logs = Logs::folder(folder.path(), LogsConfig::default())?;
    let attempt = attempt();
    for index in 0..20 {
        logs.append(chunk(attempt, index * 4, "text")).await?;
        let mut other = chunk(attempt, index * 4, "oops");
        other.pieces[0].stream = Stream::Stderr;
        logs.append(other).await?;
    }
    assert_eq!(files(folder.path())?.len(), 40);
    assert_eq!(logs.seal(complete(attempt)).await?.bytes, 160);
    let left = files(folder.path())?;
    assert_eq!(left.len(), 3, "{left:?}");
    Ok(())
}

#[tokio::test]
async fn delete_takes_what_a_killed_process_left_and_the_empty_folders() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let logs = Logs::folder(folder.path(), LogsConfig::default())?;
    let one = attempt();
    let two = AttemptId { number: 2, ..one };
    for attempt in [one, two] {
        logs.append(chunk(attempt, 0, "text")).await?;
    }
    let job = one.job.to_string();
    let place = folder.path().join(&job[job.len() - 2..]).join(&job);
    // The name of a write that was killed in the middle.
    std::fs::write(place.join("1").join("stdout-x.chunk#1"), "half")?;
    logs.delete(&[one]).await?;
    assert!(!place.join("1").exists() && place.join("2").exists());
    logs.delete(&[two]).await?;
    assert!(!place.exists(), "the job's folder stayed");
    Ok(())
}

#[tokio::test]
async fn logs_are_their_owners_alone_in_a_folder_that_was_there() -> Result<()> {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    // As an earlier release left it.
    fs::create_dir(folder.path().join("0f"))?;
    fs::set_permissions(folder.path().join("0f"), fs::Permissions::from_mode(0o755))?;
    let logs = Logs::folder(folder.path(), LogsConfig::default())?;
    let attempt = attempt();
    logs.append(chunk(attempt, 0, "text")).await?;
    let mut other = chunk(attempt, 0, "oops");
    other.pieces[0].stream = Stream::Stderr;
    logs.append(other).await?;
    logs.append(chunk(attempt, 4, "more")).await?;
    logs.seal(complete(attempt)).await?;
    let mut folders = vec![folder.path().to_owned()];
    let (mut seen_folders, mut seen_files) = (0, 0);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            let expected = if entry.metadata()?.is_dir() {
                folders.push(entry.path());
                seen_folders += 1;
                0o700
            } else {
                seen_files += 1;
                0o600
            };
            assert_eq!(mode, expected, "{}: {mode:o}", entry.path().display());
        }
    }
    // The earlier one; shard, job and attempt. Both streams and the seal.
    assert_eq!((seen_folders, seen_files), (4, 3));
    let made = folder.path().join("made").join("below");
    Logs::folder(&made, LogsConfig::default())?;
    for made in [made.as_path(), &folder.path().join("made")] {
        assert_eq!(fs::metadata(made)?.permissions().mode() & 0o777, 0o700);
    }
    Ok(())
}

#[tokio::test]
async fn a_follower_of_a_log_that_is_deleted_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let logs = Logs::folder(folder.path(), LogsConfig::default())?;
    let attempt = attempt();
    logs.append(chunk(attempt, 0, "text")).await?;
    let mut entries = logs.read(follow(attempt)).await?;
    assert!(matches!(entries.next().await.context("nothing")??, Entry::Piece(_)));
    logs.delete(&[attempt]).await?;
    let told = tokio::time::timeout(Duration::from_secs(10), entries.next())
        .await?
        .context("nothing")?;
    assert_eq!(told.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    Ok(())
}

#[tokio::test]
async fn a_damaged_seal_still_ends_the_log_and_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let logs = Logs::folder(folder.path(), LogsConfig::default())?;
    let attempt = attempt();
    logs.append(chunk(attempt, 0, "text")).await?;
    logs.seal(complete(attempt)).await?;
    let job = attempt.job.to_string();
    let seal = folder
        .path()
        .join(&job[job.len() - 2..])
        .join(&job)
        .join("1")
        .join("seal-0000000001.json");
    let bytes = std::fs::read(&seal)?;
    std::fs::write(&seal, &bytes[..bytes.len() / 2])?;
    let mut entries = logs.read(follow(attempt)).await?;
    assert!(matches!(entries.next().await.context("nothing")??, Entry::Piece(_)));
    let Entry::End(end) = entries.next().await.context("nothing")?? else {
        anyhow::bail!("no end")
    };
    assert_eq!((end.state, end.bytes), (LogState::Incomplete, 4));
    // And the same epoch may seal again.
    assert_eq!(logs.seal(complete(attempt)).await?.state, LogState::Complete);
    Ok(())
}

#[tokio::test]
async fn a_later_releases_log_is_refused_and_not_called_damaged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let logs = Logs::folder(folder.path(), LogsConfig::default())?;
    let store = LocalFileSystem::new_with_prefix(folder.path())?;
    let attempt = attempt();
    logs.append(chunk(attempt, 0, "text")).await?;
    let object = store.list(None).next().await.context("no object")??;
    let path = folder.path().join(object.location.as_ref());
    let mut bytes = std::fs::read(&path)?;
    bytes[4] = 9;
    std::fs::write(&path, bytes)?;
    let mut entries = logs
        .read(Read {
            follow: false,
            ..follow(attempt)
        })
        .await?;
    let error = entries.next().await.context("nothing")?.expect_err("format 9 was read");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    Ok(())
}
