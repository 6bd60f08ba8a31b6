//! Whether the API can listen, or does already.

use std::{io, net::SocketAddr, time::Duration};

use robata_client::Client;
use tokio::net::TcpListener;

use super::Check;

/// A server on this machine that answers at all does so within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// The check, and whether Robata itself listens there.
pub(super) async fn check(address: SocketAddr) -> (Check, bool) {
    let name = "port";
    match TcpListener::bind(address).await {
        Ok(_) => (Check::ok(name, format!("{address} is free")), false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let health = async { Client::new(&format!("http://{address}"), None)?.health().await };
            match tokio::time::timeout(ANSWERS_WITHIN, health).await {
                Ok(Ok(health)) => (
                    Check::ok(name, format!("Robata {} listens on {address}", health.version)),
                    true,
                ),
                _ => {
                    let check = Check::fail(
                        name,
                        format!("{address} is taken by another program"),
                        "end it (`ss -ltnp` names it), or use --listen 127.0.0.1:PORT",
                    );
                    (check, false)
                }
            }
        }
        Err(error) => {
            let check = Check::fail(
                name,
                format!("cannot listen on {address}: {error}"),
                "use --listen 127.0.0.1:PORT",
            );
            (check, false)
        }
    }
}
