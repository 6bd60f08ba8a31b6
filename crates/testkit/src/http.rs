//! A client of plain HTTP for tests: by hand, without the typed client that is under test.

/// Begins one that goes past every proxy.
pub fn http() -> reqwest::ClientBuilder {
    // No TLS is spoken by it, but reqwest wants to know how all the same. Only the first call installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}
