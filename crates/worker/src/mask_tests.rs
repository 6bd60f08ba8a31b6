//! Tests of masking, with random secrets, texts and cuts.

use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

fn masked(values: &[&str], text: &str) -> String {
    Mask::of(values.iter().copied())
        .unwrap()
        .map_or_else(|| text.to_owned(), |mask| mask.text(text))
}

/// The same in pieces.
fn in_pieces(mask: &Mask, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut held, mut out, mut rest) = (Held::default(), Vec::new(), text);
    for cut in cuts {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        out.extend(held.push(mask, now));
        assert!(held.len() < 2 * mask.longest, "{} bytes are held back", held.len());
        rest = later;
    }
    out.extend(held.push(mask, rest));
    out.extend(held.end(mask));
    out
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_value_is_masked_wherever_it_stands() {
    assert_eq!(masked(&["hunter2"], "hunter2 is hunter2!"), "*** is ***!");
    assert_eq!(
        masked(&["hunter2", "hunter2-and-more"], "hunter2-and-more hunter2-"),
        "*** ***-"
    );
    assert_eq!(masked(&["a\"b\\c\nd"], r#"{"env":"a\"b\\c\nd"}"#), r#"{"env":"***"}"#);
    assert_eq!(masked(&["žluť"], "žlutý žluť"), "žlutý ***");
}

#[test]
fn of_values_that_share_text_nothing_is_left() {
    let values = ["shop-production", "production-db-password"];
    assert_eq!(masked(&values, "<shop-production-db-password>"), "<***>");
    assert_eq!(masked(&values, "<shop-production-db>"), "<***-db>");
    // One inside the other, and one that reaches beyond both.
    assert_eq!(masked(&["abcdefgh", "cdef", "efghijkl"], "abcdefghijkl."), "***.");
    let mask = Mask::of(values).unwrap().unwrap();
    let mut held = Held::default();
    assert_eq!(held.push(&mask, b"<shop-production"), b"<");
    assert_eq!(held.push(&mask, b"-db-pass"), b"");
    assert_eq!(held.push(&mask, b"word>"), b"***>");
    assert_eq!(held.push(&mask, b"shop-production-db-pa"), b"");
    assert_eq!(held.push(&mask, b"per"), b"***-db-paper");
}

#[test]
fn a_value_too_short_is_left_alone() {
    assert!(Mask::of(["abc", ""]).unwrap().is_none());
    assert!(Mask::of(["abcd"]).unwrap().is_some());
    assert_eq!(masked(&["abc", "abcd"], "abc abcd"), "abc ***");
}

#[test]
fn base64_of_a_value_is_masked_in_every_alphabet_padding_and_alignment() {
    // Its base64 has the characters in which the alphabets differ.
    let value = "p?>~ÿ?>p~?>ÿ";
    for before in ["", "u", "us", "usr", "user:"] {
        for after in ["", "\n", "@x", "@db"] {
            let text = format!("{before}{value}{after}");
            for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
                let encoded = engine.encode(&text);
                let shown = masked(&[value], &encoded);
                let rest = shown.replace(MASK, "");
                assert!(shown.contains(MASK), "{text:?} in {encoded}");
                // What is left is that of the neighbours, and at most one character beside them at each side.
                let most = (before.len() + after.len()) * 8 / 6 + 5;
                assert!(rest.len() <= most, "{text:?}: {encoded} became {shown}");
            }
        }
    }
    for text in ["hunter2!", "hunter2!\n"] {
        assert_eq!(masked(&["hunter2!"], &STANDARD.encode(text)), "***");
    }
}

#[test]
fn a_key_of_many_lines_is_masked_line_by_line_and_in_wrapped_base64() {
    let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";
    let key = format!("-----BEGIN PRIVATE KEY-----\n{line}\n{}\n", line.to_lowercase());
    let logged: String = key.lines().map(|line| format!("app | {line}\n")).collect();
    assert_eq!(masked(&[&key], &logged), "app | ***\napp | ***\napp | ***\n");
    for (width, text) in [(76, key.clone()), (64, format!("{key}\n")), (60, key.clone())] {
        let encoded = STANDARD.encode(text);
        let lines: Vec<_> = encoded
            .as_bytes()
            .chunks(width)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        let shown = masked(&[&key], &lines.join("\n"));
        assert!(shown.starts_with(MASK) && shown.len() <= 8, "{shown}");
    }
}

#[test]
fn what_may_go_on_is_held_back_and_nothing_else() {
    let mask = Mask::of(["hunter2", "hunter2-and-more"]).unwrap().unwrap();
    let mut held = Held::default();
    assert_eq!(held.push(&mask, b"progress 50%\n"), b"progress 50%\n");
    assert_eq!(held.push(&mask, b"it is hunt"), b"it is ");
    assert_eq!(held.push(&mask, b"ing"), b"hunting");
    // It may be the longer one.
    assert_eq!(held.push(&mask, b"hunter2"), b"");
    assert_eq!(held.push(&mask, b"-and-less"), b"***-and-less");
    assert_eq!(held.push(&mask, b"hunter2"), b"");
    assert_eq!(held.end(&mask), b"***");
    assert_eq!(held.push(&mask, b"hunt"), b"");
    assert_eq!(held.end(&mask), b"hunt");
}

proptest! {
    /// Few letters, so that secrets overlap each other, themselves, and the text by chance.
    #[test]
    fn a_stream_in_pieces_is_masked_as_the_whole(
        values in proptest::collection::vec("[ab]{1,9}", 1..4),
        text in proptest::collection::vec(prop_oneof!["[abc]{0,12}", Just("\n".to_owned())], 0..12),
        cuts in proptest::collection::vec(0_usize..9, 0..30),
    ) {
        let text = text.concat();
        if let Some(mask) = Mask::of(values.iter().map(String::as_str)).unwrap() {
            let whole = mask.text(&text);
            let pieces = in_pieces(&mask, text.as_bytes(), &cuts);
            prop_assert_eq!(String::from_utf8(pieces).unwrap(), whole.clone());
            for value in values.iter().filter(|value| value.len() >= SHORTEST) {
                prop_assert!(!whole.contains(value.as_str()), "{} is in {}", value, whole);
            }
            // Each piece between masks stands in the text, in order: nothing else was changed.
            let mut rest = text.as_str();
            for part in whole.split(MASK) {
                let at = rest.find(part);
                prop_assert!(at.is_some(), "{} became {}", text, whole);
                rest = &rest[at.unwrap_or_default() + part.len()..];
            }
        }
    }

    /// Any bytes at all, with secrets and their base64 strewn in.
    #[test]
    fn no_secret_remains_of_any_bytes(
        values in proptest::collection::vec("[!-)+-~]{4,40}", 1..4),
        noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..12),
        kinds in proptest::collection::vec((0_usize..3, 0_usize..4), 12),
        cuts in proptest::collection::vec(0_usize..60, 0..40),
    ) {
        let mut text = Vec::new();
        for (noise, (kind, which)) in noise.iter().zip(&kinds) {
            let value = &values[which % values.len()];
            text.extend_from_slice(noise);
            match kind {
                0 => text.extend_from_slice(value.as_bytes()),
                1 => text.extend_from_slice(STANDARD.encode(value).as_bytes()),
                _ => text.extend_from_slice(URL_SAFE_NO_PAD.encode(value).as_bytes()),
            }
        }
        let mask = Mask::of(values.iter().map(String::as_str)).unwrap().unwrap();
        let out = in_pieces(&mask, &text, &cuts);
        let mut whole = Vec::new();
        mask.decide(&text, true, &mut whole);
        prop_assert_eq!(&out, &whole);
        for value in &values {
            prop_assert!(!contains(&out, value.as_bytes()), "{}", value);
            prop_assert!(!contains(&out, STANDARD.encode(value).as_bytes()), "{}", value);
        }
    }
}

