//! Bad input is a clear error, and disturbs no other connection.

mod testkit;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rtcbot_websocket::{Error, Message, Options, Server, Websocket, json};
use testkit::answering::{After, answering};
use testkit::frames::read_frame;
use testkit::{
    DEADLINE, UPGRADE, client_and_raw, masked_frame, own_address, read_close_code, server_and_bytes,
};

fn connect_error(url: &str) -> String {
    Websocket::connect(url).unwrap_err().to_string()
}

#[test]
fn a_url_without_a_host_is_refused() {
    assert!(matches!(
        Websocket::connect("ws://"),
        Err(Error::InvalidUrl { .. })
    ));
    assert!(connect_error("ws://").contains("host"));
    assert!(connect_error("/ws").contains("no scheme"));
}

#[test]
fn an_unknown_scheme_is_refused() {
    assert!(connect_error("ftp://localhost/").contains("\"ftp\""));
    assert!(connect_error("localhost:80").contains("write ws://localhost:80"));
}

#[test]
fn a_port_out_of_range_is_refused() {
    assert!(connect_error("ws://localhost:65536/").contains("port"));
    assert!(connect_error("ws://localhost:0/").contains("port"));
}

#[test]
fn a_header_or_subprotocol_that_http_does_not_allow_is_refused() {
    let with =
        |name: &str, value: &str| Options::new().header(name, value).connect("ws://localhost");
    for (name, value) in [
        ("a b", "c"),
        ("a", "b\nc"),
        ("Host", "x"),
        ("sec-websocket-key", "x"),
    ] {
        let error = with(name, value).unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidOption {
                    setting: "header",
                    ..
                }
            ),
            "{error}"
        );
    }
    let error = Options::new()
        .subprotocol("a,b")
        .connect("ws://localhost")
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidOption {
                setting: "subprotocol",
                ..
            }
        ),
        "{error}"
    );
}

fn failure(ws: &Websocket) -> Error {
    testkit::failure(ws).expect("it closed in order")
}

/// Returns the reason for the end, which may be orderly.
fn closed_reason(ws: &Websocket) -> Error {
    let _ = ws.wait_closed_timeout(DEADLINE);
    testkit::end_reason(ws).expect("it has ended")
}

#[test]
fn a_name_that_does_not_resolve_is_an_error() {
    let ws = Websocket::connect("ws://does-not-exist.invalid/").unwrap();
    let error = failure(&ws);
    assert!(
        matches!(&error, Error::Resolve { host, .. } if host == "does-not-exist.invalid"),
        "{error}"
    );
}

