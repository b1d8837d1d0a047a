//! How long the relay's own certificates and the authorities it trusts last.

use super::code::Code;
use super::finding::{Finding, Findings};
use crate::config::{Pem, Tls};
use crate::tls;

/// A certificate that ends sooner should be renewed by now.
const SOON_DAYS: i64 = 14;

/// Looks at the files of `scylla.tls`.
pub(super) fn scylla(tls: &Tls) -> Findings {
    let mut findings = Findings::default();
    let own = tls.identity.iter().map(|identity| &identity.certificates);
    for pem in tls.authorities.iter().chain(own) {
        if let Some(days) = tls::days_left(&pem.text) {
            findings.push(lasts(pem, days));
        }
    }
    findings
}

fn lasts(pem: &Pem, days: i64) -> Finding {
    let subject = format!("certificates in {}", pem.file.display());
    let remedy = "renew it and reload the relay: files of certificates are read at the start and at a reload";
    match days {
        ..0 => Finding::error(
            Code::Certificates,
            subject,
            format!("one has expired {} days ago", -days),
            remedy,
        ),
        0..SOON_DAYS => Finding::warning(
            Code::Certificates,
            subject,
            format!("one expires in {days} days"),
            remedy,
        ),
        _ => Finding::ok(Code::Certificates, subject, format!("last {days} days")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn what_ends_soon_is_a_warning_and_what_has_ended_an_error() {
        let pem = Pem {
            file: "ca.pem".into(),
            text: String::new(),
        };
        for (days, level) in [
            (400, Level::Ok),
            (14, Level::Ok),
            (13, Level::Warning),
            (0, Level::Warning),
            (-1, Level::Error),
        ] {
            assert_eq!(lasts(&pem, days).level, level, "{days}");
        }
    }
}
