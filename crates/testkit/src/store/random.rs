//! Many random things in a random order, duplicates and reorderings included: what must hold, holds after each of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use robata_core::{
    AttemptId, AttemptState, ErrorKind, IncarnationId, JobId, JobState,
    attempt::{AttemptChange, Claimed, HeldAttempt},
    finish::{End, NeverRan, Outcome, StopCause},
    job::{Cancel, RetryByHand},
    store::LEASE,
};

use super::world::{World, exited, job, next, sealed};

/// Random things done in one case.
const STEPS: usize = 600;

/// A small generator of its own, so that a failure is made again from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // SplitMix64, https://prng.di.unimi.it/splitmix64.c
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            None
        } else {
            from.get(self.roll(from.len()))
        }
    }
}

/// What was last seen of each job: what ended stays so, but for a retry by hand.
#[derive(Default)]
struct Seen {
    jobs: BTreeMap<JobId, JobState>,
    attempts: BTreeMap<AttemptId, AttemptState>,
    by_hand: BTreeSet<JobId>,
}

impl Seen {
    async fn look(&mut self, world: &World, ids: &[JobId]) -> Result<()> {
        let mut counted: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
        for id in ids {
            let detail = world.store().job(*id).await?;
            let job = detail.job;
            let count = counted.entry(job.line.to_string()).or_default();
            match job.state {
                JobState::Scheduled => count.0 += 1,
                JobState::Queued => count.1 += 1,
                JobState::Running => count.2 += 1,
                _ => {}
            }
            let before = self.jobs.insert(*id, job.state);
            if let Some(before) = before.filter(|before| before.is_ended() && *before != job.state) {
                ensure!(
                    before == JobState::Failed && self.by_hand.remove(id),
                    "{id} was {before} and is {}",
                    job.state
                );
            }
            let live: Vec<_> = detail
                .attempts
                .iter()
                .filter(|attempt| attempt.state.is_live())
                .collect();
            ensure!(live.len() <= 1, "{id} has {} live attempts", live.len());
            ensure!(
                (job.state == JobState::Running) == (live.len() == 1),
                "{id} is {} with {live:?}",
                job.state
            );
            for (n, attempt) in detail.attempts.iter().enumerate() {
                ensure!(attempt.id.number as usize == n + 1, "a gap in the numbers of {id}");
                let before = self.attempts.insert(attempt.id, attempt.state);
                if let Some(before) = before.filter(|before| !before.is_live()) {
                    ensure!(
                        before == attempt.state,
                        "the attempt {} was {before} and is {}",
                        attempt.id,
                        attempt.state
                    );
                }
            }
        }
        for told in world.store().queue_counts().await? {
            let line = counted.remove(&told.line.to_string()).unwrap_or_default();
            ensure!(
                line == (told.scheduled, told.queued, told.running),
                "{told:?}, but the jobs say {line:?}"
            );
        }
        counted.retain(|_, count| *count != (0, 0, 0));
        ensure!(counted.is_empty(), "no counts are kept of {counted:?}");
        Ok(())
    }
}

fn a_change(dice: &mut Dice) -> AttemptChange {
    let outcome = |end| AttemptChange::Ended(Outcome::new(end));
    match dice.roll(12) {
        0 => AttemptChange::Started {
            at: robata_core::Timestamp::from_millis(1),
        },
        1 => AttemptChange::Stopping(StopCause::Timeout),
        2 => AttemptChange::Stopping(StopCause::Cancel),
        3 => sealed(),
        4 => outcome(End::Lost),
        5 => outcome(End::EngineFault),
        6 => outcome(End::NeverRan(NeverRan::NotSetGoing)),
        7 => outcome(End::NeverRan(NeverRan::ImagePull)),
        8 => AttemptChange::Ended(Outcome {
            stop_sent: true,
            ..Outcome::new(End::Signalled(9))
        }),
        9 => exited(0),
        _ => exited(1),
    }
}

/// No sequence leaves the table, resurrects an ended job, or lets two attempts of a job be live.
pub async fn no_sequence_of_events_leaves_the_table(mut world: World) -> Result<()> {
    world.apply(r#"{"queues": {"shop": {"max_running": 6}}}"#).await?;
    let mut dice = Dice(0x0123_4567_89AB_CDEF);
    let mut seen = Seen::default();
    let mut ids: Vec<JobId> = Vec::new();
    let mut workers: Vec<IncarnationId> = vec![world.worker().await?];
    let mut ever: Vec<(IncarnationId, HeldAttempt)> = Vec::new();
    for step in 0..STEPS {
        let store = world.store();
        match dice.roll(16) {
            0 | 1 => ids.extend(
                world
                    .one(job("shop", if step % 2 == 0 { "mail" } else { "resize" })?)
                    .await
                    .map(|job| job.id),
            ),
            2..=5 => {
                let mut references = Vec::new();
                for _ in 0..3 {
                    if let Some(id) = dice.pick(&ids) {
                        references.push(next(&world.job(*id).await?));
                    }
                }
                if let Some(worker) = dice.pick(&workers).copied() {
                    for claimed in world.claim(worker, references).await? {
                        if let Claimed::Held(held) = claimed {
                            ever.push((worker, *held));
                        }
                    }
                }
            }
            6..=10 => {
                // Of any attempt ever held, by whoever held it then: late, doubled and out of order.
                if let Some((worker, held)) = dice.pick(&ever).cloned() {
                    let change = a_change(&mut dice);
                    match world.write(worker, &held, change.clone()).await? {
                        Ok(_) => {}
                        Err(error) if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Conflict) => {}
                        Err(error) => bail!("step {step}, {change:?}: {error:?}"),
                    }
                }
            }
            11 => {
                if let Some(job) = dice.pick(&ids).copied() {
                    let _ = store
                        .cancel(Cancel {
                            job,
                            by: "suite".into(),
                        })
                        .await;
                }
            }
            12 => {
                if let Some(job) = dice.pick(&ids).copied()
                    && store
                        .retry(RetryByHand {
                            job,
                            by: "suite".into(),
                        })
                        .await
                        .is_ok_and(|acted| acted.changed)
                {
                    seen.by_hand.insert(job);
                }
            }
            13 => {
                world.harness.advance(Duration::from_secs(40));
                store.due(5).await?;
            }
            14 => {
                let heir = world.worker().await?;
                if dice.roll(2) == 0
                    && let Some(worker) = workers.pop()
                {
                    store.release(worker).await?;
                }
                workers.push(heir);
                for held in world.adopt(heir).await? {
                    ever.push((heir, held));
                }
            }
            _ => {
                if dice.roll(8) == 0 {
                    world.harness.reopen().await?;
                    workers = vec![world.worker().await?];
                } else {
                    let live = workers.clone();
                    world.pass(LEASE / 2, &live).await?;
                    let lost = world
                        .store()
                        .settle_lost(&BTreeMap::new(), Duration::from_secs(30))
                        .await?;
                    ensure!(lost.iter().all(|id| ids.contains(&id.job)));
                }
            }
        }
        if step % 5 == 0 {
            seen.look(&world, &ids)
                .await
                .map_err(|error| error.context(format!("after step {step}")))?;
        }
    }
    seen.look(&world, &ids).await?;
    ensure!(
        ids.len() > 30 && ever.len() > 30,
        "too little happened: {} jobs, {} attempts",
        ids.len(),
        ever.len()
    );
    Ok(())
}
