//! What operators do: pause queues, lose realms, look at what could not be taken in.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use robata_core::{AttemptId, JobId, Timestamp, store};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// So much of a message that was set aside is shown.
const SHOWN: usize = 4 << 10;

/// A request to pause a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PauseRequest {
    /// Why, for people; at most 1 KiB. Its waiting jobs show it.
    pub reason: String,
}

/// A queue's pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// Why, for people.
    pub reason: String,
    /// Who paused it.
    pub by: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

impl From<store::Pause> for Pause {
    fn from(pause: store::Pause) -> Self {
        Self {
            reason: pause.reason,
            by: pause.by,
            since: pause.since,
        }
    }
}

/// A request to call lost what ran in a realm that is gone for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoseRequest {
    /// The realm, as `GET /workers` and a job's attempts show it.
    pub realm: String,
}

/// What was called lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostList {
    /// The realm.
    pub realm: String,
    /// The attempts, the oldest first. Their jobs go on by the platform's budget.
    pub attempts: Vec<LostAttempt>,
}

/// An attempt that was called lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostAttempt {
    /// Its job.
    #[schema(value_type = String, format = "uuid")]
    pub job: JobId,
    /// Its number.
    pub attempt: u32,
}

impl From<AttemptId> for LostAttempt {
    fn from(id: AttemptId) -> Self {
        Self {
            job: id.job,
            attempt: id.number,
        }
    }
}

/// A page of messages that could not be taken in, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SetAsideList {
    /// The messages.
    pub messages: Vec<SetAside>,
    /// What to give as `before` for the next page; null where there is none.
    pub next_before: Option<u64>,
}

/// A message that could not be taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SetAside {
    /// Its number; grows.
    pub seq: u64,
    /// When it was set aside.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Where it came from: QUEUE/EXECUTOR, or the name of an intake.
    pub source: String,
    /// Why it could not be taken in.
    pub reason: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its body, at most the first 4 KiB of it, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The same, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Whether the body is longer than what is shown.
    pub truncated: bool,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

impl From<store::SetAsideRecord> for SetAside {
    fn from(record: store::SetAsideRecord) -> Self {
        let store::SetAside {
            source,
            reason,
            body: bytes,
            attributes,
        } = record.message;
        let (body, body_base64) = match std::str::from_utf8(&bytes) {
            Ok(text) => (Some(text[..text.floor_char_boundary(SHOWN)].to_owned()), None),
            Err(_) => (None, Some(STANDARD.encode(&bytes[..bytes.len().min(SHOWN)]))),
        };
        Self {
            seq: record.seq,
            at: record.at,
            source,
            reason,
            bytes: bytes.len() as u64,
            truncated: bytes.len() > SHOWN,
            body,
            body_base64,
            attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(body: Vec<u8>) -> SetAside {
        SetAside::from(store::SetAsideRecord {
            seq: 1,
            at: Timestamp::default(),
            message: store::SetAside {
                source: "shop/docker".into(),
                reason: "odd".into(),
                body: body.into(),
                attributes: BTreeMap::new(),
            },
        })
    }

    #[test]
    fn a_body_is_shown_as_text_where_it_is_text_and_cut_between_characters() {
        let short = shown(b"{}".to_vec());
        assert_eq!((short.body.as_deref(), short.truncated), (Some("{}"), false));
        let long = shown("é".repeat(5000).into_bytes());
        assert_eq!(
            (long.body.unwrap().len(), long.bytes, long.truncated),
            (4096, 10_000, true)
        );
        let odd = shown("aé".repeat(5000).into_bytes());
        assert_eq!(odd.body.unwrap().len(), 4096);
        let bytes = shown(vec![0xff; 5000]);
        assert_eq!((bytes.body, bytes.truncated), (None, true));
        assert_eq!(STANDARD.decode(bytes.body_base64.unwrap()).unwrap(), vec![0xff; 4096]);
    }
}
