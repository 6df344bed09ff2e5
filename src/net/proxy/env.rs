//! The environment: the proxy that its variables name for a target, and the exceptions of
//! `no_proxy`.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use url::Host;

use super::url::{Proxy, read_url};
use crate::error::{Error, Result};

impl Proxy {
    /// Returns the proxy that the environment names for a target, with the rules of curl and Go.
    ///
    /// `env` looks a variable up. Localhost and loopback addresses are not special.
    pub(crate) fn from_env(
        encrypted: bool,
        host: &Host<String>,
        port: u16,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Proxy>> {
        // HTTP_PROXY is not read: the client of a CGI program can set it (https://httpoxy.org).
        let names: &[&'static str] = match encrypted {
            true => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
            false => &["http_proxy", "all_proxy", "ALL_PROXY"],
        };
        let Some((name, value)) = first_set(names, &env) else {
            return Ok(None);
        };
        let direct = first_set(&["no_proxy", "NO_PROXY"], &env);
        if direct.is_some_and(|(_, list)| lists(&list, host, port)) {
            return Ok(None);
        }
        let url = match value.contains("://") {
            true => value,
            false => format!("http://{value}"),
        };
        let proxy = read_url(&url).map_err(|reason| {
            let reason = format!("in the environment variable {name}: {reason}");
            Error::invalid_option("proxy", reason)
        });
        proxy.map(Some)
    }
}

/// Returns the first variable that is set and not empty, with its name.
fn first_set(
    names: &[&'static str],
    env: impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        let value = env(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| (*name, value.to_owned()))
    })
}

/// Returns whether a `no_proxy` list covers the target. As in curl, blanks separate entries too.
fn lists(list: &str, host: &Host<String>, port: u16) -> bool {
    list.split(|c: char| c == ',' || c.is_whitespace())
        .any(|entry| covers(entry, host, port))
}

/// Returns whether one entry covers the target. An entry that cannot be parsed covers none.
fn covers(entry: &str, host: &Host<String>, port: u16) -> bool {
    let entry = &*without_zone(entry);
    if let Some((network, length)) = entry.split_once('/') {
        return address(host).is_some_and(|ip| in_block(ip, network, length));
    }
    let (name, only_port) = split_port(entry);
    if only_port.is_some_and(|only| only.parse() != Ok(port)) {
        return false;
    }
    name == "*" || covers_host(name, host)
}

/// Removes the zone, so that a link-local address is covered in every zone.
fn without_zone(entry: &str) -> Cow<'_, str> {
    match entry.split_once('%') {
        Some((start, rest)) if start.trim_start_matches('[').parse::<Ipv6Addr>().is_ok() => {
            let end = rest.find(']').map_or("", |at| &rest[at..]);
            Cow::Owned(format!("{start}{end}"))
        }
        _ => Cow::Borrowed(entry),
    }
}

/// Splits an entry into host and port. An IPv6 address without brackets has no port.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    match entry.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') && entry.parse::<Ipv6Addr>().is_err() => {
            (name, Some(port))
        }
        _ => (entry, None),
    }
}

fn covers_host(name: &str, host: &Host<String>) -> bool {
    // Parsed like the host of a URL, so that both have the same notation.
    let as_in_a_url = |_| Host::parse(without_leading_dot(name));
    let Ok(listed) = name.parse().map(Host::Ipv6).or_else(as_in_a_url) else {
        return false;
    };
    match (&listed, host) {
        (Host::Domain(listed), Host::Domain(host)) => covers_domain(listed, host),
        _ => address(&listed).is_some() && address(&listed) == address(host),
    }
}

/// Removes the dot of `.example.com`, or of `*.example.com`, which Go accepts too.
fn without_leading_dot(name: &str) -> &str {
    let name = name.strip_prefix('*').unwrap_or(name);
    name.strip_prefix('.').unwrap_or(name)
}

/// Returns whether `host` is `domain` or a subdomain of it.
fn covers_domain(domain: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Returns a host's address. An IPv4-mapped IPv6 address is returned as IPv4.
fn address(host: &Host<String>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(*ip).to_canonical()),
    }
}

