//! Whether a broker does all that a queue needs: asked by doing it, in queues that are gone at once.

use lapin::options::{BasicAckOptions, BasicGetOptions};
use robata_core::queue::Message;

use crate::{
    connect::Live,
    error::Fault,
    lines::{self, delete, make},
    publish,
    shared::Shared,
};

/// What a broker is like.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerFacts {
    /// Its version, as `3.10.8`; empty where it does not tell.
    pub version: String,
}

/// Makes a line and a key, publishes, receives, acknowledges, and removes both.
pub(crate) async fn check(shared: &Shared) -> Result<ServerFacts, Fault> {
    let live = shared.inward.get().await?;
    for kind in ["quorum", "stream"] {
        let name = shared.names.trial(kind);
        make(&live, &name, lines::kind(kind)).await?;
        let tried = if kind == "quorum" {
            try_out(shared, &live, &name).await
        } else {
            Ok(())
        };
        // Also where it failed: nothing is left behind.
        let deleted = async { delete(&live, &live.channel().await?, &name).await };
        tried.and(deleted.await)?;
    }
    Ok(ServerFacts {
        version: live.version.text.clone(),
    })
}

async fn try_out(shared: &Shared, live: &Live, name: &str) -> Result<(), Fault> {
    let message = Message {
        body: "a trial".into(),
        ..Message::default()
    };
    publish::to_queue(shared, name, &[message]).await?;
    let channel = live.channel().await?;
    let got = live
        .within(channel.basic_get(name.into(), BasicGetOptions::default()))
        .await?;
    if let Some(got) = got {
        live.within(channel.basic_ack(got.delivery_tag, BasicAckOptions::default()))
            .await?;
    }
    Ok(())
}
