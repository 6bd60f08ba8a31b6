//! What goes wrong between the store and its server: the server killed, connections cut half-way through a reply, callers that
//! go away.

#[path = "support/jobs.rs"]
mod jobs;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/server.rs"]
mod server;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jobs::{claim, define, ended, enqueue, finalised, job, next, one, worker};
use nix::sys::signal::Signal;
use proxy::Proxy;
use robata_core::{
    AttemptId, ErrorKind, IncarnationId, JobId, JobState, Retry,
    attempt::{Claimed, HeldAttempt},
    job::{Enqueue, Key, NewJob},
    store::{AttemptStore as _, JobStore as _, LEASE, ListJobs, MARK, ScheduleStore as _, Store, Window},
};
use robata_store_postgres::{Listen, PostgresConfig, PostgresStore};
use robata_testkit::case::until;
use server::{Server, wait};
use support::{Database, at, connect, run, url};

/// What was told to whom.
#[derive(Default)]
struct Told {
    accepted: Mutex<BTreeSet<JobId>>,
    unknown: Mutex<BTreeSet<JobId>>,
    given: Mutex<Vec<AttemptId>>,
    ended: Mutex<BTreeSet<AttemptId>>,
    stop: AtomicBool,
    failures: AtomicUsize,
}

fn lock<T>(told: &Mutex<T>) -> MutexGuard<'_, T> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: &robata_core::Error) -> Result<()> {
    ensure!(
        error.kind() == ErrorKind::Unavailable && error.retry() == Retry::Yes,
        "not as a server's end should be told: {error:?}"
    );
    Ok(())
}

async fn enqueuer(store: PostgresStore, told: Arc<Told>) -> Result<()> {
    while !told.stop.load(Ordering::SeqCst) {
        let jobs = jobs::jobs(5)?;
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        match store.enqueue(Enqueue { jobs, atomic: true }).await {
            Ok(answers) => {
                for answer in answers {
                    let answer = answer?;
                    ensure!(!answer.replayed, "an id that nobody else has was called replayed");
                    lock(&told.accepted).insert(answer.job.id);
                }
            }
            Err(error) => {
                unavailable(&error)?;
                told.failures.fetch_add(1, Ordering::SeqCst);
                lock(&told.unknown).extend(ids);
            }
        }
    }
    Ok(())
}

/// Claims what there is, fetches a claim whose answer was lost, ends and finalises what it holds.
async fn runner(store: PostgresStore, incarnation: IncarnationId, told: Arc<Told>) -> Result<()> {
    while !told.stop.load(Ordering::SeqCst) {
        let window = Window {
            line: jobs::line()?,
            size: 20,
        };
        let references = match store.references(window).await {
            Ok(references) => references,
            Err(error) => {
                unavailable(&error)?;
                continue;
            }
        };
        let request = robata_core::attempt::Claim {
            claim: robata_core::ClaimId::new(),
            incarnation,
            references: references
                .into_iter()
                .map(|reference| Ok((jobs::line()?, reference)))
                .collect::<Result<_>>()?,
        };
        let number = request.claim;
        let held = match store.claim(request).await {
            Ok(claimed) => claimed
                .into_iter()
                .filter_map(|claimed| match claimed {
                    Claimed::Held(held) => Some(*held),
                    _ => None,
                })
                .collect(),
            Err(error) => {
                unavailable(&error)?;
                told.failures.fetch_add(1, Ordering::SeqCst);
                again(|| store.claimed(incarnation, number)).await?
            }
        };
        lock(&told.given).extend(held.iter().map(|held| held.id));
        for change in [ended, finalised] {
            let writes: Vec<_> = held.iter().map(|held| change(incarnation, held)).collect();
            for answer in again(|| store.record(writes.clone())).await? {
                answer?;
            }
        }
        lock(&told.ended).extend(held.iter().map(|held| held.id));
    }
    Ok(())
}

