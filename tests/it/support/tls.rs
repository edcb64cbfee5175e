//! Certificates of an authority of the test's own, and servers that show them.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An authority that no system knows.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let folder = tempfile::tempdir().expect("a temporary folder");
        // A server that drops to another user has to pass through.
        let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), anybody).expect("the folder is ours");
        let authority = Self { certificate, issuer: Issuer::new(params, key), folder };
        std::fs::write(authority.file(), authority.pem()).expect("a file");
        authority
    }

    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A file with its certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The files of a certificate for these names and of its key.
    pub fn files_for(&self, names: &[&str]) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.certificate_for(names);
        let files = (self.folder.path().join("server.pem"), self.folder.path().join("server.key"));
        std::fs::write(&files.0, pem("CERTIFICATE", &certificate)).expect("a file");
        std::fs::write(&files.1, pem("PRIVATE KEY", &key)).expect("a file");
        files
    }

    fn certificate_for(&self, names: &[&str]) -> (CertificateDer<'static>, Vec<u8>) {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let params = CertificateParams::new(names).expect("names of hosts");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.der().clone(), key.serialize_der())
    }

    /// Speaks TLS for a server on this machine, with a certificate for these names; gives the port.
    pub async fn front(&self, names: &[&str], inside: u16) -> u16 {
        let (certificate, key) = self.certificate_for(names);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key)))
            .expect("the key fits");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut outside = acceptor.accept(stream).await?;
                    let mut inside = TcpStream::connect((Ipv4Addr::LOCALHOST, inside)).await?;
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await
                });
            }
        });
        port
    }
}

/// A path as a parameter of a URL takes it.
pub fn in_url(path: &Path) -> String {
    url::form_urlencoded::byte_serialize(path.to_str().expect("text").as_bytes()).collect()
}

fn pem(kind: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}