/// Returns whether the address is in the CIDR block `network/length`.
fn in_block(ip: IpAddr, network: &str, length: &str) -> bool {
    let (Ok(network), Ok(length)) = (network.parse(), length.parse::<u32>()) else {
        return false;
    };
    let (different, bits) = match (ip, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return false,
    };
    // `checked_shr` rejects a shift by all 128 bits, which is the block of all addresses.
    length <= bits && different.checked_shr(bits - length).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::super::testing::host;
    use super::*;

    /// Returns the proxy that these variables name for `ws://` (or `wss://`) and a target.
    fn from_env(vars: &[(&str, &str)], encrypted: bool, target: &str, port: u16) -> Option<String> {
        let env = |name: &str| {
            let mut found = vars.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, value)| (*value).to_owned())
        };
        let proxy = Proxy::from_env(encrypted, &host(target), port, env).unwrap();
        proxy.map(|proxy| proxy.to_string())
    }

    #[test]
    fn a_link_local_address_is_excepted_in_every_zone() {
        for entry in [
            "fe80::1",
            "[fe80::1]:80",
            "fe80::1%eth0",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]:80",
            "fe80::/10",
        ] {
            assert!(covers(entry, &host("[fe80::1]"), 80), "{entry}");
            assert!(!covers(entry, &host("[2001:db8::1]"), 80), "{entry}");
        }
    }

    #[test]
    fn each_scheme_has_its_variables_in_order() {
        let all = [
            ("ALL_PROXY", "a"),
            ("all_proxy", "b"),
            ("HTTPS_PROXY", "c"),
            ("https_proxy", "d"),
            ("HTTP_PROXY", "e"),
            ("http_proxy", "f"),
        ];
        for (n, plain, encrypted) in [
            (0, None, None),
            (1, Some("a"), Some("a")),
            (2, Some("b"), Some("b")),
            (3, Some("b"), Some("c")),
            (4, Some("b"), Some("d")),
            (5, Some("b"), Some("d")),
            (6, Some("f"), Some("d")),
        ] {
            let url = |name: &str| format!("http://{name}:80");
            let vars = &all[..n];
            assert_eq!(from_env(vars, false, "x", 80), plain.map(url), "{n}");
            assert_eq!(from_env(vars, true, "x", 443), encrypted.map(url), "{n}");
        }
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let vars = [("http_proxy", " "), ("ALL_PROXY", "a")];
        assert_eq!(from_env(&vars, false, "x", 80).unwrap(), "http://a:80");
        assert_eq!(from_env(&vars[..1], false, "x", 80), None);
        let vars = [("ALL_PROXY", "a"), ("no_proxy", ""), ("NO_PROXY", "x")];
        assert_eq!(from_env(&vars, false, "x", 80), None);
    }

    #[test]
    fn the_scheme_of_a_variable_is_optional() {
        for (value, shown) in [
            ("proxy:3128", "http://proxy:3128"),
            ("me:secret@proxy", "http://proxy:80"),
            ("[::1]:3128", "http://[::1]:3128"),
            (" http://proxy ", "http://proxy:80"),
            ("socks5h://proxy", "socks5h://proxy:1080"),
        ] {
            let vars = [("all_proxy", value)];
            assert_eq!(from_env(&vars, true, "localhost", 443).unwrap(), shown);
        }
    }

    #[test]
    fn the_error_names_an_invalid_variable() {
        let env = |name: &str| (name == "ALL_PROXY").then(|| "https://me:secret@proxy".to_owned());
        let error = Proxy::from_env(false, &host("x"), 80, env).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("ALL_PROXY") && error.contains("TLS"),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn the_lower_case_no_proxy_has_precedence() {
        let vars = [("all_proxy", "a"), ("NO_PROXY", "x"), ("no_proxy", "y")];
        assert!(from_env(&vars, false, "x", 80).is_some());
        assert!(from_env(&vars, false, "y", 80).is_none());
    }

    #[test]
    fn no_proxy_lists_domains_addresses_blocks_and_ports() {
        for (list, target, listed) in [
            ("*", "example.com", true),
            ("*", "10.0.0.1", true),
            ("*:80", "example.com", true),
            ("*:81", "example.com", false),
            ("", "example.com", false),
            (",, ,", "example.com", false),
            ("example.com", "example.com", true),
            ("example.com", "a.b.example.com", true),
            ("example.com", "badexample.com", false),
            ("example.com", "example.com.evil", false),
            ("example.com", "com", false),
            (".example.com", "example.com", true),
            (".example.com", "a.example.com", true),
            (".example.com", "badexample.com", false),
            ("*.example.com", "a.example.com", true),
            ("a.example.com", "example.com", false),
            ("EXAMPLE.com", "Example.COM", true),
            ("example.com.", "example.com", true),
            ("example.com", "example.com.", true),
            ("bücher.example", "xn--bcher-kva.example", true),
            (" a , example.com ", "example.com", true),
            ("a example.com", "example.com", true),
            ("example.com:80", "example.com", true),
            ("example.com:80", "a.example.com", true),
            (".example.com:80", "a.example.com", true),
            ("example.com:81", "example.com", false),
            ("example.com:8", "example.com", false),
            ("example.com:x", "example.com", false),
            ("example.com:", "example.com", false),
            (":80", "example.com", false),
            ("localhost", "127.0.0.1", false),
            ("127.0.0.1", "localhost", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.11", false),
            ("0.0.1", "10.0.0.1", false),
            ("10.0.0.1:80", "10.0.0.1", true),
            ("10.0.0.1:81", "10.0.0.1", false),
            ("10.0.0.1", "[::ffff:10.0.0.1]", true),
            ("::1", "[::1]", true),
            ("[::1]", "[::1]", true),
            ("0:0::0:1", "[::1]", true),
            ("::2", "[::1]", false),
            ("[::1]:80", "[::1]", true),
            ("[::1]:81", "[::1]", false),
            ("2001:DB8::80", "[2001:db8::80]", true),
            ("::1:80", "[::1]", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.255.0.1", true),
            ("10.0.0.0/9", "10.127.0.1", true),
            ("10.0.0.0/9", "10.128.0.1", false),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("0.0.0.0/0", "10.0.0.2", true),
            ("0.0.0.0/0", "[2001:db8::1]", false),
            ("0.0.0.0/0", "example.com", false),
            ("10.0.0.0/8", "[::ffff:10.0.0.1]", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("10.0.0.0/", "10.0.0.0", false),
            ("10.0.0.0/8:80", "10.0.0.0", false),
            ("example.com/8", "example.com", false),
            ("2001:db8::/32", "[2001:db8:1::1]", true),
            ("2001:db8::/32", "[2001:db9::1]", false),
            ("::1/128", "[::1]", true),
            ("::/0", "[2001:db8::1]", true),
            ("::/0", "10.0.0.1", false),
            ("::/129", "[::]", false),
        ] {
            let vars = [("http_proxy", "proxy"), ("no_proxy", list)];
            let proxy = from_env(&vars, false, target, 80);
            assert_eq!(proxy.is_none(), listed, "{target} in {list:?}");
        }
    }
}
