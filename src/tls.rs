//! TLS to ScyllaDB, by OpenSSL: what its files hold, whom to trust, and why somebody was not.
//!
//! Invariants:
//!
//! 1. A node's chain of certificates is always verified. Only what it must *name* can be chosen, and
//!    only a mismatch of names is ever forgiven.
//! 2. TLS 1.2 is the least that is spoken.
//! 3. Why a node was refused is known in words: OpenSSL's error says no more than "verify failed",
//!    so that the verdict is noted where it is made ([`Verdicts`]).
//!
//! Not here: TLS to Kafka, which librdkafka does by the same OpenSSL and its own properties.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509, X509NameRef, X509Ref, X509StoreContextRef, X509VerifyResult};
use scylla::client::session::TlsContext;

use crate::config::{Identity, NodeNames, Secret, Tls};

/// Verdicts of OpenSSL (`X509_V_ERR_…`) that speak of names.
const HOSTNAME_MISMATCH: i32 = 62;
const IP_ADDRESS_MISMATCH: i32 = 64;
/// Those about time.
const NOT_YET_VALID: i32 = 9;
const HAS_EXPIRED: i32 = 10;

/// PEM that cannot be used. Its words follow the name of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No certificate.
    #[error("holds no certificate: it must be PEM, with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// A certificate that cannot be read.
    #[error("holds a certificate that cannot be read")]
    Certificate,
    /// A key under a passphrase.
    #[error(
        "holds an encrypted key: decrypt it (openssl pkey -in KEY -out NEW) and protect the file \
         instead, by its mode or as a credential of systemd"
    )]
    Encrypted,
    /// No private key.
    #[error("holds no private key: it must be PEM, with -----BEGIN PRIVATE KEY-----")]
    NoKey,
}

/// TLS could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("prepare TLS: {doing}")]
pub struct Error {
    doing: &'static str,
    #[source]
    source: ErrorStack,
}

fn doing(doing: &'static str) -> impl Fn(ErrorStack) -> Error {
    move |source| Error { doing, source }
}

/// The certificates of a PEM text, at least one.
pub fn certificates(pem: &str) -> Result<Vec<X509>, PemError> {
    let found = X509::stack_from_pem(pem.as_bytes()).map_err(|_| PemError::Certificate)?;
    if found.is_empty() {
        return Err(PemError::NoCertificate);
    }
    Ok(found)
}

/// The private key of a PEM text.
pub fn key_of(pem: &Secret) -> Result<PKey<Private>, PemError> {
    let pem = pem.expose();
    if pem.contains("ENCRYPTED") {
        return Err(PemError::Encrypted);
    }
    // Without the callback OpenSSL would ask the terminal for a passphrase.
    PKey::private_key_from_pem_callback(pem.as_bytes(), |_| Ok(0)).map_err(|_| PemError::NoKey)
}

/// Where the system keeps the authorities it trusts: a file, or a folder.
///
/// An OpenSSL that was built into the program does not know.
pub fn system_authorities() -> Option<PathBuf> {
    let found = openssl_probe::probe();
    found
        .cert_file
        .or_else(|| found.cert_dir.into_iter().next())
}

/// What the driver needs, and the verdicts of its connections.
pub fn context(tls: &Tls) -> Result<(TlsContext, Arc<Verdicts>), Error> {
    let verdicts = Arc::new(Verdicts::default());
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(doing("begin"))?;
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(doing("ask for TLS 1.2"))?;
    trust(tls, &mut builder)?;
    if let Some(identity) = &tls.identity {
        identify(identity, &mut builder)?;
    }
    if let NodeNames::Dns(name) = &tls.names {
        let parameters = builder.verify_param_mut();
        parameters.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        parameters
            .set_host(name)
            .map_err(doing("ask for scylla.tls.server_name"))?;
    }
    // The driver asks for the node's address whatever is configured.
    let forgiven: &'static [i32] = match tls.names {
        NodeNames::Address => &[],
        NodeNames::Dns(_) => &[IP_ADDRESS_MISMATCH],
        NodeNames::Any => &[IP_ADDRESS_MISMATCH, HOSTNAME_MISMATCH],
    };
    let noted = Arc::clone(&verdicts);
    builder.set_verify_callback(SslVerifyMode::PEER, move |trusted, context| {
        if trusted {
            return true;
        }
        if forgiven.contains(&context.error().as_raw()) {
            context.set_error(X509VerifyResult::OK);
            return true;
        }
        noted.note(Refusal::of(context));
        false
    });
    Ok((TlsContext::from(builder), verdicts))
}

