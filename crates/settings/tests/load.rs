//! Settings through the front door: layers, places, mistakes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::{path::PathBuf, time::Duration};

use robata_settings::{Defaults, Errors, ExecutorSettings, Flag, Loaded, LogSettings, Place, Sources};

fn sources(file: Option<PathBuf>, variables: &[(&str, &str)]) -> Sources {
    Sources {
        defaults: Defaults {
            data_folder: "/data".into(),
            host: "here".into(),
            cores: 2,
        },
        file,
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: Vec::new(),
    }
}

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Errors> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("robata.toml");
    std::fs::write(&path, text).unwrap();
    sources(Some(path), variables).load()
}

fn told(text: &str, variables: &[(&str, &str)]) -> String {
    load(text, variables).unwrap_err().to_string()
}

#[test]
fn without_any_source_the_defaults_are_in_force() {
    let loaded = sources(None, &[]).load().unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(settings.limits.payload_bytes.bytes, 1 << 20);
    assert_eq!(settings.default_executor().unwrap().as_str(), "docker");
    let names: Vec<_> = settings.executors.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["docker", "process"]);
    assert!(settings.executors.values().all(|executor| executor.slots() == 4));
    assert!(loaded.provenance().iter().all(|entry| entry.place == Place::Default));
}

#[test]
fn a_file_without_end_is_refused_and_not_read_to_it() {
    let endless = PathBuf::from("/dev/zero");
    let told = sources(Some(endless), &[]).load().unwrap_err().to_string();
    assert!(told.contains("cannot read /dev/zero: it has more than 1 MiB"), "{told}");
    let told = self::told("", &[("ROBATA_AUTH__ADMIN_TOKEN_FILE", "/dev/zero")]);
    assert!(told.contains("cannot read /dev/zero: it has more than 1 MiB"), "{told}");
}

#[test]
fn the_later_layer_wins_and_each_value_knows_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("robata.toml");
    std::fs::write(
        &path,
        "[server]\nlisten = \"127.0.0.1:1\"\nhosts = [\"a\"]\n\n[limits]\nlabels = 3\n",
    )
    .unwrap();
    let mut sources = sources(
        Some(path.clone()),
        &[
            ("ROBATA_SERVER__LISTEN", "127.0.0.1:2"),
            ("ROBATA_LIMITS__LABELS", "4"),
            ("ROBATA_JOB_ID", "x"),
            ("PATH", "a__b"),
        ],
    );
    sources.flags.push(Flag {
        name: "--listen",
        key: "server.listen".into(),
        value: "127.0.0.1:3".into(),
    });
    let loaded = sources.load().unwrap();
    assert_eq!(loaded.settings.server.listen.to_string(), "127.0.0.1:3");
    assert_eq!(loaded.settings.limits.labels, 4);
    let place = |key: &str| {
        loaded
            .provenance()
            .iter()
            .find(|entry| entry.key == key)
            .unwrap()
            .place
            .to_string()
    };
    assert_eq!(place("server.listen"), "flag --listen");
    assert_eq!(place("limits.labels"), "variable ROBATA_LIMITS__LABELS");
    assert_eq!(place("server.hosts"), format!("{}:3", path.display()));
    assert_eq!(place("limits.json_depth"), "default");
}

#[test]
fn folders_follow_the_data_folder() {
    let loaded = load("[data]\nfolder = \"/elsewhere\"\n", &[]).unwrap();
    let LogSettings::Folder(logs) = &loaded.settings.logs else {
        panic!("{:?}", loaded.settings.logs);
    };
    assert_eq!(logs.path, PathBuf::from("/elsewhere/logs"));
}

#[test]
fn every_mistake_is_told_with_its_place_and_the_nearest_key() {
    let told = told(
        "[server]\nlisen = \"127.0.0.1:1\"\n[limits]\nlabels = \"many\"\n[serverr]\nx = 1\ny = 2\n[executors.d.dokcer]\nslots = 1\n",
        &[("ROBATA_WORKER__HSOT", "x"), ("ROBATA_SERVER__LISTEN", "nowhere")],
    );
    for part in [
        "robata.toml:2: server.lisen: unknown key; did you mean `server.listen`?",
        "\n  2 | lisen = \"127.0.0.1:1\"\n    | ^^^^^",
        "robata.toml:4: limits.labels: ",
        "robata.toml:5: serverr: unknown key; did you mean `server`?",
        "robata.toml:8: executors.d.dokcer: no such adapter; there are docker, process; did you mean `executors.d.docker`?",
        "variable ROBATA_WORKER__HSOT: worker.hsot: unknown key; did you mean `worker.host`?",
        "variable ROBATA_SERVER__LISTEN: server.listen: ",
    ] {
        assert!(told.contains(part), "{part}\nis not in\n{told}");
    }
    assert_eq!(told.matches("serverr").count(), 2, "{told}");
}

