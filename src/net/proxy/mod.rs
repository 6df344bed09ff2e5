//! Proxies: their URLs, and tunnels through them.

mod connect;
mod env;
mod socks;
mod stream;
#[cfg(test)]
mod testing;
mod url;

use std::time::Instant;

use ::url::Host;

use self::stream::ProxyStream;
pub(crate) use self::url::Proxy;
use self::url::Scheme;
use super::handshake::Failure;
use super::socket::Socket;

impl Proxy {
    /// Asks the proxy to connect to the target. `socket` is a connection to the proxy on which
    /// nothing has been sent. Afterwards it leads to the target, and no byte of the target has been
    /// read.
    pub(crate) fn tunnel(
        &self,
        socket: &Socket,
        host: &Host<String>,
        port: u16,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let stream = ProxyStream {
            proxy: self,
            socket,
            deadline,
        };
        match self.scheme {
            Scheme::Http => stream.connect(host, port),
            Scheme::Socks5 | Scheme::Socks5h => stream.socks(host, port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ask, conversations, play};

    #[test]
    fn bytes_of_the_target_in_the_same_segment_stay_unread() {
        let said: &[u8] = b"\r\nHTTP/1.1 200 said the target\r\n\r\n";
        for (proxy, mut script) in conversations() {
            script.last_mut().unwrap().1.extend_from_slice(said);
            ask(proxy, "example.com", play(script)).leads_to_target(said);
        }
    }
}
