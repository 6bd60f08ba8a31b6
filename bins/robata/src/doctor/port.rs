//! Whether the API can listen, or does already.

use std::{io, net::SocketAddr, time::Duration};

use robata_client::Client;
use robata_settings::Listen;
use tokio::net::TcpListener;

use super::Check;

/// A server on this machine that answers at all does so within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const NAME: &str = "port";

/// The check, and whether Robata itself listens there.
pub(super) async fn check(listen: &Listen) -> (Check, bool) {
    match listen {
        Listen::Tcp(address) => port(*address).await,
        // What listens there is seen when a socket is taken; a file left behind is no mistake.
        Listen::Unix(path) if path.parent().is_some_and(std::path::Path::is_dir) => {
            (Check::ok(NAME, format!("{listen} is a socket")), false)
        }
        Listen::Unix(path) => {
            let check = Check::fail(
                NAME,
                format!("the folder of {} is not there", path.display()),
                "make it, for this user alone",
            );
            (check, false)
        }
        Listen::Off => (Check::ok(NAME, "it listens nowhere"), false),
    }
}

async fn port(address: SocketAddr) -> (Check, bool) {
    match TcpListener::bind(address).await {
        Ok(_) => (Check::ok(NAME, format!("{address} is free")), false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let health = async { Client::new(&format!("http://{address}"), None)?.health().await };
            match tokio::time::timeout(ANSWERS_WITHIN, health).await {
                Ok(Ok(health)) => (
                    Check::ok(NAME, format!("Robata {} listens on {address}", health.version)),
                    true,
                ),
                _ => {
                    let check = Check::fail(
                        NAME,
                        format!("{address} is taken by another program"),
                        "end it (`ss -ltnp` names it), or use --listen 127.0.0.1:PORT",
                    );
                    (check, false)
                }
            }
        }
        Err(error) => {
            let check = Check::fail(
                NAME,
                format!("cannot listen on {address}: {error}"),
                "use --listen 127.0.0.1:PORT",
            );
            (check, false)
        }
    }
}
