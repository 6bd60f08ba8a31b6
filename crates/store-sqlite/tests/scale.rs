//! Flat with size: what is asked of the store takes no longer when much waits in it. With wide bounds, so that a busy
//! machine does not fail it: a scan would be a hundred times slower.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use robata_core::{
    ClaimId, ExecutorName, IncarnationId, JobId, JobState, Payload,
    attempt::{Claim, Claimed},
    definition::Document,
    job::{Enqueue, Line, NewJob, When},
    store::{
        AttemptStore as _, CatalogStore as _, JobStore as _, ListJobs, Register, ScheduleStore as _, Window,
        WorkerExecutor,
    },
};
use robata_store_sqlite::{SqliteConfig, SqliteStore};

fn jobs(n: usize) -> Result<Vec<NewJob>> {
    (0..n)
        .map(|_| {
            Ok(NewJob {
                id: JobId::new(),
                app: "shop".parse()?,
                job: "mail".parse()?,
                line: Line {
                    queue: "shop".parse()?,
                    executor: "process".parse()?,
                },
                queue_chosen: false,
                payload: Payload::from_stored(r#"{"order":1234567,"to":"somebody@example.com"}"#.into()),
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
        })
        .collect()
}

struct Times {
    enqueue_us: f64,
    claim_us: f64,
    list_us: f64,
    references_us: f64,
}

async fn measure(store: &SqliteStore, worker: IncarnationId) -> Result<Times> {
    const N: usize = 60;
    let line = Line {
        queue: "shop".parse()?,
        executor: "process".parse()?,
    };
    let (mut enqueue, mut claim, mut list, mut references) = (vec![], vec![], vec![], vec![]);
    for _ in 0..N {
        let new = jobs(50)?;
        let begin = Instant::now();
        for answer in store
            .enqueue(Enqueue {
                jobs: new,
                atomic: false,
            })
            .await?
        {
            answer?;
        }
        enqueue.push(begin.elapsed());
        let begin = Instant::now();
        let next = store
            .references(Window {
                line: line.clone(),
                size: 50,
            })
            .await?;
        references.push(begin.elapsed());
        let n = next.len();
        let begin = Instant::now();
        let request = Claim {
            claim: ClaimId::new(),
            incarnation: worker,
            references: next.into_iter().map(|reference| (line.clone(), reference)).collect(),
        };
        let claimed = store.claim(request).await?;
        claim.push(begin.elapsed());
        ensure!(
            n == 50 && claimed.iter().all(|claimed| matches!(claimed, Claimed::Held(_))),
            "{n} references"
        );
        let begin = Instant::now();
        let mut page = ListJobs::default();
        page.app = Some("shop".parse()?);
        page.states = vec![JobState::Queued];
        page.limit = 50;
        store.jobs(page).await?;
        list.push(begin.elapsed());
    }
    Ok(Times {
        enqueue_us: middle(enqueue),
        claim_us: middle(claim),
        list_us: middle(list),
        references_us: middle(references),
    })
}

/// The median, in microseconds: a disk that stalls once says nothing about the store.
fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

async fn open(folder: &std::path::Path) -> Result<(SqliteStore, IncarnationId)> {
    let store = SqliteStore::open(SqliteConfig::new(folder)).await?;
    let document = serde_json::json!({"apps": {"shop": {"command": ["true"], "jobs": {"mail": {}}}}});
    let document = Document::read(&document).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let catalog = store.catalog().await?;
    let plan = catalog
        .plan(&document, false, &[])
        .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    store.change_catalog(catalog.revision, plan.writes, "test").await?;
    let incarnation = IncarnationId::new();
    let executors = [(
        "process".parse::<ExecutorName>()?,
        WorkerExecutor { realm: None, slots: 8 },
    )]
    .into();
    store
        .register(Register {
            incarnation,
            host: "h".into(),
            pid: 1,
            executors,
        })
        .await?;
    Ok((store, incarnation))
}

/// 100,000 waiting jobs against 1,000. The bound is wide, for a test machine's noise; a scan would be a hundred times.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_waiting_jobs_slow_nothing_down() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (store, worker) = open(folder.path()).await?;
    store
        .enqueue(Enqueue {
            jobs: jobs(1_000)?,
            atomic: false,
        })
        .await?;
    measure(&store, worker).await?;
    let few = measure(&store, worker).await?;
    let begin = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (store, jobs) = (store.clone(), jobs(500)?);
        calls.spawn(async move { store.enqueue(Enqueue { jobs, atomic: false }).await });
    }
    while let Some(answer) = calls.join_next().await {
        for answer in answer?? {
            answer?;
        }
    }
    println!(
        "batches of 500: {:.0} jobs a second",
        100_000.0 / begin.elapsed().as_secs_f64()
    );
    let many = measure(&store, worker).await?;
    for (what, few, many) in [
        ("enqueue 50", few.enqueue_us, many.enqueue_us),
        ("claim 50", few.claim_us, many.claim_us),
        ("references 50", few.references_us, many.references_us),
        ("list 50", few.list_us, many.list_us),
    ] {
        println!("{what}: {few:.0} µs with 1,000 waiting, {many:.0} µs with 100,000");
        ensure!(many < few * 3.0 + 1_000.0, "{what}: {few:.0} µs became {many:.0} µs");
    }
    let begin = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let store = store.clone();
        calls.spawn(async move {
            for _ in 0..100 {
                for answer in store
                    .enqueue(Enqueue {
                        jobs: jobs(1)?,
                        atomic: false,
                    })
                    .await?
                {
                    answer?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    println!(
        "singly, 64 at once: {:.0} jobs a second",
        6_400.0 / begin.elapsed().as_secs_f64()
    );
    store.close().await;
    Ok(())
}
