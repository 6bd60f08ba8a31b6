//! Tests of marks: whoever goes on from one neither loses nor repeats a byte.

use proptest::prelude::*;
use robata_core::Timestamp;

use super::*;

#[test]
fn a_mark_survives_the_log_store() {
    let plain = Mark {
        offsets: [7, 9],
        skip: [0, 0],
        engine: Position("a:b".into()),
    };
    // As the release before wrote it.
    assert_eq!(plain.encode().0, "7:9:a:b");
    let skipping = Mark {
        skip: [3, 0],
        ..plain.clone()
    };
    assert_eq!(skipping.encode().0, "7+3:9:a:b");
    for mark in [plain, skipping] {
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
    }
    for wrong in [
        "",
        "1:2",
        "1+x:2:3",
        "-1:2:3",
        "18446744073709551615:1:",
        "0+18446744073709551615:1:",
    ] {
        assert_eq!(Mark::decode(&Position(wrong.into())), None);
    }
}

fn piece(number: usize, stream: Stream, text: &str) -> Output {
    Output {
        at: Timestamp::from_millis(0),
        stream,
        data: Bytes::copy_from_slice(text.as_bytes()),
        position: Position((number + 1).to_string()),
    }
}

/// Reads from a mark on, `count` pieces or to the end; adds what is decided to `kept` and answers where to go on.
fn read(
    output: &[(Stream, String)],
    mark: &Mark,
    mask: Option<&Arc<Mask>>,
    count: usize,
    kept: &mut [Vec<u8>; 2],
) -> (Mark, bool) {
    let from = mark.engine.0.parse().unwrap_or(0);
    let mut tape = Tape::new(mark, mask.cloned());
    let mut offsets = mark.offsets;
    let mut keep = |stream, data: &[u8]| {
        kept[index(stream)].extend_from_slice(data);
        offsets[index(stream)] += data.len() as u64;
    };
    for (number, (stream, text)) in output.iter().enumerate().skip(from).take(count) {
        keep(*stream, &tape.push(piece(number, *stream, text)));
    }
    let ended = from + count >= output.len();
    if ended {
        for stream in Stream::ALL {
            keep(stream, &tape.end(stream));
        }
    }
    assert!(tape.points.len() <= POINTS);
    (tape.mark(offsets), ended)
}

proptest! {
    #[test]
    fn a_reading_that_is_cut_anywhere_gives_the_same(
        values in proptest::collection::vec("[ab]{1,9}", 0..3),
        output in proptest::collection::vec((any::<bool>(), "[abc]{0,7}"), 1..150),
        counts in proptest::collection::vec(1_usize..40, 0..20),
    ) {
        let stream = |stderr: bool| if stderr { Stream::Stderr } else { Stream::Stdout };
        let output: Vec<_> = output.into_iter().map(|(stderr, text)| (stream(stderr), text)).collect();
        let mask = Mask::of(values.iter().map(String::as_str)).unwrap().map(Arc::new);
        let mut kept = [Vec::new(), Vec::new()];
        let mut mark = Mark::default();
        for count in counts {
            // A restart: nothing but the mark, through the log store, and what was kept is left.
            mark = Mark::decode(&mark.encode()).unwrap();
            let (next, ended) = read(&output, &mark, mask.as_ref(), count, &mut kept);
            mark = next;
            if ended {
                break;
            }
        }
        let (mark, _) = read(&output, &mark, mask.as_ref(), output.len(), &mut kept);
        for each in Stream::ALL {
            let all: String = output.iter().filter(|(of, _)| *of == each).map(|(_, text)| text.as_str()).collect();
            let whole = mask.as_ref().map_or_else(|| all.clone(), |mask| mask.text(&all));
            prop_assert_eq!(std::str::from_utf8(&kept[index(each)]).unwrap(), whole.as_str());
            prop_assert_eq!(mark.offsets[index(each)], whole.len() as u64);
        }
    }
}
