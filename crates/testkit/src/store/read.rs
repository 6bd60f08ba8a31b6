//! Lists, counts, waiting reasons.

use std::time::Duration;

use anyhow::{Result, ensure};
use robata_core::{
    JobId, JobState, Reason, WaitingReason,
    job::{Cancel, NewJob, When},
    queue::BrokerKey,
    store::{ListJobs, Published},
};

use super::world::{World, exited, job, labelled, line, name, next};

async fn listed(world: &World, list: ListJobs) -> Result<Vec<JobId>> {
    Ok(world.store().jobs(list).await?.into_iter().map(|job| job.id).collect())
}

fn all() -> ListJobs {
    let mut list = ListJobs::default();
    list.limit = 100;
    list
}

/// `jobs` gives pages, newest first, each job once, also while new ones come and old ones go on.
pub async fn pages_give_each_job_once_newest_first(world: World) -> Result<()> {
    let jobs = (0..25).map(|_| job("shop", "mail")).collect::<Result<Vec<_>>>()?;
    let mut ids: Vec<_> = world.enqueue(jobs).await?.into_iter().map(|job| job.id).collect();
    ids.reverse();
    for filter in [
        all(),
        {
            let mut list = all();
            list.app = Some(name("shop")?);
            list
        },
        {
            let mut list = all();
            list.states = vec![JobState::Queued, JobState::Cancelled];
            list
        },
    ] {
        let mut got = Vec::new();
        loop {
            let page = listed(&world, {
                let mut list = filter.clone();
                list.limit = 7;
                list.after = got.last().copied();
                list
            })
            .await?;
            if page.is_empty() {
                break;
            }
            got.extend(page);
            world.one(job("shop", "mail")?).await?;
        }
        ensure!(
            got.ends_with(&ids) || got == ids || got.windows(25).any(|window| window == ids),
            "{got:?} of {ids:?}"
        );
        let mut unique = got.clone();
        unique.sort_unstable();
        unique.dedup();
        ensure!(unique.len() == got.len(), "a job came twice");
    }
    Ok(())
}