fn trust(tls: &Tls, builder: &mut SslConnectorBuilder) -> Result<(), Error> {
    let Some(authorities) = &tls.authorities else {
        let system = doing("take the system's authorities");
        return match system_authorities() {
            Some(folder) if folder.is_dir() => builder
                .load_verify_locations(None, Some(&folder))
                .map_err(system),
            Some(file) => builder.set_ca_file(file).map_err(system),
            None => Ok(()),
        };
    };
    // Only these: the store replaces that of the system.
    let adding = doing("take the authorities of scylla.tls.ca_file");
    let mut store = X509StoreBuilder::new().map_err(&adding)?;
    for certificate in X509::stack_from_pem(authorities.text.as_bytes()).map_err(&adding)? {
        store.add_cert(certificate).map_err(&adding)?;
    }
    builder.set_cert_store(store.build());
    Ok(())
}

fn identify(identity: &Identity, builder: &mut SslConnectorBuilder) -> Result<(), Error> {
    let adding = doing("take scylla.tls.cert_file and key_file");
    let pem = identity.certificates.text.as_bytes();
    let mut chain = X509::stack_from_pem(pem).map_err(&adding)?.into_iter();
    if let Some(own) = chain.next() {
        builder.set_certificate(&own).map_err(&adding)?;
    }
    for between in chain {
        builder.add_extra_chain_cert(between).map_err(&adding)?;
    }
    let key = identity.key.expose().as_bytes();
    let key = PKey::private_key_from_pem_callback(key, |_| Ok(0)).map_err(&adding)?;
    builder.set_private_key(&key).map_err(&adding)
}

/// When the certificates of a PEM text end, in days from now; the first that ends counts.
pub fn days_left(pem: &str) -> Option<i64> {
    let now = Asn1Time::days_from_now(0).ok()?;
    let left = |certificate: &X509| {
        let left = now.diff(certificate.not_after()).ok()?;
        // A certificate that ended a moment ago has -1 days left.
        Some(i64::from(left.days) - i64::from(left.secs < 0))
    };
    certificates(pem).ok()?.iter().filter_map(left).min()
}

/// Why a node's certificate was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: i32,
    reason: &'static str,
    subject: String,
    issuer: String,
    names: String,
}

impl Refusal {
    fn of(context: &X509StoreContextRef) -> Self {
        let verdict = context.error();
        let about = context.current_cert();
        let part = |part: fn(&X509Ref) -> String| about.map(part).unwrap_or_default();
        Self {
            code: verdict.as_raw(),
            reason: verdict.error_string(),
            subject: part(|certificate| shown(certificate.subject_name())),
            issuer: part(|certificate| shown(certificate.issuer_name())),
            names: part(names),
        }
    }

    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self.code {
            IP_ADDRESS_MISMATCH => {
                "give the node a certificate that names its address (subject alternative name of \
                 type IP); or, if all certificates share a DNS name, set scylla.tls.server_name; or \
                 set scylla.tls.verify_hostname to false, which takes any certificate of the \
                 authorities for any node"
            }
            HOSTNAME_MISMATCH => {
                "correct scylla.tls.server_name, or give the node a certificate that carries it"
            }
            HAS_EXPIRED => "renew the certificate on the node, and compare the clocks",
            NOT_YET_VALID => "compare the clocks of this host and the node",
            _ => {
                "name the authority that signed the node's certificate in scylla.tls.ca_file (all \
                 of its PEM, the root included)"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            subject,
            issuer,
            ..
        } = self;
        write!(f, "the certificate of `{subject}`, issued by `{issuer}`")?;
        if matches!(self.code, IP_ADDRESS_MISMATCH | HOSTNAME_MISMATCH) && !self.names.is_empty() {
            write!(f, " for {}", self.names)?;
        }
        write!(f, ", is not accepted: {reason}")
    }
}

