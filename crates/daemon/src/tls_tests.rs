//! TLS over real sockets, with certificates that change.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use robata_settings::{Listen, Settings, TlsSettings};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::listener::bind;

const DEADLINE: Duration = Duration::from_secs(30);

/// A certificate for `localhost` that is its own root, and its key, both in PEM.
struct Own {
    certificate: String,
    key: String,
}

impl Own {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn write(&self, settings: &TlsSettings) {
        std::fs::write(&settings.certificate, &self.certificate).unwrap();
        std::fs::write(&settings.key, &self.key).unwrap();
    }

    /// A client that knows this root alone.
    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    /// Whether the server shows this certificate.
    async fn is_shown_at(&self, address: SocketAddr) -> bool {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connected = timeout(DEADLINE, self.connector().connect(name, stream)).await.unwrap();
        connected.is_ok()
    }
}

fn files(folder: &TempDir) -> TlsSettings {
    TlsSettings {
        certificate: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
    }
}

async fn server(tls: &TlsSettings, every: Duration) -> (SocketAddr, CancellationToken) {
    let mut listener = bind(&"127.0.0.1:0".parse().unwrap(), &Settings::default())
        .await
        .unwrap();
    listener.tls = Some(Tls::looking_every(every, tls).unwrap());
    let address = listener.url().unwrap()["https://".len()..].parse().unwrap();
    let router = Router::new().route("/", get(async || "hello"));
    let stop = CancellationToken::new();
    tokio::spawn(listener.serve(router, stop.clone()));
    (address, stop)
}

#[tokio::test]
async fn a_port_with_a_certificate_speaks_tls_and_nothing_else() {
    let (folder, own) = (tempfile::tempdir().unwrap(), Own::new());
    own.write(&files(&folder));
    let (address, _stop) = server(&files(&folder), LOOK).await;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = own.connector().connect(name, stream).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // Its end may come as an alert, or as a reset.
    let _ = timeout(DEADLINE, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_new_certificate_is_taken_once_both_files_fit() {
    let (folder, old, new) = (tempfile::tempdir().unwrap(), Own::new(), Own::new());
    let tls = files(&folder);
    old.write(&tls);
    let (address, _stop) = server(&tls, Duration::from_millis(20)).await;
    assert!(old.is_shown_at(address).await);
    // Half of it: the old one goes on.
    std::fs::write(&tls.certificate, &new.certificate).unwrap();
    for _ in 0..5 {
        assert!(old.is_shown_at(address).await);
    }
    std::fs::write(&tls.key, &new.key).unwrap();
    let until = Instant::now() + DEADLINE;
    while !new.is_shown_at(address).await {
        assert!(Instant::now() < until, "the new certificate was never taken");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let tls = files(&folder);
    let told = |tls: &TlsSettings| format!("{:#}", Tls::open(tls).unwrap_err());
    assert!(told(&tls).contains("certificate: cannot read"), "{}", told(&tls));
    Own::new().write(&tls);
    std::fs::write(&tls.key, "").unwrap();
    assert!(told(&tls).contains("no private key"), "{}", told(&tls));
    std::fs::write(&tls.key, Own::new().key).unwrap();
    assert!(told(&tls).contains("cannot be used together"), "{}", told(&tls));
    std::fs::write(&tls.certificate, "text").unwrap();
    assert!(told(&tls).contains("no certificate"), "{}", told(&tls));
    let settings = Settings {
        server: robata_settings::ServerSettings {
            tls: Some(tls),
            ..Default::default()
        },
        ..Settings::default()
    };
    let listen: Listen = "127.0.0.1:0".parse().unwrap();
    let error = bind(&listen, &settings).await.unwrap_err();
    assert!(format!("{error:#}").contains("[server.tls]"), "{error:#}");
}