/// As workers do: again until the store serves.
async fn again<T, F>(mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = robata_core::Result<T>>,
{
    until("the store serves again", Duration::from_secs(60), || {
        let call = call();
        async move {
            match call.await {
                Ok(answer) => Ok(Some(answer)),
                Err(error) => unavailable(&error).map(|()| None),
            }
        }
    })
    .await
}

async fn killed(signal: Signal) -> Result<()> {
    let mut server = Server::start().await?;
    let mut config = PostgresConfig::new(server.url());
    config.connections = 6;
    config.listen = Listen::Off;
    config.connect_timeout = Duration::from_secs(1);
    let store = PostgresStore::connect(config).await?;
    define(&store).await?;
    let told = Arc::new(Told::default());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        tasks.spawn(enqueuer(store.clone(), Arc::clone(&told)));
    }
    for _ in 0..2 {
        let incarnation = worker(&store).await?;
        tasks.spawn(runner(store.clone(), incarnation, Arc::clone(&told)));
    }
    for _ in 0..3 {
        let goal = lock(&told.ended).len() + 150;
        wait("jobs run", Duration::from_secs(60), async || {
            if let Some(done) = tasks.try_join_next() {
                done??;
            }
            Ok((lock(&told.ended).len() >= goal).then_some(()))
        })
        .await?;
        server.end(signal).await?;
        let failures = told.failures.load(Ordering::SeqCst);
        until("somebody notices", Duration::from_secs(30), async || {
            Ok((told.failures.load(Ordering::SeqCst) > failures).then_some(()))
        })
        .await?;
        server.again().await?;
    }
    told.stop.store(true, Ordering::SeqCst);
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    look(&store, &told).await
}

