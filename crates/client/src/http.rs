//! The one way in which requests go out and answers come in.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use robata_api_types::{Problem, problem::PROBLEM_JSON};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::ClientError;

/// A connection is given up after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An ordinary answer is given up after this time; of a long one, each piece.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that has gone without a word is noticed about so long after it went, also where nothing is due from it.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// So much of an answer that is not Robata's is shown.
const SHOWN: usize = 200;

/// A client of one server. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Each piece of an answer has a time limit, the whole has none.
    long: reqwest::Client,
    base: Url,
    server: String,
    token: Option<Token>,
    /// The condition of changes of apps and definitions.
    pub(crate) if_match: Option<String>,
}

/// A token, which is never shown.
#[derive(Clone)]
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Client {
    /// A client of the server at this address (`http://HOST:PORT` or `https://HOST:PORT`; without a scheme `http://` is
    /// meant).
    ///
    /// Connects at the first request only. A server's certificate must be good by the system's roots, or by those that the
    /// variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name. The token goes with every request as `Authorization: Bearer`.
    pub fn new(server: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let invalid = |message: String| ClientError::InvalidServer {
            server: server.to_owned(),
            message,
        };
        let text = if server.contains("://") {
            server.to_owned()
        } else {
            format!("http://{server}")
        };
        let base: Url = text.parse().map_err(|error| invalid(format!("{error}")))?;
        let tls = tls(base.scheme()).map_err(invalid)?;
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .tls_backend_preconfigured(tls.clone())
                .tcp_keepalive(KEEPALIVE)
                .tcp_nodelay(true)
                .redirect(reqwest::redirect::Policy::none());
            if is_loopback(&base) {
                builder.no_proxy()
            } else {
                builder
            }
        };
        if token.is_some_and(|token| token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(ClientError::InvalidToken);
        }
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|error| invalid(error.to_string()));
        Ok(Self {
            http: build(builder())?,
            long: build(builder().read_timeout(TIMEOUT))?,
            server: base.as_str().trim_end_matches('/').to_owned(),
            base,
            token: token.map(|token| Token(token.to_owned())),
            if_match: None,
        })
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A request to a path below `/api/v1`.
    pub(crate) fn api(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request(&self.http, method, &below_api(path)).timeout(TIMEOUT)
    }

    /// A request to a path below `/api/v1` whose answer may take however long, if only each piece of it comes in time.
    pub(crate) fn api_long(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request(&self.long, method, &below_api(path))
    }

    /// The same where even a piece may take however long: nothing is due until something happens.
    pub(crate) fn api_endless(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request(&self.http, method, &below_api(path))
    }

    /// A request to a path.
    pub(crate) fn plain(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request(&self.http, method, path).timeout(TIMEOUT)
    }

    fn request(&self, http: &reqwest::Client, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // Only addresses that cannot have a path fail here, and http:// ones can.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = http.request(method, url);
        match &self.token {
            Some(Token(token)) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends, and turns everything but success into an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = self.send_any(request).await?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refused(response).await)
        }
    }

    /// Sends, whatever the answer's status.
    pub(crate) async fn send_any(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|source| {
            let server = self.server.clone();
            ClientError::Unreachable { server, source }
        })
    }

    /// Sends and reads a JSON answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        self.read(response).await
    }

    /// Reads a JSON answer.
    pub(crate) async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let status = response.status().as_u16();
        let is_json = media_type(&response).ends_with("json");
        let body = self.body(response).await?;
        if !is_json {
            return Err(self.unexpected(status, &body));
        }
        serde_json::from_slice(&body).map_err(|source| ClientError::Decode {
            server: self.server.clone(),
            source,
        })
    }

    async fn body(&self, response: Response) -> Result<Bytes, ClientError> {
        response.bytes().await.map_err(|source| self.broke_off(Some(source)))
    }

    pub(crate) fn broke_off(&self, source: Option<reqwest::Error>) -> ClientError {
        ClientError::BrokeOff {
            server: self.server.clone(),
            source,
        }
    }

    pub(crate) async fn refused(&self, response: Response) -> ClientError {
        let status = response.status().as_u16();
        let is_problem = media_type(&response) == PROBLEM_JSON;
        let body = match self.body(response).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if is_problem && status == StatusCode::UNAUTHORIZED => ClientError::Unauthenticated {
                server: self.server.clone(),
                with_token: self.token.is_some(),
                problem: Box::new(problem),
            },
            Ok(problem) if is_problem => ClientError::Problem(Box::new(problem)),
            _ => self.unexpected(status, &body),
        }
    }

    fn unexpected(&self, status: u16, body: &[u8]) -> ClientError {
        ClientError::Unexpected {
            server: self.server.clone(),
            status,
            body: String::from_utf8_lossy(body).chars().take(SHOWN).collect(),
        }
    }
}

/// How https is spoken: by rustls, with the library's own cryptography whatever the program around it has set up.
fn tls(scheme: &str) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(match scheme {
        // Redirects are not followed: nothing of it is ever used, and no roots need be read.
        "http" => builder.with_root_certificates(RootCertStore::empty()),
        "https" => builder
            .with_platform_verifier()
            .map_err(|error| format!("the system's root certificates cannot be read: {error}"))?,
        _ => return Err("only http:// and https:// are spoken here".to_owned()),
    }
    .with_no_client_auth())
}

fn below_api<'p>(path: &[&'p str]) -> Vec<&'p str> {
    ["api", "v1"].iter().chain(path).copied().collect()
}

/// A JSON body without a detour over a tree.
pub(crate) fn with_json<T: Serialize>(request: RequestBuilder, body: &T) -> RequestBuilder {
    request.json(body)
}

fn media_type(response: &Response) -> &str {
    let value = response.headers().get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim()
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
