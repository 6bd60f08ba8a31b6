//! Ids: what is called what, for ever.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Timestamp,
    error::{Error, ErrorKind},
};

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id that carries the present time (UUIDv7), growing within one process.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default is a value, this is a new one each time")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id as a UUID.
            #[must_use]
            pub fn uuid(&self) -> Uuid {
                self.0
            }

            /// The id of these 16 bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes of the id, in an order that sorts by time.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                // Only the one spelling that we print: lower case with hyphens.
                match Uuid::try_parse(text) {
                    Ok(uuid) if uuid.hyphenated().to_string() == text => Ok(Self(uuid)),
                    _ => Err(Error::new(
                        ErrorKind::Invalid,
                        "id.parse",
                        format!(concat!("{:?} is no ", $what, " (a UUID in lower case with hyphens)"), text),
                    )),
                }
            }
        }
    };
}

uuid_id!(
    /// A job's id: a UUIDv7.
    JobId, "job id"
);
uuid_id!(
    /// An installation's id, made once in its store; it is on everything that the installation makes.
    InstallationId, "installation id"
);
uuid_id!(
    /// A worker's run: it registers as a new incarnation each time, and after each lost lease (PROTOCOL H1).
    IncarnationId, "incarnation id"
);
uuid_id!(
    /// A claim's number: a claim whose answer was lost is fetched by it (PROTOCOL H3). It is also the random mark that
    /// the engine's thing carries (PROTOCOL X1).
    ClaimId, "claim id"
);

impl JobId {
    /// The time that the id carries.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        let bytes = self.as_bytes();
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&bytes[..6]);
        Timestamp::from_millis(i64::from_be_bytes(millis))
    }
}

/// One try at a job, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job.
    pub job: JobId,
    /// The attempt's number, from 1.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.number)
    }
}

impl FromStr for AttemptId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::new(
                ErrorKind::Invalid,
                "id.parse",
                format!("{text:?} is no attempt (JOB/NUMBER)"),
            )
        };
        let (job, number) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            job: job.parse()?,
            number: number.parse().map_err(|_| wrong())?,
        })
    }
}

/// A number of each attempt, raised at every take-over; every write about the attempt carries it (PROTOCOL H1).
pub type Epoch = u32;
