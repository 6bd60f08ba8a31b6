//! Names, ids, times, amounts, references: what is read and written again reads the same.
#![no_main]

use std::{
    fmt::{Debug, Display},
    str::FromStr,
};

use libfuzzer_sys::fuzz_target;
use robata_api_types::Span;
use robata_core::{
    AppName, AttemptId, AttemptState, JobId, JobName, JobState, Reason, Role, SecretName, Timestamp,
    definition::{Cpu, Memory, duration},
    policy::{Allowed, Reference, glob, image_allowed},
};
use robata_settings::Listen;

fuzz_target!(|text: &str| {
    comes_back::<AppName>(text);
    comes_back::<JobName>(text);
    comes_back::<SecretName>(text);
    comes_back::<JobId>(text);
    comes_back::<AttemptId>(text);
    comes_back::<Timestamp>(text);
    comes_back::<JobState>(text);
    comes_back::<AttemptState>(text);
    comes_back::<Reason>(text);
    comes_back::<Role>(text);
    comes_back::<Cpu>(text);
    comes_back::<Memory>(text);
    comes_back::<Allowed>(text);
    comes_back::<Listen>(text);
    match duration::parse(text) {
        Ok(read) => assert_eq!(duration::parse(&duration::format(read)), Ok(read), "{text:?}"),
        Err(why) => assert!(!why.is_empty()),
    }
    if let Ok(Span(span)) = serde_json::from_str(text) {
        assert_eq!(duration::parse(&duration::format(span)), Ok(span), "{text:?}");
    }
    if let Some(image) = Reference::read(text) {
        assert!(image_allowed("*", &image));
        let written = written(&image);
        assert_eq!(
            Reference::read(&written).as_ref(),
            Some(&image),
            "{text:?} became {written:?}"
        );
    }
    let (pattern, rest) = text.split_once(' ').unwrap_or((text, ""));
    if glob(pattern, rest) {
        assert!(
            glob("*", rest) && (pattern.contains('*') || pattern == rest),
            "{pattern:?} {rest:?}"
        );
    }
});

fn comes_back<T: FromStr<Err: Display> + Display + Debug + PartialEq>(text: &str) {
    match text.parse::<T>() {
        Ok(read) => match read.to_string().parse::<T>() {
            Ok(again) => assert_eq!(again, read, "{text:?}"),
            Err(error) => panic!("{text:?} became {read}: {error}"),
        },
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// With all that it may leave out.
fn written(image: &Reference) -> String {
    if image.registry.is_empty() {
        return image.repository.clone();
    }
    let mut text = format!("{}/{}", image.registry, image.repository);
    for (mark, part) in [(':', &image.tag), ('@', &image.digest)] {
        if let Some(part) = part {
            text.push(mark);
            text.push_str(part);
        }
    }
    text
}
