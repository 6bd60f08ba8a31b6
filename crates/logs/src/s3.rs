//! Logs in a bucket of S3, or of anything that speaks its protocol.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use object_store::{
    ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential},
    client::{HttpClient, HttpConnector},
    path::Path,
    prefix::PrefixStore,
};
use robata_core::{Error, ErrorKind, Result};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::{Logs, LogsConfig};

/// A server that does not even take the connection is not worth a whole operation's time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which bucket, where, and by whose keys.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket; it must be there.
    pub bucket: String,
    /// What the names of all objects begin with, as `robata/logs`; empty: the bucket is ours alone.
    pub prefix: String,
    /// The region; `None`: what `AWS_REGION` says, else `us-east-1`.
    pub region: Option<String>,
    /// The server, as `https://minio.example.com:9000`, with the bucket as the first part of its paths; `None`: what
    /// `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` says, else Amazon's.
    pub endpoint: Option<String>,
    /// The access key's id and secret; `None`: what the environment gives (`AWS_ACCESS_KEY_ID`…, a web identity, the role
    /// of the container, of the machine), as Amazon's own tools find it.
    pub keys: Option<(String, String)>,
    /// A file with the certificates, in PEM, by which the server is known; `None`: the system's.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("access_key_id", &self.keys.as_ref().map(|(id, _)| id))
            .field("ca", &self.ca)
            .finish()
    }
}

impl S3Config {
    /// This bucket, as the environment says.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            ..Self::default()
        }
    }
}

impl Logs {
    /// Logs in a bucket. Nothing is asked of the server yet: where it is away, operations fail as `Unavailable`.
    ///
    /// # Errors
    /// `Invalid` where the bucket, the endpoint, the keys or the certificates cannot be used.
    pub fn s3(s3: &S3Config, config: LogsConfig) -> Result<Self> {
        let bucket = &s3.bucket;
        let place = match &s3.endpoint {
            Some(endpoint) => format!("the log bucket {bucket} at {endpoint}"),
            None => format!("the log bucket {bucket}"),
        };
        let invalid = |words: String| Error::new(ErrorKind::Invalid, "logs.open", format!("{place}: {words}"));
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            // An operation is tried for as long as it may take: our own bound ends it.
            .with_retry(RetryConfig {
                retry_timeout: config.operation_timeout,
                ..RetryConfig::default()
            })
            .with_http_connector(Connector(tls(s3).map_err(invalid)?));
        if let Some(region) = &s3.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &s3.endpoint {
            let plain = endpoint.starts_with("http://");
            if !plain && !endpoint.starts_with("https://") {
                return Err(invalid(
                    "the endpoint must be http://HOST:PORT or https://HOST".to_owned(),
                ));
            }
            // The one that would win over the environment's.
            builder = builder
                .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint)
                .with_allow_http(plain);
        }
        if let Some((id, secret)) = &s3.keys {
            // Whole: a session token of the environment belongs to the environment's key.
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
                key_id: id.clone(),
                secret_key: secret.clone(),
                token: None,
            })));
        }
        let prefix = Path::parse(&s3.prefix).map_err(|error| invalid(error.to_string()))?;
        let store = builder.build().map_err(|error| invalid(error.to_string()))?;
        let store: Arc<dyn ObjectStore> = match prefix.as_ref() {
            "" => Arc::new(store),
            _ => Arc::new(PrefixStore::new(store, prefix)),
        };
        Ok(Self::with(store, config, place, None))
    }
}

/// How https is spoken: by rustls, with the library's own cryptography whatever the program around it has set up.
fn tls(s3: &S3Config) -> std::result::Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &s3.ca {
        Some(file) => {
            let unreadable = |error: String| format!("the certificates of {} cannot be read: {error}", file.display());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(error.to_string()))? {
                let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unreadable("there are none in it".to_owned()));
            }
            builder.with_root_certificates(roots)
        }
        None => builder
            .with_platform_verifier()
            .map_err(|error| format!("the system's root certificates cannot be read: {error}"))?,
    };
    Ok(builder.with_no_client_auth())
}

/// The one client of a bucket: bounded connecting; operations are bounded by who asks for them.
#[derive(Debug)]
struct Connector(ClientConfig);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tls_backend_preconfigured(self.0.clone())
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|source| object_store::Error::Generic {
                store: "S3",
                source: source.into(),
            })?;
        Ok(HttpClient::new(client))
    }
}
