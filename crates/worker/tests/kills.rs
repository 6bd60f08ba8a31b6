//! Many jobs while workers are killed at random moments; the checker compares what ran with what is told.

mod support;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use robata_core::{attempt::LogState, executor::Stream};
use robata_testkit::checker::{self, Expect, Told, ToldAttempt};
use support::{Rig, runs};

const JOBS: usize = 120;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_every_job_ends_once_with_its_whole_log() -> Result<()> {
    let rig = Rig::new(&[("job", runs(&["print:first ", "after:25", "print:last", "exit:0"]))]).await?;
    let mut jobs = BTreeSet::new();
    for _ in 0..JOBS {
        jobs.insert(rig.enqueue("job").await?);
    }
    let mut round = 0_u32;
    loop {
        let name = format!("w{round}");
        let mut worker = rig.worker_with(&name, |config, _| config.default_slots = 8)?;
        // The moment of the kill is the next random number's; the work goes on meanwhile, which is what is tested.
        let life = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
        tokio::time::sleep(Duration::from_millis(life)).await;
        let mut open = 0;
        for job in &jobs {
            let detail = rig.job(*job).await?;
            open +=
                usize::from(!detail.job.state.is_ended() || detail.attempts.iter().any(|attempt| !attempt.finalised));
        }
        if open == 0 {
            break;
        }
        ensure!(round < 200, "{open} jobs are still open after {round} workers");
        worker.kill();
        rig.end_lease(&name).await?;
        round += 1;
    }
    ensure!(round >= 3, "only {round} workers were killed: that tests nothing");
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
