//! The seam to where secrets live: definitions name them, and their values are had only where an attempt starts.
//!
//! A value stands in no store and no answer: [`Secret`] cannot be serialised, is masked where it is printed for debugging,
//! and its memory is overwritten when it is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::{
    error::{Error, ErrorKind, Result},
    name::{AppName, SecretName},
};

/// A value has at most so many bytes: it is to fit into an environment.
pub const MAX_SECRET_BYTES: usize = 32 << 10;
/// A definition names at most so many secrets.
pub const MAX_SECRETS: usize = 64;

/// A secret's value: text without NUL, of at most [`MAX_SECRET_BYTES`], as an environment can hold it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The value that these bytes are, less one newline at their end.
    ///
    /// # Errors
    /// `Invalid`, without the value, where no environment could hold it.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let mut bytes = Zeroizing::new(bytes);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        let wrong = |words: &str| Err(Error::new(ErrorKind::Invalid, "secret.read", words));
        if bytes.len() > MAX_SECRET_BYTES {
            return wrong("it has more than 32 KiB");
        }
        if bytes.contains(&0) {
            return wrong("it has a NUL byte, which no environment can hold");
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Self(Zeroizing::new(text.to_owned()))),
            // The error itself tells positions only, but says nothing that helps either.
            Err(_) => wrong("it is no UTF-8"),
        }
    }

    /// The value. Whoever takes it out hands it to the job, or masks it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where an executor's secrets live.
///
/// # Contract
/// - `resolve` MUST answer every name with the value as it is now, or fail.
/// - A secret that is not there MUST be `NotFound`, one that no environment can hold `Invalid`, both with words that name it
///   and where it was looked for; a source that cannot be asked now MUST be `Unavailable`.
/// - No error may hold a value. It MUST end in bounded time.
#[async_trait]
pub trait Secrets: fmt::Debug + Send + Sync + 'static {
    /// The values of these secrets of an app.
    async fn resolve(&self, app: &AppName, names: &BTreeSet<SecretName>) -> Result<BTreeMap<SecretName, Secret>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_its_bytes_less_one_newline() {
        for (bytes, value) in [
            ("a\n", "a"),
            ("a\n\n", "a\n"),
            (" a ", " a "),
            ("a\r\n", "a\r"),
            ("", ""),
            ("\n", ""),
        ] {
            assert_eq!(Secret::from_bytes(bytes.into()).unwrap().expose(), value);
        }
    }

    #[test]
    fn what_no_environment_can_hold_is_refused_without_its_value() {
        let long = vec![b'x'; MAX_SECRET_BYTES + 1];
        for bytes in [
            b"hunter2\0".to_vec(),
            b"hunter2\xff".to_vec(),
            [b"hunter2", long.as_slice()].concat(),
        ] {
            let error = Secret::from_bytes(bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn no_debug_output_shows_a_value() {
        let secret = Secret::from_bytes(b"hunter2".to_vec()).unwrap();
        let spec = crate::executor::Spec {
            secret_env: BTreeMap::from([("PASSWORD".to_owned(), secret)]),
            ..Default::default()
        };
        let text = format!("{spec:?}");
        assert!(
            text.contains("PASSWORD") && text.contains("***") && !text.contains("hunter2"),
            "{text}"
        );
    }
}
