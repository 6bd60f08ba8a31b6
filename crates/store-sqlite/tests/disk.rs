//! What only a store in a folder can meet: somebody else's lock, a kill, a full disk, a folder that cannot be used.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use robata_core::{
    ErrorKind, JobId, Payload,
    job::{Enqueue, JobRecord, Line, NewJob, When},
    store::{AttemptStore as _, JobStore as _, ListJobs, ScheduleStore as _, Store as _},
};
use robata_store_sqlite::{SqliteConfig, SqliteStore};

fn job(payload: Payload) -> Result<NewJob> {
    Ok(NewJob {
        id: JobId::new(),
        app: "shop".parse()?,
        job: "mail".parse()?,
        line: Line {
            queue: "shop".parse()?,
            executor: "process".parse()?,
        },
        queue_chosen: false,
        payload,
        labels: Default::default(),
        env: Default::default(),
        priority: 0,
        when: When::Now,
        expires_in: None,
        key: None,
        max_attempts: 1,
        definition: None,
        traceparent: None,
    })
}

async fn enqueue(store: &SqliteStore, payload: Payload) -> robata_core::Result<JobRecord> {
    let job = job(payload).map_err(|error| robata_core::Error::new(ErrorKind::Internal, "test", error.to_string()))?;
    let mut answers = store
        .enqueue(Enqueue {
            jobs: vec![job],
            atomic: false,
        })
        .await?;
    answers.remove(0).map(|answer| answer.job)
}

async fn stored(store: &SqliteStore) -> Result<Vec<JobId>> {
    let mut ids: Vec<JobId> = Vec::new();
    loop {
        let mut list = ListJobs::default();
        list.limit = 500;
        list.after = ids.last().copied();
        let page = store.jobs(list).await?;
        if page.is_empty() {
            return Ok(ids);
        }
        ids.extend(page.into_iter().map(|job| job.id));
    }
}

fn large(bytes: usize) -> Payload {
    Payload::from_stored(format!("\"{}\"", "x".repeat(bytes)).into_bytes().into())
}

/// A second opener is told who holds the folder; a closed or dropped store holds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_store_is_told_who_holds_the_folder() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Another process: this test's own is waited for, as it may be about to close.
    let mut holder = Command::new("flock")
        .arg("--no-fork")
        .arg(folder.path().join("lock"))
        .args([
            "sh",
            "-c",
            "echo \"$$ 2026-11-20T09:30:00.000Z elsewhere robata up\" > \"$0\"; echo ready; exec sleep 60",
        ])
        .arg(folder.path().join("lock"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().context("stdout")?),
        &mut line,
    )?;
    let refused = SqliteStore::open(SqliteConfig::new(folder.path())).await;
    let pid = holder.id();
    holder.kill()?;
    holder.wait()?;
    let error = refused.err().context("it was opened twice")?;
    let expected = format!("is in use by process {pid} (robata up on elsewhere, since 2026-11-20T09:30:00.000Z)");
    ensure!(
        error.kind() == ErrorKind::Conflict && error.message().contains(&expected),
        "{error:?}"
    );

    let store = SqliteStore::open(SqliteConfig::new(folder.path())).await?;
    store.close().await;
    let after = store.check(Duration::from_secs(1)).await;
    ensure!(
        after.err().map(|error| error.kind()) == Some(ErrorKind::Unavailable),
        "a closed store serves"
    );
    let store = SqliteStore::open(SqliteConfig::new(folder.path())).await?;
    drop(store);
    SqliteStore::open(SqliteConfig::new(folder.path())).await?.close().await;
    Ok(())
}

/// The folder is made for its owner alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_folder_is_made_for_its_owner_alone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let above = tempfile::tempdir()?;
    let folder = above.path().join("a").join("b");
    SqliteStore::open(SqliteConfig::new(&folder)).await?.close().await;
    for made in [folder.as_path(), &above.path().join("a")] {
        let mode = std::fs::metadata(made)?.permissions().mode() & 0o777;
        ensure!(mode == 0o700, "{}: {mode:o}", made.display());
    }
    Ok(())
}

/// Where the folder was there before, and others may enter it: what stands in it is the owner's alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_are_their_owners_alone_in_a_folder_that_was_there() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    // As an earlier release left it.
    std::fs::write(folder.path().join("robata.db"), "")?;
    std::fs::set_permissions(folder.path().join("robata.db"), std::fs::Permissions::from_mode(0o644))?;
    let store = SqliteStore::open(SqliteConfig::new(folder.path())).await?;
    enqueue(&store, Payload::null()).await?;
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder.path())? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{}: {mode:o}", entry.path().display());
        seen.push(entry.file_name().to_string_lossy().into_owned());
    }
    seen.sort_unstable();
    ensure!(
        seen == ["lock", "robata.db", "robata.db-shm", "robata.db-wal"],
        "{seen:?}"
    );
    store.close().await;
    Ok(())
}

