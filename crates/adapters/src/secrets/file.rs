//! A file of secrets: lines `APP/NAME=value`, read whole and strictly, anew each time.
//!
//! A value is the rest of its line, byte for byte: no quotes, no escapes, no other variables in it. Empty lines and lines that
//! begin with `#` are left out. A file with any other line is used for nothing, and told with the line's number alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use robata_core::{AppName, Error, ErrorKind, Result, Secret, SecretName, secret::Secrets};
use tokio::sync::Semaphore;

use super::{AT_ONCE, blocking, error, missing, read_file, unfit, unreadable};

/// A larger file is none of secrets.
const MOST: usize = 1 << 20;

/// The file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    places: Arc<Semaphore>,
}

impl File {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

#[async_trait]
impl Secrets for File {
    async fn resolve(&self, app: &AppName, names: &BTreeSet<SecretName>) -> Result<BTreeMap<SecretName, Secret>> {
        let (path, app, names) = (self.path.clone(), app.clone(), names.clone());
        let read = move || read(&path, &app, &names);
        blocking(&self.places, &self.path, read).await
    }
}

fn read(path: &Path, app: &AppName, names: &BTreeSet<SecretName>) -> Result<BTreeMap<SecretName, Secret>> {
    let bytes = read_file(path, MOST).map_err(|why| unreadable(path, &why))?;
    if bytes.len() > MOST {
        return Err(wrong(path, "it has more than 1 MiB"));
    }
    let lines = lines(&bytes).map_err(|(number, why)| wrong(path, &format!("line {number} {why}")))?;
    names
        .iter()
        .map(|name| {
            let place = format!("{app}/{name} in {}", path.display());
            let value = lines
                .get(&(app.as_str(), name.as_str()))
                .ok_or_else(|| missing(app, name, &place))?;
            let value = Secret::from_bytes(value.to_vec()).map_err(|why| unfit(app, name, &place, &why))?;
            Ok((name.clone(), value))
        })
        .collect()
}

/// The operator's mistake, not the job's: it is waited until it is set right.
fn wrong(path: &Path, why: &str) -> Error {
    error(
        ErrorKind::Unavailable,
        format!("the file of secrets {} cannot be used: {why}", path.display()),
    )
}

type Lines<'a> = BTreeMap<(&'a str, &'a str), &'a [u8]>;

/// (app, name) → value, or the first line that is wrong, with its number.
fn lines(bytes: &[u8]) -> std::result::Result<Lines<'_>, (usize, &'static str)> {
    let mut found = Lines::new();
    for (line, number) in bytes.split(|byte| *byte == b'\n').zip(1..) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = |why| Err((number, why));
        if line.ends_with(b"\r") {
            return wrong("ends with a carriage return");
        }
        let Some(at) = line.iter().position(|byte| *byte == b'=') else {
            return wrong("is no APP/NAME=value");
        };
        let key = std::str::from_utf8(&line[..at])
            .ok()
            .and_then(|key| key.split_once('/'));
        let key = key.filter(|(app, name)| AppName::new(*app).is_ok() && SecretName::new(*name).is_ok());
        let Some(key) = key else {
            return wrong("is no APP/NAME=value");
        };
        if found.insert(key, &line[at + 1..]).is_some() {
            return wrong("names what a line before it names");
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_rest_of_its_line() {
        let text = b"# comment\n\nshop/url=postgres://u:p@h/db?a=b # no comment\nshop/quoted=\" x \"\nshop/empty=\nblog/url=$HOME";
        let found = lines(text).unwrap();
        assert_eq!(found[&("shop", "url")], b"postgres://u:p@h/db?a=b # no comment");
        assert_eq!(found[&("shop", "quoted")], b"\" x \"");
        assert_eq!(found[&("shop", "empty")], b"");
        assert_eq!(found[&("blog", "url")], b"$HOME");
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn any_other_line_is_told_by_its_number_alone() {
        for (text, number) in [
            ("shop/url", 1),
            ("\nurl=x", 2),
            ("shop/../x=x", 1),
            ("a/b=1\n shop/url=x", 2),
            ("a/b=1\na/b=2", 2),
            ("a/b=1\r\n", 1),
            ("export a/b=1", 1),
            ("a/b/c=1", 1),
        ] {
            assert_eq!(lines(text.as_bytes()).unwrap_err().0, number, "{text:?}");
        }
    }
}