fn shown(name: &X509NameRef) -> String {
    let part = |entry: &openssl::x509::X509NameEntryRef| {
        let key = entry.object().nid().short_name().unwrap_or("?").to_owned();
        let value = entry.data().to_string().ok()?;
        Some(format!("{key}={value}"))
    };
    name.entries()
        .filter_map(part)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The names that a certificate carries.
fn names(certificate: &X509Ref) -> String {
    let Some(names) = certificate.subject_alt_names() else {
        return String::new();
    };
    let name = |name: &openssl::x509::GeneralNameRef| match (name.dnsname(), name.ipaddress()) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Some([a, b, c, d])) => Some(format!("{a}.{b}.{c}.{d}")),
        (None, Some(bytes)) => {
            let bytes = <[u8; 16]>::try_from(bytes).ok()?;
            Some(std::net::Ipv6Addr::from(bytes).to_string())
        }
        (None, None) => None,
    };
    names.iter().filter_map(name).collect::<Vec<_>>().join(", ")
}

/// What was decided about the nodes of a session.
#[derive(Debug, Default)]
pub struct Verdicts {
    last: Mutex<Option<Refusal>>,
    /// From when on nobody else reports them.
    alone: AtomicBool,
}

impl Verdicts {
    fn note(&self, refusal: Refusal) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let news = last.as_ref() != Some(&refusal);
        if news && self.alone.load(Ordering::Relaxed) {
            tracing::warn!(
                reason = %refusal,
                remedy = refusal.remedy(),
                "a new connection to ScyllaDB was refused"
            );
        }
        *last = Some(refusal);
    }

    /// The last node that was refused, for whoever reports that there is no session.
    pub fn last(&self) -> Option<Refusal> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// There is a session: what is refused from now on is logged, once a reason.
    pub fn connected(&self) {
        self.alone.store(true, Ordering::Relaxed);
    }
}

/// What to do about an error of TLS itself, by OpenSSL's words for what the other side said or did:
/// the driver passes what comes after the handshake (TLS 1.3 judges certificates of clients then) on
/// as text.
pub fn remedy(said: &str) -> Option<&'static str> {
    if !said.contains("SSL routines") {
        return None;
    }
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    Some(
        if has(&[
            "wrong version number",
            "packet length too long",
            "http request",
        ]) {
            "the port takes no TLS: correct scylla.nodes (native_transport_port_ssl is often 9142), or \
             switch client_encryption_options on"
        } else if has(&["alert certificate expired"]) {
            "renew scylla.tls.cert_file"
        } else if has(&[
            "alert unknown ca",
            "alert decrypt error",
            "alert certificate unknown",
        ]) {
            "the cluster does not know the authority of scylla.tls.cert_file: have it signed by one of \
             the truststore in client_encryption_options"
        } else if has(&[
            "certificate required",
            "bad certificate",
            "handshake failure",
        ]) {
            "the cluster asks for a certificate that it knows: set scylla.tls.cert_file and key_file"
        } else {
            "compare scylla.tls with client_encryption_options in the nodes' scylla.yaml"
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_openssl_lead_to_the_key_to_change() {
        let line = |reason: &str| {
            format!(
                "error:0A000000:SSL routines:ssl3_read_bytes:{reason}:ssl/record/rec_layer_s3.c:1"
            )
        };
        for (reason, key) in [
            ("wrong version number", "takes no TLS"),
            (
                "tlsv13 alert certificate required",
                "scylla.tls.cert_file and key_file",
            ),
            (
                "tlsv1 alert unknown ca",
                "authority of scylla.tls.cert_file",
            ),
            (
                "ssl/tls alert certificate expired",
                "renew scylla.tls.cert_file",
            ),
            ("unexpected message", "client_encryption_options"),
        ] {
            let remedy = remedy(&line(reason)).unwrap_or_default();
            assert!(remedy.contains(key), "{reason}: {remedy}");
        }
        assert_eq!(remedy("Connection refused (os error 111)"), None);
    }
}
