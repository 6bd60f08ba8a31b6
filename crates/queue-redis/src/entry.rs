//! Messages as a stream's entries, and back: also entries that somebody else wrote.

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::{Cmd, FromRedisValue, RedisResult, Value};
use robata_core::queue::Message;

/// The body's field.
const BODY: &str = "b";
/// What stands before an attribute's name.
const ATTRIBUTE: &str = "a:";
/// What stands before the name of a field that is not ours, in the attributes of what is delivered.
const FOREIGN: &str = "foreign:";
/// More attributes than this do not fit on the stack of the server's scripts.
pub(crate) const MAX_ATTRIBUTES: usize = 1000;

/// `XADD stream * …` for a message.
pub(crate) fn add(stream: &str, message: &Message) -> Cmd {
    let mut add = redis::cmd("XADD");
    add.arg(stream).arg("*").arg(BODY).arg(&message.body[..]);
    for (name, value) in &message.attributes {
        add.arg(format!("{ATTRIBUTE}{name}")).arg(value);
    }
    add
}

/// An entry of a stream: its id and its message.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) message: Message,
}

/// Reads `[[id, [field, value, …]], …]`.
pub(crate) fn entries(value: Value) -> RedisResult<Vec<Entry>> {
    let entries = Vec::<Value>::from_redis_value(value)?;
    entries.into_iter().map(entry).collect()
}

fn entry(value: Value) -> RedisResult<Entry> {
    let (id, fields) = <(String, Vec<Vec<u8>>)>::from_redis_value(value)?;
    let mut body = Bytes::new();
    let mut attributes = BTreeMap::new();
    let mut fields = fields.into_iter();
    while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
        if field == BODY.as_bytes() {
            body = value.into();
            continue;
        }
        let field = lossy(field);
        let name = match field.strip_prefix(ATTRIBUTE) {
            Some(name) => name.to_owned(),
            // Whoever knows what a message is for must see it to put it aside: it is delivered with what it has.
            None => format!("{FOREIGN}{field}"),
        };
        attributes.insert(name, lossy(value));
    }
    Ok(Entry {
        id,
        message: Message { body, attributes },
    })
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Whether this is an entry's id as the server writes it.
pub(crate) fn is_id(id: &str) -> bool {
    id.split_once('-')
        .is_some_and(|(ms, seq)| ms.parse::<u64>().is_ok() && seq.parse::<u64>().is_ok())
}

/// The parts of an entry's id, in the order in which ids grow.
pub(crate) fn id_parts(id: &str) -> (u64, u64) {
    let (ms, seq) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), seq.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_foreign_entry_is_delivered_with_what_it_has() {
        let value = Value::Array(vec![Value::Array(vec![
            text("5-0"),
            Value::Array(vec![
                text("job"),
                text("{}"),
                text("a:format"),
                text("1"),
                Value::BulkString(vec![0xff]),
                text("x"),
            ]),
        ])]);
        let entries = entries(value).unwrap();
        assert_eq!(entries[0].id, "5-0");
        assert!(entries[0].message.body.is_empty());
        let attributes: Vec<_> = entries[0]
            .message
            .attributes
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            attributes,
            [("foreign:job", "{}"), ("foreign:\u{fffd}", "x"), ("format", "1")]
        );
    }

    #[test]
    fn ids_are_known_by_their_shape() {
        assert!(is_id("1700000000000-12"));
        for other in ["", "1", "-", "1-", "x-1", "1-1-1", "*"] {
            assert!(!is_id(other), "{other}");
        }
        assert!(id_parts("10-2") > id_parts("9-11"));
    }
}
