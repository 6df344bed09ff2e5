//! The check of `Origin`, which tells from which page a browser connects (RFC 6455, sections 4.2.2
//! and 10.2).

use std::sync::Arc;

use http::Request;
use http::header;

use super::host::parse_url;
use crate::hidden::Hidden;
use crate::panics::{Guarded, log_panic};

/// The pages from which a server accepts connections. A request without an `Origin` is not from a
/// page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins {
    /// The origins that the program names.
    named: Vec<String>,
    /// The program's functions. Without any, the server's own pages are allowed as well.
    functions: Vec<Hidden<Arc<Guarded<Filter>>>>,
}

type Filter = Box<dyn Fn(&str) -> bool + Send + Sync>;

impl Origins {
    pub(crate) fn allow(&mut self, origin: String) {
        self.named.push(origin);
    }

    pub(crate) fn allow_if(&mut self, f: impl Fn(&str) -> bool + Send + Sync + 'static) {
        let f: Filter = Box::new(f);
        self.functions.push(Hidden(Arc::new(Guarded::new(f))));
    }

    /// Checks the origin of a request that came with or without TLS. Returns the origin as the
    /// error.
    pub(crate) fn check(&self, request: &Request<()>, encrypted: bool) -> Result<(), String> {
        let headers = request.headers();
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(value) = origins.next() else {
            return Ok(());
        };
        let origin = String::from_utf8_lossy(value.as_bytes()).into_owned();
        // RFC 9112, section 3.2.2: a host in the request target takes precedence over `Host`.
        let host = match request.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok()),
        };
        let named = self.named.iter().any(|named| same_text(named, &origin));
        let by_function = self.functions.iter().any(|Hidden(f)| {
            let mut allowed = false;
            log_panic(|| allowed = f(&origin));
            allowed
        });
        let own = || host.is_some_and(|host| is_same_host(&origin, host, encrypted));
        let allowed = named || by_function || (self.functions.is_empty() && own());
        match allowed && origins.next().is_none() {
            true => Ok(()),
            false => Err(origin),
        }
    }
}

fn same_text(allowed: &str, origin: &str) -> bool {
    let allowed = allowed.strip_suffix('/').unwrap_or(allowed);
    allowed.eq_ignore_ascii_case(origin)
}

/// Returns whether the page came from the host and port that it connects to. If the server has TLS,
/// a page without TLS is foreign, because anyone on the network may have made it. A server without
/// TLS may be behind a proxy with TLS.
fn is_same_host(origin: &str, host: &str, encrypted: bool) -> bool {
    // Zones have a meaning on one machine only.
    let Ok((page, _)) = parse_url(origin) else {
        return false;
    };
    // The page's scheme supplies the port if `host` leaves it out.
    let Ok((here, _)) = parse_url(&format!("{}://{host}/", page.scheme())) else {
        return false;
    };
    (page.scheme() == "https" || (page.scheme() == "http" && !encrypted))
        && page.host() == here.host()
        && page.port_or_known_default() == here.port_or_known_default()
        && here.username().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, origins: &[&str]) -> Request<()> {
        let mut request = Request::get("/").header(header::HOST, host);
        for origin in origins {
            request = request.header(header::ORIGIN, *origin);
        }
        request.body(()).unwrap()
    }

    fn is_allowed(origins: &Origins, host: &str, from: &[&str]) -> bool {
        origins.check(&request(host, from), false).is_ok()
    }

    #[test]
    fn without_rules_a_page_may_connect_to_where_it_came_from() {
        let origins = Origins::default();
        for (host, origin, expected) in [
            ("robot:8080", "http://robot:8080", true),
            ("Robot:8080", "https://rOBOT:8080", true),
            ("robot", "http://robot", true),
            ("robot:443", "https://robot", true),
            ("[::1]:8080", "http://[::1]:8080", true),
            ("robot:8080", "http://robot", false),
            ("robot:8080", "http://robot:8081", false),
            ("robot", "http://evil", false),
            ("robot", "http://robot.evil", false),
            ("robot", "null", false),
            ("robot", "file://robot", false),
            ("robot", "", false),
            ("x@robot", "http://robot", false),
            // Two notations of one host.
            ("[::FFFF:192.0.2.1]:80", "http://[::ffff:c000:201]", true),
            ("xn--bcher-kva", "http://b\u{fc}cher", true),
            ("b%C3%BCcher", "http://xn--bcher-kva", true),
            ("[fe80::1]:8080", "http://[fe80::1%25eth0]:8080", true),
            ("[fe80::1%25eth0]:8080", "http://[fe80::1]:8080", true),
            ("[fe80::1%eth0]:8080", "http://[fe80::1%wlan0]:8080", true),
            // Browsers treat these as two hosts.
            ("robot", "http://robot.", false),
            ("[::ffff:192.0.2.1]", "http://192.0.2.1", false),
        ] {
            let found = is_allowed(&origins, host, &[origin]);
            assert_eq!(found, expected, "{origin} at {host}");
        }
        assert!(is_allowed(&origins, "robot", &[]));
    }

    #[test]
    fn a_function_also_decides_about_the_servers_own_pages() {
        let mut origins = Origins::default();
        origins.allow("https://one.example/".into());
        assert!(is_allowed(&origins, "robot", &["http://robot"]));
        assert!(!is_allowed(&origins, "robot", &["http://two.example"]));
        origins.allow_if(|origin| origin.ends_with(".two.example"));
        for (origin, expected) in [
            ("https://one.example", true),
            ("https://ONE.example", true),
            ("https://a.two.example", true),
            ("https://one.example.evil", false),
            ("http://one.example", false),
            ("http://robot", false),
        ] {
            let found = is_allowed(&origins, "robot", &[origin]);
            assert_eq!(found, expected, "{origin}");
        }
        assert!(is_allowed(&origins, "robot", &[]));
    }

    #[test]
    fn a_function_that_panics_allows_nothing() {
        let mut origins = Origins::default();
        origins.allow_if(|_| panic!("on purpose"));
        assert!(!is_allowed(&origins, "robot", &["http://robot"]));
    }

    #[test]
    fn two_origins_are_rejected() {
        let mut origins = Origins::default();
        let two = ["http://robot", "http://robot"];
        assert!(!is_allowed(&origins, "robot", &two));
        origins.allow_if(|_| true);
        assert!(!is_allowed(&origins, "robot", &two));
    }

    #[test]
    fn a_server_with_tls_rejects_pages_without_tls() {
        let mut origins = Origins::default();
        let from = |origin| request("robot", &[origin]);
        assert!(origins.check(&from("https://robot"), true).is_ok());
        assert!(origins.check(&from("http://robot"), true).is_err());
        assert!(origins.check(&from("http://robot:443"), true).is_err());
        origins.allow("http://robot".into());
        assert!(origins.check(&from("http://robot"), true).is_ok());
    }

    #[test]
    fn a_host_in_the_target_takes_precedence_over_the_header() {
        let origins = Origins::default();
        let at = |target: &str| {
            let mut request = request("robot", &["http://robot"]);
            *request.uri_mut() = target.parse().unwrap();
            origins.check(&request, false).is_ok()
        };
        assert!(at("http://robot/x"));
        assert!(!at("http://other/x"));
    }
}
