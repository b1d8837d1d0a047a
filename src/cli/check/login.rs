//! What to do when Kafka does not let us in, by librdkafka's words for it.

/// The remedy that these words call for, if they are about TLS or a login.
pub(super) fn remedy(said: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    // In this order: a line can have the words of several.
    if has(&["certificate verify failed"]) {
        return Some(
            "put the authority that signed the brokers' certificates into ssl.ca.location \
             (kafka.properties); if it is there, a certificate has expired, or does not name its \
             broker as kafka.brokers and the advertised listeners do: renew it, or as a last resort \
             set ssl.endpoint.identification.algorithm to none",
        );
    }
    if has(&["PLAINTEXT broker listener?", "wrong version number"]) {
        return Some(
            "the listener takes no TLS: correct kafka.brokers, or security.protocol in \
             kafka.properties",
        );
    }
    if has(&[
        "certificate required",
        "bad certificate",
        "handshake failure",
        "ssl.key.location",
    ]) {
        return Some(
            "the brokers ask for a certificate that they know: set ssl.certificate.location in \
             kafka.properties and ssl.key.pem in kafka.property_files",
        );
    }
    if has(&["OAUTHBEARER"]) {
        return Some(
            "see that kafka.oauth_token_file has a token that the brokers accept and that has not \
             expired",
        );
    }
    if has(&["uthentication failed", "mechanism"]) {
        return Some(
            "correct sasl.mechanism and sasl.username in kafka.properties, and sasl.password in \
             kafka.property_files",
        );
    }
    if has(&["SSL listener?"]) {
        return Some(
            "if the listener takes TLS, set security.protocol in kafka.properties to ssl or sasl_ssl",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_librdkafka_lead_to_the_property_to_change() {
        for (said, property) in [
            (
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: \
                 broker certificate could not be verified, verify that ssl.ca.location is correctly",
                "ssl.ca.location",
            ),
            (
                "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                "security.protocol",
            ),
            (
                "ssl/record/rec_layer_s3.c:918:SSL routines:ssl3_read_bytes:tlsv13 alert certificate \
                 required",
                "ssl.certificate.location",
            ),
            (
                "SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Unsupported SASL mechanism",
                "sasl.mechanism",
            ),
            (
                "SASL authentication error: Authentication failed during authentication due to invalid \
                 credentials with SASL mechanism SCRAM-SHA-512",
                "sasl.password",
            ),
            (
                "Failed to acquire SASL OAUTHBEARER token: the token in /t has expired",
                "oauth_token_file",
            ),
        ] {
            let remedy = remedy(said).unwrap_or_default();
            assert!(remedy.contains(property), "{said}: {remedy}");
        }
        assert_eq!(
            remedy("Connect to ipv4#127.0.0.1:1 failed: Connection refused"),
            None
        );
    }
}