#[test]
fn a_key_in_the_wrong_table_is_shown_its_own() {
    let told = told("[server]\nprune_every = \"1m\"\n", &[]);
    assert!(told.contains("did you mean `scheduler.prune_every`?"), "{told}");
}

#[test]
fn broken_toml_is_shown_with_line_and_caret() {
    let told = told("[server]\nlisten = \n", &[]);
    assert!(told.contains("robata.toml:2: not valid TOML: "), "{told}");
    assert!(told.contains("\n  2 | listen ="), "{told}");
    assert!(told.contains('^'), "{told}");
}

#[test]
fn an_adapter_of_a_later_version_says_so() {
    let told = told("[logs.gcs]\nbucket = \"x\"\n", &[]);
    assert!(told.contains("`gcs` is not available in this version"), "{told}");
    assert!(told.contains("which has folder, s3"), "{told}");
}

#[test]
fn two_adapters_in_one_place_are_told_with_both_places() {
    let told = told(
        "[executors.a.docker]\nslots = 1\n",
        &[("ROBATA_EXECUTORS__A__PROCESS__SLOTS", "1")],
    );
    assert!(told.contains("executors.a: takes one adapter"), "{told}");
    assert!(told.contains("robata.toml:1"), "{told}");
    assert!(told.contains("variable ROBATA_EXECUTORS__A__PROCESS__SLOTS"), "{told}");
}

#[test]
fn a_fence_stops_what_runs_one_minute_before_it_may_be_lost() {
    let fence = |more: &str| {
        let loaded = load(&format!("[executors.batch.process]\n{more}\n"), &[])?;
        let (_, executor) = loaded.settings.executors.first_key_value().unwrap();
        Ok::<_, Errors>(executor.fence())
    };
    assert_eq!(fence("").unwrap(), None);
    assert_eq!(fence("fence = true").unwrap(), Some(Duration::from_secs(540)));
    assert_eq!(fence("fence = true\nlost_after = \"never\"").unwrap(), None);
    let told = fence("fence = true\nlost_after = \"1m\"").unwrap_err().to_string();
    assert!(told.contains("executors.batch.process.lost_after"), "{told}");
}

#[test]
fn executors_named_in_the_file_are_all_there_are() {
    let loaded = load("[executors.batch.process]\nslots = 7\nlost_after = \"never\"\n", &[]).unwrap();
    assert_eq!(loaded.settings.default_executor().unwrap().as_str(), "batch");
    let (_, ExecutorSettings::Process(process)) = loaded.settings.executors.first_key_value().unwrap() else {
        panic!("no process")
    };
    assert_eq!((process.slots, process.lost_after.0), (7, None));
    assert_eq!(process.folder, PathBuf::from("/data/executors/batch"));
    assert_eq!(loaded.settings.executors.len(), 1);
}

#[test]
fn a_variable_changes_a_default_executor_and_keeps_the_other() {
    let variables = [("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST", "unix:///x.sock")];
    let loaded = sources(None, &variables).load().unwrap();
    assert_eq!(loaded.settings.executors.len(), 2);
    let ExecutorSettings::Docker(docker) = &loaded.settings.executors["docker"] else {
        panic!("no docker")
    };
    assert_eq!((docker.host.as_str(), docker.slots), ("unix:///x.sock", 4));
}

fn docker_hosts(loaded: &Loaded) -> Vec<(String, String)> {
    let entries = loaded.provenance().iter();
    let hosts = entries.filter(|entry| entry.key.ends_with(".docker.host"));
    hosts
        .map(|entry| (entry.value.as_str().unwrap().to_owned(), entry.place.to_string()))
        .collect()
}

