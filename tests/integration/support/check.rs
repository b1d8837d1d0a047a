//! What `outbox-relay check` says of one thing.

use anyhow::{Context, Result};
use serde_json::Value;

use super::relay::Relay;

/// A finding.
pub(crate) struct Found {
    pub(crate) level: String,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

/// Runs `check` with further arguments; gives what it says of the thing whose name begins with
/// `subject`. None of `secrets` may be printed.
pub(crate) async fn look(
    relay: &Relay,
    arguments: &[&str],
    subject: &str,
    secrets: &str,
) -> Result<Found> {
    let arguments = [&["check", "--output", "json"], arguments].concat();
    let output = relay.output(&arguments).await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!printed.contains(secrets), "{printed}");
    let findings: Value = serde_json::from_str(&printed)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let mut findings = findings["findings"].as_array().context("a list")?.iter();
    let finding = findings.find(|finding| text(finding, "subject").starts_with(subject));
    let finding = finding.with_context(|| format!("nothing about {subject}: {printed}"))?;
    Ok(Found {
        level: text(finding, "level"),
        message: text(finding, "message"),
        remedy: text(finding, "remedy"),
    })
}

impl Found {
    /// It is an error with these words in its message and its remedy.
    #[track_caller]
    pub(crate) fn tells(&self, case: &str, message: &[&str], remedy: &str) {
        let (said, told) = (&self.message, &self.remedy);
        assert_eq!(self.level, "error", "{case}: {said}");
        for words in message {
            assert!(said.contains(words), "{case}: {words:?} is not in {said:?}");
        }
        assert!(
            told.contains(remedy),
            "{case}: {remedy:?} is not in {told:?} ({said})"
        );
    }
}
