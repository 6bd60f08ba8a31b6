//! Puts the layers together: defaults, file, environment, flags; the later one wins.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Profile, Provider,
    value::{Dict, Tag, Value},
};
use robata_core::ExecutorName;

use crate::{
    check,
    error::{Errors, Place, Problem},
    file::{self, File},
    layer::{Below, Layer, Numbered, Origin, leaves},
    provenance::{self, Entry},
    tables::{self, Settings, executor},
    whole,
};

/// The variable by which Docker's own programs are told where the engine is.
const DOCKER_HOST: &str = "DOCKER_HOST";

/// A larger file holds no settings; one without end is a device.
const MOST_BYTES: u64 = 1 << 20;

/// What the machine decides.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The data folder where none is set.
    pub data_folder: PathBuf,
    /// The machine's name.
    pub host: String,
    /// Its cores.
    pub cores: u32,
}

/// A setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag, as `--listen`.
    pub name: &'static str,
    /// The setting, as `server.listen`.
    pub key: String,
    /// The value.
    pub value: String,
}

/// All that settings come from. Nothing else is read: no environment, no folder of a user.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Below all.
    pub defaults: Defaults,
    /// The settings file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment; only `ROBATA_…` variables with `__` in them are settings, and Docker's own `DOCKER_HOST`, which
    /// says where the engine of an executor is that names none.
    pub variables: Vec<(String, String)>,
    /// Above all.
    pub flags: Vec<Flag>,
}

/// Settings, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub settings: Settings,
    pub(crate) entries: Vec<Entry>,
}

impl Loaded {
    /// Every setting in force with the place that it came from, secrets masked.
    #[must_use]
    pub fn provenance(&self) -> &[Entry] {
        &self.entries
    }
}

impl Sources {
    /// Reads and checks everything, or tells every mistake.
    pub fn load(&self) -> Result<Loaded, Errors> {
        let mut problems = Vec::new();
        let mut layers = self.layers(&mut problems);
        let known = self.known();
        for layer in &layers {
            problems.extend(check::layer(layer, &known));
        }
        let mut figment = Figment::new();
        for (number, layer) in layers.iter().enumerate() {
            figment = figment.merge(Numbered(number, layer));
        }
        let set = merged(&figment);
        let file_names_executors = layers
            .iter()
            .any(|layer| matches!(layer.origin, Origin::File(_)) && layer.values.contains_key("executors"));
        for (family, adapters) in check::chosen_twice(&set) {
            let places: Vec<_> = adapters
                .iter()
                .map(|adapter| {
                    let mut key = family.clone();
                    key.push(adapter.clone());
                    let place = layers.iter().rev().find(|layer| find(&layer.values, &key).is_some());
                    let place = place.map_or(Place::Default, |layer| layer.place(&key));
                    (adapter, place)
                })
                .collect();
            let told: Vec<_> = places
                .iter()
                .map(|(adapter, place)| format!("{adapter} ({place})"))
                .collect();
            let what = if family.last().is_some_and(|last| last == "secrets") {
                "place"
            } else {
                "adapter"
            };
            problems.push(Problem {
                key: family.join("."),
                place: places.first().map_or(Place::Default, |(_, place)| place.clone()),
                message: format!("takes one {what}, not {}: keep one", told.join(" and ")),
                nearest: None,
            });
        }
        if !problems.is_empty() {
            return Err(Errors(problems));
        }
        let below = self.below(&set, file_names_executors);
        // Above the defaults, below all else.
        for layer in self.docker_host(&set, &below) {
            figment = figment.join(Numbered(layers.len(), &layer));
            layers.push(layer);
        }
        let figment = figment.join(Below(below));
        let settings: Settings = figment.extract().map_err(|error| {
            Errors(
                error
                    .into_iter()
                    .map(|error| Problem {
                        key: error.path.join("."),
                        place: Place::Default,
                        message: error.kind.to_string(),
                        nearest: None,
                    })
                    .collect(),
            )
        })?;
        let entries = provenance::entries(&figment, &settings, &layers);
        whole::check(&settings, &entries)?;
        Ok(Loaded { settings, entries })
    }

    fn layers(&self, problems: &mut Vec<Problem>) -> Vec<Layer> {
        let mut layers = Vec::new();
        if let Some(path) = &self.file {
            match read_text(path) {
                Ok(text) => match File::parse(path.clone(), text) {
                    Ok(file) => layers.push(Layer {
                        values: file.values(),
                        origin: Origin::File(Box::new(file)),
                    }),
                    Err(problem) => problems.push(*problem),
                },
                Err(error) => problems.push(Problem {
                    key: String::new(),
                    place: Place::Flag("--config (or ROBATA_CONFIG)".to_owned()),
                    message: format!("cannot read {}: {error}", path.display()),
                    nearest: None,
                }),
            }
        }
        for (name, value) in &self.variables {
            let Some(key) = name.strip_prefix("ROBATA_").filter(|key| key.contains("__")) else {
                continue;
            };
            match variable(name, key, value) {
                Ok(layer) => layers.push(layer),
                Err(problem) => problems.push(*problem),
            }
        }
        for flag in &self.flags {
            let key: Vec<_> = flag.key.split('.').map(str::to_owned).collect();
            layers.push(Layer::single(
                Origin::Flag(flag.name.to_owned()),
                &key,
                typed(&key, &flag.value),
            ));
        }
        layers
    }