#[test]
fn a_port_that_refuses_connections_is_an_error() {
    let address = TcpListener::bind((own_address(), 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let ws = Websocket::connect(format!("ws://{address}")).unwrap();
    let error = failure(&ws);
    assert!(
        matches!(&error, Error::Connect { address: a, .. } if *a == address.to_string()),
        "{error}"
    );
}

/// Returns the failure of a client whose server sends this response.
fn failure_after(response: &[u8], after: After) -> Error {
    let (url, serving) = answering([response], after);
    let error = failure(&Websocket::connect(url).unwrap());
    serving.join().unwrap();
    error
}

#[test]
fn a_server_that_answers_404_refuses_the_connection() {
    let error = failure_after(
        b"HTTP/1.1 404 Not Found\r\nX-Why: moved\r\nContent-Length: 4\r\n\r\ngone",
        After::Stay,
    );
    let Error::Refused { response } = &error else {
        panic!("{error}")
    };
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["x-why"], "moved");
    assert_eq!(&response.body()[..], b"gone");
    assert!(error.to_string().contains("404"));
}

#[test]
fn a_server_that_answers_200_refuses_the_connection() {
    let error = failure_after(b"HTTP/1.1 200 OK\r\n\r\n<html>", After::End);
    assert!(
        matches!(&error, Error::Refused { response } if response.status() == 200),
        "{error}"
    );
}

#[test]
fn a_response_that_is_not_http_is_an_error() {
    let error = failure_after(b"\x15\x03\x01\x00\x02\x02\x46", After::End);
    assert!(
        matches!(&error, Error::Handshake(why) if why.contains("not HTTP")),
        "{error}"
    );
}

#[test]
fn a_response_head_without_end_is_an_error() {
    static ENDLESS: &[u8] = &[b'a'; 40 << 10];
    let answer = Box::leak(
        [b"HTTP/1.1 101 x\r\nX: ", ENDLESS]
            .concat()
            .into_boxed_slice(),
    );
    let error = failure_after(answer, After::Stay);
    assert!(
        matches!(&error, Error::Handshake(why) if why.contains("longer")),
        "{error}"
    );
}

#[test]
fn a_stream_that_ends_before_the_response_is_an_error() {
    let error = failure_after(b"", After::End);
    assert!(
        matches!(&error, Error::Lost(why) if why.to_string().contains("without a response")),
        "{error}"
    );
    let error = failure_after(b"HTTP/1.1 101 Switch", After::End);
    assert!(
        matches!(&error, Error::Lost(why) if why.to_string().contains("within")),
        "{error}"
    );
}

#[test]
fn a_server_that_does_not_answer_is_a_connect_timeout() {
    let soon = Options::new().connect_timeout(Duration::from_millis(50));
    let (url, serving) = answering([""], After::Stay);
    let ws = soon.connect(url).unwrap();
    let error = failure(&ws);
    assert!(
        matches!(&error, Error::ConnectTimeout { stage, .. } if stage.contains("handshake")),
        "{error}"
    );
    serving.join().unwrap();
}

#[test]
fn a_wrong_accept_key_is_an_error() {
    let error = failure_after(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n\r\n",
        After::Stay,
    );
    assert!(
        matches!(&error, Error::Handshake(why) if why.contains("Sec-WebSocket-Accept")),
        "{error}"
    );
}

/// The peer sends these bytes. It must be answered with this code, and this side must have failed.
fn violation(bytes: &[u8], code: u16) -> Error {
    let options = Options::new().max_message_size(100);
    let (ws, mut stream) = server_and_bytes(&options);
    stream.write_all(bytes).unwrap();
    assert_eq!(read_close_code(&mut stream), code);
    // Ends the stream, since the server may be waiting for that.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(stream);
    failure(&ws)
}

#[test]
fn a_message_over_the_limit_is_answered_with_1009() {
    let error = violation(&masked_frame(0x82, &[0; 101]), 1009);
    assert!(
        matches!(
            error,
            Error::MessageTooBig {
                size: 101,
                limit: 100
            }
        ),
        "{error}"
    );
}

#[test]
fn fragments_over_the_limit_are_answered_with_1009() {
    let fragments = [masked_frame(0x02, &[0; 60]), masked_frame(0x80, &[0; 60])].concat();
    let error = violation(&fragments, 1009);
    assert!(
        matches!(
            error,
            Error::MessageTooBig {
                size: 120,
                limit: 100
            }
        ),
        "{error}"
    );
}

#[test]
fn a_frame_longer_than_any_message_is_refused_before_its_payload_arrives() {
    // Only the head: the client announces a megabyte.
    let head = [0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0];
    let error = violation(&head, 1009);
    assert!(
        matches!(
            error,
            Error::MessageTooBig {
                size: 0x10_0000,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn text_that_is_not_utf_8_is_answered_with_1007() {
    let error = violation(&masked_frame(0x81, b"\xff\xfe"), 1007);
    assert!(
        matches!(error, Error::Protocol { code: 1007, .. }),
        "{error}"
    );
}

#[test]
fn a_reserved_opcode_is_answered_with_1002() {
    let error = violation(&masked_frame(0x83, b"?"), 1002);
    assert!(
        matches!(error, Error::Protocol { code: 1002, .. }),
        "{error}"
    );
}

#[test]
fn an_unmasked_frame_from_a_client_is_answered_with_1002() {
    let error = violation(b"\x81\x01a", 1002);
    assert!(
        matches!(error, Error::Protocol { code: 1002, .. }),
        "{error}"
    );
}

#[test]
fn a_close_frame_with_half_a_code_is_answered_with_1002() {
    violation(&masked_frame(0x88, b"\x03"), 1002);
}

#[test]
fn messages_before_a_protocol_violation_are_delivered() {
    let (ws, mut stream) = server_and_bytes(&Options::new());
    stream.write_all(&masked_frame(0x81, b"1")).unwrap();
    stream.write_all(&masked_frame(0x83, b"")).unwrap();
    assert_eq!(ws.get_timeout(DEADLINE).unwrap(), json!(1));
    let error = ws.get_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[test]
fn answers_to_messages_before_a_protocol_violation_are_sent() {
    const COUNT: usize = 1000;
    let (ws, mut stream) = server_and_bytes(&Options::new().json(false).paused(true));
    // Each message is queued for sending before the violation is read.
    ws.subscribe_to(ws.clone());
    let mut bytes = masked_frame(0x81, b"1").repeat(COUNT);
    bytes.extend(masked_frame(0x83, b""));
    stream.write_all(&bytes).unwrap();
    ws.resume();
    for n in 0..COUNT {
        let frame = read_frame(&mut stream).unwrap();
        assert_eq!(frame, (0x81, b"1".to_vec()), "frame {n}");
    }
    assert_eq!(read_close_code(&mut stream), 1002);
}

#[test]
fn a_peer_that_violates_the_protocol_and_reads_nothing_does_not_hold_the_connection() {
    let (ws, mut stream) = server_and_bytes(&Options::new());
    // More than the buffers of both sockets take.
    while ws.put_nowait(vec![0; 64 << 10]).is_ok() {}
    stream.write_all(&masked_frame(0x83, b"")).unwrap();
    let error = failure(&ws);
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    assert!(ws.stats().unsent > 0);
}

#[test]
fn a_stream_that_ends_without_a_close_frame_is_lost() {
    let (ws, stream) = server_and_bytes(&Options::new());
    drop(stream);
    assert!(matches!(failure(&ws), Error::Lost(_)));
    assert!(matches!(ws.get(), Err(Error::Lost(_))));
}

#[test]
fn text_that_is_not_json_arrives_as_text() {
    let (ws, mut raw) = client_and_raw(&Options::new());
    raw.send(tungstenite::Message::text("{not json")).unwrap();
    assert!(matches!(ws.get_timeout(DEADLINE), Ok(Message::Text(text)) if text == "{not json"));
}

#[test]
fn one_bad_connection_does_not_disturb_another() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let good = Websocket::connect(testkit::url(&server)).unwrap();
    let peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    let mut bad = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    bad.write_all(UPGRADE.as_bytes()).unwrap();
    let bad_peer = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
    bad.write_all(&masked_frame(0x83, b"")).unwrap();
    failure(&bad_peer);
    good.put_nowait(json!("still here")).unwrap();
    assert_eq!(peer.get_timeout(DEADLINE).unwrap(), "still here");
}

#[test]
fn close_codes_that_may_not_be_sent_are_refused_and_leave_the_connection_open() {
    let (ws, _raw) = client_and_raw(&Options::new());
    for (code, reason) in [
        (1005, ""),
        (1006, ""),
        (999, ""),
        (5000, ""),
        (1000, &*"x".repeat(124)),
    ] {
        let error = ws.close_with(code, reason).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    assert!(ws.is_ready());
}

#[test]
fn accept_refuses_a_request_that_is_not_a_websocket_upgrade() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "426 "),
        (UPGRADE.replace("GET", "POST"), "405 "),
        (UPGRADE.replace(": 13", ": 8"), "426 "),
        (UPGRADE.replace("dGhl", ""), "400 "),
    ] {
        let mut stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let ws = Websocket::accept(server.next_timeout(DEADLINE).unwrap());
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        if status == "426 " {
            assert!(
                answer.to_lowercase().contains("sec-websocket-version: 13"),
                "{answer}"
            );
        }
        assert!(matches!(failure(&ws), Error::Handshake(_)));
    }
}

/// Close codes that must not be sent (RFC 6455, section 7.4).
const FORBIDDEN_CODES: [u16; 9] = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000];

#[test]
fn a_close_frame_with_a_reserved_code_is_a_protocol_error() {
    let check = |ws: &Websocket, code: u16| {
        let error = failure(ws);
        assert!(
            matches!(
                &error,
                Error::Protocol { code: 1002, reason } if reason.contains(&code.to_string())
            ),
            "{code}: {error}"
        );
        assert!(!error.is_orderly());
        assert_eq!(ws.received_close(), None);
        assert_eq!(ws.get().unwrap_err().to_string(), error.to_string());
    };
    for code in FORBIDDEN_CODES {
        let payload = code.to_be_bytes();
        let (server, mut stream) = server_and_bytes(&Options::new());
        stream.write_all(&masked_frame(0x88, &payload)).unwrap();
        assert_eq!(read_close_code(&mut stream), 1002, "{code}");
        drop(stream);
        check(&server, code);

        let (client, mut raw) = client_and_raw(&Options::new());
        let stream = raw.get_mut();
        stream
            .write_all(&[0x88, 2, payload[0], payload[1]])
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        check(&client, code);
    }
}

#[test]
fn a_close_frame_with_any_code_that_may_be_sent_is_the_reason_for_the_end() {
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999,
    ] {
        let (server, mut stream) = server_and_bytes(&Options::new());
        let payload = [&u16::to_be_bytes(code)[..], b"so be it"].concat();
        stream.write_all(&masked_frame(0x88, &payload)).unwrap();
        assert_eq!(read_close_code(&mut stream), code);
        match closed_reason(&server) {
            Error::Closed(close) => assert_eq!(close.frame.unwrap().code, code),
            other => panic!("{other}"),
        }
        assert_eq!(server.error().is_none(), [1000, 1001].contains(&code));
        let received = server.received_close().unwrap();
        assert_eq!((received.code, &*received.reason), (code, "so be it"));
    }
}
