//! `docs/errors.md`: the errors and what follows from them, generated from the code. A test fails
//! when the page is stale.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::error::{CODES, Class, Kind};

const HEAD: &str = "\
# Errors of Kafka, and what the relay does about them

<!-- Generated from `src/sink/error.rs`; `UPDATE=1 cargo test -p outbox-relay docs_errors` writes it. -->

An attempt is one produce and its delivery report. When it fails, the error code of librdkafka is
given a *kind*. The kind is what logs and metrics show and what is stored with a dead letter; it
decides what happens next:

- **transient**: the event is attempted again, later events of its key wait. When its attempts are
  used up, `retry.on_exhausted` decides.
- **permanent**: the event would fail again until somebody changes something. It becomes a dead
  letter at once.
- **fatal**: the producer cannot go on. The relay builds a new one and hands it everything that is
  not acknowledged, in order.

*Outage*: counts towards opening the breaker, because the cluster is at fault and other events would
fare no better. *Uses up an attempt*: counts as one of the event's `retry.max_attempts`. Where it does
not, the event had no chance and cannot become a dead letter by it.

Three things are decided from more than the code:

- While no broker can be reached, attempts fail at once as `unreachable`, without waiting for
  `retry.attempt_timeout`, and so does what waits in the producer. When it is because the brokers
  refuse our login or TLS fails, they fail as `authentication`. This begins when a broker complained
  or an attempt timed out, and no connection could be used for a tenth of `retry.attempt_timeout` (at
  least 100 ms, at most 1 s); it ends with a broker's first answer.
- Brokers judge batches. A record whose batch was refused as too large or invalid is `batch_refused`
  at first; it then travels alone, and only if it is refused alone it is `too_large` or
  `invalid_record`.
- Once a producer has had a fatal error, whatever still fails in it is `producer_lost`.

librdkafka repeats by itself, until `retry.attempt_timeout`, what it expects to pass: a lost
connection, a leader that has moved, too few replicas, a busy disk, a corrupt transfer. What outlasts
the attempt is `timed_out`.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n| kind | what has happened | class | outage | uses up an attempt |\n");
    page.push_str("|---|---|---|---|---|\n");
    for kind in Kind::ALL {
        let class = match kind.class() {
            Class::Transient => "transient",
            Class::Permanent => "permanent",
            Class::Fatal => "fatal",
        };
        let attempts = match kind.class() {
            // The first one is the last one.
            Class::Permanent => "–",
            Class::Transient | Class::Fatal => yes(kind.uses_up_attempts()),
        };
        let (meaning, outage) = (kind.meaning(), yes(kind.is_outage()));
        let _ = writeln!(
            page,
            "| [`{kind}`](#{kind}) | {meaning} | {class} | {outage} | {attempts} |"
        );
    }
    for kind in Kind::ALL {
        let _ = write!(page, "\n## {kind}\n\n{}.\n\n", sentence(kind.meaning()));
        let _ = writeln!(page, "What to do: {}.\n", kind.remedy());
        let _ = writeln!(page, "librdkafka's codes: {}.", codes(kind));
    }
    page
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

fn codes(kind: Kind) -> String {
    let listed = CODES.iter().filter(|(of, _)| *of == kind);
    let names: Vec<String> = listed
        .flat_map(|(_, codes)| codes.iter())
        .map(|code| format!("`{code:?}`"))
        .collect();
    if names.is_empty() {
        "all others".to_owned()
    } else {
        names.join(", ")
    }
}

#[test]
fn docs_errors_is_what_the_code_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).expect("the page is written");
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == page,
        "docs/errors.md is stale: run `UPDATE=1 cargo test -p outbox-relay docs_errors`"
    );
}
