//! Many jobs while workers are killed at random moments; the checker compares what ran with what is told.

mod support;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use robata_core::{attempt::LogState, executor::Stream};
use robata_testkit::{
    case::until,
    checker::{self, Expect, Told, ToldAttempt},
};
use support::{Rig, runs};

/// At least 750 ms of work for the eight slots: no three workers live so long together.
const JOBS: usize = 240;
const KILLS: u32 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_every_job_ends_once_with_its_whole_log() -> Result<()> {
    let rig = Rig::new(&[("job", runs(&["print:first ", "after:25", "print:last", "exit:0"]))]).await?;
    let mut jobs = BTreeSet::new();
    for _ in 0..JOBS {
        jobs.insert(rig.enqueue("job").await?);
    }
    let open = async || {
        let mut open = 0;
        for job in &jobs {
            let detail = rig.job(*job).await?;
            let finalised = detail.attempts.iter().all(|attempt| attempt.finalised);
            open += usize::from(!detail.job.state.is_ended() || !finalised);
        }
        anyhow::Ok(open)
    };
    for round in 0..KILLS {
        let name = format!("w{round}");
        let mut worker = rig.worker_with(&name, |config, _| config.default_slots = 8)?;
        // The moment of the kill is the next random number's; the work goes on meanwhile, which is what is tested.
        let life = u64::from(uuid::Uuid::new_v4().as_bytes()[0] % 128);
        tokio::time::sleep(Duration::from_millis(life)).await;
        worker.kill();
        ensure!(
            round > 2 || open().await? > 0,
            "all had ended before the third kill: that tests nothing"
        );
        rig.end_lease(&name).await?;
    }
    let _last = rig.worker_with("last", |config, _| config.default_slots = 8)?;
    // A start whose answer was lost, and a reference that a killed worker had, are waited for for a minute each.
    let all_over = async || Ok((open().await? == 0).then_some(()));
    until(
        "every job has ended and is finalised",
        Duration::from_secs(150),
        all_over,
    )
    .await?;
    let mut told = Vec::new();
    for job in &jobs {
        let detail = rig.job(*job).await?;
        let mut attempts = Vec::new();
        for attempt in detail.attempts {
            attempts.push(ToldAttempt {
                number: attempt.id.number,
                state: attempt.state.to_string(),
                log_complete: attempt.log.state == LogState::Complete,
                stdout: rig.printed(attempt.id, Stream::Stdout).await?,
            });
        }
        told.push(Told {
            job: *job,
            state: detail.job.state,
            why: format!("{:?} {:?}", detail.job.reason, detail.job.message),
            attempts,
        });
    }
    let expect = Expect {
        output: "first last".to_owned(),
        all_succeed: true,
    };
    let report = checker::check(&jobs, &rig.engine.journal(), &told, &expect);
    ensure!(report.violations.is_empty(), "{:#?}", report.violations);
    rig.nothing_was_started_twice_or_left().await
}
