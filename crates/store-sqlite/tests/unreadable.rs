//! A row that cannot be read, of a later release or of somebody's own making, is left out alone: nothing else waits for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use robata_core::{
    ClaimId, ErrorKind, IncarnationId, JobId, Payload, Role,
    access::{NewToken, TokenHash},
    attempt::{AttemptChange, AttemptWrite, Claim, Claimed},
    executor::RealmId,
    finish::{End, Outcome},
    job::{Enqueue, JobRecord, Line, NewJob, Reference, When},
    store::{
        AccessStore as _, Adopt, AttemptStore as _, JobStore as _, LEASE, ListJobs, MARK, Register, ScheduleStore as _,
        Window, WorkerExecutor,
    },
};
use robata_store_sqlite::{
    SqliteConfig, SqliteStore,
    clock::{Clock, OffsetClock},
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

struct Bed {
    folder: TempDir,
    clock: Arc<OffsetClock>,
    store: SqliteStore,
}

fn line() -> Result<Line> {
    Ok(Line {
        queue: "shop".parse()?,
        executor: "process".parse()?,
    })
}

impl Bed {
    async fn new() -> Result<Self> {
        let (folder, clock) = (tempfile::tempdir()?, Arc::<OffsetClock>::default());
        let mut config = SqliteConfig::new(folder.path());
        config.clock = Arc::<OffsetClock>::clone(&clock) as Arc<dyn Clock>;
        let store = SqliteStore::open(config).await?;
        Ok(Self { folder, clock, store })
    }

    async fn enqueue(&self, n: usize, when: When) -> Result<Vec<JobRecord>> {
        let job = || {
            Ok::<_, anyhow::Error>(NewJob {
                id: JobId::new(),
                app: "shop".parse()?,
                job: "mail".parse()?,
                line: line()?,
                queue_chosen: false,
                payload: Payload::null(),
                labels: BTreeMap::new(),
                env: BTreeMap::new(),
                priority: 0,
                when,
                expires_in: None,
                key: None,
                max_attempts: 1,
                definition: Some(Box::default()),
                traceparent: None,
            })
        };
        let jobs = (0..n).map(|_| job()).collect::<Result<Vec<_>>>()?;
        let answers = self.store.enqueue(Enqueue { jobs, atomic: false }).await?;
        answers.into_iter().map(|answer| Ok(answer?.job)).collect()
    }

    async fn worker(&self) -> Result<IncarnationId> {
        let incarnation = IncarnationId::new();
        let own = WorkerExecutor {
            realm: Some(RealmId("here".into())),
            slots: 8,
        };
        let request = Register {
            incarnation,
            host: "h".into(),
            pid: 1,
            executors: [("process".parse()?, own)].into(),
            format: robata_core::Format::OWN,
        };
        self.store.register(request).await?;
        Ok(incarnation)
    }

    async fn claim(&self, incarnation: IncarnationId, jobs: &[JobRecord]) -> Result<Vec<Claimed>> {
        let reference = |job: &JobRecord| Reference {
            job: job.id,
            attempt: 1,
        };
        let references = jobs
            .iter()
            .map(|job| Ok((line()?, reference(job))))
            .collect::<Result<_>>()?;
        let claim = Claim {
            claim: ClaimId::new(),
            incarnation,
            references,
        };
        Ok(self.store.claim(claim).await?)
    }

    /// Writes by hand, as nobody should.
    async fn by_hand(&self, text: &str) -> Result<u64> {
        let mut shell = SqliteConnectOptions::new()
            .filename(self.folder.path().join("robata.db"))
            .connect()
            .await?;
        let text = AssertSqlSafe(text.to_owned());
        Ok(sqlx::query(text).execute(&mut shell).await?.rows_affected())
    }
}

fn hex(job: &JobRecord) -> String {
    job.id.as_bytes().iter().map(|byte| format!("{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_read_keeps_no_other_from_its_way() -> Result<()> {
    let bed = Bed::new().await?;
    let worker = bed.worker().await?;
    let jobs = bed.enqueue(3, When::Now).await?;
    let delayed = bed.enqueue(3, When::In(Duration::from_secs(9))).await?;
    for bad in [&jobs[0], &delayed[0]] {
        let text = format!(
            "UPDATE jobs SET reason = 'by a later release' WHERE id = x'{}'",
            hex(bad)
        );
        ensure!(bed.by_hand(&text).await? == 1);
    }
    bed.clock.advance(Duration::from_secs(10));
    let due = bed.store.due(10).await?;
    ensure!(due.moved == 2 && due.next.is_none(), "{due:?}");
    let window = Window {
        line: line()?,
        size: 10,
    };
    ensure!(bed.store.references(window).await?.len() == 5);
    let mut list = ListJobs::default();
    list.limit = 2;
    let mut listed = Vec::new();
    loop {
        list.after = listed.last().copied();
        let page = bed.store.jobs(list.clone()).await?;
        listed.extend(page.iter().map(|job| job.id));
        if page.len() < 2 {
            break;
        }
    }
    ensure!(
        listed == [delayed[2].id, delayed[1].id, jobs[2].id, jobs[1].id],
        "{listed:?}"
    );
    let claimed = bed.claim(worker, &jobs).await?;
    ensure!(
        matches!(claimed[..], [Claimed::Gone, Claimed::Held(_), Claimed::Held(_)]),
        "{claimed:?}"
    );
    bed.store.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_cannot_be_read_keeps_no_other_from_its_way() -> Result<()> {
    let bed = Bed::new().await?;
    let gone = bed.worker().await?;
    let jobs = bed.enqueue(5, When::Now).await?;
    let mut held = Vec::new();
    for claimed in bed.claim(gone, &jobs).await? {
        let Claimed::Held(attempt) = claimed else {
            anyhow::bail!("{claimed:?}")
        };
        held.push(attempt);
    }
    let bad = format!(
        "UPDATE start_requests SET request = '{{}}' WHERE attempt IN (SELECT seq FROM attempts WHERE job_id IN (x'{}', x'{}'))",
        hex(&jobs[0]),
        hex(&jobs[1])
    );
    ensure!(bed.by_hand(&bad).await? == 2);
    let ended = |at: usize| AttemptWrite {
        attempt: held[at].id,
        epoch: held[at].epoch,
        incarnation: gone,
        change: AttemptChange::Ended(Outcome::new(End::Exited(0))),
    };
    let written = bed.store.record(vec![ended(0), ended(4)]).await?;
    ensure!(
        written[0].as_ref().err().map(|error| error.kind()) == Some(ErrorKind::Internal) && written[1].is_ok(),
        "{written:?}"
    );
    bed.store.release(gone).await?;
    let heir = bed.worker().await?;
    let adopt = |max| {
        Ok::<_, anyhow::Error>(Adopt {
            incarnation: heir,
            realms: [("process".parse()?, RealmId("here".into()))].into(),
            only: None,
            max,
            format: robata_core::Format::OWN,
        })
    };
    // Also where those that cannot be read come first and would fill all that may be taken at once.
    let adopted = bed.store.adopt(adopt(1)?).await?;
    ensure!(adopted.len() == 1 && adopted[0].id == held[2].id, "{adopted:?}");
    bed.store.release(heir).await?;
    for _ in 0..(LEASE.as_secs() / MARK.as_secs() + 30) {
        bed.clock.advance(MARK);
        bed.store.judge(robata_testkit::store::mark()).await?;
    }
    let mut lost = bed.store.settle_lost(&BTreeMap::new(), Duration::from_secs(60)).await?;
    lost.sort_unstable();
    ensure!(lost == [held[2].id, held[3].id], "{lost:?}");
    let workers = bed.store.workers().await?.len();
    ensure!(
        bed.by_hand("UPDATE workers SET executors = '[]' WHERE incarnation = (SELECT min(incarnation) FROM workers)")
            .await?
            == 1
    );
    let left = bed.store.workers().await.context("workers")?.len();
    ensure!(left + 1 == workers, "{left} of {workers}");
    bed.store.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_role_is_of_a_later_release_is_left_out_alone() -> Result<()> {
    let bed = Bed::new().await?;
    let token = |name: &str| {
        Ok::<_, anyhow::Error>(NewToken {
            name: name.parse()?,
            role: Role::Admin,
            app: None,
            hash: TokenHash::of(name),
            lasts: None,
        })
    };
    let stays = bed.store.create_token(token("a")?, "ann").await?;
    bed.store.create_token(token("b")?, "ann").await?;
    ensure!(
        bed.by_hand("UPDATE tokens SET role = 'auditor' WHERE name = 'b'")
            .await?
            == 1
    );
    let told = bed.store.tokens().await?;
    ensure!(told.tokens == [stays] && told.ever, "{told:?}");
    // It is there all the same.
    let again = bed.store.create_token(token("b")?, "ann").await;
    ensure!(
        again.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict),
        "{again:?}"
    );
    bed.store.revoke_token(&"b".parse()?, "ann").await?;
    Ok(())
}
