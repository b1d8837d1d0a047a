//! Where spans go: what an address of an OTLP receiver must be.

use std::time::Duration;

use hyper::Uri;

use super::path::Path;
use super::raw;
use super::read::Reader;
use super::resolve::span;
use super::resolved::Otlp;

/// `None` when no spans are exported.
pub(super) fn resolve(raw: &raw::Otlp, path: &Path, reader: &mut Reader<'_>) -> Option<Otlp> {
    let range = Duration::from_millis(100)..=Duration::from_mins(1);
    let timeout = span(raw.timeout, range, &path.key("timeout"), reader);
    let endpoint = raw.endpoint.as_ref()?;
    if let Err(message) = usable(endpoint) {
        reader.problem(&path.key("endpoint"), message);
    }
    Some(Otlp {
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        sample_one_in: usize::try_from(raw.sample_one_in).unwrap_or(usize::MAX),
        timeout,
    })
}

fn usable(endpoint: &str) -> Result<(), &'static str> {
    const FORM: &str = "write the base address of an OTLP/HTTP receiver, such as \
                        http://127.0.0.1:4318; /v1/traces is added to it";
    if !cfg!(feature = "otlp") {
        return Err(
            "this program was built without OpenTelemetry: build it with the feature `otlp`",
        );
    }
    let uri: Uri = endpoint.parse().map_err(|_| FORM)?;
    let authority = uri.authority().ok_or(FORM)?;
    if authority.as_str().contains('@') {
        return Err("it must hold no secret: set OTEL_EXPORTER_OTLP_HEADERS in the environment");
    }
    if uri.query().is_some() || uri.path().trim_end_matches('/').ends_with("/v1/traces") {
        return Err(FORM);
    }
    match uri.scheme_str() {
        Some("http") => Ok(()),
        Some("https") if cfg!(feature = "tls") => Ok(()),
        Some("https") => Err("this program was built without TLS: build it with the feature `tls`"),
        _ => Err(FORM),
    }
}
