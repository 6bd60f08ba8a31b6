//! Messages as SQS carries them, and back: also those that somebody else sent. SQS takes text, and at most ten attributes:
//! what is no text goes as base64, and all that stands beside the body goes into one attribute of ours.

use std::collections::BTreeMap;

use aws_sdk_sqs::{
    error::BuildError,
    types::{Message as Received, MessageAttributeValue, SendMessageBatchRequestEntry},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use robata_core::queue::Message;
use serde::{Deserialize, Serialize};

/// The attribute that tells what a body and its attributes were; a message of text without attributes has none.
const MARK: &str = "robata";
const TEXT: &str = "String";
/// What stands before an attribute's name that is not ours, in the attributes of what is delivered.
const FOREIGN: &str = "foreign:";
/// A body must not be empty.
const NOTHING: &str = "-";

#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Form>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

/// What the text of a body stands for, where it does not stand for itself.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    Base64,
    Empty,
}

/// A message as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wire {
    body: String,
    mark: Option<String>,
}

impl Wire {
    pub(crate) fn new(message: &Message) -> Self {
        let (body, form) = match std::str::from_utf8(&message.body) {
            Ok("") => (NOTHING.to_owned(), Some(Form::Empty)),
            Ok(text) if text.chars().all(may_be_sent) => (text.to_owned(), None),
            _ => (STANDARD.encode(&message.body), Some(Form::Base64)),
        };
        let mark = Mark {
            body: form,
            attributes: message.attributes.clone(),
        };
        let mark = (mark != Mark::default()).then(|| mark.to_text());
        Self { body, mark }
    }

    /// As SQS counts it: the body, and of an attribute name, type and value.
    pub(crate) fn bytes(&self) -> usize {
        let mark = self.mark.as_ref();
        self.body.len() + mark.map_or(0, |mark| MARK.len() + TEXT.len() + mark.len())
    }

    /// As an entry of a batch.
    pub(crate) fn entry(&self, id: usize) -> Result<SendMessageBatchRequestEntry, BuildError> {
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id(id.to_string())
            .message_body(&self.body);
        if let Some(mark) = &self.mark {
            let value = MessageAttributeValue::builder().data_type(TEXT).string_value(mark);
            entry = entry.message_attributes(MARK, value.build()?);
        }
        entry.build()
    }
}

impl Mark {
    fn to_text(&self) -> String {
        // Maps of text to text are always written.
        let text = serde_json::to_string(self).unwrap_or_default();
        // JSON escapes control characters; these two, which SQS does not take either, it leaves.
        text.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
    }
}

/// `#x9 | #xA | #xD | #x20…#xD7FF | #xE000…#xFFFD | #x10000…#x10FFFF`
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
fn may_be_sent(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..)
}

/// A message as it is delivered. What is not marked by us, or marked wrongly, is delivered as it is, with what stands beside
/// it as `foreign:NAME`: whoever knows what it is for can put it aside.
pub(crate) fn message(received: &Received) -> Message {
    let text = received.body().unwrap_or_default();
    let mut beside = received.message_attributes().cloned().unwrap_or_default();
    let ours = beside.get(MARK).and_then(|value| ours(text, value));
    if ours.is_some() {
        beside.remove(MARK);
    }
    let mut message = ours.unwrap_or_else(|| Message {
        body: text.to_owned().into(),
        ..Message::default()
    });
    for (name, value) in beside {
        let value = match (value.string_value(), value.binary_value()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(bytes)) => STANDARD.encode(bytes),
            (None, None) => String::new(),
        };
        message.attributes.insert(format!("{FOREIGN}{name}"), value);
    }
    message
}

fn ours(text: &str, mark: &MessageAttributeValue) -> Option<Message> {
    let mark: Mark = serde_json::from_str(mark.string_value()?).ok()?;
    let body = match mark.body {
        None => text.as_bytes().to_vec(),
        Some(Form::Base64) => STANDARD.decode(text).ok()?,
        Some(Form::Empty) if text == NOTHING => Vec::new(),
        Some(Form::Empty) => return None,
    };
    Some(Message {
        body: body.into(),
        attributes: mark.attributes,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn received(body: &str, attributes: &[(&str, &str)]) -> Received {
        let mut received = Received::builder().body(body);
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder().data_type(TEXT).string_value(*value);
            received = received.message_attributes(*name, value.build().unwrap());
        }
        received.build()
    }

    fn there_and_back(message_in: &Message) -> (Wire, Message) {
        let wire = Wire::new(message_in);
        let attributes: Vec<_> = wire.mark.iter().map(|mark| (MARK, mark.as_str())).collect();
        let back = message(&received(&wire.body, &attributes));
        (wire, back)
    }

    #[test]
    fn bytes_and_attributes_come_out_as_they_went_in_and_only_what_may_be_sent_is() {
        let attributes: BTreeMap<String, String> = [("a", "\u{0}\u{1f}\u{fffe}\u{ffff}"), ("\u{ffff}", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        for body in [
            Bytes::from_static(b"{\"n\": 1}"),
            Bytes::new(),
            Bytes::from_static(b"-"),
            Bytes::from_static(b"\xff\x00"),
            Bytes::from_static("tab\t, line\r\n, \u{fffd} and 🦀".as_bytes()),
            Bytes::from_static("\u{fffe}".as_bytes()),
            Bytes::from_static(b"a\0b"),
        ] {
            for attributes in [BTreeMap::new(), attributes.clone()] {
                let sent = Message {
                    body: body.clone(),
                    attributes,
                };
                let (wire, back) = there_and_back(&sent);
                assert_eq!(back, sent);
                assert!(!wire.body.is_empty());
                let texts = [Some(&wire.body), wire.mark.as_ref()];
                assert!(
                    texts.into_iter().flatten().all(|text| text.chars().all(may_be_sent)),
                    "{wire:?}"
                );
            }
        }
    }

    #[test]
    fn plain_text_needs_no_attribute() {
        let plain = Message {
            body: "{}".into(),
            ..Message::default()
        };
        assert_eq!(Wire::new(&plain).mark, None);
        assert_eq!(Wire::new(&plain).bytes(), 2);
    }

    #[test]
    fn what_is_marked_wrongly_is_delivered_as_it_is_and_says_so() {
        for (body, mark) in [
            ("not base64!", "{\"body\":\"base64\"}"),
            ("something", "{\"body\":\"empty\"}"),
            ("x", "{\"body\":\"zip\"}"),
            ("x", "{\"more\":1}"),
            ("x", "no JSON"),
        ] {
            let message = message(&received(body, &[(MARK, mark), ("n", "42")]));
            assert_eq!(&message.body[..], body.as_bytes());
            let told: Vec<_> = message
                .attributes
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            assert_eq!(told, [("foreign:n", "42"), ("foreign:robata", mark)]);
            // Given back, it goes round as it is.
            assert_eq!(there_and_back(&message).1, message);
        }
    }
}