#[tokio::test]
async fn attempts_with_the_same_values_share_one_mask() {
    let masks = Masks::default();
    let value = |text: &str| Secret::from_bytes(text.into()).unwrap();
    let one = masks.of(vec![value("hunter2"), value("other")]).await.unwrap().unwrap();
    let same = masks.of(vec![value("hunter2"), value("other")]).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&one, &same));
    assert!(masks.of(vec![value("abc")]).await.unwrap().is_none());
    drop((one, same));
    let _another = masks.of(vec![value("another")]).await.unwrap();
    assert_eq!(masks.lock().len(), 1, "what nobody needs any more is forgotten");
}

/// The largest that may be: it must neither take seconds nor gigabytes.
#[test]
fn the_largest_values_can_be_masked() {
    // Nothing in it repeats.
    let values: Vec<String> = (0..2_u64)
        .map(|which| {
            (which * 2048..(which + 1) * 2048)
                .map(|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
                .collect()
        })
        .collect();
    assert_eq!(values.iter().map(String::len).sum::<usize>(), 64 << 10);
    let mask = Mask::of(values.iter().map(String::as_str)).unwrap().unwrap();
    assert!(
        mask.automaton.memory_usage() < 64 << 20,
        "{}",
        mask.automaton.memory_usage()
    );
    assert_eq!(mask.text(&format!("<{}>", values[1])), "<***>");
}
