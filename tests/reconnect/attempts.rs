//! Which failures are followed by another attempt, and when.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use rtcbot_websocket::{Backoff, Error, Options, Server, Side, Websocket};
use tungstenite::protocol::CloseFrame;

use crate::testkit::{
    DEADLINE, end_reason, eventually, failure, is_closed_by_peer, last_error, on_loss, own_address,
    read_head, was_lost, within,
};
use crate::{Host, MS, close, events, options, soon, text};

/// Returns how the next attempts end a client whose server does this.
fn ending(serve: impl FnOnce(Host) + Send + 'static) -> Error {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let serving = thread::spawn(move || serve(host));
    let error = failure(&ws);
    serving.join().unwrap();
    error.unwrap_or_else(|| end_reason(&ws).unwrap())
}

#[test]
fn a_client_waits_for_a_server_that_does_not_listen_yet() {
    let address = Host::new().0.local_addr().unwrap();
    let ws = options(soon()).connect(format!("ws://{address}/")).unwrap();
    eventually("a failed attempt", || {
        matches!(last_error(&ws), Some(Error::Connect { .. }))
    });
    assert!(!ws.is_ready() && !ws.is_closed() && ws.error().is_none());
    ws.put_nowait("early").unwrap();
    let host = Host(TcpListener::bind(address).unwrap());
    assert_eq!(text(&mut host.accept()), "early");
}

#[test]
fn every_connection_and_the_reason_of_its_loss_are_reported() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let (tell, reasons) = unbounded();
    on_loss(&ws, move |reason| tell.send(reason).unwrap());
    let events = events(&ws);
    for _ in 0..3 {
        let raw = host.accept();
        assert_eq!(events.recv_timeout(DEADLINE).unwrap(), "ready");
        drop(raw);
        assert_eq!(events.recv_timeout(DEADLINE).unwrap(), "lost");
        let reason = reasons.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(reason, Error::Lost(_)), "{reason}");
    }
    close(&mut host.accept(), 4000);
    let rest: Vec<String> = within(DEADLINE, move || events.iter().collect());
    assert_eq!(rest, ["ready", "failed", "closed"]);
    assert!(is_closed_by_peer(&ws.error().unwrap()));
}

#[test]
fn wait_ready_waits_for_the_next_connection() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    let raw = host.accept();
    ws.wait_ready_timeout(DEADLINE).unwrap();
    drop(raw);
    eventually("the loss", || was_lost(&ws));
    let waiting = {
        let ws = ws.clone();
        thread::spawn(move || ws.wait_ready_timeout(DEADLINE))
    };
    let _raw = host.accept();
    waiting.join().unwrap().unwrap();
    assert_eq!(ws.stats().reconnects, 1);
}

