//! The target of a connection: what a URL says about where to connect and what to request.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use percent_encoding::{CONTROLS, percent_decode_str, utf8_percent_encode};
use rustix::net::SocketAddrUnix;
use url::{Position, Url};

use super::credentials::Credentials;
use super::host::{Endpoint, parse_url, with_zone};
use crate::error::{Error, Result};
use crate::shown::{MAX_LOCATION, one_line, quoted, shortened, shown_url, without_query};

/// The maximum length of a URL in names and errors, in characters.
const MAX_NAME: usize = 100;

/// A valid URL, split into its parts.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) place: Place,
    pub(crate) encrypted: bool,
    /// The URL that the handshake requests: `ws` or `wss`, without user, password, zone and
    /// fragment.
    pub(crate) url: Url,
    pub(crate) credentials: Option<Credentials>,
    /// The URL for logs and errors, without user and password, and without the content of the
    /// query, which may be a token. It has at most [`MAX_NAME`] characters, all of them printable
    /// ASCII.
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Host(Endpoint),
    Unix(PathBuf),
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Target> {
        let (scheme, rest) = text.split_once(':').unwrap_or_default();
        let target = match scheme.to_ascii_lowercase().as_str() {
            "ws+unix" => Self::unix(text, "ws", rest)?,
            "wss+unix" => Self::unix(text, "wss", rest)?,
            _ => Self::host(text)?,
        };
        if target.encrypted && cfg!(not(feature = "native-tls")) {
            return Err(Error::invalid_url(
                &target.name,
                "TLS needs the feature \"native-tls\" of rtcbot-websocket, which is switched off",
            ));
        }
        Ok(target)
    }

    fn host(text: &str) -> Result<Target> {
        let shown = shortened(&shown_url(text), MAX_NAME);
        let rejected = |reason: String| Error::invalid_url(&shown, reason);
        if !text.contains("://") {
            let shown = one_line(&shown);
            return Err(rejected(format!("it has no scheme: write ws://{shown}")));
        }
        let parsed = parse_url(text).map_err(|error| rejected(error.to_string()));
        let (mut url, zone) = parsed?;
        let credentials = Credentials::of(&url);
        let scheme = match url.scheme() {
            "ws" | "http" => "ws",
            "wss" | "https" => "wss",
            other => {
                return Err(rejected(format!(
                    "the scheme is \"{other}\"; use ws, wss, http, https, ws+unix or wss+unix"
                )));
            }
        };
        // WHATWG's URL standard calls these schemes special. All of this succeeds for them.
        let stripped = url.set_scheme(scheme).is_ok()
            && url.set_username("").is_ok()
            && url.set_password(None).is_ok();
        url.set_fragment(None);
        let name = name(&url, zone.as_deref());
        let invalid = |reason: &str| Error::invalid_url(&name, reason);
        let (Some(host), Some(port), true) = (url.host(), url.port_or_known_default(), stripped)
        else {
            return Err(invalid("it has no host"));
        };
        if port == 0 {
            return Err(invalid("port 0 cannot be connected to"));
        }
        if credentials
            .as_ref()
            .is_some_and(|known| known.basic().is_none())
        {
            return Err(invalid("its user contains a colon, which HTTP cannot send"));
        }
        let host = host.to_owned();
        Ok(Target {
            place: Place::Host(Endpoint { host, zone, port }),
            encrypted: scheme == "wss",
            name,
            url,
            credentials,
        })
    }

    /// Parses `ws+unix:/path/of/the/socket[:/resource[?query]]`, the syntax of the npm package
    /// `ws`. The authority may also be empty (`ws+unix:///path`). A colon in the socket's path is
    /// written `%3A`.
    fn unix(text: &str, scheme: &str, rest: &str) -> Result<Target> {
        // Not a valid place for a password, but the text may contain one.
        let shown = shortened(&shown_url(text), MAX_NAME);
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, resource) = rest.split_once(':').unwrap_or((rest, "/"));
        let path = path.strip_prefix("//").unwrap_or(path);
        let decoded: Vec<u8> = percent_decode_str(path).collect();
        let wrong = if text.contains('@') && !path.starts_with('/') {
            "the URL of a Unix socket has no user, password or host: write ws+unix:/path"
        } else if !path.starts_with('/') {
            "the path of a Unix socket must begin with a slash"
        } else if decoded.contains(&0) {
            "the path of a Unix socket must not contain a zero byte"
        } else if SocketAddrUnix::new(&*decoded).is_err() {
            "the path of a Unix socket is longer than the system allows (about 100 bytes)"
        } else if !resource.starts_with('/') {
            "the part after the socket's path and a colon must begin with a slash"
        } else {
            let url = Url::parse(&format!("{scheme}://localhost{resource}"));
            return Ok(Target {
                place: Place::Unix(OsString::from_vec(decoded).into()),
                encrypted: scheme == "wss",
                url: url.map_err(|error| Error::invalid_url(&shown, error.to_string()))?,
                credentials: None,
                name: shown_name(text),
            });
        };
        Err(Error::invalid_url(&shown, wrong))
    }

    /// Returns the target of a redirect.
    ///
    /// # Errors
    ///
    /// [`Error::Handshake`] if the redirect must not be followed.
    pub(crate) fn redirect(&self, location: &str) -> Result<Target> {
        let refused = |why: &str| {
            let name = &self.name;
            let shown = quoted(&shown_url(location), MAX_LOCATION);
            Err(Error::Handshake(format!(
                "{name} redirects to {shown}, which is not followed: {why}"
            )))
        };
        if matches!(self.place, Place::Unix(_)) {
            return refused("it comes from a Unix socket");
        }
        let Ok(url) = self.url.join(location) else {
            return refused("it is not a URL");
        };
        match Target::parse(url.as_str()) {
            Ok(next) if self.encrypted && !next.encrypted => refused("it would not be encrypted"),
            Ok(next) if matches!(next.place, Place::Unix(_)) => refused("it is a Unix socket"),
            Ok(next) => Ok(self.with_zone_of_same_host(next)),
            Err(error) => refused(&error.to_string()),
        }
    }

    /// Copies the zone if the host stays the same. A server does not know the interface by which
    /// the client reaches it, so its redirects have no zone.
    fn with_zone_of_same_host(&self, mut next: Target) -> Target {
        if let (Place::Host(here), Place::Host(there)) = (&self.place, &mut next.place) {
            if here.host == there.host && there.zone.is_none() {
                there.zone = here.zone.clone();
                next.name = name(&next.url, there.zone.as_deref());
            }
        }
        next
    }

    /// Returns whether secrets for this target may be sent to the other one. The host and the port
    /// must be the same. Only a change from port 80 to port 443 with encryption is allowed as well.
    pub(crate) fn may_share_secrets_with(&self, other: &Target) -> bool {
        let (Place::Host(from), Place::Host(to)) = (&self.place, &other.place) else {
            return self.place == other.place;
        };
        let upgraded = (from.port, to.port) == (80, 443) && other.encrypted;
        (&from.host, &from.zone) == (&to.host, &to.zone) && (from.port == to.port || upgraded)
    }
}

