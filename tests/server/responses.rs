//! Answers that are not WebSockets.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use rtcbot_websocket::{Options, http};

use crate::testkit::{DEADLINE, pair_over, within};
use crate::{read_all, server, stream_to};

#[test]
fn a_response_of_the_program_is_sent_unchanged() {
    let mut server = server();
    let ask = |request: &str| {
        let mut stream = stream_to(&server);
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let streams = [
        ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ask("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ask("GET /none HTTP/1.1\r\nHost: x\r\n\r\n"),
    ];
    for _ in &streams {
        let request = server.next_timeout(DEADLINE).unwrap();
        let status = if request.path() == "/none" { 204 } else { 200 };
        let response = http::Response::builder()
            .status(status)
            .header("Content-Type", "text/html")
            .header("Transfer-Encoding", "chunked")
            .header("Connection", "keep-alive")
            .header("Content-Length", "5")
            .body("<h1>hello</h1>")
            .unwrap();
        request.respond_with(response).unwrap();
    }
    let [get, head, none] = streams.map(read_all);
    assert!(get.starts_with("HTTP/1.1 200 OK\r\n"), "{get}");
    assert!(get.contains("content-type: text/html\r\n"), "{get}");
    assert!(get.contains("content-length: 14\r\n"), "{get}");
    assert!(get.contains("connection: close\r\n"), "{get}");
    assert!(
        !get.contains("chunked") && !get.contains("keep-alive"),
        "{get}"
    );
    assert!(get.ends_with("\r\n\r\n<h1>hello</h1>"), "{get}");
    assert!(head.contains("content-length: 14\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert!(none.starts_with("HTTP/1.1 204 "), "{none}");
    assert!(!none.contains("content-length"), "{none}");
    assert!(none.ends_with("\r\n\r\n"), "{none}");
}

#[test]
fn a_page_of_html_is_sent_as_one() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    request.respond_html("<h1>Robot</h1>").unwrap();
    let response = read_all(stream);
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(
        response.contains("\r\ncontent-type: text/html; charset=utf-8\r\n"),
        "{response}"
    );
    assert!(response.ends_with("\r\n\r\n<h1>Robot</h1>"), "{response}");
}

#[test]
fn a_client_that_does_not_read_its_response_delays_no_other() {
    let mut server = server();
    let page = vec![b'x'; 50_000_000];
    let mut slow = stream_to(&server);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    within(DEADLINE, {
        let page = page.clone();
        move || request.respond(200, page)
    })
    .unwrap();
    let options = Options::new();
    let (client, _peer) = pair_over(&mut server, &options, &options);
    client.close().unwrap();
    // When it reads at last, it receives everything.
    let answer = read_all(slow);
    assert!(answer.as_bytes().ends_with(&page));
}

#[test]
fn a_client_that_sends_a_body_receives_the_response() {
    let mut server = server();
    let mut stream = stream_to(&server);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n")
        .unwrap();
    let request = server.next_timeout(DEADLINE).unwrap();
    request.respond(404, "nothing here").unwrap();
    // The body comes late. If the socket were closed by now, this would reset the connection.
    // Nothing can be awaited here: the response comes before the socket could be closed.
    thread::sleep(Duration::from_millis(50));
    stream.write_all(&[b'x'; 50_000]).unwrap();
    let start = Instant::now();
    let answer = read_all(stream);
    assert!(answer.ends_with("nothing here"), "{answer}");
    assert!(start.elapsed() < DEADLINE);
}
