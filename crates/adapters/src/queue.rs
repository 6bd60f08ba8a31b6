//! Which queues can be chosen.

use std::sync::Arc;

use robata_core::{Result, queue::Queue};
use robata_settings::{QueueSettings, Settings};

/// Opens the queue that was chosen.
pub async fn queue(settings: &Settings) -> Result<Arc<dyn Queue>> {
    match &settings.queue {
        #[cfg(feature = "memory")]
        QueueSettings::Memory(_) => Ok(Arc::new(robata_queue_memory::MemoryQueue::new(
            robata_queue_memory::MemoryConfig::default(),
        ))),
        #[cfg(not(feature = "memory"))]
        QueueSettings::Memory(_) => Err(crate::left_out("queue.memory", "memory")),
    }
}
