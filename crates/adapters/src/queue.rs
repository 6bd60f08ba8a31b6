//! Which queues can be chosen.

use std::sync::Arc;

use robata_core::{InstallationId, Result, queue::Queue};
use robata_settings::{QueueSettings, Settings};

/// Opens the queue that was chosen, for the lines of this installation.
pub async fn queue(settings: &Settings, installation: InstallationId) -> Result<Arc<dyn Queue>> {
    #[cfg(not(any(feature = "redis", feature = "rabbitmq", feature = "sqs")))]
    let _ = installation;
    match &settings.queue {
        #[cfg(feature = "memory")]
        QueueSettings::Memory(_) => Ok(Arc::new(robata_queue_memory::MemoryQueue::new(
            robata_queue_memory::MemoryConfig::default(),
        ))),
        #[cfg(not(feature = "memory"))]
        QueueSettings::Memory(_) => Err(crate::left_out("queue.memory", "memory")),
        #[cfg(feature = "redis")]
        QueueSettings::Redis(redis) => {
            let config = crate::redis::config(redis, installation)?;
            Ok(Arc::new(robata_queue_redis::RedisQueue::connect(config)?))
        }
        #[cfg(not(feature = "redis"))]
        QueueSettings::Redis(_) => Err(crate::left_out("queue.redis", "redis")),
        #[cfg(feature = "rabbitmq")]
        QueueSettings::Rabbitmq(rabbitmq) => {
            let config = crate::rabbitmq::config(rabbitmq, installation)?;
            Ok(Arc::new(robata_queue_rabbitmq::RabbitMqQueue::connect(config)?))
        }
        #[cfg(not(feature = "rabbitmq"))]
        QueueSettings::Rabbitmq(_) => Err(crate::left_out("queue.rabbitmq", "rabbitmq")),
        #[cfg(feature = "sqs")]
        QueueSettings::Sqs(sqs) => {
            let config = crate::sqs::config(sqs, installation)?;
            Ok(Arc::new(robata_queue_sqs::SqsQueue::connect(config)?))
        }
        #[cfg(not(feature = "sqs"))]
        QueueSettings::Sqs(_) => Err(crate::left_out("queue.sqs", "sqs")),
    }
}