/// Every filter gives what it names and nothing else, alone and together.
pub async fn each_filter_gives_what_it_names(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let failed = world.failed(worker).await?.id.job;
    let succeeded = world.running(worker, "resize").await?;
    world.wrote(worker, &succeeded, exited(0)).await?;
    let succeeded = succeeded.id.job;
    let cancelled = world.one(job("bank", "pay")?).await?.id;
    world
        .store()
        .cancel(Cancel {
            job: cancelled,
            by: "suite".into(),
        })
        .await?;
    let both = NewJob {
        labels: [("a".into(), "1".into()), ("b".into(), "2".into())].into(),
        ..job("shop", "rare")?
    };
    let both = world.one(both).await?;
    world.harness.advance(Duration::from_secs(3600));
    let one = world.one(labelled("a", "1")?).await?.id;
    let vip = NewJob {
        line: line("vip", "process")?,
        queue_chosen: true,
        when: When::In(Duration::from_secs(9)),
        ..job("shop", "mail")?
    };
    let vip = world.one(vip).await?.id;
    let middle = both.created_at.plus(Duration::from_secs(60));
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let shop = || Ok::<_, anyhow::Error>(Some(name("shop")?));
    let cases: Vec<(&str, ListJobs, Vec<JobId>)> = vec![
        ("nothing", all(), vec![vip, one, both.id, cancelled, succeeded, failed]),
        (
            "app",
            {
                let mut list = all();
                list.app = Some(name("bank")?);
                list
            },
            vec![cancelled],
        ),
        (
            "app and job",
            {
                let mut list = all();
                list.app = shop()?;
                list.job = Some(name("mail")?);
                list
            },
            vec![vip, one, failed],
        ),
        (
            "job",
            {
                let mut list = all();
                list.job = Some(name("rare")?);
                list
            },
            vec![both.id],
        ),
        (
            "queue",
            {
                let mut list = all();
                list.queue = Some(name("vip")?);
                list
            },
            vec![vip],
        ),
        (
            "queue and state",
            {
                let mut list = all();
                list.queue = Some(name("shop")?);
                list.states = vec![JobState::Queued];
                list
            },
            vec![one, both.id],
        ),
        (
            "state",
            {
                let mut list = all();
                list.states = vec![JobState::Failed];
                list
            },
            vec![failed],
        ),
        (
            "states",
            {
                let mut list = all();
                list.states = vec![JobState::Failed, JobState::Scheduled];
                list
            },
            vec![vip, failed],
        ),
        (
            "app and states",
            {
                let mut list = all();
                list.app = shop()?;
                list.states = vec![JobState::Succeeded, JobState::Queued];
                list
            },
            vec![one, both.id, succeeded],
        ),
        (
            "reason",
            {
                let mut list = all();
                list.reason = Some(Reason::ExitCode);
                list
            },
            vec![failed],
        ),
        (
            "reason cancelled",
            {
                let mut list = all();
                list.reason = Some(Reason::Cancelled);
                list
            },
            vec![cancelled],
        ),
        (
            "app and reason",
            {
                let mut list = all();
                list.app = shop()?;
                list.reason = Some(Reason::ExitCode);
                list
            },
            vec![failed],
        ),
        (
            "label",
            {
                let mut list = all();
                list.labels = vec![label("a", "1")];
                list
            },
            vec![one, both.id],
        ),
        (
            "labels",
            {
                let mut list = all();
                list.labels = vec![label("a", "1"), label("b", "2")];
                list
            },
            vec![both.id],
        ),
        (
            "label and job",
            {
                let mut list = all();
                list.labels = vec![label("a", "1")];
                list.job = Some(name("mail")?);
                list
            },
            vec![one],
        ),
        (
            "no such label",
            {
                let mut list = all();
                list.labels = vec![label("a", "2")];
                list
            },
            vec![],
        ),
        (
            "since",
            {
                let mut list = all();
                list.since = Some(middle);
                list
            },
            vec![vip, one],
        ),
        (
            "until",
            {
                let mut list = all();
                list.until = Some(middle);
                list
            },
            vec![both.id, cancelled, succeeded, failed],
        ),
        (
            "since and until",
            {
                let mut list = all();
                list.since = Some(both.created_at);
                list.until = Some(middle);
                list.app = shop()?;
                list.job = Some(name("rare")?);
                list
            },
            vec![both.id],
        ),
        (
            "job and state",
            {
                let mut list = all();
                list.job = Some(name("mail")?);
                list.states = vec![JobState::Failed, JobState::Scheduled];
                list
            },
            vec![vip, failed],
        ),
        (
            "job and queue",
            {
                let mut list = all();
                list.job = Some(name("mail")?);
                list.queue = Some(name("vip")?);
                list
            },
            vec![vip],
        ),
        (
            "app and queue",
            {
                let mut list = all();
                list.app = shop()?;
                list.queue = Some(name("shop")?);
                list
            },
            vec![one, both.id, succeeded, failed],
        ),
        (
            "app, queue and reason",
            {
                let mut list = all();
                list.app = shop()?;
                list.queue = Some(name("shop")?);
                list.reason = Some(Reason::ExitCode);
                list
            },
            vec![failed],
        ),
        (
            "reason and states",
            {
                let mut list = all();
                list.reason = Some(Reason::Cancelled);
                list.states = vec![JobState::Cancelled, JobState::Queued];
                list
            },
            vec![cancelled],
        ),
        (
            "after",
            {
                let mut list = all();
                list.after = Some(both.id);
                list.app = shop()?;
                list
            },
            vec![succeeded, failed],
        ),
        (
            "limit",
            {
                let mut list = all();
                list.limit = 2;
                list.app = shop()?;
                list
            },
            vec![vip, one],
        ),
    ];
    for (what, list, expected) in cases {
        let got = listed(&world, list).await?;
        ensure!(got == expected, "{what}: {got:?}, not {expected:?}");
    }
    Ok(())
}

