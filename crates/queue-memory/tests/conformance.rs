//! The memory queue keeps the contract of `robata_core::queue`.

use std::sync::Arc;

use robata_core::queue::Queue;
use robata_queue_memory::{MemoryConfig, MemoryQueue};
use robata_testkit::queue::Broker;

fn queue() -> MemoryQueue {
    MemoryQueue::new(MemoryConfig::default())
}

robata_testkit::queue_suite!(async || {
    // Its broker is the process: a new one has lost everything.
    Ok(Broker::new(queue(), async || Ok(Arc::new(queue()) as Arc<dyn Queue>)))
});
