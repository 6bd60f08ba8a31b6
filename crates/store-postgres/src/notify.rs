//! Hints to and from other processes over `NOTIFY`, outside of any transaction that writes: at most one every 20 ms, of
//! bounded size, lossy.

use std::{collections::HashSet, sync::Weak, time::Duration};

use robata_core::{job::Line, store::Hint};
use sqlx::{Connection as _, PgPool, postgres::PgListener};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use uuid::Uuid;

use crate::{conn::Conn, db::Db, shared::Shared, sql::q};

/// The channel; a database holds one installation.
const CHANNEL: &str = "robata";
/// Between two notifications.
const APART: Duration = Duration::from_millis(20);
/// A payload is shorter than 8000 bytes (<https://www.postgresql.org/docs/current/sql-notify.html>).
const MAX_BYTES: usize = 7_900;
/// How long one is tried to be sent.
const SENDING: Duration = Duration::from_secs(2);
/// A listener that heard nothing for so long asks whether it is still connected.
const SILENCE: Duration = Duration::from_secs(15);
/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// After a failure, doubling between these, with jitter.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Sends hints as long as the store is there.
pub(crate) async fn send(mut hints: mpsc::Receiver<Vec<Hint>>, pool: PgPool, process: Uuid) {
    let mut next = Instant::now();
    while let Some(first) = hints.recv().await {
        sleep_until(next).await;
        let mut all = first;
        while let Ok(more) = hints.try_recv() {
            all.extend(more);
        }
        next = Instant::now() + APART;
        let text = encode(process, &all);
        match timeout(SENDING, notify(&pool, &text)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "hints were not sent"),
            Err(_) => tracing::debug!("hints were not sent in time"),
        }
    }
}

/// In a transaction, as every prepared statement (see [`q`]).
async fn notify(pool: &PgPool, text: &str) -> Result<(), sqlx::Error> {
    let mut conn = Conn::new(pool.acquire().await?);
    let mut tx = conn.inner().begin().await?;
    q("SELECT pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(text)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// The more a hint moves, the earlier it stands: what exceeds the size is lost.
fn encode(process: Uuid, hints: &[Hint]) -> String {
    let mut text = format!("1 {process}");
    let mut seen = HashSet::new();
    let rank = |hint: &Hint| match hint {
        Hint::Catalog | Hint::Tokens | Hint::Orphans => 0,
        Hint::Attempt(_) => 1,
        Hint::Line(_) | Hint::Due(_) => 2,
        _ => 3,
    };
    let soonest = hints
        .iter()
        .filter_map(|hint| match hint {
            Hint::Due(time) => Some(*time),
            _ => None,
        })
        .min();
    let mut words: Vec<(i32, String)> = hints
        .iter()
        .filter_map(|hint| {
            let word = match hint {
                Hint::Catalog => "C".to_owned(),
                Hint::Tokens => "T".to_owned(),
                Hint::Orphans => "O".to_owned(),
                Hint::Attempt(attempt) => format!("A {attempt}"),
                Hint::Line(line) => format!("L {} {}", line.queue, line.executor),
                Hint::Due(time) if Some(*time) == soonest => format!("D {}", time.as_millis()),
                Hint::Job(job) => format!("J {job}"),
                _ => return None,
            };
            Some((rank(hint), word))
        })
        .collect();
    words.sort_by_key(|(rank, _)| *rank);
    for (_, word) in words {
        if text.len() + 1 + word.len() > MAX_BYTES {
            break;
        }
        if seen.insert(word.clone()) {
            text.push('\n');
            text.push_str(&word);
        }
    }
    text
}

/// Another process's hints; what this release does not know is passed over.
fn decode(text: &str, process: Uuid) -> Vec<Hint> {
    let mut lines = text.lines();
    match lines.next().and_then(|head| head.split_once(' ')) {
        Some(("1", from)) if from != process.to_string() => {}
        _ => return Vec::new(),
    }
    lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some(match words.next()? {
                "C" => Hint::Catalog,
                "T" => Hint::Tokens,
                "O" => Hint::Orphans,
                "A" => Hint::Attempt(words.next()?.parse().ok()?),
                "J" => Hint::Job(words.next()?.parse().ok()?),
                "D" => Hint::Due(Duration::from_millis(words.next()?.parse().ok()?)),
                "L" => Hint::Line(Line {
                    queue: words.next()?.parse().ok()?,
                    executor: words.next()?.parse().ok()?,
                }),
                _ => return None,
            })
        })
        .collect()
}

