//! Link-local addresses: a robot on a network without DHCP has no other. The same address may be on
//! each network of a machine, so a URL also names the interface (RFC 6874).

mod testkit;

use std::io::Write;
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rtcbot_websocket::{Backoff, Error, Options, Request, Server, Websocket, json};
use testkit::{DEADLINE, eventually, last_error, read_head, within};

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The number of the loopback interface: it is the first one of a network namespace.
const LOOPBACK: u32 = 1;

/// Runs the test of this name, which calls this, again in a network namespace of its own, where
/// `fe80::1` is an address of the loopback interface.
#[track_caller]
fn in_a_network_of_its_own(test: &str, body: impl FnOnce()) {
    const INSIDE: &str = "RTCBOT_WEBSOCKET_NAMESPACE";
    if std::env::var_os(INSIDE).is_some_and(|name| name == test) {
        ip("link set lo up");
        ip("-6 addr add fe80::1/64 dev lo nodad");
        // The system adds the route a moment later.
        let listener = TcpListener::bind(address(LOOPBACK)).unwrap();
        let here = listener.local_addr().unwrap();
        eventually("a way to fe80::1", || TcpStream::connect(here).is_ok());
        return body();
    }
    let possible = Command::new("unshare").args(["-n", "ip", "link"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return testkit::skip("it needs root, and the programs unshare and ip");
    }
    let mut command = Command::new("unshare");
    command.arg("-n").arg(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]);
    command.env(INSIDE, test);
    let output = within(3 * DEADLINE, move || command.output()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The request of this client.
#[track_caller]
fn next(server: &mut Server, client: &Websocket) -> Request {
    let request = server.next_timeout(DEADLINE);
    request.unwrap_or_else(|_| panic!("no request came: {:?}", client.state()))
}

fn address(scope: u32) -> SocketAddrV6 {
    SocketAddrV6::new(ADDRESS, 0, 0, scope)
}

#[test]
fn the_url_of_a_server_and_both_forms_of_a_zone_are_connected_to() {
    in_a_network_of_its_own(
        "the_url_of_a_server_and_both_forms_of_a_zone_are_connected_to",
        || {
            let mut server = Server::bind(address(LOOPBACK)).unwrap();
            let port = server.local_addr().unwrap().port();
            assert_eq!(server.url(), format!("ws://[fe80::1%1]:{port}"));
            let host = format!("[fe80::1]:{port}");
            for zone in ["%25lo", "%lo", "%1", "%251", "%25l%6F"] {
                let url = format!("ws://[FE80:0::1{zone}]:{port}/drive?token=x");
                check(&mut server, &url, &host, "/drive");
            }
            let url = server.url().to_owned();
            check(&mut server, &url, &host, "/");
        },
    );
}

/// Connects, and checks what the server receives.
fn check(server: &mut Server, url: &str, host: &str, path: &str) {
    let client = Options::new()
        .header("Origin", format!("http://{host}"))
        .connect(url)
        .unwrap();
    let request = next(server, &client);
    assert_eq!(request.header("host"), Some(host), "{url}");
    assert_eq!(request.path(), path);
    // Its own page is accepted.
    let peer = Websocket::accept(request);
    client.put_nowait(1).unwrap();
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), json!(1));
    // The name leads to the same place.
    let name = client.name().replace("?...", "");
    let again = Websocket::connect(&name).unwrap();
    let _peer = Websocket::accept(next(server, &again));
    again.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
#[cfg(feature = "native-tls")]
fn a_certificate_is_for_the_address_without_its_zone() {
    in_a_network_of_its_own("a_certificate_is_for_the_address_without_its_zone", || {
        let pki = testkit::tls::pki_for(&["fe80::1"]);
        let mut server = Server::bind(address(LOOPBACK))
            .unwrap()
            .tls(pki.identity.clone())
            .unwrap();
        let port = server.local_addr().unwrap().port();
        for url in [
            server.url().to_owned(),
            format!("wss://[fe80::1%25lo]:{port}/"),
        ] {
            let client = pki.options().connect(url).unwrap();
            let _peer = Websocket::accept(next(&mut server, &client));
            client.wait_ready_timeout(DEADLINE).unwrap();
        }
    });
}

#[test]
fn a_redirect_stays_on_the_same_network() {
    in_a_network_of_its_own("a_redirect_stays_on_the_same_network", || {
        let mut server = Server::bind(address(LOOPBACK)).unwrap();
        // A server does not know by which interface a client reaches it.
        let there = format!("http://[fe80::1]:{}/b", server.local_addr().unwrap().port());
        let first = TcpListener::bind(address(LOOPBACK)).unwrap();
        let port = first.local_addr().unwrap().port();
        let redirecting = thread::spawn(move || {
            for location in ["/a", &there] {
                let (mut stream, _) = first.accept().unwrap();
                read_head(&mut stream);
                let head = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
            }
        });
        let client = Options::new()
            .max_redirects(2)
            .connect(format!("ws://[fe80::1%25lo]:{port}/"))
            .unwrap();
        let request = next(&mut server, &client);
        assert_eq!(request.path(), "/b");
        let _peer = Websocket::accept(request);
        client.wait_ready_timeout(DEADLINE).unwrap();
        redirecting.join().unwrap();
    });
}

#[test]
fn an_interface_may_appear_later() {
    in_a_network_of_its_own("an_interface_may_appear_later", || {
        let backoff = Backoff::new()
            .initial(Duration::from_millis(10))
            .max(Duration::from_millis(10));
        let listener = TcpListener::bind(address(LOOPBACK)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = Options::new()
            .reconnect(backoff)
            .connect(format!("ws://[fe80::1%25cable0]:{port}/"))
            .unwrap();
        let failed = || matches!(last_error(&client), Some(Error::Resolve { .. }));
        eventually("the first attempt", failed);
        ip("link add cable0 type veth peer name cable1");
        ip("link set cable1 up");
        ip("link set cable0 up");
        ip("-6 addr add fe80::1/64 dev cable0 nodad");
        let shown = ip("-o link show cable0");
        let interface = shown.split(':').next().unwrap().parse().unwrap();
        let here = SocketAddrV6::new(ADDRESS, port, 0, interface);
        let mut server = Server::bind(here).unwrap();
        let _peer = Websocket::accept(next(&mut server, &client));
        client.wait_ready_timeout(DEADLINE).unwrap();
    });
}

#[test]
fn an_address_without_its_zone_is_an_error_that_asks_for_it() {
    in_a_network_of_its_own(
        "an_address_without_its_zone_is_an_error_that_asks_for_it",
        || {
            let ws = Websocket::connect("ws://[fe80::1]:80/").unwrap();
            let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
            assert!(matches!(error, Error::Connect { .. }), "{error}");
            assert!(error.to_string().contains("[fe80::1%eth0]"), "{error}");
        },
    );
}

#[test]
fn an_interface_that_does_not_exist_is_named_in_the_error() {
    for zone in ["%25none0", "%none0"] {
        let ws = Websocket::connect(format!("ws://[fe80::1{zone}]:80/")).unwrap();
        let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(
            matches!(&error, Error::Resolve { host, .. } if host == "fe80::1%none0"),
            "{error}"
        );
        assert!(error.to_string().contains("\"none0\""), "{error}");
        // The interface may appear later.
        assert!(error.is_transient());
    }
}

#[test]
fn a_zone_is_not_sent_to_a_proxy() {
    for proxy in [
        "http://127.0.0.1:9",
        "socks5://127.0.0.1:9",
        "socks5h://127.0.0.1:9",
    ] {
        let ws = Options::new()
            .proxy(proxy)
            .connect("ws://[fe80::1%25eth0]/")
            .unwrap();
        let error = ws.wait_closed_timeout(DEADLINE).unwrap_err();
        assert!(matches!(error, Error::Proxy { .. }), "{error}");
        assert!(error.to_string().contains("\"eth0\""), "{error}");
        assert!(!error.is_transient());
    }
}
