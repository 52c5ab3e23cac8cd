//! TLS: rustls with the certificates that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others).

use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Speaks TLS on a connected stream with a server that must be `host`.
pub(crate) async fn handshake(host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(trust()?).connect(name, stream).await;
    stream.map_err(|error| error.to_string())
}

/// What binds a login to this very TLS connection: the hash of the server's certificate (`tls-server-end-point`,
/// RFC 5929). `None` for a certificate that is signed in a way without such a hash.
pub(crate) fn end_point(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    hash_of(certificate)
}

/// With the hash function of the certificate's own signature.
fn hash_of(certificate: &[u8]) -> Option<Vec<u8>> {
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OBJECT IDENTIFIER, .. }, .. }
    let (SEQUENCE, whole, _) = element(certificate)? else { return None };
    let (SEQUENCE, _, rest) = element(whole)? else { return None };
    let (SEQUENCE, algorithm, _) = element(rest)? else { return None };
    let (OBJECT_IDENTIFIER, name, _) = element(algorithm)? else { return None };
    Some(match name {
        // sha256WithRSAEncryption, ecdsa-with-SHA256; MD5 and SHA-1 are replaced by SHA-256.
        [42, 134, 72, 134, 247, 13, 1, 1, 4 | 5 | 11]
        | [42, 134, 72, 206, 61, 4, 3, 2]
        | [42, 134, 72, 206, 61, 4, 1] => Sha256::digest(certificate).to_vec(),
        [42, 134, 72, 134, 247, 13, 1, 1, 12] | [42, 134, 72, 206, 61, 4, 3, 3] => {
            Sha384::digest(certificate).to_vec()
        }
        [42, 134, 72, 134, 247, 13, 1, 1, 13] | [42, 134, 72, 206, 61, 4, 3, 4] => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// The first element of DER bytes: its tag, its content and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let digits = rest.get(..usize::from(first & 0x7f)).filter(|digits| digits.len() <= 4)?;
        rest = rest.get(digits.len()..)?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
    }
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

/// Whom to trust: read once, since the system's certificates are many.
fn trust() -> Result<Arc<ClientConfig>, String> {
    static TRUST: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    TRUST.get_or_init(read_trust).clone()
}

fn read_trust() -> Result<Arc<ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!(
            "no certificate authority is trusted on this system {}: set SSL_CERT_FILE",
            reasons.join(", ")
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn a_certificate_is_hashed_as_its_signature_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/server.pem");
        let certificate = CertificateDer::from_pem_file(path).unwrap();
        assert_eq!(hash_of(&certificate), Some(Sha256::digest(&certificate).to_vec()));
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_hash() {
        for bytes in [
            &b""[..],
            &[0x30],
            &[0x30, 0x84],
            &[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            &[0x30, 3, 0x30, 1, 0],
        ] {
            assert_eq!(hash_of(bytes), None, "{bytes:?}");
        }
    }
}
