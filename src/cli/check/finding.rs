//! What was found, and how it is shown.

use std::fmt;

use serde::Serialize;

use super::code::Code;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// The relay runs, and something is worse than it could be.
    Warning,
    /// The relay does not run, or events would not be published.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) code: Code,
    /// What was looked at: a table, a topic, a cluster.
    pub(super) subject: String,
    /// What was seen.
    pub(super) message: String,
    /// What a person can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            code,
            subject: subject.into(),
            message: message.into(),
            remedy: None,
        }
    }

    /// What cannot be found out.
    pub(super) fn unknown(
        code: Code,
        subject: impl Into<String>,
        reason: impl fmt::Display,
    ) -> Self {
        Self::ok(code, subject, format!("not checked: {reason}"))
    }

    pub(super) fn warning(
        code: Code,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(code, subject, message)
        }
    }

    pub(super) fn error(
        code: Code,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Error,
            ..Self::warning(code, subject, message, remedy)
        }
    }
}

/// All that was found, in the order in which it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    pub(super) fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.findings.extend(other.findings);
    }

    /// One by one.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    /// Whether anything is of this level.
    pub(super) fn any(&self, level: Level) -> bool {
        self.count(level) > 0
    }

    fn count(&self, level: Level) -> usize {
        let of_level = |finding: &&Finding| finding.level == level;
        self.findings.iter().filter(of_level).count()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            let code = finding.code.name();
            writeln!(
                f,
                "{level:<8} {code:<17} {}: {}",
                finding.subject, finding.message
            )?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "{:26} -> {remedy}", "")?;
            }
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        match (errors, warnings) {
            (0, 0) => writeln!(f, "all is well"),
            _ => writeln!(f, "errors: {errors}, warnings: {warnings}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_shown_with_their_remedies_and_counted() {
        let mut findings = Findings::default();
        findings.push(Finding::ok(Code::Cdc, "a", "is there"));
        assert_eq!(
            findings.to_string(),
            "ok       cdc               a: is there\nall is well\n"
        );
        findings.push(Finding::warning(Code::LogTtl, "b", "is slow", "hurry"));
        findings.push(Finding::error(Code::Table, "c", "is gone", "look for it"));
        findings.push(Finding::unknown(Code::Topic, "d", "it is dark"));
        assert_eq!(
            findings.to_string(),
            "ok       cdc               a: is there\n\
             warning  log-ttl           b: is slow\n                           -> hurry\n\
             error    table             c: is gone\n                           -> look for it\n\
             ok       topic             d: not checked: it is dark\n\
             errors: 1, warnings: 1\n"
        );
        assert!(findings.any(Level::Error));
        let json = serde_json::to_value(&findings).expect("plain data");
        assert_eq!(json["findings"][2]["remedy"], "look for it");
        assert_eq!(json["findings"][2]["code"], "table");
        assert_eq!(json["findings"][0].get("remedy"), None);
    }
}
