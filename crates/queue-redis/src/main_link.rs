//! The one shared connection for all that does not block: made at first use, checked, and made again with back-off.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{Cmd, Pipeline, RedisResult, ScriptInvocation, Value, aio::ConnectionLike};
use tokio::time::Instant;

use crate::{
    RedisConfig, ServerFacts,
    error::Fault,
    link::{Link, Source},
    server,
};

/// After a first failure; doubled by each further one.
const REST: Duration = Duration::from_millis(100);
/// The longest rest, unless a quarter of the consumers' expiry is shorter: whoever lives must have said so, after an
/// outage, before anybody else may judge.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// One question to the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    Command(&'a Cmd),
    Transaction(&'a Pipeline),
    Script(&'a ScriptInvocation<'a>),
}

/// Asks on this connection, and waits so long for the answer.
pub(crate) async fn ask(link: &mut Link, ask: Ask<'_>, within: Duration) -> Result<Value, Fault> {
    let asking = async {
        match ask {
            Ask::Command(command) => command.query_async(link).await,
            Ask::Transaction(commands) => transaction(link, commands).await,
            Ask::Script(script) => script.invoke_async(link).await,
        }
    };
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Silent(within)),
    }
}

/// Runs these commands as one. The library's own reading of the answer has no words for why EXEC itself was refused: a
/// server that has lost the keys since the commands were queued says it there, and Valkey 9 says it nowhere else.
async fn transaction(link: &mut impl ConnectionLike, commands: &Pipeline) -> RedisResult<Value> {
    // One answer to MULTI, one to each command's being queued: only that of EXEC is of interest.
    let answers = link.req_packed_commands(commands, commands.len() + 1, 1).await?;
    match answers.into_iter().next_back() {
        Some(answer) => answer.extract_error(),
        None => Err((
            redis::ErrorKind::UnexpectedReturnType,
            "a transaction without an answer",
        )
            .into()),
    }
}

/// The shared connection, or when to try for it again.
#[derive(Debug, Default)]
pub(crate) struct MainLink {
    state: tokio::sync::Mutex<State>,
    facts: Mutex<Option<ServerFacts>>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    generation: u64,
    failures: u32,
    rest: Option<(Instant, String)>,
}

/// The shared connection as somebody got it.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) link: Link,
    /// A number of the connection; it may lead to another server than those before.
    pub(crate) generation: u64,
    /// Whether it was made for this very call.
    pub(crate) fresh: bool,
}

impl MainLink {
    /// What the server said of itself when it was last asked.
    pub(crate) fn facts(&self) -> Option<ServerFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_facts(&self, facts: Option<ServerFacts>) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// The connection; a new, checked one where there is none. Within a rest after failures, that failure again.
    pub(crate) async fn get(&self, source: &Source, config: &RedisConfig) -> Result<Got, Fault> {
        let mut state = self.state.lock().await;
        if let Some(link) = &state.link {
            let link = link.clone();
            let generation = state.generation;
            return Ok(Got {
                link,
                generation,
                fresh: false,
            });
        }
        if let Some((until, last)) = &state.rest {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let last = last.clone();
                return Err(Fault::Resting { last, left });
            }
        }
        match self.open(source, config).await {
            Ok(link) => {
                state.generation += 1;
                state.failures = 0;
                state.rest = None;
                state.link = Some(link.clone());
                let generation = state.generation;
                Ok(Got {
                    link,
                    generation,
                    fresh: true,
                })
            }
            Err(fault) => {
                let rest = REST
                    .saturating_mul(1 << state.failures.min(10))
                    .min(LONGEST_REST.min(config.consumer_expiry / 4));
                state.failures = state.failures.saturating_add(1);
                state.rest = Some((Instant::now() + jittered(rest), full(&fault)));
                Err(fault)
            }
        }
    }

    async fn open(&self, source: &Source, config: &RedisConfig) -> Result<Link, Fault> {
        let mut link = source.open(config).await?;
        // Also after a reconnection: it may be another server, or have other settings.
        self.look(&mut link, source, config).await?;
        Ok(link)
    }

    /// Asks the server how it keeps its data, and a cluster for its nodes.
    async fn look(&self, link: &mut Link, source: &Source, config: &RedisConfig) -> Result<ServerFacts, Fault> {
        let looking = async {
            let facts = server::check(link, config).await?;
            if facts.cluster == Some(true) {
                source.learn(link, config).await?;
            }
            Ok(facts)
        };
        let seen: Result<ServerFacts, Fault> = looking.await;
        self.set_facts(seen.as_ref().ok().cloned());
        seen
    }

    /// Lets a connection go that has failed, unless it has been replaced already.
    pub(crate) async fn forget(&self, got: &Got) {
        let mut state = self.state.lock().await;
        if state.generation == got.generation {
            state.link = None;
        }
    }

    /// Asks the server again how it keeps its data: `CONFIG SET` needs no restart.
    pub(crate) async fn check_again(&self, source: &Source, config: &RedisConfig) -> Result<ServerFacts, Fault> {
        let mut got = self.get(source, config).await?;
        let seen = self.look(&mut got.link, source, config).await;
        if seen.is_err() {
            self.forget(&got).await;
        }
        seen
    }
}

fn full(fault: &Fault) -> String {
    match std::error::Error::source(fault) {
        Some(source) => format!("{fault}: {source}"),
        None => fault.to_string(),
    }
}

/// Between half of it and all of it, so that many clients do not come at once.
fn jittered(time: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    time / 2 + time / 2 * random / 255
}

#[cfg(test)]
mod tests {
    use redis::RedisFuture;

    use super::*;

    /// Answers EXEC with this.
    struct Answers(&'static [u8]);

    impl ConnectionLike for Answers {
        fn req_packed_command<'a>(&'a mut self, _: &'a Cmd) -> RedisFuture<'a, Value> {
            Box::pin(async { Ok(Value::Okay) })
        }

        fn req_packed_commands<'a>(
            &'a mut self,
            commands: &'a Pipeline,
            skipped: usize,
            count: usize,
        ) -> RedisFuture<'a, Vec<Value>> {
            assert_eq!((skipped, count), (commands.len() + 1, 1));
            Box::pin(async { Ok(vec![redis::parse_redis_value(self.0)?]) })
        }

        fn get_db(&self) -> i64 {
            0
        }
    }

    #[tokio::test]
    async fn a_transaction_that_is_refused_at_its_end_says_why() {
        let mut commands = redis::pipe();
        commands.atomic().cmd("XADD").arg("a");
        let run = async |answer| transaction(&mut Answers(answer), &commands).await;
        let moved = Fault::Redis(run(b"-MOVED 1 there:6381\r\n").await.unwrap_err());
        assert!(moved.is_elsewhere() && moved.moved_to() == Some("there:6381"));
        let asked = Fault::Redis(run(b"-ASK 1 there:6381\r\n").await.unwrap_err());
        assert!(asked.at("queue.publish").message().contains("moving"));
        // One of its commands was refused, not all of it.
        let full = Fault::Redis(run(b"*2\r\n+1-1\r\n-OOM no room\r\n").await.unwrap_err());
        assert_eq!(full.at("queue.publish").kind(), robata_core::ErrorKind::NoCapacity);
        assert!(matches!(run(b"*1\r\n+1-1\r\n").await, Ok(Value::Array(_))));
    }
}