/// Returns the name of a URL without user and password.
fn name(url: &Url, zone: Option<&str>) -> String {
    let name = match (zone, url.host_str()) {
        (Some(zone), Some(host)) => {
            let host = with_zone(host, zone);
            format!(
                "{}{host}{}",
                &url[..Position::BeforeHost],
                &url[Position::AfterHost..]
            )
        }
        _ => url.to_string(),
    };
    shown_name(&name)
}

/// Returns a valid URL without its query, shortened and on one line.
fn shown_name(url: &str) -> String {
    let name = utf8_percent_encode(&without_query(url), CONTROLS).to_string();
    shortened(&name, MAX_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Target {
        Target::parse(url).unwrap()
    }

    #[test]
    fn invalid_urls_are_rejected_with_the_reason() {
        let long = format!("ws+unix:/run/{}", "x".repeat(200));
        for (url, word) in [
            ("ws://", "host"),
            ("//x", "scheme"),
            ("ftp://x", "scheme"),
            ("ws://x:70000", "port"),
            ("ws://x:0", "port"),
            ("", "scheme"),
            ("localhost:8080", "ws://"),
            ("ws://me:secret@x:0", "port"),
            ("ws://me:secret@", "host"),
            ("ws://m%3Ae:secret@x", "colon"),
            ("ws://me:secret@x:y", "port"),
            ("ftp://me:secret@x", "scheme"),
            ("me:secret@x", "scheme"),
            ("ws+unix:", "slash"),
            ("ws+unix:relative", "slash"),
            ("ws+unix://me:secret@/tmp/x", "password"),
            ("ws+unix:/run/a%00b", "zero"),
            (long.as_str(), "longer"),
            ("ws+unix:/run/a:b", "slash"),
            ("ws://x:y/?token=secret", "port"),
            ("ws://x:0/?token=secret", "port"),
            ("ws://x:0/?token=secret@z", "port"),
            ("ws://me:p?secret@x", "port"),
            ("ws://me:p#secret@x", "port"),
            ("x/?token=secret", "scheme"),
            ("ftp://x/#secret", "scheme"),
            ("ws+unix:x:/?token=secret", "slash"),
            ("ws://[fe80::1%]/", "IPv6"),
            ("ws://[fe80::1%25%ff]/", "IPv6"),
            ("ws://127.0.0.1%25eth0/", "domain"),
        ] {
            let Err(error) = Target::parse(url) else {
                panic!("{url}");
            };
            let error = error.to_string();
            assert!(error.contains(word), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_name_fits_into_a_line_of_a_log_and_is_a_url_unless_it_is_long() {
        for url in [
            "ws://robot.local:8080/drive",
            "ws://[::1]/a%0Ab",
            "ws://[fe80::1%25eth0]/\r\n\u{1b}it's",
            "ws+unix:/run/a b's\n\u{1b}[31m\u{202e}:/drive",
        ] {
            let target = parse(url);
            let name = &target.name;
            assert!(!name.contains(char::is_control), "{name:?}");
            assert!(parse(name) == target, "{name:?}");
        }
        let path = "x".repeat(1000);
        for url in [
            format!("ws://robot/{path}"),
            format!("ws+unix:/a:/{path}?{path}"),
        ] {
            let name = parse(&url).name;
            assert!(name.len() == 100 && name.ends_with("xxx..."), "{name}");
        }
        for text in [format!("ws://x:y/{path}"), path, "a\nb".to_owned()] {
            let Err(error) = Target::parse(&text) else {
                panic!("{text}");
            };
            let error = error.to_string();
            assert!(
                error.len() < 300 && !error.contains(char::is_control),
                "{error}"
            );
        }
    }

    #[test]
    fn http_is_read_as_ws_and_a_fragment_is_not_sent() {
        assert_eq!(parse("http://x/a#b").url.as_str(), "ws://x/a");
        let v6 = parse("ws://[::1]:80");
        assert_eq!(v6.url.as_str(), "ws://[::1]/");
        assert_eq!(v6.place, place("[::1]", None, 80));
    }

    fn place(host: &str, zone: Option<&str>, port: u16) -> Place {
        Place::Host(Endpoint {
            host: url::Host::parse(host).unwrap(),
            zone: zone.map(str::to_owned),
            port,
        })
    }

    #[test]
    fn the_zone_of_a_link_local_address_is_not_sent_to_the_server() {
        for url in [
            "ws://[fe80::1%25eth0]:8080/a?b",
            "ws://[fe80::1%eth0]:8080/a?b",
            "http://[FE80:0::1%eth0]:8080/a?b",
        ] {
            let target = parse(url);
            assert_eq!(
                target.place,
                place("[fe80::1]", Some("eth0"), 8080),
                "{url}"
            );
            assert_eq!(target.url.as_str(), "ws://[fe80::1]:8080/a?b");
            assert_eq!(target.name, "ws://[fe80::1%eth0]:8080/a?...");
            assert_eq!(parse(&target.name).place, target.place);
            let second = target.redirect("/b").unwrap();
            assert_eq!(second.place, target.place);
            assert_eq!(second.name, "ws://[fe80::1%eth0]:8080/b");
            assert!(target.may_share_secrets_with(&second));
            let same = target.redirect("http://[fe80::1]:8080/c").unwrap();
            assert_eq!(same.place, target.place);
            assert!(!target.may_share_secrets_with(&parse("ws://[fe80::1%wlan0]:8080/")));
        }
    }

    #[test]
    fn a_query_is_requested_but_not_shown() {
        for (url, name) in [
            ("ws://x/a?token=secret", "ws://x/a?..."),
            ("ws://x/a?token=secret#secret", "ws://x/a?..."),
            ("ws://x?token=a@b", "ws://x/?..."),
            ("ws://x/a?", "ws://x/a?"),
            ("ws+unix:/run/a:/b?token=secret", "ws+unix:/run/a:/b?..."),
        ] {
            let target = parse(url);
            assert_eq!(target.name, name);
            let query = target.url.query().unwrap_or_default();
            assert!(url.contains(query), "{query}");
            if let Place::Host(_) = target.place {
                let error = target
                    .redirect("ftp://x/?secret")
                    .err()
                    .unwrap()
                    .to_string();
                assert!(error.contains("ftp://x/?..."), "{error}");
                assert!(!error.contains("secret"), "{error}");
            }
        }
    }

    #[test]
    #[cfg(feature = "native-tls")]
    fn https_is_read_as_wss() {
        let target = parse("https://x/a");
        assert_eq!(target.url.as_str(), "wss://x/a");
        assert_eq!(target.place, place("x", None, 443));
        assert!(target.encrypted);
    }

    #[test]
    #[cfg(not(feature = "native-tls"))]
    fn without_tls_the_error_names_the_feature() {
        for url in ["wss://x", "https://x", "wss+unix:/x"] {
            let error = Target::parse(url).err().unwrap().to_string();
            assert!(error.contains("native-tls"), "{error}");
        }
    }

    #[test]
    fn user_and_password_are_removed_and_decoded() {
        let target = parse("ws://J%C3%B6rg:a%3Ab%40c@x/");
        assert_eq!(target.url.as_str(), "ws://x/");
        assert_eq!(target.name, "ws://x/");
        let credentials = target.credentials.unwrap();
        assert_eq!(credentials.user, "Jörg".as_bytes());
        assert_eq!(credentials.password, b"a:b@c");
    }

    #[test]
    fn a_unix_socket_has_a_path_and_optionally_a_resource() {
        for (url, path, resource) in [
            ("ws+unix:/run/a.sock", "/run/a.sock", "ws://localhost/"),
            ("WS+unix:///run/a.sock", "/run/a.sock", "ws://localhost/"),
            ("ws+unix:/a:/b/c?d=e:f#g", "/a", "ws://localhost/b/c?d=e:f"),
            ("ws+unix:/a%20b%3Ac:/", "/a b:c", "ws://localhost/"),
        ] {
            let target = parse(url);
            assert_eq!(target.place, Place::Unix(path.into()), "{url}");
            assert_eq!(target.url.as_str(), resource, "{url}");
        }
    }

    #[test]
    fn redirects_are_relative_or_absolute() {
        let from = parse("ws://x/a/b");
        for (location, to) in [
            ("c?d", "ws://x/a/c?d"),
            ("/", "ws://x/"),
            ("//y/z", "ws://y/z"),
            ("http://y:81/", "ws://y:81/"),
        ] {
            assert_eq!(from.redirect(location).unwrap().url.as_str(), to);
        }
        for location in [
            "ftp://x/",
            "http://",
            "ws+unix:/run/docker.sock",
            "file:///etc",
        ] {
            assert!(from.redirect(location).is_err(), "{location}");
        }
    }

    #[test]
    #[cfg(feature = "native-tls")]
    fn a_redirect_never_leaves_encryption() {
        let from = parse("wss://x/");
        assert!(from.redirect("wss://y/").is_ok());
        assert!(from.redirect("https://y/").is_ok());
        assert!(from.redirect("ws://x/").is_err());
        assert!(from.redirect("http://x/").is_err());
        assert!(parse("ws://x/").redirect("wss://x/").is_ok());
    }

    #[test]
    fn secrets_are_shared_only_with_the_same_host_and_port() {
        let secrets = |a: &str, b: &str| parse(a).may_share_secrets_with(&parse(b));
        assert!(secrets("ws://x/a", "ws://x:80/b"));
        assert!(!secrets("ws://x/", "ws://x:81/"));
        assert!(!secrets("ws://x/", "ws://y/"));
        assert!(!secrets("ws://x/", "ws://x.y/"));
        #[cfg(feature = "native-tls")]
        {
            assert!(secrets("ws://x/", "wss://x/"));
            assert!(!secrets("ws://x:8080/", "wss://x/"));
        }
    }
}
