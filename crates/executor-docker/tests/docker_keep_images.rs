//! Images that only our containers used go after their time, and nobody else's ever.

#[expect(dead_code, reason = "this test binary uses a part of it")]
mod support;

use std::time::{Duration, Instant};

use bollard::{
    Docker,
    query_parameters::{ListVolumesOptions, PushImageOptions, RemoveImageOptions, TagImageOptions},
};
use futures::TryStreamExt;
use robata_core::{
    InstallationId,
    definition::PullPolicy,
    executor::{Executor, Handle, Spec, label},
};
use robata_executor_docker::{DockerConfig, DockerExecutor, import_image};

/// Long enough for a test's own steps, short enough to be waited for.
const KEEP: Duration = Duration::from_secs(4);

struct Stage {
    config: DockerConfig,
    client: Docker,
    /// An image that the registry has and the engine has not.
    image: String,
}

impl Stage {
    async fn new() -> Self {
        let mut config = support::config(InstallationId::new());
        config.keep_images = Some(KEEP);
        let client = support::client(&config);
        let registry = support::variable("ROBATA_TEST_REGISTRY");
        let image = format!("{registry}/robata-test/kept-{}:1", uuid::Uuid::new_v4().simple());
        publish(&config, &client, &image).await;
        Self { config, client, image }
    }

    fn executor(&self) -> DockerExecutor {
        DockerExecutor::connect(self.config.clone()).expect("connect")
    }

    fn spec(&self, pull: PullPolicy) -> Spec {
        let mut spec = support::argv(&["/never-started"]);
        spec.image = Some(self.image.clone());
        spec.docker.pull = pull;
        spec
    }

    /// Has it pulled for a container.
    async fn prepare(&self, executor: &DockerExecutor, pull: PullPolicy) -> Handle {
        let made = executor.prepare(support::request(self.spec(pull))).await;
        made.expect("prepare").handle
    }

    async fn is_there(&self, image: &str) -> bool {
        self.client.inspect_image(image).await.is_ok()
    }

    async fn id(&self) -> String {
        let found = self.client.inspect_image(&self.image).await.expect("it is there");
        found.id.expect("an id")
    }