#[test]
fn permanent_failures_end_a_client() {
    for status in [401, 403, 404] {
        let error = ending(move |host| {
            drop(host.accept());
            host.answer("HTTP/1.1 503 Come Back\r\nContent-Length: 0\r\n\r\n");
            host.answer(&format!(
                "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n"
            ));
        });
        match error {
            Error::Refused { response } => assert_eq!(response.status(), status),
            other => panic!("{other}"),
        }
    }
    let error = ending(|host| host.answer("SSH-2.0-OpenSSH\r\n\r\n"));
    assert!(matches!(error, Error::Handshake(_)), "{error}");
    let error = ending(|host| {
        use std::io::Write;
        // A frame with a reserved bit.
        host.accept().get_mut().write_all(&[0xf1, 0]).unwrap();
    });
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    for code in [1000, 1008, 4001] {
        let error = ending(move |host| close(&mut host.accept(), code));
        match error {
            Error::Closed(close) => {
                assert_eq!((close.by, close.frame.unwrap().code), (Side::Peer, code));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn temporary_failures_are_tried_again() {
    let host = Host::new();
    let ws = options(soon()).connect(host.url()).unwrap();
    for code in [1001, 1011, 1012, 1013] {
        close(&mut host.accept(), code);
        eventually("the reason", || {
            let last = last_error(&ws);
            matches!(last, Some(Error::Closed(close)) if close.frame.as_ref().unwrap().code == code)
        });
    }
    for status in [429, 500, 502, 503] {
        host.answer(&format!(
            "HTTP/1.1 {status} Hm\r\nContent-Length: 0\r\n\r\n"
        ));
    }
    // A server that ends the stream before its response, and within it.
    read_head(&mut host.stream());
    host.answer("HTTP/1.1 101 Swi");
    let _raw = host.accept();
    ws.wait_ready_timeout(DEADLINE).unwrap();
}

#[test]
#[cfg(feature = "native-tls")]
fn an_untrusted_certificate_ends_a_client_and_a_tls_handshake_that_is_cut_does_not() {
    let pki = crate::testkit::tls::pki();
    let mut server = pki.server();
    let url = server.url().to_owned();
    let serving = thread::spawn(move || {
        // No client gets as far as a request.
        while server.next_timeout(10 * MS).is_err() {}
    });
    let stranger = options(soon()).connect(&url).unwrap();
    let error = stranger.wait_closed_timeout(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    let known = options(soon()).root_certificate_pem(pki.ca.pem());
    let ws = known.connect(&url).unwrap();
    serving.join().unwrap();
    // Only shutting down the socket is left.
    let host = Host::new();
    let cut_off = known
        .connect(format!("wss://{}/", host.0.local_addr().unwrap()))
        .unwrap();
    for reset in [false, true] {
        use std::io::Read;
        let mut stream = host.stream();
        if !reset {
            // Nothing is unread, so the end is not a reset.
            let _ = stream.read(&mut [0; 4096]).unwrap();
        }
        drop(stream);
    }
    drop(host.stream());
    eventually("the loss", || {
        matches!(last_error(&cut_off), Some(Error::Lost(_)))
    });
    assert!(!cut_off.is_closed());
    ws.close().unwrap();
}

#[test]
fn a_client_does_not_reconnect_after_a_permanent_close_even_with_queued_messages() {
    for code in [1000, 1008, 4001] {
        let host = Host::new();
        let ws = options(soon()).connect(host.url()).unwrap();
        let mut raw = host.accept();
        ws.wait_ready_timeout(DEADLINE).unwrap();
        for _ in 0..12 {
            ws.put_nowait(vec![0; 1 << 20]).unwrap();
        }
        let (reason, code) = ("".into(), code.into());
        raw.close(Some(CloseFrame { code, reason })).unwrap();
        raw.flush().unwrap();
        eventually("the Close frame", || ws.received_close().is_some());
        // The peer reads none of the queued messages.
        drop(raw);
        ws.wait_closed_timeout(DEADLINE).unwrap_err();
        let stats = ws.stats();
        assert_eq!(
            (stats.reconnects, stats.unsent + stats.unconfirmed),
            (0, 12)
        );
    }
}

#[test]
fn a_client_whose_peer_falls_silent_reconnects() {
    let host = Host::new();
    let impatient = options(soon()).ping_interval(20 * MS).ping_timeout(20 * MS);
    let ws = impatient.connect(host.url()).unwrap();
    let silent = host.accept();
    eventually("that it is given up", || {
        matches!(last_error(&ws), Some(Error::PingTimeout { .. }))
    });
    ws.put("there").unwrap();
    let mut raw = host.accept();
    assert_eq!(text(&mut raw), "there");
    drop(silent);
}

#[test]
fn waits_between_attempts_grow_however_long_a_server_takes_to_disconnect() {
    let host = Host::new();
    let growing = Backoff::new()
        .initial(240 * MS)
        .max(DEADLINE)
        .factor(4.0)
        .jitter(0.0);
    let _ws = options(growing).connect(host.url()).unwrap();
    let refuse = || {
        let mut raw = host.accept();
        let (reason, code) = ("".into(), 1013.into());
        let refused = Instant::now();
        raw.close(Some(CloseFrame { code, reason })).unwrap();
        (raw, refused)
    };
    // The sockets stay open, so that the client waits a second for each to end.
    let _first = refuse();
    let (_second, refused) = refuse();
    let _third = host.accept();
    // That second, and 960 milliseconds.
    assert!(refused.elapsed() >= 1900 * MS, "{:?}", refused.elapsed());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let setting = |error: Error| match error {
        Error::InvalidOption { setting, .. } => setting,
        other => panic!("{other}"),
    };
    let hot = Backoff::new().initial(Duration::ZERO);
    let refused = options(hot).connect("ws://localhost/").unwrap_err();
    assert_eq!(setting(refused), "reconnect");
    let host = Host::new();
    let stream = TcpStream::connect(host.0.local_addr().unwrap()).unwrap();
    let refused = options(soon())
        .connect_over(stream, host.url())
        .unwrap_err();
    assert_eq!(setting(refused), "reconnect");
    for name in ["no name", "sec-websocket-key"] {
        let options = Options::new().header_with(name, || Ok(String::new()));
        let refused = options.connect("ws://localhost/").unwrap_err();
        assert_eq!(setting(refused), "header");
    }
    let twice = Options::new().header_with("authorization", || Ok(String::new()));
    let refused = twice.connect("ws://me:secret@localhost/").unwrap_err();
    assert_eq!(setting(refused), "basic_auth");
    let refused = twice.basic_auth("me", "secret").connect("ws://localhost/");
    assert_eq!(setting(refused.unwrap_err()), "basic_auth");
}

#[test]
fn reconnect_has_no_effect_on_a_server_or_a_pair() {
    let mut server = Server::bind((own_address(), 0)).unwrap();
    let client = Websocket::connect(server.url()).unwrap();
    let accepted = options(soon()).accept(server.next_timeout(DEADLINE).unwrap());
    client.wait_ready_timeout(DEADLINE).unwrap();
    client.close_with(1001, "").unwrap();
    accepted.wait_closed_timeout(DEADLINE).unwrap();
    let (a, b) = options(soon()).pair();
    a.close_with(1001, "").unwrap();
    b.wait_closed_timeout(DEADLINE).unwrap();
}

#[test]
fn a_client_that_was_paused_reconnects() {
    let host = Host::new();
    let options = options(soon()).paused(true).close_timeout(20 * MS);
    let ws = options.connect(host.url()).unwrap();
    let mut raw = host.accept();
    for n in 0..10 {
        raw.send(n.to_string().into()).unwrap();
    }
    eventually("that reading pauses", || ws.stats().messages_in > 0);
    drop(raw);
    eventually("that it is lost", || {
        let _ = ws.put_nowait("into the void");
        was_lost(&ws)
    });
    let mut raw = host.accept();
    raw.send("next".into()).unwrap();
    let got = ws.subscribe();
    ws.resume();
    for n in 0..10 {
        assert_eq!(got.get_timeout(DEADLINE).unwrap(), *n.to_string());
    }
    assert_eq!(got.get_timeout(DEADLINE).unwrap(), "next");
}

#[test]
fn on_ready_is_called_once_for_a_connection_that_becomes_ready_meanwhile() {
    let server = Server::bind((own_address(), 0)).unwrap();
    let url = crate::testkit::url(&server);
    let handle = server.handle();
    let serving = thread::spawn(move || {
        for request in server {
            // It is closed by the client.
            let ws = Websocket::accept(request);
            thread::spawn(move || ws.wait_closed());
        }
    });
    for _ in 0..1000 {
        let ws = options(soon()).connect(&url).unwrap();
        while !ws.is_ready() {
            std::hint::spin_loop();
        }
        let (called, calls) = unbounded();
        ws.on_ready(move || called.send(()).unwrap());
        ws.close().unwrap();
        // The callback is dropped after the end, and with it the sender.
        within(DEADLINE, move || assert_eq!(calls.iter().count(), 1));
    }
    handle.shutdown(DEADLINE).unwrap();
    serving.join().unwrap();
}
