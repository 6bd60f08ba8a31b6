//! What the server says of itself: its version, and how safe messages are with it.

use std::collections::HashMap;

use redis::{FromRedisValue, Value};

use crate::{Eviction, Persistence, RedisConfig, error::Fault, link::Link};

/// How the server keeps what it is given, as it last answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerFacts {
    /// Its version; `None` where it does not say.
    pub version: Option<String>,
    /// Whether every write goes to an append-only file; `None` where it does not say.
    pub appendonly: Option<bool>,
    /// Whether that file is synced before a write is answered; `None` where it does not say.
    pub fsync_always: Option<bool>,
    /// Its `maxmemory-policy`; `None` where it does not say.
    pub eviction_policy: Option<String>,
    /// Whether it is a node of a cluster; `None` where it does not say.
    pub cluster: Option<bool>,
}

/// Whether whole jobs, not only references, may be put into this broker (PROTOCOL I2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WholeJobs {
    /// `appendonly yes`, `appendfsync always`, `noeviction`.
    Allowed,
    /// What is missing, for a person.
    Refused(String),
    /// The server has not been asked yet.
    Unknown,
}

impl ServerFacts {
    /// Whether what was published survives the server's restart (with `appendfsync everysec`, all but the last second).
    #[must_use]
    pub fn durable(&self) -> bool {
        self.appendonly == Some(true)
    }

    /// Whether whole jobs may be put here.
    #[must_use]
    pub fn whole_jobs(&self) -> WholeJobs {
        let mut missing = Vec::new();
        for (setting, wanted, is) in [
            ("appendonly", "yes", self.appendonly),
            ("appendfsync", "always", self.fsync_always),
            (
                "maxmemory-policy",
                "noeviction",
                self.eviction_policy.as_deref().map(|policy| policy == "noeviction"),
            ),
        ] {
            match is {
                Some(true) => {}
                Some(false) => missing.push(format!("{setting} is not {wanted}")),
                None => missing.push(format!("the server does not tell whether {setting} is {wanted}")),
            }
        }
        match missing.is_empty() {
            true => WholeJobs::Allowed,
            false => WholeJobs::Refused(missing.join(", ")),
        }
    }

    /// An error where the server is of no use, and warnings for what is legal and dangerous.
    fn judge(&self, config: &RedisConfig) -> Result<(), Fault> {
        if let Some(version) = &self.version
            && !new_enough(version)
        {
            return Err(Fault::TooOld {
                version: version.clone(),
            });
        }
        match self.eviction_policy.as_deref() {
            Some("noeviction") | None => Ok(()),
            Some(policy) if config.eviction == Eviction::Warn => {
                tracing::warn!(policy, "redis may evict messages: set maxmemory-policy to noeviction");
                Ok(())
            }
            Some(policy) => Err(Fault::Evicts {
                policy: policy.to_owned(),
            }),
        }
    }
}

/// Redis 6.2; Valkey counts from 7.2.
fn new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 2)
}

/// Asks the server and judges what it says.
pub(crate) async fn check(link: &mut Link, config: &RedisConfig) -> Result<ServerFacts, Fault> {
    let asking = async {
        let mut facts = ServerFacts::default();
        hello(link, &mut facts).await?;
        match config.persistence {
            Persistence::Ask => ask(link, &mut facts).await?,
            Persistence::Known {
                appendonly,
                fsync_always,
                noeviction,
            } => {
                facts.appendonly = Some(appendonly);
                facts.fsync_always = Some(fsync_always);
                facts.eviction_policy = Some(if noeviction { "noeviction" } else { "unknown" }.to_owned());
            }
        }
        facts.judge(config)?;
        Ok(facts)
    };
    match tokio::time::timeout(config.response_timeout, asking).await {
        Ok(facts) => facts,
        Err(_) => Err(Fault::Silent(config.response_timeout)),
    }
}

/// Version and mode; a server, a proxy or an ACL may forbid the question.
async fn hello(link: &mut Link, facts: &mut ServerFacts) -> Result<(), Fault> {
    let Some(answer) = allowed(redis::cmd("HELLO").query_async::<Value>(link).await)? else {
        return Ok(());
    };
    let mut fields =
        HashMap::<String, Value>::from_redis_value(answer).map_err(|error| Fault::Answer(error.to_string()))?;
    let mut text = |name: &str| String::from_redis_value(fields.remove(name)?).ok();
    facts.version = text("version");
    facts.cluster = text("mode").map(|mode| mode == "cluster");
    Ok(())
}

/// `CONFIG GET`, which managed servers and careful operators forbid; then `INFO`, which does not tell `appendfsync`.
async fn ask(link: &mut Link, facts: &mut ServerFacts) -> Result<(), Fault> {
    let mut settings = HashMap::new();
    for name in ["appendonly", "appendfsync", "maxmemory-policy"] {
        let mut get = redis::cmd("CONFIG");
        let answer = allowed(
            get.arg("GET")
                .arg(name)
                .query_async::<HashMap<String, String>>(link)
                .await,
        )?;
        settings.extend(answer.unwrap_or_default());
    }
    let is = |name: &str, wanted: &str| settings.get(name).map(|value| value == wanted);
    facts.appendonly = is("appendonly", "yes");
    facts.fsync_always = is("appendfsync", "always");
    facts.eviction_policy = settings.get("maxmemory-policy").cloned();
    if facts.appendonly.is_none() || facts.eviction_policy.is_none() {
        let info = allowed(redis::cmd("INFO").query_async::<String>(link).await)?.unwrap_or_default();
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        facts.appendonly = facts
            .appendonly
            .or_else(|| field("aof_enabled").map(|value| value == "1"));
        facts.eviction_policy = facts.eviction_policy.take().or_else(|| field("maxmemory_policy"));
    }
    Ok(())
}

/// `None` where the question itself is not allowed or not known there.
fn allowed<T>(answer: redis::RedisResult<T>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(error) => Err(Fault::Redis(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_taken_from_6_2() {
        for (version, good) in [
            ("6.2.0", true),
            ("7.0.15", true),
            ("8.1", true),
            ("6.0.16", false),
            ("5.0.7", false),
        ] {
            assert_eq!(new_enough(version), good, "{version}");
        }
    }

    #[test]
    fn whole_jobs_need_all_three_settings_and_to_know_them() {
        let mut facts = ServerFacts {
            appendonly: Some(true),
            fsync_always: Some(true),
            eviction_policy: Some("noeviction".to_owned()),
            ..ServerFacts::default()
        };
        assert_eq!(facts.whole_jobs(), WholeJobs::Allowed);
        facts.fsync_always = None;
        assert!(
            matches!(facts.whole_jobs(), WholeJobs::Refused(why) if why.contains("does not tell whether appendfsync"))
        );
        facts.fsync_always = Some(false);
        facts.eviction_policy = Some("allkeys-lru".to_owned());
        assert!(
            matches!(facts.whole_jobs(), WholeJobs::Refused(why) if why.contains("appendfsync") && why.contains("maxmemory-policy"))
        );
    }
}
