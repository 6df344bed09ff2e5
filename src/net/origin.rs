//! Which pages may connect: the `Origin` that browsers send (RFC 6455, sections 4.2.2 and 10.2).

use std::fmt;
use std::sync::Arc;

use http::header::{self, HeaderMap};
use url::Url;

use crate::pubsub::guarded;

/// The pages that a server accepts. A request without an `Origin` comes from no page.
#[derive(Clone, Default)]
pub(crate) struct Origins {
    /// What the user allows, beside the pages of the server itself; a function decides about those, too.
    allowed: Vec<Rule>,
}

#[derive(Clone)]
enum Rule {
    Exactly(String),
    If(Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

impl Origins {
    pub(crate) fn allow(&mut self, origin: String) {
        self.allowed.push(Rule::Exactly(origin));
    }

    pub(crate) fn allow_if(&mut self, f: Arc<dyn Fn(&str) -> bool + Send + Sync>) {
        self.allowed.push(Rule::If(f));
    }

    /// Whether a request with these headers is welcome; if not, what it says its origin is.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), String> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(value) = origins.next() else {
            return Ok(());
        };
        let origin = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let mut functions = 0;
        let named = self.allowed.iter().any(|rule| match rule {
            Rule::Exactly(allowed) => same_text(allowed, &origin),
            Rule::If(f) => {
                functions += 1;
                let mut welcome = false;
                guarded(|| welcome = f(&origin));
                welcome
            }
        });
        let own = || host.is_some_and(|host| is_same_host(&origin, host));
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

/// Whether the page came from the host and port that it now connects to.
fn is_same_host(origin: &str, host: &str) -> bool {
    let Ok(page) = Url::parse(origin) else {
        return false;
    };
    // Read with the page's scheme, so that a port which that implies may be left out.
    let Ok(here) = Url::parse(&format!("{}://{host}/", page.scheme())) else {
        return false;
    };
    matches!(page.scheme(), "http" | "https")
        && page.host() == here.host()
        && page.port_or_known_default() == here.port_or_known_default()
        && here.username().is_empty()
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
    use http::header::HeaderValue;

    fn headers(host: &str, origins: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        for origin in origins {
            headers.append(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        headers
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
        ] {
            let found = origins.check(&headers(host, &[origin])).is_ok();
            assert_eq!(found, welcome, "{origin} at {host}");
        }
        assert!(origins.check(&headers("robot", &[])).is_ok());
    }

    #[test]
    fn a_function_decides_about_the_servers_own_pages_too() {
        let mut origins = Origins::default();
        origins.allow("https://one.example/".into());
        assert!(origins.check(&headers("robot", &["http://robot"])).is_ok());
        assert!(
            origins
                .check(&headers("robot", &["http://two.example"]))
                .is_err()
        );
        origins.allow_if(Arc::new(|origin| origin.ends_with(".two.example")));
        for (origin, welcome) in [
            ("https://one.example", true),
            ("https://ONE.example", true),
            ("https://a.two.example", true),
            ("https://one.example.evil", false),
            ("http://one.example", false),
            ("http://robot", false),
        ] {
            let found = origins.check(&headers("robot", &[origin])).is_ok();
            assert_eq!(found, welcome, "{origin}");
        }
        assert!(origins.check(&headers("robot", &[])).is_ok());
    }

    #[test]
    fn a_function_that_panics_allows_nothing() {
        let mut origins = Origins::default();
        origins.allow_if(Arc::new(|_| panic!("on purpose")));
        assert!(origins.check(&headers("robot", &["http://robot"])).is_err());
    }

    #[test]
    fn two_origins_are_one_too_many() {
        let mut origins = Origins::default();
        let two = headers("robot", &["http://robot", "http://robot"]);
        assert!(origins.check(&two).is_err());
        origins.allow_if(Arc::new(|_| true));
        assert!(origins.check(&two).is_err());
    }
}
