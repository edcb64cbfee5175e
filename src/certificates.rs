//! Certificates of authorities: the built-in ones, and those that an operator names. A leaf: it opens no connection.
//!
//! [`Trust`] applies to the whole process, as `SSL_CERT_FILE` does. It is set at the start, and all TLS clients use it. Without
//! named authorities it costs nothing at a cold start.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::RwLock;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The length of a line of base64 in PEM.
const LINE: usize = 64;

/// Certificates that an operator named, all of them usable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates(Vec<CertificateDer<'static>>);

impl Certificates {
    /// Reads the certificates of a PEM text. Line breaks may be missing, spaces, or written as `\n`, as forms for environment
    /// variables make them. A bundle may hold unusable certificates, as bundles of systems do, but not only such.
    ///
    /// # Errors
    /// When there is no usable certificate.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let mut usable = Vec::new();
        let mut problem = format!("holds no certificate (expected PEM: {BEGIN} ...)");
        let mut rest = text;
        while let Some((_, after)) = rest.split_once(BEGIN) {
            let Some((body, after)) = after.split_once(END) else {
                return Err("holds a certificate that is cut off".to_owned());
            };
            rest = after;
            match certificate(body) {
                Ok(certificate) => usable.push(certificate),
                Err(why) => problem = format!("holds no certificate that can be used: {why}"),
            }
        }
        if usable.is_empty() { Err(problem) } else { Ok(Self(usable)) }
    }

    /// # Errors
    /// When the file cannot be read, or holds no usable certificate. The error names the file.
    pub fn from_file(path: &str) -> Result<Self, String> {
        // Comments in bundles may have any encoding.
        let bytes = std::fs::read(path).map_err(|error| format!("the file `{path}` cannot be read: {error}"))?;
        Self::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|problem| format!("the file `{path}` {problem}"))
    }

    /// Reads a PEM text, or the file at a path.
    ///
    /// # Errors
    /// As [`Self::from_pem`] and [`Self::from_file`].
    pub fn from_pem_or_file(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with("-----BEGIN") { Self::from_pem(text) } else { Self::from_file(text) }
    }

    pub fn pem(&self) -> String {
        pem(&self.0)
    }
}

fn certificate(body: &str) -> Result<CertificateDer<'static>, String> {
    let plain: String = body.replace("\\n", "").replace("\\r", "").split_whitespace().collect();
    let bytes = STANDARD.decode(plain).map_err(|_| "it is not base64".to_owned())?;
    let certificate = CertificateDer::from(bytes);
    // Parsed here, so that no client fails on it later.
    RootCertStore::empty().add(certificate.clone()).map_err(|error| error.to_string())?;
    Ok(certificate)
}

fn pem<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        let body = STANDARD.encode(certificate);
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{BEGIN}");
        for start in (0..body.len()).step_by(LINE) {
            let _ = writeln!(text, "{}", &body[start..body.len().min(start + LINE)]);
        }
        let _ = writeln!(text, "{END}");
    }
    text
}

/// The authorities that may sign a server's certificate.
#[derive(Debug, Default)]
pub struct Trust {
    /// Instead of the built-in ones: `SSL_CERT_FILE`, as in other programs.
    instead: Option<Certificates>,
    /// In addition to them: `CA_CERTIFICATES`.
    beside: Certificates,
    client: OnceLock<ClientConfig>,
}

static IN_FORCE: RwLock<Option<Arc<Trust>>> = RwLock::new(None);

impl Trust {
    pub const fn new(instead: Option<Certificates>, beside: Certificates) -> Self {
        Self { instead, beside, client: OnceLock::new() }
    }

    /// Makes this the trust of the process.
    pub fn put_in_force(self) {
        *IN_FORCE.write() = Some(Arc::new(self));
    }

    /// The trust of the process: the built-in authorities, unless others were named.
    pub fn in_force() -> Arc<Self> {
        if let Some(trust) = &*IN_FORCE.read() {
            return Arc::clone(trust);
        }
        Arc::clone(IN_FORCE.write().get_or_insert_default())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        if self.instead.is_none() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        // Not checked: `Certificates` holds usable ones only.
        roots.add_parsable_certificates(self.named().cloned());
        roots
    }

