//! Images that an apply brings beside its document: what was built a minute ago, under a document that stays as it is.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Document, Problem,
    document::{Options, check_options},
};
use crate::name::AppName;

impl Document {
    /// Replaces the images of apps that the document names. Every mistake is told, with its path below `images`.
    #[must_use]
    pub fn set_images(&mut self, images: &BTreeMap<AppName, String>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, image) in images {
            let path = ["images", name.as_str()];
            let options = Options::from_iter([("image".to_owned(), Value::from(image.as_str()))]);
            problems.extend(check_options(&options, &path).into_iter().map(|mut problem| {
                problem.path.truncate(path.len());
                problem
            }));
            match self.apps.get_mut(name) {
                Some(app) => app.options.extend(options),
                None => {
                    let named: Vec<_> = self.apps.keys().map(AppName::as_str).collect();
                    let named = if named.is_empty() {
                        "it names none".to_owned()
                    } else {
                        format!("it names {}", named.join(", "))
                    };
                    problems.push(Problem {
                        path: path.map(str::to_owned).to_vec(),
                        code: "unknown_app",
                        message: format!("the document does not name the app {name}; {named}"),
                    });
                }
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::definition::Catalog;

    fn images(images: &[(&str, &str)]) -> BTreeMap<AppName, String> {
        let image = |(app, image): &(&str, &str)| (AppName::new(*app).unwrap(), (*image).to_owned());
        images.iter().map(image).collect()
    }

    #[test]
    fn an_image_replaces_the_apps_and_no_jobs_own() {
        let document = json!({"apps": {
            "shop": {"image": "shop:old", "jobs": {"a": {}, "b": {"image": "tool:1"}}},
            "bank": {"image": "bank:1", "jobs": {"c": {}}},
            "bare": {"jobs": {"d": {}}},
        }});
        let mut document = Document::read(&document).unwrap();
        let wrong = document.set_images(&images(&[("shop", "shop:new"), ("bare", "bare:new")]));
        assert_eq!(wrong, []);
        let mut catalog = Catalog::default();
        for write in catalog.plan(&document, false, &[]).unwrap().writes {
            catalog.write(write, Default::default());
        }
        for (app, job, image) in [
            ("shop", "a", "shop:new"),
            ("shop", "b", "tool:1"),
            ("bank", "c", "bank:1"),
            ("bare", "d", "bare:new"),
        ] {
            let entry = catalog.job(&app.parse().unwrap(), &job.parse().unwrap()).unwrap();
            assert_eq!(entry.definition.image.as_deref(), Some(image), "{app}/{job}");
        }
    }

    #[test]
    fn an_image_of_an_app_that_is_not_there_and_one_that_is_none_are_told_with_their_paths() {
        let mut document = Document::read(&json!({"apps": {"shop": {"image": "i"}}})).unwrap();
        let told: Vec<_> = document
            .set_images(&images(&[("shop", " i:2"), ("shpo", ""), ("bank", "bank:2")]))
            .iter()
            .map(|problem| (problem.path.join("."), problem.code))
            .collect();
        let expected = [
            ("images.bank", "unknown_app"),
            ("images.shop", "invalid"),
            ("images.shpo", "invalid"),
            ("images.shpo", "unknown_app"),
        ];
        assert_eq!(told, expected.map(|(path, code)| (path.to_owned(), code)));
    }
}
