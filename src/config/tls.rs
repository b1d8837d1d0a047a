//! Encryption of the connections to ScyllaDB: which files there must be, and what they must hold.

use super::path::Path;
use super::raw;
use super::read::Reader;
use super::resolve::{file_of_secrets, secret_file};
use super::resolved::{Identity, NodeNames, Pem, Tls};

/// `None` when it is off; its files are not looked at then.
pub(super) fn resolve(raw: &raw::Tls, path: &Path, reader: &mut Reader<'_>) -> Option<Tls> {
    let one_of_two = match (&raw.cert_file, &raw.key_file) {
        (Some(_), None) => Some(("cert_file", "a certificate needs its key: set key_file too")),
        (None, Some(_)) => Some(("key_file", "a key needs its certificate: set cert_file too")),
        _ => None,
    };
    if let Some((key, message)) = one_of_two {
        reader.problem(&path.key(key), message);
    }
    if raw.server_name.is_some() && !raw.verify_hostname {
        let message = "it is not looked at while verify_hostname is false: remove one of the two";
        reader.problem(&path.key("server_name"), message);
    }
    if !raw.enabled {
        return None;
    }
    let authorities = raw.ca_file.as_ref();
    let authorities = authorities.and_then(|file| pem(file, &path.key("ca_file"), reader));
    let certificates = raw.cert_file.as_ref();
    let certificates = certificates.and_then(|file| pem(file, &path.key("cert_file"), reader));
    let key = raw.key_file.as_ref();
    let key = key.and_then(|file| secret_file(file, &path.key("key_file"), reader));
    let identity = certificates
        .zip(key)
        .map(|(certificates, key)| Identity { certificates, key });
    let tls = Tls {
        authorities,
        identity,
        names: match &raw.server_name {
            Some(name) => NodeNames::Dns(name.clone()),
            None if raw.verify_hostname => NodeNames::Address,
            None => NodeNames::Any,
        },
    };
    parse(&tls, path, reader);
    Some(tls)
}

fn pem(file: &str, path: &Path, reader: &mut Reader<'_>) -> Option<Pem> {
    let (file, text) = file_of_secrets(file, path, reader)?;
    Some(Pem { file, text })
}

/// Reports what cannot be used of the files.
#[cfg(feature = "tls")]
fn parse(tls: &Tls, path: &Path, reader: &mut Reader<'_>) {
    use crate::tls::{certificates, key_of};
    if let Some(pem) = &tls.authorities
        && let Err(error) = certificates(&pem.text)
    {
        let message = format!("the file {} {error}", pem.file.display());
        reader.problem(&path.key("ca_file"), message);
    }
    let Some(identity) = &tls.identity else {
        return;
    };
    let pem = &identity.certificates;
    let own = match certificates(&pem.text) {
        Ok(chain) => chain.into_iter().next(),
        Err(error) => {
            let message = format!("the file {} {error}", pem.file.display());
            reader.problem(&path.key("cert_file"), message);
            None
        }
    };
    match (key_of(&identity.key), own) {
        (Err(error), _) => reader.problem(&path.key("key_file"), format!("the file {error}")),
        (Ok(key), Some(own)) if !own.public_key().is_ok_and(|public| public.public_eq(&key)) => {
            let message = "the key is not that of the first certificate of cert_file";
            reader.problem(&path.key("key_file"), message);
        }
        (Ok(_), _) => {}
    }
}

/// Reports that there is no TLS.
#[cfg(not(feature = "tls"))]
fn parse(_: &Tls, path: &Path, reader: &mut Reader<'_>) {
    let message = "this program was built without TLS: build it with the feature `tls`";
    reader.problem(&path.key("enabled"), message);
}
