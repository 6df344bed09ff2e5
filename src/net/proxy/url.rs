//! The URL of a proxy.

use std::fmt;

use url::{Host, Url};

use crate::error::{Error, Result};
use crate::hidden::Hidden;
use crate::net::credentials::Credentials;
use crate::net::handshake::Failure;
use crate::net::host::{Endpoint, parse_url};

/// A proxy, as its URL describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(super) scheme: Scheme,
    pub(crate) endpoint: Endpoint,
    pub(super) credentials: Option<Hidden<Credentials>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Socks5,
    Socks5h,
}

impl Proxy {
    /// Reads `http://[user:password@]host[:port]`, `socks5://…` or `socks5h://…`.
    ///
    /// As in curl, with `socks5` this side resolves the target's name, and with `socks5h` the proxy
    /// does. The port defaults to 80 for `http`, and to 1080 otherwise. User and password may be
    /// percent-encoded.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for any other text. The error does not show the password.
    pub(crate) fn parse(text: &str) -> Result<Proxy> {
        read_url(text).map_err(|reason| Error::invalid_option("proxy", reason))
    }

    /// Returns the failure of this proxy. `transient` tells whether a later attempt may succeed.
    pub(crate) fn failed(&self, reason: impl Into<String>, transient: bool) -> Failure {
        Failure::Failed(Error::Proxy {
            proxy: self.to_string(),
            reason: reason.into(),
            transient,
        })
    }

    /// Returns whether the proxy resolves the target's name.
    pub(crate) fn resolves_names(&self) -> bool {
        self.scheme != Scheme::Socks5
    }
}

/// Shows the URL without user and password, for errors and logs.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Socks5 => "socks5",
            Scheme::Socks5h => "socks5h",
        };
        write!(f, "{scheme}://{}", self.endpoint)
    }
}

/// Reads a proxy's URL. The error says what is wrong, and shows no part of the URL but its scheme.
pub(super) fn read_url(text: &str) -> Result<Proxy, String> {
    if !text.contains("://") {
        return Err("it has no scheme: write http://, socks5:// or socks5h:// before it".into());
    }
    let (url, zone) = parse_url(text).map_err(|error| error.to_string())?;
    let scheme = match url.scheme() {
        "http" => Scheme::Http,
        "socks5" => Scheme::Socks5,
        "socks5h" => Scheme::Socks5h,
        "https" => return Err("TLS to a proxy is not supported; try http://".into()),
        other => {
            let known = "\"http\", \"socks5\" or \"socks5h\"";
            return Err(format!("the scheme is \"{other}\", not {known}"));
        }
    };
    // A password with a bare '/', '?' or '#' ends up here, and its user's name as the host.
    let ends_at_port = matches!(url.path(), "" | "/");
    if !ends_at_port || url.query().is_some() || url.fragment().is_some() {
        return Err(
            "something follows host and port; '/', '?' and '#' in a password are \
             written %2F, %3F and %23"
                .into(),
        );
    }
    // The URL standard distinguishes names and IPv4 addresses for "http", but not for schemes that
    // it does not know.
    let host = url.host_str().unwrap_or_default();
    let host = Host::parse(host).map_err(|error| error.to_string())?;
    let port = match (url.port(), scheme) {
        (Some(0), _) => return Err("port 0 cannot be connected to".into()),
        (Some(port), _) => port,
        (None, Scheme::Http) => 80,
        (None, Scheme::Socks5 | Scheme::Socks5h) => 1080,
    };
    Ok(Proxy {
        scheme,
        endpoint: Endpoint { host, zone, port },
        credentials: credentials(&url, scheme)?.map(Hidden),
    })
}

