//! What makes settings those of one daemon among many: services that all reach, and only what was named.

use robata_core::{ExecutorName, QueueName};
use robata_settings::{QueueSettings, Settings, StoreSettings};

use crate::fault::{Coded, Usage};

/// Refuses settings under which masters and workers apart from each other would not work together.
pub fn apart(settings: &Settings) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    if let StoreSettings::Sqlite(_) = settings.store {
        wrong.push("SQLite is held by one process alone; set [store.postgres] url");
    }
    if let QueueSettings::Memory(_) = settings.queue {
        wrong
            .push("a queue in memory ends at its process; set [queue.redis] url, [queue.rabbitmq] url, or [queue.sqs]");
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message = format!(
        "masters and workers apart from each other need a store and a queue that all of them reach: {}. Everything in one process is `robata up`",
        wrong.join("; ")
    );
    Err(Coded {
        code: "not_apart",
        message,
    }
    .into())
}

/// Leaves only the executors that were named.
pub fn only_executors(settings: &mut Settings, names: &[ExecutorName]) -> anyhow::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let there: Vec<_> = settings.executors.keys().map(ToString::to_string).collect();
    if let Some(unknown) = names.iter().find(|name| !settings.executors.contains_key(*name)) {
        let there = there.join(", ");
        return Err(Usage(format!(
            "--executor {unknown}: there is no such executor; there are {there}"
        ))
        .into());
    }
    settings.executors.retain(|name, _| names.contains(name));
    if settings
        .definitions
        .default_executor
        .as_ref()
        .is_some_and(|name| !settings.executors.contains_key(name))
    {
        settings.definitions.default_executor = None;
    }
    Ok(())
}

/// Takes only from the queues that were named, each as `NAME` or `NAME=WEIGHT`.
pub fn only_queues(settings: &mut Settings, named: &[String]) -> anyhow::Result<()> {
    if named.is_empty() {
        return Ok(());
    }
    settings.worker.queues_strict.clear();
    settings.worker.queues.clear();
    for text in named {
        let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
        let name = QueueName::new(name).map_err(|error| Usage(format!("--queue {text}: {error}")))?;
        let weight: u32 = weight
            .parse()
            .ok()
            .filter(|weight| *weight > 0)
            .ok_or_else(|| Usage(format!("--queue {text}: a weight is a number from 1")))?;
        if settings.worker.queues.insert(name, weight).is_some() {
            return Err(Usage(format!("--queue {text}: named twice")).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use robata_settings::{PostgresSettings, RedisSettings};

    use super::*;

    #[test]
    fn one_process_services_are_refused_for_daemons_apart() {
        let mut settings = Settings::default();
        let error = apart(&settings).unwrap_err().to_string();
        assert!(
            error.contains("[store.postgres]") && error.contains("[queue.redis]"),
            "{error}"
        );
        settings.store = StoreSettings::Postgres(PostgresSettings::default());
        let error = apart(&settings).unwrap_err().to_string();
        assert!(!error.contains("SQLite") && error.contains("memory"), "{error}");
        settings.queue = QueueSettings::Redis(RedisSettings::default());
        apart(&settings).unwrap();
    }

    #[test]
    fn queues_are_named_with_or_without_weights() {
        let mut settings = Settings::default();
        settings.worker.queues_strict = vec![QueueName::new("old").unwrap()];
        only_queues(&mut settings, &["a=3".into(), "b".into()]).unwrap();
        let queues: Vec<_> = settings
            .worker
            .queues
            .iter()
            .map(|(name, weight)| (name.as_str(), *weight))
            .collect();
        assert_eq!(queues, [("a", 3), ("b", 1)]);
        assert!(settings.worker.queues_strict.is_empty());
        for wrong in [&["a=0"][..], &["a=x"], &["a b"], &["a", "a=2"]] {
            let wrong: Vec<_> = wrong.iter().map(|text| (*text).to_owned()).collect();
            assert!(
                only_queues(&mut settings, &wrong).unwrap_err().is::<Usage>(),
                "{wrong:?}"
            );
        }
    }
}
