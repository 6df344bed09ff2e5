//! Certificates, made for each test.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rtcbot_websocket::native_tls::{Certificate, Identity, TlsConnector, TlsStream};
use rtcbot_websocket::{Options, Server, Websocket};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::DEADLINE;

/// An authority, and a server with a certificate of it.
pub struct Pki {
    pub ca: rcgen::Certificate,
    pub identity: Identity,
    /// The parts of the identity.
    pub certificate: rcgen::Certificate,
    pub key: KeyPair,
}

/// For a server with these names and addresses.
pub fn pki_for(names: &[&str]) -> Pki {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Two different authorities of the same name would be taken for a self-signed certificate.
    let name = format!("authority of {names:?}, {:?}", std::time::SystemTime::now());
    params.distinguished_name.push(DnType::CommonName, name);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);

    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let identity =
        Identity::from_pkcs8(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
    Pki {
        ca,
        identity: identity.unwrap(),
        certificate,
        key,
    }
}

pub fn pki() -> Pki {
    pki_for(&["localhost", "127.0.0.1", &super::own_address().to_string()])
}

impl Pki {
    pub fn server(&self) -> Server {
        Server::bind((super::own_address(), 0))
            .unwrap()
            .tls(self.identity.clone())
            .unwrap()
    }

    /// Options that trust this authority.
    pub fn options(&self) -> Options {
        Options::new()
            .root_certificate_pem(self.ca.pem())
            .close_timeout(DEADLINE)
    }

    /// A client and the server's end of the same connection, both ready.
    pub fn pair(&self, change: impl Fn(Options) -> Options) -> (Websocket, Websocket) {
        let options = change(self.options());
        super::pair_over(&mut self.server(), &options, &options)
    }

    /// The same server in rustls, which supports TLS 1.3 (native-tls's servers do not, on OpenSSL).
    pub fn rustls(&self) -> rustls::ServerConnection {
        self.rustls_with(None)
    }

    /// As [`rustls`](Self::rustls), for clients with a certificate of this authority.
    pub fn rustls_for_known_clients(&self) -> rustls::ServerConnection {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        self.rustls_with(Some(verifier.build().unwrap()))
    }

    fn rustls_with(
        &self,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> rustls::ServerConnection {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = self.certificate.der().clone();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(
                verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth),
            )
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        rustls::ServerConnection::new(Arc::new(config)).unwrap()
    }

    /// A blocking client of native-tls.
    pub fn raw_connector(&self) -> TlsConnector {
        let root = Certificate::from_pem(self.ca.pem().as_bytes()).unwrap();
        let mut builder = TlsConnector::builder();
        builder.add_root_certificate(root).build().unwrap()
    }

    pub fn raw_stream(&self, server: &Server) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(server.local_addr().unwrap())?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let connected = self.raw_connector().connect("localhost", stream);
        connected.map_err(|error| io::Error::other(error.to_string()))
    }
}
