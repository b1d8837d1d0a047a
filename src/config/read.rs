//! Reads merged values into raw sections and collects what is wrong with them on the way.

use std::collections::BTreeMap;

use figment::Figment;
use figment::value::{Empty, Num, Tag, Value};

use super::layers::Layer;
use super::path::{Path, Segment};
use super::problem::{Origin, Problem};

/// A value with its path.
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) path: Path,
}

/// The merged layers, and the problems found so far.
pub(super) struct Reader<'a> {
    layers: &'a [Layer],
    figment: Figment,
    root: Value,
    /// The environment that the configuration was handed.
    environment: &'a [(String, String)],
    problems: Vec<Problem>,
}

/// A type that a configuration value is read into.
pub(super) trait Read: Sized {
    /// Reads the value; `None` after a problem has been reported.
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self>;
}

/// A value that is written as one word.
pub(super) trait Scalar: Sized {
    /// Whether a number or a truth value in a file must be put into quotes to be this: text.
    const TEXT: bool = false;
    /// Whether the value must not be repeated in messages.
    const SECRET: bool = false;

    /// Parses it; the error says what would be right.
    fn parse(text: &str) -> Result<Self, String>;
}

impl<'a> Reader<'a> {
    pub(super) fn new(layers: &'a [Layer], environment: &'a [(String, String)]) -> Self {
        let figment = layers.iter().fold(Figment::new(), Figment::merge);
        let empty = || Value::from(figment::value::Dict::new());
        let root = figment.find_value("").unwrap_or_else(|_| empty());
        Self {
            layers,
            figment,
            root,
            environment,
            problems: Vec::new(),
        }
    }

    /// A variable of the environment; an empty one counts as unset.
    pub(super) fn variable(&self, name: &str) -> Option<&'a str> {
        let variable = self.environment.iter().find(|(known, _)| known == name);
        variable
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Reads the whole configuration.
    pub(super) fn read<T: Read + Default>(&mut self) -> T {
        let root = self.root.clone();
        let node = Node {
            value: &root,
            path: Path::root(),
        };
        T::read(&node, self).unwrap_or_default()
    }

    /// Reports a problem of the value at `path`.
    pub(super) fn problem(&mut self, path: &Path, message: impl Into<String>) {
        let origin = self.origin(path);
        self.problems.push(Problem {
            path: path.clone(),
            origin,
            message: message.into(),
        });
    }

    /// Whether a problem has been reported at or below `path`.
    pub(super) fn has_problem(&self, path: &Path) -> bool {
        self.problems.iter().any(|p| p.path.is_under(path))
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Who set `path`, or the nearest thing above it that anyone set.
    fn origin(&self, path: &Path) -> Origin {
        let mut segments = path.segments();
        while !segments.is_empty() {
            let here = Path::of(segments.iter().cloned());
            let in_list = segments.iter().any(|s| matches!(s, Segment::Index(_)));
            if let Some(value) = find(&self.root, &here) {
                return self.origin_of_tag(value.tag(), &here);
            }
            if !in_list {
                break;
            }
            segments = &segments[..segments.len() - 1];
        }
        Origin::Default
    }

    fn origin_of_tag(&self, tag: Tag, path: &Path) -> Origin {
        let metadata = self.figment.get_metadata(tag);
        let layer = metadata.and_then(|metadata| metadata.name.parse::<usize>().ok());
        let layer = layer.and_then(|index| self.layers.get(index));
        layer.map_or(Origin::Default, |layer| layer.source.origin(path))
    }

    /// The children of a section; unknown keys are reported.
    pub(super) fn fields<'n>(
        &mut self,
        node: &Node<'n>,
        known: &[&str],
    ) -> Option<BTreeMap<&'n str, Node<'n>>> {
        let children = match node.value {
            Value::Dict(_, children) => children,
            value if is_null(value) => return Some(BTreeMap::new()),
            value => {
                let message = format!(
                    "this must be a section with the keys {}, not {}",
                    known.join(", "),
                    kind(value)
                );
                self.problem(&node.path, message);
                return None;
            }
        };
        let mut fields = BTreeMap::new();
        for (key, value) in children {
            let path = node.path.key(key);
            if known.contains(&key.as_str()) {
                fields.insert(key.as_str(), Node { value, path });
            } else {
                self.problem(&path, unknown_key(key, known));
            }
        }
        Some(fields)
    }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let distance = |name: &str| strsim::jaro_winkler(&key.to_ascii_lowercase(), name);
    let nearest = known
        .iter()
        .max_by(|a, b| distance(a).total_cmp(&distance(b)));
    match nearest {
        Some(nearest) if distance(nearest) > 0.75 => {
            format!("unknown key; did you mean `{nearest}`?")
        }
        _ => format!("unknown key; known here are {}", known.join(", ")),
    }
}

