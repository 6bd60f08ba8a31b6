//! A job's payload: any JSON, kept as the bytes that came.
//!
//! The check is written by hand because no parser at hand refuses lone surrogates, bounds the depth and leaves every
//! byte (key order, numbers beyond 2^53, `\u0000`) as it came, all in one pass without building a tree.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind};

/// JSON nests at most this deep unless the settings say otherwise.
pub const DEFAULT_MAX_DEPTH: usize = 128;
/// A payload has at most this many bytes unless the settings say otherwise.
pub const DEFAULT_MAX_BYTES: usize = 1 << 20;

/// A payload: bytes that are known to be one valid JSON value in UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

impl Payload {
    /// Checks that `bytes` are one JSON value, at most `max_bytes` long and `max_depth` deep, without lone surrogates.
    pub fn new(bytes: Bytes, max_bytes: usize, max_depth: usize) -> Result<Self, Error> {
        if bytes.len() > max_bytes {
            let message = format!("the payload has {} bytes; at most {max_bytes} are allowed", bytes.len());
            return Err(Error::new(ErrorKind::Invalid, "payload.check", message));
        }
        scan(&bytes, max_depth, &mut |_| ())?;
        Ok(Self(bytes))
    }

    /// Bytes that were checked before, as a store gives them back.
    #[must_use]
    pub fn from_stored(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The JSON value `null`.
    #[must_use]
    pub fn null() -> Self {
        Self(Bytes::from_static(b"null"))
    }

    /// The bytes as they came.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The bytes less insignificant white space; what an idempotency key's hash covers.
    #[must_use]
    pub fn compact(&self) -> Vec<u8> {
        let mut kept = Vec::with_capacity(self.0.len());
        // Was valid when it was made; a stored value that is not gives its prefix, which only compares as different.
        let _ = scan(&self.0, usize::MAX, &mut |part| kept.extend_from_slice(part));
        kept
    }
}

impl fmt::Debug for Payload {
    /// Shows the size alone: payloads are never logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// Goes once through `json`, giving `keep` every significant run of bytes.
fn scan(json: &[u8], max_depth: usize, keep: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
    let wrong = |at: usize, what: &str| {
        Error::new(
            ErrorKind::Invalid,
            "payload.check",
            format!("the payload is no valid JSON: {what} at byte {at}"),
        )
    };
    if let Err(error) = std::str::from_utf8(json) {
        return Err(wrong(error.valid_up_to(), "not UTF-8"));
    }
    // A stack of what is open, one entry a level: true for an object.
    let mut open: Vec<bool> = Vec::new();
    let mut at = 0;
    let mut expect = Expect::Value;
    loop {
        while at < json.len() && matches!(json[at], b' ' | b'\t' | b'\n' | b'\r') {
            at += 1;
        }
        let Some(&byte) = json.get(at) else {
            return if expect == Expect::End {
                Ok(())
            } else {
                Err(wrong(at, "it ends too early"))
            };
        };
        let start = at;
        let after_value = |open: &[bool]| {
            if open.is_empty() {
                Expect::End
            } else {
                Expect::CommaOrClose
            }
        };
        match (expect, byte) {
            (Expect::Value | Expect::ValueOrClose, b'{' | b'[') => {
                if open.len() >= max_depth {
                    let message = format!("the payload is nested deeper than {max_depth} levels at byte {at}");
                    return Err(Error::new(ErrorKind::Invalid, "payload.check", message));
                }
                open.push(byte == b'{');
                at += 1;
                expect = if byte == b'{' {
                    Expect::KeyOrClose
                } else {
                    Expect::ValueOrClose
                };
            }
            (Expect::ValueOrClose, b']') => {
                open.pop();
                at += 1;
                expect = after_value(&open);
            }
            (Expect::KeyOrClose, b'}') => {
                open.pop();
                at += 1;
                expect = after_value(&open);
            }
            (Expect::CommaOrClose, b']' | b'}') if open.last() == Some(&(byte == b'}')) => {
                open.pop();
                at += 1;
                expect = after_value(&open);
            }
            (Expect::CommaOrClose, b',') => {
                at += 1;
                expect = if open.last() == Some(&true) {
                    Expect::Key
                } else {
                    Expect::Value
                };
            }
            (Expect::Key | Expect::KeyOrClose, b'"') => {
                at = string_end(json, at).map_err(|(at, what)| wrong(at, what))?;
                expect = Expect::Colon;
            }
            (Expect::Colon, b':') => {
                at += 1;
                expect = Expect::Value;
            }
            (Expect::Value | Expect::ValueOrClose, b'"') => {
                at = string_end(json, at).map_err(|(at, what)| wrong(at, what))?;
                expect = after_value(&open);
            }
            (Expect::Value | Expect::ValueOrClose, b'-' | b'0'..=b'9') => {
                at = number_end(json, at).ok_or_else(|| wrong(at, "a malformed number"))?;
                expect = after_value(&open);
            }
            (Expect::Value | Expect::ValueOrClose, _) => {
                let word = [&b"true"[..], b"false", b"null"]
                    .into_iter()
                    .find(|word| json[at..].starts_with(word));
                at += word.ok_or_else(|| wrong(at, "an unexpected character"))?.len();
                expect = after_value(&open);
            }
            (Expect::End, _) => return Err(wrong(at, "something follows the value")),
            _ => return Err(wrong(at, "an unexpected character")),
        }
        keep(&json[start..at]);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrClose,
    Key,
    KeyOrClose,
    Colon,
    CommaOrClose,
    End,
}

/// The place after the string that begins at `start`, or where it is wrong.
fn string_end(json: &[u8], start: usize) -> Result<usize, (usize, &'static str)> {
    let mut at = start + 1;
    let mut high = None;
    loop {
        let &byte = json.get(at).ok_or((at, "a string without end"))?;
        let escape = byte == b'\\';
        let unit = if escape && json.get(at + 1) == Some(&b'u') {
            let digits = json.get(at + 2..at + 6).ok_or((at, "a malformed escape"))?;
            let text = std::str::from_utf8(digits)
                .ok()
                .filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
            Some(
                text.and_then(|text| u16::from_str_radix(text, 16).ok())
                    .ok_or((at, "a malformed escape"))?,
            )
        } else {
            None
        };
        match (high.take(), unit) {
            (Some(_), Some(0xDC00..=0xDFFF)) => {}
            (Some(place), _) => return Err((place, "a lone surrogate (half of a character)")),
            (None, Some(0xD800..=0xDBFF)) => high = Some(at),
            (None, Some(0xDC00..=0xDFFF)) => {
                return Err((at, "a lone surrogate (half of a character)"));
            }
            (None, _) => {}
        }
        at += match byte {
            b'"' => return Ok(at + 1),
            _ if unit.is_some() => 6,
            b'\\' => match json.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                _ => return Err((at, "a malformed escape")),
            },
            0..=0x1F => return Err((at, "a control character in a string")),
            _ => 1,
        };
    }
}

/// The place after the number that begins at `start`.
fn number_end(json: &[u8], start: usize) -> Option<usize> {
    let digits = |from: usize| json[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = start + usize::from(json[start] == b'-');
    let whole = digits(at);
    if whole == 0 || (whole > 1 && json[at] == b'0') {
        return None;
    }
    at += whole;
    if json.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        at += 1 + fraction;
        if fraction == 0 {
            return None;
        }
    }
    if matches!(json.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(json.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at);
        at += exponent;
        if exponent == 0 {
            return None;
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(json: &str) -> Result<Payload, Error> {
        Payload::new(
            Bytes::copy_from_slice(json.as_bytes()),
            DEFAULT_MAX_BYTES,
            DEFAULT_MAX_DEPTH,
        )
    }

    #[test]
    fn good_json_is_kept_as_it_came() {
        for good in [
            "null",
            " {\"b\" : 1, \"a\":[ ] } ",
            "\"\\u0000\"",
            "9007199254740993",
            "-0.5e+10",
            "\"\\ud83d\\ude00\"",
            "[[],{},[1,2],{\"a\":{}}]",
            "\"\\\\ud800\"",
            "true",
        ] {
            assert_eq!(check(good).unwrap().bytes(), good.as_bytes());
        }
    }

    #[test]
    fn bad_json_says_where() {
        for (bad, what) in [
            ("", "ends too early"),
            ("{", "ends too early"),
            ("[1,]", "unexpected"),
            ("{\"a\"}", "unexpected"),
            ("{\"a\":1,}", "unexpected"),
            ("01", "number"),
            ("1.", "number"),
            ("nul", "unexpected"),
            ("1 2", "follows"),
            ("\"\\ud800\"", "lone surrogate"),
            ("\"\\ud800x\"", "lone surrogate"),
            ("\"\\udc00\"", "lone surrogate"),
            ("\"\\ud800\\ud800\"", "lone surrogate"),
            ("\"\n\"", "control"),
            ("[}", "unexpected"),
            ("[1}", "unexpected"),
            ("\"\\x\"", "escape"),
            ("\"\\u12\"", "escape"),
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.message().contains(what), "{bad}: {error}");
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        check(&format!("{}{}", "[".repeat(128), "]".repeat(128))).unwrap();
        assert!(
            check(&format!("{}{}", "[".repeat(129), "]".repeat(129)))
                .unwrap_err()
                .message()
                .contains("deeper")
        );
        assert!(
            check(&format!("\"{}\"", "a".repeat(1 << 20)))
                .unwrap_err()
                .message()
                .contains("1048578 bytes")
        );
    }

    #[test]
    fn white_space_outside_strings_does_not_count() {
        assert_eq!(
            check(" { \"a b\" : [ 1 , 2 ] }\n").unwrap().compact(),
            b"{\"a b\":[1,2]}"
        );
    }

    proptest! {
        #[test]
        fn what_serde_refuses_is_refused_and_what_it_takes_is_taken(json in "[\\[\\]{},:\"\\\\0-9.eE truefalsn-]{0,12}") {
            // serde_json refuses lone surrogates only in strings it decodes, so it decodes all of them here.
            let serde = serde_json::from_str::<serde_json::Value>(&json);
            let out_of_range = serde.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
            if !out_of_range {
                prop_assert_eq!(serde.is_ok(), check(&json).is_ok(), "{}", json);
            }
        }
    }
}