#[test]
fn docker_host_names_the_engine_of_executors_that_name_none_and_is_told_as_its_place() {
    let variable = ("DOCKER_HOST", "unix:///run/user/1000/docker.sock");
    let told = (variable.1.to_owned(), "variable DOCKER_HOST".to_owned());
    let loaded = sources(None, &[variable]).load().unwrap();
    assert_eq!(docker_hosts(&loaded), std::slice::from_ref(&told));
    let ExecutorSettings::Docker(docker) = &loaded.settings.executors["docker"] else {
        panic!("no docker")
    };
    assert_eq!((docker.host.as_str(), docker.slots), (variable.1, 4));

    let file =
        "[executors.a.docker]\nslots = 1\n[executors.b.docker]\nhost = \"tcp://engine:2375\"\n[executors.c.process]\n";
    let loaded = load(file, &[variable]).unwrap();
    let hosts = docker_hosts(&loaded);
    assert_eq!(hosts[0], told);
    assert_eq!(hosts[1].0, "tcp://engine:2375");
    assert!(hosts[1].1.ends_with("robata.toml:4"), "{hosts:?}");

    let set = ("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST", "unix:///x.sock");
    let loaded = sources(None, &[variable, set]).load().unwrap();
    assert_eq!(
        docker_hosts(&loaded),
        [(set.1.to_owned(), format!("variable {}", set.0))]
    );
}

#[test]
fn without_docker_host_or_with_an_empty_one_the_engine_is_at_its_usual_place() {
    let usual = ("unix:///var/run/docker.sock".to_owned(), "default".to_owned());
    for variables in [&[][..], &[("DOCKER_HOST", "")]] {
        let loaded = sources(None, variables).load().unwrap();
        assert_eq!(docker_hosts(&loaded), std::slice::from_ref(&usual));
    }
}

#[test]
fn a_value_may_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host");
    std::fs::write(&path, "tcp://me:pw@engine:1\n").unwrap();
    let variables = [("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST_FILE", path.to_str().unwrap())];
    let loaded = sources(None, &variables).load().unwrap();
    let ExecutorSettings::Docker(docker) = &loaded.settings.executors["docker"] else {
        panic!("no docker")
    };
    assert_eq!(docker.host, "tcp://me:pw@engine:1");
    let entry = loaded
        .provenance()
        .iter()
        .find(|entry| entry.key.ends_with("docker.host"))
        .unwrap();
    assert_eq!(entry.value, "tcp://me:********@engine:1");
    assert!(entry.place.to_string().contains("_FILE ("), "{}", entry.place);
}

#[test]
fn listening_for_others_is_refused_without_an_admin_token() {
    let others = "[server]\nlisten = \"0.0.0.0:7070\"\n";
    let told = told(others, &[]);
    assert!(told.contains("robata.toml:2: server.listen: "), "{told}");
    assert!(
        told.contains("ROBATA_AUTH__ADMIN_TOKEN_FILE") && told.contains("use 127.0.0.1"),
        "{told}"
    );
    let token = [("ROBATA_AUTH__ADMIN_TOKEN", "0123456789abcdef0123")];
    let loaded = load(others, &token).unwrap();
    let entry = loaded
        .provenance()
        .iter()
        .find(|entry| entry.key == "auth.admin_token")
        .unwrap();
    assert_eq!(entry.value, "********");
}

#[test]
fn an_admin_token_that_could_be_guessed_and_half_of_tls_are_told() {
    let told = told("[auth]\nadmin_token = \"secret\"\n[server.tls]\nkey = \"/k\"\n", &[]);
    assert!(
        told.contains("robata.toml:2: auth.admin_token: must have at least 20"),
        "{told}"
    );
    assert!(told.contains("server.tls.certificate: must name a file"), "{told}");
    assert!(!told.contains("\"secret\""), "{told}");
}

#[test]
fn no_mistake_in_a_file_tells_the_secret_that_stands_on_its_line() {
    for text in [
        "[auth]\nadmin_token = \"hunter2\"\n",
        "[auth]\nadmin_tokn = \"hunter2\"\n",
        "[auth]\nadmin_token = \"hunter2\n",
        "[auth]\nadmin_token = [\"hunter2\"]\n",
        "auth = { admin_tok = \"hunter2\" }\n",
        "auth = { admin_token = \"hunter2\" \n",
        "[store.postgres]\nurll = \"postgres://me:hunter2@h/x\"\n",
        "[store.postgres]\nurl = \"http://me:hunter2@h/x\"\n",
        "[queue.redis]\nurl = \"http://me:hunter2@h/x\"\n",
        "[store.postgres]\nurl = \"postgres://me:hunter2@h/x\n",
    ] {
        let errors = load(text, &[]).unwrap_err();
        let told = format!("{errors}\n{errors:?}\n{}", serde_json::to_string(&errors).unwrap());
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("robata.toml:"), "{told}");
    }
    let number = told("[auth]\nadmin_token = 1234567890123456789\n", &[]);
    assert!(
        number.contains("auth.admin_token: must be text") && !number.contains("12345"),
        "{number}"
    );
}

