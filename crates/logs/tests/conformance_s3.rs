//! Logs in a bucket behind S3's API, as a real server speaks it: the contract of `robata_core::log_store`, and faults.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, path::Path, prefix::PrefixStore};
use robata_core::{AttemptId, ErrorKind, JobId, log_store::LogStore as _};
use robata_logs::{Logs, LogsConfig, S3Config};
use robata_testkit::log_store::Place;

const BUCKET: &str = "robata-logs-test";

fn service(variable: &str) -> Result<String> {
    std::env::var(variable)
        .with_context(|| format!("{variable} is not set: `tests/run --services` starts what these tests need"))
}

/// The bucket, made where it is not there, and in it a part of the test's own.
async fn bucket() -> Result<S3Config> {
    let mut s3 = S3Config::new(BUCKET);
    let endpoint = service("ROBATA_TEST_S3_URL")?;
    let made = robata_testkit::http()
        .build()?
        .put(format!("{endpoint}/{BUCKET}"))
        .send()
        .await?;
    anyhow::ensure!(made.status().is_success() || made.status() == 409, "{made:?}");
    s3.prefix = format!("tests/{}", JobId::new());
    s3.region = Some("us-east-1".to_owned());
    s3.endpoint = Some(endpoint);
    s3.keys = Some(("test".to_owned(), "test".to_owned()));
    Ok(s3)
}

fn config() -> LogsConfig {
    LogsConfig::default()
        .with_merge_bytes(100_000)
        .with_poll(Duration::from_millis(100))
}

/// The same part of the bucket by a client of the test's own.
fn client(s3: &S3Config) -> Result<Arc<dyn ObjectStore>> {
    let store = AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_region("us-east-1")
        .with_endpoint(s3.endpoint.as_deref().context("an endpoint")?)
        .with_allow_http(true)
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .build()?;
    Ok(Arc::new(PrefixStore::new(store, Path::parse(&s3.prefix)?)))
}

/// Cuts the object that was written last in the middle.
async fn tear(store: Arc<dyn ObjectStore>, attempt: AttemptId) -> Result<()> {
    let job = attempt.job.to_string();
    let prefix = Path::from_iter([&job[job.len() - 2..], &job, &attempt.number.to_string()]);
    let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await?;
    let last = objects
        .into_iter()
        .map(|object| object.location)
        .filter(|path| path.as_ref().ends_with(".chunk"))
        .max_by_key(|path| path.as_ref().rsplit('-').next().map(str::to_owned))
        .context("no chunk")?;
    let bytes = store.get(&last).await?.bytes().await?;
    store.put(&last, bytes.slice(..bytes.len() / 2).into()).await?;
    Ok(())
}

robata_testkit::log_store_suite!(async || {
    let s3 = bucket().await?;
    let store = client(&s3)?;
    Place::new(
        move || Ok(Logs::s3(&s3, config())?),
        move |attempt| tear(Arc::clone(&store), attempt),
    )
});

#[tokio::test]
async fn nothing_is_written_outside_of_the_prefix() -> Result<()> {
    let s3 = bucket().await?;
    let mut other = s3.clone();
    other.prefix = format!("{}-beside", s3.prefix);
    let logs = Logs::s3(&other, config())?;
    logs.check(Duration::from_secs(10)).await?;
    let objects: Vec<_> = client(&s3)?.list(None).try_collect().await?;
    assert_eq!(objects, []);
    Ok(())
}

#[test]
fn what_is_set_wins_over_the_environment() -> Result<()> {
    // The environment of a process cannot be changed safely from within.
    let there = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "nothing_is_written_outside_of_the_prefix"])
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .output()?;
    let told = String::from_utf8_lossy(&there.stdout);
    assert!(there.status.success() && told.contains("1 passed"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_is_not_there_fails_its_check_with_its_name() -> Result<()> {
    let mut s3 = bucket().await?;
    s3.bucket = "robata-no-such-bucket".to_owned();
    let error = Logs::s3(&s3, config())?
        .check(Duration::from_secs(10))
        .await
        .expect_err("there is no such bucket");
    assert!(
        error.full().contains("the log bucket robata-no-such-bucket"),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_within_the_time_given() -> Result<()> {
    let mut s3 = bucket().await?;
    // A port of ours on which nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    s3.endpoint = Some(format!("http://{closed}"));
    let bound = Duration::from_secs(2);
    let logs = Logs::s3(&s3, config().with_operation_timeout(bound))?;
    let error = logs.check(bound).await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(!error.full().contains("secret"), "{error:?}");
    Ok(())
}

#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    let refused = |change: fn(&mut S3Config)| {
        let mut s3 = S3Config::new(BUCKET);
        change(&mut s3);
        let error = Logs::s3(&s3, config()).expect_err("it cannot be used");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        error.full()
    };
    let told = refused(|s3| s3.endpoint = Some("minio:9000".to_owned()));
    assert!(told.contains("http://HOST:PORT"), "{told}");
    let told = refused(|s3| s3.ca = Some("/there/is/none.pem".into()));
    assert!(told.contains("/there/is/none.pem"), "{told}");
    let told = refused(|s3| s3.prefix = "a//b".to_owned());
    assert!(told.contains("the log bucket"), "{told}");
}

#[test]
fn a_key_is_not_shown() {
    let mut s3 = S3Config::new(BUCKET);
    s3.keys = Some(("the-id".to_owned(), "the-secret".to_owned()));
    let shown = format!("{s3:?}");
    assert!(shown.contains("the-id") && !shown.contains("the-secret"), "{shown}");
}
