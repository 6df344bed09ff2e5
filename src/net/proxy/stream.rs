//! Reads from a proxy and writes to it, with one deadline for everything.

use std::io;
use std::time::Instant;

use rustix::event::PollFlags;

use super::url::Proxy;
use crate::net::handshake::Failure;
use crate::net::socket::Socket;

/// The connection to the proxy during the negotiation.
pub(super) struct ProxyStream<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) socket: &'a Socket,
    pub(super) deadline: Instant,
}

impl ProxyStream<'_> {
    /// Returns an error that a later attempt would meet again.
    pub(super) fn failed(&self, reason: impl Into<String>) -> Failure {
        self.proxy.failed(reason, false)
    }

    /// Returns an error that a later attempt may not meet.
    pub(super) fn transient(&self, reason: impl Into<String>) -> Failure {
        self.proxy.failed(reason, true)
    }

    fn broken(&self, error: &io::Error) -> Failure {
        self.transient(format!("the connection to it broke: {error}"))
    }

    /// Calls `io` until it does not have to wait, or until the time is over.
    fn in_time(
        &self,
        awaited: &'static str,
        events: PollFlags,
        mut io: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Result<usize, Failure> {
        loop {
            if Instant::now() >= self.deadline {
                return Err(Failure::TimedOut(awaited));
            }
            match io(self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map_err(|error| self.broken(&error)),
            }
            let waited = self.socket.wait(events, Some(self.deadline));
            waited.map_err(|error| self.broken(&error))?;
        }
    }

    pub(super) fn send(&self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let n = self.in_time("the proxy to read the request", PollFlags::OUT, |socket| {
                socket.send_now(bytes)
            })?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Waits for bytes. `io` reads or peeks.
    pub(super) fn receive(
        &self,
        io: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Result<usize, Failure> {
        let n = self.in_time("the proxy's answer", PollFlags::IN, io)?;
        match n {
            0 => Err(self.transient("it ended the connection before it answered")),
            n => Ok(n),
        }
    }

    pub(super) fn fill(&self, buffer: &mut [u8]) -> Result<(), Failure> {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.receive(|socket| socket.recv_now(&mut buffer[filled..]))?;
        }
        Ok(())
    }

    pub(super) fn take<const N: usize>(&self) -> Result<[u8; N], Failure> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::testing::*;
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    /// Plays the script up to a number of the answers' bytes.
    fn play_until(mut left: usize, script: Script) -> impl FnOnce(TcpStream) -> TcpStream {
        move |mut stream| {
            for (expected, answer) in script {
                let n = left.min(answer.len());
                left -= n;
                // On a slow machine, the other side may have timed out already.
                let played = stream
                    .read_exact(&mut vec![0; expected.len()])
                    .and_then(|()| stream.write_all(&answer[..n]));
                if played.is_err() || left == 0 {
                    break;
                }
            }
            stream
        }
    }

    fn one_byte_at_a_time(
        script: Script,
    ) -> impl FnOnce(TcpStream) -> Option<TcpStream> + Send + 'static {
        move |mut stream| {
            for (expected, answer) in script {
                stream.read_exact(&mut vec![0; expected.len()]).unwrap();
                for byte in answer {
                    stream.write_all(&[byte]).unwrap();
                    // Not a wait for an event: it only separates most of the bytes.
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Some(stream)
        }
    }

    fn answers_length(script: &Script) -> usize {
        script.iter().map(|(_, answer)| answer.len()).sum()
    }

    #[test]
    fn answers_may_arrive_byte_by_byte() {
        for (proxy, mut script) in conversations() {
            script.last_mut().unwrap().1.extend_from_slice(b"said");
            ask(proxy, "example.com", one_byte_at_a_time(script)).leads_to_target(b"said");
        }
    }

    #[test]
    fn a_disconnect_at_any_byte_is_an_error() {
        for (proxy, script) in conversations() {
            for bytes in 0..answers_length(&script) {
                let play = play_until(bytes, script.clone());
                let asked = ask(proxy, "example.com", move |stream| {
                    drop(play(stream));
                    None
                });
                let reason = asked.reason();
                assert!(reason.contains("connection"), "{bytes}: {reason}");
            }
        }
    }

    #[test]
    fn a_disconnect_before_the_request_is_an_error() {
        for (proxy, _) in conversations() {
            let (client, server) = connection();
            drop(server);
            let socket = client.try_clone().unwrap().into();
            let result = Proxy::parse(proxy).unwrap().tunnel(
                &socket,
                &host("example.com"),
                443,
                Instant::now() + TIMEOUT,
            );
            let asked = Asked {
                result,
                client,
                server: None,
            };
            assert!(asked.reason().contains("connection"));
        }
    }

    #[test]
    fn silence_at_any_byte_times_out() {
        let time = Duration::from_millis(20);
        for (proxy, script) in conversations() {
            for bytes in 0..answers_length(&script) {
                let play = play_until(bytes, script.clone());
                let play = move |stream| Some(play(stream));
                let asked = ask_within(time, proxy, "example.com", play);
                let timed_out = matches!(asked.result, Err(Failure::TimedOut(_)));
                assert!(timed_out, "{bytes}");
            }
        }
    }

    #[test]
    fn a_slow_proxy_does_not_extend_the_deadline() {
        let before = Instant::now();
        let time = Duration::from_millis(300);
        let asked = ask_within(time, "http://proxy:7", "example.com", move |mut stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nA: ").unwrap();
            // This fails when the other side has timed out.
            while before.elapsed() < TIMEOUT && stream.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
            Some(stream)
        });
        let stage = match asked.result {
            Err(Failure::TimedOut(stage)) => stage,
            _ => panic!("it did not time out"),
        };
        assert_eq!(stage, "the proxy's answer");
        assert!(before.elapsed() < TIMEOUT);
    }

    #[test]
    fn a_passed_deadline_times_out_immediately() {
        for (proxy, _) in conversations() {
            let asked = ask_within(Duration::ZERO, proxy, "example.com", Some);
            assert!(matches!(asked.result, Err(Failure::TimedOut(_))));
        }
    }
}
