//! Hosts as URLs and HTTP write them, and the zones of link-local addresses.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::{Host, Url};

/// A host and a port to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: Host<String>,
    /// The network interface of a link-local address, by name or number. It has a meaning on this
    /// machine only.
    pub(crate) zone: Option<String>,
    pub(crate) port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let (host, scope) = match address {
            SocketAddr::V4(v4) => (Host::Ipv4(*v4.ip()), 0),
            SocketAddr::V6(v6) => (Host::Ipv6(*v6.ip()), v6.scope_id()),
        };
        Endpoint {
            host,
            zone: (scope != 0).then(|| scope.to_string()),
            port: address.port(),
        }
    }
}

/// The bytes that a zone must percent-encode (RFC 6874, section 2).
const NOT_IN_A_ZONE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, zone, port } = self;
        let host = host.to_string();
        match zone {
            None => write!(f, "{host}:{port}"),
            Some(zone) => write!(f, "{}:{port}", with_zone(&host, zone)),
        }
    }
}

/// Writes a host with its zone. The form is `[fe80::1%eth0]`, which Python's aiohttp and websockets
/// read too. If that form could be read as another zone, it is the one of RFC 6874.
pub(crate) fn with_zone(host: &str, zone: &str) -> String {
    let encoded = utf8_percent_encode(zone, NOT_IN_A_ZONE).to_string();
    let is_unclear = encoded != zone || (zone.starts_with("25") && zone != "25");
    let percent = if is_unclear { "%25" } else { "%" };
    format!("{}{percent}{encoded}]", host.trim_end_matches(']'))
}

/// Removes the zone from a URL. Returns the rest of the URL and the zone.
///
/// Libraries that follow the URL standard do not read zones. A zone is written `[fe80::1%25eth0]`
/// (RFC 6874, section 2) or `[fe80::1%eth0]` (RFC 4007, section 11.2), as other programs do. An
/// ambiguous text is read in the first way.
fn without_zone(url: &str) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.bytes().all(is_scheme_byte) {
        // Without a scheme, the text in brackets is not the host.
        return None;
    }
    // A backslash is a slash where the URL standard knows the scheme, and a character elsewhere.
    let has_backslashes = ["ws", "wss", "http", "https"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    let ends = |c| matches!(c, '/' | '?' | '#') || (c == '\\' && has_backslashes);
    let authority = rest.split(ends).next()?;
    let host = authority.rsplit('@').next()?;
    let (address, zone) = host.strip_prefix('[')?.split_once(']')?.0.split_once('%')?;
    let host_start = url.len() - rest.len() + authority.len() - host.len();
    let address_end = host_start + "[".len() + address.len();
    let zone_end = address_end + "%".len() + zone.len();
    let zone = match zone.strip_prefix("25") {
        Some(encoded) if !encoded.is_empty() => {
            percent_decode_str(encoded).decode_utf8().ok()?.into_owned()
        }
        _ if zone.is_empty() => return None,
        _ => zone.to_owned(),
    };
    let without = format!("{}{}", &url[..address_end], &url[zone_end..]);
    Some((without, zone))
}

/// Parses a URL. Returns its zone separately.
pub(crate) fn parse_url(url: &str) -> Result<(Url, Option<String>), url::ParseError> {
    match without_zone(url) {
        Some((rest, zone)) => Ok((Url::parse(&rest)?, Some(zone))),
        None => Ok((Url::parse(url)?, None)),
    }
}

/// Returns whether a scheme may contain the byte (RFC 3986, section 3.1).
fn is_scheme_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// Returns whether the value is valid in a `Host` header: a host, and optionally a port (RFC 9110,
/// section 7.2; RFC 3986, section 3.2). It may be empty. A zone is accepted, because some clients
/// send one although it means nothing on another machine.
pub(crate) fn is_host_and_port(value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else {
        return false;
    };
    let in_brackets = value.strip_prefix('[');
    let (is_host, port) = match in_brackets.and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let (address, zone) = address.split_once('%').unwrap_or((address, "-"));
            let is_zone = !zone.is_empty() && is_name(zone);
            (is_zone && address.parse::<Ipv6Addr>().is_ok(), port)
        }
        None => {
            let end = value.find(':').unwrap_or(value.len());
            (is_name(&value[..end]), &value[end..])
        }
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    is_host && is_port
}

