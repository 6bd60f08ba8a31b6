//! TLS of a daemon's ports: a certificate and its key from files, read again when they change, so that whoever renews them
//! need not tell us.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, bail};
use robata_settings::TlsSettings;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// The files are looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// How connections of a port begin.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    /// Looks for new files as long as there is a port.
    _watch: Arc<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// With the files as they are; what is wrong with them is told by their names.
    pub(crate) fn open(settings: &TlsSettings) -> anyhow::Result<Self> {
        Self::looking_every(LOOK, settings)
    }

    fn looking_every(every: Duration, settings: &TlsSettings) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let taken = stamps(settings);
        let current = Arc::new(Current(RwLock::new(Arc::new(read(settings, &provider)?))));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("TLS 1.2 and 1.3 are not there")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let watch = tokio::spawn(watch(every, settings.clone(), provider, current, taken));
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            _watch: Arc::new(AbortOnDropHandle::new(watch)),
        })
    }
}

/// The certificate of connections that begin now.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What changes when a file does, be it written anew, replaced, or a link turned; `None` where one is missing.
type Stamps = Option<[(u64, u64, i64, i64); 2]>;

fn stamps(settings: &TlsSettings) -> Stamps {
    let of = |file: Metadata| (file.ino(), file.size(), file.mtime(), file.mtime_nsec());
    let stamp = |path: &Path| std::fs::metadata(path).ok().map(of);
    Some([stamp(&settings.certificate)?, stamp(&settings.key)?])
}

/// Takes new files once both fit; what serves goes on serving until then.
async fn watch(
    every: Duration,
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    mut taken: Stamps,
) {
    let mut told = taken;
    loop {
        sleep(every).await;
        let now = stamps(&settings);
        if now == taken {
            continue;
        }
        match read(&settings, &provider) {
            Ok(new) => {
                *current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                taken = now;
                tracing::info!(certificate = %settings.certificate.display(), "a new certificate is in use");
            }
            // One file may have been written already and the other not yet: it is tried again.
            Err(error) if now != told => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "a new certificate cannot be used; the old one stays"
                );
            }
            Err(_) => {}
        }
        told = now;
    }
}

fn read(settings: &TlsSettings, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let text = |what: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("[server.tls] {what}: cannot read {}", path.display()))
    };
    let certificate = text("certificate", &settings.certificate)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<_, _>>()
        .with_context(|| format!("[server.tls] certificate: {} is no PEM", settings.certificate.display()))?;
    if chain.is_empty() {
        bail!(
            "[server.tls] certificate: there is no certificate in {}",
            settings.certificate.display()
        );
    }
    let key = PrivateKeyDer::from_pem_slice(&text("key", &settings.key)?).with_context(|| {
        format!(
            "[server.tls] key: there is no private key in PEM in {}",
            settings.key.display()
        )
    })?;
    CertifiedKey::from_der(chain, key, provider).with_context(|| {
        let (certificate, key) = (settings.certificate.display(), settings.key.display());
        format!("[server.tls]: the certificate of {certificate} and the key of {key} cannot be used together")
    })
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
