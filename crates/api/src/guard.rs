//! What every request passes first (DESIGN.md §7): its host, where it comes from, what its body claims to be.
//!
//! A web page that somebody visits can send requests to this machine: under a name of its own that it rebinds to
//! 127.0.0.1 (then `Host` gives it away), or across origins (then the browser says so in `Origin` and `Sec-Fetch-Site`,
//! or can only send the content types of forms).

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::Instant;

use crate::{
    config::ApiConfig,
    refused::{Refused, Result},
    requests,
    shared::Shared,
};

pub(crate) async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let checked = check(&shared.config, request.method(), request.uri(), request.headers());
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    requests::answered(&method, route.as_ref(), response.status(), begin.elapsed());
    harden(response.headers_mut());
    response
}

/// What every answer says to a browser.
pub(crate) fn harden(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Whether the request may pass.
pub(crate) fn check(config: &ApiConfig, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<()> {
    let host = host(uri, headers)?;
    if !is_allowed(host, config) {
        return Err(Refused::new(
            StatusCode::FORBIDDEN,
            "host_not_allowed",
            "the Host header names neither this machine's loopback nor a configured host (server.hosts)",
        ));
    }
    if !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        same_origin(host, headers)?;
        content_type(headers)?;
    }
    content_encoding(headers)?;
    length(config, headers)
}

/// The one authority that the request is for.
fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Result<&'r str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Refused::bad("invalid_host", "exactly one Host header is needed"));
    };
    let host = host
        .to_str()
        .map_err(|_| Refused::bad("invalid_host", "the Host header is no text"))?;
    match uri.authority() {
        Some(authority) if authority.as_str() != host => Err(Refused::bad(
            "invalid_host",
            "the request's target and its Host header differ",
        )),
        _ => Ok(host),
    }
}

fn is_allowed(authority: &str, config: &ApiConfig) -> bool {
    let Some(name) = without_port(authority) else {
        return false;
    };
    match address(name) {
        Some(address) => {
            address.is_loopback()
                || (config.any_address && !address.is_unspecified())
                || config
                    .hosts
                    .iter()
                    .any(|host| host.trim_matches(['[', ']']).parse() == Ok(address))
        }
        None => {
            name.eq_ignore_ascii_case("localhost") || config.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
        }
    }
}

/// The IP address that a host is, IPv6 in brackets.
fn address(host: &str) -> Option<IpAddr> {
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(six) => IpAddr::V6(six.parse().ok()?),
        None => IpAddr::V4(host.parse().ok()?),
    };
    Some(address.to_canonical())
}

/// The authority without its port; `None` where it is malformed.
fn without_port(authority: &str) -> Option<&str> {
    let end = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[end..].find(':') {
        None => Some(authority),
        Some(colon) => {
            let (name, port) = authority.split_at(end + colon);
            port[1..].bytes().all(|b| b.is_ascii_digit()).then_some(name)
        }
    }
}

fn same_origin(host: &str, headers: &HeaderMap) -> Result<()> {
    let foreign = |what: &str| {
        let detail = format!("a web page of another origin may not do this ({what})");
        Err(Refused::new(StatusCode::FORBIDDEN, "foreign_origin", detail))
    };
    for origin in headers.get_all(header::ORIGIN) {
        let authority = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.strip_prefix("http://").or(origin.strip_prefix("https://")));
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
            return foreign("Origin");
        }
    }
    let cross = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"cross-site");
    if headers.get_all("sec-fetch-site").iter().any(cross) {
        return foreign("Sec-Fetch-Site");
    }
    Ok(())
}

/// JSON, or no body at all.
fn content_type(headers: &HeaderMap) -> Result<()> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let is_json = match (types.next(), types.next()) {
        (None, _) => {
            let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
            empty && !headers.contains_key(header::TRANSFER_ENCODING)
        }
        (Some(one), None) => one.to_str().is_ok_and(|text| {
            let media_type = text.split(';').next().unwrap_or("").trim();
            media_type.eq_ignore_ascii_case("application/json")
        }),
        (Some(_), Some(_)) => false,
    };
    if is_json {
        return Ok(());
    }
    Err(Refused::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "send a body as JSON, with the header `Content-Type: application/json`",
    ))
}

/// None: what is small here could be of any size unpacked.
fn content_encoding(headers: &HeaderMap) -> Result<()> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    Err(Refused::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_content_encoding",
        "send the body as it is, without a Content-Encoding",
    ))
}

fn length(config: &ApiConfig, headers: &HeaderMap) -> Result<()> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > config.max_body_bytes as u64) {
        return Err(too_large(config.max_body_bytes));
    }
    Ok(())
}

/// 413.
pub(crate) fn too_large(most: usize) -> Refused {
    let detail = format!("this request's body has at most {most} bytes");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_configured_hosts_are_allowed() {
        let config = ApiConfig {
            hosts: vec!["robata.example.com".into(), "10.0.0.7".into(), "fd00::7".into()],
            ..ApiConfig::default()
        };
        for good in [
            "localhost",
            "LOCALHOST:7070",
            "127.0.0.1:7070",
            "127.8.9.1",
            "[::1]:7070",
            "[::1]",
            "[::ffff:127.0.0.1]:1",
            "Robata.example.com:80",
            "10.0.0.7",
            "[fd00::7]:1",
        ] {
            assert!(is_allowed(good, &config), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil:7070",
            "10.0.0.8",
            "[::2]",
            "localhost:80:90",
            "localhost@evil",
            "evil@localhost",
            "localhost:x",
            "[::1]evil",
            "0.0.0.0",
        ] {
            assert!(!is_allowed(bad, &config), "{bad}");
        }
    }

    #[test]
    fn what_others_reach_may_be_called_by_any_address_and_by_no_other_name() {
        let config = ApiConfig {
            any_address: true,
            ..ApiConfig::default()
        };
        for good in [
            "10.1.2.3",
            "10.1.2.3:7070",
            "192.0.2.1:1",
            "[fd00::5]:7070",
            "[::1]",
            "localhost",
        ] {
            assert!(is_allowed(good, &config), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "10.1.2.3.evil.example",
            "10.1.2",
            "10.1.2.3.",
            "0xa.1.2.3",
            "010.1.2.3",
            "167838211",
            "fd00::5",
            "[fd00::5",
            "[10.1.2.3]",
            "[fd00::5]x",
            "[fe80::1%25eth0]",
            "0.0.0.0:7070",
            "[::]",
            "10.1.2.3@evil.example",
            "10.1.2.3:80:90",
        ] {
            assert!(!is_allowed(bad, &config), "{bad}");
        }
    }
}
