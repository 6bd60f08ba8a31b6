//! The one task beside a queue: asks for more time for what is held, gives back what nobody wants, and goes on deleting what
//! the service could not be told.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::{held::Handle, settle, shared::Shared};

/// Starts the keeper where none runs.
pub(crate) fn ensure(shared: &Arc<Shared>) {
    shared.keeper(|| {
        let (weak, chores) = (Arc::downgrade(shared), Arc::clone(&shared.chores));
        // So often, more time is asked for at least twice before it is over.
        let beat = shared.config.visibility / 6;
        tokio::spawn(async move { while keep(&weak, beat, &chores).await {} })
    });
}

/// Waits for something to do, and does it. Whether the queue is still there.
async fn keep(weak: &Weak<Shared>, beat: Duration, chores: &tokio::sync::Notify) -> bool {
    let Some(is_idle) = weak.upgrade().map(|shared| shared.held().is_idle()) else {
        return false;
    };
    if is_idle {
        chores.notified().await;
    } else {
        tokio::select! {
            () = chores.notified() => {}
            () = tokio::time::sleep(beat) => {}
        }
    }
    match weak.upgrade() {
        Some(shared) => {
            work(&shared).await;
            true
        }
        None => false,
    }
}

async fn work(shared: &Shared) {
    let visibility = shared.config.visibility;
    let chores = shared.held().chores(Instant::now(), visibility);
    let leaving = async {
        let outcome = settle::ask(shared, &chores.back, Some(Duration::ZERO)).await;
        for fault in outcome.into_iter().flatten().filter(|fault| !fault.is_bad_receipt()) {
            tracing::debug!("sqs: a message that nobody here wants comes back later only: {fault}");
        }
    };
    let straying = async {
        let outcome = settle::ask(shared, &chores.stray, None).await;
        for fault in outcome.into_iter().flatten().filter(|fault| !fault.is_bad_receipt()) {
            tracing::debug!("sqs: an acknowledged message that came again is not deleted: {fault}");
        }
    };
    let deleting = async {
        if !chores.delete.is_empty()
            && let Err(fault) = settle::delete(shared, chores.delete).await
        {
            tracing::warn!("sqs: what is acknowledged is not deleted yet: {fault}");
        }
    };
    tokio::join!(extend(shared, chores.extend, visibility), leaving, straying, deleting);
}

async fn extend(shared: &Shared, extending: Vec<(u64, Handle)>, visibility: Duration) {
    let (numbers, handles): (Vec<_>, Vec<_>) = extending.into_iter().unzip();
    let until = Instant::now() + visibility;
    let outcome = settle::ask(shared, &handles, Some(visibility)).await;
    for (number, fault) in numbers.into_iter().zip(outcome) {
        match fault {
            None => shared.held().extended(number, until),
            Some(fault) => {
                // It may have been settled meanwhile, and then this says nothing.
                if !shared.held().is_out(number) {
                    continue;
                }
                tracing::warn!("sqs: a message that is held here may come to another: {fault}");
                if fault.is_bad_receipt() || fault.is_missing() {
                    shared.held().lose(number);
                }
            }
        }
    }
}
