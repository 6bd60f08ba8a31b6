//! The one place where a token is taken from: the header `Authorization: Bearer TOKEN`. Never a query string, which ends
//! up in logs and histories, and never a cookie, which a browser sends by itself.

use axum::http::{HeaderMap, header};
use robata_core::access::TokenHash;

/// Longer than any token; what is longer is none.
const MAX_BYTES: usize = 4096;

/// What a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// No `Authorization` at all.
    Nothing,
    /// Something that can be no token.
    Malformed,
    /// A token, by its hash.
    Token(TokenHash),
}

/// Reads what the request shows.
pub(crate) fn shown(headers: &HeaderMap) -> Shown {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Shown::Nothing,
        (Some(value), None) => value,
        // Of two that differ a proxy before us may have looked at the other one.
        (Some(_), Some(_)) => return Shown::Malformed,
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && is_token(token))
        .map_or(Shown::Malformed, |(_, token)| Shown::Token(TokenHash::of(token)))
}

/// RFC 6750's `b64token`, and what else an operator may have chosen as an admin token: printable, without spaces.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Shown {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        shown(&headers)
    }

    #[test]
    fn a_token_is_taken_from_one_bearer_header_alone() {
        let good = Shown::Token(TokenHash::of("rbt_x-_~+/="));
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(of(&[&format!("{scheme} rbt_x-_~+/=")]), good);
        }
        assert_eq!(of(&[]), Shown::Nothing);
        let long = format!("Bearer {}", "x".repeat(4097));
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer  x",
            "Bearer x y",
            "Bearer x ",
            "Basic eDp5",
            "x",
            "Bearer\tx",
            "Bearer é",
            &long,
        ] {
            assert_eq!(of(&[bad]), Shown::Malformed, "{bad:?}");
        }
        assert_eq!(of(&["Bearer x", "Bearer x"]), Shown::Malformed);
    }
}
