//! One receive, in a task of its own: dropping the future that waits for it leaves the task to end it in good order.

use std::sync::Arc;

use robata_core::{
    Result,
    queue::{Delivery, Receive, hand::Hand, share::Plan},
};
use tokio::time::Instant;

use crate::{error::Fault, reader::Lease, shared::Shared};

const OPERATION: &str = "queue.receive";

/// Whoever waits for a receive's result.
struct Waiting<'a> {
    shared: &'a Shared,
    hand: Arc<Hand>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(Ok(deliveries)) = self.hand.leave() {
            self.shared.put_back(deliveries);
        }
    }
}

/// Receives; may be dropped at any await.
pub(crate) async fn receive(shared: &Arc<Shared>, request: Receive) -> Result<Vec<Delivery>> {
    // A full queue never waits: without this a consumer's loop would not let anybody else run.
    tokio::task::coop::consume_budget().await;
    if let Some((line, _)) = request.lines.iter().find(|(_, weight)| *weight == 0) {
        return Err(Fault::NoWeight { line: line.clone() }.at(OPERATION));
    }
    let hand = Arc::new(Hand::default());
    let waiting = Waiting {
        shared,
        hand: Arc::clone(&hand),
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let work = hand.work(OPERATION);
        let result = attempt(&shared, &request, &hand).await;
        if let Some(Ok(deliveries)) = work.put(result.map_err(|fault| fault.at(OPERATION))) {
            shared.put_back(deliveries);
        }
    });
    waiting.hand.take().await
}

async fn attempt(shared: &Arc<Shared>, request: &Receive, hand: &Hand) -> Result<Vec<Delivery>, Fault> {
    // `None`: the wait is so long that it has no end.
    let deadline = Instant::now().checked_add(request.wait);
    let over = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    if request.max == 0 || request.lines.is_empty() {
        tokio::select! {
            () = over => {}
            () = hand.gone() => {}
        }
        return Ok(Vec::new());
    }
    shared.receives.store(true, std::sync::atomic::Ordering::Relaxed);
    shared
        .held()
        .receives_from(request.lines.iter().map(|(line, _)| line.clone()));
    let _permit = tokio::select! {
        biased;
        permit = shared.permits.acquire() => permit,
        () = over => return Ok(Vec::new()),
        () = hand.gone() => return Ok(Vec::new()),
    };
    loop {
        let mut lease = Lease::new(shared).await?;
        match read(shared, request, hand, deadline, &mut lease).await {
            Ok(deliveries) => {
                lease.done();
                return Ok(deliveries);
            }
            // Only the connection was stale: the server is asked by a new one.
            Err(fault) if fault.ends_connection() && lease.reused && !hand.is_gone() => lease.stale(),
            Err(fault) => {
                if fault.is_refusal() {
                    lease.done();
                }
                return Err(fault);
            }
        }
    }
}

/// Looks, waits, looks again, until there is something, the time is over, or nobody waits.
async fn read(
    shared: &Arc<Shared>,
    request: &Receive,
    hand: &Hand,
    deadline: Option<Instant>,
    lease: &mut Lease,
) -> Result<Vec<Delivery>, Fault> {
    loop {
        let plan = shared.share().plan(&request.lines, request.max, |_| usize::MAX);
        let taken = lease.take(&plan, request.max).await?;
        // From here on a failure is the server's, not a stale connection's.
        lease.reused = false;
        if !taken.is_empty() || hand.is_gone() {
            return Ok(taken);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Vec::new());
        }
        let slice = left.map_or(shared.config.block_slice(), |left| {
            left.min(shared.config.block_slice())
        });
        match lease.block(&plan, count(&plan, request.max), slice, hand).await {
            Ok(mut taken) => {
                // Each line may give its count: where there are more lines than room, that may be too much.
                let surplus = taken.split_off(taken.len().min(request.max));
                shared.put_back(surplus);
                if !taken.is_empty() || hand.is_gone() {
                    return Ok(taken);
                }
            }
            // The next look makes the group again.
            Err(fault) if fault.group_is_gone() => {}
            Err(fault) => return Err(fault),
        }
    }
}

/// How much one line may give: `COUNT` is counted for each of them.
fn count(plan: &Plan, max: usize) -> usize {
    (max / plan.len().max(1)).max(1)
}
