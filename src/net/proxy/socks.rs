//! The SOCKS5 protocol (RFC 1928).

use url::Host;

use super::stream::ProxyStream;
use crate::hidden::Hidden;
use crate::net::credentials::Credentials;
use crate::net::handshake::Failure;

const SOCKS_VERSION: u8 = 5;
/// RFC 1929, section 2: the login has its own version number.
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const RESERVED: u8 = 0;
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

impl ProxyStream<'_> {
    /// Logs in, requests a tunnel, and reads the whole answer.
    pub(super) fn socks(&self, host: &Host<String>, port: u16) -> Result<(), Failure> {
        let mut request = vec![SOCKS_VERSION, CONNECT, RESERVED];
        self.push_target(&mut request, host, port)?;
        self.negotiate_login()?;
        self.send(&request)?;
        self.read_reply(host, port)
    }

    /// Appends the target's address (section 5).
    fn push_target(
        &self,
        request: &mut Vec<u8>,
        host: &Host<String>,
        port: u16,
    ) -> Result<(), Failure> {
        match host {
            Host::Ipv4(ip) => {
                request.push(IPV4);
                request.extend_from_slice(&ip.octets());
            }
            Host::Ipv6(ip) => {
                request.push(IPV6);
                request.extend_from_slice(&ip.octets());
            }
            Host::Domain(name) => {
                let length = u8::try_from(name.len()).map_err(|_| {
                    let length = name.len();
                    self.failed(format!(
                        "SOCKS5 allows names of up to 255 bytes, the target's has {length}"
                    ))
                })?;
                request.extend_from_slice(&[DOMAIN, length]);
                request.extend_from_slice(name.as_bytes());
            }
        }
        request.extend_from_slice(&port.to_be_bytes());
        Ok(())
    }

    /// Negotiates the login method (section 3): this side offers methods, and the proxy chooses.
    fn negotiate_login(&self) -> Result<(), Failure> {
        let credentials = self.proxy.credentials.as_ref();
        self.send(match credentials {
            None => &[SOCKS_VERSION, 1, NO_LOGIN],
            Some(_) => &[SOCKS_VERSION, 2, NO_LOGIN, USER_AND_PASSWORD],
        })?;
        let [version, method] = self.take()?;
        self.check_version(version)?;
        match (method, credentials) {
            (NO_LOGIN, _) => Ok(()),
            (USER_AND_PASSWORD, Some(Hidden(credentials))) => self.log_in(credentials),
            (NO_METHOD, None) => Err(self.failed("it requires a login, such as user and password")),
            (NO_METHOD, Some(_)) => {
                Err(self.failed("it accepts neither user and password nor a missing login"))
            }
            _ => Err(self.failed(format!(
                "it chose login method {method}, which was not offered"
            ))),
        }
    }

    fn check_version(&self, version: u8) -> Result<(), Failure> {
        match version {
            SOCKS_VERSION => Ok(()),
            _ => Err(self.failed(format!(
                "its answer is not SOCKS5: it begins with byte {version}"
            ))),
        }
    }

    /// Sends user and password (RFC 1929, section 2).
    fn log_in(&self, Credentials { user, password }: &Credentials) -> Result<(), Failure> {
        let mut request = vec![LOGIN_VERSION];
        for part in [user, password] {
            // Both fit: `super::credentials` has checked it.
            request.push(part.len() as u8);
            request.extend_from_slice(part);
        }
        self.send(&request)?;
        match self.take()? {
            [LOGIN_VERSION, 0] => Ok(()),
            [LOGIN_VERSION, _] => Err(self.failed("it does not accept this user and password")),
            [version, _] => Err(self.failed(format!(
                "its answer to the login begins with byte {version}, not {LOGIN_VERSION}"
            ))),
        }
    }

    /// Reads the reply (section 6). The address from which the proxy connects is not used, but it
    /// must be read completely and no further.
    fn read_reply(&self, host: &Host<String>, port: u16) -> Result<(), Failure> {
        let [version, code] = self.take()?;
        self.check_version(version)?;
        if code != 0 {
            let reason = format!(
                "it cannot connect to {host}:{port}: {} (SOCKS5 reply {code})",
                reply_text(code)
            );
            return Err(match code {
                1 | 3..=6 => self.transient(reason),
                _ => self.failed(reason),
            });
        }
        let [_reserved, kind] = self.take()?;
        let length = match kind {
            IPV4 => 4,
            IPV6 => 16,
            DOMAIN => usize::from(self.take::<1>()?[0]),
            _ => return Err(self.failed(format!("its answer has an address of type {kind}"))),
        };
        self.fill(&mut vec![0; length + size_of::<u16>()])
    }
}

