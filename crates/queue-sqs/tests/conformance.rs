//! SQS keeps the contract of `robata_core::queue`: each case on the real API, in an installation of its own.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod service;

use std::sync::Arc;

use robata_core::queue::Queue;
use robata_testkit::queue::Broker;

mod sqs_standard_queues {
    use super::*;

    robata_testkit::queue_suite!(async || {
        let config = service::config()?;
        let queue = service::queue(&config)?;
        let same = queue.clone();
        Ok(Broker::new(queue, move || {
            let (config, same) = (config.clone(), same.clone());
            async move {
                anyhow::ensure!(service::delete_all(&config).await? > 0, "there is nothing to lose");
                Ok(Arc::new(same) as Arc<dyn Queue>)
            }
        }))
    });
}
