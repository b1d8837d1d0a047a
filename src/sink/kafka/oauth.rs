//! The token of the login OAUTHBEARER: from a file, read again before it expires.
//!
//! Whoever fetches the token (a sidecar, an agent, Kubernetes for a service account) writes the file;
//! the relay has no client for identity providers. Invariants:
//!
//! 1. The file is read each time that librdkafka asks: at the start, after four fifths of a token's
//!    life, and ten seconds after a failure.
//! 2. No part of a token is ever in an error.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, Engine as _, GeneralPurpose, GeneralPurposeConfig};
use rdkafka::client::OAuthToken;

use crate::config::Kafka;
use crate::runtime::Chain;

/// The parts of a JWT come without padding (RFC 7515), and from some with it.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The life of a token that does not say when it ends: it is read again well within it.
const UNKNOWN_LIFE: Duration = Duration::from_mins(5);
/// The principal of a token that names none. The broker goes by the token, not by this.
const NOBODY: &str = "outbox-relay";

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    file: Option<Arc<PathBuf>>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("set kafka.oauth_token_file to a file with a token")]
    NoFile,
    #[error("the token file {} cannot be read", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("the token file {} is empty", .0.display())]
    Empty(PathBuf),
    #[error("the token in {} has expired: see that whoever writes the file renews it in time", .0.display())]
    Expired(PathBuf),
}

impl Tokens {
    pub(crate) fn new(kafka: &Kafka) -> Self {
        let file = kafka.oauth_token_file.clone().map(Arc::new);
        Self { file }
    }

    /// Whether there is a file to read.
    pub(crate) fn any(&self) -> bool {
        self.file.is_some()
    }

    /// The token for librdkafka, which takes errors as text.
    pub(crate) fn give(&self) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.read()
            .map_err(|error| Chain(&error).to_string().into())
    }

    /// The token as the file has it now.
    fn read(&self) -> Result<OAuthToken, TokenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.read_at(now.unwrap_or_default())
    }

    fn read_at(&self, now: Duration) -> Result<OAuthToken, TokenError> {
        let file = self.file.as_deref().ok_or(TokenError::NoFile)?;
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| TokenError::Read(file.clone(), error))?;
        let token = text.trim();
        if token.is_empty() {
            return Err(TokenError::Empty(file.clone()));
        }
        let claims = Claims::of(token);
        let ends = claims.ends.unwrap_or(now + UNKNOWN_LIFE);
        if ends <= now {
            return Err(TokenError::Expired(file.clone()));
        }
        Ok(OAuthToken {
            token: token.to_owned(),
            principal_name: claims.subject.unwrap_or_else(|| NOBODY.to_owned()),
            lifetime_ms: i64::try_from(ends.as_millis()).unwrap_or(i64::MAX),
        })
    }
}

/// What a JWT says of itself. The broker verifies it; the relay wants to know when to read the next.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claims {
    /// Since the epoch.
    ends: Option<Duration>,
    subject: Option<String>,
}

impl Claims {
    /// Nothing is known of a token that is no JWT.
    fn of(token: &str) -> Self {
        let claims = token.split('.').nth(1);
        let claims = claims.and_then(|claims| BASE64_URL.decode(claims).ok());
        let claims = claims.and_then(|json| serde_json::from_slice(&json).ok());
        let claims: serde_json::Value = claims.unwrap_or_default();
        let ends = claims["exp"].as_f64().filter(|ends| *ends >= 0.0);
        let subject = claims["sub"].as_str().filter(|subject| {
            // It travels as a C string.
            !subject.is_empty() && !subject.contains('\0')
        });
        Self {
            ends: ends.and_then(|ends| Duration::try_from_secs_f64(ends).ok()),
            subject: subject.map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);
    /// {"alg":"none"} . {"sub":"relay","exp":1000060} .
    const JWT: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyZWxheSIsImV4cCI6MTAwMDA2MH0.";

    fn read(text: &str) -> Result<OAuthToken, TokenError> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("token");
        std::fs::write(&file, text).expect("a file");
        let file = Some(Arc::new(file));
        Tokens { file }.read_at(NOW)
    }

    #[test]
    fn a_jwt_says_when_it_ends_and_whose_it_is() {
        let token = read(&format!("{JWT}\n")).expect("a token");
        assert_eq!(token.token, JWT);
        assert_eq!(token.principal_name, "relay");
        assert_eq!(token.lifetime_ms, 1_000_060_000);
        // The same parts, padded as some do.
        let padded = JWT.replace("lIn0.", "lIn0=.").replace("MH0.", "MH0=.");
        let token = read(&padded).expect("a token");
        assert_eq!(token.principal_name, "relay");
        assert_eq!(token.lifetime_ms, 1_000_060_000);
        // These are digits of the other alphabet, and of none.
        for wrong in ["eyJzdWIi+", "eyJzdWIi/", "eyJ=zdWI"] {
            let token = read(&format!("a.{wrong}.c")).expect("a token");
            assert_eq!(token.principal_name, NOBODY, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_jwt_is_read_again_soon() {
        for text in ["opaque-token", "a.b.c", "a.!.c", "e30.e30."] {
            let token = read(text).expect("a token");
            let life = i64::try_from((NOW + UNKNOWN_LIFE).as_millis()).expect("small");
            assert_eq!((token.lifetime_ms, &*token.principal_name), (life, NOBODY));
        }
    }

    #[test]
    fn an_error_names_the_file_and_not_the_token() {
        // {"alg":"none"} . {"exp":1000000} .
        let expired = "eyJhbGciOiJub25lIn0.eyJleHAiOjEwMDAwMDB9.";
        for (text, says) in [(expired, "has expired"), (" \n", "is empty")] {
            let Err(error) = read(text) else {
                panic!("{says}");
            };
            let error = error.to_string();
            assert!(error.contains(says) && error.contains("token"), "{error}");
            assert!(!error.contains("eyJ"), "{error}");
        }
        let Err(error) = (Tokens { file: None }).read() else {
            panic!("there is no file");
        };
        assert!(error.to_string().contains("kafka.oauth_token_file"));
    }
}
