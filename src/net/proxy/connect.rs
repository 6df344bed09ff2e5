//! The CONNECT method of HTTP (RFC 9110, section 9.3.6).

use url::Host;

use super::stream::ProxyStream;
use crate::hidden::Hidden;
use crate::net::handshake::response::{Head, MAX_INTERIM, parse_head};
use crate::net::handshake::{Failure, MAX_HEAD};

impl ProxyStream<'_> {
    /// Requests a tunnel and reads the answer up to the end of its head.
    pub(super) fn connect(&self, host: &Host<String>, port: u16) -> Result<(), Failure> {
        self.send(self.connect_request(host, port).as_bytes())?;
        let mut interim = 0;
        let answer = loop {
            let answer = self.read_answer()?;
            if !answer.is_interim() {
                break answer;
            }
            interim += answer.length;
            if interim > MAX_INTERIM {
                return Err(self.failed(format!(
                    "it sends more than {MAX_INTERIM} bytes of interim responses"
                )));
            }
        };
        // After a 2xx, the target's bytes follow the head, whatever Content-Length says.
        let status = answer.response.status();
        if status.is_success() {
            return Ok(());
        }
        let status_line = format!("{} {}", status.as_str(), answer.reason);
        let status_line = status_line.trim_end();
        let refused = format!("it refused to connect to {host}:{port}: {status_line}");
        Err(match (status.as_u16(), &self.proxy.credentials) {
            (407, None) => {
                self.failed(format!("it requires a user and a password ({status_line})"))
            }
            (407, Some(_)) => self.failed(format!(
                "it does not accept this user and password ({status_line})"
            )),
            (501 | 505, _) => self.failed(refused),
            (408 | 429 | 500..=599, _) => self.transient(refused),
            _ => self.failed(refused),
        })
    }

    fn connect_request(&self, host: &Host<String>, port: u16) -> String {
        let target = format!("{host}:{port}");
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        let credentials = self.proxy.credentials.as_ref();
        if let Some(basic) = credentials.and_then(|Hidden(known)| known.basic()) {
            request.push_str(&format!("Proxy-Authorization: {basic}\r\n"));
        }
        request.push_str("\r\n");
        request
    }

    /// Reads a head and no byte after it. Peeks first. As long as the head is incomplete, reads all
    /// bytes that were peeked, and then only those that belong to the head.
    fn read_answer(&self) -> Result<Head, Failure> {
        let mut head = vec![0; MAX_HEAD];
        let mut taken = 0;
        while taken < head.len() {
            let seen = taken + self.receive(|socket| socket.peek_now(&mut head[taken..]))?;
            let answer = parse_head(&head[..seen])
                .map_err(|error| self.failed(format!("its answer is not HTTP: {error}")))?;
            let end = answer.as_ref().map_or(seen, |answer| answer.length);
            self.fill(&mut head[taken..end])?;
            taken = end;
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        Err(self.failed(format!("its answer is longer than {MAX_HEAD} bytes")))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::super::testing::{ESTABLISHED, ask, connect_request, play};
    use super::*;
    use crate::net::handshake::MAX_HEADERS;

    /// Plays a proxy without a login that gives this answer to CONNECT.
    fn answering(
        answer: impl AsRef<[u8]>,
    ) -> impl FnOnce(TcpStream) -> Option<TcpStream> + Send + 'static {
        let request = connect_request("example.com:443", "");
        play(vec![(request, answer.as_ref().to_vec())])
    }

    #[test]
    fn connect_names_the_target_as_in_rfc_9110() {
        for (target, named) in [
            ("example.com", "example.com:443"),
            ("192.0.2.1", "192.0.2.1:443"),
            ("[2001:db8::1]", "[2001:db8::1]:443"),
        ] {
            let script = vec![(connect_request(named, ""), ESTABLISHED.to_vec())];
            ask("http://proxy:7", target, play(script)).leads_to_target(b"");
        }
    }

    #[test]
    fn connect_sends_the_credentials() {
        for (proxy, base64) in [
            ("http://me:secret@proxy:7", "bWU6c2VjcmV0"),
            ("http://me@proxy:7", "bWU6"),
            (
                "http://Aladdin:open%20sesame@proxy:7",
                "QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            ),
            ("http://me:a%3Ab%40%FF@proxy:7", "bWU6YTpiQP8="),
        ] {
            let login = format!("Proxy-Authorization: Basic {base64}\r\n");
            let request = connect_request("example.com:443", &login);
            let script = vec![(request, ESTABLISHED.to_vec())];
            ask(proxy, "example.com", play(script)).leads_to_target(b"");
        }
    }

    #[test]
    fn any_2xx_is_a_tunnel_and_interim_responses_are_skipped() {
        for answer in [
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 204\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 299 Sure\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\nbare: newlines\n\n",
            "HTTP/1.1 100 Continue\r\n\r\n\
             HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n\
             HTTP/1.1 200 OK\r\n\r\n",
        ] {
            ask("http://proxy:7", "example.com", answering(answer)).leads_to_target(b"");
        }
    }

    #[test]
    fn endless_interim_responses_are_an_error() {
        let endless = "HTTP/1.1 102 Processing\r\n\r\n".repeat(3000);
        let reason = ask("http://proxy:7", "example.com", answering(endless)).reason();
        assert!(reason.contains("interim"), "{reason}");
        let folded = "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\nsaid";
        ask("http://proxy:7", "example.com", answering(folded)).leads_to_target(b"said");
    }

    #[test]
    fn a_refusal_of_connect_has_its_reason() {
        for (answer, status_line) in [
            ("403 Forbidden\r\n\r\n", "403 Forbidden"),
            ("502 Bad Gateway\r\nA: b\r\n\r\nbody", "502 Bad Gateway"),
            ("302\r\n\r\n", "302"),
            ("101 Switching Protocols\r\n\r\n", "101 Switching Protocols"),
        ] {
            let play = answering(format!("HTTP/1.1 {answer}"));
            let expected = format!("it refused to connect to example.com:443: {status_line}");
            let reason = ask("http://proxy:7", "example.com", play).reason();
            assert_eq!(reason, expected);
        }
        let login = "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n";
        for (proxy, login, reason) in [
            ("http://proxy:7", "", "it requires a user and a password"),
            (
                "http://me:secret@proxy:7",
                login,
                "it does not accept this user and password",
            ),
        ] {
            let request = connect_request("example.com:443", login);
            let script = vec![(request, b"HTTP/1.1 407 No\r\n\r\n".to_vec())];
            let asked = ask(proxy, "example.com", play(script));
            assert_eq!(asked.reason(), format!("{reason} (407 No)"));
        }
    }

    #[test]
    fn an_answer_that_is_not_http_is_an_error() {
        for answer in [
            &b"\x15\x03\x01\x00\x02\x02\x46"[..],
            b"SSH-2.0-OpenSSH\r\n",
            b"\x05\x00",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
        ] {
            let reason = ask("http://proxy:7", "example.com", answering(answer)).reason();
            assert!(reason.starts_with("its answer is not HTTP: "), "{reason}");
        }
    }

    #[test]
    fn the_length_and_the_headers_of_an_answer_are_limited() {
        let of_length = |length: usize| {
            let (start, end) = ("HTTP/1.1 200 OK\r\nA: ", "\r\n\r\n");
            let value = "x".repeat(length - start.len() - end.len());
            format!("{start}{value}{end}")
        };
        let with_headers = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(n));
        for good in [of_length(MAX_HEAD), with_headers(MAX_HEADERS)] {
            let good = good + "said";
            ask("http://proxy:7", "example.com", answering(good)).leads_to_target(b"said");
        }
        for (bad, word) in [
            (of_length(MAX_HEAD + 1), "longer"),
            (with_headers(MAX_HEADERS + 1), "headers"),
        ] {
            let reason = ask("http://proxy:7", "example.com", answering(bad)).reason();
            assert!(reason.contains(word), "{reason}");
        }
    }
}
