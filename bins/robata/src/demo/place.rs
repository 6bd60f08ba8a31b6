//! Where the demo's jobs run: in containers where Docker runs and an image can be had, else as processes; each said.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use robata_core::{ExecutorName, executor::Executor};
use robata_settings::ExecutorSettings;
use serde_json::Value;

use super::image;
use crate::{fault::Coded, output::Output};

/// An engine that does not answer within this time is taken as not reached.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// Where the jobs run.
#[derive(Debug)]
pub(crate) enum Place {
    Containers {
        executor: ExecutorName,
        image: String,
        how: String,
    },
    Processes {
        executor: ExecutorName,
        why: String,
    },
}

/// Finds a place, trying Docker first.
pub(crate) async fn find(
    executors: &BTreeMap<ExecutorName, Arc<dyn Executor>>,
    chosen: &[(ExecutorName, ExecutorSettings)],
    out: &Output,
) -> anyhow::Result<Place> {
    let mut why = "there is no Docker executor".to_owned();
    for (name, settings) in chosen {
        let ExecutorSettings::Docker(docker) = settings else {
            continue;
        };
        let Some(executor) = executors.get(name) else { continue };
        match tokio::time::timeout(REACHED_WITHIN, executor.realm()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                why = format!("Docker is not reached: {}", error.full());
                continue;
            }
            Err(_) => {
                why = "Docker does not answer".to_owned();
                continue;
            }
        }
        match image::find(&**executor, docker, out).await {
            Ok((image, how)) => {
                return Ok(Place::Containers {
                    executor: name.clone(),
                    image,
                    how,
                });
            }
            Err(error) => why = format!("no image can be had: {error:#}"),
        }
    }
    let process = chosen
        .iter()
        .find(|(_, settings)| matches!(settings, ExecutorSettings::Process(_)));
    match process {
        Some((name, _)) => Ok(Place::Processes {
            executor: name.clone(),
            why,
        }),
        None => Err(Coded {
            code: "demo",
            message: format!("the demo cannot run: {why}, and there is no process executor"),
        }
        .into()),
    }
}

impl Place {
    /// In words.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Containers { image, how, .. } => format!("the jobs run in Docker containers of {image} ({how})"),
            Self::Processes { why, .. } => format!("the jobs run as processes on this machine ({why})"),
        }
    }

    /// Sets image and executor in the demo's document.
    pub(crate) fn put_into(&self, document: &mut Value) {
        let app = &mut document["apps"]["demo"];
        match self {
            Self::Containers { executor, image, .. } => {
                app["image"] = image.as_str().into();
                app["executor"] = executor.as_str().into();
            }
            Self::Processes { executor, .. } => {
                if let Some(app) = app.as_object_mut() {
                    app.remove("image");
                }
                app["executor"] = executor.as_str().into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use robata_client::definitions::{self, Format};
    use robata_core::definition::Document;

    use super::*;

    fn names(text: &str) -> Vec<String> {
        let document = definitions::read(text, Format::Toml).unwrap().document;
        let jobs = document["apps"]["demo"]["jobs"].as_object().unwrap();
        jobs.keys().cloned().collect()
    }

    #[test]
    fn the_demo_has_its_five_jobs_and_is_valid_in_both_places() {
        let name = ExecutorName::new("there").unwrap();
        let mut expected: Vec<_> = super::super::JOBS.map(str::to_owned).to_vec();
        expected.sort();
        assert_eq!(names(super::super::DEFINITIONS), expected);
        for place in [
            Place::Containers {
                executor: name.clone(),
                image: "i:1".into(),
                how: "here".into(),
            },
            Place::Processes {
                executor: name.clone(),
                why: "so".into(),
            },
        ] {
            let mut document = definitions::read(super::super::DEFINITIONS, Format::Toml)
                .unwrap()
                .document;
            place.put_into(&mut document);
            let read = Document::read(&document).unwrap();
            let image = document["apps"]["demo"].get("image");
            assert_eq!(image.is_some(), matches!(place, Place::Containers { .. }));
            assert_eq!(read.apps.len(), 1);
        }
    }
}
