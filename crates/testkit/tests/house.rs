//! The rules of the house (ARCHITECTURE.md), each a test that says what to do when it fails: which crate may know which,
//! what things are called, and what every file begins with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const LONGEST_FILE: usize = 600;
/// Runtimes and what does I/O: `core` is functions of values.
const RUNTIMES: [&str; 12] = [
    "tokio",
    "async-std",
    "smol",
    "mio",
    "reqwest",
    "hyper",
    "sqlx",
    "bollard",
    "object_store",
    "axum",
    "nix",
    "rustix",
];
/// Words that say nothing about what is in a module.
const EMPTY_WORDS: [&str; 10] = [
    "utils", "util", "common", "helpers", "helper", "manager", "managers", "types", "misc", "stuff",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace's folder")
}

/// What `cargo` prints, without touching the network.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {errors}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("cargo prints text")
}

/// A crate of the workspace.
struct Package {
    name: String,
    folder: PathBuf,
    is_binary: bool,
    /// Dependencies that are built into it: normal and build, optional ones too.
    normal: BTreeSet<String>,
}

impl Package {
    fn folder_name(&self) -> &str {
        self.folder
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a folder has a name")
    }

    fn is_adapter(&self) -> bool {
        is_adapter(&self.name)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }
}

fn is_adapter(name: &str) -> bool {
    let families = ["robata-store-", "robata-queue-", "robata-executor-"];
    name == "robata-logs" || families.iter().any(|family| name.starts_with(family))
}

fn packages() -> Vec<Package> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let packages: Vec<_> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let folder = PathBuf::from(text(&package["manifest_path"]))
                .parent()
                .expect("a folder")
                .to_owned();
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            Package {
                name: text(&package["name"]),
                is_binary: folder.parent().is_some_and(|parent| parent.ends_with("bins")),
                folder,
                normal: dependencies
                    .iter()
                    .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
                    .map(|dependency| text(&dependency["name"]))
                    .collect(),
            }
        })
        .collect();
    assert!(packages.len() >= 14, "only {} packages were found", packages.len());
    packages
}

/// Every source file of the workspace, with its text.
fn sources() -> BTreeMap<PathBuf, String> {
    fn walk(folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).expect("a folder that can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is text");
                files.insert(path, text);
            }
        }
    }
    let mut files = BTreeMap::new();
    for folder in ["crates", "bins", "fuzz"] {
        walk(&root().join(folder), &mut files);
    }
    assert!(files.len() > 100, "only {} source files were found", files.len());
    files
}

