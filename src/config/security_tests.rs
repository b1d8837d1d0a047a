//! Files of secrets, credentials of systemd, TLS and logins.

use std::fs;

use rcgen::{CertificateParams, KeyPair};

use super::tests::{Files, MINIMAL, files};
use super::*;

/// A certificate that signs itself, and its key.
fn certificate() -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

fn configured(text: &str, write: &[(&str, &str)]) -> Files {
    let mut files = files(&[]);
    for (name, content) in write {
        fs::write(files.dir.path().join(name), content).expect("a file");
    }
    let text = text.replace("FOLDER", &files.dir.path().display().to_string());
    let file = files.dir.path().join("relay.yaml");
    fs::write(&file, format!("{MINIMAL}{text}")).expect("a file");
    files.sources.files.push(file);
    files
}

#[track_caller]
fn assert_problems(files: &Files, wanted: &[(&str, &str)]) {
    let problems = files.problems();
    assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
    for (path, message) in wanted {
        let said = |p: &String| p.contains(&format!(": {path}: ")) && p.contains(message);
        assert!(
            problems.iter().any(said),
            "{path}: {message}\nis not in\n{problems:#?}"
        );
    }
}

#[test]
fn credentials_of_systemd_are_found_wherever_a_file_is_named() {
    let text = "scylla: { username: u, password_file: \"${CREDENTIALS_DIRECTORY}/scylla\" }\n\
                kafka: { property_files: { sasl.password: \"${CREDENTIALS_DIRECTORY}/kafka\" } }\n";
    let mut files = configured(text, &[("scylla", "one\n"), ("kafka", "two")]);
    let directory = files.dir.path().display().to_string();
    let variable = ("CREDENTIALS_DIRECTORY".to_owned(), directory);
    files.sources.env.push(variable);
    let config = files.config();
    assert_eq!(config.scylla.password.expect("a password").expose(), "one");
    assert_eq!(config.kafka.properties["sasl.password"], "two");
    // It is printed as it is written.
    let printed = files
        .sources
        .load()
        .expect("right")
        .to_yaml()
        .expect("YAML");
    assert!(
        printed.contains("${CREDENTIALS_DIRECTORY}/scylla"),
        "{printed}"
    );
}

#[test]
fn a_credential_without_systemd_says_what_is_missing() {
    let text = "scylla: { username: u, password_file: \"${CREDENTIALS_DIRECTORY}/scylla\" }\n\
                kafka: { property_files: { sasl.password: \"${HOME}/kafka\" } }\n";
    let files = configured(text, &[]);
    assert_problems(
        &files,
        &[
            ("scylla.password_file", "LoadCredential=scylla:"),
            (
                "kafka.property_files.sasl.password",
                "only ${CREDENTIALS_DIRECTORY}/",
            ),
        ],
    );
    let mut files = configured(text, &[]);
    let variable = ("CREDENTIALS_DIRECTORY".to_owned(), "/nowhere".to_owned());
    files.sources.env.push(variable);
    assert_problems(
        &files,
        &[
            ("scylla.password_file", "/nowhere/scylla cannot be read"),
            (
                "kafka.property_files.sasl.password",
                "only ${CREDENTIALS_DIRECTORY}/",
            ),
        ],
    );
}

#[cfg(feature = "tls")]
#[test]
fn tls_is_read_with_its_files() {
    let (certificate, key) = certificate();
    let text = "scylla: { tls: { enabled: true, ca_file: FOLDER/ca.pem, cert_file: FOLDER/ca.pem, \
                key_file: FOLDER/key.pem, server_name: db.example.com } }\n";
    let files = configured(text, &[("ca.pem", &certificate), ("key.pem", &key)]);
    let config = files.config();
    let tls = config.scylla.tls.clone().expect("TLS");
    assert_eq!(tls.names, NodeNames::Dns("db.example.com".to_owned()));
    assert!(tls.identity.is_some() && tls.authorities.is_some());
    let loaded = files.sources.load().expect("right");
    let shown = format!("{config:?}{loaded:?}{}", loaded.to_yaml().expect("YAML"));
    let secret = key.lines().nth(1).expect("a line");
    assert!(
        !shown.contains(secret) && !shown.contains("PRIVATE"),
        "{shown}"
    );
}

#[test]
fn tls_is_off_unless_it_is_on() {
    let files = configured("scylla: { tls: { ca_file: /nowhere } }\n", &[]);
    assert_eq!(files.config().scylla.tls, None);
}

