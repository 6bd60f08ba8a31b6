//! What can be chosen about an SQS queue.

use std::{fmt, time::Duration};

/// The largest message that SQS takes, with its attributes, and the largest batch: 1 MiB
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>).
pub(crate) const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Of a message so much is kept free for attributes, whatever its body.
pub(crate) const ROOM_FOR_ATTRIBUTES: usize = 10 * 1024;

/// The options of an [`SqsQueue`](crate::SqsQueue).
#[derive(Clone)]
pub struct SqsConfig {
    /// The region, as `eu-central-1`; `None`: what the SDK finds (`AWS_REGION`, the profile, the machine's), else
    /// `us-east-1`. Default: `None`.
    pub region: Option<String>,
    /// The address of the service, as `https://sqs.example.com`; `None`: what `AWS_ENDPOINT_URL_SQS` or
    /// `AWS_ENDPOINT_URL` says, else Amazon's for the region. Default: `None`.
    pub endpoint: Option<String>,
    /// The access key's id and secret; `None`: what the SDK's chain finds (`AWS_ACCESS_KEY_ID`…, the profile, a web
    /// identity, the role of the container, of the machine). Default: `None`.
    pub keys: Option<(String, String)>,
    /// Certificates (PEM) to trust in place of the system's. Default: `None`.
    pub ca_pem: Option<Vec<u8>>,
    /// Whose lines these are: it stands in every queue's name, as `robata-INSTALLATION-…`. At most 48 letters, digits, `_`
    /// and `-`. Default: `default`.
    pub installation: String,
    /// Whether queues that are missing are made; else they are only looked up, and a missing one is an error that names it.
    /// Default: `true`.
    pub create: bool,
    /// So long nobody else gets a message that was received here and then forgotten, as by a crash; what is held longer is
    /// kept by asking for more in time. Whole seconds from 2 up to 12 h. Default: 30 s.
    pub visibility: Duration,
    /// At most so long for a connection. Default: 3 s.
    pub connect_timeout: Duration,
    /// At most so long for an answer, beyond the time that a receive was told to wait. Default: 5 s.
    pub response_timeout: Duration,
    /// At most so long for an answer with all that is tried again (throttling, faults of the service, broken connections).
    /// Default: 12 s.
    pub operation_timeout: Duration,
    /// The largest message, with its attributes, and the largest batch, in bytes: less than 1 MiB only for what stands in
    /// for SQS and takes less. A line whose queue has a smaller `MaximumMessageSize` takes no more than that in either. Default: 1 MiB.
    pub max_message_bytes: usize,
}

impl Default for SqsConfig {
    fn default() -> Self {
        Self {
            region: None,
            endpoint: None,
            keys: None,
            ca_pem: None,
            installation: "default".to_owned(),
            create: true,
            visibility: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(12),
            max_message_bytes: MAX_MESSAGE_BYTES,
        }
    }
}

impl SqsConfig {
    /// The defaults for this installation.
    #[must_use]
    pub fn new(installation: impl Into<String>) -> Self {
        Self {
            installation: installation.into(),
            ..Self::default()
        }
    }

    /// The largest body that fits whatever its bytes are: what is no text takes a third more.
    pub(crate) fn max_body_bytes(&self) -> usize {
        self.max_message_bytes.saturating_sub(ROOM_FOR_ATTRIBUTES) / 4 * 3
    }
}

impl fmt::Debug for SqsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsConfig")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("access_key_id", &self.keys.as_ref().map(|(id, _)| id))
            .field("ca_pem", &self.ca_pem.as_ref().map(Vec::len))
            .field("installation", &self.installation)
            .field("create", &self.create)
            .field("visibility", &self.visibility)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let mut config = SqsConfig::new("x");
        config.keys = Some(("AKIDEXAMPLE".to_owned(), "very secret".to_owned()));
        let shown = format!("{config:?}");
        assert!(
            shown.contains("AKIDEXAMPLE") && !shown.contains("very secret"),
            "{shown}"
        );
    }

    #[test]
    fn the_largest_body_fits_as_text_of_bytes_with_room_for_attributes() {
        let config = SqsConfig::default();
        let as_text = config.max_body_bytes().div_ceil(3) * 4;
        assert!(as_text + ROOM_FOR_ATTRIBUTES <= MAX_MESSAGE_BYTES, "{as_text}");
        assert!(config.max_body_bytes() > 740 * 1024, "{}", config.max_body_bytes());
    }
}