fn credentials(url: &Url, scheme: Scheme) -> Result<Option<Credentials>, String> {
    let Some(credentials) = Credentials::of(url) else {
        return Ok(None);
    };
    match scheme {
        Scheme::Http if credentials.basic().is_none() => {
            Err("the user of an HTTP proxy cannot contain a colon".into())
        }
        Scheme::Http => Ok(Some(credentials)),
        Scheme::Socks5 | Scheme::Socks5h => {
            // RFC 1929, section 2: each length is one byte, and not zero.
            let fits = |bytes: &[u8]| (1..=255).contains(&bytes.len());
            match fits(&credentials.user) && fits(&credentials.password) {
                true => Ok(Some(credentials)),
                false => Err("for SOCKS5, user and password have 1 to 255 bytes each".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::host;
    use super::*;

    #[test]
    fn a_url_is_read_into_its_parts() {
        for (text, shown, resolves) in [
            ("http://proxy", "http://proxy:80", true),
            ("http://proxy/", "http://proxy:80", true),
            ("HTTP://PROXY:3128", "http://proxy:3128", true),
            ("http://u:secret@10.0.0.1:81", "http://10.0.0.1:81", true),
            ("http://[::1]:8080", "http://[::1]:8080", true),
            ("http://proxy:443", "http://proxy:443", true),
            ("socks5://proxy", "socks5://proxy:1080", false),
            ("socks5://proxy:80/", "socks5://proxy:80", false),
            ("socks5h://[fe80::1]", "socks5h://[fe80::1]:1080", true),
            ("Socks5h://me:secret@PROXY", "socks5h://proxy:1080", true),
            ("socks5://bücher", "socks5://xn--bcher-kva:1080", false),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(proxy.resolves_names(), resolves, "{text}");
            let debug = format!("{proxy:?}");
            assert!(!debug.contains("secret"), "{debug}");
        }
    }

    #[test]
    fn an_address_is_recognised_in_the_url_of_each_scheme() {
        for scheme in ["http", "socks5", "socks5h"] {
            let proxy = Proxy::parse(&format!("{scheme}://127.0.0.1:7")).unwrap();
            assert_eq!(proxy.endpoint.host, host("127.0.0.1"));
            assert_eq!(proxy.endpoint.port, 7);
            let proxy = Proxy::parse(&format!("{scheme}://[::1]:7")).unwrap();
            assert_eq!(proxy.endpoint.host, host("[::1]"));
            let proxy = Proxy::parse(&format!("{scheme}://[fe80::1%25eth0]:7")).unwrap();
            assert_eq!(proxy.endpoint.host, host("[fe80::1]"));
            assert_eq!(proxy.endpoint.zone.as_deref(), Some("eth0"));
        }
    }

    #[test]
    fn invalid_urls_are_rejected_without_showing_the_password() {
        let long = format!("socks5://secret:{}@proxy", "x".repeat(256));
        for (text, word) in [
            ("", "no scheme"),
            ("proxy:3128", "no scheme"),
            ("me:secret@proxy:3128", "no scheme"),
            ("https://me:secret@proxy", "TLS"),
            ("socks4://me:secret@proxy", "\"socks4\""),
            ("socks://me:secret@proxy", "\"socks\""),
            ("http://", "host"),
            ("socks5://", "host"),
            ("socks5://me:secret@", "host"),
            ("http://me:secret@:80", "host"),
            ("http://me:secret@proxy:0", "port 0"),
            ("http://me:secret@proxy:65536", "port"),
            ("http://me:secret@pro xy", "domain"),
            ("socks5://me:secret@pro%20xy", "domain"),
            ("http://me:sec/ret@proxy", "port"),
            ("http://me:1#secret@proxy", "%23"),
            ("http://me:1?secret@proxy", "%3F"),
            ("socks5://me:1/secret@proxy", "%2F"),
            ("http://proxy/secret", "follows"),
            ("http://m%3Ae:secret@proxy", "colon"),
            ("socks5://secret@proxy", "1 to 255"),
            ("socks5://secret:@proxy", "1 to 255"),
            ("socks5://:secret@proxy", "1 to 255"),
            (&long, "1 to 255"),
        ] {
            let Err(Error::InvalidOption { setting, reason }) = Proxy::parse(text) else {
                panic!("{text}");
            };
            assert_eq!(setting, "proxy");
            assert!(reason.contains(word), "{text}: {reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
    }
}
