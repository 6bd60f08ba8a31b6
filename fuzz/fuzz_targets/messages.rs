//! Queue messages: a job's reference, and what stands in a stream of Redis, also where somebody else wrote it.
#![no_main]

#[path = "../../crates/queue-redis/src/entry.rs"]
#[expect(dead_code, reason = "the queue itself is not here")]
mod entry;

use std::collections::BTreeMap;

use bytes::Bytes;
use entry::{add, entries, id_parts, is_id};
use libfuzzer_sys::fuzz_target;
use redis::{Arg, Value};
use robata_core::{Format, format::Unreadable, job::Reference, queue::Message};

fuzz_target!(|data: &[u8]| {
    match Reference::read(data) {
        Ok(reference) => assert_eq!(reference.encode(Format::new(data[0])), data),
        Err(Unreadable::Malformed(what)) => assert!(!what.is_empty()),
        Err(Unreadable::TooNew(format)) => assert_eq!(Some(&format.number()), data.first()),
    }
    if let Ok(answer) = redis::parse_redis_value(data)
        && let Ok(found) = entries(answer)
    {
        for entry in found {
            if is_id(&entry.id) {
                let (ms, sequence) = id_parts(&entry.id);
                assert_eq!(id_parts(&format!("{ms}-{sequence}")), (ms, sequence));
            }
            comes_back(&entry.message);
        }
    }
    // The same bytes as a message of our own: a body, and lines NAME=VALUE.
    let mut lines = data.split(|byte| *byte == b'\n');
    let body = Bytes::copy_from_slice(lines.next().unwrap_or_default());
    let attributes: BTreeMap<_, _> = lines
        .filter_map(|line| std::str::from_utf8(line).ok()?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    comes_back(&Message { body, attributes });
});

/// What is written is read again as it was.
fn comes_back(message: &Message) {
    let command = add("line", message);
    let mut words = command.args_iter().map(|word| match word {
        Arg::Simple(word) => Value::BulkString(word.to_vec()),
        _ => Value::BulkString(b"*".to_vec()),
    });
    // XADD line *
    words.by_ref().take(3).for_each(drop);
    let entry = Value::Array(vec![Value::BulkString(b"1-0".to_vec()), Value::Array(words.collect())]);
    let found = entries(Value::Array(vec![entry])).expect("what we wrote");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message.body, message.body);
    assert_eq!(found[0].message.attributes, message.attributes);
}
