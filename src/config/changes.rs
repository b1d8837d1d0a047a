//! What differs between two configurations, and what it takes to put the new one in force.

use serde_json::Value;

use super::Loaded;

/// What it takes to put a changed key in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it holds from the next use.
    AtOnce,
    /// The relay's parts are stopped in order and started anew, in the same process.
    PartsAnew,
    /// A new process.
    NewProcess,
}

/// A key whose value is another one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, as in `follow.poll`. A list is one key.
    pub key: String,
    /// What it takes.
    pub effect: Effect,
}

/// What a key takes: everything but what the process sets up once can be changed while it runs.
fn effect(key: &str) -> Effect {
    match key {
        "log.level" | "http.admin_token" | "http.admin_token_file" => Effect::AtOnce,
        "http.listen" | "http.max_connections" | "http.request_timeout" | "log.format" => {
            Effect::NewProcess
        }
        _ if key.starts_with("log.file") => Effect::NewProcess,
        _ => Effect::PartsAnew,
    }
}

impl Loaded {
    /// The keys whose values `newer` changes, in order. A secret is named, never shown.
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let mut keys = Vec::new();
        // What serialises is written by this crate: it is always JSON.
        if let (Ok(old), Ok(new)) = (self.to_json(), newer.to_json()) {
            differing("", &old, &new, &mut keys);
        }
        let (old, new) = (&self.config, &newer.config);
        // Passwords, tokens and certificates come from files, too: another content is a change.
        let secrets = [
            (
                "http.admin_token",
                old.http.admin_token != new.http.admin_token,
            ),
            (
                "scylla.password",
                old.scylla.password != new.scylla.password,
            ),
            ("scylla.tls", old.scylla.tls != new.scylla.tls),
            (
                "kafka.properties",
                old.kafka.properties != new.kafka.properties || old.kafka.files != new.kafka.files,
            ),
        ];
        for (key, differs) in secrets {
            let named = |known: &String| known.starts_with(key);
            if differs && !keys.iter().any(named) {
                keys.push(key.to_owned());
            }
        }
        keys.sort();
        let change = |key: String| Change {
            effect: effect(&key),
            key,
        };
        keys.into_iter().map(change).collect()
    }
}

fn differing(at: &str, old: &Value, new: &Value, keys: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let both = old
                .keys()
                .chain(new.keys().filter(|key| !old.contains_key(*key)));
            for key in both {
                let path = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                let of = |object: &serde_json::Map<String, Value>| {
                    object.get(key).cloned().unwrap_or_default()
                };
                differing(&path, &of(old), &of(new), keys);
            }
        }
        _ if old == new => {}
        _ => keys.push(at.to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Sources;

    /// A configuration with these keys.
    pub(crate) fn with(set: &[&str]) -> Loaded {
        let outbox = "outboxes=[{\"table\":\"shop.outbox\"}]";
        let sources = Sources {
            set: [outbox]
                .iter()
                .chain(set)
                .map(|set| (*set).to_owned())
                .collect(),
            ..Sources::default()
        };
        sources.load().expect("a good configuration")
    }

    #[test]
    fn each_changed_key_is_named_with_what_it_takes() {
        let old = with(&[]);
        let new = with(&[
            "log.level=debug",
            "follow.poll=20ms",
            "http.listen=127.0.0.1:1",
            "log.file.dir=/var/log/relay",
            "outboxes=[{\"table\":\"shop.outbox\"},{\"table\":\"shop.other\"}]",
        ]);
        let change = |key: &str, effect| Change {
            key: key.to_owned(),
            effect,
        };
        let expected = [
            change("follow.poll", Effect::PartsAnew),
            change("http.listen", Effect::NewProcess),
            change("log.file.dir", Effect::NewProcess),
            change("log.level", Effect::AtOnce),
            change("outboxes", Effect::PartsAnew),
        ];
        assert_eq!(old.changes(&new), expected);
        assert_eq!(new.changes(&new), []);
    }

    #[test]
    fn a_secret_that_is_another_one_is_named() {
        let token = |token: &str| with(&[&format!("http.admin_token={token}")]);
        let changes = token("0123456789abcdef").changes(&token("0123456789abcdeg"));
        assert_eq!(changes.len(), 1);
        assert_eq!(
            (&*changes[0].key, changes[0].effect),
            ("http.admin_token", Effect::AtOnce)
        );
    }

    #[test]
    fn a_certificate_that_is_renewed_in_its_place_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let location = format!("kafka.properties.ssl.ca.location={}", file.path().display());
        let load = |held: &str| {
            std::fs::write(file.path(), held).expect("a file");
            with(&[&location])
        };
        let old = load("one");
        assert_eq!(old.changes(&load("one")), []);
        let changed = old.changes(&load("another"));
        assert_eq!(
            changed,
            [Change {
                key: "kafka.properties".to_owned(),
                effect: Effect::PartsAnew
            }]
        );
    }
}
