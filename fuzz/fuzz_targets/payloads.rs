//! Payloads, and bodies in which no key may stand twice: what is taken is JSON, and stays what it was.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use robata_api_types::strict::Strict;
use robata_core::{
    Payload,
    payload::{DEFAULT_MAX_BYTES, DEFAULT_MAX_DEPTH},
};
use serde_json::Value;

fuzz_target!(|json: &[u8]| {
    let tree = serde_json::from_slice::<Value>(json);
    // Bounds of serde_json's own, which a payload does not have.
    let bounded = |error: &serde_json::Error| {
        let words = error.to_string();
        words.contains("out of range") || words.contains("recursion limit")
    };
    match Payload::new(Bytes::copy_from_slice(json), DEFAULT_MAX_BYTES, DEFAULT_MAX_DEPTH) {
        Ok(payload) => {
            assert_eq!(payload.bytes(), json);
            assert!(tree.as_ref().err().is_none_or(bounded), "{tree:?}");
            let compact = payload.compact();
            let again = Payload::new(compact.clone().into(), DEFAULT_MAX_BYTES, DEFAULT_MAX_DEPTH);
            assert_eq!(again.expect("less white space").compact(), compact);
            if let Ok(tree) = &tree {
                assert_eq!(serde_json::from_slice::<Value>(&compact).ok().as_ref(), Some(tree));
            }
        }
        Err(error) => {
            assert!(error.message().contains("byte"), "without a place: {error}");
            assert!(tree.is_err() || error.message().contains("deeper"), "{error}");
        }
    }
    match serde_json::from_slice::<Strict>(json) {
        Ok(Strict(strict)) => assert_eq!(Some(strict), tree.ok()),
        Err(error) => {
            assert!(tree.is_err() || error.to_string().contains("twice"), "{error}");
            assert!(error.line() > 0, "without a place: {error}");
        }
    }
});