    /// `DOCKER_HOST` for each Docker executor of which no host is set.
    fn docker_host(&self, set: &Dict, below: &Dict) -> Vec<Layer> {
        let variable = self.variables.iter().find(|(name, _)| name == DOCKER_HOST);
        let Some((name, host)) = variable.filter(|(_, host)| !host.is_empty()) else {
            return Vec::new();
        };
        let executors = below.get("executors").and_then(Value::as_dict);
        executors
            .into_iter()
            .flatten()
            .map(|(executor, _)| ["executors", executor, "docker", "host"].map(str::to_owned))
            .filter(|key| find(below, key).is_some() && find(set, key).is_none())
            .map(|key| {
                let origin = Origin::Variable {
                    name: name.clone(),
                    file: None,
                };
                Layer::single(origin, &key, Value::from(host.as_str()))
            })
            .collect()
    }

    /// The defaults of what was chosen; folders follow the data folder.
    fn below(&self, set: &Dict, file_names_executors: bool) -> Dict {
        let Defaults {
            data_folder,
            host,
            cores,
        } = &self.defaults;
        let folder = find(set, &["data".to_owned(), "folder".to_owned()])
            .and_then(Value::as_str)
            .map_or_else(|| data_folder.clone(), PathBuf::from);
        let mut settings = Settings::on(&folder, host, *cores);
        if file_names_executors {
            settings.executors.clear();
        }
        let kind = |family: &str| set.get(family)?.as_dict()?.keys().next();
        if let Some(store) = kind("store").and_then(|kind| tables::store(kind)) {
            settings.store = store;
        }
        if let Some(queue) = kind("queue").and_then(|kind| tables::queue(kind)) {
            settings.queue = queue;
        }
        if let Some(logs) = kind("logs").and_then(|kind| tables::logs(kind)) {
            settings.logs = logs;
        }
        let chosen = set.get("executors").and_then(Value::as_dict);
        for (name, adapters) in chosen.into_iter().flatten() {
            let kind = adapters.as_dict().and_then(|kinds| kinds.keys().next());
            if let (Ok(name), Some(kind)) = (ExecutorName::new(name.as_str()), kind) {
                settings.executors.remove(&name);
                settings
                    .executors
                    .extend(executor(&name, kind, &folder, *cores).map(|found| (name, found)));
            }
        }
        match Value::serialize(&settings) {
            Ok(Value::Dict(_, values)) => values,
            // Our own plain data always becomes a table.
            _ => Dict::new(),
        }
    }

    /// All keys that there are by default, for hints.
    fn known(&self) -> Vec<String> {
        leaves(&self.below(&Dict::new(), false))
            .into_iter()
            .map(|(key, _)| key.join("."))
            .collect()
    }
}

/// A file's text, if it is one of settings by its size.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 1 MiB"));
    }
    Ok(text)
}

/// The layer of one variable; `…_FILE` names a file that holds the value.
fn variable(name: &str, key: &str, value: &str) -> Result<Layer, Box<Problem>> {
    // `…__FILE` is a key called `file`.
    let (key, file) = match key.strip_suffix("_FILE").filter(|key| !key.ends_with('_')) {
        Some(key) => (key, Some(PathBuf::from(value))),
        None => (key, None),
    };
    let key: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
    let wrong = |message: String| {
        Box::new(Problem {
            key: key.join("."),
            place: Place::Variable {
                name: name.to_owned(),
                file: None,
            },
            message,
            nearest: None,
        })
    };
    if key.iter().any(String::is_empty) {
        return Err(wrong(
            "a setting's variable is ROBATA_TABLE__KEY, with a name between all `__`".to_owned(),
        ));
    }
    let text = match &file {
        Some(path) => read_text(path)
            .map_err(|error| wrong(format!("cannot read {}: {error}", path.display())))?
            // Editors and `echo` end files with a newline that is no part of a secret.
            .trim_end_matches(['\r', '\n'])
            .to_owned(),
        None => value.to_owned(),
    };
    let value = typed(&key, &text);
    let origin = Origin::Variable {
        name: name.to_owned(),
        file,
    };
    Ok(Layer::single(origin, &key, value))
}

/// The value that a text means: text where the setting takes text, else as TOML writes it.
fn typed(key: &[String], text: &str) -> Value {
    let plain = Value::from(text);
    if check::fits(key, &plain).is_ok() {
        return plain;
    }
    match file::written_value(text) {
        Some(written) if check::fits(key, &written).is_ok() => written,
        _ => plain,
    }
}

pub(crate) fn find<'v>(values: &'v Dict, key: &[String]) -> Option<&'v Value> {
    let (first, rest) = key.split_first()?;
    let value = values.get(first)?;
    if rest.is_empty() {
        return Some(value);
    }
    find(value.as_dict()?, rest)
}

fn merged(figment: &Figment) -> Dict {
    figment
        .data()
        .ok()
        .and_then(|mut profiles| profiles.remove(&Profile::Default))
        .unwrap_or_default()
}

/// The tag of what is in force at `key`.
pub(crate) fn tag_of(figment: &Figment, key: &[String]) -> Option<Tag> {
    let merged = merged(figment);
    // A value that was written whole (a list, an inline table) carries its origin itself or below the last table.
    (1..=key.len())
        .rev()
        .find_map(|end| find(&merged, &key[..end]))
        .map(Value::tag)
}
