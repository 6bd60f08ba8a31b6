//! `ETag` and `If-Match` (RFC 9110, sections 8.8.3 and 13.1.1): who changes what they have read undoes nothing that others
//! did meanwhile.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Json;
use crate::refused::{Refused, Result, internal};

/// What `If-Match` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nothing: the header is not there.
    None,
    /// `*`: that there is something.
    Something,
    /// That what there is has one of these tags.
    OneOf(Vec<String>),
}

impl<S: Sync> FromRequestParts<S> for Condition {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Self::read(&parts.headers)
    }
}

impl Condition {
    fn read(headers: &HeaderMap) -> Result<Self> {
        let values: Vec<_> = headers.get_all(header::IF_MATCH).iter().collect();
        if values.is_empty() {
            return Ok(Self::None);
        }
        let text: Option<Vec<_>> = values.iter().map(|value| value.to_str().ok()).collect();
        let text = text.map(|lines| lines.join(","));
        match text.as_deref().map(str::trim) {
            Some("*") => Some(Self::Something),
            Some(text) => tags(text).map(Self::OneOf),
            None => None,
        }
        .ok_or_else(|| {
            let detail =
                "If-Match is `*`, or ETags as they were answered, each in its double quotes, with commas between";
            Refused::bad("invalid_header", detail)
        })
    }

    /// Refuses with 412 where what there is now is not what was asked for. To be called with the catalog on whose revision the
    /// change is planned: a change that others make after it is noticed by the store.
    pub(super) fn check<T: Serialize>(&self, current: Option<&T>) -> Result<()> {
        let detail = match (self, current) {
            (Self::None, _) | (Self::Something, Some(_)) => return Ok(()),
            (_, None) => "there is nothing yet of what If-Match asks for".to_owned(),
            (Self::OneOf(tags), Some(current)) => {
                let now = tag(current)?;
                if tags.contains(&now) {
                    return Ok(());
                }
                format!("it was changed since: its ETag is \"{now}\" now; read it again, and decide again")
            }
        };
        Err(Refused::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            detail,
        ))
    }
}

/// The strong tags of a list; weak ones match nothing here. `None` where it is no list of tags.
fn tags(list: &str) -> Option<Vec<String>> {
    let blank = [' ', '\t'];
    let mut tags = Vec::new();
    let mut rest = list.trim_start_matches([',', ' ', '\t']);
    loop {
        let weak = rest.strip_prefix("W/");
        let (tag, after) = weak.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        if weak.is_none() {
            tags.push(tag.to_owned());
        }
        let after = after.trim_start_matches(blank);
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
        rest = after.trim_start_matches([',', ' ', '\t']);
        if rest.is_empty() {
            return Some(tags);
        }
    }
}

/// The tag of what is answered: of its content alone, so that all masters answer the same.
fn tag(body: &impl Serialize) -> Result<String> {
    let body = serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        internal()
    })?;
    let hash = Sha256::digest(body);
    Ok(hash[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An answer with its `ETag`.
pub(super) struct Tagged<T>(pub(super) Json<T>);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        match tag(&self.0.1) {
            Ok(tag) => ([(header::ETAG, format!("\"{tag}\""))], self.0).into_response(),
            Err(refused) => refused.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(values: &[&str]) -> Option<Condition> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Condition::read(&headers).ok()
    }

    #[test]
    fn if_match_is_read_as_the_rfc_writes_it() {
        let one_of = |tags: &[&str]| Some(Condition::OneOf(tags.iter().map(|&tag| tag.to_owned()).collect()));
        assert_eq!(read(&[]), Some(Condition::None));
        assert_eq!(read(&[" * "]), Some(Condition::Something));
        assert_eq!(read(&["\"a\""]), one_of(&["a"]));
        assert_eq!(read(&["\"a,b\" ,, \"\"", "\"c\""]), one_of(&["a,b", "", "c"]));
        assert_eq!(read(&[",\"a\","]), one_of(&["a"]));
        // A weak tag matches nothing, for the comparison is a strong one.
        assert_eq!(read(&["W/\"a\", \"b\""]), one_of(&["b"]));
        for wrong in ["", "a", "\"a", "\"a\" \"b\"", "*, \"a\"", "w/\"a\"", "\"a\"b", "\u{e4}"] {
            assert_eq!(read(&[wrong]), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_condition_holds_for_what_is_there_as_it_was_read() {
        let holds = |condition: &Condition, current: Option<&str>| condition.check(current.as_ref()).is_ok();
        let read = Condition::OneOf(vec!["other".into(), tag(&"now").unwrap()]);
        assert!(holds(&read, Some("now")) && !holds(&read, Some("later")) && !holds(&read, None));
        assert!(holds(&Condition::Something, Some("later")) && !holds(&Condition::Something, None));
        assert!(holds(&Condition::None, None) && holds(&Condition::None, Some("now")));
        assert!(!holds(&Condition::OneOf(Vec::new()), Some("now")));
        let refused = read.check(Some(&"later")).unwrap_err();
        assert_eq!(
            (refused.status(), refused.0.code.as_str()),
            (412, "precondition_failed")
        );
    }
}