/// A job's name without its app: the jobs of that name of every app.
pub async fn jobs_of_one_name_are_listed_over_all_apps(world: World) -> Result<()> {
    let both = |app: &str| {
        Ok::<_, anyhow::Error>(NewJob {
            line: line("both", "process")?,
            queue_chosen: true,
            ..job(app, "mail")?
        })
    };
    let mut expected = Vec::new();
    for _ in 0..4 {
        for app in ["shop", "bank", "zoo"] {
            expected.push(world.one(both(app)?).await?.id);
            world.one(job(app, "other")?).await?;
        }
    }
    expected.reverse();
    let mut got = Vec::new();
    loop {
        let mut list = all();
        list.job = Some(name("mail")?);
        list.limit = 5;
        list.after = got.last().copied();
        let page = listed(&world, list).await?;
        if page.is_empty() {
            break;
        }
        got.extend(page);
    }
    ensure!(got == expected, "{got:?}, not {expected:?}");
    Ok(())
}

/// `queue_counts` tells what the jobs say, through all moves.
pub async fn counts_agree_with_the_jobs(world: World) -> Result<()> {
    let worker = world.worker().await?;
    let delayed = NewJob {
        when: When::In(Duration::from_secs(60)),
        ..job("shop", "mail")?
    };
    let jobs = world
        .enqueue(vec![
            job("shop", "mail")?,
            delayed,
            job("shop", "resize")?,
            job("shop", "mail")?,
        ])
        .await?;
    let counts = async || {
        let counts = world.store().queue_counts().await?;
        let shop = counts.into_iter().find(|counts| counts.line.queue.as_str() == "shop");
        Ok::<_, anyhow::Error>(shop.map(|counts| (counts.scheduled, counts.queued, counts.running)))
    };
    ensure!(counts().await? == Some((1, 3, 0)), "{:?}", counts().await?);
    let held = world.hold(worker, &jobs[2]).await?;
    ensure!(counts().await? == Some((1, 2, 1)), "{:?}", counts().await?);
    world.wrote(worker, &held, exited(1)).await?;
    ensure!(counts().await? == Some((2, 2, 0)), "{:?}", counts().await?);
    world.harness.advance(Duration::from_secs(90));
    world.store().due(10).await?;
    ensure!(counts().await? == Some((0, 4, 0)), "{:?}", counts().await?);
    world
        .store()
        .cancel(Cancel {
            job: jobs[0].id,
            by: "suite".into(),
        })
        .await?;
    ensure!(counts().await? == Some((0, 3, 0)), "{:?}", counts().await?);
    Ok(())
}

/// Why a job waits is told.
pub async fn a_waiting_job_says_why(world: World) -> Result<()> {
    let reason = async |id| Ok::<_, anyhow::Error>(world.job(id).await?.waiting.map(|waiting| waiting.reason));
    let delayed = world
        .one(NewJob {
            when: When::In(Duration::from_secs(60)),
            ..job("shop", "mail")?
        })
        .await?;
    let queued = world.one(job("shop", "mail")?).await?;
    ensure!(reason(delayed.id).await? == Some(WaitingReason::Delayed));
    ensure!(reason(queued.id).await? == Some(WaitingReason::NoWorker));
    let worker = world.worker().await?;
    ensure!(reason(queued.id).await? == Some(WaitingReason::Unpublished));
    let (line, reference) = next(&queued);
    let published = Published {
        line,
        broker_key: BrokerKey("b".into()),
        references: vec![reference],
        format: robata_core::Format::PREVIOUS,
    };
    world.store().published(published).await?;
    ensure!(reason(queued.id).await?.is_none());
    let listed = world.store().jobs(all()).await?;
    ensure!(
        listed.iter().any(|job| job.id == delayed.id && job.waiting.is_some()),
        "{listed:?}"
    );
    world.store().release(worker).await?;
    ensure!(reason(queued.id).await? == Some(WaitingReason::NoWorker));
    Ok(())
}

/// What is not there is `NotFound`; following an attempt's log needs the attempt.
pub async fn what_is_not_there_is_not_found(world: World) -> Result<()> {
    let attempt = robata_core::AttemptId {
        job: JobId::new(),
        number: 1,
    };
    let not_found = Some(robata_core::ErrorKind::NotFound);
    ensure!(super::world::kind(&world.store().job(attempt.job).await) == not_found);
    ensure!(super::world::kind(&world.store().attempt(attempt).await) == not_found);
    ensure!(super::world::kind(&world.store().follow(attempt, Duration::from_secs(5)).await) == not_found);
    let worker = world.worker().await?;
    let held = world.running(worker, "mail").await?;
    world.store().follow(held.id, Duration::from_secs(5)).await?;
    Ok(())
}
