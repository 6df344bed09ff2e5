//! What a user passes as text: URLs, headers, subprotocols, proxies, origins, close frames.

use http::header::{self, HeaderValue};
use http::{HeaderMap, Request as HttpRequest};
use tungstenite::protocol::frame::coding::CloseCode;
use url::{Host, Url};

use crate::fuzzing::testkit::decisions::Decisions;
use crate::fuzzing::testkit::script::Script;
use crate::fuzzing::{
    HandshakeConfig, MAX_HEAD, MAX_HEADERS, Origins, Place, Proxy, Target, client, parse_request,
    server,
};
use crate::{CloseFrame, Error, Options, Request};

/// A password that must not appear in any text.
const SECRET: &str = "s3cr3t";

/// All text in a call of `Options::connect`, and more.
pub fn settings(input: &[u8]) {
    let mut decisions = Decisions::from_bytes(input);
    let url = url(&mut decisions);
    match Target::parse(&url) {
        Ok(target) => {
            check_target(&target);
            let location = location(&mut decisions);
            check_redirect(&target, &location);
        }
        Err(error) => {
            assert!(matches!(error, Error::InvalidUrl { .. }), "{error:?}");
            check_secret(&url, &error.to_string());
        }
    }
    check_proxy(&mut decisions);
    check_origin(&mut decisions);
    check_close(&mut decisions);
    check_call(&url, &mut decisions);
}

/// What holds for every valid target.
pub(super) fn check_target(target: &Target) {
    let url = &target.url;
    assert_eq!(url.scheme(), if target.encrypted { "wss" } else { "ws" });
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    let length = target.name.chars().count();
    assert!(length <= 100 && !target.name.contains(char::is_control));
    // A longer name is shortened.
    let is_complete = length < 100;
    if let Place::Host(endpoint) = &target.place {
        assert_ne!(endpoint.port, 0);
        let host = url.host().map(|host| host.to_owned());
        assert_eq!(host.as_ref(), Some(&endpoint.host));
        assert!(endpoint.zone.is_none() || matches!(endpoint.host, Host::Ipv6(_)));
        // The text of the target leads to the same place, without the user and the query.
        if is_complete {
            let again = Target::parse(&target.name).expect("its own name");
            assert!(again.place == target.place && again.credentials.is_none());
            assert_eq!(again.url.path(), url.path());
        }
    }
    let (_, query) = target.name.split_once('?').unwrap_or_default();
    assert!(matches!(query, "" | "...") || !is_complete, "{query}");
    assert!(target.may_share_secrets_with(target));
    let credentials = target.credentials.as_ref();
    assert!(credentials.is_none_or(|known| !known.user.contains(&b':')));
}

fn check_redirect(from: &Target, location: &str) {
    let to = match from.redirect(location) {
        Ok(to) => to,
        Err(error) => {
            assert!(matches!(error, Error::Handshake(_)), "{error:?}");
            return;
        }
    };
    check_target(&to);
    assert!(to.encrypted || !from.encrypted, "{location:?}");
    assert!(matches!(to.place, Place::Host(..)), "{location:?}");
    if from.may_share_secrets_with(&to) {
        let host = |target: &Target| match &target.place {
            Place::Host(endpoint) => (endpoint.host.clone(), endpoint.zone.clone()),
            Place::Unix(path) => panic!("{path:?}"),
        };
        assert_eq!(host(from), host(&to));
    }
}

/// The password is not shown, if it is clear where it is.
fn check_secret(url: &str, text: &str) {
    let parsed = Url::parse(url).ok();
    let password = parsed.as_ref().and_then(Url::password).unwrap_or_default();
    if password.contains(SECRET) && url.matches(SECRET).count() == 1 {
        assert!(!text.contains(SECRET), "{text:?}");
    }
}