/// Returns the meaning of a reply code (section 6).
fn reply_text(code: u8) -> &'static str {
    match code {
        1 => "general SOCKS server failure",
        2 => "connection not allowed by ruleset",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "unassigned",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::super::Proxy;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn socks_sends_each_kind_of_address() {
        let v6 = b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb";
        for (target, request) in [
            ("example.com", SOCKS_REQUEST),
            ("192.0.2.1", b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"),
            ("[2001:db8::1]", v6),
        ] {
            for proxy in ["socks5://proxy:7", "socks5h://proxy:7"] {
                let script = script(&[(SOCKS_HELLO, &[5, 0]), (request, SOCKS_OK)]);
                ask(proxy, target, play(script)).leads_to_target(b"");
            }
        }
    }

    #[test]
    fn socks_reads_each_kind_of_address() {
        let long = [&[5, 0, 0, 3, 255][..], &[b'x'; 255], &[0, 80]].concat();
        for reply in [
            SOCKS_OK,
            b"\x05\x00\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50",
            b"\x05\x00\x00\x03\x05proxy\x00\x50",
            &[5, 0, 0, 3, 0, 0, 0],
            &long,
        ] {
            let script = socks_replying(&[reply, b"said"].concat());
            ask("socks5h://proxy:7", "example.com", play(script)).leads_to_target(b"said");
        }
    }

    #[test]
    fn socks_logs_in_if_the_proxy_chooses_so() {
        let proxy = "socks5h://me:secret@proxy:7";
        ask(proxy, "example.com", play(socks_with_login())).leads_to_target(b"");
        let not_asked = script(&[(SOCKS_HELLO_WITH_LOGIN, &[5, 0]), (SOCKS_REQUEST, SOCKS_OK)]);
        ask(proxy, "example.com", play(not_asked)).leads_to_target(b"");

        let long = "x".repeat(255);
        let login = [b"\x01\xff", long.as_bytes(), b"\xff", long.as_bytes()].concat();
        let script = script(&[
            (SOCKS_HELLO_WITH_LOGIN, &[5, 2]),
            (&login, &[1, 0]),
            (SOCKS_REQUEST, SOCKS_OK),
        ]);
        let proxy = format!("socks5h://{long}:{long}@proxy:7");
        ask(&proxy, "example.com", play(script)).leads_to_target(b"");
    }

    #[test]
    fn a_rejected_socks_login_is_an_error() {
        let without = ("socks5h://proxy:7", SOCKS_HELLO);
        let with = ("socks5h://me:secret@proxy:7", SOCKS_HELLO_WITH_LOGIN);
        for ((proxy, hello), answers, word) in [
            (without, &[[5, 0xff]][..], "requires a login"),
            (without, &[[5, 2]], "method 2, which was not offered"),
            (without, &[[5, 1]], "method 1, which was not offered"),
            (without, &[*b"HT"], "not SOCKS5: it begins with byte 72"),
            (with, &[[5, 0xff]], "accepts neither"),
            (with, &[[4, 0]], "not SOCKS5"),
            (with, &[[5, 2], [1, 1]], "does not accept this user"),
            (with, &[[5, 2], [5, 0]], "begins with byte 5"),
        ] {
            let turns = [hello, SOCKS_LOGIN].into_iter().zip(answers);
            let script = turns.map(|(a, b)| (a.to_vec(), b.to_vec())).collect();
            let reason = ask(proxy, "example.com", play(script)).reason();
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn each_socks_reply_has_the_rfcs_text() {
        for (code, text) in [
            (1, "general SOCKS server failure"),
            (2, "connection not allowed by ruleset"),
            (3, "network unreachable"),
            (4, "host unreachable"),
            (5, "connection refused"),
            (6, "TTL expired"),
            (7, "command not supported"),
            (8, "address type not supported"),
            (9, "unassigned"),
            (255, "unassigned"),
        ] {
            // Some proxies send no address with a refusal.
            let script = socks_replying(&[5, code]);
            let reason = ask("socks5h://proxy:7", "example.com", play(script)).reason();
            let expected =
                format!("it cannot connect to example.com:443: {text} (SOCKS5 reply {code})");
            assert_eq!(reason, expected);
        }
    }

    #[test]
    fn a_malformed_socks_reply_is_an_error() {
        for (reply, word) in [
            (&[4, 0][..], "not SOCKS5"),
            (&[5, 0, 0, 2], "address of type 2"),
            (&[5, 0, 0, 0], "address of type 0"),
        ] {
            let script = socks_replying(reply);
            let reason = ask("socks5h://proxy:7", "example.com", play(script)).reason();
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn a_name_too_long_for_socks_is_rejected_before_anything_is_sent() {
        let (client, server) = connection();
        let proxy = Proxy::parse("socks5h://proxy:7").unwrap();
        let name = Host::Domain("x".repeat(256));
        let deadline = Instant::now() + TIMEOUT;
        let socket = client.into();
        assert!(proxy.tunnel(&socket, &name, 443, deadline).is_err());
        drop(socket);
        assert_eq!((&server).read(&mut [0]).unwrap(), 0);
    }
}