/// Listens as long as the store is there, each time over a pool of its own: a listener that is dropped says so on its
/// connection, and where the server is gone without a word its place in a pool is not free again for a long time.
pub(crate) async fn listen(pool: impl Fn() -> PgPool, db: Weak<Db>) {
    let mut pause = AGAIN.0;
    while db.strong_count() > 0 {
        let begin = Instant::now();
        let pool = pool();
        if let Err(error) = hear(&pool, &db).await {
            tracing::debug!(%error, "not listening for hints now");
        }
        let _ = timeout(ANSWER, pool.close()).await;
        if begin.elapsed() > AGAIN.1 {
            pause = AGAIN.0;
        }
        let chance = getrandom::u32().map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX));
        sleep_until(Instant::now() + pause.mul_f64(0.5 + chance / 2.0)).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

async fn hear(pool: &PgPool, db: &Weak<Db>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    // We connect again ourselves, and tell what may have been missed.
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    // What was missed meanwhile: whoever waits looks.
    if let Some(db) = db.upgrade() {
        let _ = db.shared.hints.send(Hint::Gap);
    }
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(heard) => {
                let Some(heard) = heard? else { return Ok(()) };
                let Some(db) = db.upgrade() else { return Ok(()) };
                tell(&db.shared, heard.payload());
            }
            Err(_) => {
                if db.strong_count() == 0 {
                    return Ok(());
                }
                // A connection that was cut without a word is only found by asking.
                match timeout(ANSWER, listener.listen(CHANNEL)).await {
                    Ok(answer) => answer?,
                    Err(_) => return Err(sqlx::Error::PoolTimedOut),
                }
            }
        }
    }
}

fn tell(shared: &Shared, text: &str) {
    for hint in decode(text, shared.process) {
        // Nobody listens: nobody needs it.
        let _ = shared.hints.send(hint);
    }
}

#[cfg(test)]
mod tests {
    use robata_core::{AttemptId, JobId};

    use super::*;

    #[test]
    fn hints_come_over_as_they_were_and_not_back_to_their_sender() {
        let (own, other) = (Uuid::new_v4(), Uuid::new_v4());
        let job = JobId::new();
        let line = Line {
            queue: "shop".parse().unwrap(),
            executor: "process".parse().unwrap(),
        };
        let hints = [
            Hint::Catalog,
            Hint::Tokens,
            Hint::Attempt(AttemptId { job, number: 3 }),
            Hint::Line(line),
            Hint::Due(Duration::from_millis(7)),
            Hint::Job(job),
        ];
        let text = encode(own, &hints);
        assert_eq!(decode(&text, other), hints);
        assert!(decode(&text, own).is_empty());
    }

    #[test]
    fn a_payload_is_bounded_and_keeps_what_moves_most() {
        let mut hints: Vec<_> = (0..5_000).map(|_| Hint::Job(JobId::new())).collect();
        hints.push(Hint::Orphans);
        let text = encode(Uuid::new_v4(), &hints);
        assert!(text.len() < 8_000, "{}", text.len());
        assert_eq!(decode(&text, Uuid::nil())[0], Hint::Orphans);
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        let text = format!("1 {}\nX y\nL a\nC", Uuid::new_v4());
        assert_eq!(decode(&text, Uuid::nil()), [Hint::Catalog]);
        assert!(decode("2 x\nC", Uuid::nil()).is_empty());
    }
}
