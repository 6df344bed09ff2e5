//! Which pages may connect: the `Origin` that browsers send (RFC 6455, sections 4.2.2 and 10.2).

use std::fmt;
use std::sync::Arc;

use http::Request;
use http::header;
use url::Url;

use super::host::without_zone;
use crate::panics::{Guarded, log_panic};

/// The pages that a server accepts. A request without an `Origin` comes from no page.
#[derive(Clone, Default)]
pub(crate) struct Origins {
    /// What the user allows, beside the pages of the server itself; a function decides about those, too.
    allowed: Vec<Rule>,
}

type Judge = Box<dyn Fn(&str) -> bool + Send + Sync>;

#[derive(Clone)]
enum Rule {
    Exactly(String),
    If(Arc<Guarded<Judge>>),
}

impl Origins {
    pub(crate) fn allow(&mut self, origin: String) {
        self.allowed.push(Rule::Exactly(origin));
    }

    pub(crate) fn allow_if(&mut self, f: impl Fn(&str) -> bool + Send + Sync + 'static) {
        let f: Judge = Box::new(f);
        self.allowed.push(Rule::If(Arc::new(Guarded::new(f))));
    }

    /// Whether a request is welcome, which came over TLS or not; if not, what it says its origin
    /// is.
    pub(crate) fn check(&self, request: &Request<()>, encrypted: bool) -> Result<(), String> {
        let headers = request.headers();
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(value) = origins.next() else {
            return Ok(());
        };
        let origin = String::from_utf8_lossy(value.as_bytes()).into_owned();
        // RFC 9112, section 3.2.2: a host in the request's target counts, and Host does not.
        let host = match request.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok()),
        };
        let mut functions = 0;
        let named = self.allowed.iter().any(|rule| match rule {
            Rule::Exactly(allowed) => same_text(allowed, &origin),
            Rule::If(f) => {
                functions += 1;
                let mut welcome = false;
                log_panic(|| welcome = f(&origin));
                welcome
            }
        });
        let own = || host.is_some_and(|host| is_same_host(&origin, host, encrypted));
        let welcome = named || (functions == 0 && own());
        match welcome && origins.next().is_none() {
            true => Ok(()),
            false => Err(origin),
        }
    }
}

fn same_text(allowed: &str, origin: &str) -> bool {
    let allowed = allowed.strip_suffix('/').unwrap_or(allowed);
    allowed.eq_ignore_ascii_case(origin)
}

/// Whether the page came from the host and port that it now connects to. To a server with TLS, a
/// page without is another's: whoever is on the way may have made it. A server without may have a
/// proxy in front that has it.
fn is_same_host(origin: &str, host: &str, encrypted: bool) -> bool {
    let Ok(page) = parse(origin) else {
        return false;
    };
    // Read with the page's scheme, so that a port which that implies may be left out.
    let Ok(here) = parse(&format!("{}://{host}/", page.scheme())) else {
        return false;
    };
    let schemes = if encrypted {
        &["https"][..]
    } else {
        &["http", "https"]
    };
    schemes.contains(&page.scheme())
        && page.host() == here.host()
        && page.port_or_known_default() == here.port_or_known_default()
        && here.username().is_empty()
}

/// Zones do not count: each machine has its own.
fn parse(url: &str) -> Result<Url, url::ParseError> {
    match without_zone(url) {
        Some((url, _)) => Url::parse(&url),
        None => Url::parse(url),
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for rule in &self.allowed {
            match rule {
                Rule::Exactly(origin) => list.entry(origin),
                Rule::If(_) => list.entry(&"a function"),
            };
        }
        list.finish()
    }
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

    fn welcome(origins: &Origins, host: &str, from: &[&str]) -> bool {
        origins.check(&request(host, from), false).is_ok()
    }

    #[test]
    fn without_rules_a_page_may_connect_to_where_it_came_from() {
        let origins = Origins::default();
        for (host, origin, welcome) in [
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
            // The same host, written in another way.
            ("[::FFFF:192.0.2.1]:80", "http://[::ffff:c000:201]", true),
            ("xn--bcher-kva", "http://b\u{fc}cher", true),
            ("b%C3%BCcher", "http://xn--bcher-kva", true),
            ("[fe80::1]:8080", "http://[fe80::1%25eth0]:8080", true),
            ("[fe80::1%25eth0]:8080", "http://[fe80::1]:8080", true),
            ("[fe80::1%eth0]:8080", "http://[fe80::1%wlan0]:8080", true),
            // To a browser, these are two.
            ("robot", "http://robot.", false),
            ("[::ffff:192.0.2.1]", "http://192.0.2.1", false),
        ] {
            let found = self::welcome(&origins, host, &[origin]);
            assert_eq!(found, welcome, "{origin} at {host}");
        }
        assert!(self::welcome(&origins, "robot", &[]));
    }

    #[test]
    fn a_function_decides_about_the_servers_own_pages_too() {
        let mut origins = Origins::default();
        origins.allow("https://one.example/".into());
        assert!(welcome(&origins, "robot", &["http://robot"]));
        assert!(!welcome(&origins, "robot", &["http://two.example"]));
        origins.allow_if(|origin| origin.ends_with(".two.example"));
        for (origin, welcome) in [
            ("https://one.example", true),
            ("https://ONE.example", true),
            ("https://a.two.example", true),
            ("https://one.example.evil", false),
            ("http://one.example", false),
            ("http://robot", false),
        ] {
            let found = self::welcome(&origins, "robot", &[origin]);
            assert_eq!(found, welcome, "{origin}");
        }
        assert!(welcome(&origins, "robot", &[]));
    }

    #[test]
    fn a_function_that_panics_allows_nothing() {
        let mut origins = Origins::default();
        origins.allow_if(|_| panic!("on purpose"));
        assert!(!welcome(&origins, "robot", &["http://robot"]));
    }

    #[test]
    fn two_origins_are_one_too_many() {
        let mut origins = Origins::default();
        let two = ["http://robot", "http://robot"];
        assert!(!welcome(&origins, "robot", &two));
        origins.allow_if(|_| true);
        assert!(!welcome(&origins, "robot", &two));
    }

    #[test]
    fn a_server_with_tls_wants_pages_with_tls() {
        let mut origins = Origins::default();
        let from = |origin| request("robot", &[origin]);
        assert!(origins.check(&from("https://robot"), true).is_ok());
        assert!(origins.check(&from("http://robot"), true).is_err());
        assert!(origins.check(&from("http://robot:443"), true).is_err());
        origins.allow("http://robot".into());
        assert!(origins.check(&from("http://robot"), true).is_ok());
    }

    #[test]
    fn a_host_in_the_target_counts_in_place_of_the_header() {
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
