//! An image for the demo: one that is there or can be pulled, else one built from what is on this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use robata_core::{
    AttemptId, ClaimId, JobId,
    executor::{Executor, Prepare, Spec, label},
};
use robata_settings::DockerSettings;

use super::tar::Tar;
use crate::output::Output;

/// Small, public, with a shell and an awk.
const PUBLIC: &str = "busybox:1.37";
/// What is built here.
const BUILT: &str = "robata-demo:1";
/// A pull of 2 MB that takes longer has hung.
const PULL_WITHIN: Duration = Duration::from_secs(60);
/// What the demo's jobs call, and what a person tries first.
const TOOLS: [&str; 12] = [
    "sh", "awk", "sleep", "cat", "echo", "printf", "env", "ls", "true", "false", "date", "head",
];

/// An image's name and how it was had.
pub(crate) async fn find(
    executor: &dyn Executor,
    docker: &DockerSettings,
    out: &Output,
) -> anyhow::Result<(String, String)> {
    out.note(&format!("demo: looking for the image {PUBLIC}"));
    let pulled = match tokio::time::timeout(PULL_WITHIN, can_run(executor, PUBLIC)).await {
        Ok(Ok(())) => return Ok((PUBLIC.to_owned(), "a public image".to_owned())),
        Ok(Err(error)) => error.full(),
        Err(_) => format!("not within {} s", PULL_WITHIN.as_secs()),
    };
    let (tar, from) = built()
        .await
        .with_context(|| format!("{PUBLIC} cannot be pulled ({pulled}), and none can be built here"))?;
    robata_adapters::import_image(docker, BUILT, tar)
        .await
        .with_context(|| format!("{PUBLIC} cannot be pulled ({pulled}), and {BUILT} cannot be imported"))?;
    can_run(executor, BUILT)
        .await
        .context("the image that was built here cannot be used")?;
    Ok((
        BUILT.to_owned(),
        format!("built from this machine's {from}, since {PUBLIC} cannot be pulled"),
    ))
}

/// Whether the engine makes a container of this image, pulling it if need be; nothing is run, and nothing is left.
async fn can_run(executor: &dyn Executor, image: &str) -> robata_core::Result<()> {
    let attempt = AttemptId {
        job: JobId::new(),
        number: 1,
    };
    let labels = BTreeMap::from([
        (label::ATTEMPT.to_owned(), attempt.to_string()),
        (label::MARK.to_owned(), ClaimId::new().to_string()),
    ]);
    let request = Prepare {
        name: format!("robata-demo-{}", attempt.job.uuid().simple()),
        labels,
        spec: Spec {
            image: Some(image.to_owned()),
            command: Some(vec!["sh".to_owned()]),
            ..Spec::default()
        },
        progress: None,
    };
    let prepared = executor.prepare(request).await?;
    executor.remove(&prepared.handle, false).await
}

/// A root file system with the demo's tools, and what it was made from.
async fn built() -> anyhow::Result<(Vec<u8>, String)> {
    for path in ["/bin/busybox", "/usr/bin/busybox"] {
        let Ok(program) = std::fs::read(path) else { continue };
        if is_static(&program) {
            let mut tar = Tar::new();
            tar.folder("bin");
            tar.file("bin/busybox", &program);
            for tool in TOOLS {
                tar.link(&format!("bin/{tool}"), "busybox");
            }
            return Ok((tar.finish(), path.to_owned()));
        }
    }
    let mut tar = Tar::new();
    let mut files = BTreeMap::<PathBuf, PathBuf>::new();
    for tool in TOOLS {
        let Some(program) = which(tool) else {
            bail!("there is no {tool} on this machine");
        };
        for library in libraries(&program).await? {
            files.insert(library.clone(), library);
        }
        files.insert(Path::new("/bin").join(tool), program);
    }
    for (name, path) in &files {
        let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        tar.file(name.to_string_lossy().trim_start_matches('/'), &data);
    }
    Ok((tar.finish(), "shell, awk and their libraries".to_owned()))
}

fn which(tool: &str) -> Option<PathBuf> {
    ["/bin", "/usr/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.exists())
}

/// The libraries that a program needs, as `ldd` says.
async fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = tokio::process::Command::new("ldd")
        .arg(program)
        .output()
        .await
        .context("cannot run ldd")?;
    if !output.status.success() {
        bail!("ldd cannot read {}", program.display());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .collect())
}

/// Whether an ELF program asks for no loader (it has no PT_INTERP; elf(5)).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = program.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    // 64-bit, least significant byte first.
    if program.get(..6) != Some(b"\x7fELF\x02\x01") {
        return false;
    }
    let headers = || -> Option<bool> {
        let (at, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for index in 0..count {
            let kind = number(usize::try_from(at + index * size).ok()?, 4)?;
            if kind == u64::from(PT_INTERP) {
                return Some(false);
            }
        }
        Some(true)
    };
    headers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_is_not_static_and_text_is_no_program() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(!is_static(&own) || cfg!(target_env = "musl"));
        assert!(!is_static(b"#!/bin/sh"));
        assert!(!is_static(b""));
    }
}