#[cfg(feature = "tls")]
#[test]
fn what_is_wrong_with_tls_is_told_all_at_once() {
    let (certificate, _) = certificate();
    let (_, other_key) = self::certificate();
    let text = "scylla: { tls: { enabled: true, ca_file: FOLDER/empty, cert_file: FOLDER/cert.pem, \
                key_file: FOLDER/key.pem, verify_hostname: false, server_name: x } }\n";
    let write = [
        ("empty", "nothing here"),
        ("cert.pem", &*certificate),
        ("key.pem", &*other_key),
    ];
    assert_problems(
        &configured(text, &write),
        &[
            ("scylla.tls.ca_file", "holds no certificate"),
            ("scylla.tls.key_file", "not that of the first certificate"),
            ("scylla.tls.server_name", "not looked at"),
        ],
    );
    let text = "scylla: { tls: { enabled: true, ca_file: FOLDER/none, cert_file: FOLDER/cert.pem, \
                key_file: FOLDER/key.pem } }\n";
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----";
    let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_problems(
        &configured(text, &[("cert.pem", garbled), ("key.pem", encrypted)]),
        &[
            ("scylla.tls.ca_file", "cannot be read"),
            ("scylla.tls.cert_file", "a certificate that cannot be read"),
            ("scylla.tls.key_file", "encrypted key"),
        ],
    );
    let half = "scylla: { tls: { cert_file: FOLDER/cert.pem } }\n";
    assert_problems(
        &configured(half, &[]),
        &[("scylla.tls.cert_file", "set key_file too")],
    );
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_program_without_tls_says_so() {
    let files = configured("scylla: { tls: { enabled: true } }\n", &[]);
    assert_problems(&files, &[("scylla.tls.enabled", "built without TLS")]);
    assert!(!certificate().0.is_empty());
}

#[cfg(feature = "tls")]
#[test]
fn a_token_goes_with_oauthbearer_and_nothing_else() {
    let text = "kafka: { properties: { sasl.mechanism: OAUTHBEARER, security.protocol: sasl_ssl }, \
                oauth_token_file: FOLDER/token }\n";
    let files = configured(text, &[("token", "hunter2\n")]);
    let config = files.config();
    assert!(config.kafka.oauth_token_file.is_some());
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_problems(
        &configured(text, &[]),
        &[("kafka.oauth_token_file", "cannot be read")],
    );
    let text = "kafka: { properties: { sasl.mechanisms: OAUTHBEARER } }\n";
    assert_problems(
        &configured(text, &[]),
        &[(
            "kafka.properties.sasl.mechanisms",
            "set kafka.oauth_token_file",
        )],
    );
    let text = "kafka: { oauth_token_file: FOLDER/token }\n";
    assert_problems(
        &configured(text, &[("token", "x")]),
        &[("kafka.oauth_token_file", "only the login OAUTHBEARER")],
    );
}

#[cfg(feature = "tls")]
#[test]
fn files_of_kafkas_tls_must_be_there() {
    let text = "kafka: { properties: { ssl.ca.location: FOLDER/ca.pem, \
                ssl.key.location: \"${CREDENTIALS_DIRECTORY}/key\", \
                ssl.certificate.location: /nowhere.pem } }\n";
    let mut files = configured(text, &[("ca.pem", ""), ("key", "")]);
    let directory = files.dir.path().display().to_string();
    let variable = ("CREDENTIALS_DIRECTORY".to_owned(), directory);
    files.sources.env.push(variable);
    let problems = files.problems().join("\n");
    assert!(
        problems.contains("kafka.properties.ssl.certificate.location: the file /nowhere.pem"),
        "{problems}"
    );
    assert!(!problems.contains("key"), "{problems}");
}

#[test]
fn no_problem_of_kafka_shows_a_secret() {
    let text = "kafka:\n  properties: { sasl.oauthbearer.assertion.private.key.passphrase: \
                hunter2, ssl.key.password: hunter2, sasl.mechanism: hunter3 }\n  property_files: \
                { ssl.key.pem: FOLDER/key, no.such.property: FOLDER/key, acks: FOLDER/key }\n";
    let files = configured(text, &[("key", "hunter2")]);
    let inspected = files.sources.inspect();
    let shown = format!("{:?}{inspected:?}", files.problems());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_program_without_spans_says_so() {
    let files = configured("otlp: { endpoint: \"http://127.0.0.1:4318\" }\n", &[]);
    assert_problems(&files, &[("otlp.endpoint", "feature `otlp`")]);
}

#[cfg(feature = "otlp")]
#[test]
fn spans_go_to_an_address_that_holds_no_secret() {
    let configured =
        |endpoint: &str| configured(&format!("otlp: {{ endpoint: {endpoint} }}\n"), &[]);
    let otlp = configured("http://collector:4318/").config().otlp;
    assert_eq!(otlp.expect("an address").endpoint, "http://collector:4318");
    for (endpoint, message) in [
        ("collector:4318", "write the base address"),
        ("ftp://collector", "write the base address"),
        ("http://collector/v1/traces", "/v1/traces is added"),
        ("\"http://collector/?key=x\"", "write the base address"),
        (
            "\"http://me:hunter2@collector\"",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ),
    ] {
        assert_problems(&configured(endpoint), &[("otlp.endpoint", message)]);
    }
}
