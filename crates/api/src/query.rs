//! Query parameters: each known by name, an unknown one refused with the nearest that there is.

use std::{str::FromStr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Query as AxumQuery},
    http::request::Parts,
};
use robata_core::definition::document::unknown_key;

use crate::{
    refused::{Refused, Result},
    shared::Shared,
};

/// The parameters in the order in which they came.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl FromRequestParts<Arc<Shared>> for Query {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self> {
        AxumQuery::from_request_parts(parts, shared)
            .await
            .map(|AxumQuery(pairs)| Self(pairs))
            .map_err(|error| Refused::bad("invalid_query", error.body_text()))
    }
}

impl Query {
    /// Refuses parameters that are none of `known`.
    pub(crate) fn only(self, known: &[&str]) -> Result<Self> {
        match self.0.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(self),
            Some((key, _)) if known.is_empty() => Err(Refused::bad(
                "invalid_query",
                format!("unknown parameter {key:?}: there are none here"),
            )),
            Some((key, _)) => {
                let detail = unknown_key(key, known).replacen("key", "parameter", 1);
                Err(Refused::bad("invalid_query", detail))
            }
        }
    }

    /// The one value of `key`.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        let mut values = self
            .0
            .iter()
            .filter(|(name, _)| name == key)
            .map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Refused::bad("invalid_query", format!("{key} is given more than once"))),
            (value, None) => Ok(value),
        }
    }

    /// Every value of `key`.
    pub(crate) fn all<'q>(&'q self, key: &'q str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The one value of `key`, as one of the platform's own words, names, times or ids.
    pub(crate) fn read<T: FromStr<Err = robata_core::Error>>(&self, key: &str) -> Result<Option<T>> {
        self.text(key)?.map(|text| read(key, text)).transpose()
    }

    /// The one value of `key`, a number within `range`.
    pub(crate) fn number(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let most = match *range.end() {
                    u64::MAX => "on".to_owned(),
                    end => format!("to {end}"),
                };
                let detail = format!("{key} must be a whole number from {} {most}", range.start());
                Err(Refused::bad("invalid_query", detail))
            }
        }
    }

    /// The one value of `key`, yes or no; no where it is left out.
    pub(crate) fn flag(&self, key: &str) -> Result<bool> {
        match self.text(key)? {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(Refused::bad("invalid_query", format!("{key} must be true or false"))),
        }
    }
}

/// Reads one value.
pub(crate) fn read<T: FromStr<Err = robata_core::Error>>(key: &str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|error: robata_core::Error| Refused::bad("invalid_query", format!("{key}: {}", error.message())))
}