fn check_proxy(decisions: &mut Decisions<'_>) {
    let text = proxy(decisions);
    match Proxy::parse(&text) {
        Ok(proxy) => {
            assert_ne!(proxy.endpoint.port, 0);
            let shown = proxy.to_string();
            if !proxy.endpoint.to_string().contains(SECRET) {
                assert!(!shown.contains(SECRET) && !format!("{proxy:?}").contains(SECRET));
            }
            let again = Proxy::parse(&shown).expect("its own name");
            assert_eq!(again.endpoint, proxy.endpoint);
            assert_eq!(again.to_string(), shown);
        }
        Err(Error::InvalidOption { setting, reason }) => {
            assert_eq!(setting, "proxy");
            let scheme = text.split(':').next().unwrap_or_default();
            let shows = reason.contains(SECRET) && !scheme.contains(SECRET);
            assert!(!shows, "{reason:?}");
        }
        Err(other) => panic!("{other:?}"),
    }
    let list = no_proxy(decisions);
    let host = Host::parse(decisions.pick(&HOSTS)).unwrap_or(Host::Domain("robot".to_owned()));
    let found = Proxy::from_env(
        decisions.flag(),
        &host,
        decisions.u16(),
        |name| match name {
            "all_proxy" => Some(text.clone()),
            "no_proxy" => Some(list.clone()),
            _ => None,
        },
    );
    if let Err(error) = found {
        assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
    }
}

