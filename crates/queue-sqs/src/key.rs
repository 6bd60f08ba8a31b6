//! The broker key of a line (PROTOCOL O3): a tag of its queue, given when the queue is made. A queue that was deleted and
//! made again has another one.

use std::sync::Arc;

use robata_core::{job::Line, queue::BrokerKey};

use crate::{
    error::Fault,
    lines::{self, Place},
    names::KEY_TAG,
    shared::Shared,
};

/// The line's key, asked of the service each time.
pub(crate) async fn broker_key(shared: &Shared, line: &Line) -> Result<BrokerKey, Fault> {
    lines::on(shared, line, |place| async move {
        if let Some(key) = read(shared, &place).await? {
            return Ok(key);
        }
        // Made by hand. Of several who tag it at once the last one's key stays: the others learn of it as of a loss, and
        // publish once more.
        let fresh = uuid::Uuid::new_v4().simple().to_string();
        let tagging = shared.clients().await.prompt.tag_queue();
        tagging.queue_url(&place.url).tags(KEY_TAG, fresh).send().await?;
        let written = read(shared, &place).await?;
        written.ok_or_else(|| Fault::Answer(format!("the tag {KEY_TAG} of a queue is gone as soon as it is set")))
    })
    .await
}

async fn read(shared: &Shared, place: &Arc<Place>) -> Result<Option<BrokerKey>, Fault> {
    let asking = shared.clients().await.prompt.list_queue_tags().queue_url(&place.url);
    let tags = asking.send().await?.tags.unwrap_or_default();
    Ok(tags.get(KEY_TAG).filter(|key| !key.is_empty()).cloned().map(BrokerKey))
}