/// Returns whether the text is a registered name (RFC 3986, section 3.2.2).
fn is_name(name: &str) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
    let mut encoded = name.as_bytes().split(|byte| *byte == b'%').skip(1);
    name.as_bytes().iter().all(is_allowed)
        && encoded.all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_removed_from_a_url_and_written_again() {
        for (url, rest, zone) in [
            ("ws://[fe80::1%25eth0]:80/a", "ws://[fe80::1]:80/a", "eth0"),
            ("ws://[fe80::1%eth0]", "ws://[fe80::1]", "eth0"),
            ("ws://[fe80::1%1]/", "ws://[fe80::1]/", "1"),
            ("ws://[fe80::1%251]/", "ws://[fe80::1]/", "1"),
            ("ws://[fe80::1%25]/", "ws://[fe80::1]/", "25"),
            ("ws://[fe80::1%2525]/", "ws://[fe80::1]/", "25"),
            ("ws://[fe80::1%25251]/", "ws://[fe80::1]/", "251"),
            ("ws://[fe80::1%25a%2Fb]/", "ws://[fe80::1]/", "a/b"),
            (
                "ws://u:p@[fe80::1%eth0.7]:1?q",
                "ws://u:p@[fe80::1]:1?q",
                "eth0.7",
            ),
        ] {
            let (without, found) = without_zone(url).unwrap();
            assert_eq!((without.as_str(), found.as_str()), (rest, zone), "{url}");
            let again = format!("ws://{}/", with_zone("[fe80::1]", zone));
            let again = without_zone(&again).unwrap();
            assert_eq!(again, ("ws://[fe80::1]/".to_owned(), zone.to_owned()));
        }
        for url in [
            "",
            "ws://x/",
            "ws://[::1]/",
            "ws://[fe80::1%]/",
            "ws://x/[fe80::1%25eth0]",
            "ws://[fe80::1%25eth0@x/",
            "ws://[fe80::1%25%ff]/",
            "[fe80::1%25eth0]",
            "ws:ws://[fe80::1%25eth0]/",
            // The backslash belongs to the user's name: the host is "x".
            "socks5://[fe80::1%25eth0]\\@x/",
        ] {
            assert_eq!(without_zone(url), None, "{url}");
        }
    }

    #[test]
    fn a_host_header_has_a_host_and_optionally_a_port() {
        for host in [
            "",
            "robot",
            "ROBOT.example.:80",
            "a_b",
            "robot:",
            "xn--bcher-kva",
            "b%C3%BCcher",
            "192.0.2.1:8080",
            "[::1]",
            "[::FFFF:192.0.2.1]:80",
            "[fe80::1%25eth0]:80",
            "[fe80::1%eth0]",
        ] {
            assert!(is_host_and_port(host.as_bytes()), "{host}");
        }
        for host in [
            "a b",
            "robot/x",
            "robot?x",
            "user@robot",
            "http://robot",
            "robot:x",
            "robot:80:80",
            "::1",
            "[::1",
            "[::1]80",
            "[robot]",
            "[]",
            "a%2",
            "a%zz",
            "a\tb",
            "robot, other",
            "\"robot\"",
            "b\u{fc}cher",
            "[fe80::1%]",
            "[fe80::1%a b]",
            "[fe80::1%Host: [fe80::1%25eth0]:80",
        ] {
            assert!(!is_host_and_port(host.as_bytes()), "{host}");
        }
        assert!(!is_host_and_port(b"\xff"));
    }
}
