//! A server with a certificate and a token, and the command line that speaks to it.

mod support;

use std::fs;

use support::{Options, Server, robata};

const TOKEN: &str = "an-admin-token-for-tests-only";

#[test]
fn the_command_line_speaks_https_to_a_server_whose_certificate_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let token = folder.path().join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let named = |name: &str, path: &std::path::Path| (name.to_owned(), path.display().to_string());
    let server = Server::with(Options {
        env: vec![
            named("ROBATA_SERVER__TLS__CERTIFICATE", &certificate),
            named("ROBATA_SERVER__TLS__KEY", &key),
            named("ROBATA_AUTH__ADMIN_TOKEN_FILE", &token),
        ],
        ..Options::default()
    });
    let url = server.event("listening").unwrap()["url"].as_str().unwrap().to_owned();
    let port = url.strip_prefix("https://127.0.0.1:").unwrap();
    let ask = |scheme: &str, trusts: bool, token: &str| {
        let mut command = robata();
        command.args(["--server", &format!("{scheme}://localhost:{port}"), "queues", "list"]);
        command.env("ROBATA_TOKEN", token);
        if trusts {
            command.env("SSL_CERT_FILE", &certificate);
        }
        support::Running::start(command).end()
    };
    ask("https", true, TOKEN).ok();
    let ran = ask("https", true, "some-other-token-of-this-length");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["token"]);
    let ran = ask("https", false, TOKEN);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.tells(&["certificate"]);
    let ran = ask("http", true, TOKEN);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(!server.stderr().contains(TOKEN) && !format!("{:?}", server.events()).contains(TOKEN));
}