/// What cannot be a data folder is refused with the system's own words and the path.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_refused_by_name() -> Result<()> {
    let above = tempfile::tempdir()?;
    let file = above.path().join("file");
    std::fs::write(&file, "x")?;
    // Not even root makes folders in /proc.
    for path in [file.as_path(), &file.join("below"), Path::new("/proc/robata")] {
        let error = SqliteStore::open(SqliteConfig::new(path))
            .await
            .err()
            .context("it was opened")?;
        let named = error.message().contains(&path.display().to_string());
        ensure!(error.kind() == ErrorKind::Invalid && named, "{error:?}");
    }
    // A database that is none.
    std::fs::write(
        above.path().join("robata.db"),
        "this is no database, but it is long enough to look at".repeat(100),
    )?;
    let error = SqliteStore::open(SqliteConfig::new(above.path()))
        .await
        .err()
        .context("it was opened")?;
    ensure!(error.message().contains("not a database"), "{error:?}");
    Ok(())
}

/// FAULTS H4: on a full disk the store says so in SQLite's own words, keeps what it has, serves what needs no room, and goes
/// on by itself when there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_survived() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut config = SqliteConfig::new(folder.path());
    config.max_pages = Some(700);
    let store = SqliteStore::open(config.clone()).await?;
    let mut kept = Vec::new();
    let error = loop {
        match enqueue(&store, large(100_000)).await {
            Ok(job) => kept.push(job.id),
            Err(error) => break error,
        }
        ensure!(kept.len() < 100, "it never was full");
    };
    ensure!(
        error.kind() == ErrorKind::Unavailable && error.message().contains("full"),
        "{error:?}"
    );
    ensure!(error.retry() == robata_core::Retry::Yes);
    // A group in which one has no room: the others are stored.
    let (big, small) = tokio::join!(enqueue(&store, large(900_000)), enqueue(&store, Payload::null()));
    ensure!(big.is_err(), "there was room");
    kept.push(small?.id);
    // Reading goes on, and so does the end of a job.
    let mut now = stored(&store).await?;
    now.sort_unstable();
    kept.sort_unstable();
    ensure!(
        now == kept,
        "{} jobs are there, {} were accepted",
        now.len(),
        kept.len()
    );
    store.close().await;
    config.max_pages = None;
    let store = SqliteStore::open(config).await?;
    enqueue(&store, large(100_000)).await?;
    store.check(Duration::from_secs(5)).await?;
    ensure!(stored(&store).await?.len() == kept.len() + 1);
    store.close().await;
    Ok(())
}

/// Somebody's shell holds the database for a while: writes wait, and are done.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_held_for_a_moment_is_waited_for() -> Result<()> {
    use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(SqliteConfig::new(folder.path())).await?;
    let mut shell = SqliteConnectOptions::new()
        .filename(folder.path().join("robata.db"))
        .connect()
        .await?;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut shell).await?;
    let writing = tokio::spawn({
        let store = store.clone();
        async move { enqueue(&store, Payload::null()).await }
    });
    let early = store.check(Duration::from_millis(300)).await;
    ensure!(
        early.err().map(|error| error.kind()) == Some(ErrorKind::Unavailable),
        "it wrote into a held database"
    );
    sqlx::query("COMMIT").execute(&mut shell).await?;
    writing.await??;
    store.close().await;
    Ok(())
}

/// Enqueues for ever; the parent test kills it.
const CHILD: &str = "ROBATA_TEST_KILLED_CHILD";

/// FAULTS H4, promise 1: what was accepted before a kill -9 is there after it, at whatever moment it came.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_survives_kill_9() -> Result<()> {
    if let Some(folder) = std::env::var_os(CHILD) {
        let store = SqliteStore::open(SqliteConfig::new(folder)).await?;
        for _ in 0..8 {
            let store = store.clone();
            tokio::spawn(async move {
                while let Ok(job) = enqueue(&store, large(3_000)).await {
                    use std::io::Write as _;
                    // One write, one line: whole even if the kill comes now.
                    let _ = std::io::stderr().write_all(format!("accepted {}\n", job.id).as_bytes());
                }
            });
        }
        // Ended by the parent's kill; bounded where there is none.
        tokio::time::sleep(Duration::from_secs(60)).await;
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut accepted: Vec<JobId> = Vec::new();
    for round in 0..4_usize {
        let enough = accepted.len() + 150 + round * 211;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "what_was_accepted_survives_kill_9", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = child.stderr.take().context("stderr")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        for line in std::io::BufRead::lines(std::io::BufReader::new(output)) {
            if let Some(id) = line?.strip_prefix("accepted ") {
                accepted.push(id.parse()?);
            }
            if accepted.len() == enough {
                child.kill()?;
            }
            ensure!(Instant::now() < deadline, "too slow");
        }
        child.wait()?;
        let store = SqliteStore::open(SqliteConfig::new(folder.path())).await?;
        let mut there = stored(&store).await?;
        there.sort_unstable();
        for id in &accepted {
            ensure!(there.binary_search(id).is_ok(), "{id} was accepted and is not there");
        }
        let counts = store.queue_counts().await?;
        ensure!(
            counts[0].queued == there.len() as u64,
            "{counts:?}, but {} jobs",
            there.len()
        );
        ensure!(store.workers().await?.is_empty() && store.lines().await?.len() == 1);
        store.close().await;
    }
    ensure!(accepted.len() >= 600, "only {} were accepted", accepted.len());
    Ok(())
}
