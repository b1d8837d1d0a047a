//! Layers of configuration: files, environment variables, flags. A later one wins key by key;
//! lists are replaced as a whole.

use std::path::PathBuf;

use figment::value::{Dict, Empty, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::path::{Path, Segment};
use super::problem::{Origin, Problem};

/// What an environment variable's name begins with. Two underscores separate levels.
pub(super) const ENV_PREFIX: &str = "OUTBOX_RELAY__";

/// One layer: some values and where they come from.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Index among all layers; figment's metadata carries it from the value back to the layer.
    pub(super) index: usize,
    pub(super) source: LayerSource,
    pub(super) values: Dict,
}

/// Where a layer comes from.
#[derive(Debug, Clone)]
pub(super) enum LayerSource {
    /// A file, with its text, so that the line of a key can be found when a message needs it.
    File { path: PathBuf, text: String },
    /// An environment variable.
    Env(String),
    /// A flag.
    Flag(String),
}

impl LayerSource {
    /// Where the value at `path` comes from.
    pub(super) fn origin(&self, path: &Path) -> Origin {
        match self {
            Self::File { path: file, text } => Origin::File {
                path: file.clone(),
                line: super::locate::line_of(text, path),
            },
            Self::Env(name) => Origin::Env(name.clone()),
            Self::Flag(name) => Origin::Flag(name.clone()),
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.index.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The values of a YAML file.
pub(super) fn yaml(path: &std::path::Path, text: &str) -> Result<Dict, Problem> {
    let at = |line, message: String| Problem {
        path: Path::root(),
        origin: Origin::File {
            path: path.to_owned(),
            line,
        },
        message,
    };
    // Read as a YAML mapping first: it refuses a key that occurs twice.
    let tree: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        at(line, format!("this is not valid YAML: {error}"))
    })?;
    match Value::serialize(&tree) {
        Ok(Value::Dict(_, values)) => Ok(values),
        Ok(Value::Empty(_, Empty::Unit | Empty::None)) => Ok(Dict::new()),
        Ok(_) => Err(at(
            Some(1),
            "the file must be a mapping of sections, such as `kafka:`".to_owned(),
        )),
        Err(error) => Err(at(None, format!("the file cannot be used: {error}"))),
    }
}

/// The values of one environment variable; `None` if its name is not one of the relay's.
pub(super) fn env(name: &str, value: &str) -> Option<Result<Dict, Problem>> {
    let keys = name.strip_prefix(ENV_PREFIX)?.to_ascii_lowercase();
    let mut keys: Vec<String> = keys.split("__").map(str::to_owned).collect();
    if is_property(&keys) {
        // The names of librdkafka's properties have dots where a shell's variables cannot.
        let name = keys.split_off(2).join("_").replace('_', ".");
        keys.push(name);
    }
    Some(nested(&keys, value, &Origin::Env(name.to_owned())))
}

/// The values of one `--set key.path=value`.
pub(super) fn set(assignment: &str) -> Result<Dict, Problem> {
    let origin = Origin::Flag(format!("--set {}", key_of(assignment)));
    let Some((keys, value)) = assignment.split_once('=') else {
        return Err(Problem {
            path: Path::root(),
            origin,
            message: "write --set key.path=value, for example --set follow.poll=5ms".to_owned(),
        });
    };
    let mut keys: Vec<String> = keys.trim().split('.').map(str::to_owned).collect();
    if is_property(&keys) {
        let name = keys.split_off(2).join(".");
        keys.push(name);
    }
    nested(&keys, value, &origin)
}

/// The part of an assignment that may be shown: its key.
pub(super) fn key_of(assignment: &str) -> &str {
    assignment.split('=').next().unwrap_or_default().trim()
}

fn is_property(keys: &[String]) -> bool {
    keys.len() > 2 && keys[0] == "kafka" && (keys[1] == "properties" || keys[1] == "property_files")
}

fn nested(keys: &[String], value: &str, origin: &Origin) -> Result<Dict, Problem> {
    let problem = |message: &str| Problem {
        path: Path::of(keys.iter().map(|key| Segment::Key(key.clone()))),
        origin: origin.clone(),
        message: message.to_owned(),
    };
    if keys.iter().any(String::is_empty) {
        return Err(problem("a level of the key is empty"));
    }
    if keys[0] == "outboxes" && keys.len() > 1 {
        return Err(problem(
            "a list can only be set as a whole here, as YAML or JSON: [{table: shop.outbox}]",
        ));
    }
    let mut value = leaf(value);
    for key in keys[1..].iter().rev() {
        value = Value::from(Dict::from([(key.clone(), value)]));
    }
    Ok(Dict::from([(keys[0].clone(), value)]))
}

/// Maps and lists, as YAML or JSON within brackets, are taken as such; anything else stays text, which
/// the reader of the key parses.
fn leaf(text: &str) -> Value {
    if text.starts_with(['[', '{'])
        && let Ok(tree) = serde_yaml::from_str::<serde_yaml::Value>(text)
        && let Ok(value) = Value::serialize(&tree)
    {
        return value;
    }
    Value::from(text.to_owned())
}
