//! Query parameters: each known by name, an unknown one refused with the nearest that there is.

use std::{collections::HashMap, str::FromStr, sync::Arc};

use axum::{
    extract::{FromRequestParts, MatchedPath, Query as AxumQuery, Request, State},
    http::{Method, Uri, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use robata_core::definition::document::unknown_key;
use utoipa::openapi::{
    OpenApi, RefOr,
    path::{Operation, ParameterIn},
};

use crate::{
    refused::{Refused, Result},
    shared::Shared,
};

/// The largest number that a parameter may be: what the document's `int64` says, and what stores can count to.
pub(crate) const MOST: u64 = i64::MAX.cast_unsigned();

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

/// The parameters that each route knows, as the OpenAPI document has them: what stands there is what is taken.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<String, HashMap<Method, Vec<String>>>);

impl Known {
    pub(crate) fn of(document: &OpenApi) -> Self {
        let names = |operation: &Operation| {
            let parameters = operation.parameters.iter().flatten();
            parameters
                .filter_map(|parameter| match parameter {
                    RefOr::T(parameter) if matches!(parameter.parameter_in, ParameterIn::Query) => {
                        Some(parameter.name.clone())
                    }
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        let routes = document.paths.paths.iter().map(|(path, item)| {
            let methods = [
                (Method::GET, &item.get),
                (Method::HEAD, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::DELETE, &item.delete),
                (Method::PATCH, &item.patch),
            ];
            let known = methods.map(|(method, operation)| Some((method, names(operation.as_ref()?))));
            (path.clone(), known.into_iter().flatten().collect())
        });
        Self(routes.collect())
    }

    /// Refuses parameters that the route does not know.
    fn check(&self, method: &Method, route: &str, uri: &Uri) -> Result<()> {
        if uri.query().is_none_or(str::is_empty) {
            return Ok(());
        }
        let known = match self.0.get(route) {
            Some(methods) => match methods.get(method) {
                Some(known) => known.iter().map(String::as_str).collect(),
                // Answered by the router: it does not know the method.
                None => return Ok(()),
            },
            // The document itself.
            None => Vec::new(),
        };
        let AxumQuery(pairs) = AxumQuery::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Refused::bad("invalid_query", error.body_text()))?;
        match pairs.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) if known.is_empty() => Err(Refused::bad(
                "invalid_query",
                format!("unknown parameter {key:?}: there are none here"),
            )),
            Some((key, _)) => {
                let detail = unknown_key(key, &known).replacen("key", "parameter", 1);
                Err(Refused::bad("invalid_query", detail))
            }
        }
    }
}

/// Lets pass what has no parameter that its route does not know.
pub(crate) async fn only_known(
    State(known): State<Arc<Known>>,
    route: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    match known.check(request.method(), route.as_str(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

impl Query {
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