    /// Sweeps until the image is gone.
    async fn gone(&self, executor: &DockerExecutor, image: &str) {
        let begun = Instant::now();
        while self.is_there(image).await {
            assert!(begun.elapsed() < support::STATE, "{image} stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
            executor.owned().await.expect("owned");
        }
    }

    /// Sweeps for so long that what was to be removed would be gone.
    async fn outlasts(&self, executor: &DockerExecutor, image: &str) {
        let until = Instant::now() + KEEP * 2;
        while Instant::now() < until {
            executor.owned().await.expect("owned");
            assert!(self.is_there(image).await, "{image} is gone");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The volumes by which this installation remembers images.
    async fn records(&self) -> Vec<String> {
        let ours = format!("{}={}", label::INSTALLATION, self.config.installation);
        let filters = [("label".to_owned(), vec![ours, "robata.image".to_owned()])];
        let options = ListVolumesOptions {
            filters: Some(filters.into()),
        };
        let listed = self.client.list_volumes(Some(options)).await.expect("volumes");
        listed.volumes.into_iter().flatten().map(|volume| volume.name).collect()
    }

    async fn end(self) {
        support::empty(&self.config).await;
        remove(&self.client, &self.image).await;
        for name in self.records().await {
            let none = None::<bollard::query_parameters::RemoveVolumeOptions>;
            self.client.remove_volume(&name, none).await.expect("remove a record");
        }
    }
}

/// Makes an image that nobody else has, puts it into the registry, and forgets it here.
async fn publish(config: &DockerConfig, client: &Docker, image: &str) {
    // Two empty blocks are an archive without files; the name in it makes the image another one.
    let name = uuid::Uuid::new_v4().simple().to_string();
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000755");
    header[124..135].copy_from_slice(b"00000000000");
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'5';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.resize(512 * 3, 0);
    import_image(config.clone(), image, tar).await.expect("import");
    let (repository, tag) = image.rsplit_once(':').expect("a tag");
    let options = PushImageOptions {
        tag: Some(tag.to_owned()),
        ..PushImageOptions::default()
    };
    let nobody = bollard::auth::DockerCredentials::default();
    let pushed = client.push_image(repository, Some(options), Some(nobody));
    pushed.try_collect::<Vec<_>>().await.expect("push");
    remove(client, image).await;
}

async fn remove(client: &Docker, image: &str) {
    let options = RemoveImageOptions {
        force: true,
        ..RemoveImageOptions::default()
    };
    // Absent already is as good.
    client.remove_image(image, Some(options), None).await.ok();
}

#[tokio::test]
async fn an_image_pulled_from_the_registry_for_a_job_goes_after_its_time_whoever_looks_then() {
    let stage = Stage::new().await;
    let executor = stage.executor();
    let handle = stage.prepare(&executor, PullPolicy::IfAbsent).await;
    assert_eq!(stage.records().await.len(), 1);
    // While a container has it, it stays, whatever its age.
    stage.outlasts(&executor, &stage.image).await;
    executor.remove(&handle, true).await.expect("remove");
    // What the worker knew died with it; the proof is the engine's.
    drop(executor);
    let next = stage.executor();
    next.owned().await.expect("owned");
    assert!(stage.is_there(&stage.image).await, "it was used a moment ago");
    stage.gone(&next, &stage.image).await;
    assert_eq!(stage.records().await, Vec::<String>::new());
    // It comes again where it is asked for again.
    stage.prepare(&next, PullPolicy::IfAbsent).await;
    assert!(stage.is_there(&stage.image).await);
    stage.end().await;
}

#[tokio::test]
async fn an_image_of_the_registry_that_was_there_before_is_never_ours() {
    let stage = Stage::new().await;
    let pull = bollard::query_parameters::CreateImageOptions {
        from_image: Some(stage.image.clone()),
        ..Default::default()
    };
    let pulled = stage.client.create_image(Some(pull), None, None);
    pulled.try_collect::<Vec<_>>().await.expect("somebody pulls it");
    let executor = stage.executor();
    for policy in [PullPolicy::IfAbsent, PullPolicy::Always] {
        let handle = stage.prepare(&executor, policy).await;
        executor.remove(&handle, true).await.expect("remove");
    }
    assert_eq!(stage.records().await, Vec::<String>::new());
    stage.outlasts(&executor, &stage.image).await;
    stage.end().await;
}

#[tokio::test]
async fn an_image_of_the_registry_that_somebody_named_keeps_that_name() {
    let stage = Stage::new().await;
    let executor = stage.executor();
    let handle = stage.prepare(&executor, PullPolicy::IfAbsent).await;
    executor.remove(&handle, true).await.expect("remove");
    let other = format!("robata-test/named-{}", uuid::Uuid::new_v4().simple());
    let options = TagImageOptions {
        repo: Some(other.clone()),
        tag: Some("1".to_owned()),
    };
    stage.client.tag_image(&stage.image, Some(options)).await.expect("tag");
    let other = format!("{other}:1");
    stage.gone(&executor, &stage.image).await;
    stage.outlasts(&executor, &other).await;
    remove(&stage.client, &other).await;
    stage.end().await;
}

#[tokio::test]
async fn an_image_of_the_registry_that_another_installation_uses_stays() {
    let stage = Stage::new().await;
    let executor = stage.executor();
    let handle = stage.prepare(&executor, PullPolicy::IfAbsent).await;
    let other = support::config(InstallationId::new());
    let elsewhere = DockerExecutor::connect(other.clone()).expect("connect");
    let theirs = stage.prepare(&elsewhere, PullPolicy::IfAbsent).await;
    executor.remove(&handle, true).await.expect("remove");
    stage.outlasts(&executor, &stage.image).await;
    elsewhere.remove(&theirs, true).await.expect("remove");
    stage.gone(&executor, &stage.image).await;
    stage.end().await;
}

#[tokio::test]
async fn an_older_image_of_a_name_that_the_registry_has_moved_goes_too() {
    let stage = Stage::new().await;
    let executor = stage.executor();
    let handle = stage.prepare(&executor, PullPolicy::Always).await;
    let old = stage.id().await;
    executor.remove(&handle, true).await.expect("remove");
    // Published anew from somewhere else: a second engine is not needed for it, only that this one forgets the name again.
    let keep = format!("robata-test/aside-{}", uuid::Uuid::new_v4().simple());
    let options = TagImageOptions {
        repo: Some(keep.clone()),
        tag: Some("1".to_owned()),
    };
    stage.client.tag_image(&stage.image, Some(options)).await.expect("tag");
    publish(&stage.config, &stage.client, &stage.image).await;
    // The engine is as it was: the name stands for the old image.
    let (repository, tag) = stage.image.rsplit_once(':').expect("a tag");
    let back = TagImageOptions {
        repo: Some(repository.to_owned()),
        tag: Some(tag.to_owned()),
    };
    stage
        .client
        .tag_image(&format!("{keep}:1"), Some(back))
        .await
        .expect("tag");
    remove(&stage.client, &format!("{keep}:1")).await;
    assert_eq!(stage.id().await, old);

    let handle = stage.prepare(&executor, PullPolicy::Always).await;
    let new = stage.id().await;
    assert_ne!(new, old);
    assert_eq!(stage.records().await.len(), 2);
    // The new one is used all the time, which does not keep the old one.
    stage.gone(&executor, &old).await;
    assert!(stage.is_there(&stage.image).await);
    executor.remove(&handle, true).await.expect("remove");
    stage.gone(&executor, &stage.image).await;
    stage.end().await;
}

#[tokio::test]
async fn without_a_time_nothing_of_the_registry_is_remembered_or_removed() {
    let mut stage = Stage::new().await;
    stage.config.keep_images = None;
    let executor = stage.executor();
    let handle = stage.prepare(&executor, PullPolicy::IfAbsent).await;
    executor.remove(&handle, true).await.expect("remove");
    executor.owned().await.expect("owned");
    assert_eq!(stage.records().await, Vec::<String>::new());
    assert!(stage.is_there(&stage.image).await);
    stage.end().await;
}