/// The outcome, by what was told.
async fn look(store: &PostgresStore, told: &Told) -> Result<()> {
    let mut states: BTreeMap<JobId, JobState> = BTreeMap::new();
    let mut page = ListJobs::default();
    page.limit = 500;
    loop {
        let jobs = store.jobs(page.clone()).await?;
        let Some(last) = jobs.last() else { break };
        page.after = Some(last.id);
        for job in jobs {
            ensure!(states.insert(job.id, job.state).is_none(), "{} is there twice", job.id);
        }
    }
    let accepted = lock(&told.accepted).clone();
    let unknown = lock(&told.unknown).clone();
    for id in &accepted {
        ensure!(states.contains_key(id), "{id} was accepted and is lost");
    }
    for id in states.keys() {
        ensure!(accepted.contains(id) || unknown.contains(id), "{id} came from nowhere");
    }
    let given = lock(&told.given).clone();
    let once: BTreeSet<_> = given.iter().collect();
    ensure!(once.len() == given.len(), "an attempt was given twice");
    let ended = lock(&told.ended).clone();
    for id in &ended {
        ensure!(
            states[&id.job] == JobState::Succeeded,
            "{id} ended and is {}",
            states[&id.job]
        );
        ensure!(store.attempt(*id).await?.finalised, "{id} was finalised");
    }
    let count = |state| states.values().filter(|known| **known == state).count() as u64;
    let counts = store.queue_counts().await?;
    ensure!(counts.len() == 1, "{counts:?}");
    ensure!(
        (counts[0].queued, counts[0].running) == (count(JobState::Queued), count(JobState::Running)),
        "{counts:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_loses_and_doubles_nothing() -> Result<()> {
    killed(Signal::SIGKILL).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_shut_down_in_the_middle_loses_and_doubles_nothing() -> Result<()> {
    killed(Signal::SIGQUIT).await
}

/// A store behind a proxy, with one connection, so that the next reply is the operation's.
async fn behind_a_proxy() -> Result<(Database, Proxy, PostgresStore)> {
    behind_a_proxy_with(PostgresConfig::default()).await
}

async fn behind_a_proxy_with(mut config: PostgresConfig) -> Result<(Database, Proxy, PostgresStore)> {
    let database = Database::migrated().await?;
    let server = url()?;
    let host = server
        .rsplit_once('@')
        .map_or(server.as_str(), |(_, rest)| rest)
        .trim_start_matches("postgres://");
    let host = host.split('/').next().context("no host")?.to_owned();
    let proxy = Proxy::start(host.clone()).await?;
    let through = server.replace(&host, &format!("127.0.0.1:{}", proxy.port));
    config.url = at(&through, &database.name)?;
    config.connections = 1;
    config.listen = Listen::Off;
    let store = PostgresStore::connect(config).await?;
    define(&store).await?;
    Ok((database, proxy, store))
}

fn keyed(key: &str) -> Result<NewJob> {
    Ok(NewJob {
        key: Some(Key {
            key: key.to_owned(),
            request: [7; 32],
        }),
        ..job()?
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enqueue_whose_connection_is_cut_anywhere_is_stored_once_and_told_so() -> Result<()> {
    let (_database, proxy, store) = behind_a_proxy().await?;
    one(&store, job()?).await?;
    let mut cuts = 0;
    for bytes in (0..1_200).step_by(7) {
        let new = keyed(&format!("key {bytes}"))?;
        let id = new.id;
        proxy.cut_after(bytes);
        let answer = one(&store, new.clone())
            .await
            .with_context(|| format!("cut after {bytes} bytes"))?;
        cuts += proxy.heal();
        ensure!(answer.job.id == id && !answer.replayed, "cut after {bytes}: {answer:?}");
        ensure!(store.job(id).await?.job.state == JobState::Queued);
        // Sent again by a caller who did not hear: the first one's.
        ensure!(one(&store, keyed(&format!("key {bytes}"))?).await?.job.id == id);
    }
    ensure!(cuts > 60, "only {cuts} were cut");
    let counts = store.queue_counts().await?;
    ensure!(counts[0].queued == 173, "{counts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_connection_is_cut_anywhere_is_whole_or_not_there() -> Result<()> {
    let (_database, proxy, store) = behind_a_proxy().await?;
    let incarnation = worker(&store).await?;
    let mut lost = 0;
    let stored = async || -> Result<Vec<_>> {
        Ok(enqueue(&store, jobs::jobs(3)?)
            .await?
            .into_iter()
            .map(|new| new.job)
            .collect())
    };
    // A connection's first claim prepares its statements, and is answered with more bytes than all later ones.
    let warm = async || -> Result<()> {
        let request = claim(incarnation, &stored().await?);
        ensure!(store.claim(request).await?.len() == 3);
        Ok(())
    };
    warm().await?;
    let measured = stored().await?;
    proxy.passed();
    store.claim(claim(incarnation, &measured)).await?;
    let whole = proxy.passed();
    // Everywhere, and closely about the commit, which answers last.
    let step = usize::try_from(whole / 20)?;
    for bytes in (0..whole).step_by(step).chain((whole - 160..whole).step_by(6)) {
        warm().await?;
        let request = claim(incarnation, &stored().await?);
        proxy.cut_after(bytes);
        let claimed = store.claim(request.clone()).await;
        proxy.heal();
        let held: Vec<HeldAttempt> = match claimed {
            Ok(claimed) => claimed
                .into_iter()
                .filter_map(|claimed| match claimed {
                    Claimed::Held(held) => Some(*held),
                    _ => None,
                })
                .collect(),
            Err(error) => {
                unavailable(&error)?;
                lost += 1;
                let found = store.claimed(incarnation, request.claim).await?;
                if found.is_empty() {
                    let again = store.claim(request).await?;
                    ensure!(
                        again.iter().all(|claimed| matches!(claimed, Claimed::Held(_))),
                        "{again:?}"
                    );
                    continue;
                }
                found
            }
        };
        ensure!(held.len() == 3, "cut after {bytes}: {} of 3", held.len());
        proxy.cut_after(bytes / 4);
        for answer in store
            .record(held.iter().map(|held| ended(incarnation, held)).collect())
            .await?
        {
            ensure!(answer?.job == JobState::Succeeded);
        }
        proxy.heal();
    }
    ensure!(lost > 0, "no claim's answer was lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_at_any_moment_lose_nothing() -> Result<()> {
    let database = Database::migrated().await?;
    let mut config = PostgresConfig::new(database.url.clone());
    config.connections = 3;
    config.listen = Listen::Off;
    let store = PostgresStore::connect(config).await?;
    define(&store).await?;
    let incarnation = worker(&store).await?;
    for step in 0..60_u64 {
        let patience = Duration::from_micros(step * 60);
        let new = job()?;
        let id = new.id;
        let sent = Enqueue {
            jobs: vec![new],
            atomic: false,
        };
        let _ = tokio::time::timeout(patience, store.enqueue(sent)).await;
        let stored = until("the enqueue is done", Duration::from_secs(10), async || {
            match store.job(id).await {
                Ok(detail) => Ok(Some(detail.job)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        let request = claim(incarnation, std::slice::from_ref(&stored));
        let number = request.claim;
        let _ = tokio::time::timeout(patience, store.claim(request)).await;
        let held = store.claimed(incarnation, number).await?;
        ensure!(held.len() == 1, "after {patience:?}: {held:?}");
        let _ = tokio::time::timeout(patience, store.record(vec![ended(incarnation, &held[0])])).await;
        until("the end is recorded", Duration::from_secs(10), async || {
            Ok((store.job(id).await?.job.state == JobState::Succeeded).then_some(()))
        })
        .await?;
        // A reader that goes away takes no connection with it.
        let _ = tokio::time::timeout(patience, store.jobs(ListJobs::default())).await;
    }
    ensure!(next(&store.job(one(&store, job()?).await?.job.id).await?.job).1.attempt == 1);
    Ok(())
}

/// As when its host is gone and nobody closes the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_anywhere_keeps_no_place_in_the_pool() -> Result<()> {
    let mut config = PostgresConfig::default();
    config.statement_timeout = Duration::from_secs(1);
    config.connect_timeout = Duration::from_secs(2);
    let (_database, proxy, store) = behind_a_proxy_with(config).await?;
    store.lines().await?;
    proxy.passed();
    for _ in 0..10 {
        store.lines().await?;
    }
    // With the answer to whether the connection is well, which the pool asks after each of them.
    let whole = proxy.passed() / 10;
    let mut silences = 0;
    for bytes in (whole - 20..whole + 4).step_by(4) {
        proxy.silence_after(bytes);
        // Told within the limits, whatever becomes of it; the next one finds a connection.
        let _ = store.lines().await;
        again(|| store.lines()).await?;
        silences += proxy.heal();
    }
    ensure!(silences > 4, "only {silences} fell silent");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_never_returned_keep_nothing_from_being_settled() -> Result<()> {
    let clock = Arc::new(AtomicI64::new(0));
    let mut config = PostgresConfig::default();
    config.clock_offset = Some(Arc::clone(&clock));
    let (database, proxy, store) = behind_a_proxy_with(config).await?;
    // Each has left an attempt that was called lost, and nobody finalises it.
    let hosts = "INSERT INTO robata.workers (incarnation, host, pid, executors, started_at, seen_at, lease_until, ended_at)
             SELECT gen_random_uuid(), 'gone', 1, '{}', 0, 0, 0, 1 FROM generate_series(1, 60000);
         INSERT INTO robata.attempts (seq, job_id, number, app, holder, epoch, claim, worker, state, executor, realm,
                                      created_at, moved_at)
             SELECT nextval('robata.attempt_seq'), gen_random_uuid(), 1, 'shop', incarnation, 1, gen_random_uuid(), 'gone', 7,
                    'process', 'gone', 0, 0
             FROM robata.workers;
         ANALYZE robata.workers; ANALYZE robata.attempts";
    run(&mut connect(&database.url).await?, hosts.to_owned()).await?;
    let gone = worker(&store).await?;
    let stored = one(&store, job()?).await?.job;
    let claimed = store.claim(claim(gone, &[stored])).await?;
    let [Claimed::Held(orphan)] = &claimed[..] else {
        anyhow::bail!("{claimed:?}")
    };
    store.release(gone).await?;
    for _ in 0..10 {
        clock.fetch_add(i64::try_from(MARK.as_millis())?, Ordering::SeqCst);
        store.judge(robata_testkit::store::mark()).await?;
    }
    proxy.passed();
    let lost = store.settle_lost(&BTreeMap::new(), LEASE).await?;
    ensure!(lost == [orphan.id], "{lost:?}");
    // They are not even told, and much less asked for one by one.
    let bytes = proxy.passed();
    ensure!(bytes < 100_000, "{bytes} bytes of replies");
    Ok(())
}
