//! The server's certificate, which is read again when its files change or SIGHUP comes: renewing it needs no restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::Signal;
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// A certificate in use, and the files that it came from.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<rustls::ServerConfig>>,
    /// How the files looked when they were last tried, whether they were taken or not.
    tried: Mutex<Looks>,
}

/// Time of change and length of both files: what differs when one is replaced.
type Looks = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads a chain of certificates and its private key, both PEM.
    ///
    /// # Errors
    /// Which file is not what it should be, and why.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, String> {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        let tried = Mutex::new(looks(&certificate, &key));
        let current = RwLock::new(Arc::new(read(&certificate, &key)?));
        Ok(Self { certificate, key, current, tried })
    }

    /// For the next connection. Those that are open keep the certificate that they began with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Reads the files again. What cannot be used changes nothing: the former certificate stays.
    fn reload(&self) {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = looks(&self.certificate, &self.key);
        match read(&self.certificate, &self.key) {
            Ok(config) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!(event = "certificate", state = "read", certificate = %self.certificate.display(), "the certificate was read again");
            }
            Err(why) => {
                tracing::warn!(event = "certificate", state = "refused", certificate = %self.certificate.display(), reason = why, "the certificate was not read again; the former one stays in use");
            }
        }
    }

    fn has_changed(&self) -> bool {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) != looks(&self.certificate, &self.key)
    }
}

/// Keeps the certificate fresh for as long as it is polled. Without one a SIGHUP has nothing to do, and ends nothing.
pub async fn keep_fresh(tls: Option<Arc<Tls>>, mut hangup: Signal) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        let asked = tokio::select! {
            signal = hangup.recv() => signal.is_some(),
            _ = ticks.tick() => false,
        };
        match &tls {
            Some(tls) if asked || tls.has_changed() => tls.reload(),
            None if asked => tracing::info!("SIGHUP: there is no certificate to read again"),
            _ => {}
        }
    }
}

fn looks(certificate: &Path, key: &Path) -> Looks {
    [certificate, key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig, String> {
    let wrong = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(certificate, &error))?;
    if chain.is_empty() {
        return Err(wrong(certificate, &"holds no certificate (PEM)"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, private);
    let mut config =
        config.map_err(|error| wrong(certificate, &format!("with {}: {error}", key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
