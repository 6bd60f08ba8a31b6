//! What runs on this machine, seen from outside of any executor: a mark in a process's environment.

use std::fs;

/// The command lines of all live processes whose environment holds `mark`. Needs the rights to read them: root, for
/// what runs in containers.
#[must_use]
pub fn with_mark(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        // A process may end while we look; a zombie's environment is empty.
        let Ok(environment) = fs::read(path.join("environ")) else {
            continue;
        };
        if environment.windows(mark.len()).any(|window| window == mark.as_bytes()) {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            found.push(format!(
                "{} {}",
                entry.file_name().to_string_lossy(),
                String::from_utf8_lossy(&line).replace('\0', " ")
            ));
        }
    }
    found
}