fn check_origin(decisions: &mut Decisions<'_>) {
    let mut origins = Origins::default();
    for _ in 0..decisions.byte() % 3 {
        origins.allow(origin(decisions));
    }
    let mut request = HttpRequest::new(());
    let headers = request.headers_mut();
    for (name, text) in [
        (header::HOST, decisions.pick(&HOSTS).to_owned()),
        (header::ORIGIN, origin(decisions)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    let encrypted = decisions.flag();
    let _ = (origins.check(&request, encrypted), format!("{origins:?}"));
    // A page is accepted under its own name.
    if let Some(value) = request
        .headers()
        .get(header::ORIGIN)
        .and_then(|value| value.to_str().ok())
    {
        if !value.ends_with('/') {
            let mut only = Origins::default();
            only.allow(value.to_owned());
            assert_eq!(only.check(&request, encrypted), Ok(()));
        }
    }
}

fn check_close(decisions: &mut Decisions<'_>) {
    let (code, mut reason) = (900 + decisions.u16() % 4300, decisions.text());
    if decisions.one_in(4) {
        reason = reason.repeat(1 + decisions.below(8));
    }
    match CloseFrame::checked(code, &reason) {
        Ok(frame) => {
            assert!(
                CloseCode::from(frame.code).is_allowed() || frame.code == 1014,
                "{code}"
            );
            assert!(frame.reason.len() + 2 <= 125);
        }
        Err(error) => assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}"),
    }
}

/// A valid call is a request that this crate's own server understands exactly.
fn check_call(url: &str, decisions: &mut Decisions<'_>) {
    let mut options = Options::new();
    let mut names = Vec::new();
    for _ in 0..decisions.byte() % 4 {
        let (name, value) = (header_name(decisions), header_value(decisions));
        names.push(name.to_ascii_lowercase());
        options = options.header(name, value);
    }
    let mut offered = Vec::new();
    for _ in 0..decisions.byte() % 4 {
        let name = match decisions.flag() {
            true => decisions.text(),
            false => {
                (decisions.pick(&["chat", "superchat", "a b", "a,b", "", "\u{e9}"])).to_owned()
            }
        };
        offered.push(name.clone());
        options = options.subprotocol(name);
    }
    let user = (decisions.one_in(3)).then(|| decisions.text());
    if let Some(user) = &user {
        options = options.basic_auth(user.clone(), SECRET);
    }
    if decisions.one_in(3) {
        options = options.header("Origin", origin(decisions));
    }
    if decisions.one_in(3) {
        options = options.header("User-Agent", decisions.text());
    }
    if decisions.one_in(3) {
        options = options.proxy(proxy(decisions));
    }
    let shown = format!("{options:?}");
    let hidden = !format!("{:?}{:?}", names, options.response_headers()).contains(SECRET);
    let request = options.connect_request(url);
    let request = match request.and_then(|request| request.request()) {
        Ok(request) => request,
        Err(error) => {
            let kind = matches!(
                error,
                Error::InvalidOption { .. } | Error::InvalidUrl { .. }
            );
            assert!(kind, "{error:?}");
            if let Error::InvalidUrl { .. } = error {
                check_secret(url, &error.to_string());
            }
            return;
        }
    };
    if user.is_some() && hidden {
        assert!(!shown.contains(&format!("{SECRET}\"")), "{shown}");
    }
    let head = client::request_head(&request);
    if head.len() > MAX_HEAD || request.headers().len() > MAX_HEADERS {
        return;
    }
    let (parsed, length) = parse_request(&head).expect("HTTP").expect("all of it");
    assert_eq!(length, head.len());
    assert_eq!(parsed.method(), "GET");
    let (there, here) = (parsed.headers(), request.headers());
    assert_eq!(there.len(), here.len(), "{there:?} for {here:?}");
    for name in here.keys() {
        let values = |headers: &HeaderMap| -> Vec<String> {
            let all = headers.get_all(name).iter();
            all.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
                .collect()
        };
        assert_eq!(values(there), values(here), "{name}");
    }
    check_answered(parsed, &names, &offered, user.as_deref());
}

fn check_answered(
    head: http::Request<()>,
    names: &[String],
    offered: &[String],
    user: Option<&str>,
) {
    let mut origins = Origins::default();
    origins.allow_if(|_| true);
    let terms = HandshakeConfig {
        subprotocols: offered,
        origins: &origins,
        encrypted: false,
        headers: Vec::new(),
        deflate: None,
    };
    // What a user could add to turn it into another kind of request.
    let body = ["content-length", "transfer-encoding", "origin", "expect"];
    if !names.iter().any(|name| body.contains(&name.as_str())) {
        match server::answer(&head, terms) {
            Ok((response, _)) => {
                let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
                let chosen = chosen.map(HeaderValue::as_bytes);
                assert_eq!(chosen, offered.first().map(|name| name.as_bytes()));
            }
            Err(refusal) => panic!("{}", refusal.body()),
        }
    }
    if let Some(user) = user {
        let (transport, _peer) = Script::client(Vec::new()).connect();
        let auth = Request::from_parts(head, transport, []).basic_auth();
        assert!(auth.expect("a login").matches(user, SECRET));
    }
}

const SCHEMES: [&str; 12] = [
    "ws://",
    "wss://",
    "http://",
    "https://",
    "ws+unix:",
    "wss+unix:",
    "WS://",
    "ws:",
    "ftp://",
    "://",
    "",
    "ws:\\",
];
const USERS: [&str; 8] = [
    "",
    "",
    "",
    "me@",
    "me:s3cr3t@",
    ":s3cr3t@",
    "m%3Ae:s3cr3t@",
    "me:%73s3cr3t%ff@",
];
const HOSTS: [&str; 22] = [
    "robot.example",
    "localhost",
    "127.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[fe80::1%25eth0]",
    "0x7f.1",
    "b\u{fc}cher.example",
    "xn--bcher-kva.example",
    "ROBOT.EXAMPLE.",
    "a_b",
    "%41",
    "a b",
    "",
    ".",
    "256.256.256.256",
    "\u{1F916}.example",
    "a\u{ad}b",
    "[fe80::1%eth0]",
    "[fe80::1%2]",
    "[fe80::1%25%20]",
    "[fe80::1%]",
];
const PORTS: [&str; 10] = [
    "", "", "", ":80", ":443", ":8080", ":0", ":65536", ":", ":x",
];
const PATHS: [&str; 18] = [
    "",
    "/",
    "/chat",
    "/chat?a=b#c",
    "/a b",
    "/%zz",
    "/\u{e9}?\u{e9}",
    "/..//.%2e/",
    "?q",
    "#f",
    "/run/robot.sock",
    "/run/robot.sock:/chat?a:b",
    "//run/a%3Ab:",
    "/a%00b",
    "\\a",
    "/a\r\nX: y",
    "/{}|^`<>\"",
    "/a@b",
];

fn url(decisions: &mut Decisions<'_>) -> String {
    if decisions.one_in(4) {
        return decisions.text();
    }
    let mut url = String::new();
    for parts in [&SCHEMES[..], &USERS, &HOSTS, &PORTS, &PATHS] {
        url.push_str(decisions.pick(parts));
        if decisions.one_in(16) {
            url.push_str(&decisions.text());
        }
    }
    url
}

fn location(decisions: &mut Decisions<'_>) -> String {
    match decisions.byte() % 4 {
        0 => decisions.pick(&PATHS).to_owned(),
        1 => format!("//{}{}", decisions.pick(&HOSTS), decisions.pick(&PORTS)),
        2 => decisions.text(),
        _ => url(decisions),
    }
}

fn proxy(decisions: &mut Decisions<'_>) -> String {
    const SCHEMES: [&str; 9] = [
        "http://",
        "socks5://",
        "socks5h://",
        "SOCKS5://",
        "https://",
        "socks4://",
        "socks5:",
        "http:",
        "",
    ];
    const ENDS: [&str; 5] = ["", "", "/", "/x", "?#"];
    let mut text = String::new();
    for parts in [&SCHEMES[..], &USERS, &HOSTS, &PORTS, &ENDS] {
        text.push_str(decisions.pick(parts));
        if decisions.one_in(16) {
            text.push_str(&decisions.text());
        }
    }
    text
}

fn no_proxy(decisions: &mut Decisions<'_>) -> String {
    const ENTRIES: [&str; 14] = [
        "*",
        "localhost",
        ".example",
        "*.example",
        "127.0.0.1",
        "::1",
        "[::1]:80",
        "10.0.0.0/8",
        "::/0",
        "10.0.0.0/33",
        "0.0.0.0/0",
        "robot.example:80",
        "b\u{fc}cher.example",
        "/",
    ];
    let mut list = String::new();
    for _ in 0..decisions.byte() % 4 {
        match decisions.one_in(3) {
            true => list.push_str(&decisions.text()),
            false => list.push_str(decisions.pick(&ENTRIES)),
        }
        list.push(',');
    }
    list
}

fn origin(decisions: &mut Decisions<'_>) -> String {
    match decisions.byte() % 4 {
        0 => decisions.text(),
        1 => "null".to_owned(),
        _ => format!(
            "{}{}{}",
            decisions.pick(&SCHEMES),
            decisions.pick(&HOSTS),
            decisions.pick(&PORTS)
        ),
    }
}

fn header_name(decisions: &mut Decisions<'_>) -> String {
    const NAMES: [&str; 17] = [
        "X-Robot",
        "x",
        "Authorization",
        "Cookie",
        "Origin",
        "User-Agent",
        "Host",
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Protocol",
        "sec-websocket-extensions",
        "Content-Length",
        "Transfer-Encoding",
        "a b",
        "",
        "\u{e9}",
        "Expect",
    ];
    match decisions.one_in(4) {
        true => decisions.text(),
        false => decisions.pick(&NAMES).to_owned(),
    }
}

fn header_value(decisions: &mut Decisions<'_>) -> String {
    const VALUES: [&str; 10] = [
        "1",
        "",
        " ",
        "a\tb",
        "Bearer x",
        "a\r\nb: c",
        "\u{e9}",
        "\0",
        "a\u{7f}",
        "0",
    ];
    match decisions.one_in(4) {
        true => decisions.text(),
        false => decisions.pick(&VALUES).to_owned(),
    }
}
