//! What may set which variable of a job's environment: a secret's is set by nothing else.

use super::{Definition, PayloadEnv, document::check_env_name};
use crate::secret::MAX_SECRETS;

/// What is wrong with one key of a definition: its path, a stable word, and words for a person.
pub(super) type Wrong = (Vec<String>, &'static str, String);

/// What can be said of `secrets` alone.
pub(super) fn secrets(definition: &Definition) -> Vec<Wrong> {
    let mut wrong: Vec<Wrong> = definition
        .secrets
        .keys()
        .filter_map(|variable| Some((vec![variable.clone()], "invalid_name", check_env_name(variable).err()?)))
        .collect();
    if definition.secrets.len() > MAX_SECRETS {
        wrong.push((Vec::new(), "invalid", format!("names more than {MAX_SECRETS} secrets")));
    }
    wrong
}

/// Variables that a secret sets and something else, too: neither may win in silence.
pub(super) fn set_twice(definition: &Definition) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for variable in definition.secrets.keys() {
        let mut twice = |path: &[&str], what: &str| {
            let path = path.iter().map(|&key| key.to_owned()).collect();
            let words = format!("{variable} is set by `secrets`, and cannot be {what}: keep one");
            wrong.push((path, "set_twice", words));
        };
        if definition.env.contains_key(variable) {
            twice(&["env", variable], "set by `env`, too");
        }
        if definition.env_allow.contains(variable) {
            twice(&["env_allow"], "what an enqueuer may set");
        }
        if let PayloadEnv::Names(names) = &definition.payload_env
            && names.contains(variable)
        {
            twice(&["payload_env"], "a name of the payload");
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::definition::document::{check_options, definition, merge};

    fn problems(options: &Value) -> Vec<String> {
        let options = options.as_object().unwrap();
        let alone = check_options(options, &[]);
        let whole = definition(merge(&[options]), &["job"]).err().unwrap_or_default();
        let told = if alone.is_empty() { whole } else { alone };
        told.iter()
            .map(|problem| format!("{} {}", problem.path.join("."), problem.code))
            .collect()
    }

    #[test]
    fn a_secrets_name_can_be_no_path_and_no_option() {
        for name in [
            "../x", "a/b", "..", ".hidden", "-v", "", "a b", "a\0", "a..b", "x:y", "ž",
        ] {
            assert_eq!(
                problems(&json!({"command": ["x"], "secrets": {"A": name}})),
                ["secrets.A invalid"],
                "{name:?}"
            );
        }
        for name in ["database-url", "DATABASE_URL", "tls.crt", "_x", "1"] {
            assert!(
                problems(&json!({"command": ["x"], "secrets": {"A": name}})).is_empty(),
                "{name:?}"
            );
        }
        // Who writes the value where the name belongs does not find it in an error.
        let written = json!({"command": ["x"], "secrets": {"A": "postgres://u:hunter2@h/db"}});
        let told = check_options(written.as_object().unwrap(), &[]);
        assert!(told[0].message.contains("this is no secret name"), "{told:?}");
        assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
        let many: serde_json::Map<_, _> = (0..65).map(|n| (format!("V{n}"), json!("x"))).collect();
        assert_eq!(
            problems(&json!({"command": ["x"], "secrets": many})),
            ["secrets invalid"]
        );
    }

    #[test]
    fn what_is_the_platforms_no_secret_sets() {
        for ours in ["ROBATA_ATTEMPT", "TRACEPARENT", "A=B"] {
            let told = problems(&json!({"command": ["x"], "secrets": {ours: "x", "FINE": "x"}}));
            assert_eq!(told, [format!("secrets.{ours} invalid_name")]);
        }
    }

    #[test]
    fn a_variable_that_a_secret_sets_is_set_by_nothing_else() {
        for (other, path) in [
            (json!({"env": {"A": "1", "B": "2"}}), "job.env.A"),
            (json!({"env_allow": ["B", "A"]}), "job.env_allow"),
            (json!({"payload_env": ["A"]}), "job.payload_env"),
        ] {
            let mut options = json!({"command": ["x"], "secrets": {"A": "a"}});
            options
                .as_object_mut()
                .unwrap()
                .extend(other.as_object().unwrap().clone());
            assert_eq!(problems(&options), [format!("{path} set_twice")]);
        }
        let apart = json!({"command": ["x"], "secrets": {"A": "a"}, "env": {"B": "2"}, "env_allow": ["C"]});
        assert!(problems(&apart).is_empty());
    }
}
