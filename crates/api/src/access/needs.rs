//! What each route needs, as it stands beside its handler (`security(("token" = […]))`) and so in the OpenAPI document.
//! The document is made of the routes themselves: a route that says nothing is in no table, and nobody may pass.

use std::collections::HashMap;

use axum::http::Method;
use robata_core::Role;
use serde_json::Value;
use utoipa::openapi::OpenApi;

/// The name of the security scheme.
pub(crate) const SCHEME: &str = "token";
/// Beside a role: of the whole installation, so that a token with an app sees nothing there.
const INSTALLATION: &str = "installation";
/// Instead of a role: any valid token.
const ANY: &str = "any";

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// The role; `None`: any valid token.
    pub(crate) role: Option<Role>,
    /// Whether a token with an app sees nothing there.
    pub(crate) installation: bool,
}

/// What a method of a route needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// This.
    Need(Need),
    /// The route has other methods only: these.
    OtherMethods(String),
    /// Nobody has said.
    Undeclared,
}

/// The table: path as matched, method, need.
#[derive(Debug, Default)]
pub(crate) struct Needs(HashMap<String, HashMap<Method, Option<Need>>>);

impl Needs {
    pub(crate) fn of(document: &OpenApi) -> Self {
        // As text, since that is what everybody sees of it.
        let document = serde_json::to_value(document).unwrap_or_default();
        let paths = document["paths"].as_object().into_iter().flatten();
        let routes = paths.map(|(path, item)| {
            let operations = item.as_object().into_iter().flatten();
            let needs = operations.filter_map(|(method, operation)| {
                let method = method.to_uppercase().parse().ok()?;
                Some((method, need(operation)))
            });
            (path.clone(), needs.collect())
        });
        Self(routes.collect())
    }

    /// The same with one more route, which any valid token may read.
    pub(crate) fn and_any(mut self, path: &str) -> Self {
        let any = Need {
            role: None,
            installation: false,
        };
        self.0
            .insert(path.to_owned(), HashMap::from([(Method::GET, Some(any))]));
        self
    }

    pub(crate) fn of_request(&self, method: &Method, route: &str) -> Needed {
        let Some(methods) = self.0.get(route) else {
            return Needed::Undeclared;
        };
        // The router answers HEAD by GET.
        let asked = if *method == Method::HEAD { &Method::GET } else { method };
        match methods.get(asked) {
            Some(Some(need)) => Needed::Need(*need),
            Some(None) => Needed::Undeclared,
            None => {
                let mut there: Vec<&str> = methods.keys().map(Method::as_str).collect();
                there.extend(methods.contains_key(&Method::GET).then_some("HEAD"));
                there.sort_unstable();
                Needed::OtherMethods(there.join(","))
            }
        }
    }
}

/// Exactly one requirement, of exactly one role or `any`, with or without `installation`; all else is no need.
fn need(operation: &Value) -> Option<Need> {
    let [requirement] = &operation["security"].as_array()?[..] else {
        return None;
    };
    let requirement = requirement.as_object()?;
    let words = requirement.get(SCHEME).filter(|_| requirement.len() == 1)?.as_array()?;
    let (installation, roles): (Vec<&str>, Vec<&str>) = words
        .iter()
        .map(|word| word.as_str().unwrap_or_default())
        .partition(|word| *word == INSTALLATION);
    let [role] = roles[..] else {
        return None;
    };
    Some(Need {
        role: match role {
            ANY => None,
            role => Some(Role::of(role)?),
        },
        installation: !installation.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_one_clear_word_is_a_need() {
        let of = |security: Value| need(&json!({"security": security}));
        let read = Need {
            role: Some(Role::Read),
            installation: false,
        };
        assert_eq!(of(json!([{"token": ["read"]}])), Some(read));
        assert_eq!(
            of(json!([{"token": ["installation", "read"]}])),
            Some(Need {
                installation: true,
                ..read
            })
        );
        assert_eq!(of(json!([{"token": ["any"]}])), Some(Need { role: None, ..read }));
        for bad in [
            Value::Null,
            json!([]),
            json!([{}]),
            json!([{"token": []}]),
            json!([{"token": ["root"]}]),
            json!([{"token": ["installation"]}]),
            json!([{"token": ["read", "admin"]}]),
            json!([{"token": ["read"]}, {}]),
            json!([{"token": ["read"]}, {"token": ["enqueue"]}]),
            json!([{"token": ["read"], "other": []}]),
            json!([{"other": ["read"]}]),
        ] {
            assert_eq!(of(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn each_route_behind_the_gate_says_what_it_needs() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let mut open = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                if need(operation).is_none() {
                    open.push(format!("{method} {path}"));
                }
            }
        }
        assert_eq!(
            open,
            ["get /healthz", "get /readyz"],
            "add `security((\"token\" = [\"ROLE\"]))` beside the handler"
        );
    }

    #[test]
    fn a_method_or_route_without_a_need_is_nobodys() {
        let needs = Needs::of(&crate::openapi()).and_any("/api/v1/openapi.json");
        let of = |method: Method, route: &str| needs.of_request(&method, route);
        assert_eq!(of(Method::GET, "/api/v1/nothing"), Needed::Undeclared);
        assert_eq!(
            of(Method::PATCH, "/api/v1/jobs"),
            Needed::OtherMethods("GET,HEAD,POST".to_owned())
        );
        assert_eq!(of(Method::HEAD, "/api/v1/jobs"), of(Method::GET, "/api/v1/jobs"));
        assert!(matches!(
            of(Method::GET, "/api/v1/openapi.json"),
            Needed::Need(Need { role: None, .. })
        ));
    }
}
