//! What a broker says of itself before anybody logs in: asked on a connection of its own, for the library keeps it to
//! itself. It shows, too, that somebody answers there at all: the library waits for that without an end.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use lapin::{
    tcp::{AMQPUriTcpExt, OwnedTLSConfig},
    uri::AMQPUri,
};

use crate::error::Fault;

/// How AMQP 0-9-1 begins.
const HELLO: &[u8] = b"AMQP\0\0\x09\x01";
/// A broker's properties take some hundred bytes.
const LONGEST: usize = 64 * 1024;
/// The property that tells the version, with the sign of a long string.
const VERSION: &[u8] = b"\x07versionS";
/// Before it there are no streams that every node has.
const OLDEST: (u32, u32) = (3, 10);

/// A broker's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// In its own words, as `3.10.8`; empty where it does not tell.
    pub(crate) text: String,
}

impl Version {
    fn numbers(&self) -> Option<(u32, u32)> {
        let mut parts = self.text.split('.').map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??))
    }

    /// Whether its queues limit deliveries unless they are told not to, by a limit of -1. RabbitMQ 3 does not, and takes
    /// -1 for a limit that the first redelivery exceeds: it throws the message away.
    pub(crate) fn limits_deliveries(&self) -> bool {
        self.numbers().is_some_and(|(major, _)| major >= 4)
    }
}

/// Asks the broker at this address.
pub(crate) async fn greet(uri: &AMQPUri, tls: &OwnedTLSConfig, within: Duration) -> Result<Version, Fault> {
    let asking = async {
        let runtime = lapin::runtime::default_runtime()?;
        let broken = |error: std::io::Error| Fault::Rabbit(error.into());
        let connecting = uri.connect_with_config_async(tls.as_ref(), &runtime);
        let mut stream = connecting.await.map_err(broken)?;
        stream.write_all(HELLO).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let mut head = [0; 7];
        stream.read_exact(&mut head).await.map_err(broken)?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        // A method's frame, on the channel of the connection itself.
        if head[..3] != [1, 0, 0] || size > LONGEST {
            return Err(Fault::OtherProtocol);
        }
        let mut start = vec![0; size];
        stream.read_exact(&mut start).await.map_err(broken)?;
        Ok(Version { text: version(&start) })
    };
    let version = match tokio::time::timeout(within, asking).await {
        Ok(version) => version?,
        Err(_) => return Err(Fault::Silent(within)),
    };
    if version.numbers().is_some_and(|numbers| numbers < OLDEST) {
        return Err(Fault::TooOld { version: version.text });
    }
    Ok(version)
}

/// The version in a frame `connection.start`.
fn version(start: &[u8]) -> String {
    let read = || {
        let at = start.windows(VERSION.len()).position(|window| window == VERSION)?;
        let (size, text) = start[at + VERSION.len()..].split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_be_bytes(*size)).ok()?;
        String::from_utf8(text.get(..size)?.to_vec()).ok()
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_where_there_is_one() {
        assert_eq!(version(b"..\x07versionS\0\0\0\x063.10.8\x08platform"), "3.10.8");
        for broken in [
            &b""[..],
            b"\x07versionS",
            b"\x07versionS\0\0\0\x09short",
            b"\x07versionS\0\0\0\x01\xff",
        ] {
            assert_eq!(version(broken), "");
        }
    }

    #[test]
    fn only_a_broker_that_limits_deliveries_is_told_not_to() {
        for (text, limits) in [
            ("3.10.8", false),
            ("3.13.7", false),
            ("4.0.0", true),
            ("4.1.0-rc.1", true),
            ("", false),
        ] {
            let text = text.to_owned();
            assert_eq!(Version { text: text.clone() }.limits_deliveries(), limits, "{text}");
        }
    }
}