/// Fails with all that was found wrong, and what to do about it.
fn none(what_to_do: &str, wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<_> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{what_to_do}:\n  {}", wrong.join("\n  "));
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn core_depends_on_no_other_crate_of_the_workspace() {
    let packages = packages();
    let core = packages
        .iter()
        .find(|package| package.name == "robata-core")
        .expect("robata-core");
    none(
        "core is the ground: move what needs these into the crate that has them",
        core.normal.iter().filter(|name| name.starts_with("robata")).cloned(),
    );
}

#[test]
fn core_depends_on_no_runtime_and_does_no_io() {
    let tree = cargo(&[
        "tree",
        "--offline",
        "-p",
        "robata-core",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("serde"), "cargo tree shows nothing: {tree}");
    none(
        "core must not reach these, not even through another crate; whoever calls it brings time and I/O",
        RUNTIMES
            .iter()
            .filter(|name| names.contains(*name))
            .map(|name| (*name).to_owned()),
    );
}

#[test]
fn an_adapter_depends_on_core_alone() {
    none(
        "an adapter knows robata-core and its backend; what it shares with others belongs into core, or is its own",
        packages()
            .iter()
            .filter(|package| package.is_adapter())
            .flat_map(|package| {
                let others = package
                    .normal
                    .iter()
                    .filter(|name| name.starts_with("robata") && *name != "robata-core");
                others
                    .map(|other| format!("{} depends on {other}", package.name))
                    .collect::<Vec<_>>()
            }),
    );
}

#[test]
fn only_the_facade_knows_adapters() {
    none(
        "engines, faces and binaries see Arc<dyn …>; only robata-adapters names an adapter, and re-exports what main needs",
        packages()
            .iter()
            .filter(|package| package.name != "robata-adapters")
            .flat_map(|package| {
                let known = package.normal.iter().filter(|name| is_adapter(name));
                known
                    .map(|adapter| format!("{} depends on {adapter}", package.name))
                    .collect::<Vec<_>>()
            }),
    );
}

#[test]
fn the_testkit_is_a_dev_dependency_only() {
    none(
        "move robata-testkit to [dev-dependencies]",
        packages()
            .iter()
            .filter(|package| package.normal.contains("robata-testkit"))
            .map(|package| package.name.clone()),
    );
}

#[test]
fn only_binaries_set_up_telemetry() {
    let setting_up = [
        "tracing-subscriber",
        "opentelemetry_sdk",
        "opentelemetry-prometheus",
        "prometheus",
    ];
    none(
        "a library uses tracing and the API crate opentelemetry; who listens is the binary's choice, by robata-telemetry",
        packages()
            .iter()
            .filter(|package| package.name != "robata-telemetry")
            .filter(|package| setting_up.iter().any(|name| package.normal.contains(*name)))
            .map(|package| package.name.clone()),
    );
    none(
        "only robata-daemon, which is the binaries' own, uses robata-telemetry; only binaries use robata-daemon",
        packages().iter().flat_map(|package| {
            let telemetry = package.normal.contains("robata-telemetry") && package.name != "robata-daemon";
            let daemon = package.normal.contains("robata-daemon") && !package.is_binary;
            (telemetry || daemon).then(|| package.name.clone())
        }),
    );
}

#[test]
fn only_binaries_read_settings() {
    let may = ["robata-adapters", "robata-daemon"];
    none(
        "settings are read by binaries (with robata-daemon) and turned into adapters by robata-adapters; others have options of their own",
        packages()
            .iter()
            .filter(|package| !package.is_binary && !may.contains(&package.name.as_str()))
            .filter(|package| package.normal.contains("robata-settings"))
            .map(|package| package.name.clone()),
    );
}

#[test]
fn a_package_is_named_after_its_folder() {
    let packages = packages();
    none(
        "a library is robata- and its folder's name; a binary its folder's name, with -daemon behind it where a library has that name",
        packages.iter().filter_map(|package| {
            let folder = package.folder_name();
            let library = format!("robata-{folder}");
            let taken = packages.iter().any(|other| !other.is_binary && other.name == folder);
            let expected = match (package.is_binary, taken) {
                (false, _) => library,
                (true, false) => folder.to_owned(),
                (true, true) => format!("{folder}-daemon"),
            };
            (package.name != expected).then(|| format!("{} should be {expected}", package.name))
        }),
    );
}

#[test]
fn every_crate_has_a_readme_that_names_it() {
    none(
        "write a README.md that says what the crate is and shows it in use, beginning with its name",
        packages().iter().filter_map(|package| {
            let named = package.read("README.md").contains(&package.name);
            (!named).then(|| shown(&package.folder.join("README.md")))
        }),
    );
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's Cargo.toml");
    let table: Vec<_> = workspace
        .split("[workspace.lints.")
        .skip(1)
        .flat_map(|table| table.split("\n[").next().unwrap_or_default().lines().skip(1))
        .filter(|line| line.contains(" = ") && !line.starts_with("unsafe_code"))
        .collect();
    assert!(table.len() > 5, "the workspace has lost its lints: {table:?}");
    none(
        "add [lints] workspace = true to its Cargo.toml",
        packages().iter().filter_map(|package| {
            let manifest = package.read("Cargo.toml");
            let inherits = manifest.contains("[lints]\nworkspace = true");
            // A forbidden lint cannot be turned down in one crate: whoever needs unsafe code copies the table, with this
            // one lint denied instead, and a comment that says why.
            let copies = table.iter().all(|lint| manifest.contains(lint))
                && manifest.contains("unsafe_code = \"deny\"")
                && manifest
                    .lines()
                    .any(|line| line.starts_with('#') && line.contains("unsafe"));
            (!inherits && !copies).then(|| shown(&package.folder.join("Cargo.toml")))
        }),
    );
}

#[test]
fn adapters_have_the_same_file_names() {
    none(
        "an adapter has lib.rs, config.rs, error.rs, the file of its seam, and tests/conformance.rs",
        packages()
            .iter()
            .filter(|package| package.is_adapter())
            .flat_map(|package| {
                let seam = match package.folder_name().split('-').next() {
                    Some("store") => "src/store.rs",
                    Some("queue") => "src/queue.rs",
                    Some("executor") => "src/executor.rs",
                    _ => "src/log_store.rs",
                };
                [
                    "src/lib.rs",
                    "src/config.rs",
                    "src/error.rs",
                    seam,
                    "tests/conformance.rs",
                ]
                .into_iter()
                .filter(|file| !package.folder.join(file).is_file())
                .map(|file| format!("{} is not there", shown(&package.folder.join(file))))
                .collect::<Vec<_>>()
            }),
    );
}

#[test]
fn every_file_opens_with_a_line_that_says_why_it_exists() {
    none(
        "begin the file with a //! line (a crate's lib.rs with its README as documentation)",
        sources()
            .iter()
            .filter(|(_, text)| !text.starts_with("//! ") && !text.starts_with("#![doc"))
            .map(|(path, _)| shown(path)),
    );
}

#[test]
fn no_module_is_called_by_a_word_that_says_nothing() {
    none(
        "name the module after what is in it",
        sources().keys().map(|path| shown(path)).filter(|path| {
            path.split('/')
                .any(|part| EMPTY_WORDS.contains(&part.strip_suffix(".rs").unwrap_or(part)))
        }),
    );
}

#[test]
fn a_lint_is_expected_with_a_reason_and_never_allowed() {
    // Put together here, so that this file does not find itself.
    let marks = [concat!("#[", "allow("), concat!("#![", "allow(")];
    none(
        "write #[expect(lint, reason = \"…\")] instead, which fails when it is no longer needed",
        sources().iter().flat_map(|(path, text)| {
            // What several test programs share is used by each in part: there an expectation would fail in one of them.
            let shared = path.to_string_lossy().contains("/tests/support/");
            let lines = text.lines().zip(1..).filter(move |(line, _)| {
                marks.iter().any(|mark| line.contains(mark)) && !(shared && line.contains("reason = "))
            });
            lines
                .map(|(_, number)| format!("{}:{number}", shown(path)))
                .collect::<Vec<_>>()
        }),
    );
}

#[test]
fn no_test_sits_out() {
    let marks = [concat!("#[", "ignore"), concat!("#[cfg_attr(not(", "docker")];
    none(
        "a test that needs a service says so by its name and is left out by the runner, which counts it",
        sources().iter().flat_map(|(path, text)| {
            // What several test programs share is used by each in part: there an expectation would fail in one of them.
            let shared = path.to_string_lossy().contains("/tests/support/");
            let lines = text.lines().zip(1..).filter(move |(line, _)| {
                marks.iter().any(|mark| line.contains(mark)) && !(shared && line.contains("reason = "))
            });
            lines
                .map(|(_, number)| format!("{}:{number}", shown(path)))
                .collect::<Vec<_>>()
        }),
    );
}

#[test]
fn no_file_is_longer_than_anybody_reads() {
    none(
        &format!("split the file: one of more than {LONGEST_FILE} lines holds more than one thing"),
        sources().iter().filter_map(|(path, text)| {
            let lines = text.lines().count();
            (lines > LONGEST_FILE).then(|| format!("{} has {lines}", shown(path)))
        }),
    );
}
