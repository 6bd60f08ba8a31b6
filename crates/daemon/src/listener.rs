//! Listening: a port, with TLS or without, or a Unix socket.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use robata_settings::{Listen, Settings};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::either::Either;

use crate::{fault::Coded, tls::Tls};

/// Who reaches a socket acts as admin: its user and group.
const SOCKET_MODE: u32 = 0o660;

/// A listener that was taken.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: Socket,
    /// How its connections begin, where it is a port with TLS.
    pub(crate) tls: Option<Tls>,
}

#[derive(Debug)]
pub(crate) enum Socket {
    /// A port.
    Tcp(TcpListener),
    /// A Unix socket; its file is removed in the end.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Where it listens, as a client names it: `http://127.0.0.1:7070`, `https://…`, `unix:/PATH`.
    pub fn url(&self) -> io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(match &self.socket {
            Socket::Tcp(listener) => format!("{scheme}://{}", listener.local_addr()?),
            Socket::Unix(_, path) => format!("unix:{}", path.display()),
        })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A log that is followed comes in small pieces, none of which is to wait for the next. One that cannot
                // be told so is gone already.
                let _ = stream.set_nodelay(true);
                Ok(Either::Left(stream))
            }
            Socket::Unix(listener, _) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

/// A client's.
pub(crate) type Connection = Either<TcpStream, tokio::net::UnixStream>;

/// Takes the place, with the settings' TLS and by their token, or says what to do.
pub async fn bind(listen: &Listen, settings: &Settings) -> anyhow::Result<Listener> {
    let refused = |message: String| Coded {
        code: "listen",
        message,
    };
    if let Some(why) = listen.refused(settings.auth.admin_token.is_some()) {
        return Err(refused(why).into());
    }
    let (socket, tls) = match listen {
        Listen::Tcp(address) => {
            let socket = TcpListener::bind(address).await.map_err(|error| {
                refused(if error.kind() == ErrorKind::AddrInUse {
                    format!(
                        "{address} is taken by another program (another Robata?); end it, or use --listen 127.0.0.1:PORT (port 0: any free one)"
                    )
                } else {
                    format!("cannot listen on {address}: {error}; use --listen 127.0.0.1:PORT")
                })
            })?;
            (Socket::Tcp(socket), settings.server.tls.as_ref())
        }
        Listen::Unix(path) => {
            let socket =
                socket(path).map_err(|error| refused(format!("cannot listen on unix:{}: {error}", path.display())))?;
            (Socket::Unix(socket, path.clone()), None)
        }
        Listen::Off => return Err(refused("it is told to listen nowhere (off)".to_owned()).into()),
    };
    let tls = tls
        .map(Tls::open)
        .transpose()
        .map_err(|error| refused(format!("{error:#}")))?;
    if tls.is_none() && listen.is_reached_by_others() {
        tracing::warn!(
            %listen,
            "requests and tokens come in the clear: set [server.tls], or let a proxy speak TLS before it"
        );
    }
    Ok(Listener { socket, tls })
}

fn socket(path: &Path) -> io::Result<UnixListener> {
    if let Ok(there) = fs::symlink_metadata(path) {
        // A connection to a file of another kind is refused as well: it is not ours to remove.
        if !there.file_type().is_socket() {
            return Err(io::Error::new(
                ErrorKind::AlreadyExists,
                "a file that is no socket is there",
            ));
        }
        // One that nobody listens on was left by a program that was killed.
        match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::new(ErrorKind::AddrInUse, "another program listens there")),
            Err(error) => return Err(error),
        }
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_by_a_killed_program_is_taken_over_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listen = Listen::Unix(path.clone());
        let listener = bind(&listen, &Settings::default()).await.unwrap();
        assert_eq!(listener.url().unwrap(), format!("unix:{}", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let error = bind(&listen, &Settings::default()).await.unwrap_err().to_string();
        assert!(error.contains("another program listens there"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(bind(&Listen::Unix(path.clone()), &Settings::default()).await.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test]
    async fn an_address_that_others_reach_is_refused_without_a_token() {
        let listen = "0.0.0.0:0".parse().unwrap();
        let error = bind(&listen, &Settings::default()).await.unwrap_err().to_string();
        assert!(error.contains("[auth] admin_token"), "{error}");
    }
}
