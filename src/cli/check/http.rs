//! Who reaches the HTTP server, and what they may do there.

use std::net::SocketAddr;

use super::code::Code;
use super::finding::Finding;
use crate::cli::status::http::listen;
use crate::config::Config;

/// Looks at the section `http`.
pub(super) fn check(config: &Config) -> Finding {
    judge(listen(config), has_token(config))
}

/// Whether admin calls are possible (`http.admin_token`).
fn has_token(config: &Config) -> bool {
    config.http.admin_token.is_some()
}

fn judge(listen: Option<SocketAddr>, token: bool) -> Finding {
    let subject = "HTTP server";
    let Some(listen) = listen else {
        let message = "is off: no metrics, no health checks, no page";
        return Finding::ok(Code::Http, subject, message);
    };
    let admin = if token {
        "admin calls need the token"
    } else {
        "admin calls are off, as there is no http.admin_token"
    };
    if listen.ip().is_loopback() {
        let message = format!("listens on {listen}, for this host alone; {admin}");
        return Finding::ok(Code::Http, subject, message);
    }
    let message = format!(
        "listens on {listen}, for all who reach that address: they see metrics, names of tables and \
         stream groups; {admin}"
    );
    if token {
        let remedy =
            "keep the address inside a network that you trust: the token travels unencrypted";
        return Finding::warning(Code::Http, subject, message, remedy);
    }
    Finding::ok(Code::Http, subject, message)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_token_that_leaves_the_host_is_worth_a_warning() {
        let judge = |listen: &str, token| {
            let found = judge(listen.parse().ok(), token);
            (found.level, found.message)
        };
        assert_eq!(judge("", true).0, Level::Ok);
        let (level, message) = judge("127.0.0.1:9464", false);
        assert_eq!(level, Level::Ok);
        assert!(message.contains("admin calls are off"), "{message}");
        assert_eq!(judge("[::1]:9464", true).0, Level::Ok);
        assert_eq!(judge("0.0.0.0:9464", false).0, Level::Ok);
        let (level, message) = judge("0.0.0.0:9464", true);
        assert_eq!(level, Level::Warning);
        assert!(message.contains("all who reach"), "{message}");
    }
}
