//! A client's TLS settings: the trusted certificates, and the client's own identity.

use std::sync::{Arc, OnceLock};

use native_tls::{Certificate, Identity, Protocol, TlsConnector};

use crate::error::{Error, Result};
use crate::hidden::Hidden;

/// The settings, and the connector once it has been built. Building reads the system's
/// certificates, which takes milliseconds, so clones share the connector.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsSettings {
    /// Additional root certificates, or why they cannot be read.
    roots: Vec<Hidden<Result<Vec<Certificate>>>>,
    pub(crate) identity: Option<Hidden<Identity>>,
    pub(crate) accept_invalid_certs: bool,
    /// The program's own connector. The other settings are not used then.
    pub(crate) ready_made: Option<TlsConnector>,
    /// `None` as long as all settings are the defaults.
    made: Option<Arc<OnceLock<TlsConnector>>>,
}

impl TlsSettings {
    pub(crate) fn add_pem(&mut self, pem: &[u8]) {
        let roots = match Certificate::stack_from_pem(pem) {
            Ok(none) if none.is_empty() => {
                Err("there is no certificate in the PEM text".to_owned())
            }
            other => other.map_err(|error| error.to_string()),
        };
        let roots = roots.map_err(|reason| Error::invalid_option("root certificate", reason));
        self.change().roots.push(Hidden(roots));
    }

    /// Returns the settings to change one of them, which takes a new connector.
    pub(crate) fn change(&mut self) -> &mut Self {
        self.made = Some(Arc::default());
        self
    }

    /// Returns the additional root certificates.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if some of them cannot be read.
    pub(crate) fn certificates(&self) -> Result<Vec<Certificate>> {
        let mut all = Vec::new();
        for Hidden(root) in &self.roots {
            all.extend(root.clone()?);
        }
        Ok(all)
    }

    /// Returns the connector. This may read files, so a thread that must not block must not call
    /// it.
    pub(crate) fn connector(&self, host: &str) -> Result<TlsConnector> {
        /// The connector of all connections with default settings.
        static DEFAULT: OnceLock<TlsConnector> = OnceLock::new();

        if let Some(connector) = &self.ready_made {
            return Ok(connector.clone());
        }
        let made = self.made.as_deref().unwrap_or(&DEFAULT);
        if let Some(connector) = made.get() {
            return Ok(connector.clone());
        }
        let connector = self.build(host)?;
        Ok(made.get_or_init(|| connector).clone())
    }

    fn build(&self, host: &str) -> Result<TlsConnector> {
        let mut builder = TlsConnector::builder();
        for certificate in self.certificates()? {
            builder.add_root_certificate(certificate);
        }
        if let Some(Hidden(identity)) = &self.identity {
            builder.identity(identity.clone());
        }
        builder.min_protocol_version(Some(Protocol::Tlsv12));
        builder.danger_accept_invalid_certs(self.accept_invalid_certs);
        builder.build().map_err(|error| Error::Tls {
            peer: host.to_owned(),
            error: Arc::new(error),
        })
    }
}
