//! A client's TLS settings: the trusted certificates, and the client's own identity.

use std::fmt;
use std::sync::{Arc, OnceLock};

use native_tls::{Certificate, Identity, Protocol, TlsConnector};

use crate::error::{Error, Result};

/// The settings, and the connector once it has been built. Building reads the system's
/// certificates, which takes milliseconds, so clones share the connector.
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    roots: Vec<Root>,
    identity: Option<Identity>,
    min_protocol: Option<Protocol>,
    accept_invalid_certs: bool,
    ready_made: Option<TlsConnector>,
    made: Arc<OnceLock<TlsConnector>>,
}

/// Additional root certificates, not parsed yet.
#[derive(Clone)]
enum Root {
    Pem(Vec<u8>),
    Der(Vec<u8>),
}

impl TlsSettings {
    pub(crate) fn add_pem(&mut self, pem: Vec<u8>) {
        self.change().roots.push(Root::Pem(pem));
    }

    pub(crate) fn add_der(&mut self, der: Vec<u8>) {
        self.change().roots.push(Root::Der(der));
    }

    pub(crate) fn set_identity(&mut self, identity: Identity) {
        self.change().identity = Some(identity);
    }

    pub(crate) fn set_min_protocol(&mut self, protocol: Protocol) {
        self.change().min_protocol = Some(protocol);
    }

    pub(crate) fn accept_invalid_certs(&mut self, accept: bool) {
        self.change().accept_invalid_certs = accept;
    }

    pub(crate) fn set_connector(&mut self, connector: TlsConnector) {
        self.change().ready_made = Some(connector);
    }

    fn change(&mut self) -> &mut Self {
        self.made = Arc::default();
        self
    }

    /// Checks that the root certificates can be parsed.
    pub(crate) fn check(&self) -> Result<()> {
        self.certificates().map(drop)
    }

    fn certificates(&self) -> Result<Vec<Certificate>> {
        let invalid = |reason: String| Error::InvalidOption {
            setting: "root certificate",
            reason,
        };
        let mut all = Vec::new();
        for root in &self.roots {
            match root {
                Root::Pem(pem) => {
                    let several = Certificate::stack_from_pem(pem);
                    let several = several.map_err(|error| invalid(error.to_string()))?;
                    if several.is_empty() {
                        return Err(invalid("there is no certificate in the PEM text".into()));
                    }
                    all.extend(several);
                }
                Root::Der(der) => {
                    let one = Certificate::from_der(der);
                    all.push(one.map_err(|error| invalid(error.to_string()))?);
                }
            }
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
        let made = match self.is_default() {
            true => &DEFAULT,
            false => &*self.made,
        };
        if let Some(connector) = made.get() {
            return Ok(connector.clone());
        }
        let connector = self.build().map_err(|error| match error {
            Failed::Certificate(error) => error,
            Failed::Connector(error) => Error::Tls {
                peer: host.to_owned(),
                error: Arc::new(error),
            },
        })?;
        Ok(made.get_or_init(|| connector).clone())
    }

    fn is_default(&self) -> bool {
        self.roots.is_empty()
            && self.identity.is_none()
            && self.min_protocol.is_none()
            && !self.accept_invalid_certs
    }

    fn build(&self) -> Result<TlsConnector, Failed> {
        let mut builder = TlsConnector::builder();
        for certificate in self.certificates().map_err(Failed::Certificate)? {
            builder.add_root_certificate(certificate);
        }
        if let Some(identity) = &self.identity {
            builder.identity(identity.clone());
        }
        builder.min_protocol_version(Some(self.min_protocol.unwrap_or(Protocol::Tlsv12)));
        builder.danger_accept_invalid_certs(self.accept_invalid_certs);
        builder.build().map_err(Failed::Connector)
    }
}

enum Failed {
    Certificate(Error),
    Connector(native_tls::Error),
}

/// Leaves secrets out.
impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("roots", &self.roots.len())
            .field("identity", &self.identity.is_some())
            .field("min_protocol", &self.min_protocol)
            .field("accept_invalid_certs", &self.accept_invalid_certs)
            .field("ready_made", &self.ready_made.is_some())
            .finish()
    }
}
