//! Layers, origins and problems of a configuration as a whole.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

pub(super) const MINIMAL: &str = "outboxes: [{ table: shop.outbox }]\n";

/// A directory with files, named by the order in which they are given.
pub(super) struct Files {
    pub(super) dir: tempfile::TempDir,
    pub(super) sources: Sources,
}

pub(super) fn files(texts: &[&str]) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let mut sources = Sources::default();
    for (index, text) in texts.iter().enumerate() {
        let path = dir.path().join(format!("{index}.yaml"));
        fs::write(&path, text).unwrap();
        sources.files.push(path);
    }
    Files { dir, sources }
}

impl Files {
    fn env(mut self, name: &str, value: &str) -> Self {
        let name = format!("OUTBOX_RELAY__{name}");
        self.sources.env.push((name, value.to_owned()));
        self
    }

    fn set(mut self, assignment: &str) -> Self {
        self.sources.set.push(assignment.to_owned());
        self
    }

    pub(super) fn config(&self) -> Config {
        match self.sources.load() {
            Ok(loaded) => loaded.config,
            Err(error) => panic!("{:#?}", error.problems),
        }
    }

    /// The problems as text, file names without their directory.
    pub(super) fn problems(&self) -> Vec<String> {
        let error = self.sources.load().expect_err("there are problems");
        let dir = format!("{}/", self.dir.path().display());
        let text = |problem: &Problem| problem.to_string().replace(&dir, "");
        error.problems.iter().map(text).collect()
    }
}

#[test]
fn defaults_run() {
    let config = files(&[MINIMAL]).config();
    assert_eq!(config.scylla.nodes, ["127.0.0.1:9042"]);
    assert_eq!(config.kafka.brokers, ["127.0.0.1:9092"]);
    assert_eq!(config.follow.late_window, Duration::from_mins(3));
    assert_eq!(config.limits.in_flight_bytes.get(), 64 << 20);
    assert_eq!(config.supervision.unready_when, UnreadyWhen::AllFailed);
    assert_eq!(config.outboxes[0].columns.key, "aggregate_id");
    assert_eq!(
        config.outboxes[0].topic.to_string(),
        "outbox.event.{aggregate_type}"
    );
}

#[test]
fn layers_override_key_by_key() {
    let first = "kafka: { brokers: [a:1, b:2], properties: { compression.type: lz4 } }\n\
                 follow: { poll: 1ms, confirm: 2s }\noutboxes: [{ table: shop.outbox }]\n";
    let second = "follow: { poll: 2ms }\nkafka: { properties: { linger.ms: 3 } }\n";
    let config = files(&[first, second])
        .env("KAFKA__BROKERS", "c:3, d:4")
        .env("KAFKA__PROPERTIES__BATCH_SIZE", "1000")
        .env("LIMITS__IN_FLIGHT_EVENTS", "7")
        .env("RELAY__NAME", "007")
        .set("follow.idle_poll=5s")
        .set("kafka.properties.linger.ms=4")
        .config();
    assert_eq!(config.kafka.brokers, ["c:3", "d:4"]);
    let property = |name: &str| config.kafka.properties[name].as_str();
    assert_eq!(property("compression.type"), "lz4");
    assert_eq!(property("linger.ms"), "4");
    assert_eq!(property("batch.size"), "1000");
    assert_eq!(config.follow.poll, Duration::from_millis(2));
    assert_eq!(config.follow.confirm, Duration::from_secs(2));
    assert_eq!(config.follow.idle_poll, Duration::from_secs(5));
    assert_eq!(config.limits.in_flight_events.get(), 7);
    assert_eq!(config.relay.name, "007");
}

#[test]
fn outboxes_come_from_the_environment_as_json() {
    let config = files(&[])
        .env(
            "OUTBOXES",
            r#"[{"table": "a.b", "preset": "debezium"}, {"table": "a.c"}]"#,
        )
        .config();
    assert_eq!(config.outboxes[0].columns.key, "aggregateid");
    assert_eq!(config.outboxes[1].table.to_string(), "a.c");
}

