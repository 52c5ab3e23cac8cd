//! HTTPS: nothing else is spoken once there is a certificate, and a renewed one is taken up without a restart.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outlast_testkit::{eventually, found};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const GET: &[u8] = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/files").join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(name)).unwrap()
}

/// A server process with a certificate in its working directory; killed when dropped.
struct Process {
    child: Child,
    address: SocketAddr,
    first_line: String,
    lines: Arc<Mutex<String>>,
}

impl Process {
    fn start(directory: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child =
            command(directory, environment).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first_line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first_line).unwrap();
        let address = first_line.split("://").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {first_line:?}"));
        let (lines, errors) =
            (Arc::new(Mutex::new(String::new())), BufReader::new(child.stderr.take().unwrap()));
        let keeping = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                *keeping.lock().unwrap() += &(line + "\n");
            }
        });
        Self { child, address, first_line, lines }
    }

    fn said(&self, words: &str) -> bool {
        self.lines.lock().unwrap().contains(words)
    }

    fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what outlast said ---\n{}", self.lines.lock().unwrap());
        }
    }
}

fn command(directory: &Path, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OUTLAST_")) {
        command.env_remove(name);
    }
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(directory)
        .envs(environment.iter().copied());
    command
}

/// Puts a certificate and its key where the server has them, each in one piece as renewing tools do.
fn install(directory: &Path, name: &str) {
    for (from, to) in [("key", "server.key"), ("pem", "server.pem")] {
        let beside = directory.join("beside");
        std::fs::copy(file(&format!("{name}.{from}")), &beside).unwrap();
        std::fs::rename(&beside, directory.join(to)).unwrap();
    }
}

const TLS: &[(&str, &str)] =
    &[("OUTLAST_SERVER__TLS_CERTIFICATE", "server.pem"), ("OUTLAST_SERVER__TLS_KEY", "server.key")];

