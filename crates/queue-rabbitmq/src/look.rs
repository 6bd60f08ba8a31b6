//! How much waits in lines, asked of all of them at once; lines that are missing are made.

use std::{collections::HashMap, sync::Arc};

use futures::future::join_all;
use lapin::{Channel, options::QueueDeclareOptions, types::FieldTable};
use robata_core::job::Line;

use crate::{
    connect::Live,
    error::{At, Fault},
    lines,
    shared::Shared,
};

/// How often lines may be deleted under our eyes until that is an error.
const TRIES: usize = 3;

/// How much waits in each, and the channel that was asked.
pub(crate) async fn look(
    shared: &Arc<Shared>,
    live: &Arc<Live>,
    wanted: &[Line],
) -> Result<(Channel, HashMap<Line, usize>), At> {
    let mut tries = 0;
    loop {
        for line in wanted {
            let ensured = lines::ensure(shared, live, line).await;
            ensured.map_err(|fault| At::line(line, fault))?;
        }
        let channel = live.channel().await?;
        let options = QueueDeclareOptions::durable().passive();
        let asking = join_all(wanted.iter().map(async |line| {
            let name = shared.names.line(line);
            channel.queue_declare(name.into(), options, FieldTable::default()).await
        }));
        let answers = live.within(async { Ok(asking.await) }).await?;
        let mut counts = HashMap::with_capacity(wanted.len());
        let mut failed = None;
        for (line, answer) in wanted.iter().zip(answers) {
            match answer {
                Ok(queue) => {
                    let waiting = usize::try_from(queue.message_count()).unwrap_or(usize::MAX);
                    counts.insert(line.clone(), waiting);
                }
                // The first is the one that was refused, and the channel's end for those after it.
                Err(error) => {
                    failed.get_or_insert(At::line(line, Fault::from(error)));
                }
            }
        }
        tries += 1;
        match failed {
            None => return Ok((channel, counts)),
            // One that is missing ends the channel for the others, too: all are looked for anew.
            Some(at) if at.fault.is_missing() && tries < TRIES => {
                for line in wanted {
                    live.forget(line);
                }
            }
            Some(at) => return Err(at),
        }
    }
}