#[test]
fn every_problem_is_reported_with_its_origin() {
    let first = "kafka:\n  broker: [a:1]\n  brokers: [nowhere, a:1]\n  properties:\n    acks: 1\n    \
                 max.in.flight: 6\n    compression.type: gzap\n    no.such: 1\n\
                 follow:\n  poll: 10\n  late_window: 3 parsecs\n  \
                 wake_up: udp://0.0.0.0:1\nscylla: []\n\
                 outboxes:\n  - table: shop\n    topic: 'a/{b}'\n  - topics: x\n    columns: { id: null }\n";
    let second = "folow: { poll: 1ms }\nlimits: { in_flight_events: many }\n";
    let found = files(&[first, second])
        .env("RETRY__MULTIPLIER", "0")
        .env("SCYLLA__NODES", "")
        .set("checkpoint.interval=2h")
        .set("nothing")
        .problems();
    let expected = [
        ("0.yaml:2", "kafka.broker", "did you mean `brokers`?"),
        ("0.yaml:3", "kafka.brokers[0]", "write host:port"),
        ("0.yaml:5", "kafka.properties.acks", "all in-sync replicas"),
        ("0.yaml:6", "kafka.properties.max.in.flight", "above 5"),
        ("0.yaml:7", "kafka.properties.compression.type", "gzap"),
        (
            "0.yaml:8",
            "kafka.properties.no.such",
            "No such configuration property",
        ),
        ("0.yaml:10", "follow.poll", "`10` is not a duration"),
        (
            "0.yaml:11",
            "follow.late_window",
            "`3 parsecs` is not a duration",
        ),
        (
            "0.yaml:12",
            "follow.wake_up",
            "`udp://0.0.0.0:1` is open to other hosts",
        ),
        ("0.yaml:15", "outboxes[0].table", "keyspace.table"),
        ("0.yaml:16", "outboxes[0].topic", "'/'"),
        ("0.yaml:17", "outboxes[1].table", "this key is needed"),
        ("0.yaml:17", "outboxes[1].topics", "did you mean `topic`?"),
        ("0.yaml:18", "outboxes[1].columns.id", "cannot be left out"),
        ("1.yaml:1", "folow", "did you mean `follow`?"),
        (
            "1.yaml:2",
            "limits.in_flight_events",
            "`many` is not a whole number",
        ),
        (
            "environment variable OUTBOX_RELAY__RETRY__MULTIPLIER",
            "retry.multiplier",
            "between 1",
        ),
        (
            "environment variable OUTBOX_RELAY__SCYLLA__NODES",
            "scylla.nodes[0]",
            "empty",
        ),
        (
            "flag --set checkpoint.interval",
            "checkpoint.interval",
            "2h is not between",
        ),
        ("flag --set nothing", "", "--set key.path=value"),
    ];
    for (origin, path, message) in expected {
        let begins = if path.is_empty() {
            origin.to_owned()
        } else {
            format!("{origin}: {path}: ")
        };
        assert!(
            found
                .iter()
                .any(|p| p.starts_with(&begins) && p.contains(message)),
            "{begins}…{message}\nis not in\n{}",
            found.join("\n")
        );
    }
}

#[test]
fn a_section_of_another_kind_is_a_problem() {
    let problems = files(&["scylla: [1]\noutboxes: 5\nkafka: yes\n"]).problems();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(
        problems
            .iter()
            .any(|p| p.contains("must be a section with the keys nodes"))
    );
    assert!(
        problems
            .iter()
            .any(|p| p.contains("must be a list, not a number"))
    );
}

#[test]
fn a_file_that_cannot_be_read_hides_no_other_problem() {
    let mut files = files(&["a: [", "follow: { poll: 0ms }\n", "x: 1\nx: 2\n"]);
    files
        .sources
        .files
        .push(PathBuf::from("/nowhere/relay.yaml"));
    let problems = files.problems();
    assert_eq!(problems.len(), 4, "{problems:#?}");
    assert!(
        problems
            .iter()
            .any(|p| p.contains("/nowhere/relay.yaml: the file cannot be read"))
    );
    assert!(
        problems
            .iter()
            .any(|p| p.starts_with("0.yaml") && p.contains("not valid YAML"))
    );
    assert!(
        problems
            .iter()
            .any(|p| p.contains("0s is not between 1ms and 1m"))
    );
    assert!(
        problems
            .iter()
            .any(|p| p.starts_with("2.yaml") && p.contains("duplicate"))
    );
}

#[test]
fn nothing_at_all_lacks_an_outbox() {
    assert_eq!(
        files(&[]).problems(),
        ["not set: outboxes: at least one outbox is needed: outboxes: [{ table: keyspace.table }]"]
    );
}

