//! Reads the trusted certificate authorities.

use super::reader::Reader;
use crate::{
    certificates::{Certificates, Trust},
    config::variables::{CA_EXAMPLE, Vars},
};

/// Makes the process trust the authorities that these variables name. Their problems are reported when the configuration is
/// read.
pub fn put_trust_in_force(vars: Vars<'_>) {
    Reader::new(vars).trust().put_in_force();
}

impl Reader<'_> {
    pub(super) fn trust(&mut self) -> Trust {
        let instead = self.own("SSL_CERT_FILE").map(|path| Certificates::from_file(&path));
        let instead = instead.and_then(|read| self.certificates("SSL_CERT_FILE", read));
        if self.secret_problem("CA_CERTIFICATES").is_some() {
            self.refuse_as("CA_CERTIFICATES", "", ());
            // The other certificates are still checked.
            return Trust::new(instead, Certificates::default());
        }
        let beside =
            self.own("CA_CERTIFICATES").filter(|text| text != CA_EXAMPLE).map(|text| Certificates::from_pem(&text));
        let beside = beside.and_then(|read| self.certificates("CA_CERTIFICATES", read));
        Trust::new(instead, beside.unwrap_or_default())
    }

    fn certificates(&mut self, name: &'static str, read: Result<Certificates, String>) -> Option<Certificates> {
        match read {
            Ok(certificates) => Some(certificates),
            Err(problem) => self.refuse_as(name, problem, None),
        }
    }
}
