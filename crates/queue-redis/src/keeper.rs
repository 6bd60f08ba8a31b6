//! The task behind a queue: says that its consumers live, finishes what could not be finished, and takes over from the
//! dead. It ends with the queue.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use redis::{FromRedisValue, Value};
use robata_core::job::Line;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    error::Fault,
    held::{Chores, Ids, Retired},
    keys::{GROUP, run_of},
    main_link::Ask,
    script,
    shared::Shared,
};

/// How often the server is asked again how it keeps its data.
const CHECK: Duration = Duration::from_secs(60);
/// So many entries are handled in one step: the server does nothing else meanwhile.
const STEP: usize = 100;

/// Starts the keeper where none runs.
pub(crate) fn ensure(shared: &Arc<Shared>) {
    shared.keeper(|| {
        let (weak, chores) = (Arc::downgrade(shared), Arc::clone(&shared.chores));
        tokio::spawn(keep(weak, chores, shared.config.beat()))
    });
}

/// Holds the queue only while it works, so that the queue ends when nobody else holds it.
async fn keep(shared: Weak<Shared>, chores: Arc<Notify>, beat: Duration) {
    let mut ticks = tokio::time::interval(beat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checked = Instant::now();
    let mut failing = false;
    loop {
        let is_tick = tokio::select! {
            _ = ticks.tick() => true,
            // What could not be done waits for the next tick: the server is not asked without a pause.
            () = chores.notified(), if !failing => false,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut done = finish(&shared).await;
        if done.is_ok() && is_tick {
            done = tick(&shared, &mut checked).await;
        } else if done.is_err() {
            shared.not_said_alive();
        }
        match done {
            Ok(()) => failing = false,
            Err(fault) => {
                if !failing {
                    tracing::warn!(error = %fault.at("queue.keep").full(), "redis: will try again");
                }
                failing = true;
            }
        }
    }
}

async fn tick(shared: &Arc<Shared>, checked: &mut Instant) -> Result<(), Fault> {
    if shared.receives.load(Ordering::Relaxed) {
        if let Err(fault) = say_alive(shared).await {
            shared.not_said_alive();
            return Err(fault);
        }
        if shared.may_judge() {
            bury_the_dead(shared).await?;
        }
    }
    if checked.elapsed() >= CHECK {
        *checked = Instant::now();
        shared.main.check_again(&shared.source, &shared.config).await?;
    }
    Ok(())
}

async fn say_alive(shared: &Arc<Shared>) -> Result<(), Fault> {
    let expiry = u64::try_from(shared.config.consumer_expiry.as_millis()).unwrap_or(u64::MAX);
    let mut say = script::SAY_ALIVE.key(shared.keys.alive(&shared.run));
    say.arg(expiry);
    let lapsed = shared.ask(Ask::Script(&say), true).await?;
    shared.said_alive(!matches!(lapsed, Value::Int(0)));
    Ok(())
}

/// Does the chores; puts back what could not be done.
async fn finish(shared: &Arc<Shared>) -> Result<(), Fault> {
    let Chores {
        settled,
        back,
        mut retired,
    } = shared.held().chores();
    let done = async {
        if let Err(fault) = acknowledge(shared, &settled).await {
            shared.held().settle_later(settled);
            shared.held().back_later(back);
            return Err(fault);
        }
        if let Err(fault) = give_back(shared, &back).await {
            shared.held().back_later(back);
            return Err(fault);
        }
        while let Some(one) = retired.last_mut() {
            audit(shared, one).await?;
            // Until it can be given nothing more, it is looked at again.
            if one.lines.is_empty() {
                retired.pop();
            } else if let Some(one) = retired.pop() {
                shared.held().retire(one);
            }
        }
        Ok(())
    }
    .await;
    for one in retired {
        shared.held().retire(one);
    }
    done
}

/// Tells the server what our callers have acknowledged.
pub(crate) async fn acknowledge(shared: &Arc<Shared>, settled: &Ids) -> Result<(), Fault> {
    if settled.is_empty() {
        return Ok(());
    }
    let mut settle = script::SETTLE.prepare_invoke();
    settle.arg(GROUP);
    for (line, ids) in settled {
        settle.key(shared.keys.stream(line)).arg(ids.len()).arg(ids);
    }
    shared.ask(Ask::Script(&settle), true).await?;
    let mut held = shared.held();
    for (line, ids) in settled {
        for id in ids {
            held.settle(line, id);
        }
    }
    Ok(())
}

/// Publishes entries again and settles them; answers those that the server no longer has.
pub(crate) async fn give_back(shared: &Arc<Shared>, ids: &Ids) -> Result<HashMap<Line, HashSet<String>>, Fault> {
    let mut missing: HashMap<Line, HashSet<String>> = HashMap::new();
    for (line, ids) in ids {
        for ids in ids.chunks(STEP) {
            let mut give_back = script::GIVE_BACK.key(shared.keys.stream(line));
            give_back.arg(GROUP).arg("").arg(ids);
            let answer = shared.ask(Ask::Script(&give_back), true).await?;
            let gone = Vec::<String>::from_redis_value(answer).map_err(|error| Fault::Answer(error.to_string()))?;
            if !gone.is_empty() {
                missing.entry(line.clone()).or_default().extend(gone);
            }
        }
    }
    Ok(missing)
}

/// Publishes again what a consumer of ours holds that nobody here has: it was lost with an answer. Lines with which it
/// is done leave its list.
async fn audit(shared: &Arc<Shared>, retired: &mut Retired) -> Result<(), Fault> {
    let settled_down = Instant::now() >= retired.until;
    for line in retired.lines.clone() {
        let stream = shared.keys.stream(&line);
        let mut lost = Vec::new();
        let mut from = "-".to_owned();
        loop {
            let mut pending = redis::cmd("XPENDING");
            pending
                .arg(&stream)
                .arg(GROUP)
                .arg(&from)
                .arg("+")
                .arg(STEP)
                .arg(&retired.consumer);
            let answer = match shared.ask(Ask::Command(&pending), true).await {
                // The group is gone, and with it all that it held.
                Err(fault) if fault.group_is_gone() => Value::Array(Vec::new()),
                answer => answer?,
            };
            let pending = pending_ids(answer)?;
            let Some(last) = pending.last() else {
                break;
            };
            from = format!("({last}");
            let held = shared.held();
            lost.extend(pending.iter().filter(|id| !held.is_out(&line, id)).cloned());
        }
        for ids in lost.chunks(STEP) {
            let mut give_back = script::GIVE_BACK.key(&stream);
            give_back.arg(GROUP).arg(&retired.consumer).arg(ids);
            shared.ask(Ask::Script(&give_back), true).await?;
        }
        if settled_down {
            let mut forget = script::FORGET.key(&stream);
            forget.arg(GROUP).arg(&retired.consumer);
            let gone = shared.ask(Ask::Script(&forget), true).await?;
            if matches!(gone, Value::Int(1)) {
                retired.lines.remove(&line);
            }
        }
    }
    Ok(())
}

fn pending_ids(answer: Value) -> Result<Vec<String>, Fault> {
    let wrong = |error: redis::ParsingError| Fault::Answer(error.to_string());
    let entries = Vec::<Vec<Value>>::from_redis_value(answer).map_err(wrong)?;
    entries
        .into_iter()
        .filter_map(|entry| entry.into_iter().next())
        .map(|id| String::from_redis_value(id).map_err(wrong))
        .collect()
}

/// Publishes again what consumers hold whose process gives no sign of life, and deletes them.
async fn bury_the_dead(shared: &Arc<Shared>) -> Result<(), Fault> {
    let lines = shared.held().lines();
    for line in lines {
        let stream = shared.keys.stream(&line);
        for consumer in consumers(shared, &stream).await? {
            let Some(run) = run_of(&consumer) else {
                continue;
            };
            if run == shared.run {
                continue;
            }
            loop {
                let mut bury = script::BURY.key(&stream);
                bury.key(shared.keys.alive(run)).arg(GROUP).arg(&consumer).arg(STEP);
                let answer = shared.ask(Ask::Script(&bury), true).await?;
                let Value::Int(count @ 1..) = answer else {
                    break;
                };
                tracing::warn!(%line, consumer, count, "redis: published again what a dead consumer held");
            }
        }
    }
    Ok(())
}

async fn consumers(shared: &Arc<Shared>, stream: &str) -> Result<Vec<String>, Fault> {
    let mut info = redis::cmd("XINFO");
    info.arg("CONSUMERS").arg(stream).arg(GROUP);
    let answer = match shared.ask(Ask::Command(&info), true).await {
        Ok(answer) => answer,
        // Nobody has received since it was flushed or made.
        Err(fault) if fault.stream_is_gone() => return Ok(Vec::new()),
        Err(fault) => return Err(fault),
    };
    let consumers =
        Vec::<HashMap<String, Value>>::from_redis_value(answer).map_err(|error| Fault::Answer(error.to_string()))?;
    Ok(consumers
        .into_iter()
        .filter_map(|mut consumer| String::from_redis_value(consumer.remove("name")?).ok())
        .collect())
}