#[test]
fn relations_between_keys_are_checked() {
    let text = "outboxes: [{ table: a.b }, { table: a.b }]\nscylla: { username: u }\n\
                follow: { poll: 2s }\nretry: { max_backoff: 1ms }\n\
                log: { file: { keep: 3 }, level: 'a=b=c' }\n\
                supervision: { max_backoff: 1ms, window: 5ms }\n";
    let problems = files(&[text]).problems().join("\n");
    for part in [
        "outboxes[1].table: a.b is listed twice",
        "scylla.username: a user needs a password",
        "follow.idle_poll: it must not be shorter than follow.poll (2s)",
        "retry.max_backoff: it must not be shorter",
        "log.level: `a=b=c` is not a filter",
        "supervision.max_backoff: it must not be shorter than supervision.initial_backoff (1s)",
        "supervision.window: 10 restarts take 1009ms of pauses alone, longer than 5ms",
    ] {
        assert!(problems.contains(part), "{part}\nis not in\n{problems}");
    }
}

#[test]
fn a_misspelt_log_level_is_told_and_does_not_silence_the_log() {
    let text = format!("{MINIMAL}log: {{ level: Infoo }}\n");
    let problems = files(&[&text]).problems().join("\n");
    assert!(
        problems.contains("log.level: `Infoo` is not a filter"),
        "{problems}"
    );
}

#[test]
fn hints_are_off_unless_a_place_is_named() {
    let place = |value: &str| {
        let text = format!("{MINIMAL}follow: {{ wake_up: {value} }}\n");
        files(&[&text]).config().follow.wake_up
    };
    assert_eq!(files(&[MINIMAL]).config().follow.wake_up, None);
    assert_eq!(place("\"\""), None);
    let here = WakeUpAddress::Udp(([127, 0, 0, 1], 9465).into());
    assert_eq!(place("\"udp://127.0.0.1:9465\""), Some(here));
    let file = WakeUpAddress::Unix(PathBuf::from("/run/wake.sock"));
    assert_eq!(place("unix:///run/wake.sock"), Some(file));
}

#[test]
fn a_table_that_is_rarely_read_does_not_look_stalled() {
    let text = format!("{MINIMAL}follow: {{ idle_poll: 10m }}\n");
    let config = files(&[&text]).config();
    assert_eq!(config.supervision.stalled_after, Duration::from_mins(20));
}

#[test]
fn presets_can_be_changed_entry_by_entry() {
    let text = "outboxes:\n  - table: a.b\n    preset: debezium\n    columns: { key: customer, event_type: null }\n";
    let config = files(&[text]).config();
    let columns = &config.outboxes[0].columns;
    assert_eq!(columns.key, "customer");
    assert_eq!(columns.event_type, None);
    assert_eq!(columns.aggregate_type.as_deref(), Some("aggregatetype"));
    assert_eq!(config.outboxes[0].standard_headers.event_type, None);
    assert_eq!(config.outboxes[0].standard_headers.id, "id");
}

#[test]
fn a_column_of_the_preset_may_be_missing_and_a_named_one_may_not() {
    let text = "outboxes: [{ table: a.b, topic: t, columns: { content_type: media } }]\n";
    let columns = &files(&[text]).config().outboxes[0].columns;
    let has = |column: &str| ["id", "aggregate_id", "payload", "media"].contains(&column);
    let (mapped, missing) = columns.for_table(has);
    assert_eq!(missing, []);
    assert_eq!(mapped.event_type, None);
    assert_eq!(mapped.content_type.as_deref(), Some("media"));
    let (_, missing) = columns.for_table(|column| column != "media");
    assert_eq!(missing.len(), 1);
    assert_eq!(
        (missing[0].part, missing[0].column.as_str()),
        ("content_type", "media")
    );
}

#[test]
fn a_column_of_the_topic_may_not_be_missing() {
    let columns = &files(&[MINIMAL]).config().outboxes[0].columns;
    let (_, missing) = columns.for_table(|column| column != "aggregate_type");
    assert_eq!(missing[0].part, "aggregate_type");
    let text = "outboxes: [{ table: a.b, columns: { aggregate_type: null } }]\n";
    let problems = files(&[text]).problems().join("\n");
    assert!(problems.contains("the default topic"), "{problems}");
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let mut files = files(&[]);
    let secret = files.dir.path().join("secret");
    fs::write(&secret, "hunter2\n").unwrap();
    let text = format!(
        "{MINIMAL}scylla: {{ username: u, password_file: {0} }}\nkafka:\n  properties: {{ \
         sasl.password: hunter2 }}\n  property_files: {{ sasl.username: {0} }}\n",
        secret.display()
    );
    let path = files.dir.path().join("relay.yaml");
    fs::write(&path, text).unwrap();
    files.sources.files.push(path);
    let loaded = files.sources.load().unwrap();
    assert_eq!(
        loaded.config.scylla.password.as_ref().unwrap().expose(),
        "hunter2"
    );
    assert_eq!(loaded.config.kafka.properties["sasl.username"], "hunter2");
    let shown = format!(
        "{:?}{loaded:?}{}{}",
        loaded.config,
        loaded.to_yaml().unwrap(),
        loaded.to_json().unwrap()
    );
    let raw_debug = format!("{:?}", loaded.effective.kafka.properties);
    assert!(
        !shown.contains("hunter2") && !raw_debug.contains("hunter2"),
        "{shown}"
    );
    assert!(shown.contains("[redacted]"));
}

