//! A message as RabbitMQ carries it: the body as it is, attributes as headers of their own kind.

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use robata_core::queue::Message;

/// What our attributes' headers begin with.
const ATTRIBUTE: &str = "a:";
/// Headers of the broker's own begin with this: `x-delivery-count`, `x-death`.
const BROKERS: &str = "x-";
/// The longest name of an attribute: a header's name has a length of one byte.
pub(crate) const MAX_NAME: usize = 255 - ATTRIBUTE.len();
/// What a header needs besides its name and its value: two lengths and a type.
const OVERHEAD: usize = 6;
/// So much of a frame is left to the other properties.
pub(crate) const FRAME_RESERVE: usize = 512;

/// How many bytes the attributes take in the one frame that must hold them all.
pub(crate) fn header_bytes(message: &Message) -> usize {
    message
        .attributes
        .iter()
        .map(|(name, value)| ATTRIBUTE.len() + name.len() + value.len() + OVERHEAD)
        .sum()
}

/// The properties of a message that is to outlive the broker's restart; `id` tells it among those of its batch, should
/// the broker return it.
pub(crate) fn properties(message: &Message, id: usize) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &message.attributes {
        let value = AMQPValue::LongString(LongString::from(value.as_bytes().to_vec()));
        headers.insert(ShortString::from(format!("{ATTRIBUTE}{name}")), value);
    }
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(ShortString::from(id.to_string()))
        .with_headers(headers)
}

/// Which of its batch a returned message was.
pub(crate) fn id(properties: &BasicProperties) -> Option<usize> {
    properties.message_id().as_ref()?.as_str().parse().ok()
}

/// The message that was delivered. What others put into headers is not lost: it becomes an attribute `foreign:NAME`.
pub(crate) fn message(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let mut message = Message {
        body: Bytes::from(body),
        ..Message::default()
    };
    let Some(headers) = properties.headers() else {
        return message;
    };
    for (name, value) in headers {
        let name = name.as_str();
        let own = name.strip_prefix(ATTRIBUTE).zip(text(value));
        let (name, value) = match own {
            Some((name, value)) => (name.to_owned(), value),
            None if name.starts_with(BROKERS) => continue,
            None => (format!("foreign:{name}"), described(value)),
        };
        message.attributes.insert(name, value);
    }
    message
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// Any value for a person.
fn described(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.as_str().to_owned(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_out_as_they_went_in() {
        let mut sent = Message {
            body: Bytes::from_static(b"\0\xff"),
            ..Message::default()
        };
        for (name, value) in [("format", "1"), ("x-ray", ""), ("foreign:x", "Grüße\0")] {
            sent.attributes.insert(name.to_owned(), value.to_owned());
        }
        let properties = properties(&sent, 7);
        assert_eq!((id(&properties), *properties.delivery_mode()), (Some(7), Some(2)));
        assert_eq!(message(&properties, sent.body.to_vec()), sent);
        assert_eq!(header_bytes(&sent), 3 * (2 + OVERHEAD) + 6 + 1 + 5 + 9 + 8);
    }

    #[test]
    fn what_others_wrote_is_told_as_foreign_and_the_brokers_own_is_not() {
        let mut headers = FieldTable::default();
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        headers.insert("answer".into(), AMQPValue::LongInt(42));
        headers.insert("a:bytes".into(), AMQPValue::LongString(LongString::from(vec![0xff])));
        let message = message(&BasicProperties::default().with_headers(headers), Vec::new());
        let told: Vec<_> = message
            .attributes
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(told, [("foreign:a:bytes", "\u{fffd}"), ("foreign:answer", "42")]);
    }

    #[test]
    fn a_message_without_headers_is_a_message() {
        let message = message(&BasicProperties::default(), b"x".to_vec());
        assert_eq!((&message.body[..], message.attributes.len()), (&b"x"[..], 0));
        assert_eq!(id(&BasicProperties::default()), None);
    }
}
