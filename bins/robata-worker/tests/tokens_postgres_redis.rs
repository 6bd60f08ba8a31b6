//! Tokens over several masters and a worker: made at one, in force at the others, whether they hear of it or only look.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use support::{Site, eventually};

/// What is changed at one master is in force everywhere within this time.
const IN_FORCE: Duration = Duration::from_secs(10);

struct Bearer<'t> {
    http: &'t reqwest::Client,
    token: Option<&'t str>,
}

impl<'t> Bearer<'t> {
    /// The same with this token.
    fn with(&self, token: &'t str) -> Self {
        Self {
            http: self.http,
            token: Some(token),
        }
    }

    async fn send(&self, method: Method, url: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, url);
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    async fn get(&self, url: &str) -> u16 {
        self.send(Method::GET, url, None).await.0
    }

    async fn make(&self, master: &str, name: &str, role: &str) -> String {
        let body = json!({"name": name, "role": role});
        let (status, made) = self
            .send(Method::POST, &format!("{master}/api/v1/tokens"), Some(body))
            .await;
        assert_eq!(status, 201, "{made}");
        made["token"].as_str().unwrap().to_owned()
    }

    /// Waits until all of these are refused.
    async fn refused_at(&self, urls: &[&String]) {
        for url in urls {
            eventually(format!("{url} is refused"), || async {
                (self.get(url).await == 401).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_one_master_makes_and_revokes_is_in_force_at_all_also_where_no_word_of_it_arrives() {
    let site = Site::new().await;
    let (_one, one) = site.master().await;
    let (_two, two) = site.master().await;
    // It hears nothing of the others, as if every notification were lost.
    let (_deaf, deaf) = site.master_with(&[("ROBATA_STORE__POSTGRES__LISTEN_URL", "off")]).await;
    let worker = site.worker(&["--listen", "127.0.0.1:0"], &[]).await;
    let apps = [&one, &two, &deaf].map(|master| format!("{master}/api/v1/apps"));
    let metrics = format!("{}/metrics", worker.url().await);
    let everywhere = [&apps[0], &apps[1], &apps[2], &metrics];
    let http = robata_testkit::http().build().unwrap();
    let nobody = Bearer {
        http: &http,
        token: None,
    };
    // Each remembers that there is none.
    for url in everywhere {
        assert_eq!(nobody.get(url).await, 200, "{url}");
    }
    let begun = Instant::now();
    let root = nobody.make(&one, "root", "admin").await;
    nobody.refused_at(&everywhere).await;
    assert!(begun.elapsed() < IN_FORCE, "{:?}", begun.elapsed());

    // One made at any is valid at every other one at once.
    let root = nobody.with(&root);
    for (master, name) in [(&deaf, "ci"), (&one, "web")] {
        let token = root.make(master, name, "read").await;
        for url in everywhere {
            assert_eq!(nobody.with(&token).get(url).await, 200, "{name} {url}");
        }
        let revoked = Instant::now();
        let url = format!("{two}/api/v1/tokens/{name}");
        assert_eq!(root.send(Method::DELETE, &url, None).await.0, 204);
        nobody.with(&token).refused_at(&everywhere).await;
        assert!(revoked.elapsed() < IN_FORCE, "{name}: {:?}", revoked.elapsed());
    }

    // And every master tells the same of it.
    for master in [&one, &two, &deaf] {
        let (_, page) = root.send(Method::GET, &format!("{master}/api/v1/audit"), None).await;
        let records = page["records"].as_array().unwrap();
        let told: Vec<_> = records
            .iter()
            .map(|record| {
                let word = |key: &str| record[key].as_str().unwrap();
                [word("by"), word("action"), word("name")].join(" ")
            })
            .collect();
        assert_eq!(
            told,
            [
                "root revoke_token web",
                "root create_token web",
                "root revoke_token ci",
                "root create_token ci",
                "local create_token root"
            ]
        );
    }
}
