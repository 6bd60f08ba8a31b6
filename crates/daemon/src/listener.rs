//! Listening: a port of the loopback address, or a Unix socket.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use robata_settings::Listen;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::either::Either;

use crate::fault::Coded;

/// Who reaches a socket acts as admin: its user and group.
const SOCKET_MODE: u32 = 0o660;

/// A listener that was taken.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A Unix socket; its file is removed in the end.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Where it listens, as a client names it: `http://127.0.0.1:7070`, `unix:/PATH`.
    pub fn url(&self) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => format!("http://{}", listener.local_addr()?),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A log that is followed comes in small pieces, none of which is to wait for the next. One that cannot
                // be told so is gone already.
                let _ = stream.set_nodelay(true);
                Ok(Either::Left(stream))
            }
            Self::Unix(listener, _) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

/// A client's.
pub(crate) type Connection = Either<TcpStream, tokio::net::UnixStream>;

/// Takes the place, or says what to do.
pub async fn bind(listen: &Listen) -> anyhow::Result<Listener> {
    let refused = |message: String| Coded {
        code: "listen",
        message,
    };
    if let Some(why) = listen.refused() {
        return Err(refused(why).into());
    }
    match listen {
        Listen::Tcp(address) => match TcpListener::bind(address).await {
            Ok(listener) => Ok(Listener::Tcp(listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(refused(format!(
                "{address} is taken by another program (another Robata?); end it, or use --listen 127.0.0.1:PORT (port 0: any free one)"
            ))
            .into()),
            Err(error) => Err(refused(format!(
                "cannot listen on {address}: {error}; use --listen 127.0.0.1:PORT"
            ))
            .into()),
        },
        Listen::Unix(path) => match socket(path) {
            Ok(listener) => Ok(Listener::Unix(listener, path.clone())),
            Err(error) => Err(refused(format!("cannot listen on unix:{}: {error}", path.display())).into()),
        },
        Listen::Off => Err(refused("it is told to listen nowhere (off)".to_owned()).into()),
    }
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
        let listener = bind(&listen).await.unwrap();
        assert_eq!(listener.url().unwrap(), format!("unix:{}", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let error = bind(&listen).await.unwrap_err().to_string();
        assert!(error.contains("another program listens there"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(bind(&Listen::Unix(path.clone())).await.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test]
    async fn an_address_that_others_reach_is_refused() {
        let error = bind(&"0.0.0.0:0".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("no tokens yet"), "{error}");
    }
}
