//! Peers that follow TLS only at first.
#![cfg(feature = "native-tls")]

mod testkit;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rtcbot_websocket::{Error, Options, Websocket};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use testkit::tls::{Pki, pki};
use testkit::{DEADLINE, UPGRADE, eventually, threads_named, within};

/// A handshake message that asks a TLS 1.2 client to renegotiate.
const HELLO_REQUEST: &[u8] = &[0, 0, 0, 0];
/// One that asks a server to renegotiate, which refuses with an alert.
const CLIENT_HELLO: &[u8] = &[1, 0, 0, 0];

/// Makes TLS 1.2 records of any type in a session whose secrets it has.
struct Sealer {
    key: LessSafeKey,
    iv: [u8; 12],
    number: u64,
}

impl Sealer {
    fn new((number, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
            unreachable!("there is but one cipher suite");
        };
        Sealer {
            key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).unwrap()),
            iv: iv.as_ref().try_into().unwrap(),
            number,
        }
    }

    /// A record of type 22 (RFC 5246, section 6.2; RFC 7905, section 2).
    fn handshake_record(&mut self, message: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= number;
        }
        let kind = [22, 3, 3];
        let length = (message.len() as u16).to_be_bytes();
        let associated = [&self.number.to_be_bytes()[..], &kind, &length].concat();
        let mut sealed = message.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let associated = Aad::from(associated);
        self.key
            .seal_in_place_append_tag(nonce, associated, &mut sealed)
            .unwrap();
        self.number += 1;
        [&kind[..], &(sealed.len() as u16).to_be_bytes(), &sealed].concat()
    }
}

fn provider() -> Arc<CryptoProvider> {
    let suite = cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..default_provider()
    })
}

/// A client whose WebSocket is open, and the secrets of its session.
fn client(pki: &Pki, address: SocketAddr) -> (TcpStream, Sealer) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca.der().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    let name = "localhost".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 101"));
    let secrets = session.dangerous_extract_secrets().unwrap();
    (socket, Sealer::new(secrets.tx))
}

/// A server whose handshakes are done, and the secrets of its session.
fn server(pki: &Pki, listener: &TcpListener) -> (TcpStream, Sealer) {
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(pki.key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pki.certificate.der().clone()], key.into())
        .unwrap();
    config.enable_secret_extraction = true;
    let session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let stream = rustls::StreamOwned::new(session, socket);
    let stream = tungstenite::accept(stream).unwrap();
    // tungstenite has read nothing ahead, since the client has sent nothing yet.
    let rustls::StreamOwned { conn, sock } = stream.into_inner();
    let secrets = conn.dangerous_extract_secrets().unwrap();
    (sock, Sealer::new(secrets.tx))
}

/// A write then waits for something to read, which never comes.
#[test]
fn a_server_that_asks_to_renegotiate_and_falls_silent_does_not_delay_close() {
    let test = "a_server_that_asks_to_renegotiate_and_falls_silent_does_not_delay_close";
    testkit::alone(test, || {
        let pki = pki();
        let listener = TcpListener::bind((testkit::own_address(), 0)).unwrap();
        let url = format!("wss://{}/", listener.local_addr().unwrap());
        let ws = pki
            .options()
            .ping_timeout(None)
            .close_timeout(Duration::from_millis(200))
            .connect(url)
            .unwrap();
        let (mut socket, mut sealer) = server(&pki, &listener);
        ws.wait_ready_timeout(DEADLINE).unwrap();
        socket
            .write_all(&sealer.handshake_record(HELLO_REQUEST))
            .unwrap();
        // The client answers with a handshake message of its own: the renegotiation has begun.
        socket.read_exact(&mut [0; 5]).unwrap();
        ws.put_nowait("x").unwrap();
        let closing = ws.clone();
        let error = within(DEADLINE, move || closing.close()).unwrap_err();
        assert!(
            matches!(error, Error::CloseTimeout { unsent: 1, .. }),
            "{error:?}"
        );
        eventually("that its threads have ended", || threads_named("ws-") == 0);
    });
}

/// Each one requires an answer, for which there is no room at some point.
#[test]
fn a_client_that_asks_for_key_updates_and_reads_none_is_disconnected() {
    let pki = pki();
    let mut listener = pki.server();
    let address = listener.local_addr().unwrap();
    let accepting = thread::spawn(move || {
        let request = listener.next_timeout(DEADLINE).unwrap();
        Options::new()
            .ping_interval(None)
            .close_timeout(DEADLINE)
            .accept(request)
    });
    let (mut socket, mut sealer) = client(&pki, address);
    let ws: Websocket = accepting.join().unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    let flooding = thread::spawn(move || {
        // Until it is disconnected: the system decides how much its buffers hold.
        let end = Instant::now() + 3 * DEADLINE;
        while Instant::now() < end {
            let records: Vec<u8> = (0..100)
                .flat_map(|_| sealer.handshake_record(CLIENT_HELLO))
                .collect();
            if socket.write_all(&records).is_err() {
                return true;
            }
        }
        false
    });
    let error = ws.wait_closed_timeout(3 * DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    assert!(
        error.to_string().contains("does not read the replies"),
        "{error}"
    );
    assert!(flooding.join().unwrap(), "it was never cut off");
}