    fn named(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.instead.iter().flat_map(|named| &named.0).chain(&self.beside.0)
    }

    /// The named authorities, for a client that knows the built-in ones.
    pub fn named_pem(&self) -> Option<String> {
        let named: Vec<_> = self.named().collect();
        (!named.is_empty()).then(|| pem(named))
    }

    /// All authorities, for a client that needs the whole list. `None` when only the built-in ones apply.
    pub fn whole_pem(&self) -> Option<String> {
        let named = self.named_pem()?;
        let built_in = if self.instead.is_none() { webpki_root_certs::TLS_SERVER_ROOT_CERTS } else { &[] };
        Some(named + &pem(built_in))
    }

    /// The TLS configuration of HTTPS clients, built once.
    ///
    /// # Errors
    /// When TLS cannot be prepared.
    pub fn https(&self) -> Result<ClientConfig, rustls::Error> {
        if let Some(config) = self.client.get() {
            return Ok(config.clone());
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(self.client.get_or_init(|| config).clone())
    }
}

/// The fix for a TLS error about the server's certificate.
pub fn advice(error: &str) -> Option<&'static str> {
    if !error.contains("invalid peer certificate") {
        return None;
    }
    if error.contains("not valid for") || error.contains("NotValidForName") {
        return Some("the certificate is for another host name: use a name that it is for");
    }
    // An unknown authority signed it, or another one of the same name.
    let is_stranger = ["UnknownIssuer", "BadSignature", "CaUsedAsEndEntity"].iter().any(|word| error.contains(word));
    is_stranger.then_some(
        "the certificate is of an authority that is not trusted here: name the right one in CA_CERTIFICATES_FILE (for the \
         database also in sslrootcert)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> String {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        pem([made.cert.der()])
    }

    #[test]
    fn pem_read_in_every_shape_of_forms() {
        let pem = made();
        let whole = Certificates::from_pem(&pem).unwrap();
        for shape in
            [pem.replace('\n', "\r\n"), pem.replace('\n', "\\n"), pem.replace('\n', " "), pem.replace('\n', "")]
        {
            assert_eq!(Certificates::from_pem(&shape).unwrap(), whole);
        }
        assert_eq!(Certificates::from_pem(&format!("# one\n{pem}# two\n{}", made())).unwrap().0.len(), 2);
        assert_eq!(Certificates::from_pem(&whole.pem()).unwrap(), whole);
    }

    #[test]
    fn bundle_needs_one_usable_certificate() {
        let broken = format!("{BEGIN}\nAAAA\n{END}\n");
        assert_eq!(Certificates::from_pem(&format!("{broken}{}", made())).unwrap().0.len(), 1);
        for (text, why) in [("", "no certificate"), (broken.as_str(), "can be used"), (BEGIN, "cut off")] {
            assert!(Certificates::from_pem(text).unwrap_err().contains(why), "{text}");
        }
        let missing = Certificates::from_file("/nowhere/ca.pem").unwrap_err();
        assert!(missing.contains("`/nowhere/ca.pem` cannot be read"), "{missing}");
    }

    #[test]
    fn named_authorities_extend_or_replace_built_in_ones() {
        let named = Certificates::from_pem(&made()).unwrap();
        let built_in = Trust::default();
        assert_eq!((built_in.named_pem(), built_in.whole_pem()), (None, None));
        let beside = Trust::new(None, named.clone());
        assert_eq!(beside.roots().len(), built_in.roots().len() + 1);
        assert_eq!(beside.named_pem(), Some(named.pem()));
        let whole = Certificates::from_pem(&beside.whole_pem().unwrap()).unwrap();
        assert!(whole.0.len() > 100, "{}", whole.0.len());
        let instead = Trust::new(Some(named.clone()), Certificates::default());
        assert_eq!((instead.roots().len(), instead.whole_pem()), (1, Some(named.pem())));
    }
}
