//! Cases of what a thing sees: its payload, its environment, its folder, its arguments.

use bytes::Bytes;
use robata_core::{Secret, executor::Target, finish::End};

use super::Stage;

/// A file that the thing can read, with these bytes, whose path stands in the variable asked for.
pub async fn the_payload_file_has_the_exact_bytes(stage: Stage) {
    // Every byte value, in a pattern that repeats in no power of two; and the bound of DESIGN.md §6.
    let large: Vec<u8> = (0..1_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    for payload in [
        Bytes::from_static(b"{\"a\": \"\\u0000\"}"),
        Bytes::from(large),
        Bytes::new(),
    ] {
        let mut spec = stage
            .sh("test -r \"$ROBATA_PAYLOAD_FILE\" && cat \"$ROBATA_PAYLOAD_FILE\" | od -An -v -tx1 | tr -d ' \\n'");
        spec.payload = payload.clone();
        spec.payload_file_env = Some("ROBATA_PAYLOAD_FILE".to_owned());
        let (handle, ending) = stage.run_to_end(spec).await;
        let printed = stage.printed(&handle).await;
        assert_eq!(ending.end, End::Exited(0), "{}", printed.all());
        let expected: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        // Not assert_eq: it would print megabytes.
        assert!(
            printed.text() == expected,
            "{} of {} digits",
            printed.text().len(),
            expected.len()
        );
    }
}

/// Variables come through as they are, whatever they hold.
pub async fn the_environment_is_exactly_as_given(stage: Stage) {
    let given = [
        ("PLAIN", "value"),
        ("EMPTY", ""),
        ("SPACES", "  two  spaces  "),
        ("LINES", "one\ntwo\n\nthree"),
        ("QUOTES", "\"double\" 'single' `back` $(no) ${PLAIN} \\ %s *"),
        ("EQUALS", "a=b=c"),
        ("UNICODE", "žluťoučký 🐎"),
        ("lower_case", "too"),
    ];
    let script: String = given
        .iter()
        .map(|(name, _)| format!("printf '%s\\001' \"${name}\"; "))
        .collect();
    let mut spec = stage.sh(&format!(
        "{script} printf '%s' \"${{LARGE}}\" | wc -c; echo \"${{UNSET-unset}}\""
    ));
    spec.env
        .extend(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
    spec.env.insert("LARGE".to_owned(), "x".repeat(32 << 10));
    let (handle, ending) = stage.run_to_end(spec).await;
    let printed = stage.printed(&handle).await;
    assert_eq!(ending.end, End::Exited(0), "{}", printed.all());
    let text = printed.text();
    let mut values: Vec<_> = text.split('\u{1}').collect();
    let rest = values.pop().unwrap_or_default();
    assert_eq!(values, given.map(|(_, value)| value));
    assert_eq!(rest.split_whitespace().collect::<Vec<_>>(), ["32768", "unset"]);
}

/// A secret's variable comes through as any other, and stands in nothing that is told of the thing.
pub async fn a_secret_is_in_the_environment_and_in_nothing_else(stage: Stage) {
    let value = "s3cr3t=with \"quotes\",\nlines and žluť";
    let mut spec = stage.sh("printf '%s\\001%s' \"$SECRET\" \"$PLAIN\"; exit 7");
    spec.env.insert("PLAIN".to_owned(), "plain".to_owned());
    // What is secret wins.
    spec.env.insert("SECRET".to_owned(), "plain".to_owned());
    let secret = Secret::from_bytes(value.as_bytes().to_vec()).expect("a value that an environment can hold");
    spec.secret_env.insert("SECRET".to_owned(), secret);
    let (handle, ending) = stage.run_to_end(spec).await;
    assert_eq!(ending.end, End::Exited(7));
    assert_eq!(stage.printed(&handle).await.text(), format!("{value}\u{1}plain"));
    let seen = stage
        .executor
        .observe(&[Target::Handle(handle.clone())])
        .await
        .expect("the engine answers");
    let owned = stage.executor.owned().await.expect("the engine answers");
    for told in [
        format!("{seen:?}"),
        format!("{owned:?}"),
        format!("{handle:?}{ending:?}"),
    ] {
        assert!(!told.contains("s3cr3t"), "{told}");
    }
    // An engine that tells what it is tells the truth, and what was not asked for it keeps to itself.
    let asked = ["SECRET".to_owned()].into();
    let told = stage
        .executor
        .secrets(&handle, &asked)
        .await
        .expect("the engine answers");
    if let Some(told) = told {
        let told: Vec<_> = told
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose()))
            .collect();
        assert_eq!(told, [("SECRET", value)]);
    }
}

/// Nothing of the worker's own environment reaches a job but PATH, HOME and LANG.
pub async fn nothing_of_our_environment_leaks_in(stage: Stage) {
    let ours: Vec<_> = std::env::vars()
        .filter(|(name, _)| !stage.harness().variables().contains(&name.as_str()))
        .filter(|(name, value)| {
            !["PATH", "HOME", "LANG", "PWD", "SHLVL", "_"].contains(&name.as_str()) && !value.contains('\n')
        })
        .collect();
    assert!(
        ours.iter().any(|(name, _)| name.starts_with("CARGO")),
        "a test runs with Cargo's variables"
    );
    let (handle, _) = stage.run_to_end(stage.sh("env")).await;
    let printed = stage.printed(&handle).await.text();
    assert!(printed.contains("ROBATA_SUITE_MARK="), "{printed}");
    for (name, value) in ours {
        let line = format!("{name}={value}");
        assert!(!printed.lines().any(|printed| printed == line), "leaked: {name}");
    }
}

/// It runs in the folder asked for.
pub async fn it_runs_in_the_given_folder(stage: Stage) {
    let mut spec = stage.sh("pwd");
    spec.working_dir = Some("/tmp".to_owned());
    let (handle, ending) = stage.run_to_end(spec).await;
    assert_eq!(
        (ending.end, stage.printed(&handle).await.text().as_str()),
        (End::Exited(0), "/tmp\n")
    );
}

/// Argv is argv: nothing of it is ever read by a shell, and entrypoint comes before command.
pub async fn arguments_are_no_shell_text(stage: Stage) {
    let mut spec = stage.argv(&["a b", "$HOME", "; exit 9", "'", "\"", "*", "", "-n", "line\nbreak"]);
    spec.entrypoint = Some(
        ["/bin/sh", "-c", "for arg; do printf '<%s>' \"$arg\"; done", "sh"]
            .map(str::to_owned)
            .to_vec(),
    );
    let (handle, ending) = stage.run_to_end(spec).await;
    assert_eq!(ending.end, End::Exited(0));
    assert_eq!(
        stage.printed(&handle).await.text(),
        "<a b><$HOME><; exit 9><'><\"><*><><-n><line\nbreak>"
    );
}
