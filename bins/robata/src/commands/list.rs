//! `robata jobs list`: pages of jobs, once or again and again.

use std::{collections::HashMap, process::ExitCode, time::Duration};

use robata_client::{Client, ClientError, Job, JobFilter, JobList};
use robata_core::JobId;
use tokio::time::Instant;

use crate::{
    args::ListArgs,
    commands::columns::{self, Column},
    fault::Usage,
    output::Output,
};

/// The API's largest page.
const PAGE: usize = 500;
/// From one look to the next.
const EACH: Duration = Duration::from_secs(1);

pub(crate) async fn list(client: &Client, args: ListArgs, out: &Output) -> anyhow::Result<ExitCode> {
    if out.is_json() && !args.columns.is_empty() {
        return Err(Usage("--columns is for text: JSON has all that there is".to_owned()).into());
    }
    let columns = if args.columns.is_empty() {
        columns::USUAL.to_vec()
    } else {
        args.columns
    };
    let text = |time: crate::clock::Moment| time.time().to_string();
    let filter = JobFilter {
        app: args.app.map(|name| name.to_string()),
        job: args.job.map(|name| name.to_string()),
        queue: args.queue.map(|name| name.to_string()),
        states: args.state.iter().map(ToString::to_string).collect(),
        reason: args.reason.map(|reason| reason.to_string()),
        labels: args.label.into_iter().map(|pair| (pair.name, pair.value)).collect(),
        since: args.since.map(text),
        until: args.until.map(text),
        cursor: args.cursor,
        limit: None,
    };
    if args.watch {
        return watch(client, &filter, args.limit, &columns, out).await;
    }
    let list = newest(client, filter, args.limit).await?;
    out.print(&list, || columns::table(&columns, &list.jobs).text(out, "no job fits"))?;
    if let Some(cursor) = &list.next_cursor {
        out.note(&format!("there are more: --limit N, or --cursor {cursor}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// More than a page is asked for page by page.
async fn newest(client: &Client, mut filter: JobFilter, limit: usize) -> Result<JobList, ClientError> {
    let mut list = JobList {
        jobs: Vec::new(),
        next_cursor: None,
    };
    while list.jobs.len() < limit {
        filter.limit = Some((limit - list.jobs.len()).min(PAGE));
        let page = client.jobs(&filter).await?;
        list.jobs.extend(page.jobs);
        list.next_cursor.clone_from(&page.next_cursor);
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    Ok(list)
}

/// Prints each job as it is, and again whenever it has changed, the newest last; until it is interrupted, or the server is
/// away for longer than a restart takes.
async fn watch(
    client: &Client,
    filter: &JobFilter,
    limit: usize,
    columns: &[Column],
    out: &Output,
) -> anyhow::Result<ExitCode> {
    let mut seen: HashMap<JobId, String> = HashMap::new();
    let (mut widths, mut silent_since) = (Vec::new(), None);
    loop {
        let jobs = match newest(client, filter.clone(), limit).await {
            Ok(list) => list.jobs,
            Err(error) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if !error.is_passing() || since.elapsed() > robata_client::PATIENCE {
                    return Err(error.into());
                }
                tokio::time::sleep(EACH).await;
                continue;
            }
        };
        silent_since = None;
        let now: HashMap<_, _> = jobs.iter().map(|job| (job.id, stage(job))).collect();
        let news = jobs.into_iter().filter(|job| seen.get(&job.id) != now.get(&job.id));
        let mut news: Vec<Job> = news.collect();
        news.reverse();
        if out.is_json() {
            for job in &news {
                out.event(job, String::new)?;
            }
        } else if !news.is_empty() || widths.is_empty() {
            let text = columns::table(columns, &news).lines(out, &mut widths);
            out.print(&(), || text)?;
        }
        seen = now;
        tokio::time::sleep(EACH).await;
    }
}

/// What is a change of a job, and not only of its age.
fn stage(job: &Job) -> String {
    let waiting = job.waiting.as_ref().map(|waiting| waiting.reason.as_str());
    let reason = job.reason.as_ref().map(|reason| reason.as_str());
    let asked = job.cancel_requested_at.is_some();
    format!("{} {} {waiting:?} {reason:?} {asked}", job.state, job.attempt)
}
