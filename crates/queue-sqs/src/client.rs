//! The SDK's client, made at first use: only then are credentials and the region looked for.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_sqs::{
    Client,
    config::{Credentials, StalledStreamProtectionConfig},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::sync::OnceCell;

use crate::{SqsConfig, error::Fault};

/// At most so long may a receive wait at the service
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html>).
pub(crate) const LONGEST_POLL: Duration = Duration::from_secs(20);
/// Where nothing names a region.
const REGION: &str = "us-east-1";
/// How often one call is tried in all, for as long as its time allows.
const TRIES: u32 = 4;

/// Two clients over the same connections.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// For all that is answered at once.
    pub(crate) prompt: Client,
    /// For receiving, which may wait.
    pub(crate) patient: Client,
    /// The region that is asked.
    pub(crate) region: String,
}

/// Where the clients will be.
#[derive(Debug)]
pub(crate) struct Link {
    http: aws_sdk_sqs::config::SharedHttpClient,
    clients: OnceCell<Clients>,
}

impl Link {
    pub(crate) fn new(config: &SqsConfig) -> Result<Self, Fault> {
        Ok(Self {
            http: http(config)?,
            clients: OnceCell::new(),
        })
    }

    pub(crate) async fn get(&self, config: &SqsConfig) -> &Clients {
        self.clients.get_or_init(|| self.make(config)).await
    }

    async fn make(&self, config: &SqsConfig) -> Clients {
        let timeouts = |wait: Duration| {
            TimeoutConfig::builder()
                .connect_timeout(config.connect_timeout)
                .operation_attempt_timeout(wait + config.response_timeout)
                .operation_timeout(wait + config.operation_timeout)
                .build()
        };
        let retries = RetryConfig::standard()
            .with_max_attempts(TRIES)
            .with_initial_backoff(Duration::from_millis(100))
            .with_max_backoff(Duration::from_secs(2));
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http.clone())
            .retry_config(retries)
            .timeout_config(timeouts(Duration::ZERO))
            // Our own bounds end what hangs.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(region) = &config.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some((id, secret)) = &config.keys {
            // Whole: a session token of the environment belongs to the environment's key.
            loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "settings"));
        }
        let found = loader.load().await;
        let region = found.region().cloned().unwrap_or(Region::from_static(REGION));
        let client = |wait| {
            let mut builder = aws_sdk_sqs::config::Builder::from(&found)
                .region(region.clone())
                .timeout_config(timeouts(wait));
            if let Some(endpoint) = &config.endpoint {
                // Set last: it wins over the environment's.
                builder = builder.endpoint_url(endpoint);
            }
            Client::from_conf(builder.build())
        };
        Clients {
            prompt: client(Duration::ZERO),
            patient: client(LONGEST_POLL),
            region: region.to_string(),
        }
    }
}

/// HTTP over TLS by rustls, with ring whatever the program around it has set up.
fn http(config: &SqsConfig) -> Result<aws_sdk_sqs::config::SharedHttpClient, Fault> {
    let mut trust = TrustStore::default();
    if let Some(pem) = &config.ca_pem {
        readable(pem)?;
        trust = TrustStore::empty().with_pem_certificate(pem.clone());
    }
    let context = TlsContext::builder().with_trust_store(trust).build();
    let context = context.map_err(|error| Fault::Config(format!("TLS cannot be used: {error}")))?;
    Ok(Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https())
}

/// The SDK panics over certificates that it cannot read: they are read before.
fn readable(pem: &[u8]) -> Result<(), Fault> {
    let unreadable = |error: String| Fault::Config(format!("the certificates to trust cannot be read: {error}"));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("there are none in it".to_owned()));
    }
    Ok(())
}
