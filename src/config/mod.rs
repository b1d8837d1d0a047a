//! The relay's configuration: raw text in, resolved values out.
//!
//! Owns the layers (defaults, files, environment, flags), the check of every value, and the
//! resolved [`Config`] that the rest of the relay reads. Invariants:
//!
//! 1. An unknown key is an error; all problems are reported at once, each with its origin.
//! 2. The rest of the relay sees resolved values only: no string is parsed after start.
//! 3. A secret never appears in `Debug`, in logs or in `config print`.
//!
//! It reads files that it is given and the environment that it is handed; it opens no connection.

pub mod changes;
mod kafka;
mod layers;
mod locate;
mod otlp;
pub mod path;
pub mod problem;
#[expect(
    clippy::doc_markdown,
    reason = "these sentences are the comments of config/relay.yaml too"
)]
mod raw;
mod read;
mod reference;
mod resolve;
pub mod resolved;
#[cfg(test)]
mod security_tests;
mod template;
#[cfg(test)]
mod tests;
mod tls;
mod values;

use std::path::PathBuf;

use layers::{Layer, LayerSource};
use path::Path;
pub use problem::{Error, Origin, Problem};
use raw::Raw;
use read::Reader;
pub use reference::reference;
pub use resolved::*;
pub use values::{parse_duration, parse_start};

/// Where configuration comes from, in rising order of precedence.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// YAML files; a later one overrides an earlier one, key by key.
    pub files: Vec<PathBuf>,
    /// Environment variables; those without the prefix `OUTBOX_RELAY__` are ignored.
    pub env: Vec<(String, String)>,
    /// Assignments `key.path=value` of `--set`.
    pub set: Vec<String>,
    /// Flags that stand for a key: the flag's name, the key and the value.
    pub flags: Vec<(String, String, String)>,
}

/// A configuration that has been read and checked.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the relay uses.
    pub config: Config,
    effective: Raw,
}

/// A configuration with whatever is wrong with it.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// What could be read; a section with a problem may hold defaults or nonsense.
    pub config: Config,
    /// All problems, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// Whether a whole layer could not be read, so that anything may be missing.
    pub incomplete: bool,
    raw: Raw,
}

impl Inspected {
    /// Whether nothing is wrong in this section.
    pub fn usable(&self, section: &str) -> bool {
        let section = Path::root().key(section);
        !self.problems.iter().any(|p| p.path.is_under(&section))
    }

    /// The place of this table in the list `outboxes`, as it is written.
    pub fn raw_index(&self, table: &TableName) -> Option<usize> {
        let named = |raw: &raw::Outbox| raw.table.as_ref().is_some_and(|name| name.0 == *table);
        self.raw.outboxes.iter().position(named)
    }
}

impl Sources {
    /// Reads all layers and checks everything.
    pub fn load(&self) -> Result<Loaded, Error> {
        let inspected = self.inspect();
        if !inspected.problems.is_empty() {
            return Err(Error {
                problems: inspected.problems,
            });
        }
        let raw = inspected.raw;
        let effective = Raw {
            outboxes: raw.outboxes.iter().map(raw::Outbox::effective).collect(),
            ..raw
        };
        Ok(Loaded {
            config: inspected.config,
            effective,
        })
    }

    /// Reads all layers and checks everything; gives back what is right along with the problems.
    pub fn inspect(&self) -> Inspected {
        let (layers, mut problems) = self.layers();
        let layers_failed = !problems.is_empty();
        let mut reader = Reader::new(&layers, &self.env);
        let raw: Raw = reader.read();
        let config = resolve::resolve(&raw, &mut reader);
        // What seems to be missing may be in the layer that could not be read.
        let found = reader.into_problems().into_iter();
        problems.extend(found.filter(|p| !layers_failed || p.origin != Origin::Default));
        problems.sort_by(|a, b| (&a.origin, &a.path).cmp(&(&b.origin, &b.path)));
        Inspected {
            config,
            problems,
            incomplete: layers_failed,
            raw,
        }
    }

    fn layers(&self) -> (Vec<Layer>, Vec<Problem>) {
        let mut read = Vec::new();
        for file in &self.files {
            let text = std::fs::read_to_string(file).map_err(|error| Problem {
                path: Path::root(),
                origin: Origin::File {
                    path: file.clone(),
                    line: None,
                },
                message: format!("the file cannot be read: {error}"),
            });
            read.push(text.and_then(|text| {
                let values = layers::yaml(file, &text)?;
                let path = file.clone();
                Ok((LayerSource::File { path, text }, values))
            }));
        }
        let mut env = self.env.clone();
        env.sort();
        for (name, value) in &env {
            let values = layers::env(name, value);
            read.extend(values.map(|v| Ok((LayerSource::Env(name.clone()), v?))));
        }
        for (flag, key, value) in &self.flags {
            let values = layers::set(&format!("{key}={value}"));
            read.push(values.map(|values| (LayerSource::Flag(flag.clone()), values)));
        }
        for assignment in &self.set {
            let flag = format!("--set {}", layers::key_of(assignment));
            read.push(layers::set(assignment).map(|values| (LayerSource::Flag(flag), values)));
        }
        let mut layers = Vec::new();
        let mut problems = Vec::new();
        for layer in read {
            match layer {
                Ok(layer) => layers.push(layer),
                Err(problem) => problems.push(problem),
            }
        }
        let number = |(index, (source, values))| Layer {
            index,
            source,
            values,
        };
        (
            layers.into_iter().enumerate().map(number).collect(),
            problems,
        )
    }
}

impl Loaded {
    /// The configuration in force as YAML, without secrets.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(&self.effective)
    }

    /// The configuration in force as JSON, without secrets.
    pub fn to_json(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(&self.effective)
    }
}

/// The JSON schema of a configuration file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Raw).to_value()
}
