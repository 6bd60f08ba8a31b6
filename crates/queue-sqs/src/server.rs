//! Whether the service lets us do all that a queue needs: asked by doing it, in a queue that is gone at once.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use futures::{StreamExt, stream};
use robata_core::queue::Message;
use tokio::time::Instant;

use crate::{error::Fault, held::Handle, lines, message::Wire, names::PREFIX, publish, settle, shared::Shared};

/// So many queues are looked at for a redrive policy.
const MOST_LOOKED_AT: i32 = 1000;
/// A queue that was just made is known everywhere after about a second.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(250);

/// What the service is like for us.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerFacts {
    /// The region that was asked.
    pub region: String,
    /// How many queues of Robata's were looked at for a redrive policy, 1,000 at most; `None`: they may not be listed.
    pub looked_at: Option<usize>,
    /// Those of them that have one, by which jobs would vanish.
    pub redriven: Vec<String>,
}

pub(crate) async fn check(shared: &Shared) -> Result<ServerFacts, Fault> {
    let name = shared.names.trial();
    if shared.config.create {
        let url = lines::make(shared, &name, "trial").await?;
        let tried = try_out(shared, &url).await;
        // Also where it failed: nothing is left behind.
        let deleting = shared.clients().await.prompt.delete_queue().queue_url(&url).send();
        let deleted = deleting.await.map(drop).map_err(Fault::from);
        tried.and(deleted)?;
    } else {
        let asking = shared.clients().await.prompt.get_queue_url().queue_name(&name).send();
        match asking.await.map_err(Fault::from) {
            Err(fault) if !fault.is_missing() => return Err(fault),
            _ => {}
        }
    }
    let (looked_at, redriven) = redriven(shared).await?;
    Ok(ServerFacts {
        region: shared.clients().await.region.clone(),
        looked_at,
        redriven,
    })
}

async fn try_out(shared: &Shared, url: &str) -> Result<(), Fault> {
    let deadline = Instant::now() + KNOWN_WITHIN;
    loop {
        match uses(shared, url).await {
            Err(fault) if fault.is_missing() && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            used => return used,
        }
    }
}

async fn uses(shared: &Shared, url: &str) -> Result<(), Fault> {
    lines::attributes(shared, url, QueueAttributeName::All).await?;
    let client = &shared.clients().await.prompt;
    client.list_queue_tags().queue_url(url).send().await?;
    let trial = Wire::new(&Message {
        body: "a trial".into(),
        ..Message::default()
    });
    let sent = publish::call(shared, url, vec![trial.entry(0)?]).await?;
    if let Some(failed) = sent.failed.first() {
        return Err(Fault::of_entry(failed.code(), failed.message()));
    }
    let received = client
        .receive_message()
        .queue_url(url)
        .wait_time_seconds(1)
        .send()
        .await?;
    // SQS may still have nothing to show; that it may be asked is what is to be known.
    let received = received.messages.unwrap_or_default();
    let handles: Vec<_> = received
        .iter()
        .filter_map(|message| message.receipt_handle())
        .map(|handle| Handle::of_trial(url, handle))
        .collect();
    for keep in [Some(shared.config.visibility), None] {
        if let Some(fault) = settle::ask(shared, &handles, keep).await.into_iter().flatten().next() {
            return Err(fault);
        }
    }
    Ok(())
}

/// The names of queues of ours that have a redrive policy, of how many; `None` where they may not be listed.
async fn redriven(shared: &Shared) -> Result<(Option<usize>, Vec<String>), Fault> {
    let client = &shared.clients().await.prompt;
    let listing = client
        .list_queues()
        .queue_name_prefix(PREFIX)
        .max_results(MOST_LOOKED_AT);
    let urls = match listing.send().await.map_err(Fault::from) {
        Err(fault) if fault.is_forbidden() => return Ok((None, Vec::new())),
        listed => listed?.queue_urls.unwrap_or_default(),
    };
    let looking = stream::iter(urls.iter().map(|url| async move {
        let found = lines::attributes(shared, url, QueueAttributeName::RedrivePolicy).await;
        (url, found)
    }));
    let mut looking = looking.buffer_unordered(crate::batch::AT_ONCE);
    let (mut looked_at, mut redriven) = (0, Vec::new());
    while let Some((url, found)) = looking.next().await {
        let found = match found {
            // Deleted meanwhile, or another installation's.
            Err(fault) if fault.is_missing() || fault.is_forbidden() => continue,
            found => found?,
        };
        looked_at += 1;
        if found
            .get(&QueueAttributeName::RedrivePolicy)
            .is_some_and(|policy| !policy.is_empty())
        {
            redriven.push(url.rsplit('/').next().unwrap_or(url).to_owned());
        }
    }
    redriven.sort_unstable();
    Ok((Some(looked_at), redriven))
}