/// A connection to the server that trusts the authority alone.
async fn connect(to: SocketAddr) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("authority.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Asks on an open connection; returns what one read gives, or nothing when it was closed.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let mut answer = vec![0; 4096];
    let asking = async {
        stream.write_all(GET).await?;
        stream.read(&mut answer).await
    };
    let count = tokio::time::timeout(Duration::from_secs(30), asking).await.unwrap().unwrap_or(0);
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

/// The certificate that a new connection is shown.
async fn shown(to: SocketAddr) -> CertificateDer<'static> {
    let mut stream = connect(to).await;
    assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

async fn wait_for(to: SocketAddr, name: &str) {
    found(&format!("{name} is shown"), async || (shown(to).await == certificate(name)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_taken_up_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    install(directory.path(), "first");
    let server = Process::start(directory.path(), TLS);
    assert!(server.first_line.contains("listening on https://"), "{}", server.first_line);
    assert_eq!(shown(server.address).await, certificate("first.pem"));
    let mut open = connect(server.address).await;

    install(directory.path(), "second");
    wait_for(server.address, "second.pem").await;
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"), "an open connection goes on");

    // One that cannot be used changes nothing.
    std::fs::write(directory.path().join("server.pem"), "no certificate\n").unwrap();
    eventually("the server has tried it", || server.said("the former one stays in use")).await;
    assert_eq!(shown(server.address).await, certificate("second.pem"));

    // The key of another one neither.
    let tries =
        |server: &Process| server.lines.lock().unwrap().matches("the former one stays in use").count();
    let before = tries(&server);
    std::fs::copy(file("first.pem"), directory.path().join("server.pem")).unwrap();
    eventually("the server has tried it", || tries(&server) > before).await;
    assert_eq!(shown(server.address).await, certificate("second.pem"));
    install(directory.path(), "first");
    wait_for(server.address, "first.pem").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_the_certificate_again_even_if_its_files_look_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let then = std::time::SystemTime::now() - Duration::from_secs(1000);
    // The same length and the same time: only the signal tells.
    let put = |name: &str| {
        for (from, to) in [("key", "server.key"), ("pem", "server.pem")] {
            let mut text = std::fs::read_to_string(file(&format!("{name}.{from}"))).unwrap();
            text.push_str(&"\n".repeat(2000 - text.len()));
            let path = directory.path().join(to);
            std::fs::write(&path, text).unwrap();
            std::fs::File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
        }
    };
    put("first");
    let server = Process::start(directory.path(), TLS);
    assert_eq!(shown(server.address).await, certificate("first.pem"));
    put("second");
    server.hang_up();
    wait_for(server.address, "second.pem").await;
    eventually("it says so", || server.said("the certificate was read again")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_without_a_certificate_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(directory.path(), &[]);
    server.hang_up();
    eventually("the signal was seen", || server.said("there is no certificate to read again")).await;
    assert!(ask(&mut TcpStream::connect(server.address).await.unwrap()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_speak_tls_gets_nothing_and_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    install(directory.path(), "first");
    let server =
        Process::start(directory.path(), &[TLS, &[("OUTLAST_SERVER__HEADER_TIMEOUT", "300ms")]].concat());
    let plain = ask(&mut TcpStream::connect(server.address).await.unwrap()).await;
    assert!(!plain.contains("HTTP/1.1"), "{plain:?}");
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), mute.read(&mut [0; 16])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "a handshake that does not come is not waited for");
    assert_eq!(shown(server.address).await, certificate("first.pem"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_speaks_tls_to_a_server_that_it_trusts() {
    let directory = tempfile::tempdir().unwrap();
    install(directory.path(), "first");
    let server = Process::start(directory.path(), TLS);
    let port = server.address.port();
    let status = |url: &str, authority: Option<PathBuf>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
        command.args(["status", "--url", url]).current_dir(directory.path()).env_remove("SSL_CERT_FILE");
        command.envs(authority.map(|path| ("SSL_CERT_FILE", path)));
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = status(&format!("https://localhost:{port}"), Some(file("authority.pem")));
    assert!(code == Some(0) && said.contains("Accepting writes: yes"), "{said}");
    let (code, said) = status(&format!("https://localhost:{port}"), None);
    assert!(code == Some(69) && said.contains("SSL_CERT_FILE"), "{said}");
    let (code, said) = status(&format!("http://localhost:{port}"), None);
    assert_eq!(code, Some(69), "{said}");
    // Where the configuration says that it listens, it knows that this is HTTPS.
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    let listen = ("OUTLAST_SERVER__LISTEN", server.address.to_string());
    command.arg("status").current_dir(directory.path()).envs(TLS.iter().copied()).envs([listen]);
    let output = command.env("SSL_CERT_FILE", file("authority.pem")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    install(directory.path(), "self");
    eventually("the certificate is read", || server.said("the certificate was read again")).await;
    let (code, said) = status(&format!("https://localhost:{port}"), Some(file("self.pem")));
    assert!(code == Some(69) && said.contains("CA:FALSE"), "{said}");
}

#[test]
fn half_a_certificate_and_one_with_another_key_are_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    install(directory.path(), "first");
    let ended = |environment: &[(&str, &str)]| {
        let output = command(directory.path(), environment).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = ended(&TLS[..1]);
    assert!(code == Some(78) && said.contains("one is set and the other is not"), "{said}");
    std::fs::copy(file("second.key"), directory.path().join("server.key")).unwrap();
    let (code, said) = ended(TLS);
    assert!(
        code == Some(78) && said.contains("server.tls_certificate: server.pem: with server.key"),
        "{said}"
    );
    std::fs::remove_file(directory.path().join("server.key")).unwrap();
    let (code, said) = ended(TLS);
    assert!(code == Some(78) && said.contains("server.key"), "{said}");
    assert!(!directory.path().join("outlast-data").exists(), "something was left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_go_over_tls_to_whom_the_system_trusts_and_to_nobody_else() {
    let key = PrivateKeyDer::from_pem_file(file("first.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate("first.pem")], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = format!("https://localhost:{}/hook", listener.local_addr().unwrap().port());
    let taken = Arc::new(Mutex::new(String::new()));
    let keeping = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut text = vec![0; 8192];
            let count = stream.read(&mut text).await.unwrap();
            *keeping.lock().unwrap() += std::str::from_utf8(&text[..count]).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    });
    let authority = file("authority.pem").display().to_string();
    let database = ("OUTLAST_DATABASE__URL", "postgres://outlast@127.0.0.1:9/nobody");
    let settings =
        [database, ("OUTLAST_ALERTS__WEBHOOKS", &hook), ("OUTLAST_HEALTH__UNAVAILABLE_TIMEOUT", "0s")];
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let debug = ("OUTLAST_LOG__LEVEL", "debug");
    let stranger = Process::start(directories[0].path(), &[&settings[..], &[debug]].concat());
    eventually("the hook is not trusted", || stranger.said("an alert was not taken")).await;
    assert_eq!(*taken.lock().unwrap(), "");
    let trusting = [&settings[..], &[("SSL_CERT_FILE", authority.as_str())]].concat();
    let _server = Process::start(directories[1].path(), &trusting);
    eventually("the alert is told", || taken.lock().unwrap().contains("\"alert\":\"outage\"")).await;
    assert!(taken.lock().unwrap().starts_with("POST /hook HTTP/1.1\r\n"));
}