#[test]
fn messages_show_no_secret() {
    let files = files(&[MINIMAL])
        .env("SCYLLA__PASSWORD", "{\"hunter2\": 1}")
        .env("KAFKA__PROPERTIES__SSL_KEYSTORE_PASSWORD_X", "hunter2")
        .set("kafka.properties.sasl.password.hunter=hunter2")
        .set("scylla.passwrd=hunter2");
    let problems = files.problems().join("\n");
    assert!(!problems.contains("hunter2"), "{problems}");
}

#[test]
fn the_reference_is_valid_and_equals_the_defaults() {
    let text = reference();
    let with_reference = files(&[&text]).config();
    let defaults = files(&["outboxes: [{ table: shop.outbox_messages }]\n"]).config();
    assert_eq!(format!("{with_reference:?}"), format!("{defaults:?}"));
}

#[test]
fn what_the_reference_comments_out_is_known() {
    let mut uncommented = String::new();
    for line in reference().lines() {
        let key = line.trim_start().strip_prefix("# ");
        let key = key.filter(|key| {
            let word = key.split(':').next().unwrap_or_default();
            key.contains(": ") && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        let indent = line.len() - line.trim_start().len();
        match key {
            Some(key) => writeln!(uncommented, "{}{key}", " ".repeat(indent)).unwrap(),
            None => writeln!(uncommented, "{line}").unwrap(),
        }
    }
    let problems = files(&[&uncommented]).problems();
    assert!(uncommented.contains("\n  datacenter: dc1"), "{uncommented}");
    let without = usize::from(!cfg!(feature = "otlp"));
    assert_eq!(problems.len(), 3 + without, "{problems:#?}");
    if without == 1 {
        assert!(problems[3].contains("feature `otlp`"), "{problems:#?}");
    }
    assert!(
        problems[2].contains("admin_token is set too"),
        "{problems:#?}"
    );
    assert!(problems[0].contains("password is set too"), "{problems:#?}");
    assert!(
        problems[1].contains("only the login OAUTHBEARER"),
        "{problems:#?}"
    );
}

/// Set `UPDATE=1` to write what is stale.
#[test]
fn config_relay_yaml_is_the_reference() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/relay.yaml");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, reference()).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == reference(),
        "config/relay.yaml is stale: run `UPDATE=1 cargo test -p outbox-relay config_relay_yaml`"
    );
}

#[test]
fn the_examples_are_valid() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let sources = Sources {
            files: vec![path.clone()],
            ..Sources::default()
        };
        let loaded = sources.load();
        assert!(loaded.is_ok(), "{}: {loaded:#?}", path.display());
        names.push(path.file_name().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(
        names,
        ["debezium.yaml", "minimal.yaml", "several-tables.yaml"]
    );
}

#[test]
fn what_print_shows_is_a_valid_configuration_again() {
    let loaded = files(&[MINIMAL]).sources.load().unwrap();
    let again = files(&[&loaded.to_yaml().unwrap()]).config();
    assert_eq!(again.outboxes[0].topic, loaded.config.outboxes[0].topic);
    assert_eq!(again.follow, loaded.config.follow);
}

#[test]
fn the_schema_describes_every_key() {
    let schema = schema();
    assert_eq!(schema["additionalProperties"], false);
    let text = schema.to_string();
    for key in [
        "late_window",
        "property_files",
        "tombstone_on_empty",
        "drain_timeout",
        "unready_when",
    ] {
        assert!(text.contains(&format!("\"{key}\":")), "{key}");
    }
}

#[test]
fn an_error_lists_every_problem() {
    let problem = |key: &str, message: &str| Problem {
        path: path::Path::root().key(key),
        origin: Origin::Flag("--set".to_owned()),
        message: message.to_owned(),
    };
    let error = Error {
        problems: vec![problem("a", "is wrong"), problem("b", "is missing")],
    };
    assert_eq!(
        error.to_string(),
        "the configuration has 2 problems:\n  flag --set: a: is wrong\n  flag --set: b: is missing"
    );
}