#[test]
fn a_default_executor_that_is_not_there_is_told() {
    let told = told("[definitions]\ndefault_executor = \"batch\"\n", &[]);
    assert!(
        told.contains("there is no executor batch; there are docker, process"),
        "{told}"
    );
}

fn policy(file: &str) -> robata_core::Policy {
    let loaded = load(file, &[]).unwrap();
    let (name, executor) = loaded.settings.executors.first_key_value().unwrap();
    executor.policy(name)
}

#[test]
fn without_settings_an_executors_policy_is_the_default_one_in_its_own_table() {
    assert_eq!(
        policy("[executors.batch.docker]\n"),
        robata_core::Policy::of("executors.batch.docker")
    );
    let process = policy("[executors.here.process]\n");
    assert_eq!(
        (process.table.as_str(), process.containers),
        ("executors.here.process", None)
    );
    assert_eq!(process.apps, ["*"]);
}

#[test]
fn an_operators_policy_is_read_whole_and_an_empty_list_allows_nothing() {
    let policy = policy(
        "[executors.batch.docker]\napps = [\"shop\"]\nimages = []\nnetworks = [\"db\"]\nvolumes = [\"shop-*:rw\"]\n\
         mounts = [\"/srv/data:ro\", \"/scratch/:rw\"]\ndevices = [\"/dev/fuse\"]\ncap_add = [\"SYS_PTRACE\"]\ngpus = true\n\
         privileged = true\nmax = { cpu = 2, memory = \"4Gi\", timeout = \"6h\" }\n",
    );
    assert_eq!(policy.apps, ["shop"]);
    let max = policy.max;
    assert_eq!(
        (max.cpu.unwrap().millis, max.timeout),
        (2000, Some(Duration::from_secs(6 * 3600)))
    );
    let containers = policy.containers.unwrap();
    assert!(containers.images.is_empty() && containers.gpus && containers.privileged);
    let told: Vec<_> = containers
        .mounts
        .iter()
        .chain(&containers.volumes)
        .map(ToString::to_string)
        .collect();
    assert_eq!(told, ["/srv/data:ro", "/scratch/:rw", "shop-*:rw"]);
}

#[test]
fn a_policy_that_nobody_can_mean_is_told_with_its_place() {
    let told = told(
        "[executors.batch.docker]\nmounts = [\"/srv/../etc:ro\"]\nvolumes = [\"/srv:ro\"]\ndevices = [\"fuse\"]\n\
         cap_add = [\"sys-ptrace\"]\n",
        &[],
    );
    for part in [
        "robata.toml:2: executors.batch.docker.mounts: /srv/../etc:ro must be a whole path",
        "robata.toml:3: executors.batch.docker.volumes: /srv:ro is no volume's name",
        "robata.toml:4: executors.batch.docker.devices: \"fuse\" is no device",
        "robata.toml:5: executors.batch.docker.cap_add: \"sys-ptrace\" is no capability",
    ] {
        assert!(told.contains(part), "{part}\nis not in\n{told}");
    }
}

#[test]
fn a_policy_is_told_by_its_source_and_a_way_of_writing_that_is_none_with_what_may_stand_there() {
    let variable = ("ROBATA_EXECUTORS__DOCKER__DOCKER__MOUNTS", "[\"/srv/data:ro\"]");
    let loaded = sources(None, &[variable]).load().unwrap();
    let entry = |key: &str| loaded.provenance().iter().find(|entry| entry.key == key).unwrap();
    let mounts = entry("executors.docker.docker.mounts");
    assert_eq!(mounts.value, serde_json::json!(["/srv/data:ro"]));
    assert_eq!(mounts.place.to_string(), format!("variable {}", variable.0));
    let images = entry("executors.docker.docker.images");
    assert_eq!(
        (&images.value, &images.place),
        (&serde_json::json!(["*"]), &Place::Default)
    );
    let told = told(
        "[executors.batch.docker]\nmounts = [\"/srv/data\"]\nimage = [\"x\"]\n",
        &[],
    );
    assert!(told.contains("\"/srv/data\" must end in :ro or :rw"), "{told}");
    assert!(told.contains("did you mean `executors.batch.docker.images`?"), "{told}");
}
