//! What every case of every suite has: an end in bounded time, and a state waited for instead of a sleep.

use std::{future::Future, time::Duration};

use anyhow::Result;

/// No case may take longer; one that hangs is a failed one, by its own name.
pub const LONGEST: Duration = Duration::from_secs(120);

/// Runs one case to its end or to its time limit.
///
/// # Panics
/// Where the case fails: a suite's cases are tests.
pub async fn run(name: &str, case: impl Future<Output = Result<()>>) {
    match tokio::time::timeout(LONGEST, case).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{name}: {error:#}"),
        Err(_) => panic!("{name}: not done after {} s", LONGEST.as_secs()),
    }
}

/// What `make` makes for one case; only so does the compiler know what the closure in a suite's macro answers.
pub async fn made<T>(make: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    make().await
}

/// Asks again and again, a hundred times a second, until `probe` has an answer or `within` has passed.
pub async fn until<T, F>(what: &str, within: Duration, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = tokio::time::Instant::now() + within;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        if let Some(answer) = probe().await? {
            return Ok(answer);
        }
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "waited {within:?} in vain: {what}"
        );
    }
}

/// Fails where a case is written in one of `files` and not listed in `list`: it would never run.
#[cfg(test)]
pub(crate) fn all_listed(list: &str, files: &[&str]) {
    let mut count = 0;
    for name in files.iter().flat_map(|file| file.lines()).filter_map(|line| {
        line.strip_prefix("pub async fn ")
            .and_then(|rest| rest.split(['(', '<']).next())
    }) {
        assert!(
            list.contains(&format!("            {name},\n")),
            "case {name} is not listed in the suite's macro"
        );
        count += 1;
    }
    assert!(count > 0, "no cases were found");
}
