//! The worker's tape: marks that come from a log store, and masking, which must not depend on how output was cut.
#![no_main]

#[path = "../../crates/worker/src/mask.rs"]
#[expect(dead_code, reason = "masks are not shared here")]
mod mask;
#[path = "../../crates/worker/src/tape.rs"]
mod tape;

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use mask::Mask;
use robata_core::{
    Timestamp,
    executor::{Output, Position, Stream},
};
use tape::{Mark, Tape};

/// What a job prints, cut into pieces, and what is secret of it.
#[derive(Arbitrary, Debug)]
struct Case<'a> {
    mark: &'a str,
    secrets: Vec<&'a str>,
    pieces: Vec<&'a str>,
}

fuzz_target!(|case: Case<'_>| {
    if let Some(mark) = Mark::decode(&Position(case.mark.to_owned())) {
        assert_eq!(Mark::decode(&mark.encode()), Some(mark.clone()));
        mark.kept();
        play(&mark, None, &case.pieces);
    }
    let secrets = case
        .secrets
        .iter()
        .copied()
        .filter(|secret| secret.len() <= 256)
        .take(4);
    let Some(mask) = Mask::of(secrets).expect("few needles") else {
        return;
    };
    let mask = Arc::new(mask);
    let whole: String = case.pieces.concat();
    let masked = play(&Mark::default(), Some(&mask), &case.pieces);
    assert_eq!(masked, mask.text(&whole).into_bytes(), "cuts show in what is masked");
});

/// All that comes of these pieces.
fn play(mark: &Mark, mask: Option<&Arc<Mask>>, pieces: &[&str]) -> Vec<u8> {
    let mut tape = Tape::new(mark, mask.cloned());
    let mut all = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        let piece = Output {
            at: Timestamp::default(),
            stream: Stream::Stdout,
            data: Bytes::copy_from_slice(piece.as_bytes()),
            position: Position(number.to_string()),
        };
        all.extend_from_slice(&tape.push(piece));
        let on = tape.mark([mark.offsets[0].saturating_add(all.len() as u64), mark.offsets[1]]);
        assert_eq!(Mark::decode(&on.encode()), Some(on));
    }
    all.extend_from_slice(&tape.end(Stream::Stdout));
    all
}