fn find<'v>(root: &'v Value, path: &Path) -> Option<&'v Value> {
    path.segments()
        .iter()
        .try_fold(root, |value, segment| match (value, segment) {
            (Value::Dict(_, children), Segment::Key(key)) => children.get(key),
            (Value::Array(_, items), Segment::Index(index)) => items.get(*index),
            _ => None,
        })
}

pub(super) fn is_null(value: &Value) -> bool {
    matches!(value, Value::Empty(_, Empty::Unit | Empty::None))
}

/// What a value is, for messages; never its content.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "text",
        Value::Bool(..) => "true or false",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a mapping",
        Value::Array(..) => "a list",
    }
}

/// The word that a scalar is written as.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Bool(_, b) => Some(b.to_string()),
        Value::Num(_, number) => Some(match number.to_f64() {
            Some(float) if matches!(number, Num::F32(_) | Num::F64(_)) => float.to_string(),
            _ => number
                .to_i128()
                .map(|n| n.to_string())
                .or_else(|| number.to_u128().map(|n| n.to_string()))?,
        }),
        _ => None,
    }
}

impl<T: Scalar> Read for T {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = match (node.value, word(node.value)) {
            (Value::Num(..) | Value::Bool(..), Some(_)) if T::TEXT => {
                let message = format!("this must be text: put {} into quotes", kind(node.value));
                reader.problem(&node.path, message);
                return None;
            }
            (_, Some(text)) => text,
            (value, None) => {
                let message = format!("this must be a single value, not {}", kind(value));
                reader.problem(&node.path, message);
                return None;
            }
        };
        match T::parse(&text) {
            Ok(value) => Some(value),
            Err(remedy) if T::SECRET => {
                reader.problem(&node.path, remedy);
                None
            }
            Err(remedy) => {
                reader.problem(&node.path, format!("`{text}` {remedy}"));
                None
            }
        }
    }
}

impl<T: Read> Read for Option<T> {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if is_null(node.value) {
            return Some(None);
        }
        T::read(node, reader).map(Some)
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let split;
        let items = match node.value {
            Value::Array(_, items) => items,
            // From the environment and flags, and convenient in a file: a, b, c.
            Value::String(tag, text) => {
                let item = |text: &str| Value::String(*tag, text.trim().to_owned());
                split = text.split(',').map(item).collect();
                &split
            }
            value if is_null(value) => return Some(Self::new()),
            value => {
                reader.problem(
                    &node.path,
                    format!("this must be a list, not {}", kind(value)),
                );
                return None;
            }
        };
        let read = |(index, value): (usize, &Value)| {
            let path = node.path.index(index);
            T::read(&Node { value, path }, reader)
        };
        // Every item is read, so that every problem is reported.
        let read: Vec<Option<T>> = items.iter().enumerate().map(read).collect();
        read.into_iter().collect()
    }
}

/// A mapping whose keys are free; numbers and truth values are taken as they are written.
impl Read for BTreeMap<String, String> {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let children = match node.value {
            Value::Dict(_, children) => children,
            value if is_null(value) => return Some(Self::new()),
            value => {
                let message = format!("this must be a mapping, not {}", kind(value));
                reader.problem(&node.path, message);
                return None;
            }
        };
        let mut map = Self::new();
        for (key, value) in children {
            if let Some(word) = word(value) {
                map.insert(key.clone(), word);
            } else {
                let message = format!("this must be a single value, not {}", kind(value));
                reader.problem(&node.path.key(key), message);
            }
        }
        Some(map)
    }
}
